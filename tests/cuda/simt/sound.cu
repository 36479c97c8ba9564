// Kernels that are right: what the emulation computes is compared with plain loops.

#include <cmath>

#include "base/ptx.cuh"
#include "check.cuh"

namespace {

using check::Buffer;
using check::expect;
using check::launch;
using namespace gossamer::cuda;

constexpr unsigned kAll = 0xffffffffu;

/// Small integers, which every type and sum holds exactly; or fractions where `scale` is not 1.
std::vector<float> numbers(std::size_t n, unsigned seed, float scale = 1.0f) {
  std::vector<float> x(n);
  for (float& value : x) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int>(seed >> 24) % 9 - 4) * scale;
  }
  return x;
}

// --- blocks, shared memory ---

__global__ void __launch_bounds__(256) sum_blocks(const float* in, int n, float* out) {
  __shared__ float partial[8];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  float sum = i < n ? in[i] : 0.0f;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  if (lane == 0) partial[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    sum = lane < blockDim.x / 32 ? partial[lane] : 0.0f;
    for (int step = 4; step > 0; step /= 2)
      sum += __shfl_down_sync(kAll, sum, static_cast<unsigned>(step));
    if (lane == 0) out[blockIdx.x] = sum;
  }
}

void block_sums() {
  const int n = 1000;
  const auto host = numbers(n, 1);
  const Buffer<float> in(host), out(4);
  launch(sum_blocks, 4, 256, 0, nullptr, in.data(), n, out.data());
  const auto sums = out.host();
  for (int b = 0; b < 4; ++b) {
    float sum = 0.0f;
    for (int i = 256 * b; i < std::min(256 * (b + 1), n); ++i)
      sum += host[static_cast<std::size_t>(i)];
    expect(sums[static_cast<std::size_t>(b)] == sum, "the sum of block " + std::to_string(b));
  }
}

template <class T>
__global__ void transpose(const T* in, T* out, int n) {
  T* tile = dynamic_shared<T>();
  const auto x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int left = 16 * static_cast<int>(blockIdx.x), top = 16 * static_cast<int>(blockIdx.y);
  for (int z = 0; z < 2; ++z) {  // again, over what the first round left in the tile
    tile[17 * y + x] = in[(top + y) * n + left + x];
    __syncthreads();
    out[(left + y) * n + top + x] = tile[17 * x + y];
    __syncthreads();
  }
}

void dynamic_tiles() {
  const int n = 48;
  const auto host = numbers(n * n, 2);
  const Buffer<float> in(host), out(n * n);
  launch(transpose<float>, dim3(3, 3), dim3(16, 16), 16 * 17 * sizeof(float), nullptr, in.data(),
         out.data(), n);
  const auto result = out.host();
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      expect(
          result[static_cast<std::size_t>(i * n + j)] == host[static_cast<std::size_t>(j * n + i)],
          "the transpose");
    }
  }
}

__global__ void count_and_scan(int* counts, int* first) {
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  atomicAdd(&total, static_cast<int>(threadIdx.x));
  atomicMax(&counts[1], static_cast<int>(threadIdx.x));
  atomicCAS(&counts[2], 0, 1);
  atomicOr(reinterpret_cast<unsigned*>(&counts[3]), 1u << (threadIdx.x % 32));
  const int odd = __syncthreads_count(static_cast<int>(threadIdx.x % 2));
  const int any = __syncthreads_or(threadIdx.x == 3), all = __syncthreads_and(threadIdx.x != 3);
  if (threadIdx.x == 0) {
    counts[0] = total;
    *first = 100 * odd + 10 * any + all;
  }
}

void atomics() {
  const Buffer<int> counts(std::vector<int>(4, 0)), first(1);
  launch(count_and_scan, 1, 96, 0, nullptr, counts.data(), first.data());
  const auto result = counts.host();
  expect(result == std::vector<int>({95 * 48, 95, 1, -1}), "counts of 96 threads");
  expect(first.host()[0] == 4810, "the votes of 96 threads");
}

template <int Warps>
__global__ void __launch_bounds__(32 * Warps, 1) bounded(int* out) {
  out[threadIdx.x] = static_cast<int>(threadIdx.x);
}

__global__ void boundless(int* out) {
  if (threadIdx.y + threadIdx.z == 0) out[threadIdx.x] = static_cast<int>(threadIdx.x);
}

void launch_bounds() {
  const Buffer<int> out(1024);
  launch(bounded<3>, 1, 96, 0, nullptr, out.data());
  launch(bounded<32>, 1, 1024, 0, nullptr, out.data());
  launch(boundless, 1, dim3(1, 32, 32), 0, nullptr, out.data());
  launch(boundless, 1, 1024, 0, nullptr, out.data());
  expect(out.host()[1023] == 1023, "all threads of a block");
}

// --- warps ---

__global__ void shuffles(int* out) {
  const auto lane = static_cast<int>(threadIdx.x);
  int* mine = out + 8 * lane;
  mine[0] = __shfl_sync(kAll, lane, 5, 8);
  mine[1] = __shfl_up_sync(kAll, lane, 3, 16);
  mine[2] = __shfl_down_sync(kAll, lane, 3, 16);
  mine[3] = __shfl_xor_sync(kAll, lane, 6, 8);
  mine[4] = __shfl_sync(kAll, lane, -1);
  mine[5] = static_cast<int>(__shfl_sync(kAll, 1.5 * lane, 31 - lane) * 2);
  const unsigned mask = lane < 8 ? 0xffu : 0xffffff00u;  // two parts of a warp, each on its own
  mine[6] = __reduce_add_sync(mask, lane);
  __syncwarp(mask);
  mine[7] = __reduce_max_sync(mask, -lane);
}

void shuffle_lanes() {
  const Buffer<int> out(8 * 32);
  launch(shuffles, 1, 32, 0, nullptr, out.data());
  const auto result = out.host();
  for (int lane = 0; lane < 32; ++lane) {
    const int* mine = result.data() + 8 * lane;
    const int in16 = lane % 16;
    const std::vector<int> expected = {lane / 8 * 8 + 5,
                                       in16 < 3 ? lane : lane - 3,
                                       in16 > 12 ? lane : lane + 3,
                                       lane ^ 6,
                                       31,
                                       3 * (31 - lane),
                                       lane < 8 ? 28 : 496 - 28,
                                       lane < 8 ? 0 : -8};
    expect(std::vector<int>(mine, mine + 8) == expected,
           "the shuffles of lane " + std::to_string(lane));
  }
}

__global__ void votes(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned* mine = out + 6 * lane;
  mine[0] = __ballot_sync(kAll, lane % 3 == 0);
  mine[1] = static_cast<unsigned>(2 * __any_sync(kAll, lane == 4) + __all_sync(kAll, lane < 31));
  mine[2] = __match_any_sync(kAll, static_cast<float>(lane / 5));
  int all = 0;
  mine[3] = __match_all_sync(kAll, 7ll, &all) + static_cast<unsigned>(all);
  mine[4] = __match_all_sync(kAll, lane, &all) + static_cast<unsigned>(all);
  mine[5] = __reduce_xor_sync(kAll, lane) + __popc(__reduce_or_sync(kAll, lane)) +
            static_cast<unsigned>(__ffs(static_cast<int>(lane)) + __clz(static_cast<int>(lane)));
}

void vote() {
  const Buffer<unsigned> out(6 * 32);
  launch(votes, 1, 32, 0, nullptr, out.data());
  const auto result = out.host();
  for (unsigned lane = 0; lane < 32; ++lane) {
    unsigned same = 0;
    for (unsigned other = 0; other < 32; ++other) same |= unsigned{other / 5 == lane / 5} << other;
    const std::vector<unsigned> expected = {
        0x49249249u,
        2u,
        same,
        0u,
        0u,
        5u + static_cast<unsigned>(lane == 0 ? 32 : __builtin_ctz(lane) + 1 + __builtin_clz(lane))};
    const unsigned* mine = result.data() + 6 * lane;
    expect(std::vector<unsigned>(mine, mine + 6) == expected,
           "the votes of lane " + std::to_string(lane));
  }
}

// --- asynchronous copies ---

__global__ void pipeline(const float* in, float* out, int steps) {
  __shared__ __align__(16) float tile[3][64];
  const auto i = static_cast<int>(threadIdx.x);
  const auto fetch = [&](int step) {
    const bool valid = step < steps;
    cp_async<16>(&tile[step % 3][4 * i], in + 64 * (valid ? step : 0) + 4 * i, valid);
    cp_async_commit();
  };
  fetch(0);
  fetch(1);
  float sum = 0.0f;
  for (int step = 0; step < steps + 1; ++step) {
    cp_async_wait<1>();
    __syncthreads();  // everybody's copies of this step have landed; its tile of three steps ago is
                      // read
    fetch(step + 2);
    for (int k = 0; k < 4; ++k) sum += tile[step % 3][(16 * k + 5 * i) % 64];
  }
  cp_async_wait<0>();
  out[i] = sum;
}

void copy_pipeline() {
  const int steps = 7;
  const auto host = numbers(64 * steps, 3);
  const Buffer<float> in(host), out(16);
  launch(pipeline, 1, 16, 0, nullptr, in.data(), out.data(), steps);
  const auto result = out.host();
  for (int i = 0; i < 16; ++i) {
    float sum = 0.0f;
    for (int step = 0; step < steps; ++step) {
      for (int k = 0; k < 4; ++k)
        sum += host[static_cast<std::size_t>(64 * step + (16 * k + 5 * i) % 64)];
    }
    expect(result[static_cast<std::size_t>(i)] == sum, "the sum of thread " + std::to_string(i));
  }
}

// --- matrix instructions ---

template <class T>
struct Convert {
  static T from(float x) { return T(x); }
  static float to(T x) { return static_cast<float>(x); }
};

/// D = C + A · B of 16-bit A [16, 16] and B [16, 8], all row-major: A and B through ldmatrix.
template <class T>
__global__ void product16(const T* a, const T* b, const float* c, float* d) {
  __shared__ __align__(16) T rows[16][16];
  __shared__ __align__(16) T columns[16][8];
  const auto lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  for (int i = lane; i < 256; i += 32) rows[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) columns[i / 8][i % 8] = b[i];
  __syncwarp();
  std::uint32_t fa[4], fb[2];
  ldmatrix_x4(fa, &rows[lane % 16][8 * (lane / 16)]);
  ldmatrix_x2_trans(fb, &columns[lane % 16][0]);
  float f[4] = {c[g * 8 + 2 * t], c[g * 8 + 2 * t + 1], c[(g + 8) * 8 + 2 * t],
                c[(g + 8) * 8 + 2 * t + 1]};
  mma_m16n8k16<T>(f, fa, fb);
  d[g * 8 + 2 * t] = f[0];
  d[g * 8 + 2 * t + 1] = f[1];
  d[(g + 8) * 8 + 2 * t] = f[2];
  d[(g + 8) * 8 + 2 * t + 1] = f[3];
}

/// The same of tf32 A [16, 8] and B [8, 8], whose fragments are read directly.
__global__ void product_tf32(const float* a, const float* b, const float* c, float* d, bool round) {
  const auto lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  const auto bits = [&](float x) { return round ? to_tf32(x) : __float_as_uint(x); };
  const std::uint32_t fa[4] = {bits(a[g * 8 + t]), bits(a[(g + 8) * 8 + t]), bits(a[g * 8 + t + 4]),
                               bits(a[(g + 8) * 8 + t + 4])};
  const std::uint32_t fb[2] = {bits(b[t * 8 + g]), bits(b[(t + 4) * 8 + g])};
  float f[4] = {c[g * 8 + 2 * t], c[g * 8 + 2 * t + 1], c[(g + 8) * 8 + 2 * t],
                c[(g + 8) * 8 + 2 * t + 1]};
  mma_m16n8k8_tf32(f, fa, fb);
  d[g * 8 + 2 * t] = f[0];
  d[g * 8 + 2 * t + 1] = f[1];
  d[(g + 8) * 8 + 2 * t] = f[2];
  d[(g + 8) * 8 + 2 * t + 1] = f[3];
}

void expect_product(const std::vector<float>& a, const std::vector<float>& b,
                    const std::vector<float>& c, const std::vector<float>& d, std::size_t depth,
                    double tolerance) {
  for (std::size_t i = 0; i < 16; ++i) {
    for (std::size_t j = 0; j < 8; ++j) {
      double sum = double{c[i * 8 + j]}, size = std::fabs(sum);
      for (std::size_t k = 0; k < depth; ++k) {
        const double term = double{a[i * depth + k]} * double{b[k * 8 + j]};
        sum += term;
        size += std::fabs(term);
      }
      expect(std::fabs(double{d[i * 8 + j]} - sum) <= tolerance * size,
             "D[" + std::to_string(i) + "][" + std::to_string(j) + "] = " + std::to_string(sum) +
                 ", not " + std::to_string(d[i * 8 + j]));
    }
  }
}

template <class T>
void products16() {
  for (const float scale : {1.0f, 0.3f}) {
    auto a = numbers(256, 4, scale), b = numbers(128, 5, scale);
    const auto c = numbers(128, 6, scale);
    std::vector<T> ta, tb;
    for (float& x : a) x = Convert<T>::to(ta.emplace_back(Convert<T>::from(x)));
    for (float& x : b) x = Convert<T>::to(tb.emplace_back(Convert<T>::from(x)));
    const Buffer<T> da(ta), db(tb);
    const Buffer<float> dc(c), dd(128);
    launch(product16<T>, 1, 32, 0, nullptr, da.data(), db.data(), dc.data(), dd.data());
    expect_product(a, b, c, dd.host(), 16, scale == 1.0f ? 0.0 : 1e-6);
  }
}

void products_tf32() {
  for (const bool round : {false, true}) {
    const auto a = numbers(128, 7, 1.1f), b = numbers(64, 8, 1.1f), c = numbers(128, 9);
    const Buffer<float> da(a), db(b), dc(c), dd(128);
    launch(product_tf32, 1, 32, 0, nullptr, da.data(), db.data(), dc.data(), dd.data(), round);
    // Ten bits of mantissa: truncated inputs err by 2^-10 each, rounded ones by half of it.
    expect_product(a, b, c, dd.host(), 8, std::ldexp(round ? 1.0 : 2.0, -10));
    const auto exact = numbers(128, 7), other = numbers(64, 8);
    const Buffer<float> ea(exact), eb(other);
    launch(product_tf32, 1, 32, 0, nullptr, ea.data(), eb.data(), dc.data(), dd.data(), round);
    expect_product(exact, other, c, dd.host(), 8, 0.0);
  }
}

/// D = C + A · B for an A [16, Depth] of which two of each four are stored in `values` [16, Depth /
/// 2]; `codes` has a nibble of positions for each group, [16, Depth / 4].
template <class T, int Depth, int Selector>
__global__ void product_sparse(const T* values, const unsigned char* codes, const T* b,
                               const float* c, float* d) {
  constexpr int kParts = Depth / 16, kRegisters = 2 * kParts;
  const auto lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  std::uint32_t fa[kRegisters], fb[kRegisters];
  const auto pair = [](T low, T high) {
    unsigned short bits[2];
    memcpy(bits, &low, 2);
    memcpy(bits + 1, &high, 2);
    return bits[0] | static_cast<std::uint32_t>(bits[1]) << 16;
  };
  for (int r = 0; r < kRegisters; ++r) {
    const T* from = values + (g + 8 * (r % 2)) * (Depth / 2) + 2 * t + 8 * (r / 2);
    fa[r] = pair(from[0], from[1]);
    const int row = 2 * t + 8 * r;
    fb[r] = pair(b[row * 8 + g], b[(row + 1) * 8 + g]);
  }
  std::uint32_t metadata = 0xffffffffu;  // of a thread that is not asked
  if (t / kParts == Selector) {
    metadata = 0;
    for (int group = 0; group < 8; ++group) {
      const int row = g + group / 4 * 8, at = t % kParts * 4 + group % 4;
      metadata |= static_cast<std::uint32_t>(codes[row * (Depth / 4) + at]) << (4 * group);
    }
  }
  float f[4] = {c[g * 8 + 2 * t], c[g * 8 + 2 * t + 1], c[(g + 8) * 8 + 2 * t],
                c[(g + 8) * 8 + 2 * t + 1]};
  if constexpr (Depth == 16) {
    mma_sp_m16n8k16<T, Selector>(f, fa, fb, metadata);
  } else {
    mma_sp_m16n8k32<T, Selector>(f, fa, fb, metadata);
  }
  d[g * 8 + 2 * t] = f[0];
  d[g * 8 + 2 * t + 1] = f[1];
  d[(g + 8) * 8 + 2 * t] = f[2];
  d[(g + 8) * 8 + 2 * t + 1] = f[3];
}

template <class T, int Depth, int Selector>
void one_sparse_product() {
  const std::size_t depth = Depth;
  const unsigned char pairs[] = {0x4, 0x8, 0xc, 0x9, 0xd, 0xe};
  std::vector<float> dense(16 * depth, 0.0f);
  std::vector<T> values;
  std::vector<unsigned char> codes;
  const auto drawn = numbers(8 * depth, 4), b = numbers(8 * depth, 5), c = numbers(128, 6);
  unsigned seed = 7;
  for (std::size_t i = 0; i < 4 * depth; ++i) {
    seed = seed * 1664525u + 1013904223u;
    codes.push_back(pairs[(seed >> 16) % 6]);
    for (std::size_t e = 0; e < 2; ++e) {
      dense[4 * i + (codes.back() >> (2 * e) & 3u)] = drawn[2 * i + e];
      values.push_back(Convert<T>::from(drawn[2 * i + e]));
    }
  }
  std::vector<T> tb;
  for (const float x : b) tb.push_back(Convert<T>::from(x));
  const Buffer<T> dv(values), db(tb);
  const Buffer<unsigned char> dm(codes);
  const Buffer<float> dc(c), dd(128);
  launch(product_sparse<T, Depth, Selector>, 1, 32, 0, nullptr, dv.data(), dm.data(), db.data(),
         dc.data(), dd.data());
  expect_product(dense, b, c, dd.host(), depth, 0.0);
}

template <class T>
void products_sparse() {
  one_sparse_product<T, 16, 0>();
  one_sparse_product<T, 16, 1>();
  one_sparse_product<T, 16, 2>();
  one_sparse_product<T, 16, 3>();
  one_sparse_product<T, 32, 0>();
  one_sparse_product<T, 32, 1>();
}

/// What ldmatrix gives each lane, for 1, 2 and 4 matrices, plain and transposed.
__global__ void load_matrices(unsigned short* out) {
  __shared__ __align__(16) unsigned short tile[32][8];
  const auto lane = static_cast<int>(threadIdx.x);
  for (int j = 0; j < 8; ++j) tile[lane][j] = static_cast<unsigned short>(8 * lane + j);
  __syncwarp();
  std::uint32_t r[14], r1[1], r2[2], r4[4];
  ldmatrix_x1(r1, tile[lane % 8]);
  r[0] = r1[0];
  ldmatrix_x1_trans(r1, tile[lane % 8]);
  r[1] = r1[0];
  ldmatrix_x2(r2, tile[lane % 16]);
  for (int i = 0; i < 2; ++i) r[2 + i] = r2[i];
  ldmatrix_x2_trans(r2, tile[lane % 16]);
  for (int i = 0; i < 2; ++i) r[4 + i] = r2[i];
  ldmatrix_x4(r4, tile[lane]);
  for (int i = 0; i < 4; ++i) r[6 + i] = r4[i];
  ldmatrix_x4_trans(r4, tile[lane]);
  for (int i = 0; i < 4; ++i) r[10 + i] = r4[i];
  for (int i = 0; i < 14; ++i) {
    out[28 * lane + 2 * i] = static_cast<unsigned short>(r[i]);
    out[28 * lane + 2 * i + 1] = static_cast<unsigned short>(r[i] >> 16);
  }
}

void matrices() {
  const Buffer<unsigned short> out(32 * 28);
  launch(load_matrices, 1, 32, 0, nullptr, out.data());
  const auto result = out.host();
  const int matrix[14] = {0, 0, 0, 1, 0, 1, 0, 1, 2, 3, 0, 1, 2, 3};
  const bool transposed[14] = {false, true,  false, false, true, true, false,
                               false, false, false, true,  true, true, true};
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 14; ++i) {
      for (int e = 0; e < 2; ++e) {
        const int g = lane / 4, k = 2 * (lane % 4) + e;
        const int row = transposed[i] ? k : g, column = transposed[i] ? g : k;
        expect(result[static_cast<std::size_t>(28 * lane + 2 * i + e)] ==
                   8 * (8 * matrix[i] + row) + column,
               "ldmatrix, lane " + std::to_string(lane) + ", register " + std::to_string(i));
      }
    }
  }
}

// --- what shared memory a launch gets ---

__global__ void static_and_dynamic(float* out, int last) {
  __shared__ float tile[1024];
  for (unsigned i = threadIdx.x; i < 1024; i += blockDim.x) tile[i] = 1.0f;
  float* const more = dynamic_shared<float>();
  if (threadIdx.x == 0) more[last] = 2.0f;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x] + more[last];
}

void shared_memory() {
  const Buffer<float> out(32);
  // Both together have more than 48 KiB; then more, less, and as much again, which is granted.
  for (const int kilobytes : {46, 200, 50, 200, 8}) {
    const auto bytes = static_cast<std::size_t>(kilobytes) * 1024;
    const int last = static_cast<int>(bytes / 4) - 1;
    launch(static_and_dynamic, 1, 32, bytes, nullptr, out.data(), last);
    for (const float x : out.host()) expect(x == 3.0f, std::to_string(kilobytes) + " KiB");
  }
  try {
    launch(static_and_dynamic, 1, 32, std::size_t{1} << 20, nullptr, out.data(), 0);
    expect(false, "a megabyte is refused");
  } catch (const gossamer::CudaError&) {
    expect(cudaGetLastError() == cudaSuccess, "no other call reports what launch() threw");
  }
}

// --- the order of threads ---

/// Each thread appends itself to what blocks before it wrote: a race between blocks.
__global__ void append(int* list, int* n) {
  const int at = *n;
  list[at] = static_cast<int>(blockIdx.x);
  *n = at + 1;
}

void show_order() {
  const Buffer<int> list(std::vector<int>(16, 0)), n(std::vector<int>(1, 0));
  launch(append, 16, 1, 0, nullptr, list.data(), n.data());
  for (const int block : list.host()) std::printf("%d ", block);
  std::puts("");
}

/// 20 rounds of 5 shuffles and a barrier in 64 blocks of 256 threads.
__global__ void busy(float* out) {
  float sum = 1.0f;
  for (int round = 0; round < 20; ++round) {
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
    __syncthreads();
    sum *= 0.03125f;
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

void many_switches() {
  const Buffer<float> out(64 * 256);
  launch(busy, 64, 256, 0, nullptr, out.data());
  for (const float x : out.host()) expect(x == 1.0f, "1 in every thread");
}

const check::Case kCases[] = {
    {"block_sums", block_sums},
    {"dynamic_tiles", dynamic_tiles},
    {"atomics", atomics},
    {"shuffle_lanes", shuffle_lanes},
    {"vote", vote},
    {"copy_pipeline", copy_pipeline},
    {"products_f16", products16<__half>},
    {"products_bf16", products16<__nv_bfloat16>},
    {"products_tf32", products_tf32},
    {"products_sparse_f16", products_sparse<__half>},
    {"products_sparse_bf16", products_sparse<__nv_bfloat16>},
    {"matrices", matrices},
    {"launch_bounds", launch_bounds},
    {"shared_memory", shared_memory},
    {"show_order", show_order},
    {"many_switches", many_switches},
};

}  // namespace

int main(int argc, char** argv) { return check::run_case(kCases, argc, argv); }
