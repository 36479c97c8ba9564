"""Write the tables of README.md, docs/performance.md and bench/results/ from the kept results.

    python bench/report.py

reads bench/results/foundation.jsonl, prune.jsonl, gemm.jsonl and attention.jsonl, and those of
other machines in bench/results/xeon and zen3, writes a page of each beside it (every target,
every case), and replaces what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in
the documents. docs/performance.md is a page for people: a table a family. The pictures of
docs/benchmark.md, and the output that it shows, are drawn of the same results.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gossamer.bench.families import OPS, activation, conversions, parts_of, products, regrow, sddmm
from gossamer.bench.families.products import WIDTHS
from gossamer.bench.families.prune import patterns, search, select
from gossamer.bench.machine import Limits
from gossamer.bench.op import Case
from gossamer.bench.records import Record, by_case, read_jsonl
from gossamer.bench.report import geomean, seconds_text
from gossamer.bench.suite import SUITES, Verdict, ratios, verdict
from gossamer.bench.targets import DENSE_PEERS, SPARSE_PEERS, Part, Target
from PIL import Image
from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
#: Results of other machines: some suites, or parts of them.
XEON = RESULTS / "xeon"
ZEN3 = RESULTS / "zen3"  # AVX2 without AVX-512

# What the parts of the suite `prune` keep, in words.
KEPT = {
    "magnitude": "the largest of the matrix",
    "magnitude-bf16": "the same, bfloat16",
    "magnitude-f16": "the same, float16",
    "list": "the largest of eight matrices together",
    "shards": "the largest of the matrix, as one of several ranks finds them",
    "rows": "Wanda's score, the largest of each row",
    "groups": "the largest of each 128 along rows",
    "groups32": "the largest of each 32 along rows",
    "topk_rows": "values and columns of each row's largest",
    "kth": "only the k-th largest",
    "quantile": "only the quantile",
    "random": "any k entries",
    "nm": "2:4",
    "nm_wanda": "2:4 of Wanda's score",
    "nm16": "8:16",
    "nm16-bf16": "8:16, bfloat16",
    "nm16_down": "8:16 down columns",
    "transposable": "2:4 along rows and down columns",
    "vnm": "64:2:8",
    "block_mask": "blocks of 16×16 by Σ\\|w\\|",
    "block4": "blocks of 4×4 by Σ\\|w\\|",
    "block_row": "blocks of 1×16 by Σ\\|w\\|",
    "rigl": "a RigL step: drop 30 %, grow as many",
}


class Results:
    """What was measured, and the parts of the suites that it is judged by.

    Suites of one machine share the limits that their runs found; machines are kept apart.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.suites = [suite for suite in SUITES if self.file_of(suite).exists()]
        self.parts = parts_of("prune") | parts_of("foundation")  # by name
        self.records: dict[str, list[Record]] = {}  # of a suite: part names repeat among suites
        self.limits: dict[str, Limits] = {}
        self.last: dict[str, dict[str, Any]] = {}
        self.days: dict[str, list[str]] = {}
        machines: dict[str, list[str]] = {}
        for suite in self.suites:
            lines = [json.loads(line) for line in self.file_of(suite).read_text().splitlines()]
            self.last[suite] = lines[-1]
            self.days[suite] = sorted({line["time"][:10] for line in lines})
            machines.setdefault(lines[-1]["machine"]["cpu"], []).append(suite)
        for suites in machines.values():
            _, limits, told = read_jsonl([self.file_of(suite) for suite in suites], OPS)
            assert not told, told
            assert isinstance(limits, Limits)
            self.limits |= dict.fromkeys(suites, limits)
            self.records |= {s: read_jsonl([self.file_of(s)], OPS)[0] for s in suites}

    def file_of(self, suite: str) -> Path:
        return self.folder / f"{suite}.jsonl"

    def of(self, part: Part) -> list[Record]:
        return [r for r in self.records[part.suite] if r.part == part.name]

    def ratios(self, part: Part, target: Target) -> list[tuple[Case, float]]:
        return ratios(part, target, self.of(part), self.limits[part.suite])

    def verdict(self, part: Part, target: Target) -> Verdict | None:
        return verdict(part, target, self.of(part), self.limits[part.suite])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["|" + "".join(f" {x} |" if x else " |" for x in cells) for cells in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def place(case: Case) -> str:
    """Name a case within a table: what is not the shape comes after it."""
    numbers = [p for p in case.op.parameters if not p.shape and not p.word]
    texts = [p.label(case[p.name]).replace("%", " %") for p in numbers]
    return ", ".join([case.shape_text("×"), *texts])


def factor(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.1f}×" if ratio >= 10 else f"{ratio:.2f}×"


# docs/performance.md


def machine(results: Results, *suites: str) -> list[str]:
    """Name the machine of the suites, which is one, its limits, and the days."""
    last, limits = results.last[suites[0]], results.limits[suites[0]]
    assert all(results.last[suite]["machine"]["cpu"] == last["machine"]["cpu"] for suite in suites)
    versions = ", ".join(
        f"{name} {last['versions'][name]}"
        for name in ("numpy", "torch", "scipy", "sparse-dot-mkl", "mkl")
    )
    rates = ", ".join(f"{level} {rate:.0f}" for level, rate in limits.gbps.items())
    days = sorted({day for suite in suites for day in results.days[suite]})
    return [
        f"{last['machine']['cpus']} virtual cores of an {last['machine']['cpu']}, "
        f"{last['machine']['isa']}, {limits.threads} threads; {versions}.",
        f"Limits found by the runs: {limits.gflops:.0f} GFLOP/s in float32; read GB/s: {rates}.",
        f"Measured {', '.join(days)}.",
    ]


def by_width(results: Results, parts: Sequence[Part]) -> list[str]:
    """One row for targets that differ in the width only, one column a width."""
    rows: dict[str, dict[str, tuple[Part, Target]]] = {}
    for part in parts:
        for target in part.targets:
            title, _, n = target.title.rpartition(", N=")
            rows.setdefault(title, {})[n] = part, target
    head = ["", *(f"N = {n}" if n == 1 else str(n) for n in WIDTHS), "worst case"]
    body = []
    for title, targets in rows.items():
        cells, found = [], []
        for n in WIDTHS:
            if str(n) not in targets:
                cells.append("")
                continue
            part, target = targets[str(n)]
            found += results.ratios(part, target)
            cells.append(judged(results, part, target))
        pick = max if next(iter(targets.values()))[1].at_most else min
        case, worst = pick(found, key=lambda item: item[1])
        body.append([title, *cells, f"{factor(worst)} ({place(case)})"])
    return table(head, body)


def judged(results: Results, part: Part, *targets: Target) -> str:
    """Write the mean over the targets' cases, bold where one of them is missed."""
    found = [ratio for target in targets for _, ratio in results.ratios(part, target)]
    if not found:
        return "–"
    verdicts = [results.verdict(part, t) for t in targets]
    text = factor(geomean(found))
    return text if all(v is None or v.met for v in verdicts) else f"**{text}**"


def each_target(results: Results, parts: Sequence[Part]) -> list[str]:
    """One row a target that was measured."""
    rows = []
    for part in parts:
        for target in part.targets:
            found = results.verdict(part, target)
            if found is None:
                continue
            worst = f"{factor(found.worst)} ({place(found.worst_case)})"
            sign = "≤" if target.at_most else "≥"
            rows.append([target.title, f"{sign} {target.bound:g}×", judgement(found), worst])
    return table(["", "wanted", "measured", "worst case"], rows)


def each_machine(machines: dict[str, Results], parts: Sequence[Part]) -> list[str]:
    """One row a target that was measured, one column a machine: the mean, and the worst case."""
    columns: dict[str, list[Verdict | None]] = {
        name: [
            results.verdict(part, target) if part.suite in results.suites else None
            for part in parts
            for target in part.targets
        ]
        for name, results in machines.items()
    }
    columns = {name: column for name, column in columns.items() if any(column)}
    targets = [target for part in parts for target in part.targets]
    rows = []
    for target, *found in zip(targets, *columns.values(), strict=True):
        if any(found):
            sign = "≤" if target.at_most else "≥"
            cells = [f"{judgement(v)} ({factor(v.worst)})" if v else "" for v in found]
            rows.append([target.title, f"{sign} {target.bound:g}×", *cells])
    return table(["", "wanted", *columns], rows)


def judgement(verdict: Verdict) -> str:
    """Write the mean, bold where the target is missed."""
    return factor(verdict.mean) if verdict.met else f"**{factor(verdict.mean)}**"


def by_peer(results: Results, parts: Sequence[Part]) -> list[str]:
    """One row a part, one column a peer, and what the machine needs for the bytes alone."""
    peers = ("torch.topk", "np.partition")
    head = ["", "kept", *(f"`{x}`" for x in peers), "others", "over its bytes", "over a read"]
    rows = []
    for part in parts:
        chosen: dict[str, list[Target]] = {}
        for target in part.targets:
            key = target.others[0] if target.others else "bytes"
            chosen.setdefault(key, []).append(target)
        others = [x for x in chosen if x not in (*peers, "bytes", "read")]
        rows.append(
            [
                f"`{part.name}`",
                KEPT.get(part.name, ""),
                *(judged(results, part, *chosen[x]) if x in chosen else "" for x in peers),
                ", ".join(f"`{x}` {judged(results, part, *chosen[x])}" for x in others),
                *(judged(results, part, *chosen[x]) for x in ("bytes", "read")),
            ]
        )
    return table(head, rows)


def searches(results: Results) -> list[str]:
    part = results.parts["searches"]
    rows = []
    for case, group in by_case(results.of(part)).items():
        method = case.op.name.removeprefix("search_")
        magnitude, cpu, gpu = search.PUBLISHED[method, case["escapes"]]
        ours = seconds_text(group["mask"].median)
        seconds = f"{cpu:g} s" if cpu else "–"
        rows.append([method, str(case["escapes"]), f"{magnitude}", seconds, f"{gpu:g} s", ours])
    head = ["method", "escapes", "apex keeps", "apex, CPU", "apex, V100", "gossamer, CPU"]
    return table(head, rows)


def losses(results: Results) -> list[str]:
    """Every case of the products in which the best form of ours is not the fastest."""
    rows = []
    parts = {"linear", "spmm", "cold", "sddmm", "blocks"}
    for case, group in by_case(
        r for r in results.records["foundation"] if r.part in parts and r.ok
    ).items():
        ours = min((r for r in group.values() if r.kind == "ours"), key=lambda r: r.median)
        rows += _slower(case, ours, group.values())
    return _losses(rows)


def plain_losses(results: Results) -> list[str]:
    """Every case of spmm in which our plain CSR is slower than another library's."""
    rows = []
    for case, group in by_case(results.of(results.parts["spmm"])).items():
        rows += _slower(case, group["csr"], [group[x] for x in SPARSE_PEERS])
    return _losses(rows)


def _slower(case: Case, ours: Record, others: Iterable[Record]) -> list[list[str]]:
    best = min((r for r in others if r.ok), key=lambda r: r.median)
    if best.kind == "ours" or best.median >= ours.median:
        return []
    times = [f"{r.contender} {seconds_text(r.median)}" for r in (ours, best)]
    return [[case.op.name, place(case), *times, factor(ours.median / best.median)]]


def _losses(rows: list[list[str]]) -> list[str]:
    if not rows:
        return ["None in the kept results."]
    return table(["op", "case", "ours", "faster", "by"], rows)


def missed(results: Results, suite: str) -> list[str]:
    rows = []
    for part in parts_of(suite).values():
        for target in part.targets:
            found = results.verdict(part, target)
            if found is not None and not found.met:
                sign = "≤" if target.at_most else "≥"
                worst = f"{factor(found.worst)} ({place(found.worst_case)})"
                wanted = f"{sign} {target.bound:g}×"
                rows.append([target.title, wanted, factor(found.mean), worst])
    return table(["target", "wanted", "measured", "worst case"], rows)


# README.md


def headline(results: Results) -> list[str]:
    """One row a claim, one column a width."""
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
    rows = []
    for title, part, ours, others, sparsities in claims:
        cells = []
        for n in WIDTHS:
            where = {"n": (n,)} | ({"sparsity": sparsities} if sparsities else {})
            target = Target(title, ours, others, 0, where)
            found = [ratio for _, ratio in results.ratios(results.parts[part], target)]
            cells.append(f"{geomean(found):.1f}×" if found else "")
        rows.append([title, *cells])
    return table(["", *(f"N = {n}" if n == 1 else str(n) for n in WIDTHS)], rows)


def masks(results: Results) -> list[str]:
    def ratio(part: str, peer: str) -> str:
        found = results.ratios(results.parts[part], Target("", "mask", (peer,), 0))
        return f"{geomean(ratio for _, ratio in found):.0f}×" if found else "not measured"

    return [
        "Masks of large layers: the k largest magnitudes "
        f"{ratio('magnitude', 'torch.topk')} `torch.topk` and "
        f"{ratio('magnitude', 'np.partition')} `np.partition`, "
        f"2:4 {ratio('nm', 'torch.topk')} PyTorch's topk idiom, "
        f"a RigL step {ratio('rigl', 'torch.topk')} one written with topk."
    ]


# bench/results/*.md


def all_cases(results: Results, suite: str) -> list[str]:
    """Every target and the median time of every contender on every case of a suite."""
    lines = [
        f"# `gossamer bench {suite}`: all targets and cases",
        "",
        f"Written by `python bench/report.py` from `{suite}.jsonl`. Ratios are others' time over",
        "ours, and ours over theirs where the wanted bound is an upper one (≤).",
    ]
    for part in parts_of(suite).values():
        if not results.of(part):
            continue
        lines += ["", f"## {part.name}", ""]
        if part.targets:
            lines += each_target(results, [part])
        groups = by_case(results.of(part))
        columns = [x for x in part.contenders if any(x in group for group in groups.values())]
        rows = [
            [place(case), *(_time(group.get(x)) for x in columns)]
            for case, group in sorted(groups.items(), key=lambda item: _sorted_by(item[0]))
        ]
        several = len({case.op.name for case in groups} | {_words(case) for case in groups}) > 2
        if several:
            cases = sorted(groups, key=_sorted_by)
            rows = [
                [f"{case.op.name} {_words(case)}".strip(), *row]
                for case, row in zip(cases, rows, strict=True)
            ]
        lines += ["", *table([*(["op"] if several else []), "case", *columns], rows)]
    return lines


def _time(record: Record | None) -> str:
    return seconds_text(record.median) if record is not None and record.ok else "–"


def _words(case: Case) -> str:
    return " ".join(p.label(case[p.name]) for p in case.op.parameters if p.word)


def _sorted_by(case: Case) -> tuple[object, ...]:
    values = {p.name: case[p.name] for p in case.op.parameters if not p.word}
    return case.op.name, _words(case), *values.values()


# docs/benchmark.md

#: What the page shows: kept results, so that it needs no machine of its own.
SHOWN = ("--read", "bench/results/foundation.jsonl", "--part", "spmm", "--shapes",
         "4096x4096,768x3072", "--n", "1,32")  # fmt: skip
TABLE = (*SHOWN, "--sparsity", "0.9")


def printed(*arguments: str, **variables: str) -> str:
    """Return what `gossamer bench` prints at 80 columns."""
    done = subprocess.run(
        [sys.executable, "-m", "gossamer", "bench", *arguments],
        env=os.environ | {"COLUMNS": "80"} | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def session(*arguments: str) -> list[str]:
    """Write a command and what it prints as a block of code."""
    command = shlex.join(["gossamer", "bench", *arguments])
    lines = [line.rstrip() for line in printed(*arguments).splitlines()]
    return ["```console", f"$ {command}", *lines, "```"]


def picture(path: Path, *arguments: str) -> None:
    """Draw the terminal, in its colours and in fonts that every reader has."""
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(Text.from_ansi(printed(*arguments, FORCE_COLOR="1").rstrip()))
    style = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    style = style.replace("Fira Code, monospace", "ui-monospace, monospace")
    style = style.replace("<svg ", '<svg xml:space="preserve" ', 1)
    path.write_text(console.export_svg(title="gossamer bench", code_format=style, unique_id="t"))


def photograph(path: Path, *arguments: str) -> None:
    """Draw the top of the HTML report as a browser shows it, where Chromium is."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print(f"{path} is as before, for want of chromium")
        return
    with tempfile.TemporaryDirectory() as folder:
        report, shot = Path(folder, "report.html"), Path(folder, "report.png")
        printed(*arguments, "--report", str(report))
        size = ("--window-size=1000,900", "--hide-scrollbars", f"--screenshot={shot}")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", *size, report.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        # 64 colours take a third of the bytes.
        with Image.open(shot) as picture:
            picture.convert("RGB").quantize(64).save(path, optimize=True)


def benchmark_page() -> None:
    docs = ROOT / "docs"
    fill(docs / "benchmark.md", {"session": session(*TABLE)})
    picture(docs / "benchmark.svg", *TABLE)
    times = ("--plot", "docs/benchmark-times.svg", "--roofline", "docs/benchmark-roofline.svg")
    printed(*SHOWN, *times)
    photograph(docs / "benchmark-report.png", *SHOWN)


# Files


def fill(path: Path, tables: dict[str, list[str]]) -> None:
    """Replace the marked regions of a file."""
    text = path.read_text()
    for name, rows in tables.items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        body = "\n".join(rows) + "\n"
        text, count = re.subn(
            pattern, lambda m, body=body: m[1] + body + m[2], text, flags=re.DOTALL
        )
        assert count == 1, f"{path}: {count} regions {name}"
    path.write_text(text)


def main() -> None:
    results, xeon, zen3 = Results(RESULTS), Results(XEON), Results(ZEN3)
    for kept in (results, xeon, zen3):
        for suite in kept.suites:
            page = kept.folder / f"{suite}.md"
            page.write_text("\n".join(all_cases(kept, suite)) + "\n")
    fill(ROOT / "README.md", {"benchmark": headline(results), "masks": masks(results)})
    of_products = [p for p in products.parts() if p.suite == "foundation"]
    of_layouts = [p for p in of_products if all(t.at_most for t in p.targets)]
    tables = {
        "machine": machine(results, "foundation", "prune"),
        "products": by_width(results, [p for p in of_products if p not in of_layouts]),
        "layouts": by_width(results, of_layouts),
        "sddmm": each_target(results, sddmm.parts()),
        "select": by_peer(results, select.parts()),
        "patterns": by_peer(results, patterns.parts()),
        "regrow": by_peer(results, regrow.parts()),
        "searches": searches(results),
        "losses": losses(results),
        "plain": plain_losses(results),
        "missed": missed(results, "foundation"),
    }
    of_activation = activation.parts()
    others = [p for p in parts_of("gemm").values() if p not in of_activation]
    machines = {"AMD EPYC": results, "Intel Xeon": xeon, "AVX2 (Zen 3)": zen3}
    tables["conversions"] = each_machine(machines, conversions.parts())
    tables["activation"] = each_machine(machines, of_activation)
    tables["gemm-machine"] = machine(results, "gemm", "attention")
    tables["gemm"] = each_machine(machines, others)
    tables["attention"] = each_machine(machines, list(parts_of("attention").values()))
    tables["xeon-machine"] = machine(xeon, *xeon.suites)
    tables["zen3-machine"] = machine(zen3, *zen3.suites)
    tables["xeon-spmm"] = by_width(xeon, [xeon.parts["spmm"], xeon.parts["transposed"]])
    fill(ROOT / "docs" / "performance.md", tables)
    benchmark_page()


if __name__ == "__main__":
    main()
