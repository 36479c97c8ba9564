"""Random inputs for the operations, and what must be true of each.

A case is a function of a random generator. It draws arguments, valid ones and wrong ones, calls an
operation and asserts that the result is the oracle's, or that the arguments were refused by an
error of the kinds in `REFUSED`. The same seed draws the same case.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import gossamer
import numpy as np
from gossamer import BSR, CSR, prune, regrow, schedule
from oracle import DTYPES
from producer import Producer

#: How an operation may refuse arguments; any other exception, and a crash, is a fault.
REFUSED = (ValueError, TypeError, MemoryError, NotImplementedError)

Rng = np.random.Generator
Case = Callable[[Rng], None]


def size(rng: Rng, most: int = 70) -> int:
    """Draw an extent: often 0, 1 or beside a width of vectors."""
    odd = [0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65]
    return int(rng.choice(odd)) if rng.random() < 0.5 else int(rng.integers(0, most))


def whole(rng: Rng, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Draw small whole numbers, whose sums of products are exact in every type."""
    return rng.integers(-2, 3, shape).astype(dtype)


def strided(rng: Rng, x: np.ndarray) -> np.ndarray:
    """Return x, or a copy of it whose rows are further apart."""
    if x.ndim < 2 or rng.random() < 0.6:
        return x
    pad = int(rng.integers(1, 9))
    wide = np.full((*x.shape[:-1], x.shape[-1] + pad), 77, x.dtype)
    at = int(rng.integers(0, pad + 1))
    view = wide[..., at : at + x.shape[-1]]
    view[...] = x
    return view


def sparse(rng: Rng, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """Draw a dense matrix with zeros; rows are full, empty or of any density."""
    density = rng.choice([0.0, 0.05, 0.3, 0.6, 1.0], (shape[0], 1))
    values = whole(rng, shape, np.float32)
    values[rng.random(shape) >= density] = 0
    return values.astype(dtype)


def constructors(rng: Rng) -> None:
    """A CSR is accepted if and only if it is one."""
    rows, cols = size(rng, 12), size(rng, 40)
    dense = sparse(rng, (rows, cols), np.float32)
    good = CSR.from_dense(dense)
    index = rng.choice([np.int32, np.int64])
    arrays = [np.array(good.indptr, index), np.array(good.indices, index), np.array(good.values)]
    shape = [rows, cols]
    for _ in range(int(rng.integers(0, 3))):
        which = int(rng.integers(0, 5))
        numbers = [-1, 0, 1, cols, rows, 2**31 - 1, -(2**31)]
        if which < 2 and arrays[which].size:
            arrays[which][rng.integers(arrays[which].size)] = rng.choice(numbers)
        elif which == 2:
            arrays[int(rng.integers(3))] = np.resize(
                arrays[int(rng.integers(3))], int(rng.integers(0, 9))
            ).astype(index)
            arrays[2] = arrays[2].astype(np.float32)
        elif which == 3:
            shape[int(rng.integers(2))] += int(rng.choice([-1, 1, -(2**40), 2**62]))
        elif arrays[1].size > 1:
            arrays[1] = arrays[1][::-1].copy()
    indptr, indices, values = arrays
    valid = (
        min(shape) >= 0
        and indptr.size == shape[0] + 1
        and indices.size == values.size
        and indptr[0] == 0
        and indptr[-1] == values.size
        and bool((np.diff(indptr) >= 0).all())
        and bool(((indices >= 0) & (indices < shape[1])).all())
        and all(bool((np.diff(indices[a:b]) > 0).all()) for a, b in itertools.pairwise(indptr))
    )
    try:
        a = CSR(indptr, indices, values, (shape[0], shape[1]))
    except ValueError:
        assert not valid or max(shape) >= 2**31
        return
    assert valid
    if max(shape) < 1000:
        want = np.zeros(shape, np.float32)
        for i in range(shape[0]):
            want[i, indices[indptr[i] : indptr[i + 1]]] = values[indptr[i] : indptr[i + 1]]
        np.testing.assert_array_equal(a.to_dense(), want)


def products(rng: Rng) -> None:
    """spmm, its transpose and linear, of CSR, BSR and Packed, are the products of whole numbers."""
    dtype = DTYPES[int(rng.integers(len(DTYPES)))]
    m, k, n = size(rng), size(rng), size(rng)
    form = rng.choice(["csr", "bsr", "packed"])
    if form == "bsr":
        block = (int(rng.choice([1, 2, 4, 8, 16])), int(rng.choice([1, 2, 3, 4, 16])))
        dense = np.kron(
            sparse(rng, (m // 8, k // 8), np.float32), np.ones(block, np.float32)
        ) * whole(rng, (m // 8 * block[0], k // 8 * block[1]), np.float32)
        dense = dense.clip(-2, 2).astype(dtype)
        a: Any = BSR.from_dense(dense, block)
    else:
        dense = sparse(rng, (m, k), dtype)
        a = CSR.from_dense(dense)
        if form == "packed":
            a = gossamer.pack(a, n=None if rng.random() < 0.5 else max(n, 1))
    m, k = dense.shape
    exact = dense.astype(np.float64)
    way = int(rng.integers(3))
    if way == 0:
        b = strided(rng, whole(rng, (k, n), dtype))
        want, rows = exact @ b.astype(np.float64), m
        call = lambda **options: gossamer.spmm(a, b, **options)  # noqa: E731
    elif way == 1:
        b = strided(rng, whole(rng, (m, n), dtype))
        want, rows = exact.T @ b.astype(np.float64), k
        call = lambda **options: gossamer.spmm(a, b, transpose_a=True, **options)  # noqa: E731
    else:
        x = strided(rng, whole(rng, (n, k), dtype))
        want, rows = (exact @ x.astype(np.float64).T), m
        call = lambda **options: gossamer.linear(x, a, **options)  # noqa: E731
    options: dict[str, Any] = {}
    if rng.random() < 0.4:
        options["bias"] = whole(rng, (rows,), dtype)
        want = want + options["bias"].astype(np.float64)[:, None]
    want = want.T if way == 2 else want
    if rng.random() < 0.4:
        options["out"] = strided(rng, whole(rng, want.shape, dtype))
        if rng.random() < 0.5:
            options["accumulate"] = True
            want = want + options["out"].astype(np.float64)
    if rng.random() < 0.4:
        options["activation"] = "relu"
        want = np.maximum(want, 0)
    got = call(**options)
    np.testing.assert_array_equal(got.astype(np.float64), want.astype(dtype).astype(np.float64))


def sampled_products(rng: Rng) -> None:
    """sddmm is the dense product at the places of the pattern."""
    dtype = DTYPES[int(rng.integers(len(DTYPES)))]
    m, n, k = size(rng, 40), size(rng, 40), size(rng)
    pattern = CSR.from_dense(sparse(rng, (m, n), dtype))
    a, b = whole(rng, (m, k), dtype), whole(rng, (n, k), dtype)
    got = gossamer.sddmm(strided(rng, a), strided(rng, b), pattern)
    full = (a.astype(np.float64) @ b.astype(np.float64).T).astype(dtype)
    rows = np.repeat(np.arange(m), np.diff(pattern.indptr))
    np.testing.assert_array_equal(got, full[rows, np.asarray(pattern.indices)])


def scores(rng: Rng, n: int, dtype: Any) -> np.ndarray:
    kind = int(rng.integers(4))
    if kind == 0:
        x = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0], n)
    elif kind == 1:
        x = rng.integers(-3, 4, n).astype(float)
    elif kind == 2:
        x = rng.standard_normal(n) * 10.0 ** rng.integers(-7, 4)
    else:
        x = np.sort(rng.standard_normal(n))
    return x.astype(dtype)


def selections(rng: Rng) -> None:
    """topk_mask marks the first k of a stable order, or refuses k."""
    dtype = DTYPES[int(rng.integers(len(DTYPES)))]
    n = size(rng, 5000)
    x = scores(rng, n, dtype)
    k = int(rng.integers(0, n + 1)) if rng.random() < 0.9 else int(rng.choice([-1, n + 1, 2**40]))
    largest, low, nan = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.5
    within = rng.random(n) < rng.random() if rng.random() < 0.4 else None
    options: dict[str, Any] = {
        "largest": largest,
        "tie": "low" if low else "high",
        "nan": "highest" if nan else "lowest",
    }
    room = n if within is None else int(within.sum())
    try:
        mask = prune.topk_mask(x, k, within=within, **options)
    except ValueError:
        assert not 0 <= k <= room
        return
    assert 0 <= k <= room
    is_nan = np.isnan(x.astype(np.float64))
    value = np.where(is_nan, 0, x.astype(np.float64)) * (-1 if largest else 1)
    first = np.where(is_nan, -1 if nan == largest else 1, 0)
    index = np.arange(n)
    order = np.lexsort((index if low else -index, value, first))
    if within is not None:
        order = order[within[order]]
    want = np.zeros(n, bool)
    want[order[:k]] = True
    np.testing.assert_array_equal(mask, want)


def groups(rng: Rng) -> None:
    """nm_mask keeps the n largest of every m; check_nm agrees; options out of range are refused."""
    dtype = DTYPES[int(rng.integers(len(DTYPES)))]
    m = int(rng.choice([1, 2, 4, 5, 8, 16, 32, 33]))
    n = int(rng.integers(0, m + 1))
    rows, count = size(rng, 20), int(rng.integers(0, 9))
    x = scores(rng, rows * m * count, dtype).reshape(rows, m * count)
    if rng.random() < 0.1:
        n, m = (
            int(rng.choice([-1, n, 2**31, 2**63 - 1])),
            int(rng.choice([0, -1, 2**31, 2**63 - 1])),
        )
    try:
        mask = prune.nm_mask(x, n, m)
    except REFUSED as error:
        assert "nm_mask" in str(error), error
        assert not 0 <= n <= m or m < 1 or x.shape[1] % m
        return
    assert mask.shape == x.shape
    if m > 64:  # no whole group
        assert mask.size == 0
        return
    count = x.shape[1] // m
    kept = np.asarray(mask).reshape(rows, count, m)
    assert (kept.sum(-1) == n).all()
    value = np.nan_to_num(x.astype(np.float64), nan=-np.inf).reshape(rows, count, m)
    worst = np.where(kept, value, np.inf).min(-1, initial=np.inf)
    best = np.where(kept, -np.inf, value).max(-1, initial=-np.inf)
    assert (worst >= best).all()
    assert prune.check_nm(mask, n, m)[0] == 0


def regrown_masks(rng: Rng) -> None:
    """drop_grow_ keeps the count, drops the worst and grows the best, or changes nothing."""
    n = size(rng, 400)
    mask = rng.random(n) < rng.random()
    before = mask.copy()
    drop, grow = scores(rng, n, np.float32), scores(rng, n, np.float32)
    w = rng.standard_normal(n).astype(np.float32)
    w_before = w.copy()
    active = int(mask.sum())
    n_drop = int(rng.integers(0, active + 2))
    n_grow = int(rng.integers(0, n - active + n_drop + 2))
    try:
        mask, new = regrow.drop_grow_(mask, drop, grow, n_drop, n_grow, weights=w)
    except ValueError:
        assert n_drop > active or n_grow > n - active + n_drop
        np.testing.assert_array_equal(mask, before)
        np.testing.assert_array_equal(w, w_before)
        return
    assert mask.sum() == active - n_drop + n_grow
    assert (mask[new] & (w[new] == 0)).all()
    stays = before & mask
    stays[new] = False
    np.testing.assert_array_equal(w[stays], w_before[stays])
    assert (w[~mask] == np.where(before[~mask], 0, w_before[~mask])).all()


def budgets(rng: Rng) -> None:
    """allocate sums to the budget exactly, within the layers' sizes."""
    shapes = [
        tuple(int(d) for d in rng.integers(1, 10 ** int(rng.integers(1, 6)), 2))
        for _ in range(int(rng.integers(1, 9)))
    ]
    sparsity = Fraction(int(rng.integers(0, 1001)), 1000)
    method = str(rng.choice(["uniform", "er", "erk"]))
    counts = schedule.allocate(shapes, sparsity=sparsity, method=method)  # type: ignore[arg-type]
    sizes = [a * b for a, b in shapes]
    assert sum(counts) == schedule.nnz(sum(sizes), sparsity)
    assert all(0 <= c <= s for c, s in zip(counts, sizes, strict=True))


def capsules(rng: Rng) -> None:
    """Arrays of an unknown framework whose description lies are refused or read within bounds."""
    # With room on both sides: strides that lead out of the array cannot be told from right ones.
    around = np.arange(72, dtype=rng.choice([np.float32, np.float64, np.int32, np.uint8]))
    array = around[24:48]
    shape = [(24,), (4, 6), (2, 3, 4)][int(rng.integers(3))]
    array = array.reshape(shape)
    options: dict[str, Any] = {"versioned": bool(rng.integers(2))}
    kind = int(rng.integers(6))
    odd = [-1, -(2**40), 2**40, 2**62, -(2**63), 2**63 - 1]
    if kind == 0:
        extents = list(shape)
        extents[int(rng.integers(len(extents)))] = int(rng.choice(odd[:2] + odd[3:]))
        options["extents"] = extents
    elif kind == 1:
        options["dtype"] = (int(rng.integers(0, 9)), int(rng.choice([0, 1, 4, 8, 16, 128])), 1)
        array = np.zeros((*shape, 2), np.complex128)[..., 0]  # room for the widest
    elif kind == 2:
        options["null_shape"] = True
    elif kind == 3:
        options["null_data"] = True
    elif kind == 4:
        options["strides"] = [-1] * len(shape)
    call = [
        prune.count_nan,
        prune.nnz_stats,
        lambda x: prune.topk_mask(x, 1),
        lambda x: prune.kth(x, 1),
        CSR.from_dense,
        lambda x: gossamer.linear(x, CSR.from_dense(np.eye(6, dtype=np.float32))),
    ][int(rng.integers(6))]
    with contextlib.suppress(REFUSED):
        call(Producer(array, **options))


def sparse_activations(rng: Rng) -> None:
    """Layers are the dense ones whose channels below the threshold are zero for all tokens."""
    dtype = DTYPES[int(rng.integers(len(DTYPES)))]
    tokens, k, m = size(rng, 12), size(rng), size(rng, 300)
    x, wt = whole(rng, (tokens, k), dtype), whole(rng, (k, m), dtype)
    x[:, rng.random(k) < rng.random()] = 0
    each = rng.random() < 0.5
    limit: Any = rng.integers(-1, 4, k).astype(np.float32) if each else float(rng.integers(-1, 4))
    kept = (abs(x.astype(np.float64)) >= limit).any(0)
    exact = (x.astype(np.float64) * kept) @ wt.astype(np.float64)
    wt[~kept] = np.nan  # must not be read
    options: dict[str, Any] = {"threshold": limit}
    way = int(rng.integers(3))
    if way == 0:
        got = gossamer.sparse_linear(strided(rng, x), strided(rng, wt), **options)
    elif way == 1:
        state = gossamer.DeltaState()
        got = gossamer.delta_linear(strided(rng, x), strided(rng, wt), state, **options)
        assert state.sent == kept.sum()
    else:
        indices = np.nonzero(kept)[0]
        values = np.ascontiguousarray(x[:, kept])
        got = gossamer.gather_decode(np.tile(indices, (tokens, 1)), values, strided(rng, wt))
    np.testing.assert_array_equal(got, exact.astype(dtype))


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        constructors,
        products,
        sampled_products,
        selections,
        groups,
        regrown_masks,
        budgets,
        capsules,
        sparse_activations,
    )
}
