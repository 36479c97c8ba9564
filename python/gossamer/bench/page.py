"""The report as a page: one file with its tables and plots, which needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from .grid import Grid
from .plots import has_rates, has_times, roofline_figure, svg, times_figure
from .records import Run
from .report import case_grid, failures, limits_text, mean_grid, summary, tables_of

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; }
.fact { color: GrayText; margin: .1em 0; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.summary { border-left: 4px solid #3a7; padding: .3em 1em; }
.summary p { margin: .2em 0; }
.figure { background: #fff; overflow-x: auto; margin: 1em 0; }
.figure svg { max-width: 100%; height: auto; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3em 0; }
th, td { padding: .15em .7em; text-align: left; }
thead th { border-bottom: 1px solid GrayText; }
.number { text-align: right; }
tr.case td { border-top: 1px solid #8884; font-weight: 600; }
td.ours { font-weight: 600; } td.win { color: #1a8a44; } td.warn { color: #a86b00; }
td.loss { color: #d0342c; font-weight: 600; } td.dim { color: GrayText; }
td.wrong { background: #d0342c; color: #fff; }
"""


def write_page(path: Path, runs: Sequence[Run], targets: Grid | None = None) -> None:
    """Write the runs, each with its machine, summary, plots and tables."""
    body = ["<h1>gossamer bench</h1>"]
    if targets is not None:
        body += [f'<div class="table">{targets.html()}</div>']
    for run in runs:
        body += _run(run)
    path.write_text(
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>gossamer bench</title><style>{_STYLE}</style></head>\n"
        "<body>\n" + "\n".join(body) + "\n</body></html>\n",
        encoding="utf-8",
    )


def _run(run: Run) -> list[str]:
    lines = [f"<h2>{escape(run.title)}</h2>"]
    versions = ", ".join(f"{k} {v}" for k, v in run.context.get("versions", {}).items())
    facts = [versions, limits_text(run.limits) if run.limits else ""]
    lines += [f'<p class="fact">{escape(fact)}</p>' for fact in facts if fact]
    command = str(run.context.get("command", ""))
    lines.append(f'<p class="fact"><code>{escape(command)}</code></p>' if command else "")
    said = [escape(str(x)) for x in summary(run.records)]
    lines += ['<div class="summary">', *(f"<p>{x}</p>" for x in said), "</div>"] if said else []
    lines += [f'<p class="warn">{escape(str(x))}</p>' for x in failures(run.records)]
    if has_times(run.records):
        lines.append(f'<div class="figure">{svg(times_figure([run]))}</div>')
    if has_rates(run.records):
        lines.append(f'<div class="figure">{svg(roofline_figure([run]))}</div>')
    for alike in tables_of(run.records):
        for grid in (case_grid(alike, run.limits), mean_grid(alike)):
            if grid is not None:
                lines.append(f'<div class="table">{grid.html()}</div>')
    return lines
