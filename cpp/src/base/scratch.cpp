#include "base/scratch.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

namespace gossamer::detail {
namespace {

/// The idle blocks of one thread. A block in use belongs to its Scratch alone, so that two never
/// share memory, whatever the order in which they end.
class Arena {
 public:
  /// The smallest idle block that fits and is not much too large, else a new one.
  Buffer<std::byte> take(std::int64_t bytes) {
    std::size_t best = count_;
    for (std::size_t i = 0; i < count_; ++i) {
      const std::int64_t size = idle_[i].size();
      if (size < bytes || size > 4 * bytes + kSlack) continue;
      if (best == count_ || size < idle_[best].size()) best = i;
    }
    if (best == count_) return Buffer<std::byte>(bytes);
    Buffer<std::byte> block = remove(best);
    assert(block.size() >= bytes);
    return block;
  }

  /// Keeps a block, unless the thread would keep too much.
  void give(Buffer<std::byte> block) noexcept {
    if (bytes_ + block.size() > kKeep) return;
    if (count_ == idle_.size()) {
      const auto smaller = [](const auto& a, const auto& b) { return a.size() < b.size(); };
      const auto smallest = std::min_element(idle_.begin(), idle_.end(), smaller);
      remove(static_cast<std::size_t>(smallest - idle_.begin()));
    }
    bytes_ += block.size();
    idle_[count_++] = std::move(block);
  }

  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }

 private:
  // AddressSanitizer sees only what leaves an allocation: with it, none is kept.
  static constexpr std::int64_t kKeep = kAddressSanitizer ? 0 : std::int64_t{128} << 20;
  static constexpr std::int64_t kSlack = 64 << 10;

  Buffer<std::byte> remove(std::size_t i) noexcept {
    Buffer<std::byte> block = std::move(idle_[i]);
    bytes_ -= block.size();
    idle_[i] = std::move(idle_[--count_]);
    return block;
  }

  std::array<Buffer<std::byte>, 24> idle_;
  std::size_t count_ = 0;
  std::int64_t bytes_ = 0;
};

/// The thread's arena: null before its first use and after its end. Without a constructor to run,
/// it is read at the price of one address.
constinit thread_local Arena* own = nullptr;
constinit thread_local bool ended = false;

/// Makes the arena, to end with the thread; null where thread-local objects have ended already.
Arena* make_own() {
  if (ended) return nullptr;
  struct Owner {
    Arena arena;
    Owner() { own = &arena; }
    ~Owner() {
      own = nullptr;
      ended = true;
    }
  };
  static thread_local Owner owner;
  return &owner.arena;
}

}  // namespace

Scratch::Scratch(std::int64_t bytes) {
  if (bytes == 0) return;
  Arena* arena = own != nullptr ? own : make_own();
  block_ = arena != nullptr ? arena->take(bytes) : Buffer<std::byte>(bytes);
}

Scratch::~Scratch() {
  if (block_.size() > 0 && own != nullptr) own->give(std::move(block_));
}

std::int64_t idle_scratch() noexcept { return own != nullptr ? own->bytes() : 0; }

}  // namespace gossamer::detail
