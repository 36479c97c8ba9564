"""The devices that tests run on, and the arrays that live there.

The emulated GPU is the CUDA backend compiled for the host (cuda/emulation). The library sees its
arrays as those of a framework with streams and an allocator of its own, on DLPack's CUDA device.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import shutil
import sys
import types
from collections.abc import Callable
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest
from gossamer import _backend, _interop
from library import ROOT, locked, run, tool
from producer import CUDA, Producer

DEVICES = ["cpu", "cuda-emulated", "cuda"]
BF16 = np.dtype(ml_dtypes.bfloat16)


def toolkit_headers() -> bool:
    """Return whether a CUDA toolkit is found, of which the emulation needs the headers only."""
    places = [os.environ.get(name) for name in ("CUDAToolkit_ROOT", "CUDA_PATH", "CUDA_HOME")]
    return bool(shutil.which("nvcc") or any(places) or os.path.isdir("/usr/local/cuda"))


@functools.cache
def emulated_extension() -> types.ModuleType:
    """Build the emulated backend where it is out of date, and load it."""
    sanitize = os.environ.get("GOSSAMER_SANITIZE", "")
    build = ROOT / "build" / ("emulated" + "".join(f"-{s}" for s in sanitize.split(",") if s))
    pybind11 = pytest.importorskip("pybind11", reason="needs pybind11 to build the emulated GPU")
    cmake = tool("cmake")
    plain = {"LD_PRELOAD": ""}  # build tools run without a sanitizer that the tests preload
    if not toolkit_headers():
        pytest.skip("needs the headers of the CUDA toolkit")
    with locked(build):
        run(
            cmake,
            *("-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"),
            *("-DGOSSAMER_PYTHON=ON", "-DGOSSAMER_CUDA=OFF", "-DGOSSAMER_CUDA_EMULATED=ON"),
            "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",  # compiles faster: bindings have no loops
            *(f"-DGOSSAMER_SANITIZE={sanitize}", f"-DPython_EXECUTABLE={sys.executable}"),
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            **plain,
        )
        run(cmake, "--build", build, "--target", "_cuda_emulated", **plain)
    (path,) = (build / "python").glob("_cuda_emulated.*")
    spec = importlib.util.spec_from_file_location("gossamer._cuda_emulated", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class EmulatedArray(Producer):
    """An array on the emulated GPU; `view` is the same memory as a NumPy array."""

    #: The framework's current stream.
    stream = 5

    def __init__(self, view: np.ndarray, owner: Any, index: int = 0) -> None:
        item = view.itemsize
        super().__init__(
            view,
            device=(CUDA, index),
            dtype=(4, 16, 1) if view.dtype == BF16 else None,
            strides=[step // item for step in view.strides],
        )
        self.view = view
        self.owner = owner
        #: The consumers' streams that exports were asked to be ready for.
        self.streams: list[object] = []

    def __dlpack__(self, **options: object) -> object:
        self.streams.append(options.get("stream"))
        return super().__dlpack__(**options)

    def __reduce__(self) -> Any:
        return emulated_copy, (self.view.copy(), self.device[1])

    def __getitem__(self, key: Any) -> EmulatedArray:
        return EmulatedArray(self.view[key], self.owner, self.device[1])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape


def emulated_empty(shape: tuple[int, ...], dtype: Any, index: int = 0) -> EmulatedArray:
    dtype = np.dtype(dtype)
    owner = emulated_extension().empty(shape, dtype.name, index)
    return EmulatedArray(memory_of(owner, shape, dtype), owner, index)


def emulated_copy(array: np.ndarray, index: int = 0) -> EmulatedArray:
    made = emulated_empty(array.shape, array.dtype, index)
    made.view[...] = array
    return made


def memory_of(owner: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return a NumPy view of a gossamer tensor on the emulated GPU."""
    size = int(np.prod(shape)) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    memory = (ctypes.c_uint8 * size).from_address(_data_of(owner))
    return np.frombuffer(memory, dtype=dtype).reshape(shape)


# Of our own, since others may declare other types of the one that ctypes.pythonapi shares.
pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _data_of(tensor: Any) -> int:
    # The first field of a legacy capsule's struct is the address of the data.
    capsule = tensor.__dlpack__()
    address = pointer_of(capsule, b"dltensor")
    return ctypes.c_void_p.from_address(address).value or 0


def emulated_framework(kind: type[EmulatedArray]) -> _interop.Framework:
    """Return the adapter that _interop uses for a class of arrays."""

    def empty(shape: tuple[int, ...], dtype: str, like: EmulatedArray) -> EmulatedArray:
        made = emulated_empty(shape, BF16 if dtype == "bfloat16" else dtype, like.device[1])
        return kind(made.view, made.owner, like.device[1])

    return _interop.Framework(
        borrow=lambda array: array,
        stream=lambda _array: kind.stream,
        empty=empty,
        finish=lambda array, _like: array,
        refusal=lambda _array: None,
        streams=True,
    )


class Device:
    """A device to test on: copies NumPy arrays to it and back."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def emulated(self) -> bool:
        return self.name == "cuda-emulated"

    def put(self, array: np.ndarray) -> Any:
        if self.name == "cpu":
            return array
        if self.emulated:
            return emulated_copy(array)
        import torch

        array = np.ascontiguousarray(array)
        if array.dtype == BF16:
            return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16).cuda()
        return torch.from_numpy(array).cuda()

    def get(self, array: Any) -> np.ndarray:
        if self.name == "cpu":
            return np.asarray(array)
        if self.emulated:
            assert type(array) is EmulatedArray
            return array.view.copy()  # the view does not keep the memory
        import torch

        assert array.is_cuda
        if array.dtype is torch.bfloat16:
            return array.view(torch.uint16).cpu().numpy().view(BF16)
        return array.cpu().numpy()

    def csr(self, dense: np.ndarray) -> gossamer.CSR:
        """Return the matrix of a dense array with zeros."""
        a = gossamer.CSR.from_dense(dense)
        return gossamer.CSR(self.put(a.indptr), self.put(a.indices), self.put(a.values), a.shape)

    def few(self, sizes: list[Any], count: int = 4) -> list[Any]:
        """Return all sizes, or for the emulated GPU the first ones: it is slow."""
        return sizes[:count] if self.emulated else sizes


def why_not(name: str) -> str | None:
    """Return why a device is not available, or None if it is."""
    if name != "cuda":
        return None
    facts = _backend.cuda_facts()
    if not facts["built"]:
        return "this build of gossamer has no CUDA backend"
    if not facts["available"]:
        return "no GPU that CUDA can use"
    if importlib.util.find_spec("torch") is None:
        return "needs PyTorch for arrays on the GPU"
    import torch

    return None if torch.cuda.is_available() else "this build of PyTorch has no CUDA"


def open_device(name: str, monkeypatch: pytest.MonkeyPatch) -> Device:
    reason = why_not(name)
    if reason is not None:
        pytest.skip(reason)
    if name == "cuda-emulated":
        monkeypatch.setattr(_backend, "_cuda", emulated_extension())
        monkeypatch.setitem(_interop._by_type, EmulatedArray, emulated_framework(EmulatedArray))
    return Device(name)


class Place:
    """A form of sparse matrices on a device: "packed-8", "csr@cuda", …

    `make` takes a dense array with zeros. The operations take and return NumPy arrays;
    they run on the device, on arrays with the same strides as those given.
    """

    def __init__(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.form, _, where = text.partition("@")
        self.device = open_device(where or "cpu", monkeypatch)

    def make(self, a: np.ndarray) -> Any:
        cpu = self.device.name == "cpu"
        return oracle.make(a, self.form) if cpu else self.device.csr(a)

    def few(self, sizes: list[Any], count: int = 4) -> list[Any]:
        return self.device.few(sizes, count)

    def spmm(self, a: Any, b: np.ndarray, **options: Any) -> np.ndarray:
        return self._call(gossamer.spmm, (a, b), options)

    def linear(self, x: np.ndarray, w: Any, **options: Any) -> np.ndarray:
        return self._call(gossamer.linear, (x, w), options)

    def sddmm(self, a: np.ndarray, b: np.ndarray, pattern: Any, **options: Any) -> np.ndarray:
        return self._call(gossamer.sddmm, (a, b, pattern), options)

    def _call(self, op: Callable[..., Any], operands: tuple[Any, ...], options: Any) -> np.ndarray:
        if self.device.name == "cpu":
            result: np.ndarray = op(*operands, **options)
            return result
        laid = [self.lay(x)[1] if isinstance(x, np.ndarray) else x for x in operands]
        moved = {k: self.lay(x)[1] for k, x in options.items() if isinstance(x, np.ndarray)}
        out = options.get("out")
        if out is not None:
            whole, moved["out"] = self.lay(out)
        result = op(*laid, **{**options, **moved})
        if out is None:
            return self.device.get(result)
        assert result is moved["out"]
        (out if out.base is None else out.base)[...] = self.device.get(whole)
        return out  # type: ignore[no-any-return]

    def lay(self, array: np.ndarray) -> tuple[Any, Any]:
        """Return an array's whole memory on the device, and the array within it."""
        base = array if array.base is None else array.base
        assert isinstance(base, np.ndarray)
        whole = self.device.put(base)
        if base is array:
            return whole, whole
        steps = [step // array.itemsize for step in array.strides]
        offset = (array.ctypes.data - base.ctypes.data) // array.itemsize
        if not self.device.emulated:
            return whole, whole.as_strided(array.shape, steps, offset)
        view = np.lib.stride_tricks.as_strided(
            whole.view.reshape(-1)[offset:], array.shape, array.strides
        )
        return whole, EmulatedArray(view, whole.owner)


def places(*forms: str) -> Any:
    """Parametrise a test by `place`: forms on the CPU, and CSR on GPUs."""
    gpu = [pytest.param(f"csr@{name}", marks=pytest.mark.gpu) for name in DEVICES[1:]]
    return pytest.mark.parametrize("place", [*forms, *gpu], indirect=True)
