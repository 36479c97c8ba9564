"""Exact selections by score: global, of a list, of ranks' shards, of rows and groups, at random."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from ...dtypes import Array, from_bits
from ...libraries import TORCH, Call
from ...op import Case, Contender
from ...targets import Part
from .masks import (
    NAMES,
    MaskOp,
    SelectionOp,
    as_tensors,
    first_largest,
    is_mask,
    marked_largest,
    mask_part,
    prune_module,
    top,
)


class Magnitude(MaskOp):
    """The k largest |w| of a matrix."""

    on_gpus = True

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Mark the k largest."""
        return top(score, self.kept(case))

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call topk_mask."""
        prune, k = prune_module(), self.kept(case)
        return lambda: prune.topk_mask(prune.score(w), k)

    def peers(self) -> list[Contender]:
        """List what selects globally."""
        return [
            self.numpy(self._partition),
            self.topk(self._topk),
            self.contender("torch.kthvalue", TORCH, self._kthvalue),
            self.contender("torch.prune", TORCH, torch_prune),
        ]

    def _partition(self, case: Case, x: dict[str, Array]) -> Any:
        score, k = np.abs(x["w"]), self.kept(case)
        return score >= np.partition(score.reshape(-1), score.size - k)[score.size - k]

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        w = t["w"]
        return marked_largest(w.abs().view(-1), self.kept(case)).view_as(w)

    def _kthvalue(self, case: Case, held: Any, inputs: dict[str, Array]) -> Call:
        torch, k = import_module("torch"), self.kept(case)
        w = torch.from_numpy(inputs["w"])

        def call() -> Any:
            score = w.abs()
            return score >= torch.kthvalue(score.view(-1), w.numel() - k + 1).values

        return call


class ValueOp(SelectionOp):
    """A number, which may be rounded, of one read."""

    def is_right(self, reference: dict[str, Array], result: Any) -> bool:
        """Compare the number."""
        value = float(reference["value"])
        return abs(float(result) - value) <= 1e-6 * value

    def bytes(self, case: Case, size: int) -> float:
        """Count one read."""
        return float(case["m"] * case["k"] * size)


class Kth(ValueOp):
    """The least of the k largest |w|."""

    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Sort."""
        return {"value": np.sort(self.score(case, inputs), axis=None)[-self.kept(case)]}

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call kth."""
        prune, k = prune_module(), self.kept(case)
        return lambda: prune.kth(prune.score(w), k).threshold

    def peers(self) -> list[Contender]:
        """List what finds one rank."""
        return [
            self.numpy(self._partition),
            self.contender("torch.kthvalue", TORCH, self._kthvalue),
        ]

    def _partition(self, case: Case, x: dict[str, Array]) -> Any:
        score, k = np.abs(x["w"]).reshape(-1), self.kept(case)
        return np.partition(score, score.size - k)[score.size - k]

    def _kthvalue(self, case: Case, held: Any, inputs: dict[str, Array]) -> Call:
        torch, k = import_module("torch"), self.kept(case)
        w = torch.from_numpy(inputs["w"])
        return lambda: torch.kthvalue(w.abs().view(-1), w.numel() - k + 1).values


class Quantile(ValueOp):
    """The |w| that the share to drop lies below."""

    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Interpolate in float64."""
        score = self.score(case, inputs).astype(np.float64)
        return {"value": np.asarray(np.quantile(score, case["sparsity"]))}

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call quantile."""
        prune = prune_module()
        return lambda: prune.quantile(w, case["sparsity"], magnitude=True)

    def peers(self) -> list[Contender]:
        """List NumPy's quantile, which partitions."""
        return [self.numpy(lambda case, x: np.quantile(np.abs(x["w"]), case["sparsity"]))]


class Shards(MaskOp):
    """The k largest |w| as ranks that each hold a part find them, here one rank with all."""

    PASSES = 5  # over the scores: three histograms, ties, the mask; a rank waits between them

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Mark the k largest."""
        return top(score, self.kept(case))

    def bytes(self, case: Case, size: int) -> float:
        """Count a read a pass, and one write of the mask."""
        return float(case["m"] * case["k"] * (self.PASSES * size + 1))

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Drive a Selection."""
        prune, k = prune_module(), self.kept(case)

        def call() -> Any:
            selection = prune.Selection(k, dtype=NAMES[case.dtype])
            while not selection.done:
                selection.narrow(selection.histogram(prune.score(w)))
            selection.ties(prune.score(w))  # what the ranks tell each other
            return selection.emit(prune.score(w), ties_before=0)

        return call

    def peers(self) -> list[Contender]:
        """List torch, which must have gathered all."""
        return [self.topk(self._topk)]

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        w = t["w"]
        return marked_largest(w.abs().view(-1), self.kept(case)).view_as(w)


class List(MaskOp):
    """The k largest |w| of matrices of 1/36, 2/36, … 8/36 of the rows, with one budget."""

    PARTS = 8

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Mark the k largest."""
        return top(score, self.kept(case))

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call topk_mask of a list."""
        prune, k, parts = prune_module(), self.kept(case), self.cut(case, w)
        return lambda: prune.topk_mask([prune.score(x) for x in parts], k)

    def peers(self) -> list[Contender]:
        """List torch on the joined scores, and its own pruning."""

        def topk(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            torch, k = import_module("torch"), self.kept(case)
            parts = self.cut(case, as_tensors(case, inputs)["w"])

            def call() -> Any:
                chosen = marked_largest(torch.cat([x.abs().view(-1) for x in parts]), k)
                masks = chosen.split([x.numel() for x in parts])
                return [mask.view_as(x) for mask, x in zip(masks, parts, strict=True)]

            return call

        return [
            self.contender("torch.topk", TORCH, topk, ("f32", "bf16", "f16")),
            self.contender("torch.prune", TORCH, torch_prune),
        ]

    def result(self, case: Case, returned: Any) -> Any:
        """Join the masks."""
        return np.concatenate([np.asarray(x) for x in returned])

    def cut(self, case: Case, w: Any) -> list[Any]:
        """Copy the matrices out of the whole."""
        n = self.PARTS
        at = [case["m"] * i * (i + 1) // (n * (n + 1)) for i in range(n + 1)]
        return [w[a:b] + 0 for a, b in pairwise(at)]


class Rows(MaskOp):
    """The k largest |w|·√Σx² of each row (Wanda)."""

    on_gpus = True
    columns = True

    def segment(self, case: Case) -> int:
        """Select from a row at once."""
        return int(case["k"])

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Mark the largest of each row."""
        return first_largest(score, self.kept(case), 1)

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call topk_mask of rows."""
        prune, k = prune_module(), self.kept(case)
        return lambda: prune.topk_mask(self.our_score(w, inputs), k, per="row")

    def peers(self) -> list[Contender]:
        """List NumPy and torch along rows."""
        return [self.numpy(self._partition), self.topk(self._topk)]

    def _partition(self, case: Case, x: dict[str, Array]) -> Any:
        at = case["k"] - self.kept(case)
        score = np.abs(x["w"]) * np.sqrt(x["col"])
        return score >= np.partition(score, at, axis=1)[:, at : at + 1]

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        return marked_largest(t["w"].abs() * t["col"].sqrt(), self.kept(case))


class Groups(MaskOp):
    """The k largest |w| of each run of `length` along rows."""

    on_gpus = True

    def __init__(self, name: str, length: int) -> None:
        self.length = length
        super().__init__(name)

    def segment(self, case: Case) -> int:
        """Select from a group at once."""
        return min(self.length, int(case["m"] * case["k"]))

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Mark the largest of each group."""
        return first_largest(score.reshape(-1, self.segment(case)), self.kept(case), 1)

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call topk_mask of groups."""
        prune, k, length = prune_module(), self.kept(case), self.segment(case)
        return lambda: prune.topk_mask(prune.score(w), k, per=length)

    def peers(self) -> list[Contender]:
        """List NumPy and torch along groups."""
        return [self.numpy(self._partition), self.topk(self._topk)]

    def _partition(self, case: Case, x: dict[str, Array]) -> Any:
        n, w = self.segment(case), x["w"]
        at = n - self.kept(case)
        score = np.abs(w).reshape(-1, n)
        return (score >= np.partition(score, at, axis=1)[:, at : at + 1]).reshape(w.shape)

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        w = t["w"]
        groups = w.abs().view(-1, self.segment(case))
        return marked_largest(groups, self.kept(case)).view_as(w)


class TopkRows(MaskOp):
    """The values and columns of the k largest x of each row."""

    def segment(self, case: Case) -> int:
        """Select from a row at once."""
        return int(case["k"])

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Mark the largest of each row."""
        return first_largest(score, self.kept(case), 1)

    def score(self, case: Case, inputs: dict[str, Array]) -> Array:
        """Select by the value itself."""
        return from_bits(inputs["w"], case.dtype)

    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Keep the mask, and the values that it is of."""
        source = from_bits(inputs["w"], case.dtype)
        return {**super().reference(case, weights, inputs), "source": source}

    def is_right(self, reference: dict[str, Array], result: Any) -> bool:
        """Values and columns must belong together, and become the mask."""
        values, columns = result
        mask = np.zeros(reference["expected"].shape, bool)
        np.put_along_axis(mask, columns, True, axis=1)
        taken = np.take_along_axis(reference["source"], columns, axis=1)
        twice = bool(np.any(mask.sum(1) != columns.shape[1]))
        return np.array_equal(values, taken) and not twice and is_mask(reference, mask)

    def bytes(self, case: Case, size: int) -> float:
        """Count one read, and one write of values and 32-bit columns."""
        return float(case["m"] * case["k"] * size + self.nnz(case, None) * (size + 4))

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call topk_rows."""
        prune, k = prune_module(), self.kept(case)
        return lambda: prune.topk_rows(w, k)

    def peers(self) -> list[Contender]:
        """List torch."""
        return [self.topk(self._topk)]

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        topk = import_module("torch").topk
        return topk(t["w"], self.kept(case), dim=1, sorted=False)

    def result(self, case: Case, returned: Any) -> Any:
        """Read values and columns."""
        values, columns = (np.asarray(x) for x in returned)
        return values, columns.astype(np.int64)


class Random(SelectionOp):
    """Any k entries of the matrix, all sets of k equally likely."""

    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Keep how many."""
        return {"count": np.array(self.kept(case)), "shape": np.array(inputs["w"].shape)}

    def is_right(self, reference: dict[str, Array], result: Any) -> bool:
        """K entries are kept, and of each 16th of them as many as chance may leave."""
        got, count = np.asarray(result).astype(bool), int(reference["count"])
        if got.shape != tuple(reference["shape"]) or np.count_nonzero(got) != count:
            return False
        share = count / max(got.size, 1)
        parts = [(x.size, np.count_nonzero(x)) for x in np.array_split(got.reshape(-1), 16)]
        return all(
            abs(found - n * share) <= 6 * np.sqrt(n * share * (1 - share)) + 1 for n, found in parts
        )

    def bytes(self, case: Case, size: int) -> float:
        """Count one write of the mask."""
        return float(case["m"] * case["k"])

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call random_mask."""
        prune, k = prune_module(), self.kept(case)
        return lambda: prune.random_mask(w, k, seed=case.seed)

    def peers(self) -> list[Contender]:
        """List torch."""
        return [self.topk(self._topk)]

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        w = t["w"]
        drawn = import_module("torch").rand(w.numel())
        return marked_largest(drawn, self.kept(case)).view_as(w)


def torch_prune(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
    """Call PyTorch's global pruning on a layer, or on layers with the matrices of a list."""
    torch, op = import_module("torch"), case.op
    methods = import_module("torch.nn.utils.prune")
    assert isinstance(op, Magnitude | List)
    w = torch.from_numpy(inputs["w"])
    parts = op.cut(case, w) if isinstance(op, List) else [w]
    layers = [torch.nn.Linear(1, 1, bias=False) for _ in parts]
    weights = [torch.nn.Parameter(part) for part in parts]
    amount = w.numel() - op.kept(case)

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
        return masks if isinstance(op, List) else masks[0]

    return call


MAGNITUDE, LIST, SHARDS = Magnitude("magnitude"), List("list"), Shards("shards")
KTH, QUANTILE = Kth("kth", "kth"), Quantile("quantile", "quantile")
ROWS, TOPK_ROWS, RANDOM = Rows("rows"), TopkRows("topk_rows", "topk_rows"), Random("random")
GROUPS, GROUPS32 = Groups("groups", 128), Groups("groups32", 32)
OPS = [MAGNITUDE, LIST, SHARDS, KTH, ROWS, GROUPS, GROUPS32, TOPK_ROWS, QUANTILE, RANDOM]


def parts() -> list[Part]:
    """List the parts of the suite `prune` that select."""
    levels, two = (0.5, 0.9), (4096, 11008)
    faster = {"torch.topk": 1.0, "np.partition": 1.0}
    global_peers = {
        "torch.topk": 25.0, "torch.kthvalue": 25.0, "np.partition": 8.0, "torch.prune": 100.0,
    }  # fmt: skip
    return [
        mask_part(MAGNITUDE, levels, global_peers, heights=two),
        mask_part(MAGNITUDE, levels, {"torch.topk": 25.0}, dtype="bf16"),
        mask_part(MAGNITUDE, levels, {"torch.topk": 25.0}, dtype="f16"),
        mask_part(LIST, levels, {"torch.topk": 25.0, "torch.prune": 100.0}),
        mask_part(SHARDS, levels, {"torch.topk": 1.0}),
        mask_part(KTH, levels, {"torch.kthvalue": 1.0, "np.partition": 1.0}),
        mask_part(ROWS, levels, faster, heights=two),
        mask_part(GROUPS, levels, faster, heights=two),
        mask_part(GROUPS32, levels, faster),
        mask_part(TOPK_ROWS, (0.9, 0.99), {"torch.topk": 1.0}, heights=two),
        mask_part(QUANTILE, levels, {"np.partition": 1.0}),
        mask_part(RANDOM, levels, {"torch.topk": 10.0}),
    ]
