"""Layers with sparse activations: dense weights, of which only some rows are needed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ..cuda import CUDA
from ..dtypes import DTYPES, ITEM_BYTES, Array, from_bits, recode, sum_factor, to_bits, worst_error
from ..libraries import GOSSAMER, NUMPY, TORCH, Call, Library, as_values, torch_module
from ..op import Case, Contender, Op, Work
from ..shapes import Shape
from ..targets import Part, Target, grid, order
from .forms import gossamer_module
from .parameters import SPARSITY, K, M, N

Weights: TypeAlias = dict[str, Array]
#: Returns the timed call for what is held and the inputs, both arrays of the contender's library.
Expression: TypeAlias = Callable[[Case, dict[str, Any], dict[str, Any]], Call]

FLOATS, HALVES = ("f32", "f64"), ("bf16", "f16")
# What a gated layer's result may differ by, as a share of its norm: a rounded gate may pass or not.
TOLERANCE = {"f32": 1e-3, "f64": 1e-9, "f16": 2e-2, "bf16": 1e-1}


class ActivationOp(Op):
    """A layer of m channels on n tokens of k numbers, of which a share `sparsity` is pruned."""

    parameters = (M, K, N, SPARSITY)
    over = "sparsity"

    def weights_key(self, case: Case) -> Hashable:
        """Sparsities and tokens share weights."""
        return self.name, case["m"], case["k"], case.dtype, case.seed

    def contender(
        self,
        name: str,
        kind: str,
        library: Library,
        expression: Expression,
        *,
        dtypes: Sequence[str] = DTYPES,
        storage: str | None = None,
        needs: Sequence[str] | None = None,
    ) -> Contender:
        """Make a contender that holds what it needs of the weights, in arrays of its library."""

        def put(case: Case, arrays: dict[str, Array]) -> dict[str, Any]:
            kind = storage or case.dtype
            return {
                x: library.put_index(a)
                if a.dtype == np.int32
                else library.put(recode(a, case.dtype, kind), kind)
                for x, a in arrays.items()
            }

        return Contender(
            name,
            kind,
            library,
            hold=lambda case, weights: put(case, {x: weights[x] for x in needs or weights}),
            bind=lambda case, held, inputs: expression(case, held, put(case, inputs)),
            result=lambda case, out: as_values(out),
            dtypes=dtypes,
            storage=storage,
        )

    def kept(self, count: int, case: Case) -> int:
        """Count the channels that are left of `count`."""
        return max(1, count - int(case["sparsity"] * count))


class SparseLinear(ActivationOp):
    """x·Wᵀ with W [m, k], held as its transpose by those who read rows of that."""

    name = "sparse-linear"

    def weights(self, case: Case) -> Weights:
        """Draw W, and its transpose."""
        rng = np.random.default_rng([case.seed, case["m"], case["k"], 11])
        w = to_bits(rng.standard_normal((case["m"], case["k"]), np.float32), case.dtype)
        return {"w": w, "wt": np.ascontiguousarray(w.T)}

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw x, whose tokens share their channels; the others are zero."""
        n, k = case["n"], case["k"]
        rng = np.random.default_rng([case.seed, n, 12])
        x = np.zeros((n, k), np.float32)
        kept = rng.permutation(k)[: self.kept(k, case)]
        drawn = rng.standard_normal((n, kept.size), np.float32)
        x[:, kept] = np.copysign(np.abs(drawn) + 0.1, drawn)
        return {"x": to_bits(x, case.dtype)}

    def turns(self, case: Case, inputs: dict[str, Array]) -> list[dict[str, Array]]:
        """Move the channels of x that are left to others, until each has had its turn."""
        x = inputs["x"]
        kept = np.flatnonzero(x.any(0))
        others = np.setdiff1d(np.arange(case["k"]), kept)
        np.random.default_rng([case.seed, case["k"], 18]).shuffle(others)
        turns = [x]
        for i in range(kept.size, others.size + 1, kept.size):
            turns.append(np.zeros_like(x))
            turns[-1][:, np.sort(others[i - kept.size : i])] = x[:, kept]
        return [{"x": x} for x in turns]

    def nnz(self, case: Case, weights: Weights) -> int:
        """Count the weights that are needed."""
        return int(case["m"]) * self.kept(case["k"], case)

    def reference(self, case: Case, weights: Weights, inputs: dict[str, Array]) -> dict[str, Array]:
        """Multiply in float64."""
        x = from_bits(inputs["x"], case.dtype).astype(np.float64)
        kept = np.flatnonzero(x.any(0))
        wt = from_bits(weights["wt"][kept], case.dtype).astype(np.float64)
        return {"expected": x[:, kept] @ wt, "magnitude": abs(x[:, kept]) @ abs(wt)}

    def error(
        self, case: Case, weights: Weights, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Hold the result to the bound of a dot product."""
        got = np.asarray(result)
        if got.size != reference["expected"].size:
            return float("inf")
        got = got.reshape(reference["expected"].shape)
        factor = sum_factor(case["k"], case.dtype, storage)
        return worst_error(got, reference["expected"], reference["magnitude"], factor, storage)

    def work(self, case: Case, nnz: int) -> Work:
        """Count the rows of the channels that are left, once."""
        size, n = ITEM_BYTES[case.dtype], case["n"]
        weights = float(nnz * size)
        flops = 2.0 * n * nnz
        dense = 2.0 * n * case["m"] * case["k"]
        return Work(flops, dense, weights + n * (case["m"] + case["k"]) * size, weights)

    def held_bytes(self, case: Case, contender: Contender, nnz: int) -> float:
        """Count what a call reads: all weights, but for those who read rows."""
        if contender.kind in ("dense", "low"):
            nnz = case["m"] * case["k"]
        return float(nnz * ITEM_BYTES[contender.storage or case.dtype])

    def make_contenders(self) -> list[Contender]:
        """List ours, dense products, and a product of the rows that are picked first."""
        whole, rows = (partial(self.contender, needs=[x]) for x in ("w", "wt"))
        return [
            rows("sparse-linear", "ours", GOSSAMER, _sparse_linear),
            whole("numpy", "dense", NUMPY, _numpy_linear, dtypes=FLOATS),
            whole("numpy-f32", "dense", NUMPY, _numpy_linear, dtypes=HALVES, storage="f32"),
            whole("torch", "dense", TORCH, _torch_linear),
            whole("torch-bf16", "low", TORCH, _torch_linear, dtypes=("f32",), storage="bf16"),
            rows("torch-rows", "sparse", TORCH, _torch_rows),
            rows("cuda-sparse-linear", "ours", CUDA, _sparse_linear),
            whole("cublas", "dense", CUDA, _torch_linear),
        ]


def _sparse_linear(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    gossamer, x, wt = gossamer_module(), inputs["x"], held["wt"]
    return lambda: gossamer.sparse_linear(x, wt, threshold=0.05)


def _numpy_linear(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    w, x = held["w"], inputs["x"]
    if case["n"] == 1:
        x = x[0]
        return lambda: w @ x
    return lambda: x @ w.T


def _torch_linear(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    w, x = held["w"], inputs["x"]
    linear = torch_module().nn.functional.linear
    return lambda: linear(x, w)


def _torch_rows(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    wt, x = held["wt"], inputs["x"]

    def call() -> Any:
        kept = (x.abs() >= 0.05).any(0).nonzero().view(-1)
        return x[:, kept] @ wt[kept]

    return call


class GatedMlp(ActivationOp):
    """A gated MLP of m hidden channels, the pruned share of which is left out after the gate."""

    name = "gated-mlp"

    def weights(self, case: Case) -> Weights:
        """Draw the three projections, [m, k] each."""
        rng = np.random.default_rng([case.seed, case["m"], case["k"], 13])
        scale = np.float32(case["k"] ** -0.5)
        drawn = (rng.standard_normal((case["m"], case["k"]), np.float32) for _ in range(3))
        names = ("gate", "up", "down")
        return {x: to_bits(w * scale, case.dtype) for x, w in zip(names, drawn, strict=True)}

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw x, of such length that gates are normal numbers."""
        rng = np.random.default_rng([case.seed, case["n"], 14])
        x = rng.standard_normal((case["n"], case["k"]), np.float32)
        x *= np.float32(case["k"] ** 0.5) / np.linalg.norm(x, axis=1, keepdims=True)
        return {"x": to_bits(x, case.dtype)}

    def nnz(self, case: Case, weights: Weights) -> int:
        """Count the weights that are needed: the gate's, and the other two's of what is left."""
        return int(case["k"]) * (int(case["m"]) + 2 * self.kept(case["m"], case))

    def reference(self, case: Case, weights: Weights, inputs: dict[str, Array]) -> dict[str, Array]:
        """Multiply in float64."""
        x = from_bits(inputs["x"], case.dtype).astype(np.float64)
        gate, up, down = (
            from_bits(weights[name], case.dtype).astype(np.float64)
            for name in ("gate", "up", "down")
        )
        a = _silu(x @ gate.T)
        kept = (np.abs(a) >= gate_threshold(case)).any(0)
        return {"expected": (a * kept * (x @ up.T)) @ down}

    def error(
        self, case: Case, weights: Weights, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare the norm of the difference."""
        expected, got = reference["expected"], np.asarray(result).astype(np.float64)
        if got.size != expected.size or not np.isfinite(got).all():
            return float("inf")
        difference = np.linalg.norm(got.reshape(expected.shape) - expected)
        return float(difference / np.linalg.norm(expected) / TOLERANCE[storage])

    def work(self, case: Case, nnz: int) -> Work:
        """Count the gate's weights, and the rows of the channels that are left."""
        size, n = ITEM_BYTES[case.dtype], case["n"]
        weights = float(nnz * size)
        dense = 6.0 * n * case["m"] * case["k"]
        return Work(2.0 * n * nnz, dense, weights + 2.0 * n * case["k"] * size, weights)

    def make_contenders(self) -> list[Contender]:
        """List ours, dense layers, and one whose rows are picked after the gate."""
        one = self.contender
        return [
            one("gated-mlp", "ours", GOSSAMER, _gated_mlp),
            one("numpy", "dense", NUMPY, _numpy_mlp, dtypes=FLOATS),
            one("numpy-f32", "dense", NUMPY, _numpy_mlp, dtypes=HALVES, storage="f32"),
            one("torch", "dense", TORCH, _torch_mlp),
            one("torch-bf16", "low", TORCH, _torch_mlp, dtypes=("f32",), storage="bf16"),
            one("torch-rows", "sparse", TORCH, _torch_mlp_rows),
            one("cuda-gated-mlp", "ours", CUDA, _gated_mlp),
            one("cublas", "dense", CUDA, _torch_mlp),
        ]


def _silu(v: Array) -> Array:
    silu: Array = v / (1 + np.exp(-v))
    return silu


def gate_threshold(case: Case) -> float:
    """Find what the case's share of channels stays below for every token: gates are normal."""
    drawn = np.random.default_rng(17).standard_normal((case["n"], 200_000))
    return float(np.quantile(np.abs(_silu(drawn)).max(0), case["sparsity"]))


def _gated_mlp(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    gossamer, limit = gossamer_module(), gate_threshold(case)
    x, gate, up, down = inputs["x"], held["gate"], held["up"], held["down"]
    return lambda: gossamer.gated_mlp(x, gate, up, down, threshold=limit)


def _numpy_mlp(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    limit = gate_threshold(case)
    x, gate, up, down = inputs["x"], held["gate"], held["up"], held["down"]
    if case["n"] > 1:

        def several() -> Any:
            a = _silu(x @ gate.T)
            return (a * (np.abs(a) >= limit).any(0) * (x @ up.T)) @ down

        return several
    row = x[0]

    def single() -> Any:
        a = _silu(gate @ row)
        return (a * (np.abs(a) >= limit) * (up @ row)) @ down

    return single


def _torch_mlp(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    limit = gate_threshold(case)
    x, gate, up = inputs["x"], held["gate"], held["up"]
    down = held["down"].t().contiguous()
    functional = torch_module().nn.functional

    def call() -> Any:
        a = functional.silu(functional.linear(x, gate))
        kept = (a.abs() >= limit).any(0)
        return functional.linear(a * kept * functional.linear(x, up), down)

    return call


def _torch_mlp_rows(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    limit = gate_threshold(case)
    x, gate, up, down = inputs["x"], held["gate"], held["up"], held["down"]
    functional = torch_module().nn.functional

    def call() -> Any:
        a = functional.silu(functional.linear(x, gate))
        kept = (a.abs() >= limit).any(0).nonzero().view(-1)
        return (a[:, kept] * functional.linear(x, up[kept])) @ down[kept]

    return call


class GatherDecode(ActivationOp):
    """The decoder of a sparse autoencoder with m features of k numbers, on n tokens."""

    name = "gather-decode"

    def weights(self, case: Case) -> Weights:
        """Draw the table."""
        rng = np.random.default_rng([case.seed, case["m"], case["k"], 15])
        table = rng.standard_normal((case["m"], case["k"]), np.float32)
        return {"table": to_bits(table, case.dtype)}

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw the features of each token and their activations."""
        n, m = case["n"], case["m"]
        rng = np.random.default_rng([case.seed, n, 16])
        k = self.kept(m, case)
        indices = np.stack([np.sort(rng.permutation(m)[:k]) for _ in range(n)]).astype(np.int32)
        values = to_bits(rng.standard_normal((n, k), np.float32), case.dtype)
        return {"indices": indices, "values": values}

    def nnz(self, case: Case, weights: Weights) -> int:
        """Count the entries of the table that are added up."""
        return int(case["n"]) * self.kept(case["m"], case) * int(case["k"])

    def reference(self, case: Case, weights: Weights, inputs: dict[str, Array]) -> dict[str, Array]:
        """Add up in float64."""
        values = from_bits(inputs["values"], case.dtype).astype(np.float64)
        expected, magnitude = np.empty((2, case["n"], case["k"]))
        for t, kept in enumerate(inputs["indices"]):
            rows = from_bits(weights["table"][kept], case.dtype).astype(np.float64)
            expected[t], magnitude[t] = values[t] @ rows, abs(values[t]) @ abs(rows)
        return {"expected": expected, "magnitude": magnitude}

    def error(
        self, case: Case, weights: Weights, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Hold the result to the bound of a dot product."""
        got = np.asarray(result)
        if got.shape != reference["expected"].shape:
            return float("inf")
        factor = sum_factor(self.kept(case["m"], case), case.dtype, storage)
        return worst_error(got, reference["expected"], reference["magnitude"], factor, storage)

    def work(self, case: Case, nnz: int) -> Work:
        """Count a multiply-add an entry, and the table once at the most."""
        size, n = ITEM_BYTES[case.dtype], case["n"]
        weights = float(min(nnz, case["m"] * case["k"]) * size)
        dense = 2.0 * n * case["m"] * case["k"]
        return Work(2.0 * nnz, dense, weights + n * case["k"] * size, weights)

    def make_contenders(self) -> list[Contender]:
        """List ours, torch's embedding bag, and a product with the scattered activations."""
        one = self.contender
        return [
            one("gather-decode", "ours", GOSSAMER, _gather_decode),
            one("torch", "dense", TORCH, _scattered),
            one("torch-bag", "sparse", TORCH, _bag),
            one("cuda-gather-decode", "ours", CUDA, _gather_decode),
            one("cublas", "dense", CUDA, _scattered),
            one("torch-cuda-bag", "sparse", CUDA, _bag),
        ]


def _gather_decode(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    gossamer = gossamer_module()
    indices, values, table = inputs["indices"], inputs["values"], held["table"]
    return lambda: gossamer.gather_decode(indices, values, table)


def _scattered(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    table, values = held["table"], inputs["values"]
    places, shape = inputs["indices"].long(), (case["n"], case["m"])
    return lambda: table.new_zeros(shape).scatter_(1, places, values) @ table


def _bag(case: Case, held: dict[str, Any], inputs: dict[str, Any]) -> Call:
    bag = torch_module().nn.functional.embedding_bag
    indices, values, table = inputs["indices"], inputs["values"], held["table"]
    return lambda: bag(indices, table, mode="sum", per_sample_weights=values)


SPARSE_LINEAR, GATED_MLP, GATHER_DECODE = SparseLinear(), GatedMlp(), GatherDecode()
OPS = [SPARSE_LINEAR, GATED_MLP, GATHER_DECODE]

BOUNDS = {0.5: 1.6, 0.7: 2.5, 0.9: 5.0}


def parts() -> list[Part]:
    """List the parts of the suite `gemm`: cold weights, against the best dense layer."""
    shapes, layer = [Shape(4096, 4096), Shape(11008, 4096)], [Shape(11008, 4096)]
    levels = tuple(BOUNDS)
    listed = []
    for dtype in ("f32", "bf16"):
        suffix = "" if dtype == "f32" else f"-{dtype}"
        # The best dense layer of 16-bit weights may be that of the same weights in float32.
        dense = ("numpy", "torch", "torch-bf16") if dtype == "f32" else ("torch", "numpy-f32")
        for op, where in ((SPARSE_LINEAR, shapes), (GATED_MLP, layer)):
            cases = order(grid(op, where, sparsity=levels, dtype=dtype, cold=True, n=(1, 4)))
            targets = tuple(
                Target(f"{op.name} {dtype} vs best dense, {100 * s:g}%, N=1", op.name,
                       tuple(x for x in dense if x != "torch-bf16"), bound,
                       {"sparsity": (s,), "n": (1,)})
                for s, bound in BOUNDS.items()
            )  # fmt: skip
            who = (op.name, *dense, "torch-rows")
            listed.append(Part("gemm", f"{op.name}{suffix}", tuple(cases), who, targets))
    decoder = order(grid(GATHER_DECODE, [Shape(16384, 2048)], sparsity=(0.998,), n=(1, 64)))
    targets = (Target("gather-decode vs embedding_bag", "gather-decode", ("torch-bag",), 1.0),)
    who = ("gather-decode", "torch", "torch-bag")
    listed.append(Part("gemm", "gather-decode", tuple(decoder), who, targets))
    return listed
