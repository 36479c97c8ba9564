#include "prune/score.h"

#include "gossamer/error.h"

// What both extensions need of scores.

namespace gossamer::python {
using namespace prune;
namespace {

MaskFormat read_format(const char* op, const std::optional<std::string>& packed) {
  if (!packed) return MaskFormat::bytes;
  if (*packed == "little") return MaskFormat::little;
  if (*packed == "big") return MaskFormat::big;
  throw ValueError(std::string(op) + ": packed is '" + *packed +
                   "', expected None, 'little' or 'big'");
}

}  // namespace

Tie read_tie(const char* op, std::string_view tie) {
  if (tie == "low") return Tie::low;
  if (tie == "high") return Tie::high;
  throw ValueError(std::string(op) + ": tie is '" + std::string(tie) +
                   "', expected 'low' or 'high'");
}

Nan read_nan(const char* op, std::string_view nan) {
  if (nan == "lowest") return Nan::lowest;
  if (nan == "highest") return Nan::highest;
  if (nan == "error") return Nan::error;
  throw ValueError(std::string(op) + ": nan is '" + std::string(nan) +
                   "', expected 'lowest', 'highest' or 'error'");
}

SelectOptions read_options(const char* op, bool largest, const std::string& tie,
                           const std::string& nan, const std::optional<std::string>& packed) {
  return {.largest = largest,
          .tie = read_tie(op, tie),
          .nan = read_nan(op, nan),
          .format = read_format(op, packed)};
}

std::vector<std::int64_t> read_numbers(const py::handle& numbers, Where where) {
  const Import import = Import::to_read(numbers, where);
  const TensorView& view = import.view();
  if (view.dtype != DType::i64 || view.rank != 1 || !is_contiguous(view)) {
    throw TypeError(where.text() + " is not a contiguous array of int64 with one axis");
  }
  const auto* data = static_cast<const std::int64_t*>(view.data);
  return {data, data + view.shape[0]};
}

SegmentsImport::SegmentsImport(Where where, const py::object& offsets, std::int64_t length) {
  segments.length = length;
  if (offsets.is_none()) return;
  numbers = read_numbers(offsets, where);
  if (numbers.empty()) throw ValueError(where.text() + " is empty, expected [S + 1]");
  segments.offsets = numbers;
}

std::int64_t SegmentsImport::count(std::int64_t n) const {
  if (!numbers.empty()) return static_cast<std::int64_t>(numbers.size()) - 1;
  return n == 0 || segments.length < 1 ? 0 : (n - 1) / segments.length + 1;
}

}  // namespace gossamer::python
