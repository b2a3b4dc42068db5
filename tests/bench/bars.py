"""How does a chart look? Horizontal bars as SVG, readable on light and on dark.

The axis begins at 0 and is linear, always. It must not know what is compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tests.bench.report import number

if TYPE_CHECKING:
    from tests.bench.report import Bar, Chart

_WIDTH = 760
_NAMES = 270
_FIGURES = 110
_TOP = 76
_PITCH = 26
_BAR = 16
_BOTTOM = 14
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #3d444d }
  .title { font-weight: 600; font-size: 15px }
  .small { font-size: 12px; fill: #656d76 }
  .peer { fill: #a0a8b2 } .ours { fill: #2f81f7 } .bold { font-weight: 600 }
  .axis { stroke: #8c959f } .aim { stroke: #d1242f; stroke-dasharray: 4 3 }
  .aimed { font-size: 12px; fill: #d1242f }
  @media (prefers-color-scheme: dark) {
    text { fill: #d1d7e0 } .small { fill: #9198a1 } .peer { fill: #6e7681 }
    .aim { stroke: #ff7b72 } .aimed { fill: #ff7b72 }
  }
"""


def draw(chart: Chart) -> str:
    """Return the chart as an SVG document."""
    height = _TOP + _PITCH * len(chart.bars) + _BOTTOM
    longest = max([bar.value for bar in chart.bars] + [chart.aim or 0.0]) or 1.0
    scale = (_WIDTH - _NAMES - _FIGURES) / longest
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(chart.title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="8" y="20">{escape(chart.title)}</text>',
        f'<text class="small" x="8" y="40">{escape(chart.unit)}; shorter is better</text>',
    ]
    for index, bar in enumerate(chart.bars):
        parts += _row(bar, _TOP + _PITCH * index, scale)
    end = height - _BOTTOM
    parts.append(_line("axis", _NAMES, _TOP - 4, end))
    if chart.aim is not None:
        x = _NAMES + chart.aim * scale
        parts.append(_line("aim", x, _TOP - 4, end))
        parts.append(
            f'<text class="aimed" text-anchor="middle" x="{x:.1f}" y="{_TOP - 10}">'
            f"aim {number(chart.aim)}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _row(bar: Bar, top: int, scale: float) -> list[str]:
    kind, weight = ("ours", ' class="bold"') if bar.ours else ("peer", "")
    length = max(bar.value * scale, 1.0)
    base = top + _BAR - 3
    figure = f"{number(bar.value)} {bar.note}".strip()
    return [
        f'<text{weight} text-anchor="end" x="{_NAMES - 8}" y="{base}">{escape(bar.name)}</text>',
        f'<rect class="{kind}" x="{_NAMES}" y="{top}" width="{length:.1f}" height="{_BAR}"/>',
        f'<text{weight} x="{_NAMES + length + 6:.1f}" y="{base}">{escape(figure)}</text>',
    ]


def _line(kind: str, x: float, top: float, end: float) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{end}"/>'
