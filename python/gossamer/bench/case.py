"""What is measured: a case, its operands from a seed, and the reference that results must meet."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import pruning

Array: TypeAlias = NDArray[Any]

PRODUCTS = ("linear", "spmm", "spmm-t")
CONVERSIONS = ("from_dense", "to_dense", "transpose")
OPS = (*PRODUCTS, "sddmm", *CONVERSIONS, *pruning.OPS)
DTYPES = ("f32", "bf16", "f16", "f64")
BLOCKS = {"block16": 16, "block32": 32}
PATTERNS = ("uniform", "skewed", *BLOCKS)
# What make_inputs draws, by name; the reference has other names.
OPERANDS = ("a", "b", "w", "g", "col", "mask")

ITEM_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f64": 8}
# Unit roundoff of a stored value, and of the sums.
ROUNDOFF = {"f32": 2.0**-24, "bf16": 2.0**-8, "f16": 2.0**-11, "f64": 2.0**-53}
SUM_ROUNDOFF = {"f32": 2.0**-24, "bf16": 2.0**-24, "f16": 2.0**-24, "f64": 2.0**-53}
SMALLEST = {"f32": 1e-44, "bf16": 1e-40, "f16": 6e-8, "f64": 0.0}

# Results are compared in full up to this many multiply-adds, else on sampled rows and row sums.
FULL_CHECK = 50_000_000
SAMPLED_ROWS = 192


@dataclass(frozen=True)
class Case:
    """One op on one sparse matrix of m by k; n is the width, or for sddmm the depth."""

    op: str
    m: int
    k: int
    n: int
    sparsity: float
    dtype: str = "f32"
    pattern: str = "uniform"
    cold: bool = False
    seed: int = 0

    @property
    def matrix(self) -> Case:
        """The case that all cases on the same sparse matrix have in common."""
        op = self.op if self.op in pruning.OPS else "spmm"
        return dataclasses.replace(self, op=op, n=0, cold=False)

    @property
    def label(self) -> str:
        """One line for people."""
        width = {"sddmm": f" D={self.n}"}.get(self.op, f" N={self.n}" if self.n else "")
        return (
            f"{self.op} {self.m}x{self.k}{width} {100 * self.sparsity:g}% {self.dtype}"
            + ("" if self.pattern == "uniform" else f" {self.pattern}")
            + (" cold" if self.cold else "")
        )


@dataclass(frozen=True)
class Work:
    """What a case costs at the least, whatever the format and the kernel."""

    flops: float
    dense_flops: float
    bytes: float
    matrix_bytes: float


def work(case: Case, nnz: int) -> Work:
    """Count useful and dense flops and the compulsory traffic.

    A sparse product must read the values, where they are (one bit an element or one byte an entry,
    whichever is less), the dense operand, and write the result.
    """
    size = ITEM_BYTES[case.dtype]
    elements = case.m * case.k
    place = min(elements / 8, nnz)
    if case.op in pruning.OPS:
        total = pruning.compulsory_bytes(case, size)
        return Work(0.0, 0.0, total, total)
    if case.op in CONVERSIONS:
        csr = nnz * (size + 4)
        total = 2 * csr if case.op == "transpose" else elements * size + csr
        return Work(0.0, 0.0, total, total)
    # Of sddmm the pattern is read and the values are written.
    matrix = nnz * size + place
    dense = (case.m + case.k) * case.n * size
    return Work(2.0 * nnz * case.n, 2.0 * elements * case.n, matrix + dense, matrix)


def to_bits(values: Array, dtype: str) -> Array:
    """Round to the type; bf16 is stored as its upper 16 bits, for NumPy has no such type."""
    if dtype != "bf16":
        return values.astype({"f32": np.float32, "f16": np.float16, "f64": np.float64}[dtype])
    u = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bits(stored: Array, dtype: str) -> Array:
    """Undo `to_bits`, to float32 for bf16."""
    if dtype != "bf16":
        return stored
    return (stored.astype(np.uint32) << 16).view(np.float32)


@dataclass
class Matrix:
    """A CSR matrix as plain arrays, values as `to_bits` stores them."""

    indptr: Array
    indices: Array
    values: Array
    shape: tuple[int, int]
    dtype: str

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return int(self.values.size)

    @cached_property
    def rows(self) -> Array:
        """The row of each entry."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.indptr))

    def dense(self) -> Array:
        """Write the entries into zeros."""
        out = np.zeros(self.shape, self.values.dtype)
        out[self.rows, self.indices] = self.values
        return out

    def blocks(self, side: int) -> tuple[Array, Array, Array]:
        """Return (indptr, indices, blocks) of a matrix whose pattern is made of square blocks."""
        rows, cols = self.shape[0] // side, self.shape[1] // side
        tiles = self.dense().reshape(rows, side, cols, side).transpose(0, 2, 1, 3)
        kept = (from_bits(tiles, self.dtype) != 0).any((2, 3))
        indptr = np.zeros(rows + 1, np.int32)
        np.cumsum(kept.sum(1), out=indptr[1:])
        return indptr, np.nonzero(kept)[1].astype(np.int32), np.ascontiguousarray(tiles[kept])

    def copy(self) -> Matrix:
        """Copy every array, so that a contender that borrows them has its own."""
        return dataclasses.replace(
            self,
            indptr=self.indptr.copy(),
            indices=self.indices.copy(),
            values=self.values.copy(),
        )

    def save(self, folder: Path) -> None:
        """Write the arrays where a worker finds them."""
        folder.mkdir()
        for name in ("indptr", "indices", "values"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, case: Case) -> Matrix:
        """Read what `save` wrote."""
        arrays = [np.load(folder / f"{name}.npy") for name in ("indptr", "indices", "values")]
        return cls(arrays[0], arrays[1], arrays[2], (case.m, case.k), case.dtype)


def _draw(rng: np.random.Generator, case: Case, keep: Array) -> Array:
    """Draw which elements, or which square blocks, are kept."""
    side = BLOCKS.get(case.pattern)
    if side is None:
        return rng.random((case.m, case.k), np.float32) < keep
    grid = -(-case.m // side), -(-case.k // side)
    blocks = rng.random(grid, np.float32) < 1.0 - case.sparsity
    return blocks.repeat(side, axis=0).repeat(side, axis=1)[: case.m, : case.k]


def make_matrix(case: Case) -> Matrix:
    """Draw the sparse matrix of a case: a random pattern and normal values, none of them zero.

    Masks are made of dense weights: they get an empty matrix.
    """
    if case.op in pruning.OPS:
        empty = np.zeros(0, np.int32)
        return Matrix(
            np.zeros(case.m + 1, np.int32),
            empty,
            to_bits(empty.astype(np.float32), case.dtype),
            (case.m, case.k),
            case.dtype,
        )
    rng = np.random.default_rng([case.seed, case.m, case.k, round(1e6 * case.sparsity)])
    keep = np.full((case.m, 1), 1.0 - case.sparsity, np.float32)
    if case.pattern == "skewed":
        # Log-normal row densities, as magnitude pruning leaves them; scaled back to the mean.
        keep = keep * rng.lognormal(0.0, 1.0, (case.m, 1)).astype(np.float32)
        for _ in range(8):
            keep = np.minimum(keep * ((1.0 - case.sparsity) / keep.mean()), 1.0)
    mask = _draw(rng, case, keep)
    if not mask.any():
        mask[0, 0] = True
    rows, columns = np.nonzero(mask)
    indptr = np.zeros(case.m + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=case.m), out=indptr[1:])
    values = rng.standard_normal(columns.size, np.float32)
    values[np.abs(values) < 1e-4] = 1.0
    return Matrix(
        indptr, columns.astype(np.int32), to_bits(values, case.dtype), (case.m, case.k), case.dtype
    )


def make_inputs(case: Case) -> dict[str, Array]:
    """Draw the dense operands, in the layout that the op's users have them in."""
    if case.op in pruning.OPS:
        return pruning.make_inputs(case)
    rng = np.random.default_rng([case.seed, case.n, 1])
    shapes: dict[str, tuple[int, ...]] = {
        "linear": (case.n, case.k),
        "spmm": (case.k, case.n) if case.n > 1 else (case.k,),
        "spmm-t": (case.m, case.n) if case.n > 1 else (case.m,),
    }
    if case.op in PRODUCTS:
        return {"b": to_bits(rng.standard_normal(shapes[case.op], np.float32), case.dtype)}
    if case.op == "sddmm":
        return {
            "a": to_bits(rng.standard_normal((case.m, case.n), np.float32), case.dtype),
            "b": to_bits(rng.standard_normal((case.k, case.n), np.float32), case.dtype),
        }
    return {}


def make_reference(case: Case, matrix: Matrix, inputs: dict[str, Array]) -> dict[str, Array]:
    """Compute in float64 what `check` compares with."""
    if case.op in pruning.OPS:
        return pruning.make_reference(case, inputs)
    if case.op in PRODUCTS:
        return _product_reference(case, matrix, inputs)
    if case.op == "sddmm":
        a, b = (from_bits(inputs[x], case.dtype).astype(np.float64) for x in "ab")
        expected, magnitude = np.empty((2, matrix.nnz))
        step = max(1, 16_000_000 // case.k)
        for row in range(0, case.m, step):
            starts = matrix.indptr[row : row + step + 1]
            part = slice(starts[0], starts[-1])
            at = np.repeat(np.arange(starts.size - 1), np.diff(starts)), matrix.indices[part]
            expected[part] = (a[row : row + step] @ b.T)[at]
            magnitude[part] = (abs(a[row : row + step]) @ abs(b.T))[at]
        return {"expected": expected, "magnitude": magnitude, "length": np.array(case.n)}
    if case.op == "transpose":
        order = np.argsort(matrix.indices, kind="stable")
        indptr = np.zeros(case.k + 1, np.int32)
        np.cumsum(np.bincount(matrix.indices, minlength=case.k), out=indptr[1:])
        return {"indptr": indptr, "indices": matrix.rows[order], "values": matrix.values[order]}
    return {}


def _product_reference(case: Case, matrix: Matrix, inputs: dict[str, Array]) -> dict[str, Array]:
    values = from_bits(matrix.values, case.dtype)
    b = from_bits(inputs["b"], case.dtype).astype(np.float64)
    b = b.T if case.op == "linear" else b.reshape(len(b), -1)
    out, inner = matrix.rows, matrix.indices
    if case.op == "spmm-t":
        out, inner = inner, out
    count = case.k if case.op == "spmm-t" else case.m

    rows = np.arange(count)
    if matrix.nnz * case.n > FULL_CHECK and count > SAMPLED_ROWS:
        rng = np.random.default_rng([case.seed, 2])
        rows = np.sort(rng.choice(count, SAMPLED_ROWS, replace=False))
        rows[0], rows[-1] = 0, count - 1
    slot = np.full(count, -1)
    slot[rows] = np.arange(rows.size)
    if rows.size == count:
        chosen = np.arange(matrix.nnz)
    elif case.op == "spmm-t":
        chosen = np.nonzero(slot[out] >= 0)[0]
    else:
        starts, ends = matrix.indptr[rows], matrix.indptr[rows + 1]
        chosen = np.concatenate([np.arange(*span) for span in zip(starts, ends, strict=True)])
    sample = np.zeros((rows.size, len(b)))
    sample[slot[out[chosen]], inner[chosen]] = values[chosen]

    # Every row's sum, with random signs, which a wrong row cannot hide in.
    signs = np.where(np.random.default_rng([case.seed, 3]).random(case.n) < 0.5, -1.0, 1.0)
    lengths = np.bincount(out, minlength=count)
    return {
        "rows": rows,
        "expected": sample @ b,
        "magnitude": abs(sample) @ abs(b),
        "signs": signs,
        "sums": np.bincount(out, values * (b @ signs)[inner], count),
        "sums_magnitude": np.bincount(out, abs(values) * abs(b).sum(1)[inner], count),
        "length": np.array(lengths.max()),
    }


def check(
    case: Case, matrix: Matrix, reference: dict[str, Array], result: Any, storage: str
) -> float:
    """Compare a result with the reference: the largest error as a share of its bound.

    The bound is that of a dot product of `length` terms (n u Σ|a||b|), the rounding of the result
    and, for a contender that stores its operands in fewer bits than the case, of the operands.
    Conversions must be exact. Above 1 (or infinite) the result is wrong.
    """
    if case.op in pruning.OPS:
        return pruning.check(reference, result)
    if case.op in CONVERSIONS:
        return 0.0 if _is_exact(case, matrix, reference, result) else np.inf

    inexact = 2 * ROUNDOFF[storage] if storage != case.dtype else 0.0
    factor = inexact + (int(reference["length"]) + 2) * SUM_ROUNDOFF[storage]
    got = np.asarray(result)
    if case.op == "sddmm":
        if got.shape != reference["expected"].shape:
            return np.inf
        return _worst(got, reference["expected"], reference["magnitude"], factor, storage)
    count = case.k if case.op == "spmm-t" else case.m
    if got.size != count * case.n or case.n not in (got.shape[0], got.shape[-1], 1):
        return np.inf
    got = got.T if case.op == "linear" else got.reshape(count, case.n)
    return max(
        _worst(
            got[reference["rows"]], reference["expected"], reference["magnitude"], factor, storage
        ),
        _worst(
            got @ reference["signs"],
            reference["sums"],
            reference["sums_magnitude"],
            factor + ROUNDOFF[storage],
            storage,
        ),
    )


def _is_exact(case: Case, matrix: Matrix, reference: dict[str, Array], result: Any) -> bool:
    if case.op == "to_dense":
        full = result.shape == (case.m, case.k) and np.count_nonzero(result) == matrix.nnz
        return bool(full and (result == matrix.dense()).all())
    expected = vars(matrix) if case.op == "from_dense" else reference
    names = ("indptr", "indices", "values")
    return all(np.array_equal(expected[x], y) for x, y in zip(names, result, strict=True))


def _worst(got: Array, expected: Array, magnitude: Array, factor: float, storage: str) -> float:
    bound = factor * magnitude + ROUNDOFF[storage] * abs(expected) + SMALLEST[storage]
    error = abs(got - expected)
    return (
        float(np.max(np.where(error == 0.0, 0.0, error / bound), initial=0.0))
        if np.isfinite(error).all()
        else float("inf")
    )
