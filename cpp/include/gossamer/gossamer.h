#pragma once

#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/dtype.h"
#include "gossamer/error.h"
#include "gossamer/ops.h"
#include "gossamer/packed.h"
#include "gossamer/patterns.h"
#include "gossamer/probe.h"
#include "gossamer/runtime.h"
#include "gossamer/score.h"
#include "gossamer/select.h"
#include "gossamer/tensor.h"
