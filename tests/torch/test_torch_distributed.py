"""SparseLinear under DistributedDataParallel: two processes, gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from library import PATIENCE

pytest.importorskip("torch")
pytestmark = pytest.mark.once

WORKER = """
import sys

import torch
import torch.distributed as dist
from gossamer import regrow
from gossamer.torch import SparseLinear, sparsify_

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def make():
    torch.manual_seed(0)
    layers = torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
    return sparsify_(torch.nn.Sequential(*layers), sparsity=0.75)


def loss_of(model, x):
    return model(x).square().mean()


alone, model = make(), make()
shared = torch.nn.parallel.DistributedDataParallel(model)
x = torch.arange(8 * 16.0).reshape(8, 16).sin()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(3):
    optimizer.zero_grad()
    loss_of(shared, x[rank::2]).backward()
    if step == 0:
        loss_of(alone, x).backward()
        for a, b in zip(alone.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
    optimizer.step()
    for layer in model:
        if isinstance(layer, SparseLinear):
            moments = optimizer.state[layer.values]
            states = [moments["exp_avg"], moments["exp_avg_sq"]]
            with torch.no_grad():  # the same places on every rank, without communication
                grow = regrow.Random(1, step)
                regrow.csr_drop_grow_(layer.matrix, grow, 4, 4, states=states)
for x in model.state_dict().values():
    both = [torch.empty_like(x) for _ in range(2)]
    dist.all_gather(both, x)
    assert torch.equal(*both)
dist.destroy_process_group()
print("equal")
"""


def test_gradients_are_averaged_and_regrowth_is_the_same_on_all_ranks(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        out, error = rank.communicate(timeout=PATIENCE)
        assert out.strip() == "equal", error
