#pragma once

#include "gossamer/check.h"
