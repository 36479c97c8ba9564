"""gossamer.torch's softmax and attention over CSR patterns against dense formulas."""

from __future__ import annotations

from typing import Any

import gossamer
import pytest

torch = pytest.importorskip("torch")
import gossamer.torch as gt  # noqa: E402

pytestmark = pytest.mark.once

M, N, H, HKV, D = 6, 5, 4, 2, 3
CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}


def keep() -> Any:
    mask = torch.rand(M, N, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[1] = False
    return mask


def pattern() -> Any:
    return gossamer.CSR.from_mask(keep(), dtype="float64")


def draw(*shape: int, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def compare(got: Any, expected: Any, leaves: list[Any]) -> None:
    weights = [torch.randn_like(x) for x in expected]
    finite = [torch.where(torch.isfinite(x), w, 0) for x, w in zip(expected, weights, strict=True)]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    for a, b in zip(
        torch.autograd.grad(got, leaves, finite),
        torch.autograd.grad(expected, leaves, finite),
        strict=True,
    ):
        torch.testing.assert_close(a, torch.nan_to_num(b), **CLOSE)


def scattered(values: Any) -> Any:
    """Return [..., M, N] with -infinity where no entry is."""
    full = torch.full((*values.shape[:-1], M, N), -torch.inf, dtype=values.dtype)
    rows, cols = keep().nonzero(as_tuple=True)
    if values.dim() > 1:
        return torch.stack([scattered(v) for v in values])
    return full.index_put((rows, cols), values)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_softmax(batch: tuple[int, ...]) -> None:
    p = pattern()
    values = draw(*batch, p.nnz)
    got = gt.csr_softmax(p.with_values(values)).values
    expected = scattered(values).softmax(-1)[..., keep()]
    compare([got], [expected], [values])
    torch.autograd.gradcheck(lambda v: gt.csr_softmax(p.with_values(v)).values, (values,))


def dense(q: Any, k: Any, v: Any, bias: Any = None) -> tuple[Any, Any]:
    k, v = (x.repeat_interleave(H // HKV, 1) for x in (k, v))
    s = torch.einsum("ihd,jhd->hij", q, k) / D**0.5
    if bias is not None:
        s = s + torch.nan_to_num(scattered(bias), neginf=0)
    s = s.masked_fill(~keep(), -torch.inf)
    lse = s.logsumexp(-1)
    p = torch.where(keep(), (s - torch.nan_to_num(lse, neginf=0)[..., None]).exp(), 0)
    return torch.einsum("hij,jhd->ihd", p, v), lse


@pytest.mark.parametrize("with_bias", [False, True])
def test_attention(with_bias: bool) -> None:
    leaves = [draw(M, H, D), draw(N, HKV, D, seed=2), draw(N, HKV, D, seed=3)]
    if with_bias:
        leaves.append(draw(H, pattern().nnz, seed=4))
    q, k, v, *rest = leaves
    got = gt.csr_attention(q, k, v, pattern(), bias=rest[0] if rest else None)
    compare(got, dense(*leaves), leaves)


def test_attention_derivative_by_differences() -> None:
    leaves = (draw(M, H, D), draw(N, HKV, D, seed=2), draw(N, HKV, D, seed=3))
    full = gossamer.CSR.from_mask(torch.ones(M, N, dtype=torch.bool))
    torch.autograd.gradcheck(lambda *x: gt.csr_attention(*x, full), leaves)
    gat = (draw(M, H), draw(N, H, seed=2), draw(N, H, D, seed=3))
    torch.autograd.gradcheck(lambda *x: gt.csr_attention(*x, full, score="gat"), gat)


def test_pass_pytorchs_own_checks() -> None:
    p = pattern()
    native = p._native
    structure = (native.indptr, native.indices)
    torch.library.opcheck(torch.ops.gossamer.csr_softmax.default, (*structure, draw(p.nnz), [M, N]))
    torch.library.opcheck(
        torch.ops.gossamer.csr_attention.default,
        (
            *(draw(M, H, D), draw(N, HKV, D), draw(N, HKV, D), *structure, [M, N]),
            *("dot", None, 0.2, draw(H, p.nnz)),
        ),
    )


def test_compile_into_one_graph() -> None:
    torch._dynamo.reset()
    p = pattern()

    def loss(q: Any, k: Any, v: Any) -> Any:
        scores = gt.sddmm(q[:, 0], k[:, 0], p)
        mixed = gt.spmm(gt.csr_softmax(p.with_values(scores)), v[:, 0])
        return gt.csr_attention(q, k, v, p)[0].square().sum() + mixed.sum()

    leaves = [draw(M, H, D), draw(N, HKV, D, seed=2), draw(N, HKV, D, seed=3)]
    got = torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves)
    expected = loss(*leaves)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    for a, b in zip(
        torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_exports() -> None:
    p = pattern()

    class Module(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            o, lse = gt.csr_attention(q, k, v, p, scale=1)
            return o, lse, gt.csr_softmax(p.with_values(gt.sddmm(q[:, 0], k[:, 0], p))).values

    operands = [tuple(draw(n, H, D, seed=i).detach() for n in (M, N, N)) for i in (1, 2)]
    program = torch.export.export(Module(), operands[0])
    assert all(f"gossamer.{op}" in str(program.graph) for op in ("csr_attention", "csr_softmax"))
    torch.testing.assert_close(
        program.module()(*operands[1]), Module()(*operands[1]), rtol=0, atol=0, equal_nan=True
    )


def test_vmap_and_the_gradients_of_each_sample() -> None:
    full = gossamer.CSR.from_mask(torch.ones(M, N, dtype=torch.bool), dtype="float64")
    q, k, v = (draw(n, h, D, seed=n).detach() for n, h in ((M, H), (N, HKV), (N, HKV)))
    many = torch.stack([q, 2 * q, -q], dim=1)
    for p in (pattern(), full):
        got = torch.vmap(lambda q, p=p: gt.csr_attention(q, k, v, p), in_dims=1)(many)
        for i, one in enumerate(many.unbind(1)):
            for a, b in zip(got, gt.csr_attention(one, k, v, p), strict=True):
                torch.testing.assert_close(a[i], b, rtol=0, atol=0)

    def loss(q: Any, k: Any) -> Any:
        return sum((x**2).sum() for x in gt.csr_attention(q, k, v, full))

    each = torch.func.vmap(torch.func.grad(loss, (0, 1)), (1, None))(many, k)
    values = draw(3, full.nnz).detach()

    def mixed(v: Any) -> Any:
        return (gt.csr_softmax(full.with_values(v)).values ** 2).sum()

    slopes = torch.func.vmap(torch.func.grad(mixed))(values)
    for i, one in enumerate(many.unbind(1)):
        for a, b in zip(each, torch.func.grad(loss, (0, 1))(one, k), strict=True):
            torch.testing.assert_close(a[i], b, rtol=0, atol=0)
        dense_slope = torch.func.grad(lambda v: (v.view(M, N).softmax(-1) ** 2).sum())(values[i])
        torch.testing.assert_close(slopes[i], dense_slope, **CLOSE)


def test_autocast_and_profiler() -> None:
    p = gossamer.CSR.from_mask(keep())
    q, k, v = (draw(n, H, D).detach().float().requires_grad_() for n in (M, N, N))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
    ):
        o, lse = gt.csr_attention(q, k, v, p)
    assert (o.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert "gossamer::csr_attention" in {event.key for event in profile.key_averages()}
    o.float().square().sum().backward()
    twin = gt.csr_attention(*(x.detach().requires_grad_() for x in (q, k, v)), p)[0]
    torch.testing.assert_close(o.float(), twin, rtol=0.05, atol=0.05)
    assert all(x.grad.dtype == torch.float32 and x.grad.any() for x in (q, k, v))


def test_second_derivative_is_refused() -> None:
    p = pattern()
    v = draw(p.nnz)
    mixed = gt.csr_softmax(p.with_values(v)).values.square().sum()
    slope = torch.autograd.grad(mixed, v, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match=r"expected one of the first order$"):
        torch.autograd.grad(slope.sum(), v)


def test_message() -> None:
    with pytest.raises(TypeError, match=r"^csr_softmax: a is a Tensor, expected a CSR$"):
        gt.csr_softmax(torch.ones(2))
    with pytest.raises(ValueError, match=r"^csr_softmax: a.values is None, expected"):
        gt.csr_softmax(pattern().with_values(None))
    q = draw(M, H, D).detach()
    options: list[tuple[str, Any, type[Exception], str]] = [
        ("scale", "a", TypeError, "scale is 'a', expected a number"),
        ("slope", None, TypeError, "slope is None, expected a number"),
        ("score", 3, ValueError, "score is 3, expected 'dot' or 'gat'"),
        ("bias", 3, TypeError, "bias is a int, expected a tensor or None"),
    ]
    for name, given, kind, said in options:
        with pytest.raises(kind, match=f"^csr_attention: {said}$"):
            gt.csr_attention(q, q[:N], q[:N], pattern(), **{name: given})
