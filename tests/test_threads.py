"""Threads: any number gives the same bits, from any number of callers, after a fork too."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import gossamer
import numpy as np
import pytest

M, K, N, D = 700, 500, 40, 24


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


def products(dtype: str) -> dict[str, Callable[[], np.ndarray]]:
    """Return one call of each operation on random numbers, large enough for several threads."""
    rng = np.random.default_rng(7)

    def dense(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    # Skewed rows: the first hold most of the entries, so that a cut by rows would be a bad one.
    mask = rng.random((M, K)) < np.linspace(0.9, 0.01, M)[:, None] ** 2
    a = gossamer.CSR.from_dense(dense(M, K), mask)
    packed = gossamer.pack(a)
    b, bt, x, left, right = dense(K, N), dense(M, N), dense(N, K), dense(M, D), dense(K, D)
    return {
        "spmm": lambda: gossamer.spmm(a, b),
        "spmv": lambda: gossamer.spmm(a, b[:, 0].copy()),
        "transposed": lambda: gossamer.spmm(a, bt, transpose_a=True),
        "transposed spmv": lambda: gossamer.spmm(a, bt[:, 0].copy(), transpose_a=True),
        "linear": lambda: gossamer.linear(x, a, activation="gelu"),
        "packed spmm": lambda: gossamer.spmm(packed, b),
        "packed spmv": lambda: gossamer.spmm(packed, b[:, 0].copy()),
        "packed linear": lambda: gossamer.linear(x, packed),
        "packed small linear": lambda: gossamer.linear(x[:3], packed),
        "sddmm": lambda: gossamer.sddmm(left, right, a),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_number_of_threads_changes_no_bit(dtype: str) -> None:
    calls = products(dtype)
    gossamer.set_num_threads(1)
    serial = {name: call() for name, call in calls.items()}
    for threads in (2, 3, 5, 8):
        gossamer.set_num_threads(threads)
        for name, call in calls.items():
            assert call().tobytes() == serial[name].tobytes(), (name, threads)
            assert np.any(serial[name]), name


def test_eight_callers_at_once_get_their_own_results() -> None:
    calls = products("float32")
    serial = {name: call().tobytes() for name, call in calls.items()}
    start = threading.Barrier(8)

    def work(thread: int) -> list[str]:
        start.wait()
        names = list(calls)
        order = names[thread:] + names[:thread]
        return [name for name in 3 * order if calls[name]().tobytes() != serial[name]]

    with ThreadPoolExecutor(8) as pool:
        wrong = list(pool.map(work, range(8)))
    assert wrong == [[]] * 8


def test_threads_may_change_while_others_compute() -> None:
    calls = products("float32")
    serial = {name: call().tobytes() for name, call in calls.items()}
    done = threading.Event()

    def change() -> None:
        n = 0
        while not done.is_set():
            gossamer.set_num_threads(1 + n % 4)
            n += 1

    with ThreadPoolExecutor(1) as pool:
        changer = pool.submit(change)
        wrong = [
            name for _ in range(5) for name in calls if calls[name]().tobytes() != serial[name]
        ]
        done.set()
        changer.result()
    assert not wrong


@pytest.mark.parametrize("n", [0, -1, 1025])
def test_impossible_number_of_threads_is_refused(n: int) -> None:
    message = f"set_num_threads: n is {n}, expected 1 to 1024"
    with pytest.raises(ValueError) as error:
        gossamer.set_num_threads(n)
    assert str(error.value) == message


def python(code: str, **environment: str) -> str:
    """Run code in a new interpreter, without the variables that name a number of threads."""
    names = {"GOSSAMER_NUM_THREADS", "OMP_NUM_THREADS"}
    clean = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GOSSAMER_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"GOSSAMER_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"GOSSAMER_NUM_THREADS": "many", "OMP_NUM_THREADS": "5"}, 5),
        ({"GOSSAMER_NUM_THREADS": "0"}, len(os.sched_getaffinity(0))),
        ({}, len(os.sched_getaffinity(0))),
    ],
)
def test_default_number_of_threads(environment: dict[str, str], expected: int) -> None:
    printed = python("import gossamer; print(gossamer.get_num_threads())", **environment)
    assert int(printed) == expected


FORK = """
import os, signal, threading
import numpy as np
import gossamer

rng = np.random.default_rng(0)
w = rng.standard_normal((400, 300)).astype(np.float32) * (rng.random((400, 300)) < 0.2)
b = rng.standard_normal((300, 32)).astype(np.float32)
a = gossamer.CSR.from_dense(w)
packed = gossamer.pack(a)
expected = [gossamer.spmm(a, b).tobytes(), gossamer.spmm(packed, b).tobytes()]

def right():
    return [gossamer.spmm(a, b).tobytes(), gossamer.spmm(packed, b).tobytes()] == expected

def fork():
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        ok = gossamer.get_num_threads() == 4 and right()
        gossamer.set_num_threads(2)
        os._exit(0 if ok and right() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def test_a_forked_child_computes() -> None:
    code = FORK + "print(fork(), right(), fork())"
    assert python(code, GOSSAMER_NUM_THREADS="4") == "0 True 0"


def test_fork_in_the_middle_of_a_product() -> None:
    code = (
        FORK
        + """
stop = threading.Event()
def compute():
    while not stop.is_set():
        gossamer.spmm(a, b)
busy = threading.Thread(target=compute)
busy.start()
codes = {fork() for _ in range(20)}
stop.set()
busy.join()
print(codes, right())
"""
    )
    assert python(code, GOSSAMER_NUM_THREADS="4") == "{0} True"
