"""What happens around a call: other threads that write its operands, absurd sizes, shared outputs.

The families' own tests have these for pruning and products; here are the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import gossamer as g
import numpy as np
import pytest
from gossamer import CSR, NM, BlockLayout, GroupQuant
from library import run
from oracle import DTYPES

pytestmark = pytest.mark.once

F = np.float32

CHANGED = """
import threading

import gossamer as g
import numpy as np
from gossamer import CSR, NM, BlockLayout, GroupQuant

g.set_num_threads(2)
rng = np.random.default_rng(0)
# Right and wrong numbers by turns: out of range, out of order, of another count.
places = rng.integers(0, 50, (2, 4000))
lists = rng.integers(0, 50, (1, 40, 4, 16)).astype(np.int32)
counts = np.full((1, 40, 4), 16, np.int32)
starts = np.array([0, 30, 64], np.int32)
pages, ends = rng.integers(0, 20, 64).astype(np.int32), np.array([0, 64], np.int32)
lengths = np.array([60], np.int32)
picked = rng.integers(0, 50, (8, 20))
mask = rng.random((64, 64)) < 0.3
w = rng.standard_normal((64, 64)).astype(np.float32) * mask
turns = []
for array in (places, lists, counts, starts, pages, ends, lengths, picked):
    wild = array.copy()
    wild.ravel()[:: max(1, wild.size // 7)] = 2**30
    turns.append((array, [array.copy(), wild, np.zeros_like(array), array[..., ::-1].copy()]))
turns.append((mask, [mask.copy(), ~mask, mask & False, mask | True]))
turns.append((w, [w.copy(), 1 + w, 0 * w, -w]))
done = threading.Event()


def write():
    i = 0
    while not done.is_set():
        for array, states in turns:
            np.copyto(array, states[i % len(states)])
        i += 1


def edges():
    a = CSR.from_coo(places, np.ones(4000, np.float32), shape=(50, 50))
    CSR(a.indptr, a.indices, a.values, a.shape)  # checks the structure
    a = CSR.from_coo((places[1], places[0]), shape=(50, 50))
    CSR(a.indptr, a.indices, None, a.shape)


def blocks():
    a = BlockLayout.from_lists(lists, cols=50, block=2, counts=counts)
    BlockLayout(a.indptr, a.indices, a.shape, a.block)
    BlockLayout.from_topk(lists, cols=50)
    BlockLayout.from_mask(mask[None], block=2)


def groups():
    NM(*(lambda a: (a.values, a.indices, a.shape, 16, 32))(NM.from_dense(w, 16, 32)))
    a = GroupQuant.from_dense(w, mask=mask)
    GroupQuant(a.indptr, a.indices, a.codes, a.scales, a.zeros, shape=a.shape)


x = rng.standard_normal((64, 2, 8)).astype(np.float32)
cache = rng.standard_normal((20, 1, 1, 8)).astype(np.float32)
layout = BlockLayout.from_mask(np.ones((2, 1, 5, 5), bool), block=8)
o, lse = g.attention(x, x, x, layout, cu_seqlens=starts)
calls = [
    edges,
    blocks,
    groups,
    lambda: CSR.from_dense(w, mask),
    lambda: g.attention(x, x, x, layout, cu_seqlens=starts),
    lambda: g.attention_backward(o, x, x, x, o, lse, layout, cu_seqlens=starts),
    lambda: g.attention_decode(cache[None, 0], cache, cache, ends, pages, lengths=lengths),
    lambda: g.gather_decode(picked, np.ones((8, 20), np.float32), w),
    lambda: g.gather_decode_backward(w[:8], picked, np.ones((8, 20), np.float32), w),
    lambda: g.topk_rows_backward(w[:8, :20].copy(), picked, 50),
    lambda: g.sparse_linear(w, w, threshold=0.5),
]
writer = threading.Thread(target=write)
writer.start()
try:
    for call in calls:
        for _ in range(60):
            try:
                call()
            except ValueError:  # it was wrong just then
                pass
finally:
    done.set()
    writer.join()
"""


def test_operands_that_change_during_the_call_do_no_harm() -> None:
    run(sys.executable, "-c", CHANGED)


HUGE = 2**40


def of_no_elements(*shape: int) -> np.ndarray:
    return np.zeros(shape, F)


EMPTY: list[Callable[[], object]] = [
    lambda: NM.from_dense(of_no_elements(HUGE, 0), 1, 2),
    lambda: NM.from_dense(of_no_elements(HUGE, 0), 1, 2, axis=0),
    lambda: NM.from_dense(of_no_elements(0, HUGE), 1, 2),
    lambda: NM.from_dense(of_no_elements(0, HUGE), 1, 2, axis=0),
    lambda: NM.from_dense(of_no_elements(HUGE, 0), 1, 2).to_dense(),
    lambda: CSR.from_dense(of_no_elements(0, HUGE)),
    lambda: CSR.from_coo(np.zeros((2, 0), int), shape=(0, HUGE)),
    lambda: g.topk_rows(of_no_elements(HUGE, 0), 0),
    lambda: g.merge_attention([(of_no_elements(1, 0, HUGE, 4), of_no_elements(1, HUGE, 0))]),
]


@pytest.mark.parametrize("call", EMPTY)
def test_no_elements_take_no_time(call: Callable[[], object]) -> None:
    call()


BEYOND: list[tuple[Callable[[], object], type[Exception]]] = [
    (lambda: GroupQuant.from_dense(of_no_elements(HUGE, 0), sparsity=0.5), MemoryError),
    (lambda: GroupQuant.from_dense(of_no_elements(HUGE, 0)), MemoryError),
    (lambda: CSR.from_coo(np.zeros((2, 1), int), shape=(2**63 - 1, 3)), MemoryError),
    (lambda: CSR.from_coo(np.zeros((2, 1), int), shape=(3, 2**63 - 1)), ValueError),
    (lambda: BlockLayout.window_global(heads=2**40, blocks=2**30, window=1, block=2), ValueError),
    (lambda: BlockLayout.window_global(blocks=4, window=1, globals=2**62, block=2), ValueError),
    (lambda: BlockLayout.window_global(blocks=4, window=1, globals=-1, block=2), ValueError),
]


@pytest.mark.parametrize(("call", "error"), BEYOND)
def test_sizes_beyond_memory_are_refused(call: Callable[[], object], error: type) -> None:
    with pytest.raises(error):
        call()


X = np.random.default_rng(0).standard_normal((1, 8, 2, 4)).astype(F)
LAYOUT = BlockLayout.from_mask(np.ones((1, 4, 4), bool), block=2)
OUT, LOG = g.attention(X, X, X, LAYOUT)
SAME = np.zeros_like(X)
FLAT = np.zeros(80, F)
PAGES = np.ones((6, 4, 1, 4), F)
LISTS = np.array([0, 1], np.int32), np.array([0], np.int32)
#: Two outputs, or an output and a rarer operand, in one piece of memory.
SHARED: list[tuple[Callable[[], object], str]] = [
    (
        lambda: g.attention_backward(X, X, X, X, OUT, LOG, LAYOUT, out=(SAME, SAME, None)),
        "attention_backward: dk overlaps dq",
    ),
    (
        lambda: g.attention_backward(X, X, X, X, OUT, LOG, LAYOUT, out=(None, SAME, SAME)),
        "attention_backward: dv overlaps dk",
    ),
    (
        lambda: g.attention_backward(
            X,
            X,
            X,
            X,
            OUT,
            LOG,
            LAYOUT,
            dlse=FLAT[:16].reshape(1, 2, 8),
            out=(FLAT[:64].reshape(X.shape), None, None),
        ),
        "attention_backward: dq overlaps dlse",
    ),
    (
        lambda: g.attention_decode(
            PAGES[:1, :1],
            PAGES,
            PAGES,
            *LISTS,
            out=(FLAT[:4].reshape(1, 1, 1, 4), FLAT[3:4].reshape(1, 1, 1)),
        ),
        "attention_decode: out[1] overlaps out[0]",
    ),
    (
        lambda: g.attention_decode(
            PAGES[:1, :1],
            PAGES,
            PAGES,
            *LISTS,
            sinks=FLAT[:1],
            out=(None, FLAT[:1].reshape(1, 1, 1)),
        ),
        "attention_decode: out[1] overlaps sinks",
    ),
    (
        lambda: g.merge_attention(
            [(OUT, LOG)], out=(FLAT[:64].reshape(OUT.shape), FLAT[60:76].reshape(LOG.shape))
        ),
        "merge_attention: out[1] overlaps out[0]",
    ),
    (
        lambda: g.block_topk(
            X,
            X.copy(),
            4,
            pooled_min=FLAT[:64].reshape(X.shape),
            out=FLAT[:64].view(np.int32).reshape(1, 8, 2, 4),
        ),
        "block_topk: out overlaps pooled_min",
    ),
]


@pytest.mark.parametrize(("call", "message"), SHARED, ids=[row[1] for row in SHARED])
def test_outputs_have_memory_of_their_own(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        call()


SPARSE = CSR.from_dense(np.ones((8, 8), F))
Q = np.ones((8, 4), F)
#: Numbers that float32 scores cannot be multiplied by, and offsets beyond any sequence.
UNFIT: list[tuple[Callable[[], object], str]] = [
    (lambda: g.attention(X, X, X, LAYOUT, scale=1e39), "attention: scale is "),
    (lambda: g.attention(X, X, X, LAYOUT, softcap=1e-60), "attention: softcap is "),
    (lambda: g.attention_decode(PAGES[:1, :1], PAGES, PAGES, *LISTS, softcap=1e-60), "softcap is "),
    (lambda: g.csr_attention(Q, Q, Q, SPARSE, scale=float("nan")), "csr_attention: scale is nan"),
    (lambda: g.csr_attention(Q, Q, Q, SPARSE, slope=float("inf")), "csr_attention: slope is inf"),
    (lambda: g.attention(X, X, X, LAYOUT, causal=True, q_offset=-(2**63)), "q_offset is -9"),
    (lambda: g.block_topk(X, X, 1, causal=True, q_offset=-(2**63)), "block_topk: q_offset is -9"),
]


@pytest.mark.parametrize(("call", "message"), UNFIT, ids=[row[1] for row in UNFIT])
def test_numbers_that_do_not_fit_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 8, 30])
def test_no_columns_give_zeros(dtype: type, n: int) -> None:
    empty = np.zeros((13, 0), dtype)
    for a in (NM.from_dense(empty, 1, 2), CSR.from_dense(empty), g.pack(CSR.from_dense(empty))):
        product = g.spmm(a, np.zeros((0, n), dtype))
        np.testing.assert_array_equal(product.astype(np.float64), np.zeros((13, n)))
        layer = g.linear(np.zeros((n, 0), dtype), a)
        np.testing.assert_array_equal(layer.astype(np.float64), np.zeros((n, 13)))
