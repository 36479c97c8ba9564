"""A DLPack exporter whose every field a test may set."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

CPU, CUDA = 1, 2
READ_ONLY = 1


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


#: The producers whose export is held, by the address of its struct: like those of a real framework,
#: they live until the deleter was called.
_lent: dict[int, Producer] = {}


@_Deleter
def _release(managed: int) -> None:
    producer = _lent[managed]
    producer.releases += 1
    if producer.releases == producer.exports:
        del _lent[managed]


# Of our own: others (JAX, say) declare other types of the one that ctypes.pythonapi shares.
_new_capsule = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
)(("PyCapsule_New", ctypes.pythonapi))


class Producer:
    """An array of a framework that gossamer does not know; counts exports and releases."""

    def __init__(
        self,
        array: np.ndarray,
        *,
        versioned: bool = True,
        major: int = 1,
        flags: int = 0,
        device: tuple[int, int] = (CPU, 0),
        dtype: tuple[int, int, int] | None = None,
        strides: Sequence[int] | None = None,
        extents: Sequence[int] | None = None,
        null_shape: bool = False,
        null_data: bool = False,
        byte_offset: int = 0,
    ) -> None:
        self.array = array
        self.versioned = versioned
        self.device = device
        self.exports = 0
        self.releases = 0
        kinds = {"i": 0, "u": 1, "f": 2, "b": 6}
        code, bits, lanes = dtype or (kinds[array.dtype.kind], 8 * array.itemsize, 1)
        self._shape = (ctypes.c_int64 * max(array.ndim, 1))(*(extents or array.shape))
        self._strides = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)
        tensor = _Tensor(
            data=None if null_data else array.ctypes.data - byte_offset,
            device_type=device[0],
            device_id=device[1],
            ndim=array.ndim,
            code=code,
            bits=bits,
            lanes=lanes,
            shape=ctypes.addressof(self._shape) if array.ndim and not null_shape else None,
            strides=None if self._strides is None else ctypes.addressof(self._strides),
            byte_offset=byte_offset,
        )
        self._managed: ctypes.Structure
        if versioned:
            self._managed = _ManagedVersioned(
                major=major, minor=0, deleter=_release, flags=flags, tensor=tensor
            )
        else:
            self._managed = _Managed(tensor=tensor, deleter=_release)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: object) -> object:
        if not self.versioned and "max_version" in options:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        self.exports += 1
        address = ctypes.addressof(self._managed)
        _lent[address] = self
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return _new_capsule(address, name, None)
