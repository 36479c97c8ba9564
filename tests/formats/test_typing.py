"""Matrices are generic in the type of their arrays: a user's program, as type checkers see it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from library import ROOT, tool

pytestmark = pytest.mark.once

PROGRAM = """\
from typing import Any

import gossamer
import numpy as np
from gossamer import BSR, CSR
from typing_extensions import assert_type


def halve(a: CSR[np.ndarray]) -> CSR[np.ndarray]:
    return a.with_values(a.values / 2)


x = np.ones((4, 4))
a = CSR.from_dense(x)
assert_type(a, CSR[type_of_x])
assert_type(a.values, type_of_x)
assert_type(a.indptr, type_of_x)
assert_type(a.to_dense(), type_of_x)
assert_type(a @ x, type_of_x)
assert_type(a.T, CSR[type_of_x])
assert_type(a.transpose(), tuple[CSR[type_of_x], type_of_x])
assert_type(a[1:3], CSR[type_of_x])
assert_type(a.copy(), CSR[type_of_x])
assert_type(a.astype("float32").to("cpu"), CSR[type_of_x])
assert_type(CSR(a.indptr, a.indices, x, (4, 4)), CSR[type_of_x])
assert_type(CSR(a.indptr, a.indices, None, (4, 4)), CSR[Any])
assert_type(gossamer.linear(x, a), type_of_x)
b = BSR.from_dense(x, 2)
assert_type(b.blocks, type_of_x)
assert_type(b.T.to_dense(), type_of_x)
bare: CSR = a
halve(a)
halve(bare)
halve(CSR.from_dense(1.0))  # WRONG
halve(a @ x)  # WRONG
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(
        PROGRAM.replace("type_of_x", "np.ndarray[tuple[int, int], np.dtype[np.float64]]")
    )
    return path


def lines_with_errors(output: str, name: str) -> set[int]:
    found = (line.partition(f"{name}:")[2] for line in output.splitlines() if "error" in line)
    return {int(rest.partition(":")[0]) for rest in found if rest[:1].isdigit()}


WRONG = {i for i, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# WRONG")}


def test_mypy_knows_the_arrays(program: Path) -> None:
    tool("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(program)]
    command += ["--allow-any-generics", "--ignore-missing-imports", "--python-version", "3.12"]
    environment = {"MYPYPATH": str(ROOT / "python"), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
    done = subprocess.run(
        command,
        cwd=program.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert lines_with_errors(done.stdout, program.name) == WRONG, done.stdout + done.stderr


def test_pyright_knows_the_arrays(program: Path) -> None:
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("needs pyright")
    (program.parent / "pyrightconfig.json").write_text(
        f'{{"extraPaths": ["{ROOT / "python"}"], "pythonVersion": "3.12"}}'
    )
    done = subprocess.run(
        [pyright, "--pythonpath", sys.executable, str(program)],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert lines_with_errors(done.stdout, program.name) == WRONG, done.stdout + done.stderr
