"""Products with chosen or shrunk weights: packed for a width, quantised groups, 1 × 1 convs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from ..dtypes import ITEM_BYTES, Array, from_bits, recode, to_bits
from ..libraries import GOSSAMER, NUMPY, TORCH, Call, Library, as_stored, torch_module
from ..op import Case, Contender, Parameter, Work
from ..shapes import Shape
from ..targets import Part, Target, grid, order
from .forms import csr, dense, gossamer_csr, gossamer_module
from .parameters import SPARSITY, K, M, N, fixed, positive
from .products import Linear, Spmm
from .sparse import PATTERN, Matrix, draw_matrix

UNIFORM = fixed(PATTERN, "uniform")
FLOATS = ("f32",)


class PackFor(Linear):
    """x·Wᵀ with W packed for the width of x, whatever its sparsity: never slower than dense."""

    name = "pack-for"

    def weights_key(self, case: Case) -> Hashable:
        """Pack anew for each width."""
        return self.name, super().weights_key(case), case["n"]

    def make_contenders(self) -> list[Contender]:
        """List ours and dense products."""
        one = self.contender

        def packed(library: Library, case: Case, matrix: Matrix, storage: str) -> Any:
            a = csr(gossamer_csr)(library, case, matrix, storage)
            return gossamer_module().pack(a, n=case["n"])

        return [
            one("pack-n", "ours", GOSSAMER, packed, self.ours),
            one("numpy", "dense", NUMPY, dense, self.numpy, dtypes=("f32", "f64")),
            one("torch", "dense", TORCH, dense, self.torch),
            one("torch-bf16", "low", TORCH, dense, self.torch, dtypes=FLOATS, storage="bf16"),
        ]


class Update(PackFor):
    """New values for a matrix that was packed for products n wide, beside a copy of them."""

    name = "update"

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw nothing: the values are the matrix's."""
        return {}

    def reference(self, case: Case, weights: Matrix, inputs: dict[str, Array]) -> dict[str, Array]:
        """List the values, and some columns."""
        return {"values": weights.values, "columns": weights.dense()[:, _some_columns(case)]}

    def error(
        self, case: Case, weights: Matrix, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare bit for bit: a copy's values, or columns of what was packed."""
        same = np.array_equal(result, reference["values" if result.ndim == 1 else "columns"])
        return 0.0 if same else float("inf")

    def work(self, case: Case, nnz: int) -> Work:
        """Count a read and a write of each value."""
        total = 2.0 * nnz * ITEM_BYTES[case.dtype]
        return Work(0.0, 0.0, total, total)

    def held_bytes(self, case: Case, contender: Contender, nnz: int) -> float:
        """Count the values."""
        return float(nnz * ITEM_BYTES[case.dtype])

    def make_contenders(self) -> list[Contender]:
        """List ours and NumPy's copy."""

        def packed(case: Case, matrix: Matrix) -> Any:
            a = csr(gossamer_csr)(GOSSAMER, case, matrix, case.dtype)
            return gossamer_module().pack(a.with_values(0 * a.values), n=case["n"]), a.values

        def update(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            matrix, values = held
            return lambda: matrix.update(values)

        def read(case: Case, matrix: Any) -> Array:
            unit = to_bits(np.eye(case["k"], dtype=np.float32)[:, _some_columns(case)], case.dtype)
            unit = GOSSAMER.put(np.ascontiguousarray(unit), case.dtype)
            return as_stored(gossamer_module().spmm(matrix, unit))

        def values(case: Case, matrix: Matrix) -> Any:
            given = NUMPY.put(matrix.values, case.dtype)
            return np.empty_like(given), given

        def copy(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
            out, given = held

            def call() -> Any:
                np.copyto(out, given)
                return out

            return call

        return [
            Contender("pack-n", "ours", GOSSAMER, packed, update, read),
            Contender("numpy", "dense", NUMPY, values, copy, lambda case, out: as_stored(out)),
        ]


def _some_columns(case: Case) -> Array:
    """Choose columns of the matrix that are compared."""
    return np.linspace(0, case["k"] - 1, min(16, case["k"])).astype(int)


def _group(text: str) -> int:
    if (group := positive(text)) not in (16, 32, 64, 128):
        raise ValueError
    return group


def _bits(text: str) -> int:
    if (bits := positive(text)) not in (4, 8):
        raise ValueError
    return bits


GROUP = Parameter(
    "group",
    help="of 16, 32, 64, 128: columns of a group [16]",
    usual="16",
    quick="16",
    parse=_group,
    head="group",
    label=lambda group: f"G={group}",
    default=16,
)
BITS = Parameter(
    "bits",
    help="of 4, 8: bits of a code [4]",
    usual="4",
    quick="4",
    parse=_bits,
    head="bits",
    label=lambda bits: f"W{bits}",
    default=4,
)


class QuantLinear(Linear):
    """x·Wᵀ with W of quantised groups; peers get the numbers that these stand for."""

    name = "quant-linear"
    parameters = (M, K, N, SPARSITY, UNIFORM, GROUP, BITS)

    def weights_key(self, case: Case) -> Hashable:
        """Tell forms apart, too."""
        return self.name, super().weights_key(case), case["group"], case["bits"]

    def weights(self, case: Case) -> Matrix:
        """Quantise a matrix without zeros; its groups' numbers are the weights."""
        made = quantised(case)
        numbers = made.to_dense()
        indptr = np.zeros(case["m"] + 1, np.int32)
        rows, columns = np.nonzero(numbers)
        np.cumsum(np.bincount(rows, minlength=case["m"]), out=indptr[1:])
        values = to_bits(numbers[rows, columns], case.dtype)
        return Matrix(indptr, columns.astype(np.int32), values, numbers.shape, case.dtype)

    def held_bytes(self, case: Case, contender: Contender, nnz: int) -> float:
        """Count a group's codes, scale, zero and place."""
        if contender.kind in ("dense", "low"):
            return super().held_bytes(case, contender, nnz)
        return float(nnz / case["group"] * (case["group"] * case["bits"] / 8 + 5))

    def make_contenders(self) -> list[Contender]:
        """List ours and dense products."""
        one = self.contender

        def groups(library: Library, case: Case, matrix: Matrix, storage: str) -> Any:
            return quantised(case)

        return [
            one("group-quant", "ours", GOSSAMER, groups, self.ours),
            one("numpy", "dense", NUMPY, dense, self.numpy, dtypes=("f32", "f64")),
            one("torch", "dense", TORCH, dense, self.torch),
            one("torch-bf16", "low", TORCH, dense, self.torch, dtypes=FLOATS, storage="bf16"),
        ]


def quantised(case: Case) -> Any:
    """Draw a matrix of quantised groups, half of whose steps are in the case's type exactly."""
    rng = np.random.default_rng([case.seed, case["m"], case["k"], 21])
    w = rng.standard_normal((case["m"], case["k"]), np.float32)
    made = gossamer_module().GroupQuant.from_dense(
        w, group=case["group"], bits=case["bits"], sparsity=case["sparsity"]
    )
    # Powers of two: numbers of few bits, which every element type holds.
    scales = (2.0 ** np.round(np.log2(made.scales.astype(np.float32)))).astype(np.float16)
    arrays = (made.indptr, made.indices, made.codes, scales, made.zeros)
    named = {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16"}
    return gossamer_module().GroupQuant(*arrays, shape=made.shape, group=made.group,
                                        bits=made.bits, dtype=named[case.dtype])  # fmt: skip


class Conv(Spmm):
    """A 1 × 1 convolution with bias and ReLU6 of an image of n pixels, m outputs and k inputs."""

    name = "conv1x1"
    parameters = (M, K, N, SPARSITY, UNIFORM)

    def weights_key(self, case: Case) -> Hashable:
        """Share no matrix with other ops."""
        return self.name, super().weights_key(case)

    def weights(self, case: Case) -> Matrix:
        """Draw a pattern of 4 × 1 blocks: each row of a quarter as many, four times."""
        part = draw_matrix(case.with_(m=-(-case["m"] // 4)))
        mask = np.repeat(part.dense() != 0, 4, axis=0)[: case["m"]]
        rng = np.random.default_rng([case.seed, 22])
        values = np.abs(rng.standard_normal(int(mask.sum()), np.float32)) + np.float32(0.01)
        indptr = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
        columns = np.nonzero(mask)[1].astype(np.int32)
        return Matrix(indptr, columns, to_bits(values, case.dtype), mask.shape, case.dtype)

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw an image so small that no sum meets the bounds of ReLU6: results can be compared."""
        drawn = super().inputs(case)["b"]
        image = np.abs(from_bits(drawn, case.dtype)) / np.float32(2 * case["k"])
        return {"b": to_bits(image.reshape(case["k"], case["n"]), case.dtype)}

    def ours(self, w: Any, b: Any) -> Call:
        """Call spmm with its epilogue."""
        gossamer = gossamer_module()
        bias = np.zeros(w.shape[0], b.dtype)
        return lambda: gossamer.spmm(w, b, bias=bias, activation="relu6")

    def torch(self, w: Any, b: Any) -> Call:
        """Call torch's convolution; pixels are in a row, which it does not mind."""
        torch = torch_module()
        conv, relu6 = torch.nn.functional.conv1d, torch.nn.functional.relu6
        kernel, image, bias = w[:, :, None], b[None], torch.zeros(w.shape[0], dtype=w.dtype)
        return lambda: relu6(conv(image, kernel, bias), inplace=True)[0]

    def make_contenders(self) -> list[Contender]:
        """List CSR packed, 4 × 1 blocks, and torch's dense convolution."""
        one = self.contender

        def packed(library: Library, case: Case, matrix: Matrix, storage: str) -> Any:
            return gossamer_module().pack(csr(gossamer_csr)(library, case, matrix, storage))

        def blocks(library: Library, case: Case, matrix: Matrix, storage: str) -> Any:
            w = library.put(recode(matrix.dense(), case.dtype, storage), storage)
            return gossamer_module().BSR.from_dense(w, (4, 1))

        return [
            one("packed", "ours", GOSSAMER, packed, self.ours, dtypes=FLOATS),
            one(
                "bsr-4x1",
                "ours",
                GOSSAMER,
                blocks,
                self.ours,
                dtypes=FLOATS,
                suits=lambda case: case["m"] % 4 == 0,
            ),
            one("torch", "dense", TORCH, dense, self.torch),
            one("torch-bf16", "low", TORCH, dense, self.torch, dtypes=FLOATS, storage="bf16"),
        ]


PACK_FOR, UPDATE, QUANT_LINEAR, CONV = PackFor(), Update(), QuantLinear(), Conv()
OPS = [PACK_FOR, UPDATE, QUANT_LINEAR, CONV]

#: Layers of MobileNet: outputs, inputs, pixels.
LAYERS = ((128, 64, 3136), (256, 128, 784), (512, 512, 196), (1024, 1024, 49))


def parts() -> list[Part]:
    """List the parts of the suite `gemm`: against the best dense product."""
    shapes, f32 = [Shape(4096, 4096), Shape(11008, 4096)], ("numpy", "torch")
    listed = []
    targets: tuple[Target, ...]
    for dtype in ("f32", "bf16"):
        widths, levels = (1, 8, 32, 128), (0.1, 0.3, 0.5, 0.7, 0.9)
        chosen = order(grid(PACK_FOR, shapes[:1], sparsity=levels, dtype=dtype, n=widths))
        peers = f32 if dtype == "f32" else ("torch",)
        targets = (Target(f"pack(n=N) {dtype} vs dense", "pack-n", peers, 1.0, never_lose=True),)
        suffix = "" if dtype == "f32" else "-bf16"
        who = ("pack-n", *peers)
        listed.append(Part("gemm", f"pack-for{suffix}", tuple(chosen), who, targets))
        size = [Shape(2048, 4096)]
        chosen = order(grid(UPDATE, size, sparsity=(0.5, 0.9), dtype=dtype, n=(8, 128)))
        targets = (Target(f"update {dtype} over a copy", "pack-n", ("numpy",), 2.0, at_most=True),)
        listed.append(Part("gemm", f"update{suffix}", tuple(chosen), ("pack-n", "numpy"), targets))
    quant = order(grid(QUANT_LINEAR, shapes, sparsity=(0.5,), cold=True, n=(1, 4, 32, 128)))
    targets = (
        Target("GroupQuant W4, 50% vs dense f32, N=1", "group-quant", f32, 4.0, {"n": (1,)}),
        Target("GroupQuant W4, 50% vs dense bf16, N=1", "group-quant", ("torch-bf16",), 2.0,
               {"n": (1,)}),
    )  # fmt: skip
    who = ("group-quant", *f32, "torch-bf16")
    listed.append(Part("gemm", "group-quant", tuple(quant), who, targets))
    convs = [CONV.case(m=m, k=k, n=n, sparsity=s) for m, k, n in LAYERS for s in (0.8, 0.9)]
    targets = tuple(
        Target(f"{name} 1x1 convolution vs torch's dense, {100 * s:g}%", name, ("torch",), bound,
               {"sparsity": (s,)})
        for name in ("packed", "bsr-4x1")
        for s, bound in ((0.8, 2.5), (0.9, 4.0))
    )  # fmt: skip
    who = ("packed", "bsr-4x1", "torch", "torch-bf16")
    listed.append(Part("gemm", "conv1x1", tuple(order(convs)), who, targets))
    return listed
