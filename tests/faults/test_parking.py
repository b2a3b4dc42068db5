"""Is a guest parked when it loses its leases, and does it go on only when they are back?

A stand-in lock manager, played by the test, and a real guest that writes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from supervisor.guard.parking import BOUND_TERMS
from supervisor.spec import Containment, render
from tests.faults import processes
from tests.support import expiring, proclocks, waiting
from tests.support.claiming import NOBODY
from tests.support.manager import Manager, now
from tests.support.measured import milliseconds
from tests.support.parkable import DEADLINE_S, Parkable
from tests.support.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from supervisor.spec import GuestSpec
    from tests.support.guard import Guards

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
TERM_S = 20.0
LOST = 112


@pytest.fixture
def manager(guards: Guards, tmp_path: Path, require: Callable[[str], str]) -> Manager:
    require("qemu-system-x86_64")
    return Manager(guards, tmp_path)


@pytest.fixture
def mode() -> str:
    return Containment.AUTO


@pytest.fixture
def guest(mode: str, guards: Guards, manager: Manager) -> Iterator[Parkable]:
    spec = manager.spec("claiming", mode, TERM_S, on_lockfailure="pause")
    with Parkable(guards, spec, manager.disk) as started:
        yield started


@pytest.mark.parametrize("mode", MODES)
def test_a_guest_that_loses_its_leases_is_parked_and_goes_on_when_they_are_back(
    mode: str, guest: Parkable, manager: Manager, measured: Callable[[str, str], None]
) -> None:
    uuid = guest.guard.spec.uuid
    assert manager.claims.read(guest.disk) == (1, uuid)
    manager.becomes(expiring.STALE)
    lost = guest.control.event("LEASE_LOST", DEADLINE_S)
    assert "it is not there" in lost["data"]["reason"]
    began = time.monotonic()
    status = guest.parked()
    took = time.monotonic() - began
    measured("parking", f"a loss to a parked guest, {mode}: {milliseconds([took])}")
    assert status["state"] == "parked"
    assert set(processes.thread_states(guest.guard.child_pid)) == {"T"}
    assert 0 < status["deadline_s"] <= BOUND_TERMS * TERM_S
    assert status["parked"].endswith(f"{guest.disk}@1")
    written = guest.written()
    manager.wait_for("reacquire", 2)
    assert guest.written() == written
    leases = guest.status()["leases"]
    assert [lease["state"] for lease in leases] == ["unknown"]  # it cannot be reached
    manager.becomes(expiring.WELL)
    guest.control.event("GUEST_RESUMED", DEADLINE_S)
    guest.writes()
    status = guest.status()
    assert (status["state"], status["parked"]) == ("running", None)
    assert 0 < status["deadline_s"] <= TERM_S
    assert [lease["state"] for lease in status["leases"]] == ["held"]


def test_a_loss_that_is_told_parks_at_once_and_again(guest: Parkable, manager: Manager) -> None:
    for _ in range(2):
        manager.becomes(expiring.DOUBT)
        manager.tells(b"gone")
        guest.parked()
        manager.becomes(expiring.WELL)
        guest.control.event("GUEST_RESUMED", DEADLINE_S)
        guest.writes()


def test_a_guest_that_somebody_had_stopped_stays_so(guest: Parkable, manager: Manager) -> None:
    guest.stranger.execute("stop")
    manager.becomes(expiring.STALE)
    guest.parked()
    manager.becomes(expiring.WELL)
    guest.control.event("GUEST_RESUMED", DEADLINE_S)
    status = guest.stranger.execute("query-status")
    assert isinstance(status, dict)
    assert (guest.status()["state"], status["running"]) == ("running", False)
    guest.stranger.execute("cont")
    guest.writes()


def test_a_pause_gives_the_leases_up_and_a_resume_has_them_back(
    guest: Parkable, manager: Manager
) -> None:
    state = guest.pause()
    assert manager.claims.read(guest.disk) == (1, NOBODY)
    status = guest.status()
    assert (status["state"], status["deadline_s"]) == ("parked", None)
    assert status["parked"] == state
    written = guest.written()
    with pytest.raises(Refused, match="not the state of the pause"):
        guest.control.execute("resume-guest", {"state": state + "0"})
    assert guest.control.execute("resume-guest", {"state": state}) == {}
    assert manager.claims.read(guest.disk) == (2, guest.guard.spec.uuid)
    guest.writes()
    assert guest.written() > written
    with pytest.raises(Refused, match="it is running, not parked"):
        guest.control.execute("resume-guest", {"state": state})


def test_a_lease_that_somebody_has_after_a_pause_ends_the_guest(
    guest: Parkable, manager: Manager
) -> None:
    state, written = guest.pause(), guest.written()
    assert manager.claims.claim(guest.disk, "host2") == 2
    with pytest.raises(Refused, match="generation 2 by now; it is ended") as refused:
        guest.control.execute("resume-guest", {"state": state})
    assert (refused.value.wire_class, refused.value.fields["exit_code"]) == ("LeaseLost", LOST)
    assert guest.guard.wait(DEADLINE_S).code == LOST
    assert manager.claims.read(guest.disk) == (2, "host2")
    assert guest.written() == written


def test_a_part_whose_leases_are_not_known_again_keeps_them(
    guards: Guards, manager: Manager
) -> None:
    spec = manager.spec("file+claiming", term_s=TERM_S, on_lockfailure="pause")
    with Parkable(guards, spec, manager.disk) as guest:
        manager.becomes(expiring.STALE)
        guest.parked()
        assert proclocks.bytes_locked(guest.disk) == [("WRITE", 0, "0")]
        manager.becomes(expiring.WELL)
        guest.control.event("GUEST_RESUMED", DEADLINE_S)
        guest.writes()
        assert guest.pause().endswith(":leases-kept")


def test_nothing_is_loaded_at_the_moment_of_a_loss(guards: Guards, manager: Manager) -> None:
    def traced(spec: GuestSpec) -> list[str]:
        python, *words = render(spec)
        return [python, "-X", "importtime", *words]

    spec = manager.spec("claiming", term_s=TERM_S, on_lockfailure="pause")
    with Parkable(guards, spec, manager.disk, argv_of=traced) as guest:
        guest.status()
        loaded = guest.guard.stderr()
        assert "supervisor.guard.parking" in loaded
        manager.becomes(expiring.STALE)
        guest.parked()
        waiting.until(lambda: guest.guard.stderr() != loaded, DEADLINE_S, "it cannot give back")
        manager.becomes(expiring.WELL)
        guest.control.event("GUEST_RESUMED", DEADLINE_S)
        said = guest.guard.stderr().removeprefix(loaded)
    assert said == "lock-supervisor: cannot reach the lock manager: it is not there\n"


@pytest.mark.long
def test_a_guest_whose_leases_are_not_back_at_the_bound_is_killed(
    guards: Guards, manager: Manager
) -> None:
    spec = manager.spec("claiming", term_s=TERM_S / 4, on_lockfailure="pause")
    with Parkable(guards, spec, manager.disk) as guest:
        manager.becomes(expiring.DOUBT)
        announced = guest.parked()["deadline_s"] + now()
        written = guest.written()
        waiting.gone(guest.guard.child_pidfd, BOUND_TERMS * TERM_S)
        assert announced - 0.1 <= now() <= announced + 1
        found = guest.guard.wait(DEADLINE_S)
        assert (found.code, guest.written()) == (LOST, written)
        assert "it was parked, and they are not back after 50 s" in found.stderr
