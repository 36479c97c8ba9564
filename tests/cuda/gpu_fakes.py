"""Stand-ins for PyTorch, CuPy and JAX with arrays on the emulated GPU.

They have what gossamer uses of the real modules and export by the same rules. Any other attribute
is an AttributeError.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cuda_trace import Trace
from device import BF16, EmulatedArray, emulated_empty, memory_of
from gossamer import _interop

#: The stream that JAX reads results on.
STREAM_OF_JAX = 77


class Array:
    """An array of a fake framework, over one on the emulated GPU."""

    def __init__(self, fake: Fake, on_gpu: EmulatedArray) -> None:
        self.fake = fake
        self.on_gpu = on_gpu
        #: The streams that were made to wait for the framework's own.
        self.ordered: list[int] = []

    @property
    def view(self) -> np.ndarray:
        return self.on_gpu.view

    @property
    def index(self) -> int:
        index: int = self.on_gpu.device[1]
        return index

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.on_gpu.device

    def _export(self, stream: object, max_version: object) -> object:
        assert isinstance(stream, int), "a stream of CUDA is a number"
        assert stream != 0, "which default stream 0 is cannot be told"
        if stream not in (-1, self.fake.streams[self.index] or 1):
            self.ordered.append(stream)
        return self.on_gpu.__dlpack__(stream=stream, max_version=max_version)


class Fake:
    """A module, its class of arrays, and each device's current stream; 0 is the default one."""

    def __init__(self, name: str, trace: Trace) -> None:
        base, home, contents = _FAKES[name]
        self.name, self.trace = name, trace
        self.streams = {0: 0, 1: 0}
        self.device = 0
        #: (shape, dtype, device) of the arrays that the library allocated.
        self.asked: list[tuple[tuple[int, ...], str, int]] = []
        self._kept: list[Any] = []
        self.kind: type[Any] = type("Array", (base,), {"__module__": home})
        self.module = types.SimpleNamespace(**contents(self))

    def put(self, array: np.ndarray, index: int = 0) -> Any:
        made = self._new(array.shape, array.dtype, index)
        made.view[...] = array
        return made

    def empty(self, shape: tuple[int, ...], dtype: Any, index: int) -> Any:
        self.asked.append((tuple(shape), np.dtype(dtype).name, index))
        return self._new(shape, dtype, index)

    def _new(self, shape: tuple[int, ...], dtype: Any, index: int) -> Any:
        with self.trace.aside():
            return self.keep(self.kind(self, emulated_empty(shape, dtype, index)))

    def keep(self, array: Any) -> Any:
        """Let the memory of an array last as long as views of it might."""
        self._kept.append(array)
        return array


class TorchTensor(Array):
    layout = "strided"
    requires_grad = False
    is_cuda, is_cpu = True, False
    negative = False
    #: How often the framework was told that it was written.
    writes = 0

    def __dlpack__(self, *, stream: object = -1, max_version: object = None) -> object:
        assert not self.negative, "the export would leave the negation out"
        assert stream != 2, "PyTorch refuses the default stream of a thread"
        if self.index != self.fake.device:
            raise BufferError("Can't export tensors on a different CUDA device index.")
        return self._export(stream, max_version)

    @property
    def device(self) -> str:
        return f"cuda:{self.index}"

    def detach(self) -> Any:
        alias = self.fake.kind(self.fake, self.on_gpu)
        alias.ordered, alias.negative = self.ordered, self.negative
        return alias

    def clone(self) -> Any:
        return self.fake.put(self.view, self.index)

    def is_neg(self) -> bool:
        return self.negative

    def resolve_neg(self) -> Any:
        return self.fake.put(-self.view, self.index)


def _torch(fake: Fake) -> dict[str, Any]:
    def current_stream(device: str) -> Any:
        return types.SimpleNamespace(cuda_stream=fake.streams[int(device[-1])])

    def empty(shape: tuple[int, ...], *, dtype: np.dtype, device: str) -> Any:
        return fake.empty(shape, dtype, int(device[-1]))

    def increment_version(array: Any) -> None:
        array.writes += 1

    graph = types.SimpleNamespace(increment_version=increment_version)
    forward_ad = types.SimpleNamespace(_current_level=-1)

    @contextlib.contextmanager
    def device(name: str) -> Iterator[None]:
        before, fake.device = fake.device, int(name[-1])
        yield
        fake.device = before

    names = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
    return {
        "Tensor": fake.kind,
        "nn": types.SimpleNamespace(Parameter=type("Parameter", (fake.kind,), {})),
        "strided": "strided",
        "utils": types.SimpleNamespace(dlpack=types.SimpleNamespace(to_dlpack=None)),
        "cuda": types.SimpleNamespace(current_stream=current_stream, device=device),
        "autograd": types.SimpleNamespace(graph=graph, forward_ad=forward_ad),
        "empty": empty,
        "bfloat16": BF16,
        # Nothing here is traced.
        "compiler": types.SimpleNamespace(is_compiling=lambda: False),
        "_C": types.SimpleNamespace(
            _functorch=types.SimpleNamespace(is_functorch_wrapped_tensor=lambda _: False),
            _get_tracing_state=lambda: None,
            _is_tracing=lambda: False,
        ),
        "jit": types.SimpleNamespace(is_tracing=lambda: False),
        "_subclasses": types.SimpleNamespace(FakeTensor=()),
        **{name: np.dtype(name) for name in names},
    }


class CupyArray(Array):
    def copy(self) -> Any:
        assert self.fake.device == self.index, "the copy is on the current device"
        return self.fake.put(self.view, self.index)

    def __dlpack__(self, *, stream: object = 1, max_version: object = None) -> object:
        assert self.fake.device == self.index, "it orders streams of the current device"
        return self._export(stream, max_version)

    @property
    def dtype(self) -> np.dtype:
        return self.view.dtype

    @property
    @contextlib.contextmanager
    def device(self) -> Iterator[None]:
        before, self.fake.device = self.fake.device, self.index
        yield
        self.fake.device = before


def _cupy(fake: Fake) -> dict[str, Any]:
    def get_current_stream() -> Any:
        return types.SimpleNamespace(ptr=fake.streams[fake.device])

    def empty(shape: tuple[int, ...], dtype: Any) -> Any:
        return fake.empty(shape, dtype, fake.device)

    return {"cuda": types.SimpleNamespace(get_current_stream=get_current_stream), "empty": empty}


class JaxArray(Array):
    @property
    def device(self) -> int:
        return self.index

    def __dlpack__(self, *, stream: object = None, max_version: object = None) -> object:
        return self._export(stream, max_version)


def _jax(fake: Fake) -> dict[str, Any]:
    def from_dlpack(tensor: Any) -> Any:
        tensor.__dlpack__(stream=STREAM_OF_JAX, max_version=(1, 0))
        _, index = tensor.__dlpack_device__()
        dtype = BF16 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype)
        view = memory_of(tensor, tensor.shape, dtype)
        return fake.keep(fake.kind(fake, EmulatedArray(view, tensor, index)))

    # Nothing here is traced.
    core = types.SimpleNamespace(Tracer=())
    return {"dlpack": types.SimpleNamespace(from_dlpack=from_dlpack), "core": core}


_FAKES: dict[str, tuple[type[Array], str, Any]] = {
    "torch": (TorchTensor, "torch", _torch),
    "cupy": (CupyArray, "cupy", _cupy),
    "jax": (JaxArray, "jaxlib._jax", _jax),
}


def fake_framework(name: str, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Make `import name` give the fake, for the test."""
    fake = Fake(name, trace)
    monkeypatch.setitem(sys.modules, name, fake.module)
    if name == "torch":  # whether or not the real one was imported before
        monkeypatch.setitem(sys.modules, "torch.autograd", fake.module.autograd)
    monkeypatch.setattr(_interop, "_by_type", dict(_interop._by_type))
    return fake
