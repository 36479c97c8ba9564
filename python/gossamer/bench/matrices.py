"""Matrices of the user's own, read from files."""

from __future__ import annotations

import warnings
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .dtypes import Array, from_bits, to_bits

FORMATS = ".npz (SciPy's, or of dense arrays), .npy, .mtx, .smtx or .safetensors:key"
#: Values beyond this become infinite.
_MOST = {"f32": 3.4028235e38, "bf16": 3.3895314e38, "f16": 65504.0, "f64": np.inf}


class MatrixError(ValueError):
    """A file that has no matrix; the message is one line."""


@dataclass(frozen=True, eq=False)
class GivenMatrix:
    """A CSR matrix as plain arrays; columns of a row are sorted, and no value is zero."""

    name: str
    indptr: Array
    indices: Array
    values: Array
    shape: tuple[int, int]

    @property
    def sparsity(self) -> float:
        """The share of zeros, to four digits."""
        return round(1.0 - self.values.size / (self.shape[0] * self.shape[1]), 4)

    def stored(self, dtype: str) -> tuple[Array, Array, Array]:
        """Round the values, as `to_bits` stores them; those that become zero are left out."""
        bits = to_bits(self.values, dtype)
        kept = from_bits(bits, dtype) != 0
        counts = np.concatenate([[0], np.cumsum(kept)])
        return counts[self.indptr].astype(np.int32), self.indices[kept], bits[kept]

    def check(self, dtype: str) -> None:
        """Refuse values that the type cannot hold."""
        largest = float(abs(self.values).max())
        if largest > _MOST[dtype]:
            raise MatrixError(f"{self.name} has a value of {largest:.3g}, too large for {dtype}")
        if not from_bits(to_bits(self.values, dtype), dtype).any():
            raise MatrixError(f"{self.name} has no value that is not zero as {dtype}")

    def pruned(self, sparsity: float) -> GivenMatrix:
        """Keep the largest magnitudes, so many that the share of zeros is at least `sparsity`."""
        elements = self.shape[0] * self.shape[1]
        count = max(1, elements - int(sparsity * elements))
        if count >= self.values.size:
            return self
        size = self.values.size
        kept = np.zeros(size, bool)
        kept[np.argpartition(abs(self.values), size - count)[size - count :]] = True
        counts = np.concatenate([[0], np.cumsum(kept)])
        return replace(
            self,
            indptr=counts[self.indptr].astype(np.int32),
            indices=self.indices[kept],
            values=self.values[kept],
        )


#: The matrices of this run, by the pattern and the sparsity of the cases on them.
GIVEN: dict[tuple[str, float], GivenMatrix] = {}


def give(matrix: GivenMatrix) -> None:
    """Let cases be on a matrix."""
    GIVEN[matrix.name, matrix.sparsity] = matrix


def read_matrices(specs: Sequence[str], seed: int = 0) -> list[GivenMatrix]:
    """Read matrices; of several whose files have one name each gets its whole path as its name."""
    read = [read_matrix(spec, seed) for spec in specs]
    names = [matrix.name for matrix in read]
    return [
        replace(matrix, name=spec) if names.count(matrix.name) > 1 else matrix
        for spec, matrix in zip(specs, read, strict=True)
    ]


def read_matrix(spec: str, seed: int = 0) -> GivenMatrix:
    """Read `FILE`, or `FILE:KEY` of one with several arrays; ValueError for what is no matrix.

    The values of a .smtx file, which has none, are drawn from the seed.
    """
    path, key = _split(spec)
    name = f"{path.name}:{key}" if key else path.name
    readers = {
        ".npz": _npz,
        ".npy": _npy,
        ".mtx": _mtx,
        ".gz": _mtx,
        ".smtx": lambda path, key: _smtx(path, seed),
        ".safetensors": _safetensors,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise MatrixError(f"{spec} has no known ending, expected {FORMATS}")
    try:
        found = reader(path, key)
        return _checked(found, name)
    except MatrixError:
        raise
    except OSError as error:
        raise MatrixError(f"{path}: {error.strerror or _line(error)}") from error
    except Exception as error:  # readers of other libraries raise anything on a broken file
        raise MatrixError(f"{path} cannot be read as {path.suffix}: {_line(error)}") from error


def _split(spec: str) -> tuple[Path, str]:
    path, _, key = spec.rpartition(":")
    if not path or Path(spec).exists() or Path(path).suffix.lower() not in _WITH_KEYS:
        return Path(spec), ""
    return Path(path), key


_WITH_KEYS = (".npz", ".safetensors")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _need(package: str, what: str) -> Any:
    name = package.partition(".")[0]
    if find_spec(name) is None:
        raise MatrixError(f"{what} needs {name}: pip install 'gossamer[bench]'")
    return import_module(package)


def _chosen(path: Path, key: str, names: Sequence[str]) -> str:
    """Find the array that is meant."""
    if key in names or (not key and len(names) == 1):
        return key or names[0]
    known = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    got = f"no {key!r}" if key else "several arrays"
    raise MatrixError(f"{path} has {got}, expected {path}:KEY with one of {known or 'none'}")


def _npz(path: Path, key: str) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        if not key and {"format", "shape"} <= set(archive.files):
            return _need("scipy.sparse", str(path)).load_npz(path)
        return archive[_chosen(path, key, archive.files)]


def _npy(path: Path, key: str) -> Any:
    return np.load(path, allow_pickle=False)


def _mtx(path: Path, key: str) -> Any:
    if not path.name.lower().endswith((".mtx", ".mtx.gz")):
        raise MatrixError(f"{path} has no known ending, expected {FORMATS}")
    read = _need("scipy.io", str(path)).mmread
    with path.open("rb") as file:
        marked = file.read(len(BOM_UTF8)) == BOM_UTF8  # by an editor; SciPy takes it for text
        return read(file) if marked else read(path)


def _smtx(path: Path, seed: int) -> Any:
    """Read `rows, columns, entries`, then a line of row pointers and one of columns (DLMC)."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows, columns, entries = (int(x) for x in lines[0].replace(",", " ").split())
    indptr = np.array((lines[1:2] or [""])[0].split(), np.int64)
    indices = np.array((lines[2:3] or [""])[0].split(), np.int64)
    if indptr.size != rows + 1 or indices.size != entries or indptr[-1] != entries:
        raise MatrixError(f"{path} has {indices.size} entries, expected {entries} of {rows} rows")
    values = np.random.default_rng([seed, entries]).standard_normal(entries, np.float32)
    values[abs(values) < 1e-4] = 1.0
    sparse = _need("scipy.sparse", str(path))
    return sparse.csr_matrix((values, indices, indptr), shape=(rows, columns))


def _safetensors(path: Path, key: str) -> Any:
    module = _need("safetensors", str(path))
    with module.safe_open(path, framework="numpy") as file:
        name = _chosen(path, key, sorted(file.keys()))
        if file.get_slice(name).get_dtype() != "BF16":
            return file.get_tensor(name)
    _need("torch", f"{path} with bfloat16")
    with module.safe_open(path, framework="pt") as file:  # NumPy has no bfloat16
        return file.get_tensor(name).float().numpy()


def _checked(found: Any, name: str) -> GivenMatrix:
    """Take a dense array or one of SciPy's matrices as CSR arrays without zeros."""
    if len(found.shape) != 2 or 0 in found.shape:
        raise MatrixError(f"{name} has shape {tuple(found.shape)}, expected a matrix")
    if max(found.shape) >= 1 << 31:
        raise MatrixError(f"{name} has shape {tuple(found.shape)}, expected sides below 2^31")
    if found.dtype.kind not in "fiub":
        raise MatrixError(f"{name} has values of {found.dtype}, expected real numbers")
    if isinstance(found, np.ndarray):
        rows, columns = np.nonzero(found)
        values, m = found[rows, columns], len(found)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))])
    else:
        if hasattr(found, "check_format"):  # before any pass over what indices name
            found.check_format(full_check=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that SciPy's formats are not what it would choose
            csr = found.tocsr(copy=True)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        indptr, columns, values = csr.indptr, csr.indices, csr.data
    kind = np.float64 if values.dtype.kind != "f" or values.dtype.itemsize > 4 else np.float32
    values = values.astype(kind)
    if values.size >= 1 << 31:
        raise MatrixError(f"{name} has {values.size} entries, expected fewer than 2^31")
    if not values.size:
        raise MatrixError(f"{name} has no value that is not zero")
    if not np.isfinite(values).all():
        raise MatrixError(f"{name} has values that are not finite")
    m, k = (int(side) for side in found.shape)
    return GivenMatrix(name, indptr.astype(np.int32), columns.astype(np.int32), values, (m, k))
