"""Attention on graphs, fused: train a graph attention network in NumPy, and mask like Sparsifiner.

The adjacency is a CSR pattern without values. `csr_attention` computes scores, softmax and weighted
sum edge by edge, `csr_attention_backward` their gradients; nothing of size edges × heads is kept.

    gat         Velickovic et al., 2018: a layer trained by its gradients beats the features alone
    instance    Wei et al., 2023: each head's queries see the keys that a low-rank guess picks
    causal      Buehler, 2025: attention's largest weights as the edges of a causal graph layer
    cost        fused attention beside sddmm, csr_softmax and spmm on 20,000 nodes

    python examples/graph_attention.py          # all, a few seconds
    python examples/graph_attention.py gat      # one
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
from claims import claim, run
from gossamer import CSR, graph, prune

Array = np.ndarray


def block_model(nodes: int, classes: int, rng: np.random.Generator) -> tuple[CSR, Array]:
    """Draw a graph with loops whose edges stay within a class three times out of four."""
    label = np.arange(nodes) % classes
    rate = np.where(label[:, None] == label, 6.0 * classes, 2.0 * classes / (classes - 1)) / nodes
    upper = np.triu(rng.random((nodes, nodes)) < rate, 1)
    index = np.nonzero(upper | upper.T | np.eye(nodes, dtype=bool))
    return CSR.from_coo(index, shape=(nodes, nodes)), label


def softmax(x: Array) -> Array:
    """Apply softmax to the last axis."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    weights: Array = powers / powers.sum(-1, keepdims=True)
    return weights


class GatLayer:
    """Logits = the mean over heads of softmax over edges of leaky(a·Wx_i + b·Wx_j), times Wx_j."""

    def __init__(self, features: int, heads: int, classes: int, rng: np.random.Generator) -> None:
        scale = features**-0.5
        self.parts = [
            scale * rng.standard_normal((features, heads, classes)),
            0.1 * rng.standard_normal((heads, classes)),
            0.1 * rng.standard_normal((heads, classes)),
        ]

    def forward(self, x: Array, a: CSR) -> tuple[Array, tuple[Array, ...]]:
        """Return the logits, and what the gradient needs."""
        w, left, right = self.parts
        z = np.einsum("nf,fhc->nhc", x, w)
        q, k = (z * left).sum(2), (z * right).sum(2)
        o, lse = gossamer.csr_attention(q, k, z, a, score="gat")
        return o.mean(1), (q, k, z, o, lse)

    def backward(self, grad: Array, x: Array, a: CSR, kept: tuple[Array, ...]) -> list[Array]:
        """Return the gradients of the parts from that of the logits."""
        q, k, z, o, lse = kept
        _, left, right = self.parts
        heads = np.repeat(grad[:, None] / z.shape[1], z.shape[1], axis=1)
        dq, dk, dz = gossamer.csr_attention_backward(heads, q, k, z, o, lse, a, score="gat")
        dz = dz + dq[..., None] * left + dk[..., None] * right
        return [
            np.einsum("nf,nhc->fhc", x, dz),
            np.einsum("nh,nhc->hc", dq, z),
            np.einsum("nh,nhc->hc", dk, z),
        ]


def gat() -> dict[str, Any]:
    """Train one layer, and check its gradient by a difference."""
    rng = np.random.default_rng(0)
    nodes, classes = 900, 4
    a, label = block_model(nodes, classes, rng)
    x = np.eye(classes)[label] + 1.5 * rng.standard_normal((nodes, classes))
    train = rng.random(nodes) < 0.2
    target = np.eye(classes)[label]
    layer = GatLayer(classes, 4, classes, rng)

    def loss() -> tuple[float, list[Array], Array]:
        logits, kept = layer.forward(x, a)
        p = softmax(logits)
        value = -np.log(p[train, label[train]]).mean()
        grad = (p - target) * train[:, None] / train.sum()
        return float(value), layer.backward(grad, x, a, kept), logits

    first, grads, _ = loss()
    for part, gradient in zip(layer.parts, grads, strict=True):
        step = 1e-6 * rng.standard_normal(part.shape)
        part[...] += step
        above = loss()[0]
        part[...] -= 2 * step
        difference = (above - loss()[0]) / 2
        part[...] += step
        expected = float((gradient * step).sum())
        claim(
            abs(difference - expected) < 1e-4 * abs(expected) + 1e-12,
            f"a difference agrees with the gradient: {difference:.6g}, {expected:.6g}",
        )

    mean = [np.zeros_like(part) for part in layer.parts]
    square = [np.zeros_like(part) for part in layer.parts]
    for t in range(1, 151):  # Adam
        _, grads, _ = loss()
        for part, gradient, m, v in zip(layer.parts, grads, mean, square, strict=True):
            m[...] += 0.1 * (gradient - m)
            v[...] += 0.001 * (gradient**2 - v)
            part[...] -= 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    last, _, logits = loss()
    found = float((logits.argmax(1) == label)[~train].mean())
    alone = float((x.argmax(1) == label)[~train].mean())
    claim(last < 0.7 * first, f"the loss falls: {first:.3f} to {last:.3f}")
    claim(found > alone + 0.15, f"edges help: {found:.2f} and {alone:.2f}")
    return {"edges": a.nnz, "accuracy": {"features": alone, "attention": found}}


def dense_attention(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Attend under a mask that broadcasts to [heads, queries, keys]; rows are [n, heads, d]."""
    s = np.einsum("ihd,jhd->hij", q, k) * q.shape[-1] ** -0.5
    p = softmax(np.where(mask, s, -1e30)) * mask
    o: Array = np.einsum("hij,jhd->ihd", p / np.maximum(p.sum(2, keepdims=True), 1e-30), v)
    return o


def blind(guess: Array) -> Array:
    """Return scores that say nothing."""
    return np.random.default_rng(3).standard_normal(guess.shape)


def instance() -> dict[str, Any]:
    """Keep a tenth of the keys of each query and head, by a low-rank guess of the scores."""
    rng = np.random.default_rng(1)
    tokens, heads, width, keep, rank = 196, 2, 32, 20, 16
    # Fourteen tokens look alike, so that twenty keys hold those that count.
    centres = 1.5 * rng.standard_normal((14, heads, width))
    near = rng.permutation(np.arange(tokens) % 14)
    q, k = (centres[near] + 0.3 * rng.standard_normal((tokens, heads, width)) for _ in range(2))
    v = rng.standard_normal((tokens, heads, width))
    scores = np.einsum("ihd,jhd->hij", q, k)
    left, values, right = np.linalg.svd(scores)
    guess = (left[:, :, :rank] * values[:, None, :rank]) @ right[:, :rank]

    def pattern(choose: Array, count: int = keep) -> CSR:
        """Return the kept keys of each query: the heads' patterns one below the other."""
        _, kept = prune.topk_rows(choose.reshape(heads * tokens, tokens), count)
        columns = np.sort(np.asarray(kept), axis=1).reshape(-1)
        rows = np.repeat(np.arange(heads * tokens), count)
        return CSR.from_coo((rows, columns), shape=(heads * tokens, tokens))

    full = dense_attention(q, k, v, np.ones((1, tokens, tokens), bool))
    errors = {}
    for name, choose in (("guessed", guess), ("random", blind(guess))):
        a = pattern(choose)
        o, _ = gossamer.csr_attention(q, k, v, a)
        mask = a.with_values(np.ones(a.nnz)).to_dense().reshape(heads, tokens, tokens) != 0
        same = np.abs(o - dense_attention(q, k, v, mask)).max()
        claim(same < 1e-12, f"equals dense attention under the mask: {same:.1e}")
        errors[name] = float(np.linalg.norm(o - full) / np.linalg.norm(full))
    claim(errors["guessed"] < 0.02, f"a guess of the keys that count loses little: {errors}")
    claim(errors["random"] > 1, f"random keys lose a lot: {errors}")
    best = np.argsort(-scores, axis=2)[..., :keep]
    picked = np.asarray(prune.topk_rows(guess.reshape(heads * tokens, tokens), keep)[1])
    pairs = zip(picked, best.reshape(heads * tokens, keep), strict=True)
    recall = float(np.mean([np.isin(ours, exact).mean() for ours, exact in pairs]))
    claim(recall > 0.8, f"the guess finds the best keys: {recall:.2f}")
    everything, _ = gossamer.csr_attention(q, k, v, pattern(guess, tokens))
    off = float(np.abs(everything - full).max())
    claim(off < 1e-12, f"all keys are dense attention, off by {off:.1e}")
    return {"kept": keep / tokens, "error": errors, "recall": recall}


def looking_back(tokens: int) -> Array:
    """Mark what each token sees: itself and those before."""
    return np.tri(tokens, dtype=bool)


def causal() -> dict[str, Any]:
    """Propagate along the largest attention weights that look back."""
    rng = np.random.default_rng(2)
    tokens, width = 64, 16
    x = rng.standard_normal((tokens, width))
    seen = looking_back(tokens)
    past = CSR.from_mask(seen, dtype=None)

    def layer(x: Array, pattern: CSR = past) -> tuple[Array, CSR]:
        s = gossamer.sddmm(x, x, pattern, scale=width**-0.5)
        p = gossamer.csr_softmax(pattern.with_values(s))
        keep = p.values >= 0.05
        row = np.repeat(np.arange(tokens), np.diff(p.indptr))
        edges = CSR.from_coo((row[keep], p.indices[keep]), p.values[keep], shape=p.shape)
        return np.maximum(0.5 * x + gossamer.spmm(edges, x), 0), edges

    y, edges = layer(x)
    s = x @ x.T * width**-0.5
    p = softmax(np.where(seen, s, -1e30))
    want = np.maximum(0.5 * x + np.where(p >= 0.05, p, 0) @ x, 0)
    claim(np.abs(y - want).max() < 1e-12, "equals the dense layer under a threshold")
    changed = x.copy()
    changed[40:] += 1
    claim(np.array_equal(layer(changed)[0][:40], y[:40]), "later tokens change no earlier result")
    every = CSR.from_dense(np.ones((tokens, tokens))).with_values(None)
    order = rng.permutation(tokens)
    apart = float(np.abs(layer(x[order], every)[0] - layer(x, every)[0][order]).max())
    claim(apart < 1e-12, f"without time, an order of the nodes is one of the results: {apart:.1e}")
    degree = graph.row_sum(edges.with_values(None))
    return {"edges": edges.nnz, "of": past.nnz, "edges a token": float(degree.mean())}


def cost() -> dict[str, Any]:
    """Time attention over the edges of a random graph, fused and composed."""
    rng = np.random.default_rng(3)
    nodes, heads, width = 20_000, 4, 64
    a = CSR.from_coo(rng.integers(0, nodes, (2, 15 * nodes)), shape=(nodes, nodes))
    q, k, v = (rng.standard_normal((nodes, heads, width), np.float32) for _ in range(3))

    def composed() -> Array:
        queries, keys, values = (x.transpose(1, 0, 2) for x in (q, k, v))
        s = gossamer.sddmm(queries, keys, a, scale=width**-0.5)
        weights = gossamer.csr_softmax(a.with_values(s))
        return gossamer.spmm(weights, values).transpose(1, 0, 2)

    ways: dict[str, Callable[[], Array]] = {
        "fused": lambda: gossamer.csr_attention(q, k, v, a)[0],
        "composed": composed,
    }
    results = [call() for call in ways.values()]
    claim(np.abs(results[0] - results[1]).max() < 1e-4, "both give the same numbers")
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(3):
        for way, call in ways.items():
            start = time.perf_counter()
            call()
            times[way].append(1e3 * (time.perf_counter() - start))
    return {"edges": a.nnz, "ms": {way: min(t) for way, t in times.items()}}


PAPERS = {paper.__name__: paper for paper in (gat, instance, causal, cost)}
main = functools.partial(run, PAPERS, "Attention on graphs.")

if __name__ == "__main__":
    main()
