"""gossamer.torch's attention to a cache and choice of blocks: compiled, exported, batched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import pytest

torch = pytest.importorskip("torch")
import gossamer.torch as gt  # noqa: E402

pytestmark = pytest.mark.once

B, T, H, HKV, D, DV, PAGES, SIZE = 2, 2, 4, 2, 8, 5, 6, 4


def random(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(*shape: int, seed: int = 0) -> Any:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def cache() -> tuple[Any, ...]:
    q, k = random(B, T, H, D), random(PAGES, SIZE, HKV, D, seed=1)
    lists = torch.tensor([0, 2, 5]).int(), torch.tensor([4, 0, 1, 5, 2]).int()
    return (q, k, random(PAGES, SIZE, HKV, DV, seed=2), *lists)


RULE: dict[str, Any] = {
    "lengths": torch.tensor([7, 9]).int(),
    **{"causal": True, "scale": 0.3, "softcap": 2, "sinks": random(H, seed=5)},
}


#: What is called, and of which tensors.
CALLS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "attention_decode": (lambda *x: gt.attention_decode(*x, **RULE), cache),
    "block_pool": (lambda x: gt.block_pool(x, 3, mode="max"), lambda: (integers(2, 7, 2, 3),)),
    "block_topk": (
        lambda q, pooled: gt.block_topk(q, pooled, 3, causal=True, block=2, rows=4, keep_first=1),
        lambda: (integers(B, 3, H, D), integers(B, 6, HKV, D, seed=1)),
    ),
}


def same(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_results_are_the_cores() -> None:
    same(gt.attention_decode(*cache(), **RULE), gossamer.attention_decode(*cache(), **RULE))
    same(gt.attention_decode(*cache()), gossamer.attention_decode(*cache()))
    x = random(2, 7, 2, 3)
    for mode in ("mean", "max", "min"):
        same(gt.block_pool(x, 3, mode=mode), gossamer.block_pool(x, 3, mode=mode))
    q, pooled = CALLS["block_topk"][1]()
    for options in ({}, {"pooled_min": pooled - 1}, {"causal": True, "rows": 2, "q_offset": -1}):
        got = gt.block_topk(q, pooled, 2, **options)
        same(got, gossamer.block_topk(q, pooled, 2, **options))
        assert len(got.unique()) > 2


@pytest.mark.parametrize("name", CALLS)
def test_compiles_into_one_graph_and_exports(name: str) -> None:
    torch._dynamo.reset()
    call, make = CALLS[name]
    operands = make()
    expected = call(*operands)
    same(torch.compile(call, fullgraph=True, backend="aot_eager")(*operands), expected)

    class Module(torch.nn.Module):
        def forward(self, *operands: Any) -> Any:
            return call(*operands)

    program = torch.export.export(Module(), operands)
    assert f"gossamer.{name}" in str(program.graph)
    same(program.module()(*operands), expected)


@pytest.mark.parametrize("name", CALLS)
def test_vmap_is_a_loop(name: str) -> None:
    call, make = CALLS[name]
    first, *rest = make()
    many = torch.stack([first, 2 * first, -first], dim=1)
    got = torch.vmap(lambda x: call(x, *rest), in_dims=1)(many)
    each = [call(x, *rest) for x in many.unbind(1)]
    if isinstance(got, tuple):
        each = [torch.stack(x) for x in zip(*each, strict=True)]
        same(got, tuple(each))
    else:
        same(got, torch.stack(each))


@pytest.mark.parametrize("name", CALLS)
def test_tensors_without_memory_have_results_of_their_shapes(name: str) -> None:
    call, make = CALLS[name]
    made, expected = (call(*(x.to(device) for x in make())) for device in ("meta", "cpu"))
    for a, b in zip(
        *((x if isinstance(x, tuple) else (x,)) for x in (made, expected)), strict=True
    ):
        assert a.is_meta and (a.shape, a.dtype) == (b.shape, b.dtype)


def test_operators_pass_pytorchs_own_checks() -> None:
    numbers = (RULE["lengths"], True, 0.3, 2.0, RULE["sinks"])
    torch.library.opcheck(torch.ops.gossamer.attention_decode.default, (*cache(), *numbers))
    x = integers(2, 7, 2, 3).requires_grad_()
    for mode in ("mean", "max"):
        torch.library.opcheck(torch.ops.gossamer.block_pool.default, (x, 3, mode))
    q, pooled = CALLS["block_topk"][1]()
    given = (q, pooled, 2, pooled - 1, 1, 1, False, 0, 0, 0)
    torch.library.opcheck(torch.ops.gossamer.block_topk.default, given)


def test_operands_of_any_strides_and_autocast() -> None:
    q, k, v, *lists = cache()
    turned = [x.transpose(1, 3).contiguous().transpose(1, 3) for x in (q, k, v)]
    same(gt.attention_decode(*turned, *lists), gt.attention_decode(q, k, v, *lists))
    x = random(2, 7, 4, 3)
    same(gt.block_pool(x.mT, 2), gt.block_pool(x.mT.contiguous(), 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gt.attention_decode(q, k, v, *lists)[0].dtype == torch.bfloat16
        assert gt.block_pool(x, 2).dtype == torch.float32


def pooled_by(mode: str, block: int, x: Any) -> Any:
    reduce = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}[mode]
    return torch.stack([reduce(part, dim=1) for part in x.split(block, dim=1)], dim=1)


@pytest.mark.parametrize("mode", ["mean", "max", "min"])
@pytest.mark.parametrize("block", [1, 3, 7, 9])
def test_gradients_of_block_pool_are_those_of_the_formula(mode: str, block: int) -> None:
    x = integers(2, 7, 2, 3, seed=block).requires_grad_()  # with ties, which share a gradient
    slopes = []
    for pool in (
        lambda x: gt.block_pool(x, block, mode=mode),
        lambda x: pooled_by(mode, block, x),
    ):
        y = pool(x)
        weights = random(*y.shape, seed=9)
        first = torch.autograd.grad((y**3 * weights).sum(), x, create_graph=True)[0]
        slopes.append((first, torch.autograd.grad((first**2).sum(), x)[0]))
        slopes[-1] += (torch.func.grad(lambda x, p=pool: (p(x) ** 2).sum())(x.detach()),)
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: gt.block_pool(x, block, mode=mode).square().sum(),
        fullgraph=True,
        backend="aot_eager",
    )
    same(torch.autograd.grad(compiled(x), x)[0], slopes[0][2])


def test_narrow_types_are_pooled_in_float32() -> None:
    x = integers(1, 5, 2, 3).bfloat16().requires_grad_()
    pooled = gt.block_pool(x, 2)
    pooled.sum().backward()
    assert pooled.dtype == torch.float32 and x.grad.dtype == torch.bfloat16
    assert gt.block_pool(torch.ones(1, 0, 2, 3), 2).shape == (1, 0, 2, 3)
    x = torch.tensor([1, torch.nan, 3, 4]).reshape(1, 4, 1, 1).requires_grad_()
    gt.block_pool(x, 2, mode="max").sum().backward()
    assert x.grad.ravel().tolist() == [0, 1, 0, 1]


def test_what_is_chosen_is_a_constant_and_decoding_has_no_derivative() -> None:
    q, pooled = (x.requires_grad_() for x in CALLS["block_topk"][1]())
    assert not gt.block_topk(q, pooled, 2).requires_grad
    q, *rest = cache()
    o, _ = gt.attention_decode(q.requires_grad_(), *rest)
    with pytest.raises(NotImplementedError, match=r"^attention_decode: a derivative is asked for"):
        o.sum().backward()
    with torch.no_grad():
        gt.attention_decode(q, *rest)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: gt.attention_decode(*cache(), softcap="a"),
        TypeError,
        "attention_decode: softcap is 'a', expected a number",
    ),
    (
        lambda: gt.attention_decode(*cache(), causal="a"),
        TypeError,
        "attention_decode: causal is 'a', expected True or False",
    ),
    (
        lambda: gt.attention_decode(*cache(), lengths=[7, 9]),
        TypeError,
        "attention_decode: lengths is a list, expected a tensor or None",
    ),
    (
        lambda: gt.attention_decode(*cache()[:4], [0]),
        TypeError,
        "attention_decode: indices is a list, expected a tensor",
    ),
    (
        lambda: gt.block_topk(torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1), 1, pooled_min=3),
        TypeError,
        "block_topk: pooled_min is a int, expected a tensor or None",
    ),
    (lambda: gt.block_pool(torch.ones(3), 2), ValueError, "block_pool: x.ndim is 1, expected 4"),
    (
        lambda: gt.block_pool(torch.ones(1, 2, 1, 1), 0),
        ValueError,
        "block_pool: block is 0, expected 1 to 2147483647",
    ),
    (
        lambda: gt.block_pool(torch.ones(1, 2, 1, 1), 1, mode=3),
        ValueError,
        "block_pool: mode is 3, expected 'mean', 'max' or 'min'",
    ),
    (
        lambda: gt.block_topk(torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1), 1, rows=2**64),
        ValueError,
        f"block_topk: rows is {2**64}, expected -2**63 to 2**63 - 1",
    ),
    (
        lambda: gossamer.block_pool(torch.ones(1, 2, 1, 1).requires_grad_(), 1),
        ValueError,
        "block_pool: x requires grad, expected one that does not: gossamer.torch.block_pool is "
        "differentiable; x.detach() or torch.no_grad() leave the gradient out",
    ),
    (
        lambda: gossamer.prune.block_pool(torch.ones(2, 2).requires_grad_(), (1, 1)),
        ValueError,
        "block_pool: score requires grad, expected one that does not: score.detach() or "
        "torch.no_grad() leave the gradient out",
    ),
]


@pytest.mark.parametrize("call, kind, message", BAD, ids=[message for _, _, message in BAD])
def test_message(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message
