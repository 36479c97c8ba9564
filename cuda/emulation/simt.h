#pragma once

// What device sources see instead of CUDA's compiler: qualifiers, built-in variables and functions,
// emulated with fibers as threads. Included by device.cuh only; docs/cuda-emulation.md explains it.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <math.h>  // the overloads for float, by their plain names
#include <vector_functions.h>
#include <vector_types.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

// One block runs at a time, so static variables of a function can stand for the block's shared
// memory.
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __shared__ static
#define __grid_constant__

// How many threads a kernel allows becomes as many bytes that do nothing before its first
// instruction. The compiler notes where they begin, and run() counts them.
#if defined(__x86_64__)
#define __launch_bounds__(...) GOSSAMER_FIRST_BOUND(__VA_ARGS__, 0)
#define GOSSAMER_FIRST_BOUND(threads, ...) \
  __attribute__((patchable_function_entry((threads) + 0, (threads) + 0)))
#else
#define __launch_bounds__(...)
#endif

namespace gossamer::simt {

using Where = std::source_location;

// --- a thread's place ---

[[gnu::const]] uint3 thread_index() noexcept;
[[gnu::const]] uint3 block_index() noexcept;
[[gnu::const]] dim3 block_extent() noexcept;
[[gnu::const]] dim3 grid_extent() noexcept;
void* dynamic_shared_memory() noexcept;

// --- collective operations ---

enum class Vote { none, count, all, any };
enum class Shuffle { index, up, down, exclusive_or };
enum class Reduce { add, min_signed, max_signed, min_unsigned, max_unsigned, all, any, odd };

int barrier(Vote vote, bool predicate, Where where);
void sync_warp(std::uint32_t mask, Where where);
std::uint64_t shuffle(Shuffle kind, std::uint32_t mask, std::uint64_t value, int argument,
                      int width, Where where);
std::uint32_t ballot(std::uint32_t mask, bool predicate, Where where);
std::uint32_t match_any(std::uint32_t mask, std::uint64_t value, Where where);
std::uint32_t match_all(std::uint32_t mask, std::uint64_t value, Where where);
std::uint32_t reduce(Reduce kind, std::uint32_t mask, std::uint32_t value, Where where);
std::uint32_t active_mask() noexcept;

/// Checks an atomic access. The thread is not switched before its next collective operation, so
/// what follows is atomic.
void check_atomic(const void* address, std::size_t bytes, const void* site);

// --- asynchronous copies and matrix instructions: see ptx.cuh ---

void copy_async(void* shared, const void* global, int bytes, bool valid);
void copy_async_commit();
void copy_async_wait(int groups);
void load_matrix(std::uint32_t* fragment, int count, bool transpose, const void* row, Where where);

enum class Product { f16, bf16, tf32 };
void multiply(Product kind, float* d, const std::uint32_t* a, const std::uint32_t* b, Where where);
/// The same for an A of which two of four neighbours in a row are stored; `metadata` says which.
void multiply_sparse(Product kind, int depth, float* d, const std::uint32_t* a,
                     const std::uint32_t* b, std::uint32_t metadata, int selector, Where where);

// --- launches ---

struct Kernel {
  const void* function;       // names the kernel in messages
  void (*call)(void* bound);  // runs one thread
  void* bound;                // function and arguments, readable by every thread
  std::size_t bytes;
};
/// Runs the grid, and returns what its launch on `stream` would return. Throws CudaError for errors
/// of the threads.
cudaError_t run(const Kernel& kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
                cudaStream_t stream);

template <class... Parameters>
struct Bound {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> arguments;

  static void call(void* self) {
    const auto& bound = *static_cast<Bound*>(self);
    std::apply(bound.kernel, bound.arguments);
  }
};

template <class T>
std::uint64_t bits_of(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

/// *address = change(*address); returns the old value.
template <class T, class Change>
[[gnu::noinline, gnu::no_sanitize("thread")]] T atomically(T* address, const Change& change) {
  check_atomic(address, sizeof(T), __builtin_return_address(0));
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace gossamer::simt

#define threadIdx (::gossamer::simt::thread_index())
#define blockIdx (::gossamer::simt::block_index())
#define blockDim (::gossamer::simt::block_extent())
#define gridDim (::gossamer::simt::grid_extent())
inline constexpr int warpSize = 32;

// --- barriers ---

inline void __syncthreads(gossamer::simt::Where where = gossamer::simt::Where::current()) {
  gossamer::simt::barrier(gossamer::simt::Vote::none, false, where);
}
inline int __syncthreads_count(int predicate,
                               gossamer::simt::Where where = gossamer::simt::Where::current()) {
  return gossamer::simt::barrier(gossamer::simt::Vote::count, predicate != 0, where);
}
inline int __syncthreads_and(int predicate,
                             gossamer::simt::Where where = gossamer::simt::Where::current()) {
  return gossamer::simt::barrier(gossamer::simt::Vote::all, predicate != 0, where);
}
inline int __syncthreads_or(int predicate,
                            gossamer::simt::Where where = gossamer::simt::Where::current()) {
  return gossamer::simt::barrier(gossamer::simt::Vote::any, predicate != 0, where);
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       gossamer::simt::Where where = gossamer::simt::Where::current()) {
  gossamer::simt::sync_warp(mask, where);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// --- shuffles ---

#define GOSSAMER_SHUFFLE(name, kind, Argument)                               \
  template <class T>                                                         \
  T name(unsigned mask, T value, Argument argument, int width = 32,          \
         gossamer::simt::Where where = gossamer::simt::Where::current()) {   \
    return gossamer::simt::from_bits<T>(gossamer::simt::shuffle(             \
        gossamer::simt::Shuffle::kind, mask, gossamer::simt::bits_of(value), \
        static_cast<int>(argument), width, where));                          \
  }
GOSSAMER_SHUFFLE(__shfl_sync, index, int)
GOSSAMER_SHUFFLE(__shfl_up_sync, up, unsigned)
GOSSAMER_SHUFFLE(__shfl_down_sync, down, unsigned)
GOSSAMER_SHUFFLE(__shfl_xor_sync, exclusive_or, int)
#undef GOSSAMER_SHUFFLE

// --- votes, matches, reductions ---

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              gossamer::simt::Where where = gossamer::simt::Where::current()) {
  return gossamer::simt::ballot(mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate,
                      gossamer::simt::Where where = gossamer::simt::Where::current()) {
  return gossamer::simt::ballot(mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      gossamer::simt::Where where = gossamer::simt::Where::current()) {
  return gossamer::simt::ballot(mask, predicate != 0, where) == mask;
}
inline unsigned __activemask() { return gossamer::simt::active_mask(); }

template <class T>
unsigned __match_any_sync(unsigned mask, T value,
                          gossamer::simt::Where where = gossamer::simt::Where::current()) {
  return gossamer::simt::match_any(mask, gossamer::simt::bits_of(value), where);
}
template <class T>
unsigned __match_all_sync(unsigned mask, T value, int* all,
                          gossamer::simt::Where where = gossamer::simt::Where::current()) {
  const unsigned lanes = gossamer::simt::match_all(mask, gossamer::simt::bits_of(value), where);
  *all = lanes != 0;
  return lanes;
}

#define GOSSAMER_REDUCE(name, T, kind)                                                  \
  inline T name(unsigned mask, T value,                                                 \
                gossamer::simt::Where where = gossamer::simt::Where::current()) {       \
    return static_cast<T>(gossamer::simt::reduce(gossamer::simt::Reduce::kind, mask,    \
                                                 static_cast<unsigned>(value), where)); \
  }
GOSSAMER_REDUCE(__reduce_add_sync, int, add)
GOSSAMER_REDUCE(__reduce_add_sync, unsigned, add)
GOSSAMER_REDUCE(__reduce_min_sync, int, min_signed)
GOSSAMER_REDUCE(__reduce_min_sync, unsigned, min_unsigned)
GOSSAMER_REDUCE(__reduce_max_sync, int, max_signed)
GOSSAMER_REDUCE(__reduce_max_sync, unsigned, max_unsigned)
GOSSAMER_REDUCE(__reduce_and_sync, unsigned, all)
GOSSAMER_REDUCE(__reduce_or_sync, unsigned, any)
GOSSAMER_REDUCE(__reduce_xor_sync, unsigned, odd)
#undef GOSSAMER_REDUCE

// --- atomics ---

#define GOSSAMER_ATOMIC(name, expression)                                                     \
  template <class T>                                                                          \
  T name(T* address, std::type_identity_t<T> value) {                                         \
    return gossamer::simt::atomically(address,                                                \
                                      [value](T old) { return static_cast<T>(expression); }); \
  }
GOSSAMER_ATOMIC(atomicAdd, old + value)
GOSSAMER_ATOMIC(atomicSub, old - value)
GOSSAMER_ATOMIC(atomicMax, old < value ? value : old)
GOSSAMER_ATOMIC(atomicMin, value < old ? value : old)
GOSSAMER_ATOMIC(atomicAnd, old& value)
GOSSAMER_ATOMIC(atomicOr, old | value)
GOSSAMER_ATOMIC(atomicXor, old ^ value)
GOSSAMER_ATOMIC(atomicExch, (static_cast<void>(old), value))
GOSSAMER_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef GOSSAMER_ATOMIC

template <class T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return gossamer::simt::atomically(
      address, [compare, value](T old) { return old == compare ? value : old; });
}

// --- loads and stores with a cache hint ---

#define GOSSAMER_LOAD(name)  \
  template <class T>         \
  T name(const T* address) { \
    return *address;         \
  }
GOSSAMER_LOAD(__ldg)
GOSSAMER_LOAD(__ldca)
GOSSAMER_LOAD(__ldcg)
GOSSAMER_LOAD(__ldcs)
GOSSAMER_LOAD(__ldlu)
GOSSAMER_LOAD(__ldcv)
#undef GOSSAMER_LOAD
#define GOSSAMER_STORE(name)                             \
  template <class T>                                     \
  void name(T* address, std::type_identity_t<T> value) { \
    *address = value;                                    \
  }
GOSSAMER_STORE(__stwb)
GOSSAMER_STORE(__stcg)
GOSSAMER_STORE(__stcs)
GOSSAMER_STORE(__stwt)
#undef GOSSAMER_STORE

// --- arithmetic ---

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= ((x >> i) & 1u) << (31 - i);
  return reversed;
}
/// Position of the offset-th bit that is set, counted from `base` to the left (to the right if
/// offset is negative); 2^32 - 1 if there is none.
inline unsigned __fns(unsigned mask, unsigned base, int offset) {
  if (offset == 0) return ((mask >> base) & 1u) != 0 ? base : 0xffffffffu;
  const int step = offset > 0 ? 1 : -1;
  int left = offset * step;
  for (int i = static_cast<int>(base); i >= 0 && i < 32; i += step) {
    if (((mask >> i) & 1u) != 0 && --left == 0) return static_cast<unsigned>(i);
  }
  return 0xffffffffu;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(a) * b) >> 32);
}
inline int __mulhi(int a, int b) {
  return static_cast<int>((static_cast<std::int64_t>(a) * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>((static_cast<Wide>(a) * b) >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  const std::uint64_t both = (static_cast<std::uint64_t>(high) << 32) | low;
  return static_cast<unsigned>((both << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  const std::uint64_t both = (static_cast<std::uint64_t>(high) << 32) | low;
  return static_cast<unsigned>(both >> (shift & 31));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const std::uint64_t both = (static_cast<std::uint64_t>(y) << 32) | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned pick = (selector >> (4 * i)) & 7u;  // of prmt's four bits, CUDA's takes three
    result |= (static_cast<unsigned>(both >> (8 * pick)) & 255u) << (8 * i);
  }
  return result;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (unsigned i = 0; i < 32; i += 8) c += ((a >> i) & 255u) * ((b >> i) & 255u);
  return c;
}
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline double rsqrt(double a) { return 1.0 / std::sqrt(a); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }

#define GOSSAMER_EXTREMA(T)                        \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
GOSSAMER_EXTREMA(int)
GOSSAMER_EXTREMA(unsigned)
GOSSAMER_EXTREMA(long)
GOSSAMER_EXTREMA(unsigned long)
GOSSAMER_EXTREMA(long long)
GOSSAMER_EXTREMA(unsigned long long)
#undef GOSSAMER_EXTREMA
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
