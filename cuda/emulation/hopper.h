#pragma once

// Hopper's asynchronous instructions, as hopper.cuh calls them: mbarriers, bulk copies, copies of
// tiles, matrix products of a warpgroup. Included by hopper.cuh and the emulation only.

#include <cuda.h>

#include "simt.h"

namespace gossamer::simt {

/// cuTensorMapEncodeTiled, for tensors of one to three dimensions: says what a map may not be.
/// Interleaving, element strides and rows shorter than their swizzle are not emulated.
CUresult encode_tiled(CUtensorMap* result, CUtensorMapDataType type, cuuint32_t rank, void* data,
                      const cuuint64_t* extents, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                      CUtensorMapFloatOOBfill fill);

// --- mbarriers ---

void mbarrier_init(std::uint64_t* mbarrier, std::uint32_t arrivals, Where where);
void mbarrier_invalidate(std::uint64_t* mbarrier, Where where);
/// Announces the bytes, then arrives.
void mbarrier_arrive(std::uint64_t* mbarrier, std::uint32_t bytes, Where where);
/// Waits until the phase of this parity is complete.
void mbarrier_wait(std::uint64_t* mbarrier, std::uint32_t parity, Where where);
void fence_mbarrier_init();
void fence_async();

// --- bulk copies ---

void copy_bulk(void* shared, const void* global, std::uint32_t bytes, std::uint64_t* mbarrier,
               Where where);
void copy_bulk_out(void* global, const void* shared, std::uint32_t bytes, Where where);
/// A tile of the tensor that the map describes; `at` has as many coordinates as the tensor.
void copy_tile(void* shared, const CUtensorMap* map, const int* at, int rank,
               std::uint64_t* mbarrier, Where where);
void copy_tile_out(const CUtensorMap* map, const int* at, int rank, const void* shared,
                   Where where);
void copy_bulk_commit();
/// Waits until at most `groups` of the thread's groups still read their shared memory.
void copy_bulk_wait(int groups);

// --- products of a warpgroup ---

/// An address of dynamic shared memory, as descriptors of matrices have it.
std::uint32_t shared_window(const void* shared);

struct WarpgroupProduct {
  Product kind;
  int n;
  bool transpose_a, transpose_b;
  bool accumulate;
};
void wgmma_fence(Where where);
/// `registers`: A's, which then has no descriptor; or null.
void wgmma(const WarpgroupProduct& product, float* d, std::uint64_t a,
           const std::uint32_t* registers, std::uint64_t b, Where where);
void wgmma_commit(Where where);
void wgmma_wait(int groups, Where where);

}  // namespace gossamer::simt
