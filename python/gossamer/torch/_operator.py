"""What the operators have in common: registration with PyTorch, and structure checked once."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.multiprocessing.reductions import StorageWeakRef

# Structure is checked once, not at each call: what was found right is remembered by its storages,
# places and versions. A weak reference to a storage keeps others from getting its identity.
_checked: dict[tuple[Any, ...], tuple[StorageWeakRef, ...]] = {}
_MOST = 1024


def identity_of(*tensors: Tensor) -> tuple[Any, ...] | None:
    """Return what tells contents apart as long as the storages are there, or None."""
    key: list[Any] = []
    for tensor in tensors:
        if tensor.is_inference():  # has no version
            return None
        storage = tensor.untyped_storage()
        key += (storage._cdata, tensor.storage_offset(), tensor.shape, tensor._version)
    return tuple(key)


def references_to(*tensors: Tensor) -> tuple[StorageWeakRef, ...]:
    return tuple(StorageWeakRef(tensor.untyped_storage()) for tensor in tensors)


def remembered(
    structure: list[Tensor], facts: tuple[Any, ...], make: Callable[[bool | None], Any]
) -> Any:
    """Return make(check) over index tensors, which are checked unless they were before."""
    key = identity_of(*structure)
    if key is None:
        return make(None)
    key = (*key, *facts)
    if key in _checked:
        return make(False)
    made = make(None)
    # What is gone is forgotten as others come: what is left of a storage, though small, keeps the C
    # library from using the memory around it anew.
    for old in list(itertools.islice(_checked, 2)):
        references = _checked.pop(old, None)
        if references is not None and not any(r.expired() for r in references):
            _checked[old] = references
    if len(_checked) >= _MOST:
        gone = [k for k, refs in list(_checked.items()) if any(r.expired() for r in refs)]
        for old in gone or list(_checked):
            _checked.pop(old, None)
    _checked[key] = references_to(*structure)
    return made


class Operator(NamedTuple):
    """An operator of PyTorch's dispatcher."""

    schema: str
    run: Callable[..., Any]
    """What it computes, of tensors without derivatives."""
    shape: Callable[..., Any]
    """Results without memory, for operands without memory."""
    setup: Callable[..., None]
    """setup(ctx, inputs, output) saves what the derivative needs."""
    backward: Callable[..., Any]
    """backward(ctx, *gradients): a gradient or None for each input."""
    by_rows: bool = False
    """Is one more axis in front of the first input one more axis of results?"""
    returns: str = "Tensor"


def saves_nothing(_ctx: Any, _inputs: Any, _output: Any) -> None:
    """Save nothing: of an operator without a derivative, which says so where one is asked for."""


def refuses(message: str) -> Callable[..., Any]:
    """Return the derivative of an operator that has none."""

    def backward(_ctx: Any, *_gradients: Any) -> Any:
        raise NotImplementedError(message)

    return backward


_ops: Any = torch.ops.gossamer
_library = torch.library.Library("gossamer", "DEF")
_transformed: dict[str, Any] = {}


def register(name: str, operator: Operator) -> None:
    """Make an operator known to PyTorch as torch.ops.gossamer.<name>."""
    tags = (torch.Tag.pt2_compliant_tag,)
    _library.define(f"{name}{operator.schema} -> {operator.returns}", tags=tags)
    _library.impl(name, operator.run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"gossamer::{name}", operator.shape, lib=_library)
    _library.impl(name, _differentiable(name, operator), "Autograd", with_keyset=True)
    rule = _batched(name, by_rows=operator.by_rows)
    torch.library.register_vmap(f"gossamer::{name}", rule, lib=_library)
    _transformed[name] = _transformable(name, operator, rule)


def call(name: str, *args: Any) -> Any:
    """Call an operator; inside torch.func's transformations, as the function that they know."""
    if torch.compiler.is_compiling():
        return getattr(_ops, name)(*args)
    try:
        if torch._C._are_functorch_transforms_active():
            return _transformed[name].apply(*args)
        return getattr(_ops, name)(*args)
    except RuntimeError as error:
        _explain(name, str(error))
        raise


_TYPES = {
    "Tensor": "a tensor",
    "bool": "True or False",
    "float": "a number",
    "int": "an integer",
    "str": "a string",
}
_REFUSED = re.compile(
    r"Expected a value of type '(Optional\[)?(\w+)\]?' for argument '(\w+)' but instead found "
    r"type '([^']+)'"
)


def _explain(name: str, message: str) -> None:
    """Raise in our words what the dispatcher said of an argument that its schema does not take."""
    found = _REFUSED.search(message)
    if found is None or found[2] not in _TYPES:
        return
    expected = _TYPES[found[2]] + (" or None" if found[1] else "")
    op = name.removeprefix("packed_")
    raise TypeError(f"{op}: {found[3]} is a {found[4]}, expected {expected}") from None


def nobody_listens(*tensors: Tensor) -> bool:
    """Say whether a call on these may pass by the dispatcher, which takes some 20 µs of it.

    It may where nothing is compiled, transformed, traced, profiled or intercepted.
    """
    return all(type(x) in _PLAIN and not x.is_meta for x in tensors) and not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch.autograd._profiler_enabled()
        or forward_ad._current_level >= 0
    )


_PLAIN = (Tensor, torch.nn.Parameter)


def autocasts(x: Tensor) -> bool:
    """Say whether an autocast region is on for the device of a tensor."""
    kind = x.device.type
    return kind != "meta" and bool(torch.is_autocast_enabled(kind))  # which does not know this one


def _differentiable(name: str, operator: Operator) -> Callable[..., Any]:
    """Return the kernel that records an operator's derivative where one is asked for.

    What torch.library.register_autograd makes took 160 µs of a forward call of 11 arguments.
    """

    def below(keys: Any, *args: Any) -> Any:
        op = getattr(_ops, name).default
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keys & torch._C._after_autograd_keyset, *args)

    # Not by setup_context, for which PyTorch binds the arguments to a signature at each call.
    def forward(ctx: Any, keys: Any, *args: Any) -> Any:
        output = below(keys, *args)
        operator.setup(ctx, args, output)
        return output

    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad
        ctx.needs_input_grad = needed[1:]
        try:
            return (None, *operator.backward(ctx, *gradients))
        finally:
            ctx.needs_input_grad = needed

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(f"Gossamer_{name}", (torch.autograd.Function,), members)

    def kernel(keys: Any, *args: Any) -> Any:
        if forward_ad._current_level >= 0:
            _refuse_tangents(name, args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return function.apply(keys, *args)
        return below(keys, *args)

    return kernel


def _refuse_tangents(name: str, args: tuple[Any, ...]) -> None:
    """Refuse operands of forward mode, whose derivatives the result would not have."""
    for x in args:
        if isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None:
            raise NotImplementedError(
                f"{name}: an operand has a tangent of forward mode, expected none: derivatives are "
                "in reverse"
            )


def direct(name: str, operator: Operator) -> Any:
    """Return an operator's derivative as a function that passes by the dispatcher.

    For plain tensors of which `nobody_listens`: a forward call of `linear` takes 30 µs less.
    """

    def forward(ctx: Any, *args: Any) -> Any:
        output = operator.run(*args)
        operator.setup(ctx, args, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(operator.backward)}
    return type(f"Gossamer_{name}", (torch.autograd.Function,), members)


def _transformable(name: str, operator: Operator, rule: Callable[..., Any]) -> Any:
    """Return an operator as a function that torch.func differentiates and batches."""

    def forward(*args: Any) -> Any:
        return getattr(_ops, name)(*args)

    members = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(operator.setup),
        "backward": staticmethod(operator.backward),
        "vmap": staticmethod(rule),
    }
    return type(f"Transformed_{name}", (torch.autograd.Function,), members)


def _batched(name: str, *, by_rows: bool) -> Callable[..., Any]:
    """Return the rule of torch.vmap: one product of more rows where it can be, else a loop."""
    op = functools.partial(call, name)

    def rule(info: Any, dims: tuple[Any, ...], *args: Any) -> Any:
        dims = tuple(d if isinstance(d, int) else None for d in dims)  # of lists, a list
        if by_rows and all(d is None for d in dims[1:]):
            return op(args[0].movedim(dims[0], 0), *args[1:]), 0
        if info.batch_size == 0:  # one of zeros tells the shape of none
            blank = (
                x if d is None else x.new_zeros((*x.shape[:d], *x.shape[d + 1 :]))
                for x, d in zip(args, dims, strict=True)
            )
            made = op(*blank)
            if isinstance(made, Tensor):
                return made.new_empty((0, *made.shape)), 0
            return tuple(x.new_empty((0, *x.shape)) for x in made), (0,) * len(made)
        each = [
            op(*(x if d is None else x.select(d, i) for x, d in zip(args, dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(map(torch.stack, zip(*each, strict=True))), (0,) * len(each[0])

    return rule
