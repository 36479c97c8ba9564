"""The products against float64 NumPy: every format, element type, layout and epilogue."""

from __future__ import annotations

from typing import Any

import gossamer
import gossamer.prune
import ml_dtypes
import numpy as np
import oracle
import pytest
from device import Place, places
from hypothesis import given, settings
from hypothesis import strategies as st
from library import examples

SHAPES = [(1, 1), (5, 3), (16, 16), (17, 33), (130, 257), (64, 700)]
WIDTHS = [1, 2, 5, 8, 9, 16, 31, 64, 65, 130]


def name(dtype: type) -> str:
    return np.dtype(dtype).name


@places(*oracle.FORMATS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("density", [0.03, 0.2, 0.6])
def test_sums_of_integers_are_exact(place: Place, dtype: type, density: float) -> None:
    for shape in place.few(SHAPES, 4):
        a = oracle.random_sparse(shape, density, dtype, seed=1, integers=True)
        wide = a.astype(np.float64)
        operand = place.make(a)
        for n in place.few(WIDTHS, 4):
            b = oracle.random_dense((shape[1], n), dtype, seed=2, integers=True)
            want = wide @ b.astype(np.float64)
            np.testing.assert_array_equal(place.spmm(operand, b), want.astype(dtype))
            x = np.ascontiguousarray(b.T)
            np.testing.assert_array_equal(place.linear(x, operand), want.T.astype(dtype))
            c = oracle.random_dense((shape[0], n), dtype, seed=3, integers=True)
            np.testing.assert_array_equal(
                place.spmm(operand, c, transpose_a=True),
                (wide.T @ c.astype(np.float64)).astype(dtype),
            )


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_every_width_is_exact_and_writes_its_elements_alone(dtype: type) -> None:
    a = oracle.random_sparse((37, 51), 0.3, dtype, seed=1, integers=True)
    operand, wide = oracle.make(a, "csr"), a.astype(np.float64)
    for n in (*range(1, 36), 47, 63, 79, 127):
        x = oracle.random_dense((n, 53), dtype, seed=n, integers=True)[:, 1:52]
        want = (x.astype(np.float64) @ wide.T).astype(dtype)
        out = np.full((n + 2, 41), 7, dtype)
        gossamer.linear(x, operand, out=out[1:-1, 2:39])
        np.testing.assert_array_equal(out[1:-1, 2:39], want)
        out[1:-1, 2:39] = 7
        assert (out == 7).all()
        np.testing.assert_array_equal(gossamer.spmm(operand, x.T.copy()), want.T)


@pytest.mark.parametrize("form", oracle.FORMATS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5])
def test_wide_products_of_the_transpose_are_exact(form: str, dtype: type, density: float) -> None:
    for shape in ((1, 40), (90, 70), (300, 33)):
        a = oracle.random_sparse(shape, density, dtype, seed=1, integers=True)
        operand, wide = oracle.make(a, form), a.astype(np.float64)
        for n in (255, 300, 1030):
            c = oracle.random_dense((shape[0], n), dtype, seed=3, integers=True)
            want = (wide.T @ c.astype(np.float64)).astype(dtype)
            np.testing.assert_array_equal(gossamer.spmm(operand, c, transpose_a=True), want)


@places("csr", "packed")
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("n", [1, 3, 8, 40, 96])
def test_rounding_stays_within_the_dot_product_bound(place: Place, dtype: type, n: int) -> None:
    a = oracle.random_sparse((200, 900), 0.2, dtype, seed=4)
    b = oracle.random_dense((900, n), dtype, seed=5)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    want, magnitude = wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b)
    operand = place.make(a)
    oracle.assert_close(place.spmm(operand, b), want, magnitude, 900)
    oracle.assert_close(place.linear(np.ascontiguousarray(b.T), operand), want.T, magnitude.T, 900)


@places("csr", "packed", "packed-1")
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("activation", oracle.ACTIVATIONS, ids=str)
def test_epilogue(place: Place, dtype: type, activation: object) -> None:
    a = oracle.random_sparse((70, 90), 0.3, dtype, seed=6)
    bias = oracle.random_dense((70,), dtype, seed=7)
    operand = place.make(a)
    act = oracle.ACTIVATIONS[activation]
    # The slope of each activation is below 1.2, so errors of the sums hardly grow.
    summing = oracle.unit_roundoff(np.float64 if dtype is np.float64 else np.float32)
    tolerance = 60 * summing + 4 * oracle.unit_roundoff(dtype)
    for n in (1, 4, 21, 64):
        b = oracle.random_dense((90, n), dtype, seed=8)
        before = oracle.random_dense((70, n), dtype, seed=9)
        sums = a.astype(float) @ b.astype(float) + bias.astype(float)[:, None]
        bound = tolerance * (np.abs(a.astype(float)) @ np.abs(b.astype(float)) + 4)
        x = np.ascontiguousarray(b.T)

        want = act(sums)
        got = place.spmm(operand, b, bias=bias, activation=activation)
        assert np.all(np.abs(got.astype(float) - want) <= bound)
        got = place.linear(x, operand, bias=bias, activation=activation)
        assert np.all(np.abs(got.astype(float) - want.T) <= bound.T)

        options = {"bias": bias, "activation": activation, "accumulate": True}
        want = act(sums + before.astype(float))
        out = before.copy()
        assert place.spmm(operand, b, out=out, **options) is out
        assert np.all(np.abs(out.astype(float) - want) <= bound)
        out = np.ascontiguousarray(before.T)
        assert place.linear(x, operand, out=out, **options) is out
        assert np.all(np.abs(out.astype(float) - want.T) <= bound.T)


@places(*oracle.FORMATS)
def test_bias_of_a_transposed_product_belongs_to_its_rows(place: Place) -> None:
    a = oracle.random_sparse((20, 30), 0.4, np.float32, seed=1, integers=True)
    bias = oracle.random_dense((30,), np.float32, seed=2, integers=True)
    b = oracle.random_dense((20, 6), np.float32, seed=3, integers=True)
    got = place.spmm(place.make(a), b, transpose_a=True, bias=bias)
    np.testing.assert_array_equal(got, a.T @ b + bias[:, None])


@pytest.mark.parametrize("value", [-12.0, -9.0, -1.0, -1e-3, 0.0, 1e-3, 2.0, 9.0, 50.0])
@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=name)
@places("csr")
def test_smooth_activations_keep_their_relative_accuracy(
    place: Place, value: float, activation: str, dtype: type
) -> None:
    a = place.make(np.eye(3, dtype=dtype))
    x = np.full((2, 3), value, dtype=dtype)
    want = oracle.ACTIVATIONS[activation](x.astype(np.float64))
    # The exponent z²/2 of the tail is itself rounded.
    rtol = (8 + value**2) * 2 * oracle.unit_roundoff(dtype)
    got = place.linear(x, a, activation=activation)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=float(np.finfo(dtype).tiny))


@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@places("csr", "packed")
def test_smooth_activations_end_at_zero(place: Place, activation: str, dtype: type) -> None:
    """Far below zero, at -∞, and where a sum of finite products overflows."""
    ends = np.array([-13.3, -20, -88.5, -100, -104, -745, -1e4, -1e30, -1e38, -1e300, -np.inf])
    with np.errstate(over="ignore"):
        x = np.concatenate([ends, [1, 3, np.inf]]).astype(dtype)
        want = oracle.ACTIVATIONS[activation](np.maximum(x.astype(float), -1e4))
    # A diagonal would add 0 times ∞.
    column = place.make(np.ones((1, 1), dtype))
    sums = np.float64 if dtype is np.float64 else np.float32
    rtol = 2 * oracle.unit_roundoff(dtype) + 1000 * oracle.unit_roundoff(sums)
    tiny = max(float(np.finfo(sums).tiny), float(ml_dtypes.finfo(dtype).smallest_subnormal))
    got = place.linear(x[:, None], column, activation=activation)
    np.testing.assert_allclose(got[:, 0].astype(float), want, rtol=rtol, atol=tiny)
    got = place.spmm(column, x[None], activation=activation)
    np.testing.assert_allclose(got[0].astype(float), want, rtol=rtol, atol=tiny)
    for value, expected in zip(x, want, strict=True):
        got = place.linear(np.full((1, 1), value, dtype), column, activation=activation)
        np.testing.assert_allclose(got.astype(float), expected, rtol=rtol, atol=tiny)
    largest = ml_dtypes.finfo(dtype).max
    twice = place.make(np.full((1, 2), largest, dtype))
    got = place.linear(np.full((1, 2), -largest, dtype), twice, activation=activation)
    np.testing.assert_array_equal(got.astype(float), 0)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_smooth_activations_of_all_layers_end_at_zero(activation: Any, dtype: type) -> None:
    ends = [-20, -100, -1e4, -1e30, -1e38, -np.inf, 1, 3, np.inf]
    with np.errstate(over="ignore"):
        x = np.array(ends).astype(dtype)
        want = oracle.ACTIVATIONS[activation](np.maximum(x.astype(float), -1e4))
    one, row, column = np.ones((1, 1), dtype), x[None], x[:, None]
    options: dict[str, Any] = {"activation": activation}
    sparse = {
        "BSR": gossamer.BSR.from_dense(one, 1),
        "NM": gossamer.NM.from_dense(one, 1, 1),
        "NM of columns": gossamer.NM.from_dense(one, 1, 1, axis=0),
    }
    got = {}
    for form, a in sparse.items():
        got[f"{form}, spmm"] = gossamer.spmm(a, row, **options)
        got[f"{form}, transposed"] = gossamer.spmm(a, row, transpose_a=True, **options)
    for form in ("BSR", "NM"):
        got[f"{form}, linear"] = gossamer.linear(column, sparse[form], **options)
    empty = gossamer.CSR.from_dense(np.zeros((len(x), 1), dtype))
    got["a bias alone"] = gossamer.linear(one, empty, bias=x, **options)
    got["sparse_linear"] = gossamer.sparse_linear(column, one, threshold=0, **options)
    got["delta_linear"] = np.stack(
        [
            gossamer.delta_linear(token[None], one, gossamer.DeltaState(), threshold=0, **options)
            for token in column
        ]
    )
    got["gated_mlp"] = np.stack(
        [gossamer.gated_mlp(one, gate[None], one, one, threshold=-1, **options) for gate in column]
    )
    sums = np.float64 if dtype is np.float64 else np.float32
    rtol = 2 * oracle.unit_roundoff(dtype) + 1000 * oracle.unit_roundoff(sums)
    tiny = max(float(np.finfo(sums).tiny), float(ml_dtypes.finfo(dtype).smallest_subnormal))
    for layer, y in got.items():
        np.testing.assert_allclose(
            y.astype(float).ravel(), want, rtol=rtol, atol=tiny, err_msg=layer
        )


@places("csr")
def test_activations_pass_nan_on(place: Place) -> None:
    a = place.make(np.eye(3, dtype=np.float32))
    x = np.full((1, 3), np.nan, dtype=np.float32)
    for activation in oracle.ACTIVATIONS:
        assert np.isnan(place.linear(x, a, activation=activation)).all()


@places(*oracle.FORMATS)
@pytest.mark.parametrize("n", [1, 3, 8, 20])
def test_what_no_entry_touches_does_not_matter(place: Place, n: int) -> None:
    """An infinity under a zero weight must not become NaN, nor through padding."""
    a = oracle.random_sparse((48, 200), 0.3, np.float32, seed=3)
    a[:, ::32] = 0
    b = oracle.random_dense((200, n), np.float32, seed=4)
    want = place.spmm(place.make(a), b)
    b[::32] = np.inf
    b[32] = np.nan
    np.testing.assert_array_equal(place.spmm(place.make(a), b), want)
    assert np.isfinite(want).all()


@places(*oracle.FORMATS)
def test_what_an_entry_touches_does(place: Place) -> None:
    a = np.zeros((40, 70), np.float32)
    a[:, 60] = 1
    a[7, 33] = 2
    for n in (1, 4, 30):
        b = np.ones((70, n), np.float32)
        b[33] = np.inf
        got = place.spmm(place.make(a), b)
        assert np.isinf(got[7]).all()
        assert (np.delete(got, 7, axis=0) == 1).all()


@places("csr", "packed")
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16], ids=name)
def test_strided_rows_in_and_out(place: Place, dtype: type) -> None:
    a = oracle.random_sparse((33, 65), 0.3, dtype, seed=1, integers=True)
    operand = place.make(a)
    for n in (1, 7, 32, 70):
        wide = oracle.random_dense((65, n + 5), dtype, seed=2, integers=True)
        out = np.full((33, n + 3), 99, dtype)
        place.spmm(operand, wide[:, 2 : 2 + n], out=out[:, 1 : 1 + n])
        want = a.astype(float) @ wide[:, 2 : 2 + n].astype(float)
        np.testing.assert_array_equal(out[:, 1 : 1 + n], want)
        assert (out[:, 0] == 99).all()
        assert (out[:, 1 + n :] == 99).all()

        x = oracle.random_dense((n, 70), dtype, seed=3, integers=True)
        out = np.full((n, 40), 99, dtype)
        place.linear(x[:, 5:], operand, out=out[:, :33])
        np.testing.assert_array_equal(out[:, :33], x[:, 5:].astype(float) @ a.astype(float).T)
        assert (out[:, 33:] == 99).all()


@pytest.mark.parametrize("leading", [(), (1,), (4,), (2, 3), (2, 1, 5), (0,), (3, 0)])
@places(*oracle.FORMATS)
def test_linear_takes_any_leading_shape(place: Place, leading: tuple[int, ...]) -> None:
    w = oracle.random_sparse((12, 20), 0.4, np.float32, seed=1, integers=True)
    x = oracle.random_dense((*leading, 20), np.float32, seed=2, integers=True)
    got = place.linear(x, place.make(w))
    assert got.shape == (*leading, 12)
    np.testing.assert_array_equal(got, x @ w.T)


@places(*oracle.FORMATS)
def test_linear_takes_leading_axes_of_any_strides(place: Place) -> None:
    w = oracle.random_sparse((12, 20), 0.4, np.float32, seed=1, integers=True)
    operand = place.make(w)
    wide = oracle.random_dense((3, 9, 4, 23), np.float32, seed=2, integers=True)
    for x in (
        wide[:, 3:, 1, :20],
        wide[:, ::2, 1:, 3:],
        wide[:2, :, 0, :20].transpose(1, 0, 2),
        wide[:, :, ::3, 1:21].transpose(2, 0, 1, 3),
        np.broadcast_to(wide[:1, :, 0, :20], (3, 9, 20)),
        wide[:, :0, :, :20],
    ):
        np.testing.assert_array_equal(place.linear(x, operand), x @ w.T)
    if place.device.name == "cpu":
        x = wide[:, :, 0, :20]
        out = np.full((9, 3, 14), 99, np.float32)
        gossamer.linear(x, operand, out=out.transpose(1, 0, 2)[..., 1:13])
        np.testing.assert_array_equal(out[..., 1:13], (x @ w.T).transpose(1, 0, 2))
        assert (out[..., [0, 13]] == 99).all()
        with pytest.raises(ValueError, match="expected no element to be stored twice"):
            stored_twice = np.lib.stride_tricks.as_strided(out, (3, 9, 12), (48, 48, 4))
            gossamer.linear(x, operand, out=stored_twice)


@places(*oracle.FORMATS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (5, 6)])
def test_empty_matrices_give_the_epilogue_of_zero(place: Place, shape: tuple[int, int]) -> None:
    operand = place.make(np.zeros(shape, np.float32))
    bias = np.arange(shape[0], dtype=np.float32)
    for n in (0, 1, 9):
        got = place.spmm(operand, np.ones((shape[1], n), np.float32), bias=bias)
        np.testing.assert_array_equal(got, np.repeat(bias[:, None], n, axis=1))
        got = place.spmm(operand, np.ones((shape[0], n), np.float32), transpose_a=True)
        np.testing.assert_array_equal(got, np.zeros((shape[1], n)))
    assert place.spmm(operand, np.ones(shape[1], np.float32)).shape == (shape[0],)


@places(*oracle.FORMATS)
@pytest.mark.parametrize("transpose", [False, True])
def test_vectors_are_single_columns(place: Place, transpose: bool) -> None:
    a = oracle.random_sparse((300, 200), 0.3, np.float32, seed=2)
    operand = place.make(a)
    b = oracle.random_dense((300 if transpose else 200,), np.float32, seed=3)
    vector = place.spmm(operand, b, transpose_a=transpose)
    assert vector.ndim == 1
    column = place.spmm(operand, b[:, None], transpose_a=transpose)
    np.testing.assert_array_equal(vector, column[:, 0])


@pytest.mark.parametrize("form", oracle.FORMATS)
@pytest.mark.parametrize("n", [1, 6, 33, 128, 300])
def test_threads_do_not_change_a_bit(form: str, n: int) -> None:
    a = oracle.random_sparse((700, 600), 0.2, np.float32, seed=5)
    operand = oracle.make(a, form)
    b = oracle.random_dense((600, n), np.float32, seed=6)
    c = oracle.random_dense((700, n), np.float32, seed=7)
    before = gossamer.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            gossamer.set_num_threads(threads)
            results.append(
                (
                    gossamer.spmm(operand, b).tobytes(),
                    gossamer.linear(np.ascontiguousarray(b.T), operand).tobytes(),
                    gossamer.spmm(operand, c, transpose_a=True).tobytes(),
                )
            )
    finally:
        gossamer.set_num_threads(before)
    assert len(set(results)) == 1


@places(*oracle.FORMATS)
def test_skewed_rows(place: Place) -> None:
    """A few rows hold nearly everything; most are empty."""
    a = np.zeros((500, 3000), np.float32)
    rng = np.random.default_rng(0)
    a[3] = rng.integers(-2, 3, 3000)
    a[499, ::2] = 1
    a[100:130, 7] = 5
    operand = place.make(a)
    for n in (1, 5, 64):
        b = oracle.random_dense((3000, n), np.float32, seed=1, integers=True)
        np.testing.assert_array_equal(place.spmm(operand, b), a @ b)
        c = oracle.random_dense((500, n), np.float32, seed=2, integers=True)
        np.testing.assert_array_equal(place.spmm(operand, c, transpose_a=True), a.T @ c)


@pytest.mark.parametrize("n", [1, 12, 300])
@places("csr", "packed", "csr64")
def test_more_columns_than_16_bits_can_number(place: Place, n: int) -> None:
    a = np.zeros((20, 70_000), np.float32)
    a[::3, ::997] = 2
    a[1, 69_999] = 3
    b = oracle.random_dense((70_000, n), np.float32, seed=1, integers=True)
    np.testing.assert_array_equal(place.spmm(place.make(a), b), a @ b)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("depth", [0, 1, 3, 16, 63, 64, 100, 128, 200])
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
@places("csr", "csr64")
def test_sddmm(dtype: type, depth: int, density: float, place: Place) -> None:
    dense = oracle.random_sparse((70, 90), density, np.float32, seed=1)
    pattern, host = place.make(dense), gossamer.CSR.from_dense(dense)
    a = oracle.random_dense((70, depth), dtype, seed=2)
    b = oracle.random_dense((90, depth), dtype, seed=3)
    rows = np.repeat(np.arange(70), np.diff(host.indptr))
    wide_a, wide_b = a.astype(float), b.astype(float)
    want = (wide_a @ wide_b.T)[rows, host.indices]
    magnitude = (np.abs(wide_a) @ np.abs(wide_b).T)[rows, host.indices]
    got = place.sddmm(a, b, pattern)
    oracle.assert_close(got, want, magnitude, depth)
    out = np.ones_like(got)
    assert place.sddmm(a, b, pattern, accumulate=True, out=out) is out
    oracle.assert_close(out, want + 1, magnitude + 1, depth + 1)


def test_sddmm_over_several_column_blocks() -> None:
    pattern = oracle.make(oracle.random_sparse((300, 5000), 0.3, np.float32, seed=1), "csr")
    a = oracle.random_dense((300, 128), np.float32, seed=2, integers=True)
    b = oracle.random_dense((5000, 128), np.float32, seed=3, integers=True)
    rows = np.repeat(np.arange(300), np.diff(pattern.indptr))
    np.testing.assert_array_equal(gossamer.sddmm(a, b, pattern), (a @ b.T)[rows, pattern.indices])


def shifted(x: np.ndarray, elements: int) -> np.ndarray:
    """Copy an array to so many elements behind a cache line."""
    memory = np.empty(x.size + 64, x.dtype)
    start = -memory.ctypes.data % 64 // x.itemsize + elements
    memory[start : start + x.size] = x.ravel()
    return memory[start : start + x.size].reshape(x.shape)


@pytest.mark.parametrize("form", ["csr", "nm"])
@pytest.mark.parametrize("depth", [16, 64, 128, 200, 512])
def test_bits_of_sddmm_do_not_depend_on_where_the_operands_lie(form: str, depth: int) -> None:
    pattern = oracle.make(oracle.random_sparse((90, 128), 0.4, np.float32, seed=1), "csr")
    if form == "nm":
        weights = oracle.random_dense((90, 128), np.float32, seed=1)
        pattern = gossamer.NM.from_dense(weights, 2, 4, mask=gossamer.prune.nm_mask(weights, 2, 4))
    y = oracle.random_dense((depth, 90), np.float32, seed=2)
    x = oracle.random_dense((depth, 128), np.float32, seed=3)
    if form == "csr":
        a, b = np.ascontiguousarray(y.T), np.ascontiguousarray(x.T)
        want = gossamer.sddmm(shifted(a, 0), shifted(b, 0), pattern)
        np.testing.assert_array_equal(gossamer.sddmm(shifted(a, 4), shifted(b, 4), pattern), want)
    # The gradient of the values is a sampled product, of copies where the operands are transposed.
    want = gossamer.linear_backward(shifted(y, 0), shifted(x, 0), pattern)[1]
    got = gossamer.linear_backward(shifted(y, 4), shifted(x, 4), pattern)[1]
    np.testing.assert_array_equal(got, want)
    da = gossamer.spmm_backward(shifted(y.T, 4), pattern, shifted(x.T, 4))[0]
    np.testing.assert_array_equal(da, want)


def test_pack_is_a_snapshot() -> None:
    a = gossamer.CSR.from_dense(np.eye(40, dtype=np.float32))
    packed = gossamer.pack(a)
    a.values[:] = 7
    b = np.ones((40, 3), np.float32)
    np.testing.assert_array_equal(gossamer.spmm(packed, b), b)
    np.testing.assert_array_equal(gossamer.spmm(a, b), 7 * b)


def test_pack_reports_itself() -> None:
    a = gossamer.CSR.from_dense(oracle.random_sparse((64, 64), 0.5, np.float32, seed=1))
    packed = gossamer.pack(a)
    assert (packed.shape, packed.nnz, packed.dtype) == (a.shape, a.nnz, "float32")
    assert packed.layouts
    assert packed.nbytes >= 4 * a.nnz
    one = gossamer.pack(a, n=1)
    assert one.nbytes < packed.nbytes or one.layouts == packed.layouts


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_columns_of_blocks_have_the_same_bits_in_any_batch(dtype: type) -> None:
    dense = oracle.random_sparse((200, 700), 0.2, np.float64, seed=1).astype(dtype)
    packed = gossamer.pack(gossamer.CSR.from_dense(dense), n=32)
    assert packed.layouts == "blocks"
    b = oracle.random_dense((700, 200), np.float64, seed=2).astype(dtype)
    wide = gossamer.spmm(packed, b)
    for first, last in [(0, 1), (7, 9), (3, 11), (50, 81), (100, 132), (60, 125)]:
        columns = np.ascontiguousarray(b[:, first:last])
        np.testing.assert_array_equal(gossamer.spmm(packed, columns), wide[:, first:last])
        np.testing.assert_array_equal(
            gossamer.linear(np.ascontiguousarray(columns.T), packed), wide[:, first:last].T
        )


def test_an_entry_of_sddmm_does_not_depend_on_the_others() -> None:
    full = np.ones((40, 90), np.float32)
    some = oracle.random_sparse((40, 90), 0.1, np.float32, seed=1) != 0
    a, b = (oracle.random_dense((rows, 70), np.float32, seed=2) for rows in (40, 90))
    everything = gossamer.sddmm(a, b, gossamer.CSR.from_dense(full)).reshape(full.shape)
    got = gossamer.sddmm(a, b, gossamer.CSR.from_dense(full, mask=some))
    np.testing.assert_array_equal(got, everything[some])


matrices = st.builds(
    lambda m, k, density, seed: oracle.random_sparse(
        (m, k), density, np.float64, seed, integers=True
    ),
    st.integers(0, 40),
    st.integers(0, 300),
    st.floats(0, 1),
    st.integers(0, 2**31),
)


@settings(deadline=None, max_examples=examples(60))
@given(
    matrices,
    st.integers(0, 70),
    st.sampled_from(oracle.FORMATS),
    st.sampled_from([np.float32, np.float64]),
)
def test_products_are_linear(a: np.ndarray, n: int, form: str, dtype: type) -> None:
    operand = oracle.make(a.astype(dtype), form)
    b = oracle.random_dense((a.shape[1], n), dtype, seed=1, integers=True)
    c = oracle.random_dense((a.shape[1], n), dtype, seed=2, integers=True)
    both = gossamer.spmm(operand, b + 2 * c)
    np.testing.assert_array_equal(both, gossamer.spmm(operand, b) + 2 * gossamer.spmm(operand, c))


@settings(deadline=None, max_examples=examples(60))
@given(matrices, st.integers(0, 70), st.sampled_from(oracle.FORMATS))
def test_a_product_with_the_transpose_is_the_transposed_product(
    a: np.ndarray, n: int, form: str
) -> None:
    transposed, _ = gossamer.CSR.from_dense(a).transpose()
    b = oracle.random_dense((a.shape[1], n), np.float64, seed=1, integers=True)
    np.testing.assert_array_equal(
        gossamer.spmm(oracle.make(a, form), b), gossamer.spmm(transposed, b, transpose_a=True)
    )
