"""Scores, exact selection, masks and updates: what methods of pruning are made of."""

from __future__ import annotations

from gossamer.prune._patterns import (
    block_mask,
    block_pool,
    check_nm,
    expand_blocks,
    nm_mask,
    nm_mask_transposable,
    permutation_search,
    vnm_mask,
)
from gossamer.prune._select import (
    Kth,
    Score,
    Selection,
    histogram_quantile,
    kth,
    quantile,
    random_mask,
    score,
    topk_mask,
    topk_rows,
)

__all__ = [
    "Kth",
    "Score",
    "Selection",
    "block_mask",
    "block_pool",
    "check_nm",
    "expand_blocks",
    "histogram_quantile",
    "kth",
    "nm_mask",
    "nm_mask_transposable",
    "permutation_search",
    "quantile",
    "random_mask",
    "score",
    "topk_mask",
    "topk_rows",
    "vnm_mask",
]
