"""Attention over the entries of an unstructured pattern: sparse masks, and graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..cuda import CUDA
from ..dtypes import DTYPES, ITEM_BYTES, Array, from_bits, to_bits
from ..libraries import GOSSAMER, TORCH, Call, Library, as_values, torch_module
from ..op import Case, Contender, Op, Parameter, Work
from ..targets import Part, Target
from .forms import gossamer_module
from .parameters import SPARSITY, K, M, positive

Pattern: TypeAlias = dict[str, Array]
#: Returns the timed call for what is held and q, k and v.
Expression: TypeAlias = Callable[[Any, Any, Any, Any], Call]

HEADS = Parameter("heads", parse=positive, head="H", label=lambda heads: f"H={heads}", default=4)
DEPTH = Parameter("width", parse=positive, head="D", label=lambda depth: f"D={depth}", default=64)
BATCH = Parameter("batch", parse=positive, head="B", label=lambda batch: f"B={batch}", default=1)
# What a result may differ by, as a share of the largest value.
TOLERANCE = {"f32": 1e-5, "f64": 1e-12, "f16": 4e-3, "bf16": 3e-2}
MOST_DENSE = 1 << 26  # elements of a mask that dense contenders are given


class CsrAttention(Op):
    """softmax(q·kᵀ/√D on a random pattern [m, k])·v for each batch and head."""

    name = "csr-attention"
    parameters = (M, K, BATCH, HEADS, DEPTH, SPARSITY)
    over = "sparsity"

    def weights_key(self, case: Case) -> Hashable:
        """Batches, heads and depths share a pattern."""
        return self.name, case["m"], case["k"], case["sparsity"], case.seed

    def weights(self, case: Case) -> Pattern:
        """Draw the pattern: entries anywhere, none twice."""
        m, k = case["m"], case["k"]
        rng = np.random.default_rng([case.seed, m, k, 21])
        count = max(1, round(m * k * (1.0 - case["sparsity"])))
        if m * k <= MOST_DENSE:
            places = np.sort(rng.permutation(m * k)[:count])
        else:
            places = np.unique(rng.integers(0, m * k, count))
        row, col = np.divmod(places, k)
        indptr = np.zeros(m + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=m), out=indptr[1:])
        return {"row": row, "col": col, "indptr": indptr}

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw q, k and v [batch, rows, heads, depth]."""
        rng = np.random.default_rng([case.seed, case["m"], case["k"], 22])
        rows = {"q": case["m"], "k": case["k"], "v": case["k"]}
        return {
            name: to_bits(
                rng.standard_normal((case["batch"], n, case["heads"], case["width"]), np.float32),
                case.dtype,
            )
            for name, n in rows.items()
        }

    def nnz(self, case: Case, weights: Pattern) -> int:
        """Count the entries of the pattern."""
        return int(weights["row"].size)

    def reference(self, case: Case, weights: Pattern, inputs: dict[str, Array]) -> dict[str, Array]:
        """Compute a few rows at a time in float64."""
        indptr, col = weights["indptr"], weights["col"]
        expected = np.zeros((case["batch"], case["m"], case["heads"], case["width"]))
        q, k, v = (from_bits(inputs[name], case.dtype) for name in "qkv")
        step = max(1, case["m"] * 20_000 // col.size)
        for b in range(case["batch"]):
            for first in range(0, case["m"], step):
                rows = np.arange(first, min(first + step, case["m"]))
                rows = rows[indptr[rows + 1] > indptr[rows]]
                if rows.size == 0:
                    continue
                begin, end = indptr[rows[0]], indptr[rows[-1] + 1]
                starts, lengths = indptr[rows] - begin, indptr[rows + 1] - indptr[rows]
                owner, near = np.repeat(rows, lengths), col[begin:end]
                s = np.einsum("ehd,ehd->eh", q[b, owner], k[b, near], dtype=np.float64)
                s *= case["width"] ** -0.5
                p = np.exp(s - np.repeat(np.maximum.reduceat(s, starts), lengths, axis=0))
                p /= np.repeat(np.add.reduceat(p, starts), lengths, axis=0)
                expected[b, rows] = np.add.reduceat(p[..., None] * v[b, near], starts)
        return {"expected": expected}

    def error(
        self, case: Case, weights: Pattern, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare the largest difference with the largest value."""
        got, expected = np.asarray(result, np.float64), reference["expected"]
        if got.shape != expected.shape or not np.isfinite(got).all():
            return float("inf")
        return float(np.abs(got - expected).max() / np.abs(expected).max() / TOLERANCE[storage])

    def work(self, case: Case, nnz: int) -> Work:
        """Count two products an entry; q, k, v and the result are read or written once."""
        m, k = case["m"], case["k"]
        heads, width = case["batch"] * case["heads"], case["width"]
        pattern = 4.0 * nnz + 4.0 * m
        dense = 2.0 * (m + k) * heads * width * ITEM_BYTES[case.dtype]
        flops = 4.0 * heads * width
        return Work(flops * nnz, flops * m * k, pattern + dense, pattern)

    def make_contenders(self) -> list[Contender]:
        """List ours, fused and composed, torch's dense attention, and its gather and scatter."""
        heads_first: dict[str, Any] = {
            "result": lambda case, out: np.moveaxis(as_values(out), 1, 2),
            "suits": lambda case: case["m"] * case["k"] <= MOST_DENSE,
        }
        single: dict[str, Any] = {"suits": lambda case: case["batch"] == 1}
        return [
            _one("csr-attention", "ours", GOSSAMER, _gossamer_pattern, _fused),
            _one("csr-composed", "ours", GOSSAMER, _gossamer_pattern, _composed,
                 result=lambda case, out: np.moveaxis(as_values(out), 1, 2)),
            _one("sdpa-mask", "dense", TORCH, _mask, _sdpa, **heads_first),
            _one("torch-scatter", "sparse", TORCH, _edges, _scatter, **single),
            _one("cuda-csr-attention", "ours", CUDA, _cuda_pattern, _fused),
            _one("cuda-csr-composed", "ours", CUDA, _cuda_pattern, _composed,
                 result=lambda case, out: np.moveaxis(as_values(out), 1, 2)),
            _one("cuda-sdpa-mask", "dense", CUDA, _cuda_mask, _sdpa, **heads_first),
        ]  # fmt: skip


def _one(
    name: str,
    kind: str,
    library: Library,
    held: Callable[[Case, Pattern], Any],
    expression: Expression,
    *,
    dtypes: Sequence[str] = DTYPES,
    result: Callable[[Case, Any], Any] = lambda case, out: as_values(out),
    **options: Any,
) -> Contender:
    def bind(case: Case, pattern: Any, inputs: dict[str, Array]) -> Call:
        q, k, v = (library.put(inputs[x], case.dtype) for x in "qkv")
        return expression(pattern, q, k, v)

    return Contender(name, kind, library, held, bind, result, dtypes=dtypes, **options)


def _gossamer_pattern(case: Case, pattern: Pattern) -> Any:
    shape = (case["m"], case["k"])
    return gossamer_module().CSR(pattern["indptr"], pattern["col"], None, shape)


def _cuda_pattern(case: Case, pattern: Pattern) -> Any:
    indptr, indices = (CUDA.put_index(pattern[x]) for x in ("indptr", "col"))
    return gossamer_module().CSR(indptr, indices, None, (case["m"], case["k"]))


def _fused(pattern: Any, q: Any, k: Any, v: Any) -> Call:
    attention = gossamer_module().csr_attention
    return lambda: attention(q, k, v, pattern)[0]


def _composed(pattern: Any, q: Any, k: Any, v: Any) -> Call:
    gossamer, scale = gossamer_module(), q.shape[-1] ** -0.5
    q, k, v = (x.transpose(0, 2, 1, 3) if hasattr(x, "flags") else x.transpose(1, 2)
               for x in (q, k, v))  # fmt: skip

    def call() -> Any:
        scores = pattern.with_values(gossamer.sddmm(q, k, pattern, scale=scale))
        return gossamer.spmm(gossamer.csr_softmax(scores), v)

    return call


def _mask(case: Case, pattern: Pattern) -> Any:
    mask = np.zeros((case["m"], case["k"]), bool)
    mask[pattern["row"], pattern["col"]] = True
    return torch_module().from_numpy(mask)


def _cuda_mask(case: Case, pattern: Pattern) -> Any:
    return CUDA.put_index(_mask(case, pattern).numpy())


def _sdpa(mask: Any, q: Any, k: Any, v: Any) -> Call:
    attention = torch_module().nn.functional.scaled_dot_product_attention
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return lambda: attention(q, k, v, attn_mask=mask).nan_to_num()


def _edges(case: Case, pattern: Pattern) -> Any:
    return tuple(torch_module().from_numpy(pattern[x]) for x in ("row", "col"))


def _scatter(edges: Any, q: Any, k: Any, v: Any) -> Call:
    """Gather the rows of every entry, and scatter what becomes of them: softmax by index."""
    torch, (row, col) = torch_module(), edges
    q, k, v = (x[0] for x in (q, k, v))
    scale = q.shape[-1] ** -0.5
    index = row[:, None].expand(-1, q.shape[1])

    def call() -> Any:
        s = (q[row] * k[col]).sum(-1) * scale
        top = s.new_full(q.shape[:2], -torch.inf).scatter_reduce(0, index, s, "amax")
        p = (s - top[row]).exp()
        p = p / torch.zeros_like(top).index_add_(0, row, p)[row]
        return torch.zeros_like(q).index_add_(0, row, p[..., None] * v[col])[None]

    return call


CSR_ATTENTION = CsrAttention()
OPS = [CSR_ATTENTION]


def parts() -> list[Part]:
    """List the parts of the suite `attention` on patterns: tokens of an image, and a graph."""
    image: dict[str, Any] = {"m": 197, "k": 197, "batch": 32, "heads": 6, "width": 64}
    graph: dict[str, Any] = {"m": 100_000, "k": 100_000, "batch": 1, "heads": 4, "width": 64}
    images = [
        CSR_ATTENTION.case(**image, sparsity=sparsity, dtype=dtype)
        for dtype in ("f32", "bf16")
        for sparsity in (0.75, 0.9)
    ]
    graphs = [CSR_ATTENTION.case(**graph, sparsity=1 - 15 / 100_000)]
    return [
        Part(
            "attention",
            "csr-image",
            tuple(images),
            ("csr-attention", "csr-composed", "sdpa-mask"),
            (
                Target("csr-attention vs SDPA with a mask, 197 tokens, 25% kept",
                       "csr-attention", ("sdpa-mask",), 2.0, {"sparsity": (0.75,)}),
            ),
        ),
        Part(
            "attention",
            "csr-graph",
            tuple(graphs),
            ("csr-attention", "csr-composed", "torch-scatter"),
            (
                Target("csr-attention vs gather and scatter, 1.5M edges",
                       "csr-attention", ("torch-scatter",), 30.0),
            ),
        ),
    ]  # fmt: skip
