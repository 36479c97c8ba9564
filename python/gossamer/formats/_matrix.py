"""What the sparse formats have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from gossamer import _interop
from gossamer.formats._stored import Stored

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    #: The type of the arrays that a matrix is over.
    Array = TypeVarWithDefault("Array", default=Any)
else:
    Array = TypeVar("Array")


#: That of a matrix of which another one is made.
Kind = TypeVar("Kind", bound="Matrix[Any]")


class TracedMatrix:
    """Stands for the native half of a matrix inside a function that is traced: without memory."""

    __slots__ = ("values",)

    values: Any

    @property
    def nnz(self) -> int:
        """The number of values."""
        return math.prod(self.values.shape)

    @property
    def dtype(self) -> str:
        """The type of the values."""
        return str(self.values.dtype)

    @property
    def device(self) -> str:
        """Nowhere yet."""
        return "traced"

    def refuse(self, op: str, argument: str) -> None:
        """Raise the error of an operation that needs the values."""
        _interop.refuse_traced(op, argument, self.values)


class Matrix(Stored, Generic[Array]):
    """A checked matrix over arrays that the caller keeps."""

    __slots__ = ()

    #: Writes a native matrix to a dense array.
    _WRITE: ClassVar[Any]
    #: The array that holds the values.
    _VALUES: ClassVar[str] = "values"
    #: NumPy's operators leave the matrix to its own.
    __array_ufunc__ = None
    #: Equal matrices may have other values: a cache of results, as that of jax.jit for what is
    #: static, would give those of another one. `structure` can be hashed.
    __hash__ = None  # type: ignore[assignment]

    if not TYPE_CHECKING:  # type checkers are to read the arguments of __init__

        def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:
            """Refuse a dense array, which has a constructor of its own."""
            if len(args) == 1 and not kwargs:
                raise TypeError(
                    f"{cls.__name__}: got one array, expected the arrays that the format consists "
                    f"of; {cls.__name__}.from_dense takes a dense array"
                )
            return super().__new__(cls)

    def _plain(self, where: str) -> Any:
        """Return the native half of a matrix with one set of values."""
        del where
        return self._native

    def __matmul__(self, b: Array) -> Array:
        """Return A·B, as `gossamer.spmm` does."""
        from gossamer.products import spmm

        return spmm(self, b)  # type: ignore[arg-type]

    def __array__(self, *_args: Any, **_options: Any) -> Any:
        """Raise: a copy as large as the dense matrix is not made in silence."""
        kind = type(self).__name__
        raise TypeError(f"{kind}: a sparse matrix is no array, expected a call of its to_dense()")

    def astype(self: Kind, dtype: Any) -> Kind:
        """Return a matrix of the same structure with values of another type.

        Parameters
        ----------
        dtype : "float32", "float64", "float16" or "bfloat16", or the framework's own name of it

        Returns
        -------
        of this type
            Sharing the index arrays, and the values if they have that type. A GroupQuant keeps its
            codes: it is the type of the operands of its products that changes.

        Raises
        ------
        TypeError
            For other types.

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> gossamer.CSR.from_dense(np.eye(2)).astype("float32").dtype
        'float32'
        """
        return self._astype(dtype)

    def _astype(self: Kind, dtype: Any) -> Kind:
        values = getattr(self._native, self._VALUES)
        if values is None:
            self._plain(f"{type(self).__name__}.astype: ")
        values = _interop.astype(type(self).__name__, values, dtype)
        made: Any = type(self)
        return made._wrap(self._native.with_values(values))  # type: ignore[no-any-return]

    def to_dense(self, *, out: Array | None = None) -> Array:
        """Write the matrix out in full.

        Parameters
        ----------
        out : array [M, K] of this matrix's dtype, rows may be strided, or None

        Returns
        -------
        array [M, K]
            `out`, or a new array of this matrix's framework.

        Raises
        ------
        TypeError
            For the element type of `out`.
        ValueError
            For its shape, device and layout.

        Examples
        --------
        >>> import numpy as np
        >>> from gossamer import CSR, GroupQuant
        >>> CSR.from_dense(np.eye(2)).to_dense()
        array([[1., 0.],
               [0., 1.]])
        >>> GroupQuant.from_dense(np.full((1, 16), 15.0)).to_dense()[0, :3]
        array([15., 15., 15.])
        """
        dense: Array = self._WRITE(self._plain(f"{type(self).__name__}.to_dense: "), out)
        return dense
