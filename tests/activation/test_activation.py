"""Layers with sparse activations against dense float64 NumPy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from gossamer import gated_mlp, sparse_linear
from library import PATIENCE

F32 = np.float32
TOKENS = [1, 2, 3, 4, 5, 8, 9, 70]
#: (K, M): one, vector widths ± 1, pieces of columns that end within a line.
SHAPES = [(1, 1), (3, 15), (16, 16), (17, 33), (70, 129), (9, 700)]


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def wide(a: Any) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def passing(v: np.ndarray, threshold: Any) -> np.ndarray:
    """Tell which channels of [..., K] pass for a token: the union over tokens."""
    with np.errstate(invalid="ignore"):
        return (~(np.abs(v) < threshold)).reshape(-1, v.shape[-1]).any(0)


def sparse_linear_of(x: Any, wt: Any, threshold: Any) -> np.ndarray:
    return (wide(x) * passing(wide(x), threshold)) @ wide(wt)


def gated_mlp_of(
    x: Any, weights: tuple[Any, Any, Any], threshold: Any, activation: Any = "silu"
) -> np.ndarray:
    gate, up, down = weights
    a = oracle.ACTIVATIONS[activation](wide(x) @ wide(gate).T)
    return (a * passing(a, threshold) * (wide(x) @ wide(up).T)) @ wide(down)


# sparse_linear


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("per_channel", [False, True])
def test_sparse_linear_of_integers_is_exact(dtype: type, per_channel: bool) -> None:
    for k, m in SHAPES:
        wt = oracle.random_dense((k, m), dtype, 1, integers=True)
        limit: Any = np.arange(k, dtype=F32) % 5 if per_channel else 2
        for tokens in TOKENS:
            x = oracle.random_dense((tokens, k), dtype, tokens, integers=True)
            np.testing.assert_array_equal(
                sparse_linear(x, wt, threshold=limit), sparse_linear_of(x, wt, limit).astype(dtype)
            )


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_sparse_linear_rounds_within_the_bound(dtype: type, tokens: int) -> None:
    x, wt = oracle.random_dense((tokens, 900), dtype, 1), oracle.random_dense((900, 300), dtype, 2)
    for limit in (0.0, 0.7, 1.6):
        kept = wide(x) * passing(wide(x), limit)
        got = sparse_linear(x, wt, threshold=limit)
        oracle.assert_close(got, kept @ wide(wt), np.abs(kept) @ np.abs(wide(wt)), 900)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("activation", oracle.ACTIVATIONS, ids=str)
def test_sparse_linear_ends_with_bias_and_activation(dtype: type, activation: Any) -> None:
    x, wt = oracle.random_dense((3, 50), dtype, 1), oracle.random_dense((50, 150), dtype, 2)
    bias, before = oracle.random_dense((150,), dtype, 3), oracle.random_dense((3, 150), dtype, 4)
    act = oracle.ACTIVATIONS[activation]
    sums = sparse_linear_of(x, wt, 0.5) + wide(bias)
    bound = 100 * oracle.unit_roundoff(dtype) + 3e-5 * (dtype is not np.float64)
    options: dict[str, Any] = {"threshold": 0.5, "bias": bias, "activation": activation}
    got = sparse_linear(x, wt, **options)
    np.testing.assert_allclose(wide(got), act(sums), atol=bound, rtol=bound)
    out = before.copy()
    assert sparse_linear(x, wt, accumulate=True, out=out, **options) is out
    np.testing.assert_allclose(wide(out), act(sums + wide(before)), atol=bound, rtol=bound)


def test_sparse_linear_keeps_leading_axes_and_strides() -> None:
    whole = oracle.random_dense((2, 3, 40), F32, 1, integers=True)
    wt = oracle.random_dense((20, 70), F32, 2, integers=True)
    x, out = whole[..., 5:25], np.zeros((2, 3, 100), F32)[..., 10:80]
    assert sparse_linear(x, wt[:, ::1], threshold=1, out=out) is out
    np.testing.assert_array_equal(out, sparse_linear_of(x, wt, 1))
    columns = wt[:, 3:50]
    np.testing.assert_array_equal(
        sparse_linear(x[0, 0], columns, threshold=2), sparse_linear_of(x[0, 0], columns, 2)
    )


def test_a_token_alone_uses_its_own_channels_and_several_the_union() -> None:
    x, wt = np.array([[3, 1], [0, 4]], F32), np.eye(2, dtype=F32)
    assert sparse_linear(x[:1], wt, threshold=2).tolist() == [[3, 0]]
    assert sparse_linear(x, wt, threshold=2).tolist() == [[3, 1], [0, 4]]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_equal_to_the_threshold_passes_and_nan_does_too(dtype: type) -> None:
    x = np.array([2, -2, 1.5, np.nan, np.inf, -0.0], dtype)
    wt = np.eye(6, dtype=dtype)
    for limit in (2, np.full(6, 2, F32), np.full(6, 2, dtype)):
        got = [wide(sparse_linear(x, row[:, None].copy(), threshold=limit))[0] for row in wt]
        # Each column of the identity picks one channel; NaN and infinity times 0 are NaN.
        assert np.isnan(got).all()
    finite = x.copy()
    finite[3:5] = 0
    assert wide(sparse_linear(finite, wt, threshold=2)).tolist() == [2, -2, 0, 0, 0, 0]
    assert np.isnan(wide(sparse_linear(x[3:4], wt[:1], threshold=np.inf)))[0]


def test_thresholds_of_infinity_and_below_zero() -> None:
    x, wt = np.array([1, -2, 3], F32), np.ones((3, 2), F32)
    assert sparse_linear(x, wt, threshold=np.inf).tolist() == [0, 0]
    assert sparse_linear(x, wt, threshold=-1).tolist() == [2, 2]
    limits = np.array([np.inf, 0, -1], F32)
    assert sparse_linear(x, wt, threshold=limits).tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
def test_empty_sparse_linear(shape: tuple[int, int, int]) -> None:
    tokens, k, m = shape
    got = sparse_linear(np.ones((tokens, k), F32), np.ones((k, m), F32), threshold=2)
    np.testing.assert_array_equal(got, np.zeros((tokens, m)))
    got = sparse_linear(np.ones(k, F32), np.ones((k, m), F32), threshold=0, bias=np.ones(m, F32))
    np.testing.assert_array_equal(got, np.full(m, k + 1))


# gated_mlp


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("per_channel", [False, True])
def test_gated_mlp_of_integers_is_exact(dtype: type, per_channel: bool) -> None:
    for d, h in SHAPES:
        rng = np.random.default_rng(h)
        gate, up, down = (rng.integers(-1, 2, (h, d)).astype(dtype) for _ in range(3))
        limit: Any = np.arange(h, dtype=F32) % 3 if per_channel else 2
        for tokens in (1, 2, 5, 70):
            x = rng.integers(-1, 2, (tokens, d)).astype(dtype)
            want = gated_mlp_of(x, (gate, up, down), limit, "relu")
            if np.abs(want).max(initial=0) >= 2 / oracle.unit_roundoff(dtype):
                continue  # larger than the type holds exactly
            got = gated_mlp(x, gate, up, down, threshold=limit, activation="relu")
            np.testing.assert_array_equal(got, want.astype(dtype))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("activation", oracle.ACTIVATIONS, ids=str)
def test_gated_mlp_is_the_masked_dense_one(dtype: type, activation: Any) -> None:
    d, h = 130, 300
    gate, up, down = (oracle.random_dense((h, d), dtype, seed) for seed in range(3))
    for tokens in (1, 3, 8):
        x = (oracle.random_dense((tokens, d), np.float64, tokens) / np.sqrt(d)).astype(dtype)
        a = oracle.ACTIVATIONS[activation](wide(x) @ wide(gate).T)
        # Between two magnitudes that are well apart, so that rounding moves none across.
        ordered = np.sort(np.abs(a).max(0))
        middle = np.argmax(np.diff(ordered[h // 4 : -h // 4])) + h // 4
        limit = (ordered[middle] + ordered[middle + 1]) / 2
        want = gated_mlp_of(x, (gate, up, down), limit, activation)
        got = gated_mlp(x, gate, up, down, threshold=limit, activation=activation)
        scale = np.sqrt(h) * 4
        summing = oracle.unit_roundoff(np.float64 if dtype is np.float64 else F32)
        bound = (200 * summing + 2 * oracle.unit_roundoff(dtype)) * scale
        np.testing.assert_allclose(wide(got), want, atol=bound)
        assert np.any(wide(got))


def test_gated_mlp_with_thresholds_of_channels_is_chess() -> None:
    rng = np.random.default_rng(0)
    gate, up, down = (rng.standard_normal((64, 40)).astype(F32) for _ in range(3))
    sample = (rng.standard_normal((500, 40)) / 6).astype(F32)
    a = oracle.ACTIVATIONS["silu"](wide(sample) @ wide(gate).T).astype(F32)
    power = np.square(wide(sample) @ wide(up).T).mean(0).astype(F32)
    limits = gossamer.prune.channel_threshold(a, power, a.size // 2)
    x = (rng.standard_normal((1, 40)) / 6).astype(F32)
    got = gated_mlp(x, gate, up, down, threshold=limits)
    np.testing.assert_allclose(got, gated_mlp_of(x, (gate, up, down), limits), atol=1e-4)


def test_gated_mlp_lets_nan_through() -> None:
    x, w = np.array([1, np.nan], F32), np.ones((3, 2), F32)
    assert np.isnan(gated_mlp(x, w, w, w, threshold=np.inf)).all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
def test_empty_gated_mlp(shape: tuple[int, int, int]) -> None:
    tokens, h, d = shape
    w = np.ones((h, d), F32)
    got = gated_mlp(np.ones((tokens, d), F32), w, w, w, threshold=1)
    np.testing.assert_array_equal(got, np.zeros((tokens, d)))


# What is read

GUARDED = """
import ctypes, mmap
import ml_dtypes
import numpy as np
import gossamer

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
PAGE = mmap.PAGESIZE

def guarded(a, hidden):
    '''Copy a matrix whose rows are pages, and forbid reading the hidden rows.'''
    memory = mmap.mmap(-1, a.nbytes)
    copy = np.frombuffer(memory, dtype=a.dtype).reshape(a.shape)
    copy[:] = a
    for row in np.flatnonzero(hidden):
        assert libc.mprotect(copy[row].ctypes.data, PAGE, 0) == 0
    return copy

rng = np.random.default_rng(0)
rows = 60
for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64):
    width = PAGE // np.dtype(dtype).itemsize
    for tokens in (1, 3, 8):
        w = rng.integers(-2, 3, (rows, width)).astype(dtype)
        x = np.zeros((tokens, rows), dtype)
        x[0, [1, 2, 7, 30, 59]] = 2
        x[-1, [2, 8]] = -3
        x[:, 40] = 1
        hidden = (abs(x.astype(float)) < 2).all(0)
        got = gossamer.sparse_linear(x, guarded(w, hidden), threshold=2)
        want = (x.astype(float) * ~hidden) @ w.astype(float)
        assert (got.astype(float) == want).all()

        x = np.zeros((tokens, width), dtype)
        x[0, 0] = 1
        x[-1, -1] = 1
        gate = np.zeros((rows, width), dtype)
        gate[[3, 4, 50], 0] = 2
        gate[[20], -1] = 2
        a = x.astype(float) @ gate.T.astype(float)
        hidden = (a < 2).all(0)
        up, down = (rng.integers(-2, 3, (rows, width)).astype(dtype) for _ in range(2))
        got = gossamer.gated_mlp(x, gate, guarded(up, hidden), guarded(down, hidden),
                                 threshold=2, activation="relu")
        want = (a * ~hidden * (x.astype(float) @ up.T.astype(float))) @ down.astype(float)
        assert (got.astype(float) == want).all()
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_weights_of_pruned_channels_are_never_read() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARDED],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


# Threads, frameworks, errors


@pytest.fixture
def _restored_threads() -> Any:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.usefixtures("_restored_threads")
def test_number_of_threads_changes_no_bit(dtype: type) -> None:
    x = oracle.random_dense((9, 600), dtype, 1)
    wt = oracle.random_dense((600, 777), dtype, 2)
    gate, up, down = (oracle.random_dense((500, 600), dtype, seed) for seed in (3, 4, 5))
    results = set()
    for threads in (1, 2, 3, 7):
        gossamer.set_num_threads(threads)
        parts = [
            f(tokens)
            for tokens in (x[:1], x)
            for f in (
                lambda v: sparse_linear(v, wt, threshold=0.5),
                lambda v: gated_mlp(v, gate, up, down, threshold=3.0),
            )
        ]
        results.add(tuple(part.tobytes() for part in parts))
    assert len(results) == 1


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_results_follow_the_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    convert = module.from_numpy if framework == "torch" else module.numpy.asarray
    kind = module.Tensor if framework == "torch" else module.Array
    x, w = oracle.random_dense((2, 9), F32, 1, integers=True), np.ones((4, 9), F32)
    limits = np.array([1, 2, 3, 0], F32)
    got = gated_mlp(convert(x), convert(w), convert(w), convert(w), threshold=convert(limits))
    assert isinstance(got, kind)
    np.testing.assert_allclose(np.asarray(got), gated_mlp_of(x, (w, w, w), limits), rtol=1e-5)
    got = sparse_linear(convert(x), convert(w.T.copy()), threshold=convert(np.array(2.0)))
    assert isinstance(got, kind)
    np.testing.assert_array_equal(np.asarray(got), sparse_linear_of(x, w.T, 2))


def ones(*shape: int, dtype: Any = F32) -> np.ndarray:
    return np.ones(shape, dtype)


def read_only(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a


X, WT, W = ones(2, 3), ones(3, 4), ones(5, 3)
INTEGERS = ones(2, 3, dtype=np.int32)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: sparse_linear(np.float32(1), WT, threshold=1),
        TypeError,
        "sparse_linear: x is a float32, expected an array with __dlpack__",
    ),
    (
        lambda: sparse_linear(np.array(1, F32), WT, threshold=1),
        ValueError,
        "sparse_linear: x.ndim is 0, expected at least 1",
    ),
    (
        lambda: sparse_linear(X, ones(4, 4), threshold=1),
        ValueError,
        "sparse_linear: x.shape[1] is 3, expected wt.shape[0] = 4",
    ),
    (
        lambda: sparse_linear(X, ones(3), threshold=1),
        ValueError,
        "sparse_linear: wt.ndim is 1, expected 2",
    ),
    (
        lambda: sparse_linear(INTEGERS, WT, threshold=1),
        TypeError,
        "sparse_linear: x.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: sparse_linear(X, ones(3, 4, dtype=np.float64), threshold=1),
        TypeError,
        "sparse_linear: wt.dtype is float64, expected x.dtype = float32",
    ),
    (
        lambda: sparse_linear(X, ones(4, 3).T, threshold=1),
        ValueError,
        "sparse_linear: wt.strides[-1] is 3, expected 1 (make it contiguous)",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=float("nan")),
        ValueError,
        "sparse_linear: threshold is nan, expected a number",
    ),
    (
        lambda: sparse_linear(X, WT, threshold="half"),
        TypeError,
        "sparse_linear: threshold is 'half', expected a number",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=ones(2)),
        ValueError,
        "sparse_linear: threshold.shape[0] is 2, expected wt.shape[0] = 3",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=ones(3, 1)),
        ValueError,
        "sparse_linear: threshold.ndim is 2, expected 1",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=ones(3, dtype=np.float64)),
        TypeError,
        "sparse_linear: threshold.dtype is float64, expected float32",
    ),
    (
        lambda: sparse_linear(
            X.astype(np.float16), WT.astype(np.float16), threshold=ones(3, dtype=np.float64)
        ),
        TypeError,
        "sparse_linear: threshold.dtype is float64, expected float32 or float16",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=1, bias=ones(3)),
        ValueError,
        "sparse_linear: bias.shape[0] is 3, expected wt.shape[1] = 4",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=1, activation=("clamp", 2.0, 1.0)),
        ValueError,
        "sparse_linear: activation is clamp from 2.0 to 1.0, expected lo <= hi",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=1, activation="tanh"),  # type: ignore[arg-type]
        ValueError,
        "sparse_linear: activation is 'tanh', expected None, 'relu', 'relu6', 'gelu', 'silu' or "
        "('clamp', lo, hi)",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=1, accumulate=True),
        ValueError,
        "sparse_linear: accumulate is True, expected out to add to",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=1, out=ones(2, 3)),
        ValueError,
        "sparse_linear: out.shape is (2, 3), expected (2, 4)",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=1, out=read_only(ones(2, 4))),
        ValueError,
        "sparse_linear: out is read-only, expected a writable array",
    ),
    (
        lambda: sparse_linear(X, WT, threshold=1, out=WT[:2]),
        ValueError,
        "sparse_linear: out overlaps wt, expected separate memory",
    ),
    (
        lambda: sparse_linear(ones(4, 4)[0], (w := ones(4, 4)), threshold=w[0], out=ones(4)[::2]),
        ValueError,
        "sparse_linear: out.shape is (2,), expected (4,)",
    ),
    (
        lambda: gated_mlp(X, W, ones(4, 3), W, threshold=1),
        ValueError,
        "gated_mlp: w_up.shape is (4, 3), expected w_gate.shape = (5, 3)",
    ),
    (
        lambda: gated_mlp(X, W, W, ones(3, 5), threshold=1),
        ValueError,
        "gated_mlp: w_down_t.shape is (3, 5), expected w_gate.shape = (5, 3)",
    ),
    (
        lambda: gated_mlp(ones(2, 4), W, W, W, threshold=1),
        ValueError,
        "gated_mlp: x.shape[1] is 4, expected w_gate.shape[1] = 3",
    ),
    (
        lambda: gated_mlp(X, W, W, ones(5, 3, dtype=np.float16), threshold=1),
        TypeError,
        "gated_mlp: w_down_t.dtype is float16, expected x.dtype = float32",
    ),
    (
        lambda: gated_mlp(X, W, W, W, threshold=ones(3)),
        ValueError,
        "gated_mlp: threshold.shape[0] is 3, expected w_gate.shape[0] = 5",
    ),
    (
        lambda: gated_mlp(X, W, W, W, threshold=1, out=X),
        ValueError,
        "gated_mlp: out overlaps x, expected separate memory",
    ),
    (
        lambda: gated_mlp(X, W, W, (w := ones(5, 3)), threshold=1, out=w[:2]),
        ValueError,
        "gated_mlp: out overlaps w_down_t, expected separate memory",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
