"""Invalid calls of the products, each with its exact error message."""

from __future__ import annotations

from collections.abc import Callable

import gossamer
import numpy as np
import pytest
from gossamer import prune, regrow

F32 = np.float32


def ones(*shape: int, dtype: type = F32) -> np.ndarray:
    return np.ones(shape, dtype)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


#: A matrix [2, 3]: products with it expect b [3, n] or x [n, 3], and have 2 rows or features.
A = gossamer.CSR.from_dense(np.array([[1, 0, 2], [0, 3, 0]], F32))
SHARED = ones(8, 8)
X = ones(4, 4)
INT64 = "-2**63 to 2**63 - 1"
SQUARE = gossamer.CSR.from_dense(np.eye(4, dtype=F32))

BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    # shapes
    (
        lambda: gossamer.spmm(A, ones(2, 4)),
        ValueError,
        "spmm: b.shape[0] is 2, expected a.shape[1] = 3",
    ),
    (
        lambda: gossamer.spmm(A, ones(4)),
        ValueError,
        "spmm: b.shape[0] is 4, expected a.shape[1] = 3",
    ),
    (
        lambda: gossamer.spmm(A, ones(3, 4), transpose_a=True),
        ValueError,
        "spmm: b.shape[0] is 3, expected a.shape[0] = 2",
    ),
    (
        lambda: gossamer.spmm(gossamer.pack(A), ones(3, 4, 5)),
        ValueError,
        "spmm: b.ndim is 3, expected 1 or 2",
    ),
    (
        lambda: gossamer.spmm(A, ones(3, 4, 5)),
        ValueError,
        "spmm: b.shape[1] is 4, expected a.shape[1] = 3",
    ),
    (
        lambda: gossamer.linear(ones(4, 2), A),
        ValueError,
        "linear: x.shape[1] is 2, expected w.shape[1] = 3",
    ),
    (
        lambda: gossamer.linear(ones(5, 4, 2), A),
        ValueError,
        "linear: x.shape[2] is 2, expected w.shape[1] = 3",
    ),
    (
        lambda: gossamer.linear(np.array(1, F32), A),
        ValueError,
        "linear: x.ndim is 0, expected at least 1",
    ),
    (
        lambda: gossamer.sddmm(ones(3, 4), ones(3, 4), A),
        ValueError,
        "sddmm: a.shape[0] is 3, expected pattern.shape[0] = 2",
    ),
    (
        lambda: gossamer.sddmm(ones(2, 4), ones(2, 4), A),
        ValueError,
        "sddmm: b.shape[0] is 2, expected pattern.shape[1] = 3",
    ),
    (
        lambda: gossamer.sddmm(ones(2, 4), ones(3, 5), A),
        ValueError,
        "sddmm: b.shape[1] is 5, expected a.shape[1] = 4",
    ),
    (lambda: gossamer.sddmm(ones(2), ones(3, 5), A), ValueError, "sddmm: a.ndim is 1, expected 2"),
    # element types
    (
        lambda: gossamer.spmm(A, ones(3, 4, dtype=np.float64)),
        TypeError,
        "spmm: b.dtype is float64, expected a.dtype = float32",
    ),
    (
        lambda: gossamer.linear(ones(4, 3, dtype=np.float16), A),
        TypeError,
        "linear: x.dtype is float16, expected w.dtype = float32",
    ),
    (
        lambda: gossamer.sddmm(ones(2, 4), ones(3, 4, dtype=np.float64), A),
        TypeError,
        "sddmm: b.dtype is float64, expected a.dtype = float32",
    ),
    (
        lambda: gossamer.sddmm(ones(2, 4, dtype=np.int32), ones(3, 4, dtype=np.int32), A),
        TypeError,
        "sddmm: a.dtype is int32, expected float32, float64, float16 or bfloat16",
    ),
    # layouts
    (
        lambda: gossamer.spmm(A, ones(4, 3).T),
        ValueError,
        "spmm: b.strides[-1] is 3, expected 1 (make it contiguous)",
    ),
    (
        lambda: gossamer.spmm(A, ones(3, 4)[::-1]),
        ValueError,
        "spmm: b.strides[0] is -4, expected no negative stride",
    ),
    (
        lambda: gossamer.linear(ones(4, 6)[:, ::2], A),
        ValueError,
        "linear: x.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
    # bias, activation, accumulate, n
    (
        lambda: gossamer.spmm(A, ones(3, 4), bias=ones(3)),
        ValueError,
        "spmm: bias.shape[0] is 3, expected a.shape[0] = 2",
    ),
    (
        lambda: gossamer.spmm(A, ones(2, 4), transpose_a=True, bias=ones(2)),
        ValueError,
        "spmm: bias.shape[0] is 2, expected a.shape[1] = 3",
    ),
    (
        lambda: gossamer.linear(ones(4, 3), A, bias=ones(2, 1)),
        ValueError,
        "linear: bias.ndim is 2, expected 1",
    ),
    (
        lambda: gossamer.linear(ones(4, 3), A, bias=ones(2, dtype=np.float64)),
        TypeError,
        "linear: bias.dtype is float64, expected w.dtype = float32",
    ),
    (
        lambda: gossamer.linear(ones(4, 3), A, activation=("clamp", "0", 1.0)),
        TypeError,
        "linear: activation[1] is '0', expected a number",
    ),
    (
        lambda: gossamer.linear(ones(4, 3), A, activation=("clamp", 2.0, 1.0)),
        ValueError,
        "linear: activation is clamp from 2.0 to 1.0, expected lo <= hi",
    ),
    (
        lambda: gossamer.pack(A, n=0),
        ValueError,
        "pack: n is 0, expected at least 1",
    ),
    (
        lambda: gossamer.set_num_threads(0),
        ValueError,
        "set_num_threads: n is 0, expected 1 to 1024",
    ),
    # options that are of another type, or beyond any size
    (lambda: gossamer.pack(A, n=2**70), ValueError, f"pack: n is {2**70}, expected {INT64}"),
    (lambda: gossamer.pack(A, n=8.0), TypeError, "pack: n is 8.0, expected an integer"),
    (
        lambda: gossamer.set_num_threads(2**40),
        ValueError,
        "set_num_threads: n is 1099511627776, expected 1 to 1024",
    ),
    (
        lambda: gossamer.set_num_threads("2"),
        TypeError,
        "set_num_threads: n is '2', expected an integer",
    ),
    (
        lambda: gossamer.CSR(A.indptr, A.indices, A.values, 5),
        TypeError,
        "CSR: shape is 5, expected two integers",
    ),
    (
        lambda: gossamer.CSR(A.indptr, A.indices, A.values, ("2", "3")),
        TypeError,
        "CSR: shape is ('2', '3'), expected two integers",
    ),
    (
        lambda: gossamer.CSR(A.indptr, A.indices, A.values, (2, 3, 4)),
        ValueError,
        "CSR: shape is (2, 3, 4), expected two integers",
    ),
    (
        lambda: gossamer.BSR.from_dense(ones(4, 4), 2.5),
        TypeError,
        "BSR.from_dense: block is 2.5, expected two integers",
    ),
    (
        lambda: gossamer.spmm(A, ones(3, 4), transpose_a="yes"),
        TypeError,
        "spmm: transpose_a is 'yes', expected True or False",
    ),
    (lambda: prune.topk_mask(X, 0.9), TypeError, "topk_mask: k is 0.9, expected an integer"),
    (lambda: prune.topk_mask(X, 2**70), ValueError, f"topk_mask: k is {2**70}, expected {INT64}"),
    (
        lambda: prune.topk_mask(X, 1, per=1.5),
        TypeError,
        "topk_mask: per is 1.5, expected an integer",
    ),
    (lambda: prune.topk_mask(X, 1, tie=3), TypeError, "topk_mask: tie is 3, expected a string"),
    (
        lambda: prune.kth(X, ones(3)),
        TypeError,
        "kth: k is an array of shape (3,), expected an integer",
    ),
    (lambda: prune.nm_mask(X, 2.0, 4), TypeError, "nm_mask: n is 2.0, expected an integer"),
    (lambda: prune.check_nm(X, 1, 2**63), ValueError, f"check_nm: m is {2**63}, expected {INT64}"),
    (
        lambda: prune.check_nm(X, 10**5000, 4),
        ValueError,
        f"check_nm: n is beyond any size, expected {INT64}",
    ),
    (
        lambda: prune.check_nm(X, 1, 2, axis=2**40),
        ValueError,
        "check_nm: axis is 1099511627776, expected -2147483648 to 2147483647",
    ),
    (
        lambda: prune.random_mask(X, 1, seed=-1),
        ValueError,
        "random_mask: seed is -1, expected 0 to 2**64 - 1",
    ),
    (
        lambda: prune.random_mask((4, -1), 1, seed=0),
        ValueError,
        "random_mask: shape_or_like has extent -1, expected none below 0",
    ),
    (
        lambda: prune.block_pool(X, (2,)),
        ValueError,
        "block_pool: block is (2,), expected two integers",
    ),
    (
        lambda: prune.obs_prune_(X, X, nm=(1, 2, 3)),
        ValueError,
        "obs_prune_: nm is (1, 2, 3), expected two integers",
    ),
    (
        lambda: prune.nnz_stats(X, per=(1.0, 2)),
        TypeError,
        "nnz_stats: per is (1.0, 2), expected two integers",
    ),
    (lambda: prune.score(X, alpha="a"), TypeError, "score: alpha is 'a', expected a number"),
    (lambda: prune.Selection(1.5), TypeError, "Selection: k is 1.5, expected an integer"),
    (
        lambda: regrow.drop_grow_(X > 2, X, X, 1.5, 1),
        TypeError,
        "drop_grow_: n_drop is 1.5, expected an integer",
    ),
    (
        lambda: regrow.csr_drop_grow_(A, regrow.Random(-1), 1, 1),
        ValueError,
        "csr_drop_grow_: seed is -1, expected 0 to 2**64 - 1",
    ),
    # out
    (
        lambda: gossamer.spmm(A, ones(3, 4), out=ones(2, 5)),
        ValueError,
        "spmm: out.shape is (2, 5), expected (2, 4)",
    ),
    (
        lambda: gossamer.spmm(A, ones(3), out=ones(2, 1)),
        ValueError,
        "spmm: out.shape is (2, 1), expected (2,)",
    ),
    (
        lambda: gossamer.linear(ones(4, 3), A, out=ones(4, 3)),
        ValueError,
        "linear: out.shape is (4, 3), expected (4, 2)",
    ),
    (
        lambda: gossamer.sddmm(ones(2, 4), ones(3, 4), A, out=ones(4)),
        ValueError,
        "sddmm: out.shape is (4,), expected (3,)",
    ),
    (
        lambda: gossamer.spmm(A, ones(3, 4), out=ones(2, 4, dtype=np.float64)),
        TypeError,
        "spmm: out.dtype is float64, expected a.dtype = float32",
    ),
    (
        lambda: gossamer.spmm(A, ones(3, 4), out=read_only(ones(2, 4))),
        ValueError,
        "spmm: out is read-only, expected a writable array",
    ),
    (
        lambda: gossamer.spmm(A, ones(3, 4), out=ones(2, 8)[:, ::2]),
        ValueError,
        "spmm: out.strides[-1] is 2, expected 1 (make it contiguous)",
    ),
    (
        lambda: gossamer.spmm(SQUARE, SHARED[:4, :4], out=SHARED[2:6, :4]),
        ValueError,
        "spmm: out overlaps b, expected separate memory",
    ),
    (
        lambda: gossamer.linear(SHARED[:3, :4], SQUARE, out=SHARED[:3, 3:7]),
        ValueError,
        "linear: out overlaps x, expected separate memory",
    ),
    (
        lambda: gossamer.spmm(SQUARE, ones(4), out=SQUARE.values),
        ValueError,
        "spmm: out overlaps a.values, expected separate memory",
    ),
    (
        lambda: gossamer.linear(ones(4), SQUARE, bias=SHARED[0, :4], out=SHARED[0, 2:6]),
        ValueError,
        "linear: out overlaps bias, expected separate memory",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_message(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("form", ["csr", "packed"])
def test_a_failed_check_leaves_out_alone(form: str) -> None:
    a = gossamer.pack(A) if form == "packed" else A
    out = np.full((2, 4), 7, F32)
    with pytest.raises(ValueError, match="bias"):
        gossamer.spmm(a, ones(3, 4), bias=ones(5), out=out)
    with pytest.raises(TypeError, match="dtype"):
        gossamer.spmm(a, ones(3, 4, dtype=np.float64), out=out)
    assert (out == 7).all()


def test_out_may_lie_beside_an_operand() -> None:
    gossamer.spmm(SQUARE, SHARED[:4, :4], out=SHARED[:4, 4:])
    np.testing.assert_array_equal(SHARED[:4, 4:], SHARED[:4, :4])


@pytest.mark.parametrize("call", [gossamer.spmm, lambda a, b: gossamer.linear(b, a)])
def test_dense_for_sparse_is_refused(call: Callable[[object, object], object]) -> None:
    with pytest.raises(TypeError, match="expected a CSR, a BSR, an NM, a Packed or a GroupQuant"):
        call(ones(3, 3), ones(3, 3))
