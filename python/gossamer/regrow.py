"""Drop and grow entries of masks and sparse matrices."""

from __future__ import annotations

__all__: list[str] = []
