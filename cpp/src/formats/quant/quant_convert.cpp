#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/cut.h"
#include "base/floats.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "formats/check.h"
#include "formats/compressed.h"
#include "formats/quant/kernels.h"
#include "formats/quant/quant.h"
#include "gossamer/detail/format_checks.h"
#include "gossamer/detail/shown.h"

namespace gossamer {
using namespace detail;
namespace {

const Checker kQuantCheck("GroupQuant.from_dense");

void check_group(std::int64_t group) {
  if (group != 16 && group != 32 && group != 64 && group != 128) {
    kQuantCheck.value_error("group is " + text(group) + ", expected 16, 32, 64 or 128");
  }
}

/// The dense matrix and its mask, of elements or of groups.
struct Source {
  const TensorView& w;
  const std::optional<TensorView>& mask;
  std::int64_t group, across;
  bool of_groups;  // the mask is
};

Source check_source(const TensorView& w, const std::optional<TensorView>& mask,
                    std::int64_t group) {
  check_group(group);
  kQuantCheck.floating({"w", w});
  kQuantCheck.rank({"w", w}, {2});
  kQuantCheck.device({"w", w}, w.device, "w");
  kQuantCheck.layout({"w", w});
  const std::int64_t across = groups_across(w.shape[1], group);
  if (across > 1 << 16) {
    kQuantCheck.value_error(
        "w.shape[1] is " + text(w.shape[1]) +
        ", expected at most 65536 * group = " + text((std::int64_t{1} << 16) * group));
  }
  if (!mask) return {w, mask, group, across, false};
  const Argument argument{"mask", *mask};
  kQuantCheck.mask(argument);
  kQuantCheck.rank(argument, {2});
  kQuantCheck.extent(argument, 0, w.shape[0], "w.shape[0]");
  const bool of_groups = mask->shape[1] == across;
  if (!of_groups && mask->shape[1] != w.shape[1]) {
    kQuantCheck.value_error("mask.shape[1] is " + text(mask->shape[1]) +
                            ", expected w.shape[1] = " + text(w.shape[1]) + " or its groups, " +
                            text(across));
  }
  kQuantCheck.device(argument, w.device, "w");
  kQuantCheck.layout(argument);
  return {w, mask, group, across, of_groups};
}

/// A row of `w` in double precision, with zeros where a mask of elements says so and up to a whole
/// number of groups.
class DenseRow {
 public:
  explicit DenseRow(const Source& source)
      : source_(source), wide_(source.w.shape[1] * 8), row_(padded() * 8) {}

  /// Reads row i.
  void read(std::int64_t i) {
    const TensorView& w = source_.w;
    const std::int64_t cols = w.shape[1];
    const auto* from = static_cast<const std::byte*>(w.data) + i * row_stride(w) * size_of(w.dtype);
    double* to = row_.as<double>();
    std::fill(to + cols, to + padded(), 0.0);
    if (w.dtype == DType::f64) {
      std::copy_n(reinterpret_cast<const double*>(from), cols, to);
    } else {
      widen(from, w.dtype, cols, wide_.data());
      std::copy_n(wide_.as<float>(), cols, to);
    }
    if (!source_.mask || source_.of_groups) return;
    const std::uint8_t* keep = mask_data(source_.mask) + i * row_stride(*source_.mask);
    for (std::int64_t j = 0; j < cols; ++j) {
      if (keep[j] == 0) to[j] = 0;
    }
  }

  [[nodiscard]] const double* data() const { return row_.as<double>(); }

 private:
  [[nodiscard]] std::int64_t padded() const { return source_.across * source_.group; }

  const Source& source_;
  const Scratch wide_, row_;
};

/// Is group j of row i kept?
bool keeps(const Source& source, const DenseRow& row, std::int64_t i, std::int64_t j) {
  const std::int64_t first = j * source.group;
  if (!source.mask) {
    const double* begin = row.data() + first;
    return std::any_of(begin, begin + source.group, [](double v) { return v != 0; });
  }
  const std::uint8_t* keep = mask_data(source.mask) + i * row_stride(*source.mask);
  if (source.of_groups) return keep[j] != 0;
  const std::int64_t end = std::min(source.w.shape[1], first + source.group);
  return std::any_of(keep + first, keep + end, [](std::uint8_t byte) { return byte != 0; });
}

/// The least float16 that is not below `scale`, which is positive and at most the largest one.
std::uint16_t float16_above(double scale) {
  const auto single = static_cast<float>(scale);
  std::uint16_t half = 0;
  narrow(&single, 1, &half, DType::f16);
  float back = 0;
  widen(&half, DType::f16, 1, &back);
  return static_cast<std::uint16_t>(half + (static_cast<double>(back) < scale ? 1 : 0));
}

struct Quantised {
  std::uint16_t scale;
  std::uint8_t zero;
};

/// The largest number that weights of a type can be, as far as float16 scales reach.
double largest_weight(DType dtype) {
  return dtype == DType::f16 ? 65504 : std::numeric_limits<double>::infinity();
}

/// Quantises a group to `codes`, a byte each. Both ends of its span and zero have a code, unless
/// that code's number is above `largest`: then the end takes the next code towards zero.
Quantised quantise(const double* w, std::int64_t group, int bits, double largest,
                   std::uint8_t* codes) {
  const double low = std::min(0.0, *std::min_element(w, w + group));
  const double high = std::max(0.0, *std::max_element(w, w + group));
  const int last = (1 << bits) - 1;
  const std::uint16_t one = 0x3c00;
  const std::uint16_t half = high > low ? float16_above((high - low) / last) : one;
  float scale = 0;
  widen(&half, DType::f16, 1, &scale);
  const auto code = [&](double v) { return static_cast<int>(std::nearbyint(v / scale)); };
  const int zero = std::clamp(code(-low), 0, last);
  const int most = static_cast<int>(std::min(largest / scale, 1.0 * last));  // steps from zero
  for (std::int64_t j = 0; j < group; ++j) {
    const int steps = std::clamp(code(w[j]), -most, most);
    codes[j] = static_cast<std::uint8_t>(std::clamp(steps + zero, 0, last));
  }
  return {half, static_cast<std::uint8_t>(zero)};
}

/// The first element of a group that cannot be quantised, or null.
const double* unfit(const double* w, std::int64_t group, int bits) {
  const double* end = w + group;
  const double* bad = std::find_if(w, end, [](double v) { return !std::isfinite(v); });
  if (bad != end) return bad;
  const double *low = std::min_element(w, end), *high = std::max_element(w, end);
  constexpr double kLargest = 65504;
  const double span = std::max(0.0, *high) - std::min(0.0, *low);
  if (span <= kLargest * ((1 << bits) - 1)) return nullptr;
  return *high > -*low ? high : low;
}

}  // namespace

void quant_norms(const TensorView& w, std::int64_t group, const TensorView& out) {
  const FloatEnvironment floats;
  const std::optional<TensorView> no_mask;
  const Source source = check_source(w, no_mask, group);
  kQuantCheck.shape({"out", out}, {w.shape[0], source.across});
  kQuantCheck.dtype({"out", out}, DType::f32, "the norms'");
  kQuantCheck.contiguous({"out", out});
  kQuantCheck.writable({"out", out}, {{"w", w}});
  if (out.numel() == 0) return;
  const EqualRanges tasks = equal_rows(w.shape[0], w.numel());
  parallel_for(tasks.count, [&](std::int64_t task) {
    DenseRow row(source);
    for (std::int64_t i = tasks.begin(task); i < tasks.end(task); ++i) {
      row.read(i);
      for (std::int64_t j = 0; j < source.across; ++j) {
        double sum = 0;
        for (std::int64_t c = j * group; c < (j + 1) * group; ++c) {
          sum += row.data()[c] * row.data()[c];
        }
        static_cast<float*>(out.data)[i * source.across + j] = static_cast<float>(std::sqrt(sum));
      }
    }
  });
}

std::int64_t quant_count(const TensorView& w, const std::optional<TensorView>& mask,
                         std::int64_t group, const TensorView& indptr) {
  const FloatEnvironment floats;
  const Source source = check_source(w, mask, group);
  kQuantCheck.shape({"indptr", indptr}, {w.shape[0] + 1});
  kQuantCheck.dtype({"indptr", indptr}, DType::i32, "int32");
  kQuantCheck.contiguous({"indptr", indptr});
  kQuantCheck.writable({"indptr", indptr}, {{"w", w}, {"mask", mask.value_or(w)}});
  std::vector<std::int64_t> counts(static_cast<std::size_t>(w.shape[0]));
  const EqualRanges tasks = equal_rows(w.shape[0], w.numel());
  parallel_for(tasks.count, [&](std::int64_t task) {
    DenseRow row(source);
    for (std::int64_t i = tasks.begin(task); i < tasks.end(task); ++i) {
      if (!source.mask) row.read(i);
      std::int64_t& count = counts[static_cast<std::size_t>(i)];
      for (std::int64_t j = 0; j < source.across; ++j) count += keeps(source, row, i, j) ? 1 : 0;
    }
  });
  std::int64_t total = 0;
  for (const std::int64_t count : counts) total += count;
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  if (total > kMax) {
    kQuantCheck.value_error("w has " + text(total) + " groups to keep, expected at most " +
                            text(kMax));
  }
  auto* begin = static_cast<std::int32_t*>(indptr.data);
  begin[0] = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    begin[i + 1] = static_cast<std::int32_t>(begin[i] + counts[i]);
  }
  return total;
}

void quant_fill(const TensorView& w, const std::optional<TensorView>& mask, std::int64_t bits,
                const TensorView& indptr, const TensorView& indices, const TensorView& codes,
                const TensorView& scales, const TensorView& zeros) {
  const FloatEnvironment floats;
  if (bits != 4 && bits != 8)
    kQuantCheck.value_error("bits is " + text(bits) + ", expected 4 or 8");
  kQuantCheck.rank({"codes", codes}, {2});
  const std::int64_t bytes = codes.shape[1], group = bytes * 8 / bits;
  const Source source = check_source(w, mask, group);
  const std::int64_t count = codes.shape[0];
  kQuantCheck.shape({"indptr", indptr}, {w.shape[0] + 1});
  kQuantCheck.dtype({"indptr", indptr}, DType::i32, "int32");
  kQuantCheck.contiguous({"indptr", indptr});
  check_indptr(kQuantCheck, indptr, w.shape[0], count);
  const double largest = largest_weight(w.dtype);
  const TensorView& given = mask ? *mask : w;
  const auto output = [&](const Argument& out, DType dtype, int rank) {
    kQuantCheck.dtype(out, dtype, "its");
    check_output(kQuantCheck, out, w.device, "w", count, "codes.shape[0]",
                 {{"w", w}, {"mask", given}, {"indptr", indptr}}, rank);
  };
  output({"indices", indices}, DType::u16, 1);
  output({"codes", codes}, DType::u8, 2);
  output({"scales", scales}, DType::f16, 1);
  output({"zeros", zeros}, DType::u8, 1);

  const auto* begin = static_cast<const std::int32_t*>(indptr.data);
  const EqualRanges tasks = equal_rows(w.shape[0], w.numel());
  // The first row that does not have the groups that were counted, and the first element that is
  // not finite or too large, of each task.
  std::vector<std::int64_t> bad_rows(static_cast<std::size_t>(tasks.count), -1);
  std::vector<std::pair<std::int64_t, std::int64_t>> bad_elements(
      static_cast<std::size_t>(tasks.count), {-1, -1});
  parallel_for(tasks.count, [&](std::int64_t task) {
    DenseRow row(source);
    std::vector<std::uint8_t> each(static_cast<std::size_t>(group));
    for (std::int64_t i = tasks.begin(task); i < tasks.end(task); ++i) {
      row.read(i);
      std::int64_t p = begin[i];
      const std::int64_t end = begin[i + 1];
      for (std::int64_t j = 0; j < source.across; ++j) {
        if (!keeps(source, row, i, j)) continue;
        const double* from = row.data() + j * group;
        if (p == end) {
          ++p;
          break;
        }
        if (const double* bad = unfit(from, group, static_cast<int>(bits))) {
          bad_elements[static_cast<std::size_t>(task)] = {i, bad - row.data()};
          return;
        }
        const Quantised made = quantise(from, group, static_cast<int>(bits), largest, each.data());
        static_cast<std::uint16_t*>(indices.data)[p] = static_cast<std::uint16_t>(j);
        static_cast<std::uint16_t*>(scales.data)[p] = made.scale;
        static_cast<std::uint8_t*>(zeros.data)[p] = made.zero;
        std::uint8_t* to = static_cast<std::uint8_t*>(codes.data) + p * bytes;
        for (std::int64_t k = 0; k < bytes; ++k) {
          const auto at = static_cast<std::size_t>(k);
          to[k] = bits == 8 ? each[at]
                            : static_cast<std::uint8_t>(each[2 * at] | (each[2 * at + 1] << 4));
        }
        ++p;
      }
      if (p != end) {
        bad_rows[static_cast<std::size_t>(task)] = i;
        return;
      }
    }
  });
  for (const auto& [i, j] : bad_elements) {
    if (i < 0) continue;
    DenseRow row(source);
    row.read(i);
    kQuantCheck.value_error("w[" + text(i) + ", " + text(j) + "] is " + shown(row.data()[j]) +
                            ", expected a finite number whose group has a float16 scale");
  }
  for (const std::int64_t row : bad_rows) {
    if (row >= 0) {
      kQuantCheck.value_error("indptr does not match w in row " + text(row) +
                              ", expected quant_count's result for the same arguments");
    }
  }
}

void quant_to_dense(const GroupQuant& a, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("GroupQuant.to_dense");
  check_quant_to_dense(check, a, out);
  use_huge_pages(out);
  const RowsView grid = group_view(a);
  const std::int64_t size = size_of(a.dtype()), group = a.group();
  const std::int64_t real = a.dtype() == DType::f64 ? 8 : 4;
  const EqualRanges tasks = equal_rows(a.rows(), out.numel());
  parallel_for(tasks.count, [&](std::int64_t task) {
    const Scratch numbers(grid.cols * group * real);
    for (std::int64_t i = tasks.begin(task); i < tasks.end(task); ++i) {
      std::fill_n(numbers.data(), grid.cols * group * real, std::byte{0});
      const std::int64_t first = grid.pointer(i);
      quant_kernels().dequantise(
          {.groups = groups_from(a, first),
           .order = nullptr,
           .places = static_cast<const std::uint16_t*>(a.indices().data) + first,
           .count = grid.pointer(i + 1) - first,
           .out = numbers.data(),
           .f64 = real == 8});
      auto* to = static_cast<std::byte*>(out.data) + i * row_stride(out) * size;
      if (a.cols() > 0) narrow(numbers.data(), a.cols(), to, a.dtype());
    }
  });
}

}  // namespace gossamer
