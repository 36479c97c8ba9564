// The steps of a search of column orders, for all backends.

#include "gossamer/detail/column_order.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/interrupt.h"
#include "simd/philox.h"

namespace gossamer::detail {
namespace {

using prune::PermutationMethod;

/// Columns that are searched together.
constexpr std::int64_t kTogether = 512;
/// A change counts as a gain where it exceeds the rounding of the sums by far.
constexpr double kGain = 1e-6;
/// Triples of groups are all tried where that takes no more subset sums of 16 rows than this.
constexpr double kTripleWork = 3e8;
constexpr std::int64_t kFewGroups = 32;

constexpr std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

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

/// A search over the columns of a part.
class Search {
 public:
  Search(const PermutationPart& part, const PermutationSums& sums)
      : rows_(part.rows),
        cols_(part.cols),
        groups_(part.cols / part.m),
        m_(part.m),
        seed_(part.seed),
        part_(part.number),
        sums_(sums),
        order_(at(cols_)),
        pairs_(cols_ * cols_),
        sum_(at(cols_)),
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
    ++clock_;
    sums_.refresh(order_, changed, sum_.data(), total_.data(), pairs_.data());
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

  template <int G>
  using Groups = std::array<std::int64_t, G>;
  template <int G>
  using Columns = std::array<std::int32_t, 4 * G>;

  /// The columns of G groups.
  template <int G>
  [[nodiscard]] Columns<G> columns_of(const Groups<G>& group) const {
    Columns<G> column;
    for (std::size_t i = 0; i < G; ++i) {
      std::copy_n(&order_[at(group[i] * 4)], 4, &column[4 * i]);
    }
    return column;
  }

  template <int G>
  const Deals<G>& deals() {
    std::optional<Deals<G>>& made = std::get<std::optional<Deals<G>>>(deals_);
    return made ? *made : made.emplace();
  }

  /// The best way to distribute the columns of G groups anew, of which `value` has the sums of all
  /// sets, and its gain; null and 0 if no way gains.
  template <int G>
  std::pair<const std::array<std::uint16_t, G>*, double> best_way(const Groups<G>& group,
                                                                  const double* value) {
    double now = 0.0;
    for (const std::int64_t g : group) now += total_[at(g)];
    double most = now * (1 + kGain);
    const std::array<std::uint16_t, G>* best = nullptr;
    for (const auto& way : deals<G>().ways) {
      double sum = value[way[0]] + value[way[1]];
      if constexpr (G == 3) sum += value[way[2]];
      if (sum > most) {
        most = sum;
        best = &way;
      }
    }
    return {best, best == nullptr ? 0.0 : most - now};
  }

  /// Distributes the columns of G groups anew in the best way. Returns whether one gains.
  template <int G>
  bool redeal(const Groups<G>& group) {
    interrupt_.look();
    const Columns<G> column = columns_of<G>(group);
    std::array<double, at(subsets_of(4 * G))> value;
    sums_.subsets(column, 4 * G, value.data());
    const auto best = best_way<G>(group, value.data()).first;
    if (best == nullptr) return false;
    for (std::size_t i = 0; i < G; ++i) {
      std::int32_t* to = &order_[at(group[i] * 4)];
      for (int c = 0; c < 4 * G; ++c) {
        if ((deals<G>().sets[(*best)[i]] >> c) & 1) *to++ = column[static_cast<std::size_t>(c)];
      }
    }
    refresh({group.begin(), group.end()});
    return true;
  }

  /// Finds what distributing anew gains of pairs of groups that have changed since.
  void check_pairs() {
    std::vector<Groups<2>> stale;
    std::vector<std::int32_t> columns;
    for (std::int64_t g = 0; g < groups_; ++g) {
      for (std::int64_t h = g + 1; h < groups_; ++h) {
        const std::size_t pair = at(g * groups_ + h);
        if (checked2_[pair] >= changed_[at(g)] && checked2_[pair] >= changed_[at(h)]) continue;
        checked2_[pair] = clock_;
        stale.push_back({g, h});
        const Columns<2> both = columns_of<2>(stale.back());
        columns.insert(columns.end(), both.begin(), both.end());
      }
    }
    constexpr std::int64_t kSets = subsets_of(8), kAtOnce = 8192;
    const auto count = static_cast<std::int64_t>(stale.size());
    std::vector<double> values(at(std::min(count, kAtOnce) * kSets));
    for (std::int64_t first = 0; first < count; first += kAtOnce) {
      const std::int64_t some = std::min(count - first, kAtOnce);
      sums_.subsets(std::span(columns).subspan(at(8 * first), at(8 * some)), 8, values.data());
      for (std::int64_t i = 0; i < some; ++i) {
        const Groups<2>& pair = stale[at(first + i)];
        gain2_[at(pair[0] * groups_ + pair[1])] = best_way<2>(pair, &values[at(i * kSets)]).second;
      }
    }
  }

  /// Distributes the columns of pairs of groups anew, the pair with the largest gain first, each
  /// group at most once a round.
  bool stripes8() {
    bool any = false;
    for (std::int64_t round = 0; round < 50 * groups_ + 50; ++round) {
      check_pairs();
      std::vector<Swap> gains;
      for (std::int64_t g = 0; g < groups_; ++g) {
        for (std::int64_t h = g + 1; h < groups_; ++h) {
          const double gain = gain2_[at(g * groups_ + h)];
          if (gain > 0) {
            gains.push_back({gain, static_cast<std::int32_t>(g), static_cast<std::int32_t>(h)});
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
    const double work = 495.0 * static_cast<double>(rows_ / kPermutationRows);
    bool any = false;
    if (triples * work > kTripleWork) {
      if (sampled_) return false;
      sampled_ = true;
      const auto tries = static_cast<std::int64_t>(kTripleWork / work);
      for (std::int64_t i = 0; i < tries; ++i) {
        std::array<std::int64_t, 3> group{};
        for (std::int64_t& g : group) g = draw(groups_);
        std::sort(group.begin(), group.end());
        if (group[0] != group[1] && group[1] != group[2]) any |= redeal<3>(group);
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
          any |= redeal<3>({g, h, i});
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

  std::int64_t rows_, cols_, groups_;
  int m_;
  std::uint64_t seed_, part_, drawn_ = 0;
  const PermutationSums& sums_;
  std::int64_t clock_ = 0;
  std::vector<std::int32_t> order_;  // position -> column
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

std::int64_t part_count(std::int64_t cols) { return (cols + kTogether - 1) / kTogether; }

}  // namespace

std::vector<std::int32_t> search_order(const PermutationPart& part, const PermutationSums& sums,
                                       const prune::PermutationOptions& options) {
  const FloatEnvironment floats;
  Search search(part, sums);
  search.run(options.method, options.escapes);
  return search.order();
}

std::vector<std::int64_t> permutation_parts(std::int64_t cols, std::int64_t m) {
  const std::int64_t parts = part_count(cols);
  std::vector<std::int64_t> first{0};
  for (std::int64_t part = 0; part < parts; ++part) {
    first.push_back(first.back() + (cols / m - part + parts - 1) / parts * m);
  }
  return first;
}

std::vector<std::int32_t> dealt_columns(std::int64_t cols, std::int64_t m) {
  const std::int64_t parts = part_count(cols);
  std::vector<std::int32_t> column;
  column.reserve(static_cast<std::size_t>(cols));
  for (std::int64_t part = 0; part < parts; ++part) {
    for (std::int64_t g = part; g < cols / m; g += parts) {
      for (std::int64_t i = 0; i < m; ++i) column.push_back(static_cast<std::int32_t>(g * m + i));
    }
  }
  return column;
}

int permutation_exponent(double largest) {
  return largest > 0x1p90 || (largest > 0 && largest < 0x1p-90) ? std::ilogb(largest) : 0;
}

double permutation_total(std::span<const double> groups, int exponent) {
  const FloatEnvironment floats;
  return std::ldexp(std::accumulate(groups.begin(), groups.end(), 0.0), exponent);
}

}  // namespace gossamer::detail
