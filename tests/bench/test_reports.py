"""Reports of `gossamer bench`: width, summary, runs, comparisons, plots, and the page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")

from bench_cases import make_case, plugins_forgotten
from gossamer import cli
from gossamer.bench import compare, plots
from gossamer.bench.families import OPS
from gossamer.bench.grid import Column, Grid
from gossamer.bench.machine import GpuLimits, Limits
from gossamer.bench.records import Record, Run, append_jsonl, read_jsonl, read_runs
from gossamer.bench.report import case_grid, ratio_text, seconds_text, summary
from rich.console import Console

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def _without_plugins() -> Iterator[None]:
    with plugins_forgotten():
        yield


LEVELS = ("L1", "L2", "L3", "DRAM")
LIMITS = Limits(
    2, dict(zip(LEVELS, (1 << 15, 1 << 20, 1 << 25), strict=False)), dict.fromkeys(LEVELS, 30.0), 99
)
KINDS = {"csr": "ours", "packed": "ours", "numpy": "dense", "torch": "dense", "mkl": "sparse"}


def timed(who: str, seconds: float, op: str = "linear", spread: float = 0.1, **case: Any) -> Record:
    record = Record(make_case(op, **({"m": 64, "k": 96} | case)), who, who, KINDS[who], 2, 614)
    low, high = seconds * (1 - spread / 2), seconds * (1 + spread / 2)
    record.summarise([low, low, seconds, high, high])
    return record


def context(run: str = "a", **machine: Any) -> dict[str, Any]:
    return {
        "run": run,
        "time": "2026-11-28T12:34:56+00:00",
        "command": f"gossamer bench --run {run}",
        "machine": {"cpu": "A Processor", "cpus": 2, "caches": LIMITS.sizes, "isa": "v4"} | machine,
        "versions": {"numpy": "2.0"},
    }


def written(path: Path, records: Sequence[Record], **of: Any) -> Path:
    append_jsonl(path, records, LIMITS, context(**of))
    return path


def some(factor: float = 1.0, **case: Any) -> list[Record]:
    times = {"csr": 2e-4, "packed": 1e-4, "numpy": 8e-4, "torch": 6e-4, "mkl": 4e-4}
    return [
        timed(who, factor * seconds * width, width=width, **case)
        for width in (1, 32)
        for who, seconds in times.items()
    ]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = cli.main(["bench", *arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    said = capsys.readouterr()
    return status, said.out, said.err


# Width


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_lines_are_no_longer_than_columns(
    columns: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path = written(tmp_path / "a.jsonl", [*some(), *some(m=32), *some(dtype="f64")])
    monkeypatch.chdir(tmp_path)
    status, out, _ = shown(capsys, "--read", path.name)
    assert status == 0
    assert max(len(line) for line in out.splitlines()) <= columns
    heads = [line.split() for line in out.splitlines() if line.startswith("case ")]
    assert all(head[:2] == ["case", "median"] for head in heads)
    assert all(("min" in head) == (columns == 200) for head in heads)
    assert all(("sparse" in head) == (columns > 40) for head in heads)
    assert "\x1b" not in out


@pytest.mark.parametrize("columns", ["", "0", "many", "-3", "²"])
def test_without_columns_a_file_gets_80(
    columns: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    status, out, _ = shown(capsys, "--read", str(written(tmp_path / "a.jsonl", some())))
    assert status == 0
    assert 72 < max(len(line) for line in out.splitlines() if "/" not in line) <= 80


def test_columns_go_by_rank_and_the_least_stay() -> None:
    columns = [Column("case", left=True), Column("aaaa", 1), Column("bbbb", 3), Column("cccc", 2)]
    grid = Grid("title", columns, [["x"], ["  y", "1", "2", "3"]])
    heads = {width: [columns[i].head for i in grid.shown(width)] for width in (22, 21, 16, 10, 1)}
    assert heads[22] == ["case", "aaaa", "bbbb", "cccc"]
    assert heads[21] == heads[16] == ["case", "aaaa", "cccc"]
    assert heads[10] == ["case", "aaaa"]
    assert heads[1] == ["case"]


def test_a_column_that_says_nothing_is_left_out() -> None:
    grid = case_grid([timed("csr", 1e-4), timed("mkl", 2e-4)], None)
    heads = [grid.columns[i].head for i in grid.shown(200)]
    assert "vs sparse" in heads
    assert "vs dense" not in heads
    assert "roof" not in heads


def test_no_color_is_honoured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def printed() -> str:
        console = Console(force_terminal=True, width=80, color_system="truecolor")
        with console.capture() as capture:
            console.print(ratio_text(0.5))
        return capture.get()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "31m" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31" not in printed()


# Summary


def test_the_summary_says_how_many_times_faster() -> None:
    (csr, packed, losses) = [str(x) for x in summary(some())]
    assert csr == "csr is 2.0x faster than the best sparse peer, 3.0x than dense, over 2 cases"
    assert (
        packed == "packed is 4.0x faster than the best sparse peer, 6.0x than dense, over 2 cases"
    )
    assert losses == "no peer is faster in any case"


def test_the_summary_tells_losses() -> None:
    records = [
        *(timed(who, seconds, width=1) for who, seconds in (("csr", 4e-4), ("numpy", 1e-4))),
        *(timed(who, seconds, width=2) for who, seconds in (("csr", 1e-4), ("numpy", 2e-4))),
        timed("mkl", 4e-4, width=2),
    ]
    assert [str(x) for x in summary(records)] == [
        "csr is 4.0x faster than the best sparse peer (1 case), 1.41x slower than dense (2 cases)",
        "a peer is faster in 1 of 2 cases; the most at linear 64x96 N=1 50% f32: "
        "numpy 4.0x faster than csr",
    ]


def test_the_summary_keeps_ops_and_types_apart() -> None:
    lines = [str(x) for x in summary([*some(), *some(op="spmm", dtype="f64")])]
    assert [x for x in lines if x.endswith(":")] == ["linear f32:", "spmm f64:"]
    assert len(lines) == 8
    assert summary([timed("csr", 1.0)]) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.50 s"), (0.25, "250 ms"), (3e-4, "300 µs"), (5e-7, "0.500 µs"), (123.4, "123 s")],
)
def test_times_have_units_a_person_reads(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


# Runs


def test_runs_are_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = written(tmp_path / "a.jsonl", some())
    written(first, some(2.0), run="b", cpu="Another")
    second = written(tmp_path / "c.jsonl", some(3.0), run="c")
    runs, told = read_runs([first, second], OPS)
    assert not told
    assert [len(one.records) for one in runs] == [10, 10, 10]
    assert runs[1].title == "Another, v4, 2 threads, 2026-11-28 12:34"
    status, out, _ = shown(capsys, "--read", str(first), str(second))
    assert status == 0
    for number, name in enumerate("abc", 1):
        assert f"run {number} of 3, 2026-11-28 12:34: gossamer bench --run {name}" in out
    assert out.count("packed is 4.0x faster") == 3
    for time in ("100 µs", "200 µs", "300 µs"):
        assert time in out


def test_what_is_read_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [*some(), *some(op="spmm", dtype="f64"), *some(m=32)]
    path = str(written(tmp_path / "a.jsonl", records))
    options = ("--op", "linear", "--shapes", "32x96", "--n", "32", "--peers", "mkl",
               "--variants", "packed")  # fmt: skip
    status, out, _ = shown(capsys, "--read", path, *options)
    assert status == 0
    rows = [line.split()[0] for line in out.splitlines() if " ms " in line or " µs " in line]
    assert rows == ["packed", "mkl"]
    assert "32x96 N=32" in out
    status, _, err = shown(capsys, "--read", path, "--dtype", "half")
    assert (status, err) == (2, "gossamer bench: --read: the options leave no record\n")
    status, _, err = shown(capsys, "--read", path, "--depth", "64", "--op", "linear")
    assert (status, err) == (2, "gossamer bench: --depth: linear has no depth\n")


def test_a_suite_is_judged_by_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = some()
    for record in records:
        record.part = "spmm"
    path = written(tmp_path / "a.jsonl", records)
    written(path, records, run="b")
    status, out, _ = shown(capsys, "foundation", "--part", "spmm", "--read", str(path))
    assert status == 0
    assert "10 times were measured again later: the last count" in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_lines_that_would_fail_later_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", some()[:1])
    (line,) = path.read_text().splitlines()
    spoilt = [
        {"median_ms": 0}, {"median_ms": "1"}, {"dtype": "f8"}, {"m": [1]}, {"limits": {"gbps": 1}},
        {"machine": None}, {"nnz": "many"}, {"contender": []},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(json.loads(line) | change) + "\n" for change in spoilt))
    runs, told = read_runs([path], OPS)
    assert not runs
    assert len(told) == len(spoilt)


#: Where a value of another type would be met: in a record, its limits, and what its run says.
WRONG: dict[str, tuple[tuple[str, ...], Any]] = {
    "op": (("op",), ["linear"]),
    "sparsity": (("sparsity",), ""),
    "status": (("status",), 1.5),
    "time": (("q3_ms",), 10**400),
    "name": (("contender",), "\ud800"),
    "bandwidth": (("limits", "gbps", "L2"), "x"),
    "no peak": (("limits", "gflops"), 0),
    "level": (("machine", "isa"), 3.0),
    "processor": (("machine", "cpu"), ["a"]),
    "versions": (("versions",), 7),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_value_of_another_type_costs_its_line_alone(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "a.jsonl", some()[:5])
    (*names, last), value = WRONG[kind]
    line = at = json.loads(path.read_text().splitlines()[0])
    for name in names:
        at = at[name]
    at[last] = value
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    status, out, _ = shown(capsys, "--read", str(path))
    assert status == 0
    assert "line 6 is left out: " in out


def test_lines_that_nest_without_end_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "a.jsonl", some()[:5])
    with path.open("a") as file:
        file.write(100_000 * "[" + "\n")
    status, out, _ = shown(capsys, "--read", str(path))
    assert status == 0
    assert "line 6 is left out: it nests without end" in out
    path.write_text(100_000 * "[")
    status, _, err = shown(capsys, "--device", "cuda", "--limits", str(path))
    assert status == 2
    assert "--limits is " in err


def test_a_line_cut_by_a_kill_costs_no_other(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", some())
    path.write_text(path.read_text()[:-50])
    written(path, some(), run="b")
    records, _, told = read_jsonl([path], OPS)
    assert len(records) == 19
    assert len(told) == 1


# Comparisons


def compared(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    before: Sequence[Record],
    after: Sequence[Record],
    *options: str,
) -> tuple[int, str]:
    a = written(folder / "a.jsonl", before)
    b = written(folder / "b.jsonl", after, run="b")
    status, out, err = shown(capsys, "--compare", str(a), str(b), *options)
    assert not err
    return status, out


@pytest.mark.parametrize(
    ("factor", "limit", "status"),
    [(1.0, "0%", 0), (1.04, "5%", 0), (1.06, "5%", 1), (1.06, "10%", 0), (0.5, "5%", 0),
     (2.0, None, 0), (1.06, "5.5 %", 1)],
)  # fmt: skip
def test_a_comparison_fails_above_its_limit(
    factor: float,
    limit: str | None,
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--fail-above", limit) if limit else ()
    got, out = compared(capsys, tmp_path, some(), some(factor), *options)
    assert got == status
    change = compare.percent_change(factor)
    assert f"packed: B takes {change} (" in out
    assert max(len(line) for line in out.splitlines() if "/" not in line) <= 80
    if limit:
        assert f"{4 if status else 0} of 4 times of ours grew by more than" in out
        assert out.count("slower: ") == (4 if status else 0)


def test_what_others_lost_does_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = [timed("mkl", 9.0) if r.contender == "mkl" else r for r in some()]
    status, _ = compared(capsys, tmp_path, some(), after, "--fail-above", "5%")
    assert status == 0


def test_what_gave_a_time_and_is_wrong_now_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = some()
    after[0].status, after[0].message = "wrong", "error is 3 x its bound"
    status, out = compared(capsys, tmp_path, some(), after)
    assert status == 1
    assert "csr gave a time in A: WRONG RESULT: error is 3 x its bound" in " ".join(out.split())


def test_changes_within_the_spread_are_marked() -> None:
    found = compare.compare([timed("csr", 1.0), timed("mkl", 1.0)], [timed("csr", 1.05)])
    assert found.changes[0].within_spread
    assert found.only_before == 1
    assert not compare.compare([timed("csr", 1.0)], [timed("csr", 1.2)]).changes[0].within_spread
    row = compare.grids(found)[0].rows[1]
    assert [str(x) for x in row] == ["  csr", "1.00 s", "10%", "1.05 s", "10%", "+5.0%", "~"]


def test_several_runs_are_compared_by_the_middle_one() -> None:
    before = [timed("csr", seconds) for seconds in (1.0, 9.0, 2.0)]
    (change,) = compare.compare(before, [timed("csr", 3.0)]).changes
    assert change.ratio == pytest.approx(1.5)


def test_other_machines_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path / "a.jsonl", some())
    b = written(tmp_path / "b.jsonl", some(), cpu="Another")
    status, out, _ = shown(capsys, "--compare", str(a), str(b))
    assert status == 0
    assert 'A and B differ in cpu: "A Processor"; "Another"' in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--compare: the files have no contender, case and threads in common"),
        (("--op", "sddmm"), "has no record, or none that the options leave"),
        (("--fail-above", "5"), "--fail-above is 5, expected a percentage such as 5%"),
        (("--fail-above", "nan%"), "--fail-above is nan%, expected a percentage"),
        (("--fail-above=-1%",), "--fail-above is -1%, expected a percentage"),
        (("--out", "x.jsonl"), "--out does not apply with --compare"),
        (("--plot", "x.png"), "--plot does not apply with --compare"),
        (("--read", "x.jsonl"), "--read does not apply with --compare"),
    ],
)
def test_what_cannot_be_compared_is_told(
    options: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = written(tmp_path / "a.jsonl", some())
    b = written(tmp_path / "b.jsonl", some(m=32))
    status, _, err = shown(capsys, "--compare", str(a), str(b), *options)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


# Plots and the page


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("drawn")
    path = folder / "a.jsonl"
    for run in "ab":
        records = [
            record
            for dtype in ("f32", "f64")
            for sparsity in (0.8, 0.9)
            for record in some(dtype=dtype, sparsity=sparsity)
        ]
        written(path, [*records, *some(op="to_dense"), *some(m=32)], run=run)
    assert cli.main(
        ["bench", "--read", str(path), "--plot", str(folder / "times.svg"), "--roofline",
         str(folder / "roofline.svg"), "--report", str(folder / "report.html")]
    ) == 0  # fmt: skip
    return folder


def words_of(path: Path) -> str:
    return " ".join(" ".join(ET.parse(path).getroot().itertext()).split())


def test_plots_have_a_line_for_each_type_and_say_machine_and_units(drawn: Path) -> None:
    text = words_of(drawn / "times.svg")
    for word in ("packed f32", "packed f64", "A Processor, v4, 2 threads", "time of a call",
                 "µs", "bands: quartiles", "sparsity", "80%", "run 2: linear N=32"):  # fmt: skip
        assert word in text, word


def test_lines_have_their_spread() -> None:
    pytest.importorskip("matplotlib")
    records = [timed("csr", 1.0, sparsity=x, spread=0.5) for x in (0.5, 0.9)]
    figure = plots.times_figure([Run(context(), records, LIMITS)])
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(0.75), pytest.approx(1.25))


def test_the_roofline_has_the_limits(drawn: Path) -> None:
    text = words_of(drawn / "roofline.svg")
    for word in ("useful GFLOP/s", "useful flops / compulsory byte", "f32 peak 99 GFLOP/s",
                 "DRAM 30 GB/s", "packed", "A Processor"):  # fmt: skip
        assert word in text, word
    assert "to_dense" not in text


def test_the_roofline_of_a_gpu_has_a_roof_for_each_type() -> None:
    pytest.importorskip("matplotlib")
    limits = GpuLimits("A GPU", 3000.0, {"f32": 5e4, "f64": 3e4, "bf16": 7e5})
    records = [timed("csr", 1e-5), timed("csr", 1e-5, dtype="f64")]
    text = plots.svg(plots.roofline_figure([Run(context(), records, limits)]))
    assert "f32 50000 GFLOP/s" in text
    assert "f64 30000 GFLOP/s" in text
    assert "bf16" not in text
    assert "A GPU" in text


class Page(HTMLParser):
    """Collects tags, and what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not str(value).startswith("#"):
                self.loads.append(f"{tag} {name}={value}")


def test_the_page_is_one_file(drawn: Path) -> None:
    text = (drawn / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.loads
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert page.tags.count("svg") == 4
    assert page.tags.count("table") >= 6
    assert text.count("packed is 4.0x faster than the best sparse peer, 6.0x than dense") == 6
    assert "gossamer bench --run b" in text
    assert text.rstrip().endswith("</html>")
    identities = re.findall(r'\bid="([^"]+)"', text)
    assert identities


def test_the_page_escapes_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    records = some()
    records[0].status, records[0].message = "failed", "<script>alert(1)</script>"
    path = written(tmp_path / "a.jsonl", records, cpu="<b>&")
    page = tmp_path / "a.html"
    assert cli.main(["bench", "--read", str(path), "--report", str(page)]) == 1
    text = page.read_text()
    assert "<script>" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_roofline_of_no_flops_is_refused_before_it_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    status, _, err = shown(capsys, "--op", "to_dense", "--roofline", str(tmp_path / "x.svg"))
    assert status == 2
    assert "--roofline does not apply: to_dense counts no flops" in err


def test_cases_of_an_op_that_names_no_parameter_stand_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(type(OPS["linear"]), "over", "")
    text = plots.svg(plots.times_figure([Run(context(), some(), LIMITS)]))
    assert "64x96 N=1 50%" in text
    assert "64x96 N=32 50%" in text


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    "output",
    [
        ("--report", "x.txt", None, "expected an ending of html, htm"),
        ("--roofline", "x.html", None, "expected an ending of eps,"),
        ("--report", "no/x.html", None, "but there is no folder"),
        ("--out", "x.py", lambda p: p.write_text("print()\n"), "holds something else than records"),
        (
            "--out",
            "x.jsonl",
            lambda p: p.write_bytes(b"\x89PNG\r\n"),
            "something else than records",
        ),
    ],
)
def test_an_output_that_would_lose_something_is_refused(
    output: tuple[str, str, Spoil | None, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    option, name, spoil, message = output
    path = tmp_path / name
    if spoil is not None:
        spoil(path)
    status, _, err = shown(capsys, option, str(path))
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_two_outputs_are_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "x.svg")
    status, _, err = shown(capsys, "--plot", path, "--roofline", path)
    assert (status, err) == (2, f"gossamer bench: --roofline is {path}, as is --plot\n")
