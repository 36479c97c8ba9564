"""gossamer.torch: products with derivatives, compiled, exported, batched."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import gossamer.torch as gt  # noqa: E402
from gossamer.torch._functions import ACTIVATIONS  # noqa: E402
from gossamer.torch._ops import parts_of  # noqa: E402

pytestmark = pytest.mark.once

ops = torch.ops.gossamer
KINDS = ["csr", "bsr"]
M, K, N = 8, 6, 5


def dense(dtype: Any = torch.float64) -> Any:
    """Return integers with an empty row and an empty column, in blocks of 2 × 3."""
    rng = np.random.default_rng(0)
    w = rng.integers(1, 5, (M, K)) * np.kron(rng.integers(0, 2, (M // 2, K // 3)), np.ones((2, 3)))
    w[:2] = 0
    return torch.tensor(w, dtype=dtype)


def matrix(kind: str, w: Any) -> Any:
    if kind == "nm":
        mask = gossamer.prune.nm_mask(gossamer.prune.score(w), 2, 3)
        return gossamer.NM.from_dense(w, 2, 3, mask=mask)
    return gossamer.CSR.from_dense(w) if kind == "csr" else gossamer.BSR.from_dense(w, (2, 3))


def leaf(kind: str, dtype: Any = torch.float64) -> tuple[Any, Any]:
    """Return a matrix and its values, which require grad."""
    a = matrix(kind, dense(dtype))
    values = values_of(a).clone().requires_grad_()
    return a.with_values(values), values


def integers(*shape: int, dtype: Any = torch.float64, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.integers(-4, 5, shape), dtype=dtype)


def values_of(a: Any) -> Any:
    return getattr(a._native, getattr(a, "_VALUES", "values"))


def spread(a: Any, values: Any) -> Any:
    """Return the dense matrix of other values, differentiable."""
    count = np.arange(1.0, values.numel() + 1).reshape(values.shape)
    order = torch.from_numpy(a.with_values(count).to_dense()).long()
    zero = torch.zeros((), dtype=values.dtype)
    return torch.where(order > 0, values.reshape(-1)[order.clamp(min=1) - 1], zero)


CALLS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = {
    "linear": (lambda w, x: gt.linear(x, w), lambda w, x: x @ w.T, [(2, 3, K)]),
    "linear 1": (lambda w, x: gt.linear(x, w), lambda w, x: x @ w.T, [(K,)]),
    "linear bias": (
        lambda w, x, b: gt.linear(x, w, bias=b),
        lambda w, x, b: x @ w.T + b,
        [(N, K), (M,)],
    ),
    "linear relu": (
        lambda w, x, b: gt.linear(x, w, bias=b, activation="relu"),
        lambda w, x, b: torch.relu(x @ w.T + b),
        [(N, K), (M,)],
    ),
    "linear clamp": (
        lambda w, x: gt.linear(x, w, activation=("clamp", -3.5, 2.5)),
        lambda w, x: torch.clamp(x @ w.T, -3.5, 2.5),
        [(N, K)],
    ),
    "spmm": (gt.spmm, lambda w, x: w @ x, [(K, N)]),
    "spmm 1": (gt.spmm, lambda w, x: w @ x, [(K,)]),
    "spmm transposed": (
        lambda w, x, b: gt.spmm(w, x, transpose_a=True, bias=b),
        lambda w, x, b: w.T @ x + b[:, None],
        [(M, N), (K,)],
    ),
    "sddmm": (
        lambda w, a, b: gt.sddmm(a, b, w) * values_of(w),
        lambda w, a, b: (a @ b.T) * w,
        [(M, N), (K, N)],
    ),
}


@pytest.mark.parametrize("kind", [*KINDS, "nm"])
@pytest.mark.parametrize("call", CALLS)
def test_results_and_gradients_are_those_of_the_dense_product(call: str, kind: str) -> None:
    if (call, kind) == ("sddmm", "nm"):
        pytest.skip("an NM is no pattern")
    ours, theirs, shapes = CALLS[call]
    w, values = leaf(kind)
    operands = [integers(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)]
    got = ours(w, *operands)
    expected = theirs(spread(w, values), *operands)
    if got.shape != expected.shape:
        got = spread(w, got)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    g = integers(*got.shape, seed=9)
    for a, b in zip(
        torch.autograd.grad(got, [values, *operands], g),
        torch.autograd.grad(expected, [values, *operands], g),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    "call, kind",
    [
        *((c, k) for c in ("linear bias", "spmm", "spmm transposed", "sddmm") for k in KINDS),
        *(("linear bias", "nm"), ("spmm", "nm")),
    ],
)
def test_derivatives_of_first_and_second_order_are_right(call: str, kind: str) -> None:
    ours, _, shapes = CALLS[call]
    w, values = leaf(kind)
    operands = [integers(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)]

    def function(values: Any, *operands: Any) -> Any:
        return ours(w.with_values(values), *operands)

    torch.autograd.gradcheck(function, (values, *operands))
    torch.autograd.gradgradcheck(function, (values, *operands))


@pytest.mark.parametrize("activation", ["relu6", "gelu", "silu"])
def test_activation_has_its_derivative(activation: str) -> None:
    w, values = leaf("csr")
    x = integers(N, K).requires_grad_()
    theirs = getattr(torch.nn.functional, activation)
    got = gt.linear(x, w, activation=activation)
    expected = theirs(x @ spread(w, values).T)
    torch.testing.assert_close(got, expected)
    with torch.no_grad():
        torch.testing.assert_close(gt.linear(x, w, activation=activation), expected)
    for a, b in zip(
        torch.autograd.grad(got.sum(), [values, x]),
        torch.autograd.grad(expected.sum(), [values, x]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("form", ["csr", "packed", "spmm"])
def test_activation_has_the_cores_limits(form: str, activation: str) -> None:
    """At a sum of finite products that overflows, PyTorch's own give −∞·0 and ∞·0."""
    w = gossamer.CSR.from_dense(torch.ones(1, 2))
    ends = [[-3e38, -3e38], [-1e30, 0], [2, 1], [3e38, 3e38], [1e30, 0]]
    x = torch.tensor(ends, requires_grad=True)
    a = gossamer.pack(w) if form == "packed" else w

    def call(module: Any) -> Any:
        if form == "spmm":
            return module.spmm(a, x.T.contiguous(), activation=activation).T
        return module.linear(x, a, activation=activation)

    y = call(gt)
    y.sum().backward()
    z = torch.tensor([3.0], requires_grad=True)
    getattr(torch.nn.functional, activation)(z).backward()
    torch.testing.assert_close(y[2], getattr(torch.nn.functional, activation)(z))
    assert not y[:2].any() and y[3] == torch.inf and y[4] == 1e30
    assert not x.grad[:2].any() and (x.grad[3:] == 1).all()
    torch.testing.assert_close(x.grad[2], z.grad.expand(2))
    with torch.no_grad():
        torch.testing.assert_close(call(gossamer), y)
        torch.testing.assert_close(call(gt), y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_activation_is_pytorchs_between_its_limits(activation: str, dtype: torch.dtype) -> None:
    """Also the derivatives of both orders, compiled and batched, and the ends of the range."""
    ends = torch.finfo(dtype)
    drawn = torch.randn(500, generator=torch.Generator().manual_seed(0)).to(dtype) * 4
    special = torch.tensor([0.0, -0.0, ends.tiny, ends.max, ends.min], dtype=dtype)
    x = torch.cat([drawn, special]).requires_grad_()

    def ours(x: Any) -> Any:
        return ACTIVATIONS[activation](x, 0, 0)

    theirs = getattr(torch.nn.functional, activation)
    same = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(ours(x), theirs(x), **same)
    slopes = [torch.autograd.grad(f(x).sum(), x, create_graph=True)[0] for f in (ours, theirs)]
    torch.testing.assert_close(*slopes, **same)
    curved = [torch.autograd.grad(slope.sum(), x)[0][:-2] for slope in slopes]
    torch.testing.assert_close(*curved, **same)
    torch._dynamo.reset()
    compiled = [
        torch.compile(lambda x, f=f: f(x).sum(), fullgraph=True, backend="aot_eager")(x)
        for f in (ours, theirs)
    ]
    torch.testing.assert_close(*(torch.autograd.grad(y, x)[0] for y in compiled), **same)
    each = torch.func.vmap(torch.func.grad(ours))(x.detach())
    torch.testing.assert_close(each, slopes[0], **same)
    nan, past = (torch.tensor(z, dtype=dtype, requires_grad=True) for z in (torch.nan, torch.inf))
    assert torch.autograd.grad(ours(nan), nan)[0].isnan()
    slope = torch.autograd.grad(ours(past), past, create_graph=True)[0]
    assert slope == 1 and torch.autograd.grad(slope, past)[0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_narrow_types_have_exact_gradients_of_integers(kind: str, dtype: Any) -> None:
    w, values = leaf(kind, dtype)
    x = integers(3, K, dtype=dtype).clamp(-2, 2).requires_grad_()
    got = torch.autograd.grad(gt.linear(x, w).sum(), [values, x])
    expected = torch.autograd.grad((x @ spread(w, values).T).sum(), [values, x])
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_gradient_of_many_rows_is_summed_in_float32() -> None:
    w, values = leaf("csr", torch.bfloat16)
    x = torch.ones(3000, K, dtype=torch.bfloat16)
    gt.linear(x, w).sum().backward()
    assert (values.grad == 3008).all()  # 3000 in bfloat16; sums of sums in it would stop at 256


@pytest.mark.parametrize("strides", ["transposed", "expanded", "sliced", "leading"])
def test_operands_of_any_strides(strides: str) -> None:
    w, _ = leaf("csr")
    x = {
        "transposed": integers(K, N).T,
        "expanded": integers(1, K).expand(N, K),
        "sliced": integers(N, 2 * K)[:, ::2],
        "leading": integers(4, N, K).transpose(0, 1),
    }[strides]
    torch.testing.assert_close(gt.linear(x, w), x @ dense().T)
    if x.dim() == 2:
        torch.testing.assert_close(gt.spmm(w, x.T), dense() @ x.T)


def test_empty_operands() -> None:
    w = gossamer.CSR.from_dense(torch.zeros(3, 4))
    x = torch.ones(2, 4, requires_grad=True)
    gt.linear(x, w).sum().backward()
    assert (x.grad == 0).all()
    assert gt.linear(torch.ones(0, 4), w).shape == (0, 3)
    assert gt.linear(torch.ones(2, 0), gossamer.CSR.from_dense(torch.ones(3, 0))).shape == (2, 3)


def components(kind: str, dtype: Any = torch.float32) -> tuple[Any, ...]:
    w, values = leaf(kind, dtype)
    parts = parts_of("test", "w", w)
    return parts.indptr, parts.indices, values, kind, parts.sizes


@pytest.mark.parametrize("kind", [*KINDS, "nm"])
@pytest.mark.parametrize("name", ["linear", "linear_t", "spmm", "sddmm", "sampled"])
def test_operators_pass_pytorchs_own_checks(name: str, kind: str) -> None:
    if (name, kind) == ("sddmm", "nm"):
        pytest.skip("an NM is no pattern")
    w = components(kind)
    x, g = (integers(N, n, dtype=torch.float32).requires_grad_() for n in (K, M))
    bias = torch.ones(M, requires_grad=True)
    arguments = {
        "linear": (x, *w, bias, "", 0.0, 0.0, 0),
        "linear_t": (g, *w),
        "spmm": (*w, x.detach().T.contiguous().requires_grad_(), False),
        "sddmm": (
            g.detach().T.contiguous().requires_grad_(),
            x.detach().T.contiguous().requires_grad_(),
            *w,
        ),
        "sampled": (g, x, *w),
    }[name]
    torch.library.opcheck(getattr(ops, name).default, arguments)


class Net(torch.nn.Module):
    def __init__(self, w: Any) -> None:
        super().__init__()
        self.layer = gt.SparseLinear(w, torch.ones(M, dtype=torch.float32))

    def forward(self, x: Any) -> Any:
        return torch.relu(self.layer(x)) * 2


@pytest.fixture
def net() -> Any:
    torch._dynamo.reset()
    return Net(matrix("csr", dense(torch.float32)))


def test_compiles_into_one_graph_with_equal_results_and_gradients(net: Any) -> None:
    x = integers(N, K, dtype=torch.float32).requires_grad_()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    parameters = [x, *net.parameters()]
    for n in (N, N + 2):
        x = integers(n, K, dtype=torch.float32).requires_grad_()
        parameters[0] = x
        got, expected = compiled(x), net(x)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        for a, b in zip(
            torch.autograd.grad(got.sum(), parameters),
            torch.autograd.grad(expected.sum(), parameters),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("given", ["closure", "argument", "values"])
def test_functions_of_a_matrix_compile_into_one_graph(given: str) -> None:
    torch._dynamo.reset()
    w, values = leaf("csr")
    x = integers(N, K)
    function, arguments = {
        "closure": (lambda x: gt.linear(x, w), (x,)),
        "argument": (gt.linear, (x, w)),
        "values": (lambda x, v: gt.linear(x, w.with_values(v)), (x, values)),
    }[given]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        got = compiled(*arguments)
        torch.testing.assert_close(got, function(*arguments), rtol=0, atol=0)
        (ours,) = torch.autograd.grad(got.sum(), [values])
        (eager,) = torch.autograd.grad(function(*arguments).sum(), [values])
        torch.testing.assert_close(ours, eager, rtol=0, atol=0)
        with torch.no_grad():
            values.mul_(2)  # a compiled function sees it


def test_exports(net: Any) -> None:
    x = integers(N, K, dtype=torch.float32)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(net.eval(), (x,), dynamic_shapes=({0: rows},))
    assert "gossamer.linear" in str(program.graph)
    more = integers(3 * N, K, dtype=torch.float32)
    torch.testing.assert_close(program.module()(more), net(more))


def test_autocast_is_that_of_linear() -> None:
    w, values = leaf("csr", torch.float32)
    x = integers(N, K, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gt.linear(x, w, bias=torch.ones(M))
        assert y.dtype == gt.spmm(w, x.T).dtype == gt.sddmm(x, x, sub(w)).dtype == torch.bfloat16
        assert gt.linear(x.double(), leaf("csr")[0]).dtype == torch.float64
    y.sum().backward()
    assert values.grad.dtype == torch.float32


def sub(w: Any) -> Any:
    """Return a pattern [N, N]."""
    return gossamer.CSR.from_dense(torch.eye(N))


def test_vmap_over_rows_and_over_values() -> None:
    w, values = leaf("csr")
    x = integers(4, N, K)
    batched = torch.vmap(lambda x: gt.linear(x, w))(x)
    torch.testing.assert_close(batched, gt.linear(x, w), rtol=0, atol=0)
    many = torch.stack([values.detach(), 2 * values.detach()])
    got = torch.vmap(lambda v, x: gt.spmm(w.with_values(v), x), in_dims=(0, None))(many, x[0].T)
    expected = torch.stack([dense() @ x[0].T, 2 * dense() @ x[0].T])
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_func_differentiates_and_batches(kind: str) -> None:
    w, values = leaf(kind)
    values, x = values.detach(), integers(4, K)

    def loss(v: Any, x: Any) -> Any:
        y = gt.linear(x, w.with_values(v))
        return (gt.spmm(w.with_values(v), x) * y).sum()

    def full(v: Any, x: Any) -> Any:
        return ((x @ spread(w, v).T) ** 2).sum()

    for transform in (
        lambda f: torch.func.grad(f, argnums=(0, 1)),
        lambda f: torch.func.grad(lambda v, x: torch.func.grad(f, argnums=1)(v, x).square().sum()),
    ):
        got, expected = (transform(f)(values, x[0]) for f in (loss, full))
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(values, x)
    expected = torch.stack([torch.func.grad(full)(values, row) for row in x])
    torch.testing.assert_close(each, expected, rtol=0, atol=0)


def test_vmap_of_nothing() -> None:
    w, _ = leaf("csr")
    assert torch.vmap(lambda b: gt.spmm(w, b), in_dims=2)(torch.ones(K, 3, 0).double()).shape == (
        *(0, M, 3),
    )
    keys = torch.ones(0, 5)
    values, places = torch.vmap(lambda key: gt.topk_rows(torch.ones(5), 2, key=key))(keys)
    assert values.shape == places.shape == (0, 2)


@pytest.fixture
def forward_ad() -> Any:
    from torch.autograd import forward_ad

    with warnings.catch_warnings():  # PyTorch's own at the first use
        warnings.simplefilter("ignore")
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.ones(1), torch.ones(1))
    return forward_ad


def test_forward_mode_is_refused(forward_ad: Any) -> None:
    """A tangent that an operator does not pass on would be lost in silence."""
    w, _ = leaf("csr")
    x, wt = integers(N, K), integers(K, N)
    calls: list[Callable[[Any], Any]] = [
        lambda x: gt.linear(x, w),
        lambda x: gt.linear(x, gossamer.pack(w.with_values(w.values.detach()))),
        lambda x: gt.spmm(w, x.t()),
        lambda x: gt.sparse_linear(x, wt, threshold=0.0),
        lambda x: gt.topk_rows(x, 1)[0],
        gt.SparseLinear.from_dense(torch.nn.Linear(K, 2).double(), sparsity=0.5).eval(),
    ]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        for call in calls:
            call(x)
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    message = r": an operand has a tangent of forward mode, expected none: "
                    with pytest.raises(NotImplementedError, match=message):
                        call(dual)


def test_core_says_where_a_tangent_would_be_lost(forward_ad: Any) -> None:
    w = PLAIN
    x, b = integers(N, K), integers(K, N)
    first, second = torch.ones(2, 3).double(), torch.ones(2, 3)
    calls: dict[str, Callable[[Any], Any]] = {
        "linear: x": lambda x: gossamer.linear(x, w),
        "linear: w": lambda x: gossamer.linear(
            x.detach(), w.with_values(x[0, 0].expand(w.nnz).clone())
        ),
        "spmm: b": lambda x: gossamer.spmm(w, x.view(K, N)),
        "topk_mask: score": lambda x: gossamer.prune.topk_mask(x, 1),
        "CSR.from_dense: w": gossamer.CSR.from_dense,
        "soft_threshold_: w": lambda x: gossamer.prune.soft_threshold_(x, 0.5),
    }
    with forward_ad.dual_level():
        for name, call in calls.items():
            call(x.clone())  # without a tangent
            dual = forward_ad.make_dual(x.clone(), torch.ones_like(x))
            op, _, argument = name.partition(": ")
            with pytest.raises(ValueError) as error:
                call(dual)
            message = str(error.value)
            start = f"{name} has a tangent of forward mode, expected one that has none: "
            assert message.startswith(start)
            assert message.endswith(f"{argument}.detach() leaves it out")
            better = f"gossamer.torch.{op} has derivatives in reverse; "
            assert (better in message) == hasattr(gt, op)
            assert call(dual.detach()) is not None
        with pytest.raises(ValueError, match=r"^spmm: out has a tangent of forward mode"):
            out = forward_ad.make_dual(first[:, :0].new_ones(M, N), first.new_ones(M, N))
            gossamer.spmm(w, b, out=out)
        indices = gossamer.prune.topk_rows(second, 2)[1]  # integers have none
        assert indices.shape == (2, 2)
    gossamer.linear(x, w)


def test_profiler_shows_the_operator() -> None:
    w, _ = leaf("csr")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        gt.linear(integers(N, K), w)
    assert "gossamer::linear" in {event.key for event in profile.key_averages()}


def test_structure_is_checked_before_it_is_read() -> None:
    indptr, indices, values, kind, sizes = components("csr")
    x = integers(N, K, dtype=torch.float32)
    wrong = indices.clone()
    ops.linear(x, indptr, wrong, values, kind, sizes, None, "", 0.0, 0.0, 0)
    wrong[0] = 10**6  # after it was found right
    with pytest.raises(ValueError, match=r"^CSR: indices\["):
        ops.linear(x, indptr, wrong, values, kind, sizes, None, "", 0.0, 0.0, 0)


def test_structures_that_are_gone_are_forgotten_as_others_come() -> None:
    from gossamer.torch import _operator

    kept = gossamer.CSR.from_dense(torch.eye(7))
    x = torch.ones(2, 7)
    gt.linear(x, kept)
    for _ in range(100 + len(_operator._checked)):  # what other tests left, too
        gt.linear(x, gossamer.CSR.from_dense(torch.eye(7)))
    there = [not any(r.expired() for r in refs) for refs in _operator._checked.values()]
    assert there.count(False) <= 2 and any(there)


def test_checked_structure_is_not_kept_alive() -> None:
    from gossamer.torch import _operator

    for _ in range(_operator._MOST + 10):
        indptr, indices, values, kind, sizes = components("csr")
        ops.spmm(indptr, indices, values.detach(), kind, sizes, torch.ones(K), False)
    assert len(_operator._checked) <= _operator._MOST
    storage = indices.untyped_storage()._weak_ref()
    del indices
    assert torch.UntypedStorage._expired(storage)


PLAIN = gossamer.CSR.from_dense(dense())
P = gossamer.pack(gossamer.CSR.from_dense(np.eye(2, dtype=np.float32)))
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: gt.linear(torch.ones(2, 3), torch.ones(2, 2)),
        TypeError,
        "linear: w is a Tensor, expected a CSR, a BSR or an NM",
    ),
    (
        lambda: gt.sddmm(torch.ones(2, 2), torch.ones(2, 2), P),
        TypeError,
        "sddmm: pattern is a Packed, expected the matrix that it was made of "
        "(gossamer.torch.SparseLinear packs by itself)",
    ),
    (
        lambda: gt.linear(torch.ones(2, 3).double(), leaf("csr")[0]),
        ValueError,
        "linear: x.shape[1] is 3, expected w.shape[1] = 6",
    ),
    (
        lambda: gt.linear(torch.ones(2, K), leaf("csr")[0]),
        TypeError,
        "linear: x.dtype is float32, expected w.dtype = float64",
    ),
    (
        lambda: gt.linear(torch.ones(2, K).double(), leaf("csr")[0], activation="tanh"),
        ValueError,
        "linear: activation is 'tanh', expected None, 'relu', 'relu6', 'gelu', 'silu' or "
        "('clamp', lo, hi)",
    ),
    (
        lambda: gt.spmm(leaf("csr")[0], torch.ones(5, 2).double()),
        ValueError,
        "spmm: b.shape[0] is 5, expected a.shape[1] = 6",
    ),
    (
        lambda: gt.linear(np.ones((2, K)), leaf("csr")[0]),
        TypeError,
        "linear: x is a ndarray, expected a tensor",
    ),
    (
        lambda: gt.spmm(leaf("csr")[0], [[1.0]] * K),
        TypeError,
        "spmm: b is a list, expected a tensor",
    ),
    (
        lambda: torch.vmap(lambda b: gossamer.spmm(PLAIN, b))(torch.ones(2, K).double()),
        TypeError,
        "spmm: b is traced, expected an array with values: inside torch.compile, torch.func and "
        "vmap, gossamer.torch.spmm works",
    ),
    *(
        (
            lambda w=w: gt.linear(torch.ones(2, w.shape[1]).to(getattr(torch, w.dtype)), w, bias=3),
            TypeError,
            "linear: bias is a int, expected a tensor or None",
        )
        for w in (PLAIN, P)
    ),
    (
        lambda: gt.spmm(leaf("csr")[0], torch.ones(K, 2).double(), transpose_a="yes"),
        TypeError,
        "spmm: transpose_a is 'yes', expected True or False",
    ),
    (  # which would be broadcast
        lambda: gt.spmm(leaf("csr")[0], torch.ones(K, 2).double(), bias=torch.ones(1).double()),
        ValueError,
        f"spmm: bias.shape is (1,), expected ({M},)",
    ),
    (
        lambda: gt.spmm(leaf("csr")[0], torch.ones(K, 2).double(), bias=torch.ones(M)),
        TypeError,
        "spmm: bias.dtype is torch.float32, expected torch.float64",
    ),
    (
        lambda: gt.linear(torch.ones(2, K).double(), leaf("csr")[0], activation=("clamp", "0", 1)),
        TypeError,
        "linear: activation[1] is '0', expected a number",
    ),
]


@pytest.mark.parametrize("call, kind, message", BAD, ids=[message for _, _, message in BAD])
def test_message(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


# The core's own manners towards tensors.


def test_core_accepts_tensors_that_require_grad_where_none_is_recorded() -> None:
    w, _ = leaf("csr")
    x = integers(N, K).requires_grad_()
    with torch.no_grad():
        assert not gossamer.linear(x, w).requires_grad
        parameter = torch.nn.Parameter(torch.ones(2, 2))
        before = parameter._version
        gossamer.prune.soft_threshold_(parameter, 0.5)
        assert (parameter == 0.5).all() and parameter._version == before + 1
    with torch.inference_mode():
        gossamer.linear(x, w)


@pytest.mark.parametrize("name", ["linear", "spmm", "sddmm", "score", "to_dense"])
def test_core_says_where_the_gradient_would_be_lost(name: str) -> None:
    w, _ = leaf("csr")
    plain = gossamer.CSR.from_dense(dense())
    x = integers(N, K).requires_grad_()
    calls: dict[str, tuple[Callable[[], Any], str]] = {
        "linear": (lambda: gossamer.linear(x, plain), "linear: x requires grad"),
        "spmm": (lambda: gossamer.spmm(w, torch.ones(K).double()), "spmm: a requires grad"),
        "sddmm": (lambda: gossamer.sddmm(x, x, sub(w)), "sddmm: a requires grad"),
        "score": (lambda: gossamer.prune.topk_mask(x, 1), "topk_mask: score requires grad"),
        "to_dense": (w.to_dense, "CSR.to_dense: a requires grad"),
    }
    call, start = calls[name]
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert message.startswith(f"{start}, expected one that does not: ")
    assert (f"gossamer.torch.{name} is differentiable" in message) == hasattr(gt, name)
    assert "torch.no_grad()" in message


def test_hints_name_what_is_there() -> None:
    from gossamer import _interop

    ours = {name for name in gt.__all__ if hasattr(gossamer, name)}
    assert ours == _interop.DIFFERENTIABLE["torch"] | _interop.CONSTANT


def test_pattern_whose_values_require_grad_is_a_pattern() -> None:
    w, _ = leaf("csr")
    assert gossamer.sddmm(integers(M, N), integers(K, N), w).shape == (w.nnz,)


# In a process of its own: JAX, which other tests import, warns of every fork.
WORKERS = """
import gossamer, torch

dense = torch.arange(24, dtype=torch.float64).reshape(4, 6)
w = gossamer.CSR.from_dense(dense)

class Products(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        x = torch.full((2, 6), float(i), dtype=torch.float64)
        return gossamer.linear(x, w), gossamer.get_num_threads()

def take_one_thread(_worker):
    gossamer.set_num_threads(1)

before = gossamer.get_num_threads()
with gossamer.num_threads(3):
    gossamer.linear(torch.ones(64, 6).double(), w)  # the pool of the process that forks is at work
    made = list(torch.utils.data.DataLoader(
        Products(), batch_size=2, num_workers=2, worker_init_fn=take_one_thread
    ))
    assert gossamer.get_num_threads() == 3
assert gossamer.get_num_threads() == before
assert {int(n) for _, threads in made for n in threads} == {1}
rows = torch.arange(6).double()[:, None, None].expand(6, 2, 6)
assert torch.equal(torch.cat([y for y, _ in made]), rows @ dense.T)
"""


def test_workers_of_a_data_loader_have_a_thread_each() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKERS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_num_threads_is_put_back() -> None:
    before = gossamer.get_num_threads()
    with pytest.raises(RuntimeError), gossamer.num_threads(3):
        assert gossamer.get_num_threads() == 3
        raise RuntimeError
    assert gossamer.get_num_threads() == before


def without_memory(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.empty(*shape, dtype=dtype, device="meta")


W = gossamer.CSR.from_dense(torch.eye(4, 6))
LAYOUT = gossamer.BlockLayout.from_mask(np.ones((1, 1, 1), bool), block=8)
QUERIES, SEEN = without_memory(1, 5, 2, 8), without_memory(1, 2, 5)
#: Calls on tensors of the device "meta", which have shapes and no numbers.
SHAPES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "linear": (lambda: gt.linear(without_memory(3, 6), W, activation="gelu"), (3, 4)),
    "linear packed": (lambda: gt.linear(without_memory(3, 6), gossamer.pack(W)), (3, 4)),
    "spmm": (lambda: gt.spmm(W, without_memory(6, 3)), (4, 3)),
    "spmm packed": (lambda: gt.spmm(gossamer.pack(W), without_memory(6, 3)), (4, 3)),
    "sddmm": (lambda: gt.sddmm(without_memory(4, 2), without_memory(6, 2), W), (4,)),
    "sparse_linear": (
        lambda: gt.sparse_linear(without_memory(3, 6), without_memory(6, 4), threshold=0.5),
        (3, 4),
    ),
    "gated_mlp": (
        lambda: gt.gated_mlp(without_memory(3, 6), *[without_memory(4, 6)] * 3, threshold=0.5),
        (3, 6),
    ),
    "gather_decode": (
        lambda: gt.gather_decode(
            without_memory(3, 2, dtype=torch.int64), without_memory(3, 2), without_memory(4, 6)
        ),
        (3, 6),
    ),
    "topk_rows": (lambda: gt.topk_rows(without_memory(3, 6), 2)[0], (3, 2)),
    "attention": (lambda: gt.attention(QUERIES, QUERIES, QUERIES, LAYOUT)[0], (1, 5, 2, 8)),
    "merge_attention": (lambda: gt.merge_attention([(QUERIES, SEEN)] * 2)[1], (1, 2, 5)),
    "csr_attention": (
        lambda: gt.csr_attention(without_memory(4, 2, 8), *[without_memory(6, 2, 8)] * 2, W)[0],
        (4, 2, 8),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_tensors_without_memory_have_results_without_memory(name: str) -> None:
    call, shape = SHAPES[name]
    result = call()
    assert result.is_meta
    assert result.shape == shape


def test_gradients_without_memory() -> None:
    x = without_memory(3, 6).requires_grad_()
    gt.linear(x, W).sum().backward()
    assert x.grad.is_meta
    assert x.grad.shape == x.shape
