"""Decoding over page lists, merging of attentions, and the choice of blocks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import pytest
from attention_oracle import DTYPES, assert_right, dense
from gossamer import (
    BlockLayout,
    attention,
    attention_decode,
    block_pool,
    block_topk,
    merge_attention,
)

F32 = np.float32
I32 = np.int32
BF16 = ml_dtypes.bfloat16


class Cache:
    """A cache of pages with lists of some of them."""

    def __init__(
        self, page: int, depth: int, *, lists: int, dtype: Any = F32, queries: int = 1
    ) -> None:
        rng = np.random.default_rng(page + depth)
        self.page, batch, pages, self.heads, self.key_heads = page, 3, 2400 // page + 8, 4, 2
        self.q = rng.standard_normal((batch, queries, self.heads, depth)).astype(dtype)
        self.k, self.v = (
            rng.standard_normal((pages, page, self.key_heads, d)).astype(dtype)
            for d in (depth, depth + 3)
        )
        counts = [0, 1, 2400 // page, 5, 7, 3][: batch * lists]
        self.lists = [rng.permutation(pages)[:n] for n in counts]
        self.indptr = np.cumsum([0, *counts]).astype(I32)
        self.indices = np.concatenate(self.lists).astype(I32)
        rooms = np.array(counts) * page
        self.lengths = np.maximum(rooms - rng.integers(0, page, rooms.size), 0).astype(I32)

    def expected(self, lengths: np.ndarray, **options: Any) -> tuple[Any, Any]:
        """Attend densely to each list; return the oracle's and the naive results."""
        causal = options.pop("causal", False)
        dtype = self.q.dtype
        per = len(self.lists) // len(self.q)
        found: list[Any] = []
        for kind in (None, dtype):
            o, lse = [], []
            for b, h in np.ndindex(len(self.q), self.key_heads):
                at = b * per + (h if per > 1 else 0)
                n = int(lengths[at])
                k, v = (
                    x[self.lists[at]][:, :, h].reshape(-1, x.shape[3])[:n] for x in (self.k, self.v)
                )
                group = slice(2 * h, 2 * h + 2)
                queries = self.q.shape[1]
                mask = np.ones((queries, n), bool)
                if causal:
                    mask = np.arange(n) <= np.arange(queries)[:, None] + n - queries
                own = dict(options)
                if "sinks" in own:
                    own["sinks"] = own["sinks"][group]
                part = dense(
                    self.q[b : b + 1, :, group], k[None, :, None], v[None, :, None], mask,
                    **own, dtype=kind,
                )  # fmt: skip
                o.append(part.o)
                lse.append(part.lse)
            batch, queries = len(self.q), self.q.shape[1]
            heads = np.concatenate(o).reshape(batch, 2, queries, 2, -1).swapaxes(1, 2)
            found.append(
                (
                    heads.reshape(batch, queries, self.heads, -1),
                    np.concatenate(lse).reshape(batch, self.heads, queries),
                )
            )
        return found[0], found[1]

    def check(self, lengths: np.ndarray | None, **options: Any) -> None:
        """Compare with the oracle."""
        o, lse = attention_decode(
            self.q, self.k, self.v, self.indptr, self.indices, lengths=lengths, **options
        )
        rooms = np.diff(self.indptr) * self.page
        want, naive = self.expected(rooms if lengths is None else np.ravel(lengths), **options)
        dtype = self.q.dtype.type
        assert o.dtype == self.q.dtype
        assert_right(o, want[0], naive[0], dtype)
        assert_right(lse, want[1], naive[1], F32 if dtype == F32 else dtype)


@pytest.mark.parametrize("page", [1, 16, 64, 700])
@pytest.mark.parametrize("lists", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pages(page: int, lists: int, dtype: Any) -> None:
    cache = Cache(page, 40, lists=lists, dtype=dtype)
    cache.check(None)
    cache.check(cache.lengths.reshape(3, lists) if lists > 1 else cache.lengths)


def test_a_padded_table_of_pages() -> None:
    cache = Cache(16, 40, lists=1)
    want = attention_decode(
        cache.q, cache.k, cache.v, cache.indptr, cache.indices, lengths=cache.lengths
    )
    width = max(map(len, cache.lists)) + 1
    table = np.full((3, width), -1, I32)
    table[1] = 2**31 - 1
    for row, pages in zip(table, cache.lists, strict=True):
        row[: len(pages)] = pages
    lists = np.arange(4, dtype=I32) * width, table.ravel()
    got = attention_decode(cache.q, cache.k, cache.v, *lists, lengths=cache.lengths)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)
    longer = cache.lengths + I32(16)
    with pytest.raises(ValueError, match=r"attention_decode: indices\[0\] is -1, expected 0 to"):
        attention_decode(cache.q, cache.k, cache.v, *lists, lengths=longer)


@pytest.mark.parametrize("depth", [1, 64, 80, 128, 250])
def test_depths_and_several_queries(depth: int) -> None:
    for queries in (1, 3):
        cache = Cache(16, depth, lists=2, queries=queries)
        cache.check(cache.lengths.reshape(3, 2), causal=True)


@pytest.mark.parametrize(
    "options",
    [{"scale": 0.3}, {"softcap": 2.0}, {"sinks": np.array([0.5, -np.inf, -2.0, 4.0], F32)}],
    ids=str,
)
def test_options(options: dict[str, Any]) -> None:
    Cache(16, 40, lists=2).check(None, **options)


def test_heads_that_are_read_together_equal_heads_apart() -> None:
    cache = Cache(16, 40, lists=1)
    lists = np.arange(0, 451, 150, dtype=I32), np.tile(np.arange(150, dtype=I32), 3)
    with gossamer.num_threads(1):  # enough parts for all threads
        got = attention_decode(cache.q, cache.k, cache.v, *lists)
    for h in range(2):
        own = slice(2 * h, 2 * h + 2)
        alone = (x[:, :, h : h + 1] for x in (cache.k, cache.v))
        o, lse = attention_decode(cache.q[:, :, own], *alone, *lists)
        np.testing.assert_array_equal(got[0][:, :, own], o)
        np.testing.assert_array_equal(got[1][:, own], lse)


def test_lengths_of_sequences_hold_for_all_heads() -> None:
    cache = Cache(16, 24, lists=2)
    cache.lists = [cache.lists[2][:5]] * 6
    cache.indptr = (np.arange(7) * 5).astype(I32)
    cache.indices = np.concatenate(cache.lists).astype(I32)
    lengths = np.array([0, 33, 80], I32)
    got = attention_decode(cache.q, cache.k, cache.v, cache.indptr, cache.indices, lengths=lengths)
    want = attention_decode(
        cache.q, cache.k, cache.v, cache.indptr, cache.indices,
        lengths=np.repeat(lengths, 2).reshape(3, 2),
    )  # fmt: skip
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_lists_of_other_sequences_change_no_bit() -> None:
    rng = np.random.default_rng(4)
    q = rng.standard_normal((2, 1, 32, 64)).astype(F32)
    k, v = (rng.standard_normal((300, 1, 32, 64)).astype(F32) for _ in range(2))
    one, other = np.arange(100), rng.permutation(300)[:100]
    # The heads of the first sequence share their list, those of the second do not.
    lists = [one] * 32 + [one] * 31 + [other]
    indptr = np.arange(0, 6401, 100)
    both, _ = attention_decode(q, k, v, indptr.astype(I32), np.concatenate(lists).astype(I32))
    alone, _ = attention_decode(
        q[:1], k, v, indptr[:33].astype(I32), np.concatenate(lists[:32]).astype(I32)
    )
    np.testing.assert_array_equal(both[:1], alone)


def test_threads_change_no_bit() -> None:
    before = gossamer.get_num_threads()
    cache = Cache(16, 250, lists=2)
    # One list for all heads: with few threads, the heads of a token are read together.
    pages = np.arange(150, dtype=I32)
    whole = (np.arange(0, 601, 150, dtype=I32)[:4], np.tile(pages, 3))
    results = set()
    try:
        for threads in (1, 2, 5):
            gossamer.set_num_threads(threads)
            parts = attention_decode(cache.q, cache.k, cache.v, cache.indptr, cache.indices)
            parts += attention_decode(cache.q, cache.k, cache.v, *whole)
            results.add(tuple(x.tobytes() for x in parts))
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packed", [False, True])
def test_merged_halves_are_the_whole(dtype: Any, packed: bool) -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, 50, 2, 24)).astype(dtype) for _ in range(3))
    mask = rng.random((1, 2, 7, 7)) < 0.7
    mask[:, :, 3] = False
    sides = rng.random(mask.shape) < 0.5
    layouts = [BlockLayout.from_mask(x, block=8) for x in (mask, mask & sides, mask & ~sides)]
    whole, *halves = (attention(q, k, v, layout) for layout in layouts)
    if packed:
        halves = [(o[0], lse[0]) for o, lse in halves]
    o, lse = merge_attention(halves)
    assert o.dtype == q.dtype
    tolerance = {"rtol": 1e-5, "atol": 2e-6 if dtype == F32 else 0.02}
    np.testing.assert_allclose(
        o.astype(F32), (whole[0][0] if packed else whole[0]).astype(F32), **tolerance
    )
    np.testing.assert_allclose(lse, whole[1][0] if packed else whole[1], rtol=1e-5, atol=1e-6)
    out = (np.empty_like(o), np.empty_like(lse))
    assert merge_attention(halves, out=out)[0] is out[0]
    np.testing.assert_array_equal(out[0], o)


def merger(framework: str) -> Any:
    """Return merge_attention of the core or of an adapter, on arrays of NumPy's."""
    if framework == "numpy":
        return merge_attention
    convert = pytest.importorskip({"torch": "torch", "jax": "jax.numpy"}[framework]).asarray
    adapter = importlib.import_module(f"gossamer.{framework}")

    def merge(parts: Any) -> Any:
        made = [(convert(o), convert(lse)) for o, lse in parts]
        return tuple(np.asarray(x) for x in adapter.merge_attention(made))

    return merge


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_merging_does_not_depend_on_the_size_of_logarithms(framework: str) -> None:
    merge = merger(framework)
    ones = np.ones((1, 1, 1, 4), F32)
    for a, b, share in [
        *((x, x, 0.5) for x in (1e4, -1e4, 3e5, -1e7, 1e30, -1e30, -3e38, 3e38)),
        *((x, x + 2, 1 / (1 + np.exp(2))) for x in (4e5, -4e5)),
        *((-3e38, 3e38, 0.0), (5.0, -3e38, 1.0)),
    ]:
        parts = [(x * ones, np.full((1, 1, 1), y, F32)) for x, y in ((1, a), (3, b))]
        o, lse = merge(parts)
        np.testing.assert_allclose(o, ones * (share + 3 * (1 - share)), rtol=1e-5)
        np.testing.assert_allclose(lse, np.logaddexp(a, b), rtol=1e-6)
    infinite = merge([(ones, np.full((1, 1, 1), x, F32)) for x in (np.inf, 0)])
    assert np.isnan(infinite[0]).all() and np.isposinf(infinite[1]).all()


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_what_a_part_without_keys_holds_does_not_matter(framework: str) -> None:
    nothing = np.full((1, 2, 1, 4), np.nan, F32), np.full((1, 1, 2), -np.inf, F32)
    some = np.ones((1, 2, 1, 4), F32), np.zeros((1, 1, 2), F32)
    for o, lse in (merger(framework)(parts) for parts in ([nothing, some], [some, nothing])):
        np.testing.assert_array_equal(o, some[0])
        np.testing.assert_array_equal(lse, some[1])
    o, lse = merger(framework)([nothing, nothing])
    assert (o == 0).all() and np.isneginf(lse).all()


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_results_follow_the_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    convert = module.from_numpy if framework == "torch" else module.numpy.asarray
    kind = module.Tensor if framework == "torch" else module.Array
    cache = Cache(16, 8, lists=1)
    arrays = [convert(x) for x in (cache.q, cache.k, cache.v, cache.indptr, cache.indices)]
    part = attention_decode(*arrays)
    pooled = block_pool(arrays[1], 4)
    chosen = block_topk(pooled, pooled, 2)
    for result in (*part, *merge_attention([part, part]), pooled, chosen):
        assert isinstance(result, kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("length", "block"), [(1, 1), (70, 8), (64, 64), (200, 150), (0, 4)])
def test_block_pool(length: int, block: int, dtype: Any) -> None:
    x = np.random.default_rng(2).integers(-8, 8, (2, length, 3, 20)).astype(dtype)
    parts = [x[:, i : i + block].astype(np.float64) for i in range(0, length, block)]
    for mode in ("mean", "max", "min"):
        got = block_pool(x, block, mode=mode)
        assert got.dtype == F32
        assert got.shape == (2, len(parts), 3, 20)
        for j, part in enumerate(parts):
            np.testing.assert_allclose(got[:, j], getattr(np, mode)(part, 1), rtol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "max", "min"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_block_with_nan_is_nan(mode: str, at: int) -> None:
    x = np.arange(32, dtype=F32).reshape(1, 8, 1, 4)
    x[0, at, 0, 1::2] = np.nan
    got = block_pool(x, 4, mode=mode)
    np.testing.assert_array_equal(got[0, 0], getattr(np, mode)(x[0, :4], 0))
    assert np.isfinite(got[0, 1]).all()


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_mean_of_keys_is_in_range_where_their_sum_is_not(dtype: Any) -> None:
    x = np.full((1, 70, 1, 5), 3e38).astype(dtype)
    x[0, :, 0, 1], x[0, 1::2, 0, 2], x[0, 3, 0, 3] = 1, -3e38, np.inf
    want = [x.flat[0], 1, 0, np.inf, x.flat[0]]
    np.testing.assert_array_equal(block_pool(x, 70)[0, 0, 0], np.asarray(want, F32))


def chosen(
    scores: np.ndarray, k: int, *, rows: int = 1, block: int = 1, causal: bool = False,
    q_offset: int = 0, first: int = 0, local: int = 0,
) -> np.ndarray:  # fmt: skip
    """Choose for each row by sorting, from scores [B, Mb, H, Nb]."""
    out = np.full((*scores.shape[:3], k), -1, I32)
    for b, i, h in np.ndindex(scores.shape[:3]):
        last = (i + 1) * rows - 1 + q_offset
        own = last // block
        may = [j for j in range(scores.shape[3]) if not causal or j <= own]
        must = [j for j in may if j < first or own - local < j <= own]

        def order(j: int, row: Any = (b, i, h), must: Any = must) -> tuple[Any, ...]:
            score = scores[row][j]
            return (0, 0, j) if j in must else (2, 0, j) if np.isnan(score) else (1, -score, j)

        best = sorted(sorted(may, key=order)[:k])
        out[b, i, h, : len(best)] = best
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True, "rows": 4, "block": 8},
        {"causal": True, "block": 3, "q_offset": 40, "keep_first": 2, "keep_local": 3},
        {"causal": True, "block": 5, "q_offset": -20, "keep_local": 1},
    ],
    ids=str,
)
def test_block_topk(options: dict[str, Any], dtype: Any) -> None:
    rng = np.random.default_rng(3)
    # Small integers: many ties, and scores without rounding.
    q = rng.integers(-2, 3, (2, 70, 4, 8)).astype(dtype)
    pooled = rng.integers(-2, 3, (2, 90, 2, 8)).astype(dtype)
    with np.errstate(invalid="ignore"):
        pooled[0, 5] = np.nan
    wide = [x.astype(np.float64) for x in (q, pooled)]
    scores = np.einsum("bighd,bjgd->bigj", wide[0].reshape(2, 70, 2, 2, 8), wide[1])
    names = {"keep_first": "first", "keep_local": "local"}
    want = chosen(scores, 7, **{names.get(key, key): x for key, x in options.items()})
    np.testing.assert_array_equal(block_topk(q, pooled, 7, **options), want)


def test_block_topk_by_bounds() -> None:
    rng = np.random.default_rng(4)
    q = rng.integers(-2, 3, (1, 20, 4, 8)).astype(F32)
    low = rng.integers(-3, 1, (1, 30, 2, 8)).astype(F32)
    high = low + rng.integers(0, 4, low.shape).astype(F32)
    grouped = q.reshape(1, 20, 2, 2, 1, 8)
    ends = (x.swapaxes(1, 2)[:, None, :, None] for x in (low, high))
    a, b = (grouped * end for end in ends)
    scores = np.maximum(a, b).sum((3, 5))
    np.testing.assert_array_equal(block_topk(q, high, 5, pooled_min=low), chosen(scores, 5))


def test_chosen_blocks_make_a_layout() -> None:
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((1, 64, 2, 16)).astype(F32) for _ in range(3))
    picked = block_topk(q, block_pool(k, 8), 3, block=8, causal=True, keep_local=1)
    layout = BlockLayout.from_topk(picked, cols=8, block=(1, 8))
    o, lse = attention(q, k, v, layout, causal=True)
    assert np.all(np.isfinite(lse))
    np.testing.assert_allclose(o[0, 0], v[0, 0], rtol=1e-5)


CACHE = Cache(16, 8, lists=1)


def decode(**changed: Any) -> Any:
    names = ("q", "k", "v", "indptr", "indices")
    arrays = [changed.pop(name, getattr(CACHE, name)) for name in names]
    return attention_decode(*arrays, **changed)


LAST = int(CACHE.indptr[-1])
PAGES = len(CACHE.k)
PART = (np.zeros((1, 4, 2, 8), F32), np.zeros((1, 2, 4), F32))
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: decode(indices=np.where(np.arange(LAST) == 3, PAGES, CACHE.indices).astype(I32)),
        ValueError,
        f"attention_decode: indices[3] is {PAGES}, expected 0 to {PAGES - 1}",
    ),
    (
        lambda: decode(indptr=CACHE.indptr[:-1]),
        ValueError,
        "attention_decode: indptr.shape[0] is 3, expected B + 1 = 4 or B*Hkv + 1 = 7",
    ),
    (
        lambda: decode(indices=CACHE.indices[1:]),
        ValueError,
        f"attention_decode: indices.shape[0] is {LAST - 1}, expected indptr[-1] = {LAST}",
    ),
    (
        lambda: decode(lengths=np.array([0, 17, 0], I32)),
        ValueError,
        "attention_decode: lengths has 17, expected 0 to 16, which the pages hold",
    ),
    (
        lambda: decode(indices=CACHE.indices.astype(np.int64)),
        TypeError,
        "attention_decode: indices.dtype is int64, expected int32",
    ),
    (
        lambda: decode(q=CACHE.q[..., :4]),
        ValueError,
        "attention_decode: k_cache.shape[3] is 8, expected q.shape[3] = 4",
    ),
    (
        lambda: decode(v=CACHE.v[:, :4]),
        ValueError,
        "attention_decode: v_cache.shape[1] is 4, expected k_cache.shape[1] = 16",
    ),
    (
        lambda: merge_attention([]),
        ValueError,
        "merge_attention: there are no parts, expected at least one",
    ),
    (
        lambda: merge_attention([PART, (PART[0][:, :2], PART[1])]),
        ValueError,
        "merge_attention: o[1].shape is (1, 2, 2, 8), expected out[0].shape = (1, 4, 2, 8)",
    ),
    (
        lambda: merge_attention([(PART[0], PART[1][:, :1])]),
        ValueError,
        "merge_attention: lse[0].shape is (1, 1, 4), expected (1, 2, 4)",
    ),
    (
        lambda: block_pool(PART[0], 0),
        ValueError,
        "block_pool: block is 0, expected 1 to 2147483647",
    ),
    (
        lambda: block_pool(PART[0], 2, mode="sum"),
        ValueError,
        "block_pool: mode is 'sum', expected 'mean', 'max' or 'min'",
    ),
    (
        lambda: block_topk(PART[0], PART[0][..., :4], 1),
        ValueError,
        "block_topk: pooled.shape[3] is 4, expected q.shape[3] = 8",
    ),
    (
        lambda: block_topk(PART[0], PART[0], -1),
        ValueError,
        "block_topk: k is -1, expected 0 to 2147483647",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
