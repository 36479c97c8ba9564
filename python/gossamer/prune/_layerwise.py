"""Pruning one layer after training, with what a little calibration data tells of its inputs."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from gossamer import _backend, _core, _interop
from gossamer._numbers import integer, real, refuse

Array = Any


class ColumnStats:
    """Statistics of the columns of activations, gathered batch by batch in one pass each.

    Of rows x_t: n, sum = Σ_t x_t, sumsq = Σ_t x_t², mean, var = Σ_t (x_t - mean)²/n, which are raw
    sums over tokens: nothing is divided by a number of sequences. They are kept in float64, by the
    merge of Chan, Golub and LeVeque; the arrays are float32 (float64 for float64 activations), of
    the framework of the first batch.

    Examples
    --------
    >>> import numpy as np
    >>> stats = ColumnStats().add(np.array([[1.0], [3.0]])).add(np.array([[5.0]]))
    >>> stats.n, stats.sum, stats.sumsq, stats.var
    (3, array([9.]), array([35.]), array([2.66666667]))
    """

    __slots__ = ("__weakref__", "_native")

    _native: _core.ColumnStats

    def __init__(self) -> None:
        self._native = _core.ColumnStats()

    def add(self, x: Array) -> ColumnStats:
        """Add the rows of a batch.

        Parameters
        ----------
        x : array [..., C], floating, row-major, rows may be strided

        Returns
        -------
        ColumnStats
            This object.

        Raises
        ------
        TypeError
            For element types and for what is not an array.
        ValueError
            For shape, device and layout.

        Examples
        --------
        >>> import numpy as np
        >>> ColumnStats().add(np.ones((2, 3, 4), np.float32)).n
        6
        """
        self._native.add(x)
        return self

    def merge(self, other: ColumnStats) -> ColumnStats:
        """Add what another one has seen, of other batches or on another machine.

        Parameters
        ----------
        other : ColumnStats, of as many columns

        Returns
        -------
        ColumnStats
            This object.

        Raises
        ------
        ValueError
            For another number of columns.

        Examples
        --------
        >>> import numpy as np
        >>> a, b = (ColumnStats().add(np.full((2, 1), x)) for x in (1.0, 3.0))
        >>> a.merge(b).mean
        array([2.])
        """
        self._native.merge(other._native)
        return self

    @property
    def n(self) -> int:
        """Rows seen."""
        return self._native.n

    @property
    def sum(self) -> Array:
        """Σx of each column [C]."""
        return self._native.sum

    @property
    def sumsq(self) -> Array:
        """Σx² of each column [C]: what `score(w, kind="wanda", col=...)` takes."""
        return self._native.sumsq

    @property
    def mean(self) -> Array:
        """The mean of each column [C]."""
        return self._native.mean

    @property
    def var(self) -> Array:
        """The population variance of each column [C]."""
        return self._native.var


def obs_prune_(
    w: Array,
    hessian: Array,
    *,
    k: int | None = None,
    nm: tuple[int, int] | None = None,
    mask: Array | None = None,
    block: int = 128,
    damping: float = 0.0,
    out: Array = None,
) -> tuple[Array, Array]:
    """Prune a layer and change what it keeps so that its outputs stay near: SparseGPT.

    Column by column, from the left: those of a block are chosen by w²/u² with H⁻¹ = Uᵀ·U, u = diag
    U; the error w/u of a dropped weight, times its row of U, goes into the weights to its right
    (Frantar and Alistarh, 2023). Give one of `k`, `nm` and `mask`.

    Parameters
    ----------
    w : array [R, C], float32, float64, float16 or bfloat16, written in place
    hessian : array [C, C], float32 or float64, symmetric
        Xᵀ·X of the inputs X [T, C], times any positive number, on w's device.
    k : int
        Weights to keep: exactly so many, in each block its share.
    nm : (n, m), to keep n of each m consecutive columns
    mask : array [R, C], bool or uint8, the weights to keep
    block : int
        Columns between two choices, rounded up to a multiple of m.
    damping : float
        This share of the mean of diag H is added to diag H (0.01 is usual).
    out : array [R, C], bool or uint8, written in place; for k and nm

    Returns
    -------
    w : array [R, C]
    mask : bool array [R, C] of w's framework, or the one given
        Where weights were kept; w is 0 elsewhere.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes and ranges, for a w that cannot be written, and where H is not positive definite.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([[1.0, 2.0]])
    >>> obs_prune_(w, np.array([[2.0, 1.0], [1.0, 1.0]]), k=1, block=1)
    (array([[0., 3.]]), array([[False,  True]]))
    """
    nm = None if nm is None else _core.pair("obs_prune_", "nm", nm)
    block = integer("obs_prune_", "block", block)
    if block < 1:
        raise ValueError(f"obs_prune_: block is {block}, expected at least 1")
    share = real("obs_prune_", "damping", damping)
    if not share >= 0:
        raise ValueError(f"obs_prune_: damping is {damping}, expected at least 0")
    _interop.admit(hessian, "obs_prune_", "hessian")
    index = _interop.gpu_of(hessian)
    factor: Any
    if index is not None:
        factor = _factor_on_gpu(w, hessian, index, share)
    else:
        factor = _factor_on_cpu(w, hessian, share)
    kept: Array = _core.obs_prune_(w, factor, mask, k, nm, block, out)
    return w, kept


def obs_block_(
    w: Array,
    u: Array,
    *,
    k: int | None = None,
    nm: tuple[int, int] | None = None,
    mask: Array | None = None,
    out: tuple[Array | None, Array | None] = (None, None),
) -> tuple[Array, Array, Array]:
    """Prune one block of columns of a layer: SparseGPT's inner step.

    As `obs_prune_`, for a caller who has factored the Hessian and goes through the blocks of
    columns alone: those to the right of the block take W -= err·U[block, right].

    Parameters
    ----------
    w : array [R, b], float32, float64, float16 or bfloat16, written in place
    u : array [b, b], float64 for a float64 w, else float32
        The block on the diagonal of the upper Cholesky factor of H⁻¹ = Uᵀ·U.
    k : int
        Weights to keep.
    nm : (n, m)
        Keeps n of each m consecutive columns.
    mask : array [R, b], bool or uint8
        The weights to keep.
    out : (mask or None, err or None), written in place

    Returns
    -------
    w : array [R, b]
    mask : bool array [R, b] of w's framework, or the one given
    err : array [R, b] of u's dtype and w's framework
        w/diag u of each dropped weight when its column was reached, 0 elsewhere.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes and ranges, for a w that cannot be written, for a diag u that is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([[1.0, 4.0]])
    >>> obs_block_(w, np.array([[0.5, 1.0], [0.0, 1.0]]), k=1)
    (array([[0., 2.]]), array([[False,  True]]), array([[2., 0.]]))
    """
    kept, err = _core.obs_block_(w, u, mask, k, nm, *out)
    return w, kept, err


def dsnot_rows_(
    mask: Array,
    w: Array,
    stats: ColumnStats,
    *,
    tolerance: float = 0.1,
    max_iter: int = 50,
    power: float = 1.0,
    same_sign: bool = True,
    per: Literal["row"] | int = "row",
) -> Array:
    """Swap kept and dropped weights until each row's expected output is restored: DSnoT.

    With d = w·E[x] and e = Σ d over a row's dropped weights, a step grows the dropped weight with
    sign(e)·d > 0 and the largest |d|/Var(x)^power, and drops the kept one with the smallest
    |w|·√Σx² whose d has the other sign. A weight moves once at most; a row is done where
    |e| ≤ tolerance, the next swap would turn e's sign, or nothing fits (Zhang et al., 2024).

    Parameters
    ----------
    mask : array [R, C], bool or uint8, written in place
        A first choice, such as Wanda's. The number of entries of each row stays.
    w : array [R, C], float32, float64, float16 or bfloat16
    stats : ColumnStats of the layer's inputs
    tolerance : float
    max_iter : int
        Swaps of a row, at most.
    power : float
    same_sign : bool
        False drops the smallest weight whatever its sign.
    per : "row" or int
        What swaps stay within: a row, or groups of so many of its columns (M keeps an N:M mask).

    Returns
    -------
    array [R, C]
        `mask`.

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shapes and ranges, for a mask that cannot be written, for stats of nothing.

    Examples
    --------
    >>> import numpy as np
    >>> stats = ColumnStats().add(np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]))
    >>> dsnot_rows_(np.array([[True, False, False]]), np.array([[-1.0, 2.0, 1.0]]), stats)
    array([[False,  True, False]])
    """
    if not isinstance(stats, ColumnStats):
        raise TypeError(f"dsnot_rows_: stats is a {type(stats).__name__}, expected a ColumnStats")
    if isinstance(per, str) and per != "row":
        refuse("dsnot_rows_", "per", repr(per), "'row' or an int")
    group = None if isinstance(per, str) else per
    _core.dsnot_rows_(mask, w, stats._native, tolerance, max_iter, power, same_sign, group)
    return mask


def _factor_on_gpu(w: Array, hessian: Array, index: int, damping: float) -> Array:
    """Return the factor that a Hessian on a GPU has; wait to know whether it has one."""
    there = _interop.gpu_of(w)
    if there != index:
        place = "cpu" if there is None else f"cuda:{there}"
        raise ValueError(f"obs_prune_: hessian is on cuda:{index}, expected w's device {place}")
    _check_sides(w, tuple(hessian.shape))
    factor, wrong = _backend.cuda("obs_prune_", "hessian", index).obs_factor(w, hessian, damping)
    if wrong == "not finite":
        raise ValueError("obs_prune_: hessian holds NaN or infinity, expected neither")
    if wrong:
        raise _not_definite(damping)
    return factor


def _factor_on_cpu(w: Array, hessian: Array, damping: float) -> np.ndarray[Any, Any]:
    if str(getattr(hessian, "dtype", "")).endswith("bfloat16"):  # NumPy cannot import it
        raise TypeError(
            "obs_prune_: hessian has element type bfloat16, expected float32 or float64"
        )
    h = _interop.as_numpy(hessian, "obs_prune_", "hessian")
    _check_sides(w, h.shape)
    wide = str(getattr(w, "dtype", "")).endswith("float64")
    return _inverse_factor(h, damping).astype(np.float64 if wide else np.float32)


def _check_sides(w: Array, sides: tuple[int, ...]) -> None:
    columns = tuple(getattr(w, "shape", ()))[1:]
    if len(columns) == 1 and len(sides) == 2 and sides[0] == sides[1] != columns[0]:
        raise ValueError(f"obs_prune_: hessian.shape is {sides}, expected {columns * 2}")


def _not_definite(damping: float) -> ValueError:
    return ValueError(
        "obs_prune_: hessian is not positive definite, expected more rows of activations or a "
        f"larger damping than {damping}"
    )


def _inverse_factor(hessian: np.ndarray[Any, Any], damping: float) -> np.ndarray[Any, Any]:
    """Return the upper U with H⁻¹ = Uᵀ·U, in float64, of H times a power of four.

    With H = R·Rᵀ, R upper triangular, it is R⁻¹: one factorisation, of H from its last column on.
    The power brings the mean of diag H near 1, so that U and its squares are within the range of
    float32. It cancels in the updates of obs_prune_.
    """
    op = "obs_prune_: hessian"
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1]:
        raise ValueError(f"{op}.shape is {hessian.shape}, expected a square matrix")
    if hessian.dtype.kind not in "fiu":
        raise TypeError(f"{op} has element type {hessian.dtype}, expected float32 or float64")
    h = np.asarray(hessian[::-1, ::-1], np.float64)
    if len(h):
        h = np.ldexp(h, -2 * (int(np.frexp(abs(h.diagonal()).max())[1]) // 2))
        diagonal = np.einsum("ii->i", h)
        diagonal += damping * diagonal.mean()
    if not np.isfinite(h).all():
        raise ValueError(f"{op} holds NaN or infinity, expected neither")
    try:
        lower = np.linalg.cholesky(h)
    except np.linalg.LinAlgError:
        raise _not_definite(damping) from None
    return _invert_lower(lower)[::-1, ::-1].copy()


def _invert_lower(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the inverse of a lower triangular matrix, by halves."""
    n = len(a)
    if n <= 64:
        return np.tril(np.linalg.inv(a)) if n else a
    h = n // 2
    out = np.zeros_like(a)
    out[:h, :h] = _invert_lower(a[:h, :h])
    out[h:, h:] = _invert_lower(a[h:, h:])
    out[h:, :h] = -out[h:, h:] @ (a[h:, :h] @ out[:h, :h])
    return out
