"""How operations use the CUDA runtime: the caller's stream and device, no waiting, no allocation.

Every function of the extension for GPUs is driven through the public functions on the emulated
runtime, which notes each call.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest
from cuda_trace import ILLEGAL_ADDRESS, OUT_OF_MEMORY, Call, Framework, Trace
from device import Device, emulated_extension
from gossamer import _core, graph, prune, regrow
from library import PATIENCE
from producer import CUDA, Producer

pytestmark = pytest.mark.gpu

Op = Callable[[], Any]
Make = Callable[[Framework], Op]

STREAM = 0x7F3A5C0
#: The legacy default stream, a thread's default stream, and the handles of two others.
STREAMS = [1, 2, 5, STREAM]
#: The calls of the runtime that an operation may make, beside launches.
QUEUED = {"launch", "cudaMemsetAsync", "cudaMemcpyAsync"}
HARMLESS = {"cudaSetDevice", "cudaFuncSetAttribute"}

F32, F16, BF16 = np.dtype("f4"), np.dtype("f2"), np.dtype(ml_dtypes.bfloat16)


def sparse(rows: int, cols: int) -> np.ndarray:
    """Draw a matrix with a row long enough to be cut into chunks, and an empty one."""
    w = oracle.random_sparse((rows, cols), 0.02, np.float32, seed=rows, integers=True)
    w[0], w[1] = 1, 0
    return np.asarray(w)


W = sparse(48, 1500)
BLOCKS = np.kron(np.eye(3), np.ones((32, 32))).astype(F32)


def csr(at: Framework, dense: np.ndarray) -> gossamer.CSR:
    a = gossamer.CSR.from_dense(dense)
    return gossamer.CSR(at.put(a.indptr), at.put(a.indices), at.put(a.values), a.shape)


def bsr(at: Framework, dense: np.ndarray, block: int) -> gossamer.BSR:
    a = gossamer.BSR.from_dense(dense, block)
    return gossamer.BSR(at.put(a.indptr), at.put(a.indices), at.put(a.blocks), a.shape)


def ones(at: Framework, *shape: int, dtype: Any = F32) -> Any:
    return at.put(np.ones(shape, dtype))


def spmm(n: int, dtype: Any = F32, side: int = 0, **options: Any) -> Make:
    def make(at: Framework) -> Op:
        dense = (BLOCKS if side else W).astype(dtype)
        a = bsr(at, dense, side) if side else csr(at, dense)
        rows = dense.shape[0 if options.get("transpose_a") else 1]
        b = ones(at, rows, n, dtype=dtype)
        return lambda: gossamer.spmm(a, b, **options)

    return make


def linear(n: int, dtype: Any = F32, side: int = 0) -> Make:
    def make(at: Framework) -> Op:
        dense = (BLOCKS if side else W).astype(dtype)
        w = bsr(at, dense, side) if side else csr(at, dense)
        x, bias = (ones(at, *s, dtype=dtype) for s in ((n, dense.shape[1]), (dense.shape[0],)))
        out = ones(at, n, dense.shape[0], dtype=dtype)
        return lambda: gossamer.linear(x, w, bias=bias, accumulate=True, out=out)

    return make


def line_matrix(at: Framework, dtype: Any, pattern: tuple[int, int]) -> Any:
    """Return an N:M matrix, or where the pattern says 0 a group-quantised one."""
    n, m = pattern
    dense = np.zeros((40, 12, max(m, 16)), dtype)
    dense[:, :, : n or 1] = 1
    dense = dense.reshape(40, -1)
    if n == 0:
        q = gossamer.GroupQuant.from_dense(dense)
        parts = (q.indptr, q.indices, q.codes, q.scales, q.zeros)
        arrays = (at.put(np.asarray(x)) for x in parts)
        return gossamer.GroupQuant(*arrays, shape=q.shape, dtype=q.dtype)
    a = gossamer.NM.from_dense(dense, n, m)
    return gossamer.NM(at.put(a.values), at.put(a.indices), a.shape, n, m)


def of_lines(
    n: int, dtype: Any = F32, pattern: tuple[int, int] = (2, 4), op: str = "spmm", **options: Any
) -> Make:
    def make(at: Framework) -> Op:
        a = line_matrix(at, dtype, pattern)
        if op == "to_dense":
            return a.to_dense
        side = a.shape[0 if options.get("transpose_a") else 1]
        if op == "linear":
            x = ones(at, n, side, dtype=dtype)
            return lambda: gossamer.linear(x, a)
        b = ones(at, side, n, dtype=dtype)
        return lambda: gossamer.spmm(a, b, **options)

    return make


def backward(dtype: Any, side: int = 0, of_linear: bool = True, n: int = 24) -> Make:
    def make(at: Framework) -> Op:
        dense = (BLOCKS if side else W).astype(dtype)
        a: Any = bsr(at, dense, side) if side else csr(at, dense)
        if of_linear:
            dy, x = (ones(at, n, extent, dtype=dtype) for extent in dense.shape)
            return lambda: gossamer.linear_backward(dy, x, a)
        dy, x = (ones(at, extent, n, dtype=dtype) for extent in dense.shape)
        return lambda: gossamer.spmm_backward(dy, a, x)

    return make


def nm_backward(of_linear: bool) -> Make:
    def make(at: Framework) -> Op:
        a = line_matrix(at, F16, (2, 4))
        if of_linear:
            dy, x = (ones(at, 20, extent, dtype=F16) for extent in a.shape)
            return lambda: gossamer.linear_backward(dy, x, a)
        dy, x = (ones(at, extent, 20, dtype=F16) for extent in a.shape)
        return lambda: gossamer.spmm_backward(dy, a, x)

    return make


def of_tiles(
    call: Callable[[gossamer.Packed, Any], Any],
    density: float,
    n: int | None = None,
    dtype: Any = BF16,
) -> Make:
    """Return a call on a packed matrix and its values, or n rows of activations."""

    def make(at: Framework) -> Op:
        dense = oracle.random_sparse((20, 640), density, dtype, seed=1, integers=True)
        made = gossamer.pack(csr(at, dense))
        x = ones(at, made.nnz, dtype=dtype) if n is None else ones(at, n, 640, dtype=dtype)
        return lambda: call(made, x)

    return make


def packing(density: float) -> Make:
    def make(at: Framework) -> Op:
        a = csr(at, oracle.random_sparse((20, 640), density, F16, seed=1, integers=True))
        return lambda: gossamer.pack(a)

    return make


def columns_of_tiles(at: Framework) -> Op:
    a = gossamer.pack(csr(at, W.astype(F16)))
    b = ones(at, 1500, 3, dtype=F16)
    return lambda: gossamer.spmm(a, b)


def nm_from_dense(axis: int, masked: bool = False) -> Make:
    def make(at: Framework) -> Op:
        dense = np.zeros((8, 16), F32)
        dense[::4, ::4] = 1
        w, mask = at.put(dense), at.put(dense > 0) if masked else None
        return lambda: gossamer.NM.from_dense(w, 1, 4, axis=axis, mask=mask)

    return make


def sddmm(dtype: Any = F32, side: int = 0) -> Make:
    def make(at: Framework) -> Op:
        dense = (BLOCKS if side else W).astype(dtype)
        pattern: Any = bsr(at, dense, side) if side else csr(at, dense)
        a, b = (ones(at, extent, 20, dtype=dtype) for extent in dense.shape)
        return lambda: gossamer.sddmm(a, b, pattern)

    return make


def several(n: int, dtype: Any = F32, **options: Any) -> Make:
    """Return a call on three matrices of one pattern, or of one below the other's."""

    def make(at: Framework) -> Op:
        a = csr(at, W.astype(dtype))
        rows, cols = W.shape[0] // (3 if options.get("stacked") else 1), W.shape[1]
        b = ones(at, 3, rows if options.get("transpose_a") else cols, n, dtype=dtype)
        return lambda: gossamer.spmm(a, b, **options)

    return make


def several_samples(rows: int, dtype: Any = F32, result: str | None = None) -> Make:
    def make(at: Framework) -> Op:
        pattern = csr(at, W)
        a, b = (ones(at, 3, extent, 20, dtype=dtype) for extent in (rows, W.shape[1]))
        return lambda: gossamer.sddmm(a, b, pattern, scale=2.0, dtype=result)

    return make


def from_dense(dense: np.ndarray, masked: bool = False, block: int = 0) -> Make:
    def make(at: Framework) -> Op:
        w = at.put(dense)
        mask = at.put(dense > 0) if masked else None
        if block:
            return lambda: gossamer.BSR.from_dense(w, block, mask)
        return lambda: gossamer.CSR.from_dense(w, mask)

    return make


def of_csr(call: Callable[[gossamer.CSR], Any]) -> Make:
    def make(at: Framework) -> Op:
        a = csr(at, W)
        return lambda: call(a)

    return make


def of_csr_square(call: Callable[[gossamer.CSR], Any]) -> Make:
    def make(at: Framework) -> Op:
        a = csr(at, W[:, : W.shape[0]])
        return lambda: call(a)

    return make


def of_bsr(call: Callable[[gossamer.BSR], Any], block: int, dtype: Any = F32) -> Make:
    def make(at: Framework) -> Op:
        a = bsr(at, BLOCKS.astype(dtype), block)
        return lambda: call(a)

    return make


def wide_indices(check: bool | None) -> Make:
    def make(at: Framework) -> Op:
        a = gossamer.CSR.from_dense(W)
        indptr, indices = (at.put(np.asarray(x).astype(np.int64)) for x in (a.indptr, a.indices))
        values = at.put(a.values)
        return lambda: gossamer.CSR(indptr, indices, values, a.shape, check=check)

    return make


def layer(tokens: int, dtype: Any = F32, gated: bool = False) -> Make:
    def make(at: Framework) -> Op:
        x, w = ones(at, tokens, 40, dtype=dtype), ones(at, 50, 40, dtype=dtype)
        limits = ones(at, 50)
        if gated:
            return lambda: gossamer.gated_mlp(x, w, w, w, threshold=limits)
        wt, bias = ones(at, 40, 70, dtype=dtype), ones(at, 70, dtype=dtype)
        return lambda: gossamer.sparse_linear(x, wt, threshold=0.5, bias=bias)

    return make


def stream(dtype: Any = F32, *, new: bool = False) -> Make:
    def make(at: Framework) -> Op:
        x, wt, state = ones(at, 2, 40, dtype=dtype), ones(at, 40, 70, dtype=dtype), None
        if not new:
            state = gossamer.DeltaState()
            state.last, state.sums = ones(at, 2, 40), ones(at, 2, 70)
        return lambda: gossamer.delta_linear(x, wt, state or gossamer.DeltaState(), threshold=1)

    return make


def decode(dtype: Any = F32, *, gradient: bool = False, **options: Any) -> Make:
    def make(at: Framework) -> Op:
        indices = at.put(np.arange(12, dtype=np.int32).reshape(3, 4) % 5)
        values, table, dy = (ones(at, *s, dtype=dtype) for s in ((3, 4), (6, 30), (3, 30)))
        if gradient:
            return lambda: gossamer.gather_decode_backward(dy, indices, values, table, **options)
        return lambda: gossamer.gather_decode(indices, values, table)

    return make


def scattered(at: Framework) -> Op:
    dy, indices = ones(at, 3, 4), at.put(np.tile(np.arange(4), (3, 1)))
    return lambda: gossamer.topk_rows_backward(dy, indices, 9)


def rows_of(call: Callable[[gossamer.CSR], Any], dtype: Any = F32) -> Make:
    def make(at: Framework) -> Op:
        a = csr(at, W.astype(dtype))
        return lambda: call(a)

    return make


def weights(call: Callable[[Any, Any], Any], rows: int = 40) -> Make:
    """Return a call on weights [rows, 50] and a mask of them."""

    def make(at: Framework) -> Op:
        w = np.random.default_rng(rows).standard_normal((rows, 50)).astype(F32)
        x, mask = at.put(w), at.put(w > 0)
        return lambda: call(x, mask)

    return make


def selected(call: Callable[[prune.Selection, Any], Any], rows: int = 40) -> Make:
    """Return a call on a selection that is done, and the scores that it is of."""

    def make(at: Framework) -> Op:
        x = np.random.default_rng(rows).standard_normal((rows, 50)).astype(F32)
        selection, there = prune.Selection(300), at.put(x)
        while not selection.done:
            selection.narrow(selection.histogram(x))
        return lambda: call(selection, there)

    return make


def layerwise(call: Callable[..., Any]) -> Make:
    """Return a call on weights [40, 48], a mask of them, a factor and statistics of rows."""

    def make(at: Framework) -> Op:
        w = np.random.default_rng(0).standard_normal((40, 48)).astype(F32)
        x, mask, u = at.put(w), at.put(w > 0), at.put(np.eye(48, dtype=F32))
        stats = prune.ColumnStats().add(x)
        return lambda: call(x, mask, u, stats)

    return make


def softmax_gradient(at: Framework) -> Op:
    a, grad = csr(at, W), ones(at, np.count_nonzero(W))
    return lambda: gossamer.csr_softmax_backward(a, grad)


def scaled(at: Framework) -> Op:
    a, rows, cols = csr(at, W), ones(at, W.shape[0]), ones(at, W.shape[1])
    return lambda: graph.scale_rows_cols(a, rows=rows, cols=cols)


def edges(dtype: Any = F32, *, gradient: bool = False, score: str = "dot") -> Make:
    def make(at: Framework) -> Op:
        dense = sparse(20, 300)
        pattern = csr(at, dense)
        depth = () if score == "gat" else (8,)
        q, k, v, grad = (
            ones(at, n, 2, *d, dtype=dtype)
            for n, d in ((20, depth), (300, depth), (300, (8,)), (20, (8,)))
        )
        bias = ones(at, 2, pattern.nnz, dtype=dtype)
        options: Any = {"bias": bias, "score": score}
        if not gradient:
            return lambda: gossamer.csr_attention(q, k, v, pattern, **options)
        lse = ones(at, 2, 20)
        return lambda: gossamer.csr_attention_backward(grad, q, k, v, grad, lse, pattern, **options)

    return make


def blocks(dtype: Any = F32, *, bits: bool = False, gradient: bool = False) -> Make:
    def make(at: Framework) -> Op:
        mask = np.ones((32, 32), F32)
        mask[5, 7] = 0 if bits else 1
        layout = gossamer.BlockLayout.from_csr(gossamer.CSR.from_dense(mask), block=16)
        put = [
            None if x is None else at.put(np.asarray(x))
            for x in (layout.indptr, layout.indices, layout.kinds, layout.bits)
        ]
        there = gossamer.BlockLayout(
            put[0], put[1], layout.shape, layout.block, kinds=put[2], bits=put[3]
        )
        q = ones(at, 1, 32, 2, 8, dtype=dtype)
        if not gradient:
            return lambda: gossamer.attention(q, q, q, there, causal=True)
        lse, sinks, bias = ones(at, 1, 2, 32), ones(at, 2), ones(at, 1, 2, 32, 32)
        options: Any = {"with_dbias": True, "bias": bias, "sinks": sinks}
        return lambda: gossamer.attention_backward(q, q, q, q, q, lse, there, **options)

    return make


def decoded(dtype: Any = F32, lists: int = 1) -> Make:
    def make(at: Framework) -> Op:
        q, cache = ones(at, 2, 1, 4, 8, dtype=dtype), ones(at, 3, 16, 2, 8, dtype=dtype)
        indptr, indices = (at.put(np.arange(n, dtype="i4")) for n in (2 * lists + 1, 2 * lists))
        lengths, sinks = at.put(np.full((2, lists), 5, "i4")), ones(at, 4)
        return lambda: gossamer.attention_decode(
            q, cache, cache, indptr, indices, lengths=lengths, sinks=sinks
        )

    return make


def merged(count: int, dtype: Any = F32) -> Make:
    def make(at: Framework) -> Op:
        parts = [(ones(at, 5, 2, 8, dtype=dtype), ones(at, 2, 5)) for _ in range(count)]
        return lambda: gossamer.merge_attention(parts)

    return make


def pooled(at: Framework) -> Op:
    x = ones(at, 1, 20, 2, 8, dtype=F16)
    return lambda: gossamer.block_pool(x, 4)


def chosen(blocks: int) -> Make:
    def make(at: Framework) -> Op:
        q, keys = ones(at, 1, 5, 4, 8), ones(at, 1, blocks, 2, 8)
        return lambda: gossamer.block_topk(q, keys, 3, pooled_min=keys)

    return make


def laid_out(call: Callable[[Any], Any], array: np.ndarray) -> Make:
    def make(at: Framework) -> Op:
        x = at.put(array)
        return lambda: call(x)

    return make


def strided(like: Any) -> Any:
    sizes: Any = {"heads": 2, "blocks": 9, "local": 2, "stride": 3, "block": 4}
    return gossamer.BlockLayout.local_stride(**sizes, like=like)


def windowed(like: Any) -> Any:
    sizes: Any = {"blocks": 9, "window": 1, "globals": 1, "random": 2, "block": 4}
    return gossamer.BlockLayout.window_global(**sizes, like=like)


def tiled(at: Framework) -> gossamer.BlockLayout:
    return gossamer.BlockLayout.from_csr(csr(at, np.eye(20, 30, dtype=F32)), block=(4, 8))


def of_pattern(at: Framework) -> Op:
    a = csr(at, np.eye(20, 30, dtype=F32))
    return lambda: gossamer.BlockLayout.from_csr(a, block=(4, 8))


def of_layout(call: Callable[[gossamer.BlockLayout], Any]) -> Make:
    def make(at: Framework) -> Op:
        bits, whole = tiled(at), strided(at.put(np.zeros(1, "f4")))
        return lambda: (call(bits), call(whole))

    return make


def gradient(at: Framework) -> Op:
    g, w = ones(at, 40, 50), ones(at, 40, 50)
    mask = at.put(np.eye(40, 50) > 0)
    return lambda: prune.srste_grad_(g, w, mask)


def regrown(call: Callable[[gossamer.CSR, Any], Any]) -> Make:
    """Return a call on a matrix and a score of its places."""

    def make(at: Framework) -> Op:
        a, x = csr(at, W), ones(at, *W.shape)
        return lambda: call(a, x)

    return make


def in_places(at: Framework) -> Op:
    a, at_rows = csr(at, W), at.put(np.arange(2, 12, dtype=np.int32))
    return lambda: regrow.csr_drop_grow_(a, (at_rows, at_rows), 3, 3)


def keeping(at: Framework) -> Op:
    a, x = csr(at, W), ones(at, *W.shape)
    keep = ones(at, np.count_nonzero(W), dtype=np.uint8)
    return lambda: regrow.csr_drop_grow_(a, x, 0, 0, keep=keep)


def averaged(at: Framework) -> Op:
    a, b = csr(at, W), csr(at, W)
    return lambda: prune.mean_same_pattern([a, b])


def covered(at: Framework) -> Op:
    fired, mask = at.put(np.eye(20) > 0), at.put(np.ones((20, 20)) > 0)
    return lambda: prune.coverage_or_(fired, mask)


def grown(x: Any, mask: Any, **options: Any) -> Any:
    return regrow.drop_grow_(mask, x, x, 1, 1, states=[x], **options)


#: Calls that reach each function of the extension, by its name and the formats that it takes:
#: one for each path through its host code.
OPS: dict[str, list[Make]] = {
    "spmm(Csr)": [
        *(spmm(n) for n in (1, 4, 40)),
        spmm(40, BF16),
        *(spmm(n, transpose_a=True) for n in (1, 40)),
    ],
    "spmm(Bsr)": [
        *(spmm(40, F16, 32), spmm(8, BF16, 16), spmm(40, F32, 16)),
        *(spmm(40, dtype, 32, transpose_a=True) for dtype in (F16, F32)),
    ],
    "linear(Csr)": [*(linear(n) for n in (1, 8, 40)), linear(40, F16)],
    "linear(Bsr)": [linear(8, F16, 16), linear(40, BF16, 32), linear(40, F32, 32)],
    "spmm(Nm)": [
        *(of_lines(n, dtype) for n, dtype in ((1, F16), (1, F32), (40, BF16))),
        of_lines(40, F32, transpose_a=True),
    ],
    "spmm(GroupQuant)": [
        *(of_lines(n, dtype, (0, 0)) for n, dtype in ((1, F16), (40, F32))),
        of_lines(4, BF16, (0, 0), transpose_a=True),
    ],
    "spmm(PackedTiles)": [columns_of_tiles],
    "linear(PackedTiles)": [
        of_tiles(lambda w, x: gossamer.linear(x, w), density, n, dtype)
        for density, n, dtype in (
            *((0.5, 1, BF16), (0.5, 70, BF16), (0.1, 9, BF16)),
            *((0.5, 1, F32), (0.5, 20, F32), (0.5, 70, F32)),
        )
    ],
    "packed_to_dense": [of_tiles(lambda a, x: a.to_dense(), density) for density in (0.5, 0.1)],
    "packed_parts": [
        of_tiles(lambda a, x: _core.packed_parts(a._native)[1:], density) for density in (0.5, 0.1)
    ],
    "packed_update": [of_tiles(lambda a, x: a.update(x), density) for density in (0.5, 0.1)],
    "linear(Nm)": [of_lines(n, F16, op="linear") for n in (5, 40)],
    "linear(GroupQuant)": [of_lines(n, F16, (0, 0), op="linear") for n in (5, 40)],
    "layout_transpose": [
        lambda at: gossamer.BlockLayout.from_mask(at.put(np.eye(5)[None] > 0), block=8).transpose
    ],
    "layout_to_mask": [
        of_layout(gossamer.BlockLayout.to_mask),
        of_layout(lambda x: x.to_mask(elements=True)),
    ],
    "nm_to_dense(Nm)": [of_lines(1, op="to_dense")],
    "quant_to_dense(GroupQuant)": [of_lines(1, F16, (0, 0), op="to_dense")],
    "linear_backward(Csr)": [backward(F32), backward(F16, n=1), nm_backward(True)],
    "linear_backward(Bsr)": [backward(F16, 32), backward(F32, 32)],
    "spmm_backward(Csr)": [backward(F32, of_linear=False), nm_backward(False)],
    "spmm_backward(Bsr)": [backward(BF16, 16, of_linear=False)],
    "sddmm(Csr)": [sddmm(), sddmm(F16)],
    "sddmm(Bsr)": [sddmm(BF16, 32), sddmm(F32, 3)],
    "spmm_batched": [
        *(several(4), several(3, F16, stacked=True)),
        *(several(4, transpose_a=True), several(4, BF16, transpose_a=True, stacked=True)),
    ],
    "sddmm_batched": [
        *(several_samples(48), several_samples(16, BF16)),
        several_samples(48, F16, "float32"),
    ],
    "csr_to_dense(Csr)": [of_csr(lambda a: a.to_dense())],
    "csr_transpose(Csr)": [of_csr(lambda a: a.T), of_csr(lambda a: a.transpose())],
    "bsr_to_dense(Bsr)": [of_bsr(lambda a: a.to_dense(), block) for block in (32, 3)],
    "bsr_transpose(Bsr)": [
        of_bsr(lambda a: a.T, 32, F16),
        of_bsr(lambda a: a.transpose(), 3),
    ],
    "convert_indices": [wide_indices(None)],
    "row_sum": [rows_of(graph.row_sum), rows_of(lambda a: graph.row_sum(a.with_values(None)))],
    "edge_score": [of_csr_square(graph.edge_score)],
    "strength": [rows_of(lambda a, axis=axis: graph.strength(a, axis)) for axis in (0, 1)],
    "row_max": [rows_of(graph.row_max, F16)],
    "scale_rows_cols": [scaled],
    "csr_softmax": [rows_of(gossamer.csr_softmax)],
    "csr_softmax_backward": [softmax_gradient],
    "attention": [blocks(), blocks(BF16, bits=True)],
    "attention_backward": [blocks(gradient=True), blocks(F16, bits=True, gradient=True)],
    "attention_decode": [decoded(), decoded(F16, lists=2)],
    "merge_attention": [merged(2, BF16), merged(20)],
    "attention_block_pool": [pooled],
    "attention_block_topk": [chosen(9), chosen(1300)],
    "csr_attention": [edges(), edges(BF16, score="gat")],
    "csr_attention_backward": [edges(gradient=True), edges(F16, gradient=True, score="gat")],
    "sparse_linear": [layer(1), layer(3, F16)],
    "gated_mlp": [layer(1, gated=True), layer(3, BF16, gated=True)],
    "delta_linear": [stream(), stream(F16, new=True)],
    "gather_decode": [decode(), decode(F16)],
    "gather_decode_backward": [
        decode(gradient=True),
        decode(BF16, gradient=True),
        decode(gradient=True, needs=(True, False)),
    ],
    "topk_rows_backward": [scattered],
    "topk_mask_list": [
        weights(lambda x, mask: prune.topk_mask(x, 300)),
        weights(lambda x, mask: prune.topk_mask([x, prune.score(x)], 3000, within=[mask, mask])),
        weights(lambda x, mask: prune.topk_mask(x, 30000), rows=1400),
    ],
    "topk_mask_segments": [
        weights(lambda x, mask, per=per: prune.topk_mask(x, 3, per=per)) for per in (5, 50, 500)
    ],
    "kth_segments": [
        weights(lambda x, mask, per=per: prune.kth(x, 3, per=per))
        for per in ("row", 5, [0, 9, 2000])
    ],
    "nm_mask": [weights(lambda x, mask: prune.nm_mask(x, 2, 4, axis=0))],
    "vnm_mask": [layerwise(lambda x, mask, u, stats: prune.vnm_mask(x, 8, 2, 6))],
    "nm_mask_transposable": [
        layerwise(lambda x, mask, u, stats, m=m: prune.nm_mask_transposable(x, 2, m))
        for m in (4, 8)
    ],
    "column_stats": [layerwise(lambda x, mask, u, stats: prune.ColumnStats().add(x))],
    "merge_stats": [layerwise(lambda x, mask, u, stats: stats.merge(stats))],
    "column_quotient": [layerwise(lambda x, mask, u, stats: stats.var)],
    "obs_prune_": [
        layerwise(lambda x, mask, u, stats, how=how: _core.obs_prune_(x, u, *how, 20, None))
        for how in ((None, None, (2, 4)), (None, 900, None))
    ],
    "obs_block_": [
        layerwise(lambda x, mask, u, stats: prune.obs_block_(x, u, mask=mask)),
        layerwise(lambda x, mask, u, stats: prune.obs_block_(x, u, k=900)),
    ],
    "dsnot_rows_": [layerwise(lambda x, mask, u, stats: prune.dsnot_rows_(mask, x, stats))],
    "block_pool": [
        weights(lambda x, mask: prune.block_pool(x, (4, 4))),
        weights(lambda x, mask: prune.block_pool(prune.score(x, kind="snip", g=x), (1, 50))),
    ],
    "expand_blocks": [weights(lambda x, mask: prune.expand_blocks(mask, (3, 3), (120, 150)))],
    "selection_emit": [
        selected(lambda selection, x: selection.emit(x, ties_before=0)),
        selected(lambda selection, x: selection.emit(x, ties_before=0), rows=1400),
    ],
    "random_mask": [
        weights(lambda x, mask: prune.random_mask(x, 300, seed=1, within=mask)),
        weights(lambda x, mask: prune.random_mask(x, 300, seed=1, offset=7, total=5000)),
        weights(lambda x, mask: prune.random_mask((40, 50), 30, seed=1, out=mask)),
    ],
    "topk_rows": [weights(lambda x, mask: prune.topk_rows(x, 3))],
    "drop_grow_rows": [
        regrown(lambda a, x: regrow.csr_drop_grow_(a, x, 3, 3)),
        regrown(lambda a, x: regrow.csr_drop_grow_(a, regrow.Random(1), 3, 3)),
    ],
    "block_norms": [of_bsr(lambda a: regrow.csr_drop_grow_(a, regrow.Random(1), 1, 1), 32, F16)],
    "score_array": [weights(lambda x, mask: prune.score(x).array())],
    "soft_threshold_": [weights(lambda x, mask: prune.soft_threshold_(x, 0.5))],
    "shrink_": [weights(prune.shrink_)],
    "srste_grad_": [gradient],
    "nnz_stats": [
        *(
            weights(lambda x, mask, per=per: prune.nnz_stats(x, per=per))
            for per in (None, "row", (3, 7))
        ),
        of_csr(lambda a: prune.nnz_stats(a, per="column")),
        of_bsr(lambda a: prune.nnz_stats(a, per="row"), 32),
    ],
    "mean_same_pattern": [of_csr(lambda a: prune.mean_same_pattern([a, a]))],
    "group_soft_threshold_": [
        weights(lambda x, mask, per=per: prune.group_soft_threshold_(x, 0.5, per=per))
        for per in ("row", "column", 5)
    ],
    "channel_threshold": [
        layerwise(lambda x, mask, u, stats: _core.channel_threshold(stats.sumsq, 0.5, None))
    ],
    "cett_threshold": [weights(lambda x, mask: prune.cett_threshold(x, 0.5))],
    "l0_project_": [weights(lambda x, mask, k=k: prune.l0_project_(x, k)) for k in (0, 300)],
}
#: Those that wait, as their documentation says.
WAIT: dict[str, list[Make]] = {
    "csr_from_dense": [from_dense(W), from_dense(W, masked=True), from_dense(W[:0])],
    "bsr_from_dense": [
        *(from_dense(BLOCKS, masked, block) for masked in (False, True) for block in (32, 3)),
        from_dense(BLOCKS[:0], block=32),
    ],
    "layout_from_mask": [
        laid_out(lambda x: gossamer.BlockLayout.from_mask(x, block=8), np.eye(5)[None] > 0)
    ],
    "layout_from_lists": [
        laid_out(
            lambda x: gossamer.BlockLayout.from_lists(x, cols=9, block=8),
            np.arange(8, dtype="i4").reshape(1, 1, 2, 4),
        )
    ],
    "layout_from_topk": [
        laid_out(
            lambda x: gossamer.BlockLayout.from_topk(x, cols=9),
            np.arange(8, dtype="i4").reshape(1, 2, 1, 4),
        )
    ],
    "layout_local_stride": [laid_out(strided, np.zeros(1, "f4"))],
    "layout_window_global": [laid_out(windowed, np.zeros(1, "f4"))],
    "layout_from_csr": [of_pattern],
    "layout_vertical_slash": [
        laid_out(
            lambda x: gossamer.BlockLayout.vertical_slash(x, x, tokens=9, block=2),
            np.array([[0, 8, 3]], "i4"),
        )
    ],
    "nm_from_dense": [nm_from_dense(0), nm_from_dense(1, masked=True)],
    "pack": [packing(0.5), packing(0.1)],
    "to_host": [wide_indices(True)],
    "drop_grow_mask": [
        weights(grown),
        weights(lambda x, mask: regrow.drop_grow_(mask, x, regrow.Random(1), 1, 1)),
    ],
    "set_drop": [weights(lambda x, mask, k=k: regrow.set_drop(x, k, k)) for k in (0, 300)],
    "drop_grow_rows(keep)": [
        keeping,
        regrown(lambda a, x: regrow.csr_drop_grow_(a, x, 3, 3, forbid=a)),
        in_places,
    ],
    "kth": [weights(lambda x, mask: prune.kth(x, 30))],
    "kth_pair": [weights(lambda x, mask: prune.quantile(x, 0.3))],
    "obs_factor": [layerwise(lambda x, mask, u, stats: prune.obs_prune_(x, u, nm=(2, 4)))],
    "permutation_search": [weights(lambda x, mask: prune.permutation_search(x, 1, 2, escapes=1))],
    "coverage_or_": [covered],
    "check_nm": [weights(lambda x, mask: prune.check_nm(x, 1, 2))],
    "mean_same_pattern(apart)": [averaged],
    "selection_histogram": [
        weights(lambda x, mask: prune.Selection(300).histogram(prune.score(x)))
    ],
    "selection_ties": [selected(lambda selection, x: selection.ties(x))],
    "sef_prox_": [
        weights(lambda x, mask, per=per: prune.sef_prox_(x, 0.5, 2.0, per=per))
        for per in ("row", "column")
    ],
    "polarization": [laid_out(prune.polarization, np.ones(9, "f4"))],
    "count_nan": [weights(lambda x, mask: prune.count_nan(x))],
    "topk_mask_list(nan)": [weights(lambda x, mask: prune.topk_mask(x, 300, nan="error"))],
    "kth_segments(nan)": [weights(lambda x, mask: prune.kth(x, 3, per=5, nan="error"))],
    "topk_mask_segments(nan)": [weights(lambda x, mask: prune.topk_mask(x, 3, per=5, nan="error"))],
    "nm_mask(nan)": [weights(lambda x, mask: prune.nm_mask(x, 1, 2, nan="error"))],
}
#: Those that queue nothing.
REST = {"device_count", "empty", "jax_handlers", "score_check"}

EACH = [(name, i) for name, makes in {**OPS, **WAIT}.items() for i in range(len(makes))]
QUEUEING = [(name, i) for name, i in EACH if name in OPS]


def each(cases: list[tuple[str, int]]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda c: f"{c[0]}-{c[1]}")


def make(case: tuple[str, int], at: Framework) -> Op:
    name, number = case
    return {**OPS, **WAIT}[name][number](at)


@pytest.fixture
def trace(emulated: Device) -> Trace:
    return Trace()


@pytest.fixture
def at(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Framework]:
    framework = Framework(trace, monkeypatch)
    framework.use(STREAM)
    yield framework
    framework.made.clear()


def names(calls: list[Call]) -> set[str]:
    return {call.name for call in calls}


def test_every_function_of_the_extension_is_listed(emulated: Device) -> None:
    module = emulated_extension()
    functions = {name for name in vars(module) if not name.startswith("_")}
    assert functions == {name.partition("(")[0] for name in (*OPS, *WAIT, *REST)}


def test_operations_of_both_backends_have_one_name(emulated: Device) -> None:
    # The call of an operation finds the other backend's by this name.
    only_there = {"device_count", "empty", "to_host"}
    only_there |= {"column_stats", "merge_stats", "column_quotient", "obs_factor"}
    assert {name for name in vars(emulated_extension()) if name[0] != "_"} - only_there <= {
        *vars(_core)
    }


@each(EACH)
def test_work_goes_to_the_callers_stream_and_nowhere_else(
    case: tuple[str, int], at: Framework
) -> None:
    op = make(case, at)
    waits = case[0] in WAIT
    for stream in STREAMS:
        at.use(stream)
        with at.trace.taken() as calls:
            op()
        queued = [call for call in calls if call.name in QUEUED]
        assert queued, "something was done"
        assert {call.stream for call in queued} == {stream}
        waited = {call.stream for call in calls if call.name == "cudaStreamSynchronize"}
        assert waited <= ({stream} if waits else set())
        assert names(calls) <= QUEUED | HARMLESS | ({"cudaStreamSynchronize"} if waits else set())


@each(EACH)
@pytest.mark.parametrize(("current", "index"), [(0, 0), (0, 1), (1, 0)])
def test_the_arrays_device_is_current_for_the_call(
    case: tuple[str, int],
    current: int,
    index: int,
    trace: Trace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = Framework(trace, monkeypatch, index)
    at.use(STREAM)
    op = make(case, at)
    with trace.device(current), trace.taken() as calls:
        op()
    assert {call.device for call in calls if call.name != "cudaSetDevice"} == {index}
    if current == index:
        assert "cudaSetDevice" not in names(calls)
    assert {array.device for array in at.made} == {(CUDA, index)}


@each(QUEUEING)
def test_what_an_operation_needs_comes_from_the_callers_framework(
    case: tuple[str, int], at: Framework
) -> None:
    op = make(case, at)
    before = len(at.made)
    op()
    workspaces = [array for array in at.made[before:] if array.view.dtype == np.uint8]
    assert len(workspaces) <= 1
    assert all(array.view.ndim == 1 and array.view.size for array in workspaces)


def test_some_operations_have_a_workspace(at: Framework) -> None:
    for op in (spmm(40)(at), linear(40)(at), OPS["csr_transpose(Csr)"][0](at)):
        before = len(at.made)
        op()
        assert any(array.view.dtype == np.uint8 for array in at.made[before:])


@each(EACH)
def test_a_failed_launch_raises_with_the_kernels_name_and_restores_the_device(
    case: tuple[str, int], trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Framework(trace, monkeypatch, index=1)
    at.use(STREAM)
    op = make(case, at)
    with trace.taken() as calls:
        op()
    failing = next((call.name for call in calls if call.name in QUEUED), "cudaStreamSynchronize")
    with trace.taken() as calls, trace.device(0):
        trace.fail(failing, ILLEGAL_ADDRESS)
        with pytest.raises(gossamer.CudaError) as caught:
            op()
    if failing == "launch":
        kernel = trace.kernel(next(call for call in calls if call.name == "launch"))
        assert re.search(
            r"\b(csr|bsr|convert|pack|activation|decode|graph|block|layout|nm|quant|decoded|row|select|update"
            r"|score|grow|stats|obs|dsnot|vnm|group|count|order)_\w+",
            kernel,
        )
        assert str(caught.value) == f"launch of {kernel}: cudaErrorIllegalAddress"
    else:
        assert str(caught.value) == f"{failing}: cudaErrorIllegalAddress"
    assert trace.last_error() == 0, "a framework would report it of its own next launch"
    op()


def test_memory_that_is_not_there_is_a_cuda_error(trace: Trace) -> None:
    with trace.taken(), trace.device(0):
        trace.fail("cudaMalloc", OUT_OF_MEMORY)
        message = r"^cudaMalloc: cudaErrorMemoryAllocation$"
        with pytest.raises(gossamer.CudaError, match=message):
            emulated_extension().empty((3,), "float32", 1)
    assert trace.last_error() == 0


def test_a_thread_that_has_called_nothing_of_cuda_yet(
    at: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its first call is one of the driver, for a tensor map; the framework has memory at hand.
    monkeypatch.setenv("GOSSAMER_CUDA_WGMMA", "1")
    a, b = bsr(at, np.ones((64, 128), F16), 64), ones(at, 128, 64, dtype=F16)
    with at.trace.taken() as calls, ThreadPoolExecutor(1) as threads:
        threads.submit(gossamer.spmm, a, b).result()
    assert any("wgmma" in at.trace.kernel(call) for call in calls if call.name == "launch")


@each(QUEUEING)
def test_operations_may_be_captured(case: tuple[str, int], at: Framework) -> None:
    op = make(case, at)
    with at.trace.captured(STREAM) as held:
        op()
        op()
    assert held == [True]


@each([(name, i) for name, i in EACH if name in WAIT])
def test_what_waits_says_that_it_cannot_be_captured(case: tuple[str, int], at: Framework) -> None:
    op = make(case, at)
    message = "cudaErrorStreamCaptureUnsupported: a CUDA graph is being captured, in which nothing"
    with at.trace.captured(STREAM) as held:
        with at.trace.taken() as calls, pytest.raises(gossamer.CudaError, match=message):
            op()
        assert not names(calls) & QUEUED
    assert held == [True], "it was refused before anything was queued"
    op()


def test_a_capture_is_as_strict_as_cudas(at: Framework) -> None:
    op = spmm(4)(at)
    with at.trace.captured(STREAM) as held:
        message = r"^cudaMalloc: cudaErrorStreamCaptureUnsupported$"
        with pytest.raises(gossamer.CudaError, match=message):
            emulated_extension().empty((3,), "float32", 0)
        with pytest.raises(gossamer.CudaError, match="cudaErrorStreamCaptureInvalidated"):
            op()
    assert held == [False]
    with at.trace.captured(STREAM) as held:
        at.use(1)
        with pytest.raises(gossamer.CudaError, match="cudaErrorStreamCaptureImplicit"):
            op()
        at.use(5)
        op()  # another stream is no part of the capture
    assert held == [False]
    at.use(STREAM)
    op()


def test_frameworks_without_streams_are_served_on_the_default_one_and_waited_for(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Framework(trace, monkeypatch, index=1)
    a, b = csr(at, W), at.put(np.ones((1500, 4), F32))
    foreign = Producer(b.view, device=(CUDA, 1))
    with trace.device(0), trace.taken() as calls:
        result = gossamer.spmm(a, foreign)
    assert type(result) is _core.Tensor
    assert {(call.stream, call.device) for call in calls if call.name in QUEUED} == {(1, 1)}
    *made, wait, freed = [call.name for call in calls if call.name != "cudaSetDevice"]
    assert set(made) == {"cudaMalloc", "launch"}
    assert (wait, freed) == ("cudaStreamSynchronize", "cudaFree"), "the workspace's, in this order"


def synchronous_report() -> None:
    """Print the errors with GOSSAMER_CUDA_SYNC=1; run in a process of its own."""
    monkeypatch = pytest.MonkeyPatch()
    from device import open_device

    open_device("cuda-emulated", monkeypatch)
    at = Framework(Trace(), monkeypatch)
    at.use(STREAM)
    for case in EACH:
        op = make(case, at)
        with at.trace.taken() as calls:
            op()
        for i, call in enumerate(calls):
            after = calls[i + 1] if i + 1 < len(calls) else None
            if call.name == "launch" and after != Call("cudaStreamSynchronize", STREAM, 0, 0):
                print(case, "went on after a launch")
        if case[0] in WAIT:
            continue
        launches = [call for call in calls if call.name == "launch"]
        with at.trace.captured(STREAM) as held:
            op()
        if held != [True]:
            print(case, "waited for a stream that was being captured")
        with at.trace.taken():
            at.trace.fail("cudaStreamSynchronize", ILLEGAL_ADDRESS)
            try:
                op()
                print(case, "did not fail")
            except gossamer.CudaError as error:
                want = f"launch of {at.trace.kernel(launches[0])}: cudaErrorIllegalAddress"
                if str(error) != want:
                    print(case, error)
    monkeypatch.undo()
    print("done")


def test_debugging_waits_for_each_launch_and_names_the_kernel(emulated: Device) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import test_cuda_runtime as t; t.synchronous_report()"],
        env={
            **os.environ,
            "GOSSAMER_CUDA_SYNC": "1",
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "done\n", done.stdout + done.stderr
