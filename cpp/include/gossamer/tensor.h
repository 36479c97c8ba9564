#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "gossamer/dtype.h"

namespace gossamer {

/// Bytes of one element.
[[nodiscard]] std::int64_t size_of(DType dtype) noexcept;

/// NumPy's word for the type: "float32", "bfloat16", "int64", "bool", …
[[nodiscard]] const char* name_of(DType dtype) noexcept;

[[nodiscard]] bool is_floating(DType dtype) noexcept;

/// DLPack's numbering.
enum class DeviceType : std::int32_t { cpu = 1, cuda = 2 };

struct Device {
  DeviceType type = DeviceType::cpu;
  std::int32_t index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

/// "cpu", "cuda:0", …
[[nodiscard]] std::string to_string(Device device);

inline constexpr int kMaxRank = 8;

/// More elements than any memory holds, and few enough for their bytes to fit an int64.
inline constexpr std::int64_t kMaxElements = std::int64_t{1} << 59;

/// A borrowed array: it neither owns nor frees `data`. Strides count elements, not bytes.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  Device device = {};
  int rank = 0;
  bool readonly = false;
  std::array<std::int64_t, kMaxRank> shape = {};
  std::array<std::int64_t, kMaxRank> strides = {};

  /// The number of elements, or kMaxElements if it is larger: no memory holds as many.
  [[nodiscard]] std::int64_t numel() const noexcept {
    std::int64_t n = 1;
    for (int d = 0; d < rank; ++d) {
      if (__builtin_mul_overflow(n, shape[static_cast<std::size_t>(d)], &n) || n > kMaxElements) {
        n = kMaxElements;
      }
    }
    return n;
  }
};

/// A C-contiguous view of `data`.
[[nodiscard]] TensorView make_view(void* data, DType dtype,
                                   std::initializer_list<std::int64_t> shape, Device device = {});
[[nodiscard]] TensorView make_view(const void* data, DType dtype,
                                   std::initializer_list<std::int64_t> shape, Device device = {});

/// True when elements lie one after the other in row-major order (axes of extent 1 do not matter).
[[nodiscard]] bool is_contiguous(const TensorView& view) noexcept;

/// Writes the elements of a view with any strides to `out`, one after the other in row-major order.
/// `out` shares no memory with it. On the CPU.
void flatten(const TensorView& view, void* out);

/// "(4096, 128)", "(3,)", "()".
[[nodiscard]] std::string shape_string(const TensorView& view);

}  // namespace gossamer
