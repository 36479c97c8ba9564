#pragma once

#include "kernels/table.h"

namespace gossamer {

/// The kernels of the chosen ISA level. Throws ValueError where GOSSAMER_ISA names none.
const kernels::KernelTable& kernel_table();

}  // namespace gossamer
