"""Array frameworks: how each lends its arrays and makes new ones.

This is the only module that names frameworks. It imports none but NumPy until it meets an array of
one. The native half calls `borrow`, `borrow_out`, `empty` and `finish` for every array that is
neither a `numpy.ndarray` itself nor a `_core.Tensor`.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np

from gossamer import _backend, _core

Shape = tuple[int, ...]


def _same(array: Any) -> Any:
    return array


def _never(_array: Any) -> None:
    return None


def _anything(_array: Any, _op: str, _argument: str) -> None:
    return None


def _anywhere(_array: Any) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()


class Framework(NamedTuple):
    """What gossamer needs of one array framework."""

    borrow: Callable[[Any], Any]
    """What to read in place of an array: a NumPy array, a DLPack capsule or an array to export."""
    stream: Callable[[Any], int | None]
    """The stream to order an export against, in the array API's numbering; None on the CPU."""
    empty: Callable[[Shape, str, Any], Any]
    """A new writable array of a shape and a dtype name, on the device of another array."""
    finish: Callable[[Any, Any], Any]
    """What the caller gets for an array from `empty`, in the framework of another array."""
    refusal: Callable[[Any], str | None]
    """Why an array cannot be `out`, or None."""
    streams: bool = False
    """Does `stream` tell the stream that the caller's work is queued on? Results are then queued
    there as well; else they are waited for."""
    keep: Callable[[Any], Any] = _same
    """An array over the memory that an array has now, which keeps it when the array gets other."""
    written: Callable[[Any], None] = _never
    """Take note that an array was written."""
    admit: Callable[[Any, str, str], None] = _anything
    """Raise, in the name of an operation and its argument, where an array has no plain values."""
    frozen: Callable[[Any], Any] = _same
    """What to return of an array that must not be written: itself where it is immutable, a view
    that is read-only, or a copy."""
    explain: Callable[[Any], str | None] = _never
    """What kind of array it is that gives no memory, or None where that is not known."""
    current: Callable[[Any], contextlib.AbstractContextManager[Any]] = _anywhere
    """Makes the device of an array current while it is exported: exports are ordered by the streams
    of the current device, and PyTorch refuses tensors of another one."""


def _done(array: Any, _like: Any) -> Any:
    return array


def _on_cpu(_array: Any) -> None:
    return None


def _default_stream(array: Any) -> int | None:
    # No current stream is known, so the producer orders its work before the legacy default stream.
    # Something without a device is left to say for itself why it cannot be exported.
    device = getattr(array, "__dlpack_device__", None)
    return None if device is None or device()[0] == _CPU else 1


def gpu_of(array: Any) -> int | None:
    """Return the index of the GPU that an array is on; None where it is on none."""
    device = getattr(array, "__dlpack_device__", None)
    kind, index = (_CPU, 0) if device is None else device()
    return int(index) if kind in _GPU else None


def _own_empty(shape: Shape, dtype: str, like: Any) -> Any:
    device = getattr(like, "__dlpack_device__", None)
    kind, index = (_CPU, 0) if device is None else device()
    if kind in _GPU:
        return _backend.cuda("empty", "like", index).empty(shape, dtype, index)
    return _core.Tensor(shape, dtype)


def _not_ours(array: Any) -> str:
    return (
        f"is a {type(array).__name__}, expected a NumPy, PyTorch or CuPy array: those of other "
        "frameworks may be immutable"
    )


def _read_only(array: Any) -> Any:
    view = array.view()
    view.flags.writeable = False
    return view


def _numpy() -> Framework:
    def empty(shape: Shape, dtype: str, like: Any) -> Any:
        return np.empty(shape, like.dtype if like.dtype.name == dtype else numpy_dtype(dtype))

    return Framework(np.asarray, _on_cpu, empty, _done, _never, frozen=_read_only)


def _torch() -> Framework:
    import torch
    from torch.autograd import forward_ad

    plain = (torch.Tensor, torch.nn.Parameter)
    strided, to_dlpack = torch.strided, torch.utils.dlpack.to_dlpack

    def borrow(array: Any) -> Any:
        # The export of a view whose negation is pending would leave the negation out.
        if array.is_neg():
            array = array.resolve_neg()
        if array.requires_grad:  # and no gradient is recorded: admitted
            array = array.detach()
        # Tensors that __dlpack__ has no objection to, at a fraction of its time.
        if (
            type(array) in plain
            and array.is_cpu
            and array.layout is strided
            and not array.is_conj()
        ):
            return to_dlpack(array)
        return array

    def stream(array: Any) -> int | None:
        return torch.cuda.current_stream(array.device).cuda_stream or 1 if array.is_cuda else None

    def empty(shape: Shape, dtype: str, like: Any) -> Any:
        state = torch._C._get_tracing_state()
        if state is None:
            return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
        # The tensor is made outside the trace, which takes it for a constant: it does not see the
        # native code that fills it.
        constant()
        torch._C._set_tracing_state(None)
        try:
            return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
        finally:
            torch._C._set_tracing_state(state)

    def constant() -> None:
        warnings.warn(
            "torch.jit.trace records the result of an operation of gossamer as a constant; "
            "functions of gossamer.torch are recorded as operators",
            torch.jit.TracerWarning,
            stacklevel=2,
        )

    def refusal(array: Any) -> str | None:
        return "is a view with a pending negation" if array.is_neg() else None

    def there(op: str, argument: str) -> bool:
        return op in DIFFERENTIABLE["torch"] and _is_ours(op, argument)

    def admit(array: Any, op: str, argument: str) -> None:
        if array.requires_grad and torch.is_grad_enabled():
            better = f"gossamer.torch.{op} is differentiable; " if there(op, argument) else ""
            raise ValueError(
                f"{op}: {argument} requires grad, expected one that does not: {better}"
                f"{argument}.detach() or torch.no_grad() leave the gradient out"
            )
        if torch._C._functorch.is_functorch_wrapped_tensor(array):
            refuse_traced(op, argument, array)
        if array.layout is not strided:
            raise ValueError(
                f"{op}: {argument} is a {array.layout} tensor, expected a dense one"
                f"{sparse_hint(array)}"
            )
        if forward_ad._current_level >= 0 and forward_ad.unpack_dual(array).tangent is not None:
            reverse = f"gossamer.torch.{op} has derivatives in reverse; "
            better = reverse if there(op, argument) else ""
            raise ValueError(
                f"{op}: {argument} has a tangent of forward mode, expected one that has none: "
                f"{better}{argument}.detach() leaves it out"
            )

    def written(array: Any) -> None:
        torch.autograd.graph.increment_version(array)
        if torch.jit.is_tracing():
            constant()

    def current(array: Any) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.device(array.device) if array.is_cuda else contextlib.nullcontext()

    def explain(array: Any) -> str | None:
        kinds = {"nested": array.is_nested, "quantized": array.is_quantized, "meta": array.is_meta}
        return next((kind for kind, it_is in kinds.items() if it_is), None)

    if hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        for kind in plain:
            _core.lend_directly(
                kind,
                unset=("requires_grad",),
                refused=("is_neg",),
                levels=vars(forward_ad),
                level="_current_level",
                detach=torch.Tensor.detach,
                written=torch.autograd.graph.increment_version,
                empty=torch.empty,
                dtypes={
                    name: getattr(torch, name) for name in _TORCH_TYPES if hasattr(torch, name)
                },
                is_traced=torch._C._is_tracing,
                constant=constant,
            )
    return Framework(
        *(borrow, stream, empty, _done, refusal),
        streams=True,
        keep=torch.Tensor.detach,
        written=written,
        admit=admit,
        frozen=lambda array: array.detach().clone(),
        explain=explain,
        current=current,
    )


def _cupy() -> Framework:
    import cupy

    def stream(array: Any) -> int:
        with array.device:
            return cupy.cuda.get_current_stream().ptr or 1

    def empty(shape: Shape, dtype: str, like: Any) -> Any:
        with like.device:
            return cupy.empty(shape, like.dtype if like.dtype.name == dtype else dtype)

    def frozen(array: Any) -> Any:
        with array.device:
            return array.copy()

    return Framework(
        *(_same, stream, empty, _done, _never),
        streams=True,
        frozen=frozen,
        current=lambda array: array.device,
    )


def _jax() -> Framework:
    import jax

    def finish(array: Any, like: Any) -> Any:
        made = jax.dlpack.from_dlpack(array)  # on the first device of its kind
        device = like.device
        if device == made.device or not isinstance(device, jax.Device):
            return made
        return jax.device_put(made, device)

    def admit(array: Any, op: str, argument: str) -> None:
        if isinstance(array, jax.core.Tracer):
            refuse_traced(op, argument, array)

    return Framework(_same, _default_stream, _own_empty, finish, _not_ours, admit=admit)


def _other() -> Framework:
    def finish(array: Any, like: Any) -> Any:
        namespace = getattr(like, "__array_namespace__", None)
        return array if namespace is None else namespace().from_dlpack(array)

    return Framework(_same, _default_stream, _own_empty, finish, _not_ours)


_TORCH_TYPES = (
    *("float32", "float64", "float16", "bfloat16"),
    *("int32", "int64", "uint8", "uint16", "bool"),
)
#: What gossamer.torch and gossamer.jax have with derivatives.
DIFFERENTIABLE = {
    "torch": frozenset(
        {
            *("attention", "csr_attention", "csr_softmax", "linear", "sddmm", "spmm"),
            *("delta_linear", "gated_mlp", "gather_decode", "merge_attention", "sparse_linear"),
            *("block_pool", "topk_rows"),
        }
    ),
    "jax": frozenset(
        {
            *("attention", "csr_attention", "csr_softmax", "delta_linear", "gated_mlp"),
            *("gather_decode", "linear", "merge_attention", "sddmm", "sparse_linear", "spmm"),
            *("block_pool", "topk_rows"),
        }
    ),
}
#: What both have without.
CONSTANT = frozenset({"attention_decode", "block_topk"})
_CPU = 1
_GPU = (2, 13)  # CUDA's own and its managed memory
_NO_ORDER = -1  # the array API's stream for "leave the order of the work to me"
# A framework is imported when an array of a type of its package is met.
_BY_PACKAGE = {"numpy": _numpy, "torch": _torch, "cupy": _cupy, "jax": _jax, "jaxlib": _jax}
_by_type: dict[type, Framework] = {
    _core.Tensor: Framework(_same, _on_cpu, _own_empty, _done, _never)
}


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _meet(array: Any, op: str, argument: str) -> Framework:
    """Return the framework of a type of array that was not met before."""
    kind = type(array)
    if isinstance(array, type):
        raise TypeError(f"{op}: {argument} is the class {array.__name__}, expected an array of it")
    if not hasattr(array, "__dlpack__"):
        hint = sparse_hint(array)
        raise TypeError(
            f"{op}: {argument} is a {kind.__name__}, expected an array with __dlpack__{hint}"
        )
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{op}: {argument} is a masked array; call its filled() first")
    packages = [_package(base) for base in kind.__mro__]
    make = next((_BY_PACKAGE[name] for name in packages if name in _BY_PACKAGE), _other)
    framework = _by_type[kind] = make()
    return framework


def borrow(array: Any, op: str, argument: str, stream: int | None = None) -> Any:
    """Return a DLPack capsule of `array` to read, or a plain `numpy.ndarray` over its memory.

    What is on a GPU is ordered before `stream`, or where that is None before its framework's own.
    """
    framework = _by_type.get(type(array)) or _meet(array, op, argument)
    framework.admit(array, op, argument)
    try:
        return _lend(framework, array, stream)
    except (BufferError, RuntimeError):
        _explain(framework, array, op, argument)
        raise


def borrow_out(array: Any, op: str, argument: str, stream: int | None = None) -> Any:
    """Return what `borrow` does, for writing."""
    framework = _by_type.get(type(array)) or _meet(array, op, argument)
    refusal = framework.refusal(array)
    if refusal is not None:
        raise ValueError(f"{op}: {argument} {refusal}")
    framework.admit(array, op, argument)
    try:
        return _lend(framework, array, stream)
    except (BufferError, RuntimeError):
        _explain(framework, array, op, argument)
        raise


def _explain(framework: Framework, array: Any, op: str, argument: str) -> None:
    """Raise in our words where a framework does not give the memory of an array."""
    kind = framework.explain(array)
    if kind is not None:
        raise ValueError(
            f"{op}: {argument} is a {kind} tensor, expected a dense one with memory"
        ) from None


def admit(array: Any, op: str, argument: str) -> None:
    """Raise where an array has no plain values: a gradient is recorded, or a function traced."""
    framework = _by_type.get(type(array)) or _meet(array, op, argument)
    framework.admit(array, op, argument)


def _is_ours(op: str, argument: str) -> bool:
    """Say whether an operand is that of the op that gossamer.torch and gossamer.jax have, too.

    `gossamer.prune` has another one of the name block_pool.
    """
    return op != "block_pool" or argument == "x"


def refuse_traced(op: str, argument: str, array: Any) -> NoReturn:
    """Raise the error for an array without values, of a function that is traced."""
    name = "jax" if _package(type(array)) == "jax" else "torch"
    there = op in DIFFERENTIABLE[name] | CONSTANT and _is_ours(op, argument)
    works = f"gossamer.{name}.{op} works" if there else "it does not work"
    inside = "jit, grad and vmap" if name == "jax" else "torch.compile, torch.func and vmap"
    raise TypeError(
        f"{op}: {argument} is traced, expected an array with values: inside {inside}, {works}"
    )


def is_traced(array: Any) -> bool:
    """Say whether an array is one without values, of a function that JAX or PyTorch traces."""
    package = _package(type(array))
    if package == "jax":
        import jax

        return isinstance(array, jax.core.Tracer)
    if package == "torch":
        import torch

        if torch.compiler.is_compiling():
            return True
        return torch._C._functorch.is_functorch_wrapped_tensor(array) or isinstance(
            array, torch._subclasses.FakeTensor
        )
    return False


def sparse_hint(matrix: Any) -> str:
    """Return what to add to a message where another library's sparse matrix is the culprit."""
    package = _package(type(matrix))
    form = (str(matrix.layout) if package == "torch" else type(matrix).__name__).lower()
    forms = ("sparse", "csr", "csc", "coo", "bsr", "bsc", "dia", "dok", "lil")
    if package not in _SPARSE or not any(name in form for name in forms):
        return ""
    kind = "BSR" if "bsr" in form or "bsc" in form else "CSR"
    return f" (gossamer.{kind}.from_sparse makes one of it)"


def keep(array: Any, op: str, argument: str) -> Any:
    """Return what `borrow` does, over memory that stays when `array` gets other memory."""
    framework = _by_type.get(type(array)) or _meet(array, op, argument)
    if is_traced(array):
        refuse_traced(op, argument, array)
    try:
        return _lend(framework, framework.keep(array), None)
    except BufferError:
        hint = sparse_hint(array)
        if not hint:
            raise
        raise ValueError(
            f"{op}: {argument} is a {array.layout} tensor, expected a dense one{hint}"
        ) from None


def written(array: Any) -> None:
    """Tell the framework of `array`, met before, that it was written."""
    _by_type[type(array)].written(array)


def frozen(array: Any) -> Any:
    """Return the array of a matrix that was checked so that whoever gets it cannot change it."""
    if type(array) is np.ndarray:
        return _read_only(array)
    framework = _by_type.get(type(array))
    return array if framework is None else framework.frozen(array)


def _lend(framework: Framework, array: Any, stream: int | None) -> Any:
    lent = framework.borrow(array)
    if isinstance(lent, np.ndarray) or not hasattr(lent, "__dlpack__"):
        return lent
    options: dict[str, Any] = {}
    current = framework.stream(lent)
    if current is not None:
        wanted = current if stream is None else stream
        options["stream"] = _NO_ORDER if framework.streams and wanted == current else wanted
    with framework.current(lent):
        try:
            return lent.__dlpack__(max_version=(1, 0), **options)
        except TypeError:  # a producer from before versions
            return lent.__dlpack__(**options)


def launch(array: Any, op: str, argument: str) -> tuple[int, bool]:
    """Return the stream to queue work on for a result like `array`, and whether to wait for it."""
    framework = _by_type.get(type(array)) or _meet(array, op, argument)
    return framework.stream(array) or 0, not framework.streams


def empty(shape: Shape, dtype: str, like: Any) -> Any:
    """Return a new writable array for the framework and the device of `like`, met before."""
    return _by_type[type(like)].empty(shape, dtype, like)


def finish(array: Any, like: Any) -> Any:
    """Return an array from `empty` as one of the framework of `like`."""
    return _by_type[type(like)].finish(array, like)


def scipy_csr(indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> Any:
    """Return a scipy.sparse.csr_array over the arrays, its structure read-only."""
    from scipy.sparse import csr_array

    parts = (_held("CSR", values), frozen(_as_numpy(indices)), frozen(_as_numpy(indptr)))
    return csr_array(parts, shape=shape, copy=False)


def torch_csr(indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> Any:
    """Return a torch.sparse_csr tensor over the values, with copies of the index arrays."""
    import torch

    parts = (as_torch(indptr).clone(), as_torch(indices).clone(), as_torch(values))
    return torch.sparse_csr_tensor(*parts, size=shape, check_invariants=False)


def scipy_bsr(indptr: Any, indices: Any, blocks: Any, shape: tuple[int, int]) -> Any:
    """Return a scipy.sparse.bsr_array over the arrays, its structure read-only."""
    from scipy.sparse import bsr_array

    parts = (_held("BSR", blocks), frozen(_as_numpy(indices)), frozen(_as_numpy(indptr)))
    return bsr_array(parts, shape=shape, copy=False)


def torch_bsr(indptr: Any, indices: Any, blocks: Any, shape: tuple[int, int]) -> Any:
    """Return a torch.sparse_bsr tensor over the blocks, with copies of the index arrays."""
    import torch

    parts = (as_torch(indptr).clone(), as_torch(indices).clone(), as_torch(blocks))
    return torch.sparse_bsr_tensor(*parts, size=shape, check_invariants=False)


def as_numpy(array: Any, op: str, argument: str) -> Any:
    """Return an array on the CPU as a numpy.ndarray, over the same memory where it can be."""
    if not hasattr(array, "__dlpack__"):
        raise TypeError(
            f"{op}: {argument} is a {type(array).__name__}, expected an array with __dlpack__"
        )
    return _as_numpy(array)


def _held(kind: str, values: Any) -> Any:
    """Return the values of a matrix for SciPy, over the same memory."""
    op = f"{kind}.to_scipy"
    admit(values, op, "values")
    if gpu_of(values) is not None:
        raise ValueError(f'{op}: values are on a GPU, expected the CPU; to("cpu") moves them')
    if not hasattr(values, "detach"):
        return _as_numpy(values)
    values = values.detach()
    return exported(values) if dtype_name(values.dtype) == "bfloat16" else _as_numpy(values)


def _as_numpy(array: Any) -> Any:
    return array if isinstance(array, np.ndarray) else np.from_dlpack(array)


def as_torch(array: Any) -> Any:
    """Return an array as a torch.Tensor, over the same memory where it can be."""
    import torch

    if isinstance(array, torch.Tensor):
        return array
    if isinstance(array, np.ndarray) and array.dtype.name == "bfloat16":
        return torch.from_dlpack(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_dlpack(array)


SparseParts = tuple[Any, Any, Any, tuple[int, int]]

# Index arrays that another matrix may change in place are copied: SciPy's eliminate_zeros moves
# them, and a product with what was checked before would read anywhere.
#
# The conversions of other libraries trust a structure that their constructors did not check, and
# write anywhere where it is wrong; so what they trust is checked before.


def _check_pointers(name: str, ends: Any, lines: int, count: int, *, room: bool = True) -> None:
    """Refuse pointers that no matrix of so many lines and entries has."""
    shape = tuple(ends.shape)
    if shape != (lines + 1,):
        raise ValueError(f"from_sparse: obj.{name}.shape is {shape}, expected ({lines + 1},)")
    first, last = int(ends[0]), int(ends[-1])
    if first != 0:
        raise ValueError(f"from_sparse: obj.{name}[0] is {first}, expected 0")
    if bool((ends[1:] < ends[:-1]).any()):
        raise ValueError(f"from_sparse: obj.{name} decreases, expected that it never does")
    if last > count or (last < count and not room):
        most = "at most " if room else ""
        raise ValueError(f"from_sparse: obj.{name}[-1] is {last}, expected {most}{count}")


def _check_range(name: str, index: Any, extent: int) -> None:
    """Refuse rows or columns outside a matrix."""
    if not index.shape[0]:
        return
    least, most = int(index.min()), int(index.max())
    if least < 0:
        raise ValueError(f"from_sparse: obj.{name} has {least}, expected at least 0")
    if most >= extent:
        raise ValueError(f"from_sparse: obj.{name} has {most}, expected less than {extent}")


def _check_scipy(matrix: Any, *, whole: bool = True) -> None:
    """Refuse a structure that cannot be; its columns, too, where it is to be converted whole."""
    lines, extent = matrix.shape
    if matrix.format in ("coo", "csr", "csc", "bsr"):
        axes, expected = matrix.data.ndim, 3 if matrix.format == "bsr" else 1
        if axes != expected:
            raise ValueError(f"from_sparse: obj.data.ndim is {axes}, expected {expected}")
    if matrix.format == "coo":
        _check_range("row", matrix.row, lines)
        _check_range("col", matrix.col, extent)
    if matrix.format not in ("csr", "csc", "bsr"):
        return
    if matrix.format == "bsr":
        br, bc = matrix.blocksize
        lines, extent = lines // br, extent // bc
    elif matrix.format == "csc":
        lines, extent = extent, lines
    count = min(matrix.indices.shape[0], matrix.data.shape[0])
    _check_pointers("indptr", matrix.indptr, lines, count)
    if whole:
        _check_range("indices", matrix.indices[: int(matrix.indptr[-1])], extent)


def _scipy_parts(matrix: Any) -> SparseParts:
    _check_scipy(matrix, whole=matrix.format != "csr")
    rows = matrix.tocsr()
    if not rows.has_canonical_format:
        if rows is matrix:
            rows = rows.copy()
        rows.sum_duplicates()
    return _scipy_arrays(rows, rows is matrix)


def _scipy_arrays(rows: Any, theirs: bool) -> SparseParts:
    # There may be room behind the last entry.
    indptr, count = rows.indptr, int(rows.indptr[-1])
    indices, data = rows.indices[:count], rows.data[:count]
    if theirs:
        indptr, indices = indptr.copy(), indices.copy()
    return indptr, indices, data, rows.shape


def _torch_places(matrix: Any) -> tuple[Any, Any]:
    """Return the row and the column of each entry or block of a compressed matrix."""
    import torch

    by_rows = matrix.layout in (torch.sparse_csr, torch.sparse_bsr)
    ends = matrix.crow_indices() if by_rows else matrix.ccol_indices()
    inner = matrix.col_indices() if by_rows else matrix.row_indices()
    outer = row_indices(ends.to(torch.int64), len(inner))
    return (outer, inner.to(torch.int64)) if by_rows else (inner.to(torch.int64), outer)


def _torch_sorted(places: tuple[Any, Any]) -> bool:
    rows, cols = places
    later = (rows[1:] > rows[:-1]) | ((rows[1:] == rows[:-1]) & (cols[1:] > cols[:-1]))
    return bool(later.all())


def _torch_coo(matrix: Any) -> Any:
    """Return a matrix of any layout as a coalesced COO; stored zeros stay entries."""
    import torch

    if matrix.layout == torch.sparse_coo:
        return matrix.coalesce()
    (rows, cols), values = _torch_places(matrix), matrix.values().detach()
    if values.dim() == 3:
        br, bc = values.shape[1:]
        down = torch.arange(br, device=rows.device)[None, :, None]
        across = torch.arange(bc, device=rows.device)[None, None, :]
        rows = (rows[:, None, None] * br + down).expand(values.shape).reshape(-1)
        cols = (cols[:, None, None] * bc + across).expand(values.shape).reshape(-1)
        values = values.reshape(-1)
    places = torch.stack([rows, cols])
    coo = torch.sparse_coo_tensor(places, values, matrix.shape, check_invariants=True)
    return coo.coalesce()


def _check_torch(matrix: Any) -> None:
    """Refuse dense tensors and a structure that cannot be."""
    import torch

    if matrix.layout == torch.strided:
        raise TypeError("from_sparse: obj is a dense torch.Tensor, expected a sparse one")
    if matrix.layout == torch.sparse_coo and matrix.dense_dim() != 0:
        dense = matrix.dense_dim()
        raise ValueError(f"from_sparse: obj.dense_dim() is {dense}, expected 0")
    lines, extent = matrix.shape
    if matrix.layout == torch.sparse_coo:
        rows, cols = matrix._indices()
        _check_range("indices()[0]", rows, lines)
        _check_range("indices()[1]", cols, extent)
        return
    values = matrix.values()
    if values.dim() == 3:
        br, bc = values.shape[1:]
        lines, extent = lines // br, extent // bc
    if matrix.layout in (torch.sparse_csr, torch.sparse_bsr):
        outer, inner = "crow_indices()", "col_indices()"
        ends, index = matrix.crow_indices(), matrix.col_indices()
    else:
        lines, extent = extent, lines
        outer, inner = "ccol_indices()", "row_indices()"
        ends, index = matrix.ccol_indices(), matrix.row_indices()
    count = index.shape[0]
    if count != values.shape[0]:
        raise ValueError(f"from_sparse: obj.{inner} has {count}, expected {values.shape[0]}")
    _check_pointers(outer, ends, lines, count, room=False)
    _check_range(inner, index, extent)


def _torch_parts(matrix: Any) -> SparseParts:
    import torch

    _check_torch(matrix)
    rows = matrix
    if matrix.layout != torch.sparse_csr or not _torch_sorted(_torch_places(matrix)):
        rows = _torch_coo(matrix).to_sparse_csr()
    indptr, indices = rows.crow_indices(), rows.col_indices()
    if rows is matrix:
        indptr, indices = indptr.clone(), indices.clone()
    return indptr, indices, rows.values(), tuple(rows.shape)


def _jax_parts(matrix: Any) -> SparseParts:
    from jax.experimental import sparse

    for part in _jax_arrays(matrix):
        admit(part, "from_sparse", "obj")
    for kind in ("n_batch", "n_dense"):
        if getattr(matrix, kind, 0):
            axes = getattr(matrix, kind)
            raise ValueError(f"from_sparse: obj.{kind} is {axes}, expected 0")
    if hasattr(matrix, "indptr"):
        lines = matrix.shape[1 if isinstance(matrix, sparse.CSC) else 0]
        count = min(matrix.indices.shape[0], matrix.data.shape[0])
        _check_pointers("indptr", matrix.indptr, lines, count)
    if isinstance(matrix, sparse.BCSR):
        exact = matrix.indices_sorted and matrix.unique_indices
        if exact and matrix.nse == int(matrix.indptr[-1]):
            return matrix.indptr, matrix.indices, matrix.data, matrix.shape
        matrix = matrix.to_bcoo()
    elif not isinstance(matrix, sparse.BCOO):
        matrix = _jax_bcoo(matrix)
    if matrix.nse and int(matrix.indices.min()) < 0:  # JAX takes it for padding, or from the end
        least = int(matrix.indices.min())
        raise ValueError(f"from_sparse: obj has the index {least}, expected at least 0")
    # Removes what pads the matrix to a size; a zero that is stored is an entry, as elsewhere.
    rows = sparse.BCSR.from_bcoo(matrix.sum_duplicates(remove_zeros=False))
    return rows.indptr, rows.indices, rows.data, rows.shape


def _jax_arrays(matrix: Any) -> list[Any]:
    """Return the arrays of a sparse matrix of any class."""
    import jax

    return list(jax.tree_util.tree_leaves(matrix))


def _jax_bcoo(matrix: Any) -> Any:
    """Return a matrix of one of JAX's older classes as a BCOO."""
    import jax
    from jax.experimental import sparse

    data = matrix.data
    if isinstance(matrix, sparse.COO):
        places = [matrix.row, matrix.col]
    elif isinstance(matrix, (sparse.CSR, sparse.CSC)):
        counts = jax.numpy.diff(matrix.indptr)
        outer = jax.numpy.repeat(jax.numpy.arange(counts.size), counts)
        # What is behind the last entry pads the matrix to a size.
        places, data = [outer, matrix.indices[: outer.size]], data[: outer.size]
        if isinstance(matrix, sparse.CSC):
            places.reverse()
    else:
        raise TypeError(
            f"from_sparse: obj is a {type(matrix).__name__}, expected a BCSR, BCOO, CSR, CSC or COO"
        )
    return sparse.BCOO((data, jax.numpy.stack(places, axis=1)), shape=matrix.shape)


_SPARSE = {
    "scipy": _scipy_parts,
    "cupyx": _scipy_parts,
    "torch": _torch_parts,
    "jax": _jax_parts,
}


def _package_parts(
    by_package: dict[str, Callable[..., SparseParts]], matrix: Any, expected: str
) -> Callable[..., SparseParts]:
    kind = type(matrix)
    packages = (_package(base) for base in kind.__mro__)  # also of a class derived from theirs
    parts = next((by_package[name] for name in packages if name in by_package), None)
    if parts is None:
        raise TypeError(
            f"from_sparse: obj is a {kind.__name__}, expected a sparse matrix of {expected}"
        )
    if len(matrix.shape) != 2:
        raise ValueError(f"from_sparse: obj.ndim is {len(matrix.shape)}, expected 2")
    return parts


def sparse_parts(matrix: Any) -> SparseParts:
    """Return (indptr, indices, values, shape) of a framework's sparse matrix."""
    return _package_parts(_SPARSE, matrix, "SciPy, PyTorch, CuPy or JAX")(matrix)


Block = tuple[int, int] | None


def _check_block(matrix: Any, form: str, block: Block) -> None:
    if block is None:
        if "bsr" not in form and "bsc" not in form:
            raise ValueError(f"from_sparse: block is None, expected its sides for a {form} matrix")
    elif any(side < 1 or extent % side for extent, side in zip(matrix.shape, block, strict=True)):
        shape = tuple(matrix.shape)
        raise ValueError(f"from_sparse: obj.shape is {shape}, expected multiples of {block}")


def _scipy_blocks(matrix: Any, block: Block) -> SparseParts:
    _check_block(matrix, matrix.format, block)
    _check_scipy(matrix)
    if matrix.format != "bsr":
        matrix = matrix.tocsr()
        _check_scipy(matrix)  # of lists, say, which were not checked above
    rows = matrix.tobsr(blocksize=block)
    if not rows.has_canonical_format:
        if rows is matrix:
            rows = rows.copy()
        rows.sum_duplicates()
    return _scipy_arrays(rows, rows is matrix)


def _torch_blocks(matrix: Any, block: Block) -> SparseParts:
    import torch

    _check_torch(matrix)
    _check_block(matrix, str(matrix.layout), block)
    shape = tuple(matrix.shape)
    if matrix.layout not in (torch.sparse_bsr, torch.sparse_bsc):
        rows = _torch_coo(matrix).to_sparse_csr().to_sparse_bsr(block)
        return rows.crow_indices(), rows.col_indices(), rows.values().contiguous(), shape
    values = matrix.values()
    theirs = tuple(values.shape[1:])
    if block is not None and theirs != block:
        raise ValueError(f"from_sparse: block is {block}, expected obj's {theirs}")
    rows, cols = _torch_places(matrix)
    if matrix.layout == torch.sparse_bsr and _torch_sorted((rows, cols)):
        indptr, indices = matrix.crow_indices().clone(), matrix.col_indices().clone()
        return indptr, indices, values.contiguous(), shape
    wide = shape[1] // theirs[1]
    places, which = torch.unique(rows * wide + cols, return_inverse=True)
    blocks = values.new_zeros((len(places), *theirs)).index_add_(0, which, values.detach())
    counts = torch.bincount(places // wide, minlength=shape[0] // theirs[0])
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return indptr, places % wide, blocks, shape


def _jax_blocks(matrix: Any, block: Block) -> SparseParts:
    import jax

    _check_block(matrix, type(matrix).__name__, block)
    ends, cols, values, shape = _jax_parts(matrix)
    br, bc = block or (1, 1)
    # In 64 bits: JAX's own have as many as a row, not as the matrix, asks for.
    ends, cols = np.asarray(ends, np.int64), np.asarray(cols, np.int64)
    rows, wide = row_indices(ends, len(cols)), shape[1] // bc
    kept, which = np.unique(rows // br * wide + cols // bc, return_inverse=True)
    blocks = jax.numpy.zeros((len(kept), br, bc), values.dtype)
    blocks = blocks.at[which, rows % br, cols % bc].set(values)
    indptr = np.searchsorted(kept, np.arange(shape[0] // br + 1) * wide)
    index = np.int32 if max(shape) < 2**31 else np.int64
    return indptr.astype(index), (kept % max(wide, 1)).astype(index), blocks, shape


_BLOCKS = {"scipy": _scipy_blocks, "torch": _torch_blocks, "jax": _jax_blocks}


def block_parts(matrix: Any, block: Block) -> SparseParts:
    """Return (indptr, indices, blocks, shape) of a framework's sparse matrix."""
    return _package_parts(_BLOCKS, matrix, "SciPy, PyTorch or JAX")(matrix, block)


# What frameworks write differently.


def copied(array: Any) -> Any:
    """Return a copy of an array that belongs to no graph of gradients."""
    return array.detach().clone() if hasattr(array, "detach") else array.copy()


class SignedBits:
    """The elements of a uint16 tensor as int16: `pickle` cannot read PyTorch's unsigned ones."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


def to_pickle(array: Any) -> Any:
    """Return what can be pickled in place of an array: itself, but for tensors of uint16.

    PyTorch pickles all the memory that a tensor is a view of, so such a view is copied.
    """
    if not hasattr(array, "detach"):
        return array
    import torch

    if array.numel() * array.element_size() < array.untyped_storage().nbytes():
        array = array.detach().clone().requires_grad_(array.requires_grad)
    return SignedBits(array.view(torch.int16)) if array.dtype == torch.uint16 else array


def from_pickle(array: Any) -> Any:
    """Return the array in whose place something was pickled."""
    if isinstance(array, SignedBits):
        import torch

        return array.tensor.view(torch.uint16)
    return array


def is_jax(array: Any) -> bool:
    """Say whether an array is one of JAX's."""
    return _package(type(array)) in ("jax", "jaxlib")


def as_jax(array: Any) -> Any:
    """Return an array of JAX's with the same elements."""
    import jax

    return jax.numpy.asarray(exported(array))


def writable(array: Any, op: str, argument: str) -> Any:
    """Return a copy that may be written: in NumPy for JAX, else in the array's own framework."""
    admit(array, op, argument)
    if is_jax(array):
        return np.array(array)
    if not hasattr(array, "copy") and not hasattr(array, "detach"):
        unknown(array, op, argument)
    return copied(array)


def unknown(array: Any, op: str, argument: str) -> NoReturn:
    """Raise the error for an array of a framework that has more to do here than export it."""
    raise TypeError(
        f"{op}: {argument} is a {type(array).__name__}, expected an array of NumPy, PyTorch, CuPy "
        "or JAX"
    )


def longer(array: Any, extra: int) -> Any:
    """Return an array with more elements at its end, of any value."""
    if not extra:
        return array
    shape = (extra, *array.shape[1:])
    if hasattr(array, "detach"):
        import torch

        return torch.cat([array, array.new_zeros(shape)])
    namespace = importlib.import_module(_package(type(array)))
    return namespace.concatenate([array, namespace.zeros(shape, array.dtype)])


def dtype_name(dtype: Any) -> str:
    """Return the name of a type that may be a name, a Python type, or a framework's."""
    if isinstance(dtype, str):
        return dtype
    if isinstance(dtype, type):
        dtype = np.dtype(dtype)
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def numpy_dtype(name: str) -> Any:
    """Return NumPy's element type of a name; bfloat16 is of the package ml_dtypes."""
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError(
                "dtype is bfloat16, which NumPy has from a package alone: pip install ml_dtypes"
            ) from None
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


_FLOATS = ("float32", "float64", "float16", "bfloat16")


def floating_name(op: str, dtype: Any) -> str:
    """Return the name of a floating type; raise TypeError for others."""
    name = dtype_name(dtype)
    if name not in _FLOATS:
        raise TypeError(f"{op}: dtype is {dtype!r}, expected float32, float64, float16 or bfloat16")
    return name


def astype(op: str, array: Any, dtype: Any) -> Any:
    """Return an array with elements of a floating type; itself where it has that."""
    name = floating_name(op, dtype)
    if isinstance(array, np.ndarray):
        return array.astype(numpy_dtype(name), copy=False)
    if hasattr(array, "astype"):
        if is_jax(array):
            _check_width(op, name)
        return array.astype(name)
    import torch

    return array.to(getattr(torch, name))


def moved(op: str, array: Any, device: Any) -> Any:
    """Return an array on a device; itself where it is there."""
    package = _package(type(array))
    if array is None:
        return None
    if package == "torch":
        import torch

        try:
            place = torch.device(device)
        except (RuntimeError, TypeError):
            raise ValueError(f"{op}.to: device is {device!r}, expected one of PyTorch's") from None
        if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise ValueError(f"{op}.to: device is {device!r}, but PyTorch has {count} GPUs")
        return array.to(place)
    if package in ("jax", "jaxlib"):
        import jax

        if isinstance(device, str):
            kind, _, index = device.partition(":")
            try:
                device = jax.devices(kind)[int(index or 0)]
            except (RuntimeError, IndexError, ValueError):
                raise ValueError(f"{op}.to: device is {device!r}, expected one of JAX's") from None
        return array if array.devices() == {device} else jax.device_put(array, device)
    if package == "cupy":
        import cupy

        name, _, index = str(device).partition(":")
        if name == "cpu":
            return array.get()
        if name == "cuda":
            with cupy.cuda.Device(int(index or 0)):
                return cupy.asarray(array)
    if device == "cpu":
        return array
    expected = "'cpu' or 'cuda:0'" if package == "cupy" else "'cpu', where these arrays are"
    raise ValueError(f"{op}.to: device is {device!r}, expected {expected}")


def equal(x: Any, y: Any) -> bool:
    """Say whether two index arrays of one shape have equal elements."""
    if x is y:
        return True
    if type(x) is not type(y):
        x, y = _as_numpy(x), _as_numpy(y)
    return bool((x == y).all())


def row_indices(indptr: Any, count: int) -> Any:
    """Return i for each p with indptr[i] ≤ p < indptr[i + 1]."""
    package = _package(type(indptr))
    if package == "torch":
        import torch

        rows = torch.arange(len(indptr) - 1, dtype=indptr.dtype, device=indptr.device)
        return torch.repeat_interleave(rows, (indptr[1:] - indptr[:-1]).long(), output_size=count)
    if isinstance(indptr, np.ndarray):
        return np.repeat(np.arange(len(indptr) - 1, dtype=indptr.dtype), np.diff(indptr))
    name = {"jaxlib": "jax.numpy", "jax": "jax.numpy"}.get(package, package)
    namespace = importlib.import_module(name)
    places = namespace.arange(count, dtype=indptr.dtype)
    return namespace.searchsorted(indptr[1:], places, side="right").astype(indptr.dtype)


def raw(array: Any) -> tuple[str, Any]:
    """Return the name of an array's type and its elements as a contiguous NumPy array."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        name = dtype_name(array.dtype)
        if name == "bfloat16":
            import torch

            array = array.view(torch.uint16)
        return name, np.ascontiguousarray(array.numpy())
    host = array.get() if hasattr(array, "get") else np.asarray(array)
    name = host.dtype.name
    return name, np.ascontiguousarray(host.view(np.uint16) if name == "bfloat16" else host)


def from_raw(op: str, name: str, array: Any, framework: str) -> Any:
    """Return an array of a framework over what `raw` gave."""
    if framework == "torch":
        import torch

        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if name == "bfloat16" else tensor
    if framework not in ("numpy", "jax"):
        raise ValueError(
            f"{op}.load: framework is {framework!r}, expected 'numpy', 'torch' or 'jax'"
        )
    if name == "bfloat16":
        array = array.view(numpy_dtype(name))
    return array if framework == "numpy" else _into_jax(f"{op}.load", array)


def jax_csr(indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> Any:
    """Return a jax.experimental.sparse.BCSR of the arrays."""
    from jax.experimental import sparse

    parts = tuple(
        _into_jax("CSR.to_jax", exported(x, "CSR.to_jax")) for x in (values, indices, indptr)
    )
    return sparse.BCSR(parts, shape=shape, indices_sorted=True, unique_indices=True)


def exported(array: Any, op: str = "gossamer.jax") -> Any:
    """Return an array of JAX's or NumPy's over the same elements, for JAX."""
    if is_jax(array):
        return array
    name, elements = ("", array) if isinstance(array, np.ndarray) else raw(array)
    if elements.dtype == np.int64 and elements.size:
        import jax

        most = int(elements.max())
        if most >= 2**31 and not jax.config.jax_enable_x64:  # it would wrap in silence
            raise ValueError(f"{op}: an index is {most}, which JAX has with jax_enable_x64 alone")
    return elements.view(numpy_dtype(name)) if name == "bfloat16" else elements


def _check_width(op: str, name: str) -> None:
    """Refuse a type of values that JAX would cut to float32."""
    import jax

    if name == "float64" and not jax.config.jax_enable_x64:
        raise TypeError(
            f"{op}: values are float64, which JAX has with jax_enable_x64 alone, expected float32, "
            "float16 or bfloat16"
        )


def _into_jax(op: str, array: Any) -> Any:
    """Return an array of JAX's with the same elements; raise where it would lose digits."""
    import jax

    _check_width(op, str(array.dtype))
    return jax.numpy.asarray(exported(array, op))
