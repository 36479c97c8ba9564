"""The recipes of docs/pruning.md on PyTorch's tensors and JAX's arrays: results and formulas."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest
from test_recipes import PAGE, RECIPES, operands

pytestmark = pytest.mark.once

Names = dict[str, Any]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
IN_TORCH = BLOCK.findall(PAGE.partition("\n## In PyTorch\n")[2].partition("\n## In JAX\n")[0])
IN_JAX = BLOCK.findall(PAGE.partition("\n## In JAX\n")[2])


def converted(value: Any, array: Callable[[np.ndarray], Any]) -> Any:
    if isinstance(value, np.ndarray):
        return array(value)
    if isinstance(value, list):
        return [converted(x, array) for x in value]
    if isinstance(value, gossamer.CSR):
        parts = (value.indptr.copy(), value.indices.copy(), value.values)
        return gossamer.CSR(*map(array, parts), value.shape)
    return value


def plain(value: Any) -> Any:
    """Return what is compared: arrays of NumPy's, or None for what is no result."""
    if isinstance(value, gossamer.CSR):
        return np.asarray(value.to_dense(), np.float64)
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    if isinstance(value, (int, float)) or hasattr(value, "__dlpack__"):
        return np.asarray(value, np.float64)
    return None


def same(ours: Any, theirs: Any, where: str) -> None:
    if isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for x, y in zip(ours, theirs, strict=True):
            same(x, y, where)
    elif theirs is not None and ours is not None:
        assert ours.shape == theirs.shape, where
        close = np.isclose(ours, theirs, rtol=1e-4, atol=1e-5, equal_nan=True)
        # Sums of products are rounded elsewhere by each framework: a choice may be another one.
        assert close.mean() > (0.99 if "obs" in where else 0.9999), where


def run(recipe: str, names: Names) -> Names:
    exec(compile(recipe, "docs/pruning.md", "exec"), names)
    return names


def compare(form: str, recipe: str, array: Callable[[np.ndarray], Any], **more: Any) -> None:
    """Run a form and NumPy's recipe; what both have made or changed must be the same."""
    given = {name: converted(x, array) for name, x in operands().items()}
    got, expected = run(form, {**given, **more}), run(recipe, operands())
    assigned = {
        name
        for line in re.findall(r"^([\w, ()]+?) = ", form, re.M)
        for name in re.findall(r"\w+", line)
    }
    passing = set(re.findall(r"\w+", " ".join(re.findall(r"^ *for (.+?) in ", recipe, re.M))))
    names = {name for name in expected if name in got and not name.startswith("__")} - passing
    compared = 0
    for name in sorted((assigned | set(operands())) & names):
        same(plain(got[name]), plain(expected[name]), f"{name} of {recipe}")
        compared += plain(expected[name]) is not None
    assert compared > len(assigned & set(expected)) / 2


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_recipe_runs_on_tensors_in_pytorchs_words(recipe: str) -> None:
    torch = pytest.importorskip("torch")
    form = re.sub(r"\b(\w+)\.size\b", r"\1.numel()", recipe)
    form = form.replace("mean()).mean())", "mean()).float().mean())")
    form = form.replace("np.where", "torch.where").replace("np.linalg", "torch.linalg")
    form = form.replace("np.ascontiguousarray(w.T)", "w.T.contiguous()")

    def array(x: np.ndarray) -> Any:
        return torch.from_numpy(np.array(x))

    compare(form, recipe, array, torch=torch)


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_recipe_that_writes_nothing_runs_on_jax(recipe: str) -> None:
    jnp = pytest.importorskip("jax.numpy")
    if re.search(r"\b\w+_\(", recipe):
        pytest.skip("writes in place")
    compare(recipe, recipe, jnp.asarray)


#: A word of the recipe that each form for JAX stands for.
TWINS = [
    "srste_grad_",
    "dsnot_rows_",
    "set_drop",
    "coverage_or_(seen",
    "snr_abs",
    "sef_prox_",
    "edge_score",
]


@pytest.mark.parametrize("form, word", list(zip(IN_JAX, TWINS, strict=True)), ids=TWINS)
def test_twin_computes_what_the_recipe_does(form: str, word: str) -> None:
    jnp = pytest.importorskip("jax.numpy")
    (recipe,) = (recipe for recipe in RECIPES if word in recipe)
    compare(form, recipe, jnp.asarray, jnp=jnp)


def test_dead_units_are_counted_in_jax() -> None:
    jnp = pytest.importorskip("jax.numpy")
    (form,) = (form for form in IN_JAX if "dead" in form)
    given = {name: converted(x, jnp.asarray) for name, x in operands().items()}
    given["x"] = given["x"].at[:, :5].set(-1.0)
    assert run(form, given)["dead"] == 5


def top(score: Any, k: int) -> Any:
    """Return where the k largest are."""
    torch = pytest.importorskip("torch")
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().topk(k).indices] = True
    return mask.view(score.shape)


@pytest.fixture
def program() -> Names:
    """Return the names that the programs for PyTorch use; each continues the one before."""
    torch = pytest.importorskip("torch")
    import gossamer.torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.Tanh(), torch.nn.Linear(48, 8))
    x, target = torch.randn(64, 32), torch.randn(64, 8)
    return {
        **{"torch": torch, "gossamer": gossamer, "prune": gossamer.prune},
        **{"schedule": gossamer.schedule, "regrow": gossamer.regrow},
        **{"model": model, "layer": model[0], "batches": x.chunk(4)},
        "loss": lambda: (model(x) - target).square().mean(),
        "optimizer": torch.optim.Adam(model.parameters(), lr=0.01),
        "weights": [model[0].weight, model[2].weight],
    }


def test_scores_of_a_model_are_those_of_snip_and_grasp(program: Names) -> None:
    torch = pytest.importorskip("torch")
    made = run(IN_TORCH[0], program)
    flat = torch.cat([w.detach().flatten() for w in made["weights"]])
    g = torch.cat([g.detach().flatten() for g in made["gradients"]])
    snip, grasp = (torch.cat([m.flatten() for m in made[name]]) for name in ("snip", "grasp"))
    assert torch.equal(snip, top((flat * g).abs(), 600))
    # H·g by differences of the gradient along g.
    weights, loss = made["weights"], made["loss"]
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, slope in zip(weights, made["gradients"], strict=True):
                w.add_(slope, alpha=sign * 0.01)
        ends.append(torch.cat([x.flatten() for x in torch.autograd.grad(loss(), weights)]))
        with torch.no_grad():
            for w, slope in zip(weights, made["gradients"], strict=True):
                w.sub_(slope, alpha=sign * 0.01)
    product = (ends[0] - ends[1]) / 0.02
    assert (grasp == top(flat * product, 600)).float().mean() > 0.99


def test_model_is_pruned_on_a_schedule(program: Names) -> None:
    torch = pytest.importorskip("torch")
    before = program["loss"]().item()
    made = run(IN_TORCH[1], program)
    assert [int((w != 0).sum()) for w in made["weights"]] == [154, 39]  # a tenth
    assert made["loss"]().item() < before
    assert torch.equal(made["sparse"].to_dense().weight, made["layer"].weight)


def test_hooks_give_wanda_and_sparsegpt_their_inputs(program: Names) -> None:
    torch = pytest.importorskip("torch")
    layer, old = program["layer"], program["layer"].weight.detach().clone()
    x = torch.cat(program["batches"])
    made = run(IN_TORCH[2], program)
    score = old.abs() * x.square().sum(0).sqrt()
    assert torch.equal(made["wanda"], torch.stack([top(row, 16) for row in score]))
    kept = layer.weight != 0
    assert int(kept.sum()) == 48 * 16
    errors = [float(((w - old) @ x.T).norm()) for w in (layer.weight.detach(), old * made["wanda"])]
    assert errors[0] < errors[1]


def test_sparse_layer_is_regrown_where_the_gradient_is_large(program: Names) -> None:
    torch = pytest.importorskip("torch")
    import gossamer.torch as gt

    sparse = gt.SparseLinear.from_dense(program["layer"], sparsity=0.8)
    x, target = torch.randn(64, 32), torch.randn(64, 48)
    optimizer = torch.optim.Adam(sparse.parameters(), lr=0.01)
    (sparse(x) - target).square().mean().backward()
    optimizer.step()
    optimizer.state[sparse.values]["exp_avg"].fill_(1)
    old = sparse.to_dense().weight.detach()
    dense = sparse.to_dense()
    (dense(x) - target).square().mean().backward()
    slope = dense.weight.grad.abs()
    run(
        IN_TORCH[3], {**program, "sparse": sparse, "x": x, "target": target, "optimizer": optimizer}
    )
    pattern = sparse.matrix.with_values(torch.ones(sparse.nnz)).to_dense() > 0
    dropped = top(torch.where(old != 0, -old.abs(), -torch.inf), 20)
    grown = top(torch.where((old == 0) | dropped, slope, -torch.inf), 20)
    assert torch.equal(pattern, (old != 0) & ~dropped | grown)
    moment = sparse.matrix.with_values(optimizer.state[sparse.values]["exp_avg"]).to_dense()
    others = ~(dropped & grown)  # what was dropped and came back
    assert torch.equal((moment != 0) & others, (old != 0) & ~dropped)
    assert int(moment.sum()) >= sparse.nnz - 20
