"""Did two guests ever run on one disk at once? And what else do the judge's stamps tell?

Only arithmetic on intervals of one clock: it must not know how they were got.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

FOREVER = float("inf")
OURS, THEIRS = "ours", "theirs"


@dataclass
class Run:
    """One guest's life: `begin` to `end`; from `orphaned` on nobody supervised it."""

    name: str
    begin: float
    pid: int = 0
    end: float = FOREVER
    orphaned: float = FOREVER

    @property
    def side(self) -> str:
        return self.name.split("/")[0]

    @property
    def host(self) -> str:
        return self.name.split("/")[1]

    @property
    def disks(self) -> list[str]:
        return self.name.split("/")[2].split("+")


def run_name(side: str, host: str, disks: Sequence[str], number: int) -> str:
    return "/".join((side, host, "+".join(disks), str(number)))


def runs_of(events: Iterable[Mapping[str, Any]]) -> list[Run]:
    """Return the runs that a judge's events tell of, in the order in which they began."""
    runs: dict[str, Run] = {}
    for event in events:
        name, at = event["run"], event["at"]
        match event["event"]:
            case "begin":
                assert name not in runs, f"{name} has begun twice"
                runs[name] = Run(name, at, event["pid"])
            case "orphan":
                runs[name].orphaned = at
            case "end":
                runs[name].end = at
    return sorted(runs.values(), key=lambda run: run.begin)


@dataclass(frozen=True)
class Overlap:
    """Two runs on one disk at once, from `begin` to `end`."""

    disk: str
    first: Run
    second: Run
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    @property
    def is_an_orphans(self) -> bool:
        """Had the first's supervisor died before the second began?"""
        return self.first.orphaned <= self.begin


def on(disk: str, runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if disk in run.disks]


def disks_of(runs: Iterable[Run]) -> list[str]:
    return sorted({disk for run in runs for disk in run.disks})


def overlaps(runs: Sequence[Run]) -> list[Overlap]:
    """Return every pair that ran on one disk at once; one that ends as another begins does not."""
    found = []
    for disk in disks_of(runs):
        for first, second in combinations(on(disk, runs), 2):
            begin, end = max(first.begin, second.begin), min(first.end, second.end)
            if begin < end:
                found.append(Overlap(disk, first, second, begin, end))
    return sorted(found, key=lambda overlap: overlap.begin)


@dataclass(frozen=True)
class Turn:
    """How one start went: the supervisor's exit code (-n: died of signal n), and its token."""

    run: str
    code: int
    end: float
    generation: int = 0
    said: str = ""
    hurts: Sequence[str] = field(default_factory=list)


SIGKILLED = -9


def takeovers(runs: Sequence[Run], turns: Mapping[str, Turn]) -> list[tuple[str, float]]:
    """Return each disk, and the seconds it had no guest, that came from a supervisor killed.

    That one has given nothing back: not by its own will, and not to who came next.
    """
    found = []
    for disk in disks_of(runs):
        for before, after in pairwise(on(disk, runs)):
            turn = turns.get(before.name)
            if turn is not None and turn.code == SIGKILLED:
                found.append((disk, after.begin - before.end))
    return found


def tokens_that_do_not_rise(runs: Sequence[Run], turns: Mapping[str, Turn]) -> list[str]:
    """Return in words where an owner's token is not greater than that of the one before."""
    found = []
    for disk in disks_of(runs):
        told = [turns[run.name] for run in on(disk, runs) if run.name in turns]
        for before, after in pairwise(turn for turn in told if turn.generation):
            if after.generation <= before.generation:
                words = f"{after.run} has {after.generation}, {before.run} had {before.generation}"
                found.append(f"{disk}: {words}")
    return found
