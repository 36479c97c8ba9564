#include <string>

#include "gossamer/detail/regrow_checks.h"

namespace gossamer::detail {

void check_number(const Checker& check, const char* name, std::int64_t n, std::int64_t most,
                  const char* what) {
  if (n >= 0 && n <= most) return;
  check.value_error(std::string(name) + " is " + std::to_string(n) + ", expected 0 to " +
                    std::to_string(most) + ", the number of " + what);
}

void check_followed(const Checker& check, std::span<const regrow::Followed> arrays, Device device,
                    const char* like, std::initializer_list<Argument> others) {
  for (const regrow::Followed& followed : arrays) {
    const Argument array{followed.name, followed.array};
    check.floating(array);
    check.device(array, device, like);
    check.contiguous(array);
    check.writable(array, others);
    if (!followed.source) continue;
    const std::string name = std::string("the values for ") + followed.name;
    const Argument source{name.c_str(), *followed.source};
    check.dtype(source, followed.array.dtype, followed.name);
    check.device(source, device, like);
    check.same_shape(source, array);
    check.contiguous(source);
    for (const Argument& other : others) check.writable(other, {source});
  }
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const Argument array{arrays[i].name, arrays[i].array};
    for (std::size_t j = 0; j < arrays.size(); ++j) {
      const std::string name = std::string("the values for ") + arrays[j].name;
      if (arrays[j].source) check.writable(array, {{name.c_str(), *arrays[j].source}});
      if (j < i) check.writable(array, {{arrays[j].name, arrays[j].array}});
    }
  }
}

void check_drop_grow(const Checker& check, const TensorView& mask, const prune::Score& drop,
                     const prune::Score* grow, const std::optional<TensorView>& forbid) {
  check.device({"mask", mask}, mask.device, "mask");
  check.mask({"mask", mask});
  check.contiguous({"mask", mask});
  check_score(check, drop);
  check.same_shape({"drop_score", drop.w}, {"mask", mask});
  if (grow != nullptr) {
    check_score(check, *grow);
    check.same_shape({"grow_score", grow->w}, {"mask", mask});
  }
  if (forbid) {
    const Argument forbidden{"forbid", *forbid};
    check.device(forbidden, mask.device, "mask");
    check.mask(forbidden);
    check.contiguous(forbidden);
    check.same_shape(forbidden, {"mask", mask});
  }
}

void check_regrown(const Checker& check, const TensorView& mask, const TensorView& chosen,
                   std::span<const regrow::Followed> arrays, const TensorView& places,
                   std::int64_t fresh) {
  check.mask({"mask", mask});
  check.contiguous({"mask", mask});
  check.device({"mask", mask}, chosen.device, "mask");
  check.same_shape({"mask", mask}, {"the mask that was looked at", chosen});
  check.writable({"mask", mask}, {{"the result", places}});
  check.dtype({"the result", places}, DType::i64, "the indices'");
  check.shape({"the result", places}, {fresh});
  check.contiguous({"the result", places});
  check.writable({"the result", places}, {});
  for (const regrow::Followed& one : arrays) {
    check.same_shape({one.name, one.array}, {"mask", mask});
  }
  check_followed(check, arrays, mask.device, "mask", {{"mask", mask}, {"the result", places}});
}

}  // namespace gossamer::detail
