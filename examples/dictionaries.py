"""Four papers on dictionaries: codes with few entries, and what they are decoded to.

A batch of codes is a CSR matrix [samples, atoms]: `prune.topk_rows` chooses its entries, `spmm`
decodes it, `spmm(transpose_a=True)` and `sddmm` are the gradients, and `prune.soft_threshold_`
shrinks it.

    gradients   Gradient SAE (Olmo et al., 2024): atoms are chosen by what they change downstream,
                too, which costs reconstruction and helps the model
    edits       Makelov et al., 2024: a supervised dictionary as the yardstick of an unsupervised
                one, and edits of single features
    ista        CRATE (Yu et al., 2023): a layer that takes a step of ISTA towards sparser codes
    kronecker   sparse Bayesian learning of a vector whose support is a Kronecker product

    pip install "gossamer[examples]"
    python examples/dictionaries.py          # all, a few seconds
    python examples/dictionaries.py ista     # one
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import gossamer
from claims import claim, run
from gossamer import prune

try:
    import numpy as np
except ImportError as error:
    sys.exit(f'{error}. This example needs: pip install "gossamer[examples]"')

CSR = gossamer.CSR
Array = np.ndarray


def unit(x: Array) -> Array:
    """Scale each row to length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class Adam:
    """Adam over a list of arrays, in place."""

    def __init__(self, arrays: Sequence[Array], lr: float) -> None:
        self.arrays, self.lr, self.t = arrays, lr, 0
        self.states = [(np.zeros_like(a), np.zeros_like(a)) for a in arrays]

    def step(self, gradients: Sequence[Array]) -> None:
        """Take a step."""
        self.t += 1
        for a, g, (m, v) in zip(self.arrays, gradients, self.states, strict=True):
            m[:] += 0.1 * (g - m)
            v[:] += 0.001 * (g * g - v)
            a[:] -= self.lr / (1 - 0.9**self.t) * m / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)


class Autoencoder:
    """z = ReLU((x - b)·E + c), of which a sparse part is decoded: x̂ = code·D + b."""

    def __init__(self, inputs: int, atoms: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.d = unit(rng.standard_normal((atoms, inputs)))
        self.e = self.d.T.copy()
        self.b, self.c = np.zeros(inputs), np.zeros(atoms)
        self.optimizer = Adam([self.d, self.e, self.b, self.c], 3e-3)

    def encode(self, x: Array) -> Array:
        """Return all activations."""
        return np.maximum((x - self.b) @ self.e + self.c, 0)

    def decode(self, code: CSR) -> Array:
        """Add up the atoms that the code names."""
        return gossamer.spmm(code, self.d) + self.b

    def gradients(self, x: Array, code: CSR, penalty: float = 0.0) -> list[Array]:
        """Differentiate ½‖x̂ - x‖² + penalty·‖code‖₁, averaged over the samples."""
        dx = (self.decode(code) - x) / len(x)
        on = (code.values > 0).astype(x.dtype)  # what ReLU lets through
        dz = code.with_values(on * (gossamer.sddmm(dx, self.d, code) + penalty / len(x)))
        # Both gradients come as [atoms, inputs]: that of the encoder is transposed.
        de = gossamer.spmm(dz, x - self.b, transpose_a=True).T
        dc = gossamer.spmm(dz, np.ones((len(x), 1)), transpose_a=True)[:, 0]
        return [gossamer.spmm(code, dx, transpose_a=True), de, dx.sum(0) - self.e @ dc, dc]

    def step(self, x: Array, code: CSR, penalty: float = 0.0) -> None:
        """Train on a batch; atoms keep length 1."""
        self.optimizer.step(self.gradients(x, code, penalty))
        self.d[:] = unit(self.d)


def gradient_key(z: Array, d: Array, slope: Array, beta: float) -> Array:
    """Return z + β·z·|D·∇L|: what atoms are chosen by."""
    return z + beta * z * np.abs(slope @ d.T)


def gradients() -> dict[str, Any]:
    """Train an autoencoder that chooses by size alone, and one that looks downstream."""
    k, rows = 4, []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        features = unit(rng.standard_normal((48, 24)))
        # The downstream model reads eight features, which are weaker than the others.
        strength = np.where(np.arange(48) < 8, 0.6, 1.0)
        reader = np.linalg.pinv(features)[:, :8] @ rng.standard_normal((8, 4))

        def draw(
            count: int,
            rng: np.random.Generator = rng,
            strength: Array = strength,
            features: Array = features,
        ) -> Array:
            on = rng.random((count, 48)) < 6 / 48
            return (on * strength * rng.uniform(0.5, 1.5, (count, 48))) @ features

        test = draw(1000)
        row = {}
        for beta in (0.0, 3.0):
            net = Autoencoder(24, 64, seed)
            for _ in range(400):
                x = draw(128)
                z = net.encode(x)
                key = gradient_key(z, net.d, x @ reader @ reader.T, beta)
                net.step(x, prune.topk_rows(z, k, key=key, format="csr"))
            z = net.encode(test)
            key = gradient_key(z, net.d, test @ reader @ reader.T, beta)
            code = prune.topk_rows(z, k, key=key, format="csr")
            claim((np.diff(code.indptr) == k).all(), f"exactly {k} atoms a sample")
            mask = np.zeros(z.shape, bool)
            np.put_along_axis(mask, np.argsort(-key, axis=1, kind="stable")[:, :k], True, 1)
            dense = np.where(mask, z, 0) @ net.d + net.b
            off = float(np.abs(net.decode(code) - dense).max())
            claim(off < 1e-12, f"the code decodes as the masked activations, off by {off:.1e}")
            values, columns = prune.topk_rows(z, k, key=key)
            gathered = gossamer.gather_decode(columns, values, net.d, bias=net.b)
            off = float(np.abs(gathered - dense).max())
            claim(off < 1e-12, f"so does the op that gathers atoms, off by {off:.1e}")
            dx = (gathered - test) / len(test)
            slopes = gossamer.gather_decode_backward(dx, columns, values, net.d)
            off = float(np.abs(slopes[1] - net.gradients(test, code)[0]).max())
            claim(off < 1e-12, f"both have the gradient of the dictionary, off by {off:.1e}")
            if beta == 0:
                plain = prune.topk_rows(z, k, format="csr")
                parts = [(c.indices.tobytes(), c.values.tobytes()) for c in (plain, code)]
                claim(parts[0] == parts[1], "β = 0 is TopK")
            lost = net.decode(code) - test
            row[beta] = (
                float((lost**2).mean()),
                float(((lost @ reader) ** 2).sum() / ((test @ reader) ** 2).sum()),
            )
        rows.append(row)
        if seed == 0:
            slope_off = slopes_off(net, test[:50], k)
            claim(slope_off < 1e-5, f"gradients are those of differences, off by {slope_off:.1e}")
    mean = {beta: [float(np.mean([r[beta][i] for r in rows])) for i in (0, 1)] for beta in rows[0]}
    (mse, error), (mse_by, error_by) = mean.values()
    claim(error_by < 0.85 * error, f"the downstream error falls: {error:.4f} to {error_by:.4f}")
    claim(mse_by < 1.55 * mse, f"reconstruction pays, but not much: {mse:.4f} to {mse_by:.4f}")
    return {
        "downstream error": {"TopK": error, "gradient TopK": error_by},
        "MSE": {"TopK": mse, "gradient TopK": mse_by},
    }


def slopes_off(net: Autoencoder, x: Array, k: int) -> float:
    """Compare the gradients with differences, the choice of atoms held fixed."""
    code = prune.topk_rows(net.encode(x), k, format="csr")
    rows = np.repeat(np.arange(len(x)), k)

    def loss() -> float:
        kept = code.with_values(net.encode(x)[rows, code.indices])
        return 0.5 * float(((net.decode(kept) - x) ** 2).sum()) / len(x)

    worst = 0.0
    found = net.gradients(x, code)
    for array, gradient in zip((net.d, net.e, net.b, net.c), found, strict=True):
        for at in np.random.default_rng(0).permutation(array.size)[:5]:
            before, differences = array.flat[at], 0.0
            for sign in (1, -1):
                array.flat[at] = before + sign * 1e-6
                differences += sign * loss() / 2e-6
            array.flat[at] = before
            worst = max(worst, abs(differences - gradient.flat[at]))
    return worst


def replaced(code: CSR, row: int, old: int, new: int) -> CSR:
    """Give the entry of one atom to another: an edit of a feature."""
    dense_row = np.zeros(code.shape[1])
    start, stop = code.indptr[row], code.indptr[row + 1]
    dense_row[code.indices[start:stop]] = code.values[start:stop]
    dense_row[[old, new]] = 0, dense_row[old]
    columns = np.flatnonzero(dense_row).astype(code.indices.dtype)
    indices, values = code.indices.copy(), code.values.copy()
    indices[start:stop], values[start:stop] = columns, dense_row[columns]
    return CSR(code.indptr, indices, values, code.shape)


def class_means(x: Array, given: Array, values: int) -> Array:
    """Return for each value of each attribute how its samples differ from the mean."""
    pairs = itertools.product(range(given.shape[1]), range(values))
    return np.stack([x[given[:, a] == v].mean(0) - x.mean(0) for a, v in pairs])


def edits() -> dict[str, Any]:
    """Compare a dictionary of class means with a learned one; edit and ablate features."""
    attributes, values = 3, 6
    errors: dict[str, list[float]] = {"supervised": [], "unsupervised": []}
    changed, edit_off = [], 0.0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth = rng.standard_normal((attributes, values, 24))
        given = rng.integers(0, values, (2000, attributes))
        x = truth[np.arange(attributes), given].sum(1) + 0.3 * rng.standard_normal((2000, 24))
        mean = x[:1500].mean(0)
        means = class_means(x[:1500], given[:1500], values)
        columns = given[1500:] + values * np.arange(attributes)
        hot = np.zeros((500, attributes * values))
        np.put_along_axis(hot, columns, 1, 1)
        code = CSR.from_dense(hot)
        rebuilt = gossamer.spmm(code, means) + mean
        errors["supervised"].append(float(((rebuilt - x[1500:]) ** 2).mean()))

        net = Autoencoder(24, attributes * values, seed)
        for _ in range(1500):
            batch = x[rng.integers(0, 1500, 128)]
            net.step(batch, CSR.from_dense(net.encode(batch)), penalty=0.05)
        learned = prune.topk_rows(net.encode(x[1500:]), attributes, format="csr")
        claim(learned.nnz == code.nnz, f"as many entries in both codes: {learned.nnz}")
        errors["unsupervised"].append(float(((net.decode(learned) - x[1500:]) ** 2).mean()))

        # Give a sample another value of its first attribute.
        for row in range(20):
            old = int(given[1500 + row, 0])
            new = (old + 1) % values
            sparse = gossamer.spmm(replaced(code, row, old, new), means)[row] + mean
            dense = rebuilt[row] - means[old] + means[new]
            edit_off = max(edit_off, float(np.abs(sparse - dense).max()))
            wanted = x[1500 + row] + truth[0, new] - truth[0, old]
            others = x[1500 + row] + truth[0] - truth[0, old]
            near = np.linalg.norm(others - sparse, axis=1).argmin()
            changed.append(bool(np.allclose(others[near], wanted)))
        # Ablate the first attribute everywhere: its entries go.
        kept = code.indices >= values
        ablated = gossamer.spmm(code.with_values(np.where(kept, code.values, 0)), means) + mean
        off = float(np.abs(ablated - (rebuilt - means[given[1500:, 0]])).max())
        claim(off < 1e-12, f"an ablated feature is gone from the output, off by {off:.1e}")
    claim(edit_off < 1e-12, f"an edit of the code is one of the output, off by {edit_off:.1e}")
    found = {name: float(np.mean(v)) for name, v in errors.items()}
    claim(found["supervised"] < found["unsupervised"], f"supervision rebuilds better: {found}")
    claim(np.mean(changed) > 0.95, f"edits reach the value that was meant: {np.mean(changed):.2f}")
    return {"MSE": found, "edits that reach their value": float(np.mean(changed))}


def ista_step(code: CSR, y: Array, d: Array, eta: float, lam: float) -> Array:
    """Return ReLU(x + η·(y - x·D)·Dᵀ - η·λ) for the codes x."""
    x = code.to_dense()
    x += eta * (y - gossamer.spmm(code, d)) @ d.T
    return np.maximum(prune.soft_threshold_(x, eta * lam), 0)


LAMBDA = 0.1  # what an entry of a code costs


def ista() -> dict[str, Any]:
    """Unroll ISTA on signals of a known sparse code."""
    rng = np.random.default_rng(0)
    d = unit(rng.standard_normal((128, 96)))
    support = rng.random((200, 128)) < 0.1
    y = np.where(support, rng.uniform(0.5, 1.5, support.shape), 0) @ d
    eta, lam = 0.1, LAMBDA
    claim(eta <= 1 / np.linalg.norm(d, 2) ** 2, "the step is short enough to go down")
    x, off = np.zeros(support.shape), 0.0
    objectives, densities = [], []
    for _ in range(300):
        code = CSR.from_dense(x)
        dense = np.maximum(x + eta * (y - x @ d) @ d.T - eta * lam, 0)
        x = ista_step(code, y, d, eta, lam)
        off = max(off, float(np.abs(x - dense).max()))
        objectives.append(0.5 * ((y - x @ d) ** 2).sum() + lam * x.sum())
        densities.append(int(prune.nnz_stats(x)) / x.size)
    falls = bool((np.diff(objectives) <= 1e-9 * objectives[0]).all())
    claim(falls, "the objective never rises")
    claim(off < 1e-12, f"sparse and dense steps agree, off by {off:.1e}")
    claim(densities[0] > 0.25, f"codes start dense: {densities[0]:.2f}")
    true = float(support.mean())
    claim(abs(densities[-1] - true) < 0.02, f"density {densities[-1]:.3f} nears {true:.3f}")
    hit = int((support & (x > 0)).sum())
    f1 = 2 * hit / (int(support.sum()) + int((x > 0).sum()))
    claim(f1 > 0.9, f"the support is found: F1 {f1:.3f}")
    return {"density": {"first": densities[0], "last": densities[-1], "true": true}, "F1": f1}


def by_modes(x: CSR, factors: Sequence[Array]) -> Array:
    """Return (A₁⊗A₂⊗A₃)·x of a sparse x, held as [n₁·n₂, n₃], one factor after the other."""
    a, b, c = factors
    y = gossamer.spmm(x, np.ascontiguousarray(c.T)).reshape(a.shape[1], b.shape[1], -1)
    return np.einsum("ai,bj,ijk->abk", a, b, y, optimize=True).reshape(-1)


def alternate(q: Array, gammas: list[Array]) -> Array:
    """Fit γ₁⊗γ₂⊗γ₃ to q by alternating means: the M-step; return the product."""
    for _ in range(3):
        for mode in range(3):
            others = [gammas[m] for m in range(3) if m != mode]
            ratio = np.moveaxis(q, mode, 0) / np.maximum(np.multiply.outer(*others), 1e-12)
            gammas[mode] = np.maximum(ratio.mean((1, 2)), 1e-12)
        for mode in (0, 1):  # one scale for all, in the last
            gammas[2] = gammas[2] * gammas[mode].mean()
            gammas[mode] = gammas[mode] / gammas[mode].mean()
    return np.multiply.outer(np.multiply.outer(gammas[0], gammas[1]), gammas[2])


def bayes(phi: Array, y: Array, shape: tuple[int, ...], noise: float, structured: bool) -> Array:
    """Estimate x by expectation maximisation, with a variance for each entry or a product."""
    gamma = np.ones(phi.shape[1])
    gammas = [np.ones(n) for n in shape]
    for step in range(300):
        level = noise * max(1, 100 ** (1 - step / 200))  # from 100 times the noise down to it
        scaled = gamma[:, None] * phi.T
        gain = np.linalg.solve(level * np.eye(len(y)) + phi @ scaled, scaled.T).T
        mean = gain @ y
        q = mean**2 + np.maximum(gamma - (gain * scaled).sum(1), 0)
        gamma = alternate(q.reshape(shape), gammas).reshape(-1) if structured else q
        gamma = np.maximum(gamma, 1e-12)
    return mean


def kronecker() -> dict[str, Any]:
    """Recover sparse vectors from 36 measurements of 256 unknowns."""
    shape, counts, noise = (4, 8, 8), (3, 3, 4), 1e-4
    errors: dict[str, list[float]] = {"product": [], "each entry": []}
    supports = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        factors = [
            rng.standard_normal((m, n)) / np.sqrt(m) for m, n in zip(counts, shape, strict=True)
        ]
        on = [np.isin(np.arange(n), rng.permutation(n)[:2]) for n in shape]
        support = np.multiply.outer(np.multiply.outer(*on[:2]), on[2])
        x = np.where(support, rng.standard_normal(shape), 0)
        phi = np.kron(np.kron(factors[0], factors[1]), factors[2])
        image = by_modes(CSR.from_dense(x.reshape(32, 8)), factors)
        off = float(np.abs(image - phi @ x.reshape(-1)).max())
        claim(off < 1e-12, f"three modes are the Kronecker product, off by {off:.1e}")
        y = image + np.sqrt(noise) * rng.standard_normal(36)
        for name, of_name in errors.items():
            found = bayes(phi, y, shape, noise, name == "product")
            of_name.append(float(((found - x.reshape(-1)) ** 2).sum() / (x**2).sum()))
            if name == "product":
                kept = prune.topk_mask(prune.score(found), int(support.sum()))
                supports.append(float(kept[support.reshape(-1)].mean()))
    mean = {name: float(np.mean(v)) for name, v in errors.items()}
    claim(mean["product"] < 0.5 * mean["each entry"], f"structure helps: {mean}")
    claim(np.mean(supports) > 0.6, f"the largest entries are the support: {np.mean(supports):.2f}")
    return {"normalised error": mean, "support found": float(np.mean(supports))}


PAPERS = {paper.__name__: paper for paper in (gradients, edits, ista, kronecker)}
main = functools.partial(run, PAPERS, "Papers on dictionaries.")

if __name__ == "__main__":
    main()
