"""Does the guest hear what is sent to the guard, and the caller how the guest ended?"""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support import insight, prefixes, waiting
from tests.support.counting import Counting
from tests.support.guard import DEADLINE_S, descendants
from tests.support.launcher import Launcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.support.guard import Guard, Guards

PATIENT = {"stop_timeout_s": 1000.0}
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FORWARDED = (*STOPPING, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
AT_ONCE = 8
STATUSES = {0, 1, 2, 3, 64, 100, 110, 111, 112, 125, 126, 127, 128, 129, 137, 143, 254, 255}
# What a process survives without a handler: it is ignored, or stops.
HARMLESS = {
    signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH,
    signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
}  # fmt: skip
DEADLY = sorted(signal.valid_signals() - HARMLESS)


def name(number: int) -> str:
    return signal.Signals(number).name


def counted(guards: Guards, way: str, counting: Counting, **fields: object) -> Guard:
    guard = prefixes.start(guards, way, counting.command, fields={**PATIENT, **fields}).ready()
    counting.ready()
    return guard


def batches(values: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut into as many as may run at once: processes start side by side."""
    for first in range(0, len(values), AT_ONCE):
        yield values[first : first + AT_ONCE]


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_every_exit_status_is_the_guests(
    guards: Guards, way: str, rounds: Callable[[int, int], int]
) -> None:
    step = rounds(16 if way == prefixes.FRONT_DOOR else 8, 1)
    for statuses in batches(sorted({*range(0, 256, step), *STATUSES})):
        started = {
            status: prefixes.start(guards, way, ["/bin/busybox", "sh", "-c", f"exit {status}"])
            for status in statuses
        }
        ended = {status: guard.wait().code for status, guard in started.items()}
        assert ended == {status: status for status in statuses}


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_death_by_any_signal_is_128_and_its_number(
    guards: Guards, way: str, rounds: Callable[[int, int], int]
) -> None:
    step = rounds(8 if way == prefixes.FRONT_DOOR else 1, 1)
    for numbers in batches(DEADLY[::step]):
        started = {
            number: prefixes.start(
                guards, way, ["/bin/sh", "-c", f"ulimit -c 0; kill -{number} $$"]
            )
            for number in numbers
        }
        ended = {number: guard.wait().code for number, guard in started.items()}
        assert ended == {number: 128 + number for number in numbers}


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("number", FORWARDED, ids=name)
def test_a_signal_to_the_guard_reaches_the_guest_once(
    guards: Guards, tmp_path: Path, way: str, number: int
) -> None:
    counting = Counting(tmp_path / "counted")
    guard = counted(guards, way, counting)
    last = signal.SIGUSR2 if number == signal.SIGUSR1 else signal.SIGUSR1
    os.kill(guard.pid, number)
    counting.wait_for(number)
    os.kill(guard.pid, last)
    assert counting.wait_for(last) == [number, last]
    assert state(guard) == ("stopping" if number in STOPPING else "running")


def state(guard: Guard) -> object:
    with guard.connect() as control:
        status = control.execute("query-status")
    assert isinstance(status, dict)
    return status["state"]


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("number", FORWARDED, ids=name)
def test_a_signal_that_the_launcher_ignores_stays_ignored(
    guards: Guards, tmp_path: Path, way: str, number: int
) -> None:
    counting = Counting(tmp_path / "counted")
    launcher = Launcher(ignored=[number])
    guard = prefixes.start(guards, way, counting.command, launcher=launcher, fields=PATIENT)
    guard.ready()
    counting.ready()
    last = signal.SIGUSR2 if number == signal.SIGUSR1 else signal.SIGUSR1
    os.kill(guard.pid, number)
    os.kill(guard.pid, last)
    assert counting.wait_for(last) == [last]
    assert number in insight.signals(guard.child_pid, "SigIgn")
    assert state(guard) == "running"


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_a_signal_that_the_launcher_blocks_waits_for_the_guest(guards: Guards, way: str) -> None:
    guard = prefixes.idling(guards, way, Launcher(blocked=[signal.SIGTERM]), stop_timeout_s=1000.0)
    os.kill(guard.pid, signal.SIGTERM)
    waiting.until(
        lambda: signal.SIGTERM in insight.signals(guard.child_pid, "ShdPnd"),
        DEADLINE_S,
        "the signal waits",
    )
    assert insight.status(guard.child_pid)["State"].startswith("S")


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("status", [0, 7])
def test_a_launcher_that_ignores_its_children_hears_of_the_guests_end(
    guards: Guards, way: str, status: int
) -> None:
    launcher = Launcher(ignored=[signal.SIGCHLD])
    command = ["/bin/busybox", "sh", "-c", f"exit {status}"]
    assert prefixes.start(guards, way, command, launcher=launcher).wait().code == status


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("number", STOPPING, ids=name)
def test_a_guest_that_will_not_stop_is_killed_in_time(
    guards: Guards, tmp_path: Path, way: str, number: int
) -> None:
    counting = Counting(tmp_path / "counted")
    guard = counted(guards, way, counting, stop_timeout_s=0.3)
    os.kill(guard.pid, number)
    assert guard.wait(5.0).code == 128 + signal.SIGKILL
    assert counting.arrived() == [number]


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_asked_twice_a_guest_has_no_more_time(guards: Guards, tmp_path: Path, way: str) -> None:
    counting = Counting(tmp_path / "counted")
    guard = counted(guards, way, counting, stop_timeout_s=1.0)
    os.kill(guard.pid, signal.SIGTERM)
    counting.wait_for(signal.SIGTERM)
    waiting.until(lambda: is_dead_asked_again(guard), 5.0, "the guest is killed")
    assert guard.wait().code == 128 + signal.SIGKILL


def is_dead_asked_again(guard: Guard) -> bool:
    if guard.process.poll() is None:
        os.kill(guard.pid, signal.SIGTERM)
        return False
    return True


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_a_guest_may_take_longer_than_poll_can_wait(
    guards: Guards, tmp_path: Path, way: str
) -> None:
    counting = Counting(tmp_path / "counted")
    guard = counted(guards, way, counting, stop_timeout_s=1e12)
    os.kill(guard.pid, signal.SIGTERM)
    os.kill(guard.pid, signal.SIGUSR1)
    counting.wait_for(signal.SIGUSR1)
    assert state(guard) == "stopping"


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("number", [*FORWARDED, signal.SIGALRM], ids=name)
def test_a_signal_that_waits_for_exec_is_the_guests(guards: Guards, way: str, number: int) -> None:
    """As a ^C in that instant is: it ends what the launcher started, by that signal."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fields = {"handshake_fd": theirs.fileno()}
        guard = prefixes.start(guards, way, fields=fields, pass_fds=[theirs.fileno()])
        waiting.readable(ours.fileno(), DEADLINE_S, "the guard says ACQUIRED")
        os.kill(descendants(guard.pid)[-1], number)
        ours.recv(64)
        ours.send(b"GO\n")
        assert guard.refused().code == 128 + number
