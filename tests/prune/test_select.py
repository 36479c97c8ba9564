"""Exact selection, compared with a stable argsort on data that is hard for selections."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import pytest
from gossamer import prune
from hypothesis import given, settings
from hypothesis import strategies as st
from library import examples, run
from oracle import DTYPES

NAN, INF = float("nan"), float("inf")


def order(
    x: Any, *, largest: bool = True, tie: str = "low", nan: str = "lowest", within: Any = None
) -> np.ndarray:
    """Return the flat indices in the order in which they are selected."""
    x = np.asarray(x).ravel().astype(np.float64)
    index = np.arange(x.size) if within is None else np.flatnonzero(within)
    is_nan = np.isnan(x[index])
    value = np.where(is_nan, 0, x[index])
    place = np.where(is_nan, -1 if nan == "lowest" else 1, 0)
    sign = -1 if largest else 1
    return index[np.lexsort((index if tie == "low" else -index, sign * value, sign * place))]


def oracle(x: Any, k: int, **options: Any) -> np.ndarray:
    mask = np.zeros(np.size(x), bool)
    mask[order(x, **options)[:k]] = True
    return mask.reshape(np.shape(x))


def make(kind: str, n: int, dtype: Any, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(n)
    match kind:
        case "equal":
            x = np.ones(n)
        case "sorted":
            x = np.sort(normal)
        case "reversed":
            x = np.sort(normal)[::-1]
        case "few":
            x = rng.integers(-2, 3, n).astype(float)
        case "zeros":
            x = normal * (rng.random(n) < 0.4)
        case "subnormal":
            x = rng.integers(-5, 6, n) * float(ml_dtypes.finfo(dtype).smallest_subnormal)
        case "special":
            x = rng.choice([NAN, INF, -INF, -0.0, 0.0, 1.0, -1.0], n)
        case _:
            x = normal
    return x.astype(dtype)


KINDS = ["normal", "equal", "sorted", "reversed", "few", "zeros", "subnormal", "special"]
# Sizes around one block of 64, read whole instead of sampled, of one piece, of several pieces.
SIZES = [1, 15, 16, 17, 63, 64, 65, 129, 1000, 4097, 140_003]
OPTIONS = [
    {"largest": largest, "tie": tie, "nan": nan}
    for largest in (True, False)
    for tie in ("low", "high")
    for nan in ("lowest", "highest")
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_is_the_oracles(dtype: Any, kind: str) -> None:
    for i, n in enumerate(SIZES):
        x = make(kind, n, dtype)
        magnitude = np.abs(x.astype(np.float64))
        for j, share in enumerate((0, 0.02, 0.5, 0.9, 1)):
            k, options = int(share * n), OPTIONS[(3 * i + j) % len(OPTIONS)]
            want = oracle(x, k, **options)
            np.testing.assert_array_equal(prune.topk_mask(x, k, **options), want)
            np.testing.assert_array_equal(
                prune.topk_mask(prune.score(x), k, **options), oracle(magnitude, k, **options)
            )
            # The same with scores that are evaluated in tiles.
            doubled = prune.score(x, kind="value", scale=2.0)
            if kind != "subnormal":
                np.testing.assert_array_equal(prune.topk_mask(doubled, k, **options), want)
            for bits in ("little", "big"):
                packed = prune.topk_mask(x, k, packed=bits, **options)
                np.testing.assert_array_equal(packed, np.packbits(want, bitorder=bits))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_within_restricts_the_candidates(dtype: Any, kind: str) -> None:
    for n in (1, 64, 65, 5000, 70_001):
        x = make(kind, n, dtype)
        within = np.random.default_rng(n).random(n) < 0.3
        for options in OPTIONS[:: 1 if n < 100 else 3]:
            k = int(0.4 * within.sum())
            want = oracle(x, k, within=within, **options)
            np.testing.assert_array_equal(prune.topk_mask(x, k, within=within, **options), want)
            got = prune.topk_mask(x, k, within=2 * within.astype(np.uint8), **options)
            np.testing.assert_array_equal(got, want)


values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, NAN, INF, -INF, 1e-45, -1e-45, 3e38])


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(values | st.floats(width=32), max_size=150), st.data())
def test_any_list_of_numbers(numbers: list[float], data: st.DataObject) -> None:
    x = np.array(numbers, np.float32)
    k = data.draw(st.integers(0, x.size))
    options = data.draw(st.sampled_from(OPTIONS))
    mask = prune.topk_mask(x, k, **options)
    np.testing.assert_array_equal(mask, oracle(x, k, **options))
    cut = data.draw(st.integers(0, x.size))
    parts = prune.topk_mask([x[:cut], x[cut:]], k, **options)
    np.testing.assert_array_equal(np.concatenate(parts), mask)
    length = data.draw(st.integers(1, 70))
    groups = prune.topk_mask(x, 1 if x.size else 0, per=length, **options)
    for at in range(0, x.size, length):
        part = x[at : at + length]
        np.testing.assert_array_equal(groups[at : at + length], oracle(part, 1, **options))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_segments(dtype: Any, kind: str) -> None:
    rng = np.random.default_rng(5)
    for n, cuts in ((0, 0), (1, 0), (700, 9), (30_000, 4), (200_000, 1)):
        x = make(kind, n, dtype, seed=n)
        offsets = np.sort(np.r_[0, rng.integers(0, n + 1, cuts), n])
        lengths = np.diff(offsets)
        k = (lengths * rng.random(lengths.size)).astype(np.int64)
        for options in OPTIONS[::3]:
            got = prune.topk_mask(x, k, per=offsets, **options)
            want = [
                oracle(x[a:b], c, **options)
                for a, b, c in zip(offsets[:-1], offsets[1:], k, strict=True)
            ]
            np.testing.assert_array_equal(got, np.concatenate(want))
            packed = prune.topk_mask(x, k, per=offsets, packed="little", **options)
            np.testing.assert_array_equal(packed, np.packbits(got, bitorder="little"))


@pytest.mark.parametrize("columns", [1, 7, 63, 64, 65, 300, 1024, 5000])
def test_rows(columns: int) -> None:
    x = make("normal", 13 * columns, np.float32).reshape(13, columns)
    k = columns // 2
    want = np.stack([oracle(row, k) for row in x])
    np.testing.assert_array_equal(prune.topk_mask(x, k, per="row"), want)
    np.testing.assert_array_equal(prune.topk_mask(x, k, per=columns), want)
    score = prune.score(x, kind="wanda", col=np.abs(x[0]))
    want = np.stack([oracle(row, k) for row in score.array()])
    np.testing.assert_array_equal(prune.topk_mask(score, k, per="row"), want)
    within = x > -1
    allowed = np.minimum(within.sum(1), k)
    want = np.stack([oracle(r, a, within=w) for r, w, a in zip(x, within, allowed, strict=True)])
    np.testing.assert_array_equal(prune.topk_mask(x, allowed, per="row", within=within), want)


def unlike_rows(rows: int, columns: int, dtype: Any) -> np.ndarray:
    """Rows so different that the k-th of one says nothing about the next one's."""
    x = np.random.default_rng(8).standard_normal((rows, columns))
    x[1::7] = 3.0
    x[2::7] *= 1e-30
    x[3::7] *= 1e30
    x[4::7, ::2] = NAN
    x[5::14] = NAN
    x[12::14] = np.abs(x[12::14]) + 1e4
    x[6::7] = np.round(x[6::7])
    with np.errstate(over="ignore"):
        return x.astype(dtype)


@pytest.mark.parametrize("columns", [1, 3, 16, 32, 33, 100, 128, 255, 256, 257, 777])
@pytest.mark.parametrize("dtype", DTYPES)
def test_segments_that_differ_from_those_before(dtype: Any, columns: int) -> None:
    shuffled = unlike_rows(35, columns, dtype)
    alternating = np.tile(shuffled[[0, 3]], (8, 1))
    jumping = np.repeat(shuffled[:7], 5, axis=0)
    for x in (shuffled, alternating, jumping):
        k = np.arange(len(x)) * columns // (len(x) - 1)
        for options in OPTIONS[::3]:
            for kept in (np.full(len(x), columns // 3), k):
                want = np.stack([oracle(r, c, **options) for r, c in zip(x, kept, strict=True)])
                got = prune.topk_mask(x, kept, per="row", **options)
                np.testing.assert_array_equal(got, want)
        if columns > 2:
            values, index = prune.topk_rows(x, columns // 3)
            want = [np.sort(order(r)[: columns // 3]) for r in x]
            np.testing.assert_array_equal(index, want)
            taken = np.take_along_axis(x, np.array(want), 1)
            assert values.tobytes() == taken.tobytes()


@pytest.mark.parametrize("columns", [1, 63, 256, 777])
@pytest.mark.parametrize("dtype", DTYPES)
def test_segments_of_products_with_a_factor(dtype: Any, columns: int) -> None:
    x = unlike_rows(35, columns, dtype)
    col = np.abs(np.random.default_rng(9).standard_normal(columns)).astype(np.float32)
    col[5::9] = (0.0, INF, NAN)[columns % 3]
    score = prune.score(x, kind="wanda", col=col)
    with np.errstate(invalid="ignore"):
        values = score.array()
    within = np.random.default_rng(10).random(x.shape) < 0.9
    k = np.minimum(np.arange(35) * columns // 34, within.sum(1))
    for options in OPTIONS[::3]:
        for mask in (None, within):
            got = prune.topk_mask(score, k, per="row", within=mask, **options)
            want = [
                oracle(r, c, within=None if mask is None else m, **options)
                for r, c, m in zip(values, k, within, strict=True)
            ]
            np.testing.assert_array_equal(got, np.stack(want))
    # Segments that end within a row, or contain several rows.
    offsets = np.sort(np.r_[0, np.random.default_rng(11).integers(0, x.size, 40), x.size])
    kept = np.diff(offsets) // 2
    parts = np.split(values.reshape(-1), offsets[1:-1])
    want = [oracle(part, c) for part, c in zip(parts, kept, strict=True)]
    np.testing.assert_array_equal(
        prune.topk_mask(score, kept, per=offsets).reshape(-1), np.concatenate(want)
    )


@pytest.mark.parametrize("length", [1, 5, 32, 100, 128, 200])
def test_groups_of_one_array(length: int) -> None:
    size = 40_007 if length >= 32 else 4_007  # the oracle takes as long for the smallest groups
    x = make("few", size, np.float32)
    x[::2] = make("normal", size // 2 + 1, np.float32)
    k = length // 2
    parts = [x[at : at + length] for at in range(0, x.size, length)]
    kept = np.array([min(k, part.size) for part in parts])
    for tie in ("low", "high"):
        want = np.concatenate([oracle(p, c, tie=tie) for p, c in zip(parts, kept, strict=True)])
        np.testing.assert_array_equal(prune.topk_mask(x, kept, per=length, tie=tie), want)
    score = prune.score(x, kind="snip", g=x[::-1].copy())
    parts = np.split(score.array(), range(length, x.size, length))
    want = np.concatenate([oracle(p, c) for p, c in zip(parts, kept, strict=True)])
    np.testing.assert_array_equal(prune.topk_mask(score, kept, per=length), want)
    bits = prune.topk_mask(score, kept, per=length, packed="big")
    np.testing.assert_array_equal(bits, np.packbits(want))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_short_last_group(dtype: Any, kind: str) -> None:
    for length, n in ((204, 266), (256, 1057), (65, 3000)):
        x = make(kind, n, dtype, seed=n)
        for k, tie in itertools.product((1, n % length // 2, n % length), ("low", "high")):
            groups = [oracle(x[i : i + length], k, tie=tie) for i in range(0, n, length)]
            np.testing.assert_array_equal(
                prune.topk_mask(x, k, per=length, tie=tie), np.concatenate(groups)
            )


# Cases by hand.


@pytest.mark.parametrize(
    ("x", "k", "options", "want"),
    [
        ([3, 1, 2, 2], 2, {}, [1, 0, 1, 0]),
        ([1] * 8, 4, {}, [1, 1, 1, 1, 0, 0, 0, 0]),
        ([1] * 8, 4, {"tie": "high"}, [0, 0, 0, 0, 1, 1, 1, 1]),
        ([NAN, 1, NAN, 2], 2, {}, [0, 1, 0, 1]),
        ([NAN, 1, NAN, 2], 3, {}, [1, 1, 0, 1]),
        ([NAN, 1, NAN, 2], 1, {"nan": "highest"}, [1, 0, 0, 0]),
        ([0.0, -0.0], 1, {}, [1, 0]),
        ([-0.0, 0.0], 1, {}, [1, 0]),
        ([NAN, -INF], 1, {}, [0, 1]),
        ([1, INF, -INF], 1, {}, [0, 1, 0]),
        ([1, 2, 3], 0, {}, [0, 0, 0]),
        ([1, 2, 3], 3, {}, [1, 1, 1]),
        ([], 0, {}, []),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_hand_cases(x: list[float], k: int, options: Any, want: list[int], dtype: Any) -> None:
    mask = prune.topk_mask(np.array(x, dtype), k, **options)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.array(want, bool))


def test_global_pruning_of_two_arrays() -> None:
    # The case of PyTorch's test_global_pruning: prune 4 of these by magnitude.
    first = np.array([[1, 2, 3, 4], [-4, -3, -2, -1]], np.float32).reshape(2, 4)
    second = np.array([0, 0.1, -2], np.float32)
    masks = prune.topk_mask([prune.score(first), prune.score(second)], 7)
    np.testing.assert_array_equal(first * masks[0], [[0, 2, 3, 4], [-4, -3, -2, 0]])
    np.testing.assert_array_equal(second * masks[1], np.array([0, 0, -2], np.float32))


@pytest.mark.parametrize("tie", ["low", "high"])
@pytest.mark.parametrize("sizes", [[5, 0, 3], [3000] * 5, [100_000, 7, 70_000], [1] * 300])
def test_list_is_the_concatenation(sizes: list[int], tie: str) -> None:
    for kind in ("normal", "few", "equal"):
        parts = [make(kind, n, np.float32, seed=i) for i, n in enumerate(sizes)]
        whole = np.concatenate(parts)
        k = whole.size // 3
        masks = prune.topk_mask(parts, k, tie=tie)
        np.testing.assert_array_equal(np.concatenate(masks), oracle(whole, k, tie=tie))


def test_list_of_mixed_types_and_scales() -> None:
    parts = [make("normal", 3000, dtype, seed=3) for dtype in (np.float32, np.float16, np.float32)]
    scores = [prune.score(p, scale=1 / np.linalg.norm(p.astype(np.float32))) for p in parts]
    masks = prune.topk_mask(scores, 2000)
    want = oracle(np.concatenate([s.array() for s in scores]), 2000)
    np.testing.assert_array_equal(np.concatenate(masks), want)
    masks = prune.topk_mask(parts, 2000)
    want = oracle(np.concatenate([p.astype(np.float32) for p in parts]), 2000)
    np.testing.assert_array_equal(np.concatenate(masks), want)


# Arrays of any strides.


def strided(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the same array of three axes in other memory layouts."""
    for axes in ((2, 1, 0), (0, 2, 1), (1, 2, 0), (1, 0, 2)):
        yield np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))
    wide = np.zeros((2 * x.shape[0], x.shape[1] + 1, 3 * x.shape[2]), x.dtype)
    view = wide[::2, 1:, ::3]
    view[...] = x
    yield view
    yield np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_change_nothing(dtype: Any) -> None:
    for shape in ((3, 5, 7), (1, 40, 50), (20, 33, 1), (2, 129, 130)):
        x = make("few", int(np.prod(shape)), dtype).reshape(shape)
        x[0, ::2] = make("normal", x[0, ::2].size, dtype).reshape(x[0, ::2].shape)
        k, within, rng = x.size // 3, x < 1, np.random.default_rng(0)
        col = rng.random(shape[-1]).astype(dtype)
        want = oracle(x, k)
        packed = prune.topk_mask(x, k, packed="little")
        for y in strided(x):
            assert not y.flags.c_contiguous or 1 in shape
            np.testing.assert_array_equal(prune.topk_mask(y, k), want)
            np.testing.assert_array_equal(prune.topk_mask(y, k, packed="little"), packed)
            if shape[-1] > 1:
                rows = prune.topk_mask(x, 2, per="row")
                np.testing.assert_array_equal(prune.topk_mask(y, 2, per="row"), rows)
            np.testing.assert_array_equal(
                prune.topk_mask(x, 9, within=y < 1), oracle(x, 9, within=within)
            )
            assert prune.kth(y, k) == prune.kth(x, k)
            assert prune.quantile(y, 0.3) == prune.quantile(x, 0.3)
            for kind in ("snip", "wanda"):
                for a, b in ((x, y), (y, x)):
                    got = prune.score(a, kind=kind, g=b, col=np.repeat(col, 2)[::2])
                    plain = prune.score(x, kind=kind, g=x, col=col).array()
                    assert got.shape == shape
                    np.testing.assert_array_equal(got.array(), plain)


def test_strided_arrays_of_everything_else() -> None:
    x = make("normal", 48 * 40, np.float32).reshape(40, 48)
    for y in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        assert not y.flags.c_contiguous
        pairs: list[tuple[Callable[[Any], Any], ...]] = [
            (lambda a: prune.nm_mask(a, 2, 4), lambda a: prune.nm_mask(prune.score(a), 1, 4)),
            (
                lambda a: prune.nm_mask_transposable(a, 2, 4),
                lambda a: prune.vnm_mask(prune.score(a), 4, 2, 8),
            ),
            (lambda a: prune.block_pool(a, (3, 5)), lambda a: prune.block_mask(a, 4, (8, 8))),
            (
                lambda a: prune.permutation_search(a, 2, 4, escapes=2)[0],
                lambda a: prune.topk_rows(a, 5)[1],
            ),
            (
                lambda a: prune.topk_rows(x, 5, key=a)[0],
                lambda a: prune.check_nm(a > 0, 2, 4),
            ),
            (
                lambda a: prune.expand_blocks(a > 0, (2, 2), (80, 96)),
                lambda a: prune.random_mask(x, 100, seed=1, within=a > 0),
            ),
            (prune.count_nan, lambda a: prune.topk_mask([a, x], 99)[0]),
        ]
        for pair in pairs:
            for call in pair:
                np.testing.assert_array_equal(call(y), call(x))
        selection = prune.Selection(700)
        while not selection.done:
            selection.narrow(selection.histogram(y))
        np.testing.assert_array_equal(selection.emit(y, ties_before=0), oracle(x, 700))
    broadcast = np.broadcast_to(x[:1], (40, 48))
    np.testing.assert_array_equal(prune.topk_mask(broadcast, 100), oracle(broadcast, 100))


def test_a_transposed_score_sees_its_array_change() -> None:
    torch = pytest.importorskip("torch")
    w = torch.arange(12.0).reshape(3, 4)
    score = prune.score(w.T)
    w[0, 0] = 100
    mask = prune.topk_mask(score, 1)
    assert mask.shape == (4, 3)
    assert mask.nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize("tie", ["low", "high"])
def test_list_with_candidates_bits_and_outs(tie: Any) -> None:
    parts = [make("few", n, np.float32, seed=n) for n in (700, 0, 65, 4001)]
    within = [np.random.default_rng(p.size).random(p.size) < 0.4 for p in parts]
    want = oracle(np.concatenate(parts), 900, tie=tie, within=np.concatenate(within))
    outs = [np.full(p.size, 7, np.uint8) for p in parts]
    masks = prune.topk_mask(parts, 900, tie=tie, within=within, out=outs)
    assert all(mask is out for mask, out in zip(masks, outs, strict=True))
    np.testing.assert_array_equal(np.concatenate(masks), want)
    bits = prune.topk_mask(parts, 900, tie=tie, within=within, packed="big")
    for packed, mask in zip(bits, masks, strict=True):
        np.testing.assert_array_equal(packed, np.packbits(mask))
    assert prune.topk_mask([], 0) == []


def test_entries_of_each_row_of_a_matrix() -> None:
    dense = make("zeros", 60 * 50, np.float32).reshape(60, 50)
    a = gossamer.CSR.from_dense(dense)
    kept = np.diff(a.indptr) // 2
    mask = prune.topk_mask(prune.score(a.values), kept, per=a.indptr)
    for i, row in enumerate(dense):
        entries = slice(*a.indptr[i : i + 2])
        np.testing.assert_array_equal(mask[entries], oracle(abs(row[row != 0]), kept[i]))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (0, 0)])
def test_nothing_to_select_from(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    for per in (None, "row", 3):
        assert prune.topk_mask(x, 0, per=per).shape == shape
    assert prune.topk_mask(x, 0, packed="little").shape == (0,)
    assert prune.random_mask(shape, 0, seed=1).shape == shape
    assert prune.nm_mask(x, 2, 4, tail="pad").shape == shape
    assert prune.count_nan(x) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda x, out: prune.topk_mask(x, 1, nan="error", out=out),
        lambda x, out: prune.topk_mask(x, 0, nan="error", out=out),
        lambda x, out: prune.topk_mask([x], 1, nan="error", out=[out]),
        lambda x, out: prune.topk_mask(x, 1, per="row", nan="error", out=out),
        lambda x, out: prune.topk_mask(x, 1, per=50, nan="error", out=out),
        lambda x, out: prune.nm_mask(x, 2, 4, nan="error", out=out),
    ],
)
def test_nothing_is_written_where_nan_is_an_error(call: Callable[[Any, Any], Any]) -> None:
    x = np.ones((300, 400), np.float32)
    x[-1, -1] = NAN
    out = np.full(x.shape, 7, np.uint8)
    with pytest.raises(ValueError, match="1 NaN, expected none"):
        call(x, out)
    assert (out == 7).all()
    x[-1, -1] = 1
    call(x, out)
    assert set(np.unique(out)) <= {0, 1}


@pytest.mark.parametrize(
    "call",
    [
        lambda x: prune.topk_mask(x, 2.0),
        lambda x: prune.topk_mask([x], 2.0),
        lambda x: prune.topk_mask(x, 0.5),
        lambda x: prune.topk_mask(x, np.array([1.0, 1.0]), per="row"),
        lambda x: prune.kth(x, 2.0),
        lambda x: prune.topk_rows(x, 1.0),
        lambda x: prune.random_mask((4,), 2.0, seed=0),
        lambda x: prune.Selection(2.0),  # type: ignore[arg-type]
    ],
)
def test_a_count_is_no_float(call: Callable[[Any], Any]) -> None:
    # A share of entries would need rounding, for which schedule.nnz has four rules.
    with pytest.raises(TypeError):
        call(X)


# Cases that selection by comparing with a threshold gets wrong.


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_number_kept_is_exact(kind: str, sparsity: float) -> None:
    x = make(kind, 20_000, np.float32)
    k = 20_000 - int(20_000 * sparsity)
    mask = prune.topk_mask(prune.score(x), k)
    assert mask.sum() == k
    again = prune.topk_mask(prune.score(np.where(mask, 1.0, 0.0)), k)
    np.testing.assert_array_equal(again, mask)


def test_a_sample_that_misleads_costs_time_only() -> None:
    # Large values only in places that the sample does not read.
    x = np.zeros(1 << 18, np.float32)
    x[5000:5100] = np.arange(100)
    x[200_000:200_003] = NAN
    for k in (1, 50, 99, 100, 150, (1 << 18) - 3, (1 << 18) - 2):
        for tie in ("low", "high"):
            np.testing.assert_array_equal(prune.topk_mask(x, k, tie=tie), oracle(x, k, tie=tie))
    x = np.repeat(make("normal", 64, np.float32), 5000)  # a value of its own for each row
    np.testing.assert_array_equal(prune.topk_mask(x, 100_000), oracle(x, 100_000))
    x = np.exp(30 * make("sorted", 300_000, np.float64))  # nearly all keys are far apart
    np.testing.assert_array_equal(prune.topk_mask(x, 12_345), oracle(x, 12_345))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [0.0, 0.01, 0.2])
def test_candidates_of_several_pieces(dtype: Any, step: float) -> None:
    # Ties among the candidates, for scores read in place and evaluated, and for every mask format.
    normal = make("normal", 140_003, np.float64, seed=1)
    if step:
        normal = np.round(normal / step) * step
    waves = normal * (2 + np.sin(np.arange(normal.size) * (2 * np.pi / 4096)))
    for x in (normal.astype(dtype), waves.astype(dtype)):
        score = prune.score(x)
        for k, tie in ((20_000, "low"), (100_001, "high")):
            want = oracle(np.abs(x.astype(np.float64)), k, tie=tie)
            np.testing.assert_array_equal(prune.topk_mask(score, k, tie=tie), want)
            scaled = prune.score(x, scale=0.5)
            np.testing.assert_array_equal(prune.topk_mask(scaled, k, tie=tie), want)
            for bits in ("little", "big"):
                packed = prune.topk_mask(score, k, tie=tie, packed=bits)
                np.testing.assert_array_equal(packed, np.packbits(want, bitorder=bits))
            kth = prune.kth(score, k)
            assert kth.n_strict == (np.abs(x.astype(np.float64)) > kth.threshold).sum()
            assert kth.n_strict + kth.n_tie == k


# NaN, kth, quantiles.


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_counted(dtype: Any) -> None:
    for n in (0, 1, 65, 70_001):
        x = make("special", n, dtype)
        want = int(np.isnan(x.astype(np.float64)).sum())
        assert prune.count_nan(x) == want
        assert prune.count_nan([x, prune.score(x, kind="taylor2", g=np.ones_like(x))]) == 2 * want
    # A product of numbers can be NaN, too.
    zero = np.array([0, 1, 2], dtype)
    assert prune.count_nan(prune.score(zero, kind="snip", g=np.array([INF, INF, 0], dtype))) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kth(dtype: Any, kind: str) -> None:
    for n in (1, 64, 5000, 70_001):
        x = make(kind, n, dtype)
        for k in {1, (n + 1) // 2, n}:
            for options in ({}, {"largest": False, "nan": "highest"}):
                by = order(x, **options)
                want = x[by[k - 1]].astype(np.float64) + 0.0
                threshold, strict, tie = prune.kth(x, k, **options)
                np.testing.assert_equal(threshold, want)
                same = np.isnan(x) if np.isnan(want) else x.astype(np.float64) == want
                before = int(np.flatnonzero(same[by])[0])
                assert (strict, tie) == (before, k - before)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(values | st.floats(width=32), min_size=1, max_size=90), st.data())
def test_ranks_in_any_list_of_numbers(numbers: list[float], data: st.DataObject) -> None:
    x = np.array(numbers, np.float32)
    k = data.draw(st.integers(1, x.size))
    largest, nan = data.draw(st.booleans()), data.draw(st.sampled_from(["lowest", "highest"]))
    by = order(x, largest=largest, nan=nan)
    got = prune.kth(x, k, largest=largest, nan=nan)  # type: ignore[arg-type]
    np.testing.assert_equal(got.threshold, x[by[k - 1]].astype(np.float64) + 0.0)
    same = np.isnan(x) if np.isnan(got.threshold) else x == got.threshold
    assert (got.n_strict, got.n_tie) == (
        np.flatnonzero(same[by])[0],
        k - np.flatnonzero(same[by])[0],
    )
    assert prune.count_nan(x) == np.isnan(x).sum()
    tie = data.draw(st.sampled_from(["low", "high"]))
    _, columns = prune.topk_rows(x[None], k, tie=tie, nan=nan)  # type: ignore[arg-type]
    np.testing.assert_array_equal(columns[0], np.sort(order(x, tie=tie, nan=nan)[:k]))
    for method in ("lower", "higher"):
        q = data.draw(st.floats(0, 1))
        want = np.quantile(x.astype(np.float64), q, method=method)  # type: ignore[call-overload]
        np.testing.assert_equal(prune.quantile(x, q, interpolation=method), want + 0.0)  # type: ignore[arg-type]


@pytest.mark.once
def test_counts_above_what_float32_holds() -> None:
    x = np.zeros(2**24 + 17, np.float16)
    x[-5:] = [1, 2, 3, 4, 5]
    assert prune.kth(x, x.size - 2, largest=False) == (3, 2**24 + 14, 1)
    assert prune.quantile(x, (x.size - 3) / (x.size - 1), interpolation="lower") in (2, 3)
    mask = prune.topk_mask(x, 2**24 + 3)
    assert int(mask.sum(dtype=np.int64)) == 2**24 + 3
    assert mask[: 2**24 - 2].all()
    assert not mask[2**24 - 2 : -5].any()
    assert mask[-5:].all()


def test_kth_of_segments() -> None:
    x = np.array([3, 1, 2, 2, 5, NAN, 4], np.float32)
    got = prune.kth(x, np.array([2, 1]), per=np.array([0, 4, 7]))
    np.testing.assert_array_equal(got.threshold, np.array([2, 5], np.float32))
    assert got.threshold.dtype == np.float32
    np.testing.assert_array_equal(got.n_strict, [1, 0])
    np.testing.assert_array_equal(got.n_tie, [1, 1])


@pytest.mark.parametrize("method", ["linear", "lower", "higher", "nearest", "midpoint"])
def test_quantile(method: Any) -> None:
    for n in (1, 2, 4, 1001):
        x = make("normal", n, np.float64)
        for q in (0.0, 0.1, 0.5, 0.75, 1.0):
            want = np.quantile(x, q, method=method)
            assert prune.quantile(x, q, interpolation=method) == pytest.approx(want, rel=1e-12)
            want = np.quantile(np.abs(x), q, method=method)
            got = prune.quantile(x, [q], interpolation=method, magnitude=True)
            assert got == pytest.approx(np.array([want]), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantile_of_many_tells_of_nan(dtype: Any) -> None:
    for n in (5000, 70_001):
        x = make("normal", n, dtype)
        x[[3, 4, 5]] = INF, -INF, 0
        for q in (0.0, 0.3, 0.9):
            want = np.quantile(np.abs(x.astype(np.float64)), q)
            assert prune.quantile(x, q, magnitude=True) == pytest.approx(want, rel=1e-12)
        for place in (0, n // 2, n - 1):
            y = x.copy()
            y[place] = NAN
            for q in (0.0, 0.5, 1.0):
                assert np.isnan(prune.quantile(y, q))
                assert np.isnan(prune.quantile(prune.score(y, scale=2.0), q))
            with pytest.raises(ValueError, match=r"^kth: score has 1 NaN, expected none$"):
                prune.kth(y, n // 2, nan="error")


def test_a_shape_of_a_random_mask_may_be_any_integers() -> None:
    for shape in (6, np.int64(6), (np.int32(2), 3), [2, 3]):
        mask = prune.random_mask(shape, 2, seed=1)
        np.testing.assert_array_equal(mask.ravel(), prune.random_mask((6,), 2, seed=1))


def test_quantile_by_hand() -> None:
    x = np.array([0, 1, 2, 3], np.float32)
    assert prune.quantile(x, 0.5) == 1.5
    assert prune.quantile(x, 0.5, interpolation="lower") == 1
    assert prune.quantile(x, 0.5, interpolation="higher") == 2
    assert np.isnan(prune.quantile(np.array([1, NAN]), 0.0))
    assert prune.quantile(np.array([INF, INF]), 0.5) == INF
    assert prune.quantile(np.array([-1.5e308, 1.5e308]), 0.5) == 0
    assert prune.quantile(np.array([-1.5e308, 1.5e308]), 0.75) == 0.75e308
    assert prune.histogram_quantile([3, 1], [0, 1, 2], 0.75) == 1
    assert prune.histogram_quantile([3, 1], [0, 1, 2], 0.5) == 0
    assert prune.histogram_quantile([3, 1], [0, 1, 2], 1.0) == 2
    for dtype, large in ((np.float16, 2048), (np.float32, 2**24), (np.int64, 2**62)):
        # Sums of these types do not grow by 1 from there on, or wrap.
        counts = np.array([large, *[1] * 8, large], dtype)
        edges = np.arange(11.0)
        assert prune.histogram_quantile(counts, edges, 0.25) == 0
        assert prune.histogram_quantile(counts, edges, 0.75) == 9
    counts = np.ones(2**12, np.float32)
    counts[0] = 2**24
    assert prune.histogram_quantile(counts, np.arange(2.0**12 + 1), 0.9999) == 2417
    with pytest.raises(ValueError, match="edges do not increase, expected sorted"):
        prune.histogram_quantile([1, 2], [1, np.nan, 3], 0.5)
    with pytest.raises(ValueError, match="counts are negative, not finite or all zero"):
        prune.histogram_quantile([1, np.nan], [1, 2, 3], 0.5)


# Random masks.

MASK = 0xFFFFFFFF


def philox(counter: list[Any], key: list[int]) -> list[Any]:
    """Philox4x32-10 by its definition; words of the counter may be arrays."""
    c, k = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & MASK, (first >> 32) ^ c[3] ^ k[1], first & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def test_philox_of_the_oracle_is_philox() -> None:
    # Known answers of the reference implementation: all zeros, all ones.
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([MASK] * 4, [MASK] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def random_keys(index: Any, seed: int, step: int) -> np.ndarray:
    """The random keys of elements: a byte of a counter that 16 share, then a word of their own."""
    i = np.asarray(index, np.uint64)

    def block(counter: Any) -> list[Any]:
        words = [counter & MASK, counter >> 32, step & MASK, step >> 32]
        return philox(words, [seed & MASK, seed >> 32])

    word = np.choose((i // 4 % 4).astype(int), block(i // 16))
    byte = (word >> (i % 4 * 8)) & 0xFF
    return ((byte << 32) | block(i + 2**63)[0]).astype(np.float64)


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 7), (2**40 + 3, 2**33 + 1)])
def test_random_mask_is_topk_of_keys(seed: int, step: int) -> None:
    for n in (1, 15, 64, 65, 5003, 140_000):
        keys = random_keys(np.arange(n), seed, step)
        for k in {0, 1, n // 10, n // 2, n - 1, n}:
            got = prune.random_mask((n,), k, seed=seed, step=step)
            np.testing.assert_array_equal(got, oracle(keys, k))
        within = np.arange(n) % 3 == 0
        got = prune.random_mask(within, n // 4, seed=seed, step=step, within=within)
        np.testing.assert_array_equal(got, oracle(keys, n // 4, within=within))


def test_random_mask_within_what_depends_on_its_keys() -> None:
    n = 200_000
    keys = random_keys(np.arange(n), 3, 0)
    place = np.argsort(np.argsort(keys))
    for within in (
        place >= n // 2,  # a larger mask of the same seed
        place < n // 2,
        keys // 2**32 == 128,
        (place < 20_000) | (place >= n - 20_000),
        (place % 5000 < 100) | (place >= n - 9000),
    ):
        for k in {1, 6000, int(within.sum()) // 2, int(within.sum())}:
            count = min(k, int(within.sum()))
            got = prune.random_mask((n,), count, seed=3, within=within)
            np.testing.assert_array_equal(got, oracle(keys, count, within=within))


def test_random_mask_of_equal_keys_takes_the_first() -> None:
    first, second = 1_036_073, 1_118_737  # a seed with equal keys, found by search
    assert len(set(random_keys([first, second], 0, 0))) == 1
    within = np.zeros(second + 1, bool)
    within[[first, second]] = True
    mask = prune.random_mask(within, 1, seed=0, within=within)
    assert np.flatnonzero(mask).tolist() == [first]


def test_random_mask_keeps_exactly_k() -> None:
    for shape, k in (((30, 4), 60), ((1, 2, 1, 4), 2), ((30,), 27), ((300, 1000), 123_457)):
        mask = prune.random_mask(shape, k, seed=3)
        assert mask.shape == shape
        assert mask.sum() == k
    assert (
        prune.random_mask((1000,), 500, seed=3) != prune.random_mask((1000,), 500, seed=4)
    ).any()


def test_three_ranks_draw_what_one_would() -> None:
    n, k = 70_001, 20_000
    for seed in (5, 6):
        whole = prune.random_mask((n,), k, seed=seed, step=2)
        for cuts in ([], [1], [3, 30_002], [0, n], [65_535, 65_600]):
            bounds = [0, *cuts, n]
            parts = [
                prune.random_mask((b - a,), k, seed=seed, step=2, offset=a, total=n)
                for a, b in itertools.pairwise(bounds)
            ]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
    rows = prune.random_mask(np.empty((2, 7), np.float32), 30, seed=1, offset=14, total=42)
    np.testing.assert_array_equal(rows, prune.random_mask((6, 7), 30, seed=1)[2:4])
    for k in (0, 42):
        assert prune.random_mask((5,), k, seed=1, offset=9, total=42).sum() == 5 * (k > 0)


# Rows.


@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_rows(dtype: Any) -> None:
    for columns in (1, 5, 64, 65, 1000):
        for kind in ("normal", "few", "special"):
            x = make(kind, 9 * columns, dtype).reshape(9, columns)
            key = make("few", 9 * columns, np.float32, seed=1).reshape(9, columns)
            for k in {0, 1, columns // 3, columns}:
                for chosen in (None, key):
                    values, indices = prune.topk_rows(x, k, key=chosen)
                    by = x if chosen is None else chosen
                    want = np.stack([np.sort(order(row)[:k]) for row in by])
                    assert indices.dtype == np.int32
                    np.testing.assert_array_equal(indices, want)
                    kept = np.take_along_axis(x, want, 1).astype(np.float64)
                    np.testing.assert_array_equal(values.astype(np.float64), kept)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("k", [1, 5, 40, 64])
def test_topk_rows_of_many_tasks(dtype: Any, k: int) -> None:
    x = np.random.default_rng(4).standard_normal((3000, 64)).astype(dtype)
    values, index = prune.topk_rows(x, k)
    want = np.sort(np.argsort(-x, axis=1, kind="stable")[:, :k], axis=1)
    np.testing.assert_array_equal(index, want)
    np.testing.assert_array_equal(values, np.take_along_axis(x, want, 1))


def test_topk_rows_by_hand_and_as_csr() -> None:
    x = np.array([[1, 3, 2]], np.float32)
    values, indices = prune.topk_rows(x, 2)
    assert (values.tolist(), indices.tolist()) == ([[3, 2]], [[1, 2]])
    values, indices = prune.topk_rows(x, 2, key=np.array([[9, 1, 2]], np.float32))
    assert (values.tolist(), indices.tolist()) == ([[1, 2]], [[0, 2]])
    strided = make("normal", 600, np.float32).reshape(6, 100)[:, 3:90]
    csr = prune.topk_rows(strided, 20, format="csr")
    assert csr.nnz == 120
    want = np.where(np.stack([oracle(row, 20) for row in strided]), strided, 0)
    np.testing.assert_array_equal(csr.to_dense(), want)


# Scores.

_erf = np.vectorize(__import__("math").erf, otypes=[float])


def formulas(w: Any, g: Any, m: Any, v: Any, col: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    yield "value", w, {}
    yield "magnitude", abs(w), {}
    yield "snip", abs(w * g), {"g": g}
    yield "taylor2", (w * g) ** 2, {"g": g}
    yield "signed", w * g, {"g": g}
    yield "wanda", abs(w) * np.sqrt(col), {"col": col}
    yield "obs", w**2 / col**2, {"col": col}
    yield "adam", abs(m) / (np.sqrt(v) + 1e-8), {"m": m, "v": v}
    yield "sum3", abs(w) + 2 * abs(g) + 3 * abs(m), {"g": g, "m": m, "alpha": 2, "beta": 3}
    yield "sum3", abs(w) + 0.5 * abs(g), {"g": g, "alpha": 0.5}
    yield "zo", w**2 * g**2, {"g": g}
    x = abs(w) / v
    mean = w * _erf(w / v / np.sqrt(2)) + 2 * v * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    yield "snr_abs", mean / np.sqrt(v**2 + w**2 - mean**2), {"v": v}


@pytest.mark.parametrize("dtype", DTYPES)
def test_score_is_its_formula(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    w, g, m = (rng.standard_normal((23, 37)).astype(dtype) for _ in range(3))
    v = (rng.random((23, 37)) + 0.5).astype(dtype)
    col = (rng.random(37) + 0.5).astype(dtype)
    wide = [a.astype(np.float64) for a in (w, g, m, v, col)]
    given = dict(zip(["g", "m", "v", "col"], (g, m, v, col), strict=True))
    for kind, want, options in formulas(*wide):
        passed = {key: given.get(key, value) for key, value in options.items()}
        for scale in (1.0, 0.25):
            score = prune.score(w, kind=kind, scale=scale, **passed)
            got = score.array()
            assert got.dtype == np.dtype(score.dtype) == np.result_type(np.float32, got.dtype)
            tolerance = 1e-9 if dtype == np.float64 else 3e-6
            np.testing.assert_allclose(got, scale * want, rtol=tolerance)
            np.testing.assert_array_equal(prune.topk_mask(score, 300), oracle(got, 300))


def test_snr_at_its_limits() -> None:
    w = np.array([0.0, 2.0, -2.0, 1e6, NAN, 0.0], np.float32)
    v = np.array([0.0, 0.0, 0.0, 1e-3, 1.0, 1.0], np.float32)
    got = prune.score(w, kind="snr_abs", v=v).array()
    np.testing.assert_allclose(got, [0, INF, INF, 1e9, NAN, 1.3236], rtol=1e-4)


# Several processes, each with a part of the scores.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_three_ranks_mark_what_one_would(dtype: str, kind: str) -> None:
    x = make(kind, 10_007, np.dtype(dtype))
    ranks = [x[:1000], x[1000:1001], x[1001:]]
    for k in (1, 3000, 10_007):
        for options in OPTIONS:
            selections = [prune.Selection(k, dtype=dtype, **options) for _ in ranks]
            rounds = 0
            while not selections[0].done:
                counts = [s.histogram(part) for s, part in zip(selections, ranks, strict=True)]
                for selection in selections:
                    selection.narrow(sum(counts))
                rounds += 1
            assert rounds <= {"float16": 2, "float32": 3, "float64": 6}[dtype]
            ties = [s.ties(part) for s, part in zip(selections, ranks, strict=True)]
            got = []
            for r, part in enumerate(ranks):
                before = sum(ties[:r] if options["tie"] == "low" else ties[r + 1 :])
                got.append(selections[r].emit(part, ties_before=before))
            np.testing.assert_array_equal(np.concatenate(got), prune.topk_mask(x, k, **options))
            want = x[order(x, **options)[k - 1]].astype(np.float64) + 0.0
            np.testing.assert_equal(selections[0].threshold, want)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(values | st.floats(width=32), min_size=1, max_size=60), st.data())
def test_any_ranks_mark_what_one_would(numbers: list[float], data: st.DataObject) -> None:
    x = np.array(numbers, np.float32)
    k, options = data.draw(st.integers(1, x.size)), data.draw(st.sampled_from(OPTIONS))
    parts = np.split(x, sorted(data.draw(st.lists(st.integers(0, x.size), max_size=4))))
    selection = prune.Selection(k, **options)
    while not selection.done:
        selection.narrow(sum(selection.histogram(part) for part in parts))
    ties = [selection.ties(part) for part in parts]
    got = [
        selection.emit(p, ties_before=sum(ties[:r] if options["tie"] == "low" else ties[r + 1 :]))
        for r, p in enumerate(parts)
    ]
    np.testing.assert_array_equal(np.concatenate(got), oracle(x, k, **options))


@pytest.mark.parametrize("kind", ["normal", "few", "zeros"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ranks_of_several_pieces(dtype: Any, kind: str) -> None:
    x = make(kind, 140_003, dtype)
    ranks = np.split(x, [70_000])
    for k, tie in ((50_000, "low"), (99_999, "high")):
        selection = prune.Selection(k, dtype=str(np.dtype(dtype)), tie=tie)
        while not selection.done:
            selection.narrow(sum(selection.histogram(part) for part in ranks))
        ties = [selection.ties(part) for part in ranks]
        assert sum(ties) == (x == selection.threshold).sum()
        before = [0, ties[0]] if tie == "low" else [ties[1], 0]
        got = [selection.emit(x, ties_before=n) for x, n in zip(ranks, before, strict=True)]
        np.testing.assert_array_equal(np.concatenate(got), oracle(x, k, tie=tie))


def test_rank_with_a_list_of_scores() -> None:
    parts = [make("few", n, np.float32, seed=n) for n in (70, 3, 500)]
    for tie in ("low", "high"):
        selection = prune.Selection(200, tie=tie)
        while not selection.done:
            selection.narrow(selection.histogram(parts))
        masks = selection.emit(parts, ties_before=0)
        want = prune.topk_mask(parts, 200, tie=tie)
        for got, expected in zip(masks, want, strict=True):
            np.testing.assert_array_equal(got, expected)


# Instruction sets, threads, frameworks, out.

BITS = """
import hashlib, numpy as np
from gossamer import prune
rng = np.random.default_rng(0)
w, g, m = rng.standard_normal((3, 67, 129)).astype(np.float32)
v, col = rng.random((67, 129), np.float32), rng.random(129, np.float32)
digest = hashlib.sha256()
for dtype in (np.float32, np.float16, np.float64):
    a = [x.astype(dtype) for x in (w, g, m, v)]
    kinds = "value magnitude snip taylor2 signed wanda obs adam sum3 zo snr_abs".split()
    for kind in kinds:
        s = prune.score(a[0], kind=kind, g=a[1], m=a[2], v=a[3], col=col.astype(dtype), scale=0.7)
        for part in (
            s.array(), prune.topk_mask(s, 4000), prune.topk_mask(s, 50, per="row"),
            prune.nm_mask(s, 2, 4, tail="pad"), prune.block_pool(s, (4, 8), reduce="l2"),
            prune.topk_mask(prune.block_pool(s, (3, 5)), 200), prune.kth(s, 99)[0],
        ):
            digest.update(np.asarray(part).tobytes())
    digest.update(prune.nm_mask_transposable(a[0][:64, :128], 2, 4).tobytes())
    digest.update(prune.vnm_mask(a[0][:64, :128], 16, 2, 8).tobytes())
    digest.update(prune.topk_rows(a[0], 9)[1].tobytes())
    digest.update(prune.permutation_search(a[0][:, :64], 2, 4, escapes=3)[0].tobytes())
digest.update(prune.random_mask((9001,), 77, seed=5).tobytes())
digest.update(prune.random_mask((90_001,), 7000, seed=5, within=rng.random(90_001) < 0.3).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.once
def test_every_instruction_set_gives_the_same_bits() -> None:
    levels = gossamer.info()["available_isas"]
    digests = {run(sys.executable, "-c", BITS, GOSSAMER_ISA=level) for level in levels}
    assert len(digests) == 1


def test_number_of_threads_changes_no_bit() -> None:
    x = make("normal", 300_001, np.float32)
    few = make("few", 300_001, np.float32)
    calls: list[Callable[[], Any]] = [
        lambda: prune.topk_mask(prune.score(x), 150_000),
        lambda: prune.topk_mask(few, 150_000, tie="high"),
        lambda: np.concatenate(prune.topk_mask([x[:70_000], few], 150_000)),
        lambda: prune.topk_mask(x[:300_000], 100, per=500),
        lambda: prune.random_mask((300_001,), 5000, seed=1),
        lambda: prune.score(x, kind="snip", g=few).array(),
        lambda: prune.topk_rows(x[:300_000].reshape(300, 1000), 10)[1],
    ]
    before = gossamer.get_num_threads()
    try:
        gossamer.set_num_threads(1)
        serial = [call().tobytes() for call in calls]
        for threads in (2, 3):
            gossamer.set_num_threads(threads)
            assert [call().tobytes() for call in calls] == serial
    finally:
        gossamer.set_num_threads(before)


def test_frameworks_get_masks_of_their_own() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    x = np.array([[3, 1], [2, 2]], np.float32)
    want = [[True, False], [True, False]]
    for array, kind in ((torch.from_numpy(x), torch.Tensor), (jax.numpy.asarray(x), jax.Array)):
        for mask in (
            prune.topk_mask(array, 2),
            prune.topk_mask(array, 1, per="row"),
            prune.topk_mask(prune.score(array), 2, within=array > 0),
        ):
            assert isinstance(mask, kind)
            assert mask.tolist() == want
            assert str(mask.dtype).removeprefix("torch.") == "bool"
        assert isinstance(prune.random_mask(array, 2, seed=0), kind)
        assert isinstance(prune.score(array).array(), kind)
        assert all(isinstance(part, kind) for part in prune.topk_rows(array, 1))
        assert isinstance(prune.topk_rows(array, 1, format="csr").values, kind)
    assert prune.kth(torch.from_numpy(x).bfloat16(), 1).threshold == 3


def test_out_is_written_in_place() -> None:
    x = np.array([3, 1, 2, 2], np.float32)
    for dtype in (bool, np.uint8):
        out = np.empty(4, dtype)
        assert prune.topk_mask(x, 2, out=out) is out
        assert out.tolist() == [1, 0, 1, 0]
    out = np.empty(1, np.uint8)
    assert prune.topk_mask(x, 2, packed="little", out=out) is out
    assert out.tolist() == [0b0101]
    for dtype in (bool, np.uint8):
        out = np.full((30, 4), 7).astype(dtype)
        assert prune.random_mask((30, 4), 60, seed=1, out=out) is out
        np.testing.assert_array_equal(out, prune.random_mask((30, 4), 60, seed=1))
        assert prune.random_mask(out, 0, seed=1, out=out) is out
        assert not out.any()
    rows = x.reshape(2, 2)
    values, indices = np.empty((2, 1), np.float32), np.empty((2, 1), np.int32)
    got = prune.topk_rows(rows, 1, out=(values, indices))
    assert got[0] is values
    assert got[1] is indices
    assert (values.tolist(), indices.tolist()) == ([[3], [2]], [[0], [0]])


def test_out_of_other_frameworks() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    x = np.array([[3, 1], [2, 2]], np.float32)
    mask = torch.zeros(2, 2, dtype=torch.bool)
    assert prune.random_mask(torch.from_numpy(x), 2, seed=1, out=mask) is mask
    np.testing.assert_array_equal(mask, prune.random_mask((2, 2), 2, seed=1))
    out = torch.empty(2, 1), torch.empty(2, 1, dtype=torch.int32)
    assert prune.topk_rows(torch.from_numpy(x), 1, out=out)[1] is out[1]
    assert out[0].tolist() == [[3], [2]]
    with pytest.raises((ValueError, TypeError)):
        prune.random_mask((2, 2), 2, seed=1, out=jax.numpy.zeros((2, 2), bool))


X = np.array([[3, 1], [2, 2]], np.float32)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: prune.topk_mask(X, 5), ValueError, "topk_mask: k is 5, expected 0 to 4"),
    (lambda: prune.topk_mask(X, -1), ValueError, "topk_mask: k is -1, expected 0 to 4"),
    (
        lambda: prune.topk_mask(X, 2, within=X > 2),
        ValueError,
        "topk_mask: k is 2, expected at most the 1 entries of within",
    ),
    (
        lambda: prune.topk_mask(X, 3, per="row"),
        ValueError,
        "topk_mask: k is 3, expected 0 to 2, the length of segment 0",
    ),
    (
        lambda: prune.topk_mask(X, 1, per=[0, 3]),
        ValueError,
        "topk_mask: per runs from 0 to 3, expected increasing offsets from 0 to 4",
    ),
    (
        lambda: prune.topk_mask(X, [1, 1, 1], per="row"),
        ValueError,
        "topk_mask: k.shape is (3,), expected one k or one for each of 2 segments",
    ),
    (
        lambda: prune.topk_mask(X, 1, per="column"),
        ValueError,
        "topk_mask: per is 'column', expected None, 'row', an int or offsets",
    ),
    (lambda: prune.topk_mask(X, 1, per=0), ValueError, "topk_mask: per is 0, expected at least 1"),
    (
        lambda: prune.topk_mask(X, 1, tie="first"),
        ValueError,
        "topk_mask: tie is 'first', expected 'low' or 'high'",
    ),
    (
        lambda: prune.topk_mask([X], 1, per="row"),
        ValueError,
        "topk_mask: per is given with a list of scores, expected one score",
    ),
    (
        lambda: prune.topk_mask([X, X], 1, within=[X > 0]),
        ValueError,
        "topk_mask: len(within) is 1, expected len(score) = 2",
    ),
    (
        lambda: prune.topk_mask([X, X], 1, out=X > 0),
        TypeError,
        "topk_mask: out is a ndarray, expected a list as score is",
    ),
    (
        lambda: prune.topk_mask([X, X], 1, within=[X > 9, X > 9]),
        ValueError,
        "topk_mask: k is 1, expected at most the 0 entries of within",
    ),
    (
        lambda: prune.random_mask((3,), 2, seed=-1),
        ValueError,
        "random_mask: seed is -1, expected 0 to 2**64 - 1",
    ),
    (
        lambda: prune.random_mask((3,), 2, seed=0, step=1 << 64),
        ValueError,
        "random_mask: step is 18446744073709551616, expected 0 to 2**64 - 1",
    ),
    (
        lambda: prune.random_mask((3,), 2, seed=0, offset=5, total=7),
        ValueError,
        "random_mask: offset is 5, expected 0 to total - 3 = 4",
    ),
    (
        lambda: prune.random_mask((3,), 8, seed=0, offset=1, total=7),
        ValueError,
        "random_mask: k is 8, expected 0 to 7",
    ),
    (
        lambda: prune.random_mask((3,), 2, seed=0, total=7, within=np.ones(3, bool)),
        ValueError,
        "random_mask: within is given for a part of a mask, expected None",
    ),
    (
        lambda: prune.random_mask((2, 2), 1, seed=0, out=np.empty(4, bool)),
        ValueError,
        "random_mask: out.shape is (4,), expected that of shape_or_like",
    ),
    (
        lambda: prune.random_mask((2, 2), 1, seed=0, out=X),
        TypeError,
        "random_mask: out.dtype is float32, expected bool or uint8",
    ),
    (
        lambda: prune.random_mask((2, 2), 1, seed=0, out=X.view(np.uint8)[:, ::4]),
        ValueError,
        "random_mask: out.strides[-1] is 4, expected 1 (make it contiguous)",
    ),
    (
        lambda: prune.topk_rows(X, 1, out=(X.copy(), np.empty((2, 1), np.int32))),
        ValueError,
        "topk_rows: values.shape is (2, 2), expected (2, 1)",
    ),
    (
        lambda: prune.topk_rows(X, 2, out=(X, np.empty((2, 2), np.int32))),
        ValueError,
        "topk_rows: values overlaps x, expected separate memory",
    ),
    (
        lambda: prune.topk_rows(X, 1, format="csr", out=(X, X)),  # type: ignore[call-overload]
        ValueError,
        "topk_rows: out is given, expected (values, indices) of format='arrays'",
    ),
    (
        lambda: prune.topk_mask(X.astype(np.int32), 1),
        TypeError,
        "topk_mask: score.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: prune.topk_mask(X, 1, within=X),
        TypeError,
        "topk_mask: within.dtype is float32, expected bool or uint8",
    ),
    (
        lambda: prune.topk_mask(X, 1, out=np.empty(4, bool)),
        ValueError,
        "topk_mask: out.shape is (4,), expected score.shape = (2, 2)",
    ),
    (
        lambda: prune.topk_mask(X, 1, out=X.view(np.uint8)[:, ::4]),
        ValueError,
        "topk_mask: out.strides[-1] is 4, expected 1 (make it contiguous)",
    ),
    (
        lambda: prune.topk_mask([X, X.astype(np.float64)], 1),
        TypeError,
        "topk_mask: score[1] is compared in float64, expected that of score[0], float32",
    ),
    (
        lambda: prune.topk_mask(np.array([NAN, 1, NAN]), 1, nan="error"),
        ValueError,
        "topk_mask: score has 2 NaN, expected none",
    ),
    (
        lambda: prune.score(X, kind="snip"),
        ValueError,
        'score: g is None, expected an array for kind "snip"',
    ),
    (
        lambda: prune.score(X, kind="wanda", col=np.ones(3, np.float32)),
        ValueError,
        "score: col.shape[0] is 3, expected w.shape[-1] = 2",
    ),
    (
        lambda: prune.score(X, kind="snip", g=np.ones(4, np.float32)),
        ValueError,
        "score: g.shape is (4,), expected w.shape = (2, 2)",
    ),
    (
        lambda: prune.score(X, kind="magnitud"),  # type: ignore[arg-type]
        ValueError,
        "score: kind is 'magnitud', expected 'value', 'magnitude', 'snip', 'taylor2', 'signed', "
        "'wanda', 'obs', 'adam', 'sum3', 'zo' or 'snr_abs'",
    ),
    (lambda: prune.kth(X, 0), ValueError, "kth: k is 0, expected 1 to 4"),
    (lambda: prune.topk_rows(X, 3), ValueError, "topk_rows: k is 3, expected 0 to 2"),
    (
        lambda: prune.random_mask((3,), 4, seed=0),
        ValueError,
        "random_mask: k is 4, expected 0 to 3",
    ),
    (lambda: prune.quantile(X, 1.5), ValueError, "quantile: q is 1.5, expected 0 to 1"),
    (lambda: prune.Selection(0), ValueError, "Selection: k is 0, expected at least 1"),
    (
        lambda: prune.Selection(9).narrow(prune.Selection(9).histogram(X)),
        ValueError,
        "Selection: k is 9, expected at most the 4 entries of all scores",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[case[2][:60] for case in BAD])
def test_bad_calls(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message


# Operands that another thread writes during the call: any result may come, but the call ends and
# writes no byte out of bounds, and lists are those of rows.

CHANGED = """
import threading
import numpy as np, gossamer
from gossamer import prune, regrow

gossamer.set_num_threads(2)
rng = np.random.default_rng(0)
x = rng.standard_normal((300, 700), np.float32)
within = rng.random(x.shape) < 0.5
arrays = [x.copy(), x * 1e-3, 100 * x, np.zeros_like(x), np.ones_like(x), -np.ones_like(x)]
masks = [rng.random(x.shape) < share for share in (0.01, 0.5, 0.99, 0.0, 1.0)]
done = threading.Event()

def write():
    i = 0
    while not done.is_set():
        np.copyto(x, arrays[i % len(arrays)])
        np.copyto(within, masks[i % len(masks)])
        i += 1

def rows():
    values, columns = prune.topk_rows(x, 9)
    assert columns.min() >= 0 and columns.max() < 700 and (np.diff(columns, axis=1) > 0).all()

def entries():
    a = gossamer.CSR.from_dense(arrays[0], masks[1])
    a, _ = regrow.csr_drop_grow_(a, x, 100, 100, drop_score=x.ravel()[: a.nnz])
    gossamer.CSR(a.indptr, a.indices, a.values, a.shape)  # checks the structure

snip = prune.score(x, kind="snip", g=arrays[4])
calls = [
    rows,
    entries,
    lambda: prune.topk_mask(x, 1000),
    lambda: prune.topk_mask(snip, 1000, packed="little"),
    lambda: prune.topk_mask(x, 20, within=within),
    lambda: prune.topk_mask(x, 9, per="row"),
    lambda: prune.topk_mask(x, 1, per="row", within=within),
    lambda: prune.topk_mask(x, 2, per=4),
    lambda: prune.topk_mask(x, 10, per=100),
    lambda: prune.topk_mask(x, 9, per=105_000),
    lambda: prune.kth(x, 1000),
    lambda: prune.quantile(x, 0.3),
    lambda: prune.random_mask(x, 20, seed=1, within=within),
    lambda: prune.nm_mask(x, 2, 4),
    lambda: prune.nm_mask_transposable(x, 2, 4),
    lambda: prune.vnm_mask(x, 10, 2, 10),
    lambda: regrow.drop_grow_(masks[1].copy(), x, x, 100, 100),
]
writer = threading.Thread(target=write)
writer.start()
try:
    for call in calls:
        for _ in range(60):
            try:
                call()
            except ValueError:  # the mask held too few entries just then
                pass
finally:
    done.set()
    writer.join()
"""


def test_operands_that_change_during_the_call_do_no_harm() -> None:
    run(sys.executable, "-c", CHANGED)


# Arrays of one call that share memory.


def test_outputs_that_share_memory_are_refused() -> None:
    out = np.full(3, 7, np.uint8)
    with pytest.raises(ValueError, match=r"topk_mask: out\[\d\] overlaps out\[\d\], expected"):
        prune.topk_mask([np.ones(3, np.float32)] * 2, 4, out=[out, out])
    np.testing.assert_array_equal(out, 7)


@pytest.mark.parametrize("swapped", [True, False])
def test_output_of_one_part_over_an_operand_of_another_is_refused(swapped: bool) -> None:
    masks = [np.ones(3, bool), np.ones(3, bool)]
    scores = [np.array([1, 2, 3], np.float32), np.zeros(3, np.float32)]
    outs: list[Any] = masks[::-1]
    if not swapped:
        outs = [np.empty(3, bool), scores[0].view(np.uint8)[:3]]
    with pytest.raises(ValueError, match=r"topk_mask: out\[\d\] overlaps (within|score)\[\d\]"):
        prune.topk_mask(scores, 2, within=masks if swapped else None, out=outs)
    assert all(mask.all() for mask in masks)
    np.testing.assert_array_equal(scores[0], [1, 2, 3])


def test_parts_may_share_what_is_read() -> None:
    x, within = np.array([1, 2, 3], np.float32), np.ones(3, bool)
    masks = prune.topk_mask([x, x], 3, within=[within, within])
    assert [mask.tolist() for mask in masks] == [[False, True, True], [False, False, True]]


def test_outputs_of_segments_that_share_memory_are_refused() -> None:
    counts = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="kth: n_tie overlaps n_strict, expected separate memory"):
        prune.kth(np.ones(4, np.float32), 1, per=2, out=(np.zeros(2, np.float32), counts, counts))


# Numbers beyond the array.


@pytest.mark.parametrize("per", [8, 2**32, 2**63 - 1])
def test_segments_longer_than_the_array_are_the_array(per: int) -> None:
    x = make("normal", 8, np.float32)
    np.testing.assert_array_equal(prune.topk_mask(x, 3, per=per), oracle(x, 3))
    assert prune.kth(x, 3, per=per).n_strict.tolist() == [2]


@pytest.mark.parametrize(
    ("offset", "total"), [(2**63 - 1, None), (0, -(2**63)), (5, 2**63 - 1), (2**62, 2**62 + 2)]
)
def test_parts_of_a_random_mask_end_within_it(offset: int, total: int | None) -> None:
    if offset == 5:
        assert prune.random_mask((3,), 2**63 - 1, seed=0, offset=offset, total=total).all()
        return
    with pytest.raises(ValueError, match=r"random_mask: (offset|total) is"):
        prune.random_mask((3,), 1, seed=0, offset=offset, total=total)


@pytest.mark.parametrize("place", [{"offset": 2**62}, {"total": 2**40 + 1}, {"total": 2**63 - 1}])
def test_more_elements_than_can_be_drawn_are_refused(place: dict[str, int]) -> None:
    total = place.get("total", 2**62 + 3)
    with pytest.raises(ValueError, match=f"random_mask: total is {total}, expected at most"):
        prune.random_mask((3,), 1, seed=0, **place)
    assert not prune.random_mask((3,), 0, seed=0, **place).any()


def test_quantiles_of_any_type_of_number() -> None:
    x = np.arange(11, dtype=np.float32)
    for q in (np.float16(0.5), ml_dtypes.bfloat16(0.5), Decimal("0.5"), Fraction(1, 2)):
        assert prune.quantile(x, q) == 5
    np.testing.assert_array_equal(prune.quantile(x, [Fraction(1, 2), Decimal(1)]), [5, 10])


# A Selection is used in order.


def test_selection_is_asked_in_order() -> None:
    selection, x = prune.Selection(2), np.array([1, 3, 2, 2], np.float32)
    for early in (
        lambda: selection.threshold,
        lambda: selection.ties(x),
        lambda: selection.emit(x, ties_before=0),
    ):
        with pytest.raises(ValueError, match="is asked for before done, expected more rounds"):
            early()
    while not selection.done:
        selection.narrow(selection.histogram(x))
    assert (selection.threshold, selection.ties(x)) == (2, 2)
    for late in (
        lambda: selection.histogram(x),
        lambda: selection.narrow(np.zeros(4096, np.int64)),
    ):
        with pytest.raises(ValueError, match="is called after done, expected emit"):
            late()
    for before in (-5, 3):
        with pytest.raises(ValueError, match=rf"ties_before is {before}, expected 0 to 2"):
            selection.emit(x, ties_before=before)


@pytest.mark.parametrize("bad", ["negative", "huge", "beyond"])
def test_selection_refuses_counts_that_cannot_be(bad: str) -> None:
    selection = prune.Selection(1, dtype="float16")
    counts = selection.histogram(np.ones(3, np.float16))
    if bad == "negative":
        counts[:2] = -1, 1
    elif bad == "huge":
        counts[:2] = 2**63 - 1
    else:
        selection.narrow(counts)
        counts = selection.histogram(np.ones(3, np.float16))
        counts[-1] += 1  # a bin that this round does not have
    with pytest.raises(ValueError, match=r"Selection: counts\[\d+\] is -?\d+, expected 0 to"):
        selection.narrow(counts)


def test_selection_refuses_counts_that_were_rounded() -> None:
    selection = prune.Selection(1)
    counts = selection.histogram(np.ones(3, np.float32)).astype(np.float32)
    with pytest.raises(
        TypeError, match=r"^Selection: counts is .*, expected an int or an array of"
    ):
        selection.narrow(counts)


def test_results_are_written_to_out() -> None:
    x = np.array([[1, 3], [2, 0]], np.float32)
    scores, mask = np.empty_like(x), np.empty(x.shape, np.uint8)
    assert prune.score(x, kind="value").array(out=scores) is scores
    np.testing.assert_array_equal(scores, x)
    out = np.empty(2, np.float32), np.empty(2, np.int64), np.empty(2, np.int64)
    assert all(a is b for a, b in zip(prune.kth(x, 1, per="row", out=out), out, strict=True))
    assert [part.tolist() for part in out] == [[3, 2], [0, 0], [1, 1]]
    selection = prune.Selection(1)
    while not selection.done:
        selection.narrow(selection.histogram(x))
    assert selection.emit(x, ties_before=0, out=mask) is mask
    assert mask.tolist() == [[0, 1], [0, 0]]
