"""The functional twins give what the operations in place do and leave their operands alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest
from gossamer import BSR, CSR, functional, prune, regrow

pytestmark = pytest.mark.once

FRAMEWORKS = ["numpy", "torch", "jax"]
RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 6)).astype(np.float32)
MASK = RNG.random((4, 6)) < 0.5
G = RNG.standard_normal((4, 6)).astype(np.float32)
H = np.eye(6)
U = np.eye(6, dtype=np.float32)
STATS = prune.ColumnStats().add(RNG.standard_normal((9, 6)).astype(np.float32) + 1)


def put(framework: str, x: np.ndarray) -> Any:
    if framework == "numpy":
        return x.copy()
    module = pytest.importorskip(framework)
    return module.from_numpy(x.copy()) if framework == "torch" else module.numpy.asarray(x)


def flat(made: Any) -> list[Any]:
    return [made.mask, made.weights, *made.states]


def flat_in_place(w: Any, m: Any) -> list[Any]:
    state = w.copy()
    regrow.drop_grow_(m, abs(w), abs(w), 2, 3, weights=w, init=9, states=[state])
    return [m, w, state]


TWINS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "soft_threshold": (
        lambda f, w, m: f.soft_threshold(w, 0.5),
        lambda w, m: prune.soft_threshold_(w, 0.5),
    ),
    "l0_project": (lambda f, w, m: f.l0_project(w, 5), lambda w, m: prune.l0_project_(w, 5)),
    "shrink": (
        lambda f, w, m: f.shrink(w, m, factor=0.5),
        lambda w, m: prune.shrink_(w, m, factor=0.5),
    ),
    "srste_grad": (
        lambda f, w, m: f.srste_grad(w, w, m, decay=0.5),
        lambda w, m: prune.srste_grad_(w, w.copy(), m, decay=0.5),
    ),
    "group_soft_threshold": (
        lambda f, w, m: f.group_soft_threshold(w, 0.5, per="column"),
        lambda w, m: prune.group_soft_threshold_(w, 0.5, per="column"),
    ),
    "sef_prox": (
        lambda f, w, m: f.sef_prox(w, 0.5, 2, per=3),
        lambda w, m: prune.sef_prox_(w, 0.5, 2, per=3),
    ),
    "dsnot_rows": (
        lambda f, w, m: f.dsnot_rows(m, w, STATS, tolerance=0.01),
        lambda w, m: prune.dsnot_rows_(m, w, STATS, tolerance=0.01),
    ),
    "coverage_or": (
        lambda f, w, m: f.coverage_or(m, w > 0)[0],
        lambda w, m: prune.coverage_or_(m, w > 0)[0],
    ),
    "obs_block": (
        lambda f, w, m: f.obs_block(w, U, k=7),
        lambda w, m: prune.obs_block_(w, U, k=7),
    ),
    "obs_prune": (
        lambda f, w, m: f.obs_prune(w, H, k=7),
        lambda w, m: prune.obs_prune_(w, H, k=7),
    ),
    "drop_grow": (
        lambda f, w, m: flat(f.drop_grow(m, abs(w), abs(w), 2, 3, weights=w, init=9, states=[w])),
        flat_in_place,
    ),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", TWINS)
def test_twin_gives_what_the_operation_in_place_does(name: str, framework: str) -> None:
    twin, in_place = TWINS[name]
    w, m = put(framework, W), put(framework, MASK)
    got = twin(functional, w, m)
    expected = in_place(W.copy(), MASK.copy())
    if not isinstance(expected, (tuple, list)):
        got, expected = [got], [expected]
    for a, b in zip(got, expected, strict=True):
        assert type(a) is type(w) and not np.array_equal(np.asarray(a), W)
        np.testing.assert_array_equal(np.asarray(a), b)
    np.testing.assert_array_equal(np.asarray(w), W)
    np.testing.assert_array_equal(np.asarray(m), MASK)


def test_every_operation_in_place_has_a_twin() -> None:
    names = [name for module in (prune, regrow) for name in module.__all__ if name.endswith("_")]
    assert len(names) > 8
    for name in names:
        assert hasattr(functional, name[:-1]), name
        assert name[:-1] in (*TWINS, "csr_drop_grow")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("counts", [(2, 2), (3, 1), (0, 4)])
@pytest.mark.parametrize("kind", ["csr", "bsr"])
def test_matrix_twin(kind: str, counts: tuple[int, int], framework: str) -> None:
    dense = put(framework, np.where(MASK, W, 0))
    a = CSR.from_dense(dense) if kind == "csr" else BSR.from_dense(dense, (1, 1))
    score = put(framework, abs(G))
    state = put(framework, np.arange(float(a.nnz), dtype=np.float32).reshape(a._values().shape))
    before = np.asarray(a.to_dense())
    b, src, (moved,) = gossamer.csr_drop_grow(a, score, *counts, states=[state], init=0.5)
    nnz = a.nnz - counts[0] + counts[1]
    assert b.nnz == nnz and type(b) is type(a) and type(moved) is type(state)
    assert type(b.indices) is type(a.indices) and type(src) is type(a.indices)
    np.testing.assert_array_equal(np.asarray(a.to_dense()), before)
    order = np.asarray(src)
    old = np.asarray(a._values()).reshape(-1)
    np.testing.assert_array_equal(
        np.asarray(b._values()).reshape(-1), np.where(order < 0, 0.5, old[order])
    )
    np.testing.assert_array_equal(np.asarray(moved).reshape(-1), np.where(order < 0, 0, order))


def test_bfloat16_of_jax_and_torch() -> None:
    jnp = pytest.importorskip("jax.numpy")
    torch = pytest.importorskip("torch")
    for w in (jnp.asarray(W, jnp.bfloat16), torch.from_numpy(W).bfloat16()):
        made = functional.soft_threshold(w, 0.5)
        assert made.dtype == w.dtype


def test_message() -> None:
    with pytest.raises(TypeError, match=r"^csr_drop_grow: a is a ndarray, expected a CSR or a BSR"):
        gossamer.csr_drop_grow(W, G, 1, 1)
    a = CSR.from_dense(np.where(np.arange(12).reshape(3, 4) % 2, 1.0, 0.0))
    grow = np.ones((3, 4))
    calls: list[tuple[Callable[[], object], type[Exception], str]] = [
        (
            lambda: gossamer.csr_drop_grow(a, grow, 7, 7),
            ValueError,
            "csr_drop_grow: n_drop is 7, expected 0 to 6, the number of entries",
        ),
        (
            lambda: gossamer.csr_drop_grow(a, grow, 1, 8),
            ValueError,
            "csr_drop_grow: n_grow is 8, expected at most 7, the places without an entry that "
            "stays",
        ),
        (
            lambda: gossamer.csr_drop_grow(a.with_values(None), grow, 1, 1),
            ValueError,
            "csr_drop_grow: a.values is None, expected an array of values",
        ),
        (
            lambda: gossamer.csr_drop_grow(a, grow, 1, 1, states=3),  # type: ignore[arg-type]
            TypeError,
            "csr_drop_grow: states is of type int, expected a list of arrays",
        ),
    ]
    for call, kind, message in calls:
        with pytest.raises(kind) as error:
            call()
        assert str(error.value) == message
    assert gossamer.csr_drop_grow(a, grow, 1, 7).matrix.nnz == 12
    with pytest.raises(ValueError, match=r"^drop_grow_: "):
        gossamer.drop_grow(MASK, abs(W), abs(W), 100, 0)
