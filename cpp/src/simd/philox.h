#pragma once

// The random numbers of both backends, for kernels.

#include "gossamer/detail/philox.h"
