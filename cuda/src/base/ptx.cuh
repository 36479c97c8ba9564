#pragma once

// The PTX instructions that kernels use, by name. Fragment layouts are those of the PTX ISA manual,
// with g = lane / 4 and t = lane % 4:
//   m16n8k16, 16-bit: a[0] = A[g][2t,2t+1], a[1] = A[g+8][2t..], a[2] = A[g][2t+8..], a[3] =
//   A[g+8][2t+8..]
//                     b[0] = B[2t,2t+1][g], b[1] = B[2t+8,2t+9][g]
//   m16n8k8, tf32:    a[0] = A[g][t], a[1] = A[g+8][t], a[2] = A[g][t+4], a[3] = A[g+8][t+4]
//                     b[0] = B[t][g], b[1] = B[t+4][g]
//   all:              d[0,1] = D[g][2t,2t+1], d[2,3] = D[g+8][2t,2t+1]
//   sparse m16n8k16:  a[0] = the two elements of A[g][4t..4t+3] that are stored, a[1] = those of
//   A[g+8][4t..]; b as above
//   sparse m16n8k32:  a[0], a[1] as those, a[2] = A[g][4t+16..], a[3] = A[g+8][4t+16..]
//                     b[0] to b[3] = B[2t,2t+1][g] of rows 0, 8, 16 and 24 on
//   their metadata:   the stored elements' two positions in each group of four, the lower one
//   first, two bits each: bits 0 to 15 are four groups of row g, bits 16 to 31 of row g+8. Threads
//   t = Selector of each g give those of m16n8k16; of m16n8k32, t = 2 * Selector gives columns 0 to
//   15 and the next one columns 16 to 31. What the other threads pass is not read.

#include "base/device.cuh"

namespace gossamer::cuda {

#ifdef GOSSAMER_EMULATED
#define GOSSAMER_WHERE_ONLY simt::Where where = simt::Where::current()
#define GOSSAMER_WHERE , GOSSAMER_WHERE_ONLY
#else
#define GOSSAMER_WHERE
__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
#endif

/// Starts an asynchronous copy of Bytes bytes (4, 8 or 16; both sides aligned to it) from global to
/// shared memory. If not `valid`, it writes zeros and does not read `global`.
template <int Bytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, bool valid = true) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
#ifdef GOSSAMER_EMULATED
  simt::copy_async(shared, global, Bytes, valid);
#else
  const int source = valid ? Bytes : 0;
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)),
                 "l"(global), "r"(source)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared_address(shared)),
                 "l"(global), "n"(Bytes), "r"(source)
                 : "memory");
  }
#endif
}

/// Closes a group: the copies that this thread started since the last commit.
__device__ __forceinline__ void cp_async_commit() {
#ifdef GOSSAMER_EMULATED
  simt::copy_async_commit();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

/// Waits until at most the Groups youngest groups of this thread are still under way. Other threads
/// see the copied data after the next barrier.
template <int Groups>
__device__ __forceinline__ void cp_async_wait() {
#ifdef GOSSAMER_EMULATED
  simt::copy_async_wait(Groups);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Groups) : "memory");
#endif
}

// Loads 8x8 matrices of 16-bit elements: lane 8i + j gives the address (aligned to 16 bytes) of row
// j of matrix i; r[i] gets elements 2t, 2t + 1 of row g, or with _trans of column g.

__device__ __forceinline__ void ldmatrix_x1(std::uint32_t (&r)[1],
                                            const void* shared_row GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::load_matrix(r, 1, false, shared_row, where);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];\n"
               : "=r"(r[0])
               : "r"(shared_address(shared_row))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x1_trans(std::uint32_t (&r)[1],
                                                  const void* shared_row GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::load_matrix(r, 1, true, shared_row, where);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];\n"
               : "=r"(r[0])
               : "r"(shared_address(shared_row))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x2(std::uint32_t (&r)[2],
                                            const void* shared_row GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::load_matrix(r, 2, false, shared_row, where);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x2_trans(std::uint32_t (&r)[2],
                                                  const void* shared_row GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::load_matrix(r, 2, true, shared_row, where);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4],
                                            const void* shared_row GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::load_matrix(r, 4, false, shared_row, where);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(std::uint32_t (&r)[4],
                                                  const void* shared_row GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::load_matrix(r, 4, true, shared_row, where);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
#endif
}

/// d += A · B for A [16, 16] and B [16, 8] of T = __half or __nv_bfloat16, accumulated in float32.
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[2] GOSSAMER_WHERE) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>);
#ifdef GOSSAMER_EMULATED
  simt::multiply(kHalf ? simt::Product::f16 : simt::Product::bf16, d, a, b, where);
#else
  if constexpr (kHalf) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

// Positions that rise within each group are what ordered_metadata promises; others are not defined.
#if CUDART_VERSION >= 12050
#define GOSSAMER_MMA_SP "mma.sp::ordered_metadata.sync.aligned."
#else
#define GOSSAMER_MMA_SP "mma.sp.sync.aligned."
#endif

/// d += A · B for B [16, 8] and an A [16, 16] of T = __half or __nv_bfloat16 of which two of each
/// four neighbours in a row are stored, accumulated in float32. What is not stored meets no element
/// of B.
template <class T, int Selector>
__device__ __forceinline__ void mma_sp_m16n8k16(float (&d)[4], const std::uint32_t (&a)[2],
                                                const std::uint32_t (&b)[2],
                                                std::uint32_t metadata GOSSAMER_WHERE) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>);
  static_assert(Selector >= 0 && Selector < 4);
#ifdef GOSSAMER_EMULATED
  simt::multiply_sparse(kHalf ? simt::Product::f16 : simt::Product::bf16, 16, d, a, b, metadata,
                        Selector, where);
#else
  if constexpr (kHalf) {
    asm volatile(GOSSAMER_MMA_SP
                 "m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6, %7}, "
                 "{%0, %1, %2, %3}, %8, %9;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]), "r"(metadata), "n"(Selector));
  } else {
    asm volatile(GOSSAMER_MMA_SP
                 "m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6, %7}, "
                 "{%0, %1, %2, %3}, %8, %9;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]), "r"(metadata), "n"(Selector));
  }
#endif
}

/// The same for B [32, 8] and A [16, 32].
template <class T, int Selector>
__device__ __forceinline__ void mma_sp_m16n8k32(float (&d)[4], const std::uint32_t (&a)[4],
                                                const std::uint32_t (&b)[4],
                                                std::uint32_t metadata GOSSAMER_WHERE) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>);
  static_assert(Selector >= 0 && Selector < 2);
#ifdef GOSSAMER_EMULATED
  simt::multiply_sparse(kHalf ? simt::Product::f16 : simt::Product::bf16, 32, d, a, b, metadata,
                        Selector, where);
#else
  if constexpr (kHalf) {
    asm volatile(GOSSAMER_MMA_SP
                 "m16n8k32.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]),
                   "r"(b[3]), "r"(metadata), "n"(Selector));
  } else {
    asm volatile(GOSSAMER_MMA_SP
                 "m16n8k32.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]),
                   "r"(b[3]), "r"(metadata), "n"(Selector));
  }
#endif
}

#undef GOSSAMER_MMA_SP

/// d += A · B for A [16, 8] and B [8, 8], float32 bits of which the tensor core reads the upper 19
/// (round with cvt.rna.tf32 first where truncation is too coarse: to_tf32).
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2] GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::multiply(simt::Product::tf32, d, a, b, where);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// x rounded to tf32's 10 bits of mantissa, to nearest, ties away from zero.
__device__ __forceinline__ std::uint32_t to_tf32(float x) {
#ifdef GOSSAMER_EMULATED
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
#else
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

/// PRMT with digits 8 to 11: byte i of the result is 0xff or 0, by the sign of byte (digit i) mod 4
/// of x. The intrinsic __byte_perm clears the highest bit of the digits, which asks for the sign.
template <unsigned Selector>
__device__ __forceinline__ std::uint32_t spread_signs(std::uint32_t x) {
  static_assert((Selector & 0x8888u) == 0x8888u && (Selector & 0x4444u) == 0);
#ifdef GOSSAMER_EMULATED
  std::uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned byte = (Selector >> (4 * i)) & 3u;
    if (((x >> (8 * byte + 7)) & 1u) != 0) result |= 0xffu << (8 * i);
  }
  return result;
#else
  std::uint32_t result;
  asm("prmt.b32 %0, %1, %1, %2;\n" : "=r"(result) : "r"(x), "n"(Selector));
  return result;
#endif
}

/// Adds the value of the lane `step` below, if there is such a lane. Two instructions; comparing
/// the lane's number takes four.
__device__ __forceinline__ int add_from_below(int value, int step GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  const auto below = simt::from_bits<int>(
      simt::shuffle(simt::Shuffle::up, 0xffffffffu, simt::bits_of(value), step, 32, where));
  return static_cast<int>(threadIdx.x) % 32 >= step ? value + below : value;
#else
  asm volatile(
      "{\n.reg .pred valid;\n.reg .b32 below;\n"
      "shfl.sync.up.b32 below|valid, %0, %1, 0, 0xffffffff;\n"
      "@valid add.s32 %0, %0, below;\n}\n"
      : "+r"(value)
      : "r"(step));
  return value;
#endif
}

/// Returns x and keeps the compiler from computing it again later.
__device__ __forceinline__ int held(int x) {
#ifndef GOSSAMER_EMULATED
  asm volatile("" : "+r"(x));
#endif
  return x;
}

/// Words of shared memory by their 32-bit addresses, so that each access takes one addition. With
/// plain pointers the compiler computes the base again at each use.
class SharedWords {
 public:
#ifdef GOSSAMER_EMULATED
  __device__ explicit SharedWords(std::uint32_t* shared) : words_(shared) {}
  [[nodiscard]] __device__ SharedWords from(int index) const { return SharedWords(words_ + index); }
  [[nodiscard]] __device__ std::uint32_t load(int index) const { return words_[index]; }
  __device__ void store(int index, std::uint32_t x) const { words_[index] = x; }
  /// Of a place aligned to 16 bytes.
  __device__ void store_four(int index, const std::uint32_t (&x)[4]) const {
    struct alignas(16) Four {
      std::uint32_t at[4];
    };
    *reinterpret_cast<Four*>(words_ + index) = {{x[0], x[1], x[2], x[3]}};
  }

 private:
  std::uint32_t* words_;
#else
  __device__ __forceinline__ explicit SharedWords(std::uint32_t* shared)
      : address_(held(static_cast<int>(shared_address(shared)))) {}
  [[nodiscard]] __device__ __forceinline__ SharedWords from(int index) const {
    SharedWords moved(*this);
    moved.address_ = held(address_ + 4 * index);
    return moved;
  }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t load(int index) const {
    std::uint32_t word;
    asm volatile("ld.shared.b32 %0, [%1];\n" : "=r"(word) : "r"(address_ + 4 * index) : "memory");
    return word;
  }
  __device__ __forceinline__ void store(int index, std::uint32_t x) const {
    asm volatile("st.shared.b32 [%0], %1;\n" ::"r"(address_ + 4 * index), "r"(x) : "memory");
  }
  __device__ __forceinline__ void store_four(int index, const std::uint32_t (&x)[4]) const {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(address_ + 4 * index),
                 "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
                 : "memory");
  }

 private:
  int address_;
#endif
};

#undef GOSSAMER_WHERE
#undef GOSSAMER_WHERE_ONLY

}  // namespace gossamer::cuda
