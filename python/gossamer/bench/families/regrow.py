"""Drop and grow: RigL's step on a mask."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..dtypes import Array
from ..libraries import Call
from ..op import Case, Contender
from ..targets import Part
from .prune.masks import (
    SelectionOp,
    draw_weights,
    is_mask,
    marked,
    mask_part,
    prune_module,
    random_numbers,
    top,
)

LINE = 64  # bytes that memory moves at once


class Rigl(SelectionOp):
    """Drops three tenths of the active entries by |w| and grows as many by |g|, in place."""

    DROPPED = 0.3

    def moved(self, case: Case) -> int:
        """Count the entries that are dropped, which are as many as grow."""
        return int(self.DROPPED * self.kept(case))

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw weights that are zero where a random mask is, and a gradient."""
        rng = random_numbers(case)
        w = draw_weights(rng, case)
        g = rng.standard_normal((case["m"], case["k"]), np.float32)
        mask = np.zeros(w.shape, bool)
        mask.reshape(-1)[rng.permutation(mask.size)[: self.kept(case)]] = True
        return {"w": w * mask, "g": g, "mask": mask}

    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Select twice: what stays of the active entries, and what grows of the others."""
        active, moved = inputs["mask"], self.moved(case)
        kept = self.kept(case)
        stay, tied = top(np.where(active, self.score(case, inputs), -1.0), kept - moved)
        grow, grow_tied = top(np.where(stay, -1.0, abs(inputs["g"])), moved)
        return {"expected": stay | grow, "free": (tied & active) | (grow_tied & ~stay)}

    def is_right(self, reference: dict[str, Array], result: Any) -> bool:
        """Compare the mask."""
        return is_mask(reference, np.asarray(result).astype(bool))

    def bytes(self, case: Case, size: int) -> float:
        """Count whole lines, as memory moves them.

        Of entries at random places, a share d of all, and L entries a line, 1 - (1 - d)^L of the
        lines hold one. Read are the lines of the mask, those of w with an active or a grown entry,
        and those of g with an entry that may grow; written are those of the mask and of w with an
        entry that changes.
        """
        elements = case["m"] * case["k"]

        def lines(share: float, item: int) -> float:
            return float(elements * item * (1.0 - (1.0 - share) ** (LINE // item)))

        active, moved = self.kept(case) / elements, self.moved(case) / elements
        read = elements + lines(active + moved, size) + lines(1.0 - active + moved, size)
        return float(read + lines(2 * moved, 1) + lines(2 * moved, size))

    def ours(self, case: Case, w: Any, inputs: dict[str, Array]) -> Call:
        """Call drop_grow_."""
        prune, regrow = prune_module(), import_module("gossamer").regrow
        mask, weights, g, moved = inputs["mask"].copy(), w.copy(), inputs["g"], self.moved(case)

        def step() -> Array:
            drop, grow = prune.score(weights, kind="magnitude"), prune.score(g, kind="magnitude")
            regrow.drop_grow_(mask, drop, grow, moved, moved, weights=weights)
            return mask

        return step

    def peers(self) -> list[Contender]:
        """List a step as it is written with topk."""
        return [self.topk(self._topk)]

    def _topk(self, case: Case, t: dict[str, Any]) -> Any:
        torch = import_module("torch")
        w, mask, k, moved = t["w"], t["mask"], self.kept(case), self.moved(case)
        least = torch.tensor(-1.0)
        score = torch.where(mask, w.abs(), least).view(-1)
        stay = marked(w.numel(), torch.topk(score, k - moved).indices)
        score = torch.where(stay.view_as(w), least, t["g"].abs()).view(-1)
        mask.copy_((stay.scatter_(-1, torch.topk(score, moved).indices, True)).view_as(w))
        w.mul_(mask)
        return mask


RIGL = Rigl("rigl", "rigl")
OPS = [RIGL]


def parts() -> list[Part]:
    """List the part `rigl` of the suite `prune`."""
    return [mask_part(RIGL, (0.8, 0.9), {"torch.topk": 20.0}, heights=(4096, 11008))]
