#include "formats/check.h"

#include <limits>
#include <string>

#include "gossamer/detail/format_checks.h"

namespace gossamer::detail {
namespace {

void check_mask(const Checker& check, const Argument& mask, const TensorView& w) {
  if (mask.view.dtype != DType::boolean && mask.view.dtype != DType::u8) {
    check.type_error(std::string("mask.dtype is ") + name_of(mask.view.dtype) +
                     ", expected bool or uint8");
  }
  check.rank(mask, {2});
  check.extent(mask, 0, w.shape[0], "w.shape[0]");
  check.extent(mask, 1, w.shape[1], "w.shape[1]");
  check.device(mask, w.device, "w");
  check.layout(mask);
}

/// What counting and filling ask of their common arguments, but for indptr's being writable.
void check_dense(const Checker& check, const TensorView& w, const std::optional<TensorView>& mask,
                 const TensorView& indptr, PointerCount pointers) {
  check.floating({"w", w});
  check.index({"indptr", indptr});
  check.rank({"w", w}, {2});
  check.device({"w", w}, w.device, "w");
  check.layout({"w", w});
  if (mask) check_mask(check, {"mask", *mask}, w);
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  for (std::size_t axis = 0; axis < 2; ++axis) {
    if (indptr.dtype == DType::i32 && w.shape[axis] > kMax) {
      check.value_error("w.shape[" + std::to_string(axis) + "] is " +
                        std::to_string(w.shape[axis]) + ", expected at most " +
                        std::to_string(kMax) + " for int32 indices");
    }
  }
  check.rank({"indptr", indptr}, {1});
  check.extent({"indptr", indptr}, 0, pointers.size, pointers.text);
  check.device({"indptr", indptr}, w.device, "w");
  check.layout({"indptr", indptr});
}

}  // namespace

void check_counted(const Checker& check, const TensorView& w, const std::optional<TensorView>& mask,
                   const TensorView& indptr, PointerCount pointers) {
  check_dense(check, w, mask, indptr, pointers);
  check.writable({"indptr", indptr}, {{"w", w}});
  if (mask) check.writable({"indptr", indptr}, {{"mask", *mask}});
}

void check_filled(const Checker& check, const TensorView& w, const std::optional<TensorView>& mask,
                  const TensorView& indptr, PointerCount pointers, const TensorView& indices,
                  const Argument& values, int rank) {
  check_dense(check, w, mask, indptr, pointers);
  check.dtype({"indices", indices}, indptr.dtype, "indptr");
  check.dtype(values, w.dtype, "w");
  check.rank({"indices", indices}, {1});
  check.rank(values, {rank});
  const Argument source = mask ? Argument{"mask", *mask} : Argument{"w", w};
  check_output(check, {"indices", indices}, w.device, "w", indices.shape[0], "nnz",
               {{"w", w}, {"indptr", indptr}, source});
  check_output(check, values, w.device, "w", indices.shape[0], "indices.shape[0]",
               {{"w", w}, {"indptr", indptr}, {"indices", indices}, source}, rank);
}

void check_output(const Checker& check, const Argument& out, Device device, const char* like,
                  std::int64_t size, const char* what, std::initializer_list<Argument> inputs,
                  int rank) {
  check.rank(out, {rank});
  check.extent(out, 0, size, what);
  check.device(out, device, like);
  check.contiguous(out);
  check.writable(out, inputs);
}

void check_quant_to_dense(const Checker& check, const GroupQuant& a, const TensorView& out) {
  check_dense_output(check, a, {"a.codes", a.codes()}, out);
  check.writable({"out", out}, {{"a.scales", a.scales()}, {"a.zeros", a.zeros()}});
}

}  // namespace gossamer::detail
