"""Gradients of block attention against the float64 equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import pytest
from attention_oracle import DTYPES, allowed, dense, element_mask, mixed, pairs
from gossamer import CSR, BlockLayout, attention, attention_backward
from oracle import unit_roundoff
from test_attention import BLOCKS, operands, random_layout

F32 = np.float32
F64 = np.float64
BF16 = ml_dtypes.bfloat16


def gradients(
    arrays: tuple[Any, Any, Any],
    do: Any,
    dlse: Any,
    mask: np.ndarray,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Any = None,
    sinks: Any = None,
    dtype: Any = None,
) -> dict[str, np.ndarray]:
    """Differentiate attention, in float64 or rounding each product to `dtype`."""

    def step(x: np.ndarray) -> np.ndarray:
        return x if dtype is None else x.astype(dtype).astype(F32)

    q, k, v = arrays
    o, lse = dense(*arrays, mask, scale=scale, softcap=softcap, bias=bias, sinks=sinks, dtype=dtype)
    q, k, v, do = (np.asarray(x).astype(F64 if dtype is None else F32) for x in (q, k, v, do))
    heads, key_heads = q.shape[2], k.shape[2]
    k, v = np.repeat(k, heads // key_heads, 2), np.repeat(v, heads // key_heads, 2)
    factor = q.shape[3] ** -0.5 if scale is None else scale
    s = step(pairs(q, k) * factor)
    bend = np.ones_like(s)
    if softcap is not None:
        t = np.tanh(s / softcap)
        s, bend = softcap * t, 1 - t * t
    if bias is not None:
        s = s + np.asarray(bias).astype(s.dtype)
    log = np.where(np.isneginf(lse), np.inf, lse)[..., None]
    p = step(np.where(mask, np.exp(s - log), 0))
    delta = np.einsum("bihd,bihd->bhi", do, o) - (0 if dlse is None else dlse)
    ds = step(p * (step(pairs(do, v)) - delta[..., None]))

    def grouped(x: np.ndarray) -> np.ndarray:
        shape = (*x.shape[:2], key_heads, heads // key_heads, x.shape[3])
        return step(x.reshape(shape).sum(3))

    found = {
        "dq": step(mixed(ds * bend, k) * factor),
        "dk": grouped(mixed((ds * bend).swapaxes(2, 3), q) * factor),
        "dv": grouped(mixed(p.swapaxes(2, 3), do)),
        "dbias": ds,
    }
    if sinks is not None:
        share = np.exp(np.asarray(sinks)[:, None] - log[..., 0])
        found["dsinks"] = -(share * delta).sum((0, 2))
    return found


def assert_near(got: Any, want: np.ndarray, naive: np.ndarray, dtype: Any) -> None:
    """Hold a gradient to twice the error of the naive computation, and the rounding of the type.

    NumPy's sums over the depth have several parts and err less than one long sum.
    """
    got = np.asarray(got).astype(F64)
    assert got.shape == want.shape
    if want.size == 0:
        return
    floor = (8 + got.shape[-1] ** 0.5) * unit_roundoff(dtype) * max(1.0, float(np.abs(want).max()))
    error, naive_error = np.abs(got - want).max(), np.abs(naive.astype(F64) - want).max()
    assert error <= 2 * naive_error + floor, f"{error:.3g}, naive {naive_error:.3g}"


def check(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray], layout: BlockLayout, dtype: Any = F32,
    dlse: bool = True, **options: Any,
) -> None:  # fmt: skip
    q, k, v = arrays
    rng = np.random.default_rng(9)
    o, lse = attention(q, k, v, layout, **options)
    do = rng.standard_normal(o.shape).astype(dtype)
    log_slope = rng.standard_normal(lse.shape).astype(F32) if dlse else None
    bias = options.get("bias")
    whole = bias is not None and bias.shape[:2] == (q.shape[0], q.shape[2])
    got = attention_backward(
        do, q, k, v, o, lse, layout, dlse=log_slope, with_dbias=whole, **options
    )
    where = {key: options.pop(key) for key in ("causal", "window", "q_offset") if key in options}
    mask = element_mask(layout, q.shape[2], q.shape[1], k.shape[1])
    mask = mask & allowed(q.shape[1], k.shape[1], **where)
    want = gradients(arrays, do, log_slope, mask, **options)
    naive = gradients(arrays, do, log_slope, mask, **options, dtype=dtype)
    for name, array in got._asdict().items():
        if name == "dbias" and not whole:
            assert array is None
            continue
        if array is None:
            assert name == "dsinks"
            assert "sinks" not in options
            continue
        assert_near(array, want[name], naive[name], dtype)
        if name[1:] in "qkv":
            assert array.dtype == q.dtype


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_block(block: tuple[int, int], dtype: Any) -> None:
    arrays = operands(2, 75, 75, 4, 2, 16, dtype=dtype)
    for heads, causal in ((1, True), (2, False), (4, True)):
        layout = random_layout((1 if heads == 2 else 2, heads, 75, 75), block)
        check(arrays, layout, dtype, causal=causal)


@pytest.mark.parametrize("depth", [1, 40, 64, 80, 128, 256])
@pytest.mark.parametrize("block", [(64, 64), (16, 32), (1, 16), (16, 1)])
def test_every_depth(depth: int, block: tuple[int, int]) -> None:
    for value_depth in (depth, 24):
        arrays = operands(1, 70, 50, 2, 1, depth, value_depth=value_depth)
        check(arrays, random_layout((1, 2, 70, 50), block), causal=True)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 130), (65, 63), (130, 1)])
@pytest.mark.parametrize("block", [(64, 64), (1, 64), (64, 2)])
def test_every_length(queries: int, keys: int, block: tuple[int, int]) -> None:
    grid = (1, 1, -(-queries // block[0]), -(-keys // block[1]))
    layout = BlockLayout.from_mask(np.ones(grid, bool), block=block)
    check(operands(1, queries, keys, 2, 2, 16), layout, causal=True)


@pytest.mark.parametrize("block", [(16, 16), (1, 8), (32, 1)])
@pytest.mark.parametrize(
    "options",
    [
        {"window": 9},
        {"window": (5, None), "causal": True, "q_offset": 11},
        {"scale": -0.3},
        {"softcap": 1.5, "scale": 0.7},
    ],
    ids=str,
)
def test_options(options: dict[str, Any], block: tuple[int, int]) -> None:
    for dtype in (F32, BF16):
        arrays = operands(1, 50, 60, 4, 2, 24, dtype=dtype)
        check(arrays, random_layout((1, 4, 50, 60), block), dtype, dlse=False, **options)


@pytest.mark.parametrize("block", [(16, 16), (1, 8), (32, 1)])
@pytest.mark.parametrize("extents", [(2, 4), (1, 1)])
def test_bias_and_sinks(extents: tuple[int, int], block: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    bias = rng.standard_normal((*extents, 50, 70)).astype(F32)
    bias[..., 7, :] = -np.inf
    sinks = np.array([0.5, -np.inf, -2.0, 4.0], F32)
    layout = random_layout((2, 4, 50, 70), block)
    arrays = operands(2, 50, 70, 4, 2, 16)
    check(arrays, layout, bias=bias, sinks=sinks)
    check(arrays, layout, bias=bias, softcap=3.0, causal=True)


@pytest.mark.parametrize("block", [(16, 16), (32, 3), (5, 40), (64, 64), (80, 100)])
def test_blocks_with_bits(block: tuple[int, int]) -> None:
    mask = np.random.default_rng(4).random((2, 2, 90, 110)) < 0.15
    mask[:, :, :17] = False
    mask[:, :, 40:70] |= np.arange(110) < 70
    pattern = CSR.from_dense(mask.reshape(-1, 110).astype(F32))
    layout = BlockLayout.from_csr(pattern, block=block, batch=2, heads=2)
    check(operands(2, 90, 110, 4, 2, 20), layout, causal=True)


@pytest.mark.parametrize("block", [(16, 16), (1, 16), (20, 2)])
def test_packed_sequences_are_sequences(block: tuple[int, int]) -> None:
    lengths = [5, 0, 60, 33]
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    rng = np.random.default_rng(5)
    q, do = (rng.standard_normal((98, 4, 24)).astype(F32) for _ in range(2))
    k, v = (rng.standard_normal((98, 2, 24)).astype(F32) for _ in range(2))
    layout = random_layout((4, 4, 60, 60), block)
    options: dict[str, Any] = {"causal": True, "cu_seqlens": starts}
    o, lse = attention(q, k, v, layout, **options)
    got = attention_backward(do, q, k, v, o, lse, layout, **options)
    for b, n in enumerate(lengths):
        rows = slice(starts[b], starts[b + 1])
        mask = element_mask(layout, 4, n, n)[b : b + 1] & allowed(n, n, causal=True)
        arrays = (q[None, rows], k[None, rows], v[None, rows])
        parts = (arrays, do[None, rows], None, mask)
        want, naive = gradients(*parts), gradients(*parts, dtype=F32)
        for name in ("dq", "dk", "dv"):
            assert_near(getattr(got, name)[None, rows], want[name], naive[name], F32)


def test_threads_change_no_bit() -> None:
    before = gossamer.get_num_threads()
    cases = [
        (operands(1, 300, 300, 4, 2, 32), random_layout((1, heads, 300, 300), block))
        for heads, block in ((4, (32, 32)), (2, (1, 16)), (1, (64, 2)))
    ]
    results = set()
    try:
        for threads in (1, 2, 5):
            gossamer.set_num_threads(threads)
            parts: list[bytes] = []
            for arrays, layout in cases:
                o, lse = attention(*arrays, layout)
                slopes = attention_backward(arrays[0], *arrays, o, lse, layout)
                parts += [x.tobytes() for x in slopes[:3]]
            results.add(tuple(parts))
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


def test_results_are_written_to_out() -> None:
    q, k, v = operands(1, 20, 20, 2, 1, 8)
    layout = random_layout((1, 1, 20, 20), (8, 8))
    o, lse = attention(q, k, v, layout)
    want = attention_backward(q, q, k, v, o, lse, layout)
    out = (np.empty_like(q), np.empty_like(k), np.empty_like(v))
    got = attention_backward(q, q, k, v, o, lse, layout, out=out)
    for a, b, c in zip(got, want, out, strict=False):
        assert a is c
        np.testing.assert_array_equal(a, b)


Q, K, V = operands(1, 8, 8, 4, 2, 16)
LAYOUT = BlockLayout.from_mask(np.ones((1, 2, 2), bool), block=4)
OUT, LSE = attention(Q, K, V, LAYOUT)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: attention_backward(OUT[:, :4], Q, K, V, OUT, LSE, LAYOUT),
        ValueError,
        "attention_backward: do.shape is (1, 4, 4, 16), expected the result.shape = (1, 8, 4, 16)",
    ),
    (
        lambda: attention_backward(OUT, Q, K, V, OUT, LSE[:, :2], LAYOUT),
        ValueError,
        "attention_backward: lse.shape is (1, 2, 8), expected (1, 4, 8)",
    ),
    (
        lambda: attention_backward(
            OUT, Q, K, V, OUT, LSE, LAYOUT, bias=np.zeros((1, 1, 8, 8), F32), with_dbias=True
        ),
        ValueError,
        "attention_backward: bias.shape is (1, 1, 8, 8), expected (1, 4, 8, 8)",
    ),
    (
        lambda: attention_backward(OUT, Q, K, V, OUT, LSE, LAYOUT, out=(OUT, None, None)),
        ValueError,
        "attention_backward: dq overlaps do, expected separate memory",
    ),
    (
        lambda: attention_backward(OUT, Q, K, V, OUT, LSE, Q),  # type: ignore[arg-type]
        TypeError,
        "attention_backward: layout is a ndarray, expected a BlockLayout",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
