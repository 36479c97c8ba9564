"""Packed matrices as operands of gossamer.torch's products."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import gossamer.torch as gt  # noqa: E402

pytestmark = pytest.mark.once

M, K, N = 8, 6, 5


def dense(dtype: Any = torch.float64, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.integers(1, 5, (M, K)) * rng.integers(0, 2, (M, K)), dtype=dtype)


def packed(dtype: Any = torch.float64, seed: int = 0) -> Any:
    return gossamer.pack(gossamer.CSR.from_dense(dense(dtype, seed)))


def integers(*shape: int, dtype: Any = torch.float64, seed: int = 1) -> Any:
    return torch.tensor(np.random.default_rng(seed).integers(-4, 5, shape), dtype=dtype)


CALLS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = {
    "linear": (lambda w, x: gt.linear(x, w), lambda w, x: x @ w.T, [(2, 3, K)]),
    "linear 1": (lambda w, x: gt.linear(x, w), lambda w, x: x @ w.T, [(K,)]),
    "linear relu": (
        lambda w, x, b: gt.linear(x, w, bias=b, activation="relu"),
        lambda w, x, b: torch.relu(x @ w.T + b),
        [(N, K), (M,)],
    ),
    "spmm": (gt.spmm, lambda w, x: w @ x, [(K, N)]),
    "spmm 1": (gt.spmm, lambda w, x: w @ x, [(K,)]),
    "spmm transposed": (
        lambda w, x, b: gt.spmm(w, x, transpose_a=True, bias=b),
        lambda w, x, b: w.T @ x + b[:, None],
        [(M, N), (K,)],
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_results_and_gradients_are_those_of_the_dense_product(call: str) -> None:
    ours, theirs, shapes = CALLS[call]
    w = packed()
    operands = [integers(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)]
    got, expected = ours(w, *operands), theirs(dense(), *operands)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    g = integers(*got.shape, seed=9)
    for a, b in zip(
        torch.autograd.grad(got, operands, g),
        torch.autograd.grad(expected, operands, g),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(ours(w, *operands), expected, rtol=0, atol=0)
    smooth = [x.detach() + torch.arange(1.0, x.numel() + 1).sin().view(x.shape) for x in operands]
    torch.autograd.gradcheck(lambda *x: ours(w, *x), [x.requires_grad_() for x in smooth])
    torch.autograd.gradgradcheck(lambda *x: ours(w, *x), smooth)


@pytest.mark.parametrize("name", ["packed_linear", "packed_linear_t", "packed_spmm"])
def test_operators_pass_pytorchs_own_checks(name: str) -> None:
    w = packed(torch.float32)
    matrix = (w._key, M, K)
    x, g = (integers(N, n, dtype=torch.float32).requires_grad_() for n in (K, M))
    arguments = {
        "packed_linear": (x, *matrix, torch.ones(M, requires_grad=True), "", 0.0, 0.0),
        "packed_linear_t": (g, *matrix),
        "packed_spmm": (*matrix, x.detach().T.contiguous().requires_grad_(), False),
    }[name]
    torch.library.opcheck(getattr(torch.ops.gossamer, name).default, arguments)


@pytest.mark.parametrize("given", ["closure", "argument"])
@pytest.mark.parametrize("name", ["linear", "spmm"])
def test_compiles_into_one_graph_and_tells_matrices_apart(name: str, given: str) -> None:
    torch._dynamo.reset()
    first, second = packed(), packed(seed=5)
    x = integers(K, K).requires_grad_()

    def function(x: Any, w: Any) -> Any:
        return gt.linear(x, w, activation="relu") if name == "linear" else gt.spmm(w, x)

    if given == "closure":
        compiled = torch.compile(lambda x: function(x, first), fullgraph=True, backend="aot_eager")
        pairs = [(compiled(x), first), (compiled(2 * x) / 2, first)]
    else:
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        pairs = [(compiled(x, w), w) for w in (first, second, first)]
    for got, w in pairs:
        expected = function(x, w)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        for a, b in zip(
            torch.autograd.grad(got.sum(), x), torch.autograd.grad(expected.sum(), x), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = packed()

    def forward(self, x: Any) -> Any:
        return gt.linear(x, self.w) * 2


def test_exports_within_a_process_and_says_so_elsewhere() -> None:
    net = Net()
    x = integers(N, K)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: rows},))
    assert "gossamer.packed_linear" in str(program.graph)
    more = integers(3 * N, K)
    torch.testing.assert_close(program.module()(more), net(more), rtol=0, atol=0)
    del net
    gc.collect()
    message = r"^linear: w is a Packed that this process does not have, expected one that lives"
    with pytest.raises(ValueError, match=message):
        program.module()(more)


def test_matrix_lives_as_long_as_a_graph_needs_it() -> None:
    x = integers(N, K).requires_grad_()
    y = gt.linear(x, packed())
    gc.collect()
    y.sum().backward()
    torch.testing.assert_close(x.grad, dense().sum(0).expand(N, K), rtol=0, atol=0)
    from gossamer.formats._packed import LIVING

    before = len(LIVING)
    w = packed()
    assert len(LIVING) == before + 1
    del w
    gc.collect()
    assert len(LIVING) == before


def test_vmap_autocast_profiler_and_updates() -> None:
    w, x = packed(torch.float32), integers(4, N, K, dtype=torch.float32)
    expected = x @ dense(torch.float32).T
    torch.testing.assert_close(torch.vmap(lambda x: gt.linear(x, w))(x), expected, rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gt.linear(x.bfloat16(), w), expected, rtol=0, atol=0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        gt.linear(x, w)
    assert "gossamer::packed_linear" in {event.key for event in profile.key_averages()}
    values = gossamer.CSR.from_dense(dense(torch.float32)).values
    torch.testing.assert_close(gt.linear(x, w.update(2 * values)), 2 * expected, rtol=0, atol=0)
