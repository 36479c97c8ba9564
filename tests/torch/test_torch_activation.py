"""gossamer.torch's layers that read few weights: results, derivatives, compiled, exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import gossamer.torch as gt  # noqa: E402
from gossamer.torch._activation import _SLOPES  # noqa: E402

pytestmark = pytest.mark.once

T, K, M, H = 3, 7, 5, 9
F = torch.nn.functional


def random(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def union(v: Any, threshold: Any) -> Any:
    """Return v where the column has an entry that reaches the threshold, else 0."""
    passes = ~(v.detach().abs() < threshold).reshape(-1, v.shape[-1]).all(0)
    return v * passes


def streamed(operands: Any, threshold: Any, refreshed: int = -1, **options: Any) -> Any:
    """Return the results of the steps x[0], x[1], … of a stream."""
    x, wt, *_ = operands
    state = gossamer.DeltaState()
    return torch.stack(
        [
            gt.delta_linear(step, wt, state, threshold=threshold, refresh=i == refreshed, **options)
            for i, step in enumerate(x)
        ]
    )


def sent(x: Any, threshold: Any) -> Any:
    """Return what the channels have sent after each step."""
    last, steps = torch.zeros_like(x[0]), []
    for step in x:
        small = (step - last).detach().abs() < threshold
        last = torch.where(~small.reshape(-1, x.shape[-1]).all(0), step, last)
        steps.append(last)
    return torch.stack(steps)


INDICES = torch.tensor([[0, 8, 0], [3, 3, 3], [1, 2, 8]])
EACH = {n: random(n, seed=9).abs() for n in (K, H)}
Call = tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]
CALLS: dict[str, Call] = {
    "sparse_linear": (
        lambda x, wt, b: gt.sparse_linear(x, wt, threshold=0.8, bias=b),
        lambda x, wt, b: union(x, 0.8) @ wt + b,
        [(T, K), (K, M), (M,)],
    ),
    "sparse_linear each": (
        lambda x, wt: gt.sparse_linear(x, wt, threshold=EACH[K], activation="gelu"),
        lambda x, wt: F.gelu(union(x, EACH[K]) @ wt),
        [(1, K), (K, M)],
    ),
    "sparse_linear of one token": (
        lambda x, wt: gt.sparse_linear(x, wt, threshold=torch.tensor(0.8), activation="relu"),
        lambda x, wt: torch.relu(union(x, 0.8) @ wt),
        [(K,), (K, M)],
    ),
    "gated_mlp": (
        lambda x, g, u, d: gt.gated_mlp(x, g, u, d, threshold=0.9),
        lambda x, g, u, d: (union(F.silu(x @ g.T), 0.9) * (x @ u.T)) @ d,
        [(T, K), (H, K), (H, K), (H, K)],
    ),
    "gated_mlp each": (
        lambda x, g, u, d: gt.gated_mlp(x, g, u, d, threshold=EACH[H], activation="gelu"),
        lambda x, g, u, d: (union(F.gelu(x @ g.T), EACH[H]) * (x @ u.T)) @ d,
        [(1, 2, K), (H, K), (H, K), (H, K)],
    ),
    **{
        f"gated_mlp {name}": (
            lambda x, g, u, d, a=a: gt.gated_mlp(x, g, u, d, threshold=0.5, activation=a),
            lambda x, g, u, d, f=f: (union(f(x @ g.T), 0.5) * (x @ u.T)) @ d,
            [(T, K), (H, K), (H, K), (H, K)],
        )
        for name, a, f in (
            ("none", None, lambda z: z),
            ("relu", "relu", torch.relu),
            ("relu6", "relu6", F.relu6),
            ("clamp", ("clamp", -0.6, 2.0), lambda z: z.clamp(-0.6, 2.0)),
        )
    },
    "delta_linear": (
        lambda x, wt: streamed((x, wt), 1.1),
        lambda x, wt: sent(x, 1.1) @ wt,
        [(4, T, K), (K, M)],
    ),
    "delta_linear refreshed": (
        lambda x, wt, b: streamed((x, wt), EACH[K], 2, bias=b, activation="gelu"),
        lambda x, wt, b: F.gelu(sent(x, EACH[K]) @ wt + b),
        [(5, 2, 2, K), (K, M), (M,)],
    ),
    "delta_linear of one token": (
        lambda x, wt, b: streamed((x, wt), torch.tensor(0.8), bias=b, activation="relu"),
        lambda x, wt, b: torch.relu(sent(x, 0.8) @ wt + b),
        [(4, K), (K, M), (M,)],
    ),
    "gather_decode": (
        lambda v, t, b: gt.gather_decode(INDICES, v, t, bias=b),
        lambda v, t, b: torch.einsum("ti,tid->td", v, t[INDICES]) + b,
        [(T, 3), (H, M), (M,)],
    ),
    "topk_rows": (
        lambda x: gt.topk_rows(x, 3)[0],
        lambda x: x.gather(-1, x.topk(3).indices.sort().values),
        [(T, K)],
    ),
    "topk_rows by key": (
        lambda x: gt.topk_rows(x, 2, key=x.abs())[0],
        lambda x: x.gather(-1, x.abs().topk(2).indices.sort().values),
        [(2, T, K)],
    ),
}


def leaves(call: str, dtype: Any = torch.float64) -> list[Any]:
    shapes = CALLS[call][2]
    return [random(*s, seed=i, dtype=dtype).requires_grad_() for i, s in enumerate(shapes)]


@pytest.mark.parametrize("call", CALLS)
def test_results_and_gradients_are_those_of_the_formula(call: str) -> None:
    ours, theirs, _ = CALLS[call]
    operands = leaves(call)
    got, expected = ours(*operands), theirs(*operands)
    torch.testing.assert_close(got, expected)
    g = random(*got.shape, seed=8)
    for a, b in zip(
        torch.autograd.grad(got, operands, g),
        torch.autograd.grad(expected, operands, g),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(ours(*operands), expected)


def test_something_is_left_out() -> None:
    x = random(T, K)
    assert 0 < (union(x, 0.8) == 0).all(0).sum() < K
    gates = F.silu(random(T, K) @ random(H, K, seed=1).T)
    assert 0 < (union(gates, 0.9) == 0).all(0).sum() < H


@pytest.mark.parametrize(
    "call",
    [
        *("sparse_linear", "gated_mlp", "gated_mlp each", "gather_decode", "topk_rows"),
        *("delta_linear", "delta_linear refreshed"),
    ],
)
def test_derivatives_of_first_and_second_order_are_right(call: str) -> None:
    torch.autograd.gradcheck(CALLS[call][0], leaves(call))
    torch.autograd.gradgradcheck(CALLS[call][0], leaves(call))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "call", ["sparse_linear", "delta_linear", "gated_mlp", "gather_decode", "topk_rows"]
)
def test_narrow_types(call: str, dtype: Any) -> None:
    ours, theirs, _ = CALLS[call]
    operands = leaves(call, dtype)
    wide = [x.detach().double().requires_grad_() for x in operands]
    got, expected = ours(*operands), theirs(*wide)
    tolerance = {"rtol": 30 * torch.finfo(dtype).eps, "atol": 30 * torch.finfo(dtype).eps}
    torch.testing.assert_close(got.double(), expected, **tolerance)
    for a, b in zip(
        torch.autograd.grad(got.sum(), operands),
        torch.autograd.grad(expected.sum(), wide),
        strict=True,
    ):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, **tolerance)


@pytest.mark.parametrize(
    "call", ["sparse_linear", "delta_linear", "gated_mlp", "gather_decode", "topk_rows"]
)
def test_compiles_into_one_graph_exports_and_batches(call: str) -> None:
    torch._dynamo.reset()
    ours, _, _ = CALLS[call]
    operands = leaves(call)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    got, expected = compiled(*operands), ours(*operands)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    for a, b in zip(
        torch.autograd.grad(got.sum(), operands),
        torch.autograd.grad(expected.sum(), operands),
        strict=True,
    ):
        torch.testing.assert_close(a, b)

    class Net(torch.nn.Module):
        def forward(self, *operands: Any) -> Any:
            return ours(*operands)

    plain = tuple(x.detach() for x in operands)
    program = torch.export.export(Net(), plain)
    assert f"gossamer.{call}" in str(program.graph)
    torch.testing.assert_close(program.module()(*plain), expected, rtol=0, atol=0)
    many = torch.stack([plain[0], 2 * plain[0]])
    batched = torch.vmap(ours, (0, *(None for _ in plain[1:])))(many, *plain[1:])
    each = [ours(x, *plain[1:]) for x in many]
    torch.testing.assert_close(batched, torch.stack(each), rtol=0, atol=0)
    loss = lambda *x: ours(*x).square().sum()  # noqa: E731
    (gradient,) = torch.autograd.grad(loss(*operands), operands[0])
    torch.testing.assert_close(torch.func.grad(loss)(*plain), gradient)


def operators() -> dict[str, tuple[Any, ...]]:
    x, wt, bias = (x.detach().clone().requires_grad_() for x in leaves("sparse_linear"))
    mlp, values = leaves("gated_mlp"), leaves("gather_decode")
    dy = random(T, M).requires_grad_()
    chosen = INDICES.sort().values[::2].int()
    return {
        "sparse_linear": (x, wt, None, 0.8, bias, "", 0.0, 0.0),
        "delta_linear": (
            *(x, wt, random(T, K, seed=5).requires_grad_(), random(T, M).requires_grad_()),
            *(None, 0.8, False, None, "", 0.0, 0.0),
        ),
        "gated_mlp": (*mlp, EACH[H], 0.0, "silu", 0.0, 0.0),
        "gather_decode": (INDICES, *values[:2]),
        "gather_decode_values": (dy, INDICES, values[1]),
        "gather_decode_table": (dy, INDICES, values[0], H),
        "topk_rows": (x, None, 2, "low", "lowest"),
        "topk_rows_backward": (random(2, 2).requires_grad_(), chosen[:, 1:].contiguous(), H),
    }


@pytest.mark.parametrize("name", operators())
def test_operators_pass_pytorchs_own_checks(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.gossamer, name).default, operators()[name])


def test_operands_of_any_strides_and_autocast() -> None:
    x, wt, bias = (x.detach() for x in leaves("sparse_linear"))
    ours = CALLS["sparse_linear"][0]
    turned = ours(x.T.contiguous().T, wt.T.contiguous().T, bias)
    torch.testing.assert_close(turned, ours(x, wt, bias), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for call in ("sparse_linear", "delta_linear", "gated_mlp", "gather_decode"):
            assert CALLS[call][0](*leaves(call, torch.float32)).dtype == torch.bfloat16


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_activations_have_their_limits(activation: str) -> None:
    x = torch.full((1, 2), -3e38, requires_grad=True)
    one = torch.ones(2, 1)
    out = gt.sparse_linear(x, one, threshold=0.5, activation=activation)
    out = out + gt.gated_mlp(x, one.T, 1e-38 * one.T, one.T, threshold=0.0, activation=activation)
    out.sum().backward()
    assert not out.any()
    assert not x.grad.any()
    x = torch.full((1, 2), 3e38, requires_grad=True)
    gt.sparse_linear(x, one, threshold=0.5, activation=activation).sum().backward()
    assert (x.grad == 1).all()
    slope = _SLOPES[activation](torch.tensor([-torch.inf, torch.inf]), 0.0, 0.0)
    assert slope.tolist() == [0, 1]


def test_nan_passes_every_threshold() -> None:
    x = torch.tensor([0.1, torch.nan], requires_grad=True)
    y = gt.sparse_linear(x, torch.ones(2, 1), threshold=9.0)
    y.sum().backward()
    assert y.isnan().all() and x.grad.tolist() == [0, 1]


def test_a_state_passes_between_the_core_and_pytorch() -> None:
    steps, wt = random(5, T, K), random(K, M, seed=1)
    state = gossamer.DeltaState()
    for i, x in enumerate(steps):
        op: Any = (gossamer, gt)[i % 2].delta_linear
        got = op(x, wt, state, threshold=1.1)
        torch.testing.assert_close(got, sent(steps, 1.1)[i] @ wt)
    leaf = steps[0].clone().requires_grad_()
    before = state.last.clone()
    gt.delta_linear(leaf, wt, state, threshold=0.5).sum().backward()
    assert isinstance(state.sent, torch.Tensor)
    passes = (steps[0] - before).abs().ge(0.5).any(0)
    assert state.sent == passes.sum()
    torch.testing.assert_close(leaf.grad, passes * wt.sum(1).expand(T, K))
    state.last, state.sums = state.last.detach(), state.sums.detach()
    with torch.no_grad():
        gossamer.delta_linear(steps[1], wt, state, threshold=0.5)


def test_a_sparse_autoencoder_learns() -> None:
    torch.manual_seed(0)
    data = torch.randn(256, 4) @ torch.randn(4, 16)
    encode, table = torch.nn.Linear(16, 32), torch.nn.Parameter(0.1 * torch.randn(32, 16))
    optimizer = torch.optim.Adam([*encode.parameters(), table], lr=0.02)
    losses = []
    for _ in range(60):
        values, indices = gt.topk_rows(encode(data), 6)
        loss = (gt.gather_decode(indices, values, table) - data).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: gt.sparse_linear(random(2, 3), random(4, 5), threshold=1.0),
        ValueError,
        "sparse_linear: x.shape[1] is 3, expected wt.shape[0] = 4",
    ),
    (
        lambda: gt.delta_linear(random(2, 3), random(4, 5), gossamer.DeltaState(), threshold=1.0),
        ValueError,
        "delta_linear: x.shape[1] is 3, expected wt.shape[0] = 4",
    ),
    (
        lambda: gt.delta_linear(
            random(2, 3), random(3, 5, dtype=torch.float32), gossamer.DeltaState(), threshold=1.0
        ),
        TypeError,
        "delta_linear: wt.dtype is float32, expected x.dtype = float64",
    ),
    (
        lambda: gt.delta_linear(random(2, 3), random(3), gossamer.DeltaState(), threshold=1.0),
        ValueError,
        "delta_linear: wt.ndim is 1, expected 2",
    ),
    (
        lambda: gt.delta_linear(random(2, 3), random(3, 5), None, threshold=1.0),
        TypeError,
        "delta_linear: state is a NoneType, expected a DeltaState",
    ),
    (
        lambda: gt.gated_mlp(*(random(3, 3),) * 4, threshold=1.0, activation="tanh"),
        ValueError,
        "gated_mlp: activation is 'tanh', expected None, 'relu', 'relu6', 'gelu', 'silu' or "
        "('clamp', lo, hi)",
    ),
    (
        lambda: gt.sparse_linear(random(2, 3), random(3, 3), threshold="1.0"),
        TypeError,
        "sparse_linear: threshold is '1.0', expected a number",
    ),
    (
        lambda: gt.delta_linear(
            random(2, 3).requires_grad_(),
            random(3, 5),
            gossamer.DeltaState(),
            threshold=1.0,
            bias=random(1),
        ),
        ValueError,
        "delta_linear: bias.shape is (1,), expected (5,)",
    ),
    (
        lambda: gt.gather_decode(
            torch.zeros(2, 1, dtype=torch.int64), random(2, 1), random(3, 4), bias=random(2, 4)
        ),
        ValueError,
        "gather_decode: bias.shape is (2, 4), expected (4,)",
    ),
    (
        lambda: gt.topk_rows(torch.tensor(1.0), 1),
        ValueError,
        "topk_rows: x.ndim is 0, expected at least 1",
    ),
    (lambda: gt.topk_rows(random(2), 1.0), TypeError, "topk_rows: k is 1.0, expected an integer"),
    (
        lambda: gossamer.sparse_linear(random(2, 3).requires_grad_(), random(3, 3), threshold=1.0),
        ValueError,
        "sparse_linear: x requires grad, expected one that does not: gossamer.torch.sparse_linear "
        "is differentiable; x.detach() or torch.no_grad() leave the gradient out",
    ),
]


@pytest.mark.parametrize("call, kind, message", BAD, ids=[message for _, _, message in BAD])
def test_message(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message
