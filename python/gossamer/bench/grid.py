"""Tables that fit: columns are left out, the least important first, until the width is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeAlias

from rich.box import Box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

Cell: TypeAlias = Text | str
#: Classes of the page for the styles of cells.
CLASSES = {
    "green": "win",
    "bold red": "loss",
    "bold white on red": "wrong",
    "yellow": "warn",
    "dim": "dim",
    "bold": "ours",
}
#: A line under the head, and nothing else.
_BOX = Box("    \n    \n -- \n    \n    \n    \n    \n    \n")
_GAP = 2
#: What a first column that may be wrapped is given at the least.
_WRAPPED = 24


@dataclass(frozen=True)
class Column:
    """A column. Those without a rank are always shown; of the others the highest ranks go first."""

    head: str
    rank: int = 0
    left: bool = False
    wrap: bool = False


@dataclass
class Grid:
    """Rows of cells under columns. A row of one cell is the head of those after it."""

    title: str
    columns: Sequence[Column]
    rows: list[list[Cell]] = field(default_factory=list)

    def fit(self, width: int) -> Group:
        """Lay out the title, and as many columns as there is room for."""
        shown = self.shown(width)
        table = Table(box=_BOX, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
        for i in shown:
            column = self.columns[i]
            table.add_column(
                column.head,
                justify="left" if column.left else "right",
                no_wrap=not column.wrap,
                overflow="fold" if column.wrap else "ellipsis",
            )
        for row in self.rows:
            cells = [*row, *[""] * (len(self.columns) - len(row))]
            if len(row) == 1 and table.rows:
                table.add_row()
            table.add_row(*(cells[i] for i in shown))
        return Group(Text(self.title, style="bold"), table)

    def shown(self, width: int) -> list[int]:
        """Choose the columns that a width has room for, by their places."""
        widths = [self._width(i) for i in range(len(self.columns))]
        shown = [i for i in range(len(widths)) if self._filled(i)]
        while sum(widths[i] + _GAP for i in shown) - _GAP > width:
            last = max(shown, key=lambda i: self.columns[i].rank)
            if not self.columns[last].rank:
                break
            shown.remove(last)
        return shown

    def _filled(self, i: int) -> bool:
        """Tell whether a column that may be left out says anything."""
        return not self.columns[i].rank or any(
            str(row[i]) not in ("", "-") for row in self.rows if i < len(row)
        )

    def _width(self, i: int) -> int:
        cells = [row[i] for row in self.rows if i < len(row)]
        longest = max((cell_len(str(x)) for x in (self.columns[i].head, *cells)), default=0)
        return min(longest, _WRAPPED) if self.columns[i].wrap else longest

    def html(self) -> str:
        """Write the table, with all of its columns, for a page."""
        shown = [i for i in range(len(self.columns)) if self._filled(i)]
        lines = [f"<table><caption>{escape(self.title)}</caption>", "<thead><tr>"]
        lines += [_tag("th", self.columns[i].head, self.columns[i]) for i in shown]
        lines.append("</tr></thead><tbody>")
        for row in self.rows:
            if len(row) == 1:
                lines.append(f'<tr class="case"><td colspan="{len(shown)}">{escape(str(row[0]))}')
                lines.append("</td></tr>")
                continue
            cells = [*row, *[""] * (len(self.columns) - len(row))]
            lines.append("<tr>")
            lines += [_tag("td", cells[i], self.columns[i]) for i in shown]
            lines.append("</tr>")
        return "\n".join([*lines, "</tbody></table>"])


def _tag(tag: str, cell: Cell, column: Column) -> str:
    style = CLASSES.get(str(cell.style), "") if isinstance(cell, Text) else ""
    names = " ".join(x for x in ("" if column.left else "number", style) if x)
    return f'<{tag} class="{names}">{escape(str(cell))}</{tag}>'
