"""N:M: what may be one, and conversions, against NumPy."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest
from gossamer import NM
from hypothesis import given, settings
from hypothesis import strategies as st
from library import examples

F32 = np.float32
PATTERNS = [(1, 1), (1, 2), (2, 2), (2, 4), (1, 4), (3, 4), (2, 8), (5, 8), (1, 16), (4, 16)]
ODD = [(2, 3), (3, 7), (5, 12), (16, 32), (32, 32), (1, 32), (7, 31)]


def name(dtype: Any) -> str:
    return np.dtype(dtype).name


def bits_of(m: int) -> int:
    return int(m - 1).bit_length()


def draw(
    size: tuple[int, int],
    pattern: tuple[int, int],
    dtype: Any,
    seed: int = 0,
    *,
    full: bool = False,
) -> np.ndarray:
    """Draw lines with at most n nonzero integers in each group of m; exactly n where `full`."""
    (lines, groups), (n, m) = size, pattern
    rng = np.random.default_rng(seed)
    order = rng.random((lines, groups, m)).argsort(axis=2)
    count = n if full else rng.integers(0, n + 1, (lines, groups, 1))
    values = rng.integers(1, 5, (lines, groups, m)) * np.where(order % 2, -1, 1)
    return np.where(order < count, values, 0).reshape(lines, groups * m).astype(dtype)


def unpack(a: NM) -> np.ndarray:
    """Return the dense matrix that the arrays of an N:M matrix hold, in Python."""
    values, indices = np.asarray(a.values), np.asarray(a.indices)
    bits, length = bits_of(a.m), a.shape[a.axis]
    dense = np.zeros((len(values), length), values.dtype)
    for line in range(len(values)):
        stream = int.from_bytes(indices[line].tobytes(), "little")
        for s, value in enumerate(values[line]):
            position = stream >> (s * bits) & ((1 << bits) - 1)
            dense[line, s // a.n * a.m + position] = value
    return dense if a.axis == 1 else dense.T


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=name)
@pytest.mark.parametrize(("n", "m"), PATTERNS + ODD)
def test_packing_is_exact(n: int, m: int, dtype: Any, axis: int) -> None:
    for lines, groups in ((1, 1), (3, 2), (2, 9), (70, 5), (5, 33), (0, 4), (3, 0)):
        lined = draw((lines, groups), (n, m), dtype)
        dense = lined if axis == 1 else np.ascontiguousarray(lined.T)
        a = NM.from_dense(dense, n, m, axis=axis)
        assert (a.n, a.m, a.axis, a.shape) == (n, m, axis, dense.shape)
        slots = groups * n
        size = -(-slots * bits_of(m) // 8)
        assert a.values.shape == (lines, slots)
        assert a.indices.shape == (lines, size)
        assert a.nbytes == lines * (slots * dense.itemsize + size)
        assert a.nnz == lines * slots
        np.testing.assert_array_equal(unpack(a), dense)
        np.testing.assert_array_equal(a.to_dense(), dense)
        # The constructor accepts what from_dense makes.
        again = NM(a.values, a.indices, a.shape, n, m, axis=axis)
        np.testing.assert_array_equal(again.to_dense(), dense)
        np.testing.assert_array_equal(a.transpose().to_dense(), dense.T)
        out = np.full((dense.shape[0], dense.shape[1] + 3), 9, dtype)
        a.to_dense(out=out[:, 1 : 1 + dense.shape[1]])
        np.testing.assert_array_equal(out[:, 1 : 1 + dense.shape[1]], dense)
        assert (out[:, 0] == 9).all()
        assert (out[:, -2:] == 9).all()


def test_sizes_are_those_of_the_documents() -> None:
    w = np.zeros((64, 64), np.float16)
    assert NM.from_dense(w, 2, 4).nbytes * 16 == w.nbytes * 9
    w = np.zeros((64, 64), F32)
    assert NM.from_dense(w, 2, 4).nbytes * 32 == w.nbytes * 17
    assert NM.from_dense(w, 1, 16, axis=0).nbytes == 64 * (4 * 4 + 2)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mask_says_what_is_kept(axis: int) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((48, 64)).astype(F32)
    w[3, 7] = np.nan
    w[5, 9] = -0.0
    mask = gossamer.prune.nm_mask(np.abs(w), 2, 4, axis=axis)
    a = NM.from_dense(w, 2, 4, axis=axis, mask=mask)
    want = np.where(mask, w, F32(0))
    np.testing.assert_array_equal(a.to_dense(), want)
    np.testing.assert_array_equal(unpack(a), want)
    wide = np.zeros((48, 70), np.uint8)
    wide[:, 3:67] = mask
    np.testing.assert_array_equal(
        NM.from_dense(w, 2, 4, axis=axis, mask=wide[:, 3:67]).values, a.values
    )


def test_zeros_fill_a_group_at_the_first_free_positions() -> None:
    a = NM.from_dense(np.array([[0, 0, 0, 5, 0, 6, 0, 0, -0.0, 0, 0, 0]], F32), 2, 4)
    np.testing.assert_array_equal(a.values, [[0, 5, 0, 6, 0, 0]])
    assert not np.signbit(a.values).any()
    assert int.from_bytes(a.indices.tobytes(), "little") == 0b0100_0100_1100


@settings(max_examples=examples(30))
@given(
    m=st.integers(1, 32),
    data=st.data(),
    groups=st.integers(1, 40),
    axis=st.sampled_from([0, 1]),
)
def test_round_trip(m: int, data: Any, groups: int, axis: int) -> None:
    n = data.draw(st.integers(1, m))
    lined = draw((data.draw(st.integers(1, 6)), groups), (n, m), F32, seed=m)
    dense = lined if axis == 1 else np.ascontiguousarray(lined.T)
    a = NM.from_dense(dense, n, m, axis=axis)
    np.testing.assert_array_equal(a.to_dense(), dense)
    np.testing.assert_array_equal(unpack(a), dense)
    b = NM.from_dense(a.to_dense(), n, m, axis=axis)
    np.testing.assert_array_equal(b.values, a.values)
    np.testing.assert_array_equal(b.indices, a.indices)


def packed(*positions: int, bits: int = 2) -> np.ndarray:
    stream = sum(p << (i * bits) for i, p in enumerate(positions))
    size = -(-len(positions) * bits // 8)
    return np.frombuffer(stream.to_bytes(size, "little"), np.uint8)[None].copy()


def make(**changes: Any) -> NM:
    parts: dict[str, Any] = {
        "values": np.ones((1, 4), F32),
        "indices": packed(0, 2, 1, 3),
        "shape": (1, 8),
        "n": 2,
        "m": 4,
        "axis": 1,
    } | changes
    axis = parts.pop("axis")
    return NM(*parts.values(), axis=axis)


BAD: list[tuple[dict[str, Any], str]] = [
    (
        {"indices": packed(2, 0, 1, 3)},
        "NM: indices[0]: position 1 is 0, expected more than the one before it in the group, 2",
    ),
    (
        {"indices": packed(0, 2, 3, 3)},
        "NM: indices[0]: position 3 is 3, expected more than the one before it in the group, 3",
    ),
    (
        {"m": 3, "shape": (1, 6), "indices": packed(0, 2, 1, 3)},
        "NM: indices[0]: position 3 is 3, expected less than m = 3",
    ),
    (
        {"m": 17, "shape": (1, 34), "indices": packed(0, 17, 1, 3, bits=5)},
        "NM: indices[0]: position 1 is 17, expected less than m = 17",
    ),
    ({"n": 0}, "NM: n is 0, expected 1 to m = 4"),
    ({"n": 5}, "NM: n is 5, expected 1 to m = 4"),
    ({"m": 33}, "NM: m is 33, expected 1 to 32"),
    ({"m": 0}, "NM: m is 0, expected 1 to 32"),
    ({"m": 2**62}, f"NM: m is {2**62}, expected 1 to 32"),
    ({"axis": 2}, "NM: axis is 2, expected 0 or 1"),
    ({"axis": -1}, "NM: axis is -1, expected 0 or 1"),
    ({"axis": 0}, "NM: shape[0] is 1, expected a multiple of m = 4"),
    ({"shape": (1, 9)}, "NM: shape[1] is 9, expected a multiple of m = 4"),
    ({"shape": (-1, 8)}, f"NM: shape[0] is -1, expected 0 to {2**59}"),
    ({"shape": (2**61, 8)}, f"NM: shape[0] is {2**61}, expected 0 to {2**59}"),
    ({"shape": (1, 2**62)}, f"NM: shape[1] is {2**62}, expected 0 to {2**59}"),
    ({"shape": (1, 8, 1)}, "NM: shape is (1, 8, 1), expected two integers"),
    ({"shape": (1, 12)}, "NM: values.shape is (1, 4), expected (1, 6)"),
    ({"shape": (2, 8)}, "NM: values.shape is (1, 4), expected (2, 4)"),
    ({"indices": packed(0, 2)[:, :0]}, "NM: indices.shape is (1, 0), expected (1, 1)"),
    ({"values": np.ones(4, F32)}, "NM: values.shape is (4,), expected (1, 4)"),
    (
        {"values": np.ones((1, 8), F32)[:, ::2]},
        "NM: values.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[row[1] for row in BAD])
def test_corrupt_structure_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize("place", [(0, 0), (3, 7), (69, 1), (37, 600)])
def test_corruption_is_found_wherever_it_is(place: tuple[int, int]) -> None:
    a = NM.from_dense(draw((70, 1300), (3, 4), F32, full=True), 3, 4)
    indices = np.array(a.indices)
    indices[place] ^= 0xFF
    with pytest.raises(ValueError, match=rf"^NM: indices\[{place[0]}\]: position "):
        NM(a.values, indices, a.shape, 3, 4)
    NM(a.values, indices, a.shape, 3, 4, check=False)


BAD_TYPES: list[tuple[dict[str, Any], str]] = [
    (
        {"values": np.ones((1, 4), np.int32)},
        "NM: values.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    ({"indices": np.zeros((1, 1), np.int32)}, "NM: indices.dtype is int32, expected uint8"),
    ({"n": 2.0}, "NM: n is 2.0, expected an integer"),
    ({"m": "4"}, "NM: m is '4', expected an integer"),
    ({"axis": None}, "NM: axis is None, expected an integer"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_TYPES, ids=[row[1] for row in BAD_TYPES])
def test_wrong_types_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as error:
        make(**changes)
    assert str(error.value) == message


W = np.ones((4, 8), F32)
BAD_DENSE: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: NM.from_dense(W, 2, 4),
        ValueError,
        "NM.from_dense: w has 4 elements other than 0 in the group from [0, 0] along axis 1, "
        "expected at most n = 2",
    ),
    (
        lambda: NM.from_dense(np.eye(8, dtype=F32) + np.eye(8, k=-1, dtype=F32), 1, 4, axis=0),
        ValueError,
        "NM.from_dense: w has 2 elements other than 0 in the group from [0, 0] along axis 0, "
        "expected at most n = 1",
    ),
    (
        lambda: NM.from_dense(np.ones((1, 4), np.float16), 3, 4, mask=np.ones((1, 4), bool)),
        ValueError,
        "NM.from_dense: mask keeps 4 elements in the group from [0, 0] along axis 1, "
        "expected at most n = 3",
    ),
    (
        lambda: NM.from_dense(W, 1, 3),
        ValueError,
        "NM.from_dense: w.shape[1] is 8, expected a multiple of m = 3",
    ),
    (
        lambda: NM.from_dense(W, 1, 3, axis=0),
        ValueError,
        "NM.from_dense: w.shape[0] is 4, expected a multiple of m = 3",
    ),
    (lambda: NM.from_dense(W, 5, 4), ValueError, "NM.from_dense: n is 5, expected 1 to m = 4"),
    (lambda: NM.from_dense(W, 1, 64), ValueError, "NM.from_dense: m is 64, expected 1 to 32"),
    (
        lambda: NM.from_dense(W, 1, 2, axis=-1),
        ValueError,
        "NM.from_dense: axis is -1, expected 0 or 1",
    ),
    (lambda: NM.from_dense(W[0], 1, 2), ValueError, "NM.from_dense: w.ndim is 1, expected 2"),
    (
        lambda: NM.from_dense(W.astype(np.int32), 1, 2),
        TypeError,
        "NM.from_dense: w.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    (
        lambda: NM.from_dense(W, 1, 2, mask=W),
        TypeError,
        "NM.from_dense: mask.dtype is float32, expected bool or uint8",
    ),
    (
        lambda: NM.from_dense(W, 1, 2, mask=W[:3] > 2),
        ValueError,
        "NM.from_dense: mask.shape[0] is 3, expected w.shape[0] = 4",
    ),
    (
        lambda: make().to_dense(out=np.ones((1, 9), F32)),
        ValueError,
        "NM.to_dense: out.shape[1] is 9, expected a.shape[1] = 8",
    ),
    (
        lambda: make().with_values(np.ones((1, 3), F32)),
        ValueError,
        "NM: values.shape is (1, 3), expected (1, 4)",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD_DENSE, ids=[row[2] for row in BAD_DENSE])
def test_bad_calls(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("axis", [0, 1])
def test_the_group_that_is_too_full_is_named(axis: int) -> None:
    lined = draw((200, 100), (2, 4), F32)
    lined[133, 4 * 77 : 4 * 78] = 1
    dense = lined if axis == 1 else np.ascontiguousarray(lined.T)
    place = "[133, 308]" if axis == 1 else "[308, 133]"
    with pytest.raises(ValueError) as error:
        NM.from_dense(dense, 2, 4, axis=axis)
    assert f"w has 4 elements other than 0 in the group from {place}" in str(error.value)


def test_values_are_shared_and_structure_is_not_writable() -> None:
    a = make()
    a.values[0, 0] = 7
    assert a.to_dense()[0, 0] == 7
    assert not a.indices.flags.writeable
    b = a.with_values(np.array([[1, 2, 3, 4]], np.float64))
    assert b.dtype == "float64"
    np.testing.assert_array_equal(b.to_dense(), [[1, 0, 2, 0, 0, 3, 0, 4]])
    t = a.T
    a.values[0, 1] = 9
    assert t.to_dense()[2, 0] == 9
    assert t.shape == (8, 1)


def test_copies_and_pickles() -> None:
    a = NM.from_dense(draw((5, 6), (2, 4), F32), 2, 4).T
    for b in (pickle.loads(pickle.dumps(a)), copy.copy(a), copy.deepcopy(a)):
        assert (b.shape, b.axis, b.n, b.m) == (a.shape, a.axis, 2, 4)
        np.testing.assert_array_equal(b.to_dense(), a.to_dense())
    assert repr(a) == "NM(shape=(24, 5), n=2, m=4, axis=0, nnz=60, dtype=float32, device=cpu)"
    assert a.density == 0.5
    assert a.ndim == 2


def test_a_circle_through_an_array_is_collected() -> None:
    class Array(np.ndarray):
        pass

    values = np.ones((1, 4), F32).view(Array)
    a = make(values=values)
    values.matrix = a  # type: ignore[attr-defined]
    alive = weakref.ref(a)
    del a, values
    gc.collect()
    assert alive() is None


def test_arrays_of_frameworks() -> None:
    torch = pytest.importorskip("torch")
    dense = draw((6, 5), (2, 4), F32)
    a = NM.from_dense(torch.from_numpy(dense).to(torch.bfloat16), 2, 4)
    assert isinstance(a.values, torch.Tensor)
    assert a.dtype == "bfloat16"
    assert isinstance(a.to_dense(), torch.Tensor)
    np.testing.assert_array_equal(a.to_dense().float().numpy(), dense)
    b = NM.from_dense(dense.astype(ml_dtypes.bfloat16), 2, 4)
    np.testing.assert_array_equal(a.indices.numpy(), b.indices)
    jax = pytest.importorskip("jax")
    c = NM.from_dense(jax.numpy.asarray(dense), 2, 4)
    np.testing.assert_array_equal(np.asarray(c.to_dense()), dense)


@pytest.mark.parametrize("axis", [0, 1])
def test_threads_do_not_change_a_bit(axis: int) -> None:
    lined = draw((300, 300), (2, 8), F32)
    dense = lined if axis == 1 else np.ascontiguousarray(lined.T)
    before, results = gossamer.get_num_threads(), set()
    try:
        for threads in (1, 2, 5):
            gossamer.set_num_threads(threads)
            a = NM.from_dense(dense, 2, 8, axis=axis)
            results.add(a.values.tobytes() + np.asarray(a.indices).tobytes())
            np.testing.assert_array_equal(a.to_dense(), dense)
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1
