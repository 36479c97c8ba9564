"""The kernel of bfloat16 tiles (AMX) on an emulation of what it uses, exactly, for all edges.

The program is the kernel's own source, compiled with an emulation of the intrinsics that stops
where the hardware would fault: tiles that are not configured, or whose shapes do not fit.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
from library import ROOT, run, tool

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs x86-64"),
]

PROGRAM = r"""
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>

#include "products/kernels/bf16_tile_amx.cpp"

using namespace gossamer::detail;

/// A small integer as bfloat16, and back.
static std::uint16_t narrow(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<std::uint16_t>(bits >> 16);
}
static double widen(std::uint16_t x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

static std::mt19937 random_bits(1);
/// Exactly as long as is needed: the sanitizer sees a read behind it.
static std::unique_ptr<std::uint16_t[]> draw(std::int64_t size) {
  std::unique_ptr<std::uint16_t[]> values(new std::uint16_t[static_cast<std::size_t>(size)]);
  for (std::int64_t i = 0; i < size; ++i) {
    values[static_cast<std::size_t>(i)] = narrow(static_cast<float>(random_bits() % 9) - 4);
  }
  return values;
}

static bool check(std::int64_t rows, std::int64_t depth, int tile, std::int64_t count,
                  std::int64_t lda, bool accumulate) {
  std::unique_ptr<std::uint16_t[]> a[4], b[4];
  Bf16Pair pairs[4];
  for (int p = 0; p < count; ++p) {
    a[p] = draw((rows - 1) * lda + depth);
    b[p] = draw(depth * tile);
    pairs[p] = {a[p].get(), b[p].get()};
  }
  std::unique_ptr<float[]> c(new float[static_cast<std::size_t>(rows * tile)]);
  for (std::int64_t i = 0; i < rows * tile; ++i) c[static_cast<std::size_t>(i)] = 3;
  amx::bf16_tile_amx({.pairs = pairs, .count = count, .rows = rows, .depth = depth, .lda = lda,
                      .tile = tile, .c = c.get(), .accumulate = accumulate,
                      .ahead = a[0].get(), .ahead_row = 100});
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < tile; ++j) {
      double want = accumulate ? 3 : 0;
      for (int p = 0; p < count; ++p) {
        for (std::int64_t d = 0; d < depth; ++d) {
          want += widen(a[p][static_cast<std::size_t>(i * lda + d)]) *
                  widen(b[p][static_cast<std::size_t>((d / 2 * tile + j) * 2 + d % 2)]);
        }
      }
      if (want != static_cast<double>(c[static_cast<std::size_t>(i * tile + j)])) return false;
    }
  }
  return true;
}

int main() {
  for (const std::int64_t rows : {1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64}) {
    for (const std::int64_t depth : {16, 32, 48, 64, 96}) {
      for (const int tile : {16, 32, 48, 64}) {
        for (const std::int64_t count : {1, 3}) {
          for (const bool accumulate : {false, true}) {
            const std::int64_t lda = count == 1 ? depth + 32 : depth;
            if (!check(rows, depth, tile, count, lda, accumulate)) {
              std::printf("rows %d, depth %d, tile %d, count %d\n", static_cast<int>(rows),
                          static_cast<int>(depth), tile, static_cast<int>(count));
              return 1;
            }
          }
        }
      }
    }
  }
  return 0;
}
"""


def build(folder: Path, kernel: str | None = None) -> Path:
    """Compile the program, with another source in the place of the kernel where one is given."""
    source, program = folder / "amx.cpp", folder / "amx"
    text = PROGRAM
    if kernel is not None:
        (folder / "other.cpp").write_text(kernel)
        text = PROGRAM.replace("products/kernels/bf16_tile_amx.cpp", str(folder / "other.cpp"))
    source.write_text(text)
    flags = ["-std=c++20", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    defines = ["-DGOSSAMER_LEVEL=amx", "-DGOSSAMER_EMULATED_TILES"]
    folders = [f"-I{ROOT / path}" for path in ("cpp/src", "cpp/include")]
    run(tool("c++"), *flags, *defines, *folders, source, "-o", program)
    return program


def test_tiles_multiply_exactly(tmp_path: Path) -> None:
    run(build(tmp_path))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("a.depth % 32 == 0 ? 32 : 16", "32"),
        ("_tile_dpbf16ps(2, 5, 6);", "_tile_dpbf16ps(2, 4, 6);"),
    ],
    ids=["depth", "operand"],
)
def test_a_wrong_kernel_is_noticed(tmp_path: Path, right: str, wrong: str) -> None:
    text = (ROOT / "cpp/src/products/kernels/bf16_tile_amx.cpp").read_text()
    program = build(tmp_path, text.replace(right, wrong))
    assert right in text
    assert subprocess.run([str(program)], capture_output=True, check=False).returncode != 0
