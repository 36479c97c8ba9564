#include "prune/select/operands.h"

#include <cstring>

namespace gossamer::detail {

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

void refuse_nan(const Checker& check, const std::vector<SelectPart>& parts, const char* name) {
  refuse_nan(check, count_nans(parts), name);
}

void refuse_nan(const Checker& check, const prune::Score& score) {
  const KeyStream keys(score, KeyStream::type_of(score), {});
  refuse_nan(check, {{&keys, 0, score.w.numel(), nullptr, nullptr}});
}

}  // namespace gossamer::detail
