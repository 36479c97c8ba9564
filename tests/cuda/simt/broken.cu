// Kernels that are wrong, each in one way that the emulation must report.

#include "base/ptx.cuh"
#include "check.cuh"

namespace {

using check::Buffer;
using check::launch;
using namespace gossamer::cuda;

constexpr int kThreads = 64;

__global__ void __launch_bounds__(kThreads) missing_barrier(float* out) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = 1.0f;
  out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

__global__ void missing_second_barrier(float* out) {
  __shared__ float tile[kThreads];
  for (int step = 0; step < 2; ++step) {
    tile[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
  }
}

__global__ void missing_warp_barrier(float* out) {
  __shared__ float tile[32];
  tile[threadIdx.x] = out[threadIdx.x];
  const float sum = __shfl_xor_sync(0xffffffffu, 1.0f, 1);  // orders nothing
  out[threadIdx.x] = sum + tile[31 - threadIdx.x];
}

__global__ void same_word(float* out) {
  __shared__ float any;
  any = 1.0f;  // of all threads
  __syncthreads();
  out[threadIdx.x] = any;
}

__global__ void overwrites_what_others_read(float* out) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = 1.0f;
  __syncthreads();
  const float neighbour = tile[(threadIdx.x + 1) % kThreads];
  tile[threadIdx.x] = neighbour;
  out[threadIdx.x] = neighbour;
}

__global__ void barrier_in_branch(float* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 1.0f;
}

__global__ void barrier_after_return(float* out) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  out[threadIdx.x] = 1.0f;
}

__global__ void divergent_barrier(float* out) {
  if (threadIdx.x < 32) {
    out[threadIdx.x] = 1.0f;
    __syncthreads();
  } else {
    out[threadIdx.x] = 2.0f;
    __syncthreads();
  }
}

__global__ void missing_wait(float* out, const float* in) {
  __shared__ __align__(16) float tile[4 * kThreads];
  cp_async<16>(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);
  cp_async_commit();
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void wait_for_too_few(float* out, const float* in) {
  __shared__ __align__(16) float tile[2][kThreads];
  for (int stage = 0; stage < 2; ++stage) {
    cp_async<4>(&tile[stage][threadIdx.x], in + threadIdx.x);
    cp_async_commit();
  }
  cp_async_wait<1>();
  out[threadIdx.x] = tile[0][threadIdx.x] + tile[1][threadIdx.x];
}

__global__ void wait_without_barrier(float* out, const float* in) {
  __shared__ __align__(16) float tile[kThreads];
  cp_async<4>(tile + threadIdx.x, in + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

__global__ void read_past_end(float* out, const float* in) {
  out[threadIdx.x] = in[threadIdx.x + 1];
}

__global__ void write_before_start(float* out) { out[static_cast<int>(threadIdx.x) - 1] = 1.0f; }

__global__ void copy_past_end(const float* in) {
  __shared__ __align__(16) float tile[kThreads];
  cp_async<4>(tile + threadIdx.x, in + threadIdx.x + 1);
  cp_async_commit();
  cp_async_wait<0>();
}

__global__ void atomic_past_end(int* out) { atomicAdd(out + threadIdx.x + 1, 1); }

__global__ void host_pointer(float* out, const float* in) { out[threadIdx.x] = in[threadIdx.x]; }

__global__ void dynamic_past_end(float* out) {
  dynamic_shared<float>()[threadIdx.x] = 1.0f;
  out[threadIdx.x] = 1.0f;
}

__global__ void static_past_end(float* out, int shift) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = tile[static_cast<int>(threadIdx.x) + shift];
}

__global__ void uninitialised(float* out) {
  __shared__ float tile[kThreads];
  if (threadIdx.x != 7) tile[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void uninitialised_in_second_block(float* out) {
  float* tile = dynamic_shared<float>();
  if (blockIdx.x == 0) tile[threadIdx.x] = 1.0f;
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void static_and_dynamic(float* out) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = 1.0f;
  dynamic_shared<float>()[threadIdx.x] = 1.0f;
  out[threadIdx.x] = tile[threadIdx.x];
}

/// Launches it without asking for its shared memory.
void launch_without_asking(void (*kernel)(float*), std::size_t shared_bytes) {
#ifdef GOSSAMER_EMULATED
  const Buffer<float> out(kThreads);
  gossamer::simt::Bound<float*> bound{kernel, {out.data()}};
  const auto* name = reinterpret_cast<const void*>(kernel);
  const gossamer::simt::Kernel what = {name, bound.call, &bound, sizeof(bound)};
  finish_launch(name, gossamer::simt::run(what, 1, kThreads, shared_bytes, nullptr), nullptr);
#endif
}

__global__ void lane_not_in_mask(float* out) {
  out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 0);
}

__global__ void reads_lane_not_in_mask(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0x0000ffffu, 1.0f, 8);
}

__global__ void lanes_missing(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}

__global__ void different_masks(float* out) {
  const unsigned mask = threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u;
  out[threadIdx.x] = __shfl_sync(mask, 1.0f, 20);
}

__global__ void different_places(unsigned* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
  } else {
    out[threadIdx.x] = __ballot_sync(0xffffffffu, 0);
  }
}

__global__ void misaligned(float4* out, const float* in) {
  out[threadIdx.x] = *reinterpret_cast<const float4*>(in + 1);
}

__global__ void misaligned_copy(const float* in) {
  __shared__ __align__(16) float tile[kThreads];
  cp_async<16>(tile, in + 1);
}

__global__ void misaligned_store(float4* out, float* to) {
  *reinterpret_cast<float4*>(to + 4 * threadIdx.x + 2) = out[threadIdx.x];
}

__global__ void misaligned_copy_to(const float* in) {
  __shared__ __align__(16) float tile[kThreads];
  cp_async<8>(tile + 3, in);
}

template <int Warps>
__global__ void __launch_bounds__(32 * Warps, 2) beyond_launch_bounds(float* out) {
  out[threadIdx.x] = 1.0f;
}

/// Twice the same element of A, or the higher one first.
__global__ void bad_metadata(float* out, std::uint32_t metadata) {
  float sums[4] = {};
  const std::uint32_t a[4] = {}, b[4] = {};
  mma_sp_m16n8k32<__half, 0>(sums, a, b, metadata);
  out[threadIdx.x] = sums[0];
}

__global__ void misaligned_matrix(unsigned* out) {
  __shared__ __align__(16) float tile[8 * 32];
  for (int i = 0; i < 8; ++i) tile[i * 32 + static_cast<int>(threadIdx.x)] = 1.0f;
  __syncwarp();
  std::uint32_t r[1];
  ldmatrix_x1(r, tile + 4 * (threadIdx.x % 8) + 1);
  out[threadIdx.x] = r[0];
}

template <class Kernel, class... Args>
void one_block(Kernel kernel, int threads, Args... args) {
  launch(kernel, 1, static_cast<unsigned>(threads), 0, nullptr, args...);
}

const std::vector<float> kOnes(4 * kThreads, 1.0f);

template <void (*kernel)(float*), int threads = kThreads>
void on_out() {
  const Buffer<float> out(std::vector<float>(kThreads, 0.0f));
  one_block(kernel, threads, out.data());
}

template <void (*kernel)(float*, const float*)>
void on_in_out() {
  const Buffer<float> out(kThreads), in(kOnes);
  one_block(kernel, kThreads, out.data(), static_cast<const float*>(in.data()));
}

const check::Case kCases[] = {
    {"missing_barrier", on_out<missing_barrier>},
    {"missing_second_barrier", on_out<missing_second_barrier>},
    {"missing_warp_barrier", on_out<missing_warp_barrier, 32>},
    {"same_word", on_out<same_word>},
    {"overwrites_what_others_read", on_out<overwrites_what_others_read>},
    {"barrier_in_branch", on_out<barrier_in_branch>},
    {"barrier_after_return", on_out<barrier_after_return>},
    {"divergent_barrier", on_out<divergent_barrier>},
    {"missing_wait", on_in_out<missing_wait>},
    {"wait_for_too_few", on_in_out<wait_for_too_few>},
    {"wait_without_barrier", on_in_out<wait_without_barrier>},
    {"read_past_end",
     [] {
       const Buffer<float> out(kThreads), in(kThreads);
       one_block(read_past_end, kThreads, out.data(), in.data());
     }},
    {"write_before_start", on_out<write_before_start>},
    {"copy_past_end",
     [] {
       const Buffer<float> in(kThreads);
       one_block(copy_past_end, kThreads, in.data());
     }},
    {"atomic_past_end",
     [] {
       const Buffer<int> out(std::vector<int>(kThreads, 0));
       one_block(atomic_past_end, kThreads, out.data());
     }},
    {"freed_memory",
     [] {
       float* freed = nullptr;
       {
         const Buffer<float> out(kThreads);
         freed = out.data();
       }
       one_block(same_word, 1, freed);
     }},
    {"host_pointer",
     [] {
       const Buffer<float> out(kThreads);
       one_block(host_pointer, kThreads, out.data(), kOnes.data());
     }},
    {"dynamic_past_end",
     [] {
       const Buffer<float> out(kThreads);
       launch(dynamic_past_end, 1, kThreads, (kThreads - 1) * sizeof(float), nullptr, out.data());
     }},
    {"static_past_end",
     [] {
       const Buffer<float> out(kThreads);
       one_block(static_past_end, kThreads, out.data(), 1);
     }},
    {"uninitialised", on_out<uninitialised>},
    {"uninitialised_in_second_block",
     [] {
       const Buffer<float> out(kThreads);
       launch(uninitialised_in_second_block, 2, kThreads, 1024, nullptr, out.data());
     }},
    {"lane_not_in_mask", on_out<lane_not_in_mask>},
    {"reads_lane_not_in_mask", on_out<reads_lane_not_in_mask>},
    {"lanes_missing", on_out<lanes_missing>},
    {"different_masks", on_out<different_masks, 32>},
    {"different_places",
     [] {
       const Buffer<unsigned> out(32);
       one_block(different_places, 32, out.data());
     }},
    {"misaligned",
     [] {
       const Buffer<float4> out(32);
       const Buffer<float> in(kOnes);
       one_block(misaligned, 32, out.data(), in.data());
     }},
    {"misaligned_copy",
     [] {
       const Buffer<float> in(kOnes);
       one_block(misaligned_copy, 1, in.data());
     }},
    {"misaligned_store",
     [] {
       const Buffer<float4> in(std::vector<float4>(4, float4{}));
       const Buffer<float> out(kOnes);
       one_block(misaligned_store, 4, in.data(), out.data());
     }},
    {"misaligned_copy_to",
     [] {
       const Buffer<float> in(kOnes);
       one_block(misaligned_copy_to, 1, in.data());
     }},
    {"same_position_twice",
     [] {
       const Buffer<float> out(32);
       one_block(bad_metadata, 32, out.data(), 0x44454444u);
     }},
    {"falling_positions",
     [] {
       const Buffer<float> out(32);
       one_block(bad_metadata, 32, out.data(), 0x44444441u);
     }},
    {"misaligned_matrix",
     [] {
       const Buffer<unsigned> out(32);
       one_block(misaligned_matrix, 32, out.data());
     }},
    {"too_many_threads", on_out<barrier_after_return, 1025>},
    {"too_many_for_its_bounds",
     [] {
       const Buffer<float> out(97);
       one_block(beyond_launch_bounds<3>, 97, out.data());
     }},
    {"too_many_blocks",
     [] {
       const Buffer<float> out(1);
       launch(same_word, dim3(1, 65536), 1, 0, nullptr, out.data());
     }},
    {"too_deep_a_block",
     [] {
       const Buffer<float> out(1);
       launch(same_word, 1, dim3(1, 1, 65), 0, nullptr, out.data());
     }},
    {"too_much_without_asking", [] { launch_without_asking(dynamic_past_end, 48 * 1024 + 4); }},
    {"too_much_beside_static_arrays",
     [] {
       constexpr std::size_t kRest = 48 * 1024 - kThreads * sizeof(float);
       launch_without_asking(static_and_dynamic, kRest);  // as much as there is
       launch_without_asking(static_and_dynamic, kRest + 4);
     }},
    {"too_much_after_asking_for_less",
     [] {
       const auto* name = reinterpret_cast<const void*>(static_and_dynamic);
       const auto ask = [&](int bytes) {
         const auto kind = cudaFuncAttributeMaxDynamicSharedMemorySize;
         check::check(cudaFuncSetAttribute(name, kind, bytes), "cudaFuncSetAttribute");
       };
       ask(96 * 1024);
       launch_without_asking(static_and_dynamic, 96 * 1024);
       ask(64 * 1024);
       launch_without_asking(static_and_dynamic, 96 * 1024);
     }},
    {"too_much_shared_memory",
     [] {
       const Buffer<float> out(kThreads);
       launch(dynamic_past_end, 1, kThreads, 228 * 1024, nullptr, out.data());
     }},
};

}  // namespace

int main(int argc, char** argv) { return check::run_case(kCases, argc, argv); }
