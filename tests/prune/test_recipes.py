"""The recipes of docs/pruning.md run, and each has fewer than twenty lines."""

from __future__ import annotations

import re
from typing import Any

import gossamer
import numpy as np
import pytest
from library import ROOT

pytestmark = pytest.mark.once

PAGE = (ROOT / "docs" / "pruning.md").read_text()
#: Those for NumPy; test_recipe_forms.py has the others.
RECIPES = re.findall(r"```python\n(.*?)```", PAGE.partition("\n## In PyTorch\n")[0], re.DOTALL)


def operands() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    w, g, hg, dr, movement, m, v, w_start = rng.standard_normal((8, 64, 64), np.float32)
    edges = rng.random((20, 20), np.float32) < 0.2
    mask = rng.random((64, 64)) < 0.2
    a = gossamer.CSR.from_dense(w, mask)
    x = rng.standard_normal((256, 64), np.float32)
    layers = [rng.standard_normal((100, n), np.float32) for n in (100, 300)]
    return {
        "np": np,
        "gossamer": gossamer,
        "graph": gossamer.graph,
        "prune": gossamer.prune,
        "regrow": gossamer.regrow,
        "schedule": gossamer.schedule,
        "all_reduce": lambda counts: counts,
        "ties_of_lower_ranks": lambda n: 0,
        "rank": 1,
        "ranks": 3,
        "step": 500,
        "k": 500,
        **{"w": w, "g": g, "hg": hg, "dr": dr * np.sign(dr * w), "movement": movement},
        **{"m": m, "v": v, "w_start": w_start},
        "layers": layers,
        "x_of": [rng.standard_normal((50, layer.shape[1]), np.float32) for layer in layers],
        "loss_plus": [1.3, 1.1],
        "loss_minus": [1.0, 1.2],
        "masks": [rng.random(layer.shape) < 0.1 for layer in layers],
        "momenta": [rng.standard_normal(layer.shape, np.float32) for layer in layers],
        "x": x,
        "dx": rng.standard_normal(x.shape, np.float32),
        "up": rng.standard_normal(x.shape, np.float32),
        "u": rng.random(64, np.float32) + 0.5,
        "factor": np.linalg.cholesky(np.linalg.inv(x.T @ x)).T,
        "gamma": rng.random(64, np.float32),
        "fired": np.zeros(64, bool),
        "seen": np.zeros((64, 64), bool),
        "frozen": rng.random((64, 64)) < 0.1,
        "two_four": gossamer.prune.nm_mask(gossamer.prune.score(w), 2, 4),
        "mask": mask,
        "a": a,
        "sigma": np.full(a.nnz, 0.1, np.float32),
        "sparse_m": np.ones(a.nnz, np.float32),
        "other": np.ones(a.nnz, np.float32),
        "edges": gossamer.CSR.from_dense((edges | edges.T).astype(np.float32)),
    }


# What the recipes must compute, by variable: the number of a mask's entries, the sum of counts.
KEPT: dict[str, int] = {
    **dict.fromkeys(["snip", "grasp", "moved", "mine"], 500),
    "synflow": 410,
    "two_four": 2048,
    "backward": 2048,
    "both": 2048,
    "asp": 2048,
    "sdgf": 2048,
    "venom": 1024,
    "blocks": 1024,
    "neurons": 1024,
    "gqsa": 1024,
    "wanda": 2048,
    "features": 20,
    "counts": 4000,
    "owl": 12_000,
    "ecoflap": 12_000,
}


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_recipe_runs_is_short_and_keeps_what_it_says(recipe: str) -> None:
    assert len(recipe.splitlines()) < 20
    names = operands()
    a, mask, masks = names["a"], names["mask"], names["masks"]
    before = a.nnz, int(mask.sum()), sum(int(m.sum()) for m in masks)
    exec(compile(recipe, "docs/pruning.md", "exec"), names)
    # Recipes that move entries keep their number.
    assert (a.nnz, int(mask.sum()), sum(int(m.sum()) for m in masks)) == before
    for name in re.findall(r"^(\w+)(?:, \w+)? = ", recipe, re.MULTILINE):
        if name in KEPT and "np.histogram" not in recipe:
            assert int(np.sum(names[name])) == KEPT[name], name


def test_grasp_prunes_the_largest_of_its_score() -> None:
    (recipe,) = (recipe for recipe in RECIPES if "grasp" in recipe)
    names = operands()
    exec(compile(recipe, "docs/pruning.md", "exec"), names)
    paper = -names["w"] * names["hg"]
    assert paper[names["grasp"]].max() <= paper[~names["grasp"]].min()
    synflow = names["w"] * names["dr"]
    assert (synflow >= 0).all()
    assert synflow[names["synflow"]].min() >= synflow[~names["synflow"]].max()


METHODS = """
magnitude lottery soup ERK uniform SET QuickSelection RigL ITOP SNFS Top-KAST SNIP GraSP SynFlow
movement Wanda SparseGPT DSnoT OWL ECoFLaP SR-STE MdGf SdGf BDWP transposable ASP VENOM ISS-P lasso
WGSEF neurons TEDDY SSVI SparCL polarization AP CATS CHESS Sparsing GQSA Sparse-IFT
"""


def test_every_method_and_every_function_has_a_recipe() -> None:
    missing = [m for m in METHODS.split() if not re.search(rf"\b{m}\b", PAGE, re.IGNORECASE)]
    assert not missing
    used = set(re.findall(r"(?:prune|regrow)\.(\w+)", PAGE))
    # Functions that answer a question and prune nothing.
    questions = {"kth", "quantile", "block_pool", "expand_blocks", "check_nm", "nnz_stats"}
    classes = {"Kth", "Score"}
    everything = {*gossamer.prune.__all__, *gossamer.regrow.__all__}
    assert everything - used == questions | classes
