"""Weighted sums of a table's rows, and their gradients, against loops in float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from gossamer import (
    gather_decode,
    gather_decode_backward,
    prune,
    topk_rows,
    topk_rows_backward,
)

F32 = np.float32
#: (tokens, k, H, d)
SHAPES = [(1, 1, 1, 1), (1, 5, 9, 33), (3, 4, 16, 16), (40, 7, 30, 65), (300, 3, 20, 5)]


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def wide(a: Any) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def operands(shape: tuple[int, int, int, int], dtype: Any, index: Any = np.int32) -> Any:
    tokens, k, h, d = shape
    rng = np.random.default_rng(tokens)
    indices = rng.integers(0, h, (tokens, k)).astype(index)  # with repetitions
    values, table = (rng.integers(-3, 4, s).astype(dtype) for s in ((tokens, k), (h, d)))
    return indices, values, table, rng.integers(-2, 3, (tokens, d)).astype(dtype)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("shape", SHAPES)
def test_integers_are_exact(shape: tuple[int, int, int, int], dtype: type, index: type) -> None:
    indices, values, table, grad = operands(shape, dtype, index)
    bias = table[0]
    want = np.einsum("tk,tkd->td", wide(values), wide(table)[indices])
    np.testing.assert_array_equal(gather_decode(indices, values, table), want.astype(dtype))
    got = gather_decode(indices, values, table, bias=bias)
    np.testing.assert_array_equal(got, (want + wide(bias)).astype(dtype))

    dvalues = np.einsum("td,tkd->tk", wide(grad), wide(table)[indices])
    dtable = np.zeros(table.shape)
    np.add.at(dtable, indices, wide(values)[..., None] * wide(grad)[:, None])
    both = gather_decode_backward(grad, indices, values, table)
    np.testing.assert_array_equal(both[0], dvalues.astype(dtype))
    np.testing.assert_array_equal(both[1], dtable.astype(dtype))
    assert both[0].dtype == both[1].dtype == dtype
    alone = gather_decode_backward(grad, indices, values, table, needs=(True, False))
    np.testing.assert_array_equal(alone[0], both[0])
    assert alone[1] is None
    alone = gather_decode_backward(grad, indices, values, table, needs=(False, True))
    np.testing.assert_array_equal(alone[1], both[1])
    assert alone[0] is None


def test_gradients_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 6, (4, 3))
    values, table, grad = (rng.standard_normal(s) for s in ((4, 3), (6, 5), (4, 5)))
    got = gather_decode_backward(grad, indices, values, table)
    step = 1e-6
    for which, gradient in zip((values, table), got, strict=True):
        for at in np.ndindex(which.shape):
            kept = which[at]
            ends = []
            for change in (step, -step):
                which[at] = kept + change
                ends.append((gather_decode(indices, values, table) * grad).sum())
            which[at] = kept
            assert abs((ends[0] - ends[1]) / (2 * step) - gradient[at]) < 1e-7


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_rounding_stays_within_the_bound(dtype: type) -> None:
    rng = np.random.default_rng(1)
    indices = rng.integers(0, 50, (20, 32))
    values, table = oracle.random_dense((20, 32), dtype, 1), oracle.random_dense((50, 70), dtype, 2)
    rows = wide(table)[indices]
    want = np.einsum("tk,tkd->td", wide(values), rows)
    magnitude = np.einsum("tk,tkd->td", abs(wide(values)), abs(rows))
    oracle.assert_close(gather_decode(indices, values, table), want, magnitude, 32)


def test_topk_and_decode_are_a_sparse_autoencoder() -> None:
    z, table = oracle.random_dense((6, 40), F32, 1), oracle.random_dense((40, 8), F32, 2)
    values, indices = prune.topk_rows(z, 5)
    masked = np.zeros((6, 40))
    np.put_along_axis(masked, indices, wide(values), 1)
    np.testing.assert_allclose(
        gather_decode(indices, values, table), masked @ wide(table), rtol=1e-4, atol=1e-5
    )
    everything = gather_decode(*prune.topk_rows(z, 40)[::-1], table)
    np.testing.assert_allclose(everything, wide(z) @ wide(table), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (40, 300)])
def test_gradient_of_topk_is_scattered(shape: tuple[int, int], dtype: type) -> None:
    x = oracle.random_dense(shape, dtype, 1)
    for k in {0, 1, shape[1]}:
        values, indices = topk_rows(x, k)
        want = np.zeros(shape, dtype)
        np.put_along_axis(want, indices, values, 1)
        got = topk_rows_backward(values, indices, shape[1])
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want)
    out = np.full((shape[0], 2 * shape[1]), 7, dtype)[:, : shape[1]]
    assert topk_rows_backward(values, indices.astype(np.int64), shape[1], out=out) is out
    np.testing.assert_array_equal(out, want)


def test_a_sparse_autoencoder_learns() -> None:
    """Its gradients are those of the dense one whose pre-activations are masked."""
    rng = np.random.default_rng(0)
    x, encoder, decoder = (rng.standard_normal(s) for s in ((7, 6), (6, 30), (30, 6)))
    z = x @ encoder
    values, indices = topk_rows(z, 4)
    grad = gather_decode(indices, values, decoder) - x
    dvalues, ddecoder = gather_decode_backward(grad, indices, values, decoder)
    dencoder = x.T @ topk_rows_backward(dvalues, indices, 30)
    mask = np.zeros(z.shape)
    np.put_along_axis(mask, indices, 1, 1)
    np.testing.assert_allclose(ddecoder, (z * mask).T @ grad, atol=1e-12)
    np.testing.assert_allclose(dencoder, x.T @ (grad @ decoder.T * mask), atol=1e-12)


def test_leading_axes_strides_and_out() -> None:
    indices, values, table, grad = operands((6, 4, 9, 12), F32)
    want = gather_decode(indices, values, table)
    shaped = gather_decode(indices.reshape(2, 3, 4), values.reshape(2, 3, 4), table)
    np.testing.assert_array_equal(shaped, want.reshape(2, 3, 12))
    np.testing.assert_array_equal(gather_decode(indices[0], values[0], table), want[0])
    wider = np.zeros((9, 20), F32)
    wider[:, 3:15] = table
    out = np.zeros((6, 30), F32)[:, 4:16]
    assert gather_decode(indices, values, wider[:, 3:15], out=out) is out
    np.testing.assert_array_equal(out, want)
    outs = np.zeros((6, 4), F32), np.zeros((9, 12), F32)
    got = gather_decode_backward(grad, indices, values, table, out=outs)
    assert got[0] is outs[0]
    assert got[1] is outs[1]
    for one, two in zip(outs, gather_decode_backward(grad, indices, values, table), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 0, 0, 4), (2, 2, 3, 0)])
def test_empty_operands(shape: tuple[int, int, int, int]) -> None:
    tokens, k, h, d = shape
    indices, values = np.zeros((tokens, k), np.int32), np.ones((tokens, k), F32)
    table = np.ones((h, d), F32)
    np.testing.assert_array_equal(gather_decode(indices, values, table), np.full((tokens, d), k))
    got = gather_decode_backward(np.ones((tokens, d), F32), indices, values, table)
    np.testing.assert_array_equal(got[0], np.full((tokens, k), d))
    assert got[1].sum() == tokens * k * d


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_number_of_threads_changes_no_bit(dtype: type) -> None:
    rng = np.random.default_rng(2)
    indices = rng.integers(0, 60, (200, 16)).astype(np.int32)
    indices[:, 0] = 7  # one row has most
    values, table = (
        oracle.random_dense((200, 16), dtype, 1),
        oracle.random_dense((60, 90), dtype, 2),
    )
    grad = oracle.random_dense((200, 90), dtype, 3)
    before, results = gossamer.get_num_threads(), set()
    try:
        for threads in (1, 2, 3, 7):
            gossamer.set_num_threads(threads)
            parts = (
                gather_decode(indices, values, table),
                gather_decode(indices[:1], values[:1], table),
                *gather_decode_backward(grad, indices, values, table),
            )
            results.add(tuple(part.tobytes() for part in parts))
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_results_follow_the_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    convert = module.from_numpy if framework == "torch" else module.numpy.asarray
    kind = module.Tensor if framework == "torch" else module.Array
    arrays = operands((3, 4, 5, 6), F32)
    indices, values, table, grad = map(convert, arrays)
    got = gather_decode(indices, values, table)
    assert isinstance(got, kind)
    np.testing.assert_array_equal(np.asarray(got), gather_decode(*arrays[:3]))
    for part in gather_decode_backward(grad, indices, values, table):
        assert isinstance(part, kind)


def ones(*shape: int, dtype: Any = F32) -> np.ndarray:
    return np.ones(shape, dtype)


AT, V, T = np.zeros((2, 3), np.int32), ones(2, 3), ones(4, 5)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: gather_decode(AT + 4, V, T),
        ValueError,
        "gather_decode: indices has 4, expected 0 to 3, the rows of table",
    ),
    (
        lambda: gather_decode(AT.astype(np.int64) - 2**40, V, T),
        ValueError,
        f"gather_decode: indices has {-(2**40)}, expected 0 to 3, the rows of table",
    ),
    (
        lambda: gather_decode(V, V, T),
        TypeError,
        "gather_decode: indices.dtype is float32, expected int32 or int64",
    ),
    (
        lambda: gather_decode(AT, ones(2, 2), T),
        ValueError,
        "gather_decode: indices.shape is (2, 3), expected values.shape = (2, 2)",
    ),
    (
        lambda: gather_decode(AT, ones(2, 3, dtype=np.float64), T),
        TypeError,
        "gather_decode: values.dtype is float64, expected table.dtype = float32",
    ),
    (
        lambda: gather_decode(AT, V, ones(4)),
        ValueError,
        "gather_decode: table.ndim is 1, expected 2",
    ),
    (
        lambda: gather_decode(AT, V, AT),
        TypeError,
        "gather_decode: table.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: gather_decode(np.array(0), np.array(1, F32), T),
        ValueError,
        "gather_decode: values.ndim is 0, expected at least 1",
    ),
    (
        lambda: gather_decode(AT, V, T, bias=ones(4)),
        ValueError,
        "gather_decode: bias.shape[0] is 4, expected table.shape[1] = 5",
    ),
    (
        lambda: gather_decode(AT, V, T, out=ones(2, 4)),
        ValueError,
        "gather_decode: out.shape is (2, 4), expected (2, 5)",
    ),
    (
        lambda: gather_decode(AT, V, T, out=T[:2]),
        ValueError,
        "gather_decode: out overlaps table, expected separate memory",
    ),
    (
        lambda: gather_decode_backward(ones(2, 4), AT, V, T),
        ValueError,
        "gather_decode_backward: dy.shape is (2, 4), expected (2, 5)",
    ),
    (
        lambda: gather_decode_backward(ones(2, 5), AT - 1, V, T),
        ValueError,
        "gather_decode_backward: indices has -1, expected 0 to 3, the rows of table",
    ),
    (
        lambda: gather_decode_backward(ones(2, 5), AT, V, T, needs=True),  # type: ignore[arg-type]
        ValueError,
        "gather_decode_backward: needs is True, expected two of True and False",
    ),
    (
        lambda: gather_decode_backward(
            ones(2, 5), AT, V, T, needs=(True, False), out=(None, ones(4, 5))
        ),
        ValueError,
        "gather_decode_backward: out[1] is an array, expected None where needs has False",
    ),
    (
        lambda: gather_decode_backward(ones(2, 5), AT, V, T, out=(None, ones(4, 4))),
        ValueError,
        "gather_decode_backward: out[1].shape is (4, 4), expected table.shape = (4, 5)",
    ),
    (
        lambda: gather_decode_backward(ones(2, 5), AT, V, T, out=(V, None)),
        ValueError,
        "gather_decode_backward: out[0] overlaps values, expected separate memory",
    ),
    (
        lambda: topk_rows_backward(V, AT, 0),
        ValueError,
        "topk_rows_backward: indices has 0, expected 0 to -1, the columns of out",
    ),
    (
        lambda: topk_rows_backward(V, AT + 9, 9),
        ValueError,
        "topk_rows_backward: indices has 9, expected 0 to 8, the columns of out",
    ),
    (
        lambda: topk_rows_backward(V, AT, 2.0),  # type: ignore[arg-type]
        TypeError,
        "topk_rows_backward: columns is 2.0, expected an integer",
    ),
    (
        lambda: topk_rows_backward(V, AT, -1),
        ValueError,
        "topk_rows_backward: columns is -1, expected at least 0",
    ),
    (
        lambda: topk_rows_backward(V, AT[:1], 5),
        ValueError,
        "topk_rows_backward: indices.shape is (1, 3), expected dy.shape = (2, 3)",
    ),
    (
        lambda: topk_rows_backward(V, AT, 5, out=ones(2, 4)),
        ValueError,
        "topk_rows_backward: out.shape is (2, 4), expected that of dy with columns = 5 in place "
        "of its last extent",
    ),
    (
        lambda: topk_rows_backward(V, AT, 3, out=V),
        ValueError,
        "topk_rows_backward: out overlaps dy, expected separate memory",
    ),
    (
        lambda: gather_decode_backward(ones(2, 5), AT, V, T, out=()),  # type: ignore[arg-type]
        ValueError,
        "gather_decode_backward: out is (), expected (dvalues, dtable)",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_nothing_is_written_where_an_index_is_out_of_range() -> None:
    out = np.full((2, 5), 7, F32)
    with pytest.raises(ValueError):
        gather_decode(np.array([[0, 0, 0], [0, 0, 4]]), V, T, out=out)
    assert (out == 7).all()
