// The passes of exact selection (docs/selection.md): sample the keys, guess an interval that holds
// the k-th, scan all elements once with it, and finish among the few candidates inside. Where no
// guess is good enough, histograms narrow the interval first.

#include "prune/select/selector.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "base/pool.h"
#include "base/scratch.h"
#include "gossamer/detail/mask_checks.h"
#include "prune/select/kernels.h"

namespace gossamer::detail {
namespace {

constexpr std::int64_t kPiece = 65536;
constexpr std::int64_t kSampleKeys = 65536;
constexpr std::int64_t kRun = 512;         // chunks of the sample that one task reads
constexpr std::int64_t kSampleAll = 4096;  // arrays up to this size are not sampled but read whole
constexpr std::int64_t kStored = 8;  // a piece can store 1/kStored of its elements as candidates
/// How far the guess reaches on either side, in standard deviations of the k-th key's rank in the
/// sample. Where the sample's keys are independent, four are exceeded once in 16,000 selections;
/// that costs one more pass.
constexpr double kDeviations = 4.0;

static_assert(kPiece <= std::int64_t{1} << kCandidateBits);
static_assert(kSelectBins <= 1 << (32 - kCandidateBits));

/// What one task works on: at most kPiece consecutive elements of one part.
struct Piece {
  const SelectPart* part;
  std::int64_t first, count;  // first counts from the part's first element
  std::int64_t slot;          // where its candidates are stored
  std::int64_t capacity;
  std::int64_t above, inside;
  std::int64_t open;  // how many candidates are in the threshold's bin
  bool nan;
};

struct Interval {
  std::uint64_t lo, hi;
  std::int64_t above;   // keys above hi
  std::int64_t inside;  // keys in [lo, hi]
};

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

class Selector {
 public:
  explicit Selector(const std::vector<SelectPart>& parts,
                    prune::MaskFormat format = prune::MaskFormat::bytes)
      : parts_(parts), format_(format) {
    for (const SelectPart& part : parts) {
      for (std::int64_t at = 0; at < part.count; at += kPiece) {
        const std::int64_t count = std::min(kPiece, part.count - at);
        const std::int64_t capacity = std::min(count, std::max<std::int64_t>(64, count / kStored));
        pieces_.push_back({&part, at, count, slots_, capacity, 0, 0, 0, false});
        slots_ += capacity + 64;
      }
      elements_ += part.count;
      type_ = part.keys->order().type;
      marks_ = marks_ || part.mask != nullptr;
    }
  }

  [[nodiscard]] bool wide() const { return type_ == DType::f64; }

  template <class S>
  KeyRank run(std::int64_t candidates, std::int64_t k, prune::Tie tie) {
    Interval interval{0, max_key(type_), 0, candidates};
    std::int64_t limit = elements_ / (4 * kStored);  // so few that they are likely to find room
    k = std::clamp<std::int64_t>(k, 1, std::max<std::int64_t>(candidates, 1));
    Guess guess = sample<S>(candidates, k);
    // Scores that stay as they are need far fewer rounds. If another thread writes them during the
    // call, passes contradict each other, and the interval could become empty or never small.
    constexpr int kRounds = 64;
    for (int round = 0; round < kRounds; ++round) {
      if (guess.useful) {
        const bool fits = scan(guess);
        const Interval found = totals(guess);
        if (k <= found.above) {
          if (guess.hi >= interval.hi) break;
          interval.lo = guess.hi + 1;
          interval.inside = found.above - interval.above;
        } else if (k > found.above + found.inside) {
          if (guess.lo <= interval.lo) break;
          interval.hi = guess.lo - 1;
          interval.above = found.above + found.inside;
          interval.inside = candidates - interval.above;
        } else if (fits) {
          return finish<S>(guess, found, k, tie);
        } else if (guess.lo == guess.hi) {
          return finish_ties(found, k, tie);
        } else {
          interval = found;
          limit = 64;
        }
        guess.useful = false;
      } else if (interval.lo == interval.hi || interval.inside <= limit) {
        guess = {interval.lo, interval.hi, interval.lo + (interval.hi - interval.lo) / 2, true,
                 fits_in_room(interval.inside)};
      } else {
        narrow(interval, k);
      }
    }
    return give_up(interval.lo, k, tie);
  }

  template <class S>
  void mark(std::uint64_t threshold, std::int64_t take, prune::Tie tie) {
    const Guess guess{threshold, threshold, threshold, true, true};
    const bool fits = scan(guess);
    const Interval found = totals(guess);
    take = std::min(take, found.inside);
    if (!fits) {
      mark_pieces(threshold, take, tie);
    } else if (take != 0) {
      finish<S>(guess, found, found.above + take, tie);
    }
  }

  std::int64_t count_equal(std::uint64_t key) {
    const Guess guess{key, key, key, true, false};
    scan(guess);
    return totals(guess).inside;
  }

  void count_bins(std::uint64_t lo, std::uint64_t hi, int shift, std::int64_t* counts) {
    const std::int64_t groups = group_count();
    constexpr std::int64_t kStride = kHistograms * kSelectBins;
    const Scratch scratch(groups * kStride * 4);
    auto* bins = scratch.as<std::uint32_t>();
    std::fill(bins, bins + groups * kStride, 0u);
    for_groups(groups, [&](std::int64_t group, Piece& piece) {
      read(piece, [&](const KeySource& source, std::int64_t) {
        select_kernels().select_histogram(
            {.source = source, .lo = lo, .hi = hi, .shift = shift, .bins = bins + group * kStride});
      });
    });
    for (std::int64_t group = 0; group < groups; ++group) {
      for (std::int64_t h = 0; h < kHistograms; ++h) {
        const std::uint32_t* from = bins + group * kStride + h * kSelectBins;
        for (std::int64_t b = 0; b < kSelectBins; ++b) counts[b] += from[b];
      }
    }
  }

  std::int64_t count_nans() {
    for_pieces([&](Piece& piece) {
      piece.inside = 0;
      read(piece, [&](const KeySource& source, std::int64_t) {
        std::int64_t nans = 0;
        select_kernels().select_nans({source, &nans});
        piece.inside += nans;
      });
    });
    std::int64_t nans = 0;
    for (const Piece& piece : pieces_) nans += piece.inside;
    return nans;
  }

 private:
  /// The k-th key is expected in [lo, hi], near `center`.
  struct Guess {
    std::uint64_t lo, hi, center;
    bool useful;
    bool store;  // whether the scan stores candidates and marks; otherwise it only counts

    /// The scan marks the candidates in this bin and above, as if `center` were the k-th key;
    /// finish() corrects the few that differ.
    [[nodiscard]] std::uint64_t marked_bin() const {
      return ((center - lo) >> bin_shift(lo, hi)) + 1;
    }
    /// The greatest key that the scan does not mark.
    [[nodiscard]] std::uint64_t unmarked() const {
      return std::min(hi, lo + ((marked_bin() << bin_shift(lo, hi)) - 1));
    }
  };

  /// Whether this many candidates are likely to find room in their pieces.
  [[nodiscard]] bool fits_in_room(std::int64_t inside) const {
    return 1.5 * kStored * static_cast<double>(inside) <= static_cast<double>(elements_);
  }

  /// The number of groups of consecutive pieces, each with a histogram of its own. A group has
  /// fewer than 2^31 elements, so its 32-bit bins do not overflow.
  [[nodiscard]] std::int64_t group_count() const {
    const auto pieces = static_cast<std::int64_t>(pieces_.size());
    return std::min(pieces, std::max<std::int64_t>(16, pieces / 16384));
  }

  template <class F>
  void for_groups(std::int64_t groups, F&& f) {
    const auto pieces = static_cast<std::int64_t>(pieces_.size());
    parallel_for(groups, [&](std::int64_t group) {
      for (std::int64_t p = group * pieces / groups; p < (group + 1) * pieces / groups; ++p) {
        f(group, pieces_[static_cast<std::size_t>(p)]);
      }
    });
  }

  template <class F>
  void for_pieces(F&& f) {
    // The pieces of a list of many small arrays are handled several to a task.
    const auto pieces = static_cast<std::int64_t>(pieces_.size());
    const std::int64_t mean =
        std::max<std::int64_t>(elements_ / std::max<std::int64_t>(pieces, 1), 1);
    const std::int64_t together = std::max<std::int64_t>(1, kPiece / 2 / mean);
    parallel_for((pieces + together - 1) / together, [&](std::int64_t task) {
      const std::int64_t end = std::min(pieces, (task + 1) * together);
      for (std::int64_t p = task * together; p < end; ++p) {
        f(pieces_[static_cast<std::size_t>(p)]);
      }
    });
  }

  template <class F>
  static void read(const Piece& piece, F&& f) {
    const SelectPart& part = *piece.part;
    part.keys->read(part.first + piece.first, piece.count, part.within, f);
  }

  [[nodiscard]] std::uint8_t* mask_at(const Piece& piece, std::int64_t at) const {
    std::uint8_t* mask = piece.part->mask;
    if (mask == nullptr) return nullptr;
    const std::int64_t element = piece.first + at;
    return mask + (format_ == prune::MaskFormat::bytes ? element : element / 8);
  }

  /// A guess from a sample: the sample's keys a few standard deviations of rank above and below
  /// where the k-th is expected. Useful if few candidates are to be expected between them, or if
  /// they are one key.
  template <class S>
  Guess sample(std::int64_t candidates, std::int64_t k) {
    constexpr std::int64_t kChunk = kSampleChunk;
    const bool all = elements_ <= kSampleAll;
    const std::int64_t wanted = std::clamp(elements_ / 16, kSampleAll, kSampleKeys);
    const std::int64_t chunks = all ? 0 : wanted / kChunk;
    const std::int64_t runs = chunks / kRun + static_cast<std::int64_t>(parts_.size());
    const Scratch scratch((std::max(wanted, all ? elements_ : 0) + 128 + 64 * runs) * 8);
    S* keys = scratch.as<S>();
    std::int64_t count = 0;
    if (all) {
      for (const Piece& piece : pieces_) {
        read(piece, [&](const KeySource& source, std::int64_t) {
          std::int64_t stored = 0;
          select_kernels().select_keys({source, nullptr, 0, keys + count, &stored});
          count += stored;
        });
      }
      if (count == 0) return {0, 0, 0, false, false};
      const KeyRank found = order_statistic(keys, count, std::min(k, count), 0, max_key(type_));
      return {found.key, found.key, found.key, true, true};
    }
    count = sample_chunks(keys, chunks);
    if (count < 256) return {0, 0, 0, false, false};
    const double n = static_cast<double>(count);
    const double p = static_cast<double>(k) / static_cast<double>(candidates);
    const double slack = kDeviations * std::sqrt(n * p * (1.0 - p)) + 4.0;
    const auto upper = static_cast<std::int64_t>(std::floor(p * n - slack));
    const auto lower = static_cast<std::int64_t>(std::ceil(p * n + slack));
    const auto rank = [&](std::int64_t at) { return std::clamp<std::int64_t>(at, 1, count); };
    const auto [over, center, under] = order_statistics<S, 3>(
        keys, count, {rank(upper), rank(std::llround(p * n)), rank(lower)}, 0, max_key(type_));
    Guess guess{0, max_key(type_), center.key, false, false};
    std::int64_t first = 0, last = count;
    if (upper >= 1) {
      guess.hi = over.key;
      first = over.above;
    }
    if (lower <= count) {
      guess.lo = under.key;
      last = under.above + under.equal;
    }
    guess.store = fits_in_room((last - first) * candidates / count);
    guess.useful = guess.lo == guess.hi || guess.store;
    return guess;
  }

  /// Reads chunks of consecutive elements that are spread evenly over all parts, each at a random
  /// place within its stride, so that a period in the data cannot mislead the sample. Returns the
  /// number of keys.
  template <class S>
  std::int64_t sample_chunks(S* keys, std::int64_t chunks) {
    constexpr std::int64_t kChunk = kSampleChunk;
    struct Run {
      const SelectPart* part;
      std::int64_t begin, end;
    };
    std::vector<std::int64_t> positions;
    std::vector<Run> runs;
    const double stride = static_cast<double>(elements_) / static_cast<double>(chunks);
    std::int64_t start = 0;
    std::int64_t c = 0;
    for (const SelectPart& part : parts_) {
      const auto begin = static_cast<std::int64_t>(positions.size());
      while (c < chunks) {
        const double jitter =
            static_cast<double>(mix(static_cast<std::uint64_t>(c)) >> 11) * 0x1p-53;
        const auto at =
            static_cast<std::int64_t>((static_cast<double>(c) + jitter) * stride) - start;
        if (at >= part.count) break;
        ++c;
        if (part.count < kChunk || at < 0) continue;
        const std::int64_t place = part.first + std::min(at, part.count - kChunk);
        positions.push_back(part.within.bits ? place / 8 * 8 : place);
      }
      const auto end = static_cast<std::int64_t>(positions.size());
      // Cut into tasks, so that several threads wait for memory at once.
      for (std::int64_t b = begin; b < end; b += kRun) {
        runs.push_back({&part, b, std::min(b + kRun, end)});
      }
      start += part.count;
    }
    std::vector<std::int64_t> counts(runs.size(), 0);
    parallel_for(static_cast<std::int64_t>(runs.size()), [&](std::int64_t r) {
      const Run& run = runs[static_cast<std::size_t>(r)];
      S* to = keys + run.begin * kChunk + r * 64;
      std::int64_t& count = counts[static_cast<std::size_t>(r)];
      const KeyStream& stream = *run.part->keys;
      const auto gather = [&](const KeySource& source, const std::int64_t* at, std::int64_t n) {
        std::int64_t got = 0;
        select_kernels().select_sample({source, at, n, to + count, &got});
        count += got;
      };
      if (stream.direct()) {
        stream.read(0, 0, run.part->within, [&](const KeySource& source, std::int64_t) {
          gather(source, positions.data() + run.begin, run.end - run.begin);
        });
        return;
      }
      for (std::int64_t i = run.begin; i < run.end; ++i) {
        stream.read(positions[static_cast<std::size_t>(i)], kChunk, run.part->within,
                    [&](const KeySource& source, std::int64_t) {
                      constexpr std::int64_t kZero = 0;
                      gather(source, &kZero, 1);
                    });
      }
    });
    std::int64_t total = 0;
    for (std::size_t r = 0; r < runs.size(); ++r) {
      const S* from = keys + runs[r].begin * kChunk + static_cast<std::int64_t>(r) * 64;
      std::copy(from, from + counts[r], keys + total);
      total += counts[r];
    }
    return total;
  }

  /// For each piece, counts the keys above hi and those in [lo, hi]. Where the guess says so, also
  /// stores the candidates and marks the elements from marked_bin() on. Returns false where not all
  /// candidates were stored.
  bool scan(const Guess& guess) {
    if (guess.store && !candidates_) candidates_.emplace(slots_ * 4);
    for_pieces([&](Piece& piece) {
      std::int64_t marked = scan_piece(piece, guess, guess.store);
      if (piece.inside > piece.capacity) {
        marked = scan_piece(piece, guess, false);
      } else if (guess.store) {
        const auto least = static_cast<std::uint32_t>(guess.marked_bin());
        const std::uint32_t* from = stored(piece);
        for (std::int64_t i = 0; i < piece.inside; ++i) {
          marked -= from[i] >> kCandidateBits >= least ? 1 : 0;
        }
      }
      piece.above = marked;
    });
    return guess.store && std::all_of(pieces_.begin(), pieces_.end(),
                                      [](const Piece& p) { return p.inside <= p.capacity; });
  }

  /// Returns how many elements were marked, or, where candidates are not stored, how many are above
  /// hi.
  std::int64_t scan_piece(Piece& piece, const Guess& guess, bool store) {
    std::int64_t all_marked = 0;
    piece.inside = 0;
    read(piece, [&](const KeySource& source, std::int64_t at) {
      std::int64_t marked = 0, inside = 0;
      bool nan = false;
      const std::int64_t left = piece.capacity - piece.inside;
      select_kernels().select_scan(
          {.source = source,
           .lo = guess.lo,
           .hi = guess.hi,
           .mark = store ? guess.unmarked() : guess.hi,
           .mask = {store ? mask_at(piece, at) : nullptr, format_},
           .candidates = store && left >= 0 ? stored(piece) + piece.inside : nullptr,
           .shift = bin_shift(guess.lo, guess.hi),
           .base = static_cast<std::uint32_t>(at),
           .capacity = left,
           .marked = &marked,
           .inside = &inside,
           .nan = marks_ ? nullptr : &nan});
      all_marked += marked;
      piece.inside += inside;
      piece.nan = piece.nan || nan;
    });
    return all_marked;
  }

  [[nodiscard]] std::uint32_t* stored(const Piece& piece) const {
    return candidates_->as<std::uint32_t>() + piece.slot;
  }

  [[nodiscard]] Interval totals(const Guess& guess) const {
    Interval found{guess.lo, guess.hi, 0, 0};
    for (const Piece& piece : pieces_) {
      found.above += piece.above;
      found.inside += piece.inside;
    }
    return found;
  }

  [[nodiscard]] bool has_nan() const {
    return std::any_of(pieces_.begin(), pieces_.end(), [](const Piece& p) { return p.nan; });
  }

  void narrow(Interval& interval, std::int64_t k) {
    const int shift = bin_shift(interval.lo, interval.hi);
    std::vector<std::int64_t> counts(kSelectBins, 0);
    count_bins(interval.lo, interval.hi, shift, counts.data());
    const Bin bin = find_bin(counts.data(), k - interval.above);
    const std::uint64_t lo = interval.lo + (static_cast<std::uint64_t>(bin.index) << shift);
    interval.hi = std::min(interval.hi, lo + ((std::uint64_t{1} << shift) - 1));
    interval.lo = lo;
    interval.above += bin.above;
    interval.inside = counts[static_cast<std::size_t>(bin.index)];
  }

  /// Marks what is above a key and as many equal to it as are left of k: some mask, written once.
  KeyRank give_up(std::uint64_t key, std::int64_t k, prune::Tie tie) {
    const Guess guess{key, key, key, true, false};
    scan(guess);
    const Interval found = totals(guess);
    if (marks_) mark_pieces(key, std::clamp<std::int64_t>(k - found.above, 0, found.inside), tie);
    return {found.lo, found.above, found.inside, {}, has_nan()};
  }

  KeyRank finish_ties(const Interval& found, std::int64_t k, prune::Tie tie) {
    mark_pieces(found.lo, k - found.above, tie);
    return {found.lo, found.above, found.inside, {}, has_nan()};
  }

  /// Marks all pieces anew by the final threshold, after a scan of [threshold, threshold] counted
  /// its ties.
  void mark_pieces(std::uint64_t threshold, std::int64_t take, prune::Tie tie) {
    const std::vector<std::int64_t> takes = share(take, tie);
    for_pieces([&](Piece& piece) {
      if (piece.part->mask == nullptr) return;
      std::int64_t left = takes[static_cast<std::size_t>(&piece - pieces_.data())];
      std::int64_t skip = tie == prune::Tie::high ? piece.inside - left : 0;
      read(piece, [&](const KeySource& source, std::int64_t at) {
        std::int64_t skipped = 0, taken = 0;
        if (!piece.part->keys->direct()) {
          // The part of the piece that is evaluated at once needs its own share of the ties.
          std::int64_t above = 0, inside = 0;
          select_kernels().select_scan({.source = source,
                                        .lo = threshold,
                                        .hi = threshold,
                                        .mark = threshold,
                                        .mask = {nullptr, prune::MaskFormat::bytes},
                                        .candidates = nullptr,
                                        .shift = 0,
                                        .base = 0,
                                        .capacity = 0,
                                        .marked = &above,
                                        .inside = &inside,
                                        .nan = nullptr});
          skipped = std::min(skip, inside);
          taken = std::min(left, inside - skipped);
        } else {
          skipped = skip;
          taken = left;
        }
        select_kernels().select_mark({.source = source,
                                      .threshold = threshold,
                                      .skip = skipped,
                                      .take = taken,
                                      .mask = {mask_at(piece, at), format_}});
        skip -= skipped;
        left -= taken;
      });
    });
  }

  /// How many of the `take` ties to select fall to each piece; piece.inside is how many it has.
  [[nodiscard]] std::vector<std::int64_t> share(std::int64_t take, prune::Tie tie) const {
    std::vector<std::int64_t> takes(pieces_.size());
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      const std::size_t p = tie == prune::Tie::low ? i : pieces_.size() - 1 - i;
      takes[p] = std::min(take, pieces_[p].inside);
      take -= takes[p];
    }
    return takes;
  }

  /// The candidates in the threshold's bin, of one group of pieces: the only elements still
  /// undecided.
  template <class S>
  struct Open {
    std::vector<std::uint32_t> numbers;  // element numbers within the piece
    std::vector<S> keys;
    std::int64_t equal = 0;
    // Progress of mark_open: candidates visited, and ties among them.
    std::size_t at = 0;
    std::int64_t ties = 0;
  };

  /// Finds the k-th key among the stored candidates and corrects the marks that the scan made.
  template <class S>
  KeyRank finish(const Guess& guess, const Interval& found, std::int64_t k, prune::Tie tie) {
    const int shift = bin_shift(found.lo, found.hi);
    const std::int64_t groups = std::min<std::int64_t>(group_count(), 16);
    std::vector<std::vector<std::uint32_t>> bins(static_cast<std::size_t>(groups));
    for_groups(groups, [&](std::int64_t group, Piece& piece) {
      auto& own = bins[static_cast<std::size_t>(group)];
      if (own.empty()) own.assign(kSelectBins, 0);
      const std::uint32_t* from = stored(piece);
      for (std::int64_t i = 0; i < piece.inside; ++i) ++own[from[i] >> kCandidateBits];
    });
    std::vector<std::int64_t> sums(kSelectBins, 0);
    for (const auto& own : bins) {
      for (std::size_t b = 0; b < own.size(); ++b) sums[b] += own[b];
    }
    const Bin bin = find_bin(sums.data(), k - found.above);
    std::int64_t below = bin.index - 1;
    while (below >= 0 && sums[static_cast<std::size_t>(below)] == 0) --below;
    const auto first_marked = static_cast<std::int64_t>(guess.marked_bin());
    std::vector<Open<S>> open = settle<S>(groups, bin.index, first_marked, shift != 0);
    KeyRank result{found.lo + static_cast<std::uint64_t>(bin.index),
                   found.above + bin.above,
                   0,
                   {},
                   has_nan()};
    if (shift == 0) {
      result.equal = sums[static_cast<std::size_t>(bin.index)];
      if (below >= 0) result.next = found.lo + static_cast<std::uint64_t>(below);
    } else {
      std::vector<S> all = keys_of(open);
      const auto at = all.begin() + (k - result.above - 1);
      std::nth_element(all.begin(), at, all.end(), std::greater<>());
      result.key = *at;
      for (const S key : all) {
        result.above += key > static_cast<S>(result.key);
        result.equal += key == static_cast<S>(result.key);
        if (key < static_cast<S>(result.key)) {
          result.next = std::max(result.next.value_or(0), std::uint64_t{key});
        }
      }
    }
    if (marks_) {
      mark_open(open, static_cast<S>(result.key), shift == 0, k - result.above, tie);
    } else if (!result.next && below >= 0) {
      const std::vector<S> all = keys_of(settle<S>(groups, below, below, true));
      result.next = *std::max_element(all.begin(), all.end());
    }
    return result;
  }

  template <class S>
  static std::vector<S> keys_of(const std::vector<Open<S>>& open) {
    std::vector<S> all;
    for (const Open<S>& own : open) {
      all.insert(all.end(), own.keys.begin(),
                 own.keys.begin() + static_cast<std::ptrdiff_t>(own.numbers.size()));
    }
    return all;
  }

  /// Lists the candidates of one bin (with their keys where asked), and makes the marks of the
  /// others final: those in bins above it are marked, those below are not. The scan left the
  /// candidates from `first_marked` on marked.
  template <class S>
  std::vector<Open<S>> settle(std::int64_t groups, std::int64_t bin, std::int64_t first_marked,
                              bool with_keys) {
    // Only the bins between `bin` and `first_marked` are marked wrongly.
    const auto edge = [](std::int64_t b) {
      return static_cast<std::uint32_t>(b << kCandidateBits);
    };
    const std::uint32_t least = edge(std::min(bin, first_marked));
    const std::uint32_t width = edge(std::max(bin + 1, first_marked)) - least;
    std::vector<Open<S>> open(static_cast<std::size_t>(groups));
    for_groups(groups, [&](std::int64_t group, Piece& piece) {
      Open<S>& own = open[static_cast<std::size_t>(group)];
      const std::size_t before = own.numbers.size();
      const std::uint32_t* from = stored(piece);
      std::uint8_t* mask = mask_at(piece, 0);
      own.numbers.resize(before + static_cast<std::size_t>(piece.inside));
      std::uint32_t* const numbers = own.numbers.data() + before;
      std::int64_t near = 0, open_ones = 0;
      for (std::int64_t i = 0; i < piece.inside; ++i) {
        numbers[near] = from[i];
        near += from[i] - least < width ? 1 : 0;
      }
      for (std::int64_t i = 0; i < near; ++i) {
        const std::uint32_t number = numbers[i] & ((1u << kCandidateBits) - 1);
        const auto at = static_cast<std::int64_t>(numbers[i] >> kCandidateBits);
        if (mask != nullptr) set(mask, number, at > bin);
        numbers[open_ones] = number;
        open_ones += at == bin ? 1 : 0;
      }
      piece.open = open_ones;
      own.numbers.resize(before + static_cast<std::size_t>(open_ones));
      if (!with_keys || piece.open == 0) return;
      own.keys.resize(own.numbers.size() + 64);
      gather(piece, own.numbers.data() + before, own.keys.data() + before);
    });
    return open;
  }

  void set(std::uint8_t* mask, std::uint32_t number, bool is) const {
    if (format_ == prune::MaskFormat::bytes) {
      mask[number] = is ? 1 : 0;
      return;
    }
    const auto bit = static_cast<std::uint8_t>(
        1u << (format_ == prune::MaskFormat::little ? number & 7 : 7 - (number & 7)));
    std::uint8_t& byte = mask[number >> 3];
    byte = static_cast<std::uint8_t>(is ? byte | bit : byte & ~bit);
  }

  /// Stores the keys of the piece.open elements whose increasing numbers are given.
  template <class S>
  static void gather(const Piece& piece, const std::uint32_t* numbers, S* keys) {
    const KeyStream& stream = *piece.part->keys;
    const std::int64_t first = piece.part->first + piece.first;
    std::int64_t stored = 0;
    if (stream.direct()) {
      stream.read(first, piece.count, {}, [&](const KeySource& source, std::int64_t) {
        select_kernels().select_keys({source, numbers, piece.open, keys, &stored});
      });
      return;
    }
    const Scratch scratch(piece.open * 4);
    auto* const places = scratch.as<std::uint32_t>();
    const std::int64_t tile = KeyStream::kTileBytes / stream.item();
    for (std::int64_t i = 0; i < piece.open;) {
      const std::int64_t begin = numbers[i] / tile * tile;
      std::int64_t n = 0;
      for (; i + n < piece.open && numbers[i + n] < begin + tile; ++n) {
        places[n] = numbers[i + n] - static_cast<std::uint32_t>(begin);
      }
      stream.read(first + begin, std::min(tile, piece.count - begin), {},
                  [&](const KeySource& source, std::int64_t) {
                    select_kernels().select_keys({source, places, n, keys + i, &stored});
                  });
      i += n;
    }
  }

  /// Marks the open candidates with a key above the threshold, and `take` of those equal to it.
  /// Open candidates are unmarked before.
  template <class S>
  void mark_open(std::vector<Open<S>>& open, S threshold, bool all_equal, std::int64_t take,
                 prune::Tie tie) {
    const auto groups = static_cast<std::int64_t>(open.size());
    for (Open<S>& own : open) {
      const auto n = static_cast<std::ptrdiff_t>(own.numbers.size());
      own.equal = all_equal ? n : std::count(own.keys.begin(), own.keys.begin() + n, threshold);
    }
    std::vector<std::int64_t> takes(open.size());
    for (std::size_t i = 0; i < open.size(); ++i) {
      const std::size_t g = tie == prune::Tie::low ? i : open.size() - 1 - i;
      takes[g] = std::min(take, open[g].equal);
      take -= takes[g];
    }
    for_groups(groups, [&](std::int64_t group, Piece& piece) {
      const auto g = static_cast<std::size_t>(group);
      Open<S>& own = open[g];
      std::uint8_t* mask = mask_at(piece, 0);
      const std::int64_t skip = tie == prune::Tie::high ? own.equal - takes[g] : 0;
      // The pieces of a group come in order, so candidates and ties are counted through.
      for (std::int64_t i = 0; i < piece.open; ++i, ++own.at) {
        bool is = !all_equal && own.keys[own.at] > threshold;
        if (all_equal || own.keys[own.at] == threshold) {
          is = own.ties >= skip && own.ties < skip + takes[g];
          ++own.ties;
        }
        if (mask != nullptr && is) set(mask, own.numbers[own.at], true);
      }
    });
  }

  const std::vector<SelectPart>& parts_;
  prune::MaskFormat format_;
  bool marks_ = false;
  DType type_ = DType::f32;
  std::vector<Piece> pieces_;
  std::int64_t elements_ = 0, slots_ = 0;
  std::optional<Scratch> candidates_;
};

}  // namespace

DType KeyStream::type_of(const prune::Score& score) noexcept { return key_type(score); }

KeyStream::KeyStream(const prune::Score& score, DType type, const prune::SelectOptions& options)
    : reader_(score) {
  direct_ = reader_.direct() && score.w.dtype == type;
  order_ = {.type = type,
            .magnitude = direct_ && score.kind == prune::ScoreKind::magnitude,
            .largest = options.largest,
            .nan_high = options.nan == prune::Nan::highest};
  data_ = static_cast<const std::byte*>(score.w.data);
  item_ = size_of(type);
}

const void* KeyStream::fetch(std::int64_t first, std::int64_t count, std::byte* buffer) const {
  if (direct_) return data_ + first * item_;
  reader_.read(first, count, buffer);
  return buffer;
}

std::uint64_t max_key(DType type) noexcept { return ~std::uint64_t{0} >> (64 - 8 * size_of(type)); }

double value_of(std::uint64_t key, const KeyOrder& order) noexcept {
  const std::uint64_t top = max_key(order.type), sign = (top >> 1) + 1;
  if (!order.largest) key ^= top;
  if (key == (order.nan_high ? top : 0)) return std::numeric_limits<double>::quiet_NaN();
  const bool negative = key < sign;
  const std::uint64_t bits = negative ? sign - key : key - sign;
  double value = 0.0;
  switch (order.type) {
    case DType::f64:
      value = std::bit_cast<double>(bits);
      break;
    case DType::bf16:
      value = std::bit_cast<float>(static_cast<std::uint32_t>(bits << 16));
      break;
    case DType::f16: {
      const auto exponent = static_cast<int>(bits >> 10);
      const auto fraction = static_cast<double>(bits & 0x3ff);
      if (exponent == 31) {
        value = std::numeric_limits<double>::infinity();
      } else {
        value = exponent == 0 ? std::ldexp(fraction, -24)
                              : std::ldexp(1024.0 + fraction, exponent - 25);
      }
      break;
    }
    default:
      value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
      break;
  }
  return negative ? -value : value;
}

KeyRank select(const std::vector<SelectPart>& parts, std::int64_t candidates, std::int64_t k,
               prune::Tie tie, prune::MaskFormat format) {
  Selector selector(parts, format);
  return selector.wide() ? selector.run<std::uint64_t>(candidates, k, tie)
                         : selector.run<std::uint32_t>(candidates, k, tie);
}

void mark_above(const std::vector<SelectPart>& parts, std::uint64_t threshold, std::int64_t take,
                prune::Tie tie, prune::MaskFormat format) {
  Selector selector(parts, format);
  if (selector.wide()) {
    selector.mark<std::uint64_t>(threshold, take, tie);
  } else {
    selector.mark<std::uint32_t>(threshold, take, tie);
  }
}

std::int64_t count_equal(const std::vector<SelectPart>& parts, std::uint64_t key) {
  return Selector(parts).count_equal(key);
}

void count_bins(const std::vector<SelectPart>& parts, std::uint64_t lo, std::uint64_t hi, int shift,
                std::int64_t* counts) {
  Selector(parts).count_bins(lo, hi, shift, counts);
}

std::int64_t count_nans(const std::vector<SelectPart>& parts) {
  return Selector(parts).count_nans();
}

}  // namespace gossamer::detail
