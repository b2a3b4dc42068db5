"""Is there one owner at most, whatever happens to a migration, and does it end as the page says?

Every row of docs/migration.md is done to a guest that writes, and judged by the
states that the guards publish, by QEMU's own word whether it runs, and by the
kernel's list of locks.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest

from supervisor.guard.lifecycle import PUBLIC_STATE
from tests.faults.room import fill, tmpfs
from tests.support import proclocks, waiting
from tests.support.guest.checker import check, describe
from tests.support.moving import DEADLINE_S
from tests.support.qemu import GuestError
from tests.support.sources import read
from tests.support.wire import Closed, Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.moving import End, World

pytestmark = pytest.mark.slow

PAGE = "docs/migration.md"
MARK = "<!-- outcomes:"
WRITES = 20  # blocks, which tell that a guest runs


class Row(NamedTuple):
    """One row of the page, as it is written there."""

    stage: str
    then: str
    source: str
    destination: str
    owner: str
    mend: str


def rows() -> list[Row]:
    table = read(PAGE).partition(MARK)[2].partition("\n\n")[0].splitlines()[3:]
    return [Row(*(cell.strip() for cell in line.split("|")[1:-1])) for line in table]


class Pair:
    """The two ends of one migration, at some stage of it."""

    def __init__(self, world: World, stage: str) -> None:
        self.world = world
        self.source, self.destination = world.boot(), world.receive()
        self.cookie = self.source.prepare()
        if stage != "migrating-out, incoming":
            self.source.send_to(self.destination)
            self.source.until("migrated")
            self.destination.until_qemu("paused")
        if stage == "migrated, running":
            self.destination.complete_in(self.cookie)
            self.destination.monitor.execute("cont")
        assert f"{self.source.state()}, {self.destination.state()}" == stage

    def ends(self) -> tuple[End, End]:
        return self.source, self.destination


def kill_supervisor(end: End) -> None:
    assert end.guard is not None
    signal.pidfd_send_signal(end.guard.pidfd, signal.SIGKILL)


def kill_qemu(end: End) -> None:
    signal.pidfd_send_signal(end.child_pidfd, signal.SIGKILL)


def cont(end: End) -> None:
    with suppress(GuestError, ConnectionError):  # ended before it has answered
        end.monitor.execute("cont")


def fail_to_migrate(pair: Pair) -> None:
    monitor = pair.source.monitor
    monitor.execute("migrate", uri=f"unix:{pair.world.disk}.missing")
    waiting.until(
        lambda: "failed" in str(monitor.execute("query-migrate")), DEADLINE_S, "it has failed"
    )


def refused(step: Callable[[], None]) -> None:
    with pytest.raises(Refused):
        step()


THEN: dict[str, Callable[[Pair], None]] = {
    "SIGKILL of the source's supervisor": lambda pair: kill_supervisor(pair.source),
    "SIGKILL of the source's QEMU": lambda pair: kill_qemu(pair.source),
    "SIGKILL of the destination's supervisor": lambda pair: kill_supervisor(pair.destination),
    "SIGKILL of the destination's QEMU": lambda pair: kill_qemu(pair.destination),
    "QEMU cannot migrate": fail_to_migrate,
    "`complete-in`": lambda pair: pair.destination.complete_in(pair.cookie, 0.0),
    "`complete-out`": lambda pair: pair.source.complete_out(),
    "`complete-in --cancel`": lambda pair: pair.destination.cancel_in(),
    "`complete-out --cancel`": lambda pair: pair.source.cancel_out(),
    "`cont` on the source": lambda pair: cont(pair.source),
    "`cont` on the destination": lambda pair: cont(pair.destination),
}


def ended(end: End) -> str:
    """Return how an end is gone, "" while it is there."""
    assert end.guard is not None
    code = end.process.poll()
    if code is None:
        return ""
    waiting.gone(end.child_pidfd, DEADLINE_S)
    return "gone" if code < 0 else f"gone, {code}"


def seen(end: End) -> str:
    """Return what the page says of an end."""
    try:
        return ended(end) or end.state()
    except (Closed, OSError):
        return ended(end)


def until_seen(end: End, said: str) -> None:
    waiting.until(lambda: seen(end) == said, DEADLINE_S, f"it is {said}")


def runs(end: End) -> bool:
    return not ended(end) and end.qemu() == "running"


def owners(pair: Pair) -> list[str]:
    """Return which ends may run their guest, by what they hold."""
    found = []
    for name, end in (("source", pair.source), ("destination", pair.destination)):
        if seen(end) in {"running", "migrating-out"}:
            assert [state for _, state in end.leases()] == ["held"]
            found.append(name)
    return found


def newest(disk: str) -> int:
    return max((boot.last for boot in check(disk).boots), default=0)


def writes(disk: str) -> None:
    """Wait until a guest writes to the disk."""
    before = newest(disk)
    waiting.until(lambda: newest(disk) > before + WRITES, DEADLINE_S, "the guest writes")


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("cancelled", [False, True])
def test_runtime_directories_that_are_full_hold_nothing_up(
    world: World, tmp_path: Path, *, cancelled: bool
) -> None:
    with tmpfs(tmp_path, "size=256k") as path:
        for number, guards in enumerate(world.hosts):
            guards.runtime_dir = f"{path}/{number}"
        pair = Pair(world, "migrating-out, incoming")
        with open(f"{path}/filler", "wb", buffering=0) as filler:
            fill(filler.fileno())
        source, destination = pair.ends()
        source.send_to(destination)
        if cancelled:
            destination.cancel_in()
            source.cancel_out()
        else:
            destination.complete_in(pair.cookie)
            source.complete_out()
        last = source if cancelled else destination
        last.monitor.execute("cont")
        writes(world.disk)
        waiting.until(lambda: last.leases() == [("exclusive", "held")], DEADLINE_S, "it is alone")
        assert last.guard is not None
        assert "No space left on device" in last.guard.stderr()
        last.guard.kill()
        report = check(world.disk)
        assert report.clean, describe(report)


def test_the_page_knows_every_stage_and_its_words_are_the_codes() -> None:
    assert {row.then for row in rows()} == set(THEN)
    assert {row.stage for row in rows()} == {
        "migrating-out, incoming", "migrated, incoming", "migrated, running",
    }  # fmt: skip
    words = {row.source for row in rows()} | {row.destination for row in rows()}
    states = {word for word in words if not word.startswith("gone")}
    assert states <= set(PUBLIC_STATE.values())
    assert {row.owner for row in rows()} == {"source", "destination", "none"}


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.stage}: {row.then}")
def test_it_ends_as_the_page_says(row: Row, world: World) -> None:
    pair = Pair(world, row.stage)
    try:
        THEN[row.then](pair)
    except Refused:
        assert f"{row.source}, {row.destination}" == row.stage, "refused, and nothing has changed"
    for end, said in zip(pair.ends(), (row.source, row.destination), strict=True):
        until_seen(end, said)
    assert owners(pair) == ([] if row.owner == "none" else [row.owner])
    assert [runs(end) for end in pair.ends()].count(True) <= 1
    if row.owner != "none":
        assert [lock for lock in proclocks.below_qemus(world.disk) if lock[1] == 0]
    mended(pair, row)


def mended(pair: Pair, row: Row) -> None:
    """Mend it as the page says; then one guest writes, or none can."""
    source, destination = pair.ends()
    if row.owner == "none" and not row.mend:
        if not ended(source):
            refused(source.cancel_out)
        return
    if row.mend == "`complete-in`":
        destination.complete_in(pair.cookie)
    elif row.mend:
        assert row.mend == "`complete-out --cancel`"
        if not ended(destination):
            destination.cancel_in()
        source.cancel_out()
    (owner,) = owners(pair)
    last = {"source": source, "destination": destination}[owner]
    if last.qemu() != "running":
        last.monitor.execute("cont")
    writes(pair.world.disk)
    assert last.guard is not None
    last.guard.kill()
    if "`cont`" not in row.then:
        report = check(pair.world.disk)
        assert report.clean, describe(report)
