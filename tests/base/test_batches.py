"""A row has the bits that it has in any other batch, where docs/design.md says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest

TOKENS, ROWS, COLS = 70, 96, 704
F32 = np.float32
#: Rows [first, last) of the batch.
PARTS = [(0, 1), (0, 2), (5, 8), (0, 9), (3, 20), (1, 34), (4, 68)]
#: Of the batch's rows [first, last), their results.
Rows = Callable[[int, int], np.ndarray]


def dense(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return oracle.random_dense(shape, F32, seed=seed)


W = oracle.random_sparse((ROWS, COLS), 0.25, F32, seed=1)
WT = dense((COLS, ROWS), 2)
X, DY = dense((TOKENS, COLS), 3), dense((TOKENS, ROWS), 4)
KEPT = np.tile([True, False, False, True], (ROWS, COLS // 4))
PACKED = gossamer.pack(gossamer.CSR.from_dense(W), n=32)
ALONG = gossamer.NM.from_dense(dense((ROWS, COLS), 5), 2, 4, mask=KEPT)
ACROSS = gossamer.NM.from_dense(
    dense((ROWS, COLS), 6), 2, 4, axis=0, mask=np.tile([[True], [False]], (ROWS // 2, COLS))
)
GATE, UP, DOWN = (dense((ROWS, COLS), seed) for seed in (7, 8, 9))
INDICES = np.random.default_rng(1).integers(0, COLS, (TOKENS, 7))
VALUES = dense((TOKENS, 7), 10)
NODES = gossamer.CSR.from_dense(oracle.random_sparse((TOKENS, 50), 0.3, F32, seed=11))
Q, KEYS = dense((TOKENS, 1, 24), 12), dense((50, 1, 24), 13)
CACHE = dense((TOKENS * 2, 4, 2, 16), 14)
BLOCKS = gossamer.BlockLayout.from_mask(np.array([[True, False], [True, True]])[None], block=4)
SEQUENCES = dense((TOKENS, 8, 2, 16), 15)


def columns(x: np.ndarray, first: int, last: int) -> np.ndarray:
    return np.ascontiguousarray(x[first:last].T)


def rows_of(a: gossamer.CSR, first: int, last: int) -> gossamer.CSR:
    p, q = (int(np.asarray(a.indptr)[i]) for i in (first, last))
    arrays = (np.asarray(array) for array in (a.indptr, a.indices, a.values))
    indptr, indices, values = arrays
    shape = (last - first, a.shape[1])
    return gossamer.CSR(indptr[first : last + 1] - p, indices[p:q], values[p:q], shape)


def dense_rows(a: gossamer.CSR, values: Any) -> np.ndarray:
    return np.asarray(a.with_values(values).to_dense())


def sampled(first: int, last: int) -> np.ndarray:
    pattern = rows_of(NODES, first, last)
    return dense_rows(pattern, gossamer.sddmm(Q[first:last, 0], KEYS[:, 0], pattern))


def softmax(first: int, last: int) -> np.ndarray:
    return np.asarray(gossamer.csr_softmax(rows_of(NODES, first, last)).to_dense())


def decoded(first: int, last: int) -> np.ndarray:
    lists = np.arange(first * 2, last * 2, dtype=np.int32)
    indptr = np.arange(0, 2 * (last - first) + 1, 2, dtype=np.int32)
    q = SEQUENCES[first:last, :1]
    return np.asarray(gossamer.attention_decode(q, CACHE, CACHE, indptr, lists)[0])


def attended(first: int, last: int) -> np.ndarray:
    x = SEQUENCES[first:last]
    return np.asarray(gossamer.attention(x, x, x, BLOCKS)[0])


def products(a: Any) -> list[Rows]:
    return [
        lambda i, j: gossamer.linear(X[i:j], a),
        lambda i, j: gossamer.spmm(a, columns(X, i, j)).T,
    ]


def gradient(a: Any) -> Rows:
    return lambda i, j: gossamer.linear_backward(DY[i:j], None, a, needs=(True, False, False))[0]


#: By the rows of the documented table that say yes.
KEEPING: dict[str, list[Rows]] = {
    '`spmm`, `linear` of `Packed` made for 32 columns or more, layout "blocks"': products(PACKED),
    "`spmm`, `linear` of `NM`, axis 0": products(ACROSS),
    "`spmm(transpose_a=True)`, `linear_backward`'s dx of `NM`, axis 1": [
        lambda i, j: gossamer.spmm(ALONG, columns(DY, i, j), transpose_a=True).T,
        gradient(ALONG),
    ],
    "`sddmm`": [sampled],
    "`sparse_linear`, `gated_mlp`, `delta_linear`, threshold 0": [
        lambda i, j: gossamer.sparse_linear(X[i:j], WT, threshold=0.0),
        lambda i, j: gossamer.gated_mlp(X[i:j], GATE, UP, DOWN, threshold=0.0),
        lambda i, j: gossamer.delta_linear(X[i:j], WT, gossamer.DeltaState(), threshold=0.0),
    ],
    "`gather_decode`, `gather_decode_backward`'s dvalues": [
        lambda i, j: gossamer.gather_decode(INDICES[i:j], VALUES[i:j], WT),
        lambda i, j: gossamer.gather_decode_backward(DY[i:j], INDICES[i:j], VALUES[i:j], WT)[0],
    ],
    "`csr_softmax`, `csr_attention`": [
        softmax,
        lambda i, j: gossamer.csr_attention(Q[i:j], KEYS, KEYS, rows_of(NODES, i, j))[0],
    ],
    "`attention`, `attention_decode`: sequences of a batch": [attended, decoded],
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ops", KEEPING.values(), ids=KEEPING)
def test_a_row_keeps_its_bits_in_any_batch(ops: list[Rows], threads: int) -> None:
    before = gossamer.get_num_threads()
    gossamer.set_num_threads(threads)
    try:
        for rows in ops:
            whole = rows(0, TOKENS)
            for first, last in PARTS:
                np.testing.assert_array_equal(rows(first, last), whole[first:last])
    finally:
        gossamer.set_num_threads(before)


@pytest.mark.once
def test_the_documents_promise_what_is_tested() -> None:
    text = (Path(__file__).parents[2] / "docs/design.md").read_text(encoding="utf-8")
    table = text.partition("## Rows of a batch")[2]
    promised = re.findall(r"^\| (.+) \| yes \|$", table, re.MULTILINE)
    assert promised == list(KEEPING)
