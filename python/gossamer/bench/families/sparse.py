"""What ops on a sparse matrix of m by k share: the matrix, and what its entries cost."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..dtypes import ITEM_BYTES, Array, from_bits, to_bits
from ..matrices import GIVEN, GivenMatrix
from ..op import Case, Contender, Op, Parameter, Work
from .parameters import SPARSITY, K, M

BLOCKS = {"block16": 16, "block32": 32, "block64": 64}
#: n of every m elements of a row; the sparsity of a case must be 1 - n / m.
GROUPS = {"2:4": (2, 4), "4:8": (4, 8), "1:4": (1, 4), "2:8": (2, 8), "1:16": (1, 16)}
PATTERNS = ("uniform", "skewed", *BLOCKS, *GROUPS)


def _pattern(text: str) -> str:
    if text not in PATTERNS:
        raise ValueError
    return text


PATTERN = Parameter(
    "pattern",
    help=f"of {', '.join(PATTERNS)}: where the entries lie [uniform]",
    usual="uniform",
    quick="uniform",
    parse=_pattern,
    label=lambda pattern: "" if pattern == "uniform" else str(pattern),
    word=True,
    default="uniform",
)


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


def _kept(rng: np.random.Generator, case: Case, keep: Array) -> Array:
    """Draw which elements, or which square blocks, are kept."""
    m, k = case["m"], case["k"]
    if case["pattern"] in GROUPS:
        n, of = GROUPS[case["pattern"]]
        drawn = rng.random((m, -(-k // of), of), np.float32)
        grouped = np.zeros(drawn.shape, bool)  # numbers may be equal: exactly n are kept
        np.put_along_axis(grouped, np.argpartition(drawn, n - 1, axis=2)[:, :, :n], True, axis=2)
        return grouped.reshape(m, -1)[:, :k]
    side = BLOCKS.get(case["pattern"])
    if side is None:
        return rng.random((m, k), np.float32) < keep
    blocks = rng.random((-(-m // side), -(-k // side)), np.float32) < 1.0 - case["sparsity"]
    tiled: Array = blocks.repeat(side, axis=0).repeat(side, axis=1)
    return tiled[:m, :k]


def draw_matrix(case: Case) -> Matrix:
    """Draw the sparse matrix of a case: a random pattern and normal values, none of them zero.

    A pattern that has the name of a matrix that the user gave is that matrix.
    """
    if (given := GIVEN.get((case["pattern"], case["sparsity"]))) is not None:
        return Matrix(*given.stored(case.dtype), given.shape, case.dtype)
    m, k, sparsity = case["m"], case["k"], case["sparsity"]
    rng = np.random.default_rng([case.seed, m, k, round(1e6 * sparsity)])
    keep = np.full((m, 1), 1.0 - sparsity, np.float32)
    if case["pattern"] == "skewed":
        # Log-normal row densities, as magnitude pruning leaves them; scaled back to the mean.
        keep = keep * rng.lognormal(0.0, 1.0, (m, 1)).astype(np.float32)
        for _ in range(8):
            keep = np.minimum(keep * ((1.0 - sparsity) / keep.mean()), 1.0)
    mask = _kept(rng, case, keep)
    if not mask.any():
        mask[0, 0] = True
    rows, columns = np.nonzero(mask)
    indptr = np.zeros(m + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=m), out=indptr[1:])
    values = rng.standard_normal(columns.size, np.float32)
    values[np.abs(values) < 1e-4] = 1.0
    return Matrix(indptr, columns.astype(np.int32), to_bits(values, case.dtype), (m, k), case.dtype)


class SparseOp(Op):
    """An op whose weights are a sparse matrix."""

    parameters: tuple[Parameter, ...] = (M, K, SPARSITY, PATTERN)
    over = "sparsity"

    def on_matrix(self, matrix: GivenMatrix) -> dict[str, Any] | None:
        """Take the matrix as a pattern of its name, where the op draws none of its own kind."""
        if PATTERN not in self.parameters or type(self).weights is not SparseOp.weights:
            return None
        m, k = matrix.shape
        return {"m": m, "k": k, "pattern": matrix.name, "sparsity": matrix.sparsity}

    def weights_key(self, case: Case) -> Hashable:
        """Ops share a matrix."""
        drawn = tuple(case[name] for name in ("m", "k", "pattern", "sparsity"))
        return "sparse", *drawn, case.dtype, case.seed

    def weights(self, case: Case) -> Matrix:
        """Draw the matrix."""
        return draw_matrix(case)

    def nnz(self, case: Case, weights: Matrix) -> int:
        """Count the matrix's entries."""
        return weights.nnz

    def held_bytes(self, case: Case, contender: Contender, nnz: int) -> float:
        """Count an index a byte at the least; a packed form may hold more."""
        size = ITEM_BYTES[contender.storage or case.dtype]
        if contender.kind in ("dense", "low"):
            return float(case["m"] * case["k"] * size)
        return float(nnz * (size + 1))


def product_work(case: Case, nnz: int, width: int) -> Work:
    """Count a product of the matrix, or on its pattern, with dense operands `width` wide.

    The values are read (or written), where they are (one bit an element or one byte an entry,
    whichever is less), and the dense operands and the result once.
    """
    size, elements = ITEM_BYTES[case.dtype], case["m"] * case["k"]
    matrix = nnz * size + min(elements / 8, nnz)
    dense = (case["m"] + case["k"]) * width * size
    return Work(2.0 * nnz * width, 2.0 * elements * width, matrix + dense, matrix)


def of_blocks(case: Case) -> bool:
    """Tell whether the matrix is made of whole blocks: patterns are cut at the edges."""
    side = BLOCKS.get(case["pattern"])
    return side is not None and case["m"] % side == 0 == case["k"] % side


def of_groups(case: Case) -> bool:
    """Tell whether the matrix is made of whole N:M groups."""
    groups = GROUPS.get(case["pattern"])
    return groups is not None and case["k"] % groups[1] == 0
