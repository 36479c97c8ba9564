"""The extension for GPUs, loaded at the first array on one."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class CudaError(RuntimeError):
    """A call of the CUDA runtime that failed; its message names the call and the error."""


CudaError.__module__ = "gossamer"

_cuda: Any = None


def _load() -> Any:
    global _cuda  # noqa: PLW0603
    _cuda = import_module("gossamer._cuda")
    return _cuda


def cuda(op: str, argument: str, index: int) -> Any:
    """Return the extension; raise NotImplementedError where this build has none."""
    if _cuda is not None:
        return _cuda
    try:
        return _load()
    except ModuleNotFoundError:
        raise NotImplementedError(
            f"{op}: {argument} is on cuda:{index}, but this build of gossamer has no CUDA support: "
            "install it from source where nvcc is found"
        ) from None


def extension() -> Any:
    """Return the extension, or None where this build has none."""
    try:
        return _cuda or _load()
    except ModuleNotFoundError:
        return None


def cuda_facts() -> dict[str, Any]:
    """Return whether this build has kernels for GPUs, and how many this process may use."""
    built = extension()
    if built is None:
        return {"built": False, "available": False, "devices": 0}
    devices = built.device_count()
    return {"built": True, "available": devices > 0, "devices": devices}
