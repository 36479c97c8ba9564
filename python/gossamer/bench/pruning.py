"""Masks and drop-and-grow: their operands, what results must be, and who computes them.

`magnitude` keeps the k largest |w| of a matrix, `list` the same of a list of matrices with one
budget, `rows` the k largest |w|·√Σx² of each row (Wanda), `groups` the k largest |w| of each 128
along rows, `nm` the 2 largest |w| of each 4, `nm16` the 8 largest of each 16, `block_mask` the
blocks of 16 by 16 with the largest Σ|w|, and `random` k entries of the matrix. `topk_rows` takes
the values and columns of the k largest x of each row, `quantile` the |w| that the share to drop
lies below. `rigl` drops three tenths of the active entries by |w| and grows as many by |g|.

`read` takes its turn too: it reads as many bytes as the case must move, and does nothing with them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from .case import Array, Case
    from .contenders import Call, Contender

PATTERNS = {"nm": (2, 4), "nm16": (8, 16)}
OPS = ("magnitude", "list", "rows", "groups", "topk_rows", *PATTERNS, "block_mask", "quantile",
       "random", "rigl")  # fmt: skip
SIDE = 16  # of `block_mask`
LENGTH = 128  # of `groups`
PARTS = 8  # of `list`: 1/36, 2/36, … of the rows
LINE = 64  # bytes that memory moves at once
DROPPED = 0.3  # of the active entries, by `rigl`


def kept(case: Case) -> int:
    """Count the entries that a case keeps: of the matrix, or of each row or group."""
    n = _segment(case)
    return n - int(case.sparsity * n)


def _segment(case: Case) -> int:
    """Count the entries that are selected from at once."""
    whole = case.m * case.k // (SIDE * SIDE if case.op == "block_mask" else 1)
    lengths = {"rows": case.k, "topk_rows": case.k, "groups": min(LENGTH, whole)}
    return lengths.get(case.op, whole)


def total_kept(case: Case) -> int:
    """Count the entries that a case keeps in all."""
    if case.op in PATTERNS:
        n, m = PATTERNS[case.op]
        return case.m * case.k * n // m
    if case.op == "block_mask":
        return kept(case) * SIDE * SIDE
    return kept(case) * (case.m * case.k // _segment(case))


def compulsory_bytes(case: Case, size: int) -> float:
    """Count what must be read and written once, masks a byte an entry.

    `random` only writes its mask, `quantile` only reads, and `topk_rows` writes values and 32-bit
    columns of each row's k.

    For `rigl` these are whole lines of 64 bytes, as memory moves them. Of entries at random places,
    a share d of all, and L entries a line, 1 - (1 - d)^L of the lines hold one. Read are the lines
    of the mask, those of w with an active or a grown entry, and those of g with an entry that may
    grow; written are those of the mask and of w with an entry that changes.
    """
    elements = case.m * case.k
    if case.op == "random":
        return float(elements)
    if case.op == "quantile":
        return float(elements * size)
    if case.op == "topk_rows":
        return float(elements * size + total_kept(case) * (size + 4))
    if case.op == "rigl":

        def lines(share: float, item: int) -> float:
            return elements * item * (1.0 - (1.0 - share) ** (LINE // item))

        active = kept(case) / elements
        moved = int(DROPPED * kept(case)) / elements
        read = elements + lines(active + moved, size) + lines(1.0 - active + moved, size)
        return read + lines(2 * moved, 1) + lines(2 * moved, size)
    columns = 4 * case.k if case.op == "rows" else 0
    return float(elements * (size + 1) + columns)


def cuts(case: Case) -> list[int]:
    """Find where the rows of `list` are cut into its matrices."""
    return [case.m * i * (i + 1) // (PARTS * (PARTS + 1)) for i in range(PARTS + 1)]


def make_inputs(case: Case) -> dict[str, Array]:
    """Draw normal weights, and what else the op reads."""
    from .case import to_bits

    rng = np.random.default_rng([case.seed, case.m, case.k, 7])
    inputs = {"w": to_bits(rng.standard_normal((case.m, case.k), np.float32), case.dtype)}
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


def _tiles(w: Any) -> Any:
    return w.reshape(w.shape[0] // SIDE, SIDE, w.shape[1] // SIDE, SIDE)


def _over_tiles(chosen: Array) -> Array:
    return chosen.repeat(SIDE, axis=0).repeat(SIDE, axis=1)


def make_reference(case: Case, inputs: dict[str, Array]) -> dict[str, Array]:
    """Compute the mask, and where an equal score leaves a choice to those who promise no order."""
    from .case import from_bits

    w = from_bits(inputs["w"], case.dtype)
    if case.op == "quantile":
        return {"value": np.asarray(np.quantile(abs(w).astype(np.float64), case.sparsity))}
    if case.op == "random":
        return {"count": np.array(kept(case)), "shape": np.array(w.shape)}
    if case.op in ("magnitude", "list"):
        mask, free = _top(abs(w), kept(case))
    elif case.op in ("rows", "groups", "topk_rows"):
        score = abs(w) * np.sqrt(inputs["col"]) if case.op == "rows" else w
        score = (abs(score) if case.op == "groups" else score).reshape(-1, _segment(case))
        order = np.argsort(-score, axis=1, kind="stable")
        mask = np.zeros(score.shape, bool)
        np.put_along_axis(mask, order[:, : kept(case)], True, axis=1)
        least = np.take_along_axis(score, order[:, kept(case) - 1 : kept(case)], axis=1)
        free = abs(score - least) <= (1e-6 * least if case.op == "rows" else 0.0)
    elif case.op in PATTERNS:
        n, m = PATTERNS[case.op]
        groups = abs(w).reshape(-1, m)
        order = np.argsort(-groups, axis=1, kind="stable")
        mask = np.zeros(groups.shape, bool)
        np.put_along_axis(mask, order[:, :n], True, axis=1)
        free = groups == np.take_along_axis(groups, order[:, n - 1 : n], axis=1)
    elif case.op == "block_mask":
        sums = _tiles(abs(w).astype(np.float64)).sum((1, 3))
        chosen, _ = _top(sums, kept(case))
        smallest = sums[chosen].min(initial=np.inf)
        mask, free = (_over_tiles(x) for x in (chosen, abs(sums - smallest) <= 1e-5 * smallest))
    else:
        active = inputs["mask"]
        dropped = int(DROPPED * kept(case))
        stay, tied = _top(np.where(active, abs(w), -1.0), kept(case) - dropped)
        grow, grow_tied = _top(np.where(stay, -1.0, abs(inputs["g"])), dropped)
        mask, free = stay | grow, (tied & active) | (grow_tied & ~stay)
    reference = {"expected": mask.reshape(w.shape), "free": free.reshape(w.shape)}
    return reference | ({"source": w} if case.op == "topk_rows" else {})


def _evenly_drawn(reference: dict[str, Array], got: Array) -> bool:
    """Tell whether k entries are kept, and of each 16th of them as many as chance may leave."""
    count = int(reference["count"])
    if got.shape != tuple(reference["shape"]) or np.count_nonzero(got) != count:
        return False
    share = count / max(got.size, 1)
    parts = [(part.size, np.count_nonzero(part)) for part in np.array_split(got.reshape(-1), 16)]
    return all(
        abs(found - n * share) <= 6 * np.sqrt(n * share * (1 - share)) + 1 for n, found in parts
    )


def check(reference: dict[str, Array], result: Any) -> float:
    """Compare masks: 0 where they agree except at ties, else infinite.

    Values and columns of `topk_rows` must belong together and become such a mask. A quantile may
    be rounded.
    """
    if "value" in reference:
        value = float(reference["value"])
        return 0.0 if abs(float(result) - value) <= 1e-6 * value else float("inf")
    if isinstance(result, tuple):
        values, columns = result
        taken = np.take_along_axis(reference["source"], columns, axis=1)
        if not np.array_equal(values, taken):
            return float("inf")
        result = np.zeros(reference["expected"].shape, bool)
        np.put_along_axis(result, columns, True, axis=1)
        if np.any(result.sum(1) != columns.shape[1]):
            return float("inf")
    got = np.asarray(result).astype(bool)
    if "count" in reference:
        return 0.0 if _evenly_drawn(reference, got) else float("inf")
    if got.shape != reference["expected"].shape:
        return float("inf")
    return 0.0 if np.all((got == reference["expected"]) | reference["free"]) else float("inf")


def _nothing(case: Case, matrix: Any) -> None:
    return None


def _as_array(case: Case, returned: Any) -> Any:
    if case.op == "topk_rows":
        values, columns = (np.asarray(x) for x in returned)
        return values, columns.astype(np.int64)
    if case.op == "list":
        return np.concatenate([np.asarray(x) for x in returned])
    return returned.numpy() if hasattr(returned, "numpy") else returned


def _cut(case: Case, w: Any) -> list[Any]:
    """Copy the matrices of `list` out of the whole."""
    at = cuts(case)
    return [w[a:b] + 0 for a, b in pairwise(at)]


def _ours(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    from .contenders import as_dtype

    prune, regrow = import_module("gossamer").prune, import_module("gossamer").regrow
    w = as_dtype(inputs["w"], case.dtype)
    parts = _cut(case, w) if case.op == "list" else []
    if case.op == "rigl":
        mask, weights, g = inputs["mask"].copy(), w.copy(), inputs["g"]
        dropped = int(DROPPED * kept(case))

        def step() -> Array:
            drop, grow = prune.score(weights, "magnitude"), prune.score(g, "magnitude")
            regrow.drop_grow_(mask, drop, grow, dropped, dropped, weights=weights)
            return mask

        return step
    if case.op in PATTERNS:
        return lambda: prune.nm_mask(prune.score(w), *PATTERNS[case.op])
    return {
        "magnitude": lambda: prune.topk_mask(prune.score(w), kept(case)),
        "rows": lambda: prune.topk_mask(
            prune.score(w, "wanda", col=inputs["col"]), kept(case), per="row"
        ),
        "groups": lambda: prune.topk_mask(prune.score(w), kept(case), per=_segment(case)),
        "topk_rows": lambda: prune.topk_rows(w, kept(case)),
        "list": lambda: prune.topk_mask([prune.score(x) for x in parts], kept(case)),
        "random": lambda: prune.random_mask(w, kept(case), seed=case.seed),
        "block_mask": lambda: prune.block_mask(
            prune.score(w), kept(case), (SIDE, SIDE), reduce="l1"
        ),
        "quantile": lambda: prune.quantile(w, case.sparsity, magnitude=True),
    }[case.op]


def _partition(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    w, k = inputs["w"], kept(case)
    n = _segment(case)

    def whole() -> Array:
        score = np.abs(w)
        return np.asarray(score >= np.partition(score.reshape(-1), n - k)[n - k])

    def rows() -> Array:
        score = np.abs(w) * np.sqrt(inputs["col"])
        return np.asarray(score >= np.partition(score, n - k, axis=1)[:, n - k : n - k + 1])

    def groups() -> Array:
        score = np.abs(w).reshape(-1, n)
        least = np.partition(score, n - k, axis=1)[:, n - k : n - k + 1]
        return np.asarray(score >= least).reshape(w.shape)

    def blocks() -> Array:
        score = _tiles(np.abs(w)).sum((1, 3))
        return _over_tiles(score >= np.partition(score.reshape(-1), n - k)[n - k])

    def quantile() -> Any:
        return np.quantile(np.abs(w), case.sparsity)

    return {
        "magnitude": whole,
        "rows": rows,
        "groups": groups,
        "block_mask": blocks,
        "quantile": quantile,
    }[case.op]


def _torch_topk(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    torch = import_module("torch")
    t = {name: torch.from_numpy(array.copy()) for name, array in inputs.items() if name != "w"}
    t["w"] = _torch_weights(case, inputs)
    w, k, length = t["w"], kept(case), _segment(case)
    parts = _cut(case, w) if case.op == "list" else []

    def scatter(shape: Any, index: Any) -> Any:
        return torch.zeros(shape, dtype=torch.bool).scatter_(-1, index, True)

    def whole() -> Any:
        return scatter(w.numel(), torch.topk(w.abs().view(-1), k).indices).view_as(w)

    def rows() -> Any:
        return scatter(w.shape, torch.topk(w.abs() * t["col"].sqrt(), k, dim=1).indices)

    def groups() -> Any:
        of = w.abs().view(-1, length)
        return scatter(of.shape, torch.topk(of, k, dim=1).indices).view_as(w)

    def nm() -> Any:
        n, m = PATTERNS[case.op]
        of = w.abs().view(-1, m)
        return scatter(of.shape, torch.topk(of, n, dim=1).indices).view_as(w)

    def blocks() -> Any:
        of = _tiles(w.abs()).sum((1, 3))
        chosen = scatter(of.numel(), torch.topk(of.view(-1), k).indices).view_as(of)
        return chosen.repeat_interleave(SIDE, 0).repeat_interleave(SIDE, 1)

    def tensors() -> Any:
        of = torch.cat([x.abs().view(-1) for x in parts])
        chosen = scatter(of.numel(), torch.topk(of, k).indices)
        masks = chosen.split([x.numel() for x in parts])
        return [mask.view_as(x) for mask, x in zip(masks, parts, strict=True)]

    def drawn() -> Any:
        return scatter(w.numel(), torch.topk(torch.rand(w.numel()), k).indices).view_as(w)

    def rigl() -> Any:
        mask, dropped = t["mask"], int(DROPPED * k)
        least = torch.tensor(-1.0)
        score = torch.where(mask, w.abs(), least).view(-1)
        stay = scatter(w.numel(), torch.topk(score, k - dropped).indices)
        score = torch.where(stay.view_as(w), least, t["g"].abs()).view(-1)
        mask.copy_((stay.scatter_(-1, torch.topk(score, dropped).indices, True)).view_as(w))
        w.mul_(mask)
        return mask

    return {
        "magnitude": whole,
        "list": tensors,
        "rows": rows,
        "groups": groups,
        "topk_rows": lambda: torch.topk(w, k, dim=1, sorted=False),
        "nm": nm,
        "nm16": nm,
        "block_mask": blocks,
        "random": drawn,
        "rigl": rigl,
    }[case.op]


def _torch_weights(case: Case, inputs: dict[str, Array]) -> Any:
    torch = import_module("torch")
    w = inputs["w"].copy()
    if case.dtype == "bf16":
        return torch.from_numpy(w.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(w)


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
    w = torch.from_numpy(inputs["w"])
    parts = _cut(case, w) if case.op == "list" else [w]
    layers = [torch.nn.Linear(1, 1, bias=False) for _ in parts]
    weights = [torch.nn.Parameter(part) for part in parts]
    amount = w.numel() - kept(case)

    def call() -> Any:
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight = weight
        of = [(layer, "weight") for layer in layers]
        methods.global_unstructured(of, methods.L1Unstructured, amount=amount)
        masks = [layer.weight_mask for layer in layers]
        # As before the call: the next one must not compose its mask with this one.
        for layer in layers:
            hook = next(iter(layer._forward_pre_hooks))
            del layer._forward_pre_hooks[hook], layer._parameters["weight_orig"]
            del layer._buffers["weight_mask"], layer.__dict__["weight"]
        return masks if case.op == "list" else masks[0]

    return call


def _torch_ao(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    torch = import_module("torch")
    layer = torch.nn.Linear(case.k, case.m, bias=False)
    layer.weight.data = torch.from_numpy(inputs["w"])
    model = torch.nn.Sequential(layer)
    n, m = PATTERNS[case.op]
    sparsifier = torch.ao.pruning.WeightNormSparsifier(
        sparsity_level=1.0, sparse_block_shape=(1, m), zeros_per_block=m - n
    )
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])

    def call() -> Any:
        sparsifier.step()
        return model[0].parametrizations.weight[0].mask

    return call


def _read(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    """Read as many bytes as the case must move, and nothing else."""
    from .case import ITEM_BYTES

    size = compulsory_bytes(case, ITEM_BYTES[case.dtype])
    return cast("Call", import_module("gossamer._core").ReadProbe(int(size)))


def contenders(make: type[Contender]) -> list[Contender]:
    """List ours and the peers."""

    def one(
        name: str,
        runtime: str,
        ops: tuple[str, ...],
        bind: Callable[[Case, Any, dict[str, Array]], Call],
        dtypes: tuple[str, ...] = ("f32",),
    ) -> Contender:
        return make(
            name=name,
            runtime=runtime,
            kind={"mask": "ours", "read": "limit"}.get(name, "selection"),
            ops=frozenset(ops),
            weights=_nothing,
            bind=bind,
            result=_as_array,
            dtypes=frozenset(dtypes),
            needs=("torch",) if runtime == "torch" else (),
        )

    small = ("f32", "bf16", "f16")
    numpy_ops = ("magnitude", "rows", "groups", "block_mask", "quantile")
    return [
        one("mask", "gossamer", OPS, _ours, small),
        one("read", "gossamer", OPS, _read, small),
        one("np.partition", "numpy", numpy_ops, _partition),
        one("torch.topk", "torch", tuple(x for x in OPS if x != "quantile"), _torch_topk, small),
        one("torch.kthvalue", "torch", ("magnitude",), _torch_kthvalue),
        one("torch.prune", "torch", ("magnitude", "list"), _torch_prune),
        one("torch.ao", "torch", ("nm",), _torch_ao),
    ]
