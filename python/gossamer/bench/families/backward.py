"""The gradients of linear by its input and, at the pattern, by its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..cuda import CUDA
from ..dtypes import DTYPES, Array, from_bits, sum_factor, to_bits, worst_error
from ..libraries import GOSSAMER, TORCH, Call, Library, as_values, torch_module
from ..op import Case, Contender, Work
from ..shapes import Shape
from ..targets import Part, Target, grid, order
from .forms import bsr, csr, entries, gossamer_bsr, gossamer_csr, gossamer_module, gossamer_nm, hold
from .parameters import SPARSITY, K, M, N
from .sparse import PATTERN, Matrix, SparseOp, of_blocks, of_groups, product_work


class LinearBackward(SparseOp):
    """dx = dy·W and the values of dyᵀ·x at W's pattern, W [m, k], n rows of x and dy."""

    name = "linear-backward"
    parameters = (M, K, N, SPARSITY, PATTERN)

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw x and the gradient of the output."""
        rng = np.random.default_rng([case.seed, case["n"], 1])
        return {
            name: to_bits(rng.standard_normal((case["n"], case[width]), np.float32), case.dtype)
            for name, width in (("x", "k"), ("dy", "m"))
        }

    def reference(self, case: Case, weights: Matrix, inputs: dict[str, Array]) -> dict[str, Array]:
        """Multiply in float64, the weights' gradient a few rows at a time."""
        x, dy = (from_bits(inputs[name], case.dtype).astype(np.float64) for name in ("x", "dy"))
        dense = from_bits(weights.dense(), case.dtype).astype(np.float64)
        expected, magnitude = np.empty((2, weights.nnz))
        step = max(1, 16_000_000 // case["k"])
        for row in range(0, case["m"], step):
            starts = weights.indptr[row : row + step + 1]
            part = slice(starts[0], starts[-1])
            at = np.repeat(np.arange(starts.size - 1), np.diff(starts)), weights.indices[part]
            rows = dy[:, row : row + step].T
            expected[part] = (rows @ x)[at]
            magnitude[part] = (abs(rows) @ abs(x))[at]
        return {
            "dx": dy @ dense,
            "dx_magnitude": abs(dy) @ abs(dense),
            "dvalues": expected,
            "dvalues_magnitude": magnitude,
        }

    def error(
        self, case: Case, weights: Matrix, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Hold both gradients to the bound of a dot product."""
        worst = 0.0
        for name, terms in (("dx", case["m"]), ("dvalues", case["n"])):
            got = np.asarray(result[name])
            if got.shape != reference[name].shape:
                return float("inf")
            factor = sum_factor(terms, case.dtype, storage)
            magnitude = reference[f"{name}_magnitude"]
            worst = max(worst, worst_error(got, reference[name], magnitude, factor, storage))
        return worst

    def work(self, case: Case, nnz: int) -> Work:
        """Count two multiply-adds for each entry and row."""
        return product_work(case, nnz, 2 * case["n"])

    def make_contenders(self) -> list[Contender]:
        """List ours, dense products, and our forward product, for comparison."""
        plain, blocks = csr(gossamer_csr), bsr(gossamer_bsr)
        return [
            _one("csr", "ours", GOSSAMER, hold(plain, GOSSAMER), _ours),
            _one("bsr", "ours", GOSSAMER, hold(blocks, GOSSAMER), _ours, suits=of_blocks,
                 result=_of_blocks),
            _one("nm", "ours", GOSSAMER, hold(gossamer_nm, GOSSAMER), _ours, suits=of_groups,
                 result=_of_groups),
            _one("csr-forward", "ours", GOSSAMER, hold(plain, GOSSAMER), _forward, default=False,
                 result=_of_forward),
            _one("torch", "dense", TORCH, _dense_and_places(TORCH), _dense),
            _one("cuda-csr", "ours", CUDA, hold(plain, CUDA), _ours),
            _one("cuda-nm", "ours", CUDA, hold(gossamer_nm, CUDA), _ours, suits=of_groups,
                 result=_of_groups),
            _one("cublas", "dense", CUDA, _dense_and_places(CUDA), _dense),
        ]  # fmt: skip


def _one(
    name: str,
    kind: str,
    library: Library,
    held: Callable[[Case, Matrix], Any],
    expression: Callable[[Any, Any, Any], Call],
    *,
    result: Callable[[Case, Any], Any] | None = None,
    **options: Any,
) -> Contender:
    def bind(case: Case, weights: Any, inputs: dict[str, Array]) -> Call:
        x, dy = (library.put(inputs[name], case.dtype) for name in ("x", "dy"))
        return expression(weights, x, dy)

    return Contender(
        name, kind, library, held, bind, result or _as_they_are, dtypes=DTYPES, **options
    )


def _as_they_are(case: Case, returned: Any) -> dict[str, Any]:
    _, dx, dvalues = returned
    return {"dx": as_values(dx), "dvalues": as_values(dvalues)}


def _of_blocks(case: Case, returned: Any) -> dict[str, Any]:
    w, dx, dvalues = returned
    parts = (np.asarray(w.indptr), np.asarray(w.indices), as_values(dvalues))
    return {"dx": as_values(dx), "dvalues": entries(*parts)[2]}


def _of_groups(case: Case, returned: Any) -> dict[str, Any]:
    """All groups are full: in rows, values are in the order of their columns."""
    _, dx, dvalues = returned
    return {"dx": as_values(dx), "dvalues": as_values(dvalues).reshape(-1)}


def _of_forward(case: Case, returned: Any) -> dict[str, Any]:
    """Compute what was not asked for, without being timed."""
    (w, x, dy), _ = returned
    return _as_they_are(case, _ours(w, x, dy)())


def _ours(w: Any, x: Any, dy: Any) -> Call:
    backward = gossamer_module().linear_backward
    return lambda: (w, *backward(dy, x, w, needs=(True, True, False))[:2])


def _forward(w: Any, x: Any, dy: Any) -> Call:
    linear = gossamer_module().linear
    return lambda: ((w, x, dy), linear(x, w))


def _dense_and_places(library: Library) -> Callable[[Case, Matrix], Any]:
    def held(case: Case, matrix: Matrix) -> Any:
        places = matrix.rows.astype(np.int64) * case["k"] + matrix.indices
        return library.put(matrix.dense(), case.dtype), library.put_index(places)

    return held


def _dense(weights: Any, x: Any, dy: Any) -> Call:
    torch, (w, places) = torch_module(), weights
    return lambda: (w, dy @ w, torch.take(dy.t() @ x, places))


LINEAR_BACKWARD = LinearBackward()
OPS = [LINEAR_BACKWARD]


def parts() -> list[Part]:
    """List the part `backward` of the suite `gemm`."""
    widths, levels = (128, 512), (0.5, 0.9)
    cases = order(grid(LINEAR_BACKWARD, [Shape(4096, 4096)], sparsity=levels, n=widths))
    targets = tuple(
        Target(f"backward of linear over the forward, 90%, N={n}", "csr", ("csr-forward",), 2.5,
               {"sparsity": (0.9,), "n": (n,)}, at_most=True)
        for n in widths
    )  # fmt: skip
    return [Part("gemm", "backward", tuple(cases), ("csr", "csr-forward", "torch"), targets)]
