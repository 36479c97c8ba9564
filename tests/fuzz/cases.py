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
from gossamer import BSR, CSR, NM, BlockLayout, GroupQuant, graph, prune, regrow, schedule
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


def groups_of(rng: Rng, rows: int, cols: int, n: int, m: int) -> np.ndarray:
    """Draw a matrix with at most n entries in each m neighbours of a row."""
    x = whole(rng, (rows, cols), np.float32)
    order = np.argsort(rng.random((rows, cols // m, m)), -1)
    x[(order >= n).reshape(rows, cols)] = 0
    return x


def structured_products(rng: Rng) -> None:
    """Products of N:M and of quantised matrices are those of their dense forms."""
    dtype = DTYPES[int(rng.integers(len(DTYPES)))]
    rows, n = size(rng, 40), size(rng, 40)
    if rng.random() < 0.6:
        m = int(rng.choice([1, 2, 3, 4, 5, 8, 16, 31, 32]))
        keep, axis = int(rng.integers(1, m + 1)), int(rng.integers(2))
        dense = groups_of(rng, rows, m * int(rng.integers(0, 9)), keep, m).astype(dtype)
        dense = dense if axis == 1 else np.ascontiguousarray(dense.T)
        a: Any = NM.from_dense(strided(rng, dense), keep, m, axis=axis)
        transpose = rng.random() < 0.4
    else:
        group, bits = int(rng.choice([16, 32, 64, 128])), int(rng.choice([4, 8]))
        cols = size(rng, 200)
        # Both ends of the span are there, so that the scale is 1 and each number exact.
        dense = rng.integers(0, 2**bits, (rows, cols)).astype(np.float64)
        dense[:, ::group] = 2**bits - 1
        dense[rng.random(rows) < 0.3] = 0
        dense = dense.astype(dtype)
        if dtype != np.float64 and bits == 8:
            dense = (dense.astype(np.float64) // 255 * 255).astype(dtype)  # few products overflow
        a = GroupQuant.from_dense(strided(rng, dense), group=group, bits=bits)
        transpose, axis = False, 1
    np.testing.assert_array_equal(a.to_dense(), dense)
    exact = dense.astype(np.float64)
    exact = exact.T if transpose else exact
    b = strided(rng, rng.integers(-1, 2, (exact.shape[1], n)).astype(dtype))
    if isinstance(a, GroupQuant) and rng.random() < 0.5:
        got, want = gossamer.linear(np.ascontiguousarray(b.T), a), b.astype(np.float64).T @ exact.T
    elif isinstance(a, GroupQuant):
        got, want = gossamer.spmm(a, b), exact @ b.astype(np.float64)
    else:
        got = gossamer.spmm(a, b, transpose_a=transpose)
        want = exact @ b.astype(np.float64)
    np.testing.assert_array_equal(got.astype(np.float64), want.astype(dtype).astype(np.float64))


def broken_groups(rng: Rng) -> None:
    """An NM or a GroupQuant with numbers out of place is refused, or reads within its arrays."""
    m = int(rng.choice([2, 3, 4, 5, 8, 16, 32]))
    n = int(rng.integers(1, m + 1))
    dense = groups_of(rng, 5, 4 * m, n, m)
    if rng.random() < 0.5:
        a = NM.from_dense(dense, n, m)
        arrays = [np.array(a.values), np.array(a.indices)]
        options: dict[str, Any] = {"shape": a.shape, "n": n, "m": m}
        kind: Any = NM
    else:
        q = GroupQuant.from_dense(np.abs(rng.standard_normal((5, 70))), group=16)
        arrays = [
            np.array(getattr(q, x)) for x in ("indptr", "indices", "codes", "scales", "zeros")
        ]
        options = {"shape": q.shape, "group": 16, "bits": 4}
        kind = GroupQuant
    for _ in range(int(rng.integers(0, 3))):
        x = arrays[int(rng.integers(len(arrays)))]
        way = int(rng.integers(4))
        if way == 0 and x.size:
            info = np.iinfo(x.dtype) if x.dtype.kind in "iu" else None
            x.ravel()[rng.integers(x.size)] = rng.choice([0, 1, info.max]) if info else np.nan
        elif way == 1 and x.size:
            at = int(rng.integers(len(arrays)))
            arrays[at] = arrays[at][:-1].copy()
        elif way == 2:
            name = str(rng.choice(list(options)))
            if name == "shape":
                options[name] = (options[name][0] + int(rng.integers(-1, 2)), options[name][1] - 1)
            else:
                options[name] = int(rng.choice([0, -1, 1, 2, 8, 33, 2**31, 2**62]))
        elif x.ndim:
            at = int(rng.integers(len(arrays)))
            arrays[at] = arrays[at][::-1].copy()
    with contextlib.suppress(REFUSED):
        a = kind(*arrays, **options)
        b = np.ones((a.shape[1], 3), np.float32)
        got = gossamer.spmm(a, b.astype(a.dtype))
        want = np.asarray(a.to_dense(), np.float64) @ b
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def edge_lists(rng: Rng) -> None:
    """from_coo adds what stands at one place, in any order; softmax and sums go over its rows."""
    rows, cols, n = size(rng, 40) + 1, size(rng, 40) + 1, size(rng, 300)
    index = np.stack([rng.integers(0, rows, n), rng.integers(0, cols, n)])
    index = index.astype(rng.choice([np.int32, np.int64]))
    values = whole(rng, (n,), np.float32)
    if n and rng.random() < 0.1:
        index[int(rng.integers(2)), int(rng.integers(n))] = rng.choice(
            [-1, 2**31 - 1, max(rows, cols)]
        )
    want, there = np.zeros((rows, cols)), np.zeros((rows, cols), bool)
    try:
        a = CSR.from_coo(strided(rng, index), values, shape=(rows, cols))
    except ValueError:
        assert (index < 0).any() or (index >= [[rows], [cols]]).any()
        return
    np.add.at(want, tuple(index), values)
    there[tuple(index)] = True
    np.testing.assert_array_equal(a.to_dense(), want)
    assert a.nnz == there.sum()
    np.testing.assert_array_equal(graph.row_sum(a), want.sum(1))
    t, permutation = a.transpose()
    np.testing.assert_array_equal(t.to_dense(), want.T)
    np.testing.assert_array_equal(np.asarray(t.values), np.asarray(a.values)[permutation])
    weights = np.where(there, np.exp(want), 0)
    total = weights.sum(1, keepdims=True)
    share = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    np.testing.assert_allclose(gossamer.csr_softmax(a).to_dense(), share, rtol=1e-4, atol=1e-6)


def attend(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Attend in float64: q [H, S, D], k [H, Sk, D], v and the mask of elements [H, S, Sk]."""
    s = np.where(
        mask, scale * (q.astype(np.float64) @ k.astype(np.float64).swapaxes(1, 2)), -np.inf
    )
    with np.errstate(divide="ignore"):
        lse = np.log(np.exp(s).sum(-1))
    p = np.exp(s - np.where(np.isfinite(lse), lse, 0)[..., None])
    return p @ v.astype(np.float64), lse


def block_attention(rng: Rng) -> None:
    """Attention over any layout is dense attention with its mask, and so is that of one query."""
    block = (int(rng.choice([1, 2, 3, 8, 16])), int(rng.choice([1, 2, 3, 8, 16])))
    s, sk = size(rng, 30) + 1, size(rng, 30) + 1
    mb, nb = -(-s // block[0]), -(-sk // block[1])
    hkv, group, d = int(rng.integers(1, 3)), int(rng.integers(1, 3)), int(rng.choice([1, 3, 8, 17]))
    heads = hkv * group
    kept = rng.random((int(rng.choice([1, heads])), mb, nb)) < rng.choice([0.0, 0.3, 1.0])
    causal, offset = rng.random() < 0.5, int(rng.integers(-3, 40))
    window = (int(rng.integers(0, 20)), int(rng.integers(0, 20))) if rng.random() < 0.4 else None
    layout = BlockLayout.from_mask(kept, block=block)
    q, k, v = (
        strided(rng, rng.standard_normal((1, n, h, d)).astype(np.float32))
        for n, h in ((s, heads), (sk, hkv), (sk, hkv))
    )
    scale = float(rng.choice([0.0, 0.5, -1.0]))
    o, lse = gossamer.attention(
        q, k, v, layout, causal=causal, window=window, q_offset=offset, scale=scale
    )
    i, j = np.arange(s)[:, None] + offset, np.arange(sk)
    mask = np.asarray(layout.to_mask(elements=True))[0, :, :s, :sk].astype(bool)
    mask = np.repeat(mask, heads // mask.shape[0], 0)
    mask = mask & ((j <= i) | (not causal))
    if window is not None:
        mask = mask & (j >= i - window[0]) & (j <= i + window[1])
    k, v = np.repeat(k[0], group, 1), np.repeat(v[0], group, 1)
    want, log = attend(q[0].swapaxes(0, 1), k.swapaxes(0, 1), v.swapaxes(0, 1), mask, scale)
    np.testing.assert_allclose(o[0].swapaxes(0, 1), want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(lse[0], log, rtol=1e-3, atol=1e-4)


def page_lists(rng: Rng) -> None:
    """Decoding over lists of pages attends to their tokens, or the lists are refused."""
    page, pages = int(rng.choice([1, 2, 5, 16])), int(rng.integers(1, 9))
    b, hkv, group, d = (int(x) for x in rng.integers(1, 4, 4))
    per_head = rng.random() < 0.5
    lists = b * hkv if per_head else b
    counts = rng.integers(0, 6, lists)
    indptr = np.concatenate([[0], counts.cumsum()]).astype(np.int32)
    indices = rng.integers(0, pages, int(counts.sum())).astype(np.int32)
    lengths = np.array([rng.integers(0, c * page + 1) for c in counts], np.int32)
    shape = (b, hkv) if per_head else (b,)
    cache_k, cache_v = rng.standard_normal((2, pages, page, hkv, d)).astype(np.float32)
    q = rng.standard_normal((b, 1, hkv * group, d)).astype(np.float32)
    wrong = rng.random() < 0.3
    if wrong:
        x = [indptr, indices, lengths][int(rng.integers(3))]
        if x.size == 0:
            return
        x[rng.integers(x.size)] += int(rng.choice([-1, -(2**31) + 9, 2**30, 100]))
    try:
        o, lse = gossamer.attention_decode(
            q, cache_k, cache_v, indptr, indices, lengths=lengths.reshape(shape), scale=0.5
        )
    except ValueError:
        assert wrong
        return
    if wrong:
        return
    for i, h in itertools.product(range(b), range(hkv)):
        at = i * hkv + h if per_head else i
        chosen = indices[indptr[at] : indptr[at + 1]]
        k, v = (x[chosen, :, h].reshape(-1, d)[: lengths[at]] for x in (cache_k, cache_v))
        own = slice(h * group, (h + 1) * group)
        mask = np.ones((1, group, len(k)), bool)
        want, log = attend(q[i, 0, own][None], k[None], v[None], mask, 0.5)
        np.testing.assert_allclose(o[i, 0, own], want[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(lse[i, own, 0], log[0], rtol=1e-3, atol=1e-4)


def layouts(rng: Rng) -> None:
    """A BlockLayout is accepted if and only if it is one."""
    b, h, mb, nb = (int(x) for x in rng.integers(1, 4, 4))
    mask = rng.random((b, h, mb, nb)) < 0.5
    good = BlockLayout.from_mask(mask, block=2)
    np.testing.assert_array_equal(good.to_mask(), mask)
    np.testing.assert_array_equal(good.transpose().to_mask(), mask.swapaxes(2, 3))
    index = rng.choice([np.int32, np.int64])
    arrays = [np.array(good.indptr, index), np.array(good.indices, index)]
    shape = [b, h, mb, nb]
    for _ in range(int(rng.integers(0, 3))):
        which = int(rng.integers(3))
        if which < 2 and arrays[which].size:
            arrays[which][rng.integers(arrays[which].size)] = rng.choice(
                [-1, 0, 1, 2, 3, 2**31 - 1]
            )
        elif which == 2:
            shape[int(rng.integers(4))] += int(rng.choice([-1, 1, 2**40, 2**62, -(2**40)]))
    indptr, indices = arrays
    rows = shape[0] * shape[1] * shape[2]
    valid = (
        min(shape) >= 0
        and indptr.size == rows + 1
        and indptr[0] == 0
        and indptr[-1] == indices.size
        and bool((np.diff(indptr) >= 0).all())
        and bool(((indices >= 0) & (indices < shape[3])).all())
        and all(bool((np.diff(indices[x:y]) > 0).all()) for x, y in itertools.pairwise(indptr))
    )
    try:
        a = BlockLayout(indptr, indices, (shape[0], shape[1], shape[2], shape[3]), 2)
    except ValueError:
        assert not valid or max(shape) >= 2**31
        return
    assert valid
    assert a.nblocks == indices.size


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
        structured_products,
        broken_groups,
        edge_lists,
        block_attention,
        page_lists,
        layouts,
    )
}
