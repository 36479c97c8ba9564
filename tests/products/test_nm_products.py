"""The products with N:M matrices, and their gradients, against float64 NumPy."""

from __future__ import annotations

from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest
from gossamer import NM

F32 = np.float32
#: Every way in which a kernel picks: 16 values from one group or several, out of 32, 64 or more
#: elements, and groups that do not divide 16 values.
PATTERNS = [(2, 4), (1, 2), (4, 8), (8, 16), (16, 32), (1, 4), (2, 8), (8, 32), (1, 16), (1, 32)]
PATTERNS += [(1, 1), (4, 4), (3, 4), (2, 5), (7, 9), (31, 32), (32, 32), (1, 8)]
WIDTHS = [1, 2, 3, 7, 8, 9, 11, 13, 33, 64, 128, 200]
AXES = [0, 1]


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def draw(
    shape: tuple[int, int],
    pattern: tuple[int, int],
    axis: int,
    dtype: Any,
    *,
    integers: bool = True,
) -> np.ndarray:
    """Draw a matrix with at most n nonzero elements in each group; the first line is empty."""
    n, m = pattern
    lines, length = shape if axis == 1 else shape[::-1]
    rng = np.random.default_rng(n * 37 + m)
    order = rng.random((lines, length // m, m)).argsort(axis=2)
    kept = order < rng.integers(0, n + 1, (lines, length // m, 1))
    kept[:1] = False
    kept[1:2] = order[1:2] < n
    values = oracle.random_dense((lines, length), dtype, seed=1, integers=integers)
    dense = np.where(kept.reshape(lines, length), values, np.zeros((), dtype))
    return dense if axis == 1 else np.ascontiguousarray(dense.T)


def shape_of(pattern: tuple[int, int], axis: int, lines: int, groups: int) -> tuple[int, int]:
    length = groups * pattern[1]
    return (lines, length) if axis == 1 else (length, lines)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


def elements(a: NM) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the column of each value, in the shape of the values."""
    numbers = np.arange(1, a.nnz + 1, dtype=np.float64).reshape(a.values.shape)
    rows, cols = np.nonzero(numbered := a.with_values(numbers).to_dense())
    place = numbered[rows, cols].astype(int) - 1
    at = np.zeros((2, a.nnz), int)
    at[:, place] = rows, cols
    return at[0].reshape(a.values.shape), at[1].reshape(a.values.shape)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_sums_of_integers_are_exact(pattern: tuple[int, int], axis: int) -> None:
    for lines, groups in ((1, 1), (5, 9), (37, 21), (70, 70)):
        dense = draw(shape_of(pattern, axis, lines, groups), pattern, axis, F32)
        a = NM.from_dense(dense, *pattern, axis=axis)
        for n in WIDTHS:
            b = oracle.random_dense((dense.shape[1], n), F32, seed=2, integers=True)
            want = wide(dense) @ wide(b)
            np.testing.assert_array_equal(gossamer.spmm(a, b), want)
            np.testing.assert_array_equal(gossamer.linear(np.ascontiguousarray(b.T), a), want.T)
            c = oracle.random_dense((dense.shape[0], n), F32, seed=3, integers=True)
            got = gossamer.spmm(a, c, transpose_a=True)
            np.testing.assert_array_equal(got, wide(dense).T @ wide(c))
            np.testing.assert_array_equal(gossamer.spmm(a.T, c), got)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("pattern", [(2, 4), (2, 8), (3, 5), (1, 16)], ids=str)
def test_every_type(pattern: tuple[int, int], dtype: Any, axis: int) -> None:
    dense = draw(shape_of(pattern, axis, 45, 37), pattern, axis, dtype)
    a = NM.from_dense(dense, *pattern, axis=axis)
    for n in (1, 5, 16, 70):
        b = oracle.random_dense((dense.shape[1], n), dtype, seed=2, integers=True)
        want = (wide(dense) @ wide(b)).astype(dtype)
        np.testing.assert_array_equal(gossamer.spmm(a, b), want)
        np.testing.assert_array_equal(gossamer.linear(np.ascontiguousarray(b.T), a), want.T)
        c = oracle.random_dense((dense.shape[0], n), dtype, seed=3, integers=True)
        got = gossamer.spmm(a, c, transpose_a=True)
        np.testing.assert_array_equal(got, (wide(dense).T @ wide(c)).astype(dtype))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("n", [1, 6, 40])
def test_rounding_stays_within_the_dot_product_bound(dtype: Any, n: int, axis: int) -> None:
    pattern = (2, 4)
    dense = draw((200, 320), pattern, axis, dtype, integers=False)
    a = NM.from_dense(dense, *pattern, axis=axis)
    b = oracle.random_dense((320, n), dtype, seed=5)
    want, magnitude = wide(dense) @ wide(b), np.abs(wide(dense)) @ np.abs(wide(b))
    oracle.assert_close(gossamer.spmm(a, b), want, magnitude, 320)
    got = gossamer.linear(np.ascontiguousarray(b.T), a)
    oracle.assert_close(got, want.T, magnitude.T, 320)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("activation", oracle.ACTIVATIONS, ids=str)
def test_epilogue(activation: Any, axis: int) -> None:
    dense = draw((72, 96), (2, 8), axis, F32, integers=False)
    a = NM.from_dense(dense, 2, 8, axis=axis)
    bias = oracle.random_dense((72,), F32, seed=7)
    for n in (1, 4, 21, 64):
        b = oracle.random_dense((96, n), F32, seed=8)
        before = oracle.random_dense((72, n), F32, seed=9)
        sums = wide(dense) @ wide(b) + wide(bias)[:, None] + wide(before)
        want = oracle.ACTIVATIONS[activation](sums)
        options = {"bias": bias, "activation": activation, "accumulate": True}
        out = before.copy()
        assert gossamer.spmm(a, b, out=out, **options) is out
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)
        out = np.ascontiguousarray(before.T)
        gossamer.linear(np.ascontiguousarray(b.T), a, out=out, **options)
        np.testing.assert_allclose(out, want.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", AXES)
def test_strided_rows_leading_axes_and_vectors(axis: int) -> None:
    dense = draw((40, 48), (2, 4), axis, F32)
    a = NM.from_dense(dense, 2, 4, axis=axis)
    x = oracle.random_dense((2, 3, 60), F32, seed=2, integers=True)
    out = np.full((2, 3, 44), 9, F32)
    got = gossamer.linear(x[..., 5:53], a, out=out[..., 1:41])
    np.testing.assert_array_equal(got, x[..., 5:53] @ dense.T)
    assert (out[..., 0] == 9).all()
    b = oracle.random_dense((48, 20), F32, seed=3, integers=True)
    np.testing.assert_array_equal(gossamer.spmm(a, b[:, 2:19]), dense @ b[:, 2:19])
    np.testing.assert_array_equal(gossamer.spmm(a, b[:, 4].copy()), dense @ b[:, 4])
    c = oracle.random_dense((40,), F32, seed=4, integers=True)
    np.testing.assert_array_equal(gossamer.spmm(a, c, transpose_a=True), dense.T @ c)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", [(0, 0), (0, 8), (8, 0), (8, 8)])
def test_empty_matrices_give_the_epilogue_of_zero(shape: tuple[int, int], axis: int) -> None:
    a = NM.from_dense(np.zeros(shape, F32), 2, 4, axis=axis)
    bias = np.arange(shape[0], dtype=F32)
    for n in (0, 1, 5, 20):
        got = gossamer.spmm(a, np.ones((shape[1], n), F32), bias=bias)
        np.testing.assert_array_equal(got, np.repeat(bias[:, None], n, axis=1))
        got = gossamer.spmm(a, np.ones((shape[0], n), F32), transpose_a=True)
        np.testing.assert_array_equal(got, np.zeros((shape[1], n)))
        dx, dvalues, dbias = gossamer.linear_backward(
            np.ones((n, shape[0]), F32), np.ones((n, shape[1]), F32), a
        )
        np.testing.assert_array_equal(dx, np.zeros((n, shape[1])))
        np.testing.assert_array_equal(dvalues, np.full(a.values.shape, n))
        np.testing.assert_array_equal(dbias, np.full(shape[0], n))


@pytest.mark.parametrize("axis", AXES)
def test_what_no_value_touches_does_not_matter(axis: int) -> None:
    dense = np.zeros((64, 64), F32)
    kept = np.zeros((64, 64), bool)
    (kept if axis == 1 else kept.T)[:, 1::4] = True
    dense[kept] = 2
    a = NM.from_dense(dense, 1, 4, axis=axis)
    for n in (1, 4, 40):
        b = np.ones((64, n), F32)
        if axis == 1:
            b[::4] = np.inf
            b[2::4] = np.nan
        np.testing.assert_array_equal(
            gossamer.spmm(a, b), np.full((64, n), 32.0) if axis == 1 else dense @ b
        )


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("pattern", [(2, 4), (3, 4), (7, 9)], ids=str)
@pytest.mark.parametrize("dtype", [F32, np.float64], ids=name)
def test_long_lines_are_summed_in_parts(dtype: Any, pattern: tuple[int, int], axis: int) -> None:
    # Of the 512 values that a kernel takes at a time there are several, and some are left over.
    dense = draw(shape_of(pattern, axis, 5, 601), pattern, axis, dtype)
    a = NM.from_dense(dense, *pattern, axis=axis)
    for n in (1, 2, 4, 9):
        b = oracle.random_dense((dense.shape[1], n), dtype, seed=2, integers=True)
        np.testing.assert_array_equal(gossamer.spmm(a, b), wide(dense) @ wide(b))
        c = oracle.random_dense((dense.shape[0], n), dtype, seed=3, integers=True)
        got = gossamer.spmm(a, c, transpose_a=True)
        np.testing.assert_array_equal(got, wide(dense).T @ wide(c))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("n", [1, 4, 33, 128])
def test_threads_do_not_change_a_bit(axis: int, n: int) -> None:
    dense = draw((640, 512), (2, 4), axis, F32, integers=False)
    a = NM.from_dense(dense, 2, 4, axis=axis)
    b = oracle.random_dense((512, n), F32, seed=6)
    c = oracle.random_dense((640, n), F32, seed=7)
    before, results = gossamer.get_num_threads(), set()
    try:
        for threads in (1, 2, 3, 8):
            gossamer.set_num_threads(threads)
            parts = [gossamer.spmm(a, b), gossamer.spmm(a, c, transpose_a=True)]
            parts += gossamer.spmm_backward(c, a, b)
            results.add(b"".join(part.tobytes() for part in parts))
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (3, 5), (1, 16), (16, 32)], ids=str)
def test_gradients_of_integers_are_exact(pattern: tuple[int, int], dtype: Any, axis: int) -> None:
    for lines, groups in ((1, 1), (37, 21)):
        dense = draw(shape_of(pattern, axis, lines, groups), pattern, axis, dtype)
        a = NM.from_dense(dense, *pattern, axis=axis)
        rows, cols = elements(a)
        for n in (1, 6, 64, 100, 128, 150):
            x = oracle.random_dense((n, dense.shape[1]), dtype, seed=3, integers=True)
            dy = oracle.random_dense((n, dense.shape[0]), dtype, seed=4, integers=True)
            dx, dvalues, dbias = gossamer.linear_backward(dy, x, a)
            np.testing.assert_array_equal(dx, (wide(dy) @ wide(dense)).astype(dtype))
            want = (wide(dy).T @ wide(x))[rows, cols]
            np.testing.assert_array_equal(dvalues, want.astype(dtype))
            np.testing.assert_array_equal(dbias, wide(dy).sum(axis=0).astype(dtype))
            b, c = np.ascontiguousarray(x.T), np.ascontiguousarray(dy.T)
            for got, full in zip(
                gossamer.spmm_backward(c, a, b), (dvalues, dx.T, dbias), strict=True
            ):
                np.testing.assert_array_equal(got, full)
            dvalues_t, dc, _ = gossamer.spmm_backward(b, a, c, transpose_a=True)
            np.testing.assert_array_equal(dvalues_t, dvalues)
            np.testing.assert_array_equal(dc, (wide(dense) @ wide(b)).astype(dtype))
            out = np.ones_like(dvalues)
            needs = (False, True, False)
            gossamer.linear_backward(dy, x, a, needs=needs, accumulate=True, out=(None, out, None))
            np.testing.assert_array_equal(out, (1 + wide(dvalues)).astype(dtype))


def test_gradients_are_those_of_finite_differences() -> None:
    w = NM.from_dense(draw((16, 48), (2, 4), 1, np.float64, integers=False), 2, 4)
    x = oracle.random_dense((5, 48), np.float64, seed=3)
    weight = oracle.random_dense((5, 16), np.float64, seed=5)
    _, dvalues, _ = gossamer.linear_backward(weight, x, w)
    step = oracle.random_dense(w.values.shape, np.float64, seed=6)
    ahead = gossamer.linear(x, w.with_values(w.values + step))
    behind = gossamer.linear(x, w.with_values(w.values - step))
    np.testing.assert_allclose((dvalues * step).sum(), (weight * (ahead - behind)).sum() / 2)


def test_arrays_of_frameworks() -> None:
    torch = pytest.importorskip("torch")
    dense = draw((32, 64), (2, 4), 1, F32, integers=False)
    x = oracle.random_dense((7, 64), F32, seed=3)
    want = gossamer.linear(x, NM.from_dense(dense, 2, 4), activation="gelu")
    w = NM.from_dense(torch.from_numpy(dense), 2, 4)
    got = gossamer.linear(torch.from_numpy(x), w, activation="gelu")
    np.testing.assert_array_equal(got.numpy(), want)
    half = NM.from_dense(torch.from_numpy(dense).bfloat16(), 2, 4)
    assert gossamer.linear(torch.from_numpy(x).bfloat16(), half).dtype is torch.bfloat16
    jnp = pytest.importorskip("jax").numpy
    got = gossamer.linear(
        jnp.asarray(x), NM.from_dense(jnp.asarray(dense), 2, 4), activation="gelu"
    )
    np.testing.assert_array_equal(np.asarray(got), want)


A = NM.from_dense(np.array([[1, 0, 2, 0], [0, 3, 0, 0]], F32), 2, 4)  # [2, 4]
BAD: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: gossamer.spmm(A, np.ones((3, 2), F32)),
        ValueError,
        "spmm: b.shape[0] is 3, expected a.shape[1] = 4",
    ),
    (
        lambda: gossamer.spmm(A, np.ones((4, 2), F32), transpose_a=True),
        ValueError,
        "spmm: b.shape[0] is 4, expected a.shape[0] = 2",
    ),
    (
        lambda: gossamer.spmm(A.T, np.ones((4, 2), F32)),
        ValueError,
        "spmm: b.shape[0] is 4, expected a.shape[1] = 2",
    ),
    (
        lambda: gossamer.linear(np.ones((2, 4), ml_dtypes.bfloat16), A),
        TypeError,
        "linear: x.dtype is bfloat16, expected w.dtype = float32",
    ),
    (
        lambda: gossamer.spmm(A, np.ones((4, 2), F32), out=A.values),
        ValueError,
        "spmm: out overlaps a.values, expected separate memory",
    ),
    (
        lambda: gossamer.linear_backward(np.ones((1, 2), F32), np.ones((1, 3), F32), A),
        ValueError,
        "linear_backward: x.shape is (1, 3), expected (1, 4)",
    ),
    (
        lambda: gossamer.linear_backward(
            np.ones((1, 2), F32), np.ones((1, 4), F32), A, out=(None, np.ones(4, F32), None)
        ),
        ValueError,
        "linear_backward: dvalues.shape is (4,), expected w.values.shape = (2, 2)",
    ),
    (
        lambda: gossamer.sddmm(np.ones((2, 3), F32), np.ones((4, 3), F32), A),
        TypeError,
        "sddmm: pattern is a NM, expected a CSR or a BSR",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[row[2] for row in BAD])
def test_bad_calls(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message
