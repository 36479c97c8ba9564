"""Drop-and-grow of sparse matrices on GPUs, against that of the CPU, bit for bit."""

from __future__ import annotations

from typing import Any

import gossamer
import numpy as np
import oracle
import pytest
from device import Device
from gossamer import prune, regrow

pytestmark = pytest.mark.gpu

F32, F16, F64 = np.float32, np.float16, np.float64
Matrix = Any


def sparse(rows: int, cols: int, dtype: type = F32, seed: int = 0) -> np.ndarray:
    """Draw a matrix with ties among its values, an empty row and a full one."""
    w = oracle.random_sparse((rows, cols), 0.3, dtype, seed=seed, integers=True)
    if rows > 2:
        w[1], w[2] = 0, 1
    return np.asarray(w)


class Pair:
    """A matrix with room, and arrays that follow it, on the CPU or copied to a device."""

    def __init__(self, device: Device | None, w: np.ndarray, room: int, block: int = 0) -> None:
        self.put: Any = (lambda x: x) if device is None else device.put
        self.get: Any = np.asarray if device is None else device.get
        a: Any = gossamer.BSR.from_dense(w, block) if block else gossamer.CSR.from_dense(w)
        values = np.asarray(a.blocks if block else a.values)
        nnz = len(values)

        def longer(x: np.ndarray) -> Any:
            return self.put(np.concatenate([x, np.zeros((room, *x.shape[1:]), x.dtype)]))

        self.indices, self.values = longer(np.asarray(a.indices)), longer(values)
        kind = gossamer.BSR if block else gossamer.CSR
        self.a: Any = kind(
            self.put(np.array(a.indptr)), self.indices[:nnz], self.values[:nnz], a.shape
        )
        self.states = [
            longer(np.arange(nnz, dtype=F64)),
            longer(np.arange(3 * nnz, dtype=F16).reshape(nnz, 3)),
        ]

    def change(self, grow: Any, n_drop: int, n_grow: int, **options: Any) -> Any:
        moved = {k: self.put(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        if isinstance(grow, tuple) and not isinstance(grow, regrow.Random):
            grow = tuple(self.put(x) for x in grow)
        grow = self.put(grow) if isinstance(grow, np.ndarray) else grow
        a, self.src = regrow.csr_drop_grow_(
            *(self.a, grow, n_drop, n_grow),
            **{"states": self.states, "room": (self.indices, self.values), **moved},
        )
        assert a is self.a
        return self

    def parts(self) -> list[np.ndarray]:
        values = self.a.blocks if isinstance(self.a, gossamer.BSR) else self.a.values
        arrays = [self.a.indptr, self.a.indices, values, self.src]
        count = len(self.get(self.a.indices))
        return [self.get(x) for x in arrays] + [self.get(x)[:count] for x in self.states]


def same(gpu: Device, w: np.ndarray, grow: Any, n_drop: int, n_grow: int, **options: Any) -> None:
    """Change a matrix on both devices; all that results has the same bits."""
    block = options.pop("block", 0)
    forbid = options.pop("forbid", None)
    pairs = []
    for device in (None, gpu):
        pair = Pair(device, w, max(n_grow - n_drop, 0) + 2, block)
        given = dict(options)
        if forbid is not None:
            at = Pair(device, forbid, 0, block)
            given["forbid"] = at.a
        pairs.append(pair.change(grow, n_drop, n_grow, **given))
    for got, want in zip(pairs[1].parts(), pairs[0].parts(), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.astype(F64), want.astype(F64))


def growths(w: np.ndarray) -> list[Any]:
    rng = np.random.default_rng(w.size)
    return [np.round(2 * rng.standard_normal(w.shape)).astype(F32), regrow.Random(7, w.size)]


@pytest.mark.parametrize("kind", ["score", "random"])
@pytest.mark.parametrize("allow", ["allow", "forbid"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (40, 130), (9, 4500)], ids=str)
def test_entries_drop_and_grow_as_on_the_cpu(
    gpu: Device, shape: tuple[int, int], allow: Any, kind: str
) -> None:
    w = sparse(*shape)
    grow = growths(w)[kind == "random"]
    nnz = np.count_nonzero(w)
    drops = nnz // 3
    places = w.size - (nnz - drops if allow == "allow" else nnz)
    for n_drop, n_grow in ((drops, min(drops, places)), (0, 0), (drops, places)):
        same(gpu, w, grow, n_drop, n_grow, regrow=allow, tie="high", init=0.5)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=lambda t: np.dtype(t).name)
def test_every_type_follows(gpu: Device, dtype: type) -> None:
    w = sparse(12, 30, dtype)
    same(gpu, w, growths(w)[0], 20, 15, init=0.1)
    same(gpu, w, growths(w)[0].astype(dtype), 0, 30)
    nnz = np.count_nonzero(w)
    same(gpu, w, growths(w)[0], 10, 10, drop_score=np.arange(nnz, dtype=F32))


@pytest.mark.parametrize("allow", ["allow", "forbid"])
@pytest.mark.parametrize("kind", ["score", "random"])
def test_what_stays_may_be_given_and_places_forbidden(gpu: Device, kind: str, allow: Any) -> None:
    w, forbid = sparse(20, 40), sparse(20, 40, seed=3)
    forbid[2] = 0
    grow = growths(w)[kind == "random"]
    keep = np.random.default_rng(1).random(np.count_nonzero(w)) < 0.8
    n_drop = int((~keep).sum())
    same(gpu, w, grow, n_drop, n_drop, keep=keep, regrow=allow)
    same(gpu, w, grow, 9, 30, forbid=forbid, regrow=allow)
    same(gpu, w, grow, n_drop, 5, forbid=forbid, keep=keep.astype(np.uint8) * 3)


@pytest.mark.parametrize("dtype", [F32, F16, F64], ids=lambda t: np.dtype(t).name)
def test_blocks_drop_and_grow_by_block_scores(gpu: Device, dtype: type) -> None:
    pattern = sparse(6, 9)
    w = np.kron(pattern != 0, np.ones((4, 4))) * np.random.default_rng(2).standard_normal((24, 36))
    grow = growths(pattern)
    for g in grow:
        same(gpu, w.astype(dtype), g, 7, 7, block=4)
        same(gpu, w.astype(dtype), g, 3, 8, block=4, init=1.0)


def test_a_matrix_without_entries_grows(gpu: Device) -> None:
    w = np.zeros((6, 50), F32)
    for grow in growths(w):
        same(gpu, w, grow, 0, 20)
    same(gpu, w[:0], np.zeros((0, 50), F32), 0, 0)
    same(gpu, sparse(6, 50), growths(w)[0], np.count_nonzero(sparse(6, 50)), 0)


def test_bad_changes_are_refused_before_anything_is_written(gpu: Device) -> None:
    w = sparse(4, 5)
    nnz = np.count_nonzero(w)
    pair = Pair(gpu, w, 30)
    grow = gpu.put(np.zeros((4, 5), F32))
    keep = np.ones(nnz, bool)
    keep[0] = False
    places = "the number of places that may grow"
    cases: list[tuple[dict[str, Any], tuple[int, int], type[Exception], str]] = [
        ({}, (nnz + 1, 0), ValueError, f"n_drop is {nnz + 1}, expected 0 to {nnz}, the number of "),
        ({}, (0, 20), ValueError, f"n_grow is 20, expected 0 to {20 - nnz}, {places}"),
        (
            {"forbid": Pair(gpu, np.ones((4, 5), F32), 0).a},
            (0, 1),
            ValueError,
            f"n_grow is 1, expected 0 to 0, {places}",
        ),
        ({"keep": keep}, (2, 0), ValueError, "keep has 1 zeros, expected n_drop = 2"),
        (
            {"drop_score": np.full(nnz, np.nan, F32), "nan": "error"},
            (1, 1),
            ValueError,
            f"score has {nnz} NaN, expected none",
        ),
    ]
    for options, counts, error, message in cases:
        with pytest.raises(error, match=f"^csr_drop_grow_: {message}"):
            pair.change(grow, *counts, **options)
    pair.src = pair.a.indices
    want = Pair(None, w, 30)
    want.src = want.a.indices
    for got, expected in zip(pair.parts(), want.parts(), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("allow", ["allow", "forbid"])
@pytest.mark.parametrize("dtype", [None, *oracle.DTYPES], ids=str)
def test_places_of_a_list_grow_as_on_the_cpu(gpu: Device, dtype: Any, allow: Any) -> None:
    w, forbid = sparse(8, 30), sparse(8, 30, seed=3)
    forbid[2] = 0
    rng = np.random.default_rng(5)
    places = rng.integers(0, w.size, 150)  # some twice, some with an entry
    rows, cols = (x.astype(np.int32) for x in np.divmod(places, 30))
    grow: Any = (rows, cols.astype(np.int64))
    if dtype is not None:
        grow += (np.round(2 * rng.standard_normal(150)).astype(dtype),)
    for n_drop, n_grow, options in (
        (0, 0, {}),
        (9, 25, {}),
        (9, 9, {"tie": "high"}),
        (3, 12, {"forbid": forbid}),
    ):
        same(gpu, w, grow, n_drop, n_grow, regrow=allow, **options)


def test_bad_lists_are_refused_before_anything_is_written(gpu: Device) -> None:
    w = sparse(4, 5)
    pair = Pair(gpu, w, 9)
    free = np.argwhere(w == 0)
    cases: list[tuple[list[Any], int, str]] = [
        ([[0, 1, 4], [0, 0, 0]], 1, r"grow rows\[2\] is 4, expected 0 to 3"),
        ([[0, 1, 3, 9], [0, -1, 5, 0]], 1, r"grow columns\[1\] is -1, expected 0 to 4"),
        (
            [[free[0][0]] * 2, [free[0][1]] * 2],
            2,
            "n_grow is 2, expected 0 to 1, the number of given places that may grow",
        ),
    ]
    for places, n_grow, message in cases:
        listed = tuple(np.array(x, np.int32) for x in places)
        with pytest.raises(ValueError, match=f"^csr_drop_grow_: {message}$"):
            pair.change(listed, 0, n_grow)
    pair.src = pair.a.indices
    want = Pair(None, w, 9)
    want.src = want.a.indices
    for got, expected in zip(pair.parts(), want.parts(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_the_score_of_what_goes_is_the_callers(gpu: Device) -> None:
    w = sparse(10, 20)
    nnz = np.count_nonzero(w)
    there = Pair(gpu, w, 0)
    here = Pair(None, w, 0)
    ratio = np.abs(np.random.default_rng(4).standard_normal(nnz)).astype(F32)
    for pair in (here, there):
        values = pair.put(ratio)
        score = prune.score(pair.a.values, kind="adam", m=values, v=values)
        pair.change(growths(w)[0], 12, 12, drop_score=score)
    for got, want in zip(there.parts(), here.parts(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("n", [0, 1, 31, 5000, 70_000])
def test_what_is_nearest_to_zero_on_each_side_is_the_cpus(gpu: Device, dtype: type, n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.standard_normal(n)
    for value in (0.0, -0.0, 0.5, -0.5, np.inf, -np.inf, np.nan):
        values[rng.random(n) < 0.03] = value
    values = values.astype(dtype)
    with np.errstate(invalid="ignore"):
        above, below = int((values > 0).sum()), int((values < 0).sum())
    for up, down in ((0, 0), (above, below), (above // 2, below // 3)):
        got = gpu.get(regrow.set_drop(gpu.put(values), up, down))
        np.testing.assert_array_equal(got, regrow.set_drop(values, up, down))
    message = f"^set_drop: n_negative is {below + 1}, expected 0 to {below}, the number of"
    with pytest.raises(ValueError, match=message):
        regrow.set_drop(gpu.put(values), 0, below + 1)
