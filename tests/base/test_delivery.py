"""What is delivered: wheels that other machines load, sources that build, for old Pythons too."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import gossamer
import pytest
from library import ROOT, run, tool

pytestmark = pytest.mark.once


def installed_wheel(folder: Path) -> Path:
    """Return the wheel that the package was installed from, put together again."""
    try:
        distribution = importlib.metadata.distribution("gossamer")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs an installed package")
    tag = re.search(r"^Tag: (\S+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    assert tag is not None
    made = folder / f"gossamer-{distribution.version}-{tag[1]}.whl"
    files = [
        file
        for file in distribution.files or ()
        if file.suffix != ".pyc" and file.parts[0] != ".." and file.name != "RECORD"
    ]
    record = f"gossamer-{distribution.version}.dist-info/RECORD"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(str(file.locate()), str(file))
        archive.writestr(record, "".join(f"{name},,\n" for name in [*files, record]))
    return made


def test_wheel_is_accepted_for_a_manylinux_tag(tmp_path: Path) -> None:
    """Nothing but the system's own libraries is linked; which glibc it needs is the builder's."""
    if importlib.util.find_spec("auditwheel") is None:
        pytest.skip("needs auditwheel")
    wheel = installed_wheel(tmp_path)
    shown = run(sys.executable, "-m", "auditwheel", "show", str(wheel))
    assert re.search(r'platform tag: "manylinux_2_\d+_\w+"', " ".join(shown.split())), shown
    cuda = any(path.name.startswith("_cuda.") for path in Path(gossamer.__file__).parent.iterdir())
    assert wheel.stat().st_size <= (60e6 if cuda else 8e6)


SDIST = """
import os, sys
from scikit_build_core.build import build_sdist

os.chdir(sys.argv[1])
build_sdist(sys.argv[2])
"""


def test_source_distribution_is_configured_without_a_network(tmp_path: Path) -> None:
    """All that CMake names is in it: a source that is missing is found when it is configured."""
    pytest.importorskip("scikit_build_core", reason="needs scikit-build-core")
    pybind11 = pytest.importorskip("pybind11", reason="needs pybind11")
    cmake, ninja = tool("cmake"), tool("ninja")
    run(sys.executable, "-c", SDIST, str(ROOT), str(tmp_path))
    (archive,) = tmp_path.glob("gossamer-*.tar.gz")
    assert archive.stat().st_size < 8e6
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (source,) = (path.parent for path in tmp_path.glob("*/pyproject.toml"))
    names = {path.name for path in source.iterdir()}
    assert {"LICENSE", "README.md", "CMakeLists.txt", "cpp", "cuda", "python", "PKG-INFO"} <= names
    run(
        cmake,
        *("-S", str(source), "-B", str(tmp_path / "build"), "-G", "Ninja"),
        *(f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DGOSSAMER_PYTHON=ON", "-DGOSSAMER_CUDA=OFF"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
        **{name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")},
    )


def test_sources_are_python_3_10() -> None:
    """No syntax is newer than the oldest Python that pip may install the package for."""
    oldest = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest is not None
    for path in sorted((ROOT / "python").rglob("*.py*")):
        if path.suffix in {".py", ".pyi"}:
            ast.parse(path.read_text(), str(path), feature_version=(3, int(oldest[1])))
