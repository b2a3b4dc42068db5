"""What does it cost to launch a command under a lease, and through the front door?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.spec import Containment
from tests.bench import ours, phases, rivals
from tests.bench.figures import differences, median, percentile, ratios, rounds
from tests.bench.report import TIMES, Aim, Bar, Chart, Section, Table, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.rivals import Rivals
    from tests.bench.starting import Cost, Lab

BARE = "bare vfork and exec"
NOP = "guard, nop, pdeathsig"
NOP_PIDNS = "guard, nop, pidns"
_OURS = (ours.GUARD, ours.GUARD_PIDNS, NOP, NOP_PIDNS, ours.FRONT_DOOR)
_LAUNCH_AIM, _WHOLE_AIM, _FRONT_AIM = 13.0, 1.5, 60.0

Samples = dict[str, list["Cost"]]


def measure(lab: Lab, peers: Rivals, count: int) -> Section:
    """Measure every row side by side."""
    samples = rounds(_rows(lab, peers), count)
    section = Section(
        "Launch",
        "From the instant before posix_spawn(3) to the first instruction of a static C program "
        "that runs under the lock, and to the end of the whole process. Ratios are medians of the "
        f"ratios within each of {count} rounds. The guard is called directly, with one exclusive "
        "disk; the front door is `bin/lock-supervisor run` with the same disk. "
        f"`{rivals.SANLOCK}` and `{rivals.FLOCK_EXEC}` exec the command in their own place: "
        "nobody stays to supervise it.",
    )
    section.tables.append(_table(samples))
    section.aims += _aims(samples)
    section.charts.append(_chart(samples))
    section.profile += phases.launch(lab, max(5, count // 4))
    return section


def _rows(lab: Lab, peers: Rivals) -> dict[str, Callable[[], Cost]]:
    pidns, nop = {"containment": Containment.PIDNS}, {"plugin": "nop"}
    argv = {
        BARE: lab.command,
        ours.NOTHING: ours.nothing(),
        ours.FLOOR: [*ours.floor(lab, "floor"), *lab.command],
        ours.GUARD: [*ours.guard(lab, "one"), *lab.command],
        ours.GUARD_PIDNS: [*ours.guard(lab, "two", **pidns), *lab.command],
        NOP: [*ours.guard(lab, "three", **nop), *lab.command],
        NOP_PIDNS: [*ours.guard(lab, "four", **nop, **pidns), *lab.command],
        ours.FRONT_DOOR: [
            *ours.front_door(lab, "five", "--disk", lab.image("five")), *lab.command,
        ],
    }  # fmt: skip

    def row(words: list[str]) -> Callable[[], Cost]:
        return lambda: lab.run(words)

    def rival(name: str) -> Callable[[], Cost]:
        return lambda: lab.run([*peers.prefix(name, f"launch {name}"), *lab.command])

    return {name: row(words) for name, words in argv.items()} | {
        name: rival(name) for name in peers.names()
    }


def _launch(samples: Samples, name: str) -> list[float]:
    return [cost.launch_ms for cost in samples[name]]


def _whole(samples: Samples, name: str) -> list[float]:
    return [cost.whole_ms for cost in samples[name]]


def _order(samples: Samples) -> list[str]:
    names = [name for name in samples if name != ours.NOTHING]
    return sorted(names, key=lambda name: median(_launch(samples, name)))


def _table(samples: Samples) -> Table:
    rows = []
    for name in [*_order(samples), ours.NOTHING]:
        launch, whole = _launch(samples, name), _whole(samples, name)
        times = ratios(launch, _launch(samples, BARE))
        starts = name != ours.NOTHING
        rows.append([
            f"**{name}**" if name in _OURS else name,
            number(median(launch)) if starts else "",
            number(percentile(launch, 90)) if starts else "",
            f"{median(times):.1f} ({min(times):.1f} to {max(times):.1f})" if starts else "",
            number(median(whole)),
            f"{median(ratios(whole, _whole(samples, ours.NOTHING))):.2f}",
            number(median([cost.cpu_ms for cost in samples[name]])),
            number(median([cost.faults for cost in samples[name]])),
        ])  # fmt: skip
    head = (
        "command", "launch ms", "p90", f"{TIMES} bare (range)",
        "whole ms", f"{TIMES} {ours.NOTHING}", "CPU ms", "page faults",
    )  # fmt: skip
    return Table("Launch of a static program", head, rows)


def _aims(samples: Samples) -> list[Aim]:
    aims = []

    def times(name: str, unit: str) -> float:
        return median(ratios(_launch(samples, name), _launch(samples, unit)))

    def whole(name: str) -> float:
        return median(ratios(_whole(samples, name), _whole(samples, ours.NOTHING)))

    for name in (ours.GUARD, ours.GUARD_PIDNS):
        what = f"{name}: launch over bare exec"
        aims.append(Aim(what, times(name, BARE), _LAUNCH_AIM, TIMES, times(ours.FLOOR, BARE)))
        if rivals.SANLOCK in samples:
            what = f"{name}: launch over `{rivals.SANLOCK}`"
            floor = times(ours.FLOOR, rivals.SANLOCK)
            aims.append(Aim(what, times(name, rivals.SANLOCK), 1.0, TIMES, floor))
        what = f"{name}: whole process over `{ours.NOTHING}`"
        aims.append(Aim(what, whole(name), _WHOLE_AIM, TIMES, whole(ours.FLOOR)))
    more = differences(_launch(samples, ours.FRONT_DOOR), _launch(samples, ours.GUARD))
    aims.append(Aim("the front door, over the guard directly", median(more), _FRONT_AIM, "ms"))
    return aims


def _chart(samples: Samples) -> Chart:
    bars = [
        Bar(name, median(ratios(_launch(samples, name), _launch(samples, BARE))), name in _OURS)
        for name in _order(samples)
        if name != ours.FRONT_DOOR
    ]
    bars.sort(key=lambda bar: bar.value)
    front = median(_launch(samples, ours.FRONT_DOOR))
    note = f"(the front door: {number(front)} ms, not drawn)"
    unit = f"{TIMES} the time of a bare vfork and exec {note}"
    return Chart("bench-launch.svg", "Launch under a lock", unit, bars, _LAUNCH_AIM)
