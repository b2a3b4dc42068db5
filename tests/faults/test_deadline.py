"""Does the guest run no longer than its last proof allows, whatever becomes of its guard?

A stand-in plugin whose leases expire stops proving them. One second before
the deadline the guard fences; a guard that cannot is ended by the kernel's
timer, and the guest with it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.faults import firmware, processes
from tests.support import expiring, waiting
from tests.support.contender import Contender
from tests.support.guard import DEADLINE_S
from tests.support.manager import TERM_S, Manager, now

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.guard import Guard, Guards

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
MARGIN_S = 1.0
LATE_S = 1.0  # for a busy machine; the kernel's timer is late by 2 ms
LOST, FAILED, KILLED = 112, 111, -signal.SIGKILL


@pytest.fixture
def manager(guards: Guards, tmp_path: Path) -> Manager:
    return Manager(guards, tmp_path)


def status(guard: Guard) -> dict[str, object]:
    with guard.connect() as client:
        answer = client.execute("query-status", timeout_s=DEADLINE_S)
    assert isinstance(answer, dict)
    return answer


def deadline_s(guard: Guard) -> float:
    value = status(guard)["deadline_s"]
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize("mode", MODES)
def test_a_guest_that_its_lock_manager_has_ended_is_a_lost_lease(
    mode: str, manager: Manager
) -> None:
    guard = manager.start(mode=mode).ready()
    manager.becomes(expiring.GONE)
    processes.kill(guard.child_pid)
    ended = guard.wait()
    assert ended.code == LOST
    reason = "lease lost (cannot keep the lease: the lock manager has taken it away)"
    line = f"{reason}; pid {guard.child_pid} had ended with 137; exiting 112\n"
    assert ended.stderr == f"lock-supervisor: cannot keep guest guest running: {line}"


@pytest.mark.parametrize("how", [expiring.DOUBT, expiring.HANG, expiring.FAULT])
def test_a_guest_whose_leases_are_not_proven_is_fenced_before_the_deadline(
    how: str, manager: Manager
) -> None:
    guard = manager.start().ready()
    manager.wait_for("renew:well", 2)
    manager.becomes(how)
    waiting.gone(guard.child_pidfd, DEADLINE_S)
    dead_at = now()
    last_proof = manager.calls("renew:well")[-1][0]
    assert last_proof + TERM_S - MARGIN_S - 0.01 <= dead_at < last_proof + TERM_S
    ended = guard.wait()
    assert ended.code == LOST
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("lock-supervisor: ")]
    assert line.startswith("lock-supervisor: cannot keep guest guest running: lease lost (")
    proof = re.search(r"; last proof (.*) s ago, bound (.*) s\); fenced, pid (\d+) gone", line)
    assert proof is not None
    assert MARGIN_S <= float(proof[1]) < TERM_S
    assert (float(proof[2]), int(proof[3])) == (TERM_S, guard.child_pid)
    assert line.endswith("; exiting 112")
    assert ("it is not there" in line) == (how == expiring.DOUBT)
    assert manager.calls("release")[0][1] == [], "released while there was a process left"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stopped", [False, True], ids=["running guest", "stopped guest"])
def test_a_frozen_guard_is_ended_by_the_kernel_and_the_guest_with_it(
    mode: str, manager: Manager, *, stopped: bool
) -> None:
    command = firmware.argv(manager.disk)
    guard = manager.start(command, plugin="file+expiring", mode=mode).ready()
    manager.wait_for("renew:well")
    with Contender(guard.child_pid, manager.disk) as contender:
        processes.stop(guard.pid)
        if stopped:
            processes.stop(guard.child_pid)
        last_proof = manager.calls("renew:well")[-1][0]
        waiting.gone(guard.child_pidfd, DEADLINE_S)
        assert now() <= last_proof + TERM_S + LATE_S
        assert guard.wait().code == KILLED
        for won in contender.won():
            assert not won.alive, f"{won.path} free, guest {won.alive}"
            since_boot = won.at + time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
            assert since_boot >= last_proof + TERM_S - 0.01, "the guard was ended too early"
    assert manager.calls("release") == [], "a frozen guard releases nothing"


def test_errors_are_not_loss_until_the_deadline(manager: Manager) -> None:
    guard = manager.start().ready()
    manager.becomes(expiring.DOUBT)
    manager.wait_for("renew:doubt", 3)
    assert status(guard)["state"] == "running"
    manager.becomes(expiring.WELL)
    first_proof = manager.calls("renew:well")[0][0]
    waiting.until(
        lambda: now() > first_proof + TERM_S + LATE_S, DEADLINE_S, "past the first deadline"
    )
    answer = status(guard)
    assert answer["state"] == "running"
    assert TERM_S - MARGIN_S < deadline_s(guard) <= TERM_S


def test_a_lease_that_is_proven_lost_ends_the_guest_at_once(manager: Manager) -> None:
    guard = manager.start(term_s=60).ready()
    with guard.connect() as client:
        client.execute("query-status", timeout_s=DEADLINE_S)
        manager.becomes(expiring.LOST)
        waiting.gone(guard.child_pidfd, DEADLINE_S)
        assert now() < manager.calls("renew:lost")[0][0] + LATE_S
        event = client.next_event(time.monotonic() + DEADLINE_S)
    assert event["event"] == "LEASE_LOST"
    ended = guard.wait()
    assert ended.code == LOST
    assert "lease lost (cannot keep the lease: somebody else has it); fenced" in ended.stderr


def test_news_of_a_loss_ends_the_guest_at_once(manager: Manager) -> None:
    guard = manager.start(term_s=60).ready()
    told_at = now()
    manager.tells(b"gone")
    waiting.gone(guard.child_pidfd, DEADLINE_S)
    assert now() < told_at + LATE_S
    ended = guard.wait()
    assert ended.code == LOST
    assert "the lock manager says b'gone'" in ended.stderr


def test_the_deadline_counts_from_when_the_proof_was_asked_for(manager: Manager) -> None:
    guard = manager.start().ready()
    manager.becomes(expiring.SLOW)
    manager.wait_for("renew:slow", 2)
    assert 0 < deadline_s(guard) <= TERM_S - expiring.SLOW_S


def test_status_says_how_long_the_guest_may_run_on(manager: Manager, guards: Guards) -> None:
    guard = manager.start().ready()
    assert 0 < deadline_s(guard) <= TERM_S
    manager.becomes(expiring.DOUBT)
    manager.wait_for("renew:doubt", 2)
    first = deadline_s(guard)
    manager.wait_for("renew:doubt", 2)
    assert 0 < deadline_s(guard) < first
    manager.becomes(expiring.WELL)
    manager.wait_for("renew:well", 2)
    assert deadline_s(guard) > first
    assert status(guards.run(plugin="nop"))["deadline_s"] is None


def test_a_renewal_that_raises_what_it_should_not_is_tried_again(manager: Manager) -> None:
    guard = manager.start().ready()
    manager.becomes(expiring.FAULT)
    manager.wait_for("renew:fault", 2)
    manager.becomes(expiring.WELL)
    manager.wait_for("renew:well", 2)
    manager.becomes(expiring.FAULT)
    ended = guard.wait()
    assert ended.code == LOST
    assert "lease lost (our own fault: KeyError('fault'); last proof" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("how", "code"), [(expiring.DOUBT, FAILED), (expiring.LOST, LOST), (expiring.FAULT, 125)]
)
def test_a_guest_without_a_first_proof_never_runs(
    how: str, code: int, manager: Manager, tmp_path: Path
) -> None:
    manager.becomes(how)
    guard = manager.start(["/bin/busybox", "touch", str(tmp_path / "mark")])
    refusal = guard.refused()
    assert refusal.code == code
    assert not (tmp_path / "mark").exists()
    assert len(manager.calls("release")) == 1


def test_a_deadline_that_passes_before_go_is_no_go(manager: Manager, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(DEADLINE_S)
        mark = str(tmp_path / "mark")
        guard = manager.start(["/bin/busybox", "touch", mark], handshake_fd=theirs.fileno())
        assert ours.recv(64) == b"ACQUIRED\n"
        manager.becomes(expiring.DOUBT)
        refusal = guard.refused()
        assert refusal.code == LOST
        assert not os.path.exists(mark)


def test_an_orderly_end_releases_after_the_guests_death(manager: Manager) -> None:
    guard = manager.start().ready()
    processes.kill(guard.pid, signal.SIGTERM)
    assert guard.wait().code == 128 + signal.SIGTERM
    assert [rest for _at, rest in manager.calls("release")] == [[]]


def test_a_lock_manager_that_never_confirms_a_release_is_not_waited_for_for_ever(
    manager: Manager,
) -> None:
    guard = manager.start().ready()
    manager.becomes(expiring.STUCK)
    processes.kill(guard.child_pid)
    ended = guard.wait()
    assert ended.code == FAILED
    assert "cannot release leases of guest guest: no answer in 10 s" in ended.stderr


def test_a_release_that_is_refused_does_not_keep_the_others_held(
    manager: Manager, tmp_path: Path
) -> None:
    guard = manager.start().ready()
    with guard.connect() as client:
        client.execute("acquire-resource", {"path": str(tmp_path / "second")})
    manager.becomes(expiring.DENIED)
    processes.kill(guard.child_pid)
    ended = guard.wait()
    assert ended.code == FAILED
    assert "cannot release /" in ended.stderr
    assert ": the lock manager denies it" in ended.stderr
    assert len(manager.calls("release")) == 2
