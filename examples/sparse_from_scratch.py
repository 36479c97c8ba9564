"""Train networks that are sparse from the first step to the last: no dense weight ever exists.

Weights are CSR matrices. A layer's output is `gossamer.linear`, the gradient of its input is
`spmm(transpose_a=True)` and that of its values is `sddmm`; NumPy does the rest.

    static      The unreasonable effectiveness of random pruning (Liu et al., 2022): random masks
                with ERK and uniform layer densities; width makes up for zeros
    moving      Dynamic sparse learning (2024), here SET and RigL: connections move while training,
                which beats standing still; counts stay, and states follow their entries
    search      Random search as a baseline (2024): the best of eight random masks, chosen on
                validation digits, is no better on test digits than luck explains
    widening    Sparse Iso-FLOP transformations (2023): a wider, sparser middle layer of as many
                weights does not do worse; means of 12 seeds, where 50 % is a tie
    uncertain   SSVI (2024): means and deviations on one pattern, dropped by what |w| can be, whose
                closed forms agree with samples
    candidates  DASS (2023): a mixture learns to take a sparse layer rather than noise

    pip install "gossamer[examples]"
    python examples/sparse_from_scratch.py           # all, about half a minute
    python examples/sparse_from_scratch.py search    # one
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import digits
import gossamer
import numpy as np
from claims import claim, run
from gossamer import prune, regrow, schedule

Array = np.ndarray
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
        before, states = self.w.nnz, [state.copy() for state in self.states]
        self.w, src = moved(self.w, grow, n, self.states)
        claim(
            self.w.nnz == before == len(src), f"an update keeps the count: {self.w.nnz}, {before}"
        )
        old = src >= 0
        for array in (self.w.values, *self.states):
            claim(not array[~old].any(), "what is new starts at zero")
        for now, then in zip(self.states, states, strict=True):
            claim(np.array_equal(now[old], then[src[old]]), "states follow their entries")


def moved(w: gossamer.CSR, grow: Any, n: int, states: list[Array]) -> tuple[gossamer.CSR, Array]:
    """Drop n entries and grow n, states and all."""
    return regrow.csr_drop_grow_(w, grow, n, n, states=states)


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
        claim(sum(counts) == exact, f"the budget is met: {sum(counts)}, {exact}")
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
    found = [layer.w.nnz for layer in layers]
    claim(found == list(counts), f"each layer has its count: {found}, {counts}")
    return forward


def accuracy(forward: Callable[[np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of digits that are recognised."""
    return float((forward(x).argmax(1) == y).mean())


def load() -> list[Array]:
    """Return the digits as NumPy arrays."""
    return [part.numpy() for part in digits.load()]


def train(data: list[np.ndarray], widths: Sequence[int], sparsity: float, **options: Any) -> float:
    """Train and return the accuracy on the test digits."""
    x, x_test, y, y_test = data
    return accuracy(fit(x, y, widths, sparsity, **options), x_test, y_test)


def mean_accuracy(data: list[Array], *arguments: Any, seeds: int = 3, **options: Any) -> float:
    """Return the mean accuracy over seeds."""
    return float(np.mean([train(data, *arguments, seed=s, **options) for s in range(seeds)]))


def dense_accuracy(widths: Sequence[int], seed: int) -> float:
    """Train a dense network as long, and return its accuracy."""
    net = digits.mlp(widths, seed)
    digits.train(net, digits.load(), epochs=8, lr=2e-3)
    return digits.accuracy(net, digits.load())


def static() -> dict[str, Any]:
    """Train random masks that stay, at several widths."""
    data = load()
    found: dict[str, dict[int, float]] = {}
    for density in ("erk", "uniform"):
        found[density] = {
            w: mean_accuracy(data, (64, w, w, 10), 0.95, density=density, epochs=e, seeds=seeds)
            for w, e, seeds in ((64, 20, 6), (256, 10, 3), (1024, 10, 3))
        }
    for density, by_width in found.items():
        curve = list(by_width.values())
        claim(curve == sorted(curve), f"{density}: width helps: {by_width}")
        claim(curve[-1] > curve[0] + 0.15, f"{density}: width helps by much: {by_width}")
    for width, least in ((64, 0.05), (256, 0.04), (1024, 0.005)):
        gain = found["erk"][width] - found["uniform"][width]
        claim(gain > least, f"ERK is better at width {width}: {gain:.3f}")
    wide = mean_accuracy(data, (64, 1024, 1024, 10), 0.8, epochs=8)
    dense = float(np.mean([dense_accuracy((64, 1024, 1024, 10), seed) for seed in range(3)]))
    claim(wide > dense - 0.01, f"80 % random zeros cost little at width 1024: {wide}, {dense}")
    return {"95 % zeros": found, "80 % zeros, width 1024": {"erk": wide, "dense": dense}}


def moving() -> dict[str, Any]:
    """Compare SET and RigL with masks that stay."""
    data = load()
    found: dict[str, dict[str, float]] = {}
    for sparsity in (0.95, 0.98):
        found[f"{sparsity:.0%}"] = {
            method: mean_accuracy(
                data, (64, 256, 256, 10), sparsity, density="uniform", method=method
            )
            for method in ("static", "SET", "RigL")
        }
    for sparsity, row in found.items():
        claim(row["RigL"] > row["static"] + 0.02, f"RigL beats static at {sparsity}: {row}")
        claim(row["SET"] > row["static"], f"SET beats static at {sparsity}: {row}")
    return found


def best(scores: Sequence[float]) -> int:
    """Choose the mask that validates best."""
    return int(np.argmax(scores))


def search() -> dict[str, Any]:
    """Choose among random masks by validation, and compare with all of them on the test digits."""
    x, x_test, y, y_test = load()
    fitted, valid = slice(0, 1000), slice(1000, None)
    nets = [
        fit(x[fitted], y[fitted], (64, 256, 10), 0.95, epochs=40, seed=seed)
        for seed in (*range(8), 0)
    ]
    same = nets[0](x_test).tobytes() == nets[8](x_test).tobytes()
    claim(same, "a seed is a network, to the last bit")
    validated = [accuracy(net, x[valid], y[valid]) for net in nets[:8]]
    found = [accuracy(net, x_test, y_test) for net in nets[:8]]
    chosen = best(validated)
    claim(validated[chosen] == max(validated), f"the chosen one validates best: {validated}")
    mean, sd = float(np.mean(found)), float(np.std(found, ddof=1))
    claim(0 < sd < 0.05, f"masks differ, a little: {found}")
    claim(
        abs(found[chosen] - mean) < 2 * sd, f"it is within luck of {mean:.3f} ± {sd:.3f}: {found}"
    )
    return {
        "chosen": found[chosen],
        "mean": mean,
        "sd": sd,
        "least": min(found),
        "most": max(found),
    }


def width_of(sparsity: float) -> int:
    """Widen 64 units until as many weights are left."""
    return schedule.sparse_wide_width(64, sparsity)


def budget(width: int, sparsity: float) -> list[int]:
    """Keep the 4096 weights of the dense middle layer; the layers around it are dense."""
    return [64 * width, 64 * 64, 10 * width]


def widening() -> dict[str, Any]:
    """Make the middle layer wider and sparser, with the 4096 weights of the dense one."""
    data = load()
    found: dict[float, float] = {}
    for sparsity in (0.0, 0.5, 0.75, 0.9):
        w = width_of(sparsity)
        kept = w * w * (1 - sparsity)
        claim(abs(kept - 4096) < 0.05 * 4096, f"{w} units keep {kept:.0f} weights, not 4096")
        counts = budget(w, sparsity)
        found[sparsity] = mean_accuracy(
            data, (64, w, w, 10), 0.0, counts=counts, epochs=10, seeds=12
        )
    one = 1 / 450  # a test digit
    for before, after in itertools.pairwise(found.values()):
        claim(after > before - one, f"wider and sparser is no worse: {found}")
    claim(found[0.9] > found[0.0] + 0.003, f"the widest is better: {found}")
    return {"accuracy": found}


def expected_magnitude(mu: Array, sigma: Array) -> Array:
    """Return E|w| of w ~ N(mu, sigma²) in closed form."""
    erf = np.vectorize(math.erf)(mu / (sigma * math.sqrt(2)))
    return mu * erf + 2 * sigma * np.exp(-0.5 * (mu / sigma) ** 2) / math.sqrt(2 * math.pi)


def uncertain() -> dict[str, Any]:
    """Move the pattern of means and deviations; compare scores with samples."""
    rng = np.random.default_rng(0)
    mu = Layer(50, 40, 200, 1).w
    mu.values[:] = rng.standard_normal(200, np.float32)
    sigma = rng.uniform(0.1, 1.0, 200).astype(np.float32)
    draws = np.abs(mu.values + sigma * rng.standard_normal((200_000, 200), np.float32))
    mean, spread = draws.mean(0, np.float64), draws.std(0, np.float64)
    ratio = prune.score(mu.values, kind="snr_abs", v=sigma).array()
    off = float(np.abs(mean / spread / ratio - 1).max())
    claim(off < 0.01, f"the ratio's closed form is that of samples, off by {off:.2%}")
    magnitude = expected_magnitude(mu.values, sigma)
    magnitude_off = float(np.abs(mean - magnitude).max())
    claim(magnitude_off < 0.005, f"so is that of E|w|, off by {magnitude_off:.4f}")
    for step in range(5):
        before, means = sigma.copy(), mu.values.copy()
        gradient = rng.standard_normal((40, 50), np.float32)
        mu, src = followed(mu, gradient, sigma)
        claim(mu.nnz == len(sigma) == 200, f"the count stays: {mu.nnz}")
        old = src >= 0
        claim(int((~old).sum()) == 40, "forty entries are new")
        claim(np.array_equal(sigma[old], before[src[old]]), "deviations follow their means")
        claim(np.array_equal(mu.values[old], means[src[old]]), "means stay with their entries")
        sigma[~old] = 0.5 / (step + 1)
    # The layer's output has a mean and a variance: two products on the one pattern.
    x = rng.standard_normal((9, 50), np.float32)
    mean, variance = (
        gossamer.linear(x, mu),
        gossamer.linear(x * x, mu.with_values(sigma * sigma)),
    )
    sample = np.stack(
        [
            gossamer.linear(
                x, mu.with_values(mu.values + sigma * rng.standard_normal(200, np.float32))
            )
            for _ in range(4000)
        ]
    )
    spread = np.sqrt(variance) + 1e-6
    mean_off = float(np.abs((sample.mean(0) - mean) / spread).max())
    spread_off = float(np.abs(sample.std(0) / spread - 1)[variance > 0].max())
    claim(
        mean_off < 0.1 and spread_off < 0.1, f"outputs spread so: {mean_off:.3f}, {spread_off:.3f}"
    )
    return {"ratio off by": off, "E|w| off by": magnitude_off}


def followed(mu: gossamer.CSR, gradient: Array, sigma: Array) -> tuple[gossamer.CSR, Array]:
    """Drop 40 entries by their ratio, grow 40 by the gradient; deviations follow."""
    ratio = prune.score(mu.values, kind="snr_abs", v=sigma)
    return regrow.csr_drop_grow_(
        mu, prune.score(gradient), 40, 40, drop_score=ratio, states=[sigma], regrow="forbid"
    )


def train_branch(branch: Layer, dy: Array, t: int) -> None:
    """Train the sparse branch of a mixture."""
    branch.backward(np.ascontiguousarray(dy))
    branch.step(t, 2e-3)


def slopes(p: Array, gains: Array) -> Array:
    """Return the gradient of the mixture's logits from that of its shares."""
    return p * (gains - p @ gains)


def candidates() -> dict[str, Any]:
    """Mix a sparse layer with noise by learned weights; then use the sparse layer alone."""
    x, x_test, y, y_test = load()
    rng = np.random.default_rng(0)
    sparse, last, alpha = Layer(64, 128, 410, 1), Layer(128, 10, 1280, 2), np.zeros(2)
    start = sparse.w.values.copy()
    for t in range(1, 601):
        rows = rng.integers(0, len(x), BATCH)
        p = np.exp(alpha) / np.exp(alpha).sum()
        branches = [sparse.forward(x[rows]), rng.standard_normal((BATCH, 128), np.float32)]
        mixed = (p[0] * branches[0] + p[1] * branches[1]).astype(np.float32)
        dy = softmax_gradient(last.forward(np.maximum(mixed, 0)), y[rows])
        dy = (last.backward(dy) * (mixed > 0)).astype(np.float32)
        gains = np.array([float((dy * b).sum()) for b in branches])
        alpha -= 2.0 * slopes(p, gains)
        train_branch(sparse, p[0].astype(np.float32) * dy, t)
        last.step(t, 2e-3)
    claim(sparse.w.nnz == 410, "the sparse branch keeps its count")
    claim(p[0] > 0.9, f"the mixture takes the sparse layer: {p[0]:.3f}")
    moved_by = float(np.abs(sparse.w.values - start).mean())
    claim(moved_by > 0.05, f"the sparse layer has been trained: {moved_by:.3f}")
    alone = last.forward(np.maximum(sparse.forward(x_test), 0))
    right = float((alone.argmax(1) == y_test).mean())
    claim(right > 0.85, f"the frozen network tells digits: {right:.3f}")
    return {"weight of the sparse layer": float(p[0]), "accuracy": right}


_ALL = (static, moving, search, widening, uncertain, candidates)
PAPERS = {paper.__name__: paper for paper in _ALL}
main = functools.partial(run, PAPERS, "Sparse training from scratch.")

if __name__ == "__main__":
    main()
