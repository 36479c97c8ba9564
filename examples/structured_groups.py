"""Four papers that remove whole units: a network with zero rows becomes a smaller dense one.

What is removed is chosen by a group's norm, by gates, by what a unit computes or by a search over
widths. In each case the network that still has the zero rows, in CSR, and the compacted one give
the same outputs.

    envelope    Learning k-level structured sparse networks (WGSEF, 2022): the proximal operator of
                "at most k groups"; k trained out of 256 units beat k units from the start
    gates       Learning a consensus sub-network (2023): gates that polarization drives to 0 or 1
    dynamics    Model-based control with sparse neural dynamics (2023): each unit of a pendulum's
                model becomes a ReLU, the identity or nothing; identities fold into a linear skip
    widths      Network pruning via transformable architecture search (2019): widths by a search
                that pays for multiplications, then distillation

    pip install "gossamer[examples]"
    python examples/structured_groups.py         # all, about ten seconds
    python examples/structured_groups.py gates   # one
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import digits
import gossamer
import numpy as np
import torch
from claims import claim, run
from gossamer import prune

Tensor = torch.Tensor
EPOCHS = 20
cross_entropy = torch.nn.functional.cross_entropy


def sparse(net: torch.nn.Sequential) -> Callable[[Tensor], Tensor]:
    """Run a network of two layers on CSR weights that have its zeros left out."""
    first, second = (gossamer.CSR.from_dense(w) for w in digits.weights(net))
    biases = [net[0].bias.detach(), net[2].bias.detach()]

    def forward(x: Tensor) -> Tensor:
        hidden = gossamer.linear(x, first, bias=biases[0], activation="relu")
        return gossamer.linear(hidden, second, bias=biases[1])

    return forward


def compacted(net: torch.nn.Sequential, kept: Tensor) -> torch.nn.Sequential:
    """Keep some hidden units: rows of the first layer, columns of the second."""
    small = digits.mlp((net[0].in_features, int(kept.sum()), net[2].out_features), 0)
    small.to(net[0].weight.dtype)
    small[0].weight.data = net[0].weight.data[kept]
    small[0].bias.data = net[0].bias.data[kept]
    small[2].weight.data = net[2].weight.data[:, kept]
    small[2].bias.data = net[2].bias.data
    return small


@torch.inference_mode()
def difference(a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Return the largest difference of two networks' outputs."""
    return float((a(x) - b(x)).abs().max())


def exactly(net: torch.nn.Sequential, kept: Tensor, x: Tensor) -> float:
    """Return how far the sparse and the compacted network differ in 64-bit floats."""
    net = copy.deepcopy(net).double()
    return difference(sparse(net), compacted(net, kept), x.double())


def units(net: torch.nn.Sequential) -> Tensor:
    """Gather what belongs to each hidden unit: its weights in, its bias, its weights out."""
    return torch.cat(
        [net[0].weight.data, net[0].bias.data[:, None], net[2].weight.data.T], 1
    ).contiguous()


def set_units(net: torch.nn.Sequential, rows: Tensor) -> None:
    """Put back what `units` gathered."""
    inputs = net[0].in_features
    net[0].weight.data.copy_(rows[:, :inputs])
    net[0].bias.data.copy_(rows[:, inputs])
    net[2].weight.data.copy_(rows[:, inputs + 1 :].T)


def shrink_groups(rows: Tensor, k: int, strength: float) -> Tensor:
    """Take a proximal step towards at most k groups."""
    return prune.sef_prox_(rows, strength, k, per="row")


def leading(rows: Tensor, k: int) -> Tensor:
    """Mark the k rows of largest norm."""
    return prune.topk_mask(prune.block_pool(rows, (1, rows.shape[1]), reduce="l2")[:, 0], k)


def train_groups(
    data: digits.Split, k: int, seed: int, strength: float = 5e-4
) -> tuple[torch.nn.Sequential, Tensor, float]:
    """Shrink 256 units towards k of them, keep the k leading ones, train on with those.

    Returned are the network, the units that are left and the share of all squares that those had.
    """
    net = digits.mlp((64, 256, 10), seed)
    cut = 2 * digits.steps_of(data, EPOCHS) // 3
    share = 0.0
    kept = torch.ones(256, dtype=torch.bool)

    def after_step(step: int) -> None:
        nonlocal kept, share
        rows = units(net)
        if step < cut:
            rows = shrink_groups(rows, k, strength)
        elif step == cut:
            kept = leading(rows, k)
            share = float((rows[kept] ** 2).sum() / (rows**2).sum())
        set_units(net, rows * kept[:, None])

    digits.train(net, data, epochs=EPOCHS, lr=2e-3, after_step=after_step)
    return net, kept, share


def envelope() -> dict[str, Any]:
    """Train k groups out of 256 and compare with networks that have k units from the start."""
    data = digits.load()
    found: dict[int, dict[str, float]] = {}
    shares: dict[int, list[float]] = {}
    off = 0.0
    for k in (64, 32, 16, 8):
        accuracies: dict[str, list[float]] = {"k of 256": [], "k": []}
        for seed in range(3):
            net, kept, share = train_groups(data, k, seed)
            shares.setdefault(k, []).append(share)
            alive = int((prune.nnz_stats(units(net), per="row") > 0).sum())
            claim(alive == k, f"exactly {k} groups survive: {alive}")
            off = max(off, exactly(net, kept, data[1]))
            accuracies["k of 256"].append(digits.accuracy(sparse(net), data))
            small = digits.mlp((64, k, 10), seed)
            digits.train(small, data, epochs=EPOCHS, lr=2e-3)
            accuracies["k"].append(digits.accuracy(small, data))
        found[k] = {name: float(np.mean(v)) for name, v in accuracies.items()}
    claim(off < 1e-12, f"the compacted network is the sparse one, off by {off:.1e}")
    gains = {k: row["k of 256"] - row["k"] for k, row in found.items()}
    claim(min(gains.values()) > 0, f"k of 256 beat k at each k: {gains}")
    held = float(np.mean(shares[32]))
    free = float(np.mean([train_groups(data, 32, seed, 0.0)[2] for seed in range(3)]))
    claim(held > 1.2 * free, f"steps gather the weights in 32 units: {held:.2f}, {free:.2f}")
    share = {"shrunk": held, "not shrunk": free}
    return {"accuracy at k": found, "squares in 32 units": share, "off by": off}


def train_gates(data: digits.Split, seed: int) -> tuple[torch.nn.Sequential, Tensor]:
    """Train weights and a gate for each hidden unit, the gates by polarization too."""
    net = digits.mlp((64, 256, 10), seed)
    gate = torch.full((256,), 0.5) + 0.05 * torch.randn(256)
    gate.requires_grad_()
    optimizer = torch.optim.Adam([*net.parameters(), gate], lr=2e-3)
    x, _, y, _ = data
    for _ in range(30):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            hidden = torch.relu(net[0](x[rows])) * gate
            cross_entropy(net[2](hidden), y[rows]).backward()
            gate.grad += 0.05 * polarize(gate.detach())
            optimizer.step()
            gate.data.clamp_(0, 1)
    return net, gate.detach()


def polarize(gate: Tensor) -> Tensor:
    """Return the slope that drives gates apart, to about as many zeros as ones."""
    return prune.polarization(gate, t=0.1)[1]


def gates() -> dict[str, Any]:
    """Close half of the gates and remove their units."""
    data = digits.load()
    accuracies: dict[str, list[float]] = {"dense": [], "half of the units": []}
    between, closed, off = [], [], 0.0
    for seed in range(3):
        net, gate = train_gates(data, seed)
        between.append(float(((gate > 0.1) & (gate < 0.9)).float().mean()))
        closed.append(float((gate <= 0.1).float().mean()))
        kept = prune.topk_mask(gate, 128)
        gated = copy.deepcopy(net)
        gated[2].weight.data *= gate * kept
        gated[0].weight.data *= kept[:, None]
        gated[0].bias.data *= kept
        off = max(off, exactly(gated, kept, data[1]))
        accuracies["half of the units"].append(digits.accuracy(compacted(gated, kept), data))
        dense = digits.mlp((64, 256, 10), seed)
        digits.train(dense, data, epochs=30, lr=2e-3)
        accuracies["dense"].append(digits.accuracy(dense, data))
    mean = {name: float(np.mean(v)) for name, v in accuracies.items()}
    claim(max(between) < 0.05, f"gates end at 0 or 1, but for {max(between):.1%}")
    claim(all(0.4 < c < 0.6 for c in closed), f"half of the gates close: {closed}")
    claim(off < 1e-12, f"the compacted network is the gated one, off by {off:.1e}")
    claim(mean["half of the units"] > mean["dense"] - 0.01, f"at most a point is lost: {mean}")
    return {"accuracy": mean, "closed": float(np.mean(closed)), "in between": max(between)}


def pendulum(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw states and torques; return them and how the state changes in a twentieth of a second."""
    rng = np.random.default_rng(seed)
    theta, omega = rng.uniform(-np.pi, np.pi, count), rng.uniform(-4, 4, count)
    torque = rng.uniform(-2, 2, count)
    x = np.stack([np.sin(theta), np.cos(theta), omega, torque], 1)
    faster = omega + 0.05 * (15 * np.sin(theta) + 3 * torque)
    y = np.stack([np.sin(theta + 0.05 * faster), np.cos(theta + 0.05 * faster), faster], 1)
    return torch.from_numpy(x), torch.from_numpy(10 * (y - x[:, :3]))


def unit_mix(h: Tensor, logits: Tensor, heat: float) -> Tensor:
    """Mix ReLU, identity and nothing for each unit."""
    p = torch.softmax(logits / heat, 1)
    return p[:, 0] * torch.relu(h) + p[:, 1] * h


def folded(net: torch.nn.Sequential, relu: Tensor, same: Tensor) -> Callable[[Tensor], Tensor]:
    """Keep the ReLU units and fold those that are the identity into a linear skip."""
    small = compacted(net, relu)
    # Only the columns of the identities: the product of two sparse layers, no unit left.
    out = gossamer.CSR.from_dense(net[2].weight.data.contiguous(), same.repeat(3, 1))
    skip = gossamer.spmm(out, net[0].weight.data)
    shift = gossamer.spmm(out, net[0].bias.data[:, None].contiguous())[:, 0]
    return lambda x: small(x) + x @ skip.T + shift


def dynamics() -> dict[str, Any]:
    """Model a pendulum with few ReLUs."""
    x, y = pendulum(1000, 0)
    x_test, y_test = pendulum(500, 1)
    torch.manual_seed(0)
    steps, units_, relus = 1000, 128, 32

    def fit(activation: Callable[[Tensor, int], Tensor], more: list[Tensor]) -> Any:
        net = digits.mlp((4, units_, 3), 0).double()
        optimizer = torch.optim.Adam([*net.parameters(), *more], lr=2e-2)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            optimizer.zero_grad()
            out = net[2](activation(net[0](x), step))
            loss = ((out - y) ** 2).mean()
            (loss + (1e-3 * torch.softmax(more[0], 1)[:, 0].mean() if more else 0)).backward()
            optimizer.step()
            decay.step()
        return net

    logits = (0.1 * torch.randn(units_, 3)).double().requires_grad_()
    relu = same = torch.zeros(units_, dtype=torch.bool)

    def annealed(h: Tensor, step: int) -> Tensor:
        nonlocal relu, same
        if step < steps // 4:
            return unit_mix(h, logits, 1 - 3.6 * step / steps)
        if step == steps // 4:
            relu = prune.topk_mask(logits.detach()[:, 0].contiguous(), relus)
            same = ~relu & (logits.detach()[:, 1] >= logits.detach()[:, 2])
        return torch.where(relu, torch.relu(h), torch.where(same, h, 0))

    net = fit(annealed, [logits])

    def masked(x: Tensor) -> Tensor:
        return net[2](annealed(net[0](x), steps))

    small = folded(net, relu, same)
    off = difference(masked, small, x_test)
    claim(off < 1e-10, f"the folded network is the one with three kinds of units, off by {off:.1e}")
    # The binary decisions of a planner: units whose sign the input decides.
    binary = int(((net[0](x_test) * relu) != 0).any(0).sum())
    claim(binary == relus == units_ // 4, f"as many binary variables as ReLUs: {binary}")
    dense = fit(lambda h, step: torch.relu(h), [])
    with torch.inference_mode():
        errors = {
            "dense": float(((dense(x_test) - y_test) ** 2).mean()),
            "sparse": float(((small(x_test) - y_test) ** 2).mean()),
        }
    claim(errors["sparse"] <= 1.2 * errors["dense"], f"a quarter of the ReLUs will do: {errors}")
    kinds = {"ReLU": relus, "identity": int(same.sum()), "zero": units_ - relus - int(same.sum())}
    return {"MSE": errors, "units": kinds, "off by": off}


CHOICES = (16, 32, 64, 128)


def multiplications(widths: tuple[int, ...]) -> int:
    """Count the multiplications of an MLP for one input."""
    return sum(a * b for a, b in itertools.pairwise(widths))


def search_width(data: digits.Split, price: float, seed: int) -> int:
    """Learn a distribution over widths, the cost of each in the loss; return the likeliest."""
    net = digits.mlp((64, CHOICES[-1], 10), seed)
    logits = torch.zeros(len(CHOICES), requires_grad=True)
    costs = torch.tensor([multiplications((64, w, 10)) for w in CHOICES], dtype=torch.float32)
    optimizer = torch.optim.Adam(
        [{"params": net.parameters(), "lr": 2e-3}, {"params": [logits], "lr": 2e-2}]
    )
    x, _, y, _ = data
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            p = torch.softmax(logits, 0)
            hidden = torch.relu(net[0](x[rows]))
            # Channel-wise interpolation brings every width to the widest.
            mixed = sum(
                share
                * torch.nn.functional.interpolate(hidden[:, None, :w], CHOICES[-1], mode="linear")[
                    :, 0
                ]
                for share, w in zip(p, CHOICES, strict=True)
            )
            loss = cross_entropy(net[2](mixed), y[rows]) + price * (p * costs).sum() / costs[-1]
            loss.backward()
            optimizer.step()
    return CHOICES[int(logits.argmax())]


def widths() -> dict[str, Any]:
    """Search a width at several prices, distil a network to it and compact that."""
    data = digits.load()
    x = data[0]
    teacher = digits.mlp((64, CHOICES[-1], 10), 0)
    digits.train(teacher, data, epochs=15, lr=2e-3)
    chosen = {price: search_width(data, price, 0) for price in (0.0, 0.3, 10.0)}
    claim(
        list(chosen.values()) == sorted(chosen.values(), reverse=True), f"price shrinks: {chosen}"
    )
    claim(chosen[10.0] == CHOICES[0] < chosen[0.0], f"the price is what shrinks it: {chosen}")
    width = chosen[0.3]
    claim(CHOICES[0] < width < CHOICES[-1], f"a price in between, a width in between: {chosen}")

    net = copy.deepcopy(teacher)
    kept = leading(units(net), width)
    with torch.no_grad():
        soft = torch.softmax(teacher(x) / 4, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(15):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(net(x[rows]) / 4, soft[rows]).backward()
            optimizer.step()
            set_units(net, units(net) * kept[:, None])
    small = compacted(net, kept)
    off = exactly(net, kept, data[1])
    claim(off < 1e-12, f"the compacted network is the masked one, off by {off:.1e}")
    counted = sum(int(prune.nnz_stats(w)) for w in digits.weights(net))
    stated = multiplications((64, width, 10))
    claim(counted == stated, f"as many weights as the formula says: {counted}, {stated}")
    found = {"teacher": digits.accuracy(teacher, data), "distilled": digits.accuracy(small, data)}
    claim(found["distilled"] > found["teacher"] - 0.02, f"the small network learns: {found}")
    return {"width at price": chosen, "accuracy": found, "multiplications": counted}


PAPERS = {paper.__name__: paper for paper in (envelope, gates, dynamics, widths)}
main = functools.partial(run, PAPERS, "Papers that remove whole units.")

if __name__ == "__main__":
    main()
