#pragma once

// Hopper's asynchronous instructions by name (compute capability 9.0a): mbarriers, bulk copies,
// copies of tiles by tensor maps, products of a warpgroup. Each has an emulated twin. Sources that
// include this are compiled for 90a only.
//
// Layouts, with g = lane / 4, t = lane % 4 and w = warp % 4, as in the PTX ISA manual:
//   wgmma m64nNk16:  d[4 j + i] = D[16 w + g + 8 (i / 2)][8 j + 2 t + i % 2]
//     A in registers: as mma.m16n8k16 has it (ptx.cuh), each warp with its sixteen rows
//   matrices in shared memory, from the place that the descriptor has, for a swizzle of W bytes
//   (128, 64 or 32), by rows (elements of one k-row are neighbours for A and Bᵀ: "K-major"):
//     element [i][k] lies at i % 8 * W + i / 8 * stride + 2 k
//   and transposed ("MN-major"), by columns:
//     element [i][k] lies at i % (W / 2) * 2 + i / (W / 2) * leading + k % 8 * W + k / 8 * stride
//   where bits 4 to 6 of the address (W = 128; 4 and 5, 4) are then exclusive-ored with bits 7 to 9
//   (7 and 8, 7), which is how a copy of a tile with that swizzle leaves rows of W bytes. Without
//   swizzle: i % 8 * 16 + i / 8 * stride + k % 8 * 2 + k / 8 * leading, and transposed
//   i % 8 * 2 + i / 8 * stride + k % 8 * 16 + k / 8 * leading.

#include <cuda.h>

#include "base/device.cuh"

#ifdef GOSSAMER_EMULATED
#include "../../emulation/hopper.h"
#endif

namespace gossamer::cuda {

#ifdef GOSSAMER_EMULATED
#define GOSSAMER_WHERE_ONLY simt::Where where = simt::Where::current()
#define GOSSAMER_WHERE , GOSSAMER_WHERE_ONLY
#else
#define GOSSAMER_WHERE_ONLY
#define GOSSAMER_WHERE
__device__ __forceinline__ unsigned window_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
#endif

// --- mbarriers ---

/// Makes an mbarrier whose phases each take so many arrivals. Before others use it, the thread
/// calls fence_mbarrier_init, and the block meets at a barrier.
__device__ __forceinline__ void mbarrier_init(std::uint64_t* mbarrier,
                                              unsigned arrivals GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::mbarrier_init(mbarrier, arrivals, where);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(window_address(mbarrier)),
               "r"(arrivals)
               : "memory");
#endif
}

/// Makes its memory ordinary memory again.
__device__ __forceinline__ void mbarrier_invalidate(std::uint64_t* mbarrier GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::mbarrier_invalidate(mbarrier, where);
#else
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];\n" ::"r"(window_address(mbarrier)) : "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive(std::uint64_t* mbarrier GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::mbarrier_arrive(mbarrier, 0, where);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(window_address(mbarrier))
               : "memory");
#endif
}

/// Arrives, and has the phase wait for so many bytes of copies, which are started after this.
__device__ __forceinline__ void mbarrier_arrive_expect(std::uint64_t* mbarrier,
                                                       unsigned bytes GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::mbarrier_arrive(mbarrier, bytes, where);
#else
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(window_address(mbarrier)),
      "r"(bytes)
      : "memory");
#endif
}

/// Waits until the phase of this parity is complete: the first one has parity 0, the one before it,
/// which counts as complete, parity 1. The thread then sees what was done before the arrivals, and
/// the copies that the phase waited for.
__device__ __forceinline__ void mbarrier_wait(std::uint64_t* mbarrier,
                                              unsigned parity GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::mbarrier_wait(mbarrier, parity, where);
#else
  asm volatile(
      "{\n.reg .pred done;\nwaiting:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra waiting;\n}\n" ::"r"(window_address(mbarrier)),
      "r"(parity)
      : "memory");
#endif
}

/// Bulk copies see the mbarriers that this thread made before.
__device__ __forceinline__ void fence_mbarrier_init() {
#ifdef GOSSAMER_EMULATED
  simt::fence_mbarrier_init();
#else
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
#endif
}

/// Bulk copies and wgmma see what this thread wrote to shared memory before, once a barrier has
/// ordered their start after this.
__device__ __forceinline__ void fence_async_proxy() {
#ifdef GOSSAMER_EMULATED
  simt::fence_async();
#else
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}

// --- bulk copies, started by one thread ---

/// Copies bytes (a multiple of 16, as both addresses are) to shared memory; the mbarrier's phase,
/// which was told to expect them, waits for them.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, unsigned bytes,
                                          std::uint64_t* mbarrier GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::copy_bulk(shared, global, bytes, mbarrier, where);
#else
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
          "r"(window_address(shared)),
      "l"(global), "r"(bytes), "r"(window_address(mbarrier))
      : "memory");
#endif
}

/// Copies from shared to global memory, in the thread's open group.
__device__ __forceinline__ void bulk_store(void* global, const void* shared,
                                           unsigned bytes GOSSAMER_WHERE) {
#ifdef GOSSAMER_EMULATED
  simt::copy_bulk_out(global, shared, bytes, where);
#else
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n" ::"l"(global),
               "r"(window_address(shared)), "r"(bytes)
               : "memory");
#endif
}

__device__ __forceinline__ void bulk_commit() {
#ifdef GOSSAMER_EMULATED
  simt::copy_bulk_commit();
#else
  asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
#endif
}

/// Waits until at most the Groups youngest groups of this thread still read shared memory.
template <int Groups>
__device__ __forceinline__ void bulk_wait() {
#ifdef GOSSAMER_EMULATED
  simt::copy_bulk_wait(Groups);
#else
  asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(Groups) : "memory");
#endif
}

/// Copies the tile whose first element has the coordinates `at`, innermost first, from the tensor
/// that the map describes; elements outside it are zeros. `shared` is aligned to 128 bytes. The map
/// is a kernel's parameter, declared __grid_constant__. All bytes of the tile count for the
/// mbarrier.
template <int Rank>
__device__ __forceinline__ void tile_load(void* shared, const CUtensorMap& map,
                                          const int (&at)[Rank],
                                          std::uint64_t* mbarrier GOSSAMER_WHERE) {
  static_assert(Rank >= 1 && Rank <= 3);
#ifdef GOSSAMER_EMULATED
  simt::copy_tile(shared, &map, at, Rank, mbarrier, where);
#else
#define GOSSAMER_TILE(rank, places, ...)                                                      \
  asm volatile("cp.async.bulk.tensor." rank                                                   \
               ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, " places \
               "], [%2];\n" ::"r"(window_address(shared)),                                    \
               "l"(&map), "r"(window_address(mbarrier)), __VA_ARGS__                          \
               : "memory")
  if constexpr (Rank == 1) {
    GOSSAMER_TILE("1d", "{%3}", "r"(at[0]));
  } else if constexpr (Rank == 2) {
    GOSSAMER_TILE("2d", "{%3, %4}", "r"(at[0]), "r"(at[1]));
  } else {
    GOSSAMER_TILE("3d", "{%3, %4, %5}", "r"(at[0]), "r"(at[1]), "r"(at[2]));
  }
#undef GOSSAMER_TILE
#endif
}

/// Copies a tile from shared memory to the tensor, without what lies outside it, in the thread's
/// open group of bulk copies.
template <int Rank>
__device__ __forceinline__ void tile_store(const CUtensorMap& map, const int (&at)[Rank],
                                           const void* shared GOSSAMER_WHERE) {
  static_assert(Rank >= 1 && Rank <= 3);
#ifdef GOSSAMER_EMULATED
  simt::copy_tile_out(&map, at, Rank, shared, where);
#else
#define GOSSAMER_TILE(rank, places, ...)                                                       \
  asm volatile("cp.async.bulk.tensor." rank ".global.shared::cta.tile.bulk_group [%0, " places \
               "], [%1];\n" ::"l"(&map),                                                       \
               "r"(window_address(shared)), __VA_ARGS__                                        \
               : "memory")
  if constexpr (Rank == 1) {
    GOSSAMER_TILE("1d", "{%2}", "r"(at[0]));
  } else if constexpr (Rank == 2) {
    GOSSAMER_TILE("2d", "{%2, %3}", "r"(at[0]), "r"(at[1]));
  } else {
    GOSSAMER_TILE("3d", "{%2, %3, %4}", "r"(at[0]), "r"(at[1]), "r"(at[2]));
  }
#undef GOSSAMER_TILE
#endif
}

// --- products of a warpgroup: four warps, the first of which is a multiple of four ---

enum class MatrixSwizzle { none = 0, b128 = 1, b64 = 2, b32 = 3 };

/// Describes a matrix of 16-bit elements in dynamic shared memory; strides are multiples of 16.
/// With a swizzle of W bytes the matrix begins in one of its first W bytes of a place aligned to 8
/// W.
__device__ __forceinline__ std::uint64_t matrix_descriptor(const void* shared, unsigned leading,
                                                           unsigned stride, MatrixSwizzle swizzle) {
#ifdef GOSSAMER_EMULATED
  const std::uint32_t address = simt::shared_window(shared);
#else
  const std::uint32_t address = window_address(shared);
#endif
  return static_cast<std::uint64_t>((address & 0x3ffffu) >> 4) |
         static_cast<std::uint64_t>((leading & 0x3ffffu) >> 4) << 16 |
         static_cast<std::uint64_t>((stride & 0x3ffffu) >> 4) << 32 |
         static_cast<std::uint64_t>(swizzle) << 62;
}

/// Before the first product, and after other instructions used its registers.
__device__ __forceinline__ void wgmma_fence(GOSSAMER_WHERE_ONLY) {
#ifdef GOSSAMER_EMULATED
  simt::wgmma_fence(where);
#else
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#endif
}

/// Closes a group: the products since the last commit.
__device__ __forceinline__ void wgmma_commit(GOSSAMER_WHERE_ONLY) {
#ifdef GOSSAMER_EMULATED
  simt::wgmma_commit(where);
#else
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#endif
}

/// Waits until at most the Groups youngest groups are under way. Only then may the accumulators of
/// older ones be used, and their operands be overwritten.
template <int Groups>
__device__ __forceinline__ void wgmma_wait(GOSSAMER_WHERE_ONLY) {
#ifdef GOSSAMER_EMULATED
  simt::wgmma_wait(Groups, where);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(Groups) : "memory");
#endif
}

// The accumulators as operands, and after them A, B, whether to add, and which are transposed.
#define GOSSAMER_REGISTERS_32                                                              \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define GOSSAMER_SUMS_32                                                                          \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define GOSSAMER_REGISTERS_64                                                              \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "  \
  "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "  \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define GOSSAMER_SUMS_64                                                                          \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),  \
      "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),  \
      "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),  \
      "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),  \
      "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define GOSSAMER_WGMMA_64(type)                                                             \
  asm volatile(                                                                             \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"                                      \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " GOSSAMER_REGISTERS_32 \
      ", %32, %33, add, 1, 1, %35, %36;\n}\n"                                               \
      : GOSSAMER_SUMS_32                                                                    \
      : "l"(a), "l"(b), "r"(add), "n"(TransposeA ? 1 : 0), "n"(TransposeB ? 1 : 0)          \
      : "memory")
#define GOSSAMER_WGMMA_REGISTERS_64(type)                                                     \
  asm volatile(                                                                               \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"                                        \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " GOSSAMER_REGISTERS_32   \
      ", {%32, %33, %34, %35}, %36, add, 1, 1, %38;\n}\n"                                     \
      : GOSSAMER_SUMS_32                                                                      \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TransposeB ? 1 : 0) \
      : "memory")
#define GOSSAMER_WGMMA_128(type)                                                             \
  asm volatile(                                                                              \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " GOSSAMER_REGISTERS_64 \
      ", %64, %65, add, 1, 1, %67, %68;\n}\n"                                                \
      : GOSSAMER_SUMS_64                                                                     \
      : "l"(a), "l"(b), "r"(add), "n"(TransposeA ? 1 : 0), "n"(TransposeB ? 1 : 0)           \
      : "memory")
#define GOSSAMER_WGMMA_REGISTERS_128(type)                                                    \
  asm volatile(                                                                               \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"                                        \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " GOSSAMER_REGISTERS_64  \
      ", {%64, %65, %66, %67}, %68, add, 1, 1, %70;\n}\n"                                     \
      : GOSSAMER_SUMS_64                                                                      \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TransposeB ? 1 : 0) \
      : "memory")

/// Starts d = [d +] A · B for A [64, 16] and B [16, N], both in shared memory; `transpose` says
/// that a matrix is stored by columns (A) or by rows (B).
template <class T, int N, bool TransposeA, bool TransposeB>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[N / 2], std::uint64_t a, std::uint64_t b,
                                             int add GOSSAMER_WHERE) {
  static_assert(N == 64 || N == 128);
  constexpr bool kHalf = std::is_same_v<T, __half>;
  static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>);
#ifdef GOSSAMER_EMULATED
  constexpr auto kKind = kHalf ? simt::Product::f16 : simt::Product::bf16;
  simt::wgmma({kKind, N, TransposeA, TransposeB, add != 0}, d, a, nullptr, b, where);
#else
  if constexpr (N == 64 && kHalf) {
    GOSSAMER_WGMMA_64("f16");
  } else if constexpr (N == 64) {
    GOSSAMER_WGMMA_64("bf16");
  } else if constexpr (kHalf) {
    GOSSAMER_WGMMA_128("f16");
  } else {
    GOSSAMER_WGMMA_128("bf16");
  }
#endif
}

/// The same with A in registers, which nothing may write before the wait.
template <class T, int N, bool TransposeB>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[N / 2], const std::uint32_t (&a)[4],
                                             std::uint64_t b, int add GOSSAMER_WHERE) {
  static_assert(N == 64 || N == 128);
  constexpr bool kHalf = std::is_same_v<T, __half>;
  static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>);
#ifdef GOSSAMER_EMULATED
  constexpr auto kKind = kHalf ? simt::Product::f16 : simt::Product::bf16;
  simt::wgmma({kKind, N, false, TransposeB, add != 0}, d, 0, a, b, where);
#else
  if constexpr (N == 64 && kHalf) {
    GOSSAMER_WGMMA_REGISTERS_64("f16");
  } else if constexpr (N == 64) {
    GOSSAMER_WGMMA_REGISTERS_64("bf16");
  } else if constexpr (kHalf) {
    GOSSAMER_WGMMA_REGISTERS_128("f16");
  } else {
    GOSSAMER_WGMMA_REGISTERS_128("bf16");
  }
#endif
}

#undef GOSSAMER_WGMMA_64
#undef GOSSAMER_WGMMA_128
#undef GOSSAMER_WGMMA_REGISTERS_64
#undef GOSSAMER_WGMMA_REGISTERS_128
#undef GOSSAMER_REGISTERS_32
#undef GOSSAMER_REGISTERS_64
#undef GOSSAMER_SUMS_32
#undef GOSSAMER_SUMS_64
#undef GOSSAMER_WHERE
#undef GOSSAMER_WHERE_ONLY

}  // namespace gossamer::cuda
