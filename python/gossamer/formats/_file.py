"""Files in the safetensors format: a length, a JSON header, the tensors one after the other.

https://github.com/huggingface/safetensors, "Format". The package of that name reads and writes the
same files and is not needed here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

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
    "uint8": ("U8", 1),
    "uint16": ("U16", 2),
}
_NAMES = {code: name for name, (code, _) in _TYPES.items()}
_MOST_HEADER = 100_000_000  # bytes, the format's own limit


#: What a fact consists of: int, str, or so many integers.
Form = type | tuple[type, ...]


def save(path: Any, kind: str, arrays: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the arrays of a format, of which some may be None, and the facts beside them."""
    path = _name(path, f"{kind}.save")
    metadata = {name: json.dumps(fact) for name, fact in facts.items()}
    absent = [name for name, array in arrays.items() if array is None]
    if absent:
        metadata["none"] = json.dumps(absent)
    header: dict[str, Any] = {"__metadata__": {"format": f"gossamer.{kind}", **metadata}}
    raw = {name: _interop.raw(array) for name, array in arrays.items() if array is not None}
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
    with _replacing(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            file.write(raw[name][1].data)


def _name(path: Any, op: str) -> str:
    """Return the name that a path is; os.open would take a number for an open file."""
    try:
        return os.fsdecode(path)
    except TypeError:
        kind = type(path).__name__
        raise TypeError(f"{op}: path is a {kind}, expected a str, bytes or a path") from None


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of an old one once all of it is on the disk.

    What ends the block early, or the process, leaves the old file as it was.
    """
    target = os.path.realpath(path)  # where a link points to
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):  # a pipe, a device
        with open(target, "wb") as file:
            yield file
        return
    beside = os.path.join(os.path.dirname(target), f".gossamer-{secrets.token_hex(8)}")
    try:
        made = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        error.filename = path
        raise
    try:
        with open(made, "wb") as file:
            if mode is not None:
                os.chmod(beside, stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def load(
    path: Any,
    kind: str,
    names: tuple[str, ...],
    forms: dict[str, Form],
    framework: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of these names and the facts that a file holds."""
    path = _name(path, f"{kind}.load")
    content = bytearray(Path(path).read_bytes())
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(_MOST_HEADER, len(content) - 8):
        _refuse(path, kind, "is no safetensors file")
    data = memoryview(content)[8 + size :]
    try:
        header = json.loads(content[8 : 8 + size])
        metadata = header.get("__metadata__", {})
        held = metadata.get("format")
        facts = {name: json.loads(metadata.get(name, "null")) for name in forms}
        absent = json.loads(metadata.get("none", "[]"))
    except (ValueError, AttributeError, TypeError, RecursionError):
        _refuse(path, kind, "has no header that can be read")
    if held != f"gossamer.{kind}":
        _refuse(path, kind, f"holds {held}, expected gossamer.{kind}")
    if facts.get("index_dtype", 0) is None:  # files of earlier versions do not say it
        del facts["index_dtype"]
    for name, fact in facts.items():
        _check_fact(path, kind, name, fact, forms[name])
    arrays: dict[str, Any] = dict.fromkeys(names)
    for name in names:
        if not (isinstance(absent, list) and name in absent):
            dtype, array = _read(path, kind, name, header.get(name), data)
            arrays[name] = _interop.from_raw(kind, dtype, array, framework)
    read = max((entry["data_offsets"][1] for entry in map(header.get, names) if entry), default=0)
    if set(header) <= {"__metadata__", *names} and read < len(data):
        _refuse(path, kind, f"has {len(data) - read} bytes behind its last tensor")
    return arrays, facts


def _check_fact(path: Any, kind: str, name: str, fact: Any, form: Form) -> None:
    if isinstance(form, tuple):
        if not (_whole(fact) and len(fact) == len(form)):
            _refuse(path, kind, f"has {name} {fact}, expected {len(form)} integers")
    elif type(fact) is not form:
        _refuse(path, kind, f"has {name} {fact!r}, expected {form.__name__}")


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
    try:
        array = np.frombuffer(data[begin:end], stored).reshape(shape)
    except (ValueError, OverflowError):  # extents, or as many of them, as no array has
        _refuse(path, kind, f"has a tensor {name} of shape {shape}, expected one that can be")
    return dtype, array if array.flags.aligned else array.copy()


def _whole(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)


def _refuse(path: Any, kind: str, problem: str) -> NoReturn:
    raise ValueError(f"{kind}.load: {path} {problem}")
