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

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gossamer import _interop, products
from gossamer.formats import BSR, CSR, NM, Packed, pack
from gossamer.torch._operator import (
    Operator,
    call,
    direct,
    identity_of,
    nobody_listens,
    references_to,
    register,
    remembered,
)


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


def _make_nm(_p: Any, indices: Tensor, values: Tensor, sizes: list[int], check: bool | None) -> NM:
    rows, cols, n, m, axis = sizes
    return NM(values, indices, (rows, cols), n, m, axis=axis, check=check is not False)


FORMATS = {
    "csr": Format(CSR, lambda p, i, v, sizes, check: CSR(p, i, v, (*sizes,), check=check), True),
    "bsr": Format(BSR, lambda p, i, v, sizes, check: BSR(p, i, v, (*sizes,), check=check), False),
    "nm": Format(NM, _make_nm, False),
}


def parts_of(op: str, argument: str, matrix: Any) -> Parts:
    """Take a matrix apart; its values keep their place in a graph of gradients."""
    for name, form in FORMATS.items():
        if isinstance(matrix, form.kind):
            native: Any = matrix._native
            values = _interop.as_torch(getattr(native, getattr(form.kind, "_VALUES", "values")))
            indices, sizes = _interop.as_torch(native.indices), list(native.shape)
            if name == "nm":
                sizes += (native.n, native.m, native.axis)
                return Parts(None, indices, values, name, sizes)
            return Parts(_interop.as_torch(native.indptr), indices, values, name, sizes)
    if isinstance(matrix, Packed):
        raise TypeError(
            f"{op}: {argument} is a Packed, expected the matrix that it was made of "
            "(gossamer.torch.SparseLinear packs by itself)"
        )
    hint = _interop.sparse_hint(matrix)
    names = "a CSR, a BSR or an NM"
    raise TypeError(f"{op}: {argument} is a {type(matrix).__name__}, expected {names}{hint}")


def _matrix(
    indptr: Tensor | None, indices: Tensor, values: Tensor, format: str, sizes: list[int]
) -> Any:
    """Return the core's matrix over the parts; its structure is checked unless it was before."""
    make = FORMATS[format].make
    structure = [indices] if indptr is None else [indptr, indices]
    facts = (format, *sizes, values.shape)
    return remembered(structure, facts, lambda check: make(indptr, indices, values, sizes, check))


class _Slot:
    """The packed form of one module's weight, and what it was packed of; or the plain matrix."""

    __slots__ = ("identity", "matrix", "places", "plain", "references")

    def __init__(self) -> None:
        #: Of the structure and of the values.
        self.identity: tuple[Any, Any] | None = None
        self.matrix: Any = None
        self.references: tuple[Any, ...] = ()
        #: The matrix over the module's own tensors, and where those are.
        self.plain: Any = None
        self.places: Any = None


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
    """Return the matrix, packed where `key` has a place for it; made anew when values changed.

    Where -key has a place, it is the plain matrix, kept as long as its tensors are where they were.
    """
    if key < 0:
        return _kept(_slots.get(-key), indptr, indices, values, format, sizes)
    slot = _slots.get(key)
    if slot is None or not FORMATS[format].packs or not values.is_cpu:
        return _matrix(indptr, indices, values, format, sizes)
    structure = [indices] if indptr is None else [indptr, indices]
    places, contents = identity_of(*structure), identity_of(values)
    if places is None or contents is None:
        return _matrix(indptr, indices, values, format, sizes)
    if slot.identity == (places, contents):
        return slot.matrix
    old = slot.identity
    if (
        old is not None
        and old[0] == places
        and slot.matrix.dtype == _interop.dtype_name(values.dtype)
    ):
        slot.matrix.update(values)
    else:
        slot.matrix = pack(_matrix(indptr, indices, values, format, sizes))
    slot.identity, slot.references = (places, contents), references_to(*structure, values)
    return slot.matrix


def _kept(slot: _Slot | None, *parts: Any) -> Any:
    """Return the matrix that a place keeps, or make and keep it."""
    indptr, indices, values, *_ = parts
    structure = identity_of(indices) if indptr is None else identity_of(indptr, indices)
    if slot is None or structure is None or values.is_inference():
        return _matrix(*parts)
    place = (values.untyped_storage()._cdata, values.data_ptr(), values.shape, values.dtype)
    if slot.places != (structure, place):  # the matrix keeps its storages: no other has their place
        slot.plain, slot.places = _matrix(*parts), (structure, place)
    return slot.plain


def _rows(x: Tensor) -> Tensor:
    """Return x [..., K] as a matrix that the core takes: a view where one can be."""
    flat = x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return row_major(flat)


def row_major(x: Tensor) -> Tensor:
    """Return x, or a copy where its last axis has another stride than 1."""
    plain = x.stride(-1) == 1 or x.shape[-1] <= 1
    return x if plain and all(s >= 0 for s in x.stride()) else x.contiguous()


def core_activation(name: str, lo: float, hi: float) -> Any:
    """Return what the core takes as an activation."""
    return ("clamp", lo, hi) if name == "clamp" else name or None


# Implementations.


def run_linear(
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
    """Compute activation(x·Wᵀ + bias), packed at the place `key` unless it is 0."""
    w = _weight(key, indptr, indices, values, format, sizes)
    _features("linear", x, sizes[1], "w.shape[1]")
    y: Tensor = products.linear(
        _rows(x), w, bias=bias, activation=core_activation(activation, lo, hi)
    )
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
    result: Tensor = products.spmm(a, row_major(b) if b.dim() else b, transpose_a=transpose_a)
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
    result: Tensor = products.sddmm(row_major(a), row_major(b), pattern)
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


def _linear_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, indptr, indices, values, ctx.format, ctx.sizes, _, activation, _, _, ctx.key = inputs
    if activation:
        raise NotImplementedError(
            "torch.ops.gossamer.linear: activation is given, which has no derivative here: "
            "gossamer.torch.linear applies it afterwards"
        )
    _save(ctx, (x, values), indptr, indices, values)


def _linear_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, _, w = _saved(ctx)
    dx = dvalues = dbias = None
    if not torch.is_grad_enabled() and nobody_listens(g):  # all at once
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[3], ctx.needs_input_grad[6])
        matrix = _weight(min(ctx.key, 0), *w)
        rows = None if x is None or not needs[1] else _rows(x)
        dx, dvalues, dbias = products.linear_backward(_rows(g), rows, matrix, needs=needs)
        if dx is not None and g.dim() != 2:
            dx = dx.view(*g.shape[:-1], w.sizes[1])
        return dx, None, None, dvalues, None, None, dbias, None, None, None, None
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
        left, right = (b2, g2) if ctx.transposed else (g2, b2)
        if w.format == "nm":
            dvalues = call("sampled", left.t(), right.t(), *w)
        else:
            dvalues = call("sddmm", left, right, *w)
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


_MATRIX = "Tensor? indptr, Tensor indices, Tensor values, str format, int[] sizes"


#: One line an operator.
OPERATORS = {
    "linear": Operator(
        f"(Tensor x, {_MATRIX}, Tensor? bias, str activation, float lo, float hi, int key)",
        *(run_linear, _linear_shape, _linear_setup, _linear_backward),
        by_rows=True,
    ),
    "linear_t": Operator(
        f"(Tensor x, {_MATRIX})",
        *(_linear_t, _linear_t_shape, _linear_t_setup, _linear_t_backward),
        by_rows=True,
    ),
    "spmm": Operator(
        f"({_MATRIX}, Tensor b, bool transpose_a)",
        *(_spmm, _spmm_shape, _spmm_setup, _spmm_backward),
    ),
    "sddmm": Operator(
        f"(Tensor a, Tensor b, {_MATRIX})",
        *(_sddmm, _sddmm_shape, _sddmm_setup, _sddmm_backward),
    ),
    "sampled": Operator(
        f"(Tensor g, Tensor x, {_MATRIX})",
        *(_sampled, _sddmm_shape, _sddmm_setup, _sampled_backward),
    ),
}
for _name, _operator in OPERATORS.items():
    register(_name, _operator)
_direct_linear = direct("linear", OPERATORS["linear"])


def recorded_linear(x: Tensor, parts: Parts, *rest: Any) -> Tensor:
    """Call `linear` where a derivative is recorded."""
    if nobody_listens(x, parts.values):
        result: Tensor = _direct_linear.apply(x, *parts, *rest)
    else:
        result = call("linear", x, *parts, *rest)
    return result
