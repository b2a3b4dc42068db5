"""What if somebody wants the launch to stop while the guard waits for leases, or has just begun?

128 + the signal's number, nothing held, nothing left, and the guest never ran.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.faults import firmware, processes
from tests.support import locking, waiting
from tests.support.guard import DEADLINE_S, descendants

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.guard import Guard, Guards

pytestmark = pytest.mark.usefixtures("as_root")

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FOREVER = float("inf")
HELD = 110
LAUNCH_S = 0.06  # longer than a launch takes


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return firmware.image(tmp_path / "disk")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


def start(guards: Guards, disk: str, mark: Path, mode: str, wait_s: float) -> Guard:
    """Start a guard whose guest leaves a mark."""
    spec = guards.spec(disk, containment=mode, wait_s=wait_s)
    return guards.start(spec, ["/bin/busybox", "touch", str(mark)])


def waits_for_lock(path: str) -> bool:
    """Does anybody sleep until a lock on `path` is free? proc_locks(5) shows that by an arrow."""
    wanted = f":{os.stat(path).st_ino} "
    with open("/proc/locks", encoding="ascii") as file:
        return any("->" in line and wanted in line for line in file)


def assert_nothing_is_left(guards: Guards, disk: str, mark: Path) -> None:
    assert locking.is_free(disk)
    assert not waits_for_lock(disk)
    assert not mark.exists()
    assert not os.path.exists(guards.runtime_dir) or os.listdir(guards.runtime_dir) == []
    assert guards.left() == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_while_the_guard_waits_for_a_lease(
    number: int, mode: str, guards: Guards, disk: str, mark: Path
) -> None:
    with locking.Locker(disk):
        guard = start(guards, disk, mark, mode, FOREVER)
        waiting.until(lambda: waits_for_lock(disk), DEADLINE_S, "the guard waits")
        processes.kill(guard.pid, number)
        refusal = guard.refused()
        assert refusal.code == 128 + number
        assert f"signal {number} came first; nothing held" in refusal.stderr
        assert not waits_for_lock(disk)
    assert_nothing_is_left(guards, disk, mark)


@pytest.mark.parametrize("mode", MODES)
def test_a_guard_killed_while_it_waits_leaves_nobody_waiting(
    mode: str, guards: Guards, disk: str, mark: Path
) -> None:
    with locking.Locker(disk):
        guard = start(guards, disk, mark, mode, FOREVER)
        waiting.until(lambda: waits_for_lock(disk), DEADLINE_S, "the guard waits")
        pidfds = [os.pidfd_open(pid) for pid in descendants(guard.pid)]
        assert pidfds
        processes.kill(guard.pid)
        for pidfd in pidfds:
            waiting.gone(pidfd, DEADLINE_S)
            os.close(pidfd)
        guard.wait()
        assert not waits_for_lock(disk)
    assert locking.is_free(disk)
    assert not mark.exists()


def pause(seconds: float) -> None:
    """Let time pass."""
    end = time.monotonic() + seconds
    waiting.until(lambda: time.monotonic() >= end, DEADLINE_S, "the moment has come")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_signal_at_any_moment_of_the_launch(
    mode: str, guards: Guards, disk: str, mark: Path, rounds: Callable[[int, int], int]
) -> None:
    """Whatever the moment: the signal's code and nothing left, or a guest that was asked to end."""
    count = rounds(20, 200)
    for turn in range(count):
        guard = guards.start(guards.spec(disk, containment=mode))
        pause(LAUNCH_S * turn / count)
        processes.kill(guard.pid, signal.SIGTERM)
        ended = guard.wait()
        assert ended.code in (128 + signal.SIGTERM, -signal.SIGTERM), ended
        assert_nothing_is_left(guards, disk, mark)
        guards.end(guard)


def test_a_wait_that_is_too_short_says_who_still_holds(
    guards: Guards, disk: str, mark: Path
) -> None:
    holder = guards.run(disk, name="first")
    began = time.monotonic()
    refusal = start(guards, disk, mark, Containment.AUTO, 0.5).refused()
    took_s = time.monotonic() - began
    assert refusal.code == HELD
    assert "after 0.5 s" in refusal.stderr
    assert "held" in refusal.stderr
    assert "guest first (" in refusal.stderr
    assert f"supervisor pid {holder.pid}" in refusal.stderr
    assert 0.5 <= took_s < DEADLINE_S / 2
    assert not mark.exists()
    assert not locking.is_free(disk)


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_that_is_long_enough_starts_the_guest_after_the_others_death(
    mode: str, guards: Guards, disk: str, mark: Path
) -> None:
    holder = guards.run(disk)
    guard = start(guards, disk, mark, mode, FOREVER)
    waiting.until(lambda: waits_for_lock(disk), DEADLINE_S, "the guard waits")
    assert not mark.exists()
    processes.kill(holder.pid)
    assert guard.wait().code == 0
    assert mark.exists()
    waiting.gone(holder.child_pidfd, 0)
