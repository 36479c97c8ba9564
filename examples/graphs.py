"""Ten papers on graphs: propagate, score edges, project, and learn from a sparse adjacency.

A graph is a CSR matrix; messages go along its edges by `spmm`, pairs are compared on the edges
alone by `sddmm`, and edges are chosen by the exact selections of `gossamer.prune`.

    dagnn       Liu et al., 2020: many hops wash the classes out, a gated sum of all hops does not
    amud        Sun et al., 2024: which directed patterns (A, A·Aᵀ, ...) agree with the labels
    teddy       Seo et al., 2024: edges go by the degrees around them, weights by magnitude
    fastrp      Chen et al., 2019: embeddings from a very sparse random projection
    atc         Wang et al., 2024: topological concentration, and its estimate by projections
    restore     RESTORE, 2023: how well an embedding (HOPE) rebuilds its graph
    hypergraph  Jo et al., 2021: edges as the nodes of the dual hypergraph
    metanodes   Kulatilleke et al., 2022: contrast along edges and between clusters
    snowflake   Borde et al., 2024: propagate on the graph of nearest neighbours
    fmri        Choi et al., 2023: a graph of the strongest correlations

    pip install "gossamer[examples]"
    python examples/graphs.py            # all, a few seconds
    python examples/graphs.py teddy      # one
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import gossamer
from claims import claim, run
from gossamer import graph, prune

try:
    import networkx as nx
    import numpy as np
    import scipy.sparse as sp
    import torch
    from sklearn.datasets import load_digits
except ImportError as error:
    sys.exit(f'{error}. This example needs: pip install "gossamer[examples]"')

CSR = gossamer.CSR
Array = np.ndarray


# ---- graphs and what is done with all of them


def csr(matrix: Any) -> CSR:
    """Make a CSR matrix of 64-bit floats."""
    return CSR.from_sparse(sp.csr_array(matrix).astype(np.float64))


def block_model(
    sizes: Sequence[int], rates: Array, seed: int, weight: Array | None = None
) -> tuple[CSR, Array]:
    """Draw a directed stochastic block model; `weight` makes it degree-corrected."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    p = rates[np.ix_(labels, labels)]
    if weight is not None:
        p = np.minimum(p * np.outer(weight, weight), 1)
    a = rng.random(p.shape) < p
    np.fill_diagonal(a, False)
    return csr(a), labels


def undirected(a: CSR) -> CSR:
    """Keep the edges of the upper triangle, both ways."""
    upper = sp.triu(a.to_scipy(), 1)
    return csr(upper + upper.T)


def rows_of(a: CSR) -> Array:
    """Return the row of each entry."""
    return np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))


def scaled(left: Array, a: CSR, right: Array) -> CSR:
    """Return diag(left)·A·diag(right)."""
    return a.with_values(left[rows_of(a)] * a.values * right[a.indices])


def row_sums(a: CSR) -> Array:
    """Return A·1."""
    return gossamer.spmm(a, np.ones((a.shape[1], 1)))[:, 0]


def normalized(a: CSR) -> CSR:
    """Return D^-½·(A + I)·D^-½, D the degrees with the self-loops."""
    a = csr(a.to_scipy() + sp.eye_array(a.shape[0]))
    d = row_sums(a) ** -0.5
    return scaled(d, a, d)


def random_walk(a: CSR) -> CSR:
    """Return D⁻¹·A."""
    return scaled(1 / np.maximum(row_sums(a), 1), a, np.ones(a.shape[1]))


def ridge(x: Array, labels: Array, train: Array, *, strength: float = 1.0) -> float:
    """Fit a ridge regression of the classes to the nodes of `train`; return the others' accuracy.

    Ridge, because plain least squares blows up differences that are as small as rounding errors.
    """
    x = np.column_stack([x, np.ones(len(x))])
    y = np.eye(labels.max() + 1)[labels]
    gram = x[train].T @ x[train] + strength * np.eye(x.shape[1])
    found = (x @ np.linalg.solve(gram, x[train].T @ y[train])).argmax(1)
    return float((found == labels)[~train].mean())


def some_of_each(labels: Array, count: int, rng: np.random.Generator) -> Array:
    """Mark `count` nodes of each class."""
    train = np.zeros(len(labels), bool)
    for c in range(labels.max() + 1):
        train[rng.permutation(np.flatnonzero(labels == c))[:count]] = True
    return train


class Propagate(torch.autograd.Function):
    """A·X with its gradient Aᵀ·dY."""

    @staticmethod
    def forward(ctx: Any, a: CSR, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        ctx.a = a
        return gossamer.spmm(a, x.detach())

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[None, torch.Tensor]:
        """Multiply by the transpose."""
        return None, gossamer.spmm(ctx.a, dy.contiguous(), transpose_a=True)


class EdgeProducts(torch.autograd.Function):
    """The inner products of Z's rows along the edges, with their gradient."""

    @staticmethod
    def forward(ctx: Any, a: CSR, z: torch.Tensor) -> torch.Tensor:
        """Multiply at the edges."""
        ctx.a, ctx.z = a, z.detach()
        return gossamer.sddmm(ctx.z, ctx.z, a)

    @staticmethod
    def backward(ctx: Any, dv: torch.Tensor) -> tuple[None, torch.Tensor]:
        """Send each edge's gradient to both of its ends."""
        g = ctx.a.with_values(dv.contiguous().numpy())
        out = gossamer.spmm(g, ctx.z)
        return None, out + gossamer.spmm(g, ctx.z, transpose_a=True)


# ---- the papers


def gates(hops: Sequence[torch.Tensor], s: torch.Tensor) -> torch.Tensor:
    """Add the hops up, each node's by gates of its own."""
    return sum(torch.sigmoid(h @ s)[:, None] * h for h in hops)


def gated_network(hat: CSR, x: Array, labels: Array, train: Array, seed: int) -> float:
    """Train logits Z = X·W and the gates of their 20 hops; return the accuracy."""
    torch.manual_seed(seed)
    w = (0.5 * torch.randn(4, 4, dtype=torch.float64)).requires_grad_()
    s = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w, s], lr=0.1, weight_decay=1e-3)
    y, nodes = torch.from_numpy(labels), torch.from_numpy(train)
    for _ in range(60):
        optimizer.zero_grad()
        z = [torch.from_numpy(x) @ w]
        for _ in range(20):
            z.append(Propagate.apply(hat, z[-1]))
        out = gates(z, s)
        torch.nn.functional.cross_entropy(out[nodes], y[nodes]).backward()
        optimizer.step()
    return float((out.argmax(1) == y)[~nodes].double().mean())


def dagnn() -> dict[str, Any]:
    """Propagate far; compare the last hop with the gated sum of all."""
    last: dict[int, list[float]] = {2: [], 10: [], 20: [], 60: []}
    gated, residuals = [], []
    for seed in range(3):
        rates = np.full((4, 4), 0.02) + 0.08 * np.eye(4)
        a, labels = block_model([100] * 4, rates, seed)
        a = undirected(a)
        rng = np.random.default_rng(seed)
        x = np.eye(4)[labels] + 1.5 * rng.standard_normal((400, 4))
        train = some_of_each(labels, 20, rng)
        hat = normalized(a)
        hops = [x]
        for _ in range(200):
            hops.append(gossamer.spmm(hat, hops[-1]))
        top = np.sqrt(row_sums(csr(a.to_scipy() + sp.eye_array(400))))
        top /= np.linalg.norm(top)
        residuals.append(np.abs(hops[-1] - np.outer(top, top @ x)).max())
        for k, found in last.items():
            found.append(ridge(hops[k], labels, train))
        gated.append(gated_network(hat, x, labels, train, seed))
    mean = {k: float(np.mean(v)) for k, v in last.items()}
    gate, residual = float(np.mean(gated)), float(max(residuals))
    claim(residual < 1e-12, f"hops converge to rank one, residual {residual:.1e}")
    claim(mean[2] > 0.7, f"two hops tell the classes: {mean[2]:.2f}")
    claim(mean[10] < 0.4 and mean[20] < 0.3, f"many hops are near chance, 0.25: {mean}")
    claim(gate > mean[20] + 0.3, f"the gated sum of 20 hops does not collapse: {gate:.2f}")
    return {"accuracy after hop": mean, "gated sum": gate, "residual": residual}


def two_way(a: CSR, x: Array) -> Array:
    """Return A·Aᵀ·X without the product of the two sparse matrices."""
    return gossamer.spmm(a, gossamer.spmm(a, x, transpose_a=True))


def amud() -> dict[str, Any]:
    """Correlate directed patterns with the agreement of labels."""
    cyclic = np.full((5, 5), 0.01) + 0.07 * np.roll(np.eye(5), 1, axis=1)
    symmetric = np.full((5, 5), 0.01) + 0.07 * np.eye(5)
    found: dict[str, dict[str, float]] = {}
    for name, rates in (("cyclic", cyclic), ("symmetric", symmetric)):
        runs = []
        for seed in range(3):
            a, labels = block_model([60] * 5, rates, seed)
            x = np.random.default_rng(seed).standard_normal((300, 7))
            dense = a.to_dense()
            off = np.abs(two_way(a, x) - dense @ dense.T @ x).max()
            claim(off < 1e-9, f"the chained product is that of A·Aᵀ, off by {off:.1e}")
            eye = np.eye(300)
            reach = {"U": dense + dense.T, "A": dense, "AAᵀ": two_way(a, eye)}
            pairs = ~np.eye(300, dtype=bool)
            agree = (labels[:, None] == labels)[pairs]
            runs.append({k: np.corrcoef(p[pairs] > 0, agree)[0, 1] for k, p in reach.items()})
        found[name] = {k: float(np.mean([r[k] for r in runs])) for k in runs[0]}
    ring = found["cyclic"]
    claim(ring["U"] < -0.03 and ring["A"] < -0.03, f"a ring's edges join classes: {ring}")
    claim(ring["AAᵀ"] > 0.1, f"nodes that point to the same nodes share a class: {ring}")
    claim(min(found["symmetric"].values()) > 0.05, f"all patterns agree: {found['symmetric']}")
    return found


def trimmed(a: CSR, scores: Array, share: float) -> CSR:
    """Keep a share of the undirected edges, those that score highest."""
    rows = rows_of(a)
    one_way = rows < a.indices
    k = round(share * int(one_way.sum()))
    kept = prune.topk_mask(scores, k, within=one_way)
    upper = sp.coo_array((np.ones(k), (rows[kept], a.indices[kept])), shape=a.shape)
    return csr(upper + upper.T)


def teddy() -> dict[str, Any]:
    """Trim edges by TEDDY's score, at random and by the reverse; then project the weights."""
    karate = csr(nx.to_scipy_sparse_array(nx.karate_club_graph(), weight=None))
    d = np.diff(karate.indptr)
    g = np.zeros(34)
    for v in range(34):
        neighbours = karate.indices[karate.indptr[v] : karate.indptr[v + 1]]
        g[v] = sum(d[u] ** -0.5 for u in neighbours) / d[v]
    loop = [g[i] / d[i] * g[j] / d[j] for i, j in zip(rows_of(karate), karate.indices, strict=True)]
    off = float(np.abs(graph.edge_score(karate) - loop).max())
    claim(off < 1e-6, f"the score is the formula's, off by {off:.1e}")

    ways = ("TEDDY", "random", "reversed")
    accuracy: dict[str, dict[str, list[float]]] = {"70%": {}, "50%": {}}
    isolated: dict[str, dict[str, list[int]]] = {"70%": {}, "50%": {}}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weight = rng.pareto(2.0, 400) + 0.3
        rates = np.full((4, 4), 0.012) + 0.06 * np.eye(4)
        a, labels = block_model([100] * 4, rates, seed, weight / weight.mean())
        a = undirected(a)
        x = np.eye(4)[labels] + 1.2 * rng.standard_normal((400, 4))
        train = some_of_each(labels, 20, rng)
        score = graph.edge_score(a)
        by = dict(zip(ways, (score, rng.random(a.nnz, np.float32), -score), strict=True))
        for share, of_share in accuracy.items():
            part = float(share[:-1]) / 100
            for way, scores in by.items():
                kept = trimmed(a, scores, part)
                claim(kept.nnz == 2 * round(part * (a.nnz // 2)), "exact edges")
                hat, h = normalized(kept), x
                for _ in range(3):
                    h = gossamer.spmm(hat, h)
                of_share.setdefault(way, []).append(ridge(h, labels, train))
                isolated[share].setdefault(way, []).append(int((np.diff(kept.indptr) == 0).sum()))
    mean = {s: {w: float(np.mean(v)) for w, v in row.items()} for s, row in accuracy.items()}
    alone = {s: {w: float(np.mean(v)) for w, v in row.items()} for s, row in isolated.items()}
    for share, row in mean.items():
        claim(row["TEDDY"] > row["random"] + 0.01, f"TEDDY beats chance at {share}: {row}")
        claim(row["random"] > row["reversed"] + 0.01, f"the reverse is worst at {share}: {row}")
        lonely = alone[share]
        claim(lonely["TEDDY"] < lonely["random"] / 2, f"few nodes lose all edges: {lonely}")
        claim(lonely["random"] < lonely["reversed"] / 2, f"the reverse isolates many: {lonely}")

    # A two-layer GCN on the trimmed graph, its weights projected to 40 of 96 after every step.
    torch.manual_seed(0)
    hat, y = normalized(trimmed(a, score, 0.7)), torch.from_numpy(labels)
    layers = [
        torch.randn(n, m, dtype=torch.float64).requires_grad_() for n, m in ((4, 12), (12, 4))
    ]
    optimizer, nodes = torch.optim.Adam(layers, lr=0.05), torch.from_numpy(train)
    for _ in range(40):
        optimizer.zero_grad()
        h = torch.relu(Propagate.apply(hat, torch.from_numpy(x) @ layers[0]))
        out = Propagate.apply(hat, h @ layers[1])
        torch.nn.functional.cross_entropy(out[nodes], y[nodes]).backward()
        optimizer.step()
        both = torch.cat([w.detach().reshape(-1) for w in layers])
        prune.l0_project_(both, 40)
        for w, part in zip(layers, both.split([48, 48]), strict=True):
            w.data.copy_(part.view_as(w))
        left = sum(int(prune.nnz_stats(w.detach())) for w in layers)
        claim(left == 40, f"each step ends with 40 weights: {left}")
    gcn = float((out.argmax(1) == y)[~nodes].double().mean())
    return {"accuracy": mean, "isolated": alone, "projected GCN": gcn}


def very_sparse(rows: int, cols: int, s: float, seed: int) -> CSR:
    """Draw ±√s with a chance of 1/s, else 0."""
    k = round(rows * cols / s)
    mask = prune.random_mask((rows, cols), k, seed=seed)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (rows, cols))
    return CSR.from_dense(np.sqrt(s) * signs, mask)


def fastrp() -> dict[str, Any]:
    """Embed the karate club; check powers and distances."""
    club = nx.karate_club_graph()
    a = csr(nx.to_scipy_sparse_array(club, weight=None))
    faction = np.array([club.nodes[v]["club"] == "Officer" for v in club])
    walk = random_walk(a)
    d = row_sums(a)
    right = []
    power_off = 0.0
    for seed in range(10):
        u = (d / d.sum())[:, None] ** -0.5 * very_sparse(34, 16, 3.0, seed).to_dense()
        explicit = np.linalg.matrix_power(a.to_dense() / d[:, None], 3) @ u
        embedding = np.zeros((34, 16))
        for weight in (0.0, 1.0, 1.0):
            u = gossamer.spmm(walk, u)
            embedding += weight * u / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-12)
        power_off = max(power_off, float(np.abs(u - explicit).max()))
        unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
        similar = unit @ unit.T
        np.fill_diagonal(similar, -np.inf)
        near = prune.topk_rows(similar, 3)[1]
        right.append(float(((faction[near].sum(1) >= 2) == faction).mean()))
    claim(power_off < 1e-12, f"three steps are the third power, off by {power_off:.1e}")
    mean = float(np.mean(right))
    claim(mean >= 0.93, f"three neighbours name the faction, not half by chance: {mean:.3f}")

    rng = np.random.default_rng(0)
    points = rng.standard_normal((60, 2000)) + rng.standard_normal((60, 1))
    projection = very_sparse(256, 2000, 45.0, 1)
    image = gossamer.linear(points, projection) / np.sqrt(256)
    i, j = np.triu_indices(60, 1)
    before, after = (np.linalg.norm(x[i] - x[j], axis=1) for x in (points, image))
    error = float(np.abs(after / before - 1).mean())
    claim(error < 0.07, f"distances survive 1 entry in 45: {error:.3f}")
    return {"3-NN": mean, "least": min(right), "power off by": power_off, "distance error": error}


def mixed_hops(walk: CSR, r: Array) -> Array:
    """Return Σ_k α_k·(D⁻¹A)^k·R over three hops, α_k = 2^-k."""
    h = np.zeros_like(r)
    for k in range(1, 4):
        r = gossamer.spmm(walk, r)
        h += 0.5**k * r
    return h


def concentration(a: CSR, h: Array) -> Array:
    """Average the products of each node with its neighbours."""
    v = gossamer.sddmm(h, h, a)
    return row_sums(a.with_values(v)) / np.diff(a.indptr)


def atc() -> dict[str, Any]:
    """Estimate the topological concentration by random projections of growing width."""
    found: dict[str, dict[int, float]] = {}
    for name, source in (
        ("karate", nx.karate_club_graph()),
        ("les-mis", nx.les_miserables_graph()),
    ):
        a = csr(nx.to_scipy_sparse_array(source, weight=None))
        n, walk = a.shape[0], random_walk(a)
        dense = walk.to_dense()
        hops = sum(0.5**k * np.linalg.matrix_power(dense, k) for k in range(1, 4))
        shared = hops @ hops.T
        exact = (shared * a.to_dense()).sum(1) / np.diff(a.indptr)
        for q in (32, 128, 512, 2048):
            runs = []
            for seed in range(10):
                r = np.random.default_rng(seed).standard_normal((n, q)) / np.sqrt(q)
                runs.append(np.corrcoef(concentration(a, mixed_hops(walk, r)), exact)[0, 1])
            found.setdefault(name, {})[q] = float(np.mean(runs))
    for name, curve in found.items():
        values = list(curve.values())
        claim(values == sorted(values), f"{name}: wider projections estimate better: {curve}")
        claim(values[-1] > 0.96, f"{name}: 2048 columns tell the concentration: {curve}")
    claim(found["karate"][2048] > found["karate"][32] + 0.1, f"width matters: {found['karate']}")
    return found


def katz(a: CSR, beta: float, terms: int = 200) -> Array:
    """Sum Σ_k (βA)^k, k from 1."""
    step = a.with_values(beta * a.values)
    first = step.to_dense()
    s = first.copy()
    for _ in range(terms):
        s = first + gossamer.spmm(step, s)
    return s


def average_precision(scores: Array, wanted: Array) -> float:
    """Average over the nodes the precision at each of their wanted nodes."""
    found = []
    for i in range(len(scores)):
        order = np.argsort(-scores[i], kind="stable")
        hit = wanted[i, order[order != i]]
        found.append((hit.cumsum() / np.arange(1, len(hit) + 1))[hit].mean())
    return float(np.mean(found))


def restore() -> dict[str, Any]:
    """Rebuild les Misérables' graph from HOPE embeddings of several dimensions."""
    a = csr(nx.to_scipy_sparse_array(nx.les_miserables_graph(), weight=None))
    dense = a.to_dense()
    beta = 0.5 / np.abs(np.linalg.eigvalsh(dense)).max()
    s = katz(a, beta)
    solved = np.linalg.solve(np.eye(len(dense)) - beta * dense, beta * dense)
    off = float(np.abs(s - solved).max())
    claim(off < 1e-12, f"the series is the inverse, off by {off:.1e}")
    u, sigma, vt = np.linalg.svd(s)
    curve = {
        d: average_precision((u[:, :d] * sigma[:d]) @ vt[:d], dense > 0) for d in (2, 4, 8, 16, 32)
    }
    values = list(curve.values())
    claim(values == sorted(values) and values[0] < 0.7, f"precision rises with width: {curve}")
    claim(values[-1] > 0.95, f"32 dimensions rebuild the graph: {curve}")
    return {"mean average precision": curve, "series off by": off}


def dual_convolution(m: CSR, x: Array) -> Array:
    """Average the edges' features over each node, then the nodes' over each edge."""
    node_degree = row_sums(m)[:, None]
    edge_degree = gossamer.spmm(m, np.ones((m.shape[0], 1)), transpose_a=True)
    return gossamer.spmm(m, gossamer.spmm(m, x) / node_degree, transpose_a=True) / edge_degree


def hypergraph() -> dict[str, Any]:
    """Convolve over the karate club's edges through its incidence matrix."""
    club = nx.karate_club_graph()
    edges = list(club.edges)
    m = csr(sp.csr_array(np.abs(nx.incidence_matrix(club, edgelist=edges, weight=None))))
    count = len(edges)
    line = gossamer.spmm(m, gossamer.spmm(m, np.eye(count)), transpose_a=True) - 2 * np.eye(count)
    expected = nx.to_numpy_array(nx.line_graph(club), nodelist=edges)
    claim(np.array_equal(line, expected), "MᵀM - 2I is the line graph")
    both = gossamer.spmm(m, gossamer.spmm(m, np.eye(34), transpose_a=True))
    adjacency = nx.to_numpy_array(club, weight=None)
    claim(np.array_equal(both - np.diag(row_sums(m)), adjacency), "MMᵀ - D is the graph")

    x = np.random.default_rng(0).standard_normal((count, 5))
    dense = m.to_dense()
    mean = dense.T @ np.diag(1 / dense.sum(1)) @ dense @ x / dense.sum(0)[:, None]
    off = float(np.abs(dual_convolution(m, x) - mean).max())
    claim(off < 1e-12, f"two passes are the explicit convolution, off by {off:.1e}")
    # HyperDrop: half of the edges, those of the largest features.
    kept = prune.topk_mask(np.linalg.norm(x, axis=1), count // 2)
    half = csr(m.to_scipy()[:, np.flatnonzero(kept)])
    claim(half.nnz == 2 * (count // 2), f"each edge that is kept has two ends: {half.nnz}")
    pairs = int(np.count_nonzero(expected))
    claim((m.nnz, pairs) == (156, 1056), f"entries: {m.nnz}, in the line graph {pairs}")
    return {"incidence entries": m.nnz, "line graph entries": pairs, "off by": off}


def cluster_sums(member: CSR, z: torch.Tensor) -> torch.Tensor:
    """Add up each cluster's nodes: the meta-nodes."""
    return PropagateBack.apply(member, z)


class PropagateBack(torch.autograd.Function):
    """Aᵀ·X with its gradient A·dY."""

    @staticmethod
    def forward(ctx: Any, a: CSR, x: torch.Tensor) -> torch.Tensor:
        """Multiply by the transpose."""
        ctx.a = a
        return gossamer.spmm(a, x.detach(), transpose_a=True)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[None, torch.Tensor]:
        """Multiply."""
        return None, gossamer.spmm(ctx.a, dy.contiguous())


def contrast(a: CSR, member: CSR, z: torch.Tensor, tau: float) -> tuple[torch.Tensor, int]:
    """Return the loss, where edges attract and clusters repel, and the pairs that it compares."""
    unit = torch.nn.functional.normalize(z, dim=1)
    on_edges = torch.exp(tau * EdgeProducts.apply(a, unit))
    near = torch.zeros(len(z), dtype=z.dtype).index_add(0, torch.from_numpy(rows_of(a)), on_edges)
    meta = torch.nn.functional.normalize(cluster_sums(member, unit), dim=1)
    repelled = torch.exp(tau * meta @ meta.T)
    far = repelled.sum(1)[torch.from_numpy(member.indices.astype(np.int64))]
    return -torch.log(near / (near + far)).mean(), on_edges.numel() + repelled.numel()


def metanodes() -> dict[str, Any]:
    """Compare the loss and its gradient with those over all pairs; train with it."""
    rates = np.full((5, 5), 0.005) + 0.08 * np.eye(5)
    a, labels = block_model([60] * 5, rates, 0)
    a = csr(undirected(a).to_scipy() + sp.eye_array(300))
    member = csr(np.eye(5)[labels])
    torch.manual_seed(0)
    z = torch.randn(300, 16, dtype=torch.float64, requires_grad=True)
    loss, pairs = contrast(a, member, z, 2.0)
    loss.backward()
    ours = z.grad.clone()

    z.grad = None
    unit = z / z.norm(dim=1, keepdim=True)
    near = (torch.exp(2.0 * unit @ unit.T) * torch.from_numpy(a.to_dense())).sum(1)
    hot = torch.from_numpy(member.to_dense())
    meta = hot.T @ unit
    meta = meta / meta.norm(dim=1, keepdim=True)
    far = hot @ torch.exp(2.0 * meta @ meta.T).sum(1)
    dense = -torch.log(near / (near + far)).mean()
    dense.backward()
    off = abs(float(loss.detach() - dense.detach()))
    gradient_off = float((ours - z.grad).abs().max() / z.grad.abs().max())
    claim(off < 1e-12, f"the loss is that of all pairs, off by {off:.1e}")
    claim(gradient_off < 1e-9, f"so is the gradient, off by {gradient_off:.1e}")
    claim(pairs == a.nnz + 5 * 5, f"pairs are the edges and those of the clusters: {pairs}")
    claim(pairs < 90_000 / 20, f"few pairs are looked at: {pairs} of 90000")
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        now, _ = contrast(a, member, z, 2.0)
        now.backward()
        optimizer.step()
    final = float(now.detach())
    claim(
        final < 0.8 * float(loss.detach()),
        f"the loss falls: {float(loss.detach()):.3f} {final:.3f}",
    )
    return {"loss off by": off, "gradient off by": gradient_off, "pairs": pairs, "trained": final}


def nearest(x: Array, k: int) -> CSR:
    """Join each point with the k that are nearest to it."""
    squares = (x * x).sum(1)
    distances = squares[:, None] + squares - 2 * x @ x.T
    np.fill_diagonal(distances, np.inf)
    near = prune.topk_rows(-distances, k, format="csr")
    return near.with_values(np.full(near.nnz, 1 / k))


def strangers(count: int, k: int, rng: np.random.Generator) -> CSR:
    """Join each point with k random ones."""
    chosen = prune.topk_rows(rng.random((count, count)), k, format="csr")
    return chosen.with_values(np.full(chosen.nnz, 1 / k))


def snowflake() -> dict[str, Any]:
    """Propagate noisy digits over their nearest neighbours, and over random ones."""
    pixels, labels = load_digits(return_X_y=True)
    found: dict[str, list[float]] = {"raw": [], "nearest": [], "random": []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        some = rng.permutation(len(pixels))[:800]
        x, y = pixels[some] / 16 + 0.4 * rng.standard_normal((800, 64)), labels[some]
        train = some_of_each(y, 10, rng)
        a = nearest(x, 10)
        claim((np.diff(a.indptr) == 10).all(), "ten neighbours each")
        for i in range(800):
            distance = ((x - x[i]) ** 2).sum(1)
            distance[i] = np.inf
            nearest_ten = np.sort(np.argpartition(distance, 10)[:10])
            mine = a.indices[a.indptr[i] : a.indptr[i + 1]]
            claim(np.array_equal(mine, nearest_ten), f"point {i} has its nearest ones")
        chance = strangers(800, 10, rng)
        found["raw"].append(ridge(x, y, train))
        for name, joined in (("nearest", a), ("random", chance)):
            h = gossamer.spmm(joined, gossamer.spmm(joined, x))
            found[name].append(ridge(h, y, train, strength=0.1))
    mean = {name: float(np.mean(v)) for name, v in found.items()}
    claim(mean["nearest"] > mean["raw"] + 0.05, f"neighbours help: {mean}")
    claim(mean["random"] < mean["raw"] - 0.2, f"strangers hurt: {mean}")
    return {"accuracy": mean}


def correlated(series: Array, share: float) -> CSR:
    """Keep a share of the pairs, those that correlate most, both ways."""
    n = len(series)
    above = np.triu(np.ones((n, n), bool), 1)
    r = np.where(above, np.corrcoef(series), 0)
    r += r.T  # the same to the last bit on both sides
    kept = prune.topk_mask(r, round(share * (n * (n - 1) // 2)), within=above)
    return CSR.from_dense(r, kept | kept.T)


def fmri() -> dict[str, Any]:
    """Make a graph of correlated series; rebuild a hidden node from its neighbours."""
    rng = np.random.default_rng(0)
    block = np.repeat(np.arange(3), 30)
    series = rng.standard_normal((3, 400))[block] + rng.standard_normal((90, 400))
    a = correlated(series, 0.3)
    pairs = round(0.3 * (90 * 89 // 2))
    claim(a.nnz == 2 * pairs, f"exactly {pairs} edges: {a.nnz} entries")
    claim(np.array_equal(a.to_dense(), a.to_dense().T), "the graph is symmetric")
    inside = float((block[rows_of(a)] == block[a.indices]).mean())
    claim(inside >= 0.9, f"edges lie within the blocks: {inside:.2f}")
    hidden = rng.permutation(90)[:18]
    shown = series.copy()
    shown[hidden] = 0
    seen = np.ones(90)
    seen[hidden] = 0
    ones = a.with_values(np.ones(a.nnz))
    count = np.maximum(gossamer.spmm(ones, seen[:, None]), 1)
    rebuilt = gossamer.spmm(ones, shown) / count
    everyone = shown.sum(0) / seen.sum()
    local = float(((rebuilt - series)[hidden] ** 2).mean())
    wide = float(((everyone - series)[hidden] ** 2).mean())
    claim(local < 0.8 * wide, f"neighbours rebuild better than the mean: {local:.2f}, {wide:.2f}")
    return {"edges": pairs, "within blocks": inside, "error": {"1 hop": local, "mean": wide}}


_ALL = (dagnn, amud, teddy, fastrp, atc, restore, hypergraph, metanodes, snowflake, fmri)
PAPERS = {paper.__name__: paper for paper in _ALL}
main = functools.partial(run, PAPERS, "Papers on graphs.")

if __name__ == "__main__":
    main()
