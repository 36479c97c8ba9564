"""Every argument of every operation, replaced by what it can never be.

An operation takes what is right and refuses everything else by an error of its own, in words that
name it: no message of pybind11's, no AttributeError from within, no crash and no hang.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import gossamer as g
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from gossamer import BSR, CSR, NM, BlockLayout, GroupQuant, functional, graph, prune, regrow
from producer import Producer

pytestmark = pytest.mark.once

F = np.float32
Arguments = dict[str, Any]


def real(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(F)


W = np.where(np.random.default_rng(0).random((8, 16)) < 0.5, real(8, 16), 0).astype(F)
A = CSR.from_dense(W)
SQUARE = CSR.from_dense(np.eye(4, dtype=F))
PATTERN = CSR(A.indptr, A.indices, None, A.shape)
B = BSR.from_dense(W, (4, 4))
HALF = W * prune.nm_mask(prune.score(W), 2, 4)
N = NM.from_dense(HALF, 2, 4)
Q = GroupQuant.from_dense(W)
PACKED = g.pack(A)
LAYOUT = BlockLayout.from_mask(np.ones((1, 4, 4), bool), block=2)
HEADS = real(1, 8, 2, 4)
OUT, LOG = g.attention(HEADS, HEADS, HEADS, LAYOUT)
OUT_CSR, LOG_CSR = g.csr_attention(real(8, 4), real(16, 4), real(16, 4), A)
PAGES = real(6, 4, 1, 4)
LISTS = np.array([0, 2], np.int32), np.array([2, 0], np.int32)
PLACES = np.array([[0, 3], [1, 2]])


def zeros(*shape: int, dtype: Any = F) -> np.ndarray:
    return np.zeros(shape, dtype)


def like(x: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


def products(a: Any) -> Iterator[tuple[str, Callable[..., Any], Arguments]]:
    """The calls that every format has."""
    options: Arguments = {"bias": real(8), "activation": "relu", "accumulate": False}
    yield "spmm", g.spmm, {"a": a, "b": real(16, 3), **options, "out": zeros(8, 3)}
    yield "linear", g.linear, {"x": real(3, 16), "w": a, **options, "out": zeros(3, 8)}


def calls() -> Iterator[tuple[str, Callable[..., Any], Arguments]]:
    """(name, function, right arguments)."""
    for a in (A, B, N, PACKED, Q):
        yield from products(a)
    flags = {"needs": (True, True, True), "accumulate": False, "out": None}
    for a in (A, B, N):
        yield "spmm", g.spmm, {"a": a, "b": real(8, 3), "transpose_a": True}
        yield (
            "linear_backward",
            g.linear_backward,
            {"dy": real(3, 8), "x": real(3, 16), "w": a, **flags},
        )
        yield (
            "spmm_backward",
            g.spmm_backward,
            {"dy": real(8, 3), "a": a, "b": real(16, 3), **flags},
        )
    for a in (A, B):
        yield (
            "sddmm",
            g.sddmm,
            {"a": real(8, 3), "b": real(16, 3), "pattern": a, "accumulate": False},
        )
    yield (
        "sddmm",
        g.sddmm,
        {"a": real(8, 3), "b": real(16, 3), "pattern": A, "scale": 2.0, "dtype": "float32"},
    )
    layer: Arguments = {"bias": real(5), "activation": "relu", "out": zeros(2, 5)}
    yield (
        "sparse_linear",
        g.sparse_linear,
        {"x": real(2, 16), "wt": real(16, 5), "threshold": 0.5, "accumulate": False, **layer},
    )
    yield (
        "delta_linear",
        lambda **a: g.delta_linear(**a, state=g.DeltaState()),
        {"x": real(2, 16), "wt": real(16, 5), "threshold": 0.5, "refresh": False, **layer},
    )
    yield (
        "delta_linear",
        lambda state: g.delta_linear(real(16), real(16, 5), state, threshold=0.5),
        {"state": g.DeltaState()},
    )
    mlp: Arguments = {name: real(6, 4) for name in ("w_gate", "w_up", "w_down_t")}
    yield (
        "gated_mlp",
        g.gated_mlp,
        {"x": real(2, 4), **mlp, "threshold": 0.1, "activation": "silu", "out": zeros(2, 4)},
    )
    yield (
        "gather_decode",
        g.gather_decode,
        {
            "indices": PLACES,
            "values": real(2, 2),
            "table": real(6, 4),
            "bias": real(4),
            "out": None,
        },
    )
    yield (
        "gather_decode_backward",
        g.gather_decode_backward,
        {
            **{"dy": real(2, 4), "indices": PLACES, "values": real(2, 2), "table": real(6, 4)},
            **{"needs": (True, True), "out": (zeros(2, 2), zeros(6, 4))},
        },
    )
    yield "topk_rows", g.topk_rows, {"x": real(3, 9), "k": 2, "key": real(3, 9)}
    yield (
        "topk_rows_backward",
        g.topk_rows_backward,
        {"dy": real(2, 2), "indices": PLACES, "columns": 6, "out": zeros(2, 6)},
    )
    yield "csr_softmax", g.csr_softmax, {"a": A, "out": zeros(A.nnz)}
    yield (
        "csr_softmax_backward",
        g.csr_softmax_backward,
        {"p": g.csr_softmax(A), "grad": real(A.nnz), "out": zeros(A.nnz)},
    )
    yield from attentions()
    yield from formats()
    yield from pruning()
    yield "row_sum", graph.row_sum, {"a": A, "power": 1.0, "out": zeros(8)}
    yield "row_max", graph.row_max, {"a": A, "out": zeros(8)}
    yield "edge_score", graph.edge_score, {"a": SQUARE, "out": zeros(4)}
    yield "strength", graph.strength, {"a": A, "axis": 0, "out": zeros(16)}
    yield (
        "scale_rows_cols",
        graph.scale_rows_cols,
        {"a": A, "rows": real(8), "cols": real(16), "out": zeros(A.nnz)},
    )
    mask = np.array([1, 0, 1, 0], bool)
    drop: Arguments = {"drop_score": real(4), "grow_score": real(4), "n_drop": 1, "n_grow": 1}
    for name, function in (("drop_grow_", regrow.drop_grow_), ("drop_grow", functional.drop_grow)):
        yield name, function, {"mask": mask, **drop}
    grow: Arguments = {"a": A, "grow": real(8, 16), "n_drop": 1, "n_grow": 1}
    yield "csr_drop_grow|CSR", functional.csr_drop_grow, grow
    yield "soft_threshold", functional.soft_threshold, {"w": real(4), "threshold": 0.1}
    yield "l0_project", functional.l0_project, {"w": real(4), "k": 2}
    yield "shrink", functional.shrink, {"w": real(4), "mask": mask, "factor": 0.5}


def attentions() -> Iterator[tuple[str, Callable[..., Any], Arguments]]:
    rule: Arguments = {"score": "dot", "scale": 0.5, "slope": 0.2, "bias": real(A.nnz)}
    three: Arguments = {"q": real(8, 4), "k": real(16, 4), "v": real(16, 4)}
    yield (
        "csr_attention",
        g.csr_attention,
        {**three, "pattern": A, **rule, "out": (zeros(8, 4), zeros(8))},
    )
    yield (
        "csr_attention_backward",
        g.csr_attention_backward,
        {
            **{"grad": real(8, 4), **three, "o": OUT_CSR, "lse": LOG_CSR, "pattern": A, **rule},
            **{"dlse": real(8), "out": (zeros(8, 4), zeros(16, 4), zeros(16, 4), zeros(A.nnz))},
        },
    )
    heads: Arguments = {"q": HEADS, "k": HEADS, "v": HEADS}
    rule = {"causal": False, "window": (2, 2), "scale": 0.5, "softcap": 3.0, "q_offset": 0}
    rule |= {"bias": real(1, 2, 8, 8), "sinks": real(2)}
    yield (
        "attention",
        g.attention,
        {**heads, "layout": LAYOUT, **rule, "out": (like(OUT), like(LOG))},
    )
    starts = np.array([0, 4, 8], np.int32)
    yield (
        "attention",
        g.attention,
        {
            **{name: real(8, 2, 4) for name in ("q", "k", "v")},
            "layout": BlockLayout.from_mask(np.ones((2, 1, 2, 2), bool), block=2),
            **{"cu_seqlens": starts, "cu_seqlens_k": starts},
        },
    )
    yield (
        "attention_backward",
        g.attention_backward,
        {
            **{"do": like(OUT), **heads, "o": OUT, "lse": LOG, "layout": LAYOUT, **rule},
            **{"dlse": LOG, "with_dbias": True},
            "out": (like(HEADS), like(HEADS), like(HEADS)),
        },
    )
    query = real(1, 1, 1, 4)
    yield (
        "attention_decode",
        g.attention_decode,
        {
            **{"q": query, "k_cache": PAGES, "v_cache": PAGES, "indptr": LISTS[0]},
            **{"indices": LISTS[1], "lengths": np.array([7], np.int32), "causal": False},
            **{
                "scale": 0.5,
                "softcap": 3.0,
                "sinks": real(1),
                "out": (like(query), zeros(1, 1, 1)),
            },
        },
    )
    yield (
        "merge_attention",
        g.merge_attention,
        {"parts": [(OUT, LOG), (OUT, LOG)], "out": (like(OUT), like(LOG))},
    )
    yield (
        "merge_attention",
        lambda o, lse: g.merge_attention([(OUT, LOG), (o, lse)]),
        {"o": OUT, "lse": LOG},
    )
    yield (
        "block_pool",
        g.block_pool,
        {"x": HEADS, "block": 2, "mode": "mean", "out": zeros(1, 4, 2, 4)},
    )
    yield (
        "block_topk",
        g.block_topk,
        {
            **{"q": real(1, 2, 2, 4), "pooled": real(1, 4, 2, 4), "k": 2},
            **{"pooled_min": real(1, 4, 2, 4), "rows": 2, "block": 2, "causal": True},
            **{"q_offset": 0, "keep_first": 1, "keep_local": 1},
            "out": zeros(1, 2, 2, 2, dtype=np.int32),
        },
    )


def pruning() -> Iterator[tuple[str, Callable[..., Any], Arguments]]:
    w, mask = real(8, 16), real(8, 16) > 0
    ranks: Arguments = {"tie": "low", "nan": "lowest"}
    yield (
        "topk_mask",
        prune.topk_mask,
        {"score": w, "k": 5, "largest": True, "within": mask, "per": None, **ranks, "packed": None},
    )
    yield "topk_mask", prune.topk_mask, {"score": w, "k": 5, "per": "row", "out": like(mask)}
    yield "kth", prune.kth, {"score": w, "k": 5, "largest": True, "nan": "lowest"}
    yield "quantile|score", prune.quantile, {"x": w, "q": 0.5, "interpolation": "linear"}
    yield (
        "random_mask",
        prune.random_mask,
        {"shape_or_like": w, "k": 5, "seed": 1, "step": 2, "within": mask, "out": like(mask)},
    )
    yield (
        "nm_mask",
        prune.nm_mask,
        {"score": w, "n": 2, "m": 4, "axis": -1, **ranks, "tail": "error"},
    )
    yield "check_nm", prune.check_nm, {"x": w, "n": 2, "m": 4, "axis": -1}
    square = {"score": w, "n": 2, "m": 4, "method": "exact", "out": like(mask)}
    yield "nm_mask_transposable", prune.nm_mask_transposable, square
    yield "vnm_mask", prune.vnm_mask, {"v": 4, **square, "m": 8}
    yield (
        "block_pool",
        prune.block_pool,
        {"score": w, "block": (2, 4), "reduce": "mean", "out": None},
    )
    yield (
        "block_mask|block_pool|topk_mask",
        prune.block_mask,
        {"score": w, "k": 3, "block": (2, 4), "reduce": "l1", **ranks},
    )
    yield (
        "expand_blocks",
        prune.expand_blocks,
        {"mask": mask, "block": (2, 4), "shape": (16, 64), "out": None},
    )
    yield (
        "permutation_search",
        prune.permutation_search,
        {"w": w, "n": 2, "m": 4, "method": "swap", "seed": 0, "out": None},
    )
    yield "count_nan", prune.count_nan, {"score": w}
    yield "nnz_stats", prune.nnz_stats, {"x": w, "per": "row", "out": None}
    yield "coverage_or_", prune.coverage_or_, {"fired": mask.copy(), "mask": mask}
    yield "soft_threshold_", prune.soft_threshold_, {"w": w, "threshold": 0.1}
    for name in ("group_soft_threshold_", "sef_prox_"):
        numbers = {"threshold": 0.1} if name[0] == "g" else {"lam": 0.1, "k": 2.0}
        yield name, getattr(prune, name), {"w": w, **numbers, "per": "row"}
    yield "l0_project_", prune.l0_project_, {"w": w, "k": 9, "out": like(mask)}
    yield "shrink_", prune.shrink_, {"w": w, "mask": mask, "factor": 0.5}
    yield "srste_grad_", prune.srste_grad_, {"g": w.copy(), "w": w, "mask": mask, "decay": 0.1}
    yield (
        "polarization",
        prune.polarization,
        {"gamma": real(9), "t": 1.0, "alpha": 1.0, "out": None},
    )
    yield (
        "obs_prune_|negative dimensions|array is too big",
        prune.obs_prune_,
        {"w": w.copy(), "hessian": np.eye(16, dtype=F), "k": 9, "block": 8, "damping": 0.1},
    )
    yield "cats_threshold", prune.cats_threshold, {"x": w, "k": 5}
    yield "channel_threshold", prune.channel_threshold, {"x": w, "u_sq": abs(real(16)), "k": 5}
    yield "cett_threshold", prune.cett_threshold, {"w_out": w, "t": 0.2}
    yield (
        "histogram_quantile",
        prune.histogram_quantile,
        {"counts": [1, 2], "edges": [0, 1, 2], "q": 0.5},
    )
    yield (
        "score|topk_mask",
        lambda **a: prune.topk_mask(prune.score(**a), 5),
        {
            **{
                "w": w,
                "kind": "snip",
                "g": real(8, 16),
                "alpha": 1.0,
                "beta": 1.0,
                "eps": 1e-8,
                "scale": 2.0,
            }
        },
    )
    yield "set_drop", regrow.set_drop, {"values": real(9), "n_positive": 1, "n_negative": 1}


def formats() -> Iterator[tuple[str, Callable[..., Any], Arguments]]:
    structure: Arguments = {"indptr": np.array(A.indptr), "indices": np.array(A.indices)}
    options: Arguments = {"check": True, "index_dtype": "int32"}
    yield "CSR", CSR, {**structure, "values": np.array(A.values), "shape": A.shape, **options}
    yield "CSR", CSR, {**structure, "values": None, "shape": A.shape, **options}
    yield (
        "BSR",
        BSR,
        {
            **{"indptr": np.array(B.indptr), "indices": np.array(B.indices)},
            **{"blocks": np.array(B.blocks), "shape": B.shape, **options},
        },
    )
    yield "CSR", CSR.from_dense, {"w": W, "mask": W != 0}
    yield "CSR", CSR.from_mask, {"mask": W != 0, "dtype": "float32"}
    # A shape of 2**31 rows would be right, and take 16 GiB.
    place: Arguments = {"index": zeros(2, 3, dtype=int), "values": real(3), "duplicates": "sum"}
    yield "CSR.from_coo", functools.partial(CSR.from_coo, shape=(4, 5)), place
    yield "with_values|CSR", A.with_values, {"values": real(A.nnz)}
    yield "BSR", BSR.from_dense, {"w": W, "block": (4, 4), "mask": np.ones((8, 16), bool)}
    values, indices = np.array(N.values), np.array(N.indices)
    yield (
        "NM",
        NM,
        {
            **{"values": values, "indices": indices, "shape": N.shape},
            "n": 2,
            "m": 4,
            "axis": 1,
            "check": True,
        },
    )
    yield "NM.from_dense", NM.from_dense, {"w": HALF, "n": 2, "m": 4, "axis": 1, "mask": HALF != 0}
    yield "with_values|NM", N.with_values, {"values": values}
    yield "to_dense", N.to_dense, {"out": zeros(8, 16)}
    codes: Arguments = {
        name: np.array(getattr(Q, name))
        for name in ("indptr", "indices", "codes", "scales", "zeros")
    }
    yield (
        "GroupQuant",
        GroupQuant,
        {**codes, "shape": Q.shape, "group": 16, "bits": 4, "dtype": "float32"},
    )
    dense: Arguments = {"w": W, "group": 16, "bits": 4}
    yield "GroupQuant.from_dense", GroupQuant.from_dense, {**dense, "sparsity": 0.5}
    yield "GroupQuant.from_dense", GroupQuant.from_dense, {**dense, "mask": np.ones((8, 1), bool)}
    yield "to_dense", Q.to_dense, {"out": zeros(8, 16)}
    yield "Packed.to_dense", PACKED.to_dense, {"out": zeros(*A.shape)}
    yield "Packed.update|pack", PACKED.update, {"values": np.array(A.values)}
    yield "pack", g.pack, {"a": A, "n": 4}
    tiles = BlockLayout.from_csr(SQUARE, block=2)
    yield (
        "BlockLayout",
        BlockLayout,
        {
            name: getattr(tiles, name)
            for name in ("indptr", "indices", "shape", "block", "kinds", "bits")
        }
        | {"check": True},
    )
    yield "BlockLayout", BlockLayout.from_mask, {"mask": np.ones((1, 4, 4), bool), "block": 2}
    lists = zeros(1, 2, 1, 1, dtype=np.int32)
    yield (
        "BlockLayout",
        BlockLayout.from_lists,
        {"indices": lists, "cols": 3, "block": 2, "counts": zeros(1, 2, 1, dtype=np.int32)},
    )
    yield "BlockLayout", BlockLayout.from_topk, {"indices": lists, "cols": 3, "block": 2}
    yield "BlockLayout", BlockLayout.from_csr, {"pattern": A, "block": 2, "batch": 1, "heads": 1}
    yield (
        "BlockLayout",
        BlockLayout.local_stride,
        {
            "heads": 2,
            "blocks": 4,
            "local": 1,
            "stride": 2,
            "block": 2,
            "head_shift": 1,
            "dense_heads": 0,
        },
    )
    yield (
        "BlockLayout",
        BlockLayout.window_global,
        {
            **{"heads": 1, "blocks": 4, "window": 1, "block": 2, "globals": 1, "random": 1},
            **{"seed": 0, "causal": False},
        },
    )
    verticals = zeros(1, 1, 2, dtype=np.int32)
    yield (
        "BlockLayout",
        BlockLayout.vertical_slash,
        {"columns": verticals, "slashes": verticals, "tokens": 8, "block": 2},
    )
    yield (
        "BlockLayout",
        LAYOUT.to_mask,
        {"elements": False, "out": np.zeros((1, 1, 4, 4), bool)},
    )


CALLS = list(calls())


def traced() -> Any:
    """An array of a function that JAX is tracing."""
    kept: list[Any] = []
    jax.make_jaxpr(lambda x: kept.append(x) or x)(jnp.ones((2, 2)))
    return kept[0]


itself: list[Any] = []
itself.append(itself)
#: What is wrong nearly everywhere. None, flags, numbers and names are right in some places.
ODD: list[Any] = [
    *([[1.0, 2.0], [3.0, 4.0]], [], itself, (1, 2, 3), (None, None), (-1, -1), ("1", "2")),
    *((2**40, 2**40), (2**40,) * 4, ("clamp", float("nan"), 1.0), {}, {1, 2}, b"xx", print),
    *("no such name", 3, -1, 0, 2**31, 2**62, 2**63 - 1, 2**63, 2**70, -(2**63), 10**400),
    *(2.5, float("nan"), float("inf"), np.float16(0.5), np.int64(2), np.True_, True),
    *(np.ones((2, 2), dtype) for dtype in (np.int8, complex, np.float64, np.uint16, bool, ">f4")),
    *(np.ones((2, 2), dtype) for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)),
    *(
        np.array([None, 1], object),
        np.array(["a"]),
        zeros(2, dtype="M8[s]"),
        zeros(2, dtype="f4,i4"),
    ),
    *(np.array(1.0), np.array(2), zeros(0), zeros(0, 4), zeros(4, 0), np.ones((1,) * 30, F)),
    *(np.ma.ones((2, 2)), np.ones((1, 2)).view(np.matrix), memoryview(np.ones((2, 2), F))),
    *(torch.ones(2, 2, requires_grad=True), torch.ones(2, 2, dtype=torch.int8)),
    *(torch.eye(2).to_sparse(), torch.eye(2).to_sparse_csr(), torch.ones(2, 2)),
    *(jnp.ones((2, 2)), traced(), PATTERN, A, B, N, Q, PACKED, LAYOUT),
]


def near(right: Any) -> Iterator[Any]:
    """What is wrong in one respect."""
    if isinstance(right, tuple):
        yield right[:-1]
        yield right * 2
        for i, part in enumerate(right):
            for odd in (*ODD, *near(part)):
                yield (*right[:i], odd, *right[i + 1 :])
    if not isinstance(right, np.ndarray) or right.ndim == 0:
        return
    yield from (right[::-1], right[..., ::-1], np.repeat(right, 2, -1)[..., ::2])
    yield from (np.broadcast_to(right[:1], right.shape), right[:-1].copy(), right[:0], right[None])
    yield from (right[..., :-1].copy(), right[..., :0], right.tolist(), np.asfortranarray(right))
    fixed = right.copy()
    fixed.flags.writeable = False
    yield fixed
    raw = np.zeros(right.nbytes + 1, np.uint8)
    yield raw[1:].view(right.dtype).reshape(right.shape)
    for dtype in ("f8", "f2", "i4", "i8", "u1", "?", "c8", "i1", ml_dtypes.bfloat16):
        yield right.astype(dtype)
    if right.dtype.kind == "f":
        yield torch.from_numpy(right.copy()).requires_grad_()
        for number in (np.nan, np.inf, -np.inf, 1e-40, 3e38):
            yield np.full_like(right, number)
    elif right.dtype != bool:
        low, high = np.iinfo(right.dtype).min, np.iinfo(right.dtype).max
        for number in {low, -1 if low else 0, 5, min(1000, high), high}:
            yield np.full_like(right, number)
            for at in (0, -1):
                broken = right.copy()
                broken.ravel()[at] = number
                yield broken
        yield right[::-1].copy()
    for extent in (-1, 2**40, 2**62):
        yield Producer(np.ascontiguousarray(right), extents=[extent] * right.ndim)
    yield Producer(np.ascontiguousarray(right), null_data=True)
    yield Producer(np.ascontiguousarray(right), strides=[2**62] * right.ndim)
    yield Producer(np.ascontiguousarray(right), strides=[-1] * right.ndim)


#: Messages of others' that say neither which operation it was nor which argument.
FOREIGN = re.compile(
    "incompatible (function|constructor) arguments|cannot be interpreted|not iterable|has no len"
    "|not subscriptable|to unpack|cannot unpack|must be an iterable|truth value|iteration over"
)
REFUSED = (ValueError, TypeError, MemoryError, NotImplementedError)


@pytest.mark.parametrize(
    "at", range(len(CALLS)), ids=[name.partition("|")[0] for name, *_ in CALLS]
)
@pytest.mark.filterwarnings("ignore")
def test_what_an_argument_cannot_be_is_refused_in_words_that_name_the_operation(at: int) -> None:
    names, function, right = CALLS[at]
    function(**right)
    for argument, good in right.items():
        for odd in (None, *ODD, *near(good)):
            try:
                function(**{**right, argument: odd})
            except MemoryError:
                continue
            except REFUSED as error:
                message = str(error)
            except Exception as error:
                pytest.fail(f"{argument} = {type(odd)}: {type(error)}: {error}")
            else:
                continue
            assert not FOREIGN.search(message), (argument, type(odd), message)
            assert any(name in message for name in names.split("|")), (argument, odd, message)
