"""What all formats have in common: copies, devices, files, pickles and equality of structure."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from gossamer import _interop
from gossamer.formats import _file

Self = TypeVar("Self", bound="Stored")


class Structure:
    """Where a matrix has entries: format, shape and index arrays; equal where all of those are."""

    __slots__ = ("_arrays", "_facts", "_kind")

    def __init__(self, kind: str, facts: dict[str, Any], arrays: tuple[Any, ...]) -> None:
        self._kind, self._facts, self._arrays = kind, facts, arrays

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure):
            return NotImplemented
        same = (self._kind, self._facts) == (other._kind, other._facts)
        return same and all(map(_interop.equal, self._arrays, other._arrays))

    def __hash__(self) -> int:
        return hash((self._kind, *self._facts.items()))

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self._facts.items())
        return f"Structure({self._kind}, {facts})"


class Stored:
    """Something over arrays that the caller keeps and that were checked once."""

    __slots__ = ()

    _native: Any
    #: The constructor's arguments that are arrays, by their names, which are the native half's too.
    _ARRAYS: ClassVar[tuple[str, ...]]
    #: Those among them that say where the entries are.
    _INDEX: ClassVar[tuple[str, ...]] = ("indptr", "indices")
    #: The constructor's other arguments, and what they consist of.
    _FACTS: ClassVar[dict[str, _file.Form]] = {"shape": (int, int)}
    #: What of the structure its arrays do not tell.
    _SIDES: ClassVar[tuple[str, ...]] = ("shape",)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""
        raise NotImplementedError

    def _arrays(self) -> dict[str, Any]:
        return {name: getattr(self._native, name) for name in self._ARRAYS}

    def _facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._FACTS}

    def _remade(self: Self, arrays: dict[str, Any], **facts: Any) -> Self:
        """Return another one of arrays that come of this one's, which were checked."""
        made: Any = type(self)
        return made(**arrays, **{**self._facts(), **facts}, check=False)  # type: ignore[no-any-return]

    def _entries(self) -> int:
        return int(self._native.indices.shape[0])

    @property
    def structure(self) -> Structure:
        """Where the entries are: format, shape and index arrays, without the values.

        `a == b` compares it alone.

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> a = gossamer.CSR.from_dense(np.eye(2))
        >>> a.structure == a.with_values(np.zeros(2)).structure
        True
        """
        facts = {name: getattr(self, name) for name in self._SIDES}
        arrays = tuple(getattr(self._native, name) for name in self._INDEX)
        facts["entries"] = self._entries()
        return Structure(type(self).__name__, facts, arrays)

    def same_structure(self, other: Any) -> bool:
        """Say whether another one has this one's format, shape and places of entries.

        Parameters
        ----------
        other : CSR, BSR, NM, GroupQuant or BlockLayout

        Returns
        -------
        bool

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> a = gossamer.CSR.from_dense(np.eye(2))
        >>> a.same_structure(a.with_values(np.zeros(2)))
        True
        """
        return type(other) is type(self) and self.structure == other.structure

    def __eq__(self, other: object) -> bool:
        """Say whether another one has entries in the same places; values are not compared."""
        if not isinstance(other, Stored):
            return NotImplemented
        return self is other or self.structure == other.structure

    def __hash__(self) -> int:
        return hash(self.structure)

    def to(self: Self, device: Any) -> Self:
        """Return the same with its arrays on a device.

        Parameters
        ----------
        device : "cpu", "cuda", "cuda:1", or the framework's own
            NumPy's arrays are on "cpu" only; CuPy's become NumPy's there.

        Returns
        -------
        of this type
            This one if it is there.

        Raises
        ------
        ValueError
            For a device that the framework does not have.

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> a = gossamer.CSR.from_dense(np.eye(2))
        >>> a.to("cpu") is a
        True
        """
        arrays = self._arrays()
        op = type(self).__name__
        moved = {name: _interop.moved(op, array, device) for name, array in arrays.items()}
        if all(moved[name] is array for name, array in arrays.items()):
            return self
        return self._remade(moved)

    def copy(self: Self) -> Self:
        """Return the same over arrays of its own.

        Returns
        -------
        of this type

        Examples
        --------
        >>> import gossamer, numpy as np
        >>> a = gossamer.CSR.from_dense(np.eye(2))
        >>> b = a.copy()
        >>> b.values[:] = 3
        >>> a.values
        array([1., 1.])
        """
        arrays = self._arrays().items()
        return self._remade(
            {name: None if array is None else _interop.copied(array) for name, array in arrays}
        )

    def save(self, path: Any) -> None:
        """Write it to a file in the safetensors format.

        A file that is there is replaced once the new one is whole; what interrupts that leaves it.

        The file's tensors are the constructor's arrays, by their names: indptr, indices and values
        of a CSR.

        Parameters
        ----------
        path : str or path

        Examples
        --------
        >>> import gossamer, numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     gossamer.CSR.from_dense(np.eye(2)).save(folder + "/a.safetensors")
        ...     gossamer.CSR.load(folder + "/a.safetensors").nnz
        2
        """
        _file.save(path, type(self).__name__, self._arrays(), self._facts())

    @classmethod
    def load(cls: type[Self], path: Any, *, framework: str = "numpy") -> Self:
        """Read what `save` wrote to a file; its structure is checked.

        Parameters
        ----------
        path : str or path
        framework : "numpy", "torch" or "jax"
            Whose arrays it gets.

        Returns
        -------
        of this type

        Raises
        ------
        ValueError
            For a file that is not in the format, or holds something else or a corrupt structure.

        Examples
        --------
        >>> import gossamer, numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     gossamer.CSR.from_dense(np.eye(2)).save(folder + "/a.safetensors")
        ...     gossamer.CSR.load(folder + "/a.safetensors").values
        array([1., 1.])
        """
        made: Any = cls
        arrays, facts = _file.load(path, cls.__name__, cls._ARRAYS, cls._FACTS, framework)
        return made(**arrays, **facts)  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = {name: _interop.to_pickle(array) for name, array in self._arrays().items()}
        return rebuild, (type(self), arrays, self._facts())


def rebuild(kind: Any, arrays: dict[str, Any], facts: dict[str, Any]) -> Any:
    """Make a pickled one again."""
    return kind(**{name: _interop.from_pickle(x) for name, x in arrays.items()}, **facts)
