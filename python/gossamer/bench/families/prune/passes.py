"""Passes over weights or a sparse matrix: thresholds, proximal steps, counts, scores of edges.

Each is compared with how it is written in NumPy and in PyTorch. What works in place first copies
its operand, for everybody.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib import import_module
from typing import Any

import numpy as np

from ...cuda import CUDA
from ...dtypes import Array
from ...libraries import GOSSAMER, NUMPY, TORCH, Call, Library, as_values
from ...op import Case, Contender, Op, Parameter, Work
from ...targets import Part
from ..parameters import SPARSITY, K, M
from .masks import F32, as_tensors, draw_weights, prune_module, random_numbers

STEPS = 60  # halvings of an interval, of those who find a number so
MATRICES = 4  # of which a mean is taken


class Pass(Op):
    """An op whose result is numbers, all of them compared.

    `numpy` and `torch` compute it from the operands, as arrays or as tensors on any device.
    """

    parameters: tuple[Parameter, ...] = (M, K)
    over = "m"
    bound = 1e-4  # of an error, as a share of the largest number

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__()

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw normal weights."""
        return {"w": draw_weights(random_numbers(case), case)}

    def prepared(self, case: Case, x: dict[str, Any]) -> Any:
        """Make what gossamer's users hold of the operands, which are NumPy's or PyTorch's."""
        return x

    @abstractmethod
    def ours(self, case: Case, x: Any) -> Any:
        """Call gossamer."""

    @abstractmethod
    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Compute it by NumPy."""

    @abstractmethod
    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Compute it by PyTorch."""

    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Compute it by NumPy in float64."""
        wide = {x: a.astype(np.float64) if a.dtype == np.float32 else a for x, a in inputs.items()}
        return {"expected": flat(self.numpy(case, wide))}

    def error(
        self, case: Case, weights: Any, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare all numbers; infinities must be where they are expected."""
        expected = reference["expected"]
        if result.shape != expected.shape:
            return float("inf")
        finite = np.isfinite(expected)
        if not np.array_equal(result[~finite], expected[~finite]):
            return float("inf")
        largest = np.abs(expected[finite]).max(initial=0.0)
        off = np.abs(result[finite] - expected[finite]).max(initial=0.0)
        share = float(off / (self.bound * largest)) if largest > 0 else float("inf") * off
        return 0.0 if off == 0 else share

    def bytes(self, case: Case) -> float:
        """Count one read of the weights."""
        return float(4 * case["m"] * case["k"])

    def work(self, case: Case, nnz: int) -> Work:
        """Count bytes alone."""
        total = self.bytes(case)
        return Work(0.0, 0.0, total, total)

    def make_contenders(self) -> list[Contender]:
        """List ours and the two compositions, PyTorch's and ours also on a GPU."""

        def on_gpu(case: Case, inputs: dict[str, Array]) -> dict[str, Any]:
            put = {x: CUDA.put_index(a) for x, a in inputs.items() if x != "w"}
            return {**put, **({"w": CUDA.put(inputs["w"], "f32")} if "w" in inputs else {})}

        def ours(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            x = self.prepared(case, inputs)
            return lambda: self.ours(case, x)

        def by_numpy(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            return lambda: self.numpy(case, inputs)

        def by_torch(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            x = tensors_of(case, inputs)
            return lambda: self.torch(case, x)

        def ours_there(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            x = self.prepared(case, on_gpu(case, inputs))
            return lambda: self.ours(case, x)

        def torch_there(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            x = on_gpu(case, inputs)
            return lambda: self.torch(case, x)

        def one(name: str, kind: str, library: Library, bind: Any) -> Contender:
            return Contender(
                name,
                kind,
                library,
                hold=lambda case, weights: None,
                bind=bind,
                result=lambda case, returned: flat(returned),
                dtypes=F32,
            )

        return [
            one("pass", "ours", GOSSAMER, ours),
            one("numpy", "dense", NUMPY, by_numpy),
            one("torch", "dense", TORCH, by_torch),
            one("cuda-pass", "ours", CUDA, ours_there),
            one("cuda-torch", "dense", CUDA, torch_there),
        ]


def tensors_of(case: Case, inputs: dict[str, Array]) -> dict[str, Any]:
    """Copy the operands into tensors."""
    if "w" in inputs:
        return as_tensors(case, inputs)
    return {x: TORCH.put_index(array.copy()) for x, array in inputs.items()}


def flat(returned: Any) -> Array:
    """Read a result, or several, as one array of float64."""
    parts = returned if isinstance(returned, tuple) else (returned,)
    return np.concatenate([np.asarray(as_values(x), np.float64).reshape(-1) for x in parts])


def fresh(w: Any) -> Any:
    """Copy an array or a tensor."""
    return w.clone() if hasattr(w, "clone") else w.copy()


class GroupSoftThreshold(Pass):
    """Shortens each row of a copy by half of what its length is expected to be."""

    def threshold(self, case: Case) -> float:
        """Return the threshold."""
        return float(0.5 * np.sqrt(case["k"]))

    def bytes(self, case: Case) -> float:
        """Count the copy, and a read and a write."""
        return 4.0 * super().bytes(case)

    def ours(self, case: Case, x: Any) -> Any:
        """Call group_soft_threshold_."""
        return prune_module().group_soft_threshold_(fresh(x["w"]), self.threshold(case))

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Scale by the norms."""
        norms = np.linalg.norm(x["w"], axis=1, keepdims=True)
        return x["w"] * np.maximum(0, 1 - self.threshold(case) / norms)

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Scale by the norms."""
        norms = x["w"].norm(dim=1, keepdim=True)
        return x["w"] * (1 - self.threshold(case) / norms).clamp_(min=0)


class SefProx(GroupSoftThreshold):
    """Shrinks the rows of a copy so that half of them are kept; λ is a half."""

    LAMBDA = 0.5

    def ours(self, case: Case, x: Any) -> Any:
        """Call sef_prox_."""
        return prune_module().sef_prox_(fresh(x["w"]), self.LAMBDA, case["m"] / 2)

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Find η by halving an interval."""
        norms = np.linalg.norm(x["w"], axis=1, keepdims=True)
        low, high = 0.0, float(norms.max()) / self.LAMBDA
        for _ in range(STEPS):
            eta = (low + high) / 2
            kept = np.clip(norms / eta - self.LAMBDA, 0, 1).sum()
            low, high = (eta, high) if kept > case["m"] / 2 else (low, eta)
        u = np.clip(norms / high - self.LAMBDA, 0, 1)
        return x["w"] * (u / (self.LAMBDA + u))

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Find η by halving an interval, without waiting for a GPU."""
        torch = import_module("torch")
        norms = x["w"].norm(dim=1, keepdim=True)
        high = norms.max() / self.LAMBDA
        low = torch.zeros_like(high)
        for _ in range(STEPS):
            eta = (low + high) / 2
            more = (norms / eta - self.LAMBDA).clamp_(0, 1).sum() > case["m"] / 2
            low, high = torch.where(more, eta, low), torch.where(more, high, eta)
        u = (norms / high - self.LAMBDA).clamp_(0, 1)
        return x["w"] * (u / (self.LAMBDA + u))


class CettThreshold(Pass):
    """A threshold for each column from its norm."""

    def ours(self, case: Case, x: Any) -> Any:
        """Call cett_threshold."""
        return prune_module().cett_threshold(x["w"], 3.0)

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Divide by the norms."""
        return 3.0 / np.linalg.norm(x["w"], axis=0)

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Divide by the norms."""
        return 3.0 / x["w"].norm(dim=0)


class ChannelThreshold(Pass):
    """A threshold for each channel, so that half of the sample is kept."""

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw activations, and a mean square for each channel."""
        rng = random_numbers(case)
        squares = rng.random(case["k"], np.float32) + np.float32(0.5)
        return {"w": draw_weights(rng, case), "squares": squares}

    def dropped(self, case: Case) -> int:
        """Count the entries that are not kept."""
        return int(case["m"] * case["k"] // 2)

    def ours(self, case: Case, x: Any) -> Any:
        """Call channel_threshold."""
        k = case["m"] * case["k"] - self.dropped(case)
        return prune_module().channel_threshold(x["w"], x["squares"], k)

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Take the largest score that is not kept."""
        root, rank = np.sqrt(x["squares"]), self.dropped(case) - 1
        return np.partition((np.abs(x["w"]) * root).reshape(-1), rank)[rank] / root

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Take the largest score that is not kept."""
        root = x["squares"].sqrt()
        score = (x["w"].abs() * root).view(-1)
        return score.kthvalue(self.dropped(case)).values / root


class Polarization(Pass):
    """The regulariser's value and its gradient, of as many scales as the matrix has entries."""

    def bytes(self, case: Case) -> float:
        """Count a read for the mean, one for the value, and one write."""
        return 3.0 * super().bytes(case)

    def ours(self, case: Case, x: Any) -> Any:
        """Call polarization."""
        value, grad = prune_module().polarization(x["w"].reshape(-1), t=1.2)
        return np.array([value / (case["m"] * case["k"])]), grad

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Follow the definition."""
        gamma = x["w"].reshape(-1)
        off = gamma - gamma.mean()
        side = np.sign(off)
        value = 1.2 * np.abs(gamma).sum() - np.abs(off).sum()
        return np.array([value / gamma.size]), 1.2 * np.sign(gamma) - (side - side.mean())

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Follow the definition."""
        gamma = x["w"].view(-1)
        off = gamma - gamma.mean()
        side = off.sign()
        value = 1.2 * gamma.abs().sum() - off.abs().sum()
        return value / gamma.numel(), 1.2 * gamma.sign() - (side - side.mean())


class NnzStats(Pass):
    """Counts the weights that are not zero in each block of 16×16."""

    parameters = (M, K, SPARSITY)
    over = "sparsity"

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw weights of which a share is zero."""
        rng = random_numbers(case)
        w = draw_weights(rng, case)
        return {"w": w * (rng.random(w.shape, np.float32) >= case["sparsity"])}

    def ours(self, case: Case, x: Any) -> Any:
        """Call nnz_stats."""
        return prune_module().nnz_stats(x["w"], per=(16, 16))

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Count in blocks."""
        return np.count_nonzero(self.blocks(case, x["w"]), axis=(1, 3))

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Count in blocks."""
        return (self.blocks(case, x["w"]) != 0).sum(dim=(1, 3))

    def blocks(self, case: Case, w: Any) -> Any:
        """View the matrix as blocks."""
        return w.reshape(case["m"] // 16, 16, case["k"] // 16, 16)


class CoverageOr(NnzStats):
    """Adds a mask to those that were seen, and counts."""

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw what was seen, and a mask."""
        rng, shape = random_numbers(case), (case["m"], case["k"])
        drawn = (rng.random(shape, np.float32) >= case["sparsity"] for _ in range(2))
        return dict(zip(("fired", "mask"), drawn, strict=True))

    def bytes(self, case: Case) -> float:
        """Count two reads and a write of a byte an entry."""
        return float(3 * case["m"] * case["k"])

    def prepared(self, case: Case, x: dict[str, Any]) -> Any:
        """Copy what is written, where a second call adds nothing to what the first one left."""
        return {**x, "fired": fresh(x["fired"])}

    def ours(self, case: Case, x: Any) -> Any:
        """Call coverage_or_."""
        fired, count = prune_module().coverage_or_(x["fired"], x["mask"])
        return fired, np.array(count / (case["m"] * case["k"]))

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Join and count."""
        fired = x["fired"] | x["mask"]
        return fired, np.array(np.count_nonzero(fired) / fired.size)

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Join and count."""
        fired = x["fired"].logical_or_(x["mask"])
        return fired, fired.sum() / fired.numel()


class OfCsr(Pass):
    """A pass over a sparse matrix, or a graph of m nodes."""

    parameters = (M, K, SPARSITY)
    over = "sparsity"

    def entries(self, case: Case) -> int:
        """Count the entries of a row."""
        return int(max(1, round((1 - case["sparsity"]) * case["k"])))

    def nnz(self, case: Case, weights: Any) -> int:
        """Count the entries."""
        return int(case["m"] * self.entries(case))

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw rows of equally many entries at random places."""
        rng, width = random_numbers(case), self.entries(case)
        keys = rng.random((case["m"], case["k"]), np.float32)
        indices = np.sort(np.argpartition(keys, width - 1, axis=1)[:, :width], axis=1)
        return {
            "indptr": np.arange(case["m"] + 1, dtype=np.int32) * width,
            "indices": indices.astype(np.int32).reshape(-1),
            "values": rng.standard_normal(indices.size, np.float32),
        }

    def prepared(self, case: Case, x: dict[str, Any]) -> Any:
        """Make the matrix."""
        csr = import_module("gossamer").CSR
        return csr(x["indptr"], x["indices"], x["values"], (case["m"], case["k"]))

    def bytes(self, case: Case) -> float:
        """Count a read of the entries, or one of their indices and a write."""
        return 8.0 * self.nnz(case, None)


class Strength(OfCsr):
    """Sums of the magnitudes of columns."""

    def ours(self, case: Case, x: Any) -> Any:
        """Call strength."""
        return import_module("gossamer").graph.strength(x, 0)

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Add up by column."""
        return np.bincount(x["indices"], np.abs(x["values"]), case["k"])

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Add up by column."""
        zeros = x["values"].new_zeros(case["k"])
        return zeros.index_add_(0, x["indices"], x["values"].abs())


class EdgeScore(OfCsr):
    """TEDDY's score of each edge."""

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw a graph of m nodes without edges to themselves."""
        drawn = super().inputs(case.with_(k=case["m"]))
        rows = np.repeat(np.arange(case["m"]), np.diff(drawn["indptr"]))
        kept = drawn["indices"] != rows
        counts = np.bincount(rows[kept], minlength=case["m"])
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        indices = drawn["indices"][kept]
        return {"indptr": indptr, "indices": indices, "values": np.ones(indices.size, np.float32)}

    def prepared(self, case: Case, x: dict[str, Any]) -> Any:
        """Make the graph."""
        return super().prepared(case.with_(k=case["m"]), x)

    def nnz(self, case: Case, weights: Any) -> int:
        """Count the edges, and those to themselves that are left out."""
        return super().nnz(case.with_(k=case["m"]), weights)

    def ours(self, case: Case, x: Any) -> Any:
        """Call edge_score."""
        return import_module("gossamer").graph.edge_score(x)

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Gather degrees, add up by row, gather again."""
        degree = np.diff(x["indptr"]).astype(np.float64)
        rows = np.repeat(np.arange(degree.size), np.diff(x["indptr"]))
        around = np.bincount(rows, degree[x["indices"]] ** -0.5, degree.size)
        node = around / degree / degree
        return node[rows] * node[x["indices"]]

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Gather degrees, add up by row, gather again."""
        torch, counts = import_module("torch"), x["indptr"].diff()
        degree, indices = counts.float(), x["indices"]
        nodes = torch.arange(len(counts), device=counts.device)
        rows = torch.repeat_interleave(nodes, counts, output_size=len(indices))
        around = torch.zeros_like(degree).index_add_(0, rows, degree[indices].rsqrt())
        node = around / degree / degree
        return node[rows] * node[indices]


class MeanSamePattern(OfCsr):
    """The mean of four matrices of one pattern."""

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw the values of four matrices."""
        drawn = super().inputs(case)
        rng = np.random.default_rng([case.seed, 5])
        drawn["values"] = rng.standard_normal((MATRICES, drawn["indices"].size), np.float32)
        return drawn

    def prepared(self, case: Case, x: dict[str, Any]) -> Any:
        """Make the matrices."""
        return [
            super(MeanSamePattern, self).prepared(case, {**x, "values": v}) for v in x["values"]
        ]

    def bytes(self, case: Case) -> float:
        """Count a read of all values, and a write."""
        return 4.0 * (MATRICES + 1) * self.nnz(case, None)

    def ours(self, case: Case, x: Any) -> Any:
        """Call mean_same_pattern."""
        return prune_module().mean_same_pattern(x).values

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Take the mean."""
        return x["values"].mean(axis=0)

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Take the mean."""
        return x["values"].mean(dim=0)


class SetDrop(Pass):
    """Drops three tenths of the weights of each sign, those next to zero; of up to 2²⁴ weights."""

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw weights no two of which are equal, so that everybody drops the same ones."""
        rng, size = random_numbers(case), case["m"] * case["k"]
        # Steps that float32 tells apart: it has 24 bits.
        steps = (rng.permutation(size) - size // 2 + np.float32(0.5)).astype(np.float32)
        return {"w": (steps / np.float32(1 << 20)).reshape(case["m"], case["k"])}

    def dropped(self, case: Case) -> int:
        """Count what is dropped of a sign."""
        return int(0.3 * (case["m"] * case["k"] // 2))

    def bytes(self, case: Case) -> float:
        """Count one read, and one write of a mask."""
        return float(5 * case["m"] * case["k"])

    def ours(self, case: Case, x: Any) -> Any:
        """Call set_drop."""
        count = self.dropped(case)
        return import_module("gossamer").regrow.set_drop(x["w"], count, count)

    def numpy(self, case: Case, x: dict[str, Array]) -> Any:
        """Take the rank of each side."""
        w, count = x["w"], self.dropped(case)
        if count == 0:
            return np.ones(w.shape, bool)
        low = -np.partition(-w[w < 0], count - 1)[count - 1]
        high = np.partition(w[w > 0], count - 1)[count - 1]
        return (w < low) | (w > high)

    def torch(self, case: Case, x: dict[str, Any]) -> Any:
        """Take the rank of each side, without waiting for a GPU."""
        torch, w, count = import_module("torch"), x["w"], self.dropped(case)
        if count == 0:
            return torch.ones_like(w, dtype=torch.bool)
        far = torch.tensor(float("inf"), device=w.device)
        high = torch.where(w > 0, w, far).view(-1).kthvalue(count).values
        low = -torch.where(w < 0, -w, far).view(-1).kthvalue(count).values
        return (w < low) | (w > high)


OPS = [
    GroupSoftThreshold("group_soft_threshold"),
    SefProx("sef_prox"),
    CettThreshold("cett_threshold"),
    ChannelThreshold("channel_threshold"),
    Polarization("polarization"),
    NnzStats("nnz_stats"),
    CoverageOr("coverage_or"),
    MeanSamePattern("mean_same_pattern"),
    SetDrop("set_drop"),
    EdgeScore("edge_score"),
    Strength("strength"),
]


def parts() -> list[Part]:
    """List none: no suite demands anything of them yet."""
    return []
