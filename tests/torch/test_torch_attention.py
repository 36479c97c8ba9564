"""gossamer.torch.attention against the dense formula and its derivative."""

from __future__ import annotations

from typing import Any

import gossamer
import pytest

torch = pytest.importorskip("torch")
import gossamer.torch as gt  # noqa: E402

pytestmark = pytest.mark.once

B, S, H, HKV, D, BLOCK = 2, 24, 4, 2, 8, 8


def operands(seed: int = 0) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(B, S, h, D, generator=generator) for h in (H, HKV, HKV)]
    return tuple(x.requires_grad_() for x in made)


def blocks() -> Any:
    return torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)


def layout() -> Any:
    return gossamer.BlockLayout.from_mask(blocks()[None], block=BLOCK)


def dense(
    q: Any, k: Any, v: Any, *, causal: bool = False, bias: Any = None, sinks: Any = None
) -> tuple[Any, Any]:
    k, v = (x.repeat_interleave(H // HKV, dim=2) for x in (k, v))
    s = torch.einsum("bihd,bjhd->bhij", q, k) / D**0.5
    if bias is not None:
        s = s + bias
    keep = blocks().repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    if causal:
        keep = keep & torch.ones(S, S, dtype=torch.bool).tril()
    s = s.masked_fill(~keep, -torch.inf)
    full = s if sinks is None else torch.cat([s, sinks[None, :, None, None].expand(B, H, S, 1)], -1)
    lse = full.logsumexp(-1)
    return torch.einsum("bhij,bjhd->bihd", (s - lse[..., None]).exp(), v), lse


@pytest.mark.parametrize("options", ["plain", "causal", "bias", "broadcast", "sinks"])
def test_results_and_gradients_are_those_of_the_formula(options: str) -> None:
    extra: dict[str, Any] = {
        "plain": {},
        "causal": {"causal": True},
        "bias": {"bias": torch.randn(B, H, S, S, requires_grad=True)},
        "broadcast": {"bias": torch.randn(1, 1, S, S, requires_grad=True)},
        "sinks": {"sinks": torch.randn(H, requires_grad=True)},
    }[options]
    leaves = [*operands(), *(x for x in extra.values() if isinstance(x, torch.Tensor))]
    got = gt.attention(*leaves[:3], layout(), **extra)
    expected = dense(*leaves[:3], **extra)
    weights = [torch.randn_like(x) for x in expected]
    close = {"rtol": 1e-4, "atol": 1e-4}
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **close)
    for a, b in zip(
        torch.autograd.grad(got, leaves, weights),
        torch.autograd.grad(expected, leaves, weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **close)


def test_a_broadcast_bias_of_packed_sequences_has_its_gradient() -> None:
    q, k, v = (x.detach() for x in operands())
    bias = torch.randn(1, 1, S, S, requires_grad=True)
    twin = bias.detach().clone().requires_grad_()
    starts = torch.arange(B + 1, dtype=torch.int32) * S
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    packed = gt.attention(*flat, layout(), bias=bias, cu_seqlens=starts)[0]
    packed.square().sum().backward()
    dense(q, k, v, bias=twin)[0].square().sum().backward()
    torch.testing.assert_close(bias.grad, twin.grad, rtol=1e-4, atol=1e-4)
    wrong = torch.zeros(3, 1, S, S, requires_grad=True)
    with pytest.raises(ValueError, match=r"^attention: bias\.shape is \(3, 1, 24, 24\), expected "):
        gt.attention(q, k, v, layout(), bias=wrong)


def test_gradient_of_one_result() -> None:
    q, k, v = operands()
    for place in (0, 1):
        got = torch.autograd.grad(gt.attention(q, k, v, layout())[place].sum(), [q, k])
        expected = torch.autograd.grad(dense(q, k, v)[place].sum(), [q, k])
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_merged_parts_are_the_whole() -> None:
    q, k, v = operands()
    columns = torch.arange(3)
    layouts = [
        gossamer.BlockLayout.from_mask((blocks() & (columns == i))[None], block=BLOCK)
        for i in range(3)
    ]

    def merged(q: Any, k: Any, v: Any) -> Any:
        return gt.merge_attention([gt.attention(q, k, v, part) for part in layouts])

    got, expected = merged(q, k, v), gt.attention(q, k, v, layout())
    with torch.no_grad():
        core = gossamer.merge_attention([gossamer.attention(q, k, v, part) for part in layouts])
    close = {"rtol": 1e-4, "atol": 1e-5}
    for a, b, c in zip(got, expected, core, strict=True):
        torch.testing.assert_close(a, b, **close)
        torch.testing.assert_close(a, c, **close)
    weights = [torch.randn_like(x) for x in expected]
    for a, b in zip(
        torch.autograd.grad(got, [q, k, v], weights),
        torch.autograd.grad(expected, [q, k, v], weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **close)
    nothing = torch.zeros(1, 1, 1, 2, requires_grad=True), torch.full((1, 1, 1), -torch.inf)
    o, lse = gt.merge_attention([nothing, nothing])
    o.sum().backward()
    assert (o == 0).all() and (lse == -torch.inf).all() and (nothing[0].grad == 0).all()
    unwritten = torch.full((1, 1, 1, 2), torch.nan, requires_grad=True), nothing[1]
    some = torch.ones(1, 1, 1, 2, requires_grad=True), torch.zeros(1, 1, 1, requires_grad=True)
    o, lse = gt.merge_attention([unwritten, some])
    (o.sum() + lse.sum()).backward()
    assert (
        (some[0].grad == 1).all() and (unwritten[0].grad == 0).all() and (some[1].grad == 1).all()
    )
    with pytest.raises(ValueError, match=r"^merge_attention: parts is empty, expected pairs"):
        gt.merge_attention([])
    message = r"^merge_attention: parts\[1\] has lse of shape \(1, 2\), expected \(1, 1, 1\)$"
    with pytest.raises(ValueError, match=message):
        gt.merge_attention([nothing, (nothing[0], torch.zeros(1, 2))])


def test_passes_pytorchs_own_checks() -> None:
    native = layout()._native
    parts = (native.indptr, native.indices, native.kinds, native.bits)
    sizes = [*native.shape, *native.block]
    sinks = torch.randn(H, requires_grad=True)
    options = (True, None, None, None, None, None, None, sinks, None, None)
    torch.library.opcheck(
        torch.ops.gossamer.attention.default, (*operands(), *parts, sizes, *options)
    )


def test_compiles_into_one_graph() -> None:
    torch._dynamo.reset()
    made, (q, k, v) = layout(), operands()

    def loss(q: Any, k: Any, v: Any) -> Any:
        return gt.attention(q, k, v, made, causal=True)[0].square().sum()

    got = torch.compile(loss, fullgraph=True, backend="aot_eager")(q, k, v)
    torch.testing.assert_close(got, loss(q, k, v), rtol=0, atol=0)
    for a, b in zip(
        torch.autograd.grad(got, [q, k, v]),
        torch.autograd.grad(loss(q, k, v), [q, k, v]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_exports() -> None:
    made = layout()

    class Module(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return gt.attention(q, k, v, made, causal=True, window=(9, None), softcap=2, scale=0.5)

    qkv = tuple(x.detach() for x in operands())
    program = torch.export.export(Module(), qkv)
    assert "gossamer.attention" in str(program.graph)
    more = tuple(x.detach() for x in operands(1))
    torch.testing.assert_close(program.module()(*more), Module()(*more), rtol=0, atol=0)


def test_vmap_and_the_gradients_of_each_sample() -> None:
    q, k, v = (x.detach() for x in operands())
    made, many = layout(), torch.stack([q, 2 * q, -q], dim=2)
    got = torch.vmap(lambda q: gt.attention(q, k, v, made), in_dims=2)(many)
    for i, one in enumerate(many.unbind(2)):
        for a, b in zip(got, gt.attention(one, k, v, made), strict=True):
            torch.testing.assert_close(a[i], b, rtol=0, atol=0)

    def loss(attend: Any) -> Any:
        return lambda q, k: sum((x**2).sum() for x in attend(q, k, v))

    ours, theirs = loss(lambda *x: gt.attention(*x, made)), loss(dense)
    each = torch.func.vmap(torch.func.grad(ours, (0, 1)), (2, None))(many, k)
    for i, one in enumerate(many.unbind(2)):
        for a, b in zip(each, torch.func.grad(theirs, (0, 1))(one, k), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-3, atol=1e-3)


def test_profiler_shows_the_operator() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        gt.attention(*operands(), layout())[0].sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"gossamer::attention", "gossamer::attention_backward"} <= names


def test_gradients_under_autocast_have_the_operands_types() -> None:
    q, k, v = operands()
    bias = torch.randn(B, H, S, S, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o, lse = gt.attention(q, k, v, layout(), bias=bias)
        assert (o.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    got = torch.autograd.grad(o.float().square().sum(), [q, k, v, bias])
    expected = torch.autograd.grad(dense(q, k, v, bias=bias)[0].square().sum(), [q, k, v, bias])
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.1)


def test_operands_of_any_strides_and_autocast() -> None:
    q, k, v = operands()
    turned = [x.detach().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for x in (q, k, v)]
    torch.testing.assert_close(
        gt.attention(*turned, layout())[0], gt.attention(q, k, v, layout())[0]
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gt.attention(q, k, v, layout())[0].dtype == torch.bfloat16


def test_second_derivative_is_refused() -> None:
    q, k, v = operands()
    o = gt.attention(q, k, v, layout())[0]
    slope = torch.autograd.grad(o.sum(), q, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match=r"^attention: a derivative of its gradient"):
        torch.autograd.grad(slope.sum(), q)


def test_message() -> None:
    q, k, v = operands()
    part = gt.attention(q, k, v, layout())
    for wrong, kind, message in [
        ([part, (part[0].double(), part[1])], TypeError, r"parts\[1\] has o of type torch.float64"),
        (
            [(part[0], part[1].mT.contiguous())],
            ValueError,
            r"parts\[0\] has lse of shape \(.*, exp",
        ),
        ([(part[0].detach().numpy(), part[1])], TypeError, r"parts\[0\] has a ndarray for o, expe"),
        ([part[:1]], ValueError, r"len\(parts\[0\]\) is 1, expected 2$"),
        (part[0], TypeError, r"parts is of type Tensor, expected a list of pairs"),
    ]:
        with pytest.raises(kind, match=f"^merge_attention: {message}"):
            gt.merge_attention(wrong)
    options: list[tuple[str, Any, str]] = [
        ("softcap", "a", r"softcap is 'a', expected a number"),
        ("scale", torch.ones(2), r"scale is an array of shape \(2,\), expected a number"),
        ("causal", "yes", r"causal is 'yes', expected True or False"),
        ("q_offset", 1.5, r"q_offset is 1\.5, expected an integer"),
        ("window", (1, "b"), r"window\[1\] is 'b', expected an integer"),
        ("bias", 3, r"bias is a int, expected a tensor or None"),
        ("sinks", [1.0], r"sinks is a list, expected a tensor or None"),
        ("cu_seqlens", 3, r"cu_seqlens is a int, expected a tensor or None"),
    ]
    for name, given, said in options:
        with pytest.raises(TypeError, match=f"^attention: {said}$"):
            gt.attention(q, k, v, layout(), **{name: given})
    with pytest.raises(TypeError, match=r"^attention: layout is a Tensor, expected a BlockLayout$"):
        gt.attention(q, k, v, q)
    with pytest.raises(ValueError, match=r"gossamer\.torch\.attention is differentiable"):
        gossamer.attention(q, k, v, layout())
