"""What does a guest under leases cost, next to its rivals? Measures, prints, and writes docs/.

`run.py [--quick] [--page PAGE]… [--only SECTION]… [--ahead] [--out DIR] [--strict-env]`:
the page `bench` takes about five minutes, `sanlock-bench` ten,
`etcd-bench` ten. Missing an aim is
a finding, not a failure; exit 1 says that something could not be measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = _CHECKOUT  # not this directory: its modules are tests.bench's

from lockplugins.contract import LockError  # noqa: E402 - found by the line above
from supervisor.spec import python  # noqa: E402 - as above
from tests.bench import (  # noqa: E402 - as above
    bars,
    ending,
    etcd_acquire,
    etcd_failover,
    etcd_launch,
    etcd_renewals,
    etcd_staying,
    getchild,
    idle,
    launch,
    machine,
    memory,
    qemu_start,
    sanlock_launch,
    sanlock_staying,
    sanlock_takeover,
    takeover,
)
from tests.bench.etcd_peers import Etcd  # noqa: E402 - as above
from tests.bench.report import summary  # noqa: E402 - as above
from tests.bench.rivals import Rivals  # noqa: E402 - as above
from tests.bench.sanlock_peers import Sanlock  # noqa: E402 - as above
from tests.bench.starting import BenchError, Lab, tool  # noqa: E402 - as above

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from tests.bench.report import Section

    Peers = Rivals | Sanlock | Etcd
    # What measures it beside its peers, rounds of a full and of a quick run.
    Measured = tuple[Callable[[Lab, Any, int], Section], int, int]


@dataclass(frozen=True)
class Page:
    """One run beside the same peers, which live as long as the ExitStack."""

    title: str
    peers: Callable[[Lab, ExitStack], Peers]
    sections: Mapping[str, Measured]


PAGES = {
    "bench": Page(
        "What a guest under leases costs",
        lambda lab, _: Rivals(lab),
        {
            "launch": (launch.measure, 200, 8),
            "qemu": (qemu_start.measure, 40, 4),
            "ending": (ending.measure, 100, 6),
            "takeover": (takeover.measure, 60, 5),
            "memory": (memory.measure, 100, 10),
            "idle": (idle.measure, 30, 5),
            "getchild": (getchild.measure, 100, 6),
        },
    ),
    "sanlock-bench": Page(
        "What a guest under sanlock's leases costs",
        Sanlock,
        {
            "sanlock-launch": (sanlock_launch.measure, 40, 2),
            "sanlock-takeover": (sanlock_takeover.measure, 40, 3),
            "sanlock-staying": (sanlock_staying.measure, 100, 5),
        },
    ),
    "etcd-bench": Page(
        "What a guest under etcd's leases costs",
        Etcd,
        {
            "etcd-acquire": (etcd_acquire.measure, 200, 5),
            "etcd-launch": (etcd_launch.measure, 30, 2),
            "etcd-staying": (etcd_staying.measure, 100, 5),  # before members' heaps have grown
            "etcd-renewals": (etcd_renewals.measure, 5, 1),
            "etcd-failover": (etcd_failover.measure, 2, 1),
        },
    ),
}
SECTIONS = [name for page in PAGES.values() for name in page.sections]
_AHEAD = -10  # no real-time policy: etcd's threads spin, and would starve each other
_MEASURED = os.path.join(_CHECKOUT, "docs", "measured")


def main() -> int:
    """Measure what is asked for; returns the exit code."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # contexts end what was started
    if asked.ahead:
        os.nice(_AHEAD)
    product = [os.path.join(_CHECKOUT, name) for name in ("supervisor", "lockplugins")]
    tool([python(), "-I", "-S", "-m", "compileall", "-q", *product], os.environ)
    codes = [
        _run(asked, name)
        for name in asked.page or PAGES
        if not asked.only or {*asked.only}.intersection(PAGES[name].sections)
    ]
    return max(codes)


def _run(asked: argparse.Namespace, name: str) -> int:
    """Measure one page, print and write it; returns the exit code."""
    page, before = PAGES[name], machine.load()
    with ExitStack() as closing:
        # Not the directory for temporary files: sanlock needs direct I/O, seldom had on tmpfs.
        directory, runtime_dir = (
            closing.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=base))
            for base in ("/var/tmp", machine.runtime_base())
        )
        lab = closing.enter_context(Lab(directory, runtime_dir))
        peers = page.peers(lab, closing)
        for missing in peers.missing:
            print(f"bench: missing: {missing}", file=sys.stderr)
        if peers.missing and asked.strict_env:
            return 1
        sections, failed = _measure(asked, page, lab, peers)
        facts = machine.facts(directory, runtime_dir, peers.versions)
    policy = ", run ahead of it (nice)" if asked.ahead else ""
    facts.append(f"load before {before}, after {machine.load()}{policy}")
    text = _page(page.title, sections, facts, [*peers.missing, *failed])
    print(text)
    if asked.out:
        _write(asked.out, f"{name}.md", text, sections)
    return 1 if failed or (peers.missing and asked.strict_env) else 0


def _measure(
    asked: argparse.Namespace, page: Page, lab: Lab, peers: Peers
) -> tuple[list[Section], list[str]]:
    """Return the sections that are asked for, and what failed instead of being one."""
    sections, failed = [], []
    for name, (measure, full, quick) in page.sections.items():
        if asked.only and name not in asked.only:
            continue
        begin = time.monotonic()
        try:
            sections.append(measure(lab, peers, quick if asked.quick else full))
        except (BenchError, LockError, OSError, AssertionError) as error:
            failed.append(f"{name}: {error}")
            print(f"bench: failed: {name}: {error}", file=sys.stderr)
        print(f"bench: {name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return sections, failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure guard and rivals side by side.")
    parser.add_argument("--quick", action="store_true", help="few rounds; writes nothing")
    parser.add_argument("--page", action="append", choices=PAGES, help="repeatable")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="repeatable")
    parser.add_argument("--ahead", action="store_true", help="ahead of other processes (root)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default docs/measured)")
    parser.add_argument("--strict-env", action="store_true", help="a missing rival is exit 1")
    asked = parser.parse_args()
    if asked.out is None and not asked.quick and not asked.only:
        asked.out = _MEASURED
    return asked


def _page(title: str, sections: list[Section], facts: list[str], unmeasured: list[str]) -> str:
    """Return the whole as Markdown."""
    lines = [f"# {title}", ""]
    lines += ["Written by `tests/bench/run.py`. All medians; every ratio is taken within a round,"]
    lines += ["rows in shuffled order, and its median shown.", ""]
    lines += [f"* {fact}" for fact in facts]
    lines += [f"* not measured: {what}" for what in unmeasured]
    lines += ["", *summary([aim for section in sections for aim in section.aims]), ""]
    for section in sections:
        lines += section.lines()
    return "\n".join(lines)


def _write(directory: str, name: str, text: str, sections: list[Section]) -> None:
    os.makedirs(directory, exist_ok=True)
    files = {name: text}
    files |= {chart.file: bars.draw(chart) for section in sections for chart in section.charts}
    for file_name, content in files.items():
        with open(os.path.join(directory, file_name), "w", encoding="utf-8") as file:
            file.write(content)


if __name__ == "__main__":
    sys.exit(main())
