"""Write the tables of README.md and docs/performance.md from results of the suites.

    python bench/report.py bench/results/foundation.jsonl bench/results/prune.jsonl

Replaces what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from gossamer.bench.families import OPS
from gossamer.bench.families.products import WIDTHS
from gossamer.bench.machine import AnyLimits
from gossamer.bench.op import Case
from gossamer.bench.records import Record, by_case, read_jsonl
from gossamer.bench.report import geomean, seconds_text
from gossamer.bench.suite import SUITES, named_parts, part_names, ratios, verdict
from gossamer.bench.targets import DENSE_PEERS, SPARSE_PEERS, Part, Target

ROOT = Path(__file__).parent.parent


def target_rows(part: Part, records: Sequence[Record], limits: AnyLimits | None) -> list[str]:
    """One row a target: what was wanted, the mean, the worst case, the verdict."""
    rows = ["| | wanted | measured | worst case | |", "|---|---|---|---|---|"]
    for target in part.targets:
        found = verdict(part, target, records, limits)
        sign = "≤" if target.at_most else "≥"
        if found is None:
            rows.append(f"| {target.title} | {sign} {target.bound:g}× | not measured | | |")
            continue
        rows.append(
            f"| {target.title} | {sign} {target.bound:g}× | {found.mean:.2f}× | "
            f"{found.worst:.2f}× ({place(found.worst_case)}) | "
            f"{'met' if found.met else '**missed**'} |"
        )
    return rows


def place(case: Case) -> str:
    return f"{case['m']}×{case['k']}, {100 * case.parameters.get('sparsity', 0.5):g} %"


def width(case: Case) -> str:
    return str(case.parameters.get("n", case.parameters.get("depth")))


def losses(records: Sequence[Record]) -> list[str]:
    """Every case of the products in which the best form of ours is not the fastest."""
    rows = [
        "| op | shape | zeros | N | ours | faster | by |",
        "|---|---|---|---|---|---|---|",
    ]
    of_products = [r for r in records if r.part in {"linear", "spmm", "cold", "sddmm"} and r.ok]
    for case, group in by_case(of_products).items():
        ours = min((r for r in group.values() if r.kind == "ours"), key=lambda r: r.median)
        best = min(group.values(), key=lambda r: r.median)
        if best.kind != "ours":
            rows.append(
                f"| {case.op.name} | {case['m']}×{case['k']} | {100 * case['sparsity']:g} % | {width(case)} | "
                f"{ours.contender} {seconds_text(ours.median)} | "
                f"{best.contender} {seconds_text(best.median)} | "
                f"{ours.median / best.median:.2f}× |"
            )
    return rows if len(rows) > 2 else ["None in this run."]


def headline(records: Sequence[Record]) -> list[str]:
    """The README's table: one row a claim, one column a width."""
    sparse_torch = ("torch-csr", "torch-csr-i64")
    claims = [
        ("`linear(x, pack(w))` to PyTorch on CSR, 50–95 % zeros", "linear", "packed",
         sparse_torch, ()),
        ("`spmm(pack(a), b)` to the best sparse library, 50–90 %", "spmm", "packed",
         SPARSE_PEERS, (0.5, 0.8, 0.9)),
        ("`spmm(a, b)` to the same, 50–95 %", "spmm", "csr", SPARSE_PEERS, (0.5, 0.8, 0.9, 0.95)),
        ("`spmm(pack(a), b)` to the best dense product, 50 %", "spmm", "packed", DENSE_PEERS,
         (0.5,)),
        ("the same at 90 %", "spmm", "packed", DENSE_PEERS, (0.9,)),
    ]  # fmt: skip
    parts = {part.name: part for part in named_parts("foundation", part_names("foundation"))}
    rows = [
        "| | " + " | ".join(f"N = {n}" if n == 1 else str(n) for n in WIDTHS) + " |",
        "|---|" + "---|" * len(WIDTHS),
    ]
    for title, part, ours, others, sparsities in claims:
        cells = []
        for n in WIDTHS:
            where = {"n": (n,)} | ({"sparsity": sparsities} if sparsities else {})
            target = Target(title, ours, others, 0, where)
            found = [r for _, r in ratios(parts[part], target, records)]
            cells.append(f"{geomean(found):.1f}×" if found else "")
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return rows


def masks(records: Sequence[Record]) -> list[str]:
    """The README's line on masks."""

    parts = {part.name: part for part in named_parts("prune", part_names("prune"))}

    def ratio(part: str, peer: str) -> str:
        found = [r for _, r in ratios(parts[part], Target("", "mask", (peer,), 0), records)]
        return f"{geomean(found):.0f}×" if found else "not measured"

    return [
        "Masks of large layers: the k largest magnitudes "
        f"{ratio('magnitude', 'torch.topk')} `torch.topk` and "
        f"{ratio('magnitude', 'np.partition')} `np.partition`, "
        f"2:4 {ratio('nm', 'torch.topk')} PyTorch's topk idiom, "
        f"a RigL step {ratio('rigl', 'torch.topk')} one written with topk."
    ]


def times(part: str, contenders: Sequence[str], records: Sequence[Record]) -> list[str]:
    """Median times of one part on 4096×4096."""
    rows = [
        "| zeros | N | " + " | ".join(contenders) + " |",
        "|---|---|" + "---|" * len(contenders),
    ]
    for case, group in by_case([r for r in records if r.part == part]).items():
        if (case["m"], case["k"]) != (4096, 4096):
            continue
        cells = [
            seconds_text(group[c].median) if c in group and group[c].ok else "–" for c in contenders
        ]
        rows.append(f"| {100 * case['sparsity']:g} % | {width(case)} | " + " | ".join(cells) + " |")
    head, body = rows[:2], rows[2:]
    body.sort(key=lambda row: [float(x.strip(" %")) for x in row.split("|")[1:3]])
    return head + body


def fill(path: Path, tables: dict[str, list[str]]) -> None:
    """Replace the marked regions of a file."""
    text = path.read_text()
    for name, rows in tables.items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        body = "\n".join(rows) + "\n"
        text = re.sub(pattern, lambda m, body=body: m[1] + body + m[2], text, flags=re.DOTALL)
    path.write_text(text)


def main() -> None:
    records, limits, _ = read_jsonl([Path(name) for name in sys.argv[1:]], OPS)
    tables = {
        part.name: target_rows(part, records, limits)
        for suite in SUITES
        for part in named_parts(suite, part_names(suite))
    }
    tables["losses"] = losses(records)
    tables["times"] = times(
        "spmm", ("packed", "csr", "torch-csr", "scipy", "mkl", "numpy", "torch"), records
    )
    fill(ROOT / "docs" / "performance.md", tables)
    fill(ROOT / "README.md", {"benchmark": headline(records), "masks": masks(records)})


if __name__ == "__main__":
    main()
