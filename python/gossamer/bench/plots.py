"""Plots: times and ratios over a parameter, and rates below the machine's roofs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .machine import GpuLimits
from .op import Case
from .records import Record, Run, best, by_case
from .report import geomean, numbers_of

_DTYPE_LINES = {"f32": "-", "bf16": "--", "f16": "-.", "f64": ":"}
_DTYPE_FILLS = {"f32": "full", "bf16": "none", "f16": "left", "f64": "bottom"}
_MARKERS = {"ours": "o", "sparse": "s", "dense": "^", "low": "v", "selection": "D"}
_OP_MARKERS = "os^vDPX*<>"
#: Panels side by side.
_ACROSS = 4


def has_times(records: Iterable[Record]) -> bool:
    """Tell whether `times_figure` has anything to draw."""
    return any(r.ok for r in records)


def has_rates(records: Iterable[Record]) -> bool:
    """Tell whether `roofline_figure` has anything to draw."""
    return any(r.ok and r.case.op.work(r.case, r.nnz).flops for r in records)


def save(figure: Any, path: Path) -> None:
    """Write a figure in the format of the path's ending."""
    with import_module("matplotlib").rc_context(_TEXT):
        figure.savefig(path, dpi=140, bbox_inches="tight")


def svg(figure: Any) -> str:
    """Write a figure as an element of a page."""
    buffer = io.StringIO()
    with import_module("matplotlib").rc_context(_TEXT):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


#: Text of an SVG stays text: smaller, and read by people and programs alike.
_TEXT = {"svg.fonttype": "none", "svg.hashsalt": "gossamer", "font.family": "sans-serif"}


def times_figure(runs: Sequence[Run]) -> Any:
    """Draw times above, and below them their ratios to our best, over the parameter that ops name.

    A panel for each run, op and set of the other parameters; a line for each contender and type,
    through the medians, in a band between the quartiles. Means are taken over shapes. The cases of
    an op that names no parameter stand side by side.
    """
    panels: dict[tuple[Any, ...], list[Record]] = {}
    for number, run in enumerate(runs, 1):
        for record in run.records:
            if record.ok:
                panels.setdefault((number, *_panel(record.case)), []).append(record)
    across = max(1, min(_ACROSS, len(panels)))
    down = max(1, math.ceil(len(panels) / across))
    figure = _figure(3.3 * across + 2.2, 5.4 * down + 0.6)
    axes = figure.subplots(
        2 * down, across, squeeze=False, gridspec_kw={"height_ratios": [3, 2] * down}
    )
    records = [r for alike in panels.values() for r in alike]
    colours = _colours(records)
    several = len({r.case.dtype for r in records}) > 1
    for i in range(down * across):
        pair = axes[2 * (i // across) : 2 * (i // across) + 2, i % across]
        if i >= len(panels):
            for axis in pair:
                axis.set_axis_off()
            continue
        key, alike = list(panels.items())[i]
        _draw_panel(pair, alike, colours, with_dtype=several)
        title = " ".join(x for x in key[1:] if x)
        pair[0].set_title(f"run {key[0]}: {title}" if len(runs) > 1 else title, fontsize=10)
        if i % across == 0:
            pair[0].set_ylabel("time of a call")
            pair[1].set_ylabel("time / our best")
    shapes = {r.case.shape_text() for r in records if r.case.op.over}
    averaged = f", geometric means of {len(shapes)} shapes" if len(shapes) > 1 else ""
    _caption(figure, runs, f"medians{averaged}; bands: quartiles")
    _legend(figure, axes.flat)
    return figure


def _panel(case: Case) -> tuple[str, ...]:
    numbers = [p for p in numbers_of(case) if case.op.over and p.name != case.op.over]
    words = [p for p in case.op.parameters if p.word]
    labels = [p.label(case[p.name]) for p in (*numbers, *words)]
    return (case.op.name, *(x for x in labels if x), "cold" if case.cold else "")


def _over(cases: Iterable[Case]) -> tuple[dict[Case, int], list[str], str]:
    """Find the place of each case, what the places are called, and what all are."""
    cases = list(cases)
    op = cases[0].op
    if not op.over:
        texts = list(dict.fromkeys(case.brief or op.name for case in cases))
        return {case: texts.index(case.brief or op.name) for case in cases}, texts, ""
    over = next(p for p in op.parameters if p.name == op.over)
    values = sorted({case[over.name] for case in cases})
    places = {case: values.index(case[over.name]) for case in cases}
    return places, [over.text(x) for x in values], over.head or over.name


def _draw_panel(
    pair: Any, records: Sequence[Record], colours: dict[str, str], *, with_dtype: bool
) -> None:
    groups = by_case(records)
    places_of, texts, title = _over(groups)
    for name, dtype in dict.fromkeys((r.contender, r.case.dtype) for r in records):
        points: list[tuple[int, list[Record], list[float]]] = []
        for place in range(len(texts)):
            at = [g for c, g in groups.items() if (places_of[c], c.dtype) == (place, dtype)]
            mine = [g[name] for g in at if name in g]
            fastest = [(g[name], best(g.values(), "ours")) for g in at if name in g]
            points.append((place, mine, [r.median / b.median for r, b in fastest if b]))
        kind = next(r.kind for r in records if r.contender == name)
        look: dict[str, Any] = {
            "color": colours[name],
            "linestyle": _DTYPE_LINES.get(dtype, "-"),
            "linewidth": 2.2 if kind == "ours" else 1.2,
            "marker": _MARKERS.get(kind, "x"),
            "markersize": 4.5,
            "fillstyle": _DTYPE_FILLS.get(dtype, "full"),
            "label": f"{name} {dtype}" if with_dtype else name,
        }
        timed = [(x, found) for x, found, _ in points if found]
        middle, low, high = (
            [geomean(getattr(r, field) for r in found) for _, found in timed]
            for field in ("median", "q1", "q3")
        )
        places = [x for x, _ in timed]
        pair[0].plot(places, middle, **look)
        pair[0].fill_between(places, low, high, color=colours[name], alpha=0.15, linewidth=0)
        ratios = [(x, geomean(found)) for x, _, found in points if found]
        pair[1].plot([x for x, _ in ratios], [y for _, y in ratios], **look)
    pair[1].axhline(1.0, color="0.4", linewidth=0.8)
    pair[1].set_xlabel(title)
    for axis, text in zip(pair, (_seconds, _times), strict=True):
        _log_scale(axis, "y", text)
        tilt = {"rotation": 25, "ha": "right"} if max(map(len, texts)) > 8 else {}
        axis.set_xticks(range(len(texts)), texts, fontsize=8, **tilt)
        axis.grid(True, which="major", alpha=0.25)


def roofline_figure(runs: Sequence[Run]) -> Any:
    """Draw useful GFLOP/s over useful flops a compulsory byte, below what the machine reached.

    A panel for each run; a point for each time of a case that counts flops.
    """
    drawn = [run for run in runs if has_rates(run.records)]
    across = max(1, min(2, len(drawn)))
    down = max(1, math.ceil(len(drawn) / across))
    figure = _figure(6.6 * across + 1.8, 5 * down + 0.4)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    colours = _colours([r for run in drawn for r in run.records])
    for number, (axis, run) in enumerate(zip(axes, drawn, strict=False), 1):
        intensities = _draw_rates(axis, run, colours)
        _draw_roofs(axis, run, (min(intensities) / 2, max(intensities) * 2))
        _log_scale(axis, "x", _plain)
        _log_scale(axis, "y", _plain)
        axis.set_xlabel("useful flops / compulsory byte")
        axis.set_ylabel("useful GFLOP/s")
        axis.grid(True, which="major", alpha=0.25)
        if len(drawn) > 1:
            axis.set_title(f"run {number}", fontsize=10)
    _caption(figure, drawn, "a point for each case; lines: measured limits")
    _legend(figure, axes)
    return figure


def _draw_rates(axis: Any, run: Run, colours: dict[str, str]) -> list[float]:
    ops = list(dict.fromkeys(r.case.op.name for r in run.records))
    intensities = []
    points: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for record in run.records:
        cost = record.case.op.work(record.case, record.nnz)
        if record.ok and cost.flops:
            x, y = points.setdefault((record.contender, record.case.op.name), ([], []))
            x.append(cost.flops / cost.bytes)
            y.append(cost.flops / record.median / 1e9)
            intensities.append(x[-1])
    for (name, op), (x, y) in points.items():
        axis.plot(
            x, y, linestyle="", marker=_OP_MARKERS[ops.index(op) % len(_OP_MARKERS)],
            markersize=4.5, alpha=0.75, color=colours[name], markeredgewidth=0,
            label=f"{name} ({op})" if len(ops) > 1 else name,
        )  # fmt: skip
    return intensities


def _draw_roofs(axis: Any, run: Run, span: tuple[float, float]) -> None:
    limits = run.limits
    if limits is None:
        return
    if isinstance(limits, GpuLimits):
        dtypes = {r.case.dtype for r in run.records}
        peaks = {f"{x} {y:.0f} GFLOP/s": y for x, y in limits.gflops.items() if x in dtypes}
        bandwidths = {f"copy {limits.gbps:.0f} GB/s": limits.gbps}
    else:
        peaks = {f"f32 peak {limits.gflops:.0f} GFLOP/s": limits.gflops}
        bandwidths = {f"{level} {rate:.0f} GB/s": rate for level, rate in limits.gbps.items()}
    top = max(peaks.values(), default=math.inf)
    for number, (text, rate) in enumerate(bandwidths.items()):
        end = min(top / rate, span[1])
        if end > span[0]:
            axis.plot([span[0], end], [rate * span[0], rate * end], color="0.45", linewidth=1)
            # One after the other along the lines, which may lie close together.
            at = span[0] * (end / span[0]) ** (0.08 + 0.15 * number)
            axis.annotate(text, (at, rate * at), fontsize=7, color="0.3", ha="center", va="center",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    for text, peak in peaks.items():
        axis.axhline(peak, color="0.45", linewidth=1)
        axis.annotate(text, (span[1], peak), fontsize=7, color="0.3", ha="right",
                      xytext=(0, 3), textcoords="offset points")  # fmt: skip
    axis.set_xlim(*span)


# What figures share


def _figure(width: float, height: float) -> Any:
    figure = import_module("matplotlib.figure")
    return figure.Figure(figsize=(width, height), layout="constrained")


def _colours(records: Iterable[Record]) -> dict[str, str]:
    names = list(dict.fromkeys(r.contender for r in records if r.ok))
    return {name: f"C{i}" if len(names) <= 10 else _of_many(i) for i, name in enumerate(names)}


def _of_many(i: int) -> str:
    colormaps = import_module("matplotlib").colormaps
    code: str = import_module("matplotlib.colors").to_hex(colormaps["tab20"](i % 20))
    return code


def _caption(figure: Any, runs: Sequence[Run], what: str) -> None:
    lines = [run.title for run in runs]
    if len(lines) > 1:
        lines = [f"run {number}: {line}" for number, line in enumerate(lines, 1)]
    figure.suptitle("\n".join([*lines, what]), fontsize=8.5, x=0.01, ha="left", color="0.25")


def _legend(figure: Any, axes: Iterable[Any]) -> None:
    handles: dict[str, Any] = {}
    for axis in axes:
        lines = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
        handles |= {line.get_label(): line for line in lines}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)


def _log_scale(axis: Any, which: str, text: Callable[[float], str]) -> None:
    """Scale by logarithms, with 1, 2 and 5 of each decade marked, or 1 where there are many."""
    ticker = import_module("matplotlib.ticker")
    getattr(axis, f"set_{which}scale")("log")
    low, high = getattr(axis, f"get_{which}lim")()
    one = getattr(axis, f"{which}axis")
    subs: tuple[float, ...] = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
    if high / low < 3:
        subs = tuple(range(1, 10))
    one.set_major_locator(ticker.LogLocator(subs=subs, numticks=30))
    one.set_major_formatter(ticker.FuncFormatter(lambda x, _: text(x)))
    one.set_minor_formatter(ticker.NullFormatter())
    one.set_tick_params(labelsize=8)


def _seconds(x: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")):
        if x >= 0.999 * scale:
            return f"{x / scale:.4g} {unit}"
    return ""


def _times(x: float) -> str:
    return f"{x:.4g}x"


def _plain(x: float) -> str:
    return f"{x:.4g}"
