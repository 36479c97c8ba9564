"""gossamer inside PyTorch: products with derivatives, under torch.compile, and modules.

Nothing of gossamer imports this module; `import gossamer.torch` imports PyTorch.
"""

from __future__ import annotations

from gossamer.torch._activation import (
    delta_linear,
    gated_mlp,
    gather_decode,
    sparse_linear,
    topk_rows,
)
from gossamer.torch._attention import attention, merge_attention
from gossamer.torch._csr_attention import csr_attention, csr_softmax
from gossamer.torch._decode import attention_decode, block_pool, block_topk
from gossamer.torch._functions import linear, sddmm, spmm
from gossamer.torch._modules import SparseLinear, densify_, sparsify_
from gossamer.torch._sparse_attention import SparseAttention

__all__ = [
    "SparseAttention",
    "SparseLinear",
    "attention",
    "attention_decode",
    "block_pool",
    "block_topk",
    "csr_attention",
    "csr_softmax",
    "delta_linear",
    "densify_",
    "gated_mlp",
    "gather_decode",
    "linear",
    "merge_attention",
    "sddmm",
    "sparse_linear",
    "sparsify_",
    "spmm",
    "topk_rows",
]
