"""What users of NumPy and SciPy expect of a matrix: operators, slices, copies, files."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import gossamer
import numpy as np
import pytest
from gossamer import BSR, CSR, NM, BlockLayout, GroupQuant
from gossamer.formats import _file

pytestmark = pytest.mark.once

W = np.array([[1, 0, 2, 0], [0, 0, 0, 0], [0, 3, 0, 4], [5, 0, 0, 6]], np.float32)
KINDS = ["csr", "bsr"]
FRAMEWORKS = ["numpy", "torch", "jax"]


def arrays(framework: str, x: np.ndarray) -> Any:
    if framework == "numpy":
        return x.copy()
    module = pytest.importorskip(framework)
    return module.from_numpy(x.copy()) if framework == "torch" else module.numpy.asarray(x)


def matrix(kind: str, framework: str = "numpy") -> Any:
    w = arrays(framework, W)
    return CSR.from_dense(w) if kind == "csr" else BSR.from_dense(w, (2, 1))


def values(a: Any) -> Any:
    return a.blocks if isinstance(a, BSR) else a.values


def dense(a: Any) -> np.ndarray:
    return np.asarray(a.to_dense(), np.float64)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("kind", KINDS)
class TestEach:
    def test_matmul(self, kind: str, framework: str) -> None:
        b = np.arange(8, dtype=np.float32).reshape(4, 2)
        np.testing.assert_array_equal(matrix(kind, framework) @ arrays(framework, b), W @ b)

    def test_rows(self, kind: str, framework: str) -> None:
        a = matrix(kind, framework)
        for rows in (slice(2, 4), slice(0, 2), slice(None), slice(-2, None), slice(4, 0)):
            part = a[rows]
            assert part.shape == W[rows].shape
            np.testing.assert_array_equal(dense(part), W[rows])
            assert part.index_dtype == a.index_dtype

    def test_copy(self, kind: str, framework: str) -> None:
        a = matrix(kind, framework)
        b = a.copy()
        assert a.same_structure(b) and values(a) is not values(b)
        if framework != "jax":
            values(b)[:] = 7
            np.testing.assert_array_equal(dense(a), W)

    def test_astype(self, kind: str, framework: str) -> None:
        a = matrix(kind, framework)
        for name in ("float16", "float32", "bfloat16"):
            b = a.astype(name)
            assert b.dtype == name and b.same_structure(a)
            np.testing.assert_array_equal(dense(b.astype("float32")), W)
        assert a.astype("float32").dtype == "float32"

    def test_row_indices(self, kind: str, framework: str) -> None:
        a = matrix(kind, framework)
        expected = [0, 0, 2, 2, 3, 3] if kind == "csr" else [0, 0, 1, 1, 1]
        rows = a.row_indices()
        assert type(rows) is type(a.indices)
        np.testing.assert_array_equal(rows, expected)

    def test_file(self, kind: str, framework: str, tmp_path: Path) -> None:
        for name in ("float32", "float16", "bfloat16"):
            a = matrix(kind, framework).astype(name)
            a.save(tmp_path / "a")
            b = type(a).load(tmp_path / "a", framework=framework)
            assert b.same_structure(a) and b.dtype == name
            assert type(values(b)) is type(values(a))
            np.testing.assert_array_equal(dense(b.astype("float32")), W)


#: Objects of the other kinds, and of CSR without values and with several sets of them.
STORED = ["nm", "nm columns", "quant", "layout", "masked layout", "pattern", "batch"]


def stored(kind: str, framework: str) -> Any:
    w = arrays(framework, W)
    if kind.startswith("nm"):
        return NM.from_dense(w, 2, 4, axis=1 if kind == "nm" else 0)
    if kind == "quant":
        return GroupQuant.from_dense(arrays(framework, np.kron(W, np.ones((1, 16), np.float32))))
    if kind == "layout":
        return BlockLayout.from_mask(arrays(framework, (W != 0)[None]), block=(16, 32))
    a = CSR.from_dense(w)
    if kind == "masked layout":
        return BlockLayout.from_csr(a, block=2)
    if kind == "pattern":
        return CSR(a.indptr, a.indices, None, a.shape)
    return a.with_values(arrays(framework, np.arange(12, dtype=np.float32).reshape(2, 6)))


def parts(a: Any) -> dict[str, Any]:
    return {name: getattr(a, name) for name in type(a)._ARRAYS}


def assert_same(a: Any, b: Any) -> None:
    """Compare kinds, facts and arrays, in which -0 and the types count."""
    assert type(a) is type(b) and repr(a) == repr(b)
    assert a == b and hash(a.structure) == hash(b.structure) and a.same_structure(b)
    for name, x in parts(a).items():
        y = parts(b)[name]
        assert type(x) is type(y)
        if x is not None:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("kind", STORED)
def test_what_is_stored_can_be_copied_moved_saved_and_pickled(
    kind: str, framework: str, tmp_path: Path
) -> None:
    a = stored(kind, framework)
    b = a.copy()
    assert_same(a, b)
    for x, y in zip(parts(a).values(), parts(b).values(), strict=True):
        assert x is None or x is not y
    assert a.to("cpu") is a
    a.save(tmp_path / "a")
    assert_same(a, type(a).load(tmp_path / "a", framework=framework))
    assert_same(a, pickle.loads(pickle.dumps(a)))
    assert_same(a, copy.deepcopy(a))


@pytest.mark.parametrize("kind", STORED)
def test_what_is_stored_moves_with_all_its_arrays(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = stored(kind, "numpy")
    monkeypatch.setattr(
        "gossamer._interop.moved", lambda _op, x, _device: None if x is None else x.copy()
    )
    b = a.to("elsewhere")
    assert_same(a, b)
    for x, y in zip(parts(a).values(), parts(b).values(), strict=True):
        assert x is None or not np.shares_memory(x, y)


@pytest.mark.parametrize("kind", STORED)
def test_other_structures_differ(kind: str) -> None:
    a = stored(kind, "numpy")
    assert a != 3 and not a.same_structure(3)
    for other in STORED:
        if other != kind and {kind, other} != {"pattern", "batch"}:
            assert a != stored(other, "numpy")


def test_structure_of_groups() -> None:
    a = NM.from_dense(W, 2, 4)
    assert a == a.with_values(2 * a.values) and a != NM.from_dense(W[::-1].copy(), 2, 4)
    assert repr(a.structure) == "Structure(NM, shape=(4, 4), n=2, m=4, axis=1, entries=8)"
    q = stored("quant", "numpy")
    assert q == q.astype("float64") and q != GroupQuant.from_dense(np.ones((4, 64)))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("kind", ["nm", "quant"])
def test_operators_of_other_matrices(kind: str, framework: str) -> None:
    a = stored(kind, framework)
    b = np.random.default_rng(1).random((a.shape[1], 2)).astype(np.float32)
    np.testing.assert_allclose(a @ arrays(framework, b), dense(a) @ b, rtol=1e-5)
    for name in ("float16", "float32", "bfloat16"):
        other = a.astype(name)
        assert other.dtype == name and other.same_structure(a)
        np.testing.assert_array_equal(dense(other.astype("float32")), dense(a))
    with pytest.raises(TypeError, match=f"^{type(a).__name__}: dtype is 'int32', expected float32"):
        a.astype("int32")
    with pytest.raises(TypeError, match=f"^{type(a).__name__}: a sparse matrix is no array"):
        np.asarray(a)


def test_file_of_groups_with_wrong_facts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    stored("nm", "numpy").save(path)
    content = path.read_bytes()
    for old, new, message in (
        (b'"n": "2"', b'"n": "5"', "NM: n is 5, expected"),
        (b'"n": "2"', b'"n": "x"', "NM.load: .* has no header that can be read"),
        (b'"n": "2"', b'"k": "2"', "NM.load: .* has n None, expected int"),
        (b'"[4, 4]"', b'"[4,4,]"', "NM.load: .* has no header that can be read"),
        (b'"[4, 4]"', b'"[44, ]"'.replace(b", ", b"  "), r"NM.load: .* has shape \[44\], exp"),
    ):
        assert old in content and len(old) == len(new)
        path.write_bytes(content.replace(old, new))
        with pytest.raises(ValueError, match=f"^{message}"):
            NM.load(path)


def test_row_views_share_values() -> None:
    a = matrix("csr")
    a[2:4].values[:] = 9
    np.testing.assert_array_equal(a.values, [1, 2, 9, 9, 9, 9])


def test_from_mask() -> None:
    for mask in (W != 0, (W * 3).astype(np.uint8)):
        a = CSR.from_mask(mask, dtype="float64")
        np.testing.assert_array_equal(a.to_dense(), W != 0)
        assert a.dtype == "float64"


def test_types_by_any_name() -> None:
    torch = pytest.importorskip("torch")
    a = matrix("csr")
    for name in ("float16", np.float16, np.dtype("float16"), torch.float16):
        assert a.astype(name).dtype == "float16"
    assert a.astype(float).dtype == "float64"


def test_same_structure() -> None:
    a = matrix("csr")
    assert a.same_structure(CSR.from_dense(2 * W))
    for other in (CSR.from_dense(W.T.copy()), CSR.from_dense(np.eye(4)), matrix("bsr"), 3):
        assert not a.same_structure(other)
    assert not matrix("bsr").same_structure(BSR.from_dense(W, 1))
    torch = pytest.importorskip("torch")
    assert a.same_structure(CSR.from_dense(torch.from_numpy(W)))


@pytest.mark.parametrize("kind", KINDS)
def test_structures_are_equal_where_entries_are_in_the_same_places(kind: str) -> None:
    a = matrix(kind)
    b = a.with_values(2 * values(a))
    assert a.structure == b.structure and hash(a.structure) == hash(b.structure)
    assert {a.structure, b.structure} == {a.copy().structure}
    for other in (CSR.from_dense(np.eye(4)), BSR.from_dense(W, 1), matrix(kind).T):
        assert a.structure != other.structure
    assert a.structure != 3
    assert a == b and a != 3 and a != matrix(kind).T
    for x in (a, stored("nm", "numpy"), stored("quant", "numpy")):
        # Equal ones have other values: whoever keeps results by a key would mix them up.
        with pytest.raises(TypeError, match="unhashable type"):
            hash(x)
    assert len({stored("layout", "numpy"), stored("layout", "numpy")}) == 1
    assert matrix("csr") != matrix("bsr")
    text = {
        "csr": "Structure(CSR, shape=(4, 4), entries=6)",
        "bsr": "Structure(BSR, shape=(4, 4), block=(2, 1), entries=5)",
    }
    assert repr(a.structure) == text[kind]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_to_a_device(kind: str, framework: str) -> None:
    a = matrix(kind, framework)
    assert a.to("cpu") is a
    if framework == "torch":
        torch = pytest.importorskip("torch")
        assert a.to(torch.device("cpu")) is a
    elif framework == "jax":
        jax = pytest.importorskip("jax")
        assert a.to(jax.devices("cpu")[0]) is a
    else:
        with pytest.raises(ValueError, match=r"\.to: device is 'cuda:0', expected 'cpu', where"):
            a.to("cuda:0")
    for wrong in ("cpu:x", "nowhere", "cuda:99"):
        with pytest.raises(ValueError, match=rf"^[A-Z]+\.to: device is '{wrong}', (expected|but) "):
            a.to(wrong)


def test_to_moves_all_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    from gossamer import _interop

    a = matrix("csr")
    monkeypatch.setattr(_interop, "moved", lambda _op, x, _device: x.copy())
    b = a.to("elsewhere")
    assert b.structure == a.structure and not np.shares_memory(values(a), values(b))
    np.testing.assert_array_equal(dense(b), W)


def test_to_jax() -> None:
    sparse = pytest.importorskip("jax.experimental.sparse")
    b = matrix("csr").to_jax()
    assert isinstance(b, sparse.BCSR)
    np.testing.assert_array_equal(b.todense(), W)
    assert CSR.from_sparse(b).same_structure(matrix("csr"))


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "array": (np.asarray, TypeError, "CSR: a sparse matrix is no array, expected"),
    "operator": (lambda a: np.ones((4, 4)) @ a, TypeError, "unsupported operand"),
    "index": (lambda a: a[1], TypeError, r"CSR: index is 1, expected a slice of rows, a\[i:j\]"),
    "step": (lambda a: a[::2], TypeError, r"CSR: index is slice\(None, None, 2\), expected a"),
    "blocks": (lambda a: matrix("bsr")[1:], ValueError, "BSR: index is 1, expected a multiple of"),
    "astype": (lambda a: a.astype("int32"), TypeError, "CSR: dtype is 'int32', expected float32,"),
    "mask": (
        lambda a: CSR.from_mask(W != 0, dtype="bool"),
        TypeError,
        "CSR.from_mask: dtype is 'bool', expected float32",
    ),
    "scipy": (
        lambda a: gossamer.spmm(a.to_scipy(), W),
        TypeError,
        r"spmm: a is a csr_array, expected a CSR.* \(gossamer.CSR.from_sparse makes one of it\)",
    ),
    "scipy bsr": (
        lambda a: gossamer.linear(W, a.to_scipy().tobsr()),
        TypeError,
        r"linear: w is a bsr_array, expected .* \(gossamer.BSR.from_sparse makes one of it\)",
    ),
    "scipy dense": (
        lambda a: gossamer.spmm(a, a.to_scipy()),
        TypeError,
        r"spmm: b is a csr_array, expected an array with __dlpack__ \(gossamer.CSR.from_sparse",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_message(name: str) -> None:
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=f"^{message}"):
        call(matrix("csr"))


def test_torch_sparse_operand_is_told_of_the_constructor() -> None:
    torch = pytest.importorskip("torch")
    sparse = torch.from_numpy(W).to_sparse_csr()
    with pytest.raises(TypeError, match=r"\(gossamer\.CSR\.from_sparse makes one of it\)$"):
        gossamer.spmm(sparse, torch.ones(4, 2))


# Files.


def test_file_is_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    a = matrix("csr")
    a.save(tmp_path / "a")
    loaded = safetensors.load_file(tmp_path / "a")
    assert set(loaded) == {"indptr", "indices", "values"}
    np.testing.assert_array_equal(loaded["values"], a.values)
    meta = {"format": "gossamer.CSR", "shape": "[4, 4]"}
    parts = {"indptr": a.indptr, "indices": a.indices, "values": a.values}
    safetensors.save_file({k: np.array(v) for k, v in parts.items()}, tmp_path / "b", meta)
    np.testing.assert_array_equal(CSR.load(tmp_path / "b").to_dense(), W)


def test_a_path_may_be_bytes(tmp_path: Path) -> None:
    a = gossamer.CSR.from_dense(np.eye(2))
    name = os.fsencode(tmp_path / "a")
    a.save(name)
    assert gossamer.CSR.load(name) == a
    for path in (None, 3, io.BytesIO()):
        for op, call in (("save", a.save), ("load", gossamer.CSR.load)):
            kind = type(path).__name__
            with pytest.raises(TypeError, match=rf"^CSR\.{op}: path is a {kind}, expected a str"):
                call(path)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
@pytest.mark.parametrize("grad", [False, True])
def test_a_copy_of_a_part_holds_that_part_alone(again: Any, grad: bool) -> None:
    torch = pytest.importorskip("torch")
    whole = torch.zeros(100_000)
    index = torch.arange(100_000)
    a = gossamer.CSR(index[:3], index[:2], whole[:2].requires_grad_(grad), (2, 2), check=False)
    assert len(pickle.dumps(a)) < 5_000
    b = again(a)
    assert b == a
    assert b.values.requires_grad == grad
    assert b.values.untyped_storage().nbytes() == 8
    codes = torch.zeros((1000, 8), dtype=torch.uint8)
    words = torch.zeros(1000, dtype=torch.int16).view(torch.uint16)
    arrays = (index[:2].int(), words[:1], codes[:1], torch.ones(1000).half()[:1], codes[0, :1])
    assert len(pickle.dumps(gossamer.GroupQuant(*arrays, shape=(1, 16)))) < 5_000


def test_values_of_torch_for_scipy() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy.sparse")
    values = torch.tensor([1.5, 2.0], dtype=torch.bfloat16)
    a = gossamer.CSR(torch.arange(3), torch.arange(2), values, (2, 2))
    b = a.to_scipy()
    values[0] = 3  # shared
    np.testing.assert_array_equal(b.data.astype(np.float32), [3, 2])
    c = a.with_values(torch.ones(2, requires_grad=True))
    with pytest.raises(ValueError, match=r"^CSR\.to_scipy: values requires grad"):
        c.to_scipy()
    with torch.no_grad():
        np.testing.assert_array_equal(c.to_scipy().data, [1, 1])


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_the_old_file(
    moment: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    matrix("csr").save(path)
    before = path.read_bytes()

    def stop(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(_file, "open", lambda made, _: Interrupted(made, error), raising=False)
        else:
            patch.setattr(os, moment, stop)
        with pytest.raises(error):
            matrix("bsr").save(path)
        with pytest.raises(error):
            matrix("bsr").save(tmp_path / "b")
    assert path.read_bytes() == before
    assert [x.name for x in tmp_path.iterdir()] == ["a"]


class Interrupted(io.FileIO):
    """A file whose second write is interrupted."""

    def __init__(self, made: int, error: type[BaseException]) -> None:
        super().__init__(made, "wb")
        self.error, self.writes = error, 0

    def write(self, data: Any) -> int:
        self.writes += 1
        if self.writes == 2:
            raise self.error
        return super().write(data)


def test_a_process_that_dies_while_it_saves_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    matrix("csr").save(path)
    before = path.read_bytes()
    program = (
        "import gossamer, numpy as np, os, sys\n"
        "os.fsync = lambda file: os._exit(7)\n"
        "gossamer.CSR.from_dense(np.ones((3, 3))).save(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == 7
    assert path.read_bytes() == before


def test_saving_replaces_what_a_link_points_to_and_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "a", tmp_path / "b"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    matrix("csr").save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    np.testing.assert_array_equal(CSR.load(link).to_dense(), W)
    assert len(list(tmp_path.iterdir())) == 2
    matrix("csr").save(os.devnull)
    assert not Path(os.devnull).is_file()
    new = tmp_path / "c"
    new.write_bytes(b"")
    matrix("csr").save(str(tmp_path / "d"))
    assert (tmp_path / "d").stat().st_mode == new.stat().st_mode
    with pytest.raises(FileNotFoundError, match=r"nowhere/a'$"):
        matrix("csr").save(tmp_path / "nowhere" / "a")


def broken(tmp_path: Path, change: Any) -> Path:
    matrix("csr").save(tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    data = change(header, bytearray(content[8 + size :]))
    text = json.dumps(header).encode()
    (tmp_path / "b").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return tmp_path / "b"


CHANGES: dict[str, tuple[Any, str]] = {
    "cut": (lambda h, d: d[:-1], "has a tensor .* whose bytes are not there"),
    "bytes behind": (lambda h, d: d + b"123", "has 3 bytes behind its last tensor"),
    "other kind": (lambda h, d: h["__metadata__"].update(format="x") or d, "holds x, expected"),
    "shape": (lambda h, d: h["__metadata__"].update(shape="[4]") or d, r"has shape \[4\], exp"),
    "no metadata": (lambda h, d: h.pop("__metadata__") and d, "holds None, expected"),
    "no tensor": (lambda h, d: h.pop("values") and d, "has no tensor values of a known type"),
    "type": (lambda h, d: h["values"].update(dtype="C64") or d, "has no tensor values of a known"),
    "wrong size": (lambda h, d: h["values"].update(shape=[2**62, 8]) or d, "bytes are not there"),
    "no array": (
        lambda h, d: h["values"].update(shape=[0, 2**70], data_offsets=[0, 0]) or d,
        r"has a tensor values of shape \[0, \d+\], expected one that can be",
    ),
    "axes": (
        lambda h, d: h["values"].update(shape=[1] * 99, data_offsets=[0, 4]) or d,
        "has a tensor values of shape .*, expected one that can be",
    ),
    "negative": (lambda h, d: h["values"].update(data_offsets=[-24, 0]) or d, "bytes are not"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_broken_file_is_refused(name: str, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    with pytest.raises(ValueError, match=f"^CSR.load: .* {message}"):
        CSR.load(broken(tmp_path, change))


def test_what_is_no_file_of_the_format_is_refused(tmp_path: Path) -> None:
    nested = b"[" * 100_000
    deep = len(nested).to_bytes(8, "little") + nested
    for content in (b"", b"123", b"\xff" * 40, (4).to_bytes(8, "little") + b"null", deep):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ValueError, match=r"^CSR\.load: "):
            CSR.load(tmp_path / "a")
    matrix("bsr").save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds gossamer\.BSR, expected gossamer\.CSR$"):
        CSR.load(tmp_path / "a")
    matrix("csr").save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"framework is 'tf', expected 'numpy', 'torch' or 'jax'$"):
        CSR.load(tmp_path / "a", framework="tf")


def test_file_with_corrupt_structure_is_refused(tmp_path: Path) -> None:
    def change(header: Any, data: Any) -> Any:
        begin, _ = header["indices"]["data_offsets"]
        data[begin] = 200
        return data

    with pytest.raises(ValueError, match=r"^CSR: indices\["):
        CSR.load(broken(tmp_path, change))


# Others' sparse matrices that are not as ours must be.


def test_scipy_with_room_behind_its_entries() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    s = sparse.csr_array(W)
    s.data[1] = 0
    s.eliminate_zeros()
    s.indices, s.data = np.append(s.indices, [77, 77]), np.append(s.data, [9, 9]).astype(np.float32)
    a = CSR.from_sparse(s)
    assert a.nnz == 5
    np.testing.assert_array_equal(a.to_dense(), s.toarray())
    b = sparse.bsr_array(W, blocksize=(2, 2))
    b.indices = np.append(b.indices, [77]).astype(b.indices.dtype)
    b.data = np.append(b.data, np.ones((1, 2, 2), np.float32), axis=0)
    np.testing.assert_array_equal(BSR.from_sparse(b).to_dense(), W)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_torch_with_unsorted_and_repeated_columns(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    s = torch.sparse_csr_tensor(
        torch.tensor([0, 3, 3, 5]),
        torch.tensor([2, 0, 2, 1, 0]),
        torch.tensor([1, 2, 3, 4, 0], dtype=kind),
        (3, 3),
        check_invariants=False,
    )
    a = CSR.from_sparse(s)
    assert (a.nnz, a.dtype) == (4, dtype)  # the stored zero stays
    np.testing.assert_array_equal(a.to_dense().double(), [[2, 0, 4], [0, 0, 0], [0, 4, 0]])
    b = torch.sparse_bsr_tensor(
        torch.tensor([0, 3, 3]),
        torch.tensor([1, 0, 1]),
        torch.arange(12, dtype=kind).reshape(3, 2, 2),
        (4, 4),
        check_invariants=False,
    )
    expected = np.zeros((4, 4))
    expected[:2] = [[4, 5, 8, 10], [6, 7, 12, 14]]
    np.testing.assert_array_equal(BSR.from_sparse(b).to_dense().double(), expected)
    np.testing.assert_array_equal(CSR.from_sparse(b).to_dense().double(), expected)


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc"])
@pytest.mark.parametrize("block", [None, (2, 2)])
def test_torch_layouts(layout: str, block: Any) -> None:
    torch = pytest.importorskip("torch")
    s = torch.from_numpy(W).to_sparse(layout=getattr(torch, layout))
    a = CSR.from_sparse(s) if block is None else BSR.from_sparse(s, block=block)
    np.testing.assert_array_equal(a.to_dense(), W)


@pytest.mark.parametrize("layout", ["sparse_bsr", "sparse_bsc"])
@pytest.mark.parametrize("block", [(2, 2), (1, 4), (4, 1)])
def test_torch_block_layouts(layout: str, block: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    s = torch.from_numpy(W).to_sparse(layout=getattr(torch, layout), blocksize=block)
    for a in (CSR.from_sparse(s), BSR.from_sparse(s), BSR.from_sparse(s, block=block)):
        np.testing.assert_array_equal(a.to_dense(), W)
    with pytest.raises(ValueError, match=r"^from_sparse: block is \(2, 4\), expected obj's"):
        BSR.from_sparse(s, block=(2, 4))
