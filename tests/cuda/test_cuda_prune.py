"""Masks made on GPUs, against those of the CPU, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
from device import Device
from gossamer import prune, regrow

pytestmark = pytest.mark.gpu

F32, F16, F64 = np.float32, np.float16, np.float64
#: Elements of a tile of the kernels, and those from which on a sample is taken.
TILE, SAMPLED = 4096, 65536


def name(dtype: type) -> str:
    return np.dtype(dtype).name


def numbers(n: int, dtype: type, seed: int = 0) -> np.ndarray:
    """Draw numbers among which are zeros of both signs, ties, infinities and NaN."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n)
    for value in (0.0, -0.0, 0.5, -0.5, np.inf, -np.inf, np.nan):
        x[rng.random(n) < 0.02] = value
    return x.astype(dtype)


def scores(kind: str, n: int, dtype: type = F32) -> dict[str, Any]:
    """Return the arguments of a score."""
    w, g, m, v = (numbers(n, dtype, seed) for seed in range(4))
    v = np.abs(v)
    col = np.abs(numbers(50, dtype, 5))
    return {
        "w": w.reshape(-1, 50),
        "kind": kind,
        "g": g.reshape(-1, 50) if kind in {"snip", "taylor2", "signed", "zo", "sum3"} else None,
        "m": m.reshape(-1, 50) if kind in {"adam", "sum3"} else None,
        "v": v.reshape(-1, 50) if kind in {"adam", "snr_abs"} else None,
        "col": col if kind in {"wanda", "obs"} else None,
        "alpha": 0.3,
        "beta": 0.7,
    }


def put(device: Device, given: Any) -> Any:
    if isinstance(given, np.ndarray):
        return device.put(given)
    if isinstance(given, list):
        return [put(device, x) for x in given]
    if isinstance(given, dict):
        return prune.score(**{k: put(device, v) for k, v in given.items()})
    return given


def cpu(given: Any) -> Any:
    if isinstance(given, list):
        return [cpu(x) for x in given]
    return prune.score(**given) if isinstance(given, dict) else given


def same(gpu: Device, op: Callable[..., Any], given: Any, *args: Any, **options: Any) -> Any:
    """Call an operation on both devices; the results have the same bits."""
    want = op(cpu(given), *args, **options)
    moved = {k: v if k == "per" else put(gpu, v) for k, v in options.items()}
    got = op(put(gpu, given), *args, **moved)
    for g, w in zip(*(x if isinstance(x, list) else [x] for x in (got, want)), strict=True):
        result = gpu.get(g)
        assert result.dtype == w.dtype
        np.testing.assert_array_equal(result, w)
    return want


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_a_mask_of_a_small_array_is_the_cpus(gpu: Device, dtype: type) -> None:
    for n in gpu.few([1, 15, 17, 300, TILE, TILE + 1, 3 * TILE - 5], 6):
        x = numbers(n, dtype)
        for k in {0, 1, n // 3, n - 1, n}:
            same(gpu, prune.topk_mask, x, k)
        k = n // 2
        same(gpu, prune.topk_mask, x, k, largest=False, nan="highest", tie="high")
        same(gpu, prune.topk_mask, {"w": x}, k, tie="high")
        same(gpu, prune.topk_mask, {"w": x}, k, largest=False)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("packed", [None, "little", "big"])
def test_a_sample_of_a_large_array_changes_nothing(gpu: Device, dtype: type, packed: Any) -> None:
    n = SAMPLED + 3 * TILE + 77
    w = np.random.default_rng(1).standard_normal(n).astype(dtype)
    for k in (1, n // 100, n // 2):
        same(gpu, prune.topk_mask, {"w": w}, k, packed=packed, tie="high")
    same(gpu, prune.topk_mask, w, n - n // 10, packed=packed, largest=False)


MANY = SAMPLED + 1000


@pytest.mark.parametrize(
    "x",
    [
        np.sort(np.random.default_rng(2).standard_normal(MANY)),
        np.zeros(MANY),
        np.where(np.arange(MANY) % 3 == 0, 1.0, 0.0),
        np.where(np.arange(MANY) % 97 == 0, np.arange(MANY), 0.0),
        np.arange(MANY) // 3000,
        np.tile(np.arange(8.0), MANY // 8),
        np.full(MANY, np.nan),
    ],
    ids=["sorted", "zeros", "ones", "spikes", "stairs", "period", "nan"],
)
def test_data_that_deceive_a_sample(gpu: Device, x: np.ndarray) -> None:
    x = x.astype(F32)
    for k, tie in ((1, "low"), (MANY // 2, "high"), (MANY // 3 + 1, "low"), (MANY - 1, "high")):
        same(gpu, prune.topk_mask, x, k, tie=tie)


def test_a_sample_that_misses_is_corrected(gpu: Device) -> None:
    # Nothing of what the sample looks at is like the rest: it reads runs of eight.
    n = 2 * SAMPLED
    x = np.random.default_rng(3).standard_normal(n).astype(F32)
    x[: n // 4] += 1e6
    x[n // 4 : n // 2] *= 1e-30
    for k in (n // 4 - 1, n // 4, n // 4 + 1, 3 * n // 4, n - 5):
        same(gpu, prune.topk_mask, x, k)


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("n", [2 * TILE, SAMPLED + 500])
def test_arrays_that_begin_anywhere(gpu: Device, shift: tuple[int, int, int], n: int) -> None:
    rng = np.random.default_rng(4)
    arrays = (
        rng.standard_normal(n + 1).astype(F32),
        rng.random(n + 1) < 0.5,
        np.zeros(n + 1, bool),
    )
    x, within, out = (gpu.put(a)[s : s + n] for a, s in zip(arrays, shift, strict=True))
    assert prune.topk_mask(x, n // 5, within=within, out=out) is out
    x, within, _ = (a[s : s + n] for a, s in zip(arrays, shift, strict=True))
    np.testing.assert_array_equal(gpu.get(out), prune.topk_mask(x, n // 5, within=within))


KINDS = ["snip", "taylor2", "signed", "wanda", "obs", "adam", "sum3", "zo", "snr_abs"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [F32, F16, F64], ids=name)
def test_each_score(gpu: Device, kind: str, dtype: type) -> None:
    given = scores(kind, 6000, dtype)
    with np.errstate(all="ignore"):
        same(gpu, prune.topk_mask, given, 2500)
        same(gpu, prune.topk_mask, {**given, "scale": -0.7}, 2500, within=given["w"] > 0)
        same(gpu, prune.topk_mask, given, 20, per="row")
        same(gpu, prune.nm_mask, given, 1, 2)


def test_scores_of_operands_of_several_types(gpu: Device) -> None:
    given = scores("adam", 3000)
    same(gpu, prune.topk_mask, {**given, "m": given["m"].astype(F16)}, 1000)
    same(gpu, prune.topk_mask, {"w": given["w"].astype(F16), "scale": 2.0}, 1000)


def test_a_list_is_one_array(gpu: Device) -> None:
    parts: list[Any] = [numbers(n, F32, n) for n in (0, 1, TILE, TILE + 3, 100, 9)]
    masks = [np.random.default_rng(6).random(x.shape) < 0.6 for x in parts]
    for k in (0, 1, 2000, 4000):
        same(gpu, prune.topk_mask, parts, k)
        same(gpu, prune.topk_mask, parts, k, within=masks, tie="high", packed="little")
    mixed = [parts[2], {"w": parts[3].astype(F16)}, {"w": parts[4], "scale": 3.0}]
    same(gpu, prune.topk_mask, mixed, 2500)
    same(gpu, prune.topk_mask, [x.astype(F16) for x in parts], 2500)


def test_a_list_of_more_arrays_than_a_launch_takes(gpu: Device) -> None:
    parts: list[Any] = [numbers(40 + i, F32, i) for i in range(53)]
    for k in (100, 1500):
        same(gpu, prune.topk_mask, parts, k, tie="high")
    large: list[Any] = [
        np.random.default_rng(i).standard_normal(1500).astype(F32) for i in range(50)
    ]
    same(gpu, prune.topk_mask, large, 30000)
    same(gpu, prune.topk_mask, large, 30000, packed="big")


@pytest.mark.parametrize("dtype", [F32, F16, F64], ids=name)
@pytest.mark.parametrize("length", [1, 4, 7, 16, 17, 256, 257, 4096, 4097])
def test_segments_of_every_size(gpu: Device, dtype: type, length: int) -> None:
    n = 3 * length + length // 2
    x = numbers(n, dtype, length)
    least = n % length or length
    within = np.random.default_rng(7).random(n) < 0.8
    for k in {0, 1, least // 2, least}:
        same(gpu, prune.topk_mask, x, k, per=length)
        same(gpu, prune.topk_mask, x, k, per=length, tie="high", nan="highest", packed="little")
    few = int(min(within[i : i + length].sum() for i in range(0, n, length)))
    same(gpu, prune.topk_mask, {"w": x}, few, per=length, within=within)


def test_segments_of_blocks_of_many_threads(gpu: Device) -> None:
    for n in (5000, 17000):
        x = numbers(2 * n, F32)
        same(gpu, prune.topk_mask, x, n // 3, per=n)
        same(gpu, prune.topk_mask, np.round(x), n // 3, per=n, tie="high")


def test_segments_at_offsets_with_a_k_of_their_own(gpu: Device) -> None:
    rng = np.random.default_rng(8)
    for most in (40, 700):
        lengths = rng.integers(0, most, 150)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        x = numbers(int(offsets[-1]), F32)
        same(gpu, prune.topk_mask, x, lengths // 3, per=offsets)
        same(gpu, prune.topk_mask, {"w": x}, lengths, per=offsets, packed="big")


def test_a_long_segment_among_short_ones(gpu: Device) -> None:
    offsets = np.array([0, 10, 10 + (1 << 18) + 1, 10 + (1 << 18) + 400])
    rng = np.random.default_rng(9)
    w = rng.standard_normal(offsets[-1]).astype(F32)
    same(gpu, prune.topk_mask, w, np.array([3, 1000, 7]), per=offsets)
    w, col = w[: -(len(w) % 7)].reshape(-1, 7), np.arange(1, 8, dtype=F32)
    offsets[-1] = w.size
    given = {"w": w, "kind": "wanda", "col": col}
    same(gpu, prune.topk_mask, given, np.array([3, 100000, 7]), per=offsets)


@pytest.mark.parametrize(("k", "per"), [(5000, None), (40, 100), (5000, 20000)])
def test_where_within_has_fewer_than_k_all_are_marked(gpu: Device, k: int, per: Any) -> None:
    within = np.zeros(70_500, bool)
    within[3::1000] = True
    x = gpu.put(numbers(len(within), F32))
    got = prune.topk_mask(x, k, within=gpu.put(within), per=per)
    np.testing.assert_array_equal(gpu.get(got), within)


def test_nan_may_be_an_error(gpu: Device) -> None:
    x = np.array([[1, np.nan, 3, np.nan]], F32)
    for call in (
        lambda: prune.topk_mask(gpu.put(x), 2, nan="error"),
        lambda: prune.topk_mask(gpu.put(x), 2, nan="error", per=2),
        lambda: prune.nm_mask(gpu.put(x), 1, 2, nan="error"),
    ):
        with pytest.raises(ValueError, match=r"^\w+: score has 2 NaN, expected none$"):
            call()
    same(gpu, prune.topk_mask, np.arange(10, dtype=F32), 3, nan="error")


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize(
    ("n", "m"), [(2, 4), (1, 4), (4, 8), (0, 2), (3, 3), (2, 5), (7, 16), (9, 20)]
)
def test_patterns_along_each_axis(gpu: Device, dtype: type, n: int, m: int) -> None:
    x = numbers(3 * 2 * m * 4 * m, dtype).reshape(3, 2 * m, 4 * m)
    for axis in (0, 1, 2):
        for tie in ("low", "high"):
            same(gpu, prune.nm_mask, x, n, m, axis=axis, tie=tie, tail="pad")
    same(gpu, prune.nm_mask, {"w": x}, n, m, nan="highest")


@pytest.mark.parametrize("tail", ["keep", "pad"])
def test_patterns_with_a_tail(gpu: Device, tail: Any) -> None:
    x = numbers(7 * 13, F32).reshape(7, 13)
    for axis in (0, 1):
        same(gpu, prune.nm_mask, x, 2, 4, axis=axis, tail=tail)
    same(gpu, prune.nm_mask, x[:0], 2, 4, axis=0, tail=tail)


@pytest.mark.parametrize("offset", [0, 1])
def test_patterns_of_an_array_that_begins_anywhere(gpu: Device, offset: int) -> None:
    x = numbers(257, F16)
    out = gpu.put(np.zeros(257, bool))
    prune.nm_mask(gpu.put(x)[offset : offset + 256], 2, 4, out=out[1 - offset : 257 - offset])
    want = prune.nm_mask(x[offset : offset + 256], 2, 4)
    np.testing.assert_array_equal(gpu.get(out[1 - offset : 257 - offset]), want)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_transposable_patterns_of_four_are_the_cpus(gpu: Device, dtype: type) -> None:
    for n in range(5):
        x = numbers(8 * 132, dtype, n).reshape(8, 132)
        x[:4, :8] = 1
        x[4:, :8] = np.round(x[4:, :8])
        same(gpu, prune.nm_mask_transposable, x, n, 4)
        same(gpu, prune.nm_mask_transposable, {"w": x}, n, 4)
    given = scores("wanda", 400, dtype)
    given = {**given, "w": given["w"].reshape(8, 50)[:, :48].copy(), "col": given["col"][:48]}
    with np.errstate(all="ignore"):
        same(gpu, prune.nm_mask_transposable, given, 2, 4)
    same(gpu, prune.nm_mask_transposable, x[:0], 2, 4)


@pytest.mark.parametrize("size", [1e-310, 1e300])
def test_transposable_patterns_of_numbers_far_from_one(gpu: Device, size: float) -> None:
    x = np.random.default_rng(1).standard_normal((8, 24)) * size
    same(gpu, prune.nm_mask_transposable, x, 2, 4)
    same(gpu, prune.nm_mask_transposable, (x / size * 1e-40).astype(F32), 1, 4)


@pytest.mark.parametrize("method", ["exact", "greedy"])
@pytest.mark.parametrize(
    ("n", "m"), [(1, 2), (2, 3), (3, 6), (1, 8), (4, 8), (5, 16), (16, 32), (5, 33), (9, 64)]
)
def test_transposable_patterns_of_other_sizes_are_the_cpus(
    gpu: Device, n: int, m: int, method: Any
) -> None:
    rng = np.random.default_rng(m)
    blocks = 3 if m <= 16 else 1
    x = rng.standard_normal((m, blocks * m)).astype(F32)
    # Columns that many rows want, and small integers, of which many choices have one sum.
    x[:, :: m // 2 + 1] += 2
    same(gpu, prune.nm_mask_transposable, x, n, m, method=method)
    same(gpu, prune.nm_mask_transposable, {"w": np.round(x)}, n, m, method=method)


@pytest.mark.parametrize("method", ["exact", "greedy"])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_transposable_patterns_of_every_type_are_the_cpus(
    gpu: Device, dtype: type, method: Any
) -> None:
    for m in (4, 8, 10):
        x = numbers(2 * m * 3 * m, dtype, m).reshape(2 * m, 3 * m)
        x[:m, :m] = 1
        for n in {0, 1, m // 2, m - 1, m}:
            same(gpu, prune.nm_mask_transposable, x, n, m, method=method)
            same(gpu, prune.nm_mask_transposable, {"w": x}, n, m, method=method)
        for size in (1e-310, 1e300):
            far = np.random.default_rng(1).standard_normal((m, 2 * m)) * size
            same(gpu, prune.nm_mask_transposable, far, m // 2, m, method=method)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("length", [1, 7, 16, 17, 300, 4097])
def test_the_kth_scores_of_segments_are_the_cpus(gpu: Device, dtype: type, length: int) -> None:
    x = numbers(3 * length + length // 2, dtype, length)
    least = len(x) % length or length
    calls: list[Any] = [
        (x, {}),
        ({"w": x}, {}),
        (x, {"largest": False}),
        ({"w": x}, {"nan": "highest"}),
    ]
    for k in {1, (least + 1) // 2, least} if length <= 300 else {least // 3}:
        for given, options in calls:
            moved = prune.kth(put(gpu, given), k, per=length, **options)
            kept = prune.kth(cpu(given), k, per=length, **options)
            for got, want in zip(moved, kept, strict=True):
                same_bits(gpu.get(got), want)


def test_the_kth_scores_of_listed_segments_are_the_cpus(gpu: Device) -> None:
    lengths = np.random.default_rng(8).integers(1, 40, 150)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    x = numbers(int(offsets[-1]), F32)
    counts = (lengths + 2) // 3
    moved = prune.kth(gpu.put(x), counts, per=offsets)
    for got, want in zip(moved, prune.kth(x, counts, per=offsets), strict=True):
        same_bits(gpu.get(got), want)


METHODS: list[Any] = ["exact", "greedy"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_columns_of_blocks_are_the_cpus(gpu: Device, dtype: type, method: Any) -> None:
    for v, n, m in (
        (1, 2, 5),
        (8, 1, 8),
        (37, 2, 8),
        (16, 3, 10),
        (20, 4, 6),
        (2, 0, 8),
        (2, 2, 4),
    ):
        x = numbers(2 * v * 3 * m, dtype, m).reshape(2 * v, 3 * m)
        x[:v, :m] = np.round(np.nan_to_num(x[:v, :m]))
        x[v:, :m] = 1
        same(gpu, prune.vnm_mask, x, v, n, m, method=method)
        same(gpu, prune.vnm_mask, {"w": x}, v, n, m, method=method)


def test_wide_blocks_of_computed_scores_are_the_cpus(gpu: Device) -> None:
    given = scores("wanda", 2400, F16)
    with np.errstate(all="ignore"):
        for method in METHODS:
            same(gpu, prune.vnm_mask, given, 24, 2, 25, method=method)
    same(gpu, prune.vnm_mask, given["w"][:0], 2, 2, 5)
    message = "vnm_mask: v is 6000, of which the backend for GPUs has up to 5119 for m = 8"
    x = gpu.put(np.ones((6000, 8), F32))
    with pytest.raises(NotImplementedError, match=f"^{message}$"):
        prune.vnm_mask(x, 6000, 2, 8)


def same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(want[numbers]))


REDUCES: list[Any] = ["mean", "max", "l1", "l2"]
BLOCKS = [(1, 1), (2, 2), (3, 5), (32, 32), (4, 64), (7, 300), (2, 1000)]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_are_reduced_as_on_the_cpu(gpu: Device, block: tuple[int, int], dtype: type) -> None:
    # In the second matrix a block of 300 or 1000 columns has several of each thread's.
    for shape in [(7, 13), (33, 1030 if block[1] > 64 else 70)]:
        x = numbers(shape[0] * shape[1], dtype, block[1]).reshape(shape)
        x[:2, :5] = 0
        for reduce in REDUCES:
            with np.errstate(all="ignore"):
                want = prune.block_pool(x, block, reduce=reduce)
            same_bits(gpu.get(prune.block_pool(gpu.put(x), block, reduce=reduce)), want)
        same_bits(
            gpu.get(prune.block_pool(prune.score(gpu.put(x)), block)),
            prune.block_pool(prune.score(x), block),
        )


@pytest.mark.parametrize("size", [1e-30, 3e38, 1e-44, 1e-20])
def test_blocks_of_numbers_whose_squares_or_sums_leave_the_range(gpu: Device, size: float) -> None:
    rng = np.random.default_rng(1)
    x = (rng.random((40, 60)) * size).astype(F32)
    x[8:16, 8:16] = 0
    x[:8, :8] /= size
    x[17, 3], x[30, 40], x[9, 9] = np.inf, np.nan, -0.0
    for reduce in REDUCES:
        for block in ((8, 8), (3, 7), (1, 60)):
            with np.errstate(all="ignore"):
                want = prune.block_pool(x, block, reduce=reduce)
            same_bits(gpu.get(prune.block_pool(gpu.put(x), block, reduce=reduce)), want)
    wide = x.astype(F64) * 1e-170 if size < 1 else x.astype(F64) * 1e120
    same_bits(
        gpu.get(prune.block_pool(gpu.put(wide), (5, 9), reduce="l2")),
        prune.block_pool(wide, (5, 9), reduce="l2"),
    )


@pytest.mark.parametrize("kind", ["wanda", "adam", "snip"])
def test_blocks_of_scores_that_are_computed(gpu: Device, kind: str) -> None:
    given = scores(kind, 1500)
    with np.errstate(all="ignore"):
        same(gpu, prune.block_pool, given, (4, 3), reduce="l2")
        same(gpu, prune.block_mask, given, 40, (4, 3))


def test_masks_of_blocks_are_the_cpus(gpu: Device) -> None:
    for shape, block in [
        ((40, 72), (16, 16)),
        ((9, 50), (2, 7)),
        ((5, 5), (9, 1)),
        ((3, 64), (1, 64)),
    ]:
        x = np.round(numbers(shape[0] * shape[1], F32).reshape(shape))
        count = -(-shape[0] // block[0]) * -(-shape[1] // block[1])
        for k in (0, count // 2, count):
            same(gpu, prune.block_mask, x, k, block, tie="high", nan="highest")
    same(gpu, prune.block_mask, x[:0], 0, (2, 2))


@pytest.mark.parametrize("cols", [32, 43])
def test_a_mask_of_blocks_is_repeated_over_them(gpu: Device, cols: int) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (5, 11)).astype(np.uint8)[:, : -(-cols // 4)]
    mask = np.ascontiguousarray(mask)
    want = prune.expand_blocks(mask, (4, 4), (20, cols))
    out = gpu.put(np.full((21, cols), 7, np.uint8))
    for first in (0, 1):
        part = out[first : first + 20]
        assert prune.expand_blocks(gpu.put(mask), (4, 4), (20, cols), out=part) is part
        np.testing.assert_array_equal(gpu.get(part), want)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
def test_the_kth_score_is_the_cpus(gpu: Device, dtype: type) -> None:
    for n in gpu.few([1, 300, TILE + 1, SAMPLED + 99], 3):
        x = numbers(n, dtype, 3)
        for k in {1, n // 3 + 1, n}:
            for options in ({}, {"largest": False, "nan": "highest"}, {"nan": "highest"}):
                got = prune.kth(gpu.put(x), k, **options)
                assert repr(got) == repr(prune.kth(x, k, **options))
        there = prune.score(gpu.put(x))
        assert repr(prune.kth(there, 1)) == repr(prune.kth(prune.score(x), 1))
        assert prune.count_nan(gpu.put(x)) == prune.count_nan(x)
        finite = np.where(np.isfinite(x.astype(F64)), x, 0).astype(dtype)
        for values in (x, finite):
            got, want = (prune.quantile(at, [0, 0.3, 1]) for at in (gpu.put(values), values))
            np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match=r"^kth: score has 2 NaN, expected none$"):
        prune.kth(gpu.put(np.array([np.nan, 1, np.nan], F32)), 1, nan="error")
    assert prune.count_nan([gpu.put(x), gpu.put(x[:0])]) == prune.count_nan(x)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("cols", [1, 16, 200, 5000])
def test_the_largest_of_rows_are_the_cpus(gpu: Device, cols: int, dtype: type) -> None:
    x, key = numbers(3 * cols, dtype).reshape(3, -1), numbers(3 * cols, F32, 1).reshape(3, -1)
    for k in {0, 1, cols // 3, cols}:
        cases = [{}, {"key": key, "tie": "high", "nan": "highest"}]
        for options in cases if k != cols // 3 else cases[1:]:
            moved = {n: put(gpu, v) for n, v in options.items()}
            got = prune.topk_rows(gpu.put(x), k, **moved)
            for g, w in zip(got, prune.topk_rows(x, k, **options), strict=True):
                assert gpu.get(g).dtype == w.dtype
                np.testing.assert_array_equal(gpu.get(g).astype(F64), w.astype(F64))
    with pytest.raises(ValueError, match=r"^topk_rows: key has \d+ NaN, expected none$"):
        prune.topk_rows(gpu.put(np.full((2, cols), np.nan, dtype)), 1, nan="error")


@pytest.mark.parametrize("n", [1, 100, TILE + 5, SAMPLED + 100])
def test_random_masks_are_the_cpus(gpu: Device, n: int) -> None:
    like = np.zeros(n, F32)
    within = np.random.default_rng(n).random(n) < 0.7
    there = gpu.put(like)
    for k in gpu.few(sorted({n // 3, 0, 1, n}), 3):
        same_mask = prune.random_mask(there, k, seed=5, step=2**40 + k)
        np.testing.assert_array_equal(
            gpu.get(same_mask), prune.random_mask(like, k, seed=5, step=2**40 + k)
        )
    k = int(within.sum()) // 2
    out = gpu.put(np.zeros(n, bool))
    assert prune.random_mask((n,), k, seed=1, within=gpu.put(within), out=out) is out
    np.testing.assert_array_equal(gpu.get(out), prune.random_mask((n,), k, seed=1, within=within))
    out = gpu.put(np.zeros(n, np.uint8))
    assert prune.random_mask((n,), n // 2, seed=2**63, out=out) is out
    np.testing.assert_array_equal(gpu.get(out), prune.random_mask((n,), n // 2, seed=2**63))


def test_a_part_of_a_random_mask_is_the_wholes(gpu: Device) -> None:
    whole = prune.random_mask((9001,), 3000, seed=1, step=1)
    for first, end in ((0, 17), (17, 5003), (5003, 9001)):
        part = prune.random_mask(
            gpu.put(np.zeros(end - first, F32)), 3000, seed=1, step=1, offset=first, total=9001
        )
        np.testing.assert_array_equal(gpu.get(part), whole[first:end])


BAD: list[tuple[Callable[[Any], object], str]] = [
    (lambda x: prune.topk_mask(x, 25), "topk_mask: k is 25, expected 0 to 24"),
    (
        lambda x: prune.topk_mask(x, 7, per="row"),
        "topk_mask: k is 7, expected 0 to 6, the length of segment 0",
    ),
    (
        lambda x: prune.topk_mask(x, 1, within=np.ones((4, 6), bool)),
        "topk_mask: within is on cpu, expected score's device cuda:0",
    ),
    (
        lambda x: prune.nm_mask(x, 2, 4),
        "nm_mask: score.shape[1] is 6, expected a multiple of m = 4, or tail 'keep' or 'pad'",
    ),
    (lambda x: prune.shrink_(x, x), "shrink_: mask.dtype is float32, expected bool or uint8"),
    (lambda x: prune.l0_project_(x, 25), "l0_project_: k is 25, expected 0 to 24"),
    (
        lambda x: prune.block_pool(x, (0, 1)),
        "block_pool: block is (0, 1), expected at least (1, 1)",
    ),
    (lambda x: prune.kth(x, 25), "kth: k is 25, expected 1 to 24"),
    (lambda x: prune.topk_rows(x, 7), "topk_rows: k is 7, expected 0 to 6"),
    (lambda x: prune.random_mask(x, 25, seed=0), "random_mask: k is 25, expected 0 to 24"),
    (
        lambda x: prune.random_mask(x, 1, seed=0, offset=-1),
        f"random_mask: offset is -1, expected 0 to total - 24 = {2**63 - 1 - 24}",
    ),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_calls_are_refused_as_on_the_cpu(gpu: Device, case: int) -> None:
    call, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(message)}$"):
        call(gpu.put(np.ones((4, 6), F32)))


def test_strided_scores_are_refused(gpu: Device) -> None:
    x = gpu.put(np.ones((4, 6), F32))[:, ::2]
    with pytest.raises(ValueError, match=r"^topk_mask: score.* contiguous"):
        prune.topk_mask(x, 3)


@pytest.mark.parametrize("kind", ["value", "magnitude", *KINDS])
def test_scores_as_arrays(gpu: Device, kind: str) -> None:
    for dtype in (F32, F16, F64):
        given = scores(kind, 650, dtype)
        with np.errstate(all="ignore"):
            want = cpu(given).array()
        got = gpu.get(put(gpu, given).array())
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


#: Updates of x by the mask and by other, with their bits.
UPDATES: dict[str, Callable[[Any, Any, Any], object]] = {
    "soft_threshold_": lambda x, mask, other: prune.soft_threshold_(x, 0.5),
    "shrink_": lambda x, mask, other: prune.shrink_(x, mask, factor=0.75),
    "shrink_ to 0": lambda x, mask, other: prune.shrink_(x, mask, factor=0),
    "srste_grad_": lambda x, mask, other: prune.srste_grad_(x, other, mask, decay=0.5),
    "l0_project_": lambda x, mask, other: prune.l0_project_(x, 37, out=mask),
}


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("update", UPDATES)
def test_updates_are_the_cpus(gpu: Device, update: str, dtype: type) -> None:
    # Products with a power of two are exact, so that it does not matter when they are rounded.
    for shape in gpu.few([(5, 33), (1, 1), (0, 3), (40, 64)], 4):
        if update == "l0_project_" and shape[0] * shape[1] < 37:
            continue
        x = numbers(shape[0] * shape[1], dtype).reshape(shape)
        other = oracle.random_dense(shape, dtype, 1, integers=True)
        mask = np.random.default_rng(2).random(shape) < 0.5
        there = [gpu.put(a) for a in (x, mask, other)]
        with np.errstate(all="ignore"):
            UPDATES[update](x, mask, other)
        UPDATES[update](*there)
        for got, want in zip(there, (x, mask, other), strict=True):
            result = gpu.get(got)
            assert result.dtype == want.dtype
            np.testing.assert_array_equal(result.astype(F64), want.astype(F64))


def test_updates_of_rows_of_a_larger_array(emulated: Device) -> None:
    for begin, cols in ((0, 8), (1, 8), (4, 7)):
        x, mask = numbers(6 * 20, F32).reshape(6, 20), np.arange(120).reshape(6, 20) % 3 == 0
        there, kept = emulated.put(x), emulated.put(mask)
        part = np.s_[1:5, begin : begin + cols]
        prune.shrink_(x[part], mask[part], factor=0.5)
        prune.shrink_(there[part], kept[part], factor=0.5)
        np.testing.assert_array_equal(emulated.get(there), x)


@pytest.mark.parametrize("allow", ["allow", "forbid"])
@pytest.mark.parametrize("n", [1, 50, TILE + 7, SAMPLED + 9])
def test_a_mask_drops_and_grows_as_on_the_cpu(gpu: Device, allow: Any, n: int) -> None:
    rng = np.random.default_rng(n)
    mask, forbid = rng.random(n) < 0.4, rng.random(n) < 0.1
    score, w, state = (numbers(n, F32, i) for i in range(3))
    grow, init = numbers(n, F64, 3), numbers(n, F16, 4)
    half = numbers(n, F16, 5)
    drops = int(mask.sum()) // 3
    free = int((~mask & ~forbid).sum())
    for n_drop, n_grow in ((drops, free // 4), (0, 0), (int(mask.sum()), free)):
        arrays = [mask.copy(), w.copy(), state.copy(), half.copy()]
        there = [gpu.put(a) for a in arrays]

        def step(at: Callable[[Any], Any], x: list[Any], drop: int, new: int) -> Any:
            m, weights, *states = x
            moved = at(score), at(grow), at(forbid)
            result, places = regrow.drop_grow_(
                *(m, prune.score(moved[0]), moved[1], drop, new),
                **{"regrow": allow, "forbid": moved[2], "weights": weights, "tie": "high"},
                **{"states": states, "init": 0.5, "state_init": -1.0, "clear_states": True},
            )
            assert result is m
            return places

        want = step(lambda x: x, arrays, n_drop, n_grow)
        got = step(gpu.put, there, n_drop, n_grow)
        for g, e in zip([got, *there], [want, *arrays], strict=True):
            assert gpu.get(g).dtype == e.dtype
            np.testing.assert_array_equal(gpu.get(g), e)
    moved = gpu.put(half)
    m = gpu.put(mask)
    regrow.drop_grow_(
        m, gpu.put(score), gpu.put(score), drops, drops, weights=moved, init=gpu.put(init)
    )
    regrow.drop_grow_(mask, score, score, drops, drops, weights=half, init=init)
    np.testing.assert_array_equal(gpu.get(moved), half)
    np.testing.assert_array_equal(gpu.get(m), mask)


@pytest.mark.parametrize("allow", ["allow", "forbid"])
@pytest.mark.parametrize("n", [1, 33, TILE + 7, 5 * TILE])
def test_a_mask_grows_the_cpus_random_places(gpu: Device, allow: Any, n: int) -> None:
    rng = np.random.default_rng(n)
    before, forbid = rng.random(n) < 0.4, rng.random(n) < 0.1
    x = numbers(n, F32)
    drops, free = int(before.sum()) // 3, int((~before & ~forbid).sum())
    for n_grow in {0, free // 3, free}:
        mask, there = before.copy(), gpu.put(before)
        random = regrow.Random(3, n_grow)
        options: Any = {"regrow": allow}
        _, want = regrow.drop_grow_(mask, x, random, drops, n_grow, forbid=forbid, **options)
        at = (there, gpu.put(x), random, drops, n_grow)
        _, got = regrow.drop_grow_(*at, forbid=gpu.put(forbid), **options)
        np.testing.assert_array_equal(gpu.get(got), want)
        np.testing.assert_array_equal(gpu.get(there), mask)


def test_bad_growth_is_refused_before_anything_is_written(gpu: Device) -> None:
    before = np.array([1, 0, 1, 0], bool)
    mask, x = gpu.put(before), gpu.put(np.arange(4, dtype=F32))
    cases: list[tuple[Any, type[Exception], str]] = [
        ((3, 0), ValueError, "n_drop is 3, expected 0 to 2, the number of active entries"),
        ((0, 3), ValueError, "n_grow is 3, expected 0 to 2, the number of places that may grow"),
    ]
    for (drop, grow), error, message in cases:
        with pytest.raises(error, match=f"^drop_grow_: {message}$"):
            regrow.drop_grow_(mask, x, x, drop, grow)
    np.testing.assert_array_equal(gpu.get(mask), before)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize("options", [{}, {"tie": "high"}, {"largest": False, "nan": "highest"}])
def test_a_selection_over_processes_is_the_cpus(gpu: Device, dtype: type, options: Any) -> None:
    parts: list[Any] = [numbers(n, dtype, n) for n in (300, 1, 0, 2 * TILE + 9)]
    here, there = (prune.Selection(2500, dtype=name(dtype), **options) for _ in range(2))
    moved = put(gpu, parts)
    while not here.done:
        counts = here.histogram(parts)
        got = there.histogram(moved)
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, counts)
        here.narrow(2 * counts)  # another process has the same scores
        there.narrow(2 * counts)
    assert there.done
    assert repr(there.threshold) == repr(here.threshold)
    ties = here.ties(parts)
    assert there.ties(moved) == ties
    for before in {0, 1, ties // 2, ties}:
        kept, marks = (s.emit(x, ties_before=before) for s, x in ((here, parts), (there, moved)))
        for want, mask in zip(kept, marks, strict=True):
            np.testing.assert_array_equal(gpu.get(mask), want)
    alone = prune.Selection(2500, dtype=name(dtype), **options)
    while not alone.done:
        alone.narrow(alone.histogram(moved))
    whole = prune.topk_mask(parts, 2500, **options)
    for want, mask in zip(whole, alone.emit(moved, ties_before=0), strict=True):
        np.testing.assert_array_equal(gpu.get(mask), want)


def test_a_selection_compares_scores_of_several_types(gpu: Device) -> None:
    x = numbers(5000, F16)
    given = scores("wanda", 5000)
    for part in (x, {"w": x, "scale": -2.0}, given):
        here, there = prune.Selection(700), prune.Selection(700)
        while not here.done:
            with np.errstate(all="ignore"):
                here.narrow(2 * here.histogram(cpu(part)))
            there.narrow(2 * there.histogram(put(gpu, part)))
        out = gpu.put(np.ones(x.shape if part is x else cpu(part).shape, bool))
        assert there.emit(put(gpu, part), ties_before=1, out=out) is out
        np.testing.assert_array_equal(gpu.get(out), here.emit(cpu(part), ties_before=1))


def test_a_selection_says_what_is_wrong(gpu: Device) -> None:
    x = gpu.put(numbers(10, F32))
    selection = prune.Selection(3)
    for call in (selection.ties, lambda y: selection.emit(y, ties_before=0)):
        with pytest.raises(ValueError, match=r"^Selection: \w+ is asked for before done"):
            call(x)
    with pytest.raises(TypeError, match=r"^Selection: score is compared in float64, expected"):
        selection.histogram(gpu.put(numbers(10, F64)))
    while not selection.done:
        selection.narrow(selection.histogram(x))
    with pytest.raises(ValueError, match=r"^Selection: histogram is called after done"):
        selection.histogram(x)
    with pytest.raises(ValueError, match=r"^Selection: ties_before is 2, expected 0 to 1,"):
        selection.emit(x, ties_before=2)
