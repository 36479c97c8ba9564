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
from gossamer.prune._select import Score, score, topk_mask

__all__ = [
    "Score",
    "block_mask",
    "block_pool",
    "check_nm",
    "expand_blocks",
    "nm_mask",
    "nm_mask_transposable",
    "permutation_search",
    "score",
    "topk_mask",
    "vnm_mask",
]
