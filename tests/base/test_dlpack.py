"""Arrays in and out: the peculiarities of each framework's exports, and valid `out=` arrays."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import pytest
from gossamer import _backend, _core, _interop, prune, regrow
from library import run
from producer import CUDA, READ_ONLY, Producer

BF16 = np.dtype(ml_dtypes.bfloat16)
A = np.array([[1, 0, 2], [0, 3, 0]])
B = np.array([[1, 2], [3, 4], [5, 6]])
FRAMEWORKS = ["numpy", "torch", "jax"]


def csr(dtype: Any = np.float32) -> gossamer.CSR:
    indptr, indices = np.array([0, 2, 3], np.int32), np.array([0, 2, 1], np.int32)
    return gossamer.CSR(indptr, indices, np.array([1, 2, 3]).astype(dtype), (2, 3))


def b32() -> np.ndarray:
    return B.astype(np.float32)


def make(framework: str, array: np.ndarray) -> Any:
    """Return the array in a framework."""
    if framework == "numpy":
        return array.copy()
    module = pytest.importorskip(framework)
    if framework == "jax":
        return module.numpy.asarray(array)
    if array.dtype == BF16:
        return module.from_numpy(array.view(np.uint16).copy()).view(module.bfloat16)
    return module.from_numpy(array.copy())


def kind(framework: str) -> type:
    if framework == "numpy":
        return np.ndarray
    module = pytest.importorskip(framework)
    return module.Tensor if framework == "torch" else module.Array


def check(result: Any, expected: np.ndarray = A @ B) -> None:
    if type(result).__module__ == "torch":
        result = result.double().numpy()
    np.testing.assert_array_equal(np.asarray(result).astype(np.float64), expected)


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def jax() -> Any:
    return pytest.importorskip("jax")


# Results are arrays of the dense operand's framework.


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_op_returns_the_operands_framework_and_dtype(framework: str, dtype: Any) -> None:
    a, b, x = csr(dtype), make(framework, B.astype(dtype)), make(framework, B.T.astype(dtype))
    product = gossamer.spmm(a, b)
    layer = gossamer.linear(x, a)
    sampled = gossamer.sddmm(make(framework, B[:2].astype(dtype)), b, a)
    for result in (product, layer, sampled):
        assert isinstance(result, kind(framework))
        assert result.dtype == b.dtype
    check(product)
    check(layer, (A @ B).T)
    check(sampled, (B[:2] @ B.T)[A.nonzero()])


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_float64(framework: str) -> None:
    check(gossamer.spmm(csr(np.float64), make(framework, B.astype(np.float64))))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_csr_holds_arrays_of_any_framework(framework: str) -> None:
    a = csr()
    parts = [make(framework, part) for part in (a.indptr, a.indices, a.values)]
    held = gossamer.CSR(*parts, (2, 3))
    for mine, given in zip((held.indptr, held.indices), parts, strict=False):
        assert isinstance(mine, kind(framework))
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(given))
    assert held.values is parts[2]
    check(gossamer.spmm(held, b32()))
    assert isinstance(held.to_dense(), kind(framework))
    check(held.to_dense(), A)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_frameworks_mix_and_the_result_follows_the_dense_operand(framework: str) -> None:
    bias = make("numpy" if framework == "torch" else "torch", np.array([10, 20], np.float32))
    result = gossamer.spmm(csr(), make(framework, b32()), bias=bias)
    assert isinstance(result, kind(framework))
    check(result, A @ B + [[10], [20]])


def test_unknown_framework_gets_a_dlpack_exporter() -> None:
    producer = Producer(b32())
    result = gossamer.spmm(csr(), producer)
    assert isinstance(result, _core.Tensor)
    check(np.from_dlpack(result))
    assert (producer.exports, producer.releases) == (1, 1)


def test_unknown_framework_with_a_namespace_gets_its_own_array() -> None:
    class Namespaced(Producer):
        def __array_namespace__(self) -> Any:
            return np

    result = gossamer.spmm(csr(), Namespaced(b32()))
    assert type(result) is np.ndarray
    check(result)


def test_own_tensor_is_an_operand_and_an_out() -> None:
    out = _core.Tensor((2, 2), "float32")
    assert gossamer.spmm(csr(), b32(), out=out) is out
    check(np.from_dlpack(out))
    assert gossamer.spmm(csr(), _core.Tensor((3, 0), "float32")).shape == (2, 0)


# Objects that are refused as operands.


@pytest.mark.parametrize("kind", [np.ndarray, np.float32, dict])
def test_a_class_of_arrays_is_no_array(kind: type) -> None:
    message = f"^spmm: b is the class {kind.__name__}, expected an array of it$"
    for _ in range(2):
        with pytest.raises(TypeError, match=message):
            gossamer.spmm(csr(), kind)


@pytest.mark.parametrize("b", [[[1.0]], 3.0, None, np.float32(2), "b"], ids=repr)
def test_non_arrays_are_refused(b: Any) -> None:
    message = f"^spmm: b is a {type(b).__name__}, expected an array with __dlpack__$"
    with pytest.raises(TypeError, match=message):
        gossamer.spmm(csr(), b)


def test_sparse_operand_of_another_type_is_refused() -> None:
    with pytest.raises(
        TypeError,
        match=r"^spmm: a is a ndarray, expected a CSR, a BSR, an NM, a Packed or a GroupQuant$",
    ):
        gossamer.spmm(A, b32())  # type: ignore[arg-type]
    with pytest.raises(
        TypeError,
        match=r"^linear: w is a ndarray, expected a CSR, a BSR, an NM, a Packed or a GroupQuant$",
    ):
        gossamer.linear(b32(), A)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^sddmm: pattern is a Packed, expected a CSR or a BSR$"):
        gossamer.sddmm(b32(), b32(), gossamer.pack(csr()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^pack: a is a ndarray, expected a CSR$"):
        gossamer.pack(A)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["int8", "complex64", ">f4", "longdouble", "float8_e5m2"])
def test_unknown_numpy_types_are_refused(dtype: str) -> None:
    wanted = np.dtype(getattr(ml_dtypes, dtype, dtype))
    with pytest.raises(TypeError, match=f"^spmm: b has element type {wanted}, expected float32"):
        gossamer.spmm(csr(), np.zeros((3, 2), wanted))


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ((0, 8, 1), "int8"),
        ((0, 16, 1), "int16"),
        ((1, 32, 1), "uint32"),
        ((2, 128, 1), "float128"),
        ((5, 64, 1), "complex64"),
        ((7, 8, 1), "float8_e3m4"),
        ((10, 8, 1), "float8_e4m3fn"),
        ((14, 8, 1), "float8_e8m0fnu"),
        ((2, 32, 4), "with DLPack code 2, 32 bits and 4 lanes"),
        ((3, 64, 1), "with DLPack code 3, 64 bits and 1 lanes"),
        ((6, 1, 1), "with DLPack code 6, 1 bits and 1 lanes"),
        ((15, 6, 1), "with DLPack code 15, 6 bits and 1 lanes"),
        ((99, 32, 1), "with DLPack code 99, 32 bits and 1 lanes"),
    ],
)
def test_unknown_dlpack_types_are_refused_and_released(
    dtype: tuple[int, int, int], name: str
) -> None:
    producer = Producer(b32(), dtype=dtype)
    with pytest.raises(TypeError, match=f"^spmm: b has element type {name}, expected float32"):
        gossamer.spmm(csr(), producer)
    assert producer.releases == 1


def test_bool_is_for_masks_only() -> None:
    with pytest.raises(TypeError, match=r"b\.dtype is bool"):
        gossamer.spmm(csr(), np.ones((3, 2), bool))


def test_masked_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^spmm: b is a masked array"):
        gossamer.spmm(csr(), np.ma.array(b32(), mask=b32() > 3))


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
def test_numpy_subclasses_are_read_and_written(dtype: np.dtype, tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "b", dtype, "w+", shape=(3, 2))
    mapped[:] = B
    check(gossamer.spmm(csr(dtype), mapped))
    out = np.memmap(tmp_path / "out", dtype, "w+", shape=(2, 2))
    assert gossamer.spmm(csr(dtype), mapped, out=out) is out
    check(out)


def test_cuda_arrays_need_a_cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    producer = Producer(b32(), device=(CUDA, 1))
    message = (
        "^spmm: b is on cuda:1, but this build of gossamer has no CUDA support: install it from "
        "source where nvcc is found$"
    )
    monkeypatch.setattr(_backend, "_cuda", None)
    monkeypatch.setitem(sys.modules, "gossamer._cuda", None)
    with pytest.raises(NotImplementedError, match=message):
        gossamer.spmm(csr(), producer)
    assert producer.releases == 1


def test_other_devices_are_refused() -> None:
    with pytest.raises(
        NotImplementedError, match=r"device of DLPack type 8, expected the CPU or CUDA"
    ):
        gossamer.spmm(csr(), Producer(b32(), device=(8, 0)))


# The capsule.


@pytest.mark.parametrize("versioned", [True, False])
def test_both_capsules_are_read_and_released_once(versioned: bool) -> None:
    producer = Producer(b32(), versioned=versioned)
    check(np.from_dlpack(gossamer.spmm(csr(), producer)))
    assert (producer.exports, producer.releases) == (1, 1)


def test_a_csr_keeps_its_imports() -> None:
    a = csr()
    producer = Producer(np.array([1, 2, 3], np.float32))
    held = a.with_values(producer)
    assert producer.releases == 0
    check(gossamer.spmm(held, b32()))
    sibling = held.with_values(a.values)
    del held
    assert producer.releases == 1
    del a
    check(gossamer.spmm(sibling, b32()))


def test_a_refused_csr_releases_its_imports() -> None:
    a = csr()
    producer = Producer(np.array([1, 2], np.float32))
    with pytest.raises(ValueError, match=r"values"):
        a.with_values(producer)
    with pytest.raises(ValueError, match=r"values"):
        gossamer.CSR(a.indptr, a.indices, producer, (2, 3))
    assert producer.releases == producer.exports == 2


def test_unknown_major_version_is_refused_and_released() -> None:
    producer = Producer(b32(), major=2)
    with pytest.raises(BufferError, match=r"DLPack version 2, expected 1"):
        gossamer.spmm(csr(), producer)
    assert producer.releases == 1


class Exports:
    """Returns the given object from `__dlpack__`, or raises it if it is an exception."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_options: object) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_what_is_no_capsule_is_refused() -> None:
    with pytest.raises(TypeError, match=r"did not return a fresh DLPack capsule"):
        gossamer.spmm(csr(), Exports(3))


def test_a_used_capsule_is_refused() -> None:
    producer = Producer(b32())
    repeats = Exports(producer.__dlpack__(max_version=(1, 0)))
    check(np.from_dlpack(gossamer.spmm(csr(), repeats)))
    with pytest.raises(TypeError, match=r"fresh"):
        gossamer.spmm(csr(), repeats)


@pytest.mark.parametrize("error", [BufferError, TypeError, RuntimeError])
def test_a_producers_error_comes_through(error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^mine$"):
        gossamer.spmm(csr(), Exports(error("mine")))


# Shapes, strides and pointers.


def test_null_strides_are_compact() -> None:
    check(np.from_dlpack(gossamer.spmm(csr(), Producer(b32(), strides=None))))


def test_strides_are_read() -> None:
    wide = np.zeros((3, 5), np.float32)
    wide[:, :2] = B
    check(np.from_dlpack(gossamer.spmm(csr(), Producer(wide[:, :2], strides=(5, 1)))))
    check(gossamer.spmm(csr(), wide[:, :2]))


@pytest.mark.parametrize("stride", [0, -7, 1, 12345])
def test_strides_of_single_elements_do_not_matter(stride: int) -> None:
    column = Producer(np.array([[1], [3], [5]], np.float32), strides=(1, stride))
    check(np.from_dlpack(gossamer.spmm(csr(), column)), A @ B[:, :1])
    one = gossamer.CSR(
        np.array([0, 1], np.int32), np.zeros(1, np.int32), np.array([2.0], np.float32), (1, 1)
    )
    row = Producer(np.array([[1, 2]], np.float32), strides=(stride, 1))
    check(np.from_dlpack(gossamer.spmm(one, row)), np.array([[2, 4]]))


def test_byte_offset_is_added() -> None:
    check(np.from_dlpack(gossamer.spmm(csr(), Producer(b32(), byte_offset=8))))


def test_pointers_need_only_element_alignment() -> None:
    memory = np.zeros(7, np.float32)
    memory[1:] = B.ravel()
    check(gossamer.spmm(csr(), memory[1:].reshape(3, 2)))


def test_less_alignment_is_refused() -> None:
    b = np.zeros(25, np.uint8)[1:].view(np.float32).reshape(3, 2)
    with pytest.raises(ValueError, match=r"^spmm: b: its data is not aligned to its element size$"):
        gossamer.spmm(csr(), b)


def test_strides_within_elements_are_refused() -> None:
    records = np.zeros((3, 2), np.dtype([("x", np.float32), ("y", np.uint16)]))
    with pytest.raises(ValueError, match=r"^spmm: b\.strides\[1\] is 6 bytes, expected a multiple"):
        gossamer.spmm(csr(), records["x"])


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_last_stride_must_be_one(framework: str) -> None:
    b = make(framework, B.T.astype(np.float32)).T
    with pytest.raises(ValueError, match=r"^spmm: b\.strides\[-1\] is 3, expected 1"):
        gossamer.spmm(csr(), b)


def test_negative_strides_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^spmm: b\.strides\[0\] is -2"):
        gossamer.spmm(csr(), b32()[::-1])
    with pytest.raises(ValueError, match=r"^spmm: b\.strides\[-1\] is -1"):
        gossamer.spmm(csr(), b32()[:, ::-1])


def test_broadcast_rows_are_read() -> None:
    b = np.broadcast_to(np.array([1, 2], np.float32), (3, 2))
    check(gossamer.spmm(csr(), b), A @ np.asarray(b))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_empty_operands(framework: str) -> None:
    assert gossamer.spmm(csr(), make(framework, np.zeros((3, 0), np.float32))).shape == (2, 0)
    assert gossamer.linear(make(framework, np.zeros((0, 3), np.float32)), csr()).shape == (0, 2)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_inner_elements_fill_with_zeros(framework: str) -> None:
    empty = np.zeros(0, np.int32)
    nothing = gossamer.CSR(np.zeros(3, np.int32), empty, np.zeros(0, np.float32), (2, 0))
    result = gossamer.spmm(nothing, make(framework, np.zeros((0, 4), np.float32)))
    check(result, np.zeros((2, 4)))


def test_null_data_is_fine_where_there_are_no_elements() -> None:
    producer = Producer(np.zeros((3, 0), np.float32), null_data=True, strides=(0, 0))
    assert gossamer.spmm(csr(), producer).shape == (2, 0)


def test_null_data_is_refused_elsewhere() -> None:
    producer = Producer(b32(), null_data=True)
    with pytest.raises(ValueError, match=r"^spmm: b has no data"):
        gossamer.spmm(csr(), producer)
    assert producer.releases == 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_zero_dimensions_reach_the_op(framework: str) -> None:
    scalar = make(framework, np.array(1, np.float32))
    with pytest.raises(ValueError, match=r"^spmm: b\.ndim is 0, expected 1 or 2$"):
        gossamer.spmm(csr(), scalar)
    with pytest.raises(ValueError, match=r"^linear: x\.ndim is 0, expected at least 1$"):
        gossamer.linear(scalar, csr())


def test_zero_dimensions_without_shape_pointer() -> None:
    with pytest.raises(ValueError, match=r"^spmm: b\.ndim is 0"):
        gossamer.spmm(csr(), Producer(np.array(1, np.float32)))


def test_too_many_dimensions_are_refused() -> None:
    x = np.zeros((1,) * 8 + (3,), np.float32)
    with pytest.raises(ValueError, match=r"^linear: x\.ndim is 9, expected at most 8$"):
        gossamer.linear(x, csr())
    with pytest.raises(ValueError, match=r"^linear: x\.ndim is 9, expected at most 8$"):
        gossamer.linear(Producer(x), csr())
    assert gossamer.linear(x[0], csr()).shape == (*(1,) * 7, 2)


# Producers that put anything into a capsule.

READS: dict[str, Callable[[Any], object]] = {
    "spmm": lambda x: gossamer.spmm(csr(), x),
    "linear": lambda x: gossamer.linear(x, csr()),
    "CSR": lambda x: gossamer.CSR(csr().indptr, csr().indices, x, (2, 3)),
    "CSR.from_dense": gossamer.CSR.from_dense,
    "kth": lambda x: prune.kth(x, 1),
    "count_nan": prune.count_nan,
    "block_pool": lambda x: prune.block_pool(x, (1, 1)),
    "check_nm": lambda x: prune.check_nm(x, 1, 2),
    "column_stats_": lambda x: prune.ColumnStats().add(x),
    "nnz_stats": prune.nnz_stats,
}


@pytest.mark.parametrize("shape", [(-1,), (-1, 4), (-2, -3), (2**62, 4), (2**40, 2**40)], ids=str)
@pytest.mark.parametrize("op", READS)
def test_extents_that_cannot_be_are_refused(op: str, shape: tuple[int, ...]) -> None:
    producer = Producer(np.zeros((1,) * len(shape), np.float32), extents=shape)
    expected = "at least 0" if min(shape) < 0 else r"fewer than 2\*\*63 bytes"
    with pytest.raises(ValueError, match=rf"^{op}: \w+\.shape.* is .*, expected {expected}$"):
        READS[op](producer)
    assert producer.exports == producer.releases


@pytest.mark.parametrize("stride", [2**62, -(2**62), -(2**63)])
def test_strides_that_cannot_be_are_refused(stride: int) -> None:
    producer = Producer(b32(), strides=(stride, 1))
    with pytest.raises(ValueError, match=r"^kth: score.strides\[0\] is -?\d+, expected a span"):
        prune.kth(producer, 1)
    assert producer.releases == 1


def test_a_capsule_without_its_shape_is_refused() -> None:
    producer = Producer(b32(), null_shape=True)
    with pytest.raises(ValueError, match=r"^spmm: b is exported without its shape$"):
        gossamer.spmm(csr(), producer)
    assert producer.releases == 1


def test_a_shape_beyond_any_memory_is_refused() -> None:
    indptr, none = np.zeros(3, np.int64), np.zeros(0, np.int64)
    with pytest.raises(ValueError, match=r"^CSR: shape\[1\] is 4611686018427387905, expected"):
        gossamer.CSR(indptr, none, np.zeros(0, np.float32), (2, 2**62 + 1), index_dtype="int64")


@pytest.mark.parametrize("cols", [2**61, 2**62])
def test_a_result_beyond_any_memory_is_refused(cols: int) -> None:
    indptr, none = np.zeros(3, np.int64), np.zeros(0, np.int64)
    for values in (Producer(np.zeros(0, np.float32)), np.zeros(0, np.float32)):
        a = gossamer.CSR(indptr, none, values, (2, cols), index_dtype="int64")
        with pytest.raises(MemoryError, match=r"^CSR.to_dense: out would have shape"):
            a.to_dense()


# Peculiarities of each framework.


def test_read_only_numpy_arrays_are_operands() -> None:
    b = b32()
    b.flags.writeable = False
    check(gossamer.spmm(csr(), b))


def test_numpy_bfloat16_component_arrays() -> None:
    a = csr(BF16)
    assert a.dtype == "bfloat16"
    result = gossamer.spmm(a, B.astype(BF16), bias=np.array([1, 2]).astype(BF16))
    assert result.dtype == BF16
    check(result, A @ B + [[1], [2]])


def test_torch_requires_grad_is_refused_where_gradients_are_recorded(torch: Any) -> None:
    b = torch.ones(3, 2, requires_grad=True)
    message = (
        r"^spmm: b requires grad, expected one that does not: gossamer\.torch\.spmm is "
        r"differentiable; b\.detach\(\) or torch\.no_grad\(\) leave the gradient out$"
    )
    with pytest.raises(ValueError, match=message):
        gossamer.spmm(csr(), b)
    with pytest.raises(ValueError, match=r"^spmm: out requires grad"):
        gossamer.spmm(csr(), b32(), out=torch.ones(2, 2, requires_grad=True))
    with torch.no_grad():
        check(gossamer.spmm(csr(), b), A @ np.ones((3, 2)))
    check(gossamer.spmm(csr(), b.detach()), A @ np.ones((3, 2)))


def test_torch_parameters_give_plain_tensors(torch: Any) -> None:
    b = torch.nn.Parameter(torch.ones(3, 2), requires_grad=False)
    assert type(gossamer.spmm(csr(), b)) is torch.Tensor


@pytest.mark.filterwarnings("ignore")  # of nested tensors, and of quantized ones
def test_torch_tensors_without_plain_memory_are_named(torch: Any) -> None:
    import gossamer.torch as gt

    b = torch.ones(3, 2)
    strange = {
        "meta": b.to("meta"),
        "nested": torch.nested.nested_tensor([b, b]),
        "quantized": torch.quantize_per_tensor(b, 0.1, 0, torch.qint8),
        "torch.sparse_coo": b.to_sparse(),
        "torch.sparse_csr": b.to_sparse_csr(),
        "torch._mkldnn": b.to_mkldnn(),
    }
    a, w = (gossamer.CSR.from_dense(torch.ones(shape)) for shape in ((2, 3), (4, 2)))
    for kind, x in strange.items():
        calls: list[tuple[str, Any]] = [
            ("spmm: b", lambda x=x: gossamer.spmm(a, x)),
            ("topk_mask: score", lambda x=x: gossamer.prune.topk_mask(x, 1)),
            ("soft_threshold_: w", lambda x=x: gossamer.prune.soft_threshold_(x, 1.0)),
        ]
        if kind != "meta":  # which the operators take: its results have no memory either
            calls += [
                ("spmm: b", lambda x=x: gt.spmm(a, x)),
                ("linear: x", lambda x=x: gt.linear(x, w)),
                ("linear: bias", lambda x=x: gt.linear(b, w, bias=x)),
                ("sddmm: a", lambda x=x: gt.sddmm(x, b, w)),
                ("sparse_linear: wt", lambda x=x: gt.sparse_linear(b, x, threshold=0.0)),
            ]
        for who, call in calls:
            with pytest.raises(ValueError, match=f"^{who} is a {kind} tensor, expected a dense"):
                call()


def test_torch_sparse_operands_are_told_of_the_constructor(torch: Any) -> None:
    message = (
        r"^spmm: b is a torch.sparse_coo tensor, expected a dense one \(gossamer.CSR.from_sparse "
        r"makes one of it\)$"
    )
    with pytest.raises(ValueError, match=message):
        gossamer.spmm(csr(), torch.ones(3, 2).to_sparse())


def test_torch_complex_tensors_are_refused(torch: Any) -> None:
    b = torch.ones(3, 2, dtype=torch.complex64)
    for view in (b, b.conj()):
        with pytest.raises(TypeError, match=r"^spmm: b has element type complex64"):
            gossamer.spmm(csr(), view)


def test_torch_pending_negation_is_resolved(torch: Any) -> None:
    b = torch.complex(torch.zeros(3, 2), torch.from_numpy(b32())).conj().imag
    assert b.is_neg()
    check(gossamer.spmm(csr(), b.resolve_neg()), -(A @ B))
    view = torch._neg_view(torch.from_numpy(b32()))
    assert view.is_neg()
    check(gossamer.spmm(csr(), view), -(A @ B))


def test_torch_out_with_pending_negation_is_refused(torch: Any) -> None:
    out = torch._neg_view(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"^spmm: out is a view with a pending negation$"):
        gossamer.spmm(csr(), b32(), out=out)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_torch_fake_tensors_are_refused(torch: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"^spmm: b has no data"):
        gossamer.spmm(csr(), fake)


@pytest.mark.parametrize("kind", ["plain", "parameter", "subclass"])
def test_torch_tensors_of_every_type_are_operands(torch: Any, kind: str) -> None:
    b = torch.from_numpy(b32())
    if kind == "parameter":
        b = torch.nn.Parameter(b, requires_grad=False)
    if kind == "subclass":
        b = b.as_subclass(type("Mine", (torch.Tensor,), {}))
    result = gossamer.spmm(csr(), b)
    assert type(result) is torch.Tensor
    check(result)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_torch_results_are_on_the_operands_device(torch: Any, device: str) -> None:
    b = torch.from_numpy(b32())
    with torch.device(device):
        result = gossamer.spmm(csr(), b)
    assert result.device == b.device
    check(result)


def test_torch_results_are_native(torch: Any) -> None:
    # Memory that PyTorch did not allocate itself could not be resized or given back (FSDP).
    result = gossamer.spmm(csr(), torch.from_numpy(b32()))
    assert result.untyped_storage().resizable()


def test_torch_tensors_without_memory_are_refused(torch: Any) -> None:
    freed = torch.ones(3, 2)
    freed.untyped_storage().resize_(0)
    for b in (freed, torch._efficientzerotensor((3, 2))):
        with pytest.raises(ValueError, match=r"^spmm: b has no data"):
            gossamer.spmm(csr(), b)
    with pytest.raises(TypeError, match=r"^spmm: b is traced, .* gossamer\.torch\.spmm works$"):
        torch.func.vmap(lambda x: gossamer.spmm(csr(), x))(torch.ones(3, 2))


def test_a_matrix_keeps_the_memory_that_a_torch_tensor_gave_it(torch: Any) -> None:
    values = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]), requires_grad=False)
    a = csr().with_values(values)
    storage = values.untyped_storage()._weak_ref()
    values.data = torch.zeros(3)
    assert not torch.UntypedStorage._expired(storage)
    check(gossamer.spmm(a, b32()))
    del a
    assert torch.UntypedStorage._expired(storage)


#: What writes: the call for a function that makes a tensor, and the names of what is written.
WRITES: dict[str, Any] = {
    "spmm": lambda t: gossamer.spmm(csr(), t(B), out=t(np.zeros((2, 2)), "out")),
    "linear": lambda t: gossamer.linear(t(B.T.copy()), csr(), out=t(np.zeros((2, 2)), "out")),
    "sddmm": lambda t: gossamer.sddmm(t(B[:2]), t(B), csr(), out=t(np.zeros(3), "out")),
    "to_dense": lambda t: csr().to_dense(out=t(A, "out")),
    "bsr to_dense": lambda t: gossamer.BSR.from_dense(A * 1.0, 1).to_dense(out=t(A, "out", "f8")),
    "topk_mask": lambda t: prune.topk_mask(t(B), 2, out=t(B, "out", bool)),
    "topk_mask list": lambda t: prune.topk_mask([t(B)], 2, out=[t(B, "out", bool)]),
    "topk_mask rows": lambda t: prune.topk_mask(t(B), 1, per="row", out=t(B, "out", bool)),
    "nm_mask": lambda t: prune.nm_mask(t(B), 1, 2, out=t(B, "out", bool)),
    "nm_mask_transposable": lambda t: prune.nm_mask_transposable(
        t(B[:2]), 1, 2, out=t(B[:2], "out", bool)
    ),
    "vnm_mask": lambda t: prune.vnm_mask(t(np.ones((2, 4))), 1, 2, 4, out=t(B2, "out", bool)),
    "block_pool": lambda t: prune.block_pool(t(B), (1, 1), out=t(B, "out")),
    "expand_blocks": lambda t: prune.expand_blocks(
        t(B, "", bool), (1, 1), (3, 2), out=t(B, "out", bool)
    ),
    "random_mask": lambda t: prune.random_mask(t(B), 2, seed=1, out=t(B, "out", bool)),
    "topk_rows": lambda t: prune.topk_rows(
        t(B), 1, out=(t(B[:, :1], "values"), t(B[:, :1], "indices", "i4"))
    ),
    "soft_threshold_": lambda t: prune.soft_threshold_(t(B, "w"), 0.5),
    "group_soft_threshold_": lambda t: prune.group_soft_threshold_(t(B, "w"), 0.5),
    "sef_prox_": lambda t: prune.sef_prox_(t(B, "w"), 0.5, 1.0),
    "l0_project_": lambda t: prune.l0_project_(t(B, "w"), 2),
    "shrink_": lambda t: prune.shrink_(t(B, "w"), t(B > 2, "", bool)),
    "srste_grad_": lambda t: prune.srste_grad_(t(B, "g"), t(B), t(B > 2, "", bool)),
    "coverage_or_": lambda t: prune.coverage_or_(t(B, "fired", bool), t(B, "", bool)),
    "obs_prune_": lambda t: prune.obs_prune_(t(B, "w"), np.eye(2), k=2),
    "obs_block_": lambda t: prune.obs_block_(t(B, "w"), t(np.eye(2)), k=2),
    "dsnot_rows_": lambda t: prune.dsnot_rows_(
        t(B > 2, "mask", bool), t(B), prune.ColumnStats().add(t(B))
    ),
    "set_drop": lambda t: regrow.set_drop(t(B), 1, 0, out=t(B, "keep", bool)),
    "drop_grow_": lambda t: regrow.drop_grow_(
        t(B > 2, "mask", bool), t(B), t(B), 1, 1, weights=t(B, "weights"), states=[t(B, "state")]
    ),
    "csr_drop_grow_": lambda t: regrow.csr_drop_grow_(
        gossamer.CSR(
            t([0, 2, 3], "indptr", "i4"), t([0, 2, 1], "indices", "i4"), t([1, 2, 3], "v"), (2, 3)
        ),
        t(A),
        1,
        1,
        states=[t([4, 5, 6], "state")],
    ),
}
B2 = np.zeros((2, 4))


@pytest.mark.parametrize("name", WRITES)
def test_torch_is_told_of_writes(torch: Any, name: str) -> None:
    made: dict[int, tuple[Any, bool]] = {}

    def make(array: Any, written: str = "", dtype: Any = np.float32) -> Any:
        tensor = torch.from_numpy(np.array(array).astype(dtype))
        made[id(tensor)] = tensor, bool(written)
        return tensor

    WRITES[name](make)
    assert any(written for _, written in made.values())
    for tensor, written in made.values():
        assert (tensor._version > 0) == written


def test_torch_refuses_a_gradient_from_what_was_overwritten(torch: Any) -> None:
    factor, x = torch.ones(4, 4), torch.ones(4, 4, requires_grad=True)
    y = (x * factor).sum()
    prune.soft_threshold_(factor, 0.5)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
        y.backward()


def test_torch_is_not_told_of_a_refused_call(torch: Any) -> None:
    out = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"out\.shape"):
        gossamer.spmm(csr(), torch.from_numpy(b32()), out=out)
    assert out._version == 0


@pytest.mark.parametrize("subclass", [False, True])
@pytest.mark.parametrize("given", ["", "out"])
def test_a_trace_of_torchs_is_told_of_constants(torch: Any, given: str, subclass: bool) -> None:
    b, out = torch.from_numpy(b32()), torch.zeros(2, 2) if given else None
    if subclass:
        b = b.as_subclass(type("Mine", (torch.Tensor,), {}))
    a = csr()
    with pytest.warns(torch.jit.TracerWarning, match="as a constant; functions of gossamer.torch"):
        traced = trace(torch, lambda b: gossamer.spmm(a, b, out=out) + b.sum(), b)
    check(traced(0 * b), A @ B)


def trace(torch: Any, function: Any, *arrays: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.trace", DeprecationWarning)
        return torch.jit.trace(function, arrays, check_trace=False)


def test_a_trace_of_torchs_records_differentiable_operations(torch: Any) -> None:
    import gossamer.torch as gt

    b, a = torch.from_numpy(b32()), csr()
    a = a.with_values(torch.from_numpy(np.array(a.values)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = trace(torch, lambda b: gt.spmm(a, b, activation="relu"), b)
    check(traced(2 * b), 2 * (A @ B))


SECOND = """
import jax, numpy as np
import jax.numpy as jnp
import gossamer
from gossamer import CSR, prune

second = jax.devices("cpu")[1]
x = jax.device_put(jnp.arange(12.0).reshape(3, 4), second)
a = CSR.from_dense(x)
made = {
    "linear": gossamer.linear(x, CSR.from_dense(np.ones((5, 4), np.float32))),
    "spmm": gossamer.spmm(CSR.from_dense(np.ones((5, 3), np.float32)), x),
    "sddmm": gossamer.sddmm(x, x[:2], CSR.from_dense(np.ones((3, 2), np.float32))),
    "topk_mask": prune.topk_mask(x, 3),
    **{"indptr": a.indptr, "indices": a.indices, "values": a.values, "to_dense": a.to_dense()},
    **{"values of the transpose": a.T.values, "pattern": CSR.from_mask(x > 3).indices},
}
elsewhere = [name for name, array in made.items() if array.devices() != {second}]
assert not elsewhere, elsewhere
np.testing.assert_array_equal(made["linear"], np.asarray(x).sum(1)[:, None].repeat(5, 1))
assert gossamer.linear(jnp.ones((3, 4)), a).devices() == {jax.devices("cpu")[0]}
"""


def test_jax_results_are_on_the_operands_device(jax: Any) -> None:
    run(sys.executable, "-c", SECOND, XLA_FLAGS="--xla_force_host_platform_device_count=2")


@pytest.mark.parametrize("subclass", [False, True])
def test_torch_is_told_by_views_and_subclasses(torch: Any, subclass: bool) -> None:
    whole = torch.zeros(4, 2)
    out = whole[1:3]
    if subclass:
        out = out.as_subclass(type("Mine", (torch.Tensor,), {}))
    gossamer.spmm(csr(), b32(), out=out)
    assert whole._version == 1


def test_jax_tracers_raise(jax: Any) -> None:
    message = (
        r"^spmm: b is traced, expected an array with values: inside jit, grad and vmap, "
        r"gossamer.jax.spmm works"
    )
    for trace in (jax.jit, jax.vmap, jax.grad):
        with pytest.raises(TypeError, match=message):
            trace(lambda b: gossamer.spmm(csr(), b))(jax.numpy.ones((3, 2)))
    with pytest.raises(TypeError, match=r"^topk_mask: score is traced, .*, it does not work"):
        jax.jit(lambda b: gossamer.prune.topk_mask(b, 1))(jax.numpy.ones((3, 2)))


def test_jax_shares_the_memory_of_results(jax: Any) -> None:
    tensor = _core.Tensor((4, 4), "float32")
    ours = np.from_dlpack(tensor).ctypes.data
    assert ours % 64 == 0
    assert jax.dlpack.from_dlpack(tensor).unsafe_buffer_pointer() == ours


def test_jax_operands_may_still_be_computing(jax: Any) -> None:
    n = 300
    x = jax.numpy.eye(n, dtype="float32")
    for _ in range(20):
        x = x @ x
    index = np.arange(n + 1, dtype=np.int32)
    eye = gossamer.CSR(index, index[:-1], np.ones(n, np.float32), (n, n))
    check(gossamer.spmm(eye, x), np.eye(n))


# Our own exporter.


@pytest.mark.parametrize("max_version", [None, (0, 8), (1, 0), (1, 3), (2, 0)])
def test_capsule_is_versioned_for_who_knows_versions(max_version: Any) -> None:
    capsule = _core.Tensor((2,), "float32").__dlpack__(max_version=max_version)
    versioned = max_version is not None and max_version[0] >= 1
    assert f'"{"dltensor_versioned" if versioned else "dltensor"}"' in repr(capsule)


def test_numpy_may_write_to_our_tensor() -> None:
    assert np.from_dlpack(_core.Tensor((2,), "float32")).flags.writeable


def test_tensor_exports_what_it_is() -> None:
    tensor = _core.Tensor((2, 0, 3), "int64")
    assert tensor.shape == (2, 0, 3)
    assert tensor.dtype == "int64"
    assert tensor.__dlpack_device__() == (1, 0)
    exported = np.from_dlpack(tensor)
    assert (exported.shape, exported.dtype) == ((2, 0, 3), np.int64)


def test_tensor_memory_outlives_it() -> None:
    tensor = _core.Tensor((1000,), "float64")
    view = np.from_dlpack(tensor)
    view[:] = 7
    del tensor
    assert view.sum() == 7000


def test_tensor_copies_on_request() -> None:
    tensor = _core.Tensor((2,), "float32")
    np.from_dlpack(tensor)[:] = 1
    np.from_dlpack(tensor, copy=True)[:] = 2
    assert np.from_dlpack(tensor).tolist() == [1, 1]


def test_tensor_refuses_what_it_cannot_do() -> None:
    tensor = _core.Tensor((2,), "float32")
    with pytest.raises(BufferError):
        tensor.__dlpack__(dl_device=(2, 0))
    with pytest.raises(ValueError, match=r"stream"):
        tensor.__dlpack__(stream=1)
    with pytest.raises(TypeError, match=r"float8"):
        _core.Tensor((2,), "float8")
    with pytest.raises(ValueError, match=r"negative"):
        _core.Tensor((-1,), "float32")


# out=


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_out_is_written_and_returned(framework: str) -> None:
    out = make(framework, np.full((2, 2), 9, np.float32))
    assert gossamer.spmm(csr(), make(framework, b32()), out=out) is out
    check(out)
    assert gossamer.spmm(csr(), b32(), accumulate=True, out=out) is out
    check(out, 2 * (A @ B))


def test_out_rows_may_be_strided() -> None:
    wide = np.zeros((2, 5), np.float32)
    gossamer.spmm(csr(), b32(), out=wide[:, 1:3])
    check(wide[:, 1:3])
    assert wide[:, [0, 3, 4]].sum() == 0


def read_only() -> np.ndarray:
    out = np.zeros((2, 2), np.float32)
    out.flags.writeable = False
    return out


def repeated() -> np.ndarray:
    return np.lib.stride_tricks.as_strided(np.zeros(2, np.float32), (2, 2), (0, 4))


OUT: dict[str, tuple[Any, type[Exception], str]] = {
    "shape": (np.zeros((2, 3), np.float32), ValueError, r"out\.shape is \(2, 3\)"),
    "rank": (np.zeros(2, np.float32), ValueError, r"out\.shape is \(2,\)"),
    "dtype": (np.zeros((2, 2)), TypeError, r"out\.dtype is float64"),
    "read-only": (read_only(), ValueError, "out is read-only"),
    "broadcast": (np.broadcast_to(np.float32(0), (2, 2)), ValueError, r"out(\.strides| is read)"),
    "last stride": (np.zeros((2, 4), np.float32)[:, ::2], ValueError, r"out\.strides\[-1\] is 2"),
    "zero stride": (repeated(), ValueError, r"out\.strides\[0\] is 0"),
    "no array": ([0], TypeError, "out is a list, expected an array with __dlpack__"),
    "unknown framework": (
        Producer(np.zeros((2, 2), np.float32)),
        ValueError,
        "out is a Producer, expected a NumPy, PyTorch or CuPy array",
    ),
}


@pytest.mark.parametrize("case", OUT)
def test_bad_out_is_refused(case: str) -> None:
    out, error, message = OUT[case]
    with pytest.raises(error, match=f"^spmm: {message}"):
        gossamer.spmm(csr(), b32(), out=out)


def test_jax_out_is_refused(jax: Any) -> None:
    out = jax.numpy.zeros((2, 2), "float32")
    with pytest.raises(ValueError, match=r"^spmm: out is a ArrayImpl, expected a NumPy, PyTorch"):
        gossamer.spmm(csr(), b32(), out=out)
    assert float(out.sum()) == 0


def test_torch_zero_stride_out_is_refused(torch: Any) -> None:
    with pytest.raises(ValueError, match=r"out\.strides\[0\] is 0"):
        gossamer.spmm(csr(), b32(), out=torch.zeros(1, 2).expand(2, 2))


def test_read_only_flag_of_a_capsule_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if from a framework whose arrays may be written.
    writable = _interop._other()._replace(refusal=lambda _array: None)
    monkeypatch.setitem(_interop._by_type, Producer, writable)
    out = np.zeros((2, 2), np.float32)
    gossamer.spmm(csr(), b32(), out=Producer(out))
    check(out)
    with pytest.raises(ValueError, match=r"^spmm: out is read-only"):
        gossamer.spmm(csr(), b32(), out=Producer(out, flags=READ_ONLY))


def test_out_overlapping_an_operand_is_refused() -> None:
    memory = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"^spmm: out overlaps b"):
        gossamer.spmm(csr(), memory, out=memory[:2])
    a = csr()
    with pytest.raises(ValueError, match=r"^spmm: out overlaps a\.values"):
        gossamer.spmm(a, np.ones(3, np.float32), out=a.values[:2])
    bias = np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"^spmm: out overlaps bias"):
        gossamer.spmm(a, np.ones(3, np.float32), bias=bias, out=bias)


def test_out_overlap_across_frameworks_is_seen(torch: Any) -> None:
    memory = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"^spmm: out overlaps b"):
        gossamer.spmm(csr(), memory, out=torch.from_numpy(memory)[:2])


@pytest.mark.parametrize("op", ["spmm", "linear", "sddmm"])
def test_accumulate_needs_out(op: str) -> None:
    a, b, x = csr(), b32(), np.ones((2, 3), np.float32)
    calls = {
        "spmm": lambda: gossamer.spmm(a, b, accumulate=True),
        "linear": lambda: gossamer.linear(x, a, accumulate=True),
        "sddmm": lambda: gossamer.sddmm(b[:2], b, a, accumulate=True),
    }
    with pytest.raises(ValueError, match=f"^{op}: accumulate is True, expected out to add to$"):
        calls[op]()


# Options, and the interpreter's lock.


@pytest.mark.parametrize("activation", ["tanh", 3, ("clamp", 1), ("relu", 0, 1), ["clamp", 0, 1]])
def test_unknown_activations_are_refused(activation: Any) -> None:
    with pytest.raises(ValueError, match=r"^spmm: activation is .*, expected None, 'relu'"):
        gossamer.spmm(csr(), b32(), activation=activation)


def test_activations_are_read() -> None:
    b, full = b32() - 3, A @ (B - 3)
    check(gossamer.spmm(csr(), b, activation="relu"), np.maximum(full, 0))
    check(gossamer.spmm(csr(), b, activation="relu6"), np.clip(full, 0, 6))
    check(gossamer.spmm(csr(), b, activation=("clamp", -1, 2)), np.clip(full, -1, 2))


def test_other_threads_run_during_an_op() -> None:
    n = 512
    columns = np.tile(np.arange(n, dtype=np.int32), n)
    indptr = np.arange(0, n * n + 1, n, dtype=np.int32)
    a = gossamer.CSR(indptr, columns, np.ones(n * n, np.float32), (n, n))
    b = np.ones((n, 4096), np.float32)
    turns = 0
    done = threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = turns
        gossamer.spmm(a, b)
        during = turns - before
    finally:
        done.set()
        thread.join()
    assert during > 1000
