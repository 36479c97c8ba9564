"""scikit-learn's handwritten digits and the networks that the examples train on them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

try:
    import numpy as np
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ImportError as error:
    sys.exit(f'{error}. This example needs: pip install "gossamer[examples]"')

Split = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def load() -> Split:
    """Return x_train, x_test, y_train, y_test; pixels are in [0, 1]."""
    pixels, labels = load_digits(return_X_y=True)
    split = train_test_split(pixels.astype(np.float32) / 16, labels, test_size=0.25, random_state=0)
    x_train, x_test, y_train, y_test = map(torch.from_numpy, split)
    return x_train, x_test, y_train, y_test


def mlp(widths: Sequence[int], seed: int) -> torch.nn.Sequential:
    """Build an MLP with ReLUs between its layers."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential()
    for inputs, outputs in itertools.pairwise(widths):
        net.extend([torch.nn.Linear(inputs, outputs), torch.nn.ReLU()])
    net.pop(-1)
    return net


def weights(net: torch.nn.Sequential) -> list[torch.Tensor]:
    """List the weight matrices, as tensors without gradients that share the network's memory."""
    return [layer.weight.data for layer in net if isinstance(layer, torch.nn.Linear)]


def train(
    net: torch.nn.Sequential,
    data: Split,
    *,
    epochs: int,
    lr: float = 1e-3,
    before_step: Callable[[int], None] = lambda step: None,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Minimise the cross-entropy; the callbacks get the number of steps done before."""
    x, _, y, _ = data
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    step = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            before_step(step)
            optimizer.step()
            after_step(step)
            step += 1


def steps_of(data: Split, epochs: int) -> int:
    """Count the steps that `train` takes."""
    return epochs * -(-len(data[0]) // 64)


@torch.inference_mode()
def accuracy(net: Callable[[torch.Tensor], torch.Tensor], data: Split) -> float:
    """Return the share of test digits that are recognised."""
    _, x, _, y = data
    return float((net(x).argmax(1) == y).float().mean())
