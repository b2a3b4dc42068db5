"""What does a guest under leases cost, next to its rivals? Measures, prints, and writes docs/.

`run.py [--quick] [--only SECTION]… [--fifo] [--out DIR] [--strict-env]`: the
whole takes about five minutes. Missing an aim is a finding, not a failure;
exit 1 says that something could not be measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = _CHECKOUT  # not this directory: its modules are tests.bench's

from lockplugins.contract import LockError  # noqa: E402 - found by the line above
from supervisor.spec import python  # noqa: E402 - as above
from tests.bench import (  # noqa: E402 - as above
    bars,
    ending,
    getchild,
    idle,
    launch,
    machine,
    memory,
    qemu_start,
    takeover,
)
from tests.bench.report import summary  # noqa: E402 - as above
from tests.bench.rivals import Rivals  # noqa: E402 - as above
from tests.bench.starting import BenchError, Lab, tool  # noqa: E402 - as above

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.report import Section

# Name, what measures it, rounds of a full and of a quick run.
SECTIONS: dict[str, tuple[Callable[[Lab, Rivals, int], Section], int, int]] = {
    "launch": (launch.measure, 200, 8),
    "qemu": (qemu_start.measure, 40, 4),
    "ending": (ending.measure, 100, 6),
    "takeover": (takeover.measure, 60, 5),
    "memory": (memory.measure, 100, 10),
    "idle": (idle.measure, 30, 5),
    "getchild": (getchild.measure, 100, 6),
}
_FIFO_PRIORITY = 10
_MEASURED = os.path.join(_CHECKOUT, "docs", "measured")


def main() -> int:
    """Measure what is asked for; returns the exit code."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # contexts end what was started
    if asked.fifo:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
    before = machine.load()
    product = [os.path.join(_CHECKOUT, name) for name in ("supervisor", "lockplugins")]
    tool([python(), "-I", "-S", "-m", "compileall", "-q", *product], os.environ)
    with ExitStack() as closing:
        # Not the directory for temporary files: sanlock needs direct I/O, seldom had on tmpfs.
        directory, runtime_dir = (
            closing.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=base))
            for base in ("/var/tmp", machine.runtime_base())
        )
        lab = closing.enter_context(Lab(directory, runtime_dir))
        rivals = Rivals(lab)
        for missing in rivals.missing:
            print(f"bench: missing: {missing}", file=sys.stderr)
        if rivals.missing and asked.strict_env:
            return 1
        sections, failed = _measure(asked, lab, rivals)
        facts = machine.facts(directory, runtime_dir, rivals.versions)
    policy = ", run ahead of it (SCHED_FIFO)" if asked.fifo else ""
    text = _page(sections, [*facts, f"load before {before}, after {machine.load()}{policy}"],
                 [*rivals.missing, *failed])  # fmt: skip
    print(text)
    if asked.out:
        _write(asked.out, text, sections)
    return 1 if failed or (rivals.missing and asked.strict_env) else 0


def _measure(
    asked: argparse.Namespace, lab: Lab, rivals: Rivals
) -> tuple[list[Section], list[str]]:
    """Return the sections that are asked for, and what failed instead of being one."""
    sections, failed = [], []
    for name in asked.only or SECTIONS:
        measure, full, quick = SECTIONS[name]
        begin = time.monotonic()
        try:
            sections.append(measure(lab, rivals, quick if asked.quick else full))
        except (BenchError, LockError, OSError, AssertionError) as error:
            failed.append(f"{name}: {error}")
            print(f"bench: failed: {name}: {error}", file=sys.stderr)
        print(f"bench: {name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return sections, failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure guard and rivals side by side.")
    parser.add_argument("--quick", action="store_true", help="few rounds; writes nothing")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="repeatable")
    parser.add_argument("--fifo", action="store_true", help="ahead of other processes (root)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default docs/measured)")
    parser.add_argument("--strict-env", action="store_true", help="a missing rival is exit 1")
    asked = parser.parse_args()
    if asked.out is None and not asked.quick and not asked.only:
        asked.out = _MEASURED
    return asked


def _page(sections: list[Section], facts: list[str], unmeasured: list[str]) -> str:
    """Return the whole as Markdown."""
    lines = ["# What a guest under leases costs", ""]
    lines += ["Written by `tests/bench/run.py`. All medians; every ratio is taken within a round,"]
    lines += ["rows in shuffled order, and its median shown.", ""]
    lines += [f"* {fact}" for fact in facts]
    lines += [f"* not measured: {what}" for what in unmeasured]
    lines += ["", *summary([aim for section in sections for aim in section.aims]), ""]
    for section in sections:
        lines += section.lines()
    return "\n".join(lines)


def _write(directory: str, text: str, sections: list[Section]) -> None:
    os.makedirs(directory, exist_ok=True)
    files = {"bench.md": text}
    files |= {chart.file: bars.draw(chart) for section in sections for chart in section.charts}
    for name, content in files.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(content)


if __name__ == "__main__":
    sys.exit(main())
