// Kernels that use Hopper's instructions wrongly, each in one way that the emulation must report.

#include "base/hopper.cuh"
#include "base/tensor_map.h"
#include "check.cuh"

namespace {

using check::Buffer;
using check::launch;
using namespace gossamer::cuda;

constexpr int kFloats = 64;

/// What is wrong; the rest of a kernel is right.
enum class Fault {
  none,
  no_expect,
  expects_more,
  wrong_parity,
  parity_of_two,
  too_few_arrivals,
  too_many_arrivals,
  no_wait,
  waits_for_another,
  no_barrier_after_init,
  no_init,
  no_fence_of_init,
  reads_mbarrier,
  misaligned_from,
  misaligned_to,
  odd_size,
  past_end,
  nobody_waits,
  overwritten_too_early,
  filled_too_early,
  filled_without_fence
};

/// Each of two warps sums a stage that thread 0 copies, twice.
template <Fault F>
__global__ void __launch_bounds__(64) loads(const float* in, float* out) {
  __shared__ std::uint64_t full[2], empty;
  __shared__ __align__(128) float stage[kFloats + 4], other[kFloats];
  const auto thread = static_cast<int>(threadIdx.x);
  if (F == Fault::filled_without_fence) stage[thread] = 0.0f;
  if (thread == 0) {
    if (F != Fault::no_init) mbarrier_init(full, F == Fault::too_few_arrivals ? 2 : 1);
    mbarrier_init(full + 1, 1);
    mbarrier_init(&empty, 2);
    if (F != Fault::no_fence_of_init) fence_mbarrier_init();
  }
  if (F != Fault::no_barrier_after_init) __syncthreads();
  const auto copy = [&] {
    const unsigned bytes = F == Fault::odd_size ? 4 * kFloats - 8 : 4 * kFloats;
    const unsigned expected = F == Fault::expects_more ? bytes + 16 : bytes;
    if (F == Fault::no_expect) {
      mbarrier_arrive(full);
    } else {
      mbarrier_arrive_expect(full, expected);
    }
    if (F == Fault::too_many_arrivals) mbarrier_arrive(full);
    const float* from = in + (F == Fault::misaligned_from ? 1 : F == Fault::past_end ? 4 : 0);
    bulk_load(stage + (F == Fault::misaligned_to ? 2 : 0), from, bytes, full);
    if (F == Fault::waits_for_another) {
      mbarrier_arrive_expect(full + 1, bytes);
      bulk_load(other, in, bytes, full + 1);
    }
  };
  if (thread == 0) copy();
  if (F == Fault::nobody_waits) return;
  float sum = 0.0f;
  for (unsigned round = 0; round < 2; ++round) {
    if (F == Fault::parity_of_two) mbarrier_wait(full, 2);
    if (F == Fault::wrong_parity && round == 0) {
      mbarrier_wait(full, 0);
      mbarrier_wait(full, 1);
    }
    if (F == Fault::waits_for_another) {
      mbarrier_wait(full + 1, round);
    } else if (F != Fault::no_wait) {
      mbarrier_wait(full, round);
    }
    sum += stage[thread];
    if (F == Fault::overwritten_too_early) stage[63 - thread] = 0.0f;
    if (F == Fault::reads_mbarrier) sum += static_cast<float>(empty);
    __syncwarp();
    if (thread % 32 == 0) mbarrier_arrive(&empty);
    if (round == 1 || thread != 0) continue;
    if (F != Fault::filled_too_early) mbarrier_wait(&empty, 0);
    copy();
  }
  out[thread] = sum;
}

template <Fault F>
void load_case() {
  const Buffer<float> in(std::vector<float>(kFloats, 1.0f)), out(kFloats);
  launch(loads<F>, 1, 64, 0, nullptr, in.data(), out.data());
}

enum class Out { none, no_fence, fence_after_barrier, no_wait, overwrites, past_end, no_shared };

/// Writes a buffer with a bulk copy, and then writes the buffer again.
template <Out F>
__global__ void __launch_bounds__(64) stores(float* out) {
  __shared__ __align__(16) float tile[kFloats];
  tile[threadIdx.x] = 1.0f;
  if (F != Out::no_fence && F != Out::fence_after_barrier) fence_async_proxy();
  __syncthreads();
  if (F == Out::fence_after_barrier) fence_async_proxy();
  if (threadIdx.x == 0) {
    bulk_store(out + (F == Out::past_end ? 4 : 0), F == Out::no_shared ? out : tile, 4 * kFloats);
    bulk_commit();
    if (F != Out::overwrites && F != Out::no_wait) bulk_wait<0>();
  }
  if (F == Out::no_wait) return;
  __syncthreads();
  tile[threadIdx.x] = 2.0f;
  if (threadIdx.x == 0) bulk_wait<0>();
}

template <Out F>
void store_case() {
  const Buffer<float> out(kFloats);
  launch(stores<F>, 1, 64, 0, nullptr, out.data());
}

enum class Tile { none, wrong_rank, no_map, misaligned, past_end, no_wait };

template <Tile F>
__global__ void __launch_bounds__(32)
    tiles(const __grid_constant__ CUtensorMap map, unsigned short* out) {
  __shared__ std::uint64_t full;
  __shared__ __align__(128) unsigned short tile[8 * 64 + 64];
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(&full, 1024);
    unsigned short* const to = tile + (F == Tile::misaligned ? 8 : 0);
    if (F == Tile::wrong_rank) {
      tile_load<3>(to, map, {0, 0, 0}, &full);
    } else {
      tile_load<2>(to, map, {0, 0}, &full);
    }
  }
  __syncthreads();
  if (F != Tile::no_wait) mbarrier_wait(&full, 0);
  out[threadIdx.x] = tile[threadIdx.x];
}

template <Tile F>
void tile_case() {
  const Buffer<unsigned short> in(std::vector<unsigned short>(8 * 64, 1)), out(32);
  const int rows = F == Tile::past_end ? 9 : 8;
  const TileShape shape = {2, {64, rows, 1}, {F == Tile::past_end ? 144 : 128, 0}, {64, 8, 1}};
  CUtensorMap map = tensor_map(in.data(), shape, CU_TENSOR_MAP_SWIZZLE_128B);
  if (F == Tile::no_map) map.opaque[0] = 1;
  launch(tiles<F>, 1, 32, 0, nullptr, map, out.data());
}

enum class Mma {
  none,
  no_wgmma_fence,
  no_proxy_fence,
  no_barrier,
  no_wait,
  no_commit,
  waits_for_too_few,
  reads_sums,
  overwrites_operand,
  overwrites_registers,
  three_warps,
  other_operands,
  begins_in_row,
  unwritten_operand
};

/// A product of ones by ones, 64 by 16 by 64, without swizzle.
template <Mma F>
__global__ void __launch_bounds__(128) products(float* out) {
  auto* const a = dynamic_shared<__half>();
  __half* const b = a + 64 * 16;
  const auto thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < 64 * 16; i += 128) {
    a[i] = __half(1.0f);
    if (F != Mma::unwritten_operand || i < 1000) b[i] = __half(1.0f);
  }
  if (F != Mma::no_proxy_fence) fence_async_proxy();
  if (F != Mma::no_barrier) __syncthreads();
  float sums[32] = {};
  if (F == Mma::three_warps && thread >= 96) return;
  if (F != Mma::no_wgmma_fence) wgmma_fence();
  std::uint64_t left = matrix_descriptor(a, 128, 256, MatrixSwizzle::none);
  if (F == Mma::other_operands && thread >= 96) left += 16;
  if (F == Mma::begins_in_row) left = matrix_descriptor(a, 0, 256, MatrixSwizzle::b32) + 2;
  const std::uint64_t right = matrix_descriptor(b, 128, 256, MatrixSwizzle::none);
  std::uint32_t registers[4] = {};
  if (F == Mma::overwrites_registers) {
    wgmma_m64k16<__half, 64, false>(sums, registers, right, 0);
  } else {
    wgmma_m64k16<__half, 64, false, false>(sums, left, right, 0);
  }
  if (F != Mma::no_commit) wgmma_commit();
  if (F == Mma::overwrites_operand) {
    a[thread] = __half(2.0f);
  }
  if (F == Mma::overwrites_registers) registers[thread % 4] = 1;
  if (F == Mma::reads_sums) out[thread] = sums[0];
  if (F == Mma::no_wait) return;
  if (F == Mma::waits_for_too_few) {
    wgmma_wait<1>();
  } else {
    wgmma_wait<0>();
  }
  out[thread] = sums[0];
}

template <Mma F>
void product_case() {
  const Buffer<float> out(128);
  launch(products<F>, 1, 128, 4096, nullptr, out.data());
}

const check::Case kCases[] = {
    {"load_no_expect", load_case<Fault::no_expect>},
    {"load_expects_more", load_case<Fault::expects_more>},
    {"load_wrong_parity", load_case<Fault::wrong_parity>},
    {"load_parity_of_two", load_case<Fault::parity_of_two>},
    {"load_too_few_arrivals", load_case<Fault::too_few_arrivals>},
    {"load_too_many_arrivals", load_case<Fault::too_many_arrivals>},
    {"load_no_wait", load_case<Fault::no_wait>},
    {"load_waits_for_another", load_case<Fault::waits_for_another>},
    {"load_no_barrier_after_init", load_case<Fault::no_barrier_after_init>},
    {"load_no_init", load_case<Fault::no_init>},
    {"load_no_fence_of_init", load_case<Fault::no_fence_of_init>},
    {"load_reads_mbarrier", load_case<Fault::reads_mbarrier>},
    {"load_misaligned_from", load_case<Fault::misaligned_from>},
    {"load_misaligned_to", load_case<Fault::misaligned_to>},
    {"load_odd_size", load_case<Fault::odd_size>},
    {"load_past_end", load_case<Fault::past_end>},
    {"load_nobody_waits", load_case<Fault::nobody_waits>},
    {"load_overwritten_too_early", load_case<Fault::overwritten_too_early>},
    {"load_filled_too_early", load_case<Fault::filled_too_early>},
    {"load_filled_without_fence", load_case<Fault::filled_without_fence>},
    {"store_no_fence", store_case<Out::no_fence>},
    {"store_fence_after_barrier", store_case<Out::fence_after_barrier>},
    {"store_no_wait", store_case<Out::no_wait>},
    {"store_overwrites", store_case<Out::overwrites>},
    {"store_past_end", store_case<Out::past_end>},
    {"store_no_shared", store_case<Out::no_shared>},
    {"tile_wrong_rank", tile_case<Tile::wrong_rank>},
    {"tile_no_map", tile_case<Tile::no_map>},
    {"tile_misaligned", tile_case<Tile::misaligned>},
    {"tile_past_end", tile_case<Tile::past_end>},
    {"tile_no_wait", tile_case<Tile::no_wait>},
    {"product_no_wgmma_fence", product_case<Mma::no_wgmma_fence>},
    {"product_no_proxy_fence", product_case<Mma::no_proxy_fence>},
    {"product_no_barrier", product_case<Mma::no_barrier>},
    {"product_no_wait", product_case<Mma::no_wait>},
    {"product_no_commit", product_case<Mma::no_commit>},
    {"product_waits_for_too_few", product_case<Mma::waits_for_too_few>},
    {"product_reads_sums", product_case<Mma::reads_sums>},
    {"product_overwrites_operand", product_case<Mma::overwrites_operand>},
    {"product_overwrites_registers", product_case<Mma::overwrites_registers>},
    {"product_three_warps", product_case<Mma::three_warps>},
    {"product_other_operands", product_case<Mma::other_operands>},
    {"product_begins_in_row", product_case<Mma::begins_in_row>},
    {"product_unwritten_operand", product_case<Mma::unwritten_operand>},
    // Without a fault, the kernels are right.
    {"no_fault",
     [] {
       load_case<Fault::none>();
       store_case<Out::none>();
       tile_case<Tile::none>();
       product_case<Mma::none>();
     }},
};

}  // namespace

int main(int argc, char** argv) { return check::run_case(kCases, argc, argv); }
