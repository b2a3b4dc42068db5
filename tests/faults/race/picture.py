"""How does a race look? Each disk's guests over time, and the faults below, as SVG.

Strips of about five minutes. It must not know what is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tests.faults.race import verdict

if TYPE_CHECKING:
    from tests.faults.race.report import Report
    from tests.faults.race.verdict import Run

STRIP_S = 300.0
_WIDTH, _NAMES, _TOP, _LANE, _ROW, _GAP, _MARGIN = 1240, 150, 60, 11, 12, 34, 20
_TICK_S = 30
_STYLE = """
  text { font: 11px system-ui, sans-serif; fill: #3d444d }
  .title { font-weight: 600; font-size: 15px } .small { fill: #656d76 }
  .h0 { fill: #2f81f7 } .h1 { fill: #57ab5a } .h2 { fill: #c69026 }
  .fault { fill: #8c959f } .overlap { fill: #d1242f } .tick { stroke: #d0d7de }
  .orphan { fill-opacity: 0.45 }
  @media (prefers-color-scheme: dark) {
    text { fill: #d1d7e0 } .small { fill: #9198a1 } .tick { stroke: #3d444d }
    .overlap { fill: #ff7b72 }
  }
"""
_LEGEND = (
    "guests, by host:"
    + "".join(f' <tspan class="h{number}">h{number}</tspan>' for number in range(3))
    + "; pale: its supervisor is dead;"
    ' <tspan class="overlap">red: two on one disk at once</tspan>; grey: faults'
)


def draw(report: Report, title: str) -> str:
    """Return the race as an SVG document."""
    began, length = report.seen["began"], report.seen["seconds"]
    count = max(1, round(length / STRIP_S))
    span = length / count
    parts: list[str] = []
    top: float = _TOP
    for number in range(count):
        strip = _Strip(report, began, number * span, span, top)
        parts += strip.draw()
        top = strip.bottom + _GAP
    size = f'viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>",
        f'<text class="title" x="8" y="20">{escape(title)}</text>',
        f'<text class="small" x="8" y="38">{_LEGEND}</text>', *parts, "</svg>", "",
    ])  # fmt: skip


class _Strip:
    """`span` seconds of the race from `offset`; `bottom` is known when they are drawn."""

    def __init__(
        self, report: Report, began: float, offset: float, span: float, top: float
    ) -> None:
        self._report = report
        self._begin, self._offset, self._span = began + offset, offset, span
        self._scale = (_WIDTH - _NAMES - _MARGIN) / span
        self._y = self._top = top
        self.bottom = top

    def draw(self) -> list[str]:
        parts: list[str] = []
        for disk in verdict.disks_of(self._report.runs):
            parts += self._disk(disk)
        for kind in sorted({fault.kind for fault in self._report.faults}):
            parts.append(self._name(kind, "small"))
            for fault in self._report.faults:
                if fault.kind == kind:
                    what = f"{kind} {fault.what}"
                    parts += self._bar("fault", fault.begin, fault.end, _ROW - 4, what)
            self._y += _ROW
        self.bottom = self._y
        return self._ticks() + parts

    def _disk(self, disk: str) -> list[str]:
        """Draw two lanes, in turn, so that who overlaps is seen; and the overlaps below."""
        parts = [self._name(disk if disk != "theirs" else "etcdctl lock")]
        for number, run in enumerate(verdict.on(disk, self._report.runs)):
            self._y += _LANE * (number % 2)
            parts += self._run(run)
            self._y -= _LANE * (number % 2)
        self._y += 2 * _LANE
        both = self._report.overlaps + self._report.their_overlaps
        for overlap in both:
            if overlap.disk == disk:
                what = f"{overlap.first.name} and {overlap.second.name}"
                parts += self._bar("overlap", overlap.begin, overlap.end, 4, what)
        self._y += 10
        return parts

    def _run(self, run: Run) -> list[str]:
        height = _LANE - 2
        supervised = min(run.end, run.orphaned)
        whole = self._bar(run.host, run.begin, supervised, height, run.name)
        return whole + self._bar(f"{run.host} orphan", supervised, run.end, height, run.name)

    def _bar(self, kind: str, begin: float, end: float, height: float, what: str) -> list[str]:
        """Draw what lies in this strip; a moment is drawn so that it can be seen."""
        left, right = max(begin - self._begin, 0), min(end - self._begin, self._span)
        least = 1.5 if kind in {"fault", "overlap"} else 0.0
        width = max((right - left) * self._scale, least)
        if right < left or width == 0:
            return []
        place = f'x="{_NAMES + left * self._scale:.1f}" y="{self._y:g}"'
        shape = f'<rect class="{kind}" {place} width="{width:.1f}" height="{height:g}">'
        return [f"{shape}<title>{escape(what)}</title></rect>"]

    def _name(self, text: str, kind: str = "") -> str:
        place = f'text-anchor="end" x="{_NAMES - 6}" y="{self._y + 8:g}"'
        return f'<text class="{kind}" {place}>{escape(text)}</text>'

    def _ticks(self) -> list[str]:
        parts = []
        first = -int(-self._offset // _TICK_S) * _TICK_S
        for second in range(first, int(self._offset + self._span) + 1, _TICK_S):
            x = f"{_NAMES + (second - self._offset) * self._scale:.1f}"
            ends = f'y1="{self._top - 2}" y2="{self.bottom:g}"'
            parts.append(f'<line class="tick" x1="{x}" x2="{x}" {ends}/>')
            place = f'text-anchor="middle" x="{x}" y="{self._top - 6}"'
            parts.append(f'<text class="small" {place}>{second} s</text>')
        return parts
