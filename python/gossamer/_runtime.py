"""What this build and this process can do."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gossamer import _backend, _core


def set_num_threads(n: int) -> None:
    """Set how many threads an operation may use, the caller's included.

    The default is GOSSAMER_NUM_THREADS, else OMP_NUM_THREADS, else the processors that this process
    may use at once: those that it may run on, or fewer where a control group limits their time, as
    that of a container does. Results do not depend on it.

    Parameters
    ----------
    n : int, from 1 to 1024

    Raises
    ------
    ValueError
        For other numbers.

    Examples
    --------
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    _core.set_num_threads(n)


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Set how many threads operations may use inside a `with` block, and what it was afterwards.

    The number is the process's, not the calling thread's: other threads get it for that time too.

    Parameters
    ----------
    n : int, from 1 to 1024

    Raises
    ------
    ValueError
        For other numbers.

    Examples
    --------
    >>> with num_threads(1):
    ...     get_num_threads()
    1
    """
    before = _core.num_threads()
    _core.set_num_threads(n)
    try:
        yield
    finally:
        _core.set_num_threads(before)


def get_num_threads() -> int:
    """Return how many threads an operation may use, the caller's included.

    Examples
    --------
    >>> get_num_threads() >= 1
    True
    """
    return _core.num_threads()


def info() -> dict[str, Any]:
    """Return versions, instruction sets, threads and devices of this process.

    Returns
    -------
    dict
        Keys version, isa, available_isas, threads, cuda (built, available, devices), python, numpy.

    Examples
    --------
    >>> info()["cuda"]["devices"] >= 0
    True
    """
    return {
        "version": _core.version(),
        "isa": _core.isa(),
        "available_isas": _core.available_isas(),
        "threads": _core.num_threads(),
        "cuda": _backend.cuda_facts(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def cmake_dir() -> str:
    """Return the folder of gossamerConfig.cmake, for CMake's `gossamer_DIR`.

    Raises
    ------
    FileNotFoundError
        Where the package does not carry the C++ library, as in a build tree.
    """
    folder = Path(__file__).parent / "lib" / "cmake" / "gossamer"
    if not (folder / "gossamerConfig.cmake").is_file():
        raise FileNotFoundError(f"cmake_dir: {folder} holds no gossamerConfig.cmake")
    return str(folder)
