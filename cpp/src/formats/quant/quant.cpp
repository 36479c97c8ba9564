#include "formats/quant/quant.h"

#include <string>

#include "base/numbers.h"
#include "formats/compressed.h"
#include "gossamer/detail/check.h"

namespace gossamer {
using namespace detail;
namespace {

void check_form(const Checker& check, const GroupQuant::Form& form) {
  const std::int64_t group = form.group;
  if (group != 16 && group != 32 && group != 64 && group != 128) {
    check.value_error("group is " + text(group) + ", expected 16, 32, 64 or 128");
  }
  if (form.bits != 4 && form.bits != 8) {
    check.value_error("bits is " + text(form.bits) + ", expected 4 or 8");
  }
  if (!is_floating(form.dtype)) {
    check.type_error(std::string("dtype is ") + name_of(form.dtype) +
                     ", expected float32, float64, float16 or bfloat16");
  }
  constexpr std::int64_t kRows = 0x7fffffff, kGroups = 1 << 16;
  if (form.rows < 0 || form.rows > kRows) {
    check.value_error("shape[0] is " + text(form.rows) + ", expected 0 to " + text(kRows));
  }
  if (form.cols < 0 || form.cols > kGroups * group) {
    check.value_error("shape[1] is " + text(form.cols) +
                      ", expected 0 to 65536 * group = " + text(kGroups * group));
  }
}

/// An array with `count` elements along its first axis.
void check_part(const Checker& check, const Argument& part, DType dtype, int rank,
                const TensorView& indices) {
  if (part.view.dtype != dtype) {
    check.type_error(std::string(part.name) + ".dtype is " + name_of(part.view.dtype) +
                     ", expected " + name_of(dtype));
  }
  check.rank(part, {rank});
  check.device(part, indices.device, "indices");
  check.contiguous(part);
  check.extent(part, 0, indices.shape[0], "indices.shape[0]");
}

/// Scales are finite, and zeros are codes.
void check_numbers(const Checker& check, const TensorView& scales, const TensorView& zeros,
                   std::int64_t bits) {
  const auto* scale = static_cast<const std::uint16_t*>(scales.data);
  const auto* zero = static_cast<const std::uint8_t*>(zeros.data);
  for (std::int64_t p = 0; p < scales.shape[0]; ++p) {
    if ((scale[p] & 0x7c00U) == 0x7c00U) {
      const bool nan = (scale[p] & 0x3ffU) != 0;
      check.value_error("scales[" + text(p) + "] is " +
                        (nan                         ? "nan"
                         : (scale[p] & 0x8000U) != 0 ? "-inf"
                                                     : "inf") +
                        ", expected a finite number");
    }
    if (bits == 4 && zero[p] > 15) {
      check.value_error("zeros[" + text(p) + "] is " + text(zero[p]) + ", expected at most 15");
    }
  }
}

}  // namespace

namespace detail {

Buffer<std::int32_t> wide_indices(const TensorView& indices) {
  const auto* from = static_cast<const std::uint16_t*>(indices.data);
  Buffer<std::int32_t> wide(indices.shape[0]);
  for (std::int64_t p = 0; p < wide.size(); ++p) wide[p] = from[p];
  return wide;
}

}  // namespace detail

GroupQuant::GroupQuant(const TensorView& indptr, const TensorView& indices, const TensorView& codes,
                       const TensorView& scales, const TensorView& zeros, const Form& form,
                       Csr::Check level)
    : indptr_(indptr),
      indices_(indices),
      codes_(codes),
      scales_(scales),
      zeros_(zeros),
      form_(form) {
  const Checker check("GroupQuant", indices.device.type);
  check_form(check, form);
  check.device({"indices", indices}, indices.device, "indices");
  check.rank({"indices", indices}, {1});
  check_part(check, {"indices", indices}, DType::u16, 1, indices);
  if (indptr.dtype != DType::i32) {
    check.type_error(std::string("indptr.dtype is ") + name_of(indptr.dtype) + ", expected int32");
  }
  check.rank({"indptr", indptr}, {1});
  check.device({"indptr", indptr}, indices.device, "indices");
  check.contiguous({"indptr", indptr});
  check_part(check, {"codes", codes}, DType::u8, 2, indices);
  check.extent({"codes", codes}, 1, form.group * form.bits / 8, "group * bits / 8");
  check_part(check, {"scales", scales}, DType::f16, 1, indices);
  check_part(check, {"zeros", zeros}, DType::u8, 1, indices);
  const Side rows{form.rows, "shape[0]"};
  const Side groups{groups_across(form.cols, form.group), "shape[1] / group"};
  if (indices.device.type != DeviceType::cpu || level == Csr::Check::trust) {
    check_structure(check, indptr, indices, rows, groups, true);
    return;
  }
  const Buffer<std::int32_t> wide = wide_indices(indices);
  check_structure(check, indptr,
                  make_view(static_cast<const void*>(wide.data()), DType::i32, {wide.size()}), rows,
                  groups, false);
  check_numbers(check, scales, zeros, form.bits);
}

std::int64_t GroupQuant::nbytes() const noexcept {
  return 4 * (rows() + 1) + groups() * (group() * bits() / 8 + 5);
}

}  // namespace gossamer
