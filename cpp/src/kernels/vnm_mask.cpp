// V:N:M: the block's columns lie along the lanes, rows after rows; the sum of the N largest of four
// columns follows from the larger and the smaller of each two of them.

#include "kernels/lanes16.h"
#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

constexpr int kMost = 64;

/// Infinities and NaN as numbers whose sums are finite.
template <class T>
constexpr T kBeyond = sizeof(T) == 8 ? static_cast<T>(0x1p1000) : static_cast<T>(0x1p110);

template <class T>
class Block {
  using V = Lanes16<T>;

 public:
  Block(const VnmMaskArgs& a)
      : m_(static_cast<int>(a.m)),
        n_(static_cast<int>(a.n)),
        ld_((a.v + 15) / 16 * 16),
        columns_(reinterpret_cast<T*>(a.scratch)),
        buffer_(columns_ + a.m * ld_) {}

  template <class S>
  void read(const S* score, const VnmMaskArgs& a) {
    for (int c = 0; c < m_; ++c) {
      for (std::int64_t r = a.v; r < ld_; ++r) columns_[c * ld_ + r] = 0;
    }
    for (std::int64_t r = 0; r < a.v; ++r) {
      for (int c = 0; c < m_; ++c) {
        T x = static_cast<T>(to_float(score[r * a.stride + c]));
        if (a.magnitude) x = x < 0 ? -x : x;
        if (!(x >= -kBeyond<T>)) x = -kBeyond<T>;
        if (x > kBeyond<T>) x = kBeyond<T>;
        columns_[c * ld_ + r] = x;
      }
    }
  }

  void exact(int (&best)[4]) {
    T most = 0;
    bool found = false;
    T* larger_of = buffer_;
    T* smaller_of = buffer_ + ld_;
    for (int a = 0; a < m_; ++a) {
      for (int b = a + 1; b < m_ - 2; ++b) {
        for (std::int64_t r = 0; r < ld_; r += 16) {
          const V x = at(a, r), y = at(b, r);
          larger(x, y).to(larger_of + r);
          smaller(x, y).to(smaller_of + r);
        }
        for (int c = b + 1; c < m_ - 1; ++c) {
          for (int d = c + 1; d < m_; ++d) {
            const T sum = sum_of_four(larger_of, smaller_of, c, d);
            if (found && !(sum > most)) continue;
            found = true;
            most = sum;
            best[0] = a;
            best[1] = b;
            best[2] = c;
            best[3] = d;
          }
        }
      }
    }
  }

  /// Column after column, each the one that adds the most.
  void greedy(int (&best)[4]) {
    for (std::int64_t r = 0; r < n_ * ld_; ++r) buffer_[r] = -2 * kBeyond<T>;
    std::uint64_t chosen = 0;
    for (int i = 0; i < 4; ++i) {
      int pick = -1;
      T most = 0;
      for (int c = 0; c < m_; ++c) {
        if ((chosen >> c) & 1) continue;
        V sum = V::zero();
        for (std::int64_t r = 0; r < ld_; r += 16) {
          sum = sum + larger(at(c, r), V::at(buffer_ + (n_ - 1) * ld_ + r));
        }
        const T total = sum.sum();
        if (pick >= 0 && !(total > most)) continue;
        pick = c;
        most = total;
      }
      chosen |= std::uint64_t{1} << pick;
      for (std::int64_t r = 0; r < ld_; r += 16) {
        V x = at(pick, r);
        for (int j = 0; j < n_; ++j) {
          const V held = V::at(buffer_ + j * ld_ + r);
          larger(held, x).to(buffer_ + j * ld_ + r);
          x = smaller(held, x);
        }
      }
    }
    int i = 0;
    for (int c = 0; c < m_; ++c) {
      if ((chosen >> c) & 1) best[i++] = c;
    }
  }

 private:
  [[nodiscard]] V at(int column, std::int64_t row) const {
    return V::at(columns_ + column * ld_ + row);
  }

  [[nodiscard]] T sum_of_four(const T* larger_of, const T* smaller_of, int c, int d) const {
    V sum = V::zero();
    for (std::int64_t r = 0; r < ld_; r += 16) {
      const V x = at(c, r), y = at(d, r);
      const V high = V::at(larger_of + r), low = V::at(smaller_of + r);
      const V other_high = larger(x, y), other_low = smaller(x, y);
      const V first = larger(high, other_high);
      if (n_ == 1) {
        sum = sum + first;
        continue;
      }
      const V rest = smaller(high, other_high), second = larger(low, other_low);
      if (n_ == 2) {
        sum = sum + (first + larger(rest, second));
      } else {
        V all = first + (rest + second);
        if (n_ == 4) all = all + smaller(low, other_low);
        sum = sum + all;
      }
    }
    return sum.sum();
  }

  int m_, n_;
  std::int64_t ld_;
  T* columns_;
  T* buffer_;
};

/// Whether y comes before x, its predecessor in the row where `earlier`.
template <class T>
GOSSAMER_INLINE bool precedes(T y, T x, bool earlier) {
  if (y != y || x != x) return x != x && (y == y || earlier);
  return y > x || (y == x && earlier);
}

template <class T, class S>
void vnm_of(const VnmMaskArgs& a) {
  Block<T> block(a);
  for (std::int64_t b = 0; b < a.blocks; ++b) {
    const S* score = static_cast<const S*>(a.score) + b * a.m;
    std::uint8_t* mask = a.mask + b * a.m;
    block.read(score, a);
    int column[4] = {};
    if (a.greedy) {
      block.greedy(column);
    } else {
      block.exact(column);
    }
    for (std::int64_t r = 0; r < a.v; ++r) {
      const S* row = score + r * a.stride;
      T x[4];
      for (int i = 0; i < 4; ++i) {
        x[i] = static_cast<T>(to_float(row[column[i]]));
        if (a.magnitude && x[i] < 0) x[i] = -x[i];
      }
      std::uint8_t* kept = mask + r * a.stride;
      __builtin_memset(kept, 0, static_cast<std::size_t>(a.m));
      for (int i = 0; i < 4; ++i) {
        int before = 0;
        for (int j = 0; j < 4; ++j) before += i != j && precedes(x[j], x[i], j < i);
        kept[column[i]] = before < a.n;
      }
    }
  }
}

}  // namespace

void vnm_mask(const VnmMaskArgs& a);
void vnm_mask(const VnmMaskArgs& a) {
  with_float_type(a.type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) == 8) {
      vnm_of<double, S>(a);
    } else {
      vnm_of<float, S>(a);
    }
  });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
