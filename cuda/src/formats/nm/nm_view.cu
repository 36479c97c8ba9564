#include <string>

#include "formats/nm/nm_view.h"

namespace gossamer::cuda {

NmLines lines_of(const Nm& a) {
  return {.values = a.values().data,
          .indices = static_cast<const std::uint8_t*>(a.indices().data),
          .index_bytes = a.indices().shape[1],
          .lines = a.lines(),
          .slots = a.slots(),
          .length = a.length(),
          .n = static_cast<int>(a.n()),
          .m = static_cast<int>(a.m()),
          .bits = a.bits()};
}

void require_int(const detail::Checker& check, const char* name, const Nm& a) {
  constexpr std::int64_t kMax = 0x7fffffff;
  if (a.rows() < kMax && a.cols() < kMax) return;
  check.not_implemented(std::string(name) + ".shape is (" + std::to_string(a.rows()) + ", " +
                        std::to_string(a.cols()) + "), expected less than 2**31 - 1 on a GPU");
}

}  // namespace gossamer::cuda
