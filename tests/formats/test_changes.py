"""A dense matrix, or its mask, that changes while it is converted, and shapes beyond any memory."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import threading
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest
from device import Device, EmulatedArray, emulated_framework
from gossamer import _interop
from producer import Producer

Change = Callable[[], None]


class Watched(Producer):
    """An array on the CPU whose framework allocates results."""


def allocating(framework: _interop.Framework, then: Change) -> _interop.Framework:
    """Return a framework that, when it allocates anything, calls `then`."""

    def empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        then()
        return framework.empty(shape, dtype, like)

    return framework._replace(empty=empty)


def cpu_framework() -> _interop.Framework:
    return _interop.Framework(
        borrow=lambda array: array,
        stream=lambda _array: None,
        empty=lambda shape, dtype, _like: np.empty(shape, dtype),
        finish=lambda array, _like: array,
        refusal=lambda _array: None,
    )


def random(shape: tuple[int, int], density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < density, rng.standard_normal(shape), 0).astype(np.float32)


DENSITIES = list(itertools.permutations([0.0, 0.2, 0.7, 1.0], 2))


@pytest.mark.parametrize("masked", [False, True], ids=["values", "mask"])
@pytest.mark.parametrize("block", [None, (1, 1), (4, 8), (12, 1)], ids=str)
@pytest.mark.parametrize(("before", "after"), DENSITIES)
def test_what_changes_between_two_passes_is_refused(
    block: Any, before: float, after: float, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = random((36, 72), before, 1)
    changed = random((36, 72), after, 2)
    if masked:
        array, changed = array != 0, changed != 0
    calls = itertools.count()

    def change() -> None:  # the first array that is allocated is indptr
        if next(calls) == 1:
            array[:] = changed

    monkeypatch.setitem(_interop._by_type, Watched, allocating(cpu_framework(), change))
    dense = Watched(np.ones((36, 72), np.float32)) if masked else Watched(array)
    mask = array if masked else None
    convert = gossamer.CSR.from_dense if block is None else gossamer.BSR.from_dense
    arguments = (dense, mask) if block is None else (dense, block, mask)
    try:
        a = convert(*arguments)
    except ValueError as error:
        assert "does not match w" in str(error)
        assert "unchanged since" in str(error)
    else:  # the numbers of entries are equal by chance, as those of full blocks are
        type(a)(a.indptr, a.indices, getattr(a, a._VALUES), a.shape, check=True)


@pytest.mark.parametrize("masked", [False, True], ids=["values", "mask"])
@pytest.mark.parametrize("cols", [40, 5000])
@pytest.mark.parametrize("densities", DENSITIES, ids=str)
def test_what_changes_on_a_gpu_stays_in_bounds(
    cols: int,
    densities: tuple[float, float],
    masked: bool,
    monkeypatch: pytest.MonkeyPatch,
    emulated: Device,
) -> None:
    """The emulation finds accesses out of bounds, of memory and of what was never written."""
    kept, changed = (random((5, cols), density, i) for i, density in enumerate(densities))
    w = emulated.put(np.ones_like(kept) if masked else kept)
    mask = emulated.put(kept != 0)
    calls = itertools.count()

    def change() -> None:
        if next(calls) == 2:  # before the last result
            mask.view[:] = changed != 0
            w.view[:] = 1 if masked else changed

    framework = allocating(emulated_framework(EmulatedArray), change)
    monkeypatch.setitem(_interop._by_type, EmulatedArray, framework)
    a = gossamer.CSR.from_dense(w, mask if masked else None)
    indptr, indices = emulated.get(a.indptr), emulated.get(a.indices)
    assert indptr[-1] == indices.size == np.count_nonzero(kept)
    assert ((indices >= 0) & (indices < cols)).all()
    assert np.isfinite(emulated.get(a.values)).all()


@pytest.mark.parametrize("block", [None, (4, 8)], ids=str)
def test_another_thread_writes_the_matrix(block: Any) -> None:
    w = np.ones((2000, 512), np.float32)
    mask = np.ones(w.shape, bool)
    contents = [random(w.shape, density, seed) for seed, density in enumerate((0.0, 0.3, 1.0))]
    pairs = [(content, content != 0) for content in contents]
    done = threading.Event()
    copy = ctypes.CDLL(None).memcpy  # without the interpreter's lock
    copy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

    def write() -> None:
        for values, kept in itertools.cycle(pairs):
            copy(w.ctypes.data, values.ctypes.data, w.nbytes)
            copy(mask.ctypes.data, kept.ctypes.data, mask.nbytes)
            if done.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for i in range(60):
            arguments = (w, *(() if block is None else (block,)), mask if i % 2 else None)
            try:
                a = (gossamer.CSR if block is None else gossamer.BSR).from_dense(*arguments)
            except ValueError as error:
                assert "unchanged since" in str(error)
            else:
                values = getattr(a, a._VALUES)
                type(a)(a.indptr, a.indices, values, a.shape, check=True)
                gossamer.spmm(a, np.ones((512, 2), np.float32))
    finally:
        done.set()
        writer.join()


# Shapes beyond any memory.

SIDES = [0, 1, 3, 2**48 + 1, 2**59, 2**61 + 1, 2**62]


class Foreign(Producer):
    """An array of a framework without an allocator: gossamer's own makes the results."""


def numbers(values: Any, dtype: Any = np.int64) -> Foreign:
    return Foreign(np.asarray(values, dtype))


@pytest.mark.parametrize("rows", [0, 1, 8])
@pytest.mark.parametrize("cols", SIDES)
@pytest.mark.parametrize("foreign", [False, True])
def test_sizes_that_wrap_end_in_an_error(rows: int, cols: int, foreign: bool) -> None:
    wrap: Any = numbers if foreign else np.asarray
    entries = 1 if rows and cols else 0
    indptr = np.minimum(np.arange(rows + 1), entries)
    indices = np.full(entries, cols - 1)
    arrays = (wrap(indptr, np.int64), wrap(indices, np.int64), wrap(np.ones(entries), np.float32))
    a = gossamer.CSR(*arrays, (rows, cols), index_dtype="int64")
    packed = gossamer.pack(a)
    calls: list[Callable[[], Any]] = [
        a.to_dense,
        lambda: a.T,
        a.transpose,
        lambda: gossamer.spmm(a, np.ones((rows, 2), np.float32), transpose_a=True),
        lambda: gossamer.spmm(packed, np.ones((rows, 2), np.float32), transpose_a=True),
    ]
    for call in calls:
        if cols <= 3:
            call()
        elif rows * cols or call is not calls[0]:
            with pytest.raises((MemoryError, ValueError)):
                call()
    with contextlib.suppress(MemoryError, ValueError):
        assert gossamer.spmm(packed, np.ones((rows, 0), np.float32), transpose_a=True).size == 0


@pytest.mark.parametrize("sides", list(itertools.product([1, 2**31, 2**61], repeat=2)), ids=str)
@pytest.mark.parametrize("foreign", [False, True])
def test_sizes_of_blocks_that_wrap_end_in_an_error(sides: tuple[int, int], foreign: bool) -> None:
    br, bc = sides
    wrap: Any = numbers if foreign else np.asarray
    if br * bc >= 2**58:
        pytest.skip("NumPy makes no such array")
    blocks = np.zeros((0, br, bc), np.float32)
    for rows, cols in itertools.product((br, 2 * br), (bc, 2 * bc)):
        indptr = np.zeros(rows // br + 1)
        arrays = (wrap(indptr, np.int64), wrap(np.zeros(0), np.int64), wrap(blocks, np.float32))
        a = gossamer.BSR(*arrays, (rows, cols), index_dtype="int64")
        for call in (a.to_dense, lambda a=a: a.T.to_dense()):
            if rows * cols < 2**20:
                assert not np.from_dlpack(call()).any()
            elif rows * cols >= 2**40:
                with pytest.raises((MemoryError, ValueError)):
                    call()


def test_a_side_beyond_what_can_be_added_is_refused() -> None:
    arrays = (np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0))
    message = r"^CSR: shape\[1\] is 9223372036854775807, expected at most 4611686018427387904$"
    with pytest.raises(ValueError, match=message):
        gossamer.CSR(*arrays, (0, 2**63 - 1), index_dtype="int64")
    with pytest.raises(ValueError, match=r"^BSR: shape\[0\] is 9223372036854775807, expected at "):
        blocks = np.zeros((0, 1, 1))
        gossamer.BSR(*arrays[:2], blocks, (2**63 - 1, 1), index_dtype="int64")


def test_an_empty_matrix_takes_no_memory_for_its_columns() -> None:
    w = np.empty((0, 2**40), np.float32)
    assert gossamer.CSR.from_dense(w).nnz == 0
    assert gossamer.BSR.from_dense(w, (1, 2)).nblocks == 0
