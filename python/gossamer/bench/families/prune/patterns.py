"""Masks with a structure: N:M, transposable, V:N:M and blocks."""

from __future__ import annotations

from importlib import import_module
from itertools import combinations, product
from typing import Any

import numpy as np

from ...dtypes import Array
from ...libraries import TORCH, Call
from ...op import Case, Contender
from ...targets import Part
from ..parameters import SPARSITY, K, M, fixed
from .masks import MaskOp, first_largest, marked_largest, mask_part, prune_module, top


class OfEachM(MaskOp):
    """N of every `m` entries: the share of zeros is the pattern's."""

    def __init__(self, name: str, n: int, m: int) -> None:
        self.of = (n, m)
        self.parameters = (M, K, fixed(SPARSITY, 1 - n / m))
        super().__init__(name)

    def nnz(self, case: Case, weights: Any) -> int:
        """Count N of every M."""
        n, m = self.of
        return int(case["m"] * case["k"] * n // m)


class NMask(OfEachM):
    """The N largest of every M along rows or down columns; of |w|, or with Wanda's score."""

    on_gpus = True

    def __init__(
        self, name: str, n: int, m: int, *, down: bool = False, wanda: bool = False
    ) -> None:
        self.axis, self.columns = 0 if down else 1, wanda
        super().__init__(name, n, m)

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Sort each group."""
        n, m = self.of
        groups = score.reshape(-1, m) if self.axis == 1 else score.reshape(-1, m, case["k"])
        return first_largest(groups, n, 1)

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call nm_mask."""
        prune, (n, m), axis = prune_module(), self.of, self.axis
        return lambda: prune.nm_mask(self.our_score(w, inputs), n, m, axis=axis)

    def peers(self) -> list[Contender]:
        """List topk of each group, and for 2:4 of |w| torch's own."""
        own = [self.contender("torch.ao", TORCH, self._ao)] if self.name == "nm" else []
        return [self.topk(self._topk), *own]

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        torch, (n, m), w = import_module("torch"), self.of, t["w"]
        score = w.abs() * t["col"].sqrt() if self.columns else w.abs()
        score = score.view(-1, m) if self.axis == 1 else score.view(-1, m, case["k"])
        index = torch.topk(score, n, dim=1).indices
        zeros = torch.zeros(score.shape, dtype=torch.bool, device=w.device)
        return zeros.scatter_(1, index, True).view_as(w)

    def _ao(self, case: Case, held: Any, inputs: dict[str, Array]) -> Call:
        torch, (n, m) = import_module("torch"), self.of
        layer = torch.nn.Linear(case["k"], case["m"], bias=False)
        layer.weight.data = torch.from_numpy(inputs["w"])
        model = torch.nn.Sequential(layer)
        sparsifier = torch.ao.pruning.WeightNormSparsifier(
            sparsity_level=1.0, sparse_block_shape=(1, m), zeros_per_block=m - n
        )
        sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])

        def call() -> Any:
            sparsifier.step()
            return model[0].parametrizations.weight[0].mask

        return call


class Transposable(OfEachM):
    """2 of each row and each column of blocks of 4 by 4, with the largest sum."""

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Compare all patterns."""
        patterns, side = square_patterns(), self.of[1]
        tiled = tiles(score, (side, side)).transpose(0, 2, 1, 3)
        mask, free = np.zeros((2, *tiled.shape), bool)
        for row, of_row in enumerate(tiled):
            flat = of_row.reshape(len(of_row), -1).astype(np.float64)
            best, near = best_sums(flat @ patterns.T.astype(np.float64))
            mask[row] = patterns[best].reshape(of_row.shape)
            free[row] = near[:, None, None]
        mask, free = (x.transpose(0, 2, 1, 3).reshape(score.shape) for x in (mask, free))
        return mask, free

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call nm_mask_transposable."""
        prune, (n, m) = prune_module(), self.of
        return lambda: prune.nm_mask_transposable(prune.score(w), n, m)

    def peers(self) -> list[Contender]:
        """List torch, which multiplies the blocks with all patterns and takes the best."""
        return [self.contender("torch.argmax", TORCH, self._argmax)]

    def _argmax(self, case: Case, held: Any, inputs: dict[str, Array]) -> Call:
        torch, side = import_module("torch"), self.of[1]
        w, patterns = torch.from_numpy(inputs["w"]), torch.from_numpy(square_patterns())

        def call() -> Any:
            tiled = tiles(w.abs(), (side, side)).permute(0, 2, 1, 3)
            best = (tiled.reshape(-1, side * side) @ patterns.T).argmax(1)
            return patterns[best].bool().view(tiled.shape).permute(0, 2, 1, 3).reshape(w.shape)

        return call


class Vnm(OfEachM):
    """N of the four columns of every M that V rows have in common."""

    V = 64

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Choose columns by the sum of the two largest of each row, of every four."""
        n, m = self.of
        rows, cols = score.shape[0] // self.V, score.shape[1] // m
        column = list(
            np.ascontiguousarray(score.reshape(rows, self.V, cols, m).transpose(3, 0, 1, 2))
        )
        low, high = {}, {}
        for a, b in combinations(range(m), 2):
            low[a, b], high[a, b] = (f(column[a], column[b]) for f in (np.minimum, np.maximum))
        sets = list(combinations(range(m), 4))
        sums = np.empty((rows, cols, len(sets)))
        for i, (a, b, c, d) in enumerate(sets):
            x, y = high[a, b], high[c, d]
            second = np.maximum(np.minimum(x, y), np.maximum(low[a, b], low[c, d]))
            sums[..., i] = (np.maximum(x, y) + second).sum(1, dtype=np.float64)
        best, near = best_sums(sums)
        chosen = np.array([[c in x for c in range(m)] for x in sets])[best][:, None]
        blocks = score.reshape(rows, self.V, cols, m)
        mask, _ = first_largest(np.where(chosen, blocks, -1.0), n, 3)
        free = np.broadcast_to(near[:, None, :, None], blocks.shape)
        return mask.reshape(score.shape), free.reshape(score.shape)

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call vnm_mask."""
        prune, (n, m) = prune_module(), self.of
        return lambda: prune.vnm_mask(prune.score(w), self.V, n, m)


class BlockMask(MaskOp):
    """The blocks with the largest Σ|w|."""

    def __init__(self, name: str, block: tuple[int, int], title: str | None = None) -> None:
        self.block = block
        super().__init__(name, title)

    def segment(self, case: Case) -> int:
        """Select from all blocks at once."""
        return int(case["m"] * case["k"]) // (self.block[0] * self.block[1])

    def nnz(self, case: Case, weights: Any) -> int:
        """Count the entries of the blocks that are kept."""
        return self.kept(case) * self.block[0] * self.block[1]

    def expected(self, case: Case, score: Array) -> tuple[Array, Array]:
        """Sum in float64; sums may be rounded."""
        sums = tiles(score.astype(np.float64), self.block).sum((1, 3))
        chosen, _ = top(sums, self.kept(case))
        smallest = sums[chosen].min(initial=np.inf)
        near = abs(sums - smallest) <= 1e-5 * smallest
        mask, free = (over_tiles(x, self.block) for x in (chosen, near))
        return mask, free

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call block_mask."""
        prune, k = prune_module(), self.kept(case)
        return lambda: prune.block_mask(prune.score(w), k, self.block, reduce="l1")

    def peers(self) -> list[Contender]:
        """List NumPy and torch on the sums."""
        return [self.numpy(self._partition), self.topk(self._topk)]

    def _partition(self, case: Case, x: dict[str, Array]) -> Any:
        at = self.segment(case) - self.kept(case)
        sums = tiles(np.abs(x["w"]), self.block).sum((1, 3))
        return over_tiles(sums >= np.partition(sums.reshape(-1), at)[at], self.block)

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        sums = tiles(t["w"].abs(), self.block).sum((1, 3))
        chosen = marked_largest(sums.view(-1), self.kept(case)).view_as(sums)
        rows, cols = self.block
        return chosen.repeat_interleave(rows, 0).repeat_interleave(cols, 1)


def tiles(w: Any, block: tuple[int, int]) -> Any:
    """View a matrix as [rows of blocks, rows, columns of blocks, columns]."""
    rows, cols = block
    return w.reshape(w.shape[0] // rows, rows, w.shape[1] // cols, cols)


def over_tiles(chosen: Array, block: tuple[int, int]) -> Array:
    """Repeat what is said of blocks for their entries."""
    return chosen.repeat(block[0], axis=0).repeat(block[1], axis=1)


def best_sums(sums: Array) -> tuple[Array, Array]:
    """Find the largest along the last axis, and where the second is too near to tell."""
    best = sums.argmax(-1)
    largest = np.take_along_axis(sums, best[..., None], -1)
    return best, (sums >= largest * (1 - 1e-5)).sum(-1) > 1


def square_patterns() -> Array:
    """List the blocks of 4 by 4 with 2 in each row and column, flat, in lexicographic order."""
    rows = [x for x in product((1, 0), repeat=4) if sum(x) == 2]
    squares = (x for x in product(rows, repeat=4) if set(map(sum, zip(*x, strict=True))) == {2})
    return np.array(list(squares), np.float32).reshape(-1, 16)


NM, NM_WANDA = NMask("nm", 2, 4), NMask("nm_wanda", 2, 4, wanda=True)
NM16, NM16_DOWN = NMask("nm16", 8, 16), NMask("nm16_down", 8, 16, down=True)
TRANSPOSABLE, VNM = Transposable("transposable", 2, 4), Vnm("vnm", 2, 8)
BLOCK_MASK = BlockMask("block_mask", (16, 16), "block_mask")
BLOCK4, BLOCK_ROW = BlockMask("block4", (4, 4)), BlockMask("block_row", (1, 16))
OPS = [NM, NM_WANDA, NM16, NM16_DOWN, TRANSPOSABLE, VNM, BLOCK_MASK, BLOCK4, BLOCK_ROW]


def parts() -> list[Part]:
    """List the parts of the suite `prune` that have a structure."""
    half, faster = (0.5,), {"torch.topk": 1.0, "np.partition": 1.0}
    return [
        mask_part(NM, half, {"torch.topk": 30.0, "torch.ao": 50.0}, heights=(4096, 11008)),
        mask_part(NM_WANDA, half, {"torch.topk": 30.0}),
        mask_part(NM16, half, {"torch.topk": 10.0}),
        mask_part(NM16, half, {"torch.topk": 10.0}, dtype="bf16"),
        mask_part(NM16_DOWN, half, {"torch.topk": 10.0}),
        mask_part(TRANSPOSABLE, half, {"torch.argmax": 10.0}),
        mask_part(VNM, (0.75,), {}),
        mask_part(BLOCK_MASK, (0.5, 0.9), faster),
        mask_part(BLOCK4, (0.9,), faster),
        mask_part(BLOCK_ROW, (0.9,), faster),
    ]
