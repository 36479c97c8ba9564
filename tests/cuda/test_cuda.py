"""Arrays on a GPU: streams, results, checks, errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import Device, EmulatedArray, emulated_framework
from gossamer import _backend, _core, _interop, prune
from library import PATIENCE, ROOT, run, tool
from producer import CUDA, Producer

pytestmark = pytest.mark.gpu

DENSE = np.array([[1, 0, 2], [0, 3, 0]], np.float32)
B = np.arange(12, dtype=np.float32).reshape(3, 4)


class Foreign(EmulatedArray):
    """An array of another framework, whose current stream is another one."""

    stream = 9


def foreign(device: Device, array: np.ndarray) -> Foreign:
    made = device.put(array)
    return Foreign(made.view, made.owner)


def test_facts() -> None:
    facts = gossamer.info()["cuda"]
    assert set(facts) == {"built", "available", "devices"}
    assert facts["available"] == (facts["devices"] > 0)
    assert facts["built"] or not facts["available"]


def test_the_extension_needs_no_gpu_to_be_imported() -> None:
    if not gossamer.info()["cuda"]["built"]:
        pytest.skip("this build of gossamer has no CUDA backend")
    code = "import gossamer; print(gossamer.info()['cuda']['devices'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "0"


def test_the_extension_needs_no_library_of_cuda() -> None:
    """CUDA's runtime is linked statically; the driver is loaded when a device is used."""
    if not gossamer.info()["cuda"]["built"]:
        pytest.skip("this build of gossamer has no CUDA backend")
    path = _backend._load().__file__
    needed = [line for line in run(tool("readelf"), "-d", path).splitlines() if "NEEDED" in line]
    assert needed
    assert not [line for line in needed if re.search(r"libcuda", line)]


def test_the_extension_is_not_loaded_before_an_array_of_a_gpu() -> None:
    code = (
        "import sys, gossamer, numpy as np; gossamer.CSR.from_dense(np.eye(2)).to_dense(); "
        "print('gossamer._cuda' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_results_are_the_callers_own(gpu: Device) -> None:
    a, b = gpu.csr(DENSE), gpu.put(B)
    assert a.device == "cuda:0"
    result = gossamer.spmm(a, b)
    assert type(result) is type(b)
    np.testing.assert_array_equal(gpu.get(result), DENSE @ B)
    out = gpu.put(np.zeros((2, 4), np.float32))
    assert gossamer.spmm(a, b, out=out) is out
    np.testing.assert_array_equal(gpu.get(out), DENSE @ B)


def test_conversions_stay_on_the_gpu(gpu: Device) -> None:
    a = gossamer.CSR.from_dense(gpu.put(DENSE))
    assert a.device == "cuda:0"
    np.testing.assert_array_equal(gpu.get(a.to_dense()), DENSE)
    t, permutation = a.transpose()
    np.testing.assert_array_equal(gpu.get(t.to_dense()), DENSE.T)
    np.testing.assert_array_equal(gpu.get(a.values)[gpu.get(permutation)], gpu.get(t.values))
    np.testing.assert_array_equal(gpu.get(a.T.to_dense()), DENSE.T)


def test_int64_indices_are_narrowed_on_the_gpu(gpu: Device) -> None:
    a = gossamer.CSR.from_dense(DENSE)
    indptr, indices = (gpu.put(np.asarray(x).astype(np.int64)) for x in (a.indptr, a.indices))
    narrow = gossamer.CSR(indptr, indices, gpu.put(a.values), a.shape)
    assert narrow.index_dtype == "int32"
    np.testing.assert_array_equal(gpu.get(gossamer.spmm(narrow, gpu.put(B))), DENSE @ B)
    wide = gossamer.CSR(indptr, indices, gpu.put(a.values), a.shape, index_dtype="int64")
    message = r"^spmm: a\.\w+ is int64, expected int32"
    with pytest.raises((NotImplementedError, TypeError), match=message):
        gossamer.spmm(wide, gpu.put(B))


def test_work_is_queued_on_the_callers_stream(emulated: Device) -> None:
    a, b = emulated.csr(DENSE), emulated.put(B)
    gossamer.spmm(a, b)
    assert b.streams == [-1], "its framework has ordered its own stream already"


def test_arrays_of_another_framework_wait_for_the_stream_of_the_result(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_interop._by_type, Foreign, emulated_framework(Foreign))
    a, b = emulated.csr(DENSE), emulated.put(B)
    bias, out = foreign(emulated, np.ones(2, np.float32)), foreign(emulated, np.zeros((2, 4), "f4"))
    assert gossamer.spmm(a, b, bias=bias, out=out) is out
    assert bias.streams == [EmulatedArray.stream]
    assert out.streams == [EmulatedArray.stream]
    np.testing.assert_array_equal(out.view, DENSE @ B + 1)


def test_frameworks_without_streams_get_finished_results(emulated: Device) -> None:
    a, made = emulated.csr(DENSE), emulated.put(B)
    result = gossamer.spmm(a, Producer(made.view, device=(CUDA, 0)))
    assert type(result) is _core.Tensor
    assert result.__dlpack_device__() == (CUDA, 0)
    assert result.shape == (2, 4)
    with pytest.raises(BufferError, match="the tensor is on cuda:0"):
        result.__dlpack__(dl_device=(1, 0))


def bad_matrix(device: Device, check: bool | None) -> gossamer.CSR:
    indptr, indices = np.array([0, 2, 3], np.int32), np.array([2, 0, 1], np.int32)
    arrays = (device.put(x) for x in (indptr, indices, np.ones(3, np.float32)))
    return gossamer.CSR(*arrays, (2, 3), check=check)


def test_structure_is_trusted_on_a_gpu_and_checked_on_request(gpu: Device) -> None:
    assert bad_matrix(gpu, None).nnz == 3
    assert bad_matrix(gpu, False).nnz == 3
    message = re.escape("CSR: indices[1] is 0, expected more than indices[0] = 2 in row 0")
    with pytest.raises(ValueError, match=f"^{message}$"):
        bad_matrix(gpu, True)


def calls(device: Device) -> list[tuple[Any, str]]:
    a, b = gossamer.CSR.from_dense(DENSE), device.put(B)
    there = device.csr(DENSE)
    ones = np.ones(2, np.float32)
    return [
        (lambda: gossamer.spmm(a, b), "spmm: b is on cuda:0, expected a's device cpu"),
        (lambda: gossamer.spmm(there, B), "spmm: b is on cpu, expected a's device cuda:0"),
        (
            lambda: gossamer.linear(np.ones((2, 3), np.float32), there),
            "linear: x is on cpu, expected w's device cuda:0",
        ),
        (
            lambda: gossamer.sddmm(DENSE, DENSE, there),
            "sddmm: a is on cpu, expected pattern's device cuda:0",
        ),
        (
            lambda: gossamer.spmm(there, b, bias=ones),
            "spmm: bias is on cpu, expected a's device cuda:0",
        ),
        (
            lambda: gossamer.spmm(there, b, out=np.zeros((2, 4), np.float32)),
            "spmm: out is on cpu, expected a's device cuda:0",
        ),
        (
            lambda: gossamer.spmm(there, device.put(np.ones((4, 2), np.float32))),
            "spmm: b.shape[0] is 4, expected a.shape[1] = 3",
        ),
        (
            lambda: gossamer.CSR(there.indptr, there.indices, ones, (2, 3)),
            "CSR: values is on cpu, expected indptr's device cuda:0",
        ),
    ]


@pytest.mark.parametrize("case", range(8))
def test_devices_are_not_mixed(gpu: Device, case: int) -> None:
    call, message = calls(gpu)[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_two_gpus_are_two_devices(emulated: Device) -> None:
    a = emulated.csr(DENSE)
    other = emulated.put(B)
    elsewhere = EmulatedArray(other.view, other.owner, index=1)
    with pytest.raises(ValueError, match=r"^spmm: b is on cuda:1, expected a's device cuda:0$"):
        gossamer.spmm(a, elsewhere)


#: Calls that only the CPU has kernels for, by the operand that says where they would run.
LAYOUT = gossamer.BlockLayout.from_mask(np.ones((1, 1, 1), bool), block=8)
ON_THE_CPU: dict[str, Callable[[gossamer.CSR, Any, Any], object]] = {
    "attention_workspace: q": lambda a, x, m: gossamer.attention_workspace(x, x, x, LAYOUT),
}


@pytest.mark.parametrize("operand", ON_THE_CPU)
def test_what_has_no_kernel_says_so(gpu: Device, operand: str) -> None:
    x, mask = gpu.put(B), gpu.put(B > 2)
    message = f"{operand} is on cuda:0, which this backend has no kernels for"
    with pytest.raises(NotImplementedError, match=f"^{re.escape(message)}$"):
        ON_THE_CPU[operand](gpu.csr(DENSE), x, mask)


def test_a_second_operand_on_another_device_is_refused(gpu: Device) -> None:
    message = "topk_mask: within is on cuda:0, expected score's device cpu"
    with pytest.raises(ValueError, match=f"^{message}$"):
        prune.topk_mask(B, 1, within=gpu.put(B > 2))


def test_a_failed_call_of_the_runtime_is_a_cuda_error(emulated: Device) -> None:
    assert issubclass(gossamer.CudaError, RuntimeError)
    made = emulated.put(B)
    there = EmulatedArray(made.view, made.owner, index=77)
    with pytest.raises(gossamer.CudaError, match=r"^cudaSetDevice: cudaErrorInvalidDevice$"):
        gossamer.CSR.from_dense(there)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (3, 31), (5, 33), (70, 129)], ids=str)
def test_conversions_give_the_bits_that_the_cpu_gives(
    gpu: Device, shape: tuple[int, int], dtype: type, masked: bool
) -> None:
    w = oracle.random_sparse(shape, 0.3, dtype, seed=1)
    mask = np.random.default_rng(2).random(shape) < 0.4 if masked else None
    want = gossamer.CSR.from_dense(w, mask)
    a = gossamer.CSR.from_dense(gpu.put(w), None if mask is None else gpu.put(mask))
    turned, order = want.transpose()
    t, permutation = a.transpose()
    pairs = [
        *((getattr(a, x), getattr(want, x)) for x in ("indptr", "indices", "values")),
        *((getattr(t, x), getattr(turned, x)) for x in ("indptr", "indices", "values")),
        (permutation, order),
        (a.to_dense(), want.to_dense()),
    ]
    for got, expected in pairs:
        assert gpu.get(got).dtype == expected.dtype
        assert gpu.get(got).tobytes() == np.ascontiguousarray(expected).tobytes()


def test_a_process_whose_gpu_is_lost_makes_room_for_another(tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="needs pytest-xdist")
    tests = tmp_path / "test_lost.py"
    tests.write_text(
        """
import sys, types

def lose():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def test_kernel_that_fails():
    cuda = types.SimpleNamespace(is_initialized=lambda: True, synchronize=lose)
    sys.modules["torch"] = types.SimpleNamespace(cuda=cuda)
    assert False

def test_after_it():
    assert not hasattr(sys.modules.get("torch"), "cuda")
"""
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "conftest", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", tmp_path, tests],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout
    assert "FAILED" in done.stdout
