"""csr_softmax and csr_attention against float64 NumPy on dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from gossamer import CSR

F32, F64 = np.float32, np.float64
HALVES = [dtype for dtype in oracle.DTYPES if np.dtype(dtype).itemsize == 2]
INF = np.inf


@pytest.fixture(autouse=True)
def _restored_threads() -> Any:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def mask_of(shape: tuple[int, int], density: float, seed: int = 0) -> np.ndarray:
    """Draw a mask: its first row full, its second empty."""
    return oracle.random_sparse(shape, density, F32, seed) != 0


def pattern_of(mask: np.ndarray, *, wide: bool = False) -> CSR:
    """Return the pattern of a mask [M, N], or of several, one below the other."""
    mask = mask.reshape(int(np.prod(mask.shape[:-1])), mask.shape[-1])
    a = CSR.from_dense(mask.astype(F32)).with_values(None)
    if not wide:
        return a
    indptr, indices = (np.asarray(i).astype(np.int64) for i in (a.indptr, a.indices))
    return CSR(indptr, indices, None, a.shape, index_dtype="int64")


def softmax(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return softmax over the last axis, and the logarithm of its denominator."""
    with np.errstate(divide="ignore", invalid="ignore"):
        top = s.max(-1, keepdims=True, initial=-INF)
        top = np.where(np.isfinite(top), top, 0)
        powers = np.exp(s - top)
        total = powers.sum(-1, keepdims=True)
        return powers / np.where(total == 0, 1, total), (top + np.log(total))[..., 0]


# csr_softmax.


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (7, 15), (9, 16), (12, 33), (40, 300)])
def test_softmax(shape: tuple[int, int], wide: bool, dtype: Any) -> None:
    mask = mask_of(shape, 0.4)
    x = (3 * oracle.random_dense(shape, F64, 1)).astype(dtype)
    y = oracle.random_dense(shape, dtype, 2)
    want, _ = softmax(np.where(mask, x.astype(F64), -INF))
    a = pattern_of(mask, wide=wide).with_values(x[mask])
    p = gossamer.csr_softmax(a)
    tolerance = 4 * oracle.unit_roundoff(dtype) + 2e-7 * (dtype is not F64)
    np.testing.assert_allclose(p.values.astype(F64), want[mask], rtol=tolerance + 1e-14, atol=1e-7)
    assert (p.dtype, p.nnz) == (name(dtype), int(mask.sum()))

    kept = p.with_values(p.values).values.astype(F64)
    grads, weights = y[mask].astype(F64), np.zeros(shape)
    weights[mask] = kept
    mean = (weights * y.astype(F64)).sum(-1, keepdims=True)
    want = kept * (grads - np.broadcast_to(mean, shape)[mask])
    got = gossamer.csr_softmax_backward(p, y[mask]).values
    np.testing.assert_allclose(got.astype(F64), want, rtol=tolerance, atol=8 * tolerance + 1e-15)


def test_softmax_of_equal_entries_is_exact() -> None:
    mask = np.tril(np.ones((33, 33), bool))
    p = gossamer.csr_softmax(pattern_of(mask).with_values(np.full(mask.sum(), 7, F32)))
    want = (1 / np.arange(1, 34, dtype=F32))[:, None] * mask
    np.testing.assert_array_equal(p.to_dense(), want)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_softmax_of_extreme_entries(dtype: Any) -> None:
    a = CSR.from_dense(np.ones((4, 20), dtype))
    x = np.zeros((4, 20), dtype)
    x[0], x[1, :19], x[2] = -INF, -INF, 60000 * (np.arange(20) % 2)
    x[3, 5] = np.nan
    p = gossamer.csr_softmax(a.with_values(x.reshape(-1))).values.reshape(4, 20).astype(F64)
    np.testing.assert_array_equal(p[0], 0)
    np.testing.assert_array_equal(p[1], np.arange(20) == 19)
    np.testing.assert_allclose(p[2], 0.1 * (np.arange(20) % 2), rtol=1e-2)
    assert np.isnan(p[3]).all()


def test_softmax_of_several_sets() -> None:
    mask = mask_of((30, 40), 0.3)
    pattern, x = pattern_of(mask), oracle.random_dense((2, 3, int(mask.sum())), F32, 1)
    p = gossamer.csr_softmax(pattern.with_values(x))
    assert p.batch == (2, 3)
    g = gossamer.csr_softmax_backward(p, x)
    for i in np.ndindex(2, 3):
        one = gossamer.csr_softmax(pattern.with_values(x[i]))
        np.testing.assert_array_equal(p.values[i], one.values)
        np.testing.assert_array_equal(g.values[i], gossamer.csr_softmax_backward(one, x[i]).values)


# csr_attention.


def scores(
    q: np.ndarray, k: np.ndarray, score: str, scale: float | None, slope: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [B, H, M, N] for q [B, M, H, D], and their slopes by the sum for "gat"."""
    group = q.shape[2] // k.shape[2] if k.shape[2] else 1
    k = np.repeat(k, group, axis=2)
    if score == "dot":
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        s = scale * np.einsum("bihd,bjhd->bhij", q, k)
        return s, np.full_like(s, scale)
    x = np.moveaxis(q[..., 0], 1, 2)[..., None] + np.moveaxis(k[..., 0], 1, 2)[..., None, :]
    slopes = np.where(x > 0, 1, slope) * (1 if scale is None else scale)
    return x * slopes, slopes


def attend(
    qkv: Any,
    mask: np.ndarray,
    bias: np.ndarray | float = 0,
    *,
    score: str = "dot",
    scale: float | None = None,
    slope: float = 0.2,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return o [B, M, H, Dv], lse and weights; mask and bias broadcast to [B, H, M, N]."""
    q, k, v = (x.astype(F64) for x in qkv)
    s, _ = scores(q, k, score, scale, slope)
    p, lse = softmax(np.where(mask, s + bias, -INF))
    v = np.repeat(v, q.shape[2] // max(v.shape[2], 1), axis=2)
    return np.einsum("bhij,bjhd->bihd", p, v), lse, p


def gradients(
    grad: np.ndarray,
    qkv: Any,
    mask: np.ndarray,
    bias: np.ndarray | float = 0,
    dlse: np.ndarray | float = 0,
    *,
    score: str = "dot",
    scale: float | None = None,
    slope: float = 0.2,
) -> tuple[np.ndarray, ...]:
    """Return dq, dk, dv and the gradient of the scores [B, H, M, N] in float64."""
    grad, q, k, v = (x.astype(F64) for x in (grad, *qkv))
    o, _, p = attend(qkv, mask, bias, score=score, scale=scale, slope=slope)
    heads, group = k.shape[2], q.shape[2] // k.shape[2]
    wide_k, wide_v = (np.repeat(x, group, axis=2) for x in (k, v))
    delta = np.einsum("bihd,bihd->bhi", grad, o) - dlse
    g = p * (np.einsum("bihd,bjhd->bhij", grad, wide_v) - delta[..., None])
    scaled = g * scores(q, k, score, scale, slope)[1]
    if score == "dot":
        dq = np.einsum("bhij,bjhd->bihd", scaled, wide_k)
        dk = np.einsum("bhij,bihd->bjhd", scaled, q)
    else:
        dq = np.moveaxis(scaled.sum(3), 1, 2)[..., None]
        dk = np.moveaxis(scaled.sum(2), 1, 2)[..., None]
    dv = np.einsum("bhij,bihd->bjhd", p, grad)

    def shared(x: np.ndarray) -> np.ndarray:
        b, n, _, d = x.shape
        return x.reshape(b, n, heads, group, d).sum(3)

    return dq, shared(dk), shared(dv), g


def close(got: np.ndarray, want: np.ndarray, dtype: Any, factor: float = 1.0) -> None:
    """Check that the largest error is that of a few roundings of the largest number."""
    assert got.shape == want.shape
    if want.size == 0:
        return
    summing = 2e-14 if dtype is F64 else 3e-6
    bound = factor * (2 * oracle.unit_roundoff(dtype) + summing) * max(np.abs(want).max(), 1e-3)
    error = np.abs(got.astype(F64) - want).max()
    assert error <= bound, f"{error} > {bound}"
    if np.any(want):
        assert np.any(got), "all results are zero"


#: (B, M, N, H, H', D, Dv)
SIZES = [
    (1, 1, 1, 1, 1, 1, 1),
    (1, 9, 13, 1, 1, 5, 3),
    (2, 17, 33, 3, 3, 16, 16),
    (2, 12, 40, 4, 2, 40, 24),
    (1, 30, 31, 2, 2, 64, 64),
    (2, 60, 40, 2, 2, 24, 40),  # so many entries that rows of keys are copied
    (1, 20, 25, 2, 1, 80, 128),
    (1, 11, 300, 2, 2, 128, 256),
]


def operands(size: tuple[int, ...], dtype: Any, score: str = "dot") -> tuple[np.ndarray, ...]:
    b, m, n, h, hk, d, dv = size
    d = 1 if score == "gat" else d
    shapes = [(b, m, h, d), (b, n, hk, d), (b, n, hk, dv), (b, m, h, dv)]
    return tuple(oracle.random_dense(shape, dtype, i) for i, shape in enumerate(shapes))


def plain(x: np.ndarray, score: str) -> np.ndarray:
    """Return q or k as csr_attention takes it."""
    return x if score == "dot" else x[..., 0]


@pytest.mark.parametrize("score", ["dot", "gat"])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_attention_and_its_gradients(size: tuple[int, ...], dtype: Any, score: str) -> None:
    b, m, n, h = size[:4]
    q, k, v, grad = operands(size, dtype, score)
    mask = mask_of((m, n), 0.3)
    pattern = pattern_of(mask)
    bias = oracle.random_dense((h, pattern.nnz), dtype, 7)
    dense_bias = np.zeros((h, m, n))
    dense_bias[:, mask] = bias
    dlse = oracle.random_dense((b, h, m), F64 if dtype is F64 else F32, 8)
    options: dict[str, Any] = {"score": score, "scale": 0.5, "slope": 0.1}

    gossamer_q, gossamer_k = plain(q, score), plain(k, score)
    o, lse = gossamer.csr_attention(gossamer_q, gossamer_k, v, pattern, bias=bias, **options)
    want_o, want_lse, _ = attend((q, k, v), mask, dense_bias, **options)
    close(o, want_o, dtype)
    assert lse.dtype == (F64 if dtype is F64 else F32)
    np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(want_lse))
    finite = np.isfinite(want_lse)
    close(lse[finite], want_lse[finite], lse.dtype.type)

    # From the exact o, so that only the gradient's own errors count.
    got = gossamer.csr_attention_backward(
        *(grad, gossamer_q, gossamer_k, v, want_o.astype(dtype), want_lse.astype(lse.dtype)),
        *(pattern,),
        **options,
        bias=bias,
        dlse=dlse,
    )
    want = gradients(grad, (q, k, v), mask, dense_bias, dlse, **options)
    for mine, exact in zip(got[:3], want[:3], strict=True):
        assert mine.dtype == dtype
        close(mine, exact if mine.ndim == 4 else exact[..., 0], dtype, 30)
    close(got[3], want[3].sum(0)[:, mask], dtype, 30)


@pytest.mark.parametrize("leading", [1, 2, 3])
def test_leading_axes(leading: int) -> None:
    size = (2 if leading == 3 else 1, 8, 10, 3 if leading > 1 else 1, 3 if leading > 1 else 1, 6, 5)
    q, k, v, grad = operands(size, F64)
    mask = mask_of((8, 10), 0.4)
    squeeze = {1: lambda x: x[0, :, 0], 2: lambda x: x[0], 3: lambda x: x}[leading]
    o, lse = gossamer.csr_attention(squeeze(q), squeeze(k), squeeze(v), pattern_of(mask))
    want_o, want_lse, _ = attend((q, k, v), mask)
    np.testing.assert_allclose(o, squeeze(want_o), atol=1e-13)
    want_lse = {1: want_lse[0, 0], 2: want_lse[0], 3: want_lse}[leading]
    np.testing.assert_allclose(lse, want_lse, atol=1e-13)
    got = gossamer.csr_attention_backward(
        *(squeeze(x) for x in (grad, q, k, v)), o, lse, pattern_of(mask)
    )
    for mine, want in zip(got, gradients(grad, (q, k, v), mask)[:3], strict=True):
        np.testing.assert_allclose(mine, squeeze(want), atol=1e-13)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("heads", ["heads", "batches and heads"])
@pytest.mark.parametrize("group", [1, 3])
def test_each_head_may_have_a_pattern_of_its_own(heads: str, group: int, wide: bool) -> None:
    b, m, n, h = 2, 9, 20, 6
    q, k, v, grad = operands((b, m, n, h, h // group, 16, 8), F64)
    count = h if heads == "heads" else b * h
    masks = np.stack([mask_of((m, n), 0.1 + 0.06 * i, i) for i in range(count)])
    pattern = pattern_of(masks, wide=wide)
    mask = np.broadcast_to(masks.reshape(-1, h, m, n), (b, h, m, n))
    bias = oracle.random_dense((pattern.nnz,), F64, 5)
    dense = np.zeros(masks.shape)
    dense[masks] = bias
    dense = np.broadcast_to(dense.reshape(-1, h, m, n), (b, h, m, n))
    o, lse = gossamer.csr_attention(q, k, v, pattern, bias=bias)
    want_o, want_lse, _ = attend((q, k, v), mask, dense)
    np.testing.assert_allclose(o, want_o, atol=1e-13)
    np.testing.assert_allclose(lse, want_lse, atol=1e-13)
    got = gossamer.csr_attention_backward(grad, q, k, v, o, lse, pattern, bias=bias)
    want = gradients(grad, (q, k, v), mask, dense)
    for mine, exact in zip(got[:3], want[:3], strict=True):
        np.testing.assert_allclose(mine, exact, atol=1e-13)
    summed = want[3].reshape(-1, *masks.shape).sum(0)
    np.testing.assert_allclose(got[3], summed[masks], atol=1e-13)


@pytest.mark.parametrize("dtype", HALVES, ids=name)
def test_heads_with_own_patterns_share_keys_of_16_bits(dtype: Any) -> None:
    q, k, v, grad = operands((1, 30, 40, 4, 2, 24, 8), dtype)
    masks = np.stack([mask_of((30, 40), 0.2 + 0.2 * i, i) for i in range(4)])
    pattern = CSR.from_mask(masks.reshape(120, 40), dtype=None)
    o = gossamer.csr_attention(q, k, v, pattern)[0]
    want_o, want_lse, _ = attend((q, k, v), masks[None])
    close(o, want_o, dtype)
    got = gossamer.csr_attention_backward(
        grad, q, k, v, want_o.astype(dtype), want_lse.astype(F32), pattern
    )
    for mine, want in zip(got, gradients(grad, (q, k, v), masks[None])[:3], strict=True):
        close(mine, want, dtype, 30)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_bias_and_its_gradient_for_some_axes(rank: int) -> None:
    b, m, n, h = 2, 7, 11, 3
    q, k, v, grad = operands((b, m, n, h, h, 4, 4), F64)
    mask = mask_of((m, n), 0.5)
    pattern = pattern_of(mask)
    bias = oracle.random_dense((b, h, pattern.nnz)[3 - rank :], F64, 3)
    dense = np.zeros((*bias.shape[:-1], m, n))
    dense[..., mask] = bias
    o, lse = gossamer.csr_attention(q, k, v, pattern, bias=bias)
    np.testing.assert_allclose(o, attend((q, k, v), mask, dense)[0], atol=1e-13)
    got = gossamer.csr_attention_backward(grad, q, k, v, o, lse, pattern, bias=bias)[3]
    want = gradients(grad, (q, k, v), mask, dense)[3][..., mask]
    np.testing.assert_allclose(got, want.sum(tuple(range(3 - rank))), atol=1e-13)


def test_means_of_integers_are_exact() -> None:
    """With scale 0 a row's result is the mean of its values, exact for 1, 2, 4, … of them."""
    counts = np.array([0, 1, 2, 4, 8, 16, 64, 128, 256, 512])
    mask = np.zeros((len(counts), 600), bool)
    rng = np.random.default_rng(0)
    for row, count in enumerate(counts):
        mask[row, rng.choice(600, count, replace=False)] = True
    pattern = pattern_of(mask)
    for depth in (1, 15, 16, 17, 64, 100):
        q = oracle.random_dense((len(counts), 2, depth), F32, 1)
        k = oracle.random_dense((600, 2, depth), F32, 2)
        v = oracle.random_dense((600, 2, depth), F32, 3, integers=True)
        o, lse = gossamer.csr_attention(q, k, v, pattern, scale=0.0)
        want = np.einsum("ij,jhd->ihd", mask, v) / np.maximum(counts, 1)[:, None, None]
        np.testing.assert_array_equal(o, want)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(lse[0], np.log(counts), rtol=1e-6)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_fused_equals_composed(dtype: Any) -> None:
    q, k, v, grad = operands((2, 30, 40, 3, 3, 16, 24), dtype)
    pattern = pattern_of(mask_of((30, 40), 0.3))
    o, lse = gossamer.csr_attention(q, k, v, pattern)
    fused = gossamer.csr_attention_backward(grad, q, k, v, o, lse, pattern)

    queries, keys, values, grads = (np.moveaxis(x, 2, 1) for x in (q, k, v, grad))
    wide = "float32" if dtype in oracle.DTYPES[2:] else None
    s = gossamer.sddmm(queries, keys, pattern, scale=16**-0.5, dtype=wide)
    p = gossamer.csr_softmax(pattern.with_values(s))
    p = p.with_values(p.values.astype(dtype))
    composed = gossamer.spmm(p, values)
    close(np.moveaxis(o, 2, 1), composed.astype(F64), dtype, 4)

    dp = gossamer.sddmm(grads, values, pattern)
    ds = gossamer.csr_softmax_backward(p, dp)
    ds = ds.with_values((ds.values.astype(F64) * 16**-0.5).astype(dtype))
    parts = (
        gossamer.spmm(ds, keys),
        gossamer.spmm(ds, queries, transpose_a=True),
        gossamer.spmm(p, grads, transpose_a=True),
    )
    for mine, other in zip(fused, parts, strict=True):
        close(np.moveaxis(mine, 2, 1), other.astype(F64), dtype, 30)


def test_gradients_are_those_of_the_function() -> None:
    """Central differences in float64, of o and lse together."""
    mask = mask_of((5, 6), 0.5)
    pattern = pattern_of(mask)
    q, k, v, grad = operands((1, 5, 6, 2, 1, 3, 4), F64)
    bias = oracle.random_dense((pattern.nnz,), F64, 4)
    dlse = oracle.random_dense((1, 2, 5), F64, 5)
    dlse[:, :, 1] = 0  # of the row without entries
    parts = [q, k, v, bias]

    def value() -> float:
        o, lse = gossamer.csr_attention(q, k, v, pattern, bias=bias)
        return float((o * grad).sum() + (np.where(np.isfinite(lse), lse, 0) * dlse).sum())

    o, lse = gossamer.csr_attention(q, k, v, pattern, bias=bias)
    got = gossamer.csr_attention_backward(grad, q, k, v, o, lse, pattern, bias=bias, dlse=dlse)
    for part, mine in zip(parts, got, strict=True):
        for i in np.ndindex(part.shape):
            before = part[i]
            part[i] = before + 1e-5
            above = value()
            part[i] = before - 1e-5
            assert mine[i] == pytest.approx((above - value()) / 2e-5, abs=1e-8)
            part[i] = before


def test_strided_operands_and_results() -> None:
    """Heads before rows, as [B, H, M, D] arrays have them, and gaps between rows."""
    q, k, v, grad = operands((2, 9, 12, 3, 3, 16, 8), F32)
    pattern = pattern_of(mask_of((9, 12), 0.4))
    want = gossamer.csr_attention(q, k, v, pattern)

    def apart(x: np.ndarray) -> np.ndarray:
        wide = np.full((x.shape[0], x.shape[2], x.shape[1], x.shape[3] + 3), 99, x.dtype)
        view = np.moveaxis(wide[..., : x.shape[3]], 1, 2)
        view[...] = x
        return view

    o = apart(np.zeros_like(want[0]))
    got = gossamer.csr_attention(apart(q), apart(k), apart(v), pattern, out=(o, None))
    assert got[0] is o
    np.testing.assert_array_equal(o, want[0])
    assert (o.base == 99).sum() == 2 * 9 * 3 * 3
    np.testing.assert_array_equal(got[1], want[1])
    outs = tuple(apart(np.zeros_like(x)) for x in (q, k, v))
    plain_grads = gossamer.csr_attention_backward(grad, q, k, v, *want, pattern)
    strided = gossamer.csr_attention_backward(
        apart(grad), apart(q), apart(k), apart(v), o, want[1], pattern, out=outs
    )
    for mine, out, other in zip(strided, outs, plain_grads, strict=True):
        assert mine is out
        np.testing.assert_array_equal(mine, other)


def test_rows_that_see_nothing_give_zeros() -> None:
    pattern = pattern_of(mask_of((6, 40), 0.5))
    q, k, v, grad = operands((1, 6, 40, 2, 2, 8, 8), F32)
    bias = np.zeros((2, pattern.nnz), F32)
    bias[:, : pattern.indptr[1]] = -INF  # the whole first row
    bias[1, pattern.indptr[2] : pattern.indptr[3] - 1] = -INF
    o, lse = gossamer.csr_attention(q, k, v, pattern, bias=bias)
    for row in (0, 1):
        assert (o[0, row] == 0).all()
        assert np.isneginf(lse[0, :, row]).all()
    np.testing.assert_allclose(o[0, 2, 1], v[0, pattern.indices[pattern.indptr[3] - 1], 1])
    got = gossamer.csr_attention_backward(grad, q, k, v, o, lse, pattern, bias=bias)
    assert all(np.isfinite(x).all() for x in got)
    assert (got[0][0, :2] == 0).all()
    assert (got[3][:, : pattern.indptr[1]] == 0).all()


@pytest.mark.parametrize("b", [0, 1])
@pytest.mark.parametrize(
    ("m", "n", "h", "d"), [(0, 3, 2, 4), (3, 0, 2, 4), (3, 3, 0, 4), (3, 3, 2, 0)]
)
def test_empty_operands(b: int, m: int, n: int, h: int, d: int) -> None:
    pattern = pattern_of(np.ones((m, n), bool))
    q, k, v, grad = operands((b, m, n, h, h, d, 5), F32)
    o, lse = gossamer.csr_attention(q, k, v, pattern)
    assert (o.shape, lse.shape) == ((b, m, h, 5), (b, h, m))
    got = gossamer.csr_attention_backward(grad, q, k, v, o, lse, pattern)
    assert [x.shape for x in got] == [q.shape, k.shape, v.shape]
    if n == 0:
        assert (o == 0).all()
    if m == 0:
        assert all((x == 0).all() for x in got)


def large(score: str = "dot") -> tuple[tuple[np.ndarray, ...], CSR]:
    """Return a graph whose heads are computed together, with rows longer than a chunk."""
    nodes = 3000
    rng = np.random.default_rng(3)
    edges = rng.integers(0, nodes, (2, 20_000))
    edges[0, :700] = 5
    edges[1, 700:1400] = 7
    pattern = CSR.from_coo(edges, shape=(nodes, nodes))
    q, k, v, grad = operands((1, nodes, nodes, 4, 2, 64, 64), F32, score)
    return tuple(x[0] for x in (q, k, v, grad)), pattern


@pytest.mark.parametrize("score", ["dot", "gat"])
def test_large_graph(score: str) -> None:
    (q, k, v, grad), pattern = large(score)
    o, lse = gossamer.csr_attention(plain(q, score), plain(k, score), v, pattern, score=score)
    got = gossamer.csr_attention_backward(
        grad, plain(q, score), plain(k, score), v, o, lse, pattern, score=score
    )
    mask = pattern.with_values(np.ones(pattern.nnz, F32)).to_dense() != 0
    for h in range(4):
        kv = slice(h // 2, h // 2 + 1)
        one = [x[None].astype(F64) for x in (q[:, h : h + 1], k[:, kv], v[:, kv])]
        want_o, want_lse, _ = attend(one, mask, score=score)
        close(o[:, h], want_o[0, :, 0], F32)
        finite = np.isfinite(want_lse[0, 0])
        np.testing.assert_allclose(lse[h][finite], want_lse[0, 0][finite], rtol=1e-5, atol=1e-5)
        if h < 2:
            exact = gradients(grad[None, :, h : h + 1], one, mask, score=score)
            close(
                got[0][:, h], exact[0][0, :, 0] if score == "dot" else exact[0][0, :, 0, 0], F32, 30
            )


@pytest.mark.parametrize("score", ["dot", "gat"])
def test_threads_change_no_bit(score: str) -> None:
    (q, k, v, grad), pattern = large(score)
    bias = oracle.random_dense((pattern.nnz,), F32, 9)
    results = set()
    for threads in (1, 2, 5):
        gossamer.set_num_threads(threads)
        arguments = (plain(q, score), plain(k, score), v)
        o, lse = gossamer.csr_attention(*arguments, pattern, score=score, bias=bias)
        grads = gossamer.csr_attention_backward(
            grad, *arguments, o, lse, pattern, score=score, bias=bias
        )
        p = gossamer.csr_softmax(pattern.with_values(bias))
        ds = gossamer.csr_softmax_backward(p, bias)
        results.add(tuple(x.tobytes() for x in (o, lse, *grads, p.values, ds.values)))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_threads_change_no_bit_of_masked_tokens(dtype: Any) -> None:
    """Of rows that are copied, as a whole or in the pieces of several threads."""
    q, k, v, grad = operands((2, 90, 50, 3, 3, 40, 32), dtype)
    pattern = pattern_of(mask_of((90, 50), 0.5))
    bias = oracle.random_dense((3, pattern.nnz), dtype, 9)
    results = set()
    for threads in (1, 2, 7, 40):
        gossamer.set_num_threads(threads)
        o, lse = gossamer.csr_attention(q, k, v, pattern, bias=bias)
        grads = gossamer.csr_attention_backward(grad, q, k, v, o, lse, pattern, bias=bias)
        results.add(tuple(x.tobytes() for x in (o, lse, *grads)))
    assert len(results) == 1


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_results_follow_the_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    numpy_operands = operands((1, 6, 7, 2, 2, 8, 8), F32)
    to = module.from_numpy if framework == "torch" else module.numpy.asarray
    q, k, v, grad = (to(x) for x in numpy_operands)
    pattern = pattern_of(mask_of((6, 7), 0.5))
    kind = module.Tensor if framework == "torch" else module.Array
    o, lse = gossamer.csr_attention(q, k, v, pattern)
    got = gossamer.csr_attention_backward(grad, q, k, v, o, lse, pattern)
    assert all(isinstance(x, kind) for x in (o, lse, *got))
    want = gossamer.csr_attention(*numpy_operands[:3], pattern)
    np.testing.assert_array_equal(np.asarray(o), want[0])
    a = CSR.from_dense(to(np.ones((3, 3), F32)))
    assert isinstance(gossamer.csr_softmax(a).values, kind)


# Products of several sets.


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("stacked", ["shared", "last", "all"])
def test_products_of_several_sets(stacked: str, dtype: Any) -> None:
    b, h, m, n, d = 2, 3, 9, 14, 5
    count = {"shared": 1, "last": h, "all": b * h}[stacked]
    masks = np.stack([mask_of((m, n), 0.3, i) for i in range(count)])
    pattern = pattern_of(masks)
    x = oracle.random_dense((b, h, m, d), dtype, 1, integers=True)
    y = oracle.random_dense((b, h, n, d), dtype, 2, integers=True)
    dense = np.einsum("bhid,bhjd->bhij", x.astype(F64), y.astype(F64))
    want = {
        "shared": lambda: dense[..., masks[0]],
        "last": lambda: dense[:, masks],
        "all": lambda: dense.reshape(masks.shape)[masks],
    }[stacked]()
    got = gossamer.sddmm(x, y, pattern)
    np.testing.assert_array_equal(got.astype(F64), want.astype(dtype).astype(F64))
    scaled = gossamer.sddmm(x, y, pattern, scale=-2.0)
    np.testing.assert_array_equal(scaled.astype(F64), (-2 * want).astype(dtype).astype(F64))
    if dtype in oracle.DTYPES[2:]:
        exact = gossamer.sddmm(x, y, pattern, dtype="float32", scale=0.5)
        assert exact.dtype == F32
        np.testing.assert_array_equal(exact, want / 2)
    out = np.ones_like(got)
    assert gossamer.sddmm(x, y, pattern, out=out, accumulate=True) is out
    np.testing.assert_array_equal(out.astype(F64), (want + 1).astype(dtype).astype(F64))

    a = pattern.with_values(oracle.random_dense(want.shape, dtype, 3, integers=True))
    matrices = np.zeros((b, h, m, n))
    {
        "shared": lambda: matrices[..., masks[0]],
        "last": lambda: matrices[:, masks],
        "all": lambda: matrices.reshape(masks.shape)[masks],
    }[stacked]()
    if stacked == "shared":
        matrices[..., masks[0]] = a.values
    elif stacked == "last":
        matrices[:, masks] = a.values
    else:
        matrices.reshape(masks.shape)[masks] = a.values
    options = {"stacked": stacked != "shared"}
    got = gossamer.spmm(a, y, **options)
    np.testing.assert_array_equal(got.astype(F64), (matrices @ y.astype(F64)).astype(dtype))
    got = gossamer.spmm(a, x, transpose_a=True, **options)
    want = np.swapaxes(matrices, 2, 3) @ x.astype(F64)
    np.testing.assert_array_equal(got.astype(F64), want.astype(dtype))


def test_one_operand_may_be_the_same_for_all_sets() -> None:
    mask = mask_of((8, 9), 0.4)
    pattern = pattern_of(mask)
    one, many = (
        np.ones(pattern.nnz, F32),
        oracle.random_dense((4, pattern.nnz), F32, 1, integers=True),
    )
    b = oracle.random_dense((4, 9, 6), F32, 2, integers=True)
    np.testing.assert_array_equal(gossamer.spmm(pattern.with_values(one), b), mask @ b)
    dense = np.zeros((4, 8, 9), F32)
    dense[:, mask] = many
    np.testing.assert_array_equal(gossamer.spmm(pattern.with_values(many), b[0]), dense @ b[0])
    bias = oracle.random_dense((8,), F32, 3, integers=True)
    got = gossamer.spmm(pattern.with_values(many), b, bias=bias, activation="relu")
    np.testing.assert_array_equal(got, np.maximum(dense @ b + bias[:, None], 0))


# Bad calls.

MASK = np.array([[1, 0, 1], [0, 1, 0]], bool)
P = pattern_of(MASK)
A = P.with_values(np.ones(3, F32))
BATCH = P.with_values(np.ones((4, 3), F32))


BLOCKS = gossamer.BSR.from_dense(np.ones((4, 4), F32), 2)


def ones(*shape: int, dtype: Any = F32) -> np.ndarray:
    return np.ones(shape, dtype)


Q, K, V = ones(2, 4, 5), ones(3, 2, 5), ones(3, 2, 6)
RESULT, LSE = ones(2, 4, 6), ones(4, 2)


def backward(**changed: Any) -> Callable[[], object]:
    given = {
        "grad": RESULT,
        "q": Q,
        "k": K,
        "v": V,
        "o": RESULT,
        "lse": LSE,
        "pattern": P,
        **changed,
    }
    names = ("grad", "q", "k", "v", "o", "lse", "pattern")
    options = {key: value for key, value in given.items() if key not in names}
    return lambda: gossamer.csr_attention_backward(*(given[x] for x in names), **options)


def test_long_lists_of_int64_indices_have_the_bits_of_int32() -> None:
    rng = np.random.default_rng(5)
    mask = mask_of((300, 700), 0.6)
    q = rng.random((300, 2, 16)).astype(F32)
    k, v = (rng.random((700, 2, 16)).astype(F32) for _ in range(2))
    for x, y in zip(
        gossamer.csr_attention(q, k, v, pattern_of(mask)),
        gossamer.csr_attention(q, k, v, pattern_of(mask, wide=True)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: gossamer.csr_softmax(3),  # type: ignore[arg-type]
        TypeError,
        "csr_softmax: a is a int, expected a CSR",
    ),
    (
        lambda: gossamer.csr_softmax(P),
        ValueError,
        "csr_softmax: a.values is None, expected an array",
    ),
    (
        lambda: gossamer.csr_softmax(A, out=ones(4)),
        ValueError,
        "csr_softmax: out.shape is (4,), expected a.values.shape = (3,)",
    ),
    (
        lambda: gossamer.csr_softmax(A, out=A.values),
        ValueError,
        "csr_softmax: out overlaps a.values, expected separate memory",
    ),
    (
        lambda: gossamer.csr_softmax_backward(A, ones(2, 3)),
        ValueError,
        "csr_softmax_backward: grad.shape is (2, 3), expected p.values.shape = (3,)",
    ),
    (
        lambda: gossamer.csr_softmax_backward(A, ones(3, dtype=F64)),
        TypeError,
        "csr_softmax_backward: grad.dtype is float64, expected p.dtype = float32",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, V, Q),
        TypeError,
        "csr_attention: pattern is a ndarray, expected a CSR",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, V, P, score="mlp"),  # type: ignore[arg-type]
        ValueError,
        "csr_attention: score is 'mlp', expected 'dot' or 'gat'",
    ),
    (
        lambda: gossamer.csr_attention(ones(2), K, V, P),
        ValueError,
        "csr_attention: q.ndim is 1, expected 2 to 4",
    ),
    (
        lambda: gossamer.csr_attention(Q, K[0], V, P),
        ValueError,
        "csr_attention: k.ndim is 2, expected 3",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, V, P, score="gat"),
        ValueError,
        "csr_attention: v.ndim is 3, expected 4",
    ),
    (
        lambda: gossamer.csr_attention(Q, K.astype(F64), V, P),
        TypeError,
        "csr_attention: k.dtype is float64, expected q.dtype = float32",
    ),
    (
        lambda: gossamer.csr_attention(
            *(ones(1, 2), np.broadcast_to(ones(1, 2), (2**31, 2)), ones(1, 2)),
            CSR(np.array([0, 1]), np.array([7]), None, (1, 2**31), index_dtype="int64"),
        ),
        ValueError,
        "csr_attention: k.shape[0] is 2147483648, expected less than 2**31",
    ),
    (
        lambda: gossamer.csr_attention(Q, ones(4, 2, 5), V, P),
        ValueError,
        "csr_attention: k.shape[0] is 4, expected pattern.shape[1] = 3",
    ),
    (
        lambda: gossamer.csr_attention(Q, ones(3, 2, 4), V, P),
        ValueError,
        "csr_attention: k.shape[2] is 4, expected q's depth = 5",
    ),
    (
        lambda: gossamer.csr_attention(Q, ones(3, 3, 5), V, P),
        ValueError,
        "csr_attention: k.shape[1] is 3, expected a divisor of q.shape[1] = 4",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, ones(3, 4, 6), P),
        ValueError,
        "csr_attention: v.shape[1] is 4, expected k's heads = 2",
    ),
    (
        lambda: gossamer.csr_attention(ones(3, 4, 5), K, V, P),
        ValueError,
        "csr_attention: pattern.shape[0] is 2, expected 3, or as many for each of 4 heads or 4 "
        "heads of all batches",
    ),
    (
        lambda: gossamer.csr_attention(Q[..., ::2], K, V, P),
        ValueError,
        "csr_attention: q.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, V, P, bias=ones(2, 3)),
        ValueError,
        "csr_attention: bias.shape[0] is 2, expected q's heads = 4",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, V, P, bias=ones(4)),
        ValueError,
        "csr_attention: bias.shape[0] is 4, expected the pattern's nnz = 3",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, V, P, bias=ones(1, 4, 3)),
        ValueError,
        "csr_attention: bias.ndim is 3, expected 1 to 2",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, V, P, out=(ones(2, 4, 5), None)),
        ValueError,
        "csr_attention: out.shape is (2, 4, 5), expected (2, 4, 6)",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, V, P, out=(None, ones(2, 4))),
        ValueError,
        "csr_attention: lse.shape is (2, 4), expected (4, 2)",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, V, P, out=(None, ones(4, 2, dtype=F64))),
        TypeError,
        "csr_attention: lse.dtype is float64, expected float32",
    ),
    (
        lambda: gossamer.csr_attention(Q, K, ones(3, 2, 5), P, out=(Q, None)),
        ValueError,
        "csr_attention: out overlaps q, expected separate memory",
    ),
    (
        backward(grad=ones(2, 4, 5)),
        ValueError,
        "csr_attention_backward: grad.shape is (2, 4, 5), expected (2, 4, 6)",
    ),
    (
        backward(lse=ones(4, 3)),
        ValueError,
        "csr_attention_backward: lse.shape is (4, 3), expected (4, 2)",
    ),
    (
        backward(dlse=ones(2, 4)),
        ValueError,
        "csr_attention_backward: dlse.shape is (2, 4), expected (4, 2)",
    ),
    (
        backward(out=(None, None)),
        ValueError,
        "csr_attention_backward: len(out) is 2, expected 3",
    ),
    (
        backward(out=(None, V, None)),
        ValueError,
        "csr_attention_backward: dk.shape is (3, 2, 6), expected k.shape = (3, 2, 5)",
    ),
    (
        backward(out=(None, None, V)),
        ValueError,
        "csr_attention_backward: dv overlaps v, expected separate memory",
    ),
    (
        lambda: gossamer.sddmm(ones(2, 2, 5), ones(3, 3, 5), P),
        ValueError,
        "sddmm: b.shape[0] is 3, expected a's = 2",
    ),
    (
        lambda: gossamer.sddmm(ones(2, 5, 5), ones(2, 3, 5), P),
        ValueError,
        "sddmm: pattern.shape[0] is 2, expected 5, or as many for each of a's matrices",
    ),
    (
        lambda: gossamer.sddmm(ones(2, 5), ones(3, 5), P, dtype="float16"),
        ValueError,
        "sddmm: dtype is float16, expected float32, that of a",
    ),
    (
        lambda: gossamer.sddmm(ones(4, 5), ones(4, 5), BLOCKS, scale=2.0),
        TypeError,
        "sddmm: pattern is a BSR, expected a CSR where scale or dtype is given",
    ),
    (
        lambda: gossamer.spmm(BLOCKS, ones(2, 4, 5), stacked=True),
        TypeError,
        "spmm: a is a BSR, expected a CSR where it is stacked",
    ),
    (
        lambda: gossamer.spmm(P, ones(3, 5)),
        ValueError,
        "spmm: a.values is None, expected an array",
    ),
    (
        lambda: gossamer.spmm(BATCH, ones(2, 3, 5)),
        ValueError,
        "spmm: a.values.shape is (4, 3), expected (2, 3)",
    ),
    (
        lambda: gossamer.spmm(A, ones(3, 5), stacked=True),
        ValueError,
        "spmm: b.ndim is 2, expected a leading axis for the matrices of a stacked a",
    ),
    (
        lambda: gossamer.spmm(A, ones(4, 3, 5), stacked=True),
        ValueError,
        "spmm: a.shape[0] is 2, expected a multiple of the 4 matrices of b",
    ),
    (
        lambda: gossamer.linear(ones(4, 3), BATCH),
        ValueError,
        "linear: w.values.shape is (4, 3), expected an array of shape (3,)",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
