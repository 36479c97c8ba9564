"""Train N:M-sparse networks with SR-STE, with mask decay and with an N:M pattern that tightens.

Of each M consecutive weights of a row the N of largest magnitude count. SR-STE (Zhou et al., 2021)
sends the gradient of the masked weights to the dense ones and pulls those that are masked to zero.
Mask decay (MdGf) lets masked weights fade instead, and SdGf tightens M−1:M, …, N:M step by step
(Bambhaniya et al., 2024). BDWP (Fang et al., 2023) masks the weights along their inputs for the
product forward and along their outputs for the one backward. Products are dense ones with masked
weights. The script asserts the patterns, that the decay has ended at zero, that each method learns,
that BDWP at 2:8 costs next to nothing, and that the pruned layers packed by gossamer put out what
the masked dense ones do.

    pip install "gossamer[examples]"
    python examples/nm_training.py        # about twenty seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import digits
import gossamer
import torch
from gossamer import prune, schedule

WIDTHS = (64, 256, 256, 10)
EPOCHS = 12
PATTERNS = ((2, 4), (2, 8), (1, 8), (1, 16))
METHODS = ("SR-STE", "mask decay", "structure decay", "BDWP")


class Masked(torch.autograd.Function):
    """W times a factor forward; the gradient of the product as that of W: straight through."""

    @staticmethod
    def forward(ctx: Any, w: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return w * factor

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Pass the gradient on."""
        return grad, None


class BothWays(torch.autograd.Function):
    """y = x·(W∘forward)ᵀ; the gradient of x by W∘backward, that of W as if there were no masks."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, forward: torch.Tensor, backward: torch.Tensor
    ) -> torch.Tensor:
        """Multiply by what is kept along the inputs."""
        ctx.save_for_backward(x, w * backward)
        return x @ (w * forward).T

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        """Multiply by what is kept along the outputs."""
        x, w = ctx.saved_tensors
        return dy @ w, dy.T @ x, None, None


class BothWaysLinear(torch.nn.Linear):
    """A layer with an N:M mask for each direction."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mask anew and multiply."""
        w = prune.score(self.weight.detach())
        self.mask = prune.nm_mask(w, self.n, self.m)
        self.other = prune.nm_mask(w, self.n, self.m, axis=0)
        return BothWays.apply(x, self.weight, self.mask, self.other) + self.bias


class NMLinear(torch.nn.Linear):
    """A layer whose product sees w·(m + (1 − m)·β), with an N:M mask m of |w|."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mask anew and multiply."""
        w = self.weight.detach()
        self.mask = prune.nm_mask(prune.score(w), self.n, self.m)
        factor = prune.shrink_(torch.ones_like(w), self.mask, factor=self.beta)
        return torch.nn.functional.linear(x, Masked.apply(self.weight, factor), self.bias)


def train(data: digits.Split, n: int, m: int, method: str, seed: int) -> torch.nn.Sequential:
    """Train with one method; the last layer stays dense, as is usual."""
    net = digits.mlp(WIDTHS, seed)
    layers = [layer for layer in net if isinstance(layer, torch.nn.Linear)][:-1]
    for layer in layers:
        layer.__class__ = BothWaysLinear if method == "BDWP" else NMLinear
        layer.n, layer.m, layer.beta = n, m, 0.0
    steps = digits.steps_of(data, EPOCHS)
    end = 2 * steps // 3
    stages = schedule.one_to_n(m, n=n)

    def before_step(step: int) -> None:
        for layer in layers:
            if method == "SR-STE":
                prune.srste_grad_(layer.weight.grad, layer.weight.detach(), layer.mask, decay=2e-3)
            elif method == "mask decay":
                layer.beta = schedule.linear(step + 1, end=end, initial=1.0, final=0.0)
            elif method == "structure decay":
                layer.n = stages[min(len(stages) - 1, (step + 1) * len(stages) // end)]

    digits.train(net, data, epochs=EPOCHS, lr=2e-3, before_step=before_step)
    for layer in layers:
        assert layer.beta == 0.0 and layer.n == n, "the decay has ended"
        if method == "BDWP":
            assert prune.check_nm(layer.other, n, m, axis=0)[0] == 0, "n of each m outputs"
        w = layer.weight.data
        mask = prune.nm_mask(prune.score(w), n, m)
        w.mul_(mask)
        assert int(mask.sum()) == w.numel() * n // m, "exactly n of each m"
        assert prune.check_nm(w, n, m)[0] == 0, "no group has more than n"
        layer.__class__ = torch.nn.Linear
        packed = gossamer.pack(gossamer.CSR.from_dense(w, mask))
        x = torch.rand(16, w.shape[1])
        same = torch.allclose(gossamer.linear(x, packed), x @ w.T, atol=1e-4)
        assert same and packed.nnz == w.numel() * n // m, "packed weights multiply alike"
    return net


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train every pattern with every method; print and return the accuracies."""
    parser = argparse.ArgumentParser(description="N:M training.")
    parser.add_argument("--seeds", type=int, default=2)
    seeds = range(parser.parse_args(argv).seeds)
    data = digits.load()

    dense = digits.mlp(WIDTHS, 0)
    digits.train(dense, data, epochs=EPOCHS, lr=2e-3)
    base = digits.accuracy(dense, data)
    print(f"accuracy on digits; dense {base:.1%}\n")
    print("pattern " + "".join(f"{name:>17}" for name in METHODS))
    found: dict[str, dict[str, float]] = {}
    for n, m in PATTERNS:
        # BDWP is shown where its authors used it.
        methods = METHODS if (n, m) == (2, 8) else METHODS[:-1]
        row = {
            method: sum(digits.accuracy(train(data, n, m, method, s), data) for s in seeds)
            / len(seeds)
            for method in methods
        }
        found[f"{n}:{m}"] = row
        print(f"{n}:{m:<6}" + "".join(f"{value:>17.1%}" for value in row.values()))
        for method, value in row.items():
            assert value > 0.8, f"{method} learns at {n}:{m}"
    assert found["2:4"]["SR-STE"] > base - 0.03, "2:4 costs little"
    assert found["2:8"]["BDWP"] > base - 0.02, "2:8 in both directions costs little"
    return {"dense": base, "accuracy": found}


if __name__ == "__main__":
    main()
