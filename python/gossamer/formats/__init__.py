"""The formats of sparse matrices: CSR, BSR, N:M, GroupQuant, and what `pack` makes."""

from __future__ import annotations

from gossamer.formats._bsr import BSR
from gossamer.formats._csr import CSR
from gossamer.formats._nm import NM
from gossamer.formats._packed import Packed, pack
from gossamer.formats._quant import GroupQuant

__all__ = ["BSR", "CSR", "NM", "GroupQuant", "Packed", "pack"]
