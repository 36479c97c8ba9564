"""Scores, exact selection, masks and updates: what methods of pruning are made of."""

from __future__ import annotations

__all__: list[str] = []
