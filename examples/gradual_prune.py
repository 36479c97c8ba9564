"""Prune a network gradually while it trains, to fewer weights than a small dense one needs.

Zhu and Gupta (2017): the sparsity of each layer follows a cubic schedule, and every few steps the
weights of least magnitude go. The script asserts that every count is exact, that 90 % sparsity
costs at most 2 points of accuracy, and that a network pruned to 98 % beats a dense one with as
many weights. It prunes by layer, and once more with one budget for the whole network. Then:

    shrinking   ISS-P: at each step the weights out of the mask shrink by a factor instead of going;
                at 98 % that beats the hard mask, a factor of 0
    soups       copies retrained under one mask are averaged: the pattern stays; under masks of
                their own the average is nearly twice as dense
    activity    the share of ReLU outputs that are off for some samples but not for all falls as
                weights go, which AP (selective activation) makes use of
    budgets     one shot at 80 %, by Wanda in each layer: with ECoFLaP's budgets, which go by how
                the loss changes along random directions, more is left than with equal ones
    clusters    where what matters lies together, blocks keep it with a sixteenth of the indices

    pip install "gossamer[examples]"
    python examples/gradual_prune.py        # about half a minute
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import digits
import gossamer
import numpy as np
import torch
from gossamer import prune, schedule

WIDTHS = (64, 256, 10)
EPOCHS = 30
SEEDS = 3
EVERY = 10  # steps between two prunings


def gradual(
    data: digits.Split, sparsity: float, seed: int, *, whole: bool = False
) -> tuple[torch.nn.Sequential, list[float]]:
    """Train with a rising sparsity; return the network and the sparsities on the way."""
    net = digits.mlp(WIDTHS, seed)
    layers = digits.weights(net)
    masks = [torch.ones_like(w, dtype=torch.bool) for w in layers]
    end = 2 * digits.steps_of(data, EPOCHS) // 3
    seen: list[float] = []

    def after_step(step: int) -> None:
        if step % EVERY == 0 and step <= end + EVERY:
            seen.append(schedule.cubic(step, end=end, final=sparsity))
            if whole:
                k = schedule.nnz(sum(w.numel() for w in layers), seen[-1])
                masks[:] = prune.topk_mask([prune.score(w) for w in layers], k)
            else:
                for w, mask in zip(layers, masks, strict=True):
                    prune.topk_mask(prune.score(w), schedule.nnz(w.numel(), seen[-1]), out=mask)
        for w, mask in zip(layers, masks, strict=True):
            w.mul_(mask)

    digits.train(net, data, epochs=EPOCHS, lr=2e-3, after_step=after_step)
    return net, seen


def nnz(net: torch.nn.Sequential) -> list[int]:
    """Count the weights of each layer that are not zero."""
    return [int(prune.nnz_stats(w)) for w in digits.weights(net)]


def shrunk(data: digits.Split, sparsity: float, factor: float, seed: int) -> float:
    """Shrink what is out of the mask at each step, freeze the mask late; return the accuracy."""
    net = digits.mlp(WIDTHS, seed)
    layers = digits.weights(net)
    counts = [schedule.nnz(w.numel(), sparsity) for w in layers]
    frozen_at = 3 * digits.steps_of(data, EPOCHS) // 4
    masks: list[torch.Tensor] = []

    def after_step(step: int) -> None:
        if step <= frozen_at:
            masks[:] = [
                prune.topk_mask(prune.score(w), k) for w, k in zip(layers, counts, strict=True)
            ]
        for w, mask in zip(layers, masks, strict=True):
            prune.shrink_(w, mask, factor=factor if step < frozen_at else 0.0)

    digits.train(net, data, epochs=EPOCHS, lr=2e-3, after_step=after_step)
    assert nnz(net) == counts, "the final counts are exact"
    for w, mask in zip(layers, masks, strict=True):
        assert not w[~mask].any(), "the mask has been frozen"
    return digits.accuracy(net, data)


def soup(data: digits.Split, sparsity: float, seed: int) -> dict[str, float]:
    """Prune a dense network, retrain copies under its mask and average them."""
    dense = digits.mlp(WIDTHS, seed)
    digits.train(dense, data, epochs=EPOCHS // 2, lr=2e-3)
    counts = [schedule.nnz(w.numel(), sparsity) for w in digits.weights(dense)]
    shared = [
        prune.topk_mask(prune.score(w), k)
        for w, k in zip(digits.weights(dense), counts, strict=True)
    ]

    def retrained(copy: int, masks: Sequence[torch.Tensor]) -> torch.nn.Sequential:
        net = digits.mlp(WIDTHS, 100 * seed + copy)  # seeds the order of the samples, too
        net.load_state_dict(dense.state_dict())

        def after_step(step: int) -> None:
            for w, mask in zip(digits.weights(net), masks, strict=True):
                w.mul_(mask)

        digits.train(net, data, epochs=EPOCHS // 3, lr=2e-3, after_step=after_step)
        return net

    members = [retrained(copy, shared) for copy in range(3)]
    average = digits.mlp(WIDTHS, seed)
    states = [net.state_dict() for net in members]
    average.load_state_dict({key: sum(s[key] for s in states) / len(states) for key in states[0]})
    for at, (w, mask) in enumerate(zip(digits.weights(average), shared, strict=True)):
        # The weights again, as the library averages them: over the entries of the mask alone.
        copies = [
            gossamer.CSR.from_dense(digits.weights(net)[at].numpy(), mask.numpy())
            for net in members
        ]
        mean = prune.mean_same_pattern(copies)
        np.testing.assert_allclose(mean.to_dense(), w.numpy(), atol=1e-6)
        assert not w[~mask].any() and mean.nnz == counts[at], "the soup has its members' pattern"
    others = [
        prune.random_mask(w, k, seed=seed, step=copy)
        for copy in range(2)
        for w, k in zip(shared, counts, strict=True)
    ]
    joined = sum(
        int((a | b).sum())
        for a, b in zip(others[: len(shared)], others[len(shared) :], strict=True)
    )
    return {
        "members": sum(digits.accuracy(net, data) for net in members) / len(members),
        "soup": digits.accuracy(average, data),
        "density": sum(nnz(average)) / sum(w.numel() for w in shared),
        "density of two masks": joined / sum(w.numel() for w in shared),
    }


@torch.inference_mode()
def dynamic_rate(net: torch.nn.Sequential, data: digits.Split) -> float:
    """Return the share of ReLU outputs that are off, less that of the units that are always off."""
    hidden = net[1](net[0](data[1]))
    fired = torch.zeros(hidden.shape[1], dtype=torch.bool)
    for batch in hidden.split(64):
        _, alive = prune.coverage_or_(fired, (batch > 0).any(0))
    dead = sum(all(float(h[unit]) == 0 for h in hidden) for unit in range(hidden.shape[1]))
    assert alive == hidden.shape[1] - dead, "the meter agrees with a loop"
    off = 1 - int(prune.nnz_stats(hidden)) / hidden.numel()
    return off - dead / hidden.shape[1]


def one_shot(data: digits.Split, sparsity: float, seed: int) -> dict[str, float]:
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
    budgets = {
        "equal budgets": schedule.allocate(shapes, sparsity=sparsity),
        "ECoFLaP": schedule.allocate(
            shapes, sparsity=sparsity, method="proportional", scores=importance
        ),
    }
    dense, found = [w.clone() for w in layers], {}
    for name, counts in budgets.items():
        assert sum(counts) == schedule.nnz(sum(w.numel() for w in layers), sparsity)
        for w, whole, score, k in zip(layers, dense, scores, counts, strict=True):
            w.copy_(whole).mul_(prune.topk_mask(score, k))
        assert nnz(net) == counts, "each budget is met"
        found[name] = digits.accuracy(net, data)
    return found


def clusters(seed: int) -> dict[str, float]:
    """Select single weights and 4 x 4 blocks of a score whose support comes in clusters."""
    rng = np.random.default_rng(seed)
    support = np.kron(rng.random((32, 32)) < 0.1, np.ones((8, 8), bool))
    w = rng.standard_normal(support.shape, np.float32) * np.where(support, 1, 0.05).astype(
        np.float32
    )
    k = 16 * (int(support.sum()) // 16)
    single = gossamer.CSR.from_dense(w, prune.topk_mask(prune.score(w), k))
    mask = prune.block_mask(prune.score(w), k // 16, (4, 4))
    blocks = gossamer.BSR.from_dense(w, (4, 4), mask)
    assert blocks.nnz == single.nnz == k, "as many weights either way"
    x = rng.standard_normal((7, w.shape[1]), np.float32)
    np.testing.assert_allclose(gossamer.linear(x, blocks), x @ (w * mask).T, atol=1e-3)
    kept = [float(np.square(m).sum() / np.square(w).sum()) for m in (single.values, blocks.blocks)]
    return {"indices": single.nnz / blocks.nblocks, "single": kept[0], "blocks": kept[1]}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train dense, pruned and small networks, compare them, and return what was printed."""
    argparse.ArgumentParser(description="Gradual magnitude pruning.").parse_args(argv)
    data = digits.load()
    sizes = [w.numel() for w in digits.weights(digits.mlp(WIDTHS, 0))]
    found: dict[str, list[float]] = {}

    def note(name: str, net: torch.nn.Sequential) -> None:
        found.setdefault(name, []).append(digits.accuracy(net, data))

    small = (64, round(0.02 * sum(sizes) / (64 + 10)), 10)
    for seed in range(SEEDS):
        dense = digits.mlp(WIDTHS, seed)
        digits.train(dense, data, epochs=EPOCHS, lr=2e-3)
        note("dense", dense)
        measured = [dense]
        for sparsity in (0.9, 0.98):
            net, seen = gradual(data, sparsity, seed)
            assert seen == sorted(seen) and seen[-1] == sparsity, "the schedule rises to its end"
            assert nnz(net) == [schedule.nnz(n, sparsity) for n in sizes], "each count is exact"
            note(f"{sparsity:.0%} zeros, by layer", net)
            measured.append(net)
        rates = [dynamic_rate(net, data) for net in measured]
        net, _ = gradual(data, 0.98, seed, whole=True)
        assert sum(nnz(net)) == schedule.nnz(sum(sizes), 0.98), "the whole count is exact"
        note("98% zeros, one budget", net)
        little = digits.mlp(small, seed)
        digits.train(little, data, epochs=EPOCHS, lr=2e-3)
        note("dense, as many weights as at 98%", little)

    mean = {name: sum(values) / len(values) for name, values in found.items()}
    counts = {
        "dense": sum(sizes),
        "90% zeros, by layer": sum(schedule.nnz(n, 0.9) for n in sizes),
        "98% zeros, by layer": sum(schedule.nnz(n, 0.98) for n in sizes),
        "98% zeros, one budget": schedule.nnz(sum(sizes), 0.98),
        "dense, as many weights as at 98%": sum(w.numel() for w in digits.weights(little)),
    }
    print(f"MLP {' - '.join(map(str, WIDTHS))} on digits, mean of {SEEDS} seeds\n")
    for name, value in mean.items():
        print(f"accuracy {value:.1%}   {counts[name]:>6} weights   {name}")
    assert mean["90% zeros, by layer"] > mean["dense"] - 0.02
    assert mean["98% zeros, by layer"] > mean["dense, as many weights as at 98%"] + 0.04

    print("\nat each step the weights out of a 98 % mask shrink by a factor of")
    factors = {f: sum(shrunk(data, 0.98, f, seed) for seed in range(2)) / 2 for f in (0, 0.5, 0.9)}
    print("".join(f"{f:>8}: {value:.1%}" for f, value in factors.items()))
    assert max(factors[0.5], factors[0.9]) > factors[0], "soft beats hard where little is left"

    soups = [soup(data, 0.9, seed) for seed in range(2)]
    stirred = {key: sum(s[key] for s in soups) / len(soups) for key in soups[0]}
    print(f"\nsoup of 3 at 90 %: {stirred['soup']:.1%}, its members {stirred['members']:.1%}")
    print(
        f"density {stirred['density']:.3f}; of the average of two networks with masks of their own "
        f"{stirred['density of two masks']:.3f}"
    )
    assert stirred["soup"] > stirred["members"] - 0.005
    assert stirred["density of two masks"] > 1.8 * stirred["density"]

    print("\nReLU outputs off for some samples: " + ", ".join(f"{r:.3f}" for r in rates))
    assert rates == sorted(rates, reverse=True), "activity gets less selective as weights go"

    shots = [one_shot(data, 0.8, seed) for seed in range(3)]
    shot = {name: sum(s[name] for s in shots) / len(shots) for name in shots[0]}
    print("\none shot at 80 %: " + ", ".join(f"{name} {a:.1%}" for name, a in shot.items()))
    assert shot["ECoFLaP"] > shot["equal budgets"]

    grouped = clusters(0)
    print(
        f"\nclustered weights in 4 x 4 blocks: {grouped['indices']:.0f} times fewer indices, "
        f"{grouped['blocks']:.1%} of the squares; one by one {grouped['single']:.1%}"
    )
    assert grouped["indices"] >= 4
    assert grouped["blocks"] > 0.95 * grouped["single"]
    return {
        "accuracy": mean,
        "weights": counts,
        "shrinking": {str(f): value for f, value in factors.items()},
        "soup": stirred,
        "dynamic": rates,
        "one shot": shot,
        "clusters": grouped,
    }


if __name__ == "__main__":
    main()
