"""What the recipes of docs/pruning.md compute is what their papers' formulas say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gossamer
import numpy as np
import pytest
from test_layerwise import dsnot, obs
from test_layerwise import factor as inverse_root
from test_recipes import RECIPES, operands
from test_select import random_keys

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


def drawn(shape: tuple[int, ...], k: int, step: int = 0) -> Array:
    """Mark what seed 7 draws: the k largest of its random keys."""
    keys = random_keys(np.arange(np.prod(shape)), 7, step).reshape(shape)
    return top(keys, k)


def at(a: Any) -> tuple[Array, Array]:
    """Return the pattern and the values of a CSR matrix, both dense."""
    return a.with_values(np.ones(a.nnz, np.float32)).to_dense() > 0, a.to_dense()


#: The recipes that have been checked.
CHECKED: set[str] = set()


def run(word: str, **more: Any) -> tuple[Names, Names]:
    """Run the recipe that has a word; return the names before and after."""
    (recipe,) = (recipe for recipe in RECIPES if word in recipe)
    CHECKED.add(recipe)
    names = {**operands(), **more}
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


def test_part_of_a_random_mask() -> None:
    old, new = run("total=ranks")
    whole = drawn((old["ranks"], 64, 64), old["k"])
    assert np.array_equal(new["part"], whole[old["rank"]])


def test_erk_and_masks_drawn_by_it() -> None:
    old, new = run('method="erk"')
    shapes = [v.shape for v in old["layers"]]
    weights = np.array([sum(shape) for shape in shapes], float)  # size·(Σ extents / Π extents)
    exact = 4000 * weights / weights.sum()
    assert np.all(abs(np.array(new["counts"]) - exact) < 1)
    for step, (mask, shape, k) in enumerate(zip(new["static"], shapes, new["counts"], strict=True)):
        assert np.array_equal(mask, drawn(shape, k, step=step))


def test_budgets() -> None:
    _, new = run('method="owl"')
    scores = [
        abs(v) * np.sqrt((x**2).sum(0)) for v, x in zip(new["layers"], new["x_of"], strict=True)
    ]
    outliers = [float((s > 5 * s.mean()).mean()) for s in scores]
    assert new["outliers"] == pytest.approx(outliers, abs=1e-4)
    sizes = np.array([v.size for v in new["layers"]])
    level = np.array(new["outliers"])
    level = (level - level.min()) / np.ptp(level)
    density = 0.3 + 2 * 0.08 * (level - level @ sizes / sizes.sum())
    assert np.all(abs(np.array(new["owl"]) - sizes * density) < 1)
    importance = [
        abs(p - m) / (2 * 1e-3) * abs(v).sum()
        for p, m, v in zip(new["loss_plus"], new["loss_minus"], new["layers"], strict=True)
    ]
    shares = np.array(importance) / sum(importance) * 12_000
    expected = np.where(shares > sizes, sizes, shares)
    expected[np.argmin(shares / sizes)] += 12_000 - expected.sum()
    assert new["ecoflap"] == pytest.approx(expected.tolist(), abs=1)
    for mask, score, k in zip(new["masks"], scores, new["ecoflap"], strict=True):
        assert np.mean(mask == top(score, k)) > 0.999  # sums of squares are rounded elsewhere


def test_sparse_ift() -> None:
    _, new = run("schedule.sparse_wide_width")
    assert new["width"] ** 2 * 0.25 == 256**2
    assert new["branches"] * 0.25 == 1
    # Two factors of rank r have r·(256 + 256) weights, of which a quarter stays.
    assert new["rank"] * (256 + 256) * 0.25 >= 256**2 > (new["rank"] - 1) * (256 + 256) * 0.25


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


def test_order_of_columns() -> None:
    old, new = run("permutation_search")
    w = abs(old["w"])
    assert sorted(new["order"]) == list(range(64))
    assert np.array_equal(new["asp"], top_of_groups(w[:, new["order"]], 2, 4))
    sums = [
        (w[:, order] * top_of_groups(w[:, order], 2, 4)).sum()
        for order in (new["order"], range(64))
    ]
    assert new["kept"] == pytest.approx(sums[0], rel=1e-5)
    assert sums[0] > 1.005 * sums[1]


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
    w, x = old["w"].astype(np.float64), old["x"].astype(np.float64)
    first = np.stack([top(row, 32) for row in abs(w) * np.sqrt((x**2).sum(0))])
    assert np.array_equal(new["wanda"], dsnot(first, w, x))
    assert not np.array_equal(new["wanda"], first)
    hessian = x.T @ x
    hessian += 0.01 * np.diag(hessian).mean() * np.eye(64)
    pruned, kept = obs(w, inverse_root(hessian), k=2048)
    assert np.mean((new["w"] != 0) == kept) > 0.999  # float32 rounds a few scores past each other
    agree = ((new["w"] != 0) == kept).all(1)
    np.testing.assert_allclose(new["w"][agree], pruned[agree], atol=1e-3)


def test_sparsegpt_by_blocks() -> None:
    old, new = run("prune.obs_block_")
    pruned, kept = obs(old["w"], old["factor"], nm=(2, 4))
    agree = ((new["w"] != 0) == kept).all(1)
    assert agree.mean() > 0.9  # float32 rounds a few scores past each other
    np.testing.assert_allclose(new["w"][agree], pruned[agree], atol=1e-3)


def after(mask: Array, drop: Array, grow: Array, n: int, came: int) -> tuple[Array, Array]:
    """Drop the n lowest of a mask, then grow the best of what is free; return both masks."""
    kept = top(np.where(mask, drop, -np.inf), int(mask.sum()) - n)
    return kept, kept | top(np.where(~kept, grow, -np.inf), came)


def followed(old: Array, values: Array, new: Array) -> Array:
    """Return the values of the new mask's entries: 0 unless they were there before."""
    dense = np.zeros(old.shape, values.dtype)
    dense[old] = values
    return dense[new]


def test_rigl_and_set() -> None:
    old, new = run("regrow.drop_grow_(mask, prune.score(w), prune.score(g), n, n, weights")
    w, g, mask = old["w"], abs(old["g"]), old["mask"]
    n = int(0.3 * 0.5 * mask.sum())
    assert new["n"] == n
    kept, expected = after(mask, abs(w), g, n, n)
    assert np.array_equal(new["mask"], expected)
    for name in ("w", "m", "v"):
        assert not new[name][expected & ~mask].any()
        assert np.array_equal(new[name][kept], old[name][kept])
    # The matrix: RigL by the gradient, then SET by the signs, at random.
    pattern, values = at(old["a"])
    rigl = after(pattern, abs(values), g, n, n)[1]
    assert np.array_equal(new["sparse_m"], followed(pattern, old["sparse_m"], rigl))
    assert np.array_equal(np.sort(new["other"]), np.sort(new["sparse_m"]))
    values = np.where(pattern & rigl, values, 0)
    small = [top(np.where(side * values > 0, -abs(values), -np.inf), n // 2) for side in (1, -1)]
    kept = rigl & ~(small[0] | small[1])
    found, weights = at(new["a"])
    assert (found & kept).sum() == kept.sum()
    assert found.sum() == rigl.sum()  # as many come, at places that are drawn
    assert np.array_equal(weights[found], followed(rigl, values[rigl], found))


def test_snfs() -> None:
    old, new = run('method="snfs"')
    masks, momenta, layers = old["masks"], old["momenta"], old["layers"]
    drops = [int(0.2 * mask.sum()) for mask in masks]
    mean = np.array([abs(m[mask]).mean() for m, mask in zip(momenta, masks, strict=True)])
    assert sum(new["grows"]) == sum(drops)
    assert np.all(abs(new["grows"] - sum(drops) * mean / mean.sum()) < 1)
    for at, (mask, m, v) in enumerate(zip(masks, momenta, layers, strict=True)):
        _, expected = after(mask, abs(v), abs(m), drops[at], new["grows"][at])
        assert np.array_equal(new["masks"][at], expected)
        assert not new["layers"][at][mask ^ expected].any()
        assert np.array_equal(new["layers"][at][mask & expected], v[mask & expected])


def test_ssvi_sparcl_and_frozen_tasks() -> None:
    old, new = run('kind="snr_abs"')
    pattern, mu = at(old["a"])
    n, sigma = int(0.3 * 0.5 * pattern.sum()), 0.1
    mu = mu.astype(np.float64)
    erf = np.vectorize(math.erf)(mu / (sigma * math.sqrt(2)))
    mean = mu * erf + 2 * sigma * np.exp(-0.5 * (mu / sigma) ** 2) / math.sqrt(2 * math.pi)
    ratio = mean / np.sqrt(mu**2 + sigma**2 - mean**2)
    expected = after(pattern, ratio, abs(old["g"]), n, n)[1]
    found, _ = at(new["a"])
    assert np.array_equal(found, expected)
    assert np.array_equal(new["sigma"], followed(pattern, old["sigma"], found))

    importance = abs(old["w"]) + 0.5 * abs(old["g"]) + 0.5 * abs(old["hg"])
    kept, _ = after(old["mask"], importance, importance, n, 0)
    assert (new["mask"] & kept).sum() == kept.sum()
    assert new["mask"].sum() == old["mask"].sum()
    assert not (new["mask"] & ~kept & old["frozen"]).any()


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
    # WGSEF: each row times u/(λ + u), u = (η·norm - λ) cut to [0, 1], η such that Σu = k.
    norm, (low, high) = np.linalg.norm(w, axis=1, keepdims=True), (0.0, 1e3)
    for _ in range(200):
        eta = (low + high) / 2
        u = np.clip(eta * norm - 1e-3, 0, 1)
        low, high = (low, eta) if u.sum() > 32 else (eta, high)
    w *= u / (1e-3 + u)
    kept = new["w"] != 0
    assert kept.sum() == 1024
    assert abs(w)[kept].min() >= abs(w)[~kept].max() - 1e-6
    np.testing.assert_allclose(new["w"][kept], w[kept], rtol=1e-4)
    gamma = old["gamma"].astype(np.float64)
    expected = 1.2 * abs(gamma).sum() - abs(gamma - gamma.mean()).sum()
    assert new["penalty"] == pytest.approx(expected, rel=1e-5)
    sides = np.sign(gamma - gamma.mean())
    slope = 1.2 * np.sign(gamma) - sides + sides.mean()
    np.testing.assert_allclose(new["slope"], slope, atol=1e-5)


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


def test_layers_that_read_what_reaches_a_threshold() -> None:
    outputs: list[Array] = []

    def kept(op: Callable[..., Array]) -> Callable[..., Array]:
        return lambda *arrays, **options: outputs.append(op(*arrays, **options)) or outputs[-1]

    layers = SimpleNamespace(
        sparse_linear=kept(gossamer.sparse_linear), gated_mlp=kept(gossamer.gated_mlp)
    )
    old, new = run("gossamer.gated_mlp", gossamer=layers)
    x, w, m, v = (old[name].astype(np.float64) for name in "xwmv")
    one = x[:1]
    gate, up = x @ w.T, x @ m.T
    values = np.where(abs(one) >= 0.5, one, 0) @ w.T
    np.testing.assert_allclose(outputs[0], values, atol=1e-4)
    magnitudes = abs(gate) * np.sqrt((up**2).sum(0))
    chess = np.sort(magnitudes, axis=None)[-(gate.size // 4) - 1]
    cats = np.sort(abs(gate), axis=None)[-(gate.size // 4) - 1]
    for y, on in zip(outputs[1:], (abs(gate) > cats, magnitudes > chess), strict=True):
        np.testing.assert_allclose(y, (gate * up * on)[:1] @ v, rtol=1e-4, atol=1e-3)
    assert new["y"] is outputs[-1]


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


def test_every_recipe_has_a_check_and_none_holds_for_unchanged_operands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A recipe that does nothing must fail each check above.
    monkeypatch.setattr("test_recipe_results.exec", lambda code, names: None, raising=False)
    for check in CHECKS:
        with pytest.raises((AssertionError, KeyError, IndexError)):
            check()
    assert set(RECIPES) == CHECKED
