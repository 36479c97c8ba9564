#pragma once

#include <cstdint>

namespace gossamer {

/// Element types that an array may have. Which of them an operation accepts is part of its
/// contract.
enum class DType : std::uint8_t { f32, f64, f16, bf16, i32, i64, u8, u16, boolean };

}  // namespace gossamer
