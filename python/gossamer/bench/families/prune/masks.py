"""What masks share: dense weights, the mask that must come, its least traffic, and who makes it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ...cuda import CUDA
from ...dtypes import ITEM_BYTES, Array, from_bits, to_bits
from ...libraries import GOSSAMER, NUMPY, TORCH, Call, Library
from ...op import Case, Contender, Op, Work
from ...shapes import Shape
from ...targets import Part, Target, grid
from ..parameters import SPARSITY, K, M
from ..probe import read_probe

SMALL = ("f32", "bf16", "f16")
F32 = ("f32",)
NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def prune_module() -> Any:
    """Import gossamer.prune."""
    return import_module("gossamer").prune


class SelectionOp(Op):
    """An op that keeps, or looks for, the entries of dense weights with the largest scores."""

    parameters = (M, K, SPARSITY)
    over = "sparsity"
    on_gpus = False  # whether there are kernels for GPUs
    columns = False  # the score is |w|·√Σx² (Wanda), with a Σx² a column; else |w|

    def __init__(self, name: str, title: str | None = None) -> None:
        self.name = name
        self.title = title or f"{name} mask"  # of targets
        super().__init__()

    def segment(self, case: Case) -> int:
        """Count the entries that are selected from at once."""
        return int(case["m"] * case["k"])

    def kept(self, case: Case) -> int:
        """Count the entries that are kept of each segment."""
        n = self.segment(case)
        return n - int(case["sparsity"] * n)

    def nnz(self, case: Case, weights: Any) -> int:
        """Count the entries that are kept in all."""
        return self.kept(case) * int(case["m"] * case["k"] // self.segment(case))

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw normal weights `w`, and a sum of squares `col` a column for Wanda's score."""
        rng = random_numbers(case)
        inputs = {"w": draw_weights(rng, case)}
        if self.columns:
            inputs["col"] = rng.random(case["k"], np.float32) + 0.5
        return inputs

    def score(self, case: Case, inputs: dict[str, Array]) -> Array:
        """Compute what is selected by."""
        w = abs(from_bits(inputs["w"], case.dtype))
        return w * np.sqrt(inputs["col"]) if self.columns else w

    def our_score(self, w: Any, inputs: dict[str, Array]) -> Any:
        """Describe the score to gossamer."""
        prune = prune_module()
        return prune.score(w, kind="wanda", col=inputs["col"]) if self.columns else prune.score(w)

    def error(
        self, case: Case, weights: Any, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare: 0 where the result is right, else infinite."""
        return 0.0 if self.is_right(reference, result) else float("inf")

    @abstractmethod
    def is_right(self, reference: dict[str, Array], result: Any) -> bool:
        """Compare a result with the reference."""

    def work(self, case: Case, nnz: int) -> Work:
        """Count bytes alone: no count of useful flops of a selection is agreed on."""
        total = self.bytes(case, ITEM_BYTES[case.dtype])
        return Work(0.0, 0.0, total, total)

    def bytes(self, case: Case, size: int) -> float:
        """Count one read of the weights, and one write of a mask of a byte an entry."""
        return float(case["m"] * case["k"] * (size + 1) + (4 * case["k"] if self.columns else 0))

    @abstractmethod
    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call gossamer on the weights as an array that it takes."""

    def peers(self) -> list[Contender]:
        """List what others compute it with."""
        return []

    def make_contenders(self) -> list[Contender]:
        """List ours, the read of as many bytes, and the peers."""

        def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            return self.ours(case, GOSSAMER.put(inputs["w"], case.dtype), inputs)

        ours = self.contender("mask", GOSSAMER, bind, SMALL, kind="ours")
        on_gpus = self._on_a_gpu() if self.on_gpus else []
        return [ours, read_probe(SMALL), *self.peers(), *on_gpus]

    def _on_a_gpu(self) -> list[Contender]:
        def there(case: Case, inputs: dict[str, Array]) -> dict[str, Any]:
            others = {x: CUDA.put_index(a.copy()) for x, a in inputs.items() if x != "w"}
            return {"w": CUDA.put(inputs["w"], case.dtype), **others}

        def ours(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            tensors = there(case, inputs)
            return self.ours(case, tensors["w"], tensors)

        def topk(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            tensors = there(case, inputs)
            return lambda: self._topk(case, tensors)

        return [
            self.contender("cuda-mask", CUDA, ours, SMALL, kind="ours"),
            self.contender("cuda-torch.topk", CUDA, topk, SMALL),
        ]

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        raise NotImplementedError

    def contender(
        self,
        name: str,
        library: Library,
        bind: Callable[[Case, Any, dict[str, Array]], Call],
        dtypes: Sequence[str] = F32,
        kind: str = "selection",
    ) -> Contender:
        """Make a contender that holds nothing."""
        return Contender(
            name, kind, library, lambda case, weights: None, bind, self.result, dtypes=dtypes
        )

    def numpy(self, call: Callable[[Case, dict[str, Array]], Any]) -> Contender:
        """Make the contender np.partition, which calls with the operands as arrays."""
        return self.contender("np.partition", NUMPY, lambda case, held, x: lambda: call(case, x))

    def topk(self, call: Callable[[Case, dict[str, Any]], Any]) -> Contender:
        """Make the contender torch.topk, which calls with the operands as tensors."""

        def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            tensors = as_tensors(case, inputs)
            return lambda: call(case, tensors)

        return self.contender("torch.topk", TORCH, bind, SMALL)

    def result(self, case: Case, returned: Any) -> Any:
        """Read what a contender returned."""
        if hasattr(returned, "cpu"):
            returned = returned.cpu()
        return returned.numpy() if hasattr(returned, "numpy") else returned


class MaskOp(SelectionOp):
    """An op whose result is one certain mask, but for ties."""

    @abstractmethod
    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Compute the mask, and where equal scores leave a choice to those who promise no order."""

    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Keep the mask and where it may differ."""
        shape = inputs["w"].shape
        mask, free = self.expected(case, self.score(case, inputs))
        return {"expected": mask.reshape(shape), "free": free.reshape(shape)}

    def is_right(self, reference: dict[str, Array], result: Any) -> bool:
        """Compare the mask where nothing is tied."""
        return is_mask(reference, np.asarray(result).astype(bool))


def random_numbers(case: Case) -> np.random.Generator:
    """Seed the operands."""
    return np.random.default_rng([case.seed, case["m"], case["k"], 7])


def draw_weights(rng: np.random.Generator, case: Case) -> Array:
    """Draw normal weights."""
    return to_bits(rng.standard_normal((case["m"], case["k"]), np.float32), case.dtype)


# References


def top(score: Array, k: int) -> tuple[Array, Array]:
    """Mark the k largest, and what is tied with the last of them."""
    flat = score.reshape(-1)
    if k == 0:
        return np.zeros(score.shape, bool), np.zeros(score.shape, bool)
    least = np.partition(flat, flat.size - k)[flat.size - k]
    mask, tied = score > least, score == least
    first = np.flatnonzero(tied)[: k - int(mask.sum())]
    mask.reshape(-1)[first] = True
    return mask, tied


def first_largest(score: Array, k: int, axis: int) -> tuple[Array, Array]:
    """Mark the k largest along an axis, of equals the first, and what is tied with the last."""
    order = np.argsort(-score, axis=axis, kind="stable")
    mask = np.zeros(score.shape, bool)
    np.put_along_axis(mask, np.take(order, range(k), axis=axis), True, axis=axis)
    least = np.take_along_axis(score, np.take(order, [k - 1], axis=axis), axis=axis)
    return mask, abs(score - least) <= 1e-6 * abs(least)


def is_mask(reference: dict[str, Array], got: Array) -> bool:
    """Compare where nothing is tied."""
    if got.shape != reference["expected"].shape:
        return False
    return bool(np.all((got == reference["expected"]) | reference["free"]))


# PyTorch


def as_tensors(case: Case, inputs: dict[str, Array]) -> dict[str, Any]:
    """Copy the operands into tensors."""
    tensors = {x: TORCH.put_index(array.copy()) for x, array in inputs.items() if x != "w"}
    return {"w": TORCH.put(inputs["w"].copy(), case.dtype), **tensors}


def marked(shape: Any, index: Any) -> Any:
    """Make a mask of the places along the last axis."""
    torch = import_module("torch")
    return torch.zeros(shape, dtype=torch.bool, device=index.device).scatter_(-1, index, True)


def marked_largest(score: Any, k: int) -> Any:
    """Mark the k largest along the last axis by PyTorch's topk."""
    return marked(score.shape, import_module("torch").topk(score, k, dim=-1).indices)


# The suite


def mask_part(
    op: SelectionOp,
    sparsities: Sequence[float],
    peers: dict[str, float],
    *,
    dtype: str = "f32",
    heights: Sequence[int] = (4096,),
) -> Part:
    """Demand of each peer a factor, and at most 2.5 times what the case's bytes take."""
    name = op.name if dtype == "f32" else f"{op.name}-{dtype}"
    what = op.title + ("" if dtype == "f32" else f" of {dtype}")
    targets = [
        Target(f"{what} vs {peer}, {100 * s:g}%", "mask", (peer,), bound, {"sparsity": (s,)})
        for peer, bound in peers.items()
        for s in sparsities
    ]
    targets += [
        Target(f"{what} over {title}, {100 * s:g}%", "mask", others, 2.5, {"sparsity": (s,)},
               at_most=True)
        for title, others in (("its bytes at read bandwidth", ()), ("a read of them", ("read",)))
        for s in sparsities
    ]  # fmt: skip
    cases = grid(op, [Shape(m, 4096) for m in heights], sparsity=sparsities, dtype=dtype)
    return Part("prune", name, tuple(cases), ("mask", "read", *peers), tuple(targets))
