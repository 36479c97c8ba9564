"""gossamer.jax's handlers for GPUs: on the emulated one, behind XLA's runtime, and on a real one.

XLA compiles for the CPU here and calls a shim (emulated_runtime.cpp), which has what a runtime on a
GPU has beside it: a stream, a device, memory. On a machine whose JAX has a GPU, the same tests run
there.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gossamer
import numpy as np
import pytest
from cuda_trace import Trace
from device import emulated_extension, pointer_of, why_not
from gossamer import _backend, _core
from library import run

jax = pytest.importorskip("jax")
import gossamer.jax as gj  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import test_jax_attention as attention  # noqa: E402
import test_jax_decode as decode  # noqa: E402
import test_jax_ops as ops  # noqa: E402
from gossamer.jax import _ops  # noqa: E402

STREAM = 7


class Runtime:
    """The shim of XLA's runtime on a GPU."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("c++")
        if compiler is None:
            pytest.skip("needs a C++ compiler")
        source = Path(__file__).with_name("emulated_runtime.cpp")
        made = folder / "runtime.so"
        include = f"-I{jax.ffi.include_dir()}"
        plain = {"LD_PRELOAD": ""}
        run(compiler, "-std=c++20", "-shared", "-fPIC", include, source, "-o", made, **plain)
        self.library = ctypes.CDLL(str(made))
        self.library.shim_of.restype = ctypes.c_void_p
        self.library.shim_of.argtypes = (ctypes.c_int, ctypes.c_void_p)
        self.library.reset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
        self.library.misuse.restype = ctypes.c_char_p
        extension = emulated_extension()
        assert extension.__file__ is not None
        emulation = ctypes.CDLL(extension.__file__)
        self.library.begin(
            emulation.gossamer_emulation_allocate, emulation.gossamer_emulation_release
        )
        for place, (name, handler) in enumerate(extension.jax_handlers().items()):
            shim = self.library.shim_of(place, pointer_of(handler, None))
            capsule = jax.ffi.pycapsule(ctypes.c_void_p(shim))
            jax.ffi.register_ffi_target(f"emulated_{name}", capsule, platform="cpu")

    def reset(self, *, device: int = 0, refused: str = "") -> None:
        self.library.reset(STREAM, device, refused.encode())

    def called(self) -> int:
        """Return how many calls there were; none leaves a workspace or misuses the runtime."""
        assert self.library.misuse() == b""
        assert self.library.workspaces() == 0
        calls: int = self.library.calls()
        return calls


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def runtime(built: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    monkeypatch.setattr(_ops, "PREFIX", "emulated_")
    jax.clear_caches()
    built.reset()
    yield built
    jax.clear_caches()


@pytest.fixture(
    params=[
        pytest.param("emulated", marks=pytest.mark.once),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
)
def calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the calls of a test run on a GPU."""
    if request.param == "emulated":
        runtime = request.getfixturevalue("runtime")
        yield
        assert runtime.called() > 0
        return
    reason = why_not("cuda")
    if reason is None and not any(d.platform == "gpu" for d in jax.devices()):
        reason = "this JAX has no GPU"
    if reason is not None:
        pytest.skip(reason)
    with jax.default_device(jax.devices("gpu")[0]):
        yield


def case(test: Callable[..., None], *arguments: Any) -> Any:
    name = test.__name__.removeprefix("test_")
    return pytest.param(lambda: test(*arguments), id="-".join([name, *map(str, arguments)]))


@pytest.mark.parametrize(
    "test",
    [
        *(
            case(ops.test_results_and_gradients_are_those_of_the_dense_product, call, kind, jit)
            for call, kind, jit in [
                ("linear", "csr", True),
                ("linear", "nm", True),
                ("spmm 1", "bsr", True),
                ("spmm transposed", "csr", True),
                ("sddmm", "csr", True),
                ("sddmm", "bsr", False),
            ]
        ),
        case(ops.test_vmap_is_a_loop, "linear", "x"),
        case(ops.test_vmap_is_a_loop, "sddmm", "both"),
        case(ops.test_vmap_is_a_loop, "spmm nm", "both"),
        case(ops.test_narrow_types, jnp.bfloat16),
        *(
            case(attention.test_attention_and_its_gradients_are_those_of_the_formula, name)
            for name in ("bits", "bias", "sinks")
        ),
        case(attention.test_vmap_is_a_loop_and_layouts_are_pytrees),
        case(attention.test_csr_attention_and_its_gradients_are_those_of_the_formula, "dot", True),
        case(attention.test_csr_attention_and_its_gradients_are_those_of_the_formula, "gat", False),
        case(attention.test_csr_softmax_and_its_gradient),
        case(attention.test_sparse_linear_and_its_gradients_are_those_of_the_formula, (3,), False),
        case(attention.test_sparse_linear_and_its_gradients_are_those_of_the_formula, (), True),
        case(attention.test_gated_mlp_and_its_gradients_are_those_of_the_formula, (3,), False),
        case(attention.test_gather_decode_and_its_gradients_are_those_of_the_formula, (3,)),
        case(attention.test_topk_rows_and_its_gradients_are_those_of_the_formula, (3,), True),
        case(attention.test_delta_linear_and_its_gradients_are_those_of_the_formula, (3,), False),
        case(attention.test_delta_linear_and_its_gradients_are_those_of_the_formula, (), True),
        case(attention.test_gradients_of_narrow_streams_are_near_those_of_wide_ones, jnp.bfloat16),
        case(attention.test_vmap_of_delta_linear_has_a_stream_for_each, True),
        *(case(decode.test_attention_decode_is_the_formula, name) for name in decode.OPTIONS),
        case(decode.test_vmap_of_attention_decode_is_a_loop),
        case(decode.test_block_pool_and_its_gradients_are_those_of_the_formula, "mean", 3),
        case(decode.test_block_pool_and_its_gradients_are_those_of_the_formula, "max", 9),
        *(case(decode.test_block_topk_has_the_cores_bits, name) for name in decode.TOPK),
    ],
)
def test_what_holds_on_a_cpu_holds_on_a_gpu(test: Callable[[], None], calls: None) -> None:
    test()


@pytest.mark.once
def test_handlers_keep_to_xlas_stream_device_and_memory(runtime: Runtime) -> None:
    w, b = ops.matrix("csr"), ops.integers(ops.M, ops.N)
    runtime.reset(device=1)
    trace = Trace()
    with trace.taken() as taken:
        jax.block_until_ready(jax.jit(lambda b: gj.spmm(w, gj.spmm(w, b, transpose_a=True)))(b))
    queued = [call for call in taken if call.name in {"launch", "cudaMemsetAsync"}]
    assert queued
    assert {call.stream for call in queued} == {STREAM}
    assert {call.device for call in queued} == {1}
    assert not {call.name for call in taken} & {"cudaMalloc", "cudaStreamSynchronize"}
    assert runtime.called() == 2
    assert runtime.library.allocations() > 0


#: The operations whose work XLA may record and replay, and a call of each.
REPLAYED: dict[str, Callable[[], Any]] = {
    "block_pool": lambda: gj.block_pool(attention.random(1, 5, 2, 3), 2),
    "sddmm": lambda: gj.sddmm(ops.integers(ops.M, 3), ops.integers(ops.K, 3), ops.matrix("csr")),
    "csr_attention": lambda: gj.csr_attention(
        *(attention.random(n, 4) for n in (ops.M, ops.K, ops.K)), ops.matrix("csr")
    ),
    "csr_softmax": lambda: gj.csr_softmax(ops.matrix("csr")),
    "csr_softmax_backward": lambda: jax.grad(
        lambda values: gj.csr_softmax(ops.matrix("csr").with_values(values)).values[0]
    )(ops.matrix("csr").values),
}


@pytest.mark.once
def test_handlers_without_a_workspace_are_for_command_buffers(runtime: Runtime) -> None:
    names = list(emulated_extension().jax_handlers())
    assert {name for i, name in enumerate(names) if runtime.library.replayed(i)} == set(REPLAYED)
    trace = Trace()
    for call in REPLAYED.values():
        with trace.taken() as taken, trace.captured(STREAM) as valid:
            jax.block_until_ready(jax.tree.leaves(call()))
        assert valid == [True]
        queued = [step for step in taken if step.name == "launch"]
        assert queued and {step.stream for step in queued} == {STREAM}
    assert runtime.called() > 0  # and none has allocated


@pytest.mark.once
@pytest.mark.parametrize(
    "refused, message",
    [
        ("Stream_Get", "RESOURCE_EXHAUSTED: Stream_Get is refused"),
        ("DeviceOrdinal_Get", "RESOURCE_EXHAUSTED: DeviceOrdinal_Get is refused"),
        ("DeviceMemory_Allocate", "RESOURCE_EXHAUSTED: DeviceMemory_Allocate is refused"),
        ("old", "INVALID_ARGUMENT: spmm: this jaxlib does not tell on which GPU, expected a newer"),
    ],
)
def test_errors_of_the_runtime_are_the_callers(
    refused: str, message: str, runtime: Runtime
) -> None:
    w, b = ops.matrix("csr"), ops.integers(ops.M, ops.N)
    runtime.reset(refused=refused)
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(gj.spmm(w, b, transpose_a=True))
    runtime.called()
    runtime.reset()
    expected = ops.dense().T @ np.asarray(b)
    np.testing.assert_array_equal(gj.spmm(w, b, transpose_a=True), expected)


@pytest.mark.once
def test_memory_that_cannot_be_freed_is_no_error(runtime: Runtime) -> None:
    runtime.reset(refused="DeviceMemory_Free")
    w, b = ops.matrix("csr"), ops.integers(ops.M, ops.N)
    expected = ops.dense().T @ np.asarray(b)
    np.testing.assert_array_equal(gj.spmm(w, b, transpose_a=True), expected)


@pytest.mark.once
def test_errors_of_a_launch_and_of_operands_are_the_callers(runtime: Runtime) -> None:
    w, x = ops.matrix("csr"), ops.integers(3, ops.K)
    trace = Trace()
    with trace.taken():
        trace.fail("launch", 700)
        with pytest.raises(Exception, match=r"INTERNAL: launch of .*: cudaErrorIllegalAddress"):
            jax.block_until_ready(gj.linear(x, w))
    with jax.enable_x64(True):
        wide = gossamer.CSR(
            *(np.asarray(i, np.int64) for i in (w.indptr, w.indices)),
            np.asarray(w.values),
            w.shape,
            index_dtype="int64",
        )
        with pytest.raises(Exception, match=r"INVALID_ARGUMENT: linear: .*int64.*int32"):
            jax.block_until_ready(gj.linear(x, wide))
    runtime.called()


@pytest.mark.once
def test_handlers_of_the_builds_backends_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, set[str]] = {}

    def register(name: str, _handler: Any, *, platform: str) -> None:
        found.setdefault(platform, set()).add(name.removeprefix("gossamer_"))

    monkeypatch.setattr(jax.ffi, "register_ffi_target", register)
    monkeypatch.setattr(_backend, "_cuda", emulated_extension())
    _ops.register()
    assert found["cpu"] == found["CUDA"] == set(_core.jax_handlers())
    found.clear()
    monkeypatch.setattr(_backend, "extension", lambda: None)
    _ops.register()
    assert set(found) == {"cpu"}


@pytest.mark.once
def test_xla_takes_the_handlers_for_its_platform(built: Runtime) -> None:
    for name, handler in emulated_extension().jax_handlers().items():
        jax.ffi.register_ffi_target(f"taken_{name}", handler, platform="CUDA")
