"""Train N:M-sparse networks: of each M consecutive weights of a row, the N largest count.

    decay  Progressive gradient flow (Bambhaniya et al., 2024): masked weights fade (MdGf), or the
           pattern tightens from M−1:M to N:M (SdGf); beside SR-STE (Zhou et al., 2021), which pulls
           what is masked to zero. Patterns and packed products are asserted, accuracies printed
    bdwp   BDWP (Fang et al., 2023): masks along the inputs for the product forward and along the
           outputs for the one backward; at 2:8 within a point of dense

BDWP trains by N:M products in both directions. The other methods, whose masked weights fade or
still learn, train with masked dense weights. What comes out is packed, and tested so.

    pip install "gossamer[examples]"
    python examples/nm_training.py         # both, about twenty seconds
    python examples/nm_training.py bdwp    # one
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import digits
import gossamer
import numpy as np
import torch
from claims import claim, run
from gossamer import prune, schedule

WIDTHS = (64, 256, 256, 10)
EPOCHS = 12
PATTERNS = ((2, 4), (2, 8), (1, 8), (1, 16))
METHODS = ("SR-STE", "mask decay", "structure decay")


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
    """y = x·(W∘ahead)ᵀ and dx = dy·(W∘back), both N:M products; dW as if there were no masks."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, masks: tuple[torch.Tensor, torch.Tensor], m: int
    ) -> torch.Tensor:
        """Multiply by what is kept along the inputs."""
        ctx.save_for_backward(x, w)
        (ahead, back), w = masks, w.detach()
        n = int(ahead[0, :m].sum())
        ctx.back = gossamer.NM.from_dense(w, n, m, axis=0, mask=back)
        return gossamer.linear(x.detach(), gossamer.NM.from_dense(w, n, m, mask=ahead))

    @staticmethod
    def backward(
        ctx: Any, dy: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor, None, None]:
        """Multiply by what is kept along the outputs."""
        dx = None
        if ctx.needs_input_grad[0]:
            dx = gossamer.spmm(ctx.back, dy.T.contiguous(), transpose_a=True).T
        return dx, dy.T @ ctx.saved_tensors[0], None, None


class BothWaysLinear(torch.nn.Linear):
    """A layer with an N:M mask for each direction."""

    def choose(self) -> None:
        """Mask anew."""
        w = prune.score(self.weight.detach())
        self.mask = prune.nm_mask(w, self.n, self.m)
        self.other = prune.nm_mask(w, self.n, self.m, axis=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mask anew and multiply."""
        self.choose()
        return BothWays.apply(x, self.weight, (self.mask, self.other), self.m) + self.bias


class NMLinear(torch.nn.Linear):
    """A layer whose product sees w·(m + (1 − m)·β), with an N:M mask m of |w|."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mask anew and multiply."""
        w = self.weight.detach()
        self.mask = prune.nm_mask(prune.score(w), self.n, self.m)
        factor = prune.shrink_(torch.ones_like(w), self.mask, factor=self.beta)
        return torch.nn.functional.linear(x, Masked.apply(self.weight, factor), self.bias)


def stages_of(n: int, m: int) -> list[int]:
    """List the counts that SdGf goes through."""
    return schedule.one_to_n(m, n=n)


def halving(n: int, m: int) -> list[int]:
    """List what the paper says those are: M−1, then M/2, M/4, ... and N."""
    return [m - 1, *(m >> i for i in range(1, m) if m >> i > n), n]


def fade(step: int, end: int) -> float:
    """Return what is left of masked weights in MdGf."""
    return schedule.linear(step, end=end, initial=1.0, final=0.0)


def train(data: digits.Split, n: int, m: int, method: str, seed: int) -> torch.nn.Sequential:
    """Train with one method; the last layer stays dense, as is usual."""
    net = digits.mlp(WIDTHS, seed)
    layers = [layer for layer in net if isinstance(layer, torch.nn.Linear)][:-1]
    for layer in layers:
        layer.__class__ = BothWaysLinear if method == "BDWP" else NMLinear
        layer.n, layer.m, layer.beta = n, m, 0.0
    steps = digits.steps_of(data, EPOCHS)
    end = 2 * steps // 3
    stages = stages_of(n, m)
    counts: list[int] = []

    def before_step(step: int) -> None:
        count = int(layers[0].mask[0, :m].sum())
        if not counts or counts[-1] != count:
            counts.append(count)
        for layer in layers:
            if method == "SR-STE":
                prune.srste_grad_(layer.weight.grad, layer.weight.detach(), layer.mask, decay=2e-3)
            elif method == "mask decay":
                layer.beta = fade(step + 1, end)
            elif method == "structure decay":
                layer.n = stages[min(len(stages) - 1, (step + 1) * len(stages) // end)]

    if method == "structure decay":
        for layer in layers:
            layer.n = stages[0]
    digits.train(net, data, epochs=EPOCHS, lr=2e-3, before_step=before_step)
    wanted = halving(n, m) if method == "structure decay" else [n]
    claim(counts == wanted, f"{method} goes through {wanted} of {m}: {counts}")
    for layer in layers:
        claim(layer.beta == 0.0, f"no masked weight is left of {method}: {layer.beta}")
        finish(layer, n, m)
    return net


def finish(layer: Any, n: int, m: int) -> None:
    """Mask the weights for good; compare the packed layer with the masked one."""
    w = layer.weight.data
    mask = prune.nm_mask(prune.score(w), n, m)
    w.mul_(mask)
    groups = prune.nnz_stats(w, per=(1, m))
    claim(bool((groups == n).all()), f"exactly {n} of each {m}")
    layer.__class__ = torch.nn.Linear
    csr = gossamer.CSR.from_dense(w)
    for axis, form in ((1, w), (0, w.T.contiguous())):
        pattern = gossamer.NM.from_dense(form, n, m, axis=axis)
        claim(torch.equal(pattern.to_dense(), form), f"packed along axis {axis} and back")
    single = gossamer.pack(csr)
    x = torch.rand(17, w.shape[1])
    off = max(
        float((gossamer.linear(x, sparse) - x @ w.T).abs().max())
        for sparse in (single, gossamer.NM.from_dense(w, n, m))
    )
    claim(off < 1e-4 and single.nnz == w.numel() * n // m, f"packed weights are off by {off:.1e}")


@torch.inference_mode()
def packed(net: torch.nn.Sequential, n: int, m: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Run the network on N:M weights; the last layer is dense."""
    *hidden, last = (layer for layer in net if isinstance(layer, torch.nn.Linear))
    weights = [gossamer.NM.from_dense(layer.weight.data, n, m) for layer in hidden]

    def forward(x: torch.Tensor) -> torch.Tensor:
        for layer, w in zip(hidden, weights, strict=True):
            x = gossamer.linear(x, w, bias=layer.bias.data, activation="relu")
        return last(x)

    return forward


def decay() -> dict[str, Any]:
    """Train every pattern with every method; tell the accuracies."""
    data = digits.load()
    found: dict[str, dict[str, float]] = {}
    for n, m in PATTERNS:
        nets = {name: train(data, n, m, name, 0) for name in METHODS}
        row = {name: digits.accuracy(packed(net, n, m), data) for name, net in nets.items()}
        claim(min(row.values()) > 0.8, f"each method learns at {n}:{m}: {row}")
        found[f"{n}:{m}"] = row
    return {"accuracy": found}


def products_off(layer: Any, x: torch.Tensor) -> tuple[float, float]:
    """Compare a BDWP layer's output and input gradient with products of masked dense weights."""
    x = x.clone().requires_grad_()
    y = layer(x)
    dy = torch.rand_like(y)
    y.backward(dy)
    w = layer.weight.detach()
    expected = x.detach() @ (w * layer.mask).T + layer.bias.detach()
    gradient = dy @ (w * layer.other)
    return float((y.detach() - expected).abs().max()), float((x.grad - gradient).abs().max())


def bdwp() -> dict[str, Any]:
    """Train at 2:8 in both directions, and count multiplications."""
    data = digits.load()
    found: dict[str, list[float]] = {"dense": [], "BDWP 2:8": []}
    layer = BothWaysLinear(64, 256)
    layer.n, layer.m = 2, 8
    layer.choose()
    for mask, axis in ((layer.mask, -1), (layer.other, 0)):
        claim(prune.check_nm(mask, 2, 8, axis=axis)[0] == 0, f"two of eight along axis {axis}")
    y_off, dx_off = products_off(layer, data[1][:33])
    claim(y_off < 1e-4, f"the N:M product forward is the masked dense one, off by {y_off:.1e}")
    claim(dx_off < 1e-4, f"so is the one backward, of another mask, off by {dx_off:.1e}")
    for seed in range(3):
        net = packed(train(data, 2, 8, "BDWP", seed), 2, 8)
        found["BDWP 2:8"].append(digits.accuracy(net, data))
        dense = digits.mlp(WIDTHS, seed)
        digits.train(dense, data, epochs=EPOCHS, lr=2e-3)
        found["dense"].append(digits.accuracy(dense, data))
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    claim(mean["BDWP 2:8"] > mean["dense"] - 0.01, f"2:8 both ways costs a point at most: {mean}")
    kept = int(prune.nnz_stats(layer.mask)) + int(prune.nnz_stats(layer.other)) + layer.mask.numel()
    return {"accuracy": mean, "multiplications of three products": kept / (3 * layer.mask.numel())}


PAPERS = {paper.__name__: paper for paper in (decay, bdwp)}
main = functools.partial(run, PAPERS, "N:M training.")

if __name__ == "__main__":
    main()
