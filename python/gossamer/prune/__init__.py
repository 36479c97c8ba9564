"""Scores, exact selection, masks and updates: what methods of pruning are made of."""

from __future__ import annotations

from gossamer.prune._patterns import check_nm, nm_mask
from gossamer.prune._select import Score, score, topk_mask

__all__ = ["Score", "check_nm", "nm_mask", "score", "topk_mask"]
