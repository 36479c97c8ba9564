"""Decoding from caches of pages, and merging, on GPUs: against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from device import BF16, Device, EmulatedArray
from gossamer import attention_decode, merge_attention

pytestmark = pytest.mark.gpu

F32, F16, I32 = np.dtype("f4"), np.dtype("f2"), np.dtype("i4")
DTYPES = [F32, F16, BF16]


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


class Case(NamedTuple):
    heads: int
    key_heads: int
    queries: int
    depth: int
    value_depth: int
    page: int
    lists: int = 1  # of a sequence


class Cache:
    """A cache of pages, and lists of some of them for three sequences."""

    def __init__(self, case: Case, dtype: Any = F32, tokens: int = 150) -> None:
        self.case = case
        rng = np.random.default_rng(case.depth + case.page)
        pages = max(tokens // case.page, 3)
        shapes = [
            (3, case.queries, case.heads, case.depth),
            *((pages + 2, case.page, case.key_heads, d) for d in (case.depth, case.value_depth)),
        ]
        self.q, self.k, self.v = (rng.standard_normal(s).astype(dtype) for s in shapes)
        counts = [0, 1, pages, 3, 2, pages // 2 + 1][: 3 * case.lists]
        self.lists = [rng.permutation(pages + 2)[:n] for n in counts]
        self.indptr = np.cumsum([0, *counts]).astype(I32)
        self.indices = np.concatenate(self.lists).astype(I32)
        rooms = np.array(counts) * case.page
        self.lengths = np.maximum(rooms - rng.integers(0, case.page + 1, rooms.size), 0).astype(I32)

    def arrays(self) -> list[np.ndarray]:
        return [self.q, self.k, self.v, self.indptr, self.indices]

    def expected(
        self,
        lengths: np.ndarray | None = None,
        *,
        causal: bool = False,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Attend in float64, a sequence and a head at a time."""
        case, q, k, v = self.case, *(x.astype(np.float64) for x in (self.q, self.k, self.v))
        o, lse = np.zeros((*q.shape[:3], case.value_depth)), np.zeros((3, case.heads, case.queries))
        for b, h in np.ndindex(3, case.heads):
            g = h * case.key_heads // case.heads
            at = b * case.lists + (g if case.lists > 1 else 0)
            keys, values = (x[self.lists[at], :, g].reshape(-1, x.shape[3]) for x in (k, v))
            n = len(keys) if lengths is None else np.ravel(lengths)[at]
            s = q[b, :, h] @ keys[:n].T * (case.depth**-0.5 if scale is None else scale)
            if softcap is not None:
                s = softcap * np.tanh(s / softcap)
            if causal:
                s[np.arange(n) > np.arange(case.queries)[:, None] + n - case.queries] = -np.inf
            if sinks is not None:
                s = np.hstack([s, np.full((case.queries, 1), float(sinks[h]))])
            lse[b, h] = np.logaddexp.reduce(s, 1, initial=-np.inf)
            shift = np.where(np.isfinite(lse[b, h]), lse[b, h], 0)
            o[b, :, h] = np.exp(s - shift[:, None])[:, :n] @ values[:n]
        return o, lse

    def check(self, gpu: Device, lengths: np.ndarray | None = None, **options: Any) -> None:
        moved = {n: gpu.put(x) if isinstance(x, np.ndarray) else x for n, x in options.items()}
        put = None if lengths is None else gpu.put(lengths)
        o, lse = attention_decode(*map(gpu.put, self.arrays()), lengths=put, **moved)
        want, logs = self.expected(lengths, **options)
        got, dtype = gpu.get(o), self.q.dtype
        assert got.dtype == dtype
        size = np.abs(want).max(initial=1)
        # Weights are rounded to the type before they are multiplied by values, and o is.
        atol = (3 * oracle.unit_roundoff(dtype) + 4e-6) * size
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=0, atol=atol)
        np.testing.assert_allclose(gpu.get(lse), logs, rtol=2e-6, atol=1e-5)


#: Copies by vectors and by single elements; tokens and pages longer than a part; lists of sequences
#: and of heads; more rows than a tile has; the smallest and the largest depths; just under 48 KiB
#: of dynamic shared memory, to which static arrays add.
CASES = [
    Case(4, 2, 1, 40, 24, 16),
    Case(4, 2, 1, 16, 16, 1, 2),
    Case(10, 1, 2, 24, 8, 90),
    Case(2, 2, 1, 1, 3, 5, 2),
    Case(1, 1, 2, 256, 200, 16),
    Case(2, 1, 1, 80, 80, 16),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_lists_of_several_parts(gpu: Device, case: Case, dtype: Any) -> None:
    cache = Cache(case, dtype)
    cache.check(gpu)
    cache.check(gpu, cache.lengths.reshape(3, case.lists), causal=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_options(gpu: Device, dtype: Any) -> None:
    cache = Cache(Case(4, 2, 3, 32, 16, 16, 2), dtype)
    sinks = np.array([0.5, -np.inf, -2.0, 4.0], F32)
    cache.check(gpu, softcap=1.5, sinks=sinks)
    cache.check(gpu, cache.lengths.reshape(3, 2), causal=True, scale=0.3, sinks=sinks)


def test_lengths_of_sequences_hold_for_all_heads(gpu: Device) -> None:
    cache = Cache(Case(2, 2, 1, 8, 8, 16, 2))
    cache.lists = [np.array([4, 0, 2])] * 6
    cache.indptr = (np.arange(7) * 3).astype(I32)
    cache.indices = np.concatenate(cache.lists).astype(I32)
    lengths = np.array([0, 33, 48], I32)
    put = [gpu.put(x) for x in cache.arrays()]
    got = attention_decode(*put, lengths=gpu.put(lengths))
    want = attention_decode(*put, lengths=gpu.put(np.repeat(lengths, 2).reshape(3, 2)))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(gpu.get(a), gpu.get(b))


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_a_mean_of_integers_is_exact(gpu: Device, dtype: Any) -> None:
    """Keys that all score 0 have equal weights; 256 tokens are four parts."""
    rng = np.random.default_rng(3)
    q, k = np.zeros((1, 1, 2, 16), dtype), np.ones((20, 16, 1, 16), dtype)
    v = rng.integers(-8, 9, (20, 16, 1, 16)).astype(dtype)
    pages = rng.permutation(20)[:16].astype(I32)
    o, lse = attention_decode(*map(gpu.put, (q, k, v, np.array([0, 16], I32), pages)))
    mean = v[pages].astype(np.float64).mean((0, 1, 2)).astype(dtype)
    for h in range(2):
        np.testing.assert_array_equal(gpu.get(o)[0, 0, h], mean)
    np.testing.assert_allclose(gpu.get(lse), np.log(256), rtol=1e-7)


def test_many_tokens_are_cut_into_longer_parts(gpu: Device) -> None:
    """262144 tokens, of which 700 count: parts are of 256."""
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal(s).astype(F16) for s in [(1, 1, 1, 16)] + [(8, 64, 1, 16)] * 2)
    pages = np.tile(np.arange(8, dtype=I32), 512)
    ends, length = np.array([0, 4096], I32), np.array([700], I32)
    o, lse = attention_decode(*map(gpu.put, (q, k, v, ends, pages)), lengths=gpu.put(length))
    tokens = np.arange(700) % 512
    s = k.reshape(512, 16)[tokens].astype(np.float64) @ q[0, 0, 0].astype(np.float64) / 4
    log = np.logaddexp.reduce(s)
    want = np.exp(s - log) @ v.reshape(512, 16)[tokens].astype(np.float64)
    np.testing.assert_allclose(gpu.get(o)[0, 0, 0].astype(np.float64), want, atol=2e-3)
    np.testing.assert_allclose(gpu.get(lse).item(), log, rtol=2e-6)


def swapped(x: Any) -> Any:
    """Return an array with its second and third axis exchanged."""
    if isinstance(x, EmulatedArray):
        return EmulatedArray(x.view.swapaxes(1, 2), x.owner, x.device[1])
    return x.transpose(1, 2)


def test_caches_with_the_heads_first_and_results_of_the_callers(gpu: Device) -> None:
    cache = Cache(Case(4, 2, 1, 16, 16, 16), F16)
    q, k, v, *lists = map(gpu.put, cache.arrays())
    want = attention_decode(q, k, v, *lists)
    k, v = (gpu.put(np.ascontiguousarray(x.swapaxes(1, 2))) for x in (cache.k, cache.v))
    o, lse = gpu.put(np.ones((3, 1, 4, 16), F16)), gpu.put(np.ones((3, 4, 1), F32))
    got = attention_decode(q, swapped(k), swapped(v), *lists, out=(o, lse))
    assert got[0] is o
    assert got[1] is lse
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(gpu.get(a), gpu.get(b))


def test_what_lists_hold_is_trusted_no_further_than_that_nothing_else_is_read(gpu: Device) -> None:
    cache = Cache(Case(2, 1, 1, 8, 8, 4))
    put = [gpu.put(x) for x in cache.arrays()]
    entries, most = len(cache.indices), 2**31 - 1
    wrong = cache.indices.copy()
    wrong[::3] = [most, -1, len(cache.k)] * (len(wrong[::3]) // 3) + [-7] * (len(wrong[::3]) % 3)
    for indptr in ([0, entries, 0, most], [-5, most, -most, 7], [entries] * 4, [0, 0, 0, entries]):
        for lengths in ([most, -1, most], [3, 9, 40]):
            for indices in (cache.indices, wrong):
                arrays = (np.array(x, I32) for x in (indptr, indices, lengths))
                ends, pages, counts = map(gpu.put, arrays)
                o, _ = attention_decode(*put[:3], ends, pages, lengths=counts)
                assert gpu.get(o).shape == (3, 1, 2, 8)
    o, lse = attention_decode(*put[:3], gpu.put(np.array([0, 0, 1, 1], I32)), gpu.put(wrong[:1]))
    assert not gpu.get(o).any(), "a page that the cache does not have counts as zeros"
    np.testing.assert_allclose(gpu.get(lse)[1], np.log(4), rtol=1e-6)


def test_nothing_to_do(gpu: Device) -> None:
    q, cache = np.ones((0, 1, 2, 8), F32), np.ones((2, 4, 1, 8), F32)
    ends, none = np.zeros(1, I32), np.zeros(0, I32)
    o, lse = attention_decode(*map(gpu.put, (q, cache, cache, ends, none)))
    assert (tuple(o.shape), tuple(lse.shape)) == ((0, 1, 2, 8), (0, 2, 1))
    q, ends = np.ones((2, 1, 2, 8), F32), np.zeros(3, I32)
    o, lse = attention_decode(*map(gpu.put, (q, cache, cache, ends, none)))
    assert not gpu.get(o).any()
    assert np.isneginf(gpu.get(lse)).all()


# Merging.


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(2, 5, 3, 40), (9, 2, 1), (1, 3, 1, 130)], ids=str)
def test_merge(gpu: Device, shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(5)
    log_shape = (*shape[:-3], shape[-2], shape[-3])
    for count in (1, 3, 16, 40):
        o = rng.standard_normal((count, *shape)).astype(dtype)
        lse = rng.standard_normal((count, *log_shape)).astype(F32) * 3
        # Of what saw no key, o counts for nothing, whatever it holds.
        lse[rng.random(lse.shape) < 0.3] = -np.inf
        lse[..., 0] = -np.inf
        logs = lse.astype(np.float64)
        total = np.logaddexp.reduce(logs, 0)
        share = np.exp(logs - np.where(np.isfinite(total), total, 0)).swapaxes(-1, -2)[..., None]
        want = (share * o.astype(np.float64)).sum(0)
        o[np.isneginf(lse).swapaxes(-1, -2)] = np.nan
        got, log = merge_attention([(gpu.put(a), gpu.put(b)) for a, b in zip(o, lse, strict=True)])
        assert gpu.get(got).dtype == dtype
        atol = (oracle.unit_roundoff(dtype) + 1e-6) * np.abs(want).max(initial=1)
        np.testing.assert_allclose(gpu.get(got).astype(np.float64), want, rtol=0, atol=atol)
        np.testing.assert_allclose(gpu.get(log), total, rtol=1e-6, atol=1e-6)


def test_merging_does_not_depend_on_the_size_of_logarithms(gpu: Device) -> None:
    logs = np.array([1e4, -3e5, -1e30, 3e38, -3e38], F32).reshape(1, 1, -1)
    for count in (2, 20):  # of parts, that one launch merges, or two
        o = np.arange(count, dtype=F32).reshape(count, 1, 1, 1, 1) + np.zeros((1, 5, 1, 4), F32)
        got, lse = merge_attention([(gpu.put(x), gpu.put(logs)) for x in o])
        np.testing.assert_allclose(gpu.get(got), np.full((1, 5, 1, 4), (count - 1) / 2), rtol=1e-6)
        np.testing.assert_allclose(gpu.get(lse), logs + np.log(count), rtol=1e-6)
    parts = [(gpu.put(o[0]), gpu.put(np.full_like(logs, x))) for x in (np.inf, 0)]
    assert np.isposinf(gpu.get(merge_attention(parts)[1])).all()


def test_merged_lists_are_the_whole_list(gpu: Device) -> None:
    cache = Cache(Case(4, 2, 1, 16, 16, 16))
    cache.indptr = np.array([0, 8, 8, 16], I32)
    cache.indices = np.arange(16, dtype=I32) % 11
    q, k, v = map(gpu.put, (cache.q, cache.k, cache.v))
    whole = attention_decode(q, k, v, gpu.put(cache.indptr), gpu.put(cache.indices))
    halves = [
        attention_decode(q, k, v, gpu.put(np.array([0, 4, 4, 8], I32)), gpu.put(pages))
        for pages in (cache.indices.reshape(2, 2, 4)[:, i].ravel() for i in range(2))
    ]
    out = gpu.put(np.ones((3, 1, 4, 16), F32)), gpu.put(np.ones((3, 4, 1), F32))
    merged = merge_attention(halves, out=out)
    assert merged[0] is out[0]
    for a, b in zip(merged, whole, strict=True):
        np.testing.assert_allclose(gpu.get(a), gpu.get(b), rtol=1e-5, atol=1e-6)


# Checks are those of the CPU, but for what lists hold.

CACHE = Cache(Case(4, 2, 1, 8, 8, 16))


def decode(gpu: Device, **changed: Any) -> object:
    names = ("q", "k", "v", "indptr", "indices")
    arrays = [gpu.put(changed.pop(n, getattr(CACHE, n))) for n in names]
    return attention_decode(*arrays, **{n: gpu.put(x) for n, x in changed.items()})


def merge(gpu: Device, *parts: tuple[np.ndarray, np.ndarray]) -> object:
    return merge_attention([(gpu.put(o), gpu.put(lse)) for o, lse in parts])


PART = (np.zeros((1, 4, 2, 8), F32), np.zeros((1, 2, 4), F32))
BAD: list[tuple[Callable[[Device], object], type[Exception], str]] = [
    (
        lambda gpu: decode(gpu, indptr=CACHE.indptr[:-1]),
        ValueError,
        "attention_decode: indptr.shape[0] is 3, expected B + 1 = 4 or B*Hkv + 1 = 7",
    ),
    (
        lambda gpu: decode(gpu, indices=CACHE.indices.astype("i8")),
        TypeError,
        "attention_decode: indices.dtype is int64, expected int32",
    ),
    (
        lambda gpu: decode(gpu, q=CACHE.q.astype("f8")),
        TypeError,
        "attention_decode: q.dtype is float64, expected float32, float16 or bfloat16",
    ),
    (
        lambda gpu: decode(gpu, q=CACHE.q[..., :4]),
        ValueError,
        "attention_decode: k_cache.shape[3] is 8, expected q.shape[3] = 4",
    ),
    (
        lambda gpu: decode(gpu, v=CACHE.v[:, :4]),
        ValueError,
        "attention_decode: v_cache.shape[1] is 4, expected k_cache.shape[1] = 16",
    ),
    (
        lambda gpu: decode(gpu, k=CACHE.k[:, :, :0], v=CACHE.v[:, :, :0]),
        ValueError,
        "attention_decode: q has 4 heads, expected a multiple of k_cache's 0",
    ),
    (
        lambda gpu: attention_decode(*map(gpu.put, CACHE.arrays()[:4]), CACHE.indices),
        ValueError,
        "attention_decode: indices is on cpu, expected q's device cuda:0",
    ),
    (
        lambda gpu: merge(gpu, PART, (PART[0][:, :2], PART[1])),
        ValueError,
        "merge_attention: o[1].shape is (1, 2, 2, 8), expected out[0].shape = (1, 4, 2, 8)",
    ),
    (
        lambda gpu: merge(gpu, (PART[0], PART[1][:, :1])),
        ValueError,
        "merge_attention: lse[0].shape is (1, 1, 4), expected (1, 2, 4)",
    ),
    (
        lambda gpu: merge_attention([(gpu.put(PART[0]), PART[1])]),
        ValueError,
        "merge_attention: lse is on cpu, expected o's device cuda:0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(
    gpu: Device, call: Callable[[Device], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        call(gpu)
    assert str(caught.value) == message


def test_a_cache_of_more_parts_than_a_launch_takes_is_refused(gpu: Device) -> None:
    page = gpu.put(np.ones((1, 1, 1, 8), F32))
    if isinstance(page, EmulatedArray):
        wide = np.lib.stride_tricks.as_strided(page.view, (1, 2**50, 1, 8), (4, 0, 4, 4))
        cache: Any = EmulatedArray(wide, page.owner)
    else:
        cache = page.expand(1, 2**50, 1, 8)
    lists = gpu.put(np.array([0, 1], I32)), gpu.put(np.zeros(1, I32))
    message = r"^attention_decode: q and the lists have 2\*\*31 parts or more on a GPU$"
    with pytest.raises(NotImplementedError, match=message):
        attention_decode(page, cache, cache, *lists)
