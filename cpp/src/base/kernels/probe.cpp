#include "base/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {

namespace {

constexpr int kWidth = kLanes<float>;

// Adds of latency 3 to 5 on up to two ports: eight chains keep either busy, and fit 16 registers.
constexpr int kChains = 8;
constexpr int kFmaChains = 12;

GOSSAMER_INLINE float total(const Vec<float>* sums, int count) {
  Vec<float> all = sums[0];
  for (int c = 1; c < count; ++c) all += sums[c];
  float sum = 0.0F;
  for (int i = 0; i < kWidth; ++i) sum += all[i];
  return sum;
}

}  // namespace

void probe(const ProbeArgs& args);

// read: sums the data, pass after pass, in independent chains. fma: multiply-adds on registers
// alone.
void probe(const ProbeArgs& args) {
  if (args.what == ProbeArgs::What::read) {
    Vec<float> sums[kChains] = {};
    for (std::int64_t pass = 0; pass < args.repeat; ++pass) {
      for (std::int64_t i = 0; i < args.size; i += kChains * kWidth) {
        for (int c = 0; c < kChains; ++c) sums[c] += load<kWidth>(args.data + i + c * kWidth);
      }
      asm volatile("" ::: "memory");
    }
    *args.result = total(sums, kChains);
    return;
  }
  Vec<float> sums[kFmaChains];
  for (int c = 0; c < kFmaChains; ++c) sums[c] = broadcast<kWidth>(static_cast<float>(c));
  Vec<float> factor = broadcast<kWidth>(0.999F);
  Vec<float> addend = broadcast<kWidth>(0.001F);
  for (std::int64_t round = 0; round < args.repeat; ++round) {
    for (int c = 0; c < kFmaChains; ++c) sums[c] = sums[c] * factor + addend;
  }
  *args.flops = args.repeat * kFmaChains * kWidth * 2;
  *args.result = total(sums, kFmaChains);
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
