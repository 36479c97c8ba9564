"""Whose arrays a contender computes with: how operands become its arrays, and results NumPy's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np

from .dtypes import Array

Call: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class Library:
    """Arrays of one package on one device, here NumPy's.

    Contenders of one library share a process of its name.
    """

    process: str
    needs: tuple[str, ...] = ()  # packages
    device: str = "cpu"

    def put(self, stored: Array, dtype: str) -> Any:
        """Make an array of values that are stored as `to_bits` stores them."""
        return stored

    def put_index(self, array: Array) -> Any:
        """Make an array of integers."""
        return array

    def wait(self) -> None:
        """Wait for what calls have queued."""

    def capture(self, calls: list[Call]) -> tuple[list[Call], int, str]:
        """Return what is timed in place of the calls, which are made in turn.

        With it, how many calls each of these makes, and how they run, where that is to be told.
        """
        return calls, 1, ""

    def cold_bytes(self, processor: int) -> int:
        """Return how many bytes of copies are past its device's caches, given the CPU's number."""
        return processor

    def missing(self) -> str | None:
        """Name the first package that it needs and that is not installed."""
        return next((name for name in self.needs if find_spec(name) is None), None)


@dataclass(frozen=True)
class GossamerLibrary(Library):
    """NumPy's arrays; bf16 as ml_dtypes has it, or as a PyTorch tensor where that is missing."""

    def put(self, stored: Array, dtype: str) -> Any:
        """View stored values as an array that gossamer takes."""
        if dtype != "bf16":
            return stored
        if find_spec("ml_dtypes"):
            return stored.view(import_module("ml_dtypes").bfloat16)
        return TORCH.put(stored, dtype)


@dataclass(frozen=True)
class TorchLibrary(Library):
    """PyTorch's tensors in the memory of the arrays."""

    def put(self, stored: Array, dtype: str) -> Any:
        """View stored values as a tensor."""
        torch = torch_module()
        if dtype == "bf16":
            return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(stored)

    def put_index(self, array: Array) -> Any:
        """View integers as a tensor."""
        return torch_module().from_numpy(array)


def torch_module() -> Any:
    """Import PyTorch."""
    torch = import_module("torch")
    # Beta-state notices of torch.sparse; the run's own messages would drown in them.
    warnings.filterwarnings("ignore", message=".*(Sparse|sparse).*", category=UserWarning)
    return torch


def as_values(array: Any) -> Array:
    """Read an array of any library as numbers; bf16 as float32."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        return np.asarray((array.float() if "bfloat16" in str(array.dtype) else array).numpy())
    out = np.asarray(array.get() if hasattr(array, "get") else array)
    return out.astype(np.float32) if out.dtype.name == "bfloat16" else out


def as_stored(array: Any) -> Array:
    """Read values of any library as `to_bits` stores them: conversions are compared bit for bit."""
    if hasattr(array, "detach") and "bfloat16" in str(array.dtype):
        bits = array.detach().cpu().view(import_module("torch").int16)
        return np.asarray(bits.numpy()).view(np.uint16)
    if hasattr(array, "detach"):
        return np.asarray(array.detach().cpu().numpy())
    out = np.asarray(array.get() if hasattr(array, "get") else array)
    return out.view(np.uint16) if out.dtype.name == "bfloat16" else out


GOSSAMER = GossamerLibrary("gossamer")
NUMPY = Library("numpy")
TORCH = TorchLibrary("torch", needs=("torch",))
SCIPY = Library("scipy", needs=("scipy",))
MKL = Library("mkl", needs=("scipy", "sparse_dot_mkl"))
