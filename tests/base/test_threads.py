"""Threads: results are the same bits for any number of threads and callers, also after a fork."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gossamer
import numpy as np
import pytest
from gossamer import _core, prune
from gossamer.regrow import Random, csr_drop_grow_, drop_grow_, set_drop
from library import PATIENCE

M, K, N, D = 700, 500, 40, 24


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = gossamer.get_num_threads()
    yield
    gossamer.set_num_threads(before)


def products(dtype: str, scale: float = 1.0) -> dict[str, Callable[[], np.ndarray]]:
    """Return one call of each operation on random numbers, large enough for several threads.

    The numbers are about as large as scale.
    """
    rng = np.random.default_rng(7)

    def dense(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(dtype)

    # Skewed rows: the first hold most of the entries, so that a cut by rows would be a bad one.
    mask = rng.random((M, K)) < np.linspace(0.9, 0.01, M)[:, None] ** 2
    a = gossamer.CSR.from_dense(dense(M, K), mask)
    packed = gossamer.pack(a)
    b, bt, x, left, right = dense(K, N), dense(M, N), dense(N, K), dense(M, D), dense(K, D)
    w = dense(M, K)
    groups = gossamer.NM.from_dense(w, 2, 4, mask=gossamer.prune.nm_mask(np.abs(w), 2, 4))
    return {
        "spmm": lambda: gossamer.spmm(a, b),
        "spmv": lambda: gossamer.spmm(a, b[:, 0].copy()),
        "transposed": lambda: gossamer.spmm(a, bt, transpose_a=True),
        "transposed spmv": lambda: gossamer.spmm(a, bt[:, 0].copy(), transpose_a=True),
        "linear": lambda: gossamer.linear(x, a, activation="gelu"),
        "packed spmm": lambda: gossamer.spmm(packed, b),
        "packed spmv": lambda: gossamer.spmm(packed, b[:, 0].copy()),
        "packed transposed": lambda: gossamer.spmm(packed, bt, transpose_a=True),
        "packed linear": lambda: gossamer.linear(x, packed),
        "packed small linear": lambda: gossamer.linear(x[:3], packed),
        "sddmm": lambda: gossamer.sddmm(left, right, a),
        "csr_softmax": lambda: gossamer.csr_softmax(a).values,
        "csr_attention": lambda: gossamer.csr_attention(left, right, right, a)[0],
        "row_sum": lambda: gossamer.graph.row_sum(a),
        "dx": lambda: gossamer.linear_backward(bt.T.copy(), x, a)[0],
        "dvalues": lambda: gossamer.linear_backward(bt.T.copy(), x, a)[1],
        "dbias": lambda: gossamer.linear_backward(bt.T.copy(), x, a)[2],
        "N:M spmm": lambda: gossamer.spmm(groups, b),
        "N:M spmv": lambda: gossamer.spmm(groups, b[:, 0].copy()),
        "N:M transposed": lambda: gossamer.spmm(groups, bt, transpose_a=True),
        "N:M dvalues": lambda: gossamer.linear_backward(bt.T.copy(), x, groups)[1],
        "sparse_linear": lambda: gossamer.sparse_linear(x[:2], b, threshold=1.0),
        "gated_mlp": lambda: gossamer.gated_mlp(x[:1], w, w, w, threshold=5.0 * scale**2),
    }


def more(dtype: str, scale: float = 1.0) -> dict[str, Callable[[], Any]]:
    """Return calls of what a type or a format has of its own, as `products` does."""
    rng = np.random.default_rng(9)

    def dense(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(dtype)

    single, mask = dtype != "float64", rng.random((60, 64)) < 0.3
    rows = dense(60).astype(np.float32 if single else dtype)
    a, w = gossamer.CSR.from_dense(dense(60, 64), mask), dense(60, 64)
    square = gossamer.CSR.from_dense(dense(60, 60), mask[:, :60] | np.eye(60, dtype=bool))
    x, left, right, heads = dense(5, 64), dense(60, 16), dense(64, 16), dense(1, 64, 2, 16)
    kept = prune.nm_mask(w, 2, 4)
    nm = gossamer.NM.from_dense(w, 2, 4, mask=kept)
    quant = gossamer.GroupQuant.from_dense(w, mask=mask)
    packed = {n: gossamer.pack(a, n=n) for n in (1, 8, 64)}
    attended = gossamer.csr_attention(left, left, left, square)
    layout = gossamer.BlockLayout.from_mask(rng.random((2, 4, 4)) < 0.6, block=16)
    return {
        "NM.from_dense": lambda: gossamer.NM.from_dense(w, 2, 4, mask=kept),
        "NM.to_dense": nm.to_dense,
        "N:M linear": lambda: gossamer.linear(x, nm),
        "N:M linear of one": lambda: gossamer.linear(x[:1], nm),
        "N:M of columns": lambda: gossamer.spmm(nm.transpose(), left),
        "GroupQuant.from_dense": lambda: gossamer.GroupQuant.from_dense(w, mask=mask),
        "GroupQuant of 8 bits": lambda: gossamer.GroupQuant.from_dense(w, bits=8),
        "GroupQuant.to_dense": quant.to_dense,
        "GroupQuant linear": lambda: gossamer.linear(x, quant),
        "GroupQuant linear of one": lambda: gossamer.linear(x[:1], quant),
        "GroupQuant spmm": lambda: gossamer.spmm(quant, x.T.copy()),
        "GroupQuant transposed": lambda: gossamer.spmm(quant, left, transpose_a=True),
        **{f"packed for {n}": lambda p=p: gossamer.linear(x, p) for n, p in packed.items()},
        "Packed.to_dense": packed[8].to_dense,
        "csr_attention": lambda: gossamer.csr_attention(left, left, left, square),
        "csr_attention_backward": lambda: gossamer.csr_attention_backward(
            left, left, left, left, *attended, square
        ),
        "csr_softmax_backward": lambda: gossamer.csr_softmax_backward(a, a.values),
        "spmm_backward": lambda: gossamer.spmm_backward(left, a, right),
        **({"attention": lambda: gossamer.attention(*[heads] * 3, layout)} if single else {}),
        "row_max": lambda: gossamer.graph.row_max(a),
        "row_sum of a power": lambda: gossamer.graph.row_sum(a, power=0.5),
        "strength": lambda: gossamer.graph.strength(a, 1),
        "scale_rows_cols": lambda: gossamer.graph.scale_rows_cols(a, rows=rows),
        "sparse_linear": lambda: gossamer.sparse_linear(x, w.T.copy(), threshold=scale),
        "sddmm": lambda: gossamer.sddmm(left, left, square),
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


def pruning(scale: float = 1.0) -> dict[str, Callable[[], Any]]:
    """Return calls of everything else, on operands that all callers share.

    Operations that work in place write to a copy that each call makes. Weights and gradients are
    about as large as scale.
    """
    rng = np.random.default_rng(8)
    w = (rng.standard_normal((96, 128)) * scale).astype(np.float32)
    g = (rng.standard_normal(w.shape) * scale).astype(np.float32)
    x = rng.standard_normal((64, 128)).astype(np.float32)
    mask = rng.random(w.shape) < 0.2
    hessian = (x.T @ x + np.eye(128)).astype(np.float32)
    a, blocks = gossamer.CSR.from_dense(w, mask), gossamer.BSR.from_dense(w, 8, mask)
    scored, upper = prune.score(w, kind="snip", g=g), np.triu(np.abs(hessian) + 1)
    stats = prune.ColumnStats().add(x)
    top, up = prune.topk_rows(w, 16), np.ascontiguousarray(w.T)
    square = gossamer.CSR.from_dense((w[:, :96] + w[:, :96].T) * (mask[:, :96] & mask[:, :96].T))

    heads = x.reshape(1, 256, 4, 8)
    layout = gossamer.BlockLayout.from_mask(rng.random((4, 16, 16)) < 0.5, block=16)
    attended = gossamer.attention(heads, heads, heads, layout, causal=True)

    def regrown(growth: Any) -> Any:
        own = gossamer.CSR(a.indptr.copy(), a.indices.copy(), a.values.copy(), a.shape)
        return csr_drop_grow_(own, growth, 200, 200)

    def selected() -> Any:
        selection = prune.Selection(1000)
        while not selection.done:
            selection.narrow(selection.histogram(scored))
        return selection.emit(scored, ties_before=0)

    def in_place(function: Callable[..., object], *operands: Any) -> Any:
        own = w.copy()
        return function(own, *operands), own

    return {
        "CSR": lambda: gossamer.CSR(a.indptr, a.indices, a.values, a.shape),
        "CSR.from_dense": lambda: gossamer.CSR.from_dense(w, mask),
        "CSR.to_dense": a.to_dense,
        "CSR.transpose": a.transpose,
        "CSR.T": lambda: a.T,
        "pack": lambda: gossamer.spmm(gossamer.pack(a), x.T.copy()),
        "BSR.from_dense": lambda: gossamer.BSR.from_dense(w, 8, mask),
        "BSR.to_dense": blocks.to_dense,
        "BSR.transpose": blocks.transpose,
        "block spmm": lambda: gossamer.spmm(blocks, x.T.copy()),
        "block transposed": lambda: gossamer.spmm(blocks, w, transpose_a=True),
        "block linear": lambda: gossamer.linear(x, blocks),
        "block sddmm": lambda: gossamer.sddmm(w, hessian, blocks),
        "score": scored.array,
        "kth": lambda: prune.kth(scored, 1000),
        "topk_mask": lambda: prune.topk_mask(scored, 1000),
        "topk_mask of rows": lambda: prune.topk_mask(scored, 30, per="row"),
        "topk_mask of both": lambda: prune.topk_mask([w, scored], 1000),
        "Selection": selected,
        "random_mask": lambda: prune.random_mask(w, 1000, seed=3),
        "quantile": lambda: prune.quantile(w, 0.3),
        "histogram_quantile": lambda: prune.histogram_quantile([3, 1], [0, 1, 2], 0.75),
        "topk_rows": lambda: prune.topk_rows(w, 16),
        "count_nan": lambda: prune.count_nan(scored),
        "nm_mask": lambda: prune.nm_mask(scored, 2, 4),
        "nm_mask_transposable": lambda: prune.nm_mask_transposable(scored, 2, 4),
        "vnm_mask": lambda: prune.vnm_mask(scored, 16, 2, 8),
        "block_pool": lambda: prune.block_pool(scored, (8, 8)),
        "block_mask": lambda: prune.block_mask(scored, 40, (8, 8)),
        "expand_blocks": lambda: prune.expand_blocks(mask, (2, 2), (192, 256)),
        "permutation_search": lambda: prune.permutation_search(w[:, :32], 2, 4, escapes=5),
        "check_nm": lambda: prune.check_nm(mask, 2, 4),
        "ColumnStats": lambda: prune.ColumnStats().add(x).merge(stats).var,
        "obs_prune_": lambda: in_place(lambda own: prune.obs_prune_(own, hessian, nm=(2, 4))),
        "obs_block_": lambda: in_place(lambda own: prune.obs_block_(own, upper, k=2000)),
        "dsnot_rows_": lambda: prune.dsnot_rows_(mask.copy(), w, stats),
        "soft_threshold_": lambda: in_place(prune.soft_threshold_, 0.5),
        "group_soft_threshold_": lambda: in_place(prune.group_soft_threshold_, 3.0),
        "l0_project_": lambda: in_place(prune.l0_project_, 1000),
        "sef_prox_": lambda: in_place(prune.sef_prox_, 0.1, 2.0),
        "shrink_": lambda: in_place(prune.shrink_, mask),
        "srste_grad_": lambda: in_place(prune.srste_grad_, g, mask),
        "polarization": lambda: prune.polarization(w[0].copy()),
        "channel_threshold": lambda: prune.channel_threshold(x, x[0] ** 2, 1000),
        "cats_threshold": lambda: prune.cats_threshold(x, 1000),
        "cett_threshold": lambda: prune.cett_threshold(w, 0.2),
        "gather_decode": lambda: gossamer.gather_decode(top[1], top[0], hessian),
        "gather_decode_backward": lambda: gossamer.gather_decode_backward(w, *top[::-1], hessian),
        "topk_rows_backward": lambda: gossamer.topk_rows_backward(*top, 128),
        "delta_linear": lambda: gossamer.delta_linear(
            x, up, gossamer.DeltaState(), threshold=scale / 2
        ),
        "attention": lambda: gossamer.attention(heads, heads, heads, layout, causal=True),
        "attention_backward": lambda: gossamer.attention_backward(
            heads, heads, heads, heads, *attended, layout, causal=True
        ),
        "attention_decode": lambda: gossamer.attention_decode(
            heads[:, :1], heads, heads, np.array([0, 1], np.int32), np.array([0], np.int32)
        ),
        "merge_attention": lambda: gossamer.merge_attention([attended, attended]),
        "block_pool of keys": lambda: gossamer.block_pool(heads, 8),
        "block_topk": lambda: gossamer.block_topk(heads, heads, 5),
        "BlockLayout": lambda: gossamer.BlockLayout.from_csr(a, block=8).to_mask(elements=True),
        "strength": lambda: gossamer.graph.strength(a, 0),
        "edge_score": lambda: gossamer.graph.edge_score(square),
        "mean_same_pattern": lambda: prune.mean_same_pattern([a, a.with_values(-a.values)]),
        "coverage_or_": lambda: prune.coverage_or_(~mask, mask),
        "nnz_stats": lambda: prune.nnz_stats(a),
        "set_drop": lambda: set_drop(a.values, 100, 100),
        "drop_grow_": lambda: drop_grow_(mask.copy(), scored, np.abs(g), 200, 200),
        "csr_drop_grow_": lambda: regrown(np.abs(g)),
        "csr_drop_grow_ at random": lambda: regrown(Random(5)),
    }


def everything() -> dict[str, Callable[[], Any]]:
    return products("float32") | pruning()


def bits(result: Any) -> Any:
    """Return what a call gave, to be compared."""
    if isinstance(result, gossamer.NM):
        result = (result.values, result.indices)
    if isinstance(result, gossamer.GroupQuant):
        result = (result.codes, result.scales, result.zeros, result.indptr, result.indices)
    if isinstance(result, (gossamer.CSR, gossamer.BSR)):
        result = (result.indptr, result.indices, getattr(result, result._VALUES), result.shape)
    if isinstance(result, (list, tuple)):
        return [bits(part) for part in result]
    return result.tobytes() if isinstance(result, np.ndarray) else result


def test_eight_callers_at_once_get_their_own_results() -> None:
    gossamer.set_num_threads(1)
    serial = {name: bits(call()) for name, call in everything().items()}
    calls = everything()  # new formats: all callers now need what a format makes on first use
    start, done = threading.Barrier(8), threading.Event()

    def work(thread: int) -> list[str]:
        start.wait()
        names = list(calls)
        first = thread * len(names) // 16
        order = names[first:] + names[:first]
        return [name for name in order if bits(calls[name]()) != serial[name]]

    def change() -> None:
        n = 0
        while not done.wait(0.001):
            gossamer.set_num_threads(1 + n % 4)
            n += 1

    with ThreadPoolExecutor(9) as pool:
        pool.submit(change)
        try:
            wrong = list(pool.map(work, range(8)))
        finally:
            done.set()
    assert wrong == [[]] * 8


class Floats:
    """The floating-point environment of the calling thread, as a C library sees it."""

    #: The place of the control word in fenv_t, the word as processes start with it, the bits that
    #: flush subnormal numbers to zero, and those that round upwards. The rest are flags.
    WORD, START, FLUSH, UPWARD = {
        "x86_64": (7, 0x1F80, 0x8040, 0x4000),
        "aarch64": (0, 0, 1 << 24, 1 << 22),
    }.get(platform.machine(), (0, 0, 0, 0))

    def __init__(self) -> None:
        self.math = ctypes.CDLL(ctypes.util.find_library("m"))

    def get(self) -> int:
        environment = (ctypes.c_uint32 * 16)()
        self.math.fegetenv(environment)
        return environment[self.WORD] & (self.START | self.FLUSH | self.UPWARD)

    def set(self, word: int) -> None:
        environment = (ctypes.c_uint32 * 16)()
        self.math.fegetenv(environment)
        environment[self.WORD] = word
        self.math.fesetenv(environment)

    @contextmanager
    def changed(self, bits: int) -> Iterator[None]:
        """Set bits while the body runs, and check that the body has left them as they were."""
        self.set(self.START | bits)
        try:
            yield
            after = self.get()
        finally:
            self.set(self.START)
        assert after == self.START | bits


#: Numbers that are flushed to zero where the caller has asked for it.
SUBNORMAL = {"float32": 1e-41, "float64": 1e-311, "float16": 3e-6}
#: Calls that compute a part in NumPy or Python, which round as the caller wants.
PYTHON_ROUNDS = {"quantile", "ColumnStats", "obs_prune_", "channel_threshold", "cett_threshold"}


@pytest.mark.skipif(Floats.WORD + Floats.FLUSH == 0, reason="needs a known fenv_t")
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("mode", ["flush", "flush subnormal", "upward"])
def test_floating_point_environment_of_the_caller_changes_no_bit(mode: str, threads: int) -> None:
    floats = Floats()
    gossamer.set_num_threads(threads)
    small = mode == "flush subnormal"
    size = SUBNORMAL["float32"] if small else 1.0
    calls = products("float32", size) | pruning(size)
    for dtype, scale in SUBNORMAL.items():
        own = more(dtype, scale if small else 1.0)
        calls |= {f"{name} of {dtype}": call for name, call in own.items()}
    for name, call in calls.items():
        expected = bits(call())
        if mode == "upward" and name in PYTHON_ROUNDS:
            continue
        with floats.changed(floats.UPWARD if mode == "upward" else floats.FLUSH):
            result = call()
        assert bits(result) == expected, name


@pytest.mark.skipif(Floats.WORD + Floats.FLUSH == 0, reason="needs a known fenv_t")
def test_floating_point_environment_is_restored_after_an_error() -> None:
    floats = Floats()
    w = np.ones((3, 3), np.float32)
    w[0, 0] = np.nan
    with floats.changed(floats.FLUSH), pytest.raises(ValueError, match="NaN"):
        prune.topk_mask(w, 3, nan="error")


def test_workers_do_not_inherit_the_environment_of_the_thread_that_started_them() -> None:
    code = """
import numpy as np
from test_threads import Floats
import gossamer
floats = Floats()
gossamer.set_num_threads(1)
a = gossamer.CSR.from_dense(np.ones((1000, 1000), np.float32))
b = np.full((1000, 64), 1e-43, np.float32)
expected = gossamer.spmm(a, b).tobytes()
gossamer.set_num_threads(4)
with floats.changed(floats.FLUSH):
    gossamer.spmm(a, b)
for _ in range(20):
    assert gossamer.spmm(a, b).tobytes() == expected
"""
    assert interpreter(code, PYTHONPATH=os.pathsep.join(sys.path)).returncode == 0


@pytest.mark.parametrize("n", [0, -1, 1025])
def test_impossible_number_of_threads_is_refused(n: int) -> None:
    message = f"set_num_threads: n is {n}, expected 1 to 1024"
    with pytest.raises(ValueError) as error:
        gossamer.set_num_threads(n)
    assert str(error.value) == message


RACE = """
import threading
import numpy as np
import gossamer

a = gossamer.CSR.from_dense(np.ones((400, 300), np.float32))
b, out = np.ones((300, 32), np.float32), np.empty((400, 32), np.float32)
start = threading.Barrier(2)

def work():
    start.wait()
    for _ in range(5):
        gossamer.spmm(a, b, out=out)

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.skipif(
    os.environ.get("GOSSAMER_SANITIZE") != "thread", reason="needs the thread sanitizer"
)
def test_sanitizer_sees_two_callers_write_one_array() -> None:
    done = interpreter(RACE)
    assert done.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert "spmm" in done.stderr


def interpreter(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, without the variables that name a number of threads."""
    names = {"GOSSAMER_NUM_THREADS", "OMP_NUM_THREADS"}
    clean = {key: value for key, value in os.environ.items() if key not in names}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def python(code: str, *arguments: str, **environment: str) -> str:
    """Run code in a new interpreter and return what it printed."""
    done = interpreter(code, *arguments, **environment)
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
        ({"GOSSAMER_NUM_THREADS": "0"}, _core.processors()),
        ({}, _core.processors()),
    ],
)
def test_default_number_of_threads(environment: dict[str, str], expected: int) -> None:
    printed = python("import gossamer; print(gossamer.get_num_threads())", **environment)
    assert int(printed) == expected


#: By version and place: the lines of /proc/self/cgroup, the files below /sys/fs/cgroup, processors.
QUOTAS = {
    "none": ([], {}, 0),
    "2, of a container": (["0::/"], {"cpu.max": "250000 100000"}, 2),
    "2, without a limit": (["0::/"], {"cpu.max": "max 100000"}, 0),
    "2, less than one": (["0::/"], {"cpu.max": "20000 100000"}, 1),
    "2, of the group above": (
        ["0::/slice/job"],
        {"slice/job/cpu.max": "800000 100000", "slice/cpu.max": "300000 100000"},
        3,
    ),
    "1": (
        ["4:memory:/box", "3:cpu,cpuacct:/box", "0::/"],
        {
            "cpu,cpuacct/box/cpu.cfs_quota_us": "400000",
            "cpu,cpuacct/box/cpu.cfs_period_us": "100000",
        },
        4,
    ),
    "1, the path is the host's": (
        ["1:cpu:/docker/0123"],
        {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"},
        5,
    ),
    "1, without a limit": (
        ["1:cpu:/"],
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        0,
    ),
    "1, of another controller": (
        ["1:cpuset:/"],
        {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"},
        0,
    ),
    "nonsense": (["", "0", "0:", "0::", ":::::"], {"cpu.max": "much 0"}, 0),
    "no period": (["0::/"], {"cpu.max": "100000 0"}, 0),
    "absurd": (["0::/"], {"cpu.max": "1e300 1"}, 1_000_000),
}


@pytest.mark.once
@pytest.mark.parametrize("name", QUOTAS)
def test_processors_of_a_control_groups_quota(name: str, tmp_path: Path) -> None:
    lines, files, expected = QUOTAS[name]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))
    for place, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert _core.processors_of_quota(str(tmp_path)) == expected


@pytest.mark.once
def test_processors_without_control_groups(tmp_path: Path) -> None:
    assert _core.processors_of_quota(str(tmp_path)) == 0
    assert 1 <= _core.processors() <= (os.cpu_count() or 1)


MANY = """
import sys
import numpy as np
import gossamer
from gossamer import prune

rng = np.random.default_rng(0)
mask = rng.random((300, 200)) < 0.1
a = gossamer.CSR.from_dense(np.where(mask, rng.integers(-4, 5, mask.shape), 0).astype(np.float32))
b = rng.integers(-4, 5, (200, 64)).astype(np.float32)
scores = rng.standard_normal(300_000).astype(np.float32)
gossamer.set_num_threads(1)
product, few, chosen = gossamer.spmm(a, b), gossamer.spmm(a, b[:, :8]), prune.topk_mask(scores, 999)
for threads in (3, 200, 2, 1024, 17):
    gossamer.set_num_threads(threads)
    # Jobs that take a few workers between those that take all.
    for _ in range(30):
        assert (gossamer.spmm(a, b) == product).all()
        assert (gossamer.spmm(a, b[:, :8]) == few).all()
        assert (prune.topk_mask(scores, 999) == chosen).all()
print("same")
"""


def test_many_more_threads_than_processors() -> None:
    assert python(MANY) == "same"


SMALL_STACKS = """
import sys, threading
sys.path[:0] = sys.argv[1:]
import numpy as np
from test_threads import everything
from gossamer import prune

calls = everything()
calls["wide groups"] = lambda: prune.nm_mask_transposable(np.arange(4096.0).reshape(64, 64), 8, 32)
# Their factorisation is NumPy's, whose own stack is larger than that.
names = [name for name in calls if not name.startswith("obs_prune_")]
for call in calls.values():
    call()
threading.stack_size(112 * 1024)
for name in names:
    thread = threading.Thread(target=calls[name])
    thread.start()
    thread.join()
print("done")
"""


@pytest.mark.once  # a sanitizer's frames are larger
def test_threads_with_small_stacks_compute() -> None:
    tests = os.path.dirname(__file__)
    assert python(SMALL_STACKS, tests, os.path.dirname(tests)) == "done"


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
        signal.alarm(600)
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


def test_fork_during_the_first_transposed_product() -> None:
    code = """
import os, signal, threading, time
import numpy as np
import gossamer

a = gossamer.CSR.from_dense(np.ones((2000, 1500), np.float32))
b = np.ones((2000, 2), np.float32)
codes = set()
for i in range(6):
    packed = gossamer.pack(a)
    other = threading.Thread(target=lambda: gossamer.spmm(packed, b, transpose_a=True))
    other.start()
    time.sleep(0.002 * i)
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        os._exit(0 if (gossamer.spmm(packed, b, transpose_a=True) == 2000).all() else 1)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    other.join()
print(codes)
"""
    assert python(code, GOSSAMER_NUM_THREADS="4") == "{0}"


LIMITED = """
import os, resource, sys, threading, time
import numpy as np
import gossamer

gossamer.set_num_threads(1)
a = gossamer.CSR.from_dense(np.ones((400, 300), np.float32))
b, out = np.ones((300, 64), np.float32), np.empty((400, 64), np.float32)
gossamer.spmm(a, b, out=out)  # what a first call needs is there

def threads():
    return len(os.listdir("/proc/self/task"))

def limit(kind, soft):
    resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))

def right():
    out[:] = 0
    try:
        gossamer.spmm(a, b, out=out)
    except MemoryError:
        return kind == resource.RLIMIT_AS
    return gossamer.get_num_threads() == 8 and (out == 300).all()

before = threads()
kind = getattr(resource, sys.argv[1])
was = resource.getrlimit(kind)[0]
if kind == resource.RLIMIT_NPROC:
    if os.geteuid() == 0:  # whom the limit does not bind: become a user that has no process yet
        os.setuid(20_000 + os.getpid() % 40_000)
    limit(kind, before + int(sys.argv[2]))
else:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    # A worker has 1 MiB of stack.
    limit(kind, pages * resource.getpagesize() + int(sys.argv[2]) * 1_200_000 + 500_000)

gossamer.set_num_threads(8)
assert all(right() for _ in range(50))
limited = threads() - before
limit(kind, was)
time.sleep(1.2)  # the system is asked again after a second
assert all(right() for _ in range(50))
print(limited, threads() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the limits of Linux")
@pytest.mark.skipif("GOSSAMER_SANITIZE" in os.environ, reason="a sanitizer needs memory of its own")
@pytest.mark.parametrize("kind", ["RLIMIT_NPROC", "RLIMIT_AS"])
@pytest.mark.parametrize("room", [0, 2])
def test_as_many_workers_as_the_system_grants(kind: str, room: int) -> None:
    done = interpreter(LIMITED, kind, str(room), OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    limited, free = map(int, done.stdout.split())
    assert limited <= room
    if kind == "RLIMIT_NPROC" and os.geteuid() == 0:
        assert limited == room
    assert free == 7


SIGNALS = """
import os, signal
import numpy as np
import gossamer

def threads():
    return {int(t) for t in os.listdir("/proc/self/task")}

others = threads()
gossamer.set_num_threads(4)
gossamer.CSR.from_dense(np.ones((1000, 1000), np.float32))
workers = threads() - others
assert len(workers) == 3
faults = {"SEGV", "BUS", "FPE", "ILL", "TRAP", "SYS"}
wanted = signal.valid_signals() - {getattr(signal, "SIG" + n) for n in (*faults, "KILL", "STOP")}
for worker in workers:
    with open(f"/proc/self/task/{worker}/status") as file:
        (line,) = (line for line in file if line.startswith("SigBlk"))
    blocked = int(line.split()[1], 16)
    assert all(blocked >> (s - 1) & 1 for s in wanted), line

usual = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM, signal.SIGRTMIN]
signal.pthread_sigmask(signal.SIG_BLOCK, usual)
for number in usual:
    os.kill(os.getpid(), number)
    assert signal.sigtimedwait([number], 10).si_signo == number
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(
    "thread" in os.environ.get("GOSSAMER_SANITIZE", ""), reason="the sanitizer starts a thread"
)
def test_workers_block_the_signals_of_the_program() -> None:
    done = interpreter(SIGNALS, OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr


INTERRUPT = """
import os, signal, sys, threading, time
import numpy as np
import gossamer

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
gossamer.set_num_threads(int(sys.argv[2]))
x = np.random.default_rng(0).random((64, int(sys.argv[1])))
for _ in range(10):  # a busy machine may be late once
    sent = []
    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    threading.Timer(0.3, interrupt).start()
    try:
        gossamer.prune.permutation_search(x, 2, 4, escapes=2**40)  # for days
    except KeyboardInterrupt:
        wait = time.monotonic() - sent[0]
    # The pool works on.
    a = gossamer.CSR.from_dense(np.ones((400, 300), np.float32))
    assert (gossamer.spmm(a, np.ones((300, 64), np.float32)) == 300).all()
    if wait < 1:
        break
print(wait)
"""


@pytest.mark.alone
@pytest.mark.parametrize("columns", [256, 2048])  # 2048 are searched in parts, one a task
@pytest.mark.parametrize("threads", [1, 4])
def test_ctrl_c_ends_a_long_operation(columns: int, threads: int) -> None:
    done = interpreter(INTERRUPT, str(columns), str(threads))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.2])  # before and after the first look
def test_a_handler_ends_the_first_operation_of_a_process(seconds: float) -> None:
    code = """
import signal, sys
import numpy as np
import gossamer

class Enough(Exception):
    pass
def handle(number, frame):
    raise Enough
signal.signal(signal.SIGALRM, handle)
x = np.ones((64, 64))
try:
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
    gossamer.prune.permutation_search(x, 2, 4, escapes=2**40)  # for days
except Enough:
    print("ended")
"""
    assert python(code, str(seconds)) == "ended"


def test_handlers_run_during_an_operation_and_may_call_others() -> None:
    code = """
import signal
import numpy as np
import gossamer

a = gossamer.CSR.from_dense(np.ones((400, 300), np.float32))
results = []
class Enough(Exception):
    pass
def handle(number, frame):
    results.append(gossamer.spmm(a, np.ones((300, 64), np.float32)))
    if len(results) >= 3:  # a slow machine may run it within itself
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Enough
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
try:
    gossamer.prune.permutation_search(np.ones((64, 64)), 2, 4, escapes=2**40)
except Enough:
    print(all((c == 300).all() for c in results))
"""
    assert python(code, GOSSAMER_NUM_THREADS="4") == "True"


ENDING = """
import sys, threading, time
import numpy as np
import gossamer

class Producer:
    # Its export runs Python code: there, too, a thread gives the interpreter lock away.

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        for _ in range(5000):
            pass
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

rows, threads, wrap = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "producer"
a = gossamer.CSR.from_dense(np.eye(rows, dtype=np.float32))
b = np.ones((rows, 64), np.float32)
x = Producer(b) if wrap else b

def work():
    out = np.empty((rows, 64), np.float32)
    while True:
        gossamer.spmm(a, x, out=out)
        gossamer.prune.topk_mask(b, 100)
        gossamer.CSR.from_dense(b)

for _ in range(threads):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
"""


@pytest.mark.parametrize(
    "case", [("5000", "1", "array"), ("20", "3", "array"), ("20", "3", "producer")]
)
def test_the_process_ends_while_a_daemon_thread_computes(case: tuple[str, ...]) -> None:
    for _ in range(5):
        done = interpreter(ENDING, *case)
        assert done.returncode == 0, done.stderr


AGAIN = """
import signal, sys, threading, time
import numpy as np
import gossamer

gossamer.set_num_threads(2)
a = gossamer.pack(gossamer.CSR.from_dense(np.ones((int(sys.argv[1]), 3000), np.float32)))
b = np.ones((a.shape[0], 2), np.float32)
results = []
def handle(number, frame):
    signal.setitimer(signal.ITIMER_REAL, 0)
    results.append(gossamer.spmm(a, b, transpose_a=True))
signal.signal(signal.SIGALRM, handle)
other = threading.Thread(target=lambda: results.append(gossamer.spmm(a, b, transpose_a=True)))
if sys.argv[2] == "other":
    other.start()
    time.sleep(0.05)
signal.setitimer(signal.ITIMER_REAL, 0.01)
results.append(gossamer.spmm(a, b, transpose_a=True))
if sys.argv[2] == "other":
    other.join()
assert all((c == a.shape[0]).all() for c in results)
print(len(results))
"""


@pytest.mark.parametrize("first", ["own", "other"])
def test_a_handler_may_ask_for_the_transpose_that_is_being_packed(first: str) -> None:
    # So large that the packing is interrupted, on any machine.
    printed = python(AGAIN, "6000", first)
    assert int(printed) == (2 if first == "own" else 3)


BUSY = """
import threading
import numpy as np
import gossamer

gossamer.set_num_threads(1)
a = gossamer.pack(gossamer.CSR.from_dense(np.ones((6000, 3000), np.float32)))
b = np.ones((6000, 2), np.float32)
other = threading.Thread(target=lambda: gossamer.spmm(a, b, transpose_a=True))
other.start()
told = 0
while other.is_alive():
    a.nbytes, a.layouts, repr(a)
    told += 1
print(told)
"""


def test_a_matrix_that_is_being_packed_tells_its_size() -> None:
    # Were the lock of the packing waited for, once or twice would be all.
    assert int(python(BUSY)) > 20


SPREAD = """
import os, threading, time
import numpy as np
import gossamer

def threads():
    return {int(t) for t in os.listdir("/proc/self/task")}

def processor(thread):
    with open(f"/proc/self/task/{thread}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[36])

others = threads()
gossamer.set_num_threads(2)
a = gossamer.CSR.from_dense(np.eye(600, dtype=np.float32))
b = np.ones((600, 256), np.float32)
gossamer.spmm(a, b)
(worker,) = threads() - others
allowed = os.sched_getaffinity(0)
apart = 0
for _ in range(20):
    for thread in (threading.get_native_id(), worker):
        os.sched_setaffinity(thread, {min(allowed)})
    for thread in (threading.get_native_id(), worker):
        os.sched_setaffinity(thread, allowed)
    end = time.monotonic() + 0.02
    while time.monotonic() < end:
        gossamer.spmm(a, b)
    apart += processor(worker) != processor(threading.get_native_id())
# For an instant, while it goes, a worker may not run everywhere.
while os.sched_getaffinity(worker) != allowed:
    time.sleep(0.001)
print(apart)
"""


@pytest.mark.alone
@pytest.mark.once
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors, and a system that tells which",
)
def test_a_worker_leaves_the_processor_of_its_caller() -> None:
    # What else the machine does may keep them together for a while.
    assert any(int(python(SPREAD)) >= 10 for _ in range(5))


WOKEN = """
import os, time
import numpy as np
import gossamer

def threads():
    return {int(t) for t in os.listdir("/proc/self/task")}

def ticks(thread):
    with open(f"/proc/self/task/{thread}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))

others = threads()
gossamer.set_num_threads(2)
a = gossamer.CSR.from_dense(np.ones((1000, 1000), dtype=np.float32))
b = np.ones((1000, 128), np.float32)
gossamer.spmm(a, b)
(worker,) = threads() - others
before, begun = ticks(worker), time.thread_time()
while time.thread_time() - begun < 0.5:
    gossamer.spmm(a, b)
    time.sleep(0.002)  # longer than a worker stays awake without work
print((ticks(worker) - before) / os.sysconf("SC_CLK_TCK"))
"""


@pytest.mark.alone
@pytest.mark.once
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs the times of threads")
@pytest.mark.skipif("GOSSAMER_SANITIZE" in os.environ, reason="its own threads are counted")
def test_a_worker_that_sleeps_is_woken() -> None:
    # The caller works for half a second, and so does a worker that is woken each time.
    assert any(float(python(WOKEN)) > 0.1 for _ in range(5))


@pytest.mark.once
@pytest.mark.skipif("GOSSAMER_SANITIZE" in os.environ, reason="NumPy is loaded in a way of its own")
def test_a_sub_interpreter_is_refused_and_does_not_hang() -> None:
    names = ("_interpreters", "_xxsubinterpreters")  # from Python 3.13 on, and before
    library = next((name for name in names if importlib.util.find_spec(name)), None)
    if library is None:
        pytest.skip("this Python has no sub-interpreters")
    said = python(
        f"import {library} as interpreters\n"
        "other = interpreters.create()\n"
        "try: print(interpreters.run_string(other, 'import gossamer'))\n"
        "except Exception as error: print(error)"
    )
    assert "gossamer: imported in a sub-interpreter, expected the main" in said
