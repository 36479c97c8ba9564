"""An installed gossamer is a C++ library that another CMake project finds, builds on and runs."""

from __future__ import annotations

import os
import re
import shutil
import zlib
from pathlib import Path

import gossamer
import pytest
from library import ROOT, prefix, run, tool

pytestmark = pytest.mark.once

INCLUDE = ROOT / "cpp/include"
HEADERS = sorted(str(path.relative_to(INCLUDE)) for path in INCLUDE.rglob("*.h"))


def cmake_dir() -> Path:
    (config,) = prefix().glob("lib*/cmake/gossamer/gossamerConfig.cmake")
    return config.parent


def test_package_tells_where_the_cmake_files_are() -> None:
    if not (Path(gossamer.__file__).parent / "lib").exists():
        pytest.skip("needs an installed package")
    assert Path(gossamer.cmake_dir()) == cmake_dir()


def test_a_wheel_is_small() -> None:
    package = Path(gossamer.__file__).parent
    if not (package / "lib").exists() or os.environ.get("GOSSAMER_SANITIZE"):
        pytest.skip("needs an installed package")
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    sizes = {path: len(zlib.compress(path.read_bytes(), 6)) for path in files}
    without_cuda = sum(size for path, size in sizes.items() if "cuda" not in path.stem)
    assert without_cuda <= 8_000_000, without_cuda
    assert sum(sizes.values()) <= 60_000_000, sum(sizes.values())


def test_found_built_and_run(tmp_path: Path) -> None:
    cmake, ctest = tool("cmake"), tool("ctest")
    shutil.copytree(ROOT / "tests/consumer", tmp_path / "source")
    build = tmp_path / "build"
    run(cmake, "-S", tmp_path / "source", "-B", build, f"-Dgossamer_DIR={cmake_dir()}")
    run(cmake, "--build", build, "--parallel", "2")
    printed = run(ctest, "--test-dir", build, "--output-on-failure")
    assert "100% tests passed" in printed
    built = any(prefix().glob("lib*/libgossamer_cuda.a"))
    assert (re.search(r"cuda \.+ +Passed", printed) is not None) == built


@pytest.mark.parametrize("header", HEADERS)
def test_header_compiles_alone_without_warnings(header: str, tmp_path: Path) -> None:
    source = tmp_path / "alone.cpp"
    source.write_text(f'#include "{header}"\n')
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
    run(tool("c++"), "-std=c++20", "-fsyntax-only", *warnings, f"-I{prefix() / 'include'}", source)
