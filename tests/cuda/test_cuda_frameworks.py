"""Arrays of PyTorch, CuPy and JAX on a GPU: their stream, their memory, their type.

The adapters of gossamer._interop are run on stand-ins for the frameworks, over the emulated GPU; on
a machine with a GPU the frameworks themselves are used too.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from cuda_trace import ILLEGAL_ADDRESS, Trace
from device import BF16, Device, EmulatedArray
from gossamer import _backend
from gpu_fakes import STREAM_OF_JAX, Fake, fake_framework

pytestmark = pytest.mark.gpu

W = np.asarray(oracle.random_sparse((40, 300), 0.1, np.float32, seed=1, integers=True))
B = np.asarray(oracle.random_dense((300, 24), np.float32, seed=2, integers=True))
FAKES = ["torch", "cupy", "jax"]
WITH_STREAMS = FAKES[:2]
DTYPES = {
    "torch": [np.dtype("f4"), np.dtype("f2"), np.dtype("f8"), BF16],
    "cupy": [np.dtype("f4"), np.dtype("f2"), np.dtype("f8")],
    "jax": [np.dtype("f4"), np.dtype("f2"), np.dtype("f8"), BF16],
}


@pytest.fixture
def trace(emulated: Device) -> Trace:
    return Trace()


@pytest.fixture
def fake(request: pytest.FixtureRequest, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return fake_framework(request.param, trace, monkeypatch)


def fakes(*names: str) -> Any:
    return pytest.mark.parametrize("fake", names, indirect=True)


def csr(fake: Fake, dense: np.ndarray, index: int = 0) -> gossamer.CSR:
    a = gossamer.CSR.from_dense(dense)
    return gossamer.CSR(*(fake.put(x, index) for x in (a.indptr, a.indices, a.values)), a.shape)


@fakes(*FAKES)
def test_every_operation_gives_arrays_of_the_callers_framework(fake: Fake) -> None:
    for dtype in DTYPES[fake.name]:
        dense, x = W.astype(dtype), np.ascontiguousarray(B.T).astype(dtype)
        a, b = csr(fake, dense), fake.put(B.astype(dtype))
        ones, square = np.ones_like(W), np.eye(300).astype(dtype)
        made = gossamer.CSR.from_dense(fake.put(dense), fake.put(W != 0))
        turned, order = made.transpose()
        results = [
            (gossamer.spmm(a, b), W @ B),
            (gossamer.spmm(a, fake.put(dense), transpose_a=True), W.T @ W),
            (gossamer.linear(fake.put(x), a), B.T @ W.T),
            (gossamer.sddmm(fake.put(dense), fake.put(square), a), W[W != 0]),
            (a.to_dense(), W),
            (made.values, W[W != 0]),
            (made.indices, np.nonzero(W)[1]),
            (turned.to_dense(), W.T),
            (order, None),
            (a.with_values(fake.put(ones[W != 0].astype(dtype))).to_dense(), W != 0),
        ]
        for got, want in results:
            assert type(got) is fake.kind
            assert got.__dlpack_device__() == (2, 0)
            if want is not None:
                np.testing.assert_array_equal(got.view, want.astype(got.view.dtype))


@fakes(*WITH_STREAMS)
@pytest.mark.parametrize("handle", [0, 2, 0x7F00])
@pytest.mark.parametrize("index", [0, 1])
def test_work_is_queued_on_the_current_stream_of_the_arrays_device(
    fake: Fake, handle: int, index: int
) -> None:
    a, b = csr(fake, W, index), fake.put(B, index)
    fake.streams = {index: handle, 1 - index: 99}
    with fake.trace.taken() as calls:
        result = gossamer.spmm(a, b)
    launches = {(call.stream, call.device) for call in calls if call.name == "launch"}
    assert launches == {(handle or 1, index)}, "1 is the default stream by its own number"
    assert not {"cudaMalloc", "cudaStreamSynchronize"} & {call.name for call in calls}
    assert fake.asked == [((40, 24), "float32", index)]
    assert result.index == index
    assert b.ordered == []


@fakes(*WITH_STREAMS)
def test_workspaces_come_from_the_framework_too(fake: Fake) -> None:
    a, x = csr(fake, W, 1), fake.put(np.ascontiguousarray(B.T), 1)
    gossamer.linear(x, a)
    (shape, dtype, index), (extent, byte, where) = fake.asked
    assert (shape, dtype, index) == ((24, 40), "float32", 1)
    assert (len(extent), byte, where) == (1, "uint8", 1)


@pytest.mark.parametrize("other", FAKES)
@fakes("torch")
def test_operands_of_another_framework_wait_for_the_stream(
    fake: Fake, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Fake(other, fake.trace) if other == "torch" else None
    if theirs is None:
        theirs = fake_framework(other, fake.trace, monkeypatch)
    fake.streams[0], theirs.streams[0] = 7, 8
    a, b = csr(fake, W), fake.put(B)
    bias = theirs.put(np.ones(40, np.float32))
    with fake.trace.taken() as calls:
        result = gossamer.spmm(a, b, bias=bias)
    np.testing.assert_array_equal(result.view, W @ B + 1)
    assert {call.stream for call in calls if call.name == "launch"} == {7}
    assert bias.ordered == ([] if other == "torch" else [7])


@fakes(*WITH_STREAMS)
def test_out_is_written_where_it_is(fake: Fake) -> None:
    a, b, out = csr(fake, W), fake.put(B), fake.put(np.ones((40, 24), np.float32))
    assert gossamer.spmm(a, b, out=out, accumulate=True) is out
    np.testing.assert_array_equal(out.view, W @ B + 1)
    assert fake.asked == []


@fakes(*WITH_STREAMS)
def test_operations_on_its_arrays_may_be_captured(fake: Fake) -> None:
    a, b, x = csr(fake, W), fake.put(B), fake.put(np.ascontiguousarray(B.T))
    fake.streams[0] = 7
    with fake.trace.captured(7) as held:
        gossamer.spmm(a, b)
        gossamer.linear(x, a)
        assert a.T.nnz == a.nnz
        with pytest.raises(gossamer.CudaError, match=r"^CSR\.from_dense: cudaErrorStreamCapture"):
            gossamer.CSR.from_dense(b)
    assert held == [True]


@fakes(*FAKES)
def test_int64_indices_are_refused_or_narrowed(fake: Fake) -> None:
    host = gossamer.CSR.from_dense(W)
    indptr, indices = (
        fake.put(np.asarray(x).astype(np.int64)) for x in (host.indptr, host.indices)
    )
    values, dense, square = fake.put(host.values), fake.put(W), fake.put(np.eye(300, dtype="f4"))
    wide = gossamer.CSR(indptr, indices, values, W.shape, index_dtype="int64")
    assert wide._native.indices is indices
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("spmm: a", lambda: gossamer.spmm(wide, fake.put(B))),
        ("linear: w", lambda: gossamer.linear(dense, wide)),
        ("sddmm: pattern", lambda: gossamer.sddmm(dense, square, wide)),
        ("CSR.to_dense: a", wide.to_dense),
        ("CSR.transpose: a", wide.transpose),
    ]
    for what, call in calls:
        with pytest.raises(NotImplementedError) as caught:
            call()
        assert str(caught.value) == f"{what}.index_dtype is int64, expected int32 on a GPU"
    for narrow in (
        gossamer.CSR(indptr, indices, values, W.shape),
        gossamer.CSR(wide.indptr, wide.indices, wide.values, wide.shape, index_dtype="int32"),
    ):
        assert type(narrow.indices) is fake.kind
        assert narrow.indices.view.dtype == np.int32
        np.testing.assert_array_equal(narrow.to_dense().view, W)
    with pytest.raises(ValueError, match=r"^CSR: shape\[1\] is 4294967296, expected at most 2147"):
        gossamer.CSR(indptr, indices, values, (40, 2**32), index_dtype="int32")


@fakes("torch")
def test_a_dense_matrix_of_more_elements_than_int32_counts_has_int32_indices(fake: Fake) -> None:
    row = fake.put(np.zeros((1, 32769), np.float32))
    row.on_gpu = EmulatedArray(np.broadcast_to(row.view, (65536, 32769)), row.on_gpu.owner)
    with fake.trace.taken():
        fake.trace.fail("launch", ILLEGAL_ADDRESS)  # it would take minutes
        with pytest.raises(gossamer.CudaError, match=r"^launch of .*csr_count_rows"):
            gossamer.CSR.from_dense(row)
    assert fake.asked[0] == ((65537,), "int32", 0)


@fakes("torch")
def test_the_framework_is_told_of_writes(fake: Fake) -> None:
    a, b, out = csr(fake, W), fake.put(B), fake.put(np.zeros((40, B.shape[1]), np.float32))
    gossamer.spmm(a, b, out=out)
    with pytest.raises(ValueError, match=r"^spmm: out\.shape"):
        gossamer.spmm(a, b, out=b)
    assert (out.writes, b.writes) == (1, 0)


@fakes("torch")
def test_a_pending_negation_is_made_first(fake: Fake) -> None:
    a, b = csr(fake, W), fake.put(B)
    b.negative = True
    np.testing.assert_array_equal(gossamer.spmm(a, b).view, -(W @ B))
    with pytest.raises(ValueError, match=r"^spmm: out is a view with a pending negation$"):
        gossamer.spmm(a, fake.put(B), out=b)


@fakes("jax")
@pytest.mark.parametrize("index", [0, 1])
def test_jax_gets_what_is_finished(fake: Fake, index: int) -> None:
    fake.streams = {0: STREAM_OF_JAX, 1: STREAM_OF_JAX}
    a, b = csr(fake, W, index), fake.put(B, index)
    with fake.trace.taken() as calls:
        result = gossamer.spmm(a, b)
    np.testing.assert_array_equal(result.view, W @ B)
    assert result.index == index
    assert b.ordered == [1], "JAX's stream is waited for by the default one"
    assert {call.stream for call in calls if call.name == "launch"} == {1}
    assert calls[-1].name in {"cudaStreamSynchronize", "cudaSetDevice"}
    assert [call.stream for call in calls if call.name == "cudaStreamSynchronize"] == [1]
    assert fake.asked == [], "results are memory of gossamer's"
    with pytest.raises(ValueError, match=r"^spmm: out is a Array, expected a NumPy, PyTorch or"):
        gossamer.spmm(a, b, out=result)


# The frameworks themselves


def _torch_put(module: Any, array: np.ndarray, index: int) -> Any:
    return module.from_numpy(array).to(f"cuda:{index}")


def _cupy_put(module: Any, array: np.ndarray, index: int) -> Any:
    with module.cuda.Device(index):
        return module.asarray(array)


def _jax_put(module: Any, array: np.ndarray, index: int) -> Any:
    return module.device_put(array, module.devices("gpu")[index])


def _torch_get(module: Any, array: Any) -> np.ndarray:
    assert type(array) is module.Tensor
    return np.asarray(array.cpu())


def _cupy_get(module: Any, array: Any) -> np.ndarray:
    assert type(array) is module.ndarray
    return np.asarray(module.asnumpy(array))


def _jax_get(module: Any, array: Any) -> np.ndarray:
    assert isinstance(array, module.Array)
    assert array.devices() <= set(module.devices("gpu"))
    return np.asarray(array)


def _jax_count(module: Any) -> int:
    try:
        return len(module.devices("gpu"))
    except RuntimeError:
        return 0


REAL: dict[str, tuple[Callable[..., int], Callable[..., Any], Callable[..., np.ndarray]]] = {
    "torch": (lambda module: module.cuda.device_count(), _torch_put, _torch_get),
    "cupy": (lambda module: module.cuda.runtime.getDeviceCount(), _cupy_put, _cupy_get),
    "jax": (_jax_count, _jax_put, _jax_get),
}


class Real:
    """A framework on a real GPU; skips where there is none."""

    def __init__(self, name: str, devices: int = 1) -> None:
        facts = _backend.cuda_facts()
        if not facts["built"]:
            pytest.skip("this build of gossamer has no CUDA backend")
        if facts["devices"] < devices:
            pytest.skip("no GPU that CUDA can use" if devices == 1 else f"needs {devices} GPUs")
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
        self.module = importlib.import_module(name)
        count, self._put, self._get = REAL[name]
        if count(self.module) < devices:
            pytest.skip(f"{name} finds fewer than {devices} GPUs")

    def put(self, array: np.ndarray, index: int = 0) -> Any:
        return self._put(self.module, array, index)

    def get(self, array: Any) -> np.ndarray:
        return self._get(self.module, array)

    def csr(self, index: int = 0) -> gossamer.CSR:
        a = gossamer.CSR.from_dense(W)
        return gossamer.CSR(*(self.put(x, index) for x in (a.indptr, a.indices, a.values)), a.shape)


@pytest.mark.parametrize("name", list(REAL))
def test_arrays_go_in_and_come_back(name: str) -> None:
    real = Real(name)
    a, x = real.csr(), np.ascontiguousarray(B.T)
    made = gossamer.CSR.from_dense(real.put(W))
    np.testing.assert_array_equal(real.get(gossamer.spmm(a, real.put(B))), W @ B)
    np.testing.assert_array_equal(real.get(gossamer.linear(real.put(x), made)), B.T @ W.T)
    np.testing.assert_array_equal(real.get(made.T.to_dense()), W.T)
    if name != "jax":
        out = real.put(np.ones((40, 24), np.float32))
        assert gossamer.spmm(a, real.put(B), out=out, accumulate=True) is out
        np.testing.assert_array_equal(real.get(out), W @ B + 1)


@pytest.mark.parametrize("name", list(REAL))
def test_two_gpus(name: str) -> None:
    real = Real(name, devices=2)
    for index in (1, 0):
        result = gossamer.spmm(real.csr(index), real.put(B, index))
        assert result.__dlpack_device__()[1] == index
        np.testing.assert_array_equal(real.get(result), W @ B)
    with pytest.raises(ValueError, match=r"^spmm: b is on cuda:1, expected a's device cuda:0$"):
        gossamer.spmm(real.csr(0), real.put(B, 1))


def test_torch_work_follows_what_its_stream_has_queued() -> None:
    real = Real("torch")
    cuda = real.module.cuda
    a, b, right = real.csr(), real.put(np.zeros_like(B)), real.put(B)
    cuda.synchronize()
    stream = cuda.Stream()
    with cuda.stream(stream):
        cuda._sleep(50_000_000)
        b.copy_(right)
        result = gossamer.spmm(a, b)
        later = result + 1
    stream.synchronize()
    np.testing.assert_array_equal(real.get(later), W @ B + 1)


def test_cupy_work_follows_what_its_stream_has_queued() -> None:
    real = Real("cupy")
    cupy = real.module
    a, b, right = real.csr(), real.put(np.zeros_like(B)), real.put(B)
    large = cupy.ones((4096, 4096), np.float32)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(20):
            large = large @ large * 1e-4
        b[...] = right
        result = gossamer.spmm(a, b)
        stream.synchronize()
    np.testing.assert_array_equal(real.get(result), W @ B)


def test_jax_work_that_is_not_finished_is_waited_for() -> None:
    real = Real("jax")
    numpy = real.module.numpy
    a, large = real.csr(), numpy.ones((4096, 4096), np.float32)
    for _ in range(20):
        large = large @ large * 1e-4
    b = real.put(B) + 0 * large[:300, :24]
    np.testing.assert_array_equal(real.get(gossamer.spmm(a, b) + 1), W @ B + 1)


@pytest.mark.parametrize("op", ["spmm", "transposed", "linear", "sddmm", "to_dense", "transpose"])
def test_torch_graphs_replay_an_operation(op: str) -> None:
    real = Real("torch")
    torch = real.module
    a = real.csr()
    x, y = (real.put(np.ones(s, np.float32)) for s in ((40, 300), (300, 300)))
    calls: dict[str, Callable[[], Any]] = {
        "spmm": lambda: gossamer.spmm(a, y),
        "transposed": lambda: gossamer.spmm(a, x, transpose_a=True),
        "linear": lambda: gossamer.linear(y, a),
        "sddmm": lambda: gossamer.sddmm(x, y, a),
        "to_dense": a.to_dense,
        "transpose": lambda: a.T.values,
    }
    calls[op]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = calls[op]()
    for operand in (x, y, a.values):
        operand.mul_(3)
    want = real.get(calls[op]())
    graph.replay()
    torch.cuda.synchronize()
    np.testing.assert_array_equal(real.get(result), want)


def test_torch_graphs_refuse_what_waits() -> None:
    real = Real("torch")
    torch = real.module
    w = real.put(W)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = w * 2
        with pytest.raises(gossamer.CudaError, match=r"^CSR\.from_dense: cudaErrorStreamCapture"):
            gossamer.CSR.from_dense(w)
    graph.replay()
    np.testing.assert_array_equal(real.get(doubled), W * 2)
