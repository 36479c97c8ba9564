"""The suites: the cases behind the project's performance targets, and the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from .case import BLOCKS, Case
from .pruning import SEARCHED, SEARCHES
from .report import AnyLimits, by_case, geomean
from .runner import Record, order
from .shapes import Shape, parse_shapes

WIDTHS = (1, 8, 32, 128, 512)
SPARSE_PEERS = ("torch-csr", "scipy", "mkl")
DENSE_PEERS = ("numpy", "torch")


@dataclass(frozen=True)
class Target:
    """A bound on the geometric mean over shapes and sparsities of others' best time / ours.

    With `at_most`, the mean of our time / others' best time must not exceed the bound. With
    `never_lose`, no single case may be slower than the others. Without others, `seconds` that were
    published take their place, or the machine's limit: the least time in which the case's bytes
    can be moved.
    """

    part: str
    title: str
    ours: str
    others: tuple[str, ...]
    bound: float
    n: int | None = None
    sparsities: tuple[float, ...] = ()
    op: str | None = None
    at_most: bool = False
    never_lose: bool = False
    seconds: float | None = None

    def ratios(
        self, records: Sequence[Record], limits: AnyLimits | None = None
    ) -> list[tuple[Case, float]]:
        """Find the ratio of each case that the target speaks of and that was measured."""
        found = []
        for case, group in by_case([r for r in records if r.part == self.part]).items():
            if self.n is not None and case.n != self.n:
                continue
            if self.sparsities and case.sparsity not in self.sparsities:
                continue
            if self.op is not None and case.op != self.op:
                continue
            mine = group.get(self.ours)
            times = [group[x].median for x in self.others if x in group and group[x].ok]
            if self.seconds is not None:
                times = [self.seconds]
            elif not self.others and mine is not None and limits is not None:
                times = [limits.least_seconds(case, mine.nnz)]
            if mine is None or not mine.ok or not times:
                continue
            ratio = min(times) / mine.median
            found.append((case, 1 / ratio if self.at_most else ratio))
        return found


@dataclass(frozen=True)
class Part:
    """Cases, who runs them, and what is demanded."""

    name: str
    cases: tuple[Case, ...]
    contenders: tuple[str, ...]
    targets: tuple[Target, ...]


def _grid(
    op: str,
    shapes: Sequence[Shape],
    widths: Sequence[int],
    sparsities: Sequence[float],
    *,
    cold: bool = False,
) -> tuple[Case, ...]:
    cases = [
        Case(op, s.m, s.k, n, sparsity, cold=cold)
        for s in shapes
        for sparsity in sparsities
        for n in widths
    ]
    return tuple(order(cases))


def _linear(shapes: list[Shape]) -> Part:
    levels = (0.5, 0.8, 0.9, 0.95)
    targets = tuple(
        Target("linear", f"packed linear vs F.linear(x, csr), N={n}", "packed",
               ("torch-csr", "torch-csr-i64"), bound, n=n)
        for n, bound in zip(WIDTHS, (4, 8, 15, 20, 20), strict=True)
    )  # fmt: skip
    return Part("linear", _grid("linear", shapes, WIDTHS, levels),
                ("packed", "torch-csr", "torch-csr-i64"), targets)  # fmt: skip


def _spmm(shapes: list[Shape]) -> Part:
    levels = (0.5, 0.8, 0.9, 0.95, 0.98)
    dense = {
        0.5: (1.3, 1.5, 1.3, 1.5, 1.3),
        0.8: (3, 3, 3, 3, 3),
        0.9: (5, 6, 6, 5, 5),
        0.95: (8, 11, 9, 8, 7),
    }
    targets = []
    for i, n in enumerate(WIDTHS):
        targets += [
            Target("spmm", f"packed spmm vs best sparse peer, 50-90%, N={n}", "packed",
                   SPARSE_PEERS, (2.5, 2, 2.5, 4, 4)[i], n=n, sparsities=(0.5, 0.8, 0.9)),
            Target("spmm", f"packed spmm vs best sparse peer, 95-98%, N={n}", "packed",
                   SPARSE_PEERS, (1.2, 1.5, 1.5, 2, 2)[i], n=n, sparsities=(0.95, 0.98),
                   never_lose=True),
            Target("spmm", f"plain spmm vs best sparse peer, 50-95%, N={n}", "csr",
                   SPARSE_PEERS, (1.3, 1.3, 1.5, 2, 2)[i], n=n,
                   sparsities=(0.5, 0.8, 0.9, 0.95)),
        ]  # fmt: skip
    targets += [
        Target("spmm", f"packed spmm vs best dense f32, {100 * s:g}%, N={n}", "packed",
               DENSE_PEERS, dense[s][i], n=n, sparsities=(s,))
        for s in dense
        for i, n in enumerate(WIDTHS)
    ]  # fmt: skip
    targets.sort(key=lambda t: (t.title.split(", N=")[0], t.n or 0))
    return Part("spmm", _grid("spmm", shapes, WIDTHS, levels),
                ("csr", "packed", *SPARSE_PEERS, *DENSE_PEERS), tuple(targets))  # fmt: skip


def _cold(shapes: list[Shape]) -> Part:
    targets = tuple(
        Target("cold", f"packed spmm vs best dense f32, cold, {100 * s:g}%, N=1", "packed",
               DENSE_PEERS, bound, sparsities=(s,))
        for s, bound in ((0.8, 2.2), (0.9, 3.5))
    )  # fmt: skip
    return Part("cold", _grid("spmm", shapes, (1,), (0.8, 0.9), cold=True),
                ("csr", "packed", *DENSE_PEERS), targets)  # fmt: skip


def _layouts(shapes: list[Shape]) -> Part:
    targets = tuple(
        Target("layouts", f"{form} linear over {form} spmm, N={n}", form,
               (f"{form}-as-spmm",), 1.1, n=n, at_most=True)
        for form in ("packed", "csr")
        for n in WIDTHS
    )  # fmt: skip
    return Part("layouts", _grid("linear", shapes, WIDTHS, (0.5, 0.9)),
                ("csr", "packed", "csr-as-spmm", "packed-as-spmm"), targets)  # fmt: skip


def _transposed(shapes: list[Shape]) -> Part:
    targets = tuple(
        Target("transposed", f"{form} spmm(transpose_a) over {form} spmm, N={n}", form,
               (f"{form}-as-spmm",), 1.5, n=n, at_most=True)
        for form in ("csr", "packed")
        for n in WIDTHS
    )  # fmt: skip
    return Part("transposed", _grid("spmm-t", shapes, WIDTHS, (0.5, 0.9)),
                ("csr", "packed", "csr-as-spmm", "packed-as-spmm"), targets)  # fmt: skip


def _sddmm(shapes: list[Shape]) -> Part:
    square = [Shape(4096, 4096)]
    targets = tuple(
        Target("sddmm", f"sddmm vs torch.sparse.sampled_addmm, L=4096, D={d}", "csr",
               ("torch-csr", "torch-csr-i64"), 2, n=d)
        for d in (64, 128)
    )  # fmt: skip
    return Part("sddmm", _grid("sddmm", square, (64, 128), (0.5, 0.8, 0.9, 0.95, 0.98)),
                ("csr", "torch-csr", "torch-csr-i64", "torch"), targets)  # fmt: skip


def _bf16(shapes: list[Shape]) -> Part:
    targets = tuple(
        Target("bf16", f"packed bf16 vs packed f32 linear, cold, {100 * s:g}%, N=1",
               "packed-bf16", ("packed",), 1.5, sparsities=(s,))
        for s in (0.8, 0.9)
    )  # fmt: skip
    return Part("bf16", _grid("linear", shapes, (1,), (0.8, 0.9), cold=True),
                ("packed", "packed-bf16", "torch-bf16"), targets)  # fmt: skip


def _scaling(shapes: list[Shape]) -> Part:
    # Widths at which the product is bound by arithmetic, and operands that pay for two threads.
    big = [s for s in shapes if s.m * s.k >= 1 << 20]
    targets = tuple(
        Target("scaling", f"{form} spmm on all threads vs one, N={n}", form, (f"{form}-1t",),
               1.8, n=n)
        for form in ("packed", "csr")
        for n in (32, 128, 512)
    )  # fmt: skip
    return Part("scaling", _grid("spmm", big, (32, 128, 512), (0.8, 0.9)),
                ("csr", "packed", "csr-1t", "packed-1t"), targets)  # fmt: skip


def _conversions(shapes: list[Shape]) -> Part:
    square = [Shape(4096, 4096)]
    cases = tuple(
        case
        for op in ("from_dense", "to_dense", "transpose")
        for case in _grid(op, square, (0,), (0.5, 0.9))
    )
    torch = ("torch-csr", "torch-csr-i64")
    wanted = (
        ("from_dense", "torch's to_sparse_csr", torch, 8.0),
        ("to_dense", "torch's to_dense", torch, 8.0),
        ("transpose", "SciPy's tocsc", ("scipy",), 3.0),
    )
    targets = tuple(
        Target("conversions", f"{op} vs {title}, {100 * s:g}%", "csr", others, bound,
               sparsities=(s,), op=op)
        for op, title, others, bound in wanted
        for s in (0.5, 0.9)
    )  # fmt: skip
    return Part("conversions", tuple(order(cases)), ("csr", *torch, "scipy"), targets)


def _blocks(shapes: list[Shape]) -> Part:
    chosen, widths, levels = [Shape(4096, 4096), Shape(3072, 768)], (1, 32, 128, 512), (0.8, 0.9)
    peers = ("torch-bsr", "scipy-bsr")
    cases = [
        replace(case, pattern=pattern)
        for pattern in BLOCKS
        for case in _grid("spmm", chosen, widths, levels)
    ]
    targets = tuple(
        Target("blocks", f"bsr spmm vs best BSR of others, blocks of 16 and 32, N={n}", "bsr",
               peers, bound, n=n)
        for n, bound in zip(widths, (3, 4, 3, 2.5), strict=True)
    )  # fmt: skip
    return Part("blocks", tuple(order(cases)), ("bsr", "csr", *peers, *DENSE_PEERS), targets)


def _masks(
    op: str,
    sparsities: Sequence[float],
    peers: dict[str, float],
    *,
    dtype: str = "f32",
    heights: Sequence[int] = (4096, 11008),
) -> Part:
    name = op if dtype == "f32" else f"{op}-{dtype}"
    unmasked = ("block_mask", "topk_rows", "quantile", "kth", "rigl")
    what = op if op in unmasked else f"{op} mask"
    what += "" if dtype == "f32" else f" of {dtype}"
    targets = [
        Target(name, f"{what} vs {peer}, {100 * s:g}%", "mask", (peer,), bound, sparsities=(s,))
        for peer, bound in peers.items()
        for s in sparsities
    ]
    targets += [
        Target(name, f"{what} over {title}, {100 * s:g}%", "mask", others, 2.5,
               sparsities=(s,), at_most=True)
        for title, others in (("its bytes at read bandwidth", ()), ("a read of them", ("read",)))
        for s in sparsities
    ]  # fmt: skip
    shapes = [Shape(m, 4096) for m in heights]
    cases = [replace(c, dtype=dtype) for c in _grid(op, shapes, (0,), sparsities)]
    return Part(name, tuple(cases), ("mask", "read", *peers), tuple(targets))


def _searches() -> Part:
    cases, targets = [], []
    for (op, escapes), (_, seconds) in SEARCHES.items():
        cases.append(Case(op, *SEARCHED, escapes, 0.5))
        if seconds is not None:
            title = f"{op} with {escapes} escapes vs the CPU time of apex's README"
            targets.append(
                Target("searches", title, "mask", (), 50.0, n=escapes, op=op, seconds=seconds)
            )
    return Part("searches", tuple(cases), ("mask",), tuple(targets))


_MAGNITUDE = {"torch.topk": 25.0, "torch.kthvalue": 25.0, "np.partition": 8.0, "torch.prune": 100.0}
_SUITES: dict[str, dict[str, Callable[[list[Shape]], Part]]] = {
    "foundation": {
        "linear": _linear,
        "spmm": _spmm,
        "cold": _cold,
        "layouts": _layouts,
        "transposed": _transposed,
        "sddmm": _sddmm,
        "bf16": _bf16,
        "scaling": _scaling,
        "conversions": _conversions,
        "blocks": _blocks,
    },
    "prune": {
        "magnitude": lambda _: _masks("magnitude", (0.5, 0.9), _MAGNITUDE),
        "rows": lambda _: _masks("rows", (0.5, 0.9), {"torch.topk": 1.0, "np.partition": 1.0}),
        "groups": lambda _: _masks("groups", (0.5, 0.9), {"torch.topk": 1.0, "np.partition": 1.0}),
        "nm": lambda _: _masks("nm", (0.5,), {"torch.topk": 30.0, "torch.ao": 50.0}),
        "groups32": lambda _: _masks(
            "groups32", (0.5, 0.9), {"torch.topk": 1.0, "np.partition": 1.0}, heights=(4096,)
        ),
        "nm_wanda": lambda _: _masks("nm_wanda", (0.5,), {"torch.topk": 30.0}, heights=(4096,)),
        "nm16_down": lambda _: _masks("nm16_down", (0.5,), {"torch.topk": 10.0}, heights=(4096,)),
        "transposable": lambda _: _masks(
            "transposable", (0.5,), {"torch.argmax": 10.0}, heights=(4096,)
        ),
        "vnm": lambda _: _masks("vnm", (0.75,), {}, heights=(4096,)),
        "nm16": lambda _: _masks("nm16", (0.5,), {"torch.topk": 10.0}, heights=(4096,)),
        "nm16-bf16": lambda _: _masks(
            "nm16", (0.5,), {"torch.topk": 10.0}, dtype="bf16", heights=(4096,)
        ),
        "block_mask": lambda _: _masks(
            "block_mask", (0.5, 0.9), {"torch.topk": 1.0, "np.partition": 1.0}, heights=(4096,)
        ),
        "block4": lambda _: _masks(
            "block4", (0.9,), {"torch.topk": 1.0, "np.partition": 1.0}, heights=(4096,)
        ),
        "block_row": lambda _: _masks(
            "block_row", (0.9,), {"torch.topk": 1.0, "np.partition": 1.0}, heights=(4096,)
        ),
        "shards": lambda _: _masks("shards", (0.5, 0.9), {"torch.topk": 1.0}, heights=(4096,)),
        "kth": lambda _: _masks(
            "kth", (0.5, 0.9), {"torch.kthvalue": 1.0, "np.partition": 1.0}, heights=(4096,)
        ),
        "quantile": lambda _: _masks(
            "quantile", (0.5, 0.9), {"np.partition": 1.0}, heights=(4096,)
        ),
        "topk_rows": lambda _: _masks("topk_rows", (0.9, 0.99), {"torch.topk": 1.0}),
        "list": lambda _: _masks(
            "list", (0.5, 0.9), {"torch.topk": 25.0, "torch.prune": 100.0}, heights=(4096,)
        ),
        "magnitude-bf16": lambda _: _masks(
            "magnitude", (0.5, 0.9), {"torch.topk": 25.0}, dtype="bf16", heights=(4096,)
        ),
        "magnitude-f16": lambda _: _masks(
            "magnitude", (0.5, 0.9), {"torch.topk": 25.0}, dtype="f16", heights=(4096,)
        ),
        "random": lambda _: _masks("random", (0.5, 0.9), {"torch.topk": 10.0}, heights=(4096,)),
        "rigl": lambda _: _masks("rigl", (0.8, 0.9), {"torch.topk": 20.0}),
        "searches": lambda _: _searches(),
    },
}
SUITES = tuple(_SUITES)


def part_names(suite: str) -> tuple[str, ...]:
    """Name the parts of a suite."""
    return tuple(_SUITES[suite])


def parts_of(suite: str, names: Sequence[str]) -> list[Part]:
    """Build the named parts."""
    shapes = parse_shapes("foundation")
    return [_SUITES[suite][name](shapes) for name in names]


def target_table(
    parts: Sequence[Part], records: Sequence[Record], limits: AnyLimits | None
) -> tuple[Table, int, int]:
    """Lay out what was demanded and what was measured; count the targets met and missed."""
    table = Table(
        title="targets: geometric mean of ratios of medians", title_justify="left", box=SIMPLE
    )
    table.add_column("target", no_wrap=True)
    for name in ("wanted", "measured", "worst case", "cases", ""):
        table.add_column(name, justify="right", no_wrap=True)
    met = missed = 0
    for part in parts:
        table.add_section()
        for target in part.targets:
            wanted = f"{'<=' if target.at_most else '>='} {target.bound:g}x"
            ratios = target.ratios(records, limits)
            if not ratios:
                table.add_row(target.title, wanted, "-", "-", "0", Text("not measured", "yellow"))
                missed += 1
                continue
            mean = geomean(ratio for _, ratio in ratios)
            pick = max if target.at_most else min
            case, worst = pick(ratios, key=lambda item: item[1])
            good = mean <= target.bound if target.at_most else mean >= target.bound
            good = good and not (target.never_lose and worst < 1)
            met, missed = met + good, missed + (not good)
            label = f"{worst:.2f}x ({case.m}x{case.k} {100 * case.sparsity:g}%)"
            verdict = Text("pass", "green") if good else Text("MISS", "bold red")
            table.add_row(target.title, wanted, f"{mean:.2f}x", label, str(len(ratios)), verdict)
    return table, met, missed
