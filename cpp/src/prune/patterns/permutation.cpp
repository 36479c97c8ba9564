#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/interrupt.h"
#include "base/numbers.h"
#include "base/pool.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/score.h"
#include "gossamer/prune/patterns.h"
#include "prune/masks.h"
#include "prune/patterns/kernels.h"
#include "simd/philox.h"

namespace gossamer::prune {
using namespace detail;
namespace {

/// Columns that are searched together.
constexpr std::int64_t kTogether = 512;
/// A change counts as a gain where it exceeds the rounding of the sums by far.
constexpr double kGain = 1e-6;
/// Triples of groups are all tried where that takes no more subset sums of 16 rows than this.
constexpr double kTripleWork = 3e8;
constexpr float kLargest = 1e30F;
constexpr std::int64_t kFewGroups = 32;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// The ways to deal 4·G columns into G groups, as sets of 4 numbered in lexicographic order.
template <int G>
struct Deals {
  std::vector<std::uint16_t> sets;  // bits of columns
  std::vector<std::array<std::uint16_t, G>> ways;

  Deals() {
    std::vector<std::uint16_t> number(std::size_t{1} << (4 * G));
    for (int a = 0; a < 4 * G; ++a) {
      for (int b = a + 1; b < 4 * G; ++b) {
        for (int c = b + 1; c < 4 * G; ++c) {
          for (int d = c + 1; d < 4 * G; ++d) {
            const auto bits = static_cast<std::uint16_t>(1 << a | 1 << b | 1 << c | 1 << d);
            number[bits] = static_cast<std::uint16_t>(sets.size());
            sets.push_back(bits);
          }
        }
      }
    }
    std::array<std::uint16_t, G> way{};
    deal(number, way, 0, (1U << (4 * G)) - 1);
  }

 private:
  /// Each group takes the first column that is left, and three others.
  void deal(const std::vector<std::uint16_t>& number, std::array<std::uint16_t, G>& way, int group,
            unsigned left) {
    if (group == G) {
      ways.push_back(way);
      return;
    }
    for (const std::uint16_t set : sets) {
      if ((set & ~left) != 0 || std::countr_zero(set) != std::countr_zero(left)) continue;
      way[static_cast<std::size_t>(group)] = number[set];
      deal(number, way, group + 1, left & ~set);
    }
  }
};

/// A search over the columns stored at `x`.
class Search {
 public:
  Search(const float* x, std::int64_t ld, std::int64_t cols, int n, int m, std::uint64_t seed,
         std::uint64_t part)
      : x_(x),
        ld_(ld),
        cols_(cols),
        groups_(cols / m),
        n_(n),
        m_(m),
        seed_(seed),
        part_(part),
        order_(at(cols)),
        next_(cols * ld),
        pairs_(cols * cols),
        sum_(at(cols)),
        total_(at(groups_)),
        changed_(at(groups_), 1),
        best_(at(groups_ * groups_)),
        checked2_(at(groups_ * groups_)),
        gain2_(at(groups_ * groups_)) {
    std::iota(order_.begin(), order_.end(), 0);
    std::vector<std::int64_t> all(at(groups_));
    std::iota(all.begin(), all.end(), 0);
    refresh(all);
  }

  [[nodiscard]] const std::vector<std::int32_t>& order() const { return order_; }

  void run(PermutationMethod method, std::int64_t escapes) {
    const int level = static_cast<int>(method);
    if (groups_ < 2) return;
    improve(level);
    std::vector<std::int32_t> kept = order_;
    double best = sum();
    for (std::int64_t i = 0; i < escapes; ++i) {
      interrupt_.look();
      escape();
      improve(std::min(level, 1));
      const double now = sum();
      if (now > best * (1 + kGain * 0.1)) {
        best = now;
        kept = order_;
      } else {
        restore(kept);
      }
    }
    if (level == 2 && escapes > 0) improve(level);
  }

 private:
  struct Swap {
    double gain = 0.0;
    std::int32_t p = 0, q = 0;
  };

  static void sort(std::vector<Swap>& gains) {
    std::sort(gains.begin(), gains.end(), [](const Swap& a, const Swap& b) {
      if (a.gain != b.gain) return a.gain > b.gain;
      return a.p != b.p ? a.p < b.p : a.q < b.q;
    });
  }

  [[nodiscard]] double sum() const { return std::accumulate(total_.begin(), total_.end(), 0.0); }

  /// Sums of groups whose members have changed, and what exchanges with them would give.
  void refresh(const std::vector<std::int64_t>& changed) {
    const auto count = static_cast<std::int64_t>(changed.size());
    ++clock_;
    const double work = static_cast<double>(count * m_) * static_cast<double>(cols_ * ld_) * 0.06;
    for_tasks(count, work, [&](std::int64_t i) {
      const std::int64_t g = changed[at(i)], p = g * m_;
      pattern_kernels().permutation_group({.x = x_,
                                           .ld = ld_,
                                           .member = &order_[at(p)],
                                           .n = n_,
                                           .m = m_,
                                           .next = &next_[p * ld_],
                                           .sum = &sum_[at(p)],
                                           .total = &total_[at(g)]});
      pattern_kernels().permutation_pairs({.x = x_,
                                           .ld = ld_,
                                           .cols = cols_,
                                           .next = &next_[p * ld_],
                                           .count = m_,
                                           .out = &pairs_[p * cols_],
                                           .stride = cols_});
    });
    for (const std::int64_t g : changed) changed_[at(g)] = clock_;
    for (const std::int64_t g : changed) {
      for (std::int64_t h = 0; h < groups_; ++h) {
        if (h != g) best_[at(std::min(g, h) * groups_ + std::max(g, h))] = best_swap(g, h);
      }
    }
  }

  [[nodiscard]] Swap best_swap(std::int64_t g, std::int64_t h) const {
    if (g > h) std::swap(g, h);
    Swap best;
    const double now = total_[at(g)] + total_[at(h)];
    best.gain = kGain * now;
    bool found = false;
    for (std::int64_t p = g * m_; p < (g + 1) * m_; ++p) {
      for (std::int64_t q = h * m_; q < (h + 1) * m_; ++q) {
        const double gain = ((sum_[at(p)] + pairs_[p * cols_ + order_[at(q)]]) +
                             (sum_[at(q)] + pairs_[q * cols_ + order_[at(p)]])) -
                            now;
        if (gain > best.gain) {
          best = {gain, static_cast<std::int32_t>(p), static_cast<std::int32_t>(q)};
          found = true;
        }
      }
    }
    return found ? best : Swap{};
  }

  /// Exchanges columns, the exchange with the largest gain first, each group at most once a round.
  bool swaps() {
    bool any = false;
    // Rounding could show gains without end; so the number of rounds is bounded.
    for (std::int64_t round = 0; round < 50 * groups_ + 50; ++round) {
      std::vector<Swap> gains;
      for (const Swap& swap : best_) {
        if (swap.gain > 0) gains.push_back(swap);
      }
      if (gains.empty()) break;
      sort(gains);
      std::vector<bool> taken(at(groups_));
      std::vector<std::int64_t> changed;
      for (const Swap& swap : gains) {
        const std::int64_t g = swap.p / m_, h = swap.q / m_;
        if (taken[at(g)] || taken[at(h)]) continue;
        taken[at(g)] = taken[at(h)] = true;
        std::swap(order_[at(swap.p)], order_[at(swap.q)]);
        changed.push_back(g);
        changed.push_back(h);
      }
      refresh(changed);
      any = true;
    }
    return any;
  }

  /// Distributes the columns of G groups anew in the best way. Returns the gain, 0 if no way gains.
  template <int G>
  double redeal(const std::array<std::int64_t, G>& group, bool deal = true) {
    interrupt_.look();
    std::optional<Deals<G>>& made = std::get<std::optional<Deals<G>>>(deals_);
    const Deals<G>& deals = made ? *made : made.emplace();
    std::array<std::int32_t, 4 * G> column;
    double now = 0.0;
    for (std::size_t i = 0; i < G; ++i) {
      std::copy_n(&order_[at(group[i] * 4)], 4, &column[4 * i]);
      now += total_[at(group[i])];
    }
    std::array<double, (G == 2 ? 70 : 495)> value;
    pattern_kernels().permutation_subsets({.x = x_,
                                           .ld = ld_,
                                           .column = column.data(),
                                           .count = 4 * G,
                                           .n = n_,
                                           .out = value.data()});
    double most = now * (1 + kGain);
    const std::array<std::uint16_t, G>* best = nullptr;
    for (const auto& way : deals.ways) {
      double sum = value[way[0]] + value[way[1]];
      if constexpr (G == 3) sum += value[way[2]];
      if (sum > most) {
        most = sum;
        best = &way;
      }
    }
    if (best == nullptr) return 0.0;
    if (!deal) return most - now;
    for (std::size_t i = 0; i < G; ++i) {
      std::int32_t* to = &order_[at(group[i] * 4)];
      for (int c = 0; c < 4 * G; ++c) {
        if ((deals.sets[(*best)[i]] >> c) & 1) *to++ = column[static_cast<std::size_t>(c)];
      }
    }
    refresh({group.begin(), group.end()});
    return most - now;
  }

  /// Distributes the columns of pairs of groups anew, the pair with the largest gain first, each
  /// group at most once a round.
  bool stripes8() {
    bool any = false;
    for (std::int64_t round = 0; round < 50 * groups_ + 50; ++round) {
      std::vector<Swap> gains;
      for (std::int64_t g = 0; g < groups_; ++g) {
        for (std::int64_t h = g + 1; h < groups_; ++h) {
          const std::size_t pair = at(g * groups_ + h);
          if (checked2_[pair] < changed_[at(g)] || checked2_[pair] < changed_[at(h)]) {
            gain2_[pair] = redeal<2>({g, h}, false);
            checked2_[pair] = clock_;
          }
          if (gain2_[pair] > 0) {
            gains.push_back(
                {gain2_[pair], static_cast<std::int32_t>(g), static_cast<std::int32_t>(h)});
          }
        }
      }
      if (gains.empty()) break;
      sort(gains);
      std::vector<bool> taken(at(groups_));
      for (const Swap& pair : gains) {
        if (taken[at(pair.p)] || taken[at(pair.q)]) continue;
        taken[at(pair.p)] = taken[at(pair.q)] = true;
        redeal<2>({pair.p, pair.q});
      }
      any = true;
    }
    return any;
  }

  bool stripes12() {
    const double triples = static_cast<double>(groups_) * static_cast<double>(groups_ - 1) *
                           static_cast<double>(groups_ - 2) / 6;
    const double work = 495.0 * static_cast<double>(ld_ / 16);
    bool any = false;
    if (triples * work > kTripleWork) {
      if (sampled_) return false;
      sampled_ = true;
      const auto tries = static_cast<std::int64_t>(kTripleWork / work);
      for (std::int64_t i = 0; i < tries; ++i) {
        std::array<std::int64_t, 3> group{};
        for (std::int64_t& g : group) g = draw(groups_);
        std::sort(group.begin(), group.end());
        if (group[0] != group[1] && group[1] != group[2]) any |= redeal<3>(group) > 0;
      }
      return any;
    }
    if (checked3_.empty()) checked3_.resize(at(groups_ * groups_ * groups_));
    for (std::int64_t g = 0; g < groups_; ++g) {
      for (std::int64_t h = g + 1; h < groups_; ++h) {
        for (std::int64_t i = h + 1; i < groups_; ++i) {
          std::int64_t& checked = checked3_[at((g * groups_ + h) * groups_ + i)];
          if (checked >= changed_[at(g)] && checked >= changed_[at(h)] &&
              checked >= changed_[at(i)]) {
            continue;
          }
          checked = clock_;
          any |= redeal<3>({g, h, i}) > 0;
        }
      }
    }
    return any;
  }

  void improve(int level) {
    for (int round = 0; round < 1000; ++round) {
      // Deals of eight include the exchanges, which are far cheaper where there are many pairs.
      if (level == 0 || groups_ > kFewGroups) swaps();
      if (level >= 1 && stripes8() && groups_ > kFewGroups) continue;
      if (level >= 2 && stripes12()) continue;
      return;
    }
  }

  std::int64_t draw(std::int64_t below) {
    const std::uint32_t word = random_word(seed_, part_, drawn_++);
    return static_cast<std::int64_t>(
        (static_cast<std::uint64_t>(word) * static_cast<std::uint64_t>(below)) >> 32);
  }

  /// A few random exchanges.
  void escape() {
    constexpr int kExchanges = 3;
    std::vector<std::int64_t> changed;
    for (int i = 0; i < kExchanges; ++i) {
      const std::int64_t p = draw(cols_), q = draw(cols_);
      if (p / m_ == q / m_) continue;
      std::swap(order_[at(p)], order_[at(q)]);
      changed.push_back(p / m_);
      changed.push_back(q / m_);
    }
    std::sort(changed.begin(), changed.end());
    changed.erase(std::unique(changed.begin(), changed.end()), changed.end());
    refresh(changed);
  }

  void restore(const std::vector<std::int32_t>& order) {
    std::vector<std::int64_t> changed;
    for (std::int64_t g = 0; g < groups_; ++g) {
      if (!std::equal(&order_[at(g * m_)], &order_[at(g * m_)] + m_, &order[at(g * m_)])) {
        changed.push_back(g);
      }
    }
    order_ = order;
    refresh(changed);
  }

  const float* x_;
  std::int64_t ld_, cols_, groups_;
  int n_, m_;
  std::uint64_t seed_, part_, drawn_ = 0;
  std::int64_t clock_ = 0;
  std::vector<std::int32_t> order_;  // position -> column
  Buffer<float> next_;               // by position
  Buffer<double> pairs_;             // [position, column]
  std::vector<double> sum_;          // by position
  std::vector<double> total_;        // by group
  std::vector<std::int64_t> changed_;
  std::vector<Swap> best_;  // of groups g < h
  std::vector<std::int64_t> checked2_, checked3_;
  std::vector<double> gain2_;  // of groups g < h
  bool sampled_ = false;
  std::tuple<std::optional<Deals<2>>, std::optional<Deals<3>>> deals_;  // made when first needed
  InterruptPoll interrupt_;
};

/// Which column is in each slot: each part has whole groups, and columns go to the parts in turn.
std::vector<std::int32_t> deal_groups(std::int64_t cols, std::int64_t m, std::int64_t parts) {
  std::vector<std::int32_t> column;
  column.reserve(at(cols));
  for (std::int64_t part = 0; part < parts; ++part) {
    for (std::int64_t g = part; g < cols / m; g += parts) {
      for (std::int64_t i = 0; i < m; ++i) column.push_back(static_cast<std::int32_t>(g * m + i));
    }
  }
  return column;
}

/// x[slot*ld + row] = score(row, column of the slot)·2^-exponent, as float. Returns the largest
/// magnitude of the finite scores.
double load_columns(const Score& score, const std::vector<std::int32_t>& column, std::int64_t ld,
                    int exponent, float* x) {
  const std::int64_t rows = score.w.shape[0], cols = score.w.shape[1];
  const ScoreTiles tiles(score);
  constexpr std::int64_t kRows = 16;
  std::vector<double> largest(at(ld / kRows));
  for_tasks(ld / kRows, 2.0 * static_cast<double>(rows * cols), [&](std::int64_t task) {
    const std::int64_t first = task * kRows;
    const std::int64_t count = std::max<std::int64_t>(std::min(kRows, rows - first), 0);
    const ScoreTile tile(tiles, first * cols, count * cols);
    const Scratch real(kRows * cols * 8);
    const bool f64 = tile.type() == DType::f64;
    widen(tile.data(), tile.type(), cols, count, cols, real.data());
    for (std::int64_t slot = 0; slot < cols; ++slot) {
      float* to = x + slot * ld + first;
      for (std::int64_t r = 0; r < kRows; ++r) {
        double value = 0.0;
        if (r < count) {
          const std::int64_t i = r * cols + column[at(slot)];
          value = f64 ? real.as<double>()[i] : static_cast<double>(real.as<float>()[i]);
        }
        if (tile.magnitude()) value = std::abs(value);
        if (value != value) value = 0.0;
        const double size = std::abs(value);
        if (size <= std::numeric_limits<double>::max()) {
          largest[at(task)] = std::max(largest[at(task)], size);
        }
        if (exponent != 0) value = std::ldexp(value, -exponent);
        to[r] = static_cast<float>(std::clamp<double>(value, -kLargest, kLargest));
      }
    }
  });
  return largest.empty() ? 0.0 : *std::max_element(largest.begin(), largest.end());
}

/// The number that a loaded one stands for: infinities are loaded as ±kLargest.
double real_of(float value) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return value >= kLargest ? kInfinity : value <= -kLargest ? -kInfinity : double{value};
}

/// Σ over rows and groups of the n largest, in double.
double kept_sum(const float* x, std::int64_t ld, std::int64_t rows, std::int64_t n, std::int64_t m,
                const std::vector<std::int32_t>& slot) {
  const auto groups = static_cast<std::int64_t>(slot.size()) / m;
  std::vector<double> sums(at(groups));
  for_tasks(groups, 2.0 * static_cast<double>(groups * m * rows), [&](std::int64_t g) {
    std::vector<float> value(at(m));
    double sum = 0.0;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < m; ++i) value[at(i)] = x[slot[at(g * m + i)] * ld + r];
      std::sort(value.begin(), value.end(), std::greater<>());
      for (std::int64_t i = 0; i < n; ++i) sum += real_of(value[at(i)]);
    }
    sums[at(g)] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

double permutation_search(const Score& score, std::int64_t n, std::int64_t m,
                          const PermutationOptions& options, const TensorView& perm) {
  const FloatEnvironment floats;
  const Checker check("permutation_search");
  check_score(check, score);
  check.rank({"w", score.w}, {2});
  check_nm_sizes(check, n, m);
  if (m > 64) check.value_error("m is " + std::to_string(m) + ", expected at most 64");
  if (options.method != PermutationMethod::swap && m != 4) {
    check.value_error(std::string("method is '") +
                      (options.method == PermutationMethod::stripe8 ? "stripe8" : "stripe12") +
                      "', expected 'swap' for m = " + std::to_string(m));
  }
  if (options.escapes < 0) {
    check.value_error("escapes is " + std::to_string(options.escapes) + ", expected at least 0");
  }
  const std::int64_t rows = score.w.shape[0], cols = score.w.shape[1];
  if (cols % m != 0) {
    check.value_error("w.shape[1] is " + std::to_string(cols) +
                      ", expected a multiple of m = " + std::to_string(m));
  }
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (cols > kMost) {
    check.value_error("w.shape[1] is " + std::to_string(cols) + ", expected at most " +
                      std::to_string(kMost));
  }
  const Argument result{"perm", perm};
  check.dtype(result, DType::i32, "an index");
  check.device(result, score.w.device, "w");
  check.shape(result, {cols});
  check.contiguous(result);
  check_apart(check, result, score);
  if (cols == 0) return 0.0;

  const std::int64_t parts = (cols + kTogether - 1) / kTogether;
  const std::vector<std::int32_t> column = deal_groups(cols, m, parts);
  const std::int64_t ld = (rows + 15) / 16 * 16;
  const Buffer<float> x(cols * ld);
  // Scores far from 1 are searched as multiples of a power of two: float holds those, and sums of
  // many of them.
  int exponent = 0;
  const double largest = load_columns(score, column, ld, exponent, x.data());
  if (largest > 0x1p90 || (largest > 0 && largest < 0x1p-90)) {
    exponent = std::ilogb(largest);
    load_columns(score, column, ld, exponent, x.data());
  }
  std::vector<std::int32_t> slot(at(cols));
  std::iota(slot.begin(), slot.end(), 0);
  if (0 < n && n < m && rows > 0) {
    std::vector<std::int64_t> first{0};
    for (std::int64_t part = 0; part < parts; ++part) {
      first.push_back(first.back() + (cols / m - part + parts - 1) / parts * m);
    }
    parallel_for(parts, [&](std::int64_t part) {
      const std::int64_t begin = first[at(part)], count = first[at(part + 1)] - begin;
      if (count == 0) return;
      Search search(x.data() + begin * ld, ld, count, static_cast<int>(n), static_cast<int>(m),
                    options.seed, static_cast<std::uint64_t>(part));
      search.run(options.method, options.escapes);
      for (std::int64_t i = 0; i < count; ++i) {
        slot[at(begin + i)] = static_cast<std::int32_t>(begin) + search.order()[at(i)];
      }
    });
  }
  auto* out = static_cast<std::int32_t*>(perm.data);
  for (std::int64_t i = 0; i < cols; ++i) out[i] = column[at(slot[at(i)])];
  return std::ldexp(kept_sum(x.data(), ld, rows, n, m, slot), exponent);
}

}  // namespace gossamer::prune
