"""Block attention on GPUs, against the CPU's."""

from __future__ import annotations

from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import BF16, Device
from gossamer import BlockLayout

pytestmark = pytest.mark.gpu

F32, F16 = np.dtype("f4"), np.dtype("f2")
DTYPES = [F32, F16, BF16]


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def draw(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def there(gpu: Device, layout: BlockLayout) -> BlockLayout:
    put = [
        None if x is None else gpu.put(np.asarray(x))
        for x in (layout.indptr, layout.indices, layout.kinds, layout.bits)
    ]
    return BlockLayout(put[0], put[1], layout.shape, block=layout.block, kinds=put[2], bits=put[3])


def random_layout(shape: tuple[int, ...], block: Any, density: float = 0.5) -> BlockLayout:
    mask = np.random.default_rng(1).random(shape) < density
    if mask.shape[2] > 1:
        mask[..., 1, :] = False  # queries without keys
    return BlockLayout.from_mask(mask, block=block)


def bits_layout(heads: int, queries: int, keys: int, block: tuple[int, int]) -> BlockLayout:
    """Draw a layout whose blocks are partly kept, some full ones among them."""
    mask = np.random.default_rng(2).random((heads * queries, keys)) < 0.4
    mask[: block[0], : block[1]] = True
    mask[:, keys // 2 : keys // 2 + block[1]] &= False
    pattern = gossamer.CSR.from_dense(mask.astype(np.float32))
    return BlockLayout.from_csr(pattern, heads=heads, block=block)


#: Heads, heads of keys, queries, keys, D, Dv, layout's heads, block: queries of all heads of a
#: group in one tile, several tiles of a block, several blocks of a chunk, parts, single tokens.
CASES: list[tuple[Any, ...]] = [
    (4, 2, 70, 70, 40, 24, 2, (16, 32)),
    (2, 1, 150, 130, 16, 16, 2, (80, 100)),
    (4, 2, 9, 40, 8, 8, 2, (1, 3)),
    (2, 2, 5, 33, 1, 3, 1, (4, 1)),
    (1, 1, 1, 1, 256, 200, 1, (64, 64)),
    (2, 2, 65, 90, 136, 144, 1, (64, 16)),
]


def check(
    gpu: Device, layout: BlockLayout, arrays: list[np.ndarray], dtype: Any, **options: Any
) -> None:
    q, k, v = arrays
    moved = {n: gpu.put(x) if isinstance(x, np.ndarray) else x for n, x in options.items()}
    o, lse = gossamer.attention(*map(gpu.put, (q, k, v)), there(gpu, layout), **moved)
    wide = {n: x.astype(F32) if n == "bias" and x is not None else x for n, x in options.items()}
    want_o, want_lse = gossamer.attention(*(x.astype(F32) for x in (q, k, v)), layout, **wide)
    roundoff = oracle.unit_roundoff(dtype)
    got, got_lse = gpu.get(o), gpu.get(lse)
    assert got.dtype == dtype
    assert got_lse.dtype == F32
    size = np.abs(want_o).max(initial=1)
    np.testing.assert_allclose(got.astype(F32), want_o, atol=(2 * roundoff + 4e-6) * size)
    np.testing.assert_allclose(got_lse, want_lse, rtol=1e-6, atol=1e-5)


def operands(case: tuple[Any, ...], dtype: Any, batch: int = 2) -> list[np.ndarray]:
    heads, key_heads, queries, keys, depth, value_depth = case[:6]
    shapes = [
        (batch, queries, heads, depth),
        (batch, keys, key_heads, depth),
        (batch, keys, key_heads, value_depth),
    ]
    return [draw(shape, dtype, i) for i, shape in enumerate(shapes)]


def layout_for(case: tuple[Any, ...], batch: int = 1) -> BlockLayout:
    queries, keys, heads, block = case[2], case[3], case[6], case[7]
    blocks = [-(-n // side) for n, side in zip((queries, keys), block, strict=True)]
    return random_layout((batch, heads, *blocks), block)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_kind_of_block(gpu: Device, case: tuple[Any, ...], dtype: Any) -> None:
    check(gpu, layout_for(case), operands(case, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_all_options(gpu: Device, dtype: Any) -> None:
    case = (4, 2, 40, 50, 24, 16, 2, (16, 16))
    arrays, layout = operands(case, dtype), layout_for(case, batch=2)
    sinks, bias = draw((4,), F32, 5), draw((1, 4, 40, 50), dtype, 6)
    check(gpu, layout, arrays, dtype, causal=True, softcap=2.0, sinks=sinks)
    check(gpu, layout, arrays, dtype, window=(9, 4), scale=0.5, bias=bias)
    check(gpu, layout, arrays, dtype, causal=True, window=7, q_offset=3)
    check(gpu, layout, arrays, dtype, bias=bias[:, :1].astype(F32))


def test_blocks_that_are_partly_kept(gpu: Device) -> None:
    for block in [(16, 16), (8, 5), (70, 80)]:
        layout = bits_layout(2, 75, 90, block)
        assert layout.bits is not None
        case = (2, 2, 75, 90, 16, 16)
        check(gpu, layout, operands(case, F16), F16)
        check(gpu, layout, operands(case, F32, 1), F32, causal=True)


def test_packed_sequences(gpu: Device) -> None:
    starts, key_starts = np.array([0, 20, 20, 63], "i4"), np.array([0, 30, 37, 80], "i4")
    q, k, v = draw((63, 4, 16), F16), draw((80, 2, 16), F16, 1), draw((80, 2, 16), F16, 2)
    layout = random_layout((3, 2, 3, 3), (16, 16), 0.7)
    check(*(gpu, layout, [q, k, v], F16), causal=True, cu_seqlens=starts, cu_seqlens_k=key_starts)


def test_strided_operands_that_are_not_aligned(gpu: Device) -> None:
    if not gpu.emulated:
        pytest.skip("slices of emulated arrays")
    case = (2, 2, 20, 20, 10, 10, 1, (16, 16))
    q, k, v = (np.concatenate([x, x], -1) for x in operands(case, F16))
    sliced = [gpu.put(x)[..., 3:13] for x in (q, k, v)]
    o, _ = gossamer.attention(*sliced, there(gpu, layout_for(case)))
    same = [np.ascontiguousarray(x[..., 3:13]) for x in (q, k, v)]
    want, _ = gossamer.attention(*(x.astype(F32) for x in same), layout_for(case))
    np.testing.assert_allclose(gpu.get(o).astype(F32), want, atol=4e-3)


def test_a_key_that_is_far_above_the_others_is_exact(gpu: Device) -> None:
    layout = there(gpu, BlockLayout.from_mask(np.ones((1, 1, 3), bool), block=16))
    q, v = np.ones((1, 1, 1, 16), F16), np.arange(48, dtype=F16).reshape(1, 48, 1, 1)
    k = np.zeros((1, 48, 1, 16), F16)
    k[0, 37] = 100
    o, lse = gossamer.attention(gpu.put(q), gpu.put(k), gpu.put(v), layout)
    assert gpu.get(o).item() == 37
    assert gpu.get(lse).item() == 400


def test_checks_are_those_of_the_cpu(gpu: Device) -> None:
    layout = BlockLayout.from_mask(np.ones((1, 1, 1), bool), block=16)
    x = np.ones((1, 9, 1, 8), F32)
    with pytest.raises(ValueError, match=r"^attention: layout is on cpu, expected q's device"):
        gossamer.attention(*(gpu.put(x),) * 3, layout)
    with pytest.raises(TypeError, match=r"^attention: q.dtype is float64, expected float32"):
        gossamer.attention(*(gpu.put(x.astype("f8")),) * 3, there(gpu, layout))
    large = gpu.put(np.ones((1, 20, 1, 8), F32))
    message = r"^attention: layout.shape\[2\] is 1, expected ceil\(20 / 16\) = 2$"
    with pytest.raises(ValueError, match=message):
        gossamer.attention(large, large, large, there(gpu, layout))
