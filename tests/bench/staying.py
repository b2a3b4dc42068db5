"""What do many of a kind cost while they stay, and nothing happens? Memory, wake-ups, CPU time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench import idle, memory
from tests.bench.report import Table, number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tests.bench.memory import Usage

_SETTLED_S = 2.0


@dataclass(frozen=True)
class Found:
    """What the kernel said of each of many; `a_minute`: switches, voluntary or not, and CPU µs.

    `asked`: how often, each minute, a lock manager was asked for each of them.
    """

    many: int
    usage: Usage
    a_minute: Sequence[float] = ()
    asked: float = 0


def look(
    kinds: dict[str, list[int]], seconds: float, questions: Callable[[], int] = lambda: 0
) -> dict[str, Found]:
    """Return what each of a kind, given by its pids, has and does meanwhile.

    `questions` returns how many a lock manager has been asked so far, about all of them.
    """
    idle.pause(_SETTLED_S)
    usage = {name: memory.each(pids) for name, pids in kinds.items()}
    begin, before = time.monotonic(), {name: _sums(pids) for name, pids in kinds.items()}
    asked = questions()
    idle.pause(seconds)
    asked = questions() - asked
    minutes = (time.monotonic() - begin) / 60
    found = {}
    for name, pids in kinds.items():
        more = [new - old for old, new in zip(before[name], _sums(pids), strict=True)]
        a_minute = [each / len(pids) / minutes for each in more]
        found[name] = Found(len(pids), usage[name], a_minute, asked / len(pids) / minutes)
    return found


def _sums(pids: list[int]) -> list[int]:
    return [sum(column) for column in zip(*map(idle.count, pids), strict=True)]


def table(found: dict[str, Found], ours: Collection[str], proven: Collection[str] = ()) -> Table:
    """Return all of it; `ours` stand out, and of `proven` it is told how often they were."""
    rows = []
    for name, each in sorted(found.items(), key=lambda row: row[1].usage["Pss"]):
        private = each.usage["Private_Clean"] + each.usage["Private_Dirty"]
        a_minute = ["", "", ""]
        if each.a_minute:
            voluntary, forced, cpu_us = each.a_minute
            a_minute = [*map(number, (voluntary, forced, cpu_us / 1000))]
        if proven:
            a_minute.append(number(each.asked) if name in proven else "")
        rows.append([
            f"**{name}**" if name in ours else name, str(each.many),
            number(each.usage["Pss"]), number(private), number(each.usage["Rss"]),
            *a_minute,
        ])  # fmt: skip
    head = [
        "process", "at once", "PSS MB", "private MB", "RSS MB",
        "voluntary switches/min", "involuntary/min", "CPU ms/min",
    ]  # fmt: skip
    head += ["leases proven/min"] if proven else []
    return Table("Memory and wake-ups of each", head, rows)
