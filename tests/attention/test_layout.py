"""Block layouts against masks written as their definitions say."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import pytest
from gossamer import CSR, BlockLayout

I32 = np.int32


def blocks(layout: BlockLayout) -> np.ndarray:
    return np.asarray(layout.to_mask())


def elements(layout: BlockLayout) -> np.ndarray:
    return np.asarray(layout.to_mask(elements=True))


def random_mask(*shape: int, density: float = 0.4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 7, 5), (2, 3, 17, 33), (1, 2, 0, 4), (2, 2, 5, 0)]
)
def test_from_mask_and_back(shape: tuple[int, ...]) -> None:
    mask = random_mask(*shape)
    for given in (mask, mask.astype(np.uint8) * 3, np.asfortranarray(mask)):
        layout = BlockLayout.from_mask(given, block=(4, 8))
        np.testing.assert_array_equal(blocks(layout), mask if mask.ndim == 4 else mask[None])
        assert layout.nblocks == mask.sum()
        assert layout.block == (4, 8)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_arrays_follow_the_framework(framework: str) -> None:
    module = pytest.importorskip(framework)
    mask = random_mask(1, 4, 4)
    given = module.from_numpy(mask) if framework == "torch" else module.numpy.asarray(mask)
    layout = BlockLayout.from_mask(given, block=16)
    assert isinstance(layout.indices, module.Tensor if framework == "torch" else module.Array)
    np.testing.assert_array_equal(np.asarray(layout.to_mask())[0], mask)


@pytest.mark.parametrize("counted", [True, False])
def test_from_lists(counted: bool) -> None:
    rng = np.random.default_rng(1)
    lists = rng.integers(-1, 9, (2, 3, 6, 5))
    counts = rng.integers(0, 6, (2, 3, 6)) if counted else np.full((2, 3, 6), 5)
    want = np.zeros((2, 3, 6, 9), bool)
    for at in np.ndindex(2, 3, 6):
        chosen = lists[at][: counts[at]]
        want[at][chosen[chosen >= 0]] = True
    for kind in (np.int32, np.int64):
        layout = BlockLayout.from_lists(
            lists.astype(kind), cols=9, block=64, counts=counts.astype(kind) if counted else None
        )
        np.testing.assert_array_equal(blocks(layout), want)


def test_lists_cover_as_many_keys_as_queries_unless_told() -> None:
    tokens = np.array([[[0, 4]], [[1, -1]], [[2, 0]], [[3, 3]], [[4, 1]]])
    mask = BlockLayout.from_topk(tokens).to_mask(elements=True)[0, 0]
    want = np.eye(5, dtype=bool)
    want[[0, 2, 4], [4, 0, 1]] = True
    np.testing.assert_array_equal(mask, want)
    assert BlockLayout.from_topk(tokens[:, :, :1] // 3, block=(4, 16)).shape == (1, 1, 5, 2)
    assert BlockLayout.from_lists(np.zeros((2, 6, 1), np.int32), block=(8, 16)).shape == (
        1,
        2,
        6,
        3,
    )
    with pytest.raises(ValueError, match=r"from_topk: indices\.ndim is 2, expected 3 or 4"):
        BlockLayout.from_topk(tokens[0])


def test_from_topk_has_the_heads_behind_the_queries() -> None:
    chosen = np.random.default_rng(2).integers(-1, 12, (2, 5, 3, 4)).astype(I32)
    layout = BlockLayout.from_topk(chosen, cols=12, block=(1, 16))
    want = BlockLayout.from_lists(chosen.swapaxes(1, 2), cols=12, block=(1, 16))
    np.testing.assert_array_equal(blocks(layout), blocks(want))


def strided(heads: int, n: int, *, local: int, stride: int, shift: int, dense: int) -> np.ndarray:
    h, i, j = np.ogrid[:heads, :n, :n]
    kept = (i - j < local) | ((j + 1 + h * shift) % stride == 0) | (h < dense)
    return (j <= i) & kept


@pytest.mark.parametrize(
    "numbers",
    [(1, 1, 1, 1, 0, 0), (4, 20, 3, 4, 1, 0), (3, 33, 1, 7, 2, 1), (8, 17, 40, 5, 0, 0)],
)
def test_local_stride(numbers: tuple[int, int, int, int, int, int]) -> None:
    heads, n, local, stride, shift, dense = numbers
    layout = BlockLayout.local_stride(
        heads=heads, blocks=n, local=local, stride=stride, block=64, head_shift=shift,
        dense_heads=dense,
    )  # fmt: skip
    want = strided(heads, n, local=local, stride=stride, shift=shift, dense=dense)
    np.testing.assert_array_equal(blocks(layout)[0], want)
    column = np.asarray(layout.indices)
    row = np.repeat(np.arange(heads * n) % n, np.diff(layout.indptr))
    np.testing.assert_array_equal(np.asarray(layout.kinds), row == column)


def test_local_stride_shifts_by_the_stride_over_the_heads() -> None:
    args: dict[str, Any] = {"heads": 4, "blocks": 32, "local": 2, "stride": 16, "block": 64}
    np.testing.assert_array_equal(
        blocks(BlockLayout.local_stride(**args)),
        blocks(BlockLayout.local_stride(**args, head_shift=4)),
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", [(9, 9), (5, 12), (12, 5)])
def test_window_and_globals(shape: tuple[int, int], causal: bool) -> None:
    layout = BlockLayout.window_global(
        heads=2, blocks=shape, window=(2, 1), globals=[0, 4], block=16, causal=causal
    )
    i, j = np.ogrid[: shape[0], : shape[1]]
    want = ((j - i >= -2) & (j - i <= 1)) | np.isin(i, [0, 4]) | np.isin(j, [0, 4])
    if causal:
        want = want & (j <= i)
    np.testing.assert_array_equal(blocks(layout)[0], [want, want])


@pytest.mark.parametrize("random", [1, 3, 100])
def test_random_blocks_are_further_ones(random: int) -> None:
    args: dict[str, Any] = {"heads": 3, "blocks": 20, "window": 1, "globals": 1, "block": 16}
    base = blocks(BlockLayout.window_global(**args))
    layout = BlockLayout.window_global(**args, random=random, seed=5)
    more = blocks(layout)
    assert np.all(more >= base)
    np.testing.assert_array_equal(more.sum(-1), np.minimum(base.sum(-1) + random, 20))
    again = blocks(BlockLayout.window_global(**args, random=random, seed=5))
    np.testing.assert_array_equal(more, again)
    if random < 100:
        assert np.any(blocks(BlockLayout.window_global(**args, random=random, seed=6)) != more)
        assert np.any(more[0, 0] != more[0, 1]), "heads differ"


@pytest.mark.parametrize("block", [(1, 1), (2, 4), (8, 8), (5, 3), (64, 64)])
@pytest.mark.parametrize("heads", [1, 2])
def test_from_csr_keeps_the_entries_exactly(block: tuple[int, int], heads: int) -> None:
    dense = random_mask(heads * 22, 19, density=0.2)
    dense[:8] = True
    layout = BlockLayout.from_csr(
        CSR.from_dense(dense.astype(np.float32)), block=block, heads=heads
    )
    got = elements(layout)[0, :, :22, :19]
    np.testing.assert_array_equal(got.reshape(dense.shape), dense)


@pytest.mark.parametrize("block", [(8, 8), (4, 16), (5, 3)])
def test_vertical_slash(block: tuple[int, int]) -> None:
    n = 45
    columns = np.array([[[0, 17, 44, -1]], [[3, 3, 40, 20]]])
    slashes = np.array([[[0, 20]], [[1, -1]]], I32)
    slash, single = BlockLayout.vertical_slash(columns, slashes, tokens=n, block=block)
    i, j = np.ogrid[:n, :n]
    causal = j <= i
    for b in range(2):
        pairs = np.isin(i - j, slashes[b, 0][slashes[b, 0] >= 0])
        want = np.zeros((slash.shape[2], slash.shape[3]), bool)
        for q, k in zip(*np.nonzero(pairs), strict=True):
            want[q // block[0], k // block[1]] = True
        np.testing.assert_array_equal(blocks(slash)[b, 0], want)
        covered = elements(slash)[b, 0, :n, :n]
        alone = elements(single)[b, 0, :n, :n]
        assert not np.any(covered & alone)
        chosen = np.isin(j, columns[b, 0]) & (i >= 0)
        np.testing.assert_array_equal((covered | alone) & causal, (covered | chosen) & causal)


@pytest.mark.parametrize("block", [(3, 9), (16, 16)])
def test_transpose(block: tuple[int, int]) -> None:
    pattern = CSR.from_dense(random_mask(2 * 40, 31, density=0.1).astype(np.float32))
    layout = BlockLayout.from_csr(pattern, block=block, heads=2)
    turned = layout.transpose()
    assert turned.block == block[::-1]
    np.testing.assert_array_equal(elements(turned), elements(layout).swapaxes(2, 3))
    np.testing.assert_array_equal(elements(turned.transpose()), elements(layout))


def test_pickle() -> None:
    pattern = CSR.from_dense(random_mask(20, 20).astype(np.float32))
    layout = BlockLayout.from_csr(pattern, block=8)
    np.testing.assert_array_equal(elements(pickle.loads(pickle.dumps(layout))), elements(layout))


def test_structure_cannot_change_behind_a_layout() -> None:
    layout = BlockLayout.from_mask(random_mask(1, 4, 4), block=8)
    with pytest.raises(ValueError, match="read-only"):
        layout.indices[0] = 99


def test_threads_change_nothing() -> None:
    before = gossamer.get_num_threads()
    results = set()
    try:
        for threads in (1, 3):
            gossamer.set_num_threads(threads)
            layout = BlockLayout.window_global(
                heads=4, blocks=200, window=3, globals=2, random=5, block=64
            )
            results.add(np.asarray(layout.indices).tobytes())
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


def make(
    indptr: Any = (0, 1, 2), indices: Any = (0, 1), shape: Any = (1, 1, 2, 2), **more: Any
) -> BlockLayout:
    arrays = (np.array(x, I32) if isinstance(x, tuple) else x for x in (indptr, indices))
    return BlockLayout(*arrays, shape, more.pop("block", 8), **more)


U8 = np.uint8
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: make(indptr=np.zeros(3, np.float32)),
        TypeError,
        "BlockLayout: indptr.dtype is float32, expected int32",
    ),
    (
        lambda: make(indptr=(0, 1)),
        ValueError,
        "BlockLayout: indptr.shape[0] is 2, expected shape[0]*shape[1]*shape[2] + 1 = 2 + 1",
    ),
    (lambda: make(indptr=(1, 1, 2)), ValueError, "BlockLayout: indptr[0] is 1, expected 0"),
    (
        lambda: make(indptr=(0, 3, 2)),
        ValueError,
        "BlockLayout: indptr[2] is 2, expected at least indptr[1] = 3",
    ),
    (
        lambda: make(indptr=(0, 1, 3)),
        ValueError,
        "BlockLayout: indices.shape[0] is 2, expected indptr[-1] = 3",
    ),
    (
        lambda: make(indices=(0, 2)),
        ValueError,
        "BlockLayout: indices[1] is 2, expected less than shape[3] = 2",
    ),
    (
        lambda: make(indices=(-1, 0)),
        ValueError,
        "BlockLayout: indices[0] is -1, expected at least 0",
    ),
    (
        lambda: make(indptr=(0, 2, 2), indices=(1, 1)),
        ValueError,
        "BlockLayout: indices[1] is 1, expected more than indices[0] = 1 in row 0",
    ),
    (
        lambda: make(shape=(1, 1, -1, 2)),
        ValueError,
        "BlockLayout: shape[2] is -1, expected at least 0",
    ),
    (
        lambda: make(shape=(1, 1, 2)),
        TypeError,
        "BlockLayout: shape is (1, 1, 2), expected (B, H, Mb, Nb)",
    ),
    (
        lambda: make(shape=(2**15, 2**15, 2**9, 2)),
        ValueError,
        "BlockLayout: shape[0]*shape[1]*shape[2] is 549755813888, expected at most 2147483647",
    ),
    (lambda: make(block=0), ValueError, "BlockLayout: block[0] is 0, expected at least 1"),
    (
        lambda: make(kinds=np.zeros(2, I32)),
        TypeError,
        "BlockLayout: kinds.dtype is int32, expected uint8",
    ),
    (
        lambda: make(kinds=np.zeros(3, U8)),
        ValueError,
        "BlockLayout: kinds.shape[0] is 3, expected indices.shape[0] = 2",
    ),
    (
        lambda: make(kinds=np.array([0, 3], U8)),
        ValueError,
        "BlockLayout: kinds[1] is 3, expected 0, 1 or 2",
    ),
    (
        lambda: make(kinds=np.array([2, 0], U8)),
        ValueError,
        "BlockLayout: bits.shape[0] is 0, expected the number of kinds that are 2 = 1",
    ),
    (
        lambda: make(kinds=np.array([2, 0], U8), bits=np.zeros((1, 8, 2), U8)),
        ValueError,
        "BlockLayout: bits.shape[2] is 2, expected ceil(block[1] / 8) = 1",
    ),
    (
        lambda: make(bits=np.zeros((0, 8, 1), U8)),
        ValueError,
        "BlockLayout: bits are given without kinds, expected both or none",
    ),
    (
        lambda: BlockLayout.from_mask(np.ones((2, 2), bool), block=8),
        ValueError,
        "BlockLayout.from_mask: mask.ndim is 2, expected 3 or 4",
    ),
    (
        lambda: BlockLayout.from_mask(np.ones((1, 2, 2), np.float32), block=8),
        TypeError,
        "BlockLayout.from_mask: mask.dtype is float32, expected bool or uint8",
    ),
    (
        lambda: BlockLayout.from_lists(np.array([[[5]]]), cols=5, block=8),
        ValueError,
        "BlockLayout.from_lists: indices has 5, expected -1 to 4",
    ),
    (
        lambda: BlockLayout.from_topk(np.array([[[5]]]), cols=5, block=8),
        ValueError,
        "BlockLayout.from_topk: indices has 5, expected -1 to 4",
    ),
    (
        lambda: BlockLayout.from_topk(np.zeros((1, 1, 1), np.float32), cols=5, block=8),
        TypeError,
        "BlockLayout.from_topk: indices.dtype is float32, expected int32 or int64",
    ),
    (
        lambda: BlockLayout.from_lists(np.array([[[5]]]), cols=9, block=8, counts=np.array([[2]])),
        ValueError,
        "BlockLayout.from_lists: counts has 2, expected 0 to indices.shape[-1] = 1",
    ),
    (
        lambda: BlockLayout.local_stride(heads=1, blocks=4, local=0, stride=2, block=8),
        ValueError,
        "BlockLayout.local_stride: local is 0, expected at least 1",
    ),
    (
        lambda: BlockLayout.window_global(blocks=4, window=1, globals=[4], block=8),
        ValueError,
        "BlockLayout.window_global: globals has 4, expected 0 to 3",
    ),
    (
        lambda: BlockLayout.from_csr(np.eye(3), block=8),  # type: ignore[arg-type]
        TypeError,
        "BlockLayout.from_csr: pattern is a ndarray, expected a CSR",
    ),
    (
        lambda: BlockLayout.from_csr(CSR.from_dense(np.eye(3)), block=8, heads=2),
        ValueError,
        "BlockLayout.from_csr: pattern.shape[0] is 3, expected a multiple of batch*heads",
    ),
    (
        lambda: BlockLayout.vertical_slash(np.array([[9]]), np.array([[0]]), tokens=9, block=4),
        ValueError,
        "BlockLayout.vertical_slash: columns has 9, expected -1 to tokens - 1 = 8",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_bits_are_those_of_packbits() -> None:
    mask = random_mask(1, 8, 12)
    layout = BlockLayout(
        np.array([0, 1], I32), np.array([0], I32), (1, 1, 1, 1), (8, 12), kinds=np.array([2], U8),
        bits=np.packbits(mask, axis=-1, bitorder="little"),
    )  # fmt: skip
    np.testing.assert_array_equal(elements(layout)[0], mask)


def test_int64_indices_are_copied() -> None:
    layout = BlockLayout(np.array([0, 1]), np.array([0]), (1, 1, 1, 1), 8)
    assert layout.indices.dtype == I32


def test_an_array_that_is_no_mask_of_this_type() -> None:
    with pytest.raises(TypeError):
        BlockLayout.from_mask(np.ones((1, 2, 2), ml_dtypes.bfloat16), block=8)
