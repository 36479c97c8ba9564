#include "prune/select/operands.h"

#include <cstring>

namespace gossamer::detail {

std::int64_t mask_bytes(std::int64_t n, prune::MaskFormat format) {
  return format == prune::MaskFormat::bytes ? n : (n + 7) / 8;
}

/// Marks all n elements (`all`), or none.
void fill_mask(std::uint8_t* out, std::int64_t n, bool all, prune::MaskFormat format) {
  if (n == 0) return;
  const bool bytes = format == prune::MaskFormat::bytes;
  std::memset(out, !all ? 0 : bytes ? 1 : 0xff, static_cast<std::size_t>(mask_bytes(n, format)));
  if (all && !bytes && n % 8 != 0) {
    const int rest = static_cast<int>(n % 8), low = (1 << rest) - 1;
    out[n / 8] =
        static_cast<std::uint8_t>(format == prune::MaskFormat::little ? low : low << (8 - rest));
  }
}

void check_within(const Checker& check, const Argument& within, const TensorView& score) {
  check.mask(within);
  check.device(within, score.device, "score");
  check.same_shape(within, {"score", score});
  check.contiguous(within);
}

void check_selected(const Checker& check, const Argument& out, const prune::Score& score,
                    prune::MaskFormat format) {
  if (format == prune::MaskFormat::bytes) return check_mask_out(check, out, score);
  check.dtype(out, DType::u8, "a packed mask");
  check.device(out, score.w.device, "score");
  check.shape(out, {mask_bytes(score.w.numel(), format)});
  check.contiguous(out);
  check_apart(check, out, score);
}

void reads(Separate& apart, const std::string& name, const prune::Score& score) {
  const bool alone = score.kind == prune::ScoreKind::value;
  apart.reads(alone ? name : "w of " + name, score.w);
  if (score.g) apart.reads("g of " + name, *score.g);
  if (score.m) apart.reads("m of " + name, *score.m);
  if (score.v) apart.reads("v of " + name, *score.v);
  if (score.col) apart.reads("col of " + name, *score.col);
}

void refuse_nan(const Checker& check, const std::vector<SelectPart>& parts, const char* name) {
  const std::int64_t nans = count_nans(parts);
  if (nans == 0) return;
  check.value_error(std::string(name) + " has " + text_of(nans) + " NaN, expected none");
}

void refuse_nan(const Checker& check, const prune::Score& score) {
  const KeyStream keys(score, KeyStream::type_of(score), {});
  refuse_nan(check, {{&keys, 0, score.w.numel(), nullptr, nullptr}});
}

}  // namespace gossamer::detail
