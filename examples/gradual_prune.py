"""Prune a network gradually while it trains, to fewer weights than a small dense one needs.

gradual    To prune, or not to prune (Zhu and Gupta, 2017): the sparsity of each layer follows a
           cubic schedule; 90 % zeros cost at most 2 points of accuracy, and a network pruned to
           98 % beats a dense one with as many weights
shrinking  ISS-P (2023): at each step the weights out of the mask shrink by a factor instead of
           going; at 98 % that beats the hard mask, a factor of 0
soups      Sparse model soups (Zimmer et al., 2024): copies retrained under one mask are
           averaged: the pattern stays; under masks of their own the average is far denser
activity   AP (2022): the share of ReLU outputs that are off for some samples but not for all
           falls as weights go
budgets    ECoFLaP (2024): one shot, by Wanda in each layer: budgets that go by how the loss
           changes along random directions leave more than equal ones
clusters   Turbo-VBI (2023): where what matters lies together, blocks keep it with far fewer
           indices

pip install "gossamer[examples]"
python examples/gradual_prune.py            # all, about half a minute
python examples/gradual_prune.py soups      # one
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import digits
import gossamer
import numpy as np
import torch
from claims import claim, run
from gossamer import prune, schedule

WIDTHS = (64, 256, 10)
LONG, EPOCHS = 30, 20  # of gradual pruning, and of the other papers
SEEDS = 3
EVERY = 10  # steps between two prunings


def sparse(net: torch.nn.Sequential) -> Callable[[torch.Tensor], torch.Tensor]:
    """Run the network on its weights in CSR, zeros left out."""
    layers = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    weights = [gossamer.CSR.from_dense(layer.weight.data) for layer in layers]

    def forward(x: torch.Tensor) -> torch.Tensor:
        for layer, w in zip(layers, weights, strict=True):
            last = layer is layers[-1]
            x = gossamer.linear(x, w, bias=layer.bias.data, activation=None if last else "relu")
        return x

    return forward


def kept(n: int, sparsity: float) -> int:
    """Count what is left: the paper rounds the number of zeros."""
    return n - round(sparsity * n)


def keep_largest(w: torch.Tensor, k: int, mask: torch.Tensor) -> None:
    """Mark the k weights of largest magnitude."""
    prune.topk_mask(prune.score(w), k, out=mask)


def train_gradually(
    data: digits.Split, sparsity: float, seed: int, *, whole: bool = False, epochs: int = LONG
) -> tuple[torch.nn.Sequential, list[float]]:
    """Train with a rising sparsity; return the network and the sparsities on the way."""
    net = digits.mlp(WIDTHS, seed)
    layers = digits.weights(net)
    masks = [torch.ones_like(w, dtype=torch.bool) for w in layers]
    end = 2 * digits.steps_of(data, epochs) // 3
    seen: list[float] = []

    def after_step(step: int) -> None:
        if step % EVERY == 0 and step <= end + EVERY:
            seen.append(schedule.cubic(step, end=end, final=sparsity))
            if whole:
                k = schedule.nnz(sum(w.numel() for w in layers), seen[-1])
                masks[:] = prune.topk_mask([prune.score(w) for w in layers], k)
            else:
                for w, mask in zip(layers, masks, strict=True):
                    keep_largest(w, kept(w.numel(), seen[-1]), mask)
        for w, mask in zip(layers, masks, strict=True):
            w.mul_(mask)

    digits.train(net, data, epochs=epochs, lr=2e-3, after_step=after_step)
    return net, seen


def nnz(net: torch.nn.Sequential) -> list[int]:
    """Count the weights of each layer that are not zero."""
    return [int(prune.nnz_stats(w)) for w in digits.weights(net)]


def chooses(step: int, frozen_at: int) -> bool:
    """Tell whether a step still chooses its mask."""
    return step <= frozen_at


def shrunk(data: digits.Split, sparsity: float, factor: float, seed: int) -> float:
    """Shrink what is out of the mask at each step, freeze the mask late; return the accuracy."""
    net = digits.mlp(WIDTHS, seed)
    layers = digits.weights(net)
    counts = [schedule.nnz(w.numel(), sparsity) for w in layers]
    frozen_at = 3 * digits.steps_of(data, EPOCHS) // 4
    masks: list[torch.Tensor] = []
    frozen: list[torch.Tensor] = []

    def after_step(step: int) -> None:
        if chooses(step, frozen_at):
            masks[:] = [
                prune.topk_mask(prune.score(w), k) for w, k in zip(layers, counts, strict=True)
            ]
        for w, mask in zip(layers, masks, strict=True):
            prune.shrink_(w, mask, factor=factor if step < frozen_at else 0.0)
        if step == frozen_at:
            frozen[:] = [mask.clone() for mask in masks]

    digits.train(net, data, epochs=EPOCHS, lr=2e-3, after_step=after_step)
    claim(nnz(net) == counts, f"the final counts are exact: {nnz(net)}, {counts}")
    for w, mask in zip(layers, frozen, strict=True):
        claim(torch.equal(w != 0, mask), "the mask stays what it was when it was frozen")
    return digits.accuracy(sparse(net), data)


def retrained(
    dense: torch.nn.Sequential, masks: Sequence[torch.Tensor], data: digits.Split, seed: int
) -> torch.nn.Sequential:
    """Train a copy of a network under masks; the seed orders the samples."""
    net = digits.mlp(WIDTHS, seed)
    net.load_state_dict(dense.state_dict())

    def after_step(step: int) -> None:
        for w, mask in zip(digits.weights(net), masks, strict=True):
            w.mul_(mask)

    digits.train(net, data, epochs=EPOCHS // 3, lr=2e-3, after_step=after_step)
    return net


def largest(net: torch.nn.Sequential, sparsity: float) -> list[torch.Tensor]:
    """Mark the weights of largest magnitude of each layer."""
    return [
        prune.topk_mask(prune.score(w), schedule.nnz(w.numel(), sparsity))
        for w in digits.weights(net)
    ]


def by_magnitude(net: torch.nn.Sequential, masks: Sequence[torch.Tensor]) -> bool:
    """Tell whether masks keep no weight that is smaller than one that they leave out."""
    return all(
        bool(w[mask].abs().min() >= w[~mask].abs().max())
        for w, mask in zip(digits.weights(net), masks, strict=True)
    )


def soup(data: digits.Split, sparsity: float, seed: int) -> dict[str, float]:
    """Prune a dense network, retrain copies under its mask and average them."""
    dense = digits.mlp(WIDTHS, seed)
    digits.train(dense, data, epochs=EPOCHS // 3, lr=2e-3)
    shared = largest(dense, sparsity)
    claim(by_magnitude(dense, shared), "the members' mask is that of the largest weights")
    members = [retrained(dense, shared, data, 100 * seed + copy) for copy in range(3)]
    average = digits.mlp(WIDTHS, seed)
    states = [net.state_dict() for net in members]
    average.load_state_dict({key: sum(s[key] for s in states) / len(states) for key in states[0]})
    for at, mask in enumerate(shared):
        copies = [gossamer.CSR.from_dense(digits.weights(net)[at]) for net in members]
        for member in copies:
            inside = bool((mask | (member.to_dense() == 0)).all())
            claim(inside, "each member is under the mask")
        # Over the entries of the mask alone: a member's zero within it counts.
        copies = [gossamer.CSR.from_dense(digits.weights(net)[at], mask) for net in members]
        mean = prune.mean_same_pattern(copies)
        claim(mean.nnz == int(mask.sum()), "the soup has its members' pattern")
        whole = sum(digits.weights(net)[at] for net in members) / len(members)
        off = float((mean.to_dense() - whole).abs().max())
        claim(off < 1e-6, f"the soup is the mean of its members, off by {off:.1e}")
        digits.weights(average)[at].copy_(mean.to_dense())

    # Another network, pruned by its own weights, and the average of both.
    other = digits.mlp(WIDTHS, seed + 50)
    digits.train(other, data, epochs=EPOCHS // 3, lr=2e-3)
    own = own_masks(other, shared, sparsity)
    chosen_well = by_magnitude(other, own)
    other = retrained(other, own, data, seed)
    pairs = zip(digits.weights(members[0]), digits.weights(other), strict=True)
    joined = sum(int(prune.nnz_stats((a + b) / 2)) for a, b in pairs)
    size = sum(mask.numel() for mask in shared)
    grown = joined / sum(nnz(average))
    claim(grown > 1.4, f"masks of their own make the average denser, {grown:.2f} times")
    claim(chosen_well, "the other network's mask is that of its largest weights")
    return {
        "members": float(np.mean([digits.accuracy(sparse(net), data) for net in members])),
        "soup": digits.accuracy(sparse(average), data),
        "density": sum(nnz(average)) / size,
        "density under two masks": joined / size,
    }


def own_masks(
    net: torch.nn.Sequential, shared: Sequence[torch.Tensor], sparsity: float
) -> Sequence[torch.Tensor]:
    """Return the masks of a network that shares none."""
    return largest(net, sparsity)


@torch.inference_mode()
def dynamic_rate(net: torch.nn.Sequential, data: digits.Split) -> float:
    """Return the share of ReLU outputs that are off, less that of the units that are always off."""
    hidden = net[1](net[0](data[1]))
    fired = torch.zeros(hidden.shape[1], dtype=torch.bool)
    for batch in hidden.split(64):
        _, alive = prune.coverage_or_(fired, (batch > 0).any(0))
    dead = sum(all(float(h[unit]) == 0 for h in hidden) for unit in range(hidden.shape[1]))
    found = dynamic(hidden, alive)
    loop = (
        np.mean([[float(value) == 0 for value in row] for row in hidden]) - dead / hidden.shape[1]
    )
    claim(abs(found - loop) < 1e-9, f"the meter agrees with a loop: {found}, {loop}")
    return found


def dynamic(hidden: torch.Tensor, alive: int) -> float:
    """Return the share of outputs that are off, less that of the units that never fire."""
    off = 1 - int(prune.nnz_stats(hidden)) / hidden.numel()
    return off - (1 - alive / hidden.shape[1])


def one_shot(
    data: digits.Split, sparsities: Sequence[float], seed: int
) -> dict[float, dict[str, float]]:
    """Prune a trained network of four layers at once, with equal budgets and with ECoFLaP's."""
    net = digits.mlp((64, 256, 256, 256, 10), seed)
    digits.train(net, data, epochs=EPOCHS // 2, lr=2e-3)
    layers, x, y = digits.weights(net), data[0], data[2]
    scores, slopes, eps = [], [], 1e-2

    @torch.inference_mode()
    def loss() -> float:
        return float(torch.nn.functional.cross_entropy(net(x), y))

    with torch.inference_mode():
        inputs = x
        for layer in net:
            if isinstance(layer, torch.nn.Linear):
                stats = prune.ColumnStats().add(inputs)
                scores.append(prune.score(layer.weight.data.clone(), kind="wanda", col=stats.sumsq))
            inputs = layer(inputs)
    for w in layers:
        changes = []
        for _ in range(16):
            z = eps * torch.randn_like(w)
            plus, minus = w.add_(z) is w and loss(), w.sub_(2 * z) is w and loss()
            w.add_(z)
            changes.append(abs(plus - minus) / (2 * eps))
        slopes.append(sum(changes) / len(changes))
    shapes = [tuple(w.shape) for w in layers]
    importance = [s * float(w.abs().sum()) for s, w in zip(slopes, layers, strict=True)]
    dense = [w.clone() for w in layers]
    found: dict[float, dict[str, float]] = {}
    for sparsity in sparsities:
        budgets = {
            "equal budgets": schedule.allocate(shapes, sparsity=sparsity),
            "ECoFLaP": shares(shapes, sparsity, importance),
        }
        for name, counts in budgets.items():
            budget = schedule.nnz(sum(w.numel() for w in layers), sparsity)
            claim(sum(counts) == budget, f"the budget is met: {sum(counts)}, {budget}")
            within = all(k <= cap for k, cap in zip(counts, caps_of(shapes), strict=True))
            claim(name == "equal budgets" or within, f"no layer is beyond its cap: {counts}")
            for w, whole, score, k in zip(layers, dense, scores, counts, strict=True):
                w.copy_(whole).mul_(prune.topk_mask(score, k))
            claim(nnz(net) == counts, "each layer has its count")
            found.setdefault(sparsity, {})[name] = digits.accuracy(sparse(net), data)
    return found


def caps_of(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Cap what a layer may keep at eight weights of ten, which is reached at 70 %."""
    return [int(0.8 * outputs * inputs) for outputs, inputs in shapes]


def shares(
    shapes: Sequence[tuple[int, ...]], sparsity: float, importance: Sequence[float]
) -> list[int]:
    """Divide the budget by importance, no layer beyond its cap."""
    return schedule.allocate(
        shapes,
        sparsity=sparsity,
        method="proportional",
        scores=importance,
        caps=caps_of(shapes),
    )


def support_map(rng: np.random.Generator) -> np.ndarray:
    """Draw a map of what matters, in clusters of 8 x 8."""
    return np.kron(rng.random((32, 32)) < 0.1, np.ones((8, 8), bool))


def clusters() -> dict[str, Any]:
    """Select single weights and 4 x 4 blocks of a score whose support comes in clusters."""
    rng = np.random.default_rng(0)
    support = support_map(rng)
    scale = np.where(support, 1, 0.05).astype(np.float32)
    w = rng.standard_normal(support.shape, np.float32) * scale
    k = 16 * (int(support.sum()) // 16)
    single = gossamer.CSR.from_dense(w, prune.topk_mask(prune.score(w), k))
    mask = prune.block_mask(prune.score(w), k // 16, (4, 4))
    blocks = gossamer.BSR.from_dense(w, (4, 4), mask)
    claim(blocks.nnz == single.nnz == k, "as many weights either way")
    x = rng.standard_normal((7, w.shape[1]), np.float32)
    off = float(np.abs(gossamer.linear(x, blocks) - x @ np.where(mask, w, 0).T).max())
    claim(off < 1e-3, f"blocks put out what the masked weights do, off by {off:.1e}")
    kept_of = [
        float(np.square(m).sum() / np.square(w).sum()) for m in (single.values, blocks.blocks)
    ]
    index = [m.indices.size + m.indptr.size for m in (single, blocks)]
    claim(index[0] >= 4 * index[1], f"blocks need a quarter of the indices or less: {index}")
    claim(kept_of[1] > 0.95 * kept_of[0], f"blocks keep what matters: {kept_of}")
    return {"indices": {"single": index[0], "blocks": index[1]}, "squares kept": kept_of[1]}


def small_width(weights: int) -> int:
    """Return how many hidden units a dense network has that is as large as the 2 % that stay."""
    return weights // 50 // (64 + 10)


def gradual() -> dict[str, Any]:
    """Train dense, pruned and small networks and compare them."""
    data = digits.load()
    sizes = [w.numel() for w in digits.weights(digits.mlp(WIDTHS, 0))]
    small = (64, small_width(sum(sizes)), 10)
    found: dict[str, list[float]] = {}

    def note(name: str, net: torch.nn.Sequential) -> None:
        found.setdefault(name, []).append(digits.accuracy(sparse(net), data))

    for seed in range(SEEDS):
        dense = digits.mlp(WIDTHS, seed)
        digits.train(dense, data, epochs=LONG, lr=2e-3)
        note("dense", dense)
        for sparsity in (0.9, 0.98):
            net, seen = train_gradually(data, sparsity, seed)
            claim(
                seen == sorted(seen) and seen[-1] == sparsity, f"the schedule rises to {sparsity}"
            )
            expected = [n - round(sparsity * n) for n in sizes]
            claim(nnz(net) == expected, f"each count is exact: {nnz(net)}, {expected}")
            note(f"{sparsity:.0%} zeros", net)
        net, _ = train_gradually(data, 0.98, seed, whole=True)
        whole = schedule.nnz(sum(sizes), 0.98)
        claim(sum(nnz(net)) == whole, f"the count of all layers is exact: {sum(nnz(net))}, {whole}")
        note("98% zeros, one budget", net)
        little = digits.mlp(small, seed)
        few = sum(w.numel() for w in digits.weights(little))
        claim(0 <= whole - few < 64 + 10, f"a small network of as many weights: {few}, {whole}")
        digits.train(little, data, epochs=LONG, lr=2e-3)
        note("small dense", little)
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    for name in ("98% zeros", "98% zeros, one budget"):
        claim(mean[name] > mean["small dense"] + 0.04, f"large and sparse beats small: {mean}")
        each = zip(found[name], found["small dense"], strict=True)
        claim(all(a > b for a, b in each), f"large and sparse beats small, each seed: {found}")
    claim(mean["90% zeros"] > mean["dense"] - 0.02, f"90 % costs at most two points: {mean}")
    return {"accuracy": mean}


def shrinking() -> dict[str, Any]:
    """Compare soft masks with hard ones at 98 %."""
    data = digits.load()
    found = {
        factor: float(np.mean([shrunk(data, 0.98, factor, seed) for seed in range(SEEDS)]))
        for factor in (0.0, 0.5, 0.9)
    }
    claim(found[0.5] > found[0.0], f"soft beats hard where little is left: {found}")
    claim(found[0.9] > found[0.0] + 0.03, f"the softer one by much: {found}")
    return {"accuracy by factor": found}


def soups() -> dict[str, Any]:
    """Average networks of one mask at 80 %."""
    data = digits.load()
    runs = [soup(data, 0.8, seed) for seed in range(SEEDS)]
    mean = {key: float(np.mean([one[key] for one in runs])) for key in runs[0]}
    claim(mean["soup"] > mean["members"] - 0.005, f"a soup is as good as its members: {mean}")
    return mean


def activity() -> dict[str, Any]:
    """Measure how selective ReLUs are as weights go; pixels have mean 0."""
    x, x_test, y, y_test = digits.load()
    data = (x - x.mean(0), x_test - x.mean(0), y, y_test)
    found: dict[str, float] = {}
    for sparsity in (0.0, 0.5, 0.8, 0.9, 0.95, 0.98):
        nets = [train_gradually(data, sparsity, seed, epochs=15)[0] for seed in range(SEEDS)]
        found[f"{sparsity:.0%}"] = float(np.mean([dynamic_rate(net, data) for net in nets]))
    rates = list(found.values())
    falls = all(b < a - 0.01 for a, b in itertools.pairwise(rates))
    claim(falls, f"activity is less selective as weights go: {found}")
    claim(rates[-1] < 0.3 * rates[0], f"at 98 % by much: {found}")
    return {"dynamic rate": found}


def budgets() -> dict[str, Any]:
    """Prune four layers in one shot, with equal budgets and with ECoFLaP's."""
    data = digits.load()
    sparsities = (0.7, 0.8, 0.9)
    shots = [one_shot(data, sparsities, seed) for seed in range(SEEDS)]
    found: dict[str, dict[str, float]] = {}
    for sparsity in sparsities:
        rows = [shot[sparsity] for shot in shots]
        found[f"{sparsity:.0%}"] = {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
    for sparsity, row in found.items():
        gain = row["ECoFLaP"] - row["equal budgets"]
        claim(gain > 0.03, f"importance beats equal budgets at {sparsity}: {row}")
    return found


_ALL = (gradual, shrinking, soups, activity, budgets, clusters)
PAPERS = {paper.__name__: paper for paper in _ALL}
main = functools.partial(run, PAPERS, "Pruning while training.")

if __name__ == "__main__":
    main()
