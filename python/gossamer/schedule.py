"""How many entries to keep: by layer and over time."""

from __future__ import annotations

__all__: list[str] = []
