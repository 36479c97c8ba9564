#include "prune/masks.h"

namespace gossamer::detail {

ScoreTile::ScoreTile(const ScoreTiles& tiles, std::int64_t begin, std::int64_t count)
    : type_(tiles.reader_.direct() ? tiles.score_.w.dtype : dtype_of(tiles.score_)),
      magnitude_(tiles.reader_.direct() && tiles.score_.kind == prune::ScoreKind::magnitude),
      scratch_(tiles.reader_.direct() ? 0 : count * size_of(type_)),
      data_(scratch_.data()) {
  if (tiles.reader_.direct()) {
    data_ = static_cast<const std::byte*>(tiles.score_.w.data) + begin * size_of(type_);
  } else {
    tiles.reader_.read(begin, count, scratch_.data());
  }
}

}  // namespace gossamer::detail
