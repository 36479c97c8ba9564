#include "gossamer/tensor.h"

namespace gossamer {

std::int64_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
    case DType::u16:
      return 2;
    case DType::u8:
    case DType::boolean:
      return 1;
  }
  return 0;
}

const char* name_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::f64:
      return "float64";
    case DType::f32:
      return "float32";
    case DType::f16:
      return "float16";
    case DType::bf16:
      return "bfloat16";
    case DType::i32:
      return "int32";
    case DType::i64:
      return "int64";
    case DType::u8:
      return "uint8";
    case DType::u16:
      return "uint16";
    case DType::boolean:
      return "bool";
  }
  return "?";
}

bool is_floating(DType dtype) noexcept {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::f16 || dtype == DType::bf16;
}

std::string to_string(Device device) {
  if (device.type == DeviceType::cpu) return "cpu";
  return "cuda:" + std::to_string(device.index);
}

TensorView make_view(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
                     Device device) {
  TensorView view{.data = data, .dtype = dtype, .device = device};
  for (const std::int64_t extent : shape)
    view.shape[static_cast<std::size_t>(view.rank++)] = extent;
  std::int64_t stride = 1;
  for (int d = view.rank - 1; d >= 0; --d) {
    view.strides[static_cast<std::size_t>(d)] = stride;
    // Where the product overflows, no memory can be behind the view.
    if (__builtin_mul_overflow(stride, view.shape[static_cast<std::size_t>(d)], &stride))
      stride = 0;
  }
  return view;
}

TensorView make_view(const void* data, DType dtype, std::initializer_list<std::int64_t> shape,
                     Device device) {
  TensorView view = make_view(const_cast<void*>(data), dtype, shape, device);
  view.readonly = true;
  return view;
}

bool is_contiguous(const TensorView& view) noexcept {
  std::int64_t expected = 1;
  for (int d = view.rank - 1; d >= 0; --d) {
    const auto i = static_cast<std::size_t>(d);
    if (view.shape[i] == 0) return true;
    if (view.shape[i] != 1 && view.strides[i] != expected) return false;
    if (__builtin_mul_overflow(expected, view.shape[i], &expected)) return false;
  }
  return true;
}

std::string shape_string(const TensorView& view) {
  std::string text = "(";
  for (int d = 0; d < view.rank; ++d) {
    text += std::to_string(view.shape[static_cast<std::size_t>(d)]);
    if (d + 1 < view.rank) text += ", ";
  }
  return text + (view.rank == 1 ? ",)" : ")");
}

}  // namespace gossamer
