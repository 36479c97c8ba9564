"""Who is timed: gossamer's own forms, and the registry that the peers join."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias, cast

import numpy as np

from .case import BLOCKS, CONVERSIONS, DTYPES, PRODUCTS, Array, Case, Matrix, from_bits, to_bits

Call: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """One way of computing a case.

    `weights(case, matrix)` makes what a user would keep between calls (not timed, cached while
    the matrix stays). `bind(case, weights, inputs)` returns the timed call, and
    `result(case, returned)` turns what the call returned into NumPy arrays: [N, M] for linear,
    [rows, N] for the other products, the values for sddmm, (indptr, indices, values) or a dense
    array for the conversions.
    """

    name: str
    runtime: str  # contenders of one runtime share a process
    # "ours", "sparse", "dense", "low" (dense, in fewer bits than the case), "selection" or "limit",
    # which computes nothing, and takes the time that the case's bytes need.
    kind: str
    ops: frozenset[str]
    weights: Callable[[Case, Matrix], Any]
    bind: Callable[[Case, Any, dict[str, Array]], Call]
    result: Callable[[Case, Any], Any]
    dtypes: frozenset[str] = frozenset(DTYPES)
    needs: tuple[str, ...] = ()
    storage: str | None = None  # the type it computes in, where that is not the case's
    threads: int | None = None  # its number of threads, where that is not the run's
    default: bool = True  # part of a run that names no contenders
    device: str = "cpu"
    patterns: frozenset[str] | None = None  # those that it takes, where not all
    wait: Callable[[], None] | None = None  # for what calls have queued

    def takes(self, case: Case) -> bool:
        """Tell whether the contender can compute the case."""
        known = self.patterns is None or case.pattern in self.patterns
        if known and self.patterns is not None and self.patterns <= BLOCKS.keys():
            # Patterns of blocks are cut at the edges; formats of blocks are not.
            known = case.m % BLOCKS[case.pattern] == 0 == case.k % BLOCKS[case.pattern]
        return (
            known
            and case.op in self.ops
            and case.dtype in self.dtypes
            and case.dtype != self.storage
        )

    def missing(self) -> str | None:
        """Name the first package that it needs and that is not installed."""
        return next((name for name in self.needs if find_spec(name) is None), None)

    @property
    def process(self) -> str:
        """The worker process that it runs in."""
        return self.runtime if self.threads is None else f"{self.runtime}@{self.threads}"


def as_dtype(stored: Array, dtype: str) -> Any:
    """View stored values as an array that gossamer takes."""
    if dtype != "bf16":
        return stored
    if find_spec("ml_dtypes"):
        return stored.view(import_module("ml_dtypes").bfloat16)
    torch = import_module("torch")
    return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)


def as_numpy(array: Any) -> Array:
    """Read an array of ours or torch's; bf16 as float32."""
    if hasattr(array, "detach"):
        array = array.detach().float() if "bfloat16" in str(array.dtype) else array.detach()
        return np.asarray(array.numpy())
    out = np.asarray(array)
    return out.astype(np.float32) if out.dtype.name == "bfloat16" else out


def as_stored(array: Any) -> Array:
    """Read values as `to_bits` stores them: conversions are compared bit for bit."""
    if hasattr(array, "detach") and "bfloat16" in str(array.dtype):
        return np.asarray(array.view(import_module("torch").int16).numpy()).view(np.uint16)
    out = np.asarray(array)
    return out.view(np.uint16) if out.dtype.name == "bfloat16" else out


def recode(stored: Array, case: Case, storage: str) -> Array:
    """Round operands of the case to the type that a contender computes in."""
    return stored if storage == case.dtype else to_bits(from_bits(stored, case.dtype), storage)


def _csr(case: Case, matrix: Matrix, storage: str) -> Any:
    values = recode(matrix.values, case, storage)
    return _make("CSR", matrix, matrix.indptr, matrix.indices, as_dtype(values, storage))


def _bsr(case: Case, matrix: Matrix) -> Any:
    indptr, indices, blocks = matrix.blocks(BLOCKS[case.pattern])
    return _make("BSR", matrix, indptr, indices, as_dtype(blocks, case.dtype))


def _make(form: str, matrix: Matrix, indptr: Array, indices: Array, values: Any) -> Any:
    parts: list[Any] = [indptr, indices]
    if hasattr(values, "detach"):
        parts = [import_module("torch").from_numpy(x) for x in parts]
    return getattr(import_module("gossamer"), form)(*parts, values, matrix.shape)


def _ours(name: str, packed: bool, storage: str | None, threads: int | None) -> Contender:
    def weights(case: Case, matrix: Matrix) -> Any:
        if case.op == "from_dense":
            return as_dtype(matrix.dense(), case.dtype)
        csr = _csr(case, matrix, storage or case.dtype)
        return import_module("gossamer").pack(csr) if packed else csr

    def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
        gossamer = import_module("gossamer")
        if case.op == "to_dense":
            return cast(Call, held.to_dense)
        if case.op == "transpose":
            return lambda: held.T
        kind = storage or case.dtype
        dense = {x: as_dtype(recode(y, case, kind), kind) for x, y in inputs.items()}
        b = dense.get("b")
        return {
            "linear": lambda: gossamer.linear(b, held),
            "spmm": lambda: gossamer.spmm(held, b),
            "spmm-t": lambda: gossamer.spmm(held, b, transpose_a=True),
            "sddmm": lambda: gossamer.sddmm(dense["a"], b, held),
            "from_dense": lambda: gossamer.CSR.from_dense(held),
        }[case.op]

    def result(case: Case, returned: Any) -> Any:
        if case.op == "to_dense":
            return as_stored(returned)
        if case.op in CONVERSIONS:
            arrays = as_numpy(returned.indptr), as_numpy(returned.indices)
            return *arrays, as_stored(returned.values)
        return as_numpy(returned)

    ops = frozenset(PRODUCTS) if packed else frozenset((*PRODUCTS, "sddmm", *CONVERSIONS))
    dtypes = frozenset(DTYPES) if storage is None else frozenset({"f32"})
    return Contender(
        name=name,
        runtime="gossamer",
        kind="ours",
        ops=ops,
        weights=weights,
        bind=bind,
        result=result,
        dtypes=dtypes,
        storage=storage,
        threads=threads,
        default=storage is None and threads is None,
    )


def _ours_as_spmm(name: str, packed: bool) -> Contender:
    """Ours on the same numbers, laid out for plain spmm: what linear and spmm-t must come near."""

    def weights(case: Case, matrix: Matrix) -> Any:
        csr = _csr(case, matrix, case.dtype)
        if case.op == "spmm-t":
            csr = csr.T
        return import_module("gossamer").pack(csr) if packed else csr

    def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
        gossamer = import_module("gossamer")
        b = inputs["b"]
        if case.op == "linear":
            b = np.ascontiguousarray(b.T) if case.n > 1 else b.reshape(-1)
        b = as_dtype(b, case.dtype)
        return lambda: gossamer.spmm(held, b)

    def result(case: Case, returned: Any) -> Any:
        out = as_numpy(returned)
        return out.reshape(case.m, case.n).T if case.op == "linear" else out

    return Contender(
        name=name,
        runtime="gossamer",
        kind="ours",
        ops=frozenset({"linear", "spmm-t"}),
        weights=weights,
        bind=bind,
        result=result,
        default=False,
    )


def _ours_bsr() -> Contender:
    def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
        gossamer = import_module("gossamer")
        b = as_dtype(inputs["b"], case.dtype)
        return {
            "linear": lambda: gossamer.linear(b, held),
            "spmm": lambda: gossamer.spmm(held, b),
            "spmm-t": lambda: gossamer.spmm(held, b, transpose_a=True),
        }[case.op]

    return Contender(
        name="bsr",
        runtime="gossamer",
        kind="ours",
        ops=frozenset(PRODUCTS),
        weights=_bsr,
        bind=bind,
        result=lambda case, returned: as_numpy(returned),
        patterns=frozenset(BLOCKS),
    )


OURS = [
    _ours("csr", False, None, None),
    _ours("packed", True, None, None),
    _ours_bsr(),
    _ours("csr-1t", False, None, 1),
    _ours("packed-1t", True, None, 1),
    _ours("csr-bf16", False, "bf16", None),
    _ours("packed-bf16", True, "bf16", None),
    _ours_as_spmm("csr-as-spmm", False),
    _ours_as_spmm("packed-as-spmm", True),
]


def load_contenders(plugins: list[str]) -> dict[str, Contender]:
    """List ours, the peers, and what each plugin module adds in its CONTENDERS, by name."""
    from .cuda import CUDA
    from .peers import PEERS
    from .pruning import contenders

    extra = [c for plugin in plugins for c in import_module(plugin).CONTENDERS]
    return {c.name: c for c in [*OURS, *PEERS, *CUDA, *contenders(Contender), *extra]}
