"""Is there one owner at most, whatever ends during a migration between two hosts with sanlock?

Two daemons are two hosts; the machines have no processor and no disk. Judged by QEMU's own word
whether it runs, and by what each daemon says that it has given.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from tests.support import sanlock_facts as facts
from tests.support import waiting
from tests.support.guard import DEADLINE_S
from tests.support.idle_ends import HELD, Pair, refused
from tests.support.qemu import GuestError
from tests.support.wire import Closed, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.idle_ends import End
    from tests.support.sanlock import Daemon

pytestmark = pytest.mark.slow

FAILED, LOST = 111, 112
HOST_DEATH_S = 150.0  # 8 io_timeouts and 60 s, and a busy machine


class SanlockPair(Pair):
    """Each end with the daemon of its host."""

    def __init__(self, directory: Path, here: Daemon, there: Daemon) -> None:
        self.here, self.there = here, there
        super().__init__(directory, here.lease_to, there.lease_to)

    def held(self, daemon: Daemon) -> list[int | None]:
        """Return the versions at which a host has the disks."""
        return [held.version for disk in self.disks for held in daemon.held(disk)]

    def runs_alone(self, end: End, daemon: Daemon) -> None:
        """See that an end owns and runs, and that nobody else has anything."""
        assert self.runs(end)
        assert len([version for version in self.held(daemon) if version]) == len(self.disks)
        other = self.here if daemon is self.there else self.there
        assert self.held(other) == []

    def until_free(self, daemon: Daemon) -> None:
        for disk in self.disks:
            daemon.until_free(disk)


@pytest.fixture
def pair(
    tmp_path: Path, require: Callable[[str], str], sanlock_host: Daemon, sanlock_neighbour: Daemon
) -> Iterator[SanlockPair]:
    require("qemu-system-x86_64")
    made = SanlockPair(tmp_path, sanlock_host, sanlock_neighbour)
    yield made
    made.close()


@pytest.fixture
def own(
    tmp_path: Path, require: Callable[[str], str], sanlock_hosts: Callable[[int], Daemon]
) -> Iterator[SanlockPair]:
    """Give a test a pair whose daemons it may hurt."""
    require("qemu-system-x86_64")
    one, two = sanlock_hosts(1), sanlock_hosts(2)
    one.join()
    two.join()
    made = SanlockPair(tmp_path, one, two)
    yield made
    made.close()


def test_until_the_source_has_handed_over_nothing_moves(pair: SanlockPair) -> None:
    assert refused(lambda: pair.complete_in(0.0)) in {HELD, FAILED}
    assert pair.held(pair.there) == []
    pair.source.guard.kill()
    pair.until_free(pair.here)
    assert refused(lambda: pair.complete_in(0.0)) in {HELD, FAILED}
    assert pair.held(pair.there) == []


def test_a_destination_that_dies_waiting_leaves_the_guest_to_its_source(pair: SanlockPair) -> None:
    pair.migrate()
    before = pair.held(pair.here)
    assert refused(pair.cancel_out) == HELD
    pair.target.guard.kill()
    pair.cancel_out()
    assert pair.held(pair.here) == before, "it has had them throughout"
    pair.runs_alone(pair.source, pair.here)


def test_a_destination_that_has_owned_is_followed_by_nobody(pair: SanlockPair) -> None:
    pair.migrate()
    pair.complete_in()
    pair.target.guard.kill()
    pair.until_free(pair.there)
    assert refused(pair.cancel_out) == FAILED
    assert pair.source.order("complete-migrate-out") == {}
    assert pair.source.guard.wait().code == 0
    assert pair.held(pair.here) == pair.held(pair.there) == []


@pytest.mark.parametrize("ends", [False, True])
def test_a_source_that_is_gone_is_not_needed(pair: SanlockPair, *, ends: bool) -> None:
    pair.migrate()
    if ends:
        assert pair.source.order("complete-migrate-out") == {}
    else:
        pair.source.guard.kill()
    pair.until_free(pair.here)
    pair.complete_in()
    pair.runs_alone(pair.target, pair.there)


def test_who_has_had_the_disk_in_between_is_found_out(pair: SanlockPair) -> None:
    pair.migrate()
    pair.source.guard.kill()
    pair.until_free(pair.here)
    stranger = pair.guards[0].start(pair.guards[0].spec(pair.disks[1], name="web2")).ready()
    assert refused(lambda: pair.complete_in(0.0)) == HELD
    stranger.kill()
    pair.here.until_free(pair.disks[1])
    assert refused(lambda: pair.complete_in(0.0)) == LOST
    assert pair.target.state() == "incoming"
    pair.cancel_in()
    pair.until_free(pair.there)


def test_a_cookie_is_good_for_one_attempt(pair: SanlockPair) -> None:
    pair.cancel_out()
    old = pair.cookie
    pair.cookie = pair.source.order("prepare-migrate", uri=pair.uri)["cookie"]
    pair.migrate()
    new, pair.cookie = pair.cookie, old
    assert refused(lambda: pair.complete_in(0.0)) == FAILED
    pair.cookie = new
    pair.complete_in()
    pair.runs_alone(pair.target, pair.there)


def test_a_destination_that_runs_too_early_takes_the_guest_from_both(pair: SanlockPair) -> None:
    pair.migrate()
    with suppress(GuestError, ConnectionError):  # ended before it has answered
        pair.target.monitor.execute("cont")
    assert pair.target.guard.wait().code == LOST
    waiting.until(lambda: refused(pair.cancel_out) == FAILED, DEADLINE_S, "the source knows it")


def test_a_sharer_goes_away_again_while_a_disk_is_awaited(
    pair: SanlockPair, tmp_path: Path
) -> None:
    """As it is between the steps of a hand-over; here it lasts."""
    disk = tmp_path / "three"
    disk.touch()
    word = f"destination of {facts.LOCKSPACE}:{facts.lease_name(str(disk))}"
    destination = pair.there.hold(word)
    assert pair.guards[0].refusal((Mode.SHARED, str(disk))).code == HELD
    assert pair.here.held(str(disk)) == []
    destination.kill()
    destination.wait(DEADLINE_S)
    pair.there.until_free(word)
    sharer = pair.guards[0].start(pair.guards[0].spec((Mode.SHARED, str(disk)))).ready()
    assert [held.version for held in pair.here.held(str(disk))] == [None]
    sharer.kill()


@pytest.mark.long
def test_a_sources_daemon_that_stands_still_holds_its_disks_until_it_goes_on(
    own: SanlockPair,
) -> None:
    own.migrate()
    own.here.stop()
    assert refused(lambda: own.complete_in(0.0)) == HELD
    assert own.source.guard.wait().code in {LOST, 137, -9}
    assert refused(lambda: own.complete_in(0.0)) == HELD
    own.here.cont()
    own.complete_in()
    own.runs_alone(own.target, own.there)


@pytest.mark.long
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_destinations_daemon_that_ends_leaves_the_guest_to_its_source(
    own: SanlockPair, how: str
) -> None:
    own.migrate()
    getattr(own.there, how)()
    with pytest.raises((Refused, Closed, OSError)):
        own.complete_in(0.0)
    assert own.target.guard.wait().code != 0
    own.there.kill()
    assert refused(own.cancel_out) == HELD, "its ticket is good as long as its host may live"

    def is_back() -> bool:
        with suppress(Refused):
            own.cancel_out()
        return own.source.state() == "running"

    waiting.until(is_back, HOST_DEATH_S, "the source may have it again")
    assert own.source.leases() == {(Mode.EXCLUSIVE, "held")}


@pytest.mark.long
def test_a_sources_daemon_that_dies_takes_the_guest_with_it(own: SanlockPair) -> None:
    own.migrate()
    own.here.kill()
    assert own.source.guard.wait().code != 0
    assert refused(lambda: own.complete_in(0.0)) == HELD
    assert own.target.state() == "incoming"
