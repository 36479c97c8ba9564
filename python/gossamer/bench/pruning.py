"""Masks and drop-and-grow: their operands, what results must be, and who computes them.

`magnitude` keeps the k largest |w| of a matrix, `rows` the k largest |w|·√Σx² of each row (Wanda),
`nm` the 2 largest |w| of each 4 along rows, and `rigl` drops three tenths of the active entries by
|w| and grows as many by |g|.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .case import Array, Case
    from .contenders import Call, Contender

OPS = ("magnitude", "rows", "nm", "rigl")
GROUP, KEPT = 4, 2  # of `nm`
DROPPED = 0.3  # of the active entries, by `rigl`


def kept(case: Case) -> int:
    """Count the entries that a case keeps: of the matrix, or of each row for `rows`."""
    n = case.k if case.op == "rows" else case.m * case.k
    return n - int(case.sparsity * n)


def total_kept(case: Case) -> int:
    """Count the entries that a case keeps in all."""
    if case.op == "nm":
        return case.m * case.k * KEPT // GROUP
    return kept(case) * (case.m if case.op == "rows" else 1)


def compulsory_bytes(case: Case, size: int) -> float:
    """Count what must be read and written once, masks a byte an entry."""
    elements = case.m * case.k
    if case.op == "rigl":
        # The mask is read; weights are read where it is set, gradients where it is not. Written
        # are the entries that change.
        kept_entries = kept(case)
        changed = 2 * int(DROPPED * kept_entries)
        return elements * (1 + size) + changed * (1 + size)
    columns = 4 * case.k if case.op == "rows" else 0
    return float(elements * (size + 1) + columns)


def make_inputs(case: Case) -> dict[str, Array]:
    """Draw normal weights, and what else the op reads."""
    rng = np.random.default_rng([case.seed, case.m, case.k, 7])
    inputs = {"w": rng.standard_normal((case.m, case.k), np.float32)}
    if case.op == "rows":
        inputs["col"] = rng.random(case.k, np.float32) + 0.5
    if case.op == "rigl":
        inputs["g"] = rng.standard_normal((case.m, case.k), np.float32)
        mask = np.zeros(case.m * case.k, bool)
        mask[rng.permutation(mask.size)[: kept(case)]] = True
        inputs["mask"] = mask.reshape(case.m, case.k)
        inputs["w"] *= inputs["mask"]
    return inputs


def _top(score: Array, k: int) -> tuple[Array, Array]:
    """Mark the k largest, and what is tied with the last of them."""
    flat = score.reshape(-1)
    if k == 0:
        return np.zeros(score.shape, bool), np.zeros(score.shape, bool)
    least = np.partition(flat, flat.size - k)[flat.size - k]
    mask, tied = score > least, score == least
    first = np.flatnonzero(tied)[: k - int(mask.sum())]
    mask.reshape(-1)[first] = True
    return mask, tied


def make_reference(case: Case, inputs: dict[str, Array]) -> dict[str, Array]:
    """Compute the mask, and where an equal score leaves a choice to those who promise no order."""
    w = inputs["w"]
    if case.op == "magnitude":
        mask, free = _top(abs(w), kept(case))
    elif case.op == "rows":
        score = abs(w) * np.sqrt(inputs["col"])
        order = np.argsort(-score, axis=1, kind="stable")
        mask = np.zeros(w.shape, bool)
        np.put_along_axis(mask, order[:, : kept(case)], True, axis=1)
        least = np.take_along_axis(score, order[:, kept(case) - 1 : kept(case)], axis=1)
        free = abs(score - least) <= 1e-6 * least
    elif case.op == "nm":
        groups = abs(w).reshape(-1, GROUP)
        order = np.argsort(-groups, axis=1, kind="stable")
        mask = np.zeros(groups.shape, bool)
        np.put_along_axis(mask, order[:, :KEPT], True, axis=1)
        free = groups == np.take_along_axis(groups, order[:, KEPT - 1 : KEPT], axis=1)
    else:
        active = inputs["mask"]
        dropped = int(DROPPED * kept(case))
        stay, tied = _top(np.where(active, abs(w), -1.0), kept(case) - dropped)
        grow, grow_tied = _top(np.where(stay, -1.0, abs(inputs["g"])), dropped)
        mask, free = stay | grow, (tied & active) | (grow_tied & ~stay)
    return {"expected": mask.reshape(w.shape), "free": free.reshape(w.shape)}


def check(reference: dict[str, Array], result: Any) -> float:
    """Compare masks: 0 where they agree except at ties, else infinite."""
    got = np.asarray(result).astype(bool)
    if got.shape != reference["expected"].shape:
        return float("inf")
    return 0.0 if np.all((got == reference["expected"]) | reference["free"]) else float("inf")


def _nothing(case: Case, matrix: Any) -> None:
    return None


def _as_array(case: Case, returned: Any) -> Any:
    return returned.numpy() if hasattr(returned, "numpy") else returned


def _ours(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    prune, regrow = import_module("gossamer").prune, import_module("gossamer").regrow
    w = inputs["w"]
    if case.op == "rigl":
        mask, weights, g = inputs["mask"].copy(), w.copy(), inputs["g"]
        dropped = int(DROPPED * kept(case))

        def step() -> Array:
            drop, grow = prune.score(weights, "magnitude"), prune.score(g, "magnitude")
            regrow.drop_grow_(mask, drop, grow, dropped, dropped, weights=weights)
            return mask

        return step
    return {
        "magnitude": lambda: prune.topk_mask(prune.score(w), kept(case)),
        "rows": lambda: prune.topk_mask(
            prune.score(w, "wanda", col=inputs["col"]), kept(case), per="row"
        ),
        "nm": lambda: prune.nm_mask(prune.score(w), KEPT, GROUP),
    }[case.op]


def _partition(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    w, k = inputs["w"], kept(case)
    n = w.size if case.op == "magnitude" else case.k

    def whole() -> Array:
        score = np.abs(w)
        return np.asarray(score >= np.partition(score.reshape(-1), n - k)[n - k])

    def rows() -> Array:
        score = np.abs(w) * np.sqrt(inputs["col"])
        return np.asarray(score >= np.partition(score, n - k, axis=1)[:, n - k : n - k + 1])

    return whole if case.op == "magnitude" else rows


def _torch_topk(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    torch = import_module("torch")
    t = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    w, k = t["w"], kept(case)

    def scatter(shape: Any, index: Any) -> Any:
        return torch.zeros(shape, dtype=torch.bool).scatter_(-1, index, True)

    def whole() -> Any:
        return scatter(w.numel(), torch.topk(w.abs().view(-1), k).indices).view_as(w)

    def rows() -> Any:
        return scatter(w.shape, torch.topk(w.abs() * t["col"].sqrt(), k, dim=1).indices)

    def groups() -> Any:
        of = w.abs().view(-1, GROUP)
        return scatter(of.shape, torch.topk(of, KEPT, dim=1).indices).view_as(w)

    def rigl() -> Any:
        mask, dropped = t["mask"], int(DROPPED * k)
        least = torch.tensor(-1.0)
        score = torch.where(mask, w.abs(), least).view(-1)
        stay = scatter(w.numel(), torch.topk(score, k - dropped).indices)
        score = torch.where(stay.view_as(w), least, t["g"].abs()).view(-1)
        mask.copy_((stay.scatter_(-1, torch.topk(score, dropped).indices, True)).view_as(w))
        w.mul_(mask)
        return mask

    return {"magnitude": whole, "rows": rows, "nm": groups, "rigl": rigl}[case.op]


def _torch_kthvalue(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    torch = import_module("torch")
    w, k = torch.from_numpy(inputs["w"]), kept(case)

    def call() -> Any:
        score = w.abs()
        return score >= torch.kthvalue(score.view(-1), w.numel() - k + 1).values

    return call


def _torch_prune(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    torch = import_module("torch")
    methods = import_module("torch.nn.utils.prune")
    weight = torch.nn.Parameter(torch.from_numpy(inputs["w"]))
    layer = torch.nn.Linear(1, 1, bias=False)

    def call() -> Any:
        layer.weight = weight
        amount = weight.numel() - kept(case)
        methods.global_unstructured([(layer, "weight")], methods.L1Unstructured, amount=amount)
        mask = layer.weight_mask
        # As before the call: the next one must not compose its mask with this one.
        hook = next(iter(layer._forward_pre_hooks))
        del layer._forward_pre_hooks[hook], layer._parameters["weight_orig"]
        del layer._buffers["weight_mask"], layer.__dict__["weight"]
        return mask

    return call


def _torch_ao(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    torch = import_module("torch")
    layer = torch.nn.Linear(case.k, case.m, bias=False)
    layer.weight.data = torch.from_numpy(inputs["w"])
    model = torch.nn.Sequential(layer)
    sparsifier = torch.ao.pruning.WeightNormSparsifier(
        sparsity_level=1.0, sparse_block_shape=(1, GROUP), zeros_per_block=GROUP - KEPT
    )
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])

    def call() -> Any:
        sparsifier.step()
        return model[0].parametrizations.weight[0].mask

    return call


def contenders(make: type[Contender]) -> list[Contender]:
    """List ours and the peers."""

    def one(
        name: str,
        runtime: str,
        ops: tuple[str, ...],
        bind: Callable[[Case, Any, dict[str, Array]], Call],
    ) -> Contender:
        return make(
            name=name,
            runtime=runtime,
            kind="ours" if runtime == "gossamer" else "selection",
            ops=frozenset(ops),
            weights=_nothing,
            bind=bind,
            result=_as_array,
            dtypes=frozenset({"f32"}),
            needs=("torch",) if runtime == "torch" else (),
        )

    return [
        one("mask", "gossamer", OPS, _ours),
        one("np.partition", "numpy", ("magnitude", "rows"), _partition),
        one("torch.topk", "torch", OPS, _torch_topk),
        one("torch.kthvalue", "torch", ("magnitude",), _torch_kthvalue),
        one("torch.prune", "torch", ("magnitude",), _torch_prune),
        one("torch.ao", "torch", ("nm",), _torch_ao),
    ]
