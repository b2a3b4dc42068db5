"""What came out of a race? Its counts, ours beside those of `etcdctl lock`, as a page's lines.

Reads what the race has written (__main__.py). It must not know how that was got.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tests.faults.race import verdict
from tests.faults.race.faults import REPLACED
from tests.faults.race.harm import HEALED
from tests.faults.race.lab import Fault
from tests.faults.race.verdict import OURS, THEIRS, Overlap, Run, Turn
from tests.support.measured import percentile

if TYPE_CHECKING:
    from pathlib import Path

FENCED, KILLED = 112, -9
ANSWERS = ("written", "unanswered")
SETTLING_S = 4.0  # a member that is back, or a new leader, is of use after this
LOOKED_BACK_S = 9.0  # more than the K of any host


@dataclass
class Report:
    """One race, as it was written down."""

    seen: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Report:
        return cls(json.loads(path.read_text()))

    @cached_property
    def runs(self) -> list[Run]:
        return verdict.runs_of(event for event in self.seen["events"] if event["run"])

    @cached_property
    def ours(self) -> list[Run]:
        return [run for run in self.runs if run.side == OURS]

    @cached_property
    def theirs(self) -> list[Run]:
        return [run for run in self.runs if run.side == THEIRS]

    @cached_property
    def turns(self) -> dict[str, Turn]:
        return {turn["run"]: Turn(**turn) for turn in self.seen["turns"]}

    @cached_property
    def faults(self) -> list[Fault]:
        return [Fault(**fault) for fault in self.seen["faults"]]

    @cached_property
    def overlaps(self) -> list[Overlap]:
        return verdict.overlaps(self.ours)

    @cached_property
    def their_overlaps(self) -> list[Overlap]:
        return verdict.overlaps(self.theirs)

    @cached_property
    def takeovers(self) -> list[tuple[str, float]]:
        return verdict.takeovers(self.ours, self.turns)

    def reasons(self, side: str) -> list[str]:
        """Return what the checker found on the images of one side."""
        disks = {disk for run in self.runs if run.side == side for disk in run.disks}
        return [reason for disk in sorted(disks) for reason in self.seen["images"][disk]["reasons"]]

    @cached_property
    def fenced(self) -> list[Run]:
        """Return the guests that ended for want of a proof, by the guard or by the kernel."""
        found = []
        for run in self.ours:
            turn = self.turns.get(run.name)
            if turn is None or "killed" in turn.hurts or "guest killed" in turn.hurts:
                continue
            if turn.code in {FENCED, KILLED}:
                found.append(run)
        return found

    @cached_property
    def needless(self) -> list[Run]:
        """Return those of them whose host could reach a quorum, and whose guard was not stopped."""
        return [
            run
            for run in self.fenced
            if "stopped" not in self.turns[run.name].hurts
            and not self.was_without_quorum(run.host, run.end - LOOKED_BACK_S, run.end)
        ]

    def was_without_quorum(self, host: str, begin: float, end: float) -> bool:
        """Had the host no quorum at any time of that?"""
        during = [
            fault for fault in self.faults if fault.begin < end and fault.end + SETTLING_S > begin
        ]
        members = {member for fault in during for member in fault.members}
        return len(members) > 1 or any(host in fault.hosts for fault in during)

    def needless_during(self) -> str:
        """Say what was done to the cluster and to its network when guests ended needlessly."""
        kinds: Counter[str] = Counter()
        for run in self.needless:
            begin = run.end - LOOKED_BACK_S
            going_on = {
                fault.kind
                for fault in self.faults
                if fault.begin < run.end and fault.end > begin and "/" not in fault.what
            }
            kinds[" and ".join(sorted(going_on)) or "nothing"] += 1
        return "; ".join(f"during {kind}: {count}" for kind, count in kinds.most_common())

    def lines(self) -> list[str]:
        """Return the page, below its heading."""
        counts = self.seen["counts"]
        gaps = [seconds for _, seconds in self.takeovers]
        shortest, median = (f"{percentile(gaps, p):.1f}" for p in (0, 50)) if gaps else ("", "")
        faults = Counter(fault.kind for fault in self.faults)
        rows = [
            ("guests that ran", len(self.ours), len(self.theirs)),
            ("**overlaps on a disk**", len(self.overlaps), len(self.their_overlaps)),
            ("of them, longest", _longest(self.overlaps), _longest(self.their_overlaps)),
            (
                "of them, first one's supervisor was alive",
                _supervised(self.overlaps), _supervised(self.their_overlaps),
            ),
            ("the checker's findings on the images", *map(len, map(self.reasons, (OURS, THEIRS)))),
        ]  # fmt: skip
        body = [f"| {what} | {ours} | {theirs} |" for what, ours, theirs in rows]
        tokens = len([turn for turn in self.turns.values() if turn.generation])
        during = f": {self.needless_during()}" if self.needless else ""
        written, unanswered = (counts.get(f"other clients: {w}", 0) for w in ANSWERS)
        one = [
            f"takeovers from a supervisor that was killed: {len(self.takeovers)}",
            f"before each the disk had no guest for {shortest} s or more, {median} s at the median",
            f"sessions ended under a running guest, and made anew: {counts.get(HEALED, 0)}",
            f"guests ended for want of a proof: {len(self.fenced)}",
            f"needlessly, their host having had a quorum: {len(self.needless)}{during}",
            f"fencing tokens, each greater than the one before on its disk: {tokens}",
            f"{REPLACED}: {counts.get(REPLACED, 0)}",
            f"other clients' writes: {written} done, {unanswered} unanswered",
            "faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items())),
        ]
        head = ["| | lock-supervisor | `etcdctl lock` |", "|---|---:|---:|"]
        return [*head, *body, "", *(f"* {line}" for line in one)]


def _longest(overlaps: list[Overlap]) -> str:
    return f"{max(overlap.seconds for overlap in overlaps):.1f} s" if overlaps else "-"


def _supervised(overlaps: list[Overlap]) -> int:
    return sum(not overlap.is_an_orphans for overlap in overlaps)
