"""Where tests find the repository and the installed C++ library."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gossamer
import pytest

ROOT = Path(__file__).parent.parent
#: Seconds after which a child process is taken to hang. None needs a tenth of it, so that a busy
#: machine does not make a test fail.
PATIENCE = 1800
#: How many cases of a test run on an emulated processor (tests/aarch64.sh); elsewhere all do.
MOST_CASES = int(os.environ.get("GOSSAMER_MOST_CASES", "0"))


def examples(count: int) -> int:
    """Return how many examples hypothesis draws for a test that takes so many."""
    return min(count, 4 * MOST_CASES) if MOST_CASES else count


def tool(name: str) -> str:
    """Return the path of a build tool, the environment's own first."""
    here = os.path.dirname(sys.executable)
    found = shutil.which(name, path=os.pathsep.join([here, os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def run(*command: str | Path, **environment: str) -> str:
    """Run a command, return what it printed and fail with its output where it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def locked(build: Path) -> Iterator[None]:
    """Wait until no other process of the tests builds in a folder, and keep it meanwhile."""
    build.mkdir(parents=True, exist_ok=True)
    with open(build / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def prefix() -> Path:
    """Return where lib/ and include/ of the C++ library are: the package, else a build of it."""
    package = Path(gossamer.__file__).parent
    if (package / "lib" / "libgossamer.a").exists():
        return package
    cmake = tool("cmake")
    build = Path(os.environ.get("GOSSAMER_BUILD_DIR", ROOT / "build" / "consumed"))
    installed = Path(tempfile.mkdtemp(prefix="gossamer-"))
    with locked(build):
        run(cmake, "-S", ROOT, "-B", build, "-DGOSSAMER_CUDA=OFF")
        run(cmake, "--build", build, "--parallel", "2", "--target", "gossamer")
        run(cmake, "--install", build, "--prefix", installed)
    return installed
