"""Five papers on sparse activations: layers that read only the weights of channels that matter.

Weights stay dense; which of their rows are read is decided by the input. That no other row is read
is checked by writing NaN into those: the output does not change by a bit.

    cats      CATS (Lee et al., 2024): one threshold for the gates of a gated MLP
    chess     CHESS (He et al., 2024): a threshold for each channel, by what it is multiplied with
    cett      Sparsing Law (Luo et al., 2024): the largest threshold that costs 1 % of the loss
    lazy      The lazy neuron phenomenon (Li et al., 2023): the k largest of each token
    temporal  Training for temporal sparsity (2021): a stream's changes update the layer's output

    pip install "gossamer[examples]"
    python examples/activation_ffn.py          # all, a few seconds
    python examples/activation_ffn.py cats     # one
"""

from __future__ import annotations

import functools
from typing import Any

import digits
import gossamer
import numpy as np
import torch
from claims import claim, run
from gossamer import prune

Array = np.ndarray
D, H = 128, 352  # features and hidden channels of the synthetic layers


def silu(x: Array) -> Array:
    """Return x·σ(x)."""
    return x / (1 + np.exp(-x))


def gated_weights(seed: int, spread: float = 0.0) -> tuple[Array, Array, Array]:
    """Draw gate, up and down projections, [hidden, features] each; `spread` scales channels."""
    rng = np.random.default_rng(seed)
    gate, up, down = (rng.standard_normal((H, D)) / np.sqrt(D) for _ in range(3))
    up *= np.exp(spread * rng.standard_normal((H, 1)))
    return gate.astype(np.float32), up.astype(np.float32), (2 * down).astype(np.float32)


def tokens(count: int, seed: int) -> Array:
    """Draw inputs."""
    return np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)


def masked_mlp(x: Array, weights: tuple[Array, Array, Array], flags: Array) -> Array:
    """Return what a dense gated MLP with some channels masked gives, in 64-bit floats."""
    gate, up, down = (w.astype(np.float64) for w in weights)
    return (silu(x @ gate.T) * (x @ up.T) * flags) @ down


def relative(found: Array, exact: Array) -> float:
    """Return ‖found - exact‖/‖exact‖."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def with_nan(w: Array, rows: Array) -> Array:
    """Return a copy with NaN in some rows."""
    w = w.copy()
    w[rows] = np.nan
    return w


def rows_read(x: Array, weights: tuple[Array, Array, Array], threshold: Any) -> Array:
    """Find out which channels' rows a gated MLP reads: those in which a NaN shows.

    A NaN in a row of `up` that is read spoils the whole output. Rows of `down` are of the same
    channels: NaN in all the others changes no bit.
    """
    gate, up, down = weights
    out = gossamer.gated_mlp(x, *weights, threshold=threshold)
    spoiled = up.copy()
    read = np.zeros(len(up), bool)
    for channel in range(len(up)):
        spoiled[channel] = np.nan
        found = gossamer.gated_mlp(x, gate, spoiled, down, threshold=threshold)
        spoiled[channel] = up[channel]
        read[channel] = bool(np.isnan(found).any())
    unread = gate, with_nan(up, ~read), with_nan(down, ~read)
    same = gossamer.gated_mlp(x, *unread, threshold=threshold).tobytes() == out.tobytes()
    claim(same, "other rows are not read")
    return read


def global_threshold(a: Array, sparsity: float) -> float:
    """Return the magnitude that a share of 1 - sparsity of the sample exceeds."""
    return prune.cats_threshold(a, round((1 - sparsity) * a.size))


def cats() -> dict[str, Any]:
    """Prune a layer's gates to several sparsities; check rows, batches and new tokens."""
    weights = gated_weights(0)
    gate, up, down = weights
    known, new = tokens(512, 1), tokens(256, 2)
    found: dict[str, dict[str, float]] = {}
    for sparsity in (0.5, 0.7, 0.9):
        t = global_threshold(silu(known @ gate.T), sparsity)
        flags = np.abs(silu(new @ gate.T)) >= t
        realised = 1 - float(flags.mean())
        claim(abs(realised - sparsity) < 0.02, f"{realised:.1%} on new tokens, not {sparsity:.0%}")
        outputs = np.stack([gossamer.gated_mlp(x, *weights, threshold=t) for x in new])
        off = relative(outputs, masked_mlp(new, weights, flags))
        claim(off < 1e-5, f"the layer is the masked dense one, off by {off:.1e}")
        for batch in (1, 2, 3, 4):
            x = new[:batch]
            union = flags[:batch].any(0)
            together = gossamer.gated_mlp(x, *weights, threshold=t)
            off = relative(together, masked_mlp(x, weights, union))
            claim(off < 1e-5, f"{batch} tokens use the union of their channels, off by {off:.1e}")
            unread = gate, with_nan(up, ~union), with_nan(down, ~union)
            same = gossamer.gated_mlp(x, *unread, threshold=t).tobytes() == together.tobytes()
            claim(same, f"{batch} tokens read no other rows")
            read = rows_read(x, weights, t)
            claim(np.array_equal(read, union), f"{batch} tokens read each of their rows")
        exact = masked_mlp(new, weights, np.ones(H))
        found[f"{sparsity:.0%}"] = {"realised": realised, "error": relative(outputs, exact)}
    claim(found["50%"]["error"] < 0.3, f"half of the gates cost little: {found}")
    return found


def channel_thresholds(a: Array, u: Array, sparsity: float) -> Array:
    """Return a threshold for each channel, lower where it is multiplied with more."""
    return prune.channel_threshold(
        a, prune.ColumnStats().add(u).sumsq, round((1 - sparsity) * a.size)
    )


def chess() -> dict[str, Any]:
    """Compare thresholds by channel with one for all, where channels differ and where not."""
    found: dict[str, dict[str, float]] = {}
    for spread in (0.0, 1.0):
        errors: dict[str, list[float]] = {"CHESS": [], "one threshold": []}
        for seed in range(3):
            weights = gated_weights(seed, spread)
            gate, up, _ = weights
            known, new = tokens(512, 10 + seed), tokens(128, 20 + seed)
            a = silu(known @ gate.T)
            ts = {
                "CHESS": channel_thresholds(a, known @ up.T, 0.5),
                "one threshold": global_threshold(a, 0.5),
            }
            exact = masked_mlp(new, weights, np.ones(H))
            for name, t in ts.items():
                flags = np.abs(silu(new @ gate.T)) >= t
                claim(abs(flags.mean() - 0.5) < 0.02, f"{name} keeps half: {flags.mean():.3f}")
                out = np.stack([gossamer.gated_mlp(x, *weights, threshold=t) for x in new])
                off = relative(out, masked_mlp(new, weights, flags))
                claim(off < 1e-5, f"the layer is the masked dense one, off by {off:.1e}")
                errors[name].append(relative(out, exact))
                read, active = rows_read(new[-1], weights, t), flags[-1]
                claim(
                    np.array_equal(read, active),
                    f"as many rows are read as channels are active: {read.sum()}, {active.sum()}",
                )
        found[f"spread {spread:.0f}"] = {n: float(np.mean(v)) for n, v in errors.items()}
    apart, alike = found["spread 1"], found["spread 0"]
    claim(apart["CHESS"] < 0.6 * apart["one threshold"], f"channels that differ: {apart}")
    claim(abs(alike["CHESS"] / alike["one threshold"] - 1) < 0.1, f"channels alike: {alike}")
    return found


class Block(torch.nn.Module):
    """A residual ReGLU layer on the pixels, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (torch.nn.Linear(64, 256, bias=False) for _ in range(2))
        self.down, self.head = torch.nn.Linear(256, 64, bias=False), torch.nn.Linear(64, 10)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the down projection gets."""
        return torch.relu(self.gate(x)) * self.up(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.head(x + self.down(self.hidden(x)))


def thresholds(down: Array, epsilon: float) -> Array:
    """Return for each neuron what its activation must reach to move the output by epsilon."""
    return prune.cett_threshold(down, epsilon)


def cett() -> dict[str, Any]:
    """Bisect the threshold on neurons' outputs until the loss is 1 % up."""
    data = digits.load()
    torch.manual_seed(0)
    net = Block()
    digits.train(net, data, epochs=4, lr=2e-3)  # type: ignore[arg-type]
    x, y = data[1], data[3]
    with torch.inference_mode():
        z = net.hidden(x).numpy()
    down = net.down.weight.detach().numpy()
    down_t = np.ascontiguousarray(down.T)
    neurons = np.linalg.norm(down, axis=0)

    def outputs(epsilon: float) -> Array:
        t = thresholds(down, epsilon)
        return np.stack([gossamer.sparse_linear(row, down_t, threshold=t) for row in z])

    @torch.inference_mode()
    def loss(out: Array) -> float:
        return float(torch.nn.functional.cross_entropy(net.head(x + torch.from_numpy(out)), y))

    def sparsity(epsilon: float) -> float:
        return float((np.abs(z) * neurons < epsilon).mean())

    grid = np.linspace(0, 1, 8)
    curve = [float((np.abs(z) < thresholds(down, e)).mean()) for e in grid]
    claim(curve == sorted(curve) and curve[-1] > curve[0], f"sparsity rises with ε: {curve}")
    dense = loss(outputs(0.0))
    low, high = 0.0, 4.0
    for _ in range(20):
        middle = (low + high) / 2
        ratio = loss(outputs(middle)) / dense
        low, high = (middle, high) if ratio <= 1.01 else (low, middle)
        if 1.009 < ratio <= 1.01:
            break
    out = outputs(low)
    ratio = loss(out) / dense
    claim(1.009 < ratio <= 1.01, f"the bisection ends just below 1 %: {ratio:.4f}")
    mask = np.abs(z) * neurons >= low
    exact = (z * mask).astype(np.float64) @ down_t
    off = relative(out, exact)
    claim(off < 1e-4, f"the layer is the masked dense one, off by {off:.1e}")
    left_out = np.linalg.norm((z * ~mask) @ down_t, axis=1)
    whole = np.linalg.norm(z @ down_t, axis=1)
    real, relu = sparsity(low), float((z == 0).mean())
    claim(real > relu + 0.1, f"more than ReLU's zeros can go: {relu:.1%}, {real:.1%}")
    error = float((left_out / whole).mean())
    return {"loss": ratio, "sparsity": real, "zeros of ReLU": relu, "CETT": error}


def lazy() -> dict[str, Any]:
    """Keep the k largest activations of each token, at the densities of T5 and ViT."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1024, 96)).astype(np.float32)
    off = 0.0
    for density in (0.03, 0.063):
        z = np.maximum(rng.standard_normal((32, 1024)), 0).astype(np.float32)
        k = round(density * 1024)
        values, columns = prune.topk_rows(z, k)
        claim(all(len(set(row)) == k for row in columns.tolist()), f"{k} channels a token")
        mask = np.zeros(z.shape, bool)
        np.put_along_axis(mask, np.argsort(-z, axis=1, kind="stable")[:, :k], True, 1)
        out = gossamer.gather_decode(columns, values, weight)
        off = max(off, relative(out, (z * mask).astype(np.float64) @ weight))
        # What is left is as sparse as the activations of the paper's networks.
        sparse, least = z * mask, float(np.finfo(np.float32).tiny)
        rows = np.stack([gossamer.sparse_linear(row, weight, threshold=least) for row in sparse])
        off = max(off, relative(rows, sparse.astype(np.float64) @ weight))
        for token in (0, 31):
            unread = with_nan(weight, ~mask[token])
            again = gossamer.gather_decode(columns[token], values[token], unread)
            claim(again.tobytes() == out[token].tobytes(), f"at most {k} rows are read")
            again = gossamer.sparse_linear(sparse[token], unread, threshold=least)
            claim(again.tobytes() == rows[token].tobytes(), f"{k} rows are read where zeros stay")
    claim(off < 1e-5, f"the output is the masked dense one, off by {off:.1e}")
    values, columns = prune.topk_rows(z, 1024)
    whole = relative(gossamer.gather_decode(columns, values, weight), z.astype(np.float64) @ weight)
    claim(whole < 1e-5, f"all of them are the dense layer, off by {whole:.1e}")
    data = digits.load()
    net = digits.mlp((64, 256, 10), 0)
    digits.train(net, data, epochs=10, lr=2e-3)
    with torch.inference_mode():
        hidden = torch.relu(net[0](data[1]))
    return {
        "off by": off,
        "real density of a digits MLP": int(prune.nnz_stats(hidden)) / hidden.numel(),
    }


def blob(frames: int) -> Array:
    """Film a bright spot that moves over 24 x 24 pixels of a still background, in 16 levels."""
    rng = np.random.default_rng(0)
    still = rng.uniform(0, 0.4, (24, 24))
    i, j = np.mgrid[:24, :24]
    stream = []
    for t in range(frames):
        row, column = 12 + 7 * np.sin(0.11 * t), 12 + 7 * np.cos(0.07 * t)
        spot = np.exp(-((i - row) ** 2 + (j - column) ** 2) / 6)
        stream.append(np.round(16 * (still + spot)) / 16)
    return np.stack(stream).reshape(frames, -1)


def advance(x: Array, wt: Array, state: gossamer.DeltaState, *, refresh: bool = False) -> Array:
    """Send what has changed by a level, and return the layer's output."""
    return gossamer.delta_linear(x, wt, state, threshold=1 / 32, refresh=refresh)


def temporal() -> dict[str, Any]:
    """Follow a film by its changes: exact sums, few columns, drift that a refresh ends."""
    rng = np.random.default_rng(0)
    frames = blob(200)
    wt = rng.integers(-64, 64, (576, 32)) / 64  # products and sums of such numbers are exact
    state, sent, changed = gossamer.DeltaState(), [], []
    previous = np.zeros(576)
    for x in frames:
        y = advance(x, wt, state)
        claim(np.array_equal(y, x @ wt), "each frame's output is that of the dense layer")
        sent.append(state.sent)
        changed.append(int((x != previous).sum()))
        if len(sent) > 1:
            fresh = gossamer.DeltaState()
            fresh.last, fresh.sums = previous.copy(), previous @ wt
            unread = gossamer.delta_linear(x, with_nan(wt, x == previous), fresh, threshold=1 / 32)
            claim(np.array_equal(unread, y), "the weights of still pixels are not read")
        previous = x
    claim(sent == changed, "what is sent is what has changed")
    share = float(np.mean(sent[1:])) / 576
    claim(share < 0.2, f"few columns are touched: {share:.1%}")

    long = np.tile(frames, (5, 1)).astype(np.float32)
    w = rng.standard_normal((576, 32)).astype(np.float32)
    drift = {}
    for every in (0, 50):
        state, worst = gossamer.DeltaState(), 0.0
        for t, x in enumerate(long):
            y = advance(x, w, state, refresh=bool(every) and t % every == 0)
            if t >= 800:
                worst = max(worst, relative(y, x.astype(np.float64) @ w))
        drift[every] = worst
    claim(drift[0] < 1e-4, f"a thousand steps drift little: {drift[0]:.1e}")
    claim(drift[50] < drift[0] / 1.5, f"refreshing bounds the drift: {drift}")
    return {"columns touched": share, "drift": {"no refresh": drift[0], "each 50": drift[50]}}


PAPERS = {paper.__name__: paper for paper in (cats, chess, cett, lazy, temporal)}
main = functools.partial(run, PAPERS, "Papers on sparse activations.")

if __name__ == "__main__":
    main()
