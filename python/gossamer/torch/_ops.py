"""The core's products as operators of PyTorch: compiled, exported, differentiated.

A matrix crosses the border to PyTorch's dispatcher as its component tensors (indptr, indices,
values), the name of its format and its sizes. Five operators are closed under differentiation: with
W the matrix [M, K] of those parts and V one of its structure that has other values,

    linear(x, W) = x·Wᵀ         linear_t(x, W) = x·W
    spmm(W, b) = W·b or Wᵀ·b    sddmm(a, b, W) = (a·bᵀ) at W's entries
    sampled(g, x, W) = (gᵀ·x) at W's entries

and the derivatives of each, of any order, are calls of the others. The gradient of values exists at
the entries only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gossamer import _interop, products
from gossamer.formats import BSR, CSR, Packed, pack


class Parts(NamedTuple):
    """What a sparse matrix is to the dispatcher."""

    indptr: Tensor | None
    indices: Tensor
    values: Tensor
    format: str
    sizes: list[int]


class Format(NamedTuple):
    """How a format comes apart and together again."""

    kind: Any
    make: Callable[..., Any]
    """make(indptr, indices, values, sizes, check): the core's matrix."""
    packs: bool


FORMATS = {
    "csr": Format(CSR, lambda p, i, v, sizes, check: CSR(p, i, v, (*sizes,), check=check), True),
    "bsr": Format(BSR, lambda p, i, v, sizes, check: BSR(p, i, v, (*sizes,), check=check), False),
}


def parts_of(op: str, argument: str, matrix: Any) -> Parts:
    """Take a matrix apart; its values keep their place in a graph of gradients."""
    for name, form in FORMATS.items():
        if isinstance(matrix, form.kind):
            native: Any = matrix._native
            values = getattr(native, matrix._VALUES)
            indptr, indices = map(_interop.as_torch, (native.indptr, native.indices))
            return Parts(indptr, indices, _interop.as_torch(values), name, list(native.shape))
    if isinstance(matrix, Packed):
        raise TypeError(
            f"{op}: {argument} is a Packed, which has no gradient, expected the matrix that it was "
            "made of (gossamer.torch.SparseLinear packs by itself)"
        )
    names = " or a ".join(form.kind.__name__ for form in FORMATS.values())
    raise TypeError(f"{op}: {argument} is a {type(matrix).__name__}, expected a {names}")


# Structure is checked once, not at each call: what was found right is remembered by its storages,
# places and versions. A weak reference to a storage keeps others from getting its identity.
_checked: dict[tuple[Any, ...], tuple[StorageWeakRef, ...]] = {}
_MOST = 1024


def _identity(*tensors: Tensor) -> tuple[Any, ...] | None:
    """Return what tells contents apart as long as the storages are there, or None."""
    key: list[Any] = []
    for tensor in tensors:
        if tensor.is_inference():  # has no version
            return None
        storage = tensor.untyped_storage()
        key += (storage._cdata, tensor.storage_offset(), tensor.shape, tensor._version)
    return tuple(key)


def _references(*tensors: Tensor) -> tuple[StorageWeakRef, ...]:
    return tuple(StorageWeakRef(tensor.untyped_storage()) for tensor in tensors)


def _matrix(
    indptr: Tensor | None, indices: Tensor, values: Tensor, format: str, sizes: list[int]
) -> Any:
    """Return the core's matrix over the parts; its structure is checked unless it was before."""
    make = FORMATS[format].make
    structure = [indices] if indptr is None else [indptr, indices]
    key = _identity(*structure)
    if key is not None:
        key = (*key, format, *sizes, values.shape)
        if key in _checked:
            return make(indptr, indices, values, sizes, False)
    matrix = make(indptr, indices, values, sizes, None)
    if key is not None:
        if len(_checked) >= _MOST:
            gone = [k for k, refs in list(_checked.items()) if any(r.expired() for r in refs)]
            for old in gone or list(_checked):
                _checked.pop(old, None)
        _checked[key] = _references(*structure)
    return matrix


class _Slot:
    """The packed form of one module's weight, and what it was packed of."""

    __slots__ = ("identity", "matrix", "references")

    def __init__(self) -> None:
        self.identity: tuple[Any, ...] | None = None
        self.matrix: Any = None
        self.references: tuple[StorageWeakRef, ...] = ()


_slots: dict[int, _Slot] = {}
_last_key = 0


def new_slot() -> int:
    """Return the key of a new place for a packed matrix; 0 is none."""
    global _last_key  # noqa: PLW0603
    _last_key += 1
    _slots[_last_key] = _Slot()
    return _last_key


def free_slot(key: int) -> None:
    """Give a place back."""
    _slots.pop(key, None)


def empty_slot(key: int) -> None:
    """Forget what is packed at a place."""
    if key in _slots:
        _slots[key] = _Slot()


def slot_layouts(key: int) -> str | None:
    """Return the layouts that are packed at a place, or None."""
    slot = _slots.get(key)
    return None if slot is None or slot.matrix is None else str(slot.matrix.layouts)


def _weight(
    key: int,
    indptr: Tensor | None,
    indices: Tensor,
    values: Tensor,
    format: str,
    sizes: list[int],
) -> Any:
    """Return the matrix, packed where `key` has a place for it; made anew when values changed."""
    slot = _slots.get(key)
    if slot is None or not FORMATS[format].packs or not values.is_cpu:
        return _matrix(indptr, indices, values, format, sizes)
    arrays = [x for x in (indptr, indices, values) if x is not None]
    identity = _identity(*arrays)
    if identity is None:
        return _matrix(indptr, indices, values, format, sizes)
    if slot.identity != identity:
        slot.matrix = pack(_matrix(indptr, indices, values, format, sizes))
        slot.identity, slot.references = identity, _references(*arrays)
    return slot.matrix


def _rows(x: Tensor) -> Tensor:
    """Return x [..., K] as a matrix that the core takes: a view where one can be."""
    flat = x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return _row_major(flat)


def _row_major(x: Tensor) -> Tensor:
    plain = x.stride(-1) == 1 or x.shape[-1] <= 1
    return x if plain and all(s >= 0 for s in x.stride()) else x.contiguous()


def _activation(name: str, lo: float, hi: float) -> Any:
    return ("clamp", lo, hi) if name == "clamp" else name or None


# Implementations.


def _linear(
    x: Tensor,
    indptr: Tensor | None,
    indices: Tensor,
    values: Tensor,
    format: str,
    sizes: list[int],
    bias: Tensor | None,
    activation: str,
    lo: float,
    hi: float,
    key: int,
) -> Tensor:
    w = _weight(key, indptr, indices, values, format, sizes)
    _features("linear", x, sizes[1], "w.shape[1]")
    y: Tensor = products.linear(_rows(x), w, bias=bias, activation=_activation(activation, lo, hi))
    return y if x.dim() == 2 else y.view(*x.shape[:-1], sizes[0])


def _linear_t(
    x: Tensor,
    indptr: Tensor | None,
    indices: Tensor,
    values: Tensor,
    format: str,
    sizes: list[int],
) -> Tensor:
    w = _matrix(indptr, indices, values, format, sizes)
    _features("linear_t", x, sizes[0], "w.shape[0]")
    y: Tensor = products.linear_backward(_rows(x), None, w, needs=(True, False, False))[0]
    return y if x.dim() == 2 else y.view(*x.shape[:-1], sizes[1])


def _features(op: str, x: Tensor, count: int, expected: str) -> None:
    if x.dim() == 0:
        raise ValueError(f"{op}: x.ndim is 0, expected at least 1")
    if x.shape[-1] != count:
        axis = x.dim() - 1
        raise ValueError(f"{op}: x.shape[{axis}] is {x.shape[-1]}, expected {expected} = {count}")


def _spmm(
    indptr: Tensor | None,
    indices: Tensor,
    values: Tensor,
    format: str,
    sizes: list[int],
    b: Tensor,
    transpose_a: bool,
) -> Tensor:
    a = _matrix(indptr, indices, values, format, sizes)
    result: Tensor = products.spmm(a, _row_major(b) if b.dim() else b, transpose_a=transpose_a)
    return result


def _sddmm(
    a: Tensor,
    b: Tensor,
    indptr: Tensor | None,
    indices: Tensor,
    values: Tensor,
    format: str,
    sizes: list[int],
) -> Tensor:
    pattern = _matrix(indptr, indices, values, format, sizes)
    result: Tensor = products.sddmm(_row_major(a), _row_major(b), pattern)
    return result


def _sampled(
    g: Tensor,
    x: Tensor,
    indptr: Tensor | None,
    indices: Tensor,
    values: Tensor,
    format: str,
    sizes: list[int],
) -> Tensor:
    pattern = _matrix(indptr, indices, values, format, sizes)
    needs = (False, True, False)
    result: Tensor = products.linear_backward(_rows(g), _rows(x), pattern, needs=needs)[1]
    return result


# Derivatives. ctx.parts are the numbers of a matrix; its tensors are among the saved.

_ops: Any = torch.ops.gossamer


def call(name: str, *args: Any) -> Tensor:
    """Call an operator; inside torch.func's transformations, as the function that they know."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return _transformed[name].apply(*args)
    result: Tensor = getattr(_ops, name)(*args)
    return result


def _linear_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, indptr, indices, values, ctx.format, ctx.sizes, _, activation, *_ = inputs
    if activation:
        raise NotImplementedError(
            "torch.ops.gossamer.linear: activation is given, which has no derivative here: "
            "gossamer.torch.linear applies it afterwards"
        )
    _save(ctx, (x, values), indptr, indices, values)


def _linear_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, _, w = _saved(ctx)
    dx = dvalues = dbias = None
    if ctx.needs_input_grad[0]:
        dx = call("linear_t", g, *w)
    if ctx.needs_input_grad[3]:
        dvalues = call("sampled", g, x, *w)
    if ctx.needs_input_grad[6]:
        dbias = g.sum(dim=tuple(range(g.dim() - 1))) if g.dim() > 1 else g
    return dx, None, None, dvalues, None, None, dbias, None, None, None, None


def _linear_t_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, indptr, indices, values, ctx.format, ctx.sizes = inputs
    _save(ctx, (x, values), indptr, indices, values)


def _linear_t_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, _, w = _saved(ctx)
    dx = dvalues = None
    if ctx.needs_input_grad[0]:
        dx = call("linear", g, *w, *PLAIN)
    if ctx.needs_input_grad[3]:
        dvalues = call("sampled", x, g, *w)
    return dx, None, None, dvalues, None, None


def _spmm_setup(ctx: Any, inputs: Any, output: Any) -> None:
    indptr, indices, values, ctx.format, ctx.sizes, b, ctx.transposed = inputs
    _save(ctx, (values, b), indptr, indices, values)


def _spmm_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    _, b, w = _saved(ctx)
    db = dvalues = None
    if ctx.needs_input_grad[2]:
        b2, g2 = (b, g) if b.dim() == 2 else (b[:, None], g[:, None])
        dvalues = call("sddmm", b2, g2, *w) if ctx.transposed else call("sddmm", g2, b2, *w)
    if ctx.needs_input_grad[5]:
        db = call("spmm", *w, g, not ctx.transposed)
    return None, None, dvalues, None, None, db, None


def _sddmm_setup(ctx: Any, inputs: Any, output: Any) -> None:
    a, b, indptr, indices, values, ctx.format, ctx.sizes = inputs
    _save(ctx, (a, b), indptr, indices, values)


def _sddmm_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    a, b, w = _saved(ctx)
    w = w._replace(values=g.contiguous())
    da = call("spmm", *w, b, False) if ctx.needs_input_grad[0] else None
    db = call("spmm", *w, a, True) if ctx.needs_input_grad[1] else None
    return da, db, None, None, None, None, None


def _sampled_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    left, right, w = _saved(ctx)
    w = w._replace(values=g.contiguous())
    dleft = call("linear", right, *w, *PLAIN) if ctx.needs_input_grad[0] else None
    dright = call("linear_t", left, *w) if ctx.needs_input_grad[1] else None
    return dleft, dright, None, None, None, None, None


def _save(ctx: Any, pair: tuple[Tensor, Tensor], *matrix: Tensor | None) -> None:
    """Save the two operands, each only where the other's derivative needs it, and the matrix."""
    first, second = pair
    ctx.save_for_backward(
        first if second.requires_grad else None, second if first.requires_grad else None, *matrix
    )


def _saved(ctx: Any) -> tuple[Tensor, Tensor, Parts]:
    first, second, indptr, indices, values = ctx.saved_tensors
    return first, second, Parts(indptr, indices, values, ctx.format, ctx.sizes)


#: linear's arguments behind the matrix, for the bare product.
PLAIN = (None, "", 0.0, 0.0, 0)

# Shapes of results, for tensors without memory.


def _linear_shape(x: Tensor, _p: Any, _i: Any, _v: Any, _f: str, sizes: list[int], *_: Any) -> Any:
    return x.new_empty((*x.shape[:-1], sizes[0]))


def _linear_t_shape(x: Tensor, _p: Any, _i: Any, _v: Any, _f: str, sizes: list[int]) -> Any:
    return x.new_empty((*x.shape[:-1], sizes[1]))


def _spmm_shape(
    _p: Any, _i: Any, _v: Any, _f: str, sizes: list[int], b: Tensor, transpose_a: bool
) -> Any:
    return b.new_empty((sizes[1] if transpose_a else sizes[0], *b.shape[1:]))


def _sddmm_shape(a: Tensor, _b: Any, _p: Any, _i: Any, values: Tensor, *_: Any) -> Any:
    return a.new_empty(values.shape)


# Batches, for torch.vmap: one of activation rows is one more leading axis. What else is batched is
# taken one by one.


def _one_by_one(op: Any, size: int, dims: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
    results = [
        op(*(x if d is None else x.select(d, i) for x, d in zip(args, dims, strict=True)))
        for i in range(size)
    ]
    return torch.stack(results), 0


def _batched(name: str, *, by_rows: bool) -> Callable[..., Any]:
    def rule(info: Any, dims: tuple[Any, ...], *args: Any) -> Any:
        op = functools.partial(call, name)
        dims = tuple(d if isinstance(d, int) else None for d in dims)  # of lists, a list
        if by_rows and all(d is None for d in dims[1:]):
            return op(args[0].movedim(dims[0], 0), *args[1:]), 0
        return _one_by_one(op, info.batch_size, dims, args)

    return rule


_MATRIX = "Tensor? indptr, Tensor indices, Tensor values, str format, int[] sizes"


class _Operator(NamedTuple):
    schema: str
    run: Callable[..., Tensor]
    shape: Callable[..., Any]
    setup: Callable[..., None]
    backward: Callable[..., Any]
    by_rows: bool = False


#: One line an operator.
OPERATORS = {
    "linear": _Operator(
        f"(Tensor x, {_MATRIX}, Tensor? bias, str activation, float lo, float hi, int key)",
        *(_linear, _linear_shape, _linear_setup, _linear_backward),
        by_rows=True,
    ),
    "linear_t": _Operator(
        f"(Tensor x, {_MATRIX})",
        *(_linear_t, _linear_t_shape, _linear_t_setup, _linear_t_backward),
        by_rows=True,
    ),
    "spmm": _Operator(
        f"({_MATRIX}, Tensor b, bool transpose_a)",
        *(_spmm, _spmm_shape, _spmm_setup, _spmm_backward),
    ),
    "sddmm": _Operator(
        f"(Tensor a, Tensor b, {_MATRIX})",
        *(_sddmm, _sddmm_shape, _sddmm_setup, _sddmm_backward),
    ),
    "sampled": _Operator(
        f"(Tensor g, Tensor x, {_MATRIX})",
        *(_sampled, _sddmm_shape, _sddmm_setup, _sampled_backward),
    ),
}


def _differentiable(name: str, operator: _Operator) -> Callable[..., Tensor]:
    """Return the kernel that records an operator's derivative where one is asked for.

    What torch.library.register_autograd makes took 160 µs of a forward call of 11 arguments.
    """

    def forward(keys: Any, *args: Any) -> Tensor:
        op = getattr(_ops, name).default
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = op.redispatch(keys & torch._C._after_autograd_keyset, *args)
        return result

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        operator.setup(ctx, inputs[1:], output)

    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad
        ctx.needs_input_grad = needed[1:]
        try:
            return (None, *operator.backward(ctx, g))
        finally:
            ctx.needs_input_grad = needed

    function: Any = type(
        f"Gossamer_{name}",
        (torch.autograd.Function,),
        {
            "forward": staticmethod(forward),
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(backward),
        },
    )

    def kernel(keys: Any, *args: Any) -> Tensor:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return function.apply(keys, *args)
        return forward(keys, *args)

    return kernel


def _transformable(name: str, operator: _Operator) -> Any:
    """Return an operator as a function that torch.func differentiates and batches."""

    def forward(*args: Any) -> Tensor:
        result: Tensor = getattr(_ops, name)(*args)
        return result

    members = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(operator.setup),
        "backward": staticmethod(operator.backward),
        "vmap": staticmethod(_batched(name, by_rows=operator.by_rows)),
    }
    return type(f"Transformed_{name}", (torch.autograd.Function,), members)


_transformed = {name: _transformable(name, operator) for name, operator in OPERATORS.items()}
_library = torch.library.Library("gossamer", "DEF")
for _name, _operator in OPERATORS.items():
    _library.define(f"{_name}{_operator.schema} -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(_name, _operator.run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"gossamer::{_name}", _operator.shape, lib=_library)
    _library.impl(_name, _differentiable(_name, _operator), "Autograd", with_keyset=True)
    torch.library.register_vmap(
        f"gossamer::{_name}", _batched(_name, by_rows=_operator.by_rows), lib=_library
    )
