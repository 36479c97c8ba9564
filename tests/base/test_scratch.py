"""Scratch memory: no two live pieces share a byte, and what is idle is used again and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from library import ROOT, run, tool

pytestmark = pytest.mark.once

PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "base/scratch.h"

using gossamer::detail::idle_scratch;
using gossamer::detail::Scratch;

void require(bool holds, const char* what) {
  if (holds) return;
  std::puts(what);
  std::exit(1);
}

int main() {
  // Pieces of all sizes that end in any order keep what was written to them.
  std::mt19937 random(1);
  struct Piece {
    std::unique_ptr<Scratch> scratch;
    std::size_t size;
    unsigned char mark;
  };
  std::vector<Piece> live;
  const auto intact = [](const Piece& piece) {
    const auto* bytes = piece.scratch->as<unsigned char>();
    for (std::size_t i = 0; i < piece.size; ++i) {
      if (bytes[i] != piece.mark) return false;
    }
    return true;
  };
  for (int step = 0; step < 3000; ++step) {
    if (live.size() < 12 && random() % 3 != 0) {
      const std::size_t size = std::size_t{1} << (random() % 18);
      Piece piece{std::make_unique<Scratch>(size), size, static_cast<unsigned char>(step)};
      std::memset(piece.scratch->data(), piece.mark, size);
      live.push_back(std::move(piece));
    } else if (!live.empty()) {
      const std::size_t i = random() % live.size();
      require(intact(live[i]), "a piece was written by another");
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  live.clear();

  // The same size again is the same memory.
  const auto first = [] { return Scratch(3 << 20).data(); }();
  require(first == Scratch(3 << 20).data(), "an idle piece was not used again");

  // What a thread keeps is bounded, and a piece may end on another thread.
  for (int i = 0; i < 8; ++i) Scratch large(std::int64_t{40} << 20);
  { std::vector<std::unique_ptr<Scratch>> many;
    for (int i = 0; i < 8; ++i) many.push_back(std::make_unique<Scratch>(std::int64_t{40} << 20)); }
  require(idle_scratch() <= std::int64_t{128} << 20, "too much is kept");
  std::optional<Scratch> moved;
  std::thread([&] { moved.emplace(1000); }).join();
  std::memset(moved->data(), 1, 1000);
  moved.reset();

  // Nothing is asked for, nothing is given.
  require(Scratch(0).data() == nullptr, "memory of no bytes");
}
"""


def test_pieces_are_apart_and_memory_is_used_again(tmp_path: Path) -> None:
    source = tmp_path / "scratch.cpp"
    source.write_text(PROGRAM)
    folders = [f"-I{ROOT / path}" for path in ("cpp/src", "cpp/include")]
    program = tmp_path / "scratch"
    sources = [source, ROOT / "cpp/src/base/scratch.cpp"]
    run(tool("c++"), "-std=c++20", "-O1", "-pthread", *folders, *sources, "-o", program)
    run(program)
