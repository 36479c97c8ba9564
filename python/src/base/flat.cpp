#include "base/flat.h"

#include "base/gil.h"

// Apart from what the extensions share: the copy is made by the library for CPUs.

namespace gossamer::python {

Flat::Flat(Call<Cpu>& call, const char* argument, py::handle array, Keep keep)
    : import_(call.read(array, argument)), view_(import_.view()) {
  const auto rank = static_cast<std::size_t>(view_.rank);
  bool rows = keep == Keep::rows;
  for (std::size_t d = 0; d < rank; ++d) {
    if (view_.shape[d] == 1) continue;
    rows = rows && view_.strides[d] >= 0 && (d + 1 < rank || view_.strides[d] == 1);
  }
  const std::int64_t size = view_.numel();
  if (rows || size == 0 || is_contiguous(view_)) return;
  if (keep != Keep::all) {
    copy_.reset(new std::byte[static_cast<std::size_t>(size * size_of(view_.dtype))]);
    const GilRelease unlocked;
    flatten(view_, copy_.get());
    view_.data = copy_.get();
  }
  std::int64_t stride = 1;
  for (std::size_t d = rank; d-- > 0; stride *= view_.shape[d]) view_.strides[d] = stride;
}

std::optional<Flat> flat_optional(Call<Cpu>& call, const char* argument, py::handle array,
                                  Flat::Keep keep) {
  if (array.is_none()) return std::nullopt;
  return std::optional<Flat>(std::in_place, call, argument, array, keep);
}

std::optional<TensorView> view_of(const std::optional<Flat>& import) {
  if (!import) return std::nullopt;
  return import->view();
}

}  // namespace gossamer::python
