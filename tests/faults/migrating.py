"""How is a row of docs/migration-failures.md judged and mended, and whose guest is it done to?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.guard.lifecycle import State
from tests.support import proclocks, waiting
from tests.support.failing import REAL, Pair, ended, executes, judge_disk, seen, writes
from tests.support.failures import CHANGES, Row, rows, title
from tests.support.moving import DEADLINE_S, World
from tests.support.outcomes import DESTINATION, LEAVING, NOBODY, SOURCE, Ends, locks, mend, scenes
from tests.support.qemu import shared_memory
from tests.support.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.support.guard import Guards
    from tests.support.moving import End

ALIVE = (State.RUNNING, State.PARKED)
FINISHES = "SIGKILL of the daemon; its successor finishes"
DAEMON = {FINISHES: "finish", "SIGKILL of the daemon; its successor cancels": "cancel"}
LOCKED = "QEMU refuses: `cont`, the image is locked"
FULL_DISK = "the disk's filesystem is full"
FULL_DIRECTORY = "the runtime directories' filesystem is full"
MONITOR = "closes our monitor"
ON_THE_WAY = ("migrating-out, incoming", "migrated, incoming", "migrated, running")
MENDS: dict[str, Callable[[Pair], None]] = {
    "no GO": Pair.hang_up,
    "`complete-in`": Pair.complete_in,
    "`complete-out`": Pair.complete_out,
    "`complete-in --cancel`": Pair.cancel_in,
    "`complete-out --cancel`": Pair.cancel_out,
}


def new_world(directory: Path, memory: Path, disk_bytes: int = 1 << 20) -> World:
    """Make a world whose guests have memory that takes long to copy, one page after the other."""
    world = World(directory, disk_bytes)
    world.memory = [*shared_memory(memory), "-device", "VGA"]
    return world


class Relay:
    """A guest that outlives failures: the end that has it after one is the next one's source."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.boots = self.rows = 0
        self._world: World | None = None
        self._last: End | None = None

    def source(self) -> End:
        """Return an end that owns a guest and runs it, booted if there is none."""
        last, self._last = self._last, None
        return last or self._new_world().boot()

    def survives(self, end: End | None, rows: int = 1) -> None:
        """Keep the end that has the guest after so many rows."""
        self._last = end
        self.rows += rows

    def _new_world(self) -> World:
        self.close()
        self.boots += 1
        directory = self._directory / str(self.boots)
        directory.mkdir()
        self._world = new_world(directory, directory / "memory")
        return self._world

    def close(self) -> None:
        if self._world is not None:
            self._world.__exit__(None, None, None)
            self._world = None


def until_seen(end: End, said: str) -> None:
    waiting.until(lambda: seen(end) == said, DEADLINE_S, f"it is {said}")


def judge(pair: Pair, becomes: Ends, others: Guards | None = None) -> None:
    """See that both ends are what the model says, from outside."""
    for end, said in zip(pair.ends(), (becomes.source, becomes.destination), strict=True):
        until_seen(end, said)
    source, destination = pair.ends()
    expected = [becomes.runs == SOURCE, becomes.runs == DESTINATION]
    waiting.until(
        lambda: [executes(source), executes(destination)] == expected, DEADLINE_S, "who runs"
    )
    waiting.until(
        lambda: proclocks.below_qemus(pair.world.disk) == locks(becomes), DEADLINE_S, "the locks"
    )
    if becomes.owner != NOBODY:
        owner = source if becomes.owner == SOURCE else destination
        assert [state for _, state in owner.leases()] == ["held"]
    if others is not None:
        judge_others(pair, becomes, others)


def judge_others(pair: Pair, becomes: Ends, others: Guards) -> None:
    """See that nobody else gets the disk while anything is left of the two, and then somebody."""
    spec = others.spec(pair.world.disk, plugin="file")
    other = others.start(spec)
    if locks(becomes):
        assert other.refused().code == 110
    else:
        other.ready().kill()


def mended(pair: Pair, becomes: Ends) -> End | None:
    """Mend it as the page says; returns the end whose guest then writes, None if there is none."""
    way = mend(becomes)
    if way is None:
        if becomes.source in LEAVING and pair.scene.owned:
            with pytest.raises(Refused):
                pair.cancel_out()
        return None
    for step in way:
        MENDS[step](pair)
    source, destination = pair.ends()
    last, other = (source, destination) if seen(source) in ALIVE else (destination, source)
    if not ended(other):  # it is told to stop, and does not hear that
        assert other.guard is not None
        other.guard.kill()
    if not executes(last):
        last.monitor.execute("cont")
    writes(pair.world.disk)
    judge_disk(last)
    return last


def quiet(scene: Ends) -> list[Row]:
    """Return what changes nothing in a scene, and needs nothing of its own to happen."""
    return [row for row in rows(scene)
            if row.kind != CHANGES and row.then in REAL and MONITOR not in row.then]  # fmt: skip


def loud(thens: Iterable[str], *, first: bool | None) -> list[Row]:
    """Return the others of `thens`; the `first` ones are of the way that a migration goes."""
    return [row for scene in scenes() for row in rows(scene)
            if row.then in thens and row not in quiet(scene)
            and first in {None, title(scene) in ON_THE_WAY}]  # fmt: skip


def name(row: Row) -> str:
    return f"{title(row.scene)}: {row.then}"
