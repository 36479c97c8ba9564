#pragma once

// N:M matrices that have been checked, as launches take them.

#include "formats/nm/kernels/nm_positions.cuh"
#include "gossamer/detail/check.h"
#include "gossamer/nm.h"

namespace gossamer::cuda {

[[nodiscard]] NmLines lines_of(const Nm& a);

/// Throws NotImplementedError if a side of the matrix does not fit an int.
void require_int(const detail::Checker& check, const char* name, const Nm& a);

}  // namespace gossamer::cuda
