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
    assert got.kinds is None
    np.testing.assert_array_equal(gpu.get(got.indptr), want.indptr)
    np.testing.assert_array_equal(gpu.get(got.indices), want.indices)


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
