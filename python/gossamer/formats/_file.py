"""Files in the safetensors format: a length, a JSON header, the tensors one after the other.

https://github.com/huggingface/safetensors, "Format". The package of that name reads and writes the
same files and is not needed here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gossamer import _interop

#: The format's names of types, and how many bytes an element has.
_TYPES = {
    "float32": ("F32", 4),
    "float64": ("F64", 8),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int32": ("I32", 4),
    "int64": ("I64", 8),
}
_NAMES = {code: name for name, (code, _) in _TYPES.items()}
_MOST_HEADER = 100_000_000  # bytes, the format's own limit


def save(path: Any, kind: str, arrays: dict[str, Any], shape: tuple[int, int]) -> None:
    """Write the arrays of a matrix, and what it is."""
    header: dict[str, Any] = {
        "__metadata__": {"format": f"gossamer.{kind}", "shape": json.dumps(list(shape))}
    }
    raw = {name: _interop.raw(array) for name, array in arrays.items()}
    end = 0
    # The widest elements first: all are aligned then.
    order = sorted(raw, key=lambda name: -_TYPES[raw[name][0]][1])
    for name in order:
        dtype, data = raw[name]
        begin, end = end, end + data.nbytes
        header[name] = {
            "dtype": _TYPES[dtype][0],
            "shape": list(data.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            file.write(raw[name][1].data)


def load(
    path: Any, kind: str, names: tuple[str, ...], framework: str
) -> tuple[list[Any], tuple[int, int]]:
    """Return the arrays of these names and the shape of the matrix that a file holds."""
    content = bytearray(Path(path).read_bytes())
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(_MOST_HEADER, len(content) - 8):
        _refuse(path, kind, "is no safetensors file")
    data = memoryview(content)[8 + size :]
    try:
        header = json.loads(content[8 : 8 + size])
        metadata = header.get("__metadata__", {})
        held, shape = metadata.get("format"), json.loads(metadata.get("shape", "null"))
    except (ValueError, AttributeError, TypeError):
        _refuse(path, kind, "has no header that can be read")
    if held != f"gossamer.{kind}":
        _refuse(path, kind, f"holds {held}, expected gossamer.{kind}")
    if not (_whole(shape) and len(shape) == 2):
        _refuse(path, kind, f"has shape {shape}, expected two integers")
    arrays = [_read(path, kind, name, header.get(name), data) for name in names]
    made = [_interop.from_raw(kind, *array, framework) for array in arrays]
    return made, (shape[0], shape[1])


def _read(path: Any, kind: str, name: str, entry: Any, data: memoryview) -> tuple[str, Any]:
    try:
        dtype, shape = _NAMES[entry["dtype"]], entry["shape"]
        begin, end = entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        _refuse(path, kind, f"has no tensor {name} of a known type")
    width = _TYPES[dtype][1]
    fits = _whole(shape) and _whole([begin, end]) and begin <= end <= len(data)
    if not fits or end - begin != width * math.prod(shape):
        _refuse(path, kind, f"has a tensor {name} whose bytes are not there")
    stored = {"bfloat16": "<u2"}.get(dtype, f"<{dtype[0]}{width}")
    array = np.frombuffer(data[begin:end], stored).reshape(shape)
    return dtype, array if array.flags.aligned else array.copy()


def _whole(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)


def _refuse(path: Any, kind: str, problem: str) -> NoReturn:
    raise ValueError(f"{kind}.load: {path} {problem}")
