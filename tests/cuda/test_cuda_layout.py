"""Layouts that are built on GPUs: the CPU's arrays, and its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest
from device import Device, EmulatedArray
from gossamer import BlockLayout

pytestmark = pytest.mark.gpu


def same(gpu: Device, got: BlockLayout, want: BlockLayout) -> None:
    assert (got.shape, got.block, got.nblocks) == (want.shape, want.block, want.nblocks)
    assert got.device == "cuda:0"
    for name in ("indptr", "indices", "kinds", "bits"):
        there, here = getattr(got, name), getattr(want, name)
        assert (there is None) == (here is None), name
        if here is not None:
            np.testing.assert_array_equal(gpu.get(there), here)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 20, 33), (2, 1, 9, 64), (1, 0, 4), (2, 3, 0)], ids=str
)
def test_masks(gpu: Device, shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(1).random(shape) < 0.4
    if mask.shape[-2] > 2:
        mask[..., 1, :], mask[..., 2, :] = False, True
    for x in (mask, mask.astype(np.uint8) * 3):
        same(gpu, BlockLayout.from_mask(gpu.put(x), block=4), BlockLayout.from_mask(x, block=4))


def test_masks_of_any_strides(gpu: Device) -> None:
    if not gpu.emulated:
        pytest.skip("slices of emulated arrays")
    mask = np.random.default_rng(2).random((3, 20, 50)) < 0.4
    there = gpu.put(mask)
    assert isinstance(there, EmulatedArray)
    got = BlockLayout.from_mask(there[1:, ::2, 3:40:3], block=8)
    same(gpu, got, BlockLayout.from_mask(mask[1:, ::2, 3:40:3], block=8))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("width", [0, 1, 31, 70])
def test_lists(gpu: Device, width: int, dtype: Any) -> None:
    """In order and in none, with repeated columns and holes, all and some of each list."""
    rng = np.random.default_rng(width)
    lists = rng.integers(-1, 60, (2, 3, 9, width)).astype(dtype)
    for x in (lists, np.sort(lists, -1), np.sort(lists, -1)[..., ::-1].copy()):
        want = BlockLayout.from_lists(x, cols=60, block=(8, 4))
        same(gpu, BlockLayout.from_lists(gpu.put(x), cols=60, block=(8, 4)), want)
        counts = rng.integers(0, width + 1, x.shape[:3]).astype(np.int64)
        want = BlockLayout.from_lists(x, counts=counts, cols=60, block=2)
        got = BlockLayout.from_lists(gpu.put(x), counts=gpu.put(counts), cols=60, block=2)
        same(gpu, got, want)


def test_choices_become_a_layout_and_attention_without_the_host(gpu: Device) -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((2, 64, h, 16)).astype(np.float32) for h in (4, 2, 2)]
    found: list[Any] = []
    for put, get in ((gpu.put, gpu.get), (np.asarray, np.asarray)):
        q, k, v = map(put, arrays)
        options: Any = {"block": 8, "causal": True, "keep_local": 1}
        picked = gossamer.block_topk(q, gossamer.block_pool(k, 8), 3, **options)
        layout = BlockLayout.from_topk(picked, cols=8, block=(1, 8))
        o, lse = gossamer.attention(q, k, v, layout, causal=True)
        found.append([get(x) for x in (layout.indptr, layout.indices, o, lse)])
    for there, here in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


def test_slashes_that_end_where_a_block_does(gpu: Device) -> None:
    columns, slashes = np.array([[-1]]), np.array([[8]])
    options: Any = {"tokens": 64, "block": 8}
    got, _ = BlockLayout.vertical_slash(gpu.put(columns), gpu.put(slashes), **options)
    same(gpu, got, BlockLayout.vertical_slash(columns, slashes, **options)[0])


STRIDES: list[dict[str, Any]] = [
    {"heads": 1, "blocks": 0, "local": 1, "stride": 1},
    {"heads": 3, "blocks": 1, "local": 5, "stride": 2},
    {"heads": 4, "blocks": 40, "local": 3, "stride": 7},
    {"heads": 3, "blocks": 37, "local": 1, "stride": 5, "head_shift": 0, "dense_heads": 1},
    {"heads": 2, "blocks": 33, "local": 2, "stride": 64, "head_shift": 2**31 - 1},
]


@pytest.mark.parametrize("options", STRIDES, ids=str)
def test_local_and_strided_blocks(gpu: Device, options: dict[str, Any]) -> None:
    like = gpu.put(np.zeros(1, np.float32))
    got = BlockLayout.local_stride(**options, block=(4, 8), like=like)
    same(gpu, got, BlockLayout.local_stride(**options, block=(4, 8)))


WINDOWS: list[dict[str, Any]] = [
    {"blocks": 0, "window": 1},
    {"blocks": (5, 40), "window": (2, 0), "heads": 2},
    {"blocks": (40, 5), "window": 1, "globals": 2},
    {"blocks": 36, "window": 1, "globals": [0, 35, 7, 8, 7], "causal": True},
    {"blocks": 70, "window": (0, 3), "globals": 1, "random": 3, "heads": 2, "seed": 5},
    {"blocks": (33, 50), "window": 2, "random": 40, "causal": True, "seed": 2**63},
    {"blocks": (2, 200), "window": 0, "random": 128, "globals": list(range(0, 128, 2))},
    {"blocks": (3, 9), "window": 0, "random": 20},
]


@pytest.mark.parametrize("options", WINDOWS, ids=str)
def test_windows_global_and_random_blocks(gpu: Device, options: dict[str, Any]) -> None:
    like = gpu.put(np.zeros(1, np.float32))
    got = BlockLayout.window_global(**options, block=8, like=like)
    same(gpu, got, BlockLayout.window_global(**options, block=8))


def pattern(rows: int, cols: int, density: float, block: tuple[int, int]) -> gossamer.CSR:
    """Return one with empty rows, and with whole blocks."""
    rng = np.random.default_rng(rows)
    mask = rng.random((rows, cols)) < density
    br, bc = block
    mask[br : 2 * br, : 2 * bc] = True
    mask[rows // 2 :: 7] = False
    return gossamer.CSR.from_mask(mask)


PATTERNS: list[tuple[int, int, float, tuple[int, int], int, int]] = [
    (8, 10, 1.0, (4, 4), 1, 1),  # whole blocks at the right edge
    *((24, 40, 0.1, (4, 8), 1, 1), (66, 45, 0.05, (5, 3), 2, 3), (70, 100, 0.3, (40, 9), 1, 2)),
    *((6, 1000, 0.01, (1, 3), 1, 1), (9, 13, 0.5, (64, 64), 1, 3), (8, 8, 0.0, (1, 1), 1, 1)),
    *((0, 4, 0.0, (2, 2), 1, 1), (4, 0, 0.0, (2, 2), 1, 1)),
]


@pytest.mark.parametrize("case", PATTERNS, ids=str)
def test_patterns_of_elements_are_turned_and_written(gpu: Device, case: Any) -> None:
    rows, cols, density, block, batch, heads = case
    here = pattern(rows, cols, density, block)
    there = gossamer.CSR(gpu.put(here.indptr), gpu.put(here.indices), None, here.shape)
    options: Any = {"block": block, "batch": batch, "heads": heads}
    want, got = BlockLayout.from_csr(here, **options), BlockLayout.from_csr(there, **options)
    same(gpu, got, want)
    same(gpu, got.transpose(), want.transpose())
    same(gpu, got.transpose().transpose(), want)
    for elements in (False, True):
        mask = gpu.get(got.to_mask(elements=elements))
        np.testing.assert_array_equal(mask, want.to_mask(elements=elements))


def test_layouts_without_bits_are_turned_and_written(gpu: Device) -> None:
    mask = np.random.default_rng(1).random((2, 3, 35, 20)) < 0.3
    here, there = (BlockLayout.from_mask(x, block=(3, 5)) for x in (mask, gpu.put(mask)))
    same(gpu, there.transpose(), here.transpose())
    np.testing.assert_array_equal(gpu.get(there.to_mask()), mask)
    elements = gpu.get(there.to_mask(elements=True))
    np.testing.assert_array_equal(elements, here.to_mask(elements=True))
    out = gpu.put(np.ones(mask.shape, np.uint8))
    assert there.to_mask(out=out) is out
    np.testing.assert_array_equal(gpu.get(out), mask)
    stride: Any = {"heads": 2, "blocks": 9, "local": 2, "stride": 3, "block": 4}
    kinds = BlockLayout.local_stride(**stride, like=gpu.put(mask))
    same(gpu, kinds.transpose(), BlockLayout.local_stride(**stride).transpose())


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(
    "tokens, block, width", [(100, (8, 4), 5), (37, (5, 16), 40), (64, (64, 1), 1), (3, (2, 2), 0)]
)
def test_verticals_and_slashes(
    gpu: Device, tokens: int, block: tuple[int, int], width: int, dtype: Any
) -> None:
    rng = np.random.default_rng(tokens)
    columns = rng.integers(-1, tokens, (2, 3, width)).astype(dtype)
    slashes = rng.integers(-1, tokens, (2, 3, max(width // 2, 1))).astype(dtype)
    options: Any = {"tokens": tokens, "block": block}
    got = BlockLayout.vertical_slash(gpu.put(columns), gpu.put(slashes), **options)
    want = BlockLayout.vertical_slash(columns, slashes, **options)
    for there, here in zip(got, want, strict=True):
        same(gpu, there, here)


LISTS = np.array([[[0, 2, -1], [1, 7, 0]]], np.int32)[None]
COUNTS = np.array([[[1, 4]]], np.int32)
BAD: list[tuple[Callable[[Any], object], type[Exception], str]] = [
    (
        lambda put: BlockLayout.from_lists(put(LISTS), cols=3, block=2),
        ValueError,
        "BlockLayout.from_lists: indices has 7, expected -1 to 2",
    ),
    (
        lambda put: BlockLayout.from_topk(put(LISTS.astype(np.int64) - 1), cols=9, block=2),
        ValueError,
        "BlockLayout.from_topk: indices has -2, expected -1 to 8",
    ),
    (
        lambda put: BlockLayout.from_lists(put(LISTS), counts=put(COUNTS), cols=9, block=2),
        ValueError,
        "BlockLayout.from_lists: counts has 4, expected 0 to indices.shape[-1] = 3",
    ),
    (
        lambda put: BlockLayout.from_lists(put(LISTS), counts=COUNTS, cols=9, block=2),
        ValueError,
        "BlockLayout.from_lists: counts is on cpu, expected indices's device cuda:0",
    ),
    (
        lambda put: BlockLayout.from_lists(
            put(np.zeros((1, 1, 1, 2049), np.int32)), cols=9, block=2
        ),
        NotImplementedError,
        "BlockLayout.from_lists: indices.shape[-1] is 2049, expected at most 2048 on a GPU",
    ),
    (
        lambda put: BlockLayout.from_mask(put(np.ones((2, 2), bool)), block=2),
        ValueError,
        "BlockLayout.from_mask: mask.ndim is 2, expected 3 or 4",
    ),
    (
        lambda put: BlockLayout.from_mask(put(np.ones((1, 2, 2), np.float32)), block=2),
        TypeError,
        "BlockLayout.from_mask: mask.dtype is float32, expected bool or uint8",
    ),
    (
        lambda put: BlockLayout.vertical_slash(
            put(np.array([[0, 9]])), put(np.array([[0]])), tokens=9, block=2
        ),
        ValueError,
        "BlockLayout.vertical_slash: columns has 9, expected -1 to tokens - 1 = 8",
    ),
    (
        lambda put: BlockLayout.vertical_slash(
            put(np.array([[0, 9]])), put(np.array([[0, -2, 11]])), tokens=9, block=2
        ),
        ValueError,
        "BlockLayout.vertical_slash: slashes has -2, expected -1 to tokens - 1 = 8",
    ),
    (
        lambda put: BlockLayout.window_global(
            blocks=9, window=1, random=129, block=2, like=put(LISTS)
        ),
        NotImplementedError,
        "BlockLayout.window_global: random is 129, expected at most 128 on a GPU",
    ),
    (
        lambda put: BlockLayout.window_global(
            blocks=999, window=1, globals=list(range(0, 130, 2)), block=2, like=put(LISTS)
        ),
        NotImplementedError,
        "BlockLayout.window_global: globals has more than 64 ranges, expected fewer on a GPU",
    ),
    (
        lambda put: BlockLayout.local_stride(
            heads=0, blocks=9, local=1, stride=1, block=2, like=put(LISTS)
        ),
        ValueError,
        "BlockLayout.local_stride: heads is 0, expected at least 1",
    ),
    (
        lambda put: BlockLayout.from_mask(put(np.ones((1, 2, 2), bool)), block=2).to_mask(
            out=np.ones((1, 1, 2, 2), bool)
        ),
        ValueError,
        "BlockLayout.to_mask: out is on cpu, expected layout's device cuda:0",
    ),
    (
        lambda put: BlockLayout.from_mask(put(np.ones((1, 2, 2), bool)), block=0),
        ValueError,
        "BlockLayout: block[0] is 0, expected at least 1",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(
    gpu: Device, call: Callable[[Any], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        call(gpu.put)
    assert str(caught.value) == message
