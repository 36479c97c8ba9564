"""A plugin of `gossamer bench` for test_bench.py: a GPU's contenders on the CPU."""

from __future__ import annotations

from gossamer.bench import cuda

cuda.DEVICE = "cpu"
cuda.COPIED, cuda.SIDE = 1 << 16, 32
