"""The gradients of the products, against float64 NumPy and finite differences."""

from __future__ import annotations

from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest

F32 = np.float32
FORMS = ["csr", "csr64", "bsr-2x3", "bsr-4x8", "bsr-16x16", "bsr-1x16"]
#: Multiples of every block.
SHAPES = [(16, 48), (48, 96), (112, 144)]
WIDTHS = [1, 2, 8, 9, 33, 64, 130]


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def block_of(form: str) -> tuple[int, int]:
    rows, _, cols = form.partition("-")[2].partition("x")
    return int(rows), int(cols)


def make(a: np.ndarray, form: str) -> Any:
    if form.startswith("bsr"):
        return gossamer.BSR.from_dense(a, block_of(form))
    return oracle.make(a, form)


def draw(
    shape: tuple[int, int], dtype: Any, form: str, density: float = 0.2, *, integers: bool = True
) -> np.ndarray:
    """Draw a dense array whose blocks are full or empty."""
    block = block_of(form) if form.startswith("bsr") else (1, 1)
    grid = (shape[0] // block[0], shape[1] // block[1])
    kept = oracle.random_sparse(grid, density, np.float64, seed=1) != 0
    values = oracle.random_dense(shape, dtype, seed=2, integers=integers)
    return np.where(np.kron(kept, np.ones(block)) != 0, values, np.zeros((), dtype))


def sampled(dense: np.ndarray, a: Any) -> np.ndarray:
    """Return the elements of a dense matrix at the values of a sparse one, in their shape."""
    indptr, indices = np.asarray(a.indptr), np.asarray(a.indices)
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    if isinstance(a, gossamer.CSR):
        return dense[rows, indices]
    br, bc = a.block
    blocks = [
        dense[i * br : (i + 1) * br, j * bc : (j + 1) * bc]
        for i, j in zip(rows, indices, strict=True)
    ]
    return np.array(blocks).reshape(-1, br, bc)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_gradients_of_integers_are_exact(form: str, dtype: Any) -> None:
    for shape in SHAPES:
        dense = draw(shape, dtype, form)
        w = make(dense, form)
        for n in WIDTHS:
            x = oracle.random_dense((n, shape[1]), dtype, seed=3, integers=True)
            dy = oracle.random_dense((n, shape[0]), dtype, seed=4, integers=True)
            want_x = (wide(dy) @ wide(dense)).astype(dtype)
            want_w = sampled(wide(dy).T @ wide(x), w).astype(dtype)
            want_bias = wide(dy).sum(axis=0).astype(dtype)
            dx, dvalues, dbias = gossamer.linear_backward(dy, x, w)
            np.testing.assert_array_equal(dx, want_x)
            np.testing.assert_array_equal(dvalues, want_w)
            np.testing.assert_array_equal(dbias, want_bias)

            # The same product by columns.
            columns, b = np.ascontiguousarray(dy.T), np.ascontiguousarray(x.T)
            dvalues, db, dbias = gossamer.spmm_backward(columns, w, b)
            np.testing.assert_array_equal(dvalues, want_w)
            np.testing.assert_array_equal(db, want_x.T)
            np.testing.assert_array_equal(dbias, want_bias)

            # Y = Aᵀ·B has B of dy's shape.
            dvalues, db, dbias = gossamer.spmm_backward(b, w, columns, transpose_a=True)
            np.testing.assert_array_equal(dvalues, want_w)
            np.testing.assert_array_equal(db, (wide(dense) @ wide(b)).astype(dtype))
            np.testing.assert_array_equal(dbias, wide(b).sum(axis=1).astype(dtype))


@pytest.mark.parametrize("form", ["csr", "bsr-16x16", "bsr-2x3"])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("n", [1, 7, 70])
def test_rounding_stays_within_the_dot_product_bound(form: str, dtype: Any, n: int) -> None:
    dense = draw((192, 240), dtype, form, integers=False)
    w = make(dense, form)
    x = oracle.random_dense((n, 240), dtype, seed=3)
    dy = oracle.random_dense((n, 192), dtype, seed=4)
    dx, dvalues, dbias = gossamer.linear_backward(dy, x, w)
    size = np.abs(wide(dy))
    oracle.assert_close(dx, wide(dy) @ wide(dense), size @ np.abs(wide(dense)), 192)
    magnitude = sampled(size.T @ np.abs(wide(x)), w)
    oracle.assert_close(dvalues, sampled(wide(dy).T @ wide(x), w), magnitude, n)
    oracle.assert_close(dbias, wide(dy).sum(axis=0), size.sum(axis=0), n)


@pytest.mark.parametrize("form", ["csr", "bsr-4x8"])
def test_gradients_are_those_of_finite_differences(form: str) -> None:
    w = make(draw((16, 48), np.float64, form, integers=False), form)
    x = oracle.random_dense((3, 5, 48), np.float64, seed=3)
    bias = oracle.random_dense((16,), np.float64, seed=4)
    weight = oracle.random_dense((3, 5, 16), np.float64, seed=5)  # dL/dy of L = Σ weight·y
    values = w.values if form == "csr" else w.blocks

    def loss(x: np.ndarray, values: np.ndarray, bias: np.ndarray) -> float:
        return float((weight * gossamer.linear(x, w.with_values(values), bias=bias)).sum())

    given = (x, values, bias)
    for i, gradient in enumerate(gossamer.linear_backward(weight, x, w)):
        step = oracle.random_dense(given[i].shape, np.float64, seed=6 + i)
        ahead, behind = ([*given], [*given])
        ahead[i], behind[i] = given[i] + 0.5 * step, given[i] - 0.5 * step
        # The loss is linear in each operand: a difference has no error but rounding.
        np.testing.assert_allclose((gradient * step).sum(), loss(*ahead) - loss(*behind))


@pytest.mark.parametrize("needed", range(8))
def test_only_what_is_needed_is_computed(needed: int) -> None:
    needs = tuple(bool(needed >> i & 1) for i in range(3))
    w = make(draw((16, 48), F32, "csr"), "csr")
    x = oracle.random_dense((6, 48), F32, seed=3, integers=True)
    dy = oracle.random_dense((6, 16), F32, seed=4, integers=True)
    everything = gossamer.linear_backward(dy, x, w)
    got = gossamer.linear_backward(dy, x if needs[1] else None, w, needs=needs)
    for one, full, need in zip(got, everything, needs, strict=True):
        if need:
            np.testing.assert_array_equal(one, full)
        else:
            assert one is None
    columns, b = np.ascontiguousarray(dy.T), np.ascontiguousarray(x.T)
    everything = gossamer.spmm_backward(columns, w, b)
    got = gossamer.spmm_backward(columns, w, b if needs[0] else None, needs=needs)
    for one, full, need in zip(got, everything, needs, strict=True):
        if need:
            np.testing.assert_array_equal(one, full)
        else:
            assert one is None


@pytest.mark.parametrize("form", ["csr", "bsr-16x16"])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("accumulate", [False, True])
def test_many_rows_are_taken_in_parts(form: str, dtype: Any, accumulate: bool) -> None:
    w = make(draw((48, 96), dtype, form), form)
    for n in (129, 256, 300):
        x = oracle.random_dense((n, 96), dtype, seed=3, integers=True)
        dy = oracle.random_dense((n, 48), dtype, seed=4, integers=True)
        want = sampled(wide(dy).T @ wide(x), w) + 2 * accumulate
        out = np.full(want.shape, 2, dtype)
        needs = (False, True, False)
        gossamer.linear_backward(
            dy, x, w, needs=needs, accumulate=accumulate, out=(None, out, None)
        )
        np.testing.assert_array_equal(out, want.astype(dtype))


@pytest.mark.parametrize("form", ["csr", "bsr-16x16"])
@pytest.mark.parametrize("dtype", [F32, ml_dtypes.bfloat16], ids=name)
def test_gradients_are_added_to_out(form: str, dtype: Any) -> None:
    w = make(draw((48, 96), dtype, form), form)
    x = oracle.random_dense((2, 9, 96), dtype, seed=3, integers=True)
    dy = oracle.random_dense((2, 9, 48), dtype, seed=4, integers=True)
    want = gossamer.linear_backward(dy, x, w)
    out = tuple(np.full_like(gradient, 2) for gradient in want)
    got = gossamer.linear_backward(dy, x, w, out=out, accumulate=True)
    for one, array, gradient in zip(got, out, want, strict=True):
        assert one is array
        np.testing.assert_array_equal(wide(one), wide(gradient) + 2)
    gossamer.linear_backward(dy, x, w, out=out)
    for array, gradient in zip(out, want, strict=True):
        np.testing.assert_array_equal(array, gradient)


def test_rows_may_be_strided() -> None:
    w = make(draw((16, 48), F32, "csr"), "csr")
    x = oracle.random_dense((7, 60), F32, seed=3, integers=True)
    dy = oracle.random_dense((7, 30), F32, seed=4, integers=True)
    dx = np.full((7, 50), 9, F32)
    want = gossamer.linear_backward(dy[:, 2:18].copy(), x[:, 5:53].copy(), w)
    got = gossamer.linear_backward(dy[:, 2:18], x[:, 5:53], w, out=(dx[:, 1:49], None, None))
    for one, gradient in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, gradient)
    assert (dx[:, 0] == 9).all()
    assert (dx[:, 49] == 9).all()


@pytest.mark.parametrize("form", ["csr", "bsr-16x16"])
@pytest.mark.parametrize(("m", "k", "n"), [(0, 48, 3), (16, 0, 3), (16, 48, 0), (16, 48, 3)])
def test_empty_operands_give_zeros(form: str, m: int, k: int, n: int) -> None:
    w = make(np.zeros((m, k), F32), form)
    dx, dvalues, dbias = gossamer.linear_backward(np.ones((n, m), F32), np.ones((n, k), F32), w)
    np.testing.assert_array_equal(dx, np.zeros((n, k)))
    assert dvalues.size == 0
    np.testing.assert_array_equal(dbias, np.full(m, n))
    full = make(np.ones((16, 48), F32), form)
    _, dvalues, _ = gossamer.linear_backward(np.ones((0, 16), F32), np.ones((0, 48), F32), full)
    np.testing.assert_array_equal(dvalues, np.zeros_like(dvalues))
    assert dvalues.size == 16 * 48


def test_vectors_are_single_rows() -> None:
    w = make(draw((16, 48), F32, "csr"), "csr")
    x, dy = oracle.random_dense((48,), F32, seed=3), oracle.random_dense((16,), F32, seed=4)
    got = gossamer.linear_backward(dy, x, w)
    want = gossamer.linear_backward(dy[None], x[None], w)
    assert got[0].shape == (48,)
    columns = gossamer.spmm_backward(dy, w, x)
    assert columns[1].shape == (48,)
    for one, gradient, column in zip(got, want, (columns[1], columns[0], columns[2]), strict=True):
        np.testing.assert_array_equal(one, gradient.reshape(one.shape))
        np.testing.assert_array_equal(one, column)


def test_a_long_matrix_with_few_entries() -> None:
    dense = np.zeros((40, 70_000), F32)
    dense[::3, ::997] = 2
    w = gossamer.CSR.from_dense(dense)
    for dtype in (F32, np.float16):
        a = w.with_values(w.values.astype(dtype))
        x = oracle.random_dense((5, 70_000), dtype, seed=3, integers=True)
        dy = oracle.random_dense((5, 40), dtype, seed=4, integers=True)
        dx, dvalues, _ = gossamer.linear_backward(dy, x, a)
        np.testing.assert_array_equal(dx, wide(dy) @ dense)
        np.testing.assert_array_equal(dvalues, sampled(wide(dy).T @ wide(x), a))


@pytest.mark.parametrize("form", ["csr", "bsr-16x16"])
def test_threads_do_not_change_a_bit(form: str) -> None:
    w = make(draw((336, 480), F32, form, integers=False), form)
    x = oracle.random_dense((70, 480), F32, seed=3)
    dy = oracle.random_dense((70, 336), F32, seed=4)
    before, results = gossamer.get_num_threads(), set()
    try:
        for threads in (1, 2, 3, 8):
            gossamer.set_num_threads(threads)
            gradients = gossamer.linear_backward(dy, x, w)
            results.add(b"".join(gradient.tobytes() for gradient in gradients))
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


def test_arrays_of_frameworks() -> None:
    torch = pytest.importorskip("torch")
    dense = draw((16, 48), F32, "csr", integers=False)
    x = oracle.random_dense((3, 5, 48), F32, seed=3)
    dy = oracle.random_dense((3, 5, 16), F32, seed=4)
    want = gossamer.linear_backward(dy, x, gossamer.CSR.from_dense(dense))
    w = gossamer.CSR.from_dense(torch.from_numpy(dense))
    got = gossamer.linear_backward(torch.from_numpy(dy), torch.from_numpy(x), w)
    for one, gradient in zip(got, want, strict=True):
        assert isinstance(one, torch.Tensor)
        np.testing.assert_array_equal(one.numpy(), gradient)
    layer = torch.nn.functional.linear
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, dense)]
    layer(*tensors).backward(torch.from_numpy(dy))
    np.testing.assert_allclose(got[0], tensors[0].grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1], sampled(tensors[1].grad.numpy(), w), rtol=1e-4, atol=1e-5)


W = gossamer.CSR.from_dense(np.array([[1, 0, 2], [0, 3, 0]], F32))  # [2, 3]
DY, X = np.ones((4, 2), F32), np.ones((4, 3), F32)
SHARED = np.ones((8, 8), F32)

BAD: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: gossamer.linear_backward(np.array(1, F32), X, W),
        ValueError,
        "linear_backward: dy.ndim is 0, expected at least 1",
    ),
    (
        lambda: gossamer.linear_backward(X, X, W),
        ValueError,
        "linear_backward: dy.shape[1] is 3, expected w.shape[0] = 2",
    ),
    (
        lambda: gossamer.linear_backward(DY, X[:3], W),
        ValueError,
        "linear_backward: x.shape is (3, 3), expected (4, 3)",
    ),
    (
        lambda: gossamer.linear_backward(DY, X.astype(np.float64), W),
        TypeError,
        "linear_backward: x.dtype is float64, expected w.dtype = float32",
    ),
    (
        lambda: gossamer.linear_backward(DY.astype(np.float16), X, W),
        TypeError,
        "linear_backward: dy.dtype is float16, expected w.dtype = float32",
    ),
    (
        lambda: gossamer.linear_backward(DY, None, W),
        ValueError,
        "linear_backward: x is None, expected an array where dvalues are computed",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, gossamer.pack(W)),
        TypeError,
        "linear_backward: w is a Packed, expected a CSR, a BSR or an NM",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, needs=(True, True)),
        ValueError,
        "linear_backward: needs is a tuple of 2, expected three of True and False",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, needs=True),
        ValueError,
        "linear_backward: needs is True, expected three of True and False",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, out=(X.copy(),)),
        ValueError,
        "linear_backward: out is a tuple of 1, expected (dx, dvalues, dbias)",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, needs=(0, 1, 1), out=(X.copy(), None, None)),
        ValueError,
        "linear_backward: dx is an array, expected None where needs has False",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, accumulate=True),
        ValueError,
        "linear_backward: accumulate is True, expected dx to add to",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, out=(DY.copy(), None, None)),
        ValueError,
        "linear_backward: dx.shape is (4, 2), expected (4, 3)",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, out=(X, None, None)),
        ValueError,
        "linear_backward: dx overlaps x, expected separate memory",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, out=(None, np.ones(4, F32), None)),
        ValueError,
        "linear_backward: dvalues.shape is (4,), expected w.values.shape = (3,)",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, out=(None, W.values, None)),
        ValueError,
        "linear_backward: dvalues overlaps w.values, expected separate memory",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, out=(None, np.ones(3), None)),
        TypeError,
        "linear_backward: dvalues.dtype is float64, expected w.dtype = float32",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, out=(None, SHARED[0, :3], SHARED[0, 2:4])),
        ValueError,
        "linear_backward: dbias overlaps dvalues, expected separate memory",
    ),
    (
        lambda: gossamer.linear_backward(DY, X, W, out=(None, None, np.ones(3, F32))),
        ValueError,
        "linear_backward: dbias.shape[0] is 3, expected w.shape[0] = 2",
    ),
    (
        lambda: gossamer.spmm_backward(DY, W, X.T.copy()),
        ValueError,
        "spmm_backward: dy.shape[0] is 4, expected a.shape[0] = 2",
    ),
    (
        lambda: gossamer.spmm_backward(DY.T.copy(), W, X.T.copy(), transpose_a=True),
        ValueError,
        "spmm_backward: dy.shape[0] is 2, expected a.shape[1] = 3",
    ),
    (
        lambda: gossamer.spmm_backward(DY.T.copy(), W, X),
        ValueError,
        "spmm_backward: b.shape is (4, 3), expected (3, 4)",
    ),
    (
        lambda: gossamer.spmm_backward(DY.T, W, X.T.copy()),
        ValueError,
        "spmm_backward: dy.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
    (
        lambda: gossamer.spmm_backward(DY.T.copy(), W, None),
        ValueError,
        "spmm_backward: b is None, expected an array where dvalues are computed",
    ),
    (
        lambda: gossamer.spmm_backward(DY.T.copy(), X, X.T.copy()),
        TypeError,
        "spmm_backward: a is a ndarray, expected a CSR, a BSR or an NM",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[row[2] for row in BAD])
def test_bad_calls(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message
