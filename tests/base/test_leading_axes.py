"""Operands [..., K] whose leading axes do not form one in memory: the bits of their copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest

TOKENS, WIDTH, ROWS = (3, 4), 24, 16
Arrays = dict[str, np.ndarray]


def apart(x: np.ndarray) -> np.ndarray:
    """Return a copy of x [A, B, ·] that lies in memory as [B, A, ·], with gaps."""
    memory = np.zeros((x.shape[1], x.shape[0], x.shape[2] + 3), x.dtype)
    view = memory.transpose(1, 0, 2)[..., 1 : 1 + x.shape[2]]
    view[...] = x
    return view


def draw(width: int, seed: int, dtype: Any) -> np.ndarray:
    return oracle.random_dense((*TOKENS, width), dtype, seed=seed, integers=True)


def matrix(rows: int, cols: int, seed: int, dtype: Any) -> np.ndarray:
    return oracle.random_sparse((rows, cols), 0.4, np.float64, seed, integers=True).astype(dtype)


def operands(dtype: Any) -> Arrays:
    rng = np.random.default_rng(3)
    return {
        "x": draw(WIDTH, 1, dtype),
        "dy": draw(ROWS, 2, dtype),
        "indices": np.sort(rng.permuted(np.tile(np.arange(ROWS), (*TOKENS, 1)), axis=2)[..., :5]),
        "values": draw(5, 4, dtype),
        "out": draw(ROWS, 5, dtype),
        "wide": draw(WIDTH, 6, dtype),
    }


def delta(a: Arrays) -> list[Any]:
    """Return the outputs of two calls, of which the second has a state to look at."""
    wt = matrix(WIDTH, ROWS, 7, a["x"].dtype)
    state = gossamer.DeltaState()
    outs = []
    for change in (0, 1):
        x = a["x"]
        x[0, 1] += change
        gossamer.delta_linear(x, wt, state, threshold=0.5, out=a["out"])
        outs.append(a["out"].copy())
    return [*outs, state.last, state.sums]


def backward(form: str) -> Callable[[Arrays], list[Any]]:
    def call(a: Arrays) -> list[Any]:
        w = oracle.make(matrix(ROWS, WIDTH, 8, a["x"].dtype), form)
        gradients = gossamer.linear_backward(a["dy"], a["x"], w, out=(a["wide"], None, None))
        return list(gradients)

    return call


def written(array: np.ndarray, _: Any) -> list[Any]:
    return [array]


CALLS: dict[str, Callable[[Arrays], list[Any]]] = {
    "sparse_linear": lambda a: written(
        a["out"],
        gossamer.sparse_linear(
            a["x"],
            matrix(WIDTH, ROWS, 7, a["x"].dtype),
            threshold=1.5,
            out=a["out"],
        ),
    ),
    "gated_mlp": lambda a: written(
        a["wide"],
        gossamer.gated_mlp(
            a["x"],
            *(matrix(ROWS, WIDTH, seed, a["x"].dtype) for seed in (7, 8, 9)),
            threshold=0.5,
            out=a["wide"],
        ),
    ),
    "delta_linear": delta,
    "gather_decode": lambda a: written(
        a["wide"],
        gossamer.gather_decode(
            a["indices"], a["values"], matrix(ROWS, WIDTH, 7, a["x"].dtype), out=a["wide"]
        ),
    ),
    "gather_decode_backward": lambda a: list(
        gossamer.gather_decode_backward(
            a["wide"], a["indices"], a["values"], matrix(ROWS, WIDTH, 7, a["x"].dtype)
        )
    ),
    "topk_rows_backward": lambda a: written(
        a["out"], gossamer.topk_rows_backward(a["values"], a["indices"], ROWS, out=a["out"])
    ),
    "linear_backward of CSR": backward("csr"),
    "linear_backward of BSR": backward("bsr"),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_leading_axes_may_lie_apart(call: Callable[[Arrays], list[Any]], dtype: Any) -> None:
    together = operands(dtype)
    lying_apart = {name: apart(array) for name, array in together.items()}
    want = call(together)
    for got, expected in zip(call(lying_apart), want, strict=True):
        np.testing.assert_array_equal(got, expected)
    for array in lying_apart.values():
        memory = array.base
        assert memory is not None
        assert not memory[..., 0].any()
        assert not memory[..., -2:].any()


def test_a_result_apart_is_added_to() -> None:
    x, out = draw(WIDTH, 1, np.float32), draw(ROWS, 2, np.float32)
    w = matrix(ROWS, WIDTH, 3, np.float32)
    want = out + x @ w.T
    got = apart(out)
    gossamer.sparse_linear(x, w.T.copy(), threshold=0.0, out=got, accumulate=True)
    np.testing.assert_array_equal(got, want)
    dx = apart(x)
    gossamer.linear_backward(
        out,
        None,
        gossamer.CSR.from_dense(w),
        needs=(True, False, False),
        accumulate=True,
        out=(dx, None, None),
    )
    np.testing.assert_array_equal(dx, x + out @ w)


def test_an_operand_may_be_one_row_for_all() -> None:
    x = np.broadcast_to(draw(WIDTH, 1, np.float32)[:1, :1], (*TOKENS, WIDTH))
    wt = matrix(WIDTH, ROWS, 3, np.float32)
    got = gossamer.sparse_linear(x, wt, threshold=0.0)
    np.testing.assert_array_equal(got, x.copy() @ wt)
