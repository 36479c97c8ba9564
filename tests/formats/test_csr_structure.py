"""Invalid CSR structures are refused."""

from __future__ import annotations

from typing import Any

import gossamer
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from library import examples

# Rows (0, 2), (), (1, 2, 6), (3): 4 by 7.
INDPTR = [0, 2, 2, 5, 6]
INDICES = [0, 2, 1, 2, 6, 3]
SHAPE = (4, 7)
INDEX_DTYPES = [np.int32, np.int64]

BAD_STRUCTURE: list[tuple[dict[str, Any], str]] = [
    ({"indptr": [1, 2, 2, 5, 6]}, "CSR: indptr[0] is 1, expected 0"),
    ({"indptr": [-1, 2, 2, 5, 6]}, "CSR: indptr[0] is -1, expected 0"),
    ({"indptr": [0, 2, 5, 4, 6]}, "CSR: indptr[3] is 4, expected at least indptr[2] = 5"),
    ({"indptr": [0, 2, 2, 9, 6]}, "CSR: indptr[4] is 6, expected at least indptr[3] = 9"),
    ({"indptr": [0, -2, 2, 5, 6]}, "CSR: indptr[1] is -2, expected at least indptr[0] = 0"),
    (
        {"indptr": [0, 2, 2, 5, 2**31 - 1]},
        "CSR: indices.shape[0] is 6, expected indptr[-1] = 2147483647",
    ),
    ({"indptr": [0, 2, 2, 5, 5]}, "CSR: indices.shape[0] is 6, expected indptr[-1] = 5"),
    ({"indptr": [0, 2, 5, 6]}, "CSR: indptr.shape[0] is 4, expected shape[0] + 1 = 4 + 1"),
    (
        {"indices": [0, 2, 1, 2, 7, 3]},
        "CSR: indices[4] is 7, expected less than shape[1] = 7",
    ),
    (
        {"indices": [0, 2, 1, 2, 2**31 - 1, 3]},
        "CSR: indices[4] is 2147483647, expected less than shape[1] = 7",
    ),
    ({"indices": [-1, 2, 1, 2, 6, 3]}, "CSR: indices[0] is -1, expected at least 0"),
    (
        {"indices": [0, 2, 1, 6, 2, 3]},
        "CSR: indices[4] is 2, expected more than indices[3] = 6 in row 2",
    ),
    (
        {"indices": [0, 2, 1, 2, 2, 3]},
        "CSR: indices[4] is 2, expected more than indices[3] = 2 in row 2",
    ),
    ({"indices": [0, 2, 1, -5, 6, 3]}, "CSR: indices[3] is -5, expected at least 0"),
    (
        {"indices": [0, 2, 1, 2, 6]},
        "CSR: values.shape[0] is 6, expected indices.shape[0] = 5",
    ),
    (
        {"values": np.ones(5, np.float32)},
        "CSR: values.shape[0] is 5, expected indices.shape[0] = 6",
    ),
    (
        {"values": np.ones((6, 1), np.float32)},
        "CSR: values.shape[1] is 1, expected indices.shape[0] = 6",
    ),
    ({"values": np.ones((), np.float32)}, "CSR: values.ndim is 0, expected 1"),
    ({"indices": [INDICES]}, "CSR: indices.ndim is 2, expected 1"),
    ({"indptr": [INDPTR]}, "CSR: indptr.ndim is 2, expected 1"),
    ({"shape": (-1, 7)}, "CSR: shape[0] is -1, expected at least 0"),
    ({"shape": (4, -7)}, "CSR: shape[1] is -7, expected at least 0"),
    ({"shape": (5, 7)}, "CSR: indptr.shape[0] is 5, expected shape[0] + 1 = 5 + 1"),
    ({"shape": (4, 6)}, "CSR: indices[4] is 6, expected less than shape[1] = 6"),
    ({"shape": (4, 0)}, "CSR: indices[0] is 0, expected less than shape[1] = 0"),
    (
        {"values": np.ones(12, np.float32)[::2]},
        "CSR: values.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
    (
        {"values": np.ones(6, np.float32)[::-1]},
        "CSR: values.strides[-1] is -1, expected 1 (make it contiguous)",
    ),
]

BAD_TYPES: list[tuple[dict[str, Any], str]] = [
    (
        {"indptr": np.array(INDPTR, np.float32)},
        "CSR: indptr.dtype is float32, expected int32 or int64",
    ),
    (
        {"indices": np.array(INDICES, np.float32)},
        "CSR: indices.dtype is float32, expected indptr.dtype = int32",
    ),
    (
        {"values": np.ones(6, np.int32)},
        "CSR: values.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
]


def make(index_dtype: type = np.int32, check: bool = True, **changes: Any) -> gossamer.CSR:
    """The matrix above, with some arguments replaced; lists get the index type."""
    parts = {"indptr": INDPTR, "indices": INDICES, "values": np.arange(6, dtype=np.float32)}
    parts |= {"shape": SHAPE} | changes
    for name in ("indptr", "indices"):
        if isinstance(parts[name], list):
            parts[name] = np.array(parts[name], index_dtype)
    arrays = (parts["indptr"], parts["indices"], parts["values"])
    name = np.dtype(index_dtype).name
    return gossamer.CSR(*arrays, parts["shape"], check=check, index_dtype=name)


@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
def test_a_valid_matrix_is_accepted(index_dtype: type) -> None:
    a = make(index_dtype)
    assert (a.shape, a.nnz, a.index_dtype) == (SHAPE, 6, np.dtype(index_dtype).name)


@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
@pytest.mark.parametrize(("changes", "message"), BAD_STRUCTURE)
def test_corrupt_structure_is_refused(
    changes: dict[str, Any], message: str, index_dtype: type
) -> None:
    with pytest.raises(ValueError) as error:
        make(index_dtype, **changes)
    assert str(error.value) == message


@pytest.mark.parametrize(("changes", "message"), BAD_TYPES)
def test_wrong_element_types_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as error:
        make(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shape_past_int32_needs_int64(axis: int) -> None:
    shape = (2**31, 7) if axis == 0 else (4, 2**31)
    with pytest.raises(ValueError) as error:
        make(shape=shape)
    want = f"CSR: shape[{axis}] is 2147483648, expected at most 2147483647 for int32 indices"
    assert str(error.value) == want


def test_columns_past_int32_are_accepted_with_int64() -> None:
    indices = np.array([5, 2**40], np.int64)
    a = gossamer.CSR(np.array([0, 2]), indices, np.ones(2), (1, 2**40 + 1))
    assert a.index_dtype == "int64"
    with pytest.raises(ValueError, match=f"less than shape.1. = {2**40}$"):
        gossamer.CSR(np.array([0, 2]), indices, np.ones(2), (1, 2**40))


def test_without_check_only_the_arrays_are_looked_at() -> None:
    assert make(check=False, indices=[0, 2, 1, 2, 2, 3]).nnz == 6
    with pytest.raises(ValueError, match=r"values.shape\[0\] is 5"):
        make(check=False, values=np.ones(5, np.float32))


@pytest.mark.parametrize("entry", [0, 1, 17, 4095, 40_000, 99_999])
@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
def test_one_wrong_entry_among_many_is_found(entry: int, index_dtype: type) -> None:
    indptr = np.arange(0, 100_001, 100).astype(index_dtype)
    indices = np.tile(np.arange(0, 300, 3), 1000).astype(index_dtype)
    values = np.zeros(indices.size, np.float32)
    name = np.dtype(index_dtype).name
    gossamer.CSR(indptr, indices, values, (1000, 298), index_dtype=name)
    indices[entry] = 300
    with pytest.raises(ValueError, match=rf"indices\[{entry}\] is 300, expected less than"):
        gossamer.CSR(indptr, indices, values, (1000, 298), index_dtype=name)


def test_values_of_a_sibling_are_checked() -> None:
    a = make()
    assert a.with_values(np.ones(6)).dtype == "float64"
    with pytest.raises(
        ValueError, match=r"values.shape\[0\] is 5, expected indices.shape\[0\] = 6"
    ):
        a.with_values(np.ones(5))
    with pytest.raises(TypeError, match=r"values.dtype is int64, expected float32"):
        a.with_values(np.ones(6, np.int64))


@st.composite
def corrupted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A valid structure in which up to three numbers are changed."""
    rows, cols = draw(st.integers(0, 12)), draw(st.integers(1, 40))
    kept = draw(st.lists(st.sets(st.integers(0, cols - 1)), min_size=rows, max_size=rows))
    dtype = draw(st.sampled_from(INDEX_DTYPES))
    indptr = np.cumsum([0, *map(len, kept)]).astype(dtype)
    indices = np.array([j for row in kept for j in sorted(row)], dtype)
    for _ in range(draw(st.integers(0, 3))):
        array = draw(st.sampled_from([indptr, indices]))
        if array.size:
            extremes = st.sampled_from([-(2**31), 2**31 - 1])
            value = draw(st.integers(-2, cols + 2) | extremes)
            array[draw(st.integers(0, array.size - 1))] = value
    return indptr, indices, (rows, cols)


def is_canonical(indptr: np.ndarray, indices: np.ndarray, shape: tuple[int, int]) -> bool:
    """Return whether SciPy finds the matrix canonical; only for matrices that it reads safely."""
    if indptr[0] != 0 or indptr[-1] != indices.size or (np.diff(indptr.astype(np.int64)) < 0).any():
        return False
    if ((indices < 0) | (indices >= shape[1])).any():
        return False
    values = np.ones(indices.size, np.float32)
    return bool(scipy.sparse.csr_array((values, indices, indptr), shape=shape).has_canonical_format)


@settings(deadline=None, max_examples=examples(500))
@given(corrupted())
def test_what_is_accepted_is_canonical(
    case: tuple[np.ndarray, np.ndarray, tuple[int, int]],
) -> None:
    indptr, indices, shape = case
    values = np.arange(1, indices.size + 1, dtype=np.float32)
    name = indptr.dtype.name
    if not is_canonical(indptr, indices, shape):
        with pytest.raises(ValueError, match=r"^CSR: "):
            gossamer.CSR(indptr, indices, values, shape, index_dtype=name)
        return
    a = gossamer.CSR(indptr, indices, values, shape, index_dtype=name)
    want = scipy.sparse.csr_array((values, indices, indptr), shape=shape).toarray()
    assert np.array_equal(a.to_dense(), want)
