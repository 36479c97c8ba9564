"""Prune a network gradually while it trains, to fewer weights than a small dense one needs.

Zhu and Gupta (2017): the sparsity of each layer follows a cubic schedule, and every few steps the
weights of least magnitude go. The script asserts that every count is exact, that 90 % sparsity
costs at most 2 points of accuracy, and that a network pruned to 98 % beats a dense one with as
many weights. It prunes by layer, and once more with one budget for the whole network.

    pip install "gossamer[examples]"
    python examples/gradual_prune.py        # about fifteen seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import digits
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
    return [int(w.count_nonzero()) for w in digits.weights(net)]


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
        for sparsity in (0.9, 0.98):
            net, seen = gradual(data, sparsity, seed)
            assert seen == sorted(seen) and seen[-1] == sparsity, "the schedule rises to its end"
            assert nnz(net) == [schedule.nnz(n, sparsity) for n in sizes], "each count is exact"
            note(f"{sparsity:.0%} zeros, by layer", net)
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
    return {"accuracy": mean, "weights": counts}


if __name__ == "__main__":
    main()
