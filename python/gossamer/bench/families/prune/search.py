"""Searches for the order of columns in which 2:4 keeps most, on the matrix of apex's README."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...cuda import CUDA
from ...dtypes import ITEM_BYTES, Array
from ...libraries import GOSSAMER, Call, Library, as_values
from ...op import Case, Contender, Op, Parameter, Work
from ...targets import Part, Target
from ..parameters import K, M
from .masks import SMALL, prune_module

#: apex's README, by method and escapes: the magnitude that 2:4 keeps, seconds on a CPU and a V100.
PUBLISHED: dict[tuple[str, int], tuple[float, float | None, float]] = {
    ("swap", 0): (2913.35, 56.0, 0.21),
    ("swap", 100): (2914.17, 450.0, 2.2),
    ("stripe8", 0): (2919.76, 60.7, 0.013),
    ("stripe8", 100): (2919.76, 466.0, 0.15),
    ("stripe12", 0): (2921.95, None, 0.86),
}
SHAPE = (128, 64)


def _escapes(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError
    return count


ESCAPES = Parameter(
    "escapes",
    help="non-negative integers: random restarts of a search [0]",
    usual="0",
    quick="0",
    parse=_escapes,
    head="escapes",
    label=lambda count: f"{count} escapes",
    formerly="n",
)


class Search(Op):
    """permutation_search by one method."""

    parameters = (M, K, ESCAPES)
    over = "escapes"

    def __init__(self, method: str) -> None:
        self.name, self.method = f"search_{method}", method
        super().__init__()

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw apex's matrix: the seed is that of its README."""
        return {"w": np.random.RandomState(1).rand(case["m"], case["k"])}

    def nnz(self, case: Case, weights: Any) -> int:
        """Count what 2:4 keeps."""
        return int(case["m"] * case["k"] // 2)

    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Keep the matrix, and the magnitude that was published."""
        known = (self.method, case["escapes"])
        given = (case["m"], case["k"]) == SHAPE and known in PUBLISHED
        return {"source": inputs["w"], "least": np.array(PUBLISHED[known][0] if given else 0.0)}

    def error(
        self, case: Case, weights: Any, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Each column stands once, and as much is kept as is said and as was published."""
        (order, magnitude), w = result, reference["source"]
        if not np.array_equal(np.sort(order), np.arange(w.shape[1])):
            return float("inf")
        groups = np.sort(abs(w[:, order]).reshape(len(w), -1, 4), axis=2)
        right = abs(groups[..., 2:].sum() - magnitude) <= 1e-5 * magnitude
        right = right and round(magnitude, 2) >= float(reference["least"])
        return 0.0 if right else float("inf")

    def work(self, case: Case, nnz: int) -> Work:
        """Count one read, as of a mask: what a search costs depends on its way."""
        total = float(case["m"] * case["k"] * (ITEM_BYTES[case.dtype] + 1))
        return Work(0.0, 0.0, total, total)

    def make_contenders(self) -> list[Contender]:
        """List ours, also on a GPU."""

        def one(name: str, library: Library) -> Contender:
            def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
                prune, escapes = prune_module(), case["escapes"]
                w = library.put(inputs["w"], "f64")
                search = prune.permutation_search
                return lambda: search(w, 2, 4, method=self.method, escapes=escapes)

            return Contender(
                name=name,
                kind="ours",
                library=library,
                hold=lambda case, weights: None,
                bind=bind,
                result=lambda case, returned: (as_values(returned[0]), returned[1]),
                dtypes=SMALL,
            )

        return [one("mask", GOSSAMER), one("cuda-mask", CUDA)]


SEARCHES = {method: Search(method) for method in dict.fromkeys(method for method, _ in PUBLISHED)}
OPS = list(SEARCHES.values())


def parts() -> list[Part]:
    """List the part `searches` of the suite `prune`."""
    m, k = SHAPE
    cases, targets = [], []
    for (method, escapes), (_, seconds, _gpu) in PUBLISHED.items():
        op = SEARCHES[method]
        cases.append(op.case(m=m, k=k, escapes=escapes))
        if seconds is not None:
            title = f"{op.name} with {escapes} escapes vs the CPU time of apex's README"
            where = {"escapes": (escapes,)}
            targets.append(Target(title, "mask", (), 50.0, where, op=op.name, seconds=seconds))
    return [Part("prune", "searches", tuple(cases), ("mask",), tuple(targets))]
