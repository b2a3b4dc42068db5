"""Where do measured figures go? To the end of the run's report and, under --long, to docs/measured.

Knows how to summarise durations; not what was measured.
"""

from __future__ import annotations

import os
import platform
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TITLE = "measured: "


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(0, int(rank) - 1)]


def milliseconds(values: Sequence[float]) -> str:
    """Summarise durations in seconds: how many, p50, p99, the longest."""
    p50, p99, longest = (percentile(values, p) * 1000 for p in (50, 99, 100))
    return f"{len(values)} rounds, p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms"


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Keep a line under a page's name: `measured("takeover", "pdeathsig: …")`."""
    return lambda page, line: record_property(_TITLE + page, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    pages: dict[str, list[str]] = {}
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport) and report.when == "call":
            for title, line in report.user_properties:
                pages.setdefault(title, []).append(str(line))
    for title, lines in pages.items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)
        if terminalreporter.config.getoption("--long") and not terminalreporter.stats.get("failed"):
            _write(title.removeprefix(_TITLE), lines)


def write(file: str, text: str) -> None:
    """Put a page, or a picture, into docs/measured."""
    directory = os.path.join(CHECKOUT, "docs", "measured")
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, file), "w", encoding="utf-8") as page:
        page.write(text)


def heading(page: str) -> str:
    """Return how a page begins: what was measured, and on what."""
    kernel = platform.release().partition("-")[0]
    machine = f"{platform.system()} {kernel}, {os.cpu_count()} CPUs"
    load = "load {:.1f} at the end, {:.1f} over 15 minutes".format(*os.getloadavg()[::2])
    python = f"Python {platform.python_version()}"
    return f"# Measured: {page}\n\n{machine}, {python}; {load}.\n\n"


def _write(page: str, lines: Sequence[str]) -> None:
    write(f"{page}.md", heading(page) + "".join(f"* {line}\n" for line in lines))
