"""Layers that read few rows of their weights, with derivatives.

Which channels are read is a constant to the derivative, as it is almost everywhere: entries of the
channels that are left out have none. The derivatives are dense products of PyTorch's, of any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from gossamer import activation as core
from gossamer._numbers import flag, real, whole
from gossamer.activation import DeltaState
from gossamer.products import Activation
from gossamer.torch._functions import (
    ACTIVATIONS,
    autocast,
    bounded,
    check_bias,
    need_tensors,
    read_activation,
    tracked,
)
from gossamer.torch._operator import Operator, call, register
from gossamer.torch._ops import core_activation, row_major

Limit = float | Any  # or a tensor


def sparse_linear(
    x: Tensor,
    wt: Tensor,
    *,
    threshold: Limit,
    bias: Tensor | None = None,
    activation: Activation | None = None,
) -> Tensor:
    """Apply a layer to the large entries of its input, as `gossamer.sparse_linear`, differentiable.

    out[t] = activation(Σ_k x[t, k]·wt[k] + bias) over the channels k with |x[t, k]| ≥ threshold[k]
    for at least one token t. Derivatives of any order reach x, wt and bias; those of channels that
    are left out are zero. The derivative by wt is dense.

    Parameters
    ----------
    x : tensor [..., K], of any strides
    wt : tensor [K, M]
    threshold : number, or tensor [K] of float32 or x's type
    bias : tensor [M], or None
    activation : as for `gossamer.linear`

    Returns
    -------
    tensor [..., M]

    Raises
    ------
    TypeError, ValueError
        As `gossamer.sparse_linear`.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([0.5, -3.0, 2.0], requires_grad=True)
    >>> wt = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> sparse_linear(x, wt, threshold=1.0).sum().backward()
    >>> x.grad
    tensor([ 0.,  7., 11.])
    """
    need_tensors("sparse_linear", x=x, wt=wt)
    _need_axes("sparse_linear", "x", x)
    name, lo, hi = read_activation("sparse_linear", activation)
    x, wt, bias = autocast(x, wt, bias)
    limits = _limits("sparse_linear", threshold)
    if name and tracked(x, wt, bias):
        y = call("sparse_linear", x, wt, *limits, bias, "", 0.0, 0.0)
        return ACTIVATIONS[name](y, lo, hi)
    result: Tensor = call("sparse_linear", x, wt, *limits, bias, name, lo, hi)
    return result


def delta_linear(
    x: Tensor,
    wt: Tensor,
    state: DeltaState,
    *,
    threshold: Limit,
    refresh: bool = False,
    bias: Tensor | None = None,
    activation: Activation | None = None,
) -> Tensor:
    """Apply a layer to the changes of a stream, as `gossamer.delta_linear`, differentiable.

    The channels k with |x[..., k] - last[..., k]| ≥ threshold[k] for at least one token send their
    change: sums += (x[..., k] - last[..., k])·wt[k], last[..., k] = x[..., k]; then
    out = activation(sums + bias). Which channels those are is a constant to the derivatives, which
    are of any order and reach x, wt, bias and, through the state, the steps before.

    Parameters
    ----------
    x : tensor [..., K], of any strides
    wt : tensor [K, M]
    state : DeltaState
        Gets new tensors, unless PyTorch does not record: `state.last = state.last.detach()`, and so
        for `sums`, ends the derivatives at a step.
    threshold : number, or tensor [K] of float32 or x's type
    refresh, bias, activation : as for `gossamer.delta_linear`

    Returns
    -------
    tensor [..., M]

    Raises
    ------
    TypeError, ValueError
        As `gossamer.delta_linear`.

    Examples
    --------
    >>> import torch
    >>> state, wt = DeltaState(), torch.tensor([[1.0], [10.0]])
    >>> steps = torch.tensor([[2.0, 3.0], [2.5, 5.0]], requires_grad=True)
    >>> for x in steps:
    ...     y = delta_linear(x, wt, state, threshold=1.0)
    >>> y.backward()
    >>> steps.grad  # the first channel sent nothing in the second step
    tensor([[ 1.,  0.],
            [ 0., 10.]])
    """
    if not isinstance(state, DeltaState):
        raise TypeError(f"delta_linear: state is a {type(state).__name__}, expected a DeltaState")
    need_tensors("delta_linear", x=x, wt=wt)
    anew = flag("delta_linear", "refresh", refresh)
    name, lo, hi = read_activation("delta_linear", activation)
    x, wt, bias = autocast(x, wt, bias)
    last, sums = (_kept(y) for y in (state.last, state.sums))
    if (last is None) != (sums is None) or x.dim() == 0 or wt.dim() != 2:
        state.reset()  # the core says what is wrong
        core.delta_linear(x.detach(), wt.detach(), state, threshold=0.0)
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    if last is None:
        last = torch.zeros(x.shape, dtype=kind, device=x.device)
        sums = last.new_zeros((*x.shape[:-1], wt.shape[1]))
    result: Tensor
    recorded = tracked(x, wt, bias) or last.requires_grad
    inner: Any = (None, "", 0.0, 0.0) if recorded else (bias, name, lo, hi)
    result, state.last, state.sums, state.sent = call(
        "delta_linear", x, wt, last, sums, *_limits("delta_linear", threshold), anew, *inner
    )
    if recorded:
        if bias is not None:
            check_bias("delta_linear", bias, result)
            result = result + bias
        result = ACTIVATIONS[name](result, lo, hi) if name else result
    return result


def _kept(y: Any) -> Tensor | None:
    """Return a part of a state, which the core keeps as NumPy's, as a tensor."""
    return y if y is None or isinstance(y, Tensor) else torch.from_numpy(y)


def gated_mlp(
    x: Tensor,
    w_gate: Tensor,
    w_up: Tensor,
    w_down_t: Tensor,
    *,
    threshold: Limit,
    activation: Activation | None = "silu",
) -> Tensor:
    """Apply a gated MLP whose small gates are pruned, as `gossamer.gated_mlp`, differentiable.

    out[t] = Σ_i a[t, i]·u[t, i]·w_down_t[i] over the channels i with |a[t, i]| ≥ threshold[i] for
    at least one token t, where a = activation(x·w_gateᵀ) and u = x·w_upᵀ. Derivatives of any order
    reach x and the weights. They compute a anew; a gate that differs from its threshold by a
    rounding error may be on the other side then.

    Parameters
    ----------
    x : tensor [..., d], of any strides
    w_gate, w_up, w_down_t : tensor [h, d]
    threshold : number, or tensor [h] of float32 or x's type
    activation : as for `gossamer.linear`

    Returns
    -------
    tensor [..., d]

    Raises
    ------
    TypeError, ValueError
        As `gossamer.gated_mlp`.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([[1.0, 0.0], [0.0, 3.0]], requires_grad=True)
    >>> y = gated_mlp(torch.tensor([1.0, 2.0]), w, w, w, threshold=2.0, activation="relu")
    >>> torch.autograd.grad(y.sum(), w)[0]
    tensor([[  0.,   0.],
            [ 72., 108.]])
    """
    need_tensors("gated_mlp", x=x, w_gate=w_gate, w_up=w_up, w_down_t=w_down_t)
    _need_axes("gated_mlp", "x", x)
    name, lo, hi = read_activation("gated_mlp", activation)
    x, w_gate, _ = autocast(x, w_gate, None)
    w_up, w_down_t, _ = autocast(w_up, w_down_t, None)
    limits = _limits("gated_mlp", threshold)
    result: Tensor = call("gated_mlp", x, w_gate, w_up, w_down_t, *limits, name, lo, hi)
    return result


def gather_decode(
    indices: Tensor, values: Tensor, table: Tensor, *, bias: Tensor | None = None
) -> Tensor:
    """Sum some rows of a table, weighted, as `gossamer.gather_decode`, differentiable.

    out[t] = Σ_i values[t, i]·table[indices[t, i]] + bias. Derivatives of any order reach values,
    table and bias, with the same bits on every run.

    Parameters
    ----------
    indices : tensor [..., k], int32 or int64, from 0 to H - 1; may repeat
    values : tensor [..., k] of table's type, of any strides
    table : tensor [H, d]
    bias : tensor [d], or None

    Returns
    -------
    tensor [..., d]

    Raises
    ------
    TypeError, ValueError
        As `gossamer.gather_decode`.

    Examples
    --------
    >>> import torch
    >>> table = torch.tensor([[1.0, 0.0], [2.0, 3.0]], requires_grad=True)
    >>> gather_decode(torch.tensor([[1]]), torch.tensor([[4.0]]), table).sum().backward()
    >>> table.grad
    tensor([[0., 0.],
            [4., 4.]])
    """
    need_tensors("gather_decode", indices=indices, values=values, table=table)
    values, table, bias = autocast(values, table, bias)
    result: Tensor = call("gather_decode", indices, values, table)
    if bias is None:
        return result
    check_bias("gather_decode", bias, result)
    return result + bias


def topk_rows(
    x: Tensor,
    k: int,
    *,
    key: Tensor | None = None,
    tie: Literal["low", "high"] = "low",
    nan: Literal["lowest", "highest", "error"] = "lowest",
) -> tuple[Tensor, Tensor]:
    """Keep the k largest entries of each row, as `gossamer.prune.topk_rows`, differentiable.

    values[t, i] = x[t, indices[t, i]]; derivatives of any order reach x at those entries.

    Parameters
    ----------
    x : tensor [..., F], of any strides
    k : int from 0 to F
    key, tie, nan : as for `gossamer.prune.topk_rows`

    Returns
    -------
    values : tensor [..., k]
    indices : tensor [..., k], int32, in the order of the columns

    Raises
    ------
    TypeError, ValueError
        As `gossamer.prune.topk_rows`.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 3.0, 2.0]], requires_grad=True)
    >>> values, indices = topk_rows(x, 2)
    >>> values.sum().backward()
    >>> indices, x.grad
    (tensor([[1, 2]], dtype=torch.int32), tensor([[0., 1., 1.]]))
    """
    need_tensors("topk_rows", x=x)
    _need_axes("topk_rows", "x", x)
    values, indices = call("topk_rows", x, key, whole("topk_rows", "k", k), tie, nan)
    return values, indices


def _need_axes(op: str, name: str, x: Tensor) -> None:
    if x.dim() == 0:
        raise ValueError(f"{op}: {name}.ndim is 0, expected at least 1")


def _limits(op: str, threshold: Limit) -> tuple[Tensor | None, float]:
    if isinstance(threshold, Tensor):
        return (threshold.detach(), 0.0) if threshold.dim() else (None, float(threshold))
    return None, real(op, "threshold", threshold)


# Derivatives of the layers.


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _passing(v: Tensor, thresholds: Tensor | None, threshold: float) -> Tensor:
    """Return which channels the forward product reads: NaN passes, and a token speaks for all."""
    kind = torch.float64 if v.dtype == torch.float64 else torch.float32
    limit = torch.full((), threshold, dtype=kind, device=v.device)
    small = v.detach().to(kind).abs() < (limit if thresholds is None else thresholds.to(kind))
    return ~_rows(small).all(0)


def _run_sparse_linear(
    x: Tensor,
    wt: Tensor,
    thresholds: Tensor | None,
    threshold: float,
    bias: Tensor | None,
    activation: str,
    lo: float,
    hi: float,
) -> Tensor:
    result: Tensor = core.sparse_linear(
        *(row_major(x), row_major(wt)),
        threshold=threshold if thresholds is None else thresholds,
        bias=bias,
        activation=core_activation(activation, lo, hi),
    )
    return result


def _sparse_linear_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, wt, thresholds, ctx.threshold, _, activation, *_ = inputs
    if activation:
        raise NotImplementedError(
            "torch.ops.gossamer.sparse_linear: activation is given, which has no derivative here: "
            "gossamer.torch.sparse_linear applies it afterwards"
        )
    ctx.save_for_backward(x, wt, thresholds)


def _sparse_linear_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, wt, thresholds = ctx.saved_tensors
    passes = _passing(x, thresholds, ctx.threshold)
    dx = dwt = dbias = None
    if ctx.needs_input_grad[0]:
        dx = torch.where(passes, g @ wt.t(), 0)
    if ctx.needs_input_grad[1]:
        dwt = _rows(torch.where(passes, x, 0)).t() @ _rows(g)
    if ctx.needs_input_grad[4]:
        dbias = _rows(g).sum(0)
    return dx, dwt, None, None, dbias, None, None, None


def _run_delta(
    x: Tensor,
    wt: Tensor,
    last: Tensor,
    sums: Tensor,
    thresholds: Tensor | None,
    threshold: float,
    refresh: bool,
    bias: Tensor | None,
    activation: str,
    lo: float,
    hi: float,
) -> tuple[Tensor, ...]:
    state = DeltaState()
    state.last, state.sums = (y.clone(memory_format=torch.contiguous_format) for y in (last, sums))
    y = core.delta_linear(
        *(row_major(x), row_major(wt), state),
        threshold=threshold if thresholds is None else thresholds,
        refresh=refresh,
        bias=bias,
        activation=core_activation(activation, lo, hi),
    )
    sent = state.sent
    if not isinstance(sent, Tensor):
        sent = torch.tensor(sent, dtype=torch.int32)
    return y, state.last, state.sums, sent


def _delta_shapes(x: Tensor, wt: Tensor, last: Tensor, sums: Tensor, *_: Any) -> tuple[Tensor, ...]:
    y = x.new_empty((*x.shape[:-1], wt.shape[1]))
    return (
        y,
        last.new_empty(last.shape),
        sums.new_empty(sums.shape),
        y.new_empty((), dtype=torch.int32),
    )


def _delta_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, wt, last, _, thresholds, ctx.threshold, ctx.refresh, bias, activation, *_ = inputs
    if activation or bias is not None:
        raise NotImplementedError(
            "torch.ops.gossamer.delta_linear: bias or activation is given, which have no "
            "derivative here: gossamer.torch.delta_linear applies them afterwards"
        )
    ctx.mark_non_differentiable(output[3])
    ctx.save_for_backward(x, wt, last, thresholds)


def _delta_backward(ctx: Any, gy: Tensor, glast: Tensor, gsums: Tensor, _: Any) -> tuple[Any, ...]:
    x, wt, last, thresholds = ctx.saved_tensors
    kind = last.dtype
    change = x.to(kind) - last
    passes = _passing(change, thresholds, ctx.threshold)
    g = gsums + gy.to(kind)
    dsent = g @ wt.t().to(kind)  # by what a channel has sent
    held = glast
    if ctx.refresh:  # sums = last·wt, with the new last
        held = glast + dsent
        change, moved = torch.where(passes, x.to(kind), last), torch.where(passes, 0, held)
    else:
        change, moved = torch.where(passes, change, 0), torch.where(passes, -dsent, held)
    dx = torch.where(passes, glast + dsent, 0).to(x.dtype)
    dwt = (_rows(change).t() @ _rows(g)).to(wt.dtype) if ctx.needs_input_grad[1] else None
    dsums = torch.zeros_like(g) if ctx.refresh else g
    return dx, dwt, moved, dsums, None, None, None, None, None, None, None


def _run_gated_mlp(
    x: Tensor,
    w_gate: Tensor,
    w_up: Tensor,
    w_down_t: Tensor,
    thresholds: Tensor | None,
    threshold: float,
    activation: str,
    lo: float,
    hi: float,
) -> Tensor:
    result: Tensor = core.gated_mlp(
        *map(row_major, (x, w_gate, w_up, w_down_t)),
        threshold=threshold if thresholds is None else thresholds,
        activation=core_activation(activation, lo, hi),
    )
    return result


def _gated_mlp_setup(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.threshold, ctx.activation, ctx.lo, ctx.hi = inputs
    ctx.save_for_backward(*tensors)


def _gated_mlp_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, w_gate, w_up, w_down_t, thresholds = ctx.saved_tensors
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    # In the type of the kernel's sums, so that the same channels pass.
    x, g = _rows(x), _rows(g)
    z = x.to(kind) @ w_gate.to(kind).t()
    a = ACTIVATIONS[ctx.activation](z, ctx.lo, ctx.hi) if ctx.activation else z
    passes = _passing(a, thresholds, ctx.threshold)
    u = (x @ w_up.t()).to(kind)
    dh = torch.where(passes, (g @ w_down_t.t()).to(kind), 0)
    dz = (dh * u * _SLOPES[ctx.activation](z, ctx.lo, ctx.hi)).to(x.dtype)
    du = (dh * a).to(x.dtype)
    dx = dgate = dup = ddown = None
    if ctx.needs_input_grad[0]:
        dx = (dz @ w_gate + du @ w_up).reshape(ctx.saved_tensors[0].shape)
    if ctx.needs_input_grad[1]:
        dgate = dz.t() @ x
    if ctx.needs_input_grad[2]:
        dup = du.t() @ x
    if ctx.needs_input_grad[3]:
        ddown = torch.where(passes, a * u, 0).to(x.dtype).t() @ g
    return dx, dgate, dup, ddown, None, None, None, None, None


def _silu_slope(z: Tensor, _lo: float, _hi: float) -> Tensor:
    z = bounded(z)
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _gelu_slope(z: Tensor, _lo: float, _hi: float) -> Tensor:
    z = bounded(z)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density


_SLOPES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "": lambda z, _lo, _hi: torch.ones_like(z),
    "relu": lambda z, _lo, _hi: (z > 0).to(z.dtype),
    "relu6": lambda z, _lo, _hi: ((z > 0) & (z < 6)).to(z.dtype),
    "gelu": _gelu_slope,
    "silu": _silu_slope,
    "clamp": lambda z, lo, hi: ((z >= lo) & (z <= hi)).to(z.dtype),
}


# gather_decode and its two derivatives, which are closed under differentiation:
# V[t, i] = dy[t]·table[indices[t, i]] and T[r] = Σ values[t, i]·dy[t] over indices[t, i] = r.


def _run_decode(indices: Tensor, values: Tensor, table: Tensor) -> Tensor:
    result: Tensor = core.gather_decode(*map(row_major, (indices, values, table)))
    return result


def _run_decode_values(dy: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    dy, indices, table = map(row_major, (dy, indices, table))
    values = table.new_empty(()).expand(indices.shape).contiguous()  # not read
    result: Tensor = core.gather_decode_backward(dy, indices, values, table, needs=(True, False))[0]
    return result


def _run_decode_table(dy: Tensor, indices: Tensor, values: Tensor, rows: int) -> Tensor:
    dy, indices, values = map(row_major, (dy, indices, values))
    table = dy.new_empty((rows, dy.shape[-1]))  # not read
    result: Tensor = core.gather_decode_backward(dy, indices, values, table, needs=(False, True))[1]
    return result


def _decode_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _decode_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    indices, values, table = ctx.saved_tensors
    dvalues = dtable = None
    if ctx.needs_input_grad[1]:
        dvalues = call("gather_decode_values", g, indices, table)
    if ctx.needs_input_grad[2]:
        dtable = call("gather_decode_table", g, indices, values, table.shape[0])
    return None, dvalues, dtable


def _decode_values_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    dy, indices, table = ctx.saved_tensors
    ddy = dtable = None
    if ctx.needs_input_grad[0]:
        ddy = call("gather_decode", indices, g, table)
    if ctx.needs_input_grad[2]:
        dtable = call("gather_decode_table", dy, indices, g, table.shape[0])
    return ddy, None, dtable


def _decode_table_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])


def _decode_table_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    dy, indices, values = ctx.saved_tensors
    ddy = dvalues = None
    if ctx.needs_input_grad[0]:
        ddy = call("gather_decode", indices, values, g)
    if ctx.needs_input_grad[2]:
        dvalues = call("gather_decode_values", dy, indices, g)
    return ddy, None, dvalues, None


# topk_rows.


def _run_topk(x: Tensor, key: Tensor | None, k: int, tie: str, nan: str) -> tuple[Tensor, Tensor]:
    flat = row_major(_rows(x))
    keys = None if key is None else row_major(_rows(key))
    options: Any = {"tie": tie, "nan": nan}
    values, indices = core.topk_rows(flat, k, key=keys, **options)
    shape = (*x.shape[:-1], k)
    return values.view(shape), indices.view(shape)


def _topk_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.columns = inputs[0].shape[-1]


def _topk_backward(ctx: Any, g: Tensor, _indices: Any) -> tuple[Any, ...]:
    return call("topk_rows_backward", g, *ctx.saved_tensors, ctx.columns), None, None, None, None


def _run_scatter(dy: Tensor, indices: Tensor, columns: int) -> Tensor:
    result: Tensor = core.topk_rows_backward(row_major(dy), row_major(indices), columns)
    return result


def _scatter_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[1])


def _scatter_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    (indices,) = ctx.saved_tensors
    return torch.gather(g, -1, indices.long()), None, None


_LIMITS = "Tensor? thresholds, float threshold"
for _name, _operator in {
    "sparse_linear": Operator(
        f"(Tensor x, Tensor wt, {_LIMITS}, Tensor? bias, str activation, float lo, float hi)",
        _run_sparse_linear,
        lambda x, wt, *_: x.new_empty((*x.shape[:-1], wt.shape[1])),
        *(_sparse_linear_setup, _sparse_linear_backward),
    ),
    "delta_linear": Operator(
        f"(Tensor x, Tensor wt, Tensor last, Tensor sums, {_LIMITS}, bool refresh, Tensor? bias, "
        "str activation, float lo, float hi)",
        _run_delta,
        _delta_shapes,
        *(_delta_setup, _delta_backward),
        returns="(Tensor, Tensor, Tensor, Tensor)",
    ),
    "gated_mlp": Operator(
        f"(Tensor x, Tensor w_gate, Tensor w_up, Tensor w_down_t, {_LIMITS}, "
        "str activation, float lo, float hi)",
        _run_gated_mlp,
        lambda x, _gate, _up, down, *_: x.new_empty((*x.shape[:-1], down.shape[1])),
        *(_gated_mlp_setup, _gated_mlp_backward),
    ),
    "gather_decode": Operator(
        "(Tensor indices, Tensor values, Tensor table)",
        _run_decode,
        lambda indices, values, table: values.new_empty((*indices.shape[:-1], table.shape[1])),
        *(_decode_setup, _decode_backward),
    ),
    "gather_decode_values": Operator(
        "(Tensor dy, Tensor indices, Tensor table)",
        _run_decode_values,
        lambda dy, indices, _table: dy.new_empty(indices.shape),
        *(_decode_setup, _decode_values_backward),
    ),
    "gather_decode_table": Operator(
        "(Tensor dy, Tensor indices, Tensor values, SymInt rows)",
        _run_decode_table,
        lambda dy, _indices, _values, rows: dy.new_empty((rows, dy.shape[-1])),
        *(_decode_table_setup, _decode_table_backward),
    ),
    "topk_rows": Operator(
        "(Tensor x, Tensor? key, int k, str tie, str nan)",
        _run_topk,
        lambda x, _key, k, *_: (
            x.new_empty((*x.shape[:-1], k)),
            x.new_empty((*x.shape[:-1], k), dtype=torch.int32),
        ),
        *(_topk_setup, _topk_backward),
        by_rows=True,
        returns="(Tensor, Tensor)",
    ),
    "topk_rows_backward": Operator(
        "(Tensor dy, Tensor indices, SymInt columns)",
        _run_scatter,
        lambda dy, _indices, columns: dy.new_empty((*dy.shape[:-1], columns)),
        *(_scatter_setup, _scatter_backward),
    ),
}.items():
    register(_name, _operator)
