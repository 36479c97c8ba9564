// Hopper's asynchronous instructions. What they do happens later than where the kernel asks for it:
// a copy whenever the order of threads has it, but before a wait that needs it returns; a product
// at the wait that covers its group. Until then nobody may touch what they read and write.

#include "hopper.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "fibers.h"
#include "memory.h"
#include "trace.h"

namespace gossamer::simt {
namespace {

template <class What>
[[noreturn]] void misused(const Where& where, const What& what) {
  fail(cudaErrorIllegalInstruction, [&] { return name_of(where) + ": " + what(); });
}

void require_aligned(const void* pointer, unsigned bytes, const char* what, const Where& where) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0) return;
  fail(cudaErrorMisalignedAddress, [&] {
    return name_of(where) + ": " + what + " not aligned to " + std::to_string(bytes) + " bytes";
  });
}

// --- mbarriers ---

struct Mbarrier {
  const void* at;
  std::uint32_t count, left;  // arrivals of each phase, and those that this one lacks
  std::int64_t bytes;         // that this phase still waits for
  std::int64_t unclaimed;     // of these, announced and not yet anybody's copy
  int phase;
  unsigned init_by;
  std::uint32_t init_time, init_fence;
  int last_copy, last_wait;  // phases
  Knowledge now, complete;   // what those knew who arrived, and who did before the last phase ended
};
Mbarrier* mbarriers = nullptr;  // kMbarriers of them, a valid one has its address
unsigned mbarrier_count = 0;

Mbarrier& mbarrier_at(const std::uint64_t* at, const Where& where) {
  for (unsigned i = 0; i < mbarrier_count; ++i) {
    Mbarrier& mbarrier = mbarriers[i];
    if (mbarrier.at != at) continue;
    if (!knows(mbarrier.init_by, mbarrier.init_time)) {
      misused(where, [] {
        return "an mbarrier that another thread initialised, with no barrier between (race)";
      });
    }
    return mbarrier;
  }
  misused(where, [] { return "no mbarrier was initialised here"; });
}

unsigned index_of(const Mbarrier& mbarrier) { return static_cast<unsigned>(&mbarrier - mbarriers); }

void finish_phase(Mbarrier& mbarrier) {
  if (mbarrier.left != 0 || mbarrier.bytes != 0) return;
  ++mbarrier.phase;
  mbarrier.left = mbarrier.count;
  mbarrier.complete = mbarrier.now;
  for (Fiber& fiber : fibers()) {
    if (fiber.waiting == Waiting::for_mbarrier && fiber.mbarrier == &mbarrier) resume(fiber);
  }
}

// --- copies ---

/// What a CUtensorMap holds here.
struct TensorMap {
  std::uint64_t magic;
  unsigned char* data;
  std::uint64_t stride[2];  // bytes, of the second and third dimension
  std::uint32_t extent[3], box[3];
  std::uint32_t rank, element;  // element: bytes
  std::uint32_t swizzle;        // which bits from bit 7 on change those from bit 4 on
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));
constexpr std::uint64_t kMagic = 0x676f7373616d6572;

enum class Copy { bulk_in, bulk_out, tile_in, tile_out };

struct AsyncCopy {
  Copy kind;
  unsigned char *shared, *global;
  std::uint32_t bytes;
  unsigned mbarrier;
  unsigned thread;
  int group;
  bool done;
  TensorMap map;
  int at[3];
};
std::vector<AsyncCopy> copies;
unsigned undone = 0;  // of `copies`

constexpr unsigned kChunk = 16;

/// Visits each chunk of 16 bytes of a tile in shared memory: its place there, that of its elements
/// in the tensor, and which of its bytes lie inside the tensor.
template <class Visit>
void for_chunks(const AsyncCopy& copy, const Visit& visit) {
  const TensorMap& map = copy.map;
  const std::uint32_t row_bytes = map.box[0] * map.element;
  const auto inside = [&](unsigned d, std::int64_t i) { return i >= 0 && i < map.extent[d]; };
  std::uintptr_t place = reinterpret_cast<std::uintptr_t>(copy.shared);
  for (std::uint32_t z = 0; z < map.box[2]; ++z) {
    for (std::uint32_t y = 0; y < map.box[1]; ++y) {
      const std::int64_t row = copy.at[1] + std::int64_t{y}, plane = copy.at[2] + std::int64_t{z};
      const bool valid = inside(1, row) && inside(2, plane);
      for (std::uint32_t x = 0; x < row_bytes; x += kChunk, place += kChunk) {
        const std::uintptr_t moved = place ^ ((place >> 7 & map.swizzle) << 4);
        const std::int64_t first = std::int64_t{copy.at[0]} * map.element + x;
        const std::int64_t end = std::int64_t{map.extent[0]} * map.element;
        std::int64_t from = first < 0 ? -first : 0, to = end - first;
        if (from > kChunk) from = kChunk;
        if (to > kChunk) to = kChunk;
        if (!valid || to < from) to = from;
        unsigned char* global = nullptr;
        if (to > from) {
          global = map.data + first + row * static_cast<std::int64_t>(map.stride[0]) +
                   plane * static_cast<std::int64_t>(map.stride[1]);
        }
        visit(reinterpret_cast<unsigned char*>(moved), global, static_cast<std::size_t>(from),
              static_cast<std::size_t>(to));
      }
    }
  }
}

void run_copy(AsyncCopy& copy) {
  copy.done = true;
  --undone;
  switch (copy.kind) {
    case Copy::bulk_in:
      std::memcpy(copy.shared, copy.global, copy.bytes);
      break;
    case Copy::bulk_out:
      std::memcpy(copy.global, copy.shared, copy.bytes);
      return;
    case Copy::tile_in:
      for_chunks(copy, [](unsigned char* shared, const unsigned char* global, std::size_t from,
                          std::size_t to) {
        std::memset(shared, 0, kChunk);
        if (to > from) std::memcpy(shared + from, global + from, to - from);
      });
      break;
    case Copy::tile_out:
      for_chunks(copy, [](const unsigned char* shared, unsigned char* global, std::size_t from,
                          std::size_t to) {
        if (to > from) std::memcpy(global + from, shared + from, to - from);
      });
      return;
  }
  end_bulk(copy.shared, copy.bytes, copy.mbarrier);
  Mbarrier& mbarrier = mbarriers[copy.mbarrier];
  mbarrier.now.until[1024 + copy.mbarrier] = tick();
  mbarrier.bytes -= copy.bytes;
  finish_phase(mbarrier);
}

void forget_done_loads() {
  auto kept = copies.begin();
  for (AsyncCopy& copy : copies) {
    const bool in = copy.kind == Copy::bulk_in || copy.kind == Copy::tile_in;
    if (!(in && copy.done)) *kept++ = copy;
  }
  copies.erase(kept, copies.end());
}

void start(const AsyncCopy& copy) {
  copies.push_back(copy);
  ++undone;
}

AsyncCopy new_copy(Copy kind, const void* shared, const void* global, std::uint32_t bytes) {
  AsyncCopy copy = {};
  copy.kind = kind;
  copy.shared = static_cast<unsigned char*>(const_cast<void*>(shared));
  copy.global = static_cast<unsigned char*>(const_cast<void*>(global));
  copy.bytes = bytes;
  copy.thread = running->id;
  copy.group = running->bulk_group;
  return copy;
}

/// Claims bytes that were announced for the current phase of the mbarrier.
void claim(AsyncCopy& copy, std::uint64_t* at, const Where& where) {
  Mbarrier& mbarrier = mbarrier_at(at, where);
  const bool by_own_fence =
      mbarrier.init_fence != 0 && knows(mbarrier.init_by, mbarrier.init_fence);
  if (!by_own_fence && !fenced(mbarrier.init_by, mbarrier.init_time)) {
    misused(where, [] {
      return "a bulk copy's mbarrier, with no fence.mbarrier_init since it was initialised";
    });
  }
  if (mbarrier.unclaimed < copy.bytes) {
    misused(where, [&] {
      return "a bulk copy of " + std::to_string(copy.bytes) +
             " bytes, of which expect_tx announced " + std::to_string(mbarrier.unclaimed);
    });
  }
  mbarrier.unclaimed -= copy.bytes;
  mbarrier.last_copy = mbarrier.phase;
  copy.mbarrier = index_of(mbarrier);
  begin_bulk(copy.shared, copy.bytes, copy.mbarrier);
}

void require_bulk(const void* shared, const void* global, std::uint32_t bytes, const Where& where) {
  require_aligned(shared, 16, "cp.async.bulk: shared address", where);
  require_aligned(global, 16, "cp.async.bulk: global address", where);
  if (bytes % 16 != 0) {
    misused(where, [&] {
      return "cp.async.bulk of " + std::to_string(bytes) + " bytes, expected a multiple of 16";
    });
  }
  if (!in_shared_memory(shared, bytes)) {
    misused(where, [] { return "cp.async.bulk: no shared memory"; });
  }
}

AsyncCopy new_tile(Copy kind, const CUtensorMap* map, const int* at, int rank, const void* shared,
                   const Where& where) {
  AsyncCopy copy = new_copy(kind, shared, nullptr, 0);
  require_aligned(map, 64, "cp.async.bulk.tensor: map", where);
  std::memcpy(static_cast<void*>(&copy.map), map, sizeof(TensorMap));
  const TensorMap& tensor = copy.map;
  if (tensor.magic != kMagic) {
    misused(where, [] { return "cp.async.bulk.tensor: not a map of cuTensorMapEncodeTiled"; });
  }
  if (tensor.rank != static_cast<unsigned>(rank)) {
    misused(where, [&] {
      return "cp.async.bulk.tensor: " + std::to_string(rank) + " coordinates of a tensor with " +
             std::to_string(tensor.rank);
    });
  }
  require_aligned(shared, 128, "cp.async.bulk.tensor: shared address", where);
  for (int d = 0; d < rank; ++d) copy.at[d] = at[d];
  copy.bytes = tensor.box[0] * tensor.box[1] * tensor.box[2] * tensor.element;
  if (!in_shared_memory(shared, copy.bytes)) {
    misused(where, [] { return "cp.async.bulk.tensor: no shared memory"; });
  }
  for_chunks(copy, [&](const unsigned char*, const unsigned char* global, std::size_t from,
                       std::size_t to) {
    const Access access = kind == Copy::tile_in ? Access::read : Access::write;
    if (to > from) check_access(global + from, to - from, access, nullptr);
  });
  return copy;
}

// --- products of a warpgroup ---

/// A warp's sixteen rows of a product that is under way.
struct WarpProduct {
  WarpgroupProduct what;
  bool in_registers;
  std::uint64_t a, b;
  std::array<std::array<std::uint32_t, 4>, kLanes> registers;
  std::array<const void*, kLanes> from;  // where these are
  const float* first;                    // names the accumulator
  int group;
};

struct WarpSums {
  std::array<float*, kLanes> d;
  unsigned count;    // a lane's
  unsigned pending;  // products that write it
  std::array<std::array<float, 128>, kLanes> values;
};

/// What all four warps of a warpgroup must pass alike.
struct Issue {
  std::uint64_t a, b;
  WarpgroupProduct what;
};

struct ProductWarp {
  std::vector<WarpProduct> products;
  std::vector<WarpSums> sums;
  int group;
  bool fenced;
  std::size_t issued;
};
std::array<ProductWarp, 32> product_warps;
std::array<std::vector<Issue>, 8> issues;  // of each warpgroup
bool products_used = false;

using Lanes = std::array<Exchange*, kLanes>;

std::uint32_t field(std::uint64_t descriptor, unsigned bit) {
  return static_cast<std::uint32_t>(descriptor >> bit & 0x3fffu) << 4;
}

/// Bytes of a row that the swizzle permutes.
std::uint32_t span(std::uint64_t descriptor) {
  constexpr std::uint32_t kSpan[] = {16, 128, 64, 32};
  return kSpan[descriptor >> 62];
}

/// Where element k of row i is; `turned`: the rows' elements of one k are neighbours.
unsigned char* element_at(std::uint64_t descriptor, bool turned, std::uint32_t i, std::uint32_t k) {
  const std::uint32_t leading = field(descriptor, 16), stride = field(descriptor, 32);
  const std::uint32_t width = span(descriptor), swizzled = width / 16 - 1;
  std::uint32_t at = field(descriptor, 0);
  if (turned && swizzled != 0) {
    at += i % (width / 2) * 2 + i / (width / 2) * leading + k % 8 * width + k / 8 * stride;
  } else if (turned) {
    at += i % 8 * 2 + i / 8 * stride + k % 8 * 16 + k / 8 * leading;
  } else if (swizzled != 0) {
    at += i % 8 * width + i / 8 * stride + 2 * k;
  } else {
    at += i % 8 * 16 + i / 8 * stride + k % 8 * 2 + k / 8 * leading;
  }
  at ^= (at >> 7 & swizzled) << 4;
  return dynamic_shared + (at - shared_window(dynamic_shared));
}

/// Visits the chunks of 16 bytes that hold rows [first, first + rows) of an operand.
template <class Visit>
void for_operand(std::uint64_t descriptor, bool turned, std::uint32_t first, std::uint32_t rows,
                 const Visit& visit) {
  const std::uint32_t step_i = turned ? 8 : 1, step_k = turned ? 1 : 8;
  for (std::uint32_t i = first; i < first + rows; i += step_i) {
    for (std::uint32_t k = 0; k < 16; k += step_k) {
      visit(element_at(descriptor, turned, i, k));
    }
  }
}

template <class Visit>
void for_operands(const WarpProduct& product, const Visit& visit) {
  const std::uint32_t row = running->warp() % 4 * 16;
  if (!product.in_registers) {
    for_operand(product.a, product.what.transpose_a, row, 16, visit);
  }
  for_operand(product.b, product.what.transpose_b, 0, static_cast<std::uint32_t>(product.what.n),
              visit);
}

void check_descriptor(std::uint64_t descriptor, char name, const Where& where) {
  const std::uint32_t width = span(descriptor);
  const std::uint32_t row = width == 16 ? 0 : field(descriptor, 0) % (8 * width) / width;
  if (row == 0 && (descriptor >> 49 & 7u) == 0) return;
  misused(where, [&] {
    return std::string("wgmma: matrix ") + name + " begins in row " + std::to_string(row) +
           " of its swizzle's pattern, expected 0";
  });
}

float value_of(Product kind, std::uint32_t bits) {
  if (kind == Product::bf16) return std::bit_cast<float>(bits << 16);
  return __half2float(__half(__half_raw{static_cast<unsigned short>(bits)}));
}

float value_at(Product kind, const unsigned char* at) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, 2);
  return value_of(kind, bits);
}

WarpSums* sums_of(ProductWarp& warp, const float* first) {
  for (WarpSums& sums : warp.sums) {
    if (sums.d[0] == first) return &sums;
  }
  return nullptr;
}

void run_product(ProductWarp& warp, const WarpProduct& product) {
  const WarpgroupProduct& what = product.what;
  const auto n = static_cast<unsigned>(what.n);
  const unsigned row0 = running->warp() % 4 * 16;
  float a[16][16];
  static float b[16][256];
  for (unsigned lane = 0; product.in_registers && lane < kLanes; ++lane) {
    if (std::memcmp(product.from[lane], product.registers[lane].data(), 16) == 0) continue;
    misused(running->where, [] { return "registers of a wgmma's A were written before the wait"; });
  }
  for (unsigned k = 0; k < 16; ++k) {
    for (unsigned i = 0; i < 16; ++i) {
      if (product.in_registers) {
        // Lane 4 g + t: register r has rows g + 8 (r % 2), columns 2 t + 8 (r / 2) and the next.
        const unsigned r = i / 8 + 2 * (k / 8), lane = 4 * (i % 8) + k % 8 / 2;
        a[i][k] = value_of(what.kind, product.registers[lane][r] >> (16 * (k % 2)) & 0xffffu);
      } else {
        a[i][k] = value_at(what.kind, element_at(product.a, what.transpose_a, row0 + i, k));
      }
    }
    for (unsigned j = 0; j < n; ++j) {
      b[k][j] = value_at(what.kind, element_at(product.b, what.transpose_b, j, k));
    }
  }
  WarpSums& sums = *sums_of(warp, product.first);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    for (unsigned r = 0; r < n / 2; ++r) {
      const unsigned row = lane / 4 + 8 * (r % 4 / 2), column = r / 4 * 8 + 2 * (lane % 4) + r % 2;
      double sum = what.accumulate ? double{sums.values[lane][r]} : 0.0;
      for (unsigned k = 0; k < 16; ++k) sum += double{a[row][k]} * double{b[k][column]};
      sums.values[lane][r] = static_cast<float>(sum);
    }
  }
  for_operands(product, [](const unsigned char* chunk) { end_async_read(chunk, kChunk, true); });
  --sums.pending;
}

/// Accumulators that no product is going to write any more are the threads' again.
void release_sums(ProductWarp& warp) {
  const unsigned first = running->warp() * kLanes;
  auto kept = warp.sums.begin();
  for (WarpSums& sums : warp.sums) {
    if (sums.pending != 0) {
      if (&*kept != &sums) *kept = sums;
      ++kept;
      continue;
    }
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      std::memcpy(sums.d[lane], sums.values[lane].data(), sums.count * sizeof(float));
      auto& busy = fibers()[first + lane].accumulators;
      for (std::size_t i = 0; i < busy.size(); ++i) {
        if (busy[i].first == sums.d[lane])
          busy.erase(busy.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
    warp.fenced = false;
  }
  warp.sums.erase(kept, warp.sums.end());
}

std::uint64_t word(const Exchange& mine, unsigned i) {
  return mine.in[i] | std::uint64_t{mine.in[i + 1]} << 32;
}
void set_word(Exchange& mine, unsigned i, std::uint64_t value) {
  mine.in[i] = static_cast<std::uint32_t>(value);
  mine.in[i + 1] = static_cast<std::uint32_t>(value >> 32);
}

// What wgmma() passes: A's and B's descriptors, d, A's registers, flags, one of which says whether
// A is in them, and where they are; n.
constexpr unsigned kInA = 0, kInB = 2, kInD = 4, kInRegisters = 6, kInKind = 10, kInFrom = 11;

Exchange& own_exchange(const Lanes& lanes) { return *lanes[running->lane()]; }

void combine_product(std::uint32_t, const Lanes& lanes) {
  ProductWarp& warp = product_warps[running->warp()];
  const Exchange& first = *lanes[0];
  const Where& where = running->where;
  WarpProduct product = {};
  const std::uint32_t flags = first.in[kInKind];
  product.what = {static_cast<Product>(flags & 3u), first.argument, (flags & 4u) != 0,
                  (flags & 8u) != 0, (flags & 16u) != 0};
  product.in_registers = (flags & 32u) != 0;
  product.a = word(first, kInA);
  product.b = word(first, kInB);
  product.first = reinterpret_cast<const float*>(word(first, kInD));
  product.group = warp.group;
  for (unsigned lane = 1; lane < kLanes; ++lane) {
    const Exchange& other = *lanes[lane];
    if (word(other, kInA) != product.a || word(other, kInB) != product.b ||
        other.in[kInKind] != flags) {
      misused(where, [] { return "wgmma: lanes of a warp pass different operands"; });
    }
  }
  auto& issued = issues[running->warp() / 4];
  const Issue mine = {product.a, product.b, product.what};
  if (warp.issued == issued.size()) {
    issued.push_back(mine);
  } else {
    const Issue& other = issued[warp.issued];
    if (other.a != mine.a || other.b != mine.b || other.what.n != mine.what.n) {
      misused(where, [] { return "wgmma: warps of a warpgroup pass different operands"; });
    }
  }
  ++warp.issued;
  if (!product.in_registers) check_descriptor(product.a, 'A', where);
  check_descriptor(product.b, 'B', where);
  for_operands(product, [](const unsigned char* chunk) { begin_async_read(chunk, kChunk); });

  WarpSums* sums = sums_of(warp, product.first);
  if (sums == nullptr) {
    if (!warp.fenced) {
      misused(where, [] { return "wgmma with no wgmma.fence since its registers were used"; });
    }
    warp.sums.emplace_back();
    sums = &warp.sums.back();
    sums->count = static_cast<unsigned>(product.what.n) / 2;
    sums->pending = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      auto* d = reinterpret_cast<float*>(word(*lanes[lane], kInD));
      sums->d[lane] = d;
      std::memcpy(sums->values[lane].data(), d, sums->count * sizeof(float));
      for (unsigned r = 0; r < sums->count; ++r) d[r] = std::numeric_limits<float>::quiet_NaN();
      fibers()[running->warp() * kLanes + lane].accumulators.push_back({d, d + sums->count});
    }
  }
  ++sums->pending;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    for (unsigned r = 0; r < 4; ++r) {
      product.registers[lane][r] = lanes[lane]->in[kInRegisters + r];
    }
    product.from[lane] = reinterpret_cast<const void*>(word(*lanes[lane], kInFrom));
  }
  warp.products.push_back(product);
}

void combine_fence(std::uint32_t, const Lanes&) { product_warps[running->warp()].fenced = true; }
void combine_commit(std::uint32_t, const Lanes&) { ++product_warps[running->warp()].group; }
void combine_wait(std::uint32_t, const Lanes& lanes) {
  ProductWarp& warp = product_warps[running->warp()];
  const int groups = own_exchange(lanes).argument;
  std::size_t done = 0;
  for (; done < warp.products.size() && warp.products[done].group < warp.group - groups; ++done) {
    run_product(warp, warp.products[done]);
  }
  warp.products.erase(warp.products.begin(),
                      warp.products.begin() + static_cast<std::ptrdiff_t>(done));
  if (done > 0) release_sums(warp);
}

void for_warp(Combine combine, int argument, const Where& where) {
  Exchange mine;
  mine.argument = argument;
  collective(kAllLanes, mine, combine, where);
}

}  // namespace

// --- mbarriers ---

void mbarrier_init(std::uint64_t* at, std::uint32_t arrivals, Where where) {
  require_aligned(at, 8, "mbarrier", where);
  if (arrivals == 0 || arrivals >= 1u << 20) {
    misused(where, [&] { return "an mbarrier of " + std::to_string(arrivals) + " arrivals"; });
  }
  use_mbarriers();
  check_access(at, 8, Access::write, nullptr);
  if (!in_shared_memory(at, 8)) misused(where, [] { return "an mbarrier in no shared memory"; });
  unsigned i = 0;
  while (i < mbarrier_count && mbarriers[i].at != nullptr) ++i;
  if (i == kMbarriers) misused(where, [] { return "more mbarriers than the emulation has"; });
  if (i == mbarrier_count) ++mbarrier_count;
  Mbarrier& mbarrier = mbarriers[i];
  mbarrier = {};
  mbarrier.at = at;
  mbarrier.count = mbarrier.left = arrivals;
  mbarrier.init_by = running->id;
  mbarrier.init_time = tick();
  mbarrier.last_copy = mbarrier.last_wait = -1;
  keep_mbarrier(at, 8, true);
}

void mbarrier_invalidate(std::uint64_t* at, Where where) {
  Mbarrier& mbarrier = mbarrier_at(at, where);
  if (mbarrier.left != mbarrier.count || mbarrier.bytes != 0) {
    misused(where, [] { return "an mbarrier becomes invalid within a phase"; });
  }
  mbarrier.at = nullptr;
  keep_mbarrier(at, 8, false);
}

void mbarrier_arrive(std::uint64_t* at, std::uint32_t bytes, Where where) {
  Mbarrier& mbarrier = mbarrier_at(at, where);
  publish(mbarrier.now);
  mbarrier.bytes += bytes;
  mbarrier.unclaimed += bytes;
  if (mbarrier.left == 0) {
    misused(where, [&] {
      return "more than the " + std::to_string(mbarrier.count) + " arrivals of an mbarrier's phase";
    });
  }
  --mbarrier.left;
  finish_phase(mbarrier);
}

void mbarrier_wait(std::uint64_t* at, std::uint32_t parity, Where where) {
  if (parity > 1) misused(where, [&] { return "the parity " + std::to_string(parity); });
  Mbarrier& mbarrier = mbarrier_at(at, where);
  while ((static_cast<unsigned>(mbarrier.phase) & 1u) == parity) {
    running->mbarrier = &mbarrier;
    wait(Waiting::for_mbarrier, where);
  }
  learn(mbarrier.complete);
  mbarrier.last_wait = mbarrier.phase - 1;
}

std::string mbarrier_state(const Fiber& fiber) {
  const auto& mbarrier = *static_cast<const Mbarrier*>(fiber.mbarrier);
  return "phase " + std::to_string(mbarrier.phase) + " of an mbarrier, which lacks " +
         std::to_string(mbarrier.left) + " arrivals and " + std::to_string(mbarrier.bytes) +
         " bytes";
}

void fence_mbarrier_init() {
  for (unsigned i = 0; i < mbarrier_count; ++i) {
    Mbarrier& mbarrier = mbarriers[i];
    if (mbarrier.init_by == running->id && mbarrier.init_fence == 0) mbarrier.init_fence = tick();
  }
}

void fence_async() { running->fences.push_back({tick()}); }

bool fenced(unsigned thread, std::uint32_t time) {
  const std::vector<AsyncFence>& fences = fibers()[thread].fences;
  std::size_t low = 0, high = fences.size();
  while (low < high) {  // to the first one that is later
    const std::size_t middle = (low + high) / 2;
    if (fences[middle].time > time) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low < fences.size() && knows(thread, fences[low].time);
}

// --- bulk copies ---

void copy_bulk(void* shared, const void* global, std::uint32_t bytes, std::uint64_t* mbarrier,
               Where where) {
  require_bulk(shared, global, bytes, where);
  check_access(global, bytes, Access::read, nullptr);
  AsyncCopy copy = new_copy(Copy::bulk_in, shared, global, bytes);
  claim(copy, mbarrier, where);
  start(copy);
}

void copy_bulk_out(void* global, const void* shared, std::uint32_t bytes, Where where) {
  require_bulk(shared, global, bytes, where);
  check_access(global, bytes, Access::write, nullptr);
  begin_async_read(shared, bytes);
  start(new_copy(Copy::bulk_out, shared, global, bytes));
}

void copy_tile(void* shared, const CUtensorMap* map, const int* at, int rank,
               std::uint64_t* mbarrier, Where where) {
  AsyncCopy copy = new_tile(Copy::tile_in, map, at, rank, shared, where);
  claim(copy, mbarrier, where);
  start(copy);
}

void copy_tile_out(const CUtensorMap* map, const int* at, int rank, const void* shared,
                   Where where) {
  const AsyncCopy copy = new_tile(Copy::tile_out, map, at, rank, shared, where);
  begin_async_read(shared, copy.bytes);
  start(copy);
}

void copy_bulk_commit() { ++running->bulk_group; }

void copy_bulk_wait(int groups) {
  auto kept = copies.begin();
  for (AsyncCopy& copy : copies) {
    const bool out = copy.kind == Copy::bulk_out || copy.kind == Copy::tile_out;
    if (!out || copy.thread != running->id || copy.group >= running->bulk_group - groups) {
      if (&*kept != &copy) *kept = copy;
      ++kept;
      continue;
    }
    if (!copy.done) run_copy(copy);
    end_async_read(copy.shared, copy.bytes, false);
  }
  copies.erase(kept, copies.end());
}

bool async_work_left() noexcept { return undone != 0; }

bool do_async_work(std::uint64_t work) {
  std::uint64_t left = work % undone;
  for (AsyncCopy& copy : copies) {
    if (copy.done || left-- != 0) continue;
    run_copy(copy);
    break;
  }
  forget_done_loads();
  return undone != 0;
}

void begin_async_block() {
  if (mbarriers == nullptr) {
    mbarriers = static_cast<Mbarrier*>(std::calloc(kMbarriers, sizeof(Mbarrier)));
    if (mbarriers == nullptr) std::abort();
  }
  mbarrier_count = 0;
  copies.clear();
  undone = 0;
  if (!products_used) return;
  products_used = false;
  for (ProductWarp& warp : product_warps) {
    warp.products.clear();
    warp.sums.clear();
    warp.group = 0;
    warp.fenced = false;
    warp.issued = 0;
  }
  for (auto& issued : issues) issued.clear();
}

void end_async_thread(bool last) {
  for (const AsyncCopy& copy : copies) {
    const bool out = copy.kind == Copy::bulk_out || copy.kind == Copy::tile_out;
    if (!out || copy.thread != running->id) continue;
    fail(cudaErrorIllegalInstruction,
         [] { return std::string("it returned before its bulk copies were waited for"); });
  }
  if (!product_warps[running->warp()].products.empty()) {
    fail(cudaErrorIllegalInstruction,
         [] { return std::string("it returned before its wgmma were waited for"); });
  }
  if (!last) return;
  for (unsigned i = 0; i < mbarrier_count; ++i) {
    if (mbarriers[i].last_copy <= mbarriers[i].last_wait) continue;
    fail(cudaErrorIllegalInstruction,
         [] { return std::string("the block ends with bulk copies that nobody waited for"); });
  }
  for (unsigned warp = 0; products_used && warp < (fibers().size() + kLanes - 1) / kLanes; ++warp) {
    if (product_warps[warp].issued == issues[warp / 4].size()) continue;
    fail(cudaErrorIllegalInstruction, [] {
      return std::string("a wgmma was executed by some warps of its warpgroup, not by all four");
    });
  }
}

// --- products of a warpgroup ---

std::uint32_t shared_window(const void* shared) {
  // As on hardware, a kilobyte at the beginning is not the kernel's.
  const auto base = reinterpret_cast<std::uintptr_t>(dynamic_shared) - 1024 - 128;
  return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(shared) - base);
}

void wgmma_fence(Where where) { for_warp(combine_fence, 0, where); }
void wgmma_commit(Where where) { for_warp(combine_commit, 0, where); }
void wgmma_wait(int groups, Where where) { for_warp(combine_wait, groups, where); }

void wgmma(const WarpgroupProduct& product, float* d, std::uint64_t a,
           const std::uint32_t* registers, std::uint64_t b, Where where) {
  products_used = true;
  if (fibers().size() / 128 <= running->warp() / 4) {
    misused(where, [] { return "wgmma in a warp that has no three others beside it"; });
  }
  Exchange mine;
  set_word(mine, kInA, a);
  set_word(mine, kInB, b);
  set_word(mine, kInD, reinterpret_cast<std::uintptr_t>(d));
  for (unsigned r = 0; registers != nullptr && r < 4; ++r) {
    mine.in[kInRegisters + r] = registers[r];
  }
  mine.in[kInKind] = static_cast<std::uint32_t>(product.kind) | (product.transpose_a ? 4u : 0u) |
                     (product.transpose_b ? 8u : 0u) | (product.accumulate ? 16u : 0u) |
                     (registers != nullptr ? 32u : 0u);
  set_word(mine, kInFrom, reinterpret_cast<std::uintptr_t>(registers));
  mine.argument = product.n;
  running->where = where;
  collective(kAllLanes, mine, combine_product, where);
}

// --- what the host calls ---

CUresult encode_tiled(CUtensorMap* result, CUtensorMapDataType type, cuuint32_t rank, void* data,
                      const cuuint64_t* extents, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                      CUtensorMapFloatOOBfill fill) {
  if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT;
  std::uint32_t element = 0, span = 0, mask = 0;
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      element = 1;
      break;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      element = 2;
      break;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
      element = 4;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_NONE:
      break;
    case CU_TENSOR_MAP_SWIZZLE_32B:
      span = 32, mask = 1;
      break;
    case CU_TENSOR_MAP_SWIZZLE_64B:
      span = 64, mask = 3;
      break;
    case CU_TENSOR_MAP_SWIZZLE_128B:
      span = 128, mask = 7;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  bool right = rank >= 1 && rank <= 3 && address != 0 && address % 16 == 0 &&
               reinterpret_cast<std::uintptr_t>(result) % 64 == 0 &&
               interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
               fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  TensorMap map = {};
  map.magic = kMagic;
  map.data = static_cast<unsigned char*>(data);
  map.rank = rank;
  map.element = element;
  map.swizzle = mask;
  for (std::uint32_t d = 0; right && d < 3; ++d) {
    map.extent[d] = map.box[d] = 1;
    if (d >= rank) continue;
    right = extents[d] >= 1 && extents[d] <= 0xffffffffu && box[d] >= 1 && box[d] <= 256 &&
            element_strides[d] == 1;
    map.extent[d] = static_cast<std::uint32_t>(extents[d]);
    map.box[d] = box[d];
    if (d == 0) continue;
    map.stride[d - 1] = strides[d - 1];
    right = right && strides[d - 1] % 16 == 0 && strides[d - 1] < std::uint64_t{1} << 40;
  }
  const std::uint32_t row = map.box[0] * element;
  right = right && row % 16 == 0 && (span == 0 || row <= span);
  // How the hardware lays out rows that are shorter than the swizzle's is not emulated.
  right = right && (span == 0 || row == span);
  if (!right) return CUDA_ERROR_INVALID_VALUE;
  std::memset(static_cast<void*>(result), 0, sizeof(*result));
  std::memcpy(static_cast<void*>(result), &map, sizeof(map));
  return CUDA_SUCCESS;
}

}  // namespace gossamer::simt
