"""Does the holder's death free its leases, and never before? For every plugin that excludes."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from supervisor import rundir
from tests.conformance.setups import DEATH
from tests.support import waiting
from tests.support.guard import DEADLINE_S

if TYPE_CHECKING:
    from tests.conformance.setups import Setup
    from tests.support.guard import Guard, Guards

pytestmark = pytest.mark.asks(DEATH)

IGNORES_SIGTERM = ("/bin/sh", "-c", "trap '' TERM; exec sleep 1000000")
ENDS = {
    "guard-SIGKILL": ("guard", signal.SIGKILL),
    "guard-SIGTERM": ("guard", signal.SIGTERM),
    "guest-SIGKILL": ("guest", signal.SIGKILL),
    "guest-SIGTERM": ("guest", signal.SIGTERM),
}


def start_waiter(guards: Guards, disk: str) -> Guard:
    """Start a guard that waits for the disk, and return when it is about to ask for it."""
    waiter = guards.start(guards.spec(disk, wait_s=DEADLINE_S))
    published = os.path.join(waiter.path, rundir.GUEST_JSON)
    waiting.until(lambda: os.path.exists(published), DEADLINE_S, "the waiter is known by name")
    return waiter


def is_dead(guard: Guard) -> bool:
    return bool(select.select([guard.child_pidfd], [], [], 0)[0])


@pytest.mark.parametrize("mode", Mode.ALL)
@pytest.mark.parametrize("end", ENDS)
def test_a_waiter_gets_the_lease_when_the_guest_is_dead(
    manager: Setup, guards: Guards, end: str, mode: str
) -> None:
    disk = manager.disk("disk")
    holder = guards.run((mode, disk))
    waiter = start_waiter(guards, disk)
    who, number = ENDS[end]
    assert not is_dead(holder)
    target = holder.pidfd if who == "guard" else holder.child_pidfd
    signal.pidfd_send_signal(target, number)
    line = waiter.line()
    dead = is_dead(holder)
    assert line.startswith("READY "), line
    assert dead, "the waiter runs while the holder's guest is alive"
    assert manager.held(disk) == [Mode.EXCLUSIVE]


def test_a_stopped_guest_keeps_its_lease_until_it_is_killed(manager: Setup, guards: Guards) -> None:
    disk = manager.disk("disk")
    holder = guards.run(disk)
    signal.pidfd_send_signal(holder.child_pidfd, signal.SIGSTOP)
    assert guards.refusal(disk).code == 110
    signal.pidfd_send_signal(holder.pidfd, signal.SIGKILL)
    guards.start(guards.spec(disk, wait_s=DEADLINE_S)).ready()
    assert is_dead(holder)


def test_a_guest_that_will_not_end_keeps_its_lease_through_the_stop_timeout(
    manager: Setup, guards: Guards
) -> None:
    disk = manager.disk("disk")
    holder = guards.run(disk, command=IGNORES_SIGTERM, stop_timeout_s=0.5)
    waiter = start_waiter(guards, disk)
    signal.pidfd_send_signal(holder.pidfd, signal.SIGTERM)
    waiter.ready()
    assert is_dead(holder)
    assert holder.wait().code == 128 + signal.SIGKILL


def test_a_refused_wait_names_the_holder_and_leaves_it_alone(
    manager: Setup, guards: Guards
) -> None:
    disk = manager.disk("disk")
    holder = guards.run(disk)
    refusal = guards.refusal(disk, wait_s=0.3)
    assert refusal.code == 110
    assert f"by guest {holder.spec.name} ({holder.spec.uuid})" in refusal.stderr
    assert manager.held(disk) == [Mode.EXCLUSIVE]
    assert not is_dead(holder)
