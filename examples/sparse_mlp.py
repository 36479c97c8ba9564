"""Train a small MLP, prune it to 90 %, and run the sparse network from PyTorch and NumPy.

The network learns scikit-learn's handwritten digits. The smallest 90 % of each layer's weights
are set to zero and a short fine-tuning repairs the rest; then every layer becomes one
`gossamer.linear` call with its bias and ReLU fused. The script checks the sparse logits against
those of the masked dense network, and prints accuracy and time beside the dense ones.

    pip install "gossamer[examples]"
    python examples/sparse_mlp.py        # about ten seconds
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import digits
import gossamer
import numpy as np
import torch
from gossamer import prune, schedule

WIDTHS = (64, 512, 512, 10)
SPARSITY = 0.9


def sparse_forward(x: Any, layers: Sequence[tuple[gossamer.Packed, Any]]) -> Any:
    """Run the MLP on the arrays of whichever framework `x` and the biases come from."""
    for weight, bias in layers[:-1]:
        x = gossamer.linear(x, weight, bias=bias, activation="relu")
    weight, bias = layers[-1]
    return gossamer.linear(x, weight, bias=bias)


def dense_forward(x: np.ndarray, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Run the MLP with NumPy's dense product."""
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight.T + bias, 0)
    weight, bias = layers[-1]
    return x @ weight.T + bias


def median_us(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Time the calls in turns, so that a busy moment hits all of them, and return the medians."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, samples in zip(calls, times, strict=True):
            call()  # bring its weights back into the cache
            start = time.perf_counter()
            for _ in range(5):
                call()
            samples.append((time.perf_counter() - start) / 5)
    return [1e6 * statistics.median(samples) for samples in times]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, prune, compare and time; return what was printed."""
    parser = argparse.ArgumentParser(description="A pruned MLP through gossamer.")
    parser.add_argument("--rounds", type=int, default=30, help="timing rounds")
    args = parser.parse_args(argv)

    data = digits.load()
    _, x_test, _, y_test = data
    net = digits.mlp(WIDTHS, seed=0)
    digits.train(net, data, epochs=10)
    with torch.inference_mode():
        unpruned = net(x_test)

    weights = digits.weights(net)
    masks = [prune.topk_mask(prune.score(w), schedule.nnz(w.numel(), SPARSITY)) for w in weights]

    def after_step(step: int) -> None:
        for w, mask in zip(weights, masks, strict=True):
            w.mul_(mask)

    digits.train(net, data, epochs=10, after_step=after_step)
    with torch.inference_mode():
        expected = net(x_test)

    # From PyTorch: CSR and pack take the tensors as they are, and linear returns a tensor.
    layers = [
        (
            gossamer.pack(gossamer.CSR.from_dense(layer.weight.detach(), mask=mask)),
            layer.bias.detach(),
        )
        for layer, mask in zip(net[::2], masks, strict=True)
    ]
    logits = sparse_forward(x_test, layers)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)

    # From NumPy: the same calls. Without a mask, from_dense keeps what is not zero.
    np_dense = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in net[::2]]
    np_layers = [(gossamer.pack(gossamer.CSR.from_dense(w)), b) for w, b in np_dense]
    np_logits = sparse_forward(x_test.numpy(), np_layers)
    np.testing.assert_allclose(np_logits, expected.numpy(), rtol=1e-4, atol=1e-4)

    print(f"MLP {' - '.join(map(str, WIDTHS))}, {SPARSITY:.0%} of each layer's weights pruned\n")
    result: dict[str, Any] = {"accuracy": {}, "us": {}}
    for name, found in (
        ("dense", unpruned),
        ("pruned, dense product", expected),
        ("pruned, gossamer from torch", logits),
        ("pruned, gossamer from NumPy", torch.from_numpy(np_logits)),
    ):
        accuracy = float((found.argmax(1) == y_test).float().mean())
        result["accuracy"][name] = accuracy
        print(f"accuracy {accuracy:.1%}   {name}")

    print("\nbatch  framework      dense   gossamer  speed-up")
    for batch in (1, 32, len(x_test)):
        x, np_x = x_test[:batch], x_test[:batch].numpy()
        with torch.inference_mode():
            times = median_us(
                [
                    lambda x=x: net(x),
                    lambda x=x: sparse_forward(x, layers),
                    lambda x=np_x: dense_forward(x, np_dense),
                    lambda x=np_x: sparse_forward(x, np_layers),
                ],
                args.rounds,
            )
        for framework, dense, sparse in (("torch", *times[:2]), ("NumPy", *times[2:])):
            result["us"][f"{framework}, batch {batch}"] = {"dense": dense, "gossamer": sparse}
            print(
                f"{batch:>5}  {framework:<9} {dense:>7.0f} µs {sparse:>7.0f} µs"
                f" {dense / sparse:>8.2f}×"
            )
    return result


if __name__ == "__main__":
    main()
