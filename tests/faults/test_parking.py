"""Is a guest parked when it loses its leases, and does it go on only when they are back?

A stand-in lock manager, played by the test, and a real guest that writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.faults import processes
from tests.support import expiring
from tests.support.manager import Manager
from tests.support.parkable import DEADLINE_S, Parkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Guards

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
TERM_S = 20.0
LOST = 112


@pytest.fixture
def manager(guards: Guards, tmp_path: Path, require: Callable[[str], str]) -> Manager:
    require("qemu-system-x86_64")
    return Manager(guards, tmp_path)


@pytest.fixture(params=MODES)
def guest(request: pytest.FixtureRequest, guards: Guards, manager: Manager) -> Iterator[Parkable]:
    spec = manager.spec("claiming", request.param, TERM_S, on_lockfailure="pause")
    with Parkable(guards, spec, manager.disk) as started:
        yield started


def test_a_guest_that_loses_its_leases_is_parked_and_goes_on_when_they_are_back(
    guest: Parkable, manager: Manager
) -> None:
    uuid = guest.guard.spec.uuid
    assert manager.claims.read(guest.disk) == (1, uuid)
    manager.becomes(expiring.STALE)
    lost = guest.control.event("LEASE_LOST", DEADLINE_S)
    assert "it is not there" in lost["data"]["reason"]
    status = guest.parked()
    assert status["state"] == "parked"
    assert set(processes.thread_states(guest.guard.child_pid)) == {"T"}
    assert 0 < status["deadline_s"] <= 10 * TERM_S
    written = guest.written()
    manager.wait_for("reacquire", 2)
    assert guest.written() == written
    manager.becomes(expiring.WELL)
    guest.control.event("GUEST_RESUMED", DEADLINE_S)
    guest.writes()
    assert guest.status()["state"] == "running"
    print(status, guest.status())
