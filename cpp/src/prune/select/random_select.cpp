// Random masks: as selector.cpp, but keys are computed, not read, and are uniformly distributed, so
// that the interval of the k-th key is guessed without a sample (docs/selection.md).

#include "prune/select/random_select.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/pool.h"
#include "base/scratch.h"
#include "prune/select/kernels.h"
#include "prune/select/order_statistic.h"
#include "simd/philox.h"

namespace gossamer::detail {
namespace {

constexpr std::uint64_t kMaxKey = (std::uint64_t{1} << kKeyBits) - 1;
/// Where `within` does not depend on the keys, a guess misses once in 16,000 selections; that costs
/// one more pass.
constexpr double kRandomDeviations = 4.0;
constexpr int kGuesses = 3;  // how many guesses are made before the interval is halved instead
constexpr std::int64_t kStoreAll = 4096;  // up to this many keys are all stored, without a guess

/// What one task works on: elements that do not cross a multiple of kRandomPiece.
struct RandomPiece {
  std::int64_t first, count;
  std::uint8_t* mask;  // may be null
  std::int64_t above;
  std::vector<std::uint64_t> stored;  // key << kNumberBits | (element - first)
};

/// Keys [lo, hi]; how many eligible elements are above it and how many inside.
struct KeyInterval {
  std::uint64_t lo, hi;
  std::int64_t above, inside;
};

std::uint64_t key_of(std::uint64_t stored) { return stored >> kNumberBits; }

class RandomSelector {
 public:
  explicit RandomSelector(const RandomSelection& selection) : own_(selection) {
    const std::int64_t end = own_.first + own_.count;
    add(0, own_.first, nullptr);
    add(own_.first, end, own_.mask);
    add(end, own_.total, nullptr);
  }

  void run() {
    KeyInterval left{0, kMaxKey, 0, own_.candidates};
    // Halving reaches one key after kKeyBits rounds. If another thread writes `within` during the
    // call, passes contradict each other: then the last pass's marks are the mask.
    for (int guesses = 0; guesses <= kGuesses + kKeyBits + 2; ++guesses) {
      const KeyInterval found = scan(guess(left, guesses));
      if (own_.k <= found.above) {
        if (found.hi >= left.hi) return;
        left.lo = found.hi + 1;
        left.inside = found.above - left.above;
      } else if (own_.k > found.above + found.inside) {
        if (found.lo <= left.lo) return;
        left.hi = found.lo - 1;
        left.inside -= found.above + found.inside - left.above;
        left.above = found.above + found.inside;
      } else {
        return finish(found);
      }
    }
  }

 private:
  void add(std::int64_t begin, std::int64_t end, std::uint8_t* mask) {
    for (std::int64_t at = begin; at < end;) {
      const std::int64_t next = std::min(end, (at / kRandomPiece + 1) * kRandomPiece);
      pieces_.push_back({at, next - at, mask == nullptr ? nullptr : mask + (at - begin), 0, {}});
      at = next;
    }
  }

  template <class F>
  void for_pieces(F&& f) {
    parallel_for(static_cast<std::int64_t>(pieces_.size()),
                 [&](std::int64_t p) { f(pieces_[static_cast<std::size_t>(p)]); });
  }

  /// Where the k-th key is expected, if the keys still possible are spread evenly.
  [[nodiscard]] KeyInterval guess(const KeyInterval& left, int guesses) const {
    if (left.inside <= kStoreAll) return left;
    if (guesses >= kGuesses) {
      const std::uint64_t middle = left.lo + (left.hi - left.lo) / 2;
      return {middle, middle, 0, 0};
    }
    const auto n = static_cast<double>(left.inside);
    const auto rank = static_cast<double>(own_.k - left.above);
    const double slack = kRandomDeviations * std::sqrt(rank * (1.0 - rank / n)) + 16.0;
    const double width = static_cast<double>(left.hi - left.lo);
    const auto below_top = [&](double share) {
      return left.hi - static_cast<std::uint64_t>(width * std::clamp(share, 0.0, 1.0));
    };
    return {below_top((rank + slack) / n), below_top((rank - slack) / n), 0, 0};
  }

  /// Counts and marks the keys above the interval, and stores those inside.
  KeyInterval scan(const KeyInterval& interval) {
    for_pieces([&](RandomPiece& piece) {
      const Scratch scratch((piece.count + 8) * 8);
      auto* stored = scratch.as<std::uint64_t>();
      std::int64_t inside = 0;
      select_kernels().random_scan(
          {.seed = own_.seed,
           .step = own_.step,
           .first = static_cast<std::uint64_t>(piece.first),
           .count = piece.count,
           .within = own_.within == nullptr ? nullptr : own_.within + piece.first,
           .mask = piece.mask,
           .lo = interval.lo,
           .hi = interval.hi,
           .stored = stored,
           .above = &piece.above,
           .inside = &inside});
      piece.stored.assign(stored, stored + inside);
    });
    KeyInterval found{interval.lo, interval.hi, 0, 0};
    for (const RandomPiece& piece : pieces_) {
      found.above += piece.above;
      found.inside += static_cast<std::int64_t>(piece.stored.size());
    }
    return found;
  }

  /// Finds the k-th key among the stored ones, and marks those that are selected.
  void finish(const KeyInterval& found) {
    std::vector<std::uint64_t> keys(static_cast<std::size_t>(found.inside));
    auto key = keys.begin();
    for (const RandomPiece& piece : pieces_) {
      key = std::transform(piece.stored.begin(), piece.stored.end(), key, key_of);
    }
    const std::int64_t rank = own_.k - found.above;
    const KeyRank last = order_statistic(keys.data(), found.inside, rank, found.lo, found.hi);
    const auto number_of = [](std::uint64_t stored) { return stored & ((1u << kNumberBits) - 1); };
    for_pieces([&](const RandomPiece& piece) {
      if (piece.mask == nullptr) return;
      for (const std::uint64_t stored : piece.stored) {
        piece.mask[number_of(stored)] = key_of(stored) > last.key ? 1 : 0;
      }
    });
    std::int64_t ties = rank - last.above;
    for (const RandomPiece& piece : pieces_) {
      for (const std::uint64_t stored : piece.stored) {
        if (key_of(stored) != last.key || ties-- <= 0) continue;
        if (piece.mask != nullptr) piece.mask[number_of(stored)] = 1;
      }
    }
  }

  const RandomSelection& own_;
  std::vector<RandomPiece> pieces_;
};

}  // namespace

void select_random(const RandomSelection& selection) { RandomSelector(selection).run(); }

}  // namespace gossamer::detail
