"""Matrices of other libraries whose structure their constructors did not check."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest

Pointers = tuple[list[int], str]

# Of two lines and three entries.
POINTERS = [
    ([1, 2, 3], r"\[0\] is 1, expected 0"),
    ([0, 9, 3], "decreases, expected that it never does"),
    ([0, -9, 3], "decreases, expected that it never does"),
    ([0, 2, 9], r"\[-1\] is 9, expected (at most )?3"),
    ([0, 3], r"shape is \(2,\), expected \(3,\)"),
    ([0, 1, 2, 3], r"shape is \(4,\), expected \(3,\)"),
]
INDICES = [([0, -4, 1], "has -4, expected at least 0"), ([0, 9, 1], "has 9, expected less than 2")]
MAKERS: list[tuple[type, dict[str, Any]]] = [(gossamer.CSR, {}), (gossamer.BSR, {"block": (1, 1)})]


def refused(obj: Any, name: str, problem: str, formats: Any = MAKERS) -> None:
    """Expect that a matrix is refused in words that name what is wrong."""
    for kind, options in formats:
        with pytest.raises(ValueError, match=rf"^from_sparse: obj\.{name}.*{problem}$"):
            kind.from_sparse(obj, **options)


def scipy_matrix(layout: str) -> Any:
    """Return a 2 × 2 matrix (of blocks of 1 × 1) with three entries."""
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.array([[1.0, 2.0], [0.0, 3.0]])
    if layout == "bsr":
        return sparse.bsr_array(dense, blocksize=(1, 1))
    return sparse.csr_array(dense) if layout == "csr" else sparse.csc_array(dense.T)


@pytest.mark.parametrize("layout", ["csr", "csc", "bsr"])
@pytest.mark.parametrize(("ends", "problem"), POINTERS)
def test_pointers_of_scipy_are_checked(layout: str, ends: list[int], problem: str) -> None:
    matrix = scipy_matrix(layout)
    matrix.indptr = np.array(ends, np.int32)
    refused(matrix, "indptr", problem)


@pytest.mark.parametrize("layout", ["csr", "csc", "bsr"])
@pytest.mark.parametrize(("index", "problem"), INDICES)
def test_indices_of_scipy_are_checked(layout: str, index: list[int], problem: str) -> None:
    matrix = scipy_matrix(layout)
    matrix.indices = np.array(index, np.int32)
    if layout == "csr":  # by the constructor of CSR, once sorted
        with pytest.raises(ValueError, match=r"^CSR: indices\[\d\] is"):
            gossamer.CSR.from_sparse(matrix)
    refused(matrix, "indices", problem, MAKERS[layout == "csr" :])


@pytest.mark.parametrize("layout", ["csr", "csc", "bsr"])
def test_axes_of_scipys_values_are_checked(layout: str) -> None:
    matrix = scipy_matrix(layout)
    matrix.data = np.ones((3, 2))
    refused(matrix, "data.ndim", f"is 2, expected {3 if layout == 'bsr' else 1}")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("index", "problem"), INDICES)
def test_places_of_scipy_are_checked(axis: int, index: list[int], problem: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.coo_array((np.ones(3), ([0, 1, 1], [0, 0, 1])), shape=(2, 2))
    getattr(matrix, ("row", "col")[axis])[:] = index
    refused(matrix, ("row", "col")[axis], problem)
    lists = sparse.lil_array(np.eye(2))
    lists.rows[1] = [9]
    for kind, options in MAKERS:
        with pytest.raises(ValueError, match="9"):
            kind.from_sparse(lists, **options)


def torch_matrix(layout: str, ends: list[int], index: list[int]) -> Any:
    torch = pytest.importorskip("torch")
    values = torch.ones((3, 1, 1) if layout in ("bsr", "bsc") else (3,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.sparse_compressed_tensor(
            torch.tensor(ends),
            torch.tensor(index),
            values,
            (2, 2),
            layout=getattr(torch, f"sparse_{layout}"),
            check_invariants=False,
        )


@pytest.mark.parametrize("layout", ["csr", "csc", "bsr", "bsc"])
@pytest.mark.parametrize(("ends", "problem"), [*POINTERS, ([0, 1, 2], r"\[-1\] is 2, expected 3")])
def test_pointers_of_torch_are_checked(layout: str, ends: list[int], problem: str) -> None:
    name = "crow_indices" if layout in ("csr", "bsr") else "ccol_indices"
    refused(torch_matrix(layout, ends, [0, 1, 1]), name, problem)


@pytest.mark.parametrize("layout", ["csr", "csc", "bsr", "bsc"])
@pytest.mark.parametrize(("index", "problem"), INDICES)
def test_indices_of_torch_are_checked(layout: str, index: list[int], problem: str) -> None:
    name = "col_indices" if layout in ("csr", "bsr") else "row_indices"
    refused(torch_matrix(layout, [0, 2, 3], index), name, problem)


@pytest.mark.parametrize("coalesced", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("index", "problem"), INDICES)
def test_places_of_torch_are_checked(
    coalesced: bool, axis: int, index: list[int], problem: str
) -> None:
    torch = pytest.importorskip("torch")
    places = torch.tensor([[0, 0, 1], [0, 1, 1]])
    places[axis] = torch.tensor(index)
    matrix = torch.sparse_coo_tensor(
        places, torch.ones(3), (2, 2), check_invariants=False, is_coalesced=coalesced
    )
    refused(matrix, "indices", problem)


@pytest.mark.parametrize("layout", ["BCSR", "CSR", "CSC"])
@pytest.mark.parametrize(("ends", "problem"), POINTERS[:4])
def test_pointers_of_jax_are_checked(layout: str, ends: list[int], problem: str) -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    index, pointers = (jax.numpy.asarray(x) for x in ([0, 1, 1], ends))
    matrix = getattr(sparse, layout)((jax.numpy.ones(3), index, pointers), shape=(2, 2))
    refused(matrix, "indptr", problem)


@pytest.mark.parametrize("kind", ["n_batch", "n_dense"])
def test_axes_of_jax_that_are_not_sparse_are_refused(kind: str) -> None:
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    matrix = sparse.BCOO.fromdense(jax.numpy.eye(3), **{kind: 1})
    refused(matrix, kind, "is 1, expected 0")


def test_blocks_of_a_large_matrix_of_jax() -> None:
    # JAX's indices have 32 bits, in which the number of a place in a matrix wraps.
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    side = 70_000
    places = jax.numpy.asarray([[69_999, 69_998], [5, 6], [69_999, 69_999]])
    matrix = sparse.BCOO((jax.numpy.asarray([1.0, 2.0, 3.0]), places), shape=(side, side))
    a = gossamer.BSR.from_sparse(matrix, block=(2, 1))
    np.testing.assert_array_equal(np.flatnonzero(np.diff(a.indptr)), [2, 34_999])
    np.testing.assert_array_equal(a.indices, [6, 69_998, 69_999])
    np.testing.assert_array_equal(a.blocks[:, :, 0], [[0, 2], [0, 1], [0, 3]])


def narrowed(path: pathlib.Path) -> list[Callable[[gossamer.CSR], Any]]:
    """Return what makes JAX's arrays of a matrix."""

    def load(a: gossamer.CSR) -> Any:
        a.save(path / "a.safetensors")
        return gossamer.CSR.load(path / "a.safetensors", framework="jax")

    return [gossamer.CSR.to_jax, load]


def test_jax_gets_no_number_that_it_would_cut(tmp_path: pathlib.Path) -> None:
    jax = pytest.importorskip("jax")
    double = gossamer.CSR.from_dense(np.eye(2) / 3)
    large = gossamer.CSR(
        np.array([0, 1]), np.array([2_500_000_000]), np.ones(1, np.float32), (1, 3_000_000_000)
    )
    for make, name in zip(narrowed(tmp_path), ("to_jax", "load"), strict=True):
        with pytest.raises(TypeError, match=rf"^CSR\.{name}: values are float64, .*jax_enable_x64"):
            make(double)
        with pytest.raises(ValueError, match=rf"^CSR\.{name}: an index is 2500000000, which JAX"):
            make(large)
        with jax.enable_x64(True):
            make(double)
            make(large)
    single = gossamer.CSR.from_dense(jax.numpy.eye(2))
    with pytest.raises(TypeError, match=r"^CSR: values are float64, .*jax_enable_x64"):
        single.astype("float64")
