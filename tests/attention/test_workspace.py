"""What attention allocates, and what attention_workspace says of it."""

from __future__ import annotations

import subprocess
import sys

import gossamer
import numpy as np
import pytest
from gossamer import BlockLayout, attention_workspace

pytestmark = pytest.mark.once

F32 = np.float32

# Peak memory of a process before and after one call, after a small one; its results are given.
PROGRAM = """
import sys
import ml_dtypes, numpy as np, gossamer
def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
kind, tokens, heads, block = sys.argv[1], *map(int, sys.argv[2:])
gossamer.set_num_threads(1)
dtype = np.float32 if kind == "f32" else ml_dtypes.bfloat16
def operands(n, heads):
    q, k, v, o = (np.ones((1, n, heads, 64), dtype) for _ in range(4))
    return q, k, v, (o, np.ones((1, heads, n), np.float32))
def layout(n):
    return gossamer.BlockLayout.window_global(blocks=n // block, window=1, block=block)
for n, h in ((block, 1), (tokens, heads)):
    q, k, v, out = operands(n, h)
    kept = layout(n)
    before = peak()
    gossamer.attention(q, k, v, kept, causal=True, out=out)
    grown = peak() - before
print(gossamer.attention_workspace(q, k, v, kept), grown * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_it_is_what_attention_allocates(kind: str) -> None:
    # One head of 64K tokens takes 32 MiB of float32; the second one is packed after the first.
    arguments = (kind, "65536", "2", "64")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    said, found = map(int, done.stdout.split())
    # Pages that are not touched are not counted; those of the interpreter are.
    assert 0.9 * said - (1 << 21) <= found <= said + (1 << 21)
    assert said >= 16 << 20


def window(tokens: int, heads: int, block: tuple[int, int] = (64, 64)) -> int:
    q = np.empty((1, tokens, heads, 64), F32)
    layout = BlockLayout.window_global(
        blocks=(tokens // block[0], tokens // block[1]), window=1, block=block
    )
    return attention_workspace(q, q, q, layout)


def test_it_grows_with_the_tokens_and_not_with_the_heads() -> None:
    gossamer.set_num_threads(1)
    assert window(1 << 17, 64) < 1.01 * window(1 << 17, 1)
    assert window(1 << 18, 1) < 2.01 * window(1 << 17, 1)


def test_keys_that_are_read_where_they_lie_take_none() -> None:
    assert window(1 << 16, 4, (1, 64)) < gossamer.get_num_threads() * (1 << 20)


def test_128k_tokens_at_two_percent_take_less_than_a_gibibyte() -> None:
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, 2048, (2048, 8, 41)).astype(np.int32)
    layout = BlockLayout.from_topk(chosen, cols=2048, block=64)
    assert 0.019 < layout.density < 0.021
    q = np.empty((1, 1 << 17, 8, 64), F32)
    with gossamer.num_threads(2):
        held = sum(x.nbytes for x in (layout.indptr, layout.indices))
        assert attention_workspace(q, q, q, layout) + held < 1 << 30


def test_packed_sequences_and_bad_calls() -> None:
    q = np.empty((300, 2, 64), F32)
    starts = np.array([0, 100, 300], np.int32)
    layout = BlockLayout.window_global(blocks=4, window=1, block=64)
    assert attention_workspace(q, q, q, layout, cu_seqlens=starts) > 0
    message = r"attention_workspace: q\.ndim is 3, expected 4"
    with pytest.raises(ValueError, match=message):
        attention_workspace(q, q, q, layout)
    with pytest.raises(TypeError, match="attention_workspace: layout is a int"):
        attention_workspace(q, q, q, 3)  # type: ignore[arg-type]
