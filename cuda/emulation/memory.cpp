// What a kernel may access: device memory, its block's shared memory, its own stack, constants.
//
// Device sources are compiled with -fsanitize=thread and -fsanitize=alignment,bounds, but not
// linked with those runtimes: before each load and store, the compiler calls the functions at the
// end of this file instead. With AddressSanitizer, which cannot be combined with these, its own
// checks are used.

#include "memory.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#include "fibers.h"
#include "gossamer/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace gossamer::simt {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kEveryAccess = false;
void forbid(const void* zone, std::size_t bytes) { __asan_poison_memory_region(zone, bytes); }
void permit(const void* zone, std::size_t bytes) { __asan_unpoison_memory_region(zone, bytes); }
#else
constexpr bool kEveryAccess = true;
void forbid(const void*, std::size_t) {}
void permit(const void*, std::size_t) {}
#endif

using Address = std::uintptr_t;

Address address_of(const void* pointer) { return reinterpret_cast<Address>(pointer); }

struct Range {
  Address first = 0, last = 0;  // half open

  [[nodiscard]] bool holds(Address address, std::size_t bytes) const noexcept {
    return address >= first && address + bytes <= last;
  }
};

// --- device memory ---

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kZoneBytes = 1024;

std::mutex buffers_mutex;
std::map<Address, Range> buffers;  // by their first address
Range recent;                      // the buffer of the last access

bool in_buffer(Address address, std::size_t bytes) {
  if (recent.holds(address, bytes)) return true;
  const std::lock_guard lock(buffers_mutex);
  auto after = buffers.upper_bound(address);
  if (after == buffers.begin()) return false;
  recent = (--after)->second;
  return recent.holds(address, bytes);
}

std::size_t buffer_bytes(const void* memory) {
  const std::lock_guard lock(buffers_mutex);
  const Range& buffer = buffers.at(address_of(memory));
  return buffer.last - buffer.first;
}

/// A text such as "ends 3 bytes past 4096 bytes of device memory", if a buffer is near the address.
std::string near_buffer(Address address, std::size_t bytes) {
  const std::lock_guard lock(buffers_mutex);
  auto after = buffers.upper_bound(address);
  if (after != buffers.end() && after->first - address <= kZoneBytes) {
    const Range& next = after->second;
    return std::to_string(next.first - address) + " bytes before " +
           std::to_string(next.last - next.first) + " bytes of device memory";
  }
  if (after == buffers.begin()) return "no device memory";
  const Range& last = (--after)->second;
  if (address + bytes - last.last > kZoneBytes) return "no device memory";
  return "ends " + std::to_string(address + bytes - last.last) + " bytes past " +
         std::to_string(last.last - last.first) + " bytes of device memory";
}

// --- shared memory ---

// __shared__ variables are function-local statics, somewhere in this module's writable memory.
// Device code writes to no other statics, so all of that memory is treated as shared memory. Each
// byte has a cell.

constexpr std::uint16_t kMbarrier = 0x1000;  // holds an mbarrier
constexpr std::uint16_t kBulk = 0x2000;      // + mbarrier: written by one of its bulk copies
constexpr std::uint16_t kAtomic = 0x4000;    // written by atomics only
constexpr std::uint16_t kPending = 0x8000;   // + thread or bulk: its copy is not there yet
constexpr std::uint16_t kWarp = 0x4000;      // + warp: read by several of its threads
constexpr std::uint16_t kSeveral = 0x8000;   // read by threads of several warps
constexpr std::uint16_t kTogether = 0x2000;  // read by a warp's wgmma, for which all lanes waited

/// Which thread wrote and read a byte last, and when, by a clock that advances at barriers.
struct Cell {
  std::uint32_t written = 0, read = 0;
  std::uint16_t writer = 0, reader = 0;
  std::uint16_t readers = 0, unused = 0;  // asynchronous instructions that read it now
};

std::uint32_t clock_now = 1;
std::uint32_t block_start = 1, block_ordered = 1;
std::array<std::uint32_t, 32> warp_ordered = {};

constexpr unsigned kThreads = 1024;
constexpr unsigned kWarps = kThreads / kLanes;
bool mbarriers = false;      // whether the block has used one
Knowledge* known = nullptr;  // of each thread, while `mbarriers`

/// When each warp read a byte of dynamic shared memory last, while `mbarriers`: a reader that waits
/// for one need not wait for others.
struct WarpRead {
  std::uint32_t time;
  std::uint16_t thread;  // or kSeveral, or kTogether: what one lane did after it, it did after all
};
using WarpReads = std::array<WarpRead, kWarps>;
WarpReads* warp_reads = nullptr;

std::size_t async_readers = 0;  // the sum of all cells' `readers`
std::size_t static_bytes = 0;   // written by the block

struct Free {
  void operator()(void* memory) const noexcept { std::free(memory); }
};

struct Module {
  std::vector<Range> writable, constant;
  std::vector<std::unique_ptr<Cell[], Free>> cells;  // of each writable range
};

int find_module(dl_phdr_info* info, std::size_t, void* result) {
  Module module;
  Range relocated;
  bool ours = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    const Address first = info->dlpi_addr + header.p_vaddr;
    const Range range = {first, first + header.p_memsz};
    if (header.p_type == PT_GNU_RELRO) relocated = range;
    if (header.p_type != PT_LOAD) continue;
    ours |= range.holds(address_of(dynamic_shared), 1);
    ((header.p_flags & PF_W) != 0 ? module.writable : module.constant).push_back(range);
  }
  if (!ours) return 0;
  for (Range& range : module.writable) {
    if (range.holds(relocated.first, 1)) range.first = relocated.last;
  }
  module.constant.push_back(relocated);
  for (const Range& range : module.writable) {
    // With calloc, pages of cells that no kernel uses take no memory.
    auto* cells = static_cast<Cell*>(std::calloc(range.last - range.first, sizeof(Cell)));
    if (cells == nullptr) throw std::bad_alloc();
    module.cells.emplace_back(cells);
  }
  *static_cast<Module*>(result) = std::move(module);
  return 1;
}

const Module& module() {
  static const Module found = [] {
    Module result;
    dl_iterate_phdr(find_module, &result);
    return result;
  }();
  return found;
}

Cell* shared_cells(Address address, std::size_t bytes) {
  const Module& own = module();
  for (std::size_t i = 0; i < own.writable.size(); ++i) {
    if (own.writable[i].holds(address, bytes)) {
      return own.cells[i].get() + (address - own.writable[i].first);
    }
  }
  return nullptr;
}

/// Whether nothing orders what `thread` did at `time` before what the running thread does now.
bool unordered(unsigned thread, std::uint32_t time) {
  if (thread == running->id || time < block_ordered) return false;
  if (mbarriers && time < known[running->id].until[thread]) return false;
  return thread / kLanes != running->warp() || time >= warp_ordered[running->warp()];
}

/// The entry of a cell of dynamic shared memory, while `mbarriers`; else null.
WarpReads* warp_reads_of(Address address) {
  const Address offset = address - address_of(dynamic_shared);
  return mbarriers && offset < kDynamicSharedBytes ? warp_reads + offset : nullptr;
}

bool read_by_warps(const WarpReads& reads) {
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  for (unsigned first = 0; first < threads; first += kLanes) {
    const WarpRead& read = reads[first / kLanes];
    if (read.time < block_ordered) continue;
    if (read.thread != kSeveral && read.thread != kTogether) {
      if (unordered(read.thread, read.time)) return true;
      continue;
    }
    unsigned lanes = 0, behind = 0;
    for (unsigned thread = first; thread < first + kLanes && thread < threads; ++thread) {
      ++lanes;
      behind += unordered(thread, read.time) ? 0 : 1;
    }
    if (behind == 0 || (read.thread == kSeveral && behind < lanes)) return true;
  }
  return false;
}

bool read_by_others(const Cell& cell, Address address) {
  if (cell.read < block_ordered) return false;
  if (const WarpReads* reads = warp_reads_of(address)) return read_by_warps(*reads);
  if (cell.reader == kSeveral) return true;
  if ((cell.reader & kWarp) == 0) return unordered(cell.reader, cell.read);
  const unsigned warp = cell.reader & ~unsigned{kWarp};
  return warp != running->warp() || cell.read >= warp_ordered[warp];
}

void note_reader(Cell& cell, Address address, bool together = false) {
  const auto self = together ? kTogether : static_cast<std::uint16_t>(running->id);
  if (WarpReads* reads = warp_reads_of(address)) {
    WarpRead& read = (*reads)[running->warp()];
    const bool others = read.time >= block_ordered && read.thread != self;
    read = {clock_now, others ? kSeveral : self};
    cell.reader = kSeveral;
  } else if (!read_by_others(cell, address)) {
    cell.reader = self;
  } else if (cell.reader != kSeveral) {
    const unsigned warp =
        (cell.reader & kWarp) != 0 ? cell.reader & ~unsigned{kWarp} : cell.reader / kLanes;
    cell.reader = warp == running->warp() ? static_cast<std::uint16_t>(kWarp | warp) : kSeveral;
  }
  cell.read = clock_now;
}

bool is_read(Access access) { return access == Access::read || access == Access::async_read; }
bool is_async(Access access) {
  return access == Access::async_read || access == Access::async_write;
}

/// What an access finds wrong with the last write of a byte of shared memory.
const char* wrong_with_write(const Cell& cell, Access access) {
  constexpr const char* kNotWaited = "of shared memory whose bulk copy was not waited for";
  if ((cell.writer & kPending) != 0) {
    if ((cell.writer & kBulk) != 0) return kNotWaited;
    return "of shared memory whose asynchronous copy was not waited for";
  }
  if ((cell.writer & kMbarrier) != 0) return "of shared memory that holds an mbarrier";
  if ((cell.writer & kBulk) != 0) {
    const unsigned from = kThreads + (cell.writer & ~unsigned{kBulk});
    return cell.written < known[running->id].until[from] ? nullptr : kNotWaited;
  }
  if ((cell.writer & kAtomic) != 0) {
    if (access != Access::atomic && cell.written >= block_ordered) {
      return "of shared memory that atomics write, with no barrier between (race)";
    }
    return is_async(access) ? "of shared memory that atomics write, by an asynchronous instruction"
                            : nullptr;
  }
  if (unordered(cell.writer, cell.written)) {
    return "of shared memory that another thread wrote, with no barrier between (race)";
  }
  if (is_async(access) && !fenced(cell.writer, cell.written)) {
    return "by an asynchronous instruction, of shared memory that an ordinary one wrote, with no "
           "fence.proxy.async between";
  }
  return nullptr;
}

/// Says what is wrong with an access to a byte of shared memory; null if nothing is.
const char* touch(Cell& cell, Address address, Access access) {
  const bool written = cell.written >= block_start;
  if (!written && access != Access::write && access != Access::async_write) {
    return "of shared memory that nothing wrote";
  }
  if (const char* wrong = written ? wrong_with_write(cell, access) : nullptr) return wrong;
  if (is_read(access)) {
    if (access == Access::read) note_reader(cell, address);  // else at its end
    return nullptr;
  }
  if (cell.readers != 0) return "of shared memory that an asynchronous instruction still reads";
  if (read_by_others(cell, address)) {
    return "of shared memory that another thread reads, with no barrier between (race)";
  }
  if (!written && address - address_of(dynamic_shared) >= kDynamicSharedBytes) ++static_bytes;
  cell.written = clock_now;
  cell.writer = access == Access::atomic ? kAtomic : static_cast<std::uint16_t>(running->id);
  return nullptr;
}

// --- messages ---

const char* name_of(Access access) {
  switch (access) {
    case Access::read:
    case Access::async_read:
      return "read";
    case Access::write:
    case Access::async_write:
      return "write";
    case Access::atomic:
      return "atomic operation";
  }
  return "";
}

/// The place in the source of a code address.
std::string place_at(const void* address) {
  Dl_info info = {};
  if (dladdr(address, &info) == 0) return "";
  const Address offset = address_of(address) - address_of(info.dli_fbase);
  char command[512];
  char text[4096];
  // A module that is not position independent runs at the addresses it was linked for.
  std::snprintf(command, sizeof(command), "addr2line -se '%s' 0x%zx 0x%zx 2>/dev/null",
                info.dli_fname, static_cast<std::size_t>(offset),
                static_cast<std::size_t>(address_of(address)));
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command, "r"), pclose);
  while (pipe && std::fgets(text, sizeof(text), pipe.get()) != nullptr) {
    text[std::strcspn(text, "\n")] = 0;
    if (text[0] != '?') return text;
  }
  return "";
}

/// The function that a module's symbols name at an address; empty where none does. It is here since
/// addr2line takes a second for each name, where a sanitizer has made the module large.
std::string symbol_at(const void* address) {
  Dl_info info = {};
  if (dladdr(address, &info) == 0) return "";
  const int file = open(info.dli_fname, O_RDONLY | O_CLOEXEC);
  struct stat about = {};
  if (file < 0 || fstat(file, &about) != 0) return "";
  const auto bytes = static_cast<std::size_t>(about.st_size);
  void* const mapped = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return "";

  const auto* const start = static_cast<const unsigned char*>(mapped);
  const auto* const header = reinterpret_cast<const ElfW(Ehdr)*>(start);
  const auto* const sections = reinterpret_cast<const ElfW(Shdr)*>(start + header->e_shoff);
  const bool moved = header->e_type == ET_DYN;
  const Address place = address_of(address) - (moved ? address_of(info.dli_fbase) : 0);
  std::string name;
  for (std::size_t i = 0; i < header->e_shnum && name.empty(); ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const auto* const symbols = reinterpret_cast<const ElfW(Sym)*>(start + sections[i].sh_offset);
    const auto* const end = symbols + sections[i].sh_size / sizeof(*symbols);
    const auto* const found = std::find_if(symbols, end, [&](const ElfW(Sym) & symbol) {
      return (symbol.st_info & 0xf) == STT_FUNC && symbol.st_value == place;
    });
    if (found == end) continue;
    const auto* const names = start + sections[sections[i].sh_link].sh_offset;
    const auto* const mangled = reinterpret_cast<const char*>(names + found->st_name);
    const std::unique_ptr<char, void (*)(void*)> plain(
        abi::__cxa_demangle(mangled, nullptr, nullptr, nullptr), std::free);
    name = plain == nullptr ? mangled : plain.get();
  }
  munmap(mapped, bytes);
  return name;
}

template <class What>
[[noreturn]] void refuse(std::size_t bytes, Access access, const void* site, const What& what) {
  fail(cudaErrorIllegalAddress, [&] {
    const std::string line = site == nullptr ? "" : line_at(site);
    return std::string(name_of(access)) + " of " + std::to_string(bytes) + " bytes, " + what() +
           (line.empty() ? "" : ", at " + line);
  });
}

}  // namespace

namespace {

/// Buffers from this size on take pages as they are written, for tests with rows far apart.
constexpr std::size_t kHugeBytes = std::size_t{1} << 30;

unsigned char* new_zone(std::size_t bytes) {
  if (bytes < kHugeBytes) {
    auto* zone = static_cast<unsigned char*>(::operator new(bytes, std::align_val_t{kAlignment}));
    std::memset(zone, 0xff, bytes);
    return zone;
  }
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw CudaError("cudaMalloc", "cudaErrorMemoryAllocation");
  return static_cast<unsigned char*>(mapped);
}

void delete_zone(unsigned char* zone, std::size_t bytes) noexcept {
  if (bytes < kHugeBytes) {
    ::operator delete(zone, std::align_val_t{kAlignment});
  } else {
    munmap(zone, bytes);
  }
}

}  // namespace

void* allocate(std::size_t bytes) {
  unsigned char* zone = new_zone(bytes + 2 * kZoneBytes);
  unsigned char* memory = zone + kZoneBytes;
  admit(memory, bytes);
  forbid(zone, kZoneBytes);
  forbid(memory + bytes, kZoneBytes);
  return memory;
}

void release(void* memory) noexcept {
  if (memory == nullptr) return;
  unsigned char* zone = static_cast<unsigned char*>(memory) - kZoneBytes;
  const std::size_t bytes = buffer_bytes(memory) + 2 * kZoneBytes;
  permit(zone, bytes);
  dismiss(memory);
  delete_zone(zone, bytes);
}

void admit(const void* memory, std::size_t bytes) {
  const std::lock_guard lock(buffers_mutex);
  buffers[address_of(memory)] = {address_of(memory), address_of(memory) + bytes};
}

void dismiss(const void* memory) noexcept {
  const std::lock_guard lock(buffers_mutex);
  buffers.erase(address_of(memory));
  recent = {};
}

void check_access(const void* pointer, std::size_t bytes, Access access, const void* site) {
  const Address address = address_of(pointer);
  const Address stack = address_of(running->stack);
  if (address - stack < kStackBytes) {
    for (const Accumulator& sums : running->accumulators) {
      if (address_of(sums.first) < address + bytes && address < address_of(sums.last)) {
        refuse(bytes, access, site,
               [] { return std::string("of an accumulator whose wgmma was not waited for"); });
      }
    }
    return;
  }
  if (in_buffer(address, bytes)) return;
  if (Cell* cells = shared_cells(address, bytes)) {
    const Address offset = address - address_of(dynamic_shared);
    if (offset < kDynamicSharedBytes && offset + bytes > launch.shared_bytes) {
      refuse(bytes, access, site, [] {
        return "beyond the " + std::to_string(launch.shared_bytes) + " bytes of shared memory";
      });
    }
    for (std::size_t i = 0; kEveryAccess && i < bytes; ++i) {
      if (const char* wrong = touch(cells[i], address + i, access)) {
        refuse(bytes, access, site, [&] { return std::string(wrong); });
      }
    }
    return;
  }
  if (is_read(access)) {
    const Address bound = address_of(launch.kernel.bound);
    if (Range{bound, bound + launch.kernel.bytes}.holds(address, bytes)) return;
    for (const Range& range : module().constant) {
      if (range.holds(address, bytes)) return;
    }
  }
  refuse(bytes, access, site, [&] { return near_buffer(address, bytes); });
}

void begin_copy(const void* shared, std::size_t bytes) {
  check_access(shared, bytes, Access::write, nullptr);
  Cell* cells = shared_cells(address_of(shared), bytes);
  if (cells == nullptr) {
    refuse(bytes, Access::write, nullptr, [] { return std::string("not to shared memory"); });
  }
  for (std::size_t i = 0; i < bytes; ++i) {
    cells[i].writer = static_cast<std::uint16_t>(running->id | kPending);
  }
}

void end_copy(const void* shared, std::size_t bytes) {
  Cell* cells = shared_cells(address_of(shared), bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    cells[i].written = clock_now;
    cells[i].writer = static_cast<std::uint16_t>(running->id);
  }
}

bool in_shared_memory(const void* address, std::size_t bytes) {
  return shared_cells(address_of(address), bytes) != nullptr;
}

void begin_bulk(const void* shared, std::size_t bytes, unsigned mbarrier) {
  check_access(shared, bytes, Access::async_write, nullptr);
  Cell* cells = shared_cells(address_of(shared), bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    cells[i].written = clock_now;
    cells[i].writer = static_cast<std::uint16_t>(kPending | kBulk | mbarrier);
  }
}

void end_bulk(const void* shared, std::size_t bytes, unsigned mbarrier) {
  Cell* cells = shared_cells(address_of(shared), bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    cells[i].written = clock_now;
    cells[i].writer = static_cast<std::uint16_t>(kBulk | mbarrier);
  }
}

void begin_async_read(const void* shared, std::size_t bytes) {
  check_access(shared, bytes, Access::async_read, nullptr);
  Cell* cells = shared_cells(address_of(shared), bytes);
  for (std::size_t i = 0; i < bytes; ++i) ++cells[i].readers;
  async_readers += bytes;
}

void end_async_read(const void* shared, std::size_t bytes, bool warp) {
  const Address address = address_of(shared);
  Cell* cells = shared_cells(address, bytes);
  async_readers -= bytes;
  for (std::size_t i = 0; i < bytes; ++i) {
    --cells[i].readers;
    note_reader(cells[i], address + i, warp);
    if (warp) cells[i].reader = kSeveral;
  }
}

void keep_mbarrier(const void* shared, std::size_t bytes, bool keep) {
  Cell* cells = shared_cells(address_of(shared), bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    cells[i].written = clock_now;
    cells[i].writer = static_cast<std::uint16_t>(keep ? kMbarrier : running->id);
  }
}

void use_mbarriers() {
  if (mbarriers) return;
  if (known == nullptr) {
    known = static_cast<Knowledge*>(std::calloc(kThreads, sizeof(Knowledge)));
    warp_reads = static_cast<WarpReads*>(std::calloc(kDynamicSharedBytes, sizeof(WarpReads)));
    if (known == nullptr || warp_reads == nullptr) std::abort();
  }
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  for (unsigned i = 0; i < threads; ++i) std::memset(&known[i], 0, sizeof(Knowledge));
  mbarriers = true;
}

std::uint32_t tick() { return ++clock_now; }

void publish(Knowledge& to) {
  Knowledge& mine = known[running->id];
  mine.until[running->id] = ++clock_now;
  for (unsigned i = 0; i < kThreads + kMbarriers; ++i) {
    to.until[i] = std::max(to.until[i], mine.until[i]);
  }
}

void learn(const Knowledge& from) {
  Knowledge& mine = known[running->id];
  for (unsigned i = 0; i < kThreads + kMbarriers; ++i) {
    mine.until[i] = std::max(mine.until[i], from.until[i]);
  }
}

bool knows(unsigned thread, std::uint32_t time) { return !unordered(thread, time); }

std::size_t static_shared_bytes() noexcept { return static_bytes; }

void begin_block() {
  mbarriers = false;
  static_bytes = 0;
  if (async_readers != 0) {  // of a launch that failed
    const Module& own = module();
    for (std::size_t range = 0; range < own.writable.size(); ++range) {
      const std::size_t bytes = own.writable[range].last - own.writable[range].first;
      for (std::size_t i = 0; i < bytes; ++i) own.cells[range][i].readers = 0;
    }
    async_readers = 0;
  }
  block_start = block_ordered = ++clock_now;
  warp_ordered.fill(clock_now);
}

/// What one of these threads knows, all know.
void share_knowledge(unsigned first, unsigned last) {
  Knowledge all = known[first];
  for (unsigned thread = first + 1; thread < last; ++thread) {
    for (unsigned i = 0; i < kThreads + kMbarriers; ++i) {
      all.until[i] = std::max(all.until[i], known[thread].until[i]);
    }
  }
  for (unsigned thread = first; thread < last; ++thread) all.until[thread] = clock_now;
  for (unsigned thread = first; thread < last; ++thread) known[thread] = all;
}

void order_block() {
  block_ordered = ++clock_now;
  if (mbarriers) share_knowledge(0, launch.block.x * launch.block.y * launch.block.z);
}

void order_warp(unsigned warp) {
  warp_ordered[warp] = ++clock_now;
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  if (mbarriers) share_knowledge(warp * kLanes, std::min((warp + 1) * kLanes, threads));
}

std::string function_at(const void* address) {
  const std::string name = symbol_at(address);
  if (!name.empty()) return name;
  Dl_info info = {};
  if (dladdr(address, &info) == 0) return "a kernel";
  char offset[64];
  std::snprintf(offset, sizeof(offset), " + 0x%zx",
                static_cast<std::size_t>(address_of(address) - address_of(info.dli_fbase)));
  return info.dli_fname + std::string(offset);
}

std::string line_at(const void* address) {
  return place_at(static_cast<const unsigned char*>(address) - 1);
}

}  // namespace gossamer::simt

#if !defined(__SANITIZE_ADDRESS__)

// --- what the compiler calls ---

namespace simt = gossamer::simt;

#define GOSSAMER_HOOK(name, bytes, access)                                                 \
  extern "C" void name(void* address) {                                                    \
    if (simt::running == nullptr) return;                                                  \
    simt::check_access(address, bytes, simt::Access::access, __builtin_return_address(0)); \
  }
#define GOSSAMER_HOOKS(bytes)                              \
  GOSSAMER_HOOK(__tsan_read##bytes, bytes, read)           \
  GOSSAMER_HOOK(__tsan_write##bytes, bytes, write)         \
  GOSSAMER_HOOK(__tsan_unaligned_read##bytes, bytes, read) \
  GOSSAMER_HOOK(__tsan_unaligned_write##bytes, bytes, write)
GOSSAMER_HOOKS(1)
GOSSAMER_HOOKS(2)
GOSSAMER_HOOKS(4)
GOSSAMER_HOOKS(8)
GOSSAMER_HOOKS(16)

extern "C" {
void __tsan_read_range(void* address, std::size_t bytes) {
  if (simt::running == nullptr) return;
  simt::check_access(address, bytes, simt::Access::read, __builtin_return_address(0));
}
void __tsan_write_range(void* address, std::size_t bytes) {
  if (simt::running == nullptr) return;
  simt::check_access(address, bytes, simt::Access::write, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
}

// The host code that is compiled with the kernels uses atomics for static locals and shared
// pointers.
#define GOSSAMER_ATOMICS(bits, T)                                                                  \
  extern "C" T __tsan_atomic##bits##_load(const volatile T* a, int) {                              \
    return __atomic_load_n(a, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  extern "C" void __tsan_atomic##bits##_store(volatile T* a, T v, int) {                           \
    __atomic_store_n(a, v, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                \
  extern "C" T __tsan_atomic##bits##_exchange(volatile T* a, T v, int) {                           \
    return __atomic_exchange_n(a, v, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                \
  extern "C" T __tsan_atomic##bits##_fetch_add(volatile T* a, T v, int) {                          \
    return __atomic_fetch_add(a, v, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  extern "C" T __tsan_atomic##bits##_fetch_sub(volatile T* a, T v, int) {                          \
    return __atomic_fetch_sub(a, v, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  extern "C" bool __tsan_atomic##bits##_compare_exchange_strong(volatile T* a, T* expected, T v,   \
                                                                int, int) {                        \
    return __atomic_compare_exchange_n(a, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                                \
  extern "C" bool __tsan_atomic##bits##_compare_exchange_weak(volatile T* a, T* expected, T v,     \
                                                              int, int) {                          \
    return __atomic_compare_exchange_n(a, expected, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);  \
  }
GOSSAMER_ATOMICS(8, std::uint8_t)
GOSSAMER_ATOMICS(32, std::uint32_t)
GOSSAMER_ATOMICS(64, std::uint64_t)
extern "C" void __tsan_atomic_thread_fence(int) {}

namespace {

// The compiler's layout of the data for its undefined-behaviour checks.
struct Source {
  const char* file;
  std::uint32_t line, column;
};
struct Mismatch {
  Source source;
  const void* type;
  unsigned char log_alignment, kind;
};

template <class What>
[[noreturn]] void undefined(const Source& source, cudaError_t error, const What& what) {
  const auto text = [&] {
    const std::string file = source.file;
    return what() + ", at " + file.substr(file.rfind('/') + 1) + ":" + std::to_string(source.line);
  };
  if (simt::running != nullptr) simt::fail(error, text);
  std::fprintf(stderr, "%s\n", text().c_str());
  std::abort();
}

}  // namespace

extern "C" void __ubsan_handle_type_mismatch_v1_abort(const Mismatch* data, std::uintptr_t at) {
  undefined(data->source, cudaErrorMisalignedAddress, [&] {
    if (at == 0) return std::string("access through a null pointer");
    return "access not aligned to " + std::to_string(1 << data->log_alignment) + " bytes";
  });
}
extern "C" void __ubsan_handle_out_of_bounds_abort(const Source* source, std::uintptr_t index) {
  undefined(*source, cudaErrorIllegalAddress, [&] {
    return "index " + std::to_string(static_cast<std::intptr_t>(index)) + " outside an array";
  });
}

#endif
