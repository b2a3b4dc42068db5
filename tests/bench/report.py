"""How does a measurement read? Tables and aims as Markdown; the charts' data beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Aim:
    """What was hoped for: `value` at most `bound`; `floor` is what Python alone costs."""

    what: str
    value: float
    bound: float
    unit: str
    floor: float | None = None

    @property
    def met(self) -> bool:
        return self.value <= self.bound

    def row(self) -> str:
        """Return the aim as a line of the summary."""
        cells = (
            self.what,
            f"{number(self.value)} {self.unit}",
            f"{self.bound:g} {self.unit}",
            "" if self.floor is None else f"{number(self.floor)} {self.unit}",
            "met" if self.met else "**missed**",
        )
        return f"| {' | '.join(cells)} |"


def summary(aims: Sequence[Aim]) -> list[str]:
    """Return the aims as a table."""
    head = ["| aim | measured | at most | Python floor | |", "|---|---:|---:|---:|---|"]
    return [*head, *(aim.row() for aim in aims)] if aims else []


@dataclass(frozen=True)
class Table:
    """The first column holds names, the others figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        rule = "|".join(["---", *("---:" for _ in self.head[1:])])
        body = [f"| {' | '.join(row)} |" for row in (self.head, *self.rows)]
        return [f"*{self.title}*", "", body[0], f"|{rule}|", *body[1:]]


@dataclass(frozen=True)
class Bar:
    """`ours` bars stand out; `note` follows the figure."""

    name: str
    value: float
    ours: bool = False
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Horizontal bars from 0, in `unit`; `aim` is drawn as a line."""

    file: str
    title: str
    unit: str
    bars: Sequence[Bar]
    aim: float | None = None


@dataclass
class Section:
    """One measurement; `profile` says where time or memory goes, and what the floor is."""

    title: str
    note: str
    tables: list[Table] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    profile: list[Table] = field(default_factory=list)

    def lines(self) -> list[str]:
        lines = [f"## {self.title}", "", self.note, "", *summary(self.aims)]
        for chart in self.charts:
            lines += ["", f"![{chart.title}]({chart.file})"]
        for table in (*self.tables, *self.profile):
            lines += ["", *table.lines()]
        return [*lines, ""]


def number(value: float) -> str:
    """Render a figure: what it is worth, no more."""
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
