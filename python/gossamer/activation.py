"""Layers that read only the weights of channels whose activations are large."""

from __future__ import annotations

from typing import Any, SupportsIndex, TypeVar

from gossamer import _core
from gossamer._backend import CudaError
from gossamer._numbers import integer
from gossamer.products import Activation
from gossamer.prune import topk_rows

__all__ = [
    "DeltaState",
    "delta_linear",
    "gated_mlp",
    "gather_decode",
    "gather_decode_backward",
    "sparse_linear",
    "topk_rows",
    "topk_rows_backward",
]

Array = TypeVar("Array")


def sparse_linear(
    x: Array,
    wt: Any,
    *,
    threshold: Any,
    bias: Any = None,
    activation: Activation | None = None,
    accumulate: bool = False,
    out: Array | None = None,
) -> Array:
    """Apply a layer to the large entries of its input (Liu et al., TEAL, 2024).

    out[t] = activation(Σ_k x[t, k]·wt[k] + bias [+ out]) over the channels k with
    |x[t, k]| ≥ threshold[k] for at least one token t: one token uses its own channels, several use
    the union of theirs. Rows of wt of other channels are not read, so time and traffic fall with
    the share of channels. Made for 1 to 8 tokens; any number is taken.

    Parameters
    ----------
    x : array [..., K], floating; the last axis has stride 1, the leading ones any stride ≥ 0
        A NaN passes every threshold, so that it shows in the result.
    wt : array [K, M] of x's dtype, rows may be strided
        The dense weight, transposed.
    threshold : number, or array [K] of float32 or x's dtype
    bias : array [M] of x's dtype, or None
    activation : "relu", "relu6", "gelu" (exact), "silu", ("clamp", lo, hi) or None
    accumulate : bool
        Adds what `out` holds before the activation.
    out : array [..., M], or None
        Written in place.

    Returns
    -------
    array [..., M]
        `out`, or a new array of x's framework. Sums are kept in float32 (float64 for float64).

    Raises
    ------
    TypeError
        For element types and for what is not an array or a number.
    ValueError
        For shape, layout and device, a threshold that is NaN, an `out` that overlaps an operand.

    Examples
    --------
    >>> import numpy as np
    >>> wt = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> sparse_linear(np.array([0.5, -3.0, 2.0]), wt, threshold=1.0)
    array([1., 0.])
    """
    result: Array = _core.sparse_linear(x, wt, threshold, bias, activation, accumulate, out)
    return result


def gated_mlp(
    x: Array,
    w_gate: Any,
    w_up: Any,
    w_down_t: Any,
    *,
    threshold: Any,
    activation: Activation | None = "silu",
    out: Array | None = None,
) -> Array:
    """Apply a gated MLP whose small gates are pruned: CATS (Lee et al., 2024), CHESS (He et al.).

    out[t] = Σ_i a[t, i]·u[t, i]·w_down_t[i] over the channels i with |a[t, i]| ≥ threshold[i] for
    at least one token t, where a = activation(x·w_gateᵀ) and u = x·w_upᵀ. Rows of w_up and w_down_t
    of other channels are not read. A number is CATS's threshold, an array CHESS's
    (`prune.channel_threshold`). Made for 1 to 8 tokens; any number is taken.

    Parameters
    ----------
    x : array [..., d], floating; the last axis has stride 1, the leading ones any stride ≥ 0
    w_gate, w_up : array [h, d] of x's dtype, rows may be strided
    w_down_t : array [h, d] of x's dtype, rows may be strided
        The down projection, transposed.
    threshold : number, or array [h] of float32 or x's dtype
        A NaN in a passes.
    activation : "relu", "relu6", "gelu" (exact), "silu", ("clamp", lo, hi) or None
    out : array [..., d], or None
        Written in place.

    Returns
    -------
    array [..., d]
        `out`, or a new array of x's framework. a, u and sums are kept in float32 (float64).

    Raises
    ------
    TypeError
        For element types and for what is not an array or a number.
    ValueError
        For shape, layout and device, a threshold that is NaN, an `out` that overlaps an operand.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([[1.0, 0.0], [0.0, 3.0]])
    >>> gated_mlp(np.array([1.0, 2.0]), w, w, w, threshold=2.0, activation="relu")
    array([  0., 108.])
    """
    result: Array = _core.gated_mlp(x, w_gate, w_up, w_down_t, threshold, activation, out)
    return result


class DeltaState:
    """What `delta_linear` keeps between the steps of one stream.

    Attributes
    ----------
    last : NumPy array [..., K], float32 (float64 for float64), or None before the first step
        What each channel sent last. On a GPU, an array of the framework of the first x.
    sums : NumPy array [..., M], float32 (float64 for float64), or None before the first step
        last·wt, but for the rounding errors of the steps since it was summed anew.
    sent : int
        How many channels the last step sent: the rows of wt that it read. On a GPU, an array
        without axes (int32), so that nothing waits for it.
    """

    __slots__ = ("__weakref__", "last", "sent", "sums")

    def __init__(self) -> None:
        self.last: Any = None
        self.sums: Any = None
        self.sent: Any = 0

    def reset(self) -> None:
        """Forget the stream: the next step is a first one, of any shape."""
        self.last = self.sums = None
        self.sent = 0


def delta_linear(
    x: Array,
    wt: Any,
    state: DeltaState,
    *,
    threshold: Any,
    refresh: bool = False,
    bias: Any = None,
    activation: Activation | None = None,
    out: Array | None = None,
) -> Array:
    """Apply a layer to the changes of a stream (Yousefzadeh and Sifalakis, 2021).

    The channels k with |x[..., k] - last[..., k]| ≥ threshold[k] for at least one token send their
    change: sums += (x[..., k] - last[..., k])·wt[k], last[..., k] = x[..., k]; then
    out = activation(sums + bias). Rows of wt of other channels are not read. The state holds `last`
    and `sums`, zeros at first. Steps add rounding errors to the sums: `refresh` now and then.

    Parameters
    ----------
    x : array [..., K], floating, strided as in sparse_linear, of one shape and dtype at all steps
    wt : array [K, M] of x's dtype, the same at all steps
    state : DeltaState, changed in place; one for each stream and layer
    threshold : number, or array [K] of float32 or x's dtype
        A NaN passes. A change that is not finite makes this step refresh.
    refresh : bool
        Computes sums = last·wt anew after sending, from all rows of channels that are not zero.
    bias : array [M] of x's dtype, or None
    activation : "relu", "relu6", "gelu" (exact), "silu", ("clamp", lo, hi) or None
    out : array [..., M], or None

    Returns
    -------
    array [..., M]
        `out`, or a new array of x's framework.

    Raises
    ------
    TypeError, ValueError
        As sparse_linear; for a state of another shape, dtype or device. What interrupts resets the
        state, and so does a CudaError.

    Examples
    --------
    >>> import numpy as np
    >>> state, wt = DeltaState(), np.array([[1.0], [10.0]])
    >>> delta_linear(np.array([2.0, 3.0]), wt, state, threshold=1.0)
    array([32.])
    >>> delta_linear(np.array([2.5, 5.0]), wt, state, threshold=1.0)
    array([52.])
    """
    if not isinstance(state, DeltaState):
        raise TypeError(f"delta_linear: state is a {type(state).__name__}, expected a DeltaState")
    if (state.last is None) != (state.sums is None):  # zeros for one would not fit the other
        raise ValueError("delta_linear: state has one of last and sums, expected both or none")
    result: Array
    try:
        result, state.last, state.sums, state.sent = _core.delta_linear(
            x, wt, state.last, state.sums, threshold, refresh, bias, activation, out
        )
    except CudaError:
        state.reset()
        raise
    return result


def gather_decode(
    indices: Any, values: Array, table: Any, *, bias: Any = None, out: Array | None = None
) -> Array:
    """Sum some rows of a table, weighted: the decoder of a sparse autoencoder.

    out[t] = Σ_i values[t, i]·table[indices[t, i]] + bias. Other rows of the table are not read.
    `prune.topk_rows` makes values and indices of activations.

    Parameters
    ----------
    indices : array [..., k], int32 or int64, from 0 to H - 1; may repeat
    values : array [..., k] of table's dtype
    table : array [H, d], floating, rows may be strided
    bias : array [d] of table's dtype, or None
    out : array [..., d], or None
        Written in place.

    Returns
    -------
    array [..., d]
        `out`, or a new array of values' framework. Sums are kept in float32 (float64 for float64).

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shape, layout and device, an index out of range, an `out` that overlaps an operand. On
        a GPU, which is not waited for, an index out of range makes its row of `out` NaN.

    Examples
    --------
    >>> import numpy as np
    >>> table = np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    >>> gather_decode(np.array([[2, 0]]), np.array([[2.0, 1.0]]), table)
    array([[11., 10.]])
    """
    result: Array = _core.gather_decode(indices, values, table, bias, out)
    return result


def gather_decode_backward(
    dy: Array,
    indices: Any,
    values: Any,
    table: Any,
    *,
    needs: tuple[bool, bool] = (True, True),
    out: tuple[Any, Any] | None = None,
) -> tuple[Any, Any]:
    """Return the gradients of `gather_decode`.

    dvalues[t, i] = dy[t]·table[indices[t, i]]; dtable[r] = Σ values[t, i]·dy[t] over the entries
    with indices[t, i] = r, in their order, so that the bits are the same on every run and for every
    number of threads. The gradient of a bias is dy summed over tokens.

    Parameters
    ----------
    dy : array [..., d] of table's dtype
        The gradient by the result.
    indices : array [..., k], int32 or int64, from 0 to H - 1; may repeat
    values : array [..., k] of table's dtype
    table : array [H, d], floating, rows may be strided
    needs : two flags
        Which of dvalues and dtable to compute.
    out : (dvalues, dtable), each an array or None, written in place; or None

    Returns
    -------
    dvalues [..., k], dtable [H, d]
        Of dy's framework; None for what is not needed. Sums are kept in float32 (float64 for
        float64).

    Raises
    ------
    TypeError
        For element types and for what is not an array.
    ValueError
        For shape, layout and device, an index out of range, an `out` that overlaps an operand. On
        a GPU, which is not waited for, an index out of range makes its place of dvalues NaN and has
        no part in dtable.

    Examples
    --------
    >>> import numpy as np
    >>> table, dy = np.array([[1.0, 0.0], [2.0, 3.0]]), np.array([[1.0, 10.0]])
    >>> gather_decode_backward(dy, np.array([[1]]), np.array([[4.0]]), table)
    (array([[32.]]), array([[ 0.,  0.],
           [ 4., 40.]]))
    """
    gradients: tuple[Any, Any] = _core.gather_decode_backward(
        dy, indices, values, table, needs, out
    )
    return gradients


def topk_rows_backward(
    dy: Array, indices: Any, columns: SupportsIndex, *, out: Array | None = None
) -> Array:
    """Return the gradient of `topk_rows` by x.

    out is zero but for out[t, indices[t, i]] = dy[t, i].

    Parameters
    ----------
    dy : array [..., k], floating
        The gradient by the values.
    indices : array [..., k], int32 or int64, from 0 to columns - 1, none twice in a row
    columns : int
        F, the length of the rows that were selected from.
    out : array [..., F], or None
        Written in place.

    Returns
    -------
    array [..., F]
        `out`, or a new array of dy's framework and dtype.

    Raises
    ------
    TypeError
        For element types and for what is not an array or an integer.
    ValueError
        For shape, layout and device, an index out of range, an `out` that overlaps an operand. On
        a GPU, which is not waited for, an index out of range makes its row of `out` NaN.

    Examples
    --------
    >>> import numpy as np
    >>> values, indices = topk_rows(np.array([[1.0, 3.0, 2.0]]), 2)
    >>> topk_rows_backward(10 * values, indices, 3)
    array([[ 0., 30., 20.]])
    """
    result: Array = _core.topk_rows_backward(
        dy, indices, integer("topk_rows_backward", "columns", columns), out
    )
    return result
