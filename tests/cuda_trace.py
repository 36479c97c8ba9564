"""Access to the trace of calls of the emulated CUDA runtime (cuda/emulation/trace.h)."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from device import EmulatedArray, emulated_empty, emulated_extension, emulated_framework
from gossamer import _interop

#: Errors of the runtime, by CUDA's numbers.
OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700


class Call(NamedTuple):
    """A call of the runtime, or a launch: `name` is then "launch"."""

    name: str
    stream: int
    device: int
    kernel: int


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Switch off the garbage collector: it could free another test's arrays during the trace."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Trace:
    """The trace of the emulated runtime."""

    def __init__(self) -> None:
        path = emulated_extension().__file__
        assert path is not None
        self._library = ctypes.CDLL(path)
        for name in ("calls", "kernel"):
            self._function(name).restype = ctypes.c_char_p
        for name in ("kernel", "capture"):
            self._function(name).argtypes = (ctypes.c_void_p,)

    def _function(self, name: str) -> Any:
        return getattr(self._library, f"gossamer_emulation_{name}")

    @contextlib.contextmanager
    def taken(self) -> Iterator[list[Call]]:
        """Yield a list that holds the calls made in the block, once it has ended."""
        found: list[Call] = []
        with no_garbage():
            self._function("trace")(1)
            try:
                yield found
            finally:
                lines = self._function("calls")().decode().splitlines()
                self._function("trace")(0)
            words = [line.split() for line in lines]
            found += [Call(name, *map(int, numbers)) for name, *numbers in words]

    def kernel(self, call: Call) -> str:
        name: bytes = self._function("kernel")(call.kernel)
        return name.decode()

    def kernels_of(self, call: Callable[[], object]) -> list[str]:
        """Return the names of the kernels that a call launches."""
        with self.taken() as calls:
            call()
        return [self.kernel(each) for each in calls if each.name == "launch"]

    def fail(self, name: str, error: int) -> None:
        """Make the next call of this name fail."""
        self._function("fail")(name.encode(), error)

    def last_error(self) -> int:
        """Return, and forget, the error that a framework would find."""
        return int(self._function("last_error")())

    @contextlib.contextmanager
    def captured(self, stream: int) -> Iterator[list[bool]]:
        """Capture a stream; the list says in the end whether the capture was valid."""
        held: list[bool] = []
        with no_garbage():
            self._function("capture")(stream)
            try:
                yield held
            finally:
                held.append(bool(self._function("capture")(None)))

    @contextlib.contextmanager
    def device(self, index: int) -> Iterator[None]:
        """Make a device current, and check in the end that it still is."""
        self._function("device")(index)
        try:
            yield
            now = self._function("device")(-1)
        finally:
            self._function("device")(0)
        assert now == index, "the caller's device is current again"

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Do not trace: the calls in the block are a framework's, not the library's."""
        self._function("aside")(1)
        try:
            yield
        finally:
            self._function("aside")(0)


class Traced(EmulatedArray):
    """An array of a fake framework whose stream and allocations a test controls."""


class Framework:
    """The fake framework. It keeps what it allocates, so that nothing is freed within a trace."""

    def __init__(self, trace: Trace, monkeypatch: Any, index: int = 0) -> None:
        self.trace = trace
        self.index = index
        self.made: list[Traced] = []
        self._monkeypatch = monkeypatch
        plain = emulated_framework(Traced)

        def empty(shape: tuple[int, ...], dtype: str, like: Traced) -> Any:
            with trace.aside():
                self.made.append(plain.empty(shape, dtype, like))
            return self.made[-1]

        monkeypatch.setitem(_interop._by_type, Traced, plain._replace(empty=empty))

    def use(self, stream: int) -> None:
        self._monkeypatch.setattr(Traced, "stream", stream)

    def put(self, array: np.ndarray) -> Traced:
        with self.trace.aside():
            made = emulated_empty(array.shape, array.dtype, self.index)
        made.view[...] = array
        self.made.append(Traced(made.view, made.owner, self.index))
        return self.made[-1]
