"""What the recipes of docs/pruning.md compute is what their papers' formulas say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_recipes import RECIPES, operands

pytestmark = pytest.mark.once

Names = dict[str, Any]
Array = np.ndarray


def top(score: Array, k: int) -> Array:
    """Mark the k largest, of equal ones the first."""
    mask = np.zeros(score.size, bool)
    mask[np.argsort(-score.reshape(-1), kind="stable")[:k]] = True
    return mask.reshape(score.shape)


def top_of_groups(score: Array, n: int, m: int) -> Array:
    """Mark the n largest of each m in a row."""
    groups = score.reshape(-1, m)
    return np.stack([top(group, n) for group in groups]).reshape(score.shape)


def at(a: Any) -> tuple[Array, Array]:
    """Return the pattern and the values of a CSR matrix, both dense."""
    return a.with_values(np.ones(a.nnz, np.float32)).to_dense() > 0, a.to_dense()


def run(word: str) -> tuple[Names, Names]:
    """Run the recipe that has a word; return the names before and after."""
    (recipe,) = (recipe for recipe in RECIPES if word in recipe)
    names = operands()
    exec(compile(recipe, "docs/pruning.md", "exec"), names)
    return operands(), names  # the operands are the same each time


def test_masks_by_magnitude_tickets_and_soups() -> None:
    old, new = run("schedule.cubic")
    zeros = int(0.9 * (1 - 0.5**3) * 4096)
    mask = top(abs(old["w"]), 4096 - zeros)
    assert np.array_equal(new["mask"], mask)
    both = top(np.concatenate([abs(v).reshape(-1) for v in old["layers"]]), 20_000)
    assert np.array_equal(np.concatenate([m.reshape(-1) for m in new["masks"]]), both)
    assert np.array_equal(new["ticket"], old["w_start"] * mask)
    pattern, soup = at(new["soup"])
    assert np.array_equal(pattern, mask)
    np.testing.assert_allclose(soup, (old["w"] + old["w_start"]) / 2 * mask, rtol=1e-6)


def test_sensitivity_scores() -> None:
    old, new = run("grasp")
    w, k = old["w"], old["k"]
    assert np.array_equal(new["snip"], top(abs(w * old["g"]), k))
    assert np.array_equal(new["grasp"], top(w * old["hg"], k))
    assert np.array_equal(new["synflow"], top(w * old["dr"], 410))
    movement = old["movement"] - np.float32(0.01) * w * old["g"]
    np.testing.assert_allclose(new["movement"], movement, atol=1e-6)
    assert np.array_equal(new["moved"], top(new["movement"], k))


def test_topkast() -> None:
    old, new = run("penalty = abs(w[a])")
    w, k = old["w"], old["k"]
    a, b = top(abs(w), k), top(abs(w), 2 * k)
    assert np.array_equal(new["a"], a)
    assert np.array_equal(new["b"], b)
    expected = abs(w[a]).sum() + abs(w[b & ~a]).sum() * 4096 / k
    assert new["penalty"] == pytest.approx(expected, rel=1e-5)


def test_selection_of_several_processes() -> None:
    old, new = run("prune.Selection")
    assert np.array_equal(new["mine"], top(abs(old["w"]), old["k"]))
    assert new["nans"] == 0


def test_budgets() -> None:
    _, new = run('method="owl"')
    scores = [
        abs(v) * np.sqrt((x**2).sum(0)) for v, x in zip(new["layers"], new["x_of"], strict=True)
    ]
    outliers = [float((s > 5 * s.mean()).mean()) for s in scores]
    assert new["outliers"] == pytest.approx(outliers, abs=1e-4)
    importance = [
        abs(p - m) / (2 * 1e-3) * abs(v).sum()
        for p, m, v in zip(new["loss_plus"], new["loss_minus"], new["layers"], strict=True)
    ]
    shares = np.array(importance) / sum(importance) * 12_000
    sizes = np.array([v.size for v in new["layers"]])
    expected = np.where(shares > sizes, sizes, shares)
    expected[np.argmin(shares / sizes)] += 12_000 - expected.sum()
    assert new["ecoflap"] == pytest.approx(expected.tolist(), abs=1)
    for mask, score, k in zip(new["masks"], scores, new["ecoflap"], strict=True):
        assert np.mean(mask == top(score, k)) > 0.999  # sums of squares are rounded elsewhere


def test_patterns() -> None:
    old, new = run("vnm_mask")
    w = abs(old["w"])
    assert np.array_equal(new["two_four"], top_of_groups(w, 2, 4))
    assert np.array_equal(new["backward"], top_of_groups(np.ascontiguousarray(w.T), 2, 4).T)
    both = new["both"].reshape(16, 4, 16, 4)
    assert (both.sum(1) == 2).all()
    assert (both.sum(3) == 2).all()
    pairs = [np.isin(range(4), pair) for pair in itertools.combinations(range(4), 2)]
    squares = [np.stack(rows) for rows in itertools.product(pairs, repeat=4)]
    squares = np.stack([square for square in squares if (square.sum(0) == 2).all()])
    tiles = w.reshape(16, 4, 16, 4).transpose(0, 2, 1, 3)
    best = np.einsum("abij,sij->abs", tiles, squares).max(2)
    ours = (tiles * new["both"].reshape(16, 4, 16, 4).transpose(0, 2, 1, 3)).sum((2, 3))
    np.testing.assert_allclose(ours, best, rtol=1e-5)
    venom = new["venom"].reshape(4, 16, 8, 8)
    assert (venom.sum(3) <= 2).all()
    assert (venom.any(1).sum(2) <= 4).all()  # four of eight columns for sixteen rows
    blocks = top(w.reshape(4, 16, 4, 16).sum((1, 3)), 4)
    assert np.array_equal(new["blocks"], np.kron(blocks, np.ones((16, 16), bool)))
    neurons = top((w**2).sum(1), 16)
    assert np.array_equal(new["neurons"], np.repeat(neurons[:, None], 64, 1))
    gqsa = top(((w / old["u"]) ** 2).reshape(64, 4, 16).mean(2), 64)
    assert np.array_equal(new["gqsa"], np.repeat(gqsa, 16, axis=1))


def test_soft_masks() -> None:
    old, new = run("prune.srste_grad_")
    w, m, g = old["w"], old["two_four"], old["g"]
    np.testing.assert_allclose(new["g"], g + 2e-4 * ~m * w, rtol=1e-5, atol=1e-7)
    faded = w * np.where(m, 1, 0.5).astype(np.float32)  # half of the way
    assert new["stages"] == [3, 2]
    assert np.array_equal(new["sdgf"], top_of_groups(abs(faded), 2, 4))
    shrunk = np.where(top(abs(faded), old["k"]), faded, faded * np.float32(0.99))
    np.testing.assert_allclose(new["w"], shrunk, rtol=1e-6)


def test_layer_by_layer() -> None:
    old, new = run("prune.dsnot_rows_")
    assert (new["wanda"].sum(1) == 32).all()
    w, x = old["w"].astype(np.float64), old["x"].astype(np.float64)
    first = np.stack([top(row, 32) for row in abs(w) * np.sqrt((x**2).sum(0))])
    drift = [abs((w * ~mask) @ x.mean(0)).mean() for mask in (first, new["wanda"])]
    assert drift[1] < drift[0]
    kept = new["w"] != 0
    assert kept.sum() == 2048
    obs, plain = (np.linalg.norm(x @ (v - w).T) for v in (new["w"], np.where(first, w, 0)))
    assert obs < plain  # it moves the weights that it keeps


def test_rigl_and_set() -> None:
    old, new = run("regrow.drop_grow_(mask, prune.score(w), prune.score(g), n, n, weights")
    w, g, mask = old["w"], abs(old["g"]), old["mask"]
    n = int(0.3 * 0.5 * mask.sum())
    assert new["n"] == n
    kept = mask & top(np.where(mask, abs(w), -1), int(mask.sum()) - n)
    grown = top(np.where(kept, -1, g), n)
    assert np.array_equal(new["mask"], kept | grown)
    for name in ("w", "m", "v"):
        assert not new[name][grown & ~mask].any()
        assert np.array_equal(new[name][kept], old[name][kept])
    assert new["a"].nnz == old["a"].nnz


def test_features_are_the_strongest_inputs() -> None:
    old, new = run("graph.strength")
    _, dense = at(old["a"])
    assert np.array_equal(new["features"], top(abs(dense).sum(0), 20))
    assert new["explored"] == (old["seen"] | old["mask"]).mean()


def test_proximal_steps() -> None:
    old, new = run("prune.l0_project_")
    w = old["w"].astype(np.float64)
    w = np.sign(w) * np.maximum(abs(w) - 1e-3, 0)
    w *= np.maximum(0, 1 - 1e-3 / np.linalg.norm(w, axis=1, keepdims=True))
    norms = np.linalg.norm(new["w"], axis=1)
    assert int((new["w"] != 0).sum()) <= 1024
    direction = abs(new["w"]) > 0
    assert (np.sign(new["w"]) == np.sign(w))[direction].all()
    assert norms.max() <= np.linalg.norm(w, axis=1).max()
    gamma = old["gamma"].astype(np.float64)
    expected = 1.2 * abs(gamma).sum() - abs(gamma - gamma.mean()).sum()
    assert new["penalty"] == pytest.approx(expected, rel=1e-5)


def test_activations() -> None:
    old, new = run("cats_threshold(x, x.size // 4)")
    x = old["x"]
    assert (abs(x) > new["cats"]).sum() == x.size // 4
    scale = np.sqrt((old["up"].astype(np.float64) ** 2).sum(0))
    kept = top(abs(x) * scale, x.size // 4)
    assert np.mean((abs(x) > new["chess"]) == kept) > 0.9999
    ratios = new["chess"] * scale
    assert ratios.max() / ratios.min() == pytest.approx(1, rel=1e-4)
    assert abs((abs(x) > new["streamed"]).mean() - 0.25) < 0.01
    assert new["dead"] == (~(x > 0).any(0)).sum()
    key = np.stack([top(row, 8) for row in abs(x * old["dx"])])
    assert np.array_equal(np.nonzero(key)[1].reshape(-1, 8), new["columns"])
    assert np.array_equal(x[key].reshape(-1, 8), new["values"])


def test_cett_is_bisected_to_a_fifth() -> None:
    old, new = run("cett_threshold(w, t)")
    x, w = old["x"].astype(np.float64), old["w"].astype(np.float64)

    def error(t: float) -> float:
        left_out = np.where(abs(x) * np.linalg.norm(w, axis=0) < t, x, 0)
        return float(np.linalg.norm(left_out @ w.T) / np.linalg.norm(x @ w.T))

    assert error(new["low"]) <= 0.2 + 1e-6
    assert error(new["high"] + 0.05) > 0.2


def test_teddy() -> None:
    old, new = run("graph.edge_score")
    pattern, _ = at(old["edges"])
    d = pattern.sum(1)
    near = np.where(d > 0, (pattern @ np.where(d > 0, d, 1) ** -0.5) / np.maximum(d, 1), 0)
    part = near / np.maximum(d, 1)
    score = np.where(np.eye(20, dtype=bool), np.inf, np.outer(part, part))
    kept, _ = at(new["edges"])
    assert kept.sum() == pattern.sum() - pattern.sum() // 10
    assert not (kept & ~pattern).any()
    worst_kept, best_gone = score[kept].min(), score[pattern & ~kept].max()
    assert best_gone <= worst_kept * (1 + 1e-5)
    whole = top(np.concatenate([abs(v).reshape(-1) for v in old["layers"]]), 4000)
    masked = np.concatenate([v.reshape(-1) for v in new["layers"]])
    assert np.array_equal(masked != 0, whole)


CHECKS: list[Callable[[], None]] = [
    check for name, check in list(globals().items()) if name.startswith("test_")
]


def test_no_check_holds_for_unchanged_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    # A recipe that does nothing must fail each check above.
    monkeypatch.setattr("test_recipe_results.exec", lambda code, names: None, raising=False)
    for check in CHECKS:
        with pytest.raises((AssertionError, KeyError)):
            check()
