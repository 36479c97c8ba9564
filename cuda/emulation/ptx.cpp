// Asynchronous copies and matrix instructions. ptx.cuh describes the layouts.

#include <cmath>

#include "fibers.h"
#include "memory.h"

namespace gossamer::simt {
namespace {

void require_aligned(const void* pointer, unsigned bytes, const char* what) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0) return;
  fail(cudaErrorMisalignedAddress,
       [&] { return what + std::string(" not aligned to ") + std::to_string(bytes) + " bytes"; });
}

using Lanes = std::array<Exchange*, kLanes>;

/// Element e (0 or 1) of the 16-bit pair in a register.
std::uint32_t half_of(std::uint32_t pair, unsigned e) { return (pair >> (16 * e)) & 0xffffu; }

/// Element (i, j) of matrix m: lane 8 m + i holds row i in four registers.
std::uint32_t element(const Lanes& lanes, unsigned m, unsigned i, unsigned j) {
  return half_of(lanes[8 * m + i]->in[j / 2], j % 2);
}

template <bool transpose>
void combine_load(std::uint32_t, const Lanes& lanes) {
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned m = 0; m < static_cast<unsigned>(lanes[lane]->argument); ++m) {
      const std::uint32_t low =
          transpose ? element(lanes, m, 2 * t, g) : element(lanes, m, g, 2 * t);
      const std::uint32_t high =
          transpose ? element(lanes, m, 2 * t + 1, g) : element(lanes, m, g, 2 * t + 1);
      lanes[lane]->out[m] = low | (high << 16);
    }
  }
}

float float_of(Product kind, std::uint32_t bits) {
  if (kind == Product::tf32) return std::bit_cast<float>(bits & 0xffffe000u);
  if (kind == Product::bf16) return std::bit_cast<float>(bits << 16);
  return __half2float(__half(__half_raw{static_cast<unsigned short>(bits)}));
}

/// Takes A [16, K] and B [K, 8] from the warp's fragments; sums D in double and rounds once.
template <Product kind>
void combine_product(std::uint32_t, const Lanes& lanes) {
  constexpr unsigned kPack = kind == Product::tf32 ? 1 : 2;  // elements in a register
  constexpr unsigned kDepth = 8 * kPack;
  float a[16][kDepth], b[kDepth][8];
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned e = 0; e < kPack; ++e) {
      const auto value = [&](unsigned r) {
        const std::uint32_t bits = lanes[lane]->in[r];
        return float_of(kind, kPack == 1 ? bits : half_of(bits, e));
      };
      for (unsigned r = 0; r < 4; ++r) {
        a[g + 8 * (r % 2)][kPack * (t + 4 * (r / 2)) + e] = value(r);
      }
      for (unsigned r = 0; r < 2; ++r) b[kPack * (t + 4 * r) + e][g] = value(4 + r);
    }
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned r = 0; r < 4; ++r) {
      const unsigned row = g + 8 * (r / 2), column = 2 * t + r % 2;
      double sum = std::bit_cast<float>(lanes[lane]->in[6 + r]);
      for (unsigned k = 0; k < kDepth; ++k) sum += double{a[row][k]} * double{b[k][column]};
      lanes[lane]->out[r] = std::bit_cast<std::uint32_t>(static_cast<float>(sum));
    }
  }
}

/// What a sparse product needs beside the fragments: depth in `argument`, selector in `width`.
/// Lane 4 g + t has rows g and g + 8 of A, and metadata if it is one of the threads that the
/// selector chooses: bits 0 to 15 are row g's, bits 16 to 31 row g + 8's, four for each group of
/// four elements. Of 32 elements, the first chosen thread has 16.
template <Product kind>
void combine_sparse(std::uint32_t, const Lanes& lanes) {
  const auto depth = static_cast<unsigned>(lanes[0]->argument), halves = depth / 16;
  const auto selector = static_cast<unsigned>(lanes[0]->width);
  float a[16][16] = {}, b[32][8] = {};
  unsigned column[16][16] = {};
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    const Exchange& mine = *lanes[lane];
    for (unsigned e = 0; e < 2; ++e) {
      for (unsigned r = 0; r < 2 * halves; ++r) {
        a[g + 8 * (r % 2)][2 * t + 8 * (r / 2) + e] = float_of(kind, half_of(mine.in[r], e));
        b[2 * t + 8 * r + e][g] = float_of(kind, half_of(mine.in[4 + r], e));
      }
    }
    if (t / halves != selector) continue;
    const unsigned first = t % halves * 4;
    for (unsigned group = 0; group < 8; ++group) {
      const unsigned row = g + group / 4 * 8, pair = first + group % 4;
      const unsigned code = mine.in[12] >> (4 * group) & 15u;
      if ((code & 3u) >= code >> 2) {
        fail(cudaErrorIllegalInstruction, [&] {
          return "mma.sp: row " + std::to_string(row) + " of A has the positions " +
                 std::to_string(code & 3u) + " and " + std::to_string(code >> 2) + " in group " +
                 std::to_string(pair) + ", expected rising ones";
        });
      }
      column[row][2 * pair] = 4 * pair + (code & 3u);
      column[row][2 * pair + 1] = 4 * pair + (code >> 2);
    }
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned r = 0; r < 4; ++r) {
      const unsigned row = g + 8 * (r / 2), to = 2 * t + r % 2;
      double sum = std::bit_cast<float>(lanes[lane]->in[8 + r]);
      for (unsigned k = 0; k < depth / 2; ++k) {
        sum += double{a[row][k]} * double{b[column[row][k]][to]};
      }
      lanes[lane]->out[r] = std::bit_cast<std::uint32_t>(static_cast<float>(sum));
    }
  }
}

}  // namespace

void copy_async(void* shared, const void* global, int bytes, bool valid) {
  const auto size = static_cast<std::size_t>(bytes);
  require_aligned(shared, static_cast<unsigned>(bytes), "cp.async: shared address");
  require_aligned(global, static_cast<unsigned>(bytes), "cp.async: global address");
  if (valid) check_access(global, size, Access::read, __builtin_return_address(0));
  begin_copy(shared, size);
  running->copies.push_back({shared, global, bytes, valid, running->group});
}

void copy_async_commit() { ++running->group; }

void copy_async_wait(int groups) {
  auto& copies = running->copies;
  auto copy = copies.begin();
  for (; copy != copies.end() && copy->group < running->group - groups; ++copy) {
    const auto size = static_cast<std::size_t>(copy->bytes);
    if (copy->valid) {
      std::memcpy(copy->shared, copy->global, size);
    } else {
      std::memset(copy->shared, 0, size);
    }
    end_copy(copy->shared, size);
  }
  copies.erase(copies.begin(), copy);
}

void load_matrix(std::uint32_t* fragment, int count, bool transpose, const void* row, Where where) {
  Exchange mine;
  mine.argument = count;
  if (running->lane() < 8 * static_cast<unsigned>(count)) {
    require_aligned(row, 16, "ldmatrix: row");
    check_access(row, 16, Access::read, __builtin_return_address(0));
    std::memcpy(mine.in.data(), row, 16);
  }
  collective(kAllLanes, mine, transpose ? combine_load<true> : combine_load<false>, where);
  for (int m = 0; m < count; ++m) fragment[m] = mine.out[static_cast<std::size_t>(m)];
}

void multiply(Product kind, float* d, const std::uint32_t* a, const std::uint32_t* b, Where where) {
  static constexpr Combine kCombine[] = {combine_product<Product::f16>,
                                         combine_product<Product::bf16>,
                                         combine_product<Product::tf32>};
  Exchange mine;
  for (unsigned i = 0; i < 4; ++i) mine.in[i] = a[i];
  for (unsigned i = 0; i < 2; ++i) mine.in[4 + i] = b[i];
  for (unsigned i = 0; i < 4; ++i) mine.in[6 + i] = std::bit_cast<std::uint32_t>(d[i]);
  collective(kAllLanes, mine, kCombine[static_cast<int>(kind)], where);
  for (unsigned i = 0; i < 4; ++i) d[i] = std::bit_cast<float>(mine.out[i]);
}

void multiply_sparse(Product kind, int depth, float* d, const std::uint32_t* a,
                     const std::uint32_t* b, std::uint32_t metadata, int selector, Where where) {
  Exchange mine;
  for (unsigned i = 0; i < static_cast<unsigned>(depth) / 8; ++i) {
    mine.in[i] = a[i];
    mine.in[4 + i] = b[i];
  }
  for (unsigned i = 0; i < 4; ++i) mine.in[8 + i] = std::bit_cast<std::uint32_t>(d[i]);
  mine.in[12] = metadata;
  mine.argument = depth;
  mine.width = selector;
  collective(kAllLanes, mine,
             kind == Product::f16 ? combine_sparse<Product::f16> : combine_sparse<Product::bf16>,
             where);
  for (unsigned i = 0; i < 4; ++i) d[i] = std::bit_cast<float>(mine.out[i]);
}

}  // namespace gossamer::simt
