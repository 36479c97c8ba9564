"""Products of a sparse matrix with a dense one: linear, spmm, and spmm by the transpose."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from ..cuda import CUDA, CUPY
from ..dtypes import DTYPES, ROUNDOFF, Array, from_bits, recode, sum_factor, to_bits, worst_error
from ..libraries import (
    GOSSAMER,
    MKL,
    NUMPY,
    SCIPY,
    TORCH,
    Call,
    Library,
    as_values,
    torch_module,
)
from ..op import Case, Contender, Parameter, Work
from ..shapes import Shape, parse_shapes
from ..targets import DENSE_PEERS, SPARSE_PEERS, Part, Target, grid, order
from .forms import (
    Form,
    bsr,
    csr,
    cupy_csr,
    dense,
    gossamer_bsr,
    gossamer_csr,
    gossamer_module,
    gossamer_nm,
    gossamer_packed,
    gossamer_packed_wide,
    hold,
    scipy_bsr,
    scipy_csr,
    torch_bsr,
    torch_csr,
    torch_csr_i64,
)
from .parameters import SPARSITY, K, M, N
from .sparse import (
    GROUPS,
    PATTERN,
    Matrix,
    SparseOp,
    of_blocks,
    of_groups,
    product_work,
)

#: Returns the timed call of a form of the matrix and the dense operand.
Expression: TypeAlias = Callable[[Any, Any], Call]

# Results are compared in full up to this many multiply-adds, else on sampled rows and row sums.
FULL_CHECK = 50_000_000
SAMPLED_ROWS = 192


class Product(SparseOp):
    """A product with a dense operand of n columns.

    Each peer gets the layout that it is fastest with among those that its users have.
    """

    parameters: tuple[Parameter, ...] = (M, K, N, SPARSITY, PATTERN)
    transposed = False  # the matrix is
    by_rows = False  # the dense operand and the result are [n, k] and [n, m]
    without: tuple[str, ...] = ()  # contenders that do not compute it

    @abstractmethod
    def ours(self, w: Any, b: Any) -> Call:
        """Call gossamer."""

    @abstractmethod
    def numpy(self, w: Any, b: Any) -> Call:
        """Call NumPy on a dense matrix."""

    @abstractmethod
    def torch(self, w: Any, b: Any) -> Call:
        """Call PyTorch on a dense or a sparse matrix."""

    @abstractmethod
    def scipy(self, w: Any, b: Any) -> Call:
        """Call SciPy or CuPy on a sparse matrix."""

    @abstractmethod
    def mkl(self, w: Any, b: Any) -> Call:
        """Call sparse_dot_mkl on SciPy's CSR matrix."""

    # Operands and reference

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw B; one column is a vector, but for linear, which has one row then."""
        inner, n = case["m" if self.transposed else "k"], case["n"]
        shape = (n, inner) if self.by_rows else (inner, n) if n > 1 else (inner,)
        rng = np.random.default_rng([case.seed, n, 1])
        return {"b": to_bits(rng.standard_normal(shape, np.float32), case.dtype)}

    def reference(self, case: Case, weights: Matrix, inputs: dict[str, Array]) -> dict[str, Array]:
        """Multiply in float64: all rows of a small result, else some rows, and every row's sum."""
        values = from_bits(weights.values, case.dtype)
        b = from_bits(inputs["b"], case.dtype).astype(np.float64)
        b = b.T if self.by_rows else b.reshape(len(b), -1)
        out, inner = weights.rows, weights.indices
        if self.transposed:
            out, inner = inner, out
        count = self._outputs(case)

        rows = np.arange(count)
        if weights.nnz * case["n"] > FULL_CHECK and count > SAMPLED_ROWS:
            rng = np.random.default_rng([case.seed, 2])
            rows = np.sort(rng.choice(count, SAMPLED_ROWS, replace=False))
            rows[0], rows[-1] = 0, count - 1
        slot = np.full(count, -1)
        slot[rows] = np.arange(rows.size)
        if rows.size == count:
            chosen = np.arange(weights.nnz)
        elif self.transposed:
            chosen = np.nonzero(slot[out] >= 0)[0]
        else:
            starts, ends = weights.indptr[rows], weights.indptr[rows + 1]
            chosen = np.concatenate([np.arange(*span) for span in zip(starts, ends, strict=True)])
        sample = np.zeros((rows.size, len(b)))
        sample[slot[out[chosen]], inner[chosen]] = values[chosen]

        # Every row's sum, with random signs, which a wrong row cannot hide in.
        signs = np.where(np.random.default_rng([case.seed, 3]).random(case["n"]) < 0.5, -1.0, 1.0)
        lengths = np.bincount(out, minlength=count)
        return {
            "rows": rows,
            "expected": sample @ b,
            "magnitude": abs(sample) @ abs(b),
            "signs": signs,
            "sums": np.bincount(out, values * (b @ signs)[inner], count),
            "sums_magnitude": np.bincount(out, abs(values) * abs(b).sum(1)[inner], count),
            "length": np.array(lengths.max()),
        }

    def error(
        self, case: Case, weights: Matrix, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Hold the result to the bound of a dot product, n u Σ|a||b|, and of its rounding."""
        factor = sum_factor(int(reference["length"]), case.dtype, storage)
        got, count, n = np.asarray(result), self._outputs(case), case["n"]
        if got.size != count * n or n not in (got.shape[0], got.shape[-1], 1):
            return float("inf")
        got = got.T if self.by_rows else got.reshape(count, n)
        rows, sums = got[reference["rows"]], got @ reference["signs"]
        factor_of_sums = factor + ROUNDOFF[storage]
        return max(
            worst_error(rows, reference["expected"], reference["magnitude"], factor, storage),
            worst_error(
                sums, reference["sums"], reference["sums_magnitude"], factor_of_sums, storage
            ),
        )

    def _outputs(self, case: Case) -> int:
        return int(case["k" if self.transposed else "m"])

    def work(self, case: Case, nnz: int) -> Work:
        """Count a multiply-add for each entry and column."""
        return product_work(case, nnz, case["n"])

    # Contenders

    def make_contenders(self) -> list[Contender]:
        """List the forms of ours, dense and sparse peers, and those of a GPU."""
        one = self.contender
        floats: dict[str, Any] = {"dtypes": ("f32", "f64")}
        blocks: dict[str, Any] = {"dtypes": ("f16", "bf16", "f32"), "suits": of_blocks}
        float_blocks: dict[str, Any] = {"dtypes": ("f32", "f64"), "suits": of_blocks}
        single: dict[str, Any] = {"threads": 1, "default": False}
        low: dict[str, Any] = {"dtypes": ("f32",), "storage": "bf16"}
        halves: dict[str, Any] = {"dtypes": ("f16", "bf16"), "default": False}
        plain, packed, scipy = csr(gossamer_csr), csr(gossamer_packed), csr(scipy_csr)
        packed_wide = csr(gossamer_packed_wide)
        our_blocks, torch_blocks = bsr(gossamer_bsr), bsr(torch_bsr)
        listed = [
            one("csr", "ours", GOSSAMER, plain, self.ours),
            one("packed", "ours", GOSSAMER, packed, self.ours),
            one("bsr", "ours", GOSSAMER, our_blocks, self.ours, suits=of_blocks),
            one("nm", "ours", GOSSAMER, gossamer_nm, self.ours, suits=of_groups),
            one("csr-1t", "ours", GOSSAMER, plain, self.ours, **single),
            one("packed-1t", "ours", GOSSAMER, packed, self.ours, **single),
            one("csr-bf16", "ours", GOSSAMER, plain, self.ours, **low, default=False),
            one("packed-bf16", "ours", GOSSAMER, packed, self.ours, **low, default=False),
            self._as_spmm("csr-as-spmm"),
            self._as_spmm("packed-as-spmm", pack=True),
            one("numpy", "dense", NUMPY, dense, self.numpy, **floats),
            one("torch", "dense", TORCH, dense, self.torch),
            one("torch-bf16", "low", TORCH, dense, self.torch, **low),
            one("torch-csr", "sparse", TORCH, csr(torch_csr), self.torch, **floats),
            one("torch-csr-i64", "sparse", TORCH, csr(torch_csr_i64), self.torch, **floats),
            one("scipy", "sparse", SCIPY, scipy, self.scipy, **floats),
            one("torch-bsr", "sparse", TORCH, torch_blocks, self.torch, **float_blocks),
            one("scipy-bsr", "sparse", SCIPY, bsr(scipy_bsr), self.scipy, **float_blocks),
            one("mkl", "sparse", MKL, scipy, self.mkl, **floats),
            one("cuda-csr", "ours", CUDA, plain, self.ours),
            one("cuda-packed", "ours", CUDA, packed, self.ours, dtypes=("f32", "f16", "bf16")),
            one("cuda-packed-wide", "ours", CUDA, packed_wide, self.ours, **halves),
            one("cuda-bsr", "ours", CUDA, our_blocks, self.ours, **blocks),
            one("cuda-nm", "ours", CUDA, gossamer_nm, self.ours, suits=of_groups),
            one("cublas", "dense", CUDA, dense, self.torch),
            one("torch-cusparse", "sparse", CUDA, csr(torch_csr), self.torch),
            one("torch-cuda-bsr", "sparse", CUDA, torch_blocks, self.torch, **blocks),
            one("cupy-cusparse", "sparse", CUPY, csr(cupy_csr), self.scipy, **floats),
        ]
        return [c for c in listed if c.name not in self.without]

    def contender(
        self,
        name: str,
        kind: str,
        library: Library,
        form: Form,
        expression: Expression,
        *,
        dtypes: Sequence[str] = DTYPES,
        storage: str | None = None,
        **options: Any,
    ) -> Contender:
        """Make a contender that keeps the matrix in a form and calls an expression with it."""

        def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            kind = storage or case.dtype
            return expression(held, library.put(recode(inputs["b"], case.dtype, kind), kind))

        return Contender(
            name=name,
            kind=kind,
            library=library,
            hold=hold(form, library, storage),
            bind=bind,
            result=lambda case, out: as_values(out),
            dtypes=dtypes,
            storage=storage,
            **options,
        )

    def _as_spmm(self, name: str, *, pack: bool = False) -> Contender:
        """Ours on the same numbers, laid out for plain spmm: what this op must come near."""

        def held(case: Case, matrix: Matrix) -> Any:
            a = csr(gossamer_csr)(GOSSAMER, case, matrix, case.dtype)
            a = a.T if self.transposed else a
            return gossamer_module().pack(a) if pack else a

        def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            b = inputs["b"]
            if self.by_rows:
                b = np.ascontiguousarray(b.T) if case["n"] > 1 else b.reshape(-1)
            b = GOSSAMER.put(b, case.dtype)
            gossamer = gossamer_module()
            return lambda: gossamer.spmm(held, b)

        def result(case: Case, returned: Any) -> Any:
            out = as_values(returned)
            return out.reshape(case["m"], case["n"]).T if self.by_rows else out

        return Contender(name, "ours", GOSSAMER, held, bind, result, default=False)


class Linear(Product):
    """y = x·Wᵀ for rows of activations."""

    name = "linear"
    by_rows = True

    def ours(self, w: Any, b: Any) -> Call:
        """Call linear."""
        gossamer = gossamer_module()
        return lambda: gossamer.linear(b, w)

    def numpy(self, w: Any, b: Any) -> Call:
        """Multiply with the transposed view."""
        return lambda: b @ w.T

    def torch(self, w: Any, b: Any) -> Call:
        """Call torch's linear."""
        linear = torch_module().nn.functional.linear
        return lambda: linear(b, w)

    def scipy(self, w: Any, b: Any) -> Call:
        """Multiply with xᵀ."""
        return lambda: (w @ b.T).T

    def mkl(self, w: Any, b: Any) -> Call:
        """Multiply with a copy of xᵀ: MKL's column-major path takes 20 ms at N = 32, this 5."""
        product = _mkl_product()
        return lambda: product(w, np.ascontiguousarray(b.T)).T


class Spmm(Product):
    """C = A·B."""

    name = "spmm"
    without: tuple[str, ...] = ("csr-as-spmm", "packed-as-spmm")

    def ours(self, w: Any, b: Any) -> Call:
        """Call spmm."""
        gossamer = gossamer_module()
        return lambda: gossamer.spmm(w, b)

    def numpy(self, w: Any, b: Any) -> Call:
        """Multiply."""
        return lambda: w @ b

    def torch(self, w: Any, b: Any) -> Call:
        """Multiply."""
        return lambda: w @ b

    def scipy(self, w: Any, b: Any) -> Call:
        """Multiply."""
        return lambda: w @ b

    def mkl(self, w: Any, b: Any) -> Call:
        """Multiply."""
        product = _mkl_product()
        return lambda: product(w, b)


class SpmmTransposed(Spmm):
    """C = Aᵀ·B; peers get the transposed view, made once, as a user of Aᵀ would keep it."""

    name = "spmm-t"
    transposed = True
    #: PyTorch has no transpose of BSR, packed matrices have none on a GPU.
    without = ("torch-bsr", "torch-cuda-bsr", "cuda-packed", "cuda-packed-wide")

    def ours(self, w: Any, b: Any) -> Call:
        """Call spmm with the matrix as it is."""
        gossamer = gossamer_module()
        return lambda: gossamer.spmm(w, b, transpose_a=True)

    def numpy(self, w: Any, b: Any) -> Call:
        """Multiply with the view."""
        return super().numpy(w.T, b)

    def torch(self, w: Any, b: Any) -> Call:
        """Multiply with the view."""
        return super().torch(w.t(), b)

    def scipy(self, w: Any, b: Any) -> Call:
        """Multiply with the view."""
        return super().scipy(w.T, b)

    def mkl(self, w: Any, b: Any) -> Call:
        """Multiply with the view."""
        return super().mkl(w.T, b)


def _mkl_product() -> Any:
    return import_module("sparse_dot_mkl").dot_product_mkl


LINEAR, SPMM, SPMM_T = Linear(), Spmm(), SpmmTransposed()
OPS = [LINEAR, SPMM, SPMM_T]


# The suite

WIDTHS = (1, 8, 32, 128, 512)


def _linear(shapes: list[Shape]) -> Part:
    levels = (0.5, 0.8, 0.9, 0.95)
    targets = tuple(
        Target(f"packed linear vs F.linear(x, csr), N={n}", "packed",
               ("torch-csr", "torch-csr-i64"), bound, {"n": (n,)})
        for n, bound in zip(WIDTHS, (4, 8, 15, 20, 20), strict=True)
    )  # fmt: skip
    cases = order(grid(LINEAR, shapes, sparsity=levels, n=WIDTHS))
    return Part("foundation", "linear", tuple(cases), ("packed", "torch-csr", "torch-csr-i64"),
                targets)  # fmt: skip


def _spmm(shapes: list[Shape]) -> Part:
    levels = (0.5, 0.8, 0.9, 0.95, 0.98)
    dense_bounds = {
        0.5: (1.3, 1.5, 1.3, 1.5, 1.3),
        0.8: (3, 3, 3, 3, 3),
        0.9: (5, 6, 6, 5, 5),
        0.95: (8, 11, 9, 8, 7),
    }
    targets = []
    for i, n in enumerate(WIDTHS):
        targets += [
            Target(f"packed spmm vs best sparse peer, 50-90%, N={n}", "packed", SPARSE_PEERS,
                   (2.5, 2, 2.5, 4, 4)[i], {"n": (n,), "sparsity": (0.5, 0.8, 0.9)}),
            Target(f"packed spmm vs best sparse peer, 95-98%, N={n}", "packed", SPARSE_PEERS,
                   (1.2, 1.5, 1.5, 2, 2)[i], {"n": (n,), "sparsity": (0.95, 0.98)},
                   never_lose=True),
            Target(f"plain spmm vs best sparse peer, 50-95%, N={n}", "csr", SPARSE_PEERS,
                   (1.3, 1.3, 1.5, 2, 2)[i], {"n": (n,), "sparsity": (0.5, 0.8, 0.9, 0.95)}),
        ]  # fmt: skip
    targets += [
        Target(f"packed spmm vs best dense f32, {100 * s:g}%, N={n}", "packed", DENSE_PEERS,
               dense_bounds[s][i], {"n": (n,), "sparsity": (s,)})
        for s in dense_bounds
        for i, n in enumerate(WIDTHS)
    ]  # fmt: skip
    targets.sort(key=lambda t: (t.title.split(", N=")[0], t.where["n"][0]))
    cases = order(grid(SPMM, shapes, sparsity=levels, n=WIDTHS))
    who = ("csr", "packed", *SPARSE_PEERS, *DENSE_PEERS)
    return Part("foundation", "spmm", tuple(cases), who, tuple(targets))


def _cold(shapes: list[Shape]) -> Part:
    targets = tuple(
        Target(f"packed spmm vs best dense f32, cold, {100 * s:g}%, N=1", "packed", DENSE_PEERS,
               bound, {"sparsity": (s,)})
        for s, bound in ((0.8, 2.2), (0.9, 3.5))
    )  # fmt: skip
    cases = order(grid(SPMM, shapes, sparsity=(0.8, 0.9), n=(1,), cold=True))
    return Part("foundation", "cold", tuple(cases), ("csr", "packed", *DENSE_PEERS), targets)


def _layouts(shapes: list[Shape]) -> Part:
    targets = tuple(
        Target(f"{form} linear over {form} spmm, N={n}", form, (f"{form}-as-spmm",), 1.1,
               {"n": (n,)}, at_most=True)
        for form in ("packed", "csr")
        for n in WIDTHS
    )  # fmt: skip
    cases = order(grid(LINEAR, shapes, sparsity=(0.5, 0.9), n=WIDTHS))
    who = ("csr", "packed", "csr-as-spmm", "packed-as-spmm")
    return Part("foundation", "layouts", tuple(cases), who, targets)


def _transposed(shapes: list[Shape]) -> Part:
    targets = tuple(
        Target(f"{form} spmm(transpose_a) over {form} spmm, N={n}", form, (f"{form}-as-spmm",),
               1.5, {"n": (n,)}, at_most=True)
        for form in ("csr", "packed")
        for n in WIDTHS
    )  # fmt: skip
    cases = order(grid(SPMM_T, shapes, sparsity=(0.5, 0.9), n=WIDTHS))
    who = ("csr", "packed", "csr-as-spmm", "packed-as-spmm")
    return Part("foundation", "transposed", tuple(cases), who, targets)


def _bf16(shapes: list[Shape]) -> Part:
    targets = tuple(
        Target(f"packed bf16 vs packed f32 linear, cold, {100 * s:g}%, N=1", "packed-bf16",
               ("packed",), 1.5, {"sparsity": (s,)})
        for s in (0.8, 0.9)
    )  # fmt: skip
    cases = order(grid(LINEAR, shapes, sparsity=(0.8, 0.9), n=(1,), cold=True))
    return Part("foundation", "bf16", tuple(cases), ("packed", "packed-bf16", "torch-bf16"),
                targets)  # fmt: skip


def _scaling(shapes: list[Shape]) -> Part:
    # Widths at which the product is bound by arithmetic, and operands that pay for two threads.
    big = [s for s in shapes if s.m * s.k >= 1 << 20]
    targets = tuple(
        Target(f"{form} spmm on all threads vs one, N={n}", form, (f"{form}-1t",), 1.8,
               {"n": (n,)})
        for form in ("packed", "csr")
        for n in (32, 128, 512)
    )  # fmt: skip
    cases = order(grid(SPMM, big, sparsity=(0.8, 0.9), n=(32, 128, 512)))
    who = ("csr", "packed", "csr-1t", "packed-1t")
    return Part("foundation", "scaling", tuple(cases), who, targets)


def _blocks() -> Part:
    chosen, widths, levels = [Shape(4096, 4096), Shape(3072, 768)], (1, 32, 128, 512), (0.8, 0.9)
    peers = ("torch-bsr", "scipy-bsr")
    cases = order(
        case.with_(pattern=pattern)
        for pattern in ("block16", "block32")
        for case in order(grid(SPMM, chosen, sparsity=levels, n=widths))
    )
    targets = tuple(
        Target(f"bsr spmm vs best BSR of others, blocks of 16 and 32, N={n}", "bsr", peers, bound,
               {"n": (n,)})
        for n, bound in zip(widths, (3, 4, 3, 2.5), strict=True)
    )  # fmt: skip
    who = ("bsr", "csr", *peers, *DENSE_PEERS)
    return Part("foundation", "blocks", tuple(cases), who, targets)


def _groups(name: str, widths: Sequence[int], *, dtype: str = "f32", cold: bool = False) -> Part:
    chosen = [Shape(4096, 4096), Shape(11008, 4096)]
    peers = DENSE_PEERS if dtype == "f32" else ("torch",)
    cases = order(
        case.with_(pattern=pattern)
        for pattern, (n, m) in GROUPS.items()
        for case in grid(LINEAR, chosen, sparsity=(1 - n / m,), dtype=dtype, cold=cold, n=widths)
    )
    warmth = ", cold" if cold else ""
    targets = tuple(
        Target(f"{pattern} {dtype} linear vs best dense {dtype}{warmth}, N={width}", "nm", peers,
               max(1.5, 0.5 * m / n), {"pattern": (pattern,), "n": (width,)})
        for pattern, (n, m) in GROUPS.items()
        for width in widths
        if width in (1, 128) and (dtype == "f32" or width == 1)
    )  # fmt: skip
    who = ("nm", "csr", "packed", *peers, *(("torch-bf16",) if dtype == "f32" else ()))
    return Part("gemm", name, tuple(cases), who, targets)


def parts() -> list[Part]:
    """List the parts of the suites that are products."""
    shapes = parse_shapes("foundation")
    of_shapes = (_linear, _spmm, _cold, _layouts, _transposed, _bf16, _scaling)
    return [
        *(make(shapes) for make in of_shapes),
        _blocks(),
        _groups("nm", WIDTHS),
        _groups("nm-cold", (1,), cold=True),
        _groups("nm-cold-bf16", (1,), dtype="bf16", cold=True),
    ]
