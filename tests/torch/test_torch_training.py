"""Sparse training on real data, the digits of scikit-learn, in float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gossamer import prune, regrow, schedule

torch = pytest.importorskip("torch")
from gossamer.torch import SparseLinear, sparsify_  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's threads spin, which takes long for small products on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


DTYPES = [torch.float32, torch.bfloat16]


class Digits:
    """A network of 64, 128 and 10 units, and images in two parts."""

    def __init__(self, dtype: Any) -> None:
        data = pytest.importorskip("sklearn.datasets")
        images, labels = data.load_digits(return_X_y=True)
        x, y = torch.tensor(images / 16, dtype=dtype), torch.tensor(labels)
        held = torch.arange(len(x)) % 4 == 0
        self.x, self.y, self.held = x[~held], y[~held], (x[held], y[held])
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(dtype)
        self.order = torch.Generator().manual_seed(1)

    def batch(self) -> tuple[Any, Any]:
        chosen = torch.randperm(len(self.x), generator=self.order)[:128]
        return self.x[chosen], self.y[chosen]

    def accuracy(self) -> float:
        x, y = self.held
        with torch.no_grad():
            return float((self.model(x).argmax(1) == y).float().mean())


def adam(model: Any) -> Any:
    return torch.optim.Adam(model.parameters(), lr=4e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pruned_network_is_fine_tuned(dtype: Any) -> None:
    digits = Digits(dtype)

    def train(steps: int) -> float:
        optimizer = adam(digits.model)
        for _ in range(steps):
            x, y = digits.batch()
            optimizer.zero_grad()
            nn.functional.cross_entropy(digits.model(x), y).backward()
            optimizer.step()
        return digits.accuracy()

    dense = train(80)
    sparsify_(digits.model, sparsity=0.9, method="erk")
    pruned, tuned = digits.accuracy(), train(100)
    assert dense > 0.93
    assert pruned < dense - 0.05
    assert tuned > dense - 0.06
    assert digits.model[0].values.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_rigl_trains_from_scratch_with_moments_that_follow(dtype: Any) -> None:
    digits = Digits(dtype)
    shapes = [(128, 64), (10, 128)]
    counts = schedule.allocate(shapes, sparsity=0.9, method="erk")
    layers = [digits.model[0], digits.model[2]]
    for place, (layer, k) in enumerate(zip(layers, counts, strict=True)):
        mask = prune.random_mask(layer.weight.detach(), k, seed=5, step=place)
        digits.model[2 * place] = SparseLinear.from_dense(layer, mask=mask)
    layers = [digits.model[0], digits.model[2]]
    optimizer = adam(digits.model)
    before, moved = digits.accuracy(), 0
    for step in range(240):
        x, y = digits.batch()
        optimizer.zero_grad()
        h = layers[0](x)
        a = torch.relu(h)
        out = layers[1](a)
        loss = nn.functional.cross_entropy(out, y)
        regrows = step % 20 == 19 and step < 180
        if regrows:
            dh, dout = torch.autograd.grad(loss, [h, out], retain_graph=True)
        loss.backward()
        optimizer.step()
        if not regrows:
            continue
        with torch.no_grad():
            for layer, inputs, slope in ((layers[0], x, dh), (layers[1], a, dout)):
                n = int(schedule.cosine(step, end=180, initial=0.3) * layer.nnz)
                state = optimizer.state[layer.values]
                moments = [state["exp_avg"], state["exp_avg_sq"]]
                old = layer.matrix.with_values(moments[1].clone())
                dense = old.to_dense()
                grow = prune.score((slope.T @ inputs).contiguous())
                _, src = regrow.csr_drop_grow_(layer.matrix, grow, n, n, states=moments)
                # What stays has the moments that it had; what is new has none.
                now = layer.matrix.with_values(moments[1]).to_dense()
                stays = layer.matrix.with_values((src >= 0).to(dtype)).to_dense() > 0
                assert torch.equal(now, torch.where(stays, dense, 0))
                moved += int((src < 0).sum())
    assert moved > 300
    assert [layer.nnz for layer in layers] == counts
    assert before < 0.3
    assert digits.accuracy() > 0.9
