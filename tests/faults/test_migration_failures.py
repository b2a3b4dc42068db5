"""Is there one owner at most, whatever happens to a migration, and does it end as the page says?

Rows of docs/migration-failures.md are done to a guest that writes, and judged by
pidfds, by QEMU's own word whether it runs, by the kernel's list of locks, by
whether anybody else gets the disk, and by what is on it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from supervisor.guard.lifecycle import State
from tests.faults.migrating import (
    DAEMON,
    FINISHES,
    MONITOR,
    ON_THE_WAY,
    Relay,
    judge,
    loud,
    mended,
    name,
    quiet,
    until_seen,
)
from tests.support.driving import Driver
from tests.support.failing import REAL, Pair, executes
from tests.support.failures import CHANGES, REFUSED, Row, title
from tests.support.outcomes import DESTINATION, MOVING, Ends, scenes
from tests.support.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Guards
    from tests.support.moving import End

pytestmark = pytest.mark.slow

OTHER_MACHINE = "QEMU refuses: the destination is another machine"


@pytest.fixture(scope="module")
def relay(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]
) -> Iterator[Relay]:
    require("qemu-system-x86_64")
    made = Relay(tmp_path_factory.mktemp("relay"))
    yield made
    made.close()


def do(pair: Pair, row: Row, others: Guards) -> End | None:
    """Do a row, judge it, and mend it; returns the end whose guest then writes."""
    REAL[row.then](pair)
    judge(pair, row.becomes, others)
    return mended(pair, row.becomes)


def relayed(relay: Relay, row: Row, others: Guards) -> None:
    machine = "q35" if row.then == OTHER_MACHINE else "pc"
    last = do(Pair(relay.source(), row.scene, machine=machine), row, others)
    deaf = MONITOR in row.then and row.kind != CHANGES
    relay.survives(None if deaf else last)


def unmoved(relay: Relay, scene: Ends, others: Guards) -> None:
    """Do all that changes nothing in a scene, one thing after the other."""
    pair = Pair(relay.source(), scene)
    judge(pair, scene, others)
    for row in quiet(scene):
        # A source that is gone does not even refuse.
        with pytest.raises((Refused, OSError)) if row.kind == REFUSED else nullcontext():
            REAL[row.then](pair)
        judge(pair, scene)
    relay.survives(mended(pair, scene), len(quiet(scene)))


@pytest.mark.parametrize("scene", [x for x in scenes() if title(x) in ON_THE_WAY], ids=title)
def test_what_changes_nothing(relay: Relay, guards: Guards, scene: Ends) -> None:
    unmoved(relay, scene, guards)


@pytest.mark.long
@pytest.mark.parametrize("scene", [x for x in scenes() if title(x) not in ON_THE_WAY], ids=title)
def test_what_changes_nothing_elsewhere(relay: Relay, guards: Guards, scene: Ends) -> None:
    unmoved(relay, scene, guards)


@pytest.mark.parametrize("row", loud(REAL, first=True), ids=name)
def test_what_ends_or_moves_an_end(relay: Relay, guards: Guards, row: Row) -> None:
    relayed(relay, row, guards)


@pytest.mark.long
@pytest.mark.parametrize("row", loud(REAL, first=False), ids=name)
def test_what_ends_or_moves_an_end_elsewhere(relay: Relay, guards: Guards, row: Row) -> None:
    relayed(relay, row, guards)


def succeeded(relay: Relay, row: Row, others: Guards, kept: Path) -> None:
    """Have a daemon bring a pair to the scene and be killed, and another go on."""
    source = relay.source()
    with Driver(source.world, source, kept) as driver:
        pair = Pair(source, row.scene, driver)
    pair.hang_up()  # the kernel, had the daemon had it
    pair.without_driver(kept.read_text())
    with Driver(source.world, source, kept) as successor:
        if row.then == FINISHES and row.scene.source == State.MIGRATING_OUT:
            pair.migrate()
        elif row.scene.memory == MOVING:
            source.monitor.execute("migrate_cancel")
            until_seen(pair.destination, row.becomes.destination)
            pair.migration_is_over()
        successor.do(DAEMON[row.then])
    if row.becomes.runs == DESTINATION and not executes(pair.destination):
        pair.destination.monitor.execute("cont")
    judge(pair, row.becomes, others)
    relay.survives(mended(pair, row.becomes))


@pytest.mark.parametrize("row", loud(DAEMON, first=True), ids=name)
def test_a_daemon_that_is_killed_has_a_successor(
    relay: Relay, guards: Guards, row: Row, tmp_path: Path
) -> None:
    succeeded(relay, row, guards, tmp_path / "cookie")


@pytest.mark.long
@pytest.mark.parametrize("row", loud(DAEMON, first=False), ids=name)
def test_a_daemon_that_is_killed_has_a_successor_elsewhere(
    relay: Relay, guards: Guards, row: Row, tmp_path: Path
) -> None:
    succeeded(relay, row, guards, tmp_path / "cookie")


def test_how_many_were_done(relay: Relay, measured: Callable[[str, str], None]) -> None:
    assert relay.rows > relay.boots
    words = f"{relay.rows} rows done to {relay.boots} guests, each as the page says"
    measured("migration-failures", words)
