"""Sparse operations for deep learning on the arrays of any framework."""

from __future__ import annotations

from gossamer import functional, graph, prune, regrow, schedule
from gossamer._attention import (
    attention,
    attention_backward,
    attention_decode,
    attention_workspace,
    block_pool,
    block_topk,
    merge_attention,
)
from gossamer._backend import CudaError
from gossamer._core import version as _version
from gossamer._csr_attention import (
    csr_attention,
    csr_attention_backward,
    csr_softmax,
    csr_softmax_backward,
)
from gossamer._runtime import cmake_dir, get_num_threads, info, num_threads, set_num_threads
from gossamer.activation import (
    DeltaState,
    delta_linear,
    gated_mlp,
    gather_decode,
    gather_decode_backward,
    sparse_linear,
    topk_rows,
    topk_rows_backward,
)
from gossamer.formats._bsr import BSR
from gossamer.formats._csr import CSR
from gossamer.formats._layout import BlockLayout
from gossamer.formats._nm import NM
from gossamer.formats._packed import Packed, pack
from gossamer.formats._quant import GroupQuant
from gossamer.functional import csr_drop_grow, drop_grow
from gossamer.products import linear, linear_backward, sddmm, spmm, spmm_backward

__version__ = _version()

__all__ = [
    "BSR",
    "CSR",
    "NM",
    "BlockLayout",
    "CudaError",
    "DeltaState",
    "GroupQuant",
    "Packed",
    "__version__",
    "attention",
    "attention_backward",
    "attention_decode",
    "attention_workspace",
    "block_pool",
    "block_topk",
    "cmake_dir",
    "csr_attention",
    "csr_attention_backward",
    "csr_drop_grow",
    "csr_softmax",
    "csr_softmax_backward",
    "delta_linear",
    "drop_grow",
    "functional",
    "gated_mlp",
    "gather_decode",
    "gather_decode_backward",
    "get_num_threads",
    "graph",
    "info",
    "linear",
    "linear_backward",
    "merge_attention",
    "num_threads",
    "pack",
    "prune",
    "regrow",
    "schedule",
    "sddmm",
    "set_num_threads",
    "sparse_linear",
    "spmm",
    "spmm_backward",
    "topk_rows",
    "topk_rows_backward",
]
