"""Scores, exact selection, masks and updates: what methods of pruning are made of."""

from __future__ import annotations

from gossamer.prune._activations import cats_threshold, cett_threshold, channel_threshold
from gossamer.prune._diagnostics import coverage_or_, mean_same_pattern, nnz_stats
from gossamer.prune._layerwise import ColumnStats, dsnot_rows_, obs_block_, obs_prune_
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
from gossamer.prune._proximal import (
    group_soft_threshold_,
    l0_project_,
    polarization,
    sef_prox_,
    shrink_,
    soft_threshold_,
    srste_grad_,
)
from gossamer.prune._select import (
    Kth,
    Score,
    Selection,
    count_nan,
    histogram_quantile,
    kth,
    quantile,
    random_mask,
    score,
    topk_mask,
    topk_rows,
)

__all__ = [
    "ColumnStats",
    "Kth",
    "Score",
    "Selection",
    "block_mask",
    "block_pool",
    "cats_threshold",
    "cett_threshold",
    "channel_threshold",
    "check_nm",
    "count_nan",
    "coverage_or_",
    "dsnot_rows_",
    "expand_blocks",
    "group_soft_threshold_",
    "histogram_quantile",
    "kth",
    "l0_project_",
    "mean_same_pattern",
    "nm_mask",
    "nm_mask_transposable",
    "nnz_stats",
    "obs_block_",
    "obs_prune_",
    "permutation_search",
    "polarization",
    "quantile",
    "random_mask",
    "score",
    "sef_prox_",
    "shrink_",
    "soft_threshold_",
    "srste_grad_",
    "topk_mask",
    "topk_rows",
    "vnm_mask",
]
