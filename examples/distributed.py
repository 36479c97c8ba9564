"""Two processes: prune, multiply, attend and fine-tune what neither holds alone.

The ops work on one process's arrays; torch.distributed moves what must move. Of sharded weights,
one budget is kept exactly while only histograms travel. A sparse MLP is cut between processes where
its nonzeros are halved. Attention over a sequence that is cut in two is merged from its parts,
forward and backward. A sparse model is fine-tuned by DistributedDataParallel.

    pip install "gossamer[examples]"
    torchrun --standalone --nproc-per-node 2 examples/distributed.py     # about ten seconds
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import gossamer
from claims import claim, run
from gossamer import prune

try:
    import torch
    import torch.distributed as dist
    from gossamer.torch import linear, sparsify_
    from sklearn.datasets import load_digits
    from torch import nn
except ImportError as error:
    sys.exit(f'{error}. This example needs: pip install "gossamer[examples]"')


def pruning() -> dict[str, Any]:
    """Keep exactly k weights of all layers of all processes; what travels are histograms."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    whole = [
        torch.randn(rows, cols, generator=generator).mul(50).round()  # many are equal
        for rows, cols in ((512, 256), (128, 512), (256, 128))
    ]
    mine = [w.chunk(ranks)[rank].contiguous() for w in whole]
    scores = [prune.score(w) for w in mine]
    k = sum(w.numel() for w in whole) // 10
    traffic = 0

    def total(count: Any) -> Any:
        nonlocal traffic
        summed = torch.as_tensor(count, dtype=torch.int64)
        traffic += summed.nbytes
        dist.all_reduce(summed)
        return summed.numpy()

    selection = prune.Selection(k)
    while not selection.done:
        selection.narrow(total(selection.histogram(scores)))
    # Of equal scores at the threshold, those of lower ranks come first.
    ties = torch.zeros(ranks, dtype=torch.int64)
    ties[rank] = selection.ties(scores)
    before = int(total(ties)[:rank].sum())
    masks = selection.emit(scores, ties_before=before)

    everything = [prune.score(w.chunk(ranks)[r].contiguous()) for r in range(ranks) for w in whole]
    expected = prune.topk_mask(everything, k)[rank * len(mine) : (rank + 1) * len(mine)]
    claim(
        all(map(torch.equal, masks, expected)), "the masks are those of a selection in one process"
    )
    kept = int(total(sum(int(mask.sum()) for mask in masks)))
    claim(kept == k, f"exactly {k} weights are kept, not {kept}")
    size = sum(w.nbytes for w in whole)
    claim(traffic < size / 8, f"{traffic} bytes travel, an eighth of the weights' {size} at most")
    return {"kept": kept, "bytes of weights": size, "bytes sent": traffic}


class Copied(torch.autograd.Function):
    """What every process has; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Return x."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        """Sum over the processes."""
        g = g.clone()
        dist.all_reduce(g)
        return g


class Summed(torch.autograd.Function):
    """The sum of what the processes have."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Sum over the processes."""
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the sum."""
        return g


def cut(a: gossamer.CSR, parts: int) -> list[int]:
    """Return the rows that part a matrix into pieces of nearly equal numbers of nonzeros."""
    targets = torch.arange(1, parts) * a.nnz // parts
    inner = torch.searchsorted(a.indptr, targets.to(a.indptr.dtype))
    return [0, *inner.tolist(), a.shape[0]]


def matrix(dense: torch.Tensor) -> tuple[gossamer.CSR, torch.Tensor]:
    """Return a sparse matrix and its values, which require grad."""
    a = gossamer.CSR.from_dense(dense)
    values = a.values.detach().requires_grad_()
    return a.with_values(values), values


def tensor_parallel() -> dict[str, Any]:
    """Cut a sparse MLP between the processes: rows of the first layer, columns of the second."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(1)
    inputs, hidden, outputs = 96, 256, 64
    density = torch.linspace(0.6, 0.0, hidden)  # the first units have most of the weights
    up = torch.randn(hidden, inputs, generator=generator)
    up *= torch.rand(hidden, inputs, generator=generator) < density[:, None]
    down = torch.randn(outputs, hidden, generator=generator)
    down *= torch.rand(outputs, hidden, generator=generator) < 0.1
    x, twin = (torch.linspace(-1, 1, 32 * inputs).view(32, inputs).requires_grad_() for _ in "ab")

    bounds = cut(gossamer.CSR.from_dense(up), ranks)
    own = slice(bounds[rank], bounds[rank + 1])
    (w_up, v_up), (w_down, v_down) = matrix(up[own]), matrix(down[:, own].contiguous())
    y = Summed.apply(linear(linear(Copied.apply(x), w_up, activation="relu"), w_down))
    y.square().sum().backward()

    (all_up, u), (all_down, d) = matrix(up), matrix(down)
    whole = linear(linear(twin, all_up, activation="relu"), all_down)
    whole.square().sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(y, whole, **close)
    torch.testing.assert_close(x.grad, twin.grad, **close)
    slopes = all_up.with_values(u.grad).to_dense()[own], all_down.with_values(d.grad).to_dense()
    torch.testing.assert_close(w_up.with_values(v_up.grad).to_dense(), slopes[0], **close)
    torch.testing.assert_close(
        w_down.with_values(v_down.grad).to_dense(), slopes[1][:, own], **close
    )

    counts = torch.zeros(ranks, dtype=torch.int64)
    counts[rank] = w_up.nnz
    dist.all_reduce(counts)
    spread = int(counts.max() - counts.min())
    longest = int(all_up.indptr.diff().max())
    claim(spread <= 2 * longest, f"pieces differ by {spread} nonzeros, two rows at most")
    by_rows = gossamer.CSR.from_dense(up[: hidden // ranks]).nnz
    claim(by_rows > 1.4 * counts.max(), "as many rows each would be out of balance")
    return {
        "rows": [b - a for a, b in pairwise(bounds)],
        "nonzeros": counts.tolist(),
    }


def sequence_parallel() -> dict[str, Any]:
    """Attend over a sequence that is cut in two: each process has its tokens' q, k and v."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    tokens, heads, features, block = 256, 4, 32, 16
    generator = torch.Generator().manual_seed(2)
    whole = [torch.randn(1, tokens, heads, features, generator=generator) for _ in range(4)]
    n = tokens // ranks
    q, k, v, do = (x[:, rank * n : (rank + 1) * n].contiguous() for x in whole)
    pattern = gossamer.BlockLayout.local_stride(
        heads=heads, blocks=tokens // block, local=3, stride=4, block=block
    )
    kept = torch.from_numpy(pattern.to_mask())[0].chunk(ranks, dim=1)[rank].chunk(ranks, dim=2)

    def layout(owner: int) -> dict[str, Any]:
        """Return the options of attention to one process's keys."""
        made = gossamer.BlockLayout.from_mask(kept[owner].contiguous(), block=block)
        return {"layout": made, "causal": True, "q_offset": (rank - owner) * n}

    owners = [owner for owner in range(ranks) if owner <= rank]  # others are behind the queries
    keys: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for owner in range(ranks):  # one at a time: all of them never need to be held
        k_s, v_s = (x.clone() for x in (k, v))
        dist.broadcast(k_s, owner)
        dist.broadcast(v_s, owner)
        keys[owner] = k_s, v_s
    parts = [gossamer.attention(q, *keys[owner], **layout(owner)) for owner in owners]
    o, lse = gossamer.merge_attention(parts)

    # With the o and lse of the whole, each part's gradient is its share of the whole's.
    dq = torch.zeros_like(q)
    dk, dv = torch.zeros_like(k), torch.zeros_like(v)
    for owner in range(ranks):
        slopes = [torch.zeros_like(k), torch.zeros_like(v)]
        if owner in owners:
            part = gossamer.attention_backward(do, q, *keys[owner], o, lse, **layout(owner))
            dq += part.dq
            slopes = [part.dk, part.dv]
        for slope in slopes:
            dist.reduce(slope, owner)
        if owner == rank:
            dk, dv = slopes

    expected, norm = gossamer.attention(*whole[:3], pattern, causal=True)
    gradients = gossamer.attention_backward(
        *(whole[3], *whole[:3], expected, norm, pattern), causal=True
    )
    own = slice(rank * n, (rank + 1) * n)
    torch.testing.assert_close(o, expected[:, own], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lse, norm[..., own], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip((dq, dk, dv), gradients[:3], strict=True):
        torch.testing.assert_close(ours, theirs[:, own], rtol=1e-4, atol=1e-5)
    return {"parts": len(parts), "blocks": sum(int(mask.sum()) for mask in kept)}


def fine_tuning() -> dict[str, Any]:
    """Prune a network to 95 % zeros, fine-tune it with half of each batch in each process."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(3)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    seen = torch.arange(len(x)) % 4 > 0
    held, y_held, x, y = x[~seen], y[~seen], x[seen], y[seen]
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def train(module: nn.Module, steps: int, share: slice) -> None:
        optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
        order = torch.Generator().manual_seed(4)
        for _ in range(steps):
            batch = torch.randperm(len(x), generator=order)[:128][share]
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()

    def accuracy() -> float:
        with torch.no_grad():
            return float((model(held).argmax(1) == y_held).float().mean())

    train(model, 150, slice(None))
    found = {"dense": accuracy()}
    sparsify_(model, sparsity=0.95, method="erk")
    found["pruned"] = accuracy()
    # The index arrays are the same everywhere, and stay so: no need to send them at each step.
    wrap = nn.parallel.DistributedDataParallel
    names = inspect.signature(wrap).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    train(wrap(model, **{name: False}), 200, slice(rank, None, ranks))
    found["fine-tuned"] = accuracy()
    claim(found["fine-tuned"] > found["pruned"] + 0.02, "fine-tuning brings accuracy back")
    claim(found["fine-tuned"] > found["dense"] - 0.05, f"as good as dense, or nearly: {found}")
    for tensor in model.state_dict().values():
        all_of_them = [torch.empty_like(tensor) for _ in range(ranks)]
        dist.all_gather(all_of_them, tensor)
        claim(all(torch.equal(tensor, other) for other in all_of_them), "all have one model")
    return {name: round(value, 3) for name, value in found.items()}


PARTS = {
    "pruning": pruning,
    "tensor_parallel": tensor_parallel,
    "sequence_parallel": sequence_parallel,
    "fine_tuning": fine_tuning,
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the parts that the command line names, all of them by default."""
    if "RANK" not in os.environ:
        sys.exit("Start it with: torchrun --standalone --nproc-per-node 2 examples/distributed.py")
    torch.set_num_threads(1)
    gossamer.set_num_threads(1)
    dist.init_process_group("gloo")
    if dist.get_rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        return run(PARTS, __doc__ or "", argv)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
