"""Matrices of which groups are pruned and the others quantised."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from gossamer import _core, _interop, schedule
from gossamer._numbers import decimal, refuse
from gossamer.formats import _file
from gossamer.formats._matrix import Matrix


class GroupQuant(Matrix):
    """A matrix of groups of columns of a row, kept or not, quantised to 4 or 8 bits.

    A[i, indices[p]·G + j] = (code(p, j) - zeros[p])·scales[p] for indptr[i] ≤ p < indptr[i + 1],
    and 0 elsewhere (GQSA: Group Quantization and Sparsity for Accelerating Large Language Model
    Inference). It takes 4·(M + 1) + groups·(G·bits/8 + 5) bytes.

    Parameters
    ----------
    indptr : array [M + 1], int32
    indices : array [groups], uint16
        Groups of columns, strictly increasing within a row.
    codes : array [groups, G·bits/8], uint8
        With 4 bits, code 2j is in the low half of byte j. Codes beyond column K are not used.
    scales : array [groups], float16, finite
    zeros : array [groups], uint8, below 2**bits
    shape : (M, K), K ≤ 65536·G
    group : 16, 32, 64 or 128
        G.
    bits : 4 or 8
    dtype : "float32", "float64", "float16" or "bfloat16"
        The type of the operands of products, and of `to_dense`.
    check : bool or None
        False skips the pass over indptr, indices, scales and zeros; wrong ones are then undefined
        behaviour. None skips it for arrays on a GPU, from which True copies them and waits.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes, layout, devices, corrupt structure, scales and zeros.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.zeros((2, 32), np.float32)
    >>> w[1, 16:] = np.arange(16)
    >>> a = GroupQuant.from_dense(w)
    >>> a
    GroupQuant(shape=(2, 32), group=16, bits=4, groups=1, dtype=float32, nbytes=25)
    >>> a.scales, a.indices
    (array([1.], dtype=float16), array([1], dtype=uint16))
    """

    __slots__ = ("__weakref__", "_native")

    _ARRAYS = ("indptr", "indices", "codes", "scales", "zeros")
    _FACTS: ClassVar[dict[str, _file.Form]] = {
        "shape": (int, int),
        "group": int,
        "bits": int,
        "dtype": str,
    }
    _SIDES = ("shape", "group")
    _WRITE = staticmethod(_core.quant_to_dense)

    _native: _core.GroupQuant

    def __init__(
        self,
        indptr: Any,
        indices: Any,
        codes: Any,
        scales: Any,
        zeros: Any,
        *,
        shape: tuple[int, int],
        group: int = 16,
        bits: int = 4,
        dtype: str = "float32",
        check: bool | None = None,
    ) -> None:
        rows, cols = _core.pair("GroupQuant", "shape", shape)
        self._native = _core.GroupQuant(
            indptr, indices, codes, scales, zeros, rows, cols, group, bits, dtype, check
        )

    @classmethod
    def from_dense(
        cls,
        w: Any,
        *,
        group: int = 16,
        bits: int = 4,
        sparsity: float | None = None,
        mask: Any = None,
    ) -> GroupQuant:
        """Prune groups of a dense matrix and quantise the others.

        The scale of a group is the least float16 with which its codes span the group and zero, so
        that zero is exact and |A - w| ≤ scale/2 (below one scale where the nearest number would be
        beyond float16's largest).

        Parameters
        ----------
        w : array [M, K], floating, rows may be strided, in the CPU's memory
            Copy the five arrays to a GPU and make a GroupQuant of them to have it there.
        group : 16, 32, 64 or 128
            Columns of a group; the last one of a row may have fewer.
        bits : 4 or 8
        sparsity : float from 0 to 1, or None
            The share of groups to prune, those with the least Euclidean norm. Of T groups,
            `schedule.nnz(T, sparsity)` stay; among equal ones, the first.
        mask : array [M, K] or [M, ⌈K/group⌉], bool or uint8, or None
            Nonzero where an element, or a group, is kept. Other elements of a group are zero.
            Without mask and sparsity, all groups but those of ±0 are kept.

        Returns
        -------
        GroupQuant
            Over new arrays of w's framework.

        Raises
        ------
        TypeError
            For element types.
        ValueError
            For group, bits, sparsity, shapes and layout; for what is not finite or spans more than
            a float16 scale can.

        Examples
        --------
        >>> import numpy as np
        >>> w = np.repeat(np.array([[1.0, -15.0]]), 16, axis=1)
        >>> GroupQuant.from_dense(w, sparsity=0.5).to_dense()[0, 15:17]
        array([  0., -15.])
        """
        if sparsity is not None:
            if mask is not None:
                raise ValueError(
                    "GroupQuant.from_dense: got sparsity and mask, expected at most one of them"
                )
            from gossamer.prune import topk_mask

            op, bounds = "GroupQuant.from_dense", "0 to 1"
            share = decimal(op, "sparsity", sparsity, expected=bounds)
            if not 0 <= share <= 1:
                refuse(op, "sparsity", sparsity, bounds)
            norms = _core.quant_norms(w, group)
            # A NaN is kept, so that it is refused instead of pruned.
            mask = topk_mask(norms, schedule.nnz(math.prod(norms.shape), share), nan="highest")
        return cls._wrap(_core.quant_from_dense(w, mask, group, bits))

    @classmethod
    def _wrap(cls, native: _core.GroupQuant) -> GroupQuant:
        self = cls.__new__(cls)
        self._native = native
        return self

    @property
    def indptr(self) -> Any:
        """Where each row's groups start; read-only, or a copy: structure is checked once."""
        return _interop.frozen(self._native.indptr)

    @property
    def indices(self) -> Any:
        """The place of each group in its row; read-only, or a copy."""
        return _interop.frozen(self._native.indices)

    @property
    def codes(self) -> Any:
        """The codes of each group [groups, G·bits/8]."""
        return self._native.codes

    @property
    def scales(self) -> Any:
        """The scale of each group."""
        return self._native.scales

    @property
    def zeros(self) -> Any:
        """The code of zero in each group."""
        return self._native.zeros

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._native.shape

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def group(self) -> int:
        """Columns of a group."""
        return self._native.group

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self._native.bits

    @property
    def groups(self) -> int:
        """The number of groups that are kept."""
        return self._native.groups

    @property
    def nnz(self) -> int:
        """The number of codes, those beyond the last column included."""
        return self._native.nnz

    @property
    def dtype(self) -> str:
        """The type of the operands of products, by NumPy's name."""
        return self._native.dtype

    @property
    def device(self) -> str:
        """Where the arrays are."""
        return self._native.device

    @property
    def nbytes(self) -> int:
        """4·(M + 1) + groups·(group·bits/8 + 5)."""
        return self._native.nbytes

    def _astype(self, dtype: Any) -> GroupQuant:
        name = _interop.floating_name("GroupQuant", dtype)
        return self if name == self.dtype else self._remade(self._arrays(), dtype=name)

    def __repr__(self) -> str:
        return (
            f"GroupQuant(shape={self.shape}, group={self.group}, bits={self.bits}, "
            f"groups={self.groups}, dtype={self.dtype}, nbytes={self.nbytes})"
        )
