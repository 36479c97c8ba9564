"""Block attention, forward, against a dense float64 oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import pytest
from attention_oracle import DTYPES, Result, allowed, assert_right, dense, element_mask
from gossamer import CSR, BlockLayout, attention

F32 = np.float32
BF16 = ml_dtypes.bfloat16


def operands(
    *shape: int, value_depth: int | None = None, dtype: Any = F32, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw q, k and v of a batch, queries, keys, heads, heads of keys and a depth."""
    batch, queries, keys, heads, key_heads, depth = shape
    rng = np.random.default_rng(seed)
    shapes = (
        (batch, queries, heads, depth),
        (batch, keys, key_heads, depth),
        (batch, keys, key_heads, depth if value_depth is None else value_depth),
    )
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return q, k, v


def random_layout(
    shape: tuple[int, int, int, int], block: tuple[int, int], seed: int = 0
) -> BlockLayout:
    """Cover `shape` elements with random blocks; the first row of blocks is empty."""
    batch, heads, queries, keys = shape
    grid = (batch, heads, -(-queries // block[0]), -(-keys // block[1]))
    mask = np.random.default_rng(seed).random(grid) < 0.5
    mask[:, :, :1] = False
    return BlockLayout.from_mask(mask, block=block)


def check(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    layout: BlockLayout,
    dtype: Any = F32,
    **options: Any,
) -> Result:
    """Compare attention with the oracle, and return what it gave."""
    o, lse = attention(q, k, v, layout, **options)
    where = {key: options.pop(key) for key in ("causal", "window", "q_offset") if key in options}
    mask = element_mask(layout, q.shape[2], q.shape[1], k.shape[1])
    mask = mask & allowed(q.shape[1], k.shape[1], **where)
    want = dense(q, k, v, mask, **options)
    naive = dense(q, k, v, mask, **options, dtype=dtype)
    assert o.dtype == q.dtype
    assert lse.dtype == F32
    assert_right(o, want.o, naive.o, dtype)
    assert_right(lse, want.lse, naive.lse, F32 if dtype == F32 else dtype)
    return Result(o, lse)


BLOCKS = [(64, 64), (16, 16), (1, 16), (1, 1), (64, 1), (128, 128), (40, 24), (8, 4), (3, 200)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_block(block: tuple[int, int], dtype: Any, causal: bool) -> None:
    q, k, v = operands(2, 150, 150, 4, 2, 32, dtype=dtype)
    for heads in (1, 2, 4):
        layout = random_layout((1 if heads == 2 else 2, heads, 150, 150), block)
        check(q, k, v, layout, dtype, causal=causal)


@pytest.mark.parametrize("depth", [1, 8, 40, 64, 80, 128, 256])
@pytest.mark.parametrize("value_depth", [None, 1, 48, 100])
@pytest.mark.parametrize("block", [(32, 32), (2, 8), (48, 3)])
def test_every_depth(depth: int, value_depth: int | None, block: tuple[int, int]) -> None:
    for dtype in (F32, BF16):
        q, k, v = operands(1, 70, 91, 2, 1, depth, value_depth=value_depth, dtype=dtype)
        check(q, k, v, random_layout((1, 2, 70, 91), block), dtype, causal=True)


@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 200), (63, 65), (64, 64), (65, 63), (200, 1)]
)
@pytest.mark.parametrize("block", [(64, 64), (1, 64), (64, 2)])
def test_every_length(queries: int, keys: int, block: tuple[int, int]) -> None:
    grid = (1, 1, -(-queries // block[0]), -(-keys // block[1]))
    layout = BlockLayout.from_mask(np.ones(grid, bool), block=block)
    for dtype, causal in ((F32, False), (F32, True), (BF16, True)):
        check(*operands(1, queries, keys, 2, 2, 16, dtype=dtype), layout, dtype, causal=causal)


@pytest.mark.parametrize("block", [(16, 16), (1, 8), (32, 1), (64, 64)])
@pytest.mark.parametrize(
    "options",
    [
        {"window": 20},
        {"window": (5, None), "causal": True},
        {"window": (None, 3)},
        {"q_offset": -30, "causal": True},
        {"q_offset": 200, "window": (150, 0)},
        {"scale": 0.7},
        {"scale": -0.3},
        {"scale": 0.0},
        {"softcap": 1.5},
        {"softcap": 30.0, "causal": True, "scale": 3.0},
    ],
    ids=str,
)
def test_options(options: dict[str, Any], block: tuple[int, int]) -> None:
    for dtype in (F32, np.float16):
        q, k, v = operands(1, 90, 100, 4, 2, 24, dtype=dtype)
        check(q, k, v, random_layout((1, 4, 90, 100), block), dtype, **options)


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00003, 0x7F812345, 0xFFC00155])
@pytest.mark.parametrize("block", [(16, 16), (1, 8), (32, 1)])
def test_any_nan_of_a_key_is_nan(block: tuple[int, int], bits: int) -> None:
    # Under the sanitizer of undefined behaviour: arithmetic on the bits of e^NaN overflows.
    q, k, v = operands(1, 32, 32, 2, 2, 16)
    k.view(np.uint32)[0, 5] = bits
    layout = BlockLayout.from_mask(
        np.ones((1, 1, 32 // block[0], 32 // block[1]), bool), block=block
    )
    for softcap in (None, 1.5):
        o, lse = gossamer.attention(q, k, v, layout, softcap=softcap)
        assert np.isnan(o).all()
        assert np.isnan(lse).all()


@pytest.mark.parametrize("block", [(16, 16), (1, 8), (32, 1), (24, 64)])
@pytest.mark.parametrize("extents", [(2, 4), (1, 4), (2, 1), (1, 1)])
def test_bias_and_sinks(extents: tuple[int, int], block: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    for dtype, bias_dtype in ((F32, F32), (BF16, F32), (BF16, BF16)):
        q, k, v = operands(2, 50, 70, 4, 2, 16, dtype=dtype)
        bias = rng.standard_normal((*extents, 50, 70)).astype(bias_dtype)
        bias[..., 7, :] = -np.inf
        sinks = np.array([0.5, -np.inf, -2.0, 4.0], F32)
        layout = random_layout((2, 4, 50, 70), block)
        check(q, k, v, layout, dtype, bias=bias)
        result = check(q, k, v, layout, dtype, bias=bias, sinks=sinks, causal=True)
        np.testing.assert_array_equal(result.lse[0, :, 0], sinks)


@pytest.mark.parametrize("block", [(16, 16), (32, 3), (5, 40), (64, 64), (1, 7)])
def test_blocks_with_bits(block: tuple[int, int]) -> None:
    mask = np.random.default_rng(4).random((2, 2, 90, 110)) < 0.15
    mask[:, :, :17] = False
    mask[:, :, 40:70] |= np.arange(110) < 70
    pattern = CSR.from_dense(mask.reshape(-1, 110).astype(F32))
    layout = BlockLayout.from_csr(pattern, block=block, batch=2, heads=2)
    for dtype in (F32, BF16):
        q, k, v = operands(2, 90, 110, 4, 2, 20, dtype=dtype)
        check(q, k, v, layout, dtype)
        check(q, k, v, layout, dtype, causal=True, softcap=2.0)


@pytest.mark.parametrize("block", [(16, 16), (1, 16), (20, 2)])
def test_packed_sequences_are_sequences(block: tuple[int, int]) -> None:
    lengths, key_lengths = [5, 0, 60, 33], [20, 7, 60, 1]
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    key_starts = np.cumsum([0, *key_lengths]).astype(np.int32)
    rng = np.random.default_rng(5)
    q = rng.standard_normal((98, 4, 24)).astype(F32)
    k, v = (rng.standard_normal((88, 2, 24)).astype(F32) for _ in range(2))
    layout = random_layout((4, 4, 60, 60), block)
    bias = rng.standard_normal((1, 4, 60, 60)).astype(F32)
    o, lse = attention(
        q, k, v, layout, causal=True, bias=bias, cu_seqlens=starts, cu_seqlens_k=key_starts
    )
    assert lse.shape == (4, 98)
    for b, (n, m) in enumerate(zip(lengths, key_lengths, strict=True)):
        rows, keys = slice(starts[b], starts[b + 1]), slice(key_starts[b], key_starts[b + 1])
        mask = element_mask(layout, 4, n, m)[b : b + 1] & allowed(n, m, causal=True)
        parts = (q[None, rows], k[None, keys], v[None, keys], mask)
        want = dense(*parts, bias=bias[:, :, :n, :m])
        naive = dense(*parts, bias=bias[:, :, :n, :m], dtype=F32)
        assert_right(o[None, rows], want.o, naive.o, F32)
        assert_right(lse[None, :, rows], want.lse, naive.lse, F32)


@pytest.mark.parametrize("block", [(16, 16), (1, 16), (20, 2)])
def test_strides(block: tuple[int, int]) -> None:
    q, k, v = operands(2, 60, 60, 4, 2, 32)
    layout = random_layout((1, 4, 60, 60), block)
    want = attention(q, k, v, layout)

    def strided(x: np.ndarray) -> np.ndarray:
        room = np.empty((x.shape[2], x.shape[0], x.shape[1] + 3, x.shape[3] + 5), F32)
        view = room.transpose(1, 2, 0, 3)[:, : x.shape[1], :, : x.shape[3]]
        view[...] = x
        return view

    out = (strided(np.zeros((2, 60, 4, 32), F32)), np.empty((2, 4, 60), F32))
    got = attention(*(strided(x) for x in (q, k, v)), layout, out=out)
    assert got[0] is out[0]
    assert got[1] is out[1]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_results_follow_the_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    arrays = operands(1, 40, 40, 2, 1, 16)
    layout = random_layout((1, 2, 40, 40), (16, 16))
    want = attention(*arrays, layout)
    convert = module.from_numpy if framework == "torch" else module.numpy.asarray
    got = attention(*(convert(x) for x in arrays), layout)
    for a, b in zip(got, want, strict=True):
        assert isinstance(a, module.Tensor if framework == "torch" else module.Array)
        np.testing.assert_array_equal(np.asarray(a), b)


def test_threads_change_no_bit() -> None:
    before = gossamer.get_num_threads()
    cases = [
        (operands(1, 500, 500, 4, 2, 32), random_layout((1, heads, 500, 500), block))
        for heads, block in ((4, (32, 32)), (2, (1, 16)), (1, (64, 2)))
    ]
    results = set()
    try:
        for threads in (1, 2, 5):
            gossamer.set_num_threads(threads)
            parts = [x.tobytes() for arrays, layout in cases for x in attention(*arrays, layout)]
            results.add(tuple(parts))
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


def test_large_scores_do_not_overflow() -> None:
    q, k, v = operands(1, 40, 40, 1, 1, 8)
    layout = BlockLayout.from_mask(np.ones((1, 3, 3), bool), block=16)
    check(q * 100, k * 100, v, layout, causal=True)


def test_nan_among_the_values_does_not_reach_rows_without_keys() -> None:
    q, k, v = operands(1, 20, 20, 1, 1, 8)
    v[:] = np.nan
    layout = BlockLayout.from_mask(np.ones((1, 2, 2), bool), block=16)
    o, lse = attention(q, k, v, layout, causal=True, q_offset=-10)
    assert np.all(o[0, :10] == 0)
    assert np.all(np.isneginf(lse[0, 0, :10]))
    assert np.all(np.isnan(o[0, 10:]))


@pytest.mark.parametrize(("batch", "queries", "keys"), [(0, 4, 4), (1, 0, 4), (1, 4, 0)])
def test_empty_operands(batch: int, queries: int, keys: int) -> None:
    q, k, v = operands(batch, queries, keys, 2, 1, 8)
    grid = (1, 1, -(-queries // 2), -(-keys // 2))
    layout = BlockLayout.from_mask(np.ones(grid, bool), block=2)
    o, lse = attention(q, k, v, layout)
    assert o.shape == (batch, queries, 2, 8)
    assert np.all(o == 0)
    assert np.all(np.isneginf(lse))


Q, K, V = operands(1, 8, 8, 4, 2, 16)
LAYOUT = BlockLayout.from_mask(np.ones((1, 2, 2), bool), block=4)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: attention(Q, K, V, np.ones((2, 2))),  # type: ignore[arg-type]
        TypeError,
        "attention: layout is a ndarray, expected a BlockLayout",
    ),
    (
        lambda: attention(Q.astype(np.float64), K, V, LAYOUT),
        TypeError,
        "attention: q.dtype is float64, expected float32, float16 or bfloat16",
    ),
    (
        lambda: attention(Q, K.astype(np.float16), V, LAYOUT),
        TypeError,
        "attention: k.dtype is float16, expected q.dtype = float32",
    ),
    (lambda: attention(Q[0], K, V, LAYOUT), ValueError, "attention: q.ndim is 3, expected 4"),
    (
        lambda: attention(Q[..., ::2], K, V, LAYOUT),
        ValueError,
        "attention: q.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
    (
        lambda: attention(Q, K[..., :8], V, LAYOUT),
        ValueError,
        "attention: k.shape[3] is 8, expected q.shape[3] = 16",
    ),
    (
        lambda: attention(Q[:, :, :3], K, V, LAYOUT),
        ValueError,
        "attention: q has 3 heads, expected a multiple of k's 2",
    ),
    (
        lambda: attention(Q, K, V[:, :, :1], LAYOUT),
        ValueError,
        "attention: v.shape[2] is 1, expected k.shape[2] = 2",
    ),
    (
        lambda: attention(Q, K, V[:, :7], LAYOUT),
        ValueError,
        "attention: v.shape[1] is 7, expected k.shape[1] = 8",
    ),
    (
        lambda: attention(Q, K[:, :4], V[:, :4], LAYOUT),
        ValueError,
        "attention: layout.shape[3] is 2, expected ceil(4 / 4) = 1",
    ),
    (
        lambda: attention(*operands(1, 8, 8, 1, 1, 257), LAYOUT),
        ValueError,
        "attention: q.shape[3] is 257, expected 1 to 256",
    ),
    (
        lambda: attention(Q, K, V, BlockLayout.from_mask(np.ones((3, 2, 2), bool), block=4)),
        ValueError,
        "attention: layout.shape[1] is 3, expected 1, k's 2 or q's 4",
    ),
    (
        lambda: attention(Q, K, V, BlockLayout.from_mask(np.ones((2, 1, 2, 2), bool), block=4)),
        ValueError,
        "attention: layout.shape[0] is 2, expected 1 or 1",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, softcap=0.0),
        ValueError,
        "attention: softcap is 0.0, expected a positive number",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, softcap=1e300),
        ValueError,
        "attention: softcap is 1e+300, expected a positive number of float32",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, scale=-1e300),
        ValueError,
        "attention: scale is -1e+300, expected a finite number of float32",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, sinks=np.ones(4)),
        TypeError,
        "attention: sinks.dtype is float64, expected float32",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, out=(np.ones(Q.shape), None)),
        TypeError,
        "attention: out[0].dtype is float64, expected q.dtype = float32",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, scale=float("inf")),
        ValueError,
        "attention: scale is inf, expected a finite number",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, window=-1),
        ValueError,
        "attention: window[0] is -1, expected at least 0",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, bias=np.zeros((1, 3, 8, 8), F32)),
        ValueError,
        "attention: bias.shape is (1, 3, 8, 8), expected (1 or 1, 4 or 1, 8, 8)",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, bias=np.zeros((1, 4, 8, 8), np.float16)),
        TypeError,
        "attention: bias.dtype is float16, expected float32 or q.dtype = float32",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, sinks=np.zeros(3, F32)),
        ValueError,
        "attention: sinks.shape is (3,), expected (4,)",
    ),
    (
        lambda: attention(Q[0], K[0], V[0], LAYOUT, cu_seqlens=np.array([0, 9], np.int32)),
        ValueError,
        "attention: cu_seqlens[-1] is 9, expected the number of tokens = 8",
    ),
    (
        lambda: attention(Q[0], K[0], V[0], LAYOUT, cu_seqlens=np.array([0, 5, 3, 8], np.int32)),
        ValueError,
        "attention: cu_seqlens[2] is 3, expected at least 5",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, out=(Q, None)),
        ValueError,
        "attention: out[0] overlaps q, expected separate memory",
    ),
    (
        lambda: attention(Q, K, V, LAYOUT, out=(np.zeros((1, 8, 4, 8), F32), None)),
        ValueError,
        "attention: out[0].shape is (1, 8, 4, 8), expected (1, 8, 4, 16)",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
