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
#: group in one tile, several tiles of a block, several blocks of a chunk, parts, single tokens;
#: just under 48 KiB of dynamic shared memory (halves, float32), to which static arrays add.
CASES: list[tuple[Any, ...]] = [
    (4, 2, 70, 70, 40, 24, 2, (16, 32)),
    (2, 1, 150, 130, 16, 16, 2, (80, 100)),
    (4, 2, 9, 40, 8, 8, 2, (1, 3)),
    (2, 2, 5, 33, 1, 3, 1, (4, 1)),
    (1, 1, 1, 1, 256, 200, 1, (64, 64)),
    (2, 2, 65, 90, 136, 144, 1, (64, 16)),
    (1, 1, 65, 70, 128, 96, 1, (64, 64)),
    (1, 1, 65, 40, 96, 72, 1, (64, 32)),
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


# Gradients.


def check_gradients(
    gpu: Device, layout: BlockLayout, arrays: list[np.ndarray], dtype: Any, **options: Any
) -> None:
    """Compare with the CPU's of the same numbers, o and lse in float32."""
    q, k, v = arrays
    wide = {n: x.astype(F32) if n == "bias" and x is not None else x for n, x in options.items()}
    with_dbias = bool(wide.pop("with_dbias", False))
    floats = [x.astype(F32) for x in arrays]
    o, lse = gossamer.attention(*floats, layout, **wide)
    do, dlse = draw(o.shape, dtype, 7), draw(lse.shape, F32, 8)
    o = o.astype(dtype)
    want = gossamer.attention_backward(
        *(do.astype(F32), *floats, o.astype(F32), lse, layout),
        dlse=dlse,
        with_dbias=with_dbias,
        **wide,
    )
    moved = {n: gpu.put(x) if isinstance(x, np.ndarray) else x for n, x in options.items()}
    got = gossamer.attention_backward(
        *map(gpu.put, (do, q, k, v, o, lse)), there(gpu, layout), dlse=gpu.put(dlse), **moved
    )
    roundoff = oracle.unit_roundoff(dtype)
    for name, mine, right in zip(got._fields, got, want, strict=True):
        if right is None:
            assert mine is None
            continue
        x = gpu.get(mine)
        assert x.dtype == (F32 if name in {"dbias", "dsinks"} else dtype)
        size = np.abs(right).max(initial=1)
        np.testing.assert_allclose(
            x.astype(F32), right, atol=(4 * roundoff + 8e-6) * size, err_msg=name
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_every_kind_of_block(gpu: Device, case: tuple[Any, ...], dtype: Any) -> None:
    check_gradients(gpu, layout_for(case), operands(case, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_gradients_with_all_options(gpu: Device, dtype: Any) -> None:
    case = (4, 2, 40, 50, 24, 16, 2, (16, 16))
    arrays, layout = operands(case, dtype), layout_for(case, batch=2)
    sinks, bias = draw((4,), F32, 5), draw((2, 4, 40, 50), dtype, 6)
    check_gradients(gpu, layout, arrays, dtype, causal=True, softcap=2.0, sinks=sinks)
    check_gradients(gpu, layout, arrays, dtype, window=(9, 4), bias=bias, with_dbias=True)
    check_gradients(gpu, layout, arrays, dtype, causal=True, window=7, q_offset=3, scale=0.5)
    each = layout_for((*case[:6], 4, (8, 24)), batch=2)
    check_gradients(gpu, each, arrays, dtype, causal=True, bias=bias[:1, :1])


def test_gradients_of_blocks_that_are_partly_kept(gpu: Device) -> None:
    for block in [(16, 16), (8, 5), (70, 80)]:
        layout = bits_layout(2, 75, 90, block)
        case = (2, 2, 75, 90, 16, 16)
        check_gradients(gpu, layout, operands(case, F16), F16)
        check_gradients(gpu, layout, operands(case, F32, 1), F32, causal=True)


def test_gradients_of_packed_sequences(gpu: Device) -> None:
    starts, key_starts = np.array([0, 20, 20, 63], "i4"), np.array([0, 30, 37, 80], "i4")
    arrays = [draw((63, 4, 16), F16), draw((80, 2, 16), F16, 1), draw((80, 2, 16), F16, 2)]
    layout = random_layout((3, 2, 3, 3), (16, 16), 0.7)
    options = {"causal": True, "cu_seqlens": starts, "cu_seqlens_k": key_starts}
    check_gradients(gpu, layout, arrays, F16, **options)


def test_what_no_block_keeps_has_no_gradient(gpu: Device) -> None:
    layout = BlockLayout.from_mask(np.zeros((2, 3, 2), bool), block=16)
    q, k, v = operands((2, 2, 40, 30, 8, 8), F16)
    o, lse = np.zeros_like(q), np.full((2, 2, 40), -np.inf, F32)
    got = gossamer.attention_backward(*map(gpu.put, (q, q, k, v, o, lse)), there(gpu, layout))
    for x in got[:3]:
        assert not gpu.get(x).any()


def test_gradients_of_integers_are_exact(gpu: Device) -> None:
    """Scores that are equal give every key the same weight: sums of small integers over 4."""
    layout = BlockLayout.from_mask(np.ones((1, 1, 1), bool), block=4)
    q, k = np.zeros((1, 4, 1, 8), F16), np.zeros((1, 4, 1, 8), F16)
    v = (np.arange(32) % 5 - 2).reshape(1, 4, 1, 8).astype(F16)
    k[..., 0] = np.array([1, -2, 3, 2])[:, None]
    do = (np.arange(32) % 3 - 1).reshape(1, 4, 1, 8).astype(F16)
    o, lse = np.zeros_like(q), np.full((1, 1, 4), 2 * np.log(2), F32)
    slopes = np.einsum("id,jd->ij", do[0, :, 0].astype(F32), v[0, :, 0].astype(F32)) / 4
    got = gossamer.attention_backward(
        *map(gpu.put, (do, q, k, v, o, lse)), there(gpu, layout), scale=1
    )
    dv = np.repeat(do[0, :, 0].astype(F32).sum(0, keepdims=True) / 4, 4, 0)
    np.testing.assert_allclose(gpu.get(got.dv)[0, :, 0], dv, rtol=1e-6)
    np.testing.assert_allclose(gpu.get(got.dq)[0, :, 0], slopes @ k[0, :, 0], rtol=1e-6)
    np.testing.assert_array_equal(gpu.get(got.dk), 0)


def test_checks_of_gradients_are_those_of_the_cpu(gpu: Device) -> None:
    layout = there(gpu, BlockLayout.from_mask(np.ones((1, 1, 1), bool), block=16))
    x, lse = gpu.put(np.ones((1, 9, 1, 8), F32)), gpu.put(np.ones((1, 1, 9), F32))
    short = gpu.put(np.ones((1, 1, 8), F32))
    message = r"^attention_backward: dlse.shape is \(1, 1, 8\), expected \(1, 1, 9\)$"
    with pytest.raises(ValueError, match=message):
        gossamer.attention_backward(x, x, x, x, x, lse, layout, dlse=short)
    with pytest.raises(TypeError, match=r"^attention_backward: do.dtype is float16, expected q"):
        half = gpu.put(np.ones((1, 9, 1, 8), F16))
        gossamer.attention_backward(half, x, x, x, x, lse, layout)


def test_pytorch_differentiates_through_it(gpu: Device) -> None:
    if gpu.emulated:
        pytest.skip("needs PyTorch's arrays on a GPU")
    import torch
    from gossamer.torch import attention

    layout = there(gpu, BlockLayout.from_mask(np.tril(np.ones((1, 3, 3), bool)), block=16))
    x = torch.randn(1, 48, 2, 16, device="cuda", requires_grad=True)
    o, lse = attention(x, x, x, layout, causal=True)
    (o.sum() + lse.sum()).backward()
    got = x.grad
    heads = x.detach().clone().requires_grad_()
    scores = torch.einsum("bihd,bjhd->bhij", heads, heads) / 4
    scores = scores.masked_fill(~torch.ones(48, 48, device="cuda").tril().bool(), -torch.inf)
    values = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), heads)
    (values.sum() + scores.logsumexp(-1).sum()).backward()
    torch.testing.assert_close(got, heads.grad, rtol=1e-4, atol=1e-4)
