"""Fixtures that several test files use."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import random
import sys
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

import gossamer
import hypothesis
import pytest
from device import DEVICES, Device, Place, open_device
from library import MOST_CASES, examples

# Where a framework is not installed, the folder of its tests would be imported in its place.
for framework in ("torch", "jax"):
    found = importlib.util.find_spec(framework)
    if found is not None and found.origin is None:
        sys.modules[framework] = None  # type: ignore[assignment]

# The same examples in every run, however busy the machine is: a test does not fail by chance.
hypothesis.settings.register_profile(
    "gossamer",
    deadline=None,
    max_examples=examples(100),
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("gossamer")


#: Folders whose files start processes and build programs. Of several processes that share the
#: tests, none should begin such a file last, while the others have nothing left to do.
FIRST = ["cuda", "base", "examples", "bench", "torch", "jax"]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Where pytest-xdist shares the tests among processes (`-n 2`), give each whole files.

    The tests of a file then run in one process and in their order, however the files are shared,
    and what a file makes once is made once.
    """
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False
        # Threads of other libraries that have nothing to do must not keep the processors busy.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run tests that take minutes, too")


@contextlib.contextmanager
def turn(alone: bool) -> Iterator[None]:
    """Wait for a turn among all processes that share the tests: of one test alone, or of several.

    The queue comes first, so that those who come later do not keep a test waiting that is to run
    alone. What is locked are two files that are there anyway.
    """
    here = Path(__file__)
    with open(here) as turns, open(here.with_name("library.py")) as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(turns, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield


def gpu_is_lost() -> bool:
    """Return whether a kernel has failed in this process, after which no call of CUDA succeeds."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with turn(item.get_closest_marker("alone") is not None):
        result = yield
    if gpu_is_lost():
        os._exit(1)  # pytest-xdist starts a new process for the tests that are left
    return result


def _each(names: list[str]) -> list[object]:
    return [n if n == "cpu" else pytest.param(n, marks=pytest.mark.gpu) for n in names]


@pytest.fixture(params=_each(DEVICES))
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Return each device in turn, GPUs as far as there are any."""
    return open_device(request.param, monkeypatch)


@pytest.fixture(params=_each(DEVICES[1:]))
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Return the emulated GPU and, where there is one, a real one."""
    return open_device(request.param, monkeypatch)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Return the emulated GPU."""
    return open_device("cuda-emulated", monkeypatch)


@pytest.fixture
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return the place that `places` names."""
    return Place(request.param, monkeypatch)


def some_of(items: list[pytest.Item], most: int) -> list[pytest.Item]:
    """Choose so many cases of each test: always the same, of all of its parameters alike."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept: set[pytest.Item] = set()
    for name, all_of_it in cases.items():
        count = min(len(all_of_it), most)
        kept.update(random.Random(zlib.crc32(name.encode())).sample(all_of_it, count))
    return [item for item in items if item in kept]


def on_a_real_gpu(item: pytest.Item) -> bool:
    """Return whether a case names the GPU of this machine, and not its emulation."""
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    return any(isinstance(p, str) and p.rpartition("@")[2] == "cuda" for p in parameters)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that run on the emulated GPU only: no CPU kernel changes their result.

    Processes that share the tests begin with those that run alone, while there is nothing to wait
    for, and with the folders that are named above.

    Below a level that only products, formats and attention ask for, a run of the whole suite leaves
    out the other families, whose kernels are those of the best level.

    Without a sanitizer all cases of a test run. With one, all run at the best level of the CPU, and
    a few at the levels below and on the emulated GPU: there too it watches every kernel, and what
    more cases would tell, the results, is compared without it.
    """
    for item in items:
        if "emulated" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.once)
        if item.get_closest_marker("long") is not None and not config.getoption("long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: --long runs it"))
    isa, levels = gossamer.info()["isa"], gossamer.info()["available_isas"]
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    if whole and isa in ("x86-64-v4", "avx512_bf16") and isa != levels[-1]:
        families = ("products", "formats", "attention")
        left = [item for item in items if item.path.parent.name not in families]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item.path.parent.name in families]
    if hasattr(config, "workerinput"):
        last = len(FIRST)
        folders = {name: place for place, name in enumerate(FIRST)}
        items.sort(key=lambda item: folders.get(item.path.parent.name, last))
        items.sort(key=lambda item: item.get_closest_marker("alone") is None)
    sanitized = "GOSSAMER_SANITIZE" in os.environ
    of_gpus = [item for item in items if item.get_closest_marker("gpu") is not None]
    of_cpu = [item for item in items if item.get_closest_marker("gpu") is None]
    most = MOST_CASES or (12 if sanitized and whole and isa != levels[-1] else 0)
    if most:
        of_cpu = some_of(of_cpu, most)
    if sanitized:
        of_gpus = some_of([item for item in of_gpus if not on_a_real_gpu(item)], 16)
    kept = set(of_cpu + of_gpus)
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]
