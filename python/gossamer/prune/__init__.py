"""Scores, exact selection, masks and updates: what methods of pruning are made of."""

from __future__ import annotations

from gossamer.prune._select import Score, score, topk_mask

__all__ = ["Score", "score", "topk_mask"]
