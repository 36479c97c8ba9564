"""Masks and drop-and-grow: their operands, what results must be, and who computes them.

`magnitude` keeps the k largest |w| of a matrix, `shards` finds the same as ranks that each hold a
part would, `list` the same of a list of matrices with one budget, and `kth` only the least of them.
`rows` keeps the k largest |w|·√Σx² of each row (Wanda), `groups` and `groups32` the k largest |w|
of each 128 or 32 along rows. `nm` keeps the 2 largest |w| of each 4, `nm_wanda` those of
|w|·√Σx², `nm16` the 8 largest of each 16, `nm16_down` the same down columns; `transposable` 2 of
each row and each column of blocks of 4 by 4, with the largest sum; `vnm` 2 of 4 columns that each
64 by 8 has in common. `block_mask` keeps the blocks of 16 by 16 with the largest Σ|w|, `block4`
and `block_row` those of 4 by 4 and 1 by 16, and `random` k entries of the matrix. `topk_rows` takes
the values and columns of the k largest x of each row, `quantile` the |w| that the share to drop
lies below. `rigl` drops three tenths of the active entries by |w| and grows as many by |g|.
`search_swap`, `search_stripe8` and `search_stripe12` order columns for 2:4 on the matrix of apex's
README, with n escapes.

`read` takes its turn too: it reads as many bytes as the case must move, and does nothing with them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import combinations, pairwise, product
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from .case import Array, Case
    from .contenders import Call, Contender

# N of each M, along which axis.
PATTERNS = {"nm": (2, 4, 1), "nm_wanda": (2, 4, 1), "nm16": (8, 16, 1), "nm16_down": (8, 16, 0)}
LENGTHS = {"groups": 128, "groups32": 32}
BLOCKS = {"block_mask": (16, 16), "block4": (4, 4), "block_row": (1, 16)}
WANDA = ("rows", "nm_wanda")
WHOLE = ("magnitude", "list", "shards")
# apex's README, by method and escapes: the magnitude that 2:4 keeps, seconds on a CPU.
SEARCHES = {
    ("search_swap", 0): (2913.35, 56.0),
    ("search_swap", 100): (2914.17, 450.0),
    ("search_stripe8", 0): (2919.76, 60.7),
    ("search_stripe8", 100): (2919.76, 466.0),
    ("search_stripe12", 0): (2921.95, None),
}
SEARCHED = (128, 64)
OPS = (*WHOLE, "kth", "rows", *LENGTHS, "topk_rows", *PATTERNS, "transposable", "vnm", *BLOCKS,
       "quantile", "random", "rigl", *dict.fromkeys(op for op, _ in SEARCHES))  # fmt: skip
V, N, M = 64, 2, 8  # of `vnm`
SQUARE = 4  # of `transposable`, which keeps N
PARTS = 8  # of `list`: 1/36, 2/36, … of the rows
LINE = 64  # bytes that memory moves at once
_NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
PASSES = 5  # of `shards`: three histograms, ties, the mask
DROPPED = 0.3  # of the active entries, by `rigl`


def kept(case: Case) -> int:
    """Count the entries that a case keeps: of the matrix, or of each row or group."""
    n = _segment(case)
    return n - int(case.sparsity * n)


def _segment(case: Case) -> int:
    """Count the entries that are selected from at once."""
    rows, cols = BLOCKS.get(case.op, (1, 1))
    whole = case.m * case.k // (rows * cols)
    if case.op in ("rows", "topk_rows"):
        return case.k
    return min(LENGTHS.get(case.op, whole), whole)


def total_kept(case: Case) -> int:
    """Count the entries that a case keeps in all."""
    whole = case.m * case.k
    if case.op in PATTERNS:
        n, m, _ = PATTERNS[case.op]
        return whole * n // m
    if case.op in ("transposable", "vnm"):
        return whole * N // (SQUARE if case.op == "transposable" else M)
    if case.op in BLOCKS:
        rows, cols = BLOCKS[case.op]
        return kept(case) * rows * cols
    return kept(case) * (whole // _segment(case))


def compulsory_bytes(case: Case, size: int) -> float:
    """Count what must be read and written once, masks a byte an entry.

    `random` only writes its mask, `kth` and `quantile` only read, and `topk_rows` writes values
    and 32-bit columns of each row's k. `shards` reads in five passes, for a rank waits for the
    others between them.

    For `rigl` these are whole lines of 64 bytes, as memory moves them. Of entries at random places,
    a share d of all, and L entries a line, 1 - (1 - d)^L of the lines hold one. Read are the lines
    of the mask, those of w with an active or a grown entry, and those of g with an entry that may
    grow; written are those of the mask and of w with an entry that changes.
    """
    elements = case.m * case.k
    if case.op == "random":
        return float(elements)
    if case.op in ("kth", "quantile"):
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
    if case.op == "shards":
        return float(elements * (PASSES * size + 1))
    columns = 4 * case.k if case.op in WANDA else 0
    return float(elements * (size + 1) + columns)


def cuts(case: Case) -> list[int]:
    """Find where the rows of `list` are cut into its matrices."""
    return [case.m * i * (i + 1) // (PARTS * (PARTS + 1)) for i in range(PARTS + 1)]


def make_inputs(case: Case) -> dict[str, Array]:
    """Draw normal weights, and what else the op reads."""
    from .case import to_bits

    if case.op.startswith("search"):
        return {"w": np.random.RandomState(1).rand(case.m, case.k)}
    rng = np.random.default_rng([case.seed, case.m, case.k, 7])
    inputs = {"w": to_bits(rng.standard_normal((case.m, case.k), np.float32), case.dtype)}
    if case.op in WANDA:
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


def _tiles(w: Any, block: tuple[int, int]) -> Any:
    rows, cols = block
    return w.reshape(w.shape[0] // rows, rows, w.shape[1] // cols, cols)


def _over_tiles(chosen: Array, block: tuple[int, int]) -> Array:
    return chosen.repeat(block[0], axis=0).repeat(block[1], axis=1)


def _first_largest(score: Array, k: int, axis: int) -> tuple[Array, Array]:
    """Mark the k largest along an axis, of equals the first, and what is tied with the last."""
    order = np.argsort(-score, axis=axis, kind="stable")
    mask = np.zeros(score.shape, bool)
    np.put_along_axis(mask, np.take(order, range(k), axis=axis), True, axis=axis)
    least = np.take_along_axis(score, np.take(order, [k - 1], axis=axis), axis=axis)
    return mask, abs(score - least) <= 1e-6 * abs(least)


def _best_sums(sums: Array) -> tuple[Array, Array]:
    """Find the largest along the last axis, and where the second is too near to tell."""
    best = sums.argmax(-1)
    top = np.take_along_axis(sums, best[..., None], -1)
    return best, (sums >= top * (1 - 1e-5)).sum(-1) > 1


def square_patterns() -> Array:
    """List the blocks of 4 by 4 with 2 in each row and column, flat, in lexicographic order."""
    rows = [x for x in product((1, 0), repeat=SQUARE) if sum(x) == N]
    squares = (
        x for x in product(rows, repeat=SQUARE) if set(map(sum, zip(*x, strict=True))) == {N}
    )
    return np.array(list(squares), np.float32).reshape(-1, SQUARE * SQUARE)


def _transposable(score: Array) -> tuple[Array, Array]:
    patterns = square_patterns()
    tiles = _tiles(score, (SQUARE, SQUARE)).transpose(0, 2, 1, 3)
    mask, free = np.zeros((2, *tiles.shape), bool)
    for row, of in enumerate(tiles):
        flat = of.reshape(len(of), -1).astype(np.float64)
        best, near = _best_sums(flat @ patterns.T.astype(np.float64))
        mask[row] = patterns[best].reshape(of.shape)
        free[row] = near[:, None, None]
    return tuple(x.transpose(0, 2, 1, 3).reshape(score.shape) for x in (mask, free))


def _vnm(score: Array) -> tuple[Array, Array]:
    """Choose columns by the sum of the two largest of each row, of every four."""
    rows, cols = score.shape[0] // V, score.shape[1] // M
    column = list(np.ascontiguousarray(score.reshape(rows, V, cols, M).transpose(3, 0, 1, 2)))
    low, high = {}, {}
    for a, b in combinations(range(M), 2):
        low[a, b], high[a, b] = (f(column[a], column[b]) for f in (np.minimum, np.maximum))
    sets = list(combinations(range(M), 4))
    sums = np.empty((rows, cols, len(sets)))
    for i, (a, b, c, d) in enumerate(sets):
        x, y = high[a, b], high[c, d]
        second = np.maximum(np.minimum(x, y), np.maximum(low[a, b], low[c, d]))
        sums[..., i] = (np.maximum(x, y) + second).sum(1, dtype=np.float64)
    best, near = _best_sums(sums)
    chosen = np.array([[c in x for c in range(M)] for x in sets])[best][:, None]
    blocks = score.reshape(rows, V, cols, M)
    mask, _ = _first_largest(np.where(chosen, blocks, -1.0), N, 3)
    free = np.broadcast_to(near[:, None, :, None], blocks.shape)
    return mask.reshape(score.shape), free.reshape(score.shape)


def make_reference(case: Case, inputs: dict[str, Array]) -> dict[str, Array]:
    """Compute the mask, and where an equal score leaves a choice to those who promise no order."""
    from .case import from_bits

    if case.op.startswith("search"):
        given = (case.m, case.k) == SEARCHED and (case.op, case.n) in SEARCHES
        least = SEARCHES[case.op, case.n][0] if given else 0.0
        return {"source": inputs["w"], "least": np.array(least)}
    w = from_bits(inputs["w"], case.dtype)
    score = abs(w) * np.sqrt(inputs["col"]) if case.op in WANDA else abs(w)
    if case.op == "quantile":
        return {"value": np.asarray(np.quantile(score.astype(np.float64), case.sparsity))}
    if case.op == "kth":
        return {"value": np.sort(score, axis=None)[-kept(case)]}
    if case.op == "random":
        return {"count": np.array(kept(case)), "shape": np.array(w.shape)}
    if case.op in WHOLE:
        mask, free = _top(score, kept(case))
    elif case.op in ("rows", "topk_rows", *LENGTHS):
        of = w if case.op == "topk_rows" else score
        mask, free = _first_largest(of.reshape(-1, _segment(case)), kept(case), 1)
    elif case.op in PATTERNS:
        n, m, axis = PATTERNS[case.op]
        groups = score.reshape(-1, m) if axis == 1 else score.reshape(-1, m, case.k)
        mask, free = _first_largest(groups, n, 1)
    elif case.op == "transposable":
        mask, free = _transposable(score)
    elif case.op == "vnm":
        mask, free = _vnm(score)
    elif case.op in BLOCKS:
        block = BLOCKS[case.op]
        sums = _tiles(score.astype(np.float64), block).sum((1, 3))
        chosen, _ = _top(sums, kept(case))
        smallest = sums[chosen].min(initial=np.inf)
        near = abs(sums - smallest) <= 1e-5 * smallest
        mask, free = (_over_tiles(x, block) for x in (chosen, near))
    else:
        active = inputs["mask"]
        dropped = int(DROPPED * kept(case))
        stay, tied = _top(np.where(active, score, -1.0), kept(case) - dropped)
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


def _is_order(reference: dict[str, Array], order: Array, magnitude: float) -> bool:
    """Tell whether each column stands once, and as much is kept as is said and as was published."""
    w = reference["source"]
    if not np.array_equal(np.sort(order), np.arange(w.shape[1])):
        return False
    groups = np.sort(abs(w[:, order]).reshape(len(w), -1, 4), axis=2)
    right = abs(groups[..., 2:].sum() - magnitude) <= 1e-5 * magnitude
    return bool(right) and round(magnitude, 2) >= float(reference["least"])


def check(reference: dict[str, Array], result: Any) -> float:
    """Compare: 0 where the result is right, else infinite.

    Masks may differ at ties. Values and columns of `topk_rows` must belong together and become such
    a mask. A quantile may be rounded.
    """
    if "least" in reference:
        right = _is_order(reference, *result)
    elif "value" in reference:
        value = float(reference["value"])
        right = abs(float(result) - value) <= 1e-6 * value
    elif "count" in reference:
        right = _evenly_drawn(reference, np.asarray(result).astype(bool))
    elif isinstance(result, tuple):
        right = _are_of_rows(reference, *result)
    else:
        right = _is_mask(reference, np.asarray(result).astype(bool))
    return 0.0 if right else float("inf")


def _are_of_rows(reference: dict[str, Array], values: Array, columns: Array) -> bool:
    mask = np.zeros(reference["expected"].shape, bool)
    np.put_along_axis(mask, columns, True, axis=1)
    taken = np.take_along_axis(reference["source"], columns, axis=1)
    twice = bool(np.any(mask.sum(1) != columns.shape[1]))
    return np.array_equal(values, taken) and not twice and _is_mask(reference, mask)


def _is_mask(reference: dict[str, Array], got: Array) -> bool:
    if got.shape != reference["expected"].shape:
        return False
    return bool(np.all((got == reference["expected"]) | reference["free"]))


def _nothing(case: Case, matrix: Any) -> None:
    return None


def _as_array(case: Case, returned: Any) -> Any:
    if case.op.startswith("search"):
        return returned
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
    if case.op.startswith("search"):
        method, given = case.op.removeprefix("search_"), inputs["w"]
        return lambda: prune.permutation_search(given, 2, 4, method=method, escapes=case.n)
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

    def score() -> Any:
        return prune.score(w, "wanda", col=inputs["col"]) if case.op in WANDA else prune.score(w)

    def shards() -> Any:
        selection = prune.Selection(kept(case), dtype=_NAMES[case.dtype])
        while not selection.done:
            selection.narrow(selection.histogram(score()))
        selection.ties(score())  # what the ranks tell each other
        return selection.emit(score(), ties_before=0)

    if case.op in PATTERNS:
        n, m, axis = PATTERNS[case.op]
        return lambda: prune.nm_mask(score(), n, m, axis=axis)
    if case.op in BLOCKS:
        return lambda: prune.block_mask(score(), kept(case), BLOCKS[case.op], reduce="l1")
    if case.op in LENGTHS:
        return lambda: prune.topk_mask(score(), kept(case), per=_segment(case))
    return {
        "magnitude": lambda: prune.topk_mask(score(), kept(case)),
        "shards": shards,
        "kth": lambda: prune.kth(score(), kept(case)).threshold,
        "rows": lambda: prune.topk_mask(score(), kept(case), per="row"),
        "topk_rows": lambda: prune.topk_rows(w, kept(case)),
        "list": lambda: prune.topk_mask([prune.score(x) for x in parts], kept(case)),
        "random": lambda: prune.random_mask(w, kept(case), seed=case.seed),
        "transposable": lambda: prune.nm_mask_transposable(score(), N, SQUARE),
        "vnm": lambda: prune.vnm_mask(score(), V, N, M),
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
        score = _tiles(np.abs(w), BLOCKS[case.op]).sum((1, 3))
        chosen = score >= np.partition(score.reshape(-1), n - k)[n - k]
        return _over_tiles(chosen, BLOCKS[case.op])

    def kth() -> Any:
        return np.partition(np.abs(w).reshape(-1), n - k)[n - k]

    def quantile() -> Any:
        return np.quantile(np.abs(w), case.sparsity)

    calls = {"magnitude": whole, "kth": kth, "rows": rows, "quantile": quantile}
    calls |= dict.fromkeys(LENGTHS, groups) | dict.fromkeys(BLOCKS, blocks)
    return calls[case.op]


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
        n, m, axis = PATTERNS[case.op]
        of = w.abs() * t["col"].sqrt() if case.op in WANDA else w.abs()
        of = of.view(-1, m) if axis == 1 else of.view(-1, m, case.k)
        index = torch.topk(of, n, dim=1).indices
        return torch.zeros(of.shape, dtype=torch.bool).scatter_(1, index, True).view_as(w)

    def blocks() -> Any:
        of = _tiles(w.abs(), BLOCKS[case.op]).sum((1, 3))
        chosen = scatter(of.numel(), torch.topk(of.view(-1), k).indices).view_as(of)
        rows, cols = BLOCKS[case.op]
        return chosen.repeat_interleave(rows, 0).repeat_interleave(cols, 1)

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

    calls = {
        "magnitude": whole,
        "shards": whole,
        "list": tensors,
        "rows": rows,
        "topk_rows": lambda: torch.topk(w, k, dim=1, sorted=False),
        "random": drawn,
        "rigl": rigl,
    }
    calls |= dict.fromkeys(LENGTHS, groups) | dict.fromkeys(PATTERNS, nm)
    return (calls | dict.fromkeys(BLOCKS, blocks))[case.op]


def _torch_argmax(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    """Multiply the blocks with all patterns, and take the best."""
    torch = import_module("torch")
    w, patterns = torch.from_numpy(inputs["w"]), torch.from_numpy(square_patterns())

    def call() -> Any:
        tiles = _tiles(w.abs(), (SQUARE, SQUARE)).permute(0, 2, 1, 3)
        best = (tiles.reshape(-1, SQUARE * SQUARE) @ patterns.T).argmax(1)
        return patterns[best].bool().view(tiles.shape).permute(0, 2, 1, 3).reshape(w.shape)

    return call


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
        least = torch.kthvalue(score.view(-1), w.numel() - k + 1).values
        return least if case.op == "kth" else score >= least

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
    n, m, _ = PATTERNS[case.op]
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
    numpy_ops = ("magnitude", "kth", "rows", *LENGTHS, *BLOCKS, "quantile")
    searches = tuple(x for x in OPS if x.startswith("search"))
    untopped = ("kth", "transposable", "vnm", "quantile", *searches)
    return [
        one("mask", "gossamer", OPS, _ours, small),
        one("read", "gossamer", tuple(x for x in OPS if x not in searches), _read, small),
        one("np.partition", "numpy", numpy_ops, _partition),
        one("torch.topk", "torch", tuple(x for x in OPS if x not in untopped), _torch_topk, small),
        one("torch.kthvalue", "torch", ("magnitude", "kth"), _torch_kthvalue),
        one("torch.argmax", "torch", ("transposable",), _torch_argmax),
        one("torch.prune", "torch", ("magnitude", "list"), _torch_prune),
        one("torch.ao", "torch", ("nm",), _torch_ao),
    ]
