"""The product of two dense matrices, sampled on a sparse pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..cuda import CUDA
from ..dtypes import DTYPES, Array, from_bits, recode, sum_factor, to_bits, worst_error
from ..libraries import GOSSAMER, NUMPY, TORCH, Call, Library, as_stored, as_values, torch_module
from ..op import Case, Contender, Parameter, Work
from ..shapes import Shape
from ..targets import Part, Target, grid, order
from .forms import (
    bsr,
    csr,
    entries,
    gossamer_bsr,
    gossamer_csr,
    gossamer_module,
    hold,
    torch_csr,
    torch_csr_i64,
)
from .parameters import SPARSITY, K, M, positive
from .sparse import PATTERN, Matrix, SparseOp, of_blocks, product_work

DEPTH = Parameter(
    "depth",
    help="positive integers: depths D of sddmm [64]",
    usual="64",
    quick="64",
    parse=positive,
    head="D",
    label=lambda depth: f"D={depth}",
    formerly="n",
)


class Sddmm(SparseOp):
    """The entries of A·Bᵀ that a pattern keeps; A is [m, depth], B [k, depth]."""

    name = "sddmm"
    parameters = (M, K, DEPTH, SPARSITY, PATTERN)

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw A and B."""
        depth = case["depth"]
        rng = np.random.default_rng([case.seed, depth, 1])
        return {
            name: to_bits(rng.standard_normal((case[rows], depth), np.float32), case.dtype)
            for name, rows in (("a", "m"), ("b", "k"))
        }

    def reference(self, case: Case, weights: Matrix, inputs: dict[str, Array]) -> dict[str, Array]:
        """Multiply a few rows at a time in float64."""
        a, b = (from_bits(inputs[x], case.dtype).astype(np.float64) for x in "ab")
        expected, magnitude = np.empty((2, weights.nnz))
        step = max(1, 16_000_000 // case["k"])
        for row in range(0, case["m"], step):
            starts = weights.indptr[row : row + step + 1]
            part = slice(starts[0], starts[-1])
            at = np.repeat(np.arange(starts.size - 1), np.diff(starts)), weights.indices[part]
            expected[part] = (a[row : row + step] @ b.T)[at]
            magnitude[part] = (abs(a[row : row + step]) @ abs(b.T))[at]
        return {"expected": expected, "magnitude": magnitude}

    def error(
        self, case: Case, weights: Matrix, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Hold the values to the bound of a dot product of the depth."""
        got = np.asarray(result)
        if got.shape != reference["expected"].shape:
            return float("inf")
        factor = sum_factor(case["depth"], case.dtype, storage)
        return worst_error(got, reference["expected"], reference["magnitude"], factor, storage)

    def work(self, case: Case, nnz: int) -> Work:
        """Count a dot product an entry; the pattern is read and the values are written."""
        return product_work(case, nnz, case["depth"])

    def make_contenders(self) -> list[Contender]:
        """List ours, torch's sampled product, and dense products that are sampled after."""
        plain, blocks = csr(gossamer_csr), bsr(gossamer_bsr)
        i32, i64 = csr(torch_csr), csr(torch_csr_i64)
        floats: dict[str, Any] = {"dtypes": ("f32", "f64")}
        low: dict[str, Any] = {"dtypes": ("f32",), "storage": "bf16", "default": False}
        single: dict[str, Any] = {"threads": 1, "default": False}
        of_matrix: dict[str, Any] = {"result": lambda case, matrix: as_values(matrix.values())}
        halves: dict[str, Any] = {"dtypes": ("f16", "bf16", "f32"), "suits": of_blocks}
        return [
            _one("csr", "ours", GOSSAMER, hold(plain, GOSSAMER), _ours),
            _one("csr-1t", "ours", GOSSAMER, hold(plain, GOSSAMER), _ours, **single),
            _one("csr-bf16", "ours", GOSSAMER, hold(plain, GOSSAMER, "bf16"), _ours, **low),
            _one("numpy", "dense", NUMPY, _places, _numpy, **floats),
            _one("torch", "dense", TORCH, _flat_places(TORCH), _take),
            _one("torch-csr", "sparse", TORCH, hold(i32, TORCH), _sampled, **floats, **of_matrix),
            _one("torch-csr-i64", "sparse", TORCH, hold(i64, TORCH), _sampled, **floats,
                 **of_matrix),
            _one("cuda-csr", "ours", CUDA, hold(plain, CUDA), _ours),
            _one("cuda-bsr", "ours", CUDA, hold(blocks, CUDA), _ours_blocks, **halves,
                 result=_result_of_blocks),
            _one("cublas", "dense", CUDA, _flat_places(CUDA), _take),
            _one("torch-cusparse", "sparse", CUDA, hold(i32, CUDA), _sampled, **of_matrix),
        ]  # fmt: skip


def _one(
    name: str,
    kind: str,
    library: Library,
    held: Callable[[Case, Matrix], Any],
    expression: Callable[[Any, Any, Any], Call],
    *,
    dtypes: Sequence[str] = DTYPES,
    storage: str | None = None,
    result: Callable[[Case, Any], Any] = lambda case, returned: as_values(returned),
    **options: Any,
) -> Contender:
    def bind(case: Case, pattern: Any, inputs: dict[str, Array]) -> Call:
        kind = storage or case.dtype
        a, b = (library.put(recode(inputs[x], case.dtype, kind), kind) for x in "ab")
        return expression(pattern, a, b)

    return Contender(
        name, kind, library, held, bind, result, dtypes=dtypes, storage=storage, **options
    )


def _ours(pattern: Any, a: Any, b: Any) -> Call:
    gossamer = gossamer_module()
    return lambda: gossamer.sddmm(a, b, pattern)


def _ours_blocks(pattern: Any, a: Any, b: Any) -> Call:
    gossamer = gossamer_module()
    return lambda: (pattern, gossamer.sddmm(a, b, pattern))


def _result_of_blocks(case: Case, returned: Any) -> Any:
    pattern, blocks = returned
    return entries(as_stored(pattern.indptr), as_stored(pattern.indices), as_values(blocks))[2]


def _places(case: Case, matrix: Matrix) -> tuple[Array, Array]:
    return matrix.rows, matrix.indices


def _numpy(places: tuple[Array, Array], a: Array, b: Array) -> Call:
    return lambda: (a @ b.T)[places]


def _flat_places(library: Library) -> Callable[[Case, Matrix], Any]:
    return lambda case, matrix: library.put_index(
        matrix.rows.astype(np.int64) * case["k"] + matrix.indices
    )


def _take(places: Any, a: Any, b: Any) -> Call:
    torch = torch_module()
    return lambda: torch.take(a @ b.t(), places)


def _sampled(pattern: Any, a: Any, b: Any) -> Call:
    sampled = torch_module().sparse.sampled_addmm
    return lambda: sampled(pattern, a, b.t(), beta=0.0)


SDDMM = Sddmm()
OPS = [SDDMM]


def parts() -> list[Part]:
    """List the part `sddmm` of the suite `foundation`."""
    cases = order(
        grid(SDDMM, [Shape(4096, 4096)], sparsity=(0.5, 0.8, 0.9, 0.95, 0.98), depth=(64, 128))
    )
    i32_i64 = ("torch-csr", "torch-csr-i64")
    targets = tuple(
        Target(f"sddmm vs torch.sparse.sampled_addmm, L=4096, D={d}", "csr", i32_i64, 2,
               {"depth": (d,)})
        for d in (64, 128)
    )  # fmt: skip
    return [Part("foundation", "sddmm", tuple(cases), ("csr", *i32_i64, "torch"), targets)]
