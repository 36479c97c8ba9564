"""Products of bfloat16 that multiply by the zeros, too, where the machine has pairs of them."""

from __future__ import annotations

import gossamer
import ml_dtypes
import numpy as np
import oracle
import pytest
from gossamer import BSR, CSR, NM, GroupQuant

BF16 = ml_dtypes.bfloat16
#: Does this level multiply pairs?
PAIRS = gossamer.info()["isa"] in ("avx512_bf16", "amx")
#: Around the sizes of vectors, tiles, strips of rows and depths.
SHAPES = [(1, 64), (3, 65), (25, 96), (49, 127), (50, 128), (97, 289), (26, 4100)]
WIDTHS = [2, 5, 8, 16, 17, 33, 49, 65]


def draw(shape: tuple[int, int], density: float, seed: int) -> np.ndarray:
    return oracle.random_sparse(shape, density, BF16, seed, integers=True)


def check(a: object, dense: np.ndarray, n: int) -> None:
    """Compare both layouts of B, with strides, and an epilogue, without tolerance."""
    w = dense.astype(np.float64)
    b = oracle.random_dense((w.shape[1], n + 3), BF16, seed=n, integers=True)
    want = w @ b.astype(float)[:, 1 : n + 1]
    np.testing.assert_array_equal(gossamer.spmm(a, b[:, 1 : n + 1]), want.astype(BF16))
    x = oracle.random_dense((n, w.shape[1] + 5), BF16, seed=n, integers=True)
    rows = x[:, 2:-3]
    bias = oracle.random_dense((w.shape[0],), BF16, seed=9, integers=True)
    out = np.ones((n, w.shape[0]), BF16)
    want = rows.astype(float) @ w.T + bias.astype(float) + 1
    gossamer.linear(rows, a, bias=bias, activation="relu", accumulate=True, out=out)
    np.testing.assert_array_equal(out, np.maximum(want, 0).astype(BF16))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_packed(shape: tuple[int, int], density: float) -> None:
    dense = draw(shape, density, seed=1)
    a = CSR.from_dense(dense)
    for n in WIDTHS:
        packed = gossamer.pack(a, n=n)
        if PAIRS and a.nnz < 0.8 * dense.size and a.nnz > 0.3 * dense.size:
            assert packed.layouts == "bits"
        check(packed, dense, n)


PATTERNS = [(2, 4), (1, 4), (2, 8), (4, 8), (8, 32), (1, 2), (3, 5), (7, 8), (1, 8), (6, 10)]
PATTERNS += [(3, 20), (5, 31), (9, 16), (1, 1), (1, 16)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_n_of_m(pattern: tuple[int, int]) -> None:
    n, m = pattern
    rng = np.random.default_rng(n + m)
    for lines, groups in ((1, 1), (5, 16), (49, 1), (70, 65), (26, 4100 // m)):
        kept = rng.random((lines, groups, m)).argsort(2).argsort(2) < n
        dense = draw((lines, groups * m), 1.0, seed=m)
        mask = kept.reshape(lines, groups * m)
        dense = np.where(mask, dense, np.zeros((), BF16))
        a = NM.from_dense(dense, n, m, mask=mask)
        for width in (1, 3, 8, 12, 17, 70):
            check(a, dense, width)
        dense, mask = np.ascontiguousarray(dense.T), np.ascontiguousarray(mask.T)
        across = NM.from_dense(dense, n, m, axis=0, mask=mask)
        for width in (1, 17, 270):
            check(across, dense, width)


@pytest.mark.parametrize("block", [(16, 16), (32, 32), (9, 18), (64, 32), (8, 8)], ids=str)
def test_blocks(block: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(block))
    for across in ((1, 1), (3, 5), (7, 4)):
        kept = np.kron(rng.random(across) < 0.5, np.ones(block))
        dense = (draw(kept.shape, 1.0, seed=2).astype(float) * kept).astype(BF16)
        a = BSR.from_dense(dense, block)
        for width in (1, 9, 33, 70):
            check(a, dense, width)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [16, 32, 64, 128])
def test_quantised_groups(group: int, bits: int) -> None:
    rng = np.random.default_rng(group + bits)
    for rows, cols, share in ((1, 16, 0.6), (13, 300, 0.6), (50, 3127, 0.6), (50, 1100, 1)):
        across = -(-cols // group)
        kept = rng.random((rows, across)) < share
        kept[0] = True
        count = int(kept.sum())
        codes = rng.integers(0, 256, (count, group * bits // 8)).astype(np.uint8)
        zeros = rng.integers(0, 1 << bits, count).astype(np.uint8)
        scales = rng.integers(1, 3, count).astype(np.float16)
        a = GroupQuant(
            np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int32),
            np.nonzero(kept)[1].astype(np.uint16),
            codes,
            scales,
            zeros,
            shape=(rows, cols),
            group=group,
            bits=bits,
            dtype="bfloat16",
        )
        numbers = np.stack([codes & 15, codes >> 4], 2).reshape(count, -1) if bits == 4 else codes
        dense = np.zeros((rows, across, group))
        dense[kept] = (numbers - zeros.astype(float)[:, None]) * scales.astype(float)[:, None]
        for width in (4, 7, 9, 16, 33, 70):
            check(a, dense.reshape(rows, -1)[:, :cols], width)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("n", [1, 2, 8, 16, 40])
def test_what_no_entry_touches_does_not_matter(n: int, value: float) -> None:
    dense = draw((50, 128), 0.5, seed=2)
    dense[:, 1::4] = 0
    b = oracle.random_dense((128, n), BF16, seed=3, integers=True)
    # A group that is not full stores zeros in places of its own.
    full = np.ones((50, 128), BF16)
    full[:, 1::4] = 0
    for a in (gossamer.pack(CSR.from_dense(dense), n=n), NM.from_dense(full, 3, 4)):
        want = gossamer.spmm(a, b)
        wild = b.copy()
        wild[5, 0] = value
        np.testing.assert_array_equal(gossamer.spmm(a, wild), want)
    b = oracle.random_dense((50, n), BF16, seed=3, integers=True)
    b[5, 0] = value
    assert np.all(gossamer.spmm(NM.from_dense(full, 3, 4), b, transpose_a=True)[1::4] == 0)


def test_rounded_numbers_keep_the_bound() -> None:
    dense = oracle.random_sparse((60, 700), 0.5, BF16, seed=4)
    w = dense.astype(float)
    for n in (3, 8, 16, 40):
        x = oracle.random_dense((n, 700), BF16, seed=5)
        want, magnitude = x.astype(float) @ w.T, np.abs(x.astype(float)) @ np.abs(w.T)
        got = gossamer.linear(x, gossamer.pack(CSR.from_dense(dense), n=n))
        oracle.assert_close(got, want, magnitude, 700)


def test_smallest_numbers_may_count_as_zeros() -> None:
    # A product with pairs makes zeros of numbers below 2^-126.
    a = gossamer.pack(CSR.from_dense(np.full((3, 64), 2.0**-100, BF16)), n=8)
    tiny = np.full((64, 8), 2.0**-130, BF16)
    assert np.all(np.abs(gossamer.spmm(a, tiny).astype(float)) <= 64 * 2.0**-126)
    large = gossamer.pack(CSR.from_dense(np.full((3, 64), 2.0**10, BF16)), n=8)
    got, want = gossamer.spmm(large, tiny).astype(float), 64 * 2.0**-120
    assert np.all(np.isin(got, [0, want]))


@pytest.mark.parametrize("n", [8, 16, 70])
def test_threads_do_not_change_a_bit(n: int) -> None:
    packed = gossamer.pack(CSR.from_dense(oracle.random_sparse((300, 500), 0.5, BF16, seed=6)), n=n)
    b = oracle.random_dense((500, n), BF16, seed=6)
    before = gossamer.get_num_threads()
    results = set()
    try:
        for threads in (1, 2, 5):
            gossamer.set_num_threads(threads)
            results.add(gossamer.spmm(packed, b).tobytes())
    finally:
        gossamer.set_num_threads(before)
    assert len(results) == 1


def test_other_values_in_the_same_places() -> None:
    a = CSR.from_dense(draw((40, 200), 0.5, seed=7))
    packed = gossamer.pack(a, n=16)
    values = oracle.random_dense((a.nnz,), BF16, seed=8, integers=True)
    check(packed.update(values), a.with_values(values).to_dense(), 16)
    if PAIRS:
        assert "layouts=bits (bfloat16: " in repr(packed)
