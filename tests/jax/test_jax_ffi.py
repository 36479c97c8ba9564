"""Our own words of XLA's C ABI against the header that jaxlib ships."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from library import ROOT

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.once

#: Theirs, ours, and the members in order: theirs to ours where the words differ.
STRUCTS: dict[str, tuple[str, dict[str, str]]] = {
    "XLA_FFI_Extension_Base": ("Extension", dict.fromkeys(["struct_size", "type", "next"], "")),
    "XLA_FFI_Api_Version": (
        "ApiVersion",
        dict.fromkeys(["struct_size", "extension_start", "major_version", "minor_version"], ""),
    ),
    "XLA_FFI_Error_Create_Args": (
        "ErrorCreateArgs",
        {"struct_size": "", "extension_start": "", "message": "", "errc": "code"},
    ),
    "XLA_FFI_Error_Destroy_Args": (
        "ErrorDestroyArgs",
        dict.fromkeys(["struct_size", "extension_start", "error"], ""),
    ),
    "XLA_FFI_Stream_Get_Args": (
        "StreamGetArgs",
        {"struct_size": "", "extension_start": "", "ctx": "context", "stream": ""},
    ),
    "XLA_FFI_DeviceMemory_Allocate_Args": (
        "MemoryAllocateArgs",
        {
            **dict.fromkeys(["struct_size", "extension_start", "size", "alignment", "data"], ""),
            "ctx": "context",
        },
    ),
    "XLA_FFI_DeviceMemory_Free_Args": (
        "MemoryFreeArgs",
        {
            **dict.fromkeys(["struct_size", "extension_start", "size", "data"], ""),
            "ctx": "context",
        },
    ),
    "XLA_FFI_DeviceOrdinal_Get_Args": (
        "DeviceGetArgs",
        {
            **dict.fromkeys(["struct_size", "extension_start"], ""),
            "ctx": "context",
            "device_ordinal": "device",
        },
    ),
    "XLA_FFI_Buffer": (
        "Buffer",
        dict.fromkeys(["struct_size", "extension_start", "dtype", "data", "rank", "dims"], ""),
    ),
    "XLA_FFI_ByteSpan": ("ByteSpan", dict.fromkeys(["ptr", "len"], "")),
    "XLA_FFI_Scalar": ("Scalar", dict.fromkeys(["dtype", "value"], "")),
    "XLA_FFI_Args": (
        "Args",
        dict.fromkeys(["struct_size", "extension_start", "size", "types", "args"], ""),
    ),
    "XLA_FFI_Rets": (
        "Rets",
        dict.fromkeys(["struct_size", "extension_start", "size", "types", "rets"], ""),
    ),
    "XLA_FFI_Attrs": (
        "Attrs",
        dict.fromkeys(["struct_size", "extension_start", "size", "types", "names", "attrs"], ""),
    ),
    "XLA_FFI_CallFrame": (
        "CallFrame",
        {
            **dict.fromkeys(["struct_size", "extension_start", "api", "stage"], ""),
            **dict.fromkeys(["args", "rets", "attrs", "future"], ""),
            "ctx": "context",
        },
    ),
    "XLA_FFI_Metadata": (
        "Metadata",
        dict.fromkeys(["struct_size", "api_version", "traits", "state_type_id"], ""),
    ),
    "XLA_FFI_Metadata_Extension": (
        "MetadataExtension",
        {"extension_base": "base", "metadata": ""},
    ),
}
#: Of this one, ours names a part.
API = {
    **dict.fromkeys(["struct_size", "extension_start", "api_version", "internal_api"], ""),
    "XLA_FFI_Error_Create": "error_create",
    "XLA_FFI_Error_Destroy": "error_destroy",
    "XLA_FFI_Stream_Get": "stream_get",
    "XLA_FFI_DeviceMemory_Allocate": "memory_allocate",
    "XLA_FFI_DeviceMemory_Free": "memory_free",
    "XLA_FFI_DeviceOrdinal_Get": "device_get",
}
CONSTANTS = {
    "XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE": "kCommandBufferCompatible",
    "XLA_FFI_API_MAJOR": "kMajorVersion",
    "XLA_FFI_API_MINOR": "kMinorVersion",
    "XLA_FFI_Extension_Metadata": "ExtensionType::metadata",
    "XLA_FFI_Error_Code_INVALID_ARGUMENT": "ErrorCode::invalid_argument",
    "XLA_FFI_Error_Code_INTERNAL": "ErrorCode::internal",
    **{
        f"XLA_FFI_DataType_{name.upper()}": f"DataType::{name}"
        for name in ("pred", "s32", "s64", "u8", "f16", "f32", "f64", "bf16")
    },
    "XLA_FFI_ArgType_BUFFER": "ArgType::buffer",
    "XLA_FFI_RetType_BUFFER": "ArgType::buffer",
    **{
        f"XLA_FFI_AttrType_{name.upper()}": f"AttrType::{name}"
        for name in ("array", "dictionary", "scalar", "string")
    },
    **{
        f"XLA_FFI_ExecutionStage_{name.upper()}": f"Stage::{name}"
        for name in ("instantiate", "prepare", "initialize", "execute")
    },
}


def test_sizes_offsets_and_constants_are_xlas(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    lines = ['#include "jax/xla_ffi.h"', '#include "xla/ffi/api/c_api.h"']
    lines.append("namespace ours = gossamer::python::xla;")

    def same(theirs: str, ours: str) -> None:
        lines.append(f'static_assert((long)({theirs}) == (long)({ours}), "{theirs}");')

    for theirs, (ours, members) in {**STRUCTS, "XLA_FFI_Api": ("Api", API)}.items():
        if theirs != "XLA_FFI_Api":
            same(f"sizeof({theirs})", f"sizeof(ours::{ours})")
        for member, name in members.items():
            mine = name or member
            same(f"offsetof({theirs}, {member})", f"offsetof(ours::{ours}, {mine})")
            same(f"sizeof({theirs}::{member})", f"sizeof(ours::{ours}::{mine})")
    for theirs, ours in CONSTANTS.items():
        same(theirs, f"ours::{ours}")
    source = tmp_path / "compare.cpp"
    source.write_text("\n".join(lines) + "\n")
    include = [f"-I{ROOT / 'python/src'}", f"-I{jax.ffi.include_dir()}"]
    done = subprocess.run(
        [compiler, "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", *include, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_comparison_names_every_struct_of_ours() -> None:
    header = (ROOT / "python/src/jax/xla_ffi.h").read_text()
    structs = set(re.findall(r"^struct (\w+) \{", header, re.MULTILINE))
    assert structs == {ours for ours, _ in STRUCTS.values()} | {"Api"}
    for ours, members in [*STRUCTS.values(), ("Api", API)]:
        body = re.search(rf"struct {ours} \{{(.*?)\n\}};", header, re.DOTALL)
        assert body is not None
        declared = re.findall(r"(\w+)(?:\)\([^)]*\))?;", body[1])
        assert set(declared) == {name or member for member, name in members.items()}
