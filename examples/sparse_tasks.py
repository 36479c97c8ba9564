"""Three papers on sparse training for something else than one accuracy.

Weights are CSR from the first step to the last, as in sparse_from_scratch.py, whose layers these
scripts train.

    features    QuickSelection (Atashgahi et al., 2021): a sparse autoencoder's strongest inputs are
                the ones to keep; no dense weight or gradient is ever allocated
    continual   Continual learning with dynamic sparse training (2023): a second task grows on what
                the first left free, and the first one's outputs do not change by a bit
    edge        SparCL (Wang et al., 2022): masks by importance for new and remembered samples,
                sparse gradients, fewer samples; multiplications as predicted

    pip install "gossamer[examples]"
    python examples/sparse_tasks.py             # all, about ten seconds
    python examples/sparse_tasks.py continual   # one
"""

from __future__ import annotations

import functools
import tracemalloc
from typing import Any

import digits
import gossamer
import numpy as np
from claims import claim, run
from gossamer import graph, prune, regrow, schedule
from sparse_from_scratch import Layer, softmax_gradient

Array = np.ndarray


def canvas(seed: int) -> Array:
    """Place the 8 x 8 digits in the middle of 16 x 16 pixels of noise."""
    pixels = digits.load()[0].numpy()
    rng = np.random.default_rng(seed)
    images = 0.1 * rng.standard_normal((len(pixels), 16, 16), np.float32)
    images[:, 4:12, 4:12] += pixels.reshape(-1, 8, 8)
    return images.reshape(-1, 256)


def strengths(layer: Layer) -> Array:
    """Sum what each input weighs: s_i = Σ_j |w_ij|."""
    return graph.strength(layer.w, axis=0)


def autoencode(x: Array, units: int, density: float, epochs: int, seed: int) -> list[Layer]:
    """Train a denoising autoencoder by SET: sparse forward, backward and updates."""
    inputs = x.shape[1]
    nnz = round(density * (inputs + units))
    layers = [Layer(inputs, units, nnz, seed), Layer(units, inputs, nnz, seed + 1)]
    rng = np.random.default_rng(seed)
    t = 0
    for epoch in range(epochs):
        for rows in np.array_split(rng.permutation(len(x)), len(x) // 64):
            t += 1
            clean = x[rows]
            noisy = clean + 0.2 * rng.standard_normal(clean.shape, np.float32)
            hidden = np.tanh(layers[0].forward(noisy))
            dy = (layers[1].forward(hidden) - clean) / np.float32(len(clean))
            dh = layers[1].backward(dy) * (1 - hidden * hidden)
            layers[0].backward(np.ascontiguousarray(dh))
            for layer in layers:
                layer.step(t, 2e-3)
        for at, layer in enumerate(layers):
            if epoch < epochs - 1:
                move(layer, 0.2, 10 * seed + at, epoch)
                claim(layer.w.nnz == nnz, f"an update keeps the count: {layer.w.nnz}")
    return layers


def move(layer: Layer, share: float, seed: int, step: int) -> None:
    """Drop the weakest entries and grow as many at random."""
    layer.move("SET", share, seed, step)


def features() -> dict[str, Any]:
    """Pick the features of digits on a canvas, and count what training allocates."""
    inside = np.zeros((16, 16), bool)
    inside[4:12, 4:12] = True
    shares, accuracies = [], {"strongest": [], "random": []}
    labels = digits.load()[2].numpy()
    for seed in range(3):
        x = canvas(seed)
        layers = autoencode(x, 200, 13.0, 10, seed)
        kept = prune.topk_mask(strengths(layers[0]), 40)
        shares.append(float(inside.reshape(-1)[kept].mean()))
        chance = prune.random_mask(256, 40, seed=seed)
        for name, mask in (("strongest", kept), ("random", chance)):
            accuracies[name].append(nearest_mean(x[:, mask], labels))
    share = float(np.mean(shares))
    claim(share > 0.6, f"the strongest inputs are the digits', by chance 25 %: {share:.2f}")
    mean = {name: float(np.mean(v)) for name, v in accuracies.items()}
    claim(mean["strongest"] > mean["random"] + 0.1, f"they tell more than random ones: {mean}")

    # A layer whose dense matrix would be 256 MB: training allocates a hundredth of it.
    wide = np.random.default_rng(0).uniform(0, 1, (64, 8000)).astype(np.float32)
    tracemalloc.start()
    autoencode(wide, 8000, 5.0, 2, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dense = 4 * 8000 * 8000
    claim(peak < dense / 8, f"no dense matrix is made: {peak} bytes at most of {dense}")
    return {"digit area": share, "accuracy": mean, "peak MB": peak / 1e6, "dense MB": dense / 1e6}


def nearest_mean(x: Array, labels: Array) -> float:
    """Classify by the nearest class mean; fit to the first 1000, test on the others."""
    means = np.stack([x[:1000][labels[:1000] == c].mean(0) for c in range(10)])
    distance = ((x[1000:, None] - means) ** 2).sum(2)
    return float((distance.argmin(1) == labels[1000:]).mean())


class Task:
    """A network of two layers on entries that no other task has."""

    def __init__(self, frozen: list[gossamer.CSR | None], density: str, seed: int) -> None:
        shapes = [(128, 64), (10, 128)]
        total = schedule.nnz(128 * 64 + 10 * 128, 0.85)
        self.counts = schedule.allocate(shapes, total=total, method=density)
        claim(sum(self.counts) == total, "the budget is met")
        self.frozen, self.seed = frozen, seed
        self.layers = []
        for at, ((outputs, inputs), count) in enumerate(zip(shapes, self.counts, strict=True)):
            layer = Layer(inputs, outputs, count, seed, forbid=frozen[at])
            self.layers.append(layer)

    def forward(self, x: Array) -> Array:
        """Return the logits."""
        return self.layers[1].forward(self.layers[0].forward(x, "relu"))

    def fit(self, x: Array, y: Array, grow: str) -> None:
        """Train, and move entries with growth forbidden where another task is frozen."""
        rng = np.random.default_rng(self.seed)
        for t in range(1, 301):
            rows = rng.integers(0, len(x), 64)
            dy = softmax_gradient(self.forward(x[rows]), y[rows])
            dx = self.layers[1].backward(dy)
            self.layers[0].backward(np.ascontiguousarray(dx * (self.layers[1].x > 0)))
            for at, layer in enumerate(self.layers):
                if t % 25 == 0 and t < 200:
                    n = int(0.2 * layer.w.nnz)
                    score = (
                        regrow.Random(self.seed, t)
                        if grow == "random"
                        else prune.score(layer.dyt @ layer.x)
                    )
                    layer.w, _ = grow_free(layer, score, n, self.frozen[at])
                else:
                    layer.step(t, 3e-3)
        for layer, count in zip(self.layers, self.counts, strict=True):
            claim(layer.w.nnz == count, f"each layer keeps its budget: {layer.w.nnz}, {count}")


def grow_free(layer: Layer, score: Any, n: int, frozen: gossamer.CSR | None) -> Any:
    """Drop and grow n entries, none where a frozen matrix has one."""
    return regrow.csr_drop_grow_(layer.w, score, n, n, forbid=frozen, states=layer.states)


def joined(tasks: list[Task], at: int) -> gossamer.CSR:
    """Put the layers of two tasks into one matrix: no place is taken twice."""
    both = [task.layers[at].w for task in tasks]
    masks = [gossamer.CSR.to_dense(w.with_values(np.ones(w.nnz, np.float32))) for w in both]
    overlap = int((masks[0] * masks[1]).sum())
    claim(overlap == 0, f"nothing grows on what is frozen: {overlap} places are")
    whole = gossamer.CSR.from_dense(
        both[0].to_dense() + both[1].to_dense(), masks[0] + masks[1] > 0
    )
    claim(whole.nnz == both[0].nnz + both[1].nnz, "both tasks are in the matrix")
    return whole


def of_task(whole: gossamer.CSR, task: Task, at: int) -> gossamer.CSR:
    """Take a task's entries back out of the common matrix."""
    pattern = task.layers[at].w
    mask = pattern.with_values(np.ones(pattern.nnz, np.float32)).to_dense() > 0
    return gossamer.CSR.from_dense(whole.to_dense(), mask)


def continual() -> dict[str, Any]:
    """Learn digits 0 to 4, freeze them, learn 5 to 9 in the same matrices."""
    x, x_test, y, y_test = (part.numpy() for part in digits.load())
    found: dict[str, dict[str, float]] = {}
    for density in ("erk", "uniform"):
        for grow in ("random", "gradient"):
            first = Task([None, None], density, 1)
            low = y < 5
            first.fit(x[low], y[low], grow)
            before = first.forward(x_test)
            second = Task([layer.w for layer in first.layers], density, 2)
            second.fit(x[~low], y[~low], grow)
            whole = [joined([first, second], at) for at in (0, 1)]
            hidden = gossamer.linear(
                x_test, of_task(whole[0], first, 0), bias=first.layers[0].b, activation="relu"
            )
            after = gossamer.linear(hidden, of_task(whole[1], first, 1), bias=first.layers[1].b)
            claim(before.tobytes() == after.tobytes(), "the first task's outputs keep every bit")
            ours = y_test < 5
            row = {
                "0-4": float((after[ours].argmax(1) == y_test[ours]).mean()),
                "5-9": float((second.forward(x_test[~ours]).argmax(1) == y_test[~ours]).mean()),
            }
            claim(min(row.values()) > 0.85, f"both tasks are learned: {row}")
            found[f"{density}, {grow}"] = row
    return {"accuracy": found}


def importance(w: Array, new: Array, memory: Array) -> prune.Score:
    """Weigh |w| + α·|g_new| + β·|g_memory|."""
    return prune.score(w, kind="sum3", g=new, m=memory, alpha=0.5, beta=0.5)


def kept_gradient(gradient: Array, k: int) -> Array:
    """Mark the k largest entries of a gradient: those that are applied."""
    return prune.topk_mask(prune.score(gradient), k)


def filmed() -> tuple[Array, ...]:
    """Return digits with a camera's noise: pixels that are always 0 have no gradient."""
    x, x_test, y, y_test = (part.numpy() for part in digits.load())
    noise = np.random.default_rng(1).standard_normal(x.shape, np.float32)
    return x + np.float32(0.05) * noise, x_test, y, y_test


def mask_of(a: gossamer.CSR, flags: Array) -> Array:
    """Mark the places of the entries that are flagged."""
    return a.with_values(flags.astype(np.float32)).to_dense() != 0


def updated(a: gossamer.CSR, gradient: Array, applied: Array) -> Array:
    """Take a step along the entries of the gradient that are applied; return the weights."""
    a.values[:] -= 0.5 * applied * gradient
    return a.to_dense()


def edge() -> dict[str, Any]:
    """Train two tasks one after the other with sparse weights, gradients and data."""
    x, x_test, y, y_test = filmed()
    density, share, every = 0.2, 0.9, 20
    w = Layer(64, 128, schedule.nnz(64 * 128, 1 - density), 0)
    last = Layer(128, 10, 1280, 1)
    mask = w.w.to_dense() != 0
    dense_w = w.w.to_dense()
    pruned = ~mask
    k, kept = int(mask.sum()), round(share * int(mask.sum()))
    rng = np.random.default_rng(0)
    work = predicted = full = 0
    left = np.arange(0)
    for task in (0, 1):
        rows_of_task = np.flatnonzero((y < 5) == (task == 0))
        memory = np.flatnonzero(y < 5)[:100] if task else rows_of_task[:100]
        left = rows_of_task
        for t in range(1, 201):
            batch = np.concatenate([rng.choice(left, 48), rng.choice(memory, 16)])
            a = gossamer.CSR.from_dense(dense_w, mask)
            h = gossamer.linear(x[batch], a, bias=w.b, activation="relu")
            dy = softmax_gradient(last.forward(h), y[batch])
            dh = np.ascontiguousarray(last.backward(dy) * (h > 0))
            last.step(t, 2e-3)
            if t % every == 0 and t < 150:
                # Importance needs the gradient of all places, apart for new and remembered samples.
                new = np.ascontiguousarray(dh[:48].T @ x[batch[:48]])
                remembered = np.ascontiguousarray(dh[48:].T @ x[batch[48:]])
                n = int(0.1 * k)
                regrow.drop_grow_(
                    mask,
                    importance(dense_w, new, remembered),
                    regrow.Random(task, t),
                    n,
                    n,
                    weights=dense_w,
                )
                pruned = ~mask
                claim(int(mask.sum()) == k, f"the density is exact: {int(mask.sum())}, {k}")
                if t == 100:  # samples that are learned leave
                    out = last.forward(gossamer.linear(x[left], a, bias=w.b, activation="relu"))
                    loss = cross_entropy(out, y[left])
                    gone = prune.topk_mask(loss, int(0.3 * len(left)), largest=False)
                    left = left[~gone]
                continue
            gradient = gossamer.sddmm(
                np.ascontiguousarray(dh.T), np.ascontiguousarray(x[batch].T), a
            )
            applied = kept_gradient(gradient, kept)
            claim(int(applied.sum()) == kept, f"the gradient's density is exact: {applied.sum()}")
            stepped = updated(a, gradient, applied)
            w.b -= 0.5 * dh.sum(0)
            changed, dense_w = stepped != dense_w, stepped
            claim(not changed[pruned].any(), "what is pruned gets no update")
            claim(not changed[~mask_of(a, applied)].any(), f"only {kept} weights get one")
            # Multiplications of this layer: forward, backward to the weights (dX ends here).
            work += len(batch) * (int(prune.nnz_stats(a)) + len(gradient))
            predicted += len(batch) * 2 * round(density * 64 * 128)
            full += len(batch) * 2 * 64 * 128
    claim(abs(work - predicted) < 0.01 * predicted, f"work is what is predicted: {work, predicted}")
    saved = full / work
    a = gossamer.CSR.from_dense(dense_w, mask)
    out = last.forward(gossamer.linear(x_test, a, bias=w.b, activation="relu"))
    accuracy = float((out.argmax(1) == y_test).mean())
    return {
        "accuracy": accuracy,
        "fewer multiplications": saved,
        "gradient density": kept / w.w.to_dense().size,
    }


def cross_entropy(out: Array, y: Array) -> Array:
    """Return each sample's loss."""
    out = out - out.max(1, keepdims=True)
    return np.log(np.exp(out).sum(1)) - out[np.arange(len(y)), y]


PAPERS = {paper.__name__: paper for paper in (features, continual, edge)}
main = functools.partial(run, PAPERS, "Papers on sparse training for a task.")

if __name__ == "__main__":
    main()
