"""One kernel object per ISA level: none leaks code into the program, each can be chosen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict

import gossamer
import pytest
from library import ROOT, prefix, run, tool

pytestmark = pytest.mark.once

KERNELS = sorted((ROOT / "cpp/src/kernels").glob("*.cpp"))
LEVELS = gossamer.info()["available_isas"]


def kernel_objects() -> dict[tuple[str, str], list[str]]:
    """Return the lines of `nm` for each (ISA level, object file) of the kernels in the library."""
    (archive,) = prefix().glob("lib*/libgossamer.a")
    objects: dict[tuple[str, str], list[str]] = defaultdict(list)
    for block in run(tool("nm"), "-C", archive).split("\n\n"):
        name, *symbols = block.strip().splitlines()
        levels = set(re.findall(r" [TDRB] gossamer::kernels::(\w+)::", "\n".join(symbols)))
        assert len(levels) <= 1, f"{name} defines kernels of several levels: {levels}"
        for level in levels:
            objects[level, name.removesuffix(":").removesuffix(".o")] += symbols
    return objects


def test_every_kernel_is_built_for_every_level() -> None:
    built = kernel_objects()
    levels = {level for level, _ in built}
    assert "baseline" in levels
    assert set(built) == {(level, source.name) for level in levels for source in KERNELS}


def test_kernel_objects_define_no_weak_symbol() -> None:
    # The linker keeps one weak definition for the whole program: it may be the AVX-512 one.
    weak = {
        key: found
        for key, symbols in kernel_objects().items()
        if (found := [line for line in symbols if re.match(r"[0-9a-f]+ +[WVu] ", line)])
    }
    assert not weak


def test_kernels_use_nothing_of_the_standard_library() -> None:
    used = {
        key: found
        for key, symbols in kernel_objects().items()
        if (found := [line for line in symbols if re.search(r" U .*\bstd::", line)])
    }
    assert not used


# What the files of a layer may include, as regular expressions over the text between <> or "".
STANDARD = r"[a-z_0-9]+"
PUBLIC = r"gossamer/\w+\.h"
KERNEL = r"cstdint|cstddef|cassert|immintrin\.h|arm_neon\.h|kernels/\w+\.(h|inc)|gossamer/dtype\.h"
SYSTEM = r"pthread\.h|sched\.h|sys/mman\.h"
DEVICE = r"(ops/|kernels/)?\w+\.(h|cuh)|cuda_\w+\.h|\.\./emulation/simt\.h"
SOURCES = {".h", ".cpp", ".inc", ".cu", ".cuh"}
ARGS = r"kernels/(\w*args|table|philox)\.h"
LAYERS = {
    "cpp/include": f"{STANDARD}|{PUBLIC}",
    "cpp/src/kernels": KERNEL,
    "cpp/src/ops": rf"{STANDARD}|{PUBLIC}|{ARGS}|(ops/|formats/)?\w+\.h",
    "cpp/src/formats": rf"{STANDARD}|{PUBLIC}|{ARGS}|(ops/|formats/)?\w+\.h",
    "cpp/src": rf"{STANDARD}|{SYSTEM}|{PUBLIC}|{ARGS}|\w+\.h",
    "cuda/include": f"{STANDARD}|{PUBLIC}",
    "cuda/src": f"{STANDARD}|{PUBLIC}|{DEVICE}",
    "python/src": rf"{STANDARD}|{PUBLIC}|pybind11/\w+\.h|\w+/\w+\.h",
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_includes_only_what_it_may(layer: str) -> None:
    nested = layer != "cpp/src"
    pattern = "**/*" if nested else "*"
    files = [
        f for f in (ROOT / layer).glob(pattern) if f.suffix in {".h", ".cpp", ".inc", ".cu", ".cuh"}
    ]
    assert files
    bad = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in re.findall(r'^#include [<"](.+?)[>"]', file.read_text(), re.MULTILINE)
        if not re.fullmatch(LAYERS[layer], name)
    ]
    assert not bad


def test_bindings_include_headers_of_their_own_or_public_ones() -> None:
    own = ROOT / "python/src"
    missing = [
        f"{file.name}: {name}"
        for file in own.rglob("*.*")
        for name in re.findall(r'^#include "([\w/]+\.h)"', file.read_text(), re.MULTILINE)
        if not name.startswith("gossamer/") and not (own / name).exists()
    ]
    assert not missing


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("level", LEVELS)
def test_variable_selects_level(level: str) -> None:
    code = """
import numpy as np, gossamer
a = gossamer.CSR.from_dense(np.eye(3, dtype=np.float32))
print(gossamer.info()["isa"], gossamer.spmm(a, np.arange(3, dtype=np.float32)).tolist())
"""
    done = python(code, GOSSAMER_ISA=level)
    assert done.stdout.strip() == f"{level} [0.0, 1.0, 2.0]", done.stderr


def test_best_level_is_the_default() -> None:
    done = python('import gossamer; print(gossamer.info()["isa"])', GOSSAMER_ISA="")
    assert done.stdout.strip() == LEVELS[-1], done.stderr


def test_unknown_level_names_the_known_ones() -> None:
    done = python("import gossamer; gossamer.info()", GOSSAMER_ISA="sse9")
    expected = f"ValueError: GOSSAMER_ISA is 'sse9', expected one of {', '.join(LEVELS)}"
    assert done.stderr.strip().splitlines()[-1] == expected
