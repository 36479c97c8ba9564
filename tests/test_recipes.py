"""The recipes of docs/pruning.md run, each in under twenty lines."""

from __future__ import annotations

import re
from typing import Any

import gossamer
import numpy as np
import pytest
from library import ROOT

pytestmark = pytest.mark.once

PAGE = (ROOT / "docs" / "pruning.md").read_text()
RECIPES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def operands() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    w, g, hg, movement, m, v = rng.standard_normal((6, 64, 64), np.float32)
    graph = rng.random((20, 20), np.float32) < 0.2
    mask = rng.random((64, 64)) < 0.2
    a = gossamer.CSR.from_dense(w, mask)
    return {
        "np": np,
        "prune": gossamer.prune,
        "regrow": gossamer.regrow,
        "schedule": gossamer.schedule,
        "all_reduce": lambda counts: counts,
        "ties_of_lower_ranks": lambda n: 0,
        "rank": 1,
        "ranks": 3,
        "step": 500,
        "k": 500,
        **{"w": w, "g": g, "hg": hg, "movement": movement, "m": m, "v": v},
        "layers": [rng.standard_normal((100, n), np.float32) for n in (100, 300)],
        "x": rng.standard_normal((256, 64), np.float32),
        "two_four": gossamer.prune.nm_mask(gossamer.prune.score(w), 2, 4),
        "mask": mask,
        "a": a,
        "sparse_m": np.ones(a.nnz, np.float32),
        "other": np.ones(a.nnz, np.float32),
        "graph": gossamer.CSR.from_dense((graph | graph.T).astype(np.float32)),
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_recipe_runs_and_is_short(recipe: str) -> None:
    assert len(recipe.splitlines()) < 20
    exec(compile(recipe, "docs/pruning.md", "exec"), operands())
