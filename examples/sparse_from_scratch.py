"""Train networks that are sparse from the first step to the last: no dense weight ever exists.

Weights are CSR matrices. A layer's output is `gossamer.linear`, the gradient of its input is
`spmm(transpose_a=True)` and that of its values is `sddmm`; NumPy does the rest. The script trains
static random networks at several widths with ERK and uniform layer densities (Liu et al., 2022),
and moves the connections while training by SET (random growth, Mocanu et al., 2018) and RigL
(growth by gradient, Evci et al., 2020) with `csr_drop_grow_`. It asserts that budgets are exact,
that every update keeps the count, that new entries and their optimizer state start at zero, and
that moving beats standing still at 5 %. Then, briefly:

    search      the best of eight random masks, chosen on validation digits, is no better on test
                digits than luck explains; a seed gives the same network to the last bit
    widening    Sparse-IFT: a wider, sparser middle layer of as many weights does not do worse
    uncertainty SSVI: means and deviations on one pattern, dropped by the signal-to-noise ratio of
                |w|, whose closed form agrees with samples
    candidates  DASS: a mixture learns to take a sparse layer rather than noise

    pip install "gossamer[examples]"
    python examples/sparse_from_scratch.py        # about half a minute
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import digits
import gossamer
import numpy as np
from gossamer import prune, regrow, schedule

BATCH, EVERY, ALPHA = 64, 25, 0.3  # an update each EVERY steps, of a share ALPHA at first


class Layer:
    """y = x·Wᵀ + b with W in CSR, trained by Adam on its entries."""

    def __init__(
        self, inputs: int, outputs: int, nnz: int, seed: int, forbid: gossamer.CSR | None = None
    ) -> None:
        rng = np.random.default_rng([seed, inputs, outputs])
        # Nothing, on which entries grow at random places.
        rows = np.zeros(outputs + 1, np.int32)
        empty = gossamer.CSR(
            rows, np.empty(0, np.int32), np.empty(0, np.float32), (outputs, inputs)
        )
        room = np.empty(nnz, np.int32), np.empty(nnz, np.float32)
        self.w, _ = regrow.csr_drop_grow_(
            empty, regrow.Random(seed), 0, nnz, forbid=forbid, room=room
        )
        # Variance by the entries that a unit has, not by those that it could have.
        scale = np.sqrt(2.0 * outputs / max(nnz, 1))
        self.w.values[:] = scale * rng.standard_normal(nnz, np.float32)
        self.b = np.zeros(outputs, np.float32)
        self.states = [np.zeros(nnz, np.float32) for _ in range(2)]
        self.b_states = [np.zeros_like(self.b) for _ in range(2)]

    def forward(self, x: np.ndarray, activation: Any = None) -> np.ndarray:
        """Return y, and keep x for the way back."""
        self.x = x
        return gossamer.linear(x, self.w, bias=self.b, activation=activation)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Compute the gradients of the parameters and return that of x."""
        self.dyt = np.ascontiguousarray(dy.T)
        self.grad = gossamer.sddmm(self.dyt, np.ascontiguousarray(self.x.T), self.w)
        self.b_grad = dy.sum(0)
        return gossamer.spmm(self.w, self.dyt, transpose_a=True).T

    def step(self, t: int, lr: float) -> None:
        """Adam, in place."""
        for parameter, g, (m, v) in (
            (self.w.values, self.grad, self.states),
            (self.b, self.b_grad, self.b_states),
        ):
            np.add(m, 0.1 * (g - m), out=m)
            np.add(v, 0.001 * (g * g - v), out=v)
            rate = lr / (1 - 0.9**t)
            np.subtract(parameter, rate * m / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), out=parameter)

    def move(self, method: str, share: float, seed: int, t: int) -> None:
        """Drop a share of the entries and grow as many: the whole of SET and RigL."""
        n = int(share * self.w.nnz)
        # RigL looks at the gradient of all places, at this step only.
        grow = (
            regrow.Random(seed, t)
            if method == "SET"
            else prune.score(self.dyt @ self.x, kind="magnitude")
        )
        before = self.w.nnz
        self.w, src = regrow.csr_drop_grow_(self.w, grow, n, n, states=self.states)
        assert self.w.nnz == before == len(src)
        for array in (self.w.values, *self.states):
            assert not array[src < 0].any(), "what is new starts at zero"


def softmax_gradient(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the gradient of the mean cross-entropy."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p / np.float32(len(y))


def fit(
    x: np.ndarray,
    y: np.ndarray,
    widths: Sequence[int],
    sparsity: float,
    *,
    density: str = "erk",
    method: str = "static",
    epochs: int = 25,
    seed: int = 0,
    counts: Sequence[int] | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Train and return the network, from pixels to logits."""
    pairs = list(itertools.pairwise(widths))
    if counts is None:
        counts = schedule.allocate([(o, i) for i, o in pairs], sparsity=sparsity, method=density)
        exact = schedule.nnz(sum(i * o for i, o in pairs), sparsity)
        assert sum(counts) == exact, "an exact budget"
    layers = [
        Layer(i, o, k, 10 * seed + at)
        for at, ((i, o), k) in enumerate(zip(pairs, counts, strict=True))
    ]
    rng = np.random.default_rng(seed)
    batches = -(-len(x) // BATCH)
    steps, t = epochs * batches, 0

    def forward(x: np.ndarray) -> np.ndarray:
        for layer in layers[:-1]:
            x = layer.forward(x, "relu")
        return layers[-1].forward(x)

    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(x)), batches):
            t += 1
            dy = softmax_gradient(forward(x[rows]), y[rows])
            for layer in reversed(layers):
                dx = layer.backward(dy)
                dy = dx * (layer.x > 0)
            moving = method != "static" and t % EVERY == 0 and t < 3 * steps // 4
            for at, layer in enumerate(layers):
                if moving:
                    share = schedule.cosine(t, end=3 * steps // 4, initial=ALPHA)
                    layer.move(method, share, 10 * seed + at, t)
                else:
                    layer.step(t, 2e-3)
    assert [layer.w.nnz for layer in layers] == list(counts)
    return forward


def accuracy(forward: Callable[[np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of digits that are recognised."""
    return float((forward(x).argmax(1) == y).mean())


def run(data: list[np.ndarray], widths: Sequence[int], sparsity: float, **options: Any) -> float:
    """Train and return the accuracy on the test digits."""
    x, x_test, y, y_test = data
    return accuracy(fit(x, y, widths, sparsity, **options), x_test, y_test)


def search(data: list[np.ndarray]) -> dict[str, float]:
    """Choose among random masks by validation, and compare with all of them on the test digits."""
    x, x_test, y, y_test = data
    train, valid = slice(0, 1000), slice(1000, None)
    nets = [
        fit(x[train], y[train], (64, 256, 10), 0.95, epochs=40, seed=seed)
        for seed in (*range(8), 0)
    ]
    assert nets[0](x_test).tobytes() == nets[8](x_test).tobytes(), "a seed is a network"
    found = [accuracy(net, x_test, y_test) for net in nets[:8]]
    chosen = max(range(8), key=lambda i: accuracy(nets[i], x[valid], y[valid]))
    return {
        "chosen": found[chosen],
        "mean": float(np.mean(found)),
        "sd": float(np.std(found, ddof=1)),
    }


def widen(data: list[np.ndarray], seeds: Sequence[int]) -> dict[float, float]:
    """Make the middle layer wider and sparser, with the 4096 weights of the dense one."""
    found = {}
    for sparsity in (0.0, 0.5, 0.75, 0.9):
        w = schedule.sparse_wide_width(64, sparsity)
        counts = [64 * w, 64 * 64, 10 * w]
        runs = [run(data, (64, w, w, 10), 0.0, counts=counts, epochs=25, seed=s) for s in seeds]
        found[sparsity] = float(np.mean(runs))
    return found


def uncertain() -> float:
    """Move the pattern of means and deviations; return how far the score is from its samples."""
    rng = np.random.default_rng(0)
    mu = gossamer.CSR.from_dense(
        rng.standard_normal((40, 50), np.float32), prune.random_mask((40, 50), 200, seed=1)
    )
    sigma = rng.uniform(0.1, 1.0, 200).astype(np.float32)
    draws = np.abs(mu.values + sigma * rng.standard_normal((100_000, 200), np.float32))
    score = prune.score(mu.values, kind="snr_abs", v=sigma)
    off = float(np.abs(draws.mean(0) / draws.std(0) / score.array() - 1).max())
    for step in range(5):
        before = sigma.copy()
        gradient = rng.standard_normal((40, 50), np.float32)
        ratio = prune.score(mu.values, kind="snr_abs", v=sigma)
        mu, src = regrow.csr_drop_grow_(
            mu, prune.score(gradient), 40, 40, drop_score=ratio, states=[sigma], regrow="forbid"
        )
        assert mu.nnz == len(sigma) == 200 and (src < 0).sum() == 40, "the counts stay"
        assert (sigma[src >= 0] == before[src[src >= 0]]).all(), "deviations follow their means"
        sigma[src < 0] = 0.5 / (step + 1)
    return off


def candidates(data: list[np.ndarray]) -> float:
    """Mix a sparse layer with noise by learned weights; return the sparse layer's."""
    x, _, y, _ = data
    rng = np.random.default_rng(0)
    sparse, last, alpha = Layer(64, 128, 410, 1), Layer(128, 10, 1280, 2), np.zeros(2)
    for t in range(1, 301):
        rows = rng.integers(0, len(x), BATCH)
        p = np.exp(alpha) / np.exp(alpha).sum()
        branches = [sparse.forward(x[rows]), rng.standard_normal((BATCH, 128), np.float32)]
        mixed = (p[0] * branches[0] + p[1] * branches[1]).astype(np.float32)
        dy = softmax_gradient(last.forward(np.maximum(mixed, 0)), y[rows])
        dy = (last.backward(dy) * (mixed > 0)).astype(np.float32)
        gains = np.array([float((dy * b).sum()) for b in branches])
        alpha -= 2.0 * p * (gains - p @ gains)
        sparse.backward(np.ascontiguousarray(p[0].astype(np.float32) * dy))
        sparse.step(t, 2e-3)
        last.step(t, 2e-3)
    assert sparse.w.nnz == 410, "the sparse branch keeps its count"
    return float(p[0])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train all networks, print and return their accuracies."""
    parser = argparse.ArgumentParser(description="Sparse training from scratch.")
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args(argv).seeds)
    data = [part.numpy() for part in digits.load()]

    def mean(*arguments: Any, **options: Any) -> float:
        return float(np.mean([run(data, *arguments, seed=s, **options) for s in seeds]))

    print("static, 95 % zeros     " + "".join(f"{w:>8}" for w in (64, 256, 1024)) + "   wide")
    static: dict[str, list[float]] = {}
    for density in ("erk", "uniform"):
        static[density] = [
            mean((64, w, w, 10), 0.95, density=density, epochs=10) for w in (64, 256, 1024)
        ]
        print(f"{density:<22} " + "".join(f"{a:>8.1%}" for a in static[density]))
    moved = {}
    print("\n64 - 256 - 256 - 10    " + "".join(f"{m:>8}" for m in ("static", "SET", "RigL")))
    for sparsity in (0.95, 0.98):
        moved[sparsity] = {
            m: mean((64, 256, 256, 10), sparsity, density="uniform", method=m)
            for m in ("static", "SET", "RigL")
        }
        print(
            f"{sparsity:.0%} zeros, uniform     "
            + "".join(f"{a:>8.1%}" for a in moved[sparsity].values())
        )

    luck = search(data)
    print(f"\nof 8 masks: chosen {luck['chosen']:.1%}, mean {luck['mean']:.1%} ± {luck['sd']:.1%}")
    wide = widen(data, seeds)
    print("4096 weights in the middle:" + "".join(f"{s:>8.0%}: {a:.1%}" for s, a in wide.items()))
    off = uncertain()
    print(f"signal-to-noise ratios of |w| are off their samples' by {off:.2%} at most")
    weight = candidates(data)
    print(f"a mixture gives the sparse layer {weight:.3f} and noise the rest")

    assert abs(luck["chosen"] - luck["mean"]) < 2 * luck["sd"], "the search finds what luck does"
    assert min(wide.values()) > wide[0.0] - 0.01, "wider and sparser is no worse"
    assert off < 0.02 and weight > 0.9
    for density, curve in static.items():
        assert curve == sorted(curve) and curve[-1] > curve[0] + 0.05, f"{density}: width helps"
    assert np.mean(static["erk"]) > np.mean(static["uniform"]), "ERK beats uniform densities"
    for sparsity, found in moved.items():
        assert found["RigL"] > found["static"], f"RigL beats static at {sparsity}"
    assert moved[0.98]["SET"] > moved[0.98]["static"], "SET beats static at 98 %"
    return {
        "static": static,
        "moved": {str(s): f for s, f in moved.items()},
        "search": luck,
        "widening": {str(s): a for s, a in wide.items()},
        "uncertainty": off,
        "candidates": weight,
    }


if __name__ == "__main__":
    main()
