// Hopper's instructions in kernels that are right: results are compared with plain loops.

#include <cmath>

#include "base/hopper.cuh"
#include "base/tensor_map.h"
#include "check.cuh"

namespace {

using check::Buffer;
using check::expect;
using check::launch;
using namespace gossamer::cuda;

/// Small integers, which every type and sum holds exactly.
std::vector<float> numbers(std::size_t n, unsigned seed) {
  std::vector<float> x(n);
  for (float& value : x) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int>(seed >> 24) % 9 - 4);
  }
  return x;
}

template <class T>
std::vector<T> rounded(const std::vector<float>& x) {
  std::vector<T> y;
  for (const float value : x) y.push_back(T(value));
  return y;
}

// --- mbarriers and bulk copies ---

constexpr int kStages = 3, kStageFloats = 96;

/// The sum over steps of stage `step`, by columns: warp 0 copies, the other two warps add.
__global__ void __launch_bounds__(96) ring(const float* in, int steps, float* out) {
  __shared__ std::uint64_t full[kStages], empty[kStages];
  float* const stages = dynamic_shared<float>();
  const auto thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(full + stage, 1);
      mbarrier_init(empty + stage, 2);
    }
    fence_mbarrier_init();
  }
  __syncthreads();  // orders the making of the mbarriers before their use
  if (warp == 0) {
    for (int step = 0; thread == 0 && step < steps; ++step) {
      const int stage = step % kStages;
      const unsigned round = static_cast<unsigned>(step / kStages) % 2;
      mbarrier_wait(empty + stage, round ^ 1u);  // of the first round: nobody reads
      mbarrier_arrive_expect(full + stage, 4 * kStageFloats);
      bulk_load(stages + stage * kStageFloats, in + step * kStageFloats, 256, full + stage);
      bulk_load(stages + stage * kStageFloats + 64, in + step * kStageFloats + 64, 128,
                full + stage);
    }
    return;
  }
  float sum[3] = {};
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kStages;
    mbarrier_wait(full + stage, static_cast<unsigned>(step / kStages) % 2);
    for (int i = 0; i < 3; ++i) sum[i] += stages[stage * kStageFloats + 32 * i + thread % 32];
    __syncwarp();
    if (thread % 32 == 0) mbarrier_arrive(empty + stage);
  }
  for (int i = 0; i < 3; ++i) out[(warp - 1) * kStageFloats + 32 * i + thread % 32] = sum[i];
}

void bulk_ring() {
  for (const int steps : {0, 1, 2, 3, 11}) {
    const auto host = numbers(static_cast<std::size_t>(steps * kStageFloats), 1);
    const Buffer<float> in(host), out(2 * kStageFloats);
    launch(ring, 2, 96, kStages * kStageFloats * 4, nullptr, in.data(), steps, out.data());
    const auto result = out.host();
    for (std::size_t i = 0; i < result.size(); ++i) {
      float sum = 0.0f;
      for (std::size_t at = i % kStageFloats; at < host.size(); at += kStageFloats) sum += host[at];
      expect(result[i] == sum, "the sum of column " + std::to_string(i));
    }
  }
}

/// Doubles `in` in two rounds through two buffers, which bulk copies write out.
__global__ void doubled(const float* in, float* out, int rounds) {
  __shared__ __align__(16) float tile[2][64];
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) bulk_wait<1>();  // the copy that read this buffer
    __syncthreads();
    tile[round % 2][threadIdx.x] = 2.0f * in[64 * round + static_cast<int>(threadIdx.x)];
    fence_async_proxy();
    __syncthreads();
    if (threadIdx.x == 0) {
      bulk_store(out + 64 * round, tile[round % 2], 256);
      bulk_commit();
    }
  }
  if (threadIdx.x == 0) bulk_wait<0>();
}

void bulk_out() {
  const auto host = numbers(320, 2);
  const Buffer<float> in(host), out(320);
  launch(doubled, 1, 64, 0, nullptr, in.data(), out.data(), 5);
  for (std::size_t i = 0; i < 320; ++i) expect(out.host()[i] == 2 * host[i], "twice the input");
}

/// An mbarrier of all threads is a barrier; afterwards its memory is ordinary memory again.
__global__ void rounds(int* out) {
  __shared__ std::uint64_t mbarrier;
  __shared__ int tile[2][64];
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread == 0) mbarrier_init(&mbarrier, 64);
  __syncthreads();
  int sum = 0;
  for (int round = 0; round < 5; ++round) {
    tile[round % 2][thread] = thread + round;
    mbarrier_arrive(&mbarrier);
    mbarrier_wait(&mbarrier, static_cast<unsigned>(round) % 2);
    sum += tile[round % 2][63 - thread];
  }
  __syncthreads();
  if (thread == 0) {
    mbarrier_invalidate(&mbarrier);
    mbarrier = 7;
    sum += static_cast<int>(mbarrier) - 7;
  }
  out[thread] = sum;
}

void mbarrier_rounds() {
  const Buffer<int> out(64);
  launch(rounds, 2, 64, 0, nullptr, out.data());
  for (int i = 0; i < 64; ++i) {
    expect(out.host()[static_cast<std::size_t>(i)] == 5 * (63 - i) + 10, "the sum of five rounds");
  }
}

// --- tiles ---

__host__ __device__ constexpr unsigned swizzled(unsigned byte, unsigned width) {
  return width == 16 ? byte : byte ^ (byte >> 7 & (width / 16 - 1)) << 4;
}

__device__ unsigned char* aligned_shared() {
  auto* const shared = dynamic_shared<unsigned char>();
  return shared + (0 - reinterpret_cast<std::uintptr_t>(shared)) % 1024;
}

/// Copies a tile in, writes its elements in the order of memory without swizzle, and copies it out.
template <int Rank>
__global__ void tile_through(const __grid_constant__ CUtensorMap from,
                             const __grid_constant__ CUtensorMap to, int x, int y, int z, int bytes,
                             int width, unsigned short* seen) {
  __shared__ std::uint64_t mbarrier;
  unsigned char* const tile = aligned_shared();
  int at[Rank];
  at[0] = x;
  if (Rank > 1) at[Rank > 1 ? 1 : 0] = y;
  if (Rank > 2) at[Rank > 2 ? 2 : 0] = z;
  if (threadIdx.x == 0) {
    mbarrier_init(&mbarrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(&mbarrier, static_cast<unsigned>(bytes));
    tile_load<Rank>(tile, from, at, &mbarrier);
  }
  __syncthreads();
  mbarrier_wait(&mbarrier, 0);
  for (auto i = static_cast<int>(threadIdx.x); i < bytes / 2; i += 32) {
    const unsigned place = swizzled(static_cast<unsigned>(2 * i), static_cast<unsigned>(width));
    seen[i] = *reinterpret_cast<const unsigned short*>(tile + place);
  }
  if (threadIdx.x == 0) {
    tile_store<Rank>(to, at, tile);
    bulk_commit();
    bulk_wait<0>();
  }
}

template <int Rank>
void one_tile(CUtensorMapSwizzle swizzle, unsigned width, int x, int y, int z) {
  const int ex = 40, ey = Rank > 1 ? 11 : 1, ez = Rank > 2 ? 3 : 1;
  const int bx = static_cast<int>(width / 2), by = Rank > 1 ? 9 : 1, bz = Rank > 2 ? 2 : 1;
  std::vector<unsigned short> host;
  for (int i = 0; i < ex * ey * ez; ++i) host.push_back(static_cast<unsigned short>(i + 1));
  const Buffer<unsigned short> in(host), out(std::vector<unsigned short>(host.size(), 9999));
  const int elements = bx * by * bz;
  const Buffer<unsigned short> seen(static_cast<std::size_t>(elements));
  const TileShape shape = {Rank, {ex, ey, ez}, {2 * ex, 2 * ex * ey}, {bx, by, bz}};
  launch(tile_through<Rank>, 1, 32, 8192, nullptr, tensor_map(in.data(), shape, swizzle),
         tensor_map(out.data(), shape, swizzle), x, y, z, 2 * elements, static_cast<int>(width),
         seen.data());
  const auto got = seen.host(), copied = out.host();
  std::vector<unsigned short> want(host.size(), 9999);
  for (int i = 0; i < elements; ++i) {
    const int at[3] = {x + i % bx, y + i / bx % by, z + i / (bx * by)};
    const bool inside =
        at[0] >= 0 && at[0] < ex && at[1] >= 0 && at[1] < ey && at[2] >= 0 && at[2] < ez;
    const int from = (at[2] * ey + at[1]) * ex + at[0];
    const int value = inside ? host[static_cast<std::size_t>(from)] : 0;
    if (inside) want[static_cast<std::size_t>(from)] = static_cast<unsigned short>(value);
    expect(got[static_cast<std::size_t>(i)] == value,
           "element " + std::to_string(i) + " of a tile");
  }
  expect(copied == want, "the tile in its place, and nothing beside it");
}

void tiles() {
  const CUtensorMapSwizzle kinds[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                      CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_128B};
  for (const unsigned width : {16u, 32u, 64u, 128u}) {
    const auto kind = kinds[width == 16 ? 0 : width / 64 + 1];
    for (const int x : {0, 8, -3, 37, 64}) {
      one_tile<1>(kind, width, x, 0, 0);
      for (const int y : {0, 1, -2, 10}) {
        one_tile<2>(kind, width, x, y, 0);
        one_tile<3>(kind, width, x, y, y - 1);
      }
    }
  }
}

void refused_maps() {
#ifdef GOSSAMER_EMULATED
  const Buffer<unsigned short> in(4096);
  const auto refused = [&](const void* data, TileShape shape, CUtensorMapSwizzle swizzle) {
    try {
      const CUtensorMap map = tensor_map(data, shape, swizzle);
      expect(map.opaque[0] != 0, "a map");
    } catch (const std::exception&) {
      return true;
    }
    return false;
  };
  const TileShape right = {2, {64, 32, 1}, {128, 0}, {64, 8, 1}};
  const auto kSwizzle = CU_TENSOR_MAP_SWIZZLE_128B;
  expect(!refused(in.data(), right, kSwizzle), "no refusal");
  expect(refused(in.data() + 1, right, kSwizzle), "refusal of an address not aligned to 16");
  expect(refused(nullptr, right, kSwizzle), "refusal of a null pointer");
  auto wrong = right;
  wrong.stride[0] = 72;
  expect(refused(in.data(), wrong, kSwizzle), "refusal of a stride not aligned to 16");
  wrong = right;
  wrong.box[1] = 257;
  expect(refused(in.data(), wrong, kSwizzle), "refusal of a tall box");
  wrong = right;
  wrong.box[0] = 128;
  expect(refused(in.data(), wrong, kSwizzle), "refusal of rows beyond the swizzle");
  wrong = right;
  wrong.box[0] = 4;
  expect(refused(in.data(), wrong, CU_TENSOR_MAP_SWIZZLE_NONE), "refusal of rows of 8 bytes");
  wrong = right;
  wrong.extent[1] = 0;
  expect(refused(in.data(), wrong, kSwizzle), "refusal of an empty tensor");
#endif
}

// --- products of a warpgroup ---

/// Where hopper.cuh says that element [i][k] of an operand of `rows` rows and depth 64 lies.
struct Place {
  unsigned width, leading, stride;
  bool turned;

  Place(unsigned swizzle_width, bool turned_, unsigned rows)
      : width(swizzle_width), leading(0), stride(0), turned(turned_) {
    if (width == 16) {
      // Squares of 8 by 8 elements, one row of them after the other.
      leading = turned ? 16 * rows : 128;
      stride = turned ? 128 : 1024;
    } else {
      leading = 64 * width;  // a strip of width / 2 rows, 64 deep
      stride = 8 * width;
    }
  }
  __host__ __device__ unsigned byte(unsigned i, unsigned k, unsigned rows) const {
    if (width == 16 && turned) return i % 8 * 2 + i / 8 * stride + k % 8 * 16 + k / 8 * leading;
    if (width == 16) return i % 8 * 16 + i / 8 * stride + k % 8 * 2 + k / 8 * leading;
    if (turned) {
      return swizzled(
          i % (width / 2) * 2 + i / (width / 2) * leading + k % 8 * width + k / 8 * stride, width);
    }
    const unsigned across = width / 2;  // pieces as wide as the swizzle, one below the other
    return swizzled(k / across * (rows * width) + i / 8 * stride + i % 8 * width + k % across * 2,
                    width);
  }
  /// Where step `k` / 16 of the depth begins.
  __host__ __device__ unsigned step(unsigned k, unsigned rows) const {
    if (width == 16) return k / 8 * leading;
    if (turned) return k / 8 * stride;
    const unsigned across = width / 2;
    return k / across * (rows * width) + k % across * 2;
  }
};

__host__ __device__ constexpr MatrixSwizzle swizzle_of(unsigned width) {
  return width == 16   ? MatrixSwizzle::none
         : width == 32 ? MatrixSwizzle::b32
         : width == 64 ? MatrixSwizzle::b64
                       : MatrixSwizzle::b128;
}

/// D [64, N] = C + A [64, 64] · B [64, N], all by rows in global memory; C is added in the first
/// product. Each step of 16 is a group, of which two are under way at once.
template <class T, int N, bool TransposeA, bool TransposeB, bool Registers>
__global__ void __launch_bounds__(128)
    product(const T* a, const T* b, const float* c, float* d, Place place_a, Place place_b) {
  unsigned char* const left = aligned_shared();
  unsigned char* const right = left + 8192;
  const auto thread = static_cast<int>(threadIdx.x), g = thread % 32 / 4, t = thread % 4;
  const int row = thread / 32 * 16 + g;
  for (int i = thread; i < 64 * 64; i += 128) {
    const auto m = static_cast<unsigned>(i / 64), k = static_cast<unsigned>(i % 64);
    *reinterpret_cast<T*>(left + place_a.byte(m, k, 64)) = a[i];
  }
  for (int i = thread; i < 64 * N; i += 128) {
    const auto k = static_cast<unsigned>(i / N), n = static_cast<unsigned>(i % N);
    *reinterpret_cast<T*>(right + place_b.byte(n, k, N)) = b[i];
  }
  float sums[N / 2];
#pragma unroll
  for (int r = 0; r < N / 2; ++r) {
    sums[r] = c[(row + r % 4 / 2 * 8) * N + r / 4 * 8 + 2 * t + r % 2];
  }
  fence_async_proxy();
  __syncthreads();
  const MatrixSwizzle swizzle_a = swizzle_of(place_a.width), swizzle_b = swizzle_of(place_b.width);
  std::uint32_t fragments[4][4];
  if constexpr (Registers) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int r = i % 4;
      memcpy(&fragments[i / 4][r], a + (row + r % 2 * 8) * 64 + i / 4 * 16 + r / 2 * 8 + 2 * t, 4);
    }
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    wgmma_fence();
    const auto k = static_cast<unsigned>(16 * step);
    const std::uint64_t descriptor_b =
        matrix_descriptor(right + place_b.step(k, N), place_b.leading, place_b.stride, swizzle_b);
    if constexpr (Registers) {
      wgmma_m64k16<T, N, TransposeB>(sums, fragments[step], descriptor_b, 1);
    } else {
      const std::uint64_t descriptor_a =
          matrix_descriptor(left + place_a.step(k, 64), place_a.leading, place_a.stride, swizzle_a);
      wgmma_m64k16<T, N, TransposeA, TransposeB>(sums, descriptor_a, descriptor_b, 1);
    }
    wgmma_commit();
    if (step == 2) wgmma_wait<1>();
  }
  wgmma_wait<0>();
#pragma unroll
  for (int r = 0; r < N / 2; ++r) {
    d[(row + r % 4 / 2 * 8) * N + r / 4 * 8 + 2 * t + r % 2] = sums[r];
  }
}

template <class T, int N, bool TransposeA, bool TransposeB, bool Registers>
void one_product(unsigned width) {
  const std::size_t n = N;
  const auto a = numbers(64 * 64, 4), b = numbers(64 * n, 5), c = numbers(64 * n, 6);
  const Buffer<T> da(rounded<T>(a)), db(rounded<T>(b));
  const Buffer<float> dc(c), dd(64 * n);
  launch(product<T, N, TransposeA, TransposeB, Registers>, 1, 128, 1024 + 8192 + 128 * N, nullptr,
         da.data(), db.data(), dc.data(), dd.data(), Place(width, TransposeA, 64),
         Place(width, TransposeB, N));
  const auto d = dd.host();
  for (std::size_t i = 0; i < 64; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      float sum = c[i * n + j];
      for (std::size_t k = 0; k < 64; ++k) sum += a[i * 64 + k] * b[k * n + j];
      expect(d[i * n + j] == sum, "element [" + std::to_string(i) + "][" + std::to_string(j) +
                                      "] of a product, swizzle " + std::to_string(width));
    }
  }
}

void products_by_rows() {
  for (const unsigned width : {16u, 32u, 64u, 128u}) {
    one_product<__half, 64, false, false, false>(width);
  }
}
void products_transposed() {
  for (const unsigned width : {16u, 32u, 64u, 128u}) {
    one_product<__half, 64, true, true, false>(width);
  }
  one_product<__nv_bfloat16, 128, false, true, false>(128);
}
void products_from_registers() {
  one_product<__half, 128, false, false, true>(64);
  one_product<__nv_bfloat16, 128, false, true, true>(128);
}

const check::Case kCases[] = {
    {"bulk_ring", bulk_ring},
    {"bulk_out", bulk_out},
    {"mbarrier_rounds", mbarrier_rounds},
    {"tiles", tiles},
    {"refused_maps", refused_maps},
    {"products_by_rows", products_by_rows},
    {"products_transposed", products_transposed},
    {"products_from_registers", products_from_registers},
};

}  // namespace

int main(int argc, char** argv) { return check::run_case(kCases, argc, argv); }
