"""What if `run --detach`, its guard or its terminal ends before the guest runs, or after?

Asked to end, the command has the guard give up and leaves nothing. SIGKILLed, at
whatever line, it leaves either nothing or a guard that needs it no more: the
guest comes up, recorded and under its lease, or is refused.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults import firmware, processes
from tests.support import insight, waiting
from tests.support.command import PROGRAM
from tests.support.guard import DEADLINE_S, descendants
from tests.support.locking import Locker, is_free, until_waited_for
from tests.support.stepping import Stepper
from tests.support.terminal import CONTROL_C, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Started
    from tests.support.detached import Detached

    Orphans = Callable[[], list[int]]

pytestmark = pytest.mark.usefixtures("as_root")

PR_SET_CHILD_SUBREAPER = 36
READ = 0  # read(2)
EXITS = (60, 231)  # exit(2), exit_group(2)
ENDLESS = 100_000  # system calls
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
IDLE = ("/bin/sleep", "1000000")
LAUNCH_S = 0.15  # longer than the command takes


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return firmware.image(tmp_path / "disk")


@pytest.fixture
def orphans() -> Iterator[Orphans]:
    """Have orphans become children of the test; list those that were not there before."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    before = set(descendants(os.getpid()))
    yield lambda: [pid for pid in descendants(os.getpid()) if pid not in before]
    assert prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def on_disk(disk: str, *options: str) -> list[str]:
    return [*options, "--no-discover", "--disk", disk, "--", *IDLE]


def assert_nothing_is_left(detached: Detached, disk: str) -> None:
    assert is_free(disk)
    assert not os.path.exists(detached.runtime_dir) or os.listdir(detached.runtime_dir) == []


@pytest.mark.parametrize("number", STOPPING)
def test_asked_to_end_while_the_guard_waits_it_leaves_nothing(
    number: int, detached: Detached, disk: str
) -> None:
    with Locker(disk):
        started = detached.start(*on_disk(disk, "--wait", "inf"))
        until_waited_for(disk)
        (guard,) = detached.guard_pids()
        gone = [os.pidfd_open(pid) for pid in (guard, *descendants(guard))]
        started.process.send_signal(number)
        result = started.end()
        for pidfd in gone:  # before the command came back
            waiting.gone(pidfd, 0)
            os.close(pidfd)
    assert (result.code, result.out) == (128 + number, "")
    assert result.err.endswith(f"signal {number} came first; nothing held\n")
    assert_nothing_is_left(detached, disk)


@pytest.mark.slow
def test_asked_to_end_at_any_moment_it_leaves_nothing_or_a_guest_that_it_has_reported(
    detached: Detached, disk: str, rounds: Callable[[int, int], int]
) -> None:
    count = rounds(20, 200)
    for turn in range(count):
        started = detached.start(*on_disk(disk))
        pause(LAUNCH_S * turn / count)
        started.process.send_signal(signal.SIGTERM)
        result = started.end()
        if result.code == 0:
            assert result.out == f"{detached.uuids()[0]}\n"
            detached.end()
        else:
            assert (abs(result.code) & 127, result.out) == (signal.SIGTERM, ""), result
            waiting.until(lambda: is_free(disk), 0, "nothing is held")


def test_a_guard_killed_before_the_guest_runs_is_said_with_its_signal(
    detached: Detached, disk: str
) -> None:
    with Locker(disk):
        started = detached.start(*on_disk(disk, "--name", "web1", "--wait", "inf"))
        until_waited_for(disk)
        processes.kill(detached.guard_pids()[0])
        result = started.end()
    assert (result.code, result.out) == (137, "")
    assert result.err == (
        "lock-supervisor: cannot start guest web1: its supervisor was killed by signal 9 before "
        f"the guest ran; see {detached.log}\n"
    )
    assert is_free(disk)


def test_a_terminal_interrupts_the_wait_and_nothing_that_runs(
    detached: Detached, disk: str, tmp_path: Path
) -> None:
    held = firmware.image(tmp_path / "held")
    with Terminal() as terminal, Locker(held):
        env = {**os.environ, "PS1": "> ", "TERM": "dumb",
               "LOCK_SUPERVISOR_RUNTIME_DIR": detached.runtime_dir}  # fmt: skip
        shell = subprocess.Popen(
            [*terminal.launcher.prefix(), "/bin/sh", "-i"], env=env, **terminal.streams
        )
        terminal.read_until(b"> ")
        run = shlex.join([PROGRAM, *detached.words()])
        terminal.type(f"{run} {shlex.join(on_disk(disk))}; echo code=$?\n".encode())
        terminal.read_until(b"code=0")
        (guard,) = detached.guard_pids()
        terminal.type(f"{run} --wait inf {shlex.join(on_disk(held))}; echo co''de=$?\n".encode())
        until_waited_for(held)
        terminal.type(CONTROL_C)
        terminal.read_until(b"nothing held")
        assert b"130" in terminal.read_until(b"> ")
        assert detached.guard_pids() == [guard]
        for pid in (guard, *descendants(guard)):
            assert insight.stat(pid)["tty_nr"] == 0
            links = insight.links(pid).values()
            assert [link for link in links if link.startswith(("/dev/pts", "/dev/tty"))] == []
        terminal.hang_up()
        shell.wait(DEADLINE_S)
    assert detached.guard_pids() == [guard]
    assert not is_free(disk)


def pause(seconds: float) -> None:
    """Let time pass."""
    end = time.monotonic() + seconds
    waiting.until(lambda: time.monotonic() >= end, DEADLINE_S, "the moment has come")


def assert_all_or_nothing(detached: Detached, disk: str, orphans: Orphans) -> bool:
    """Judge what a SIGKILLed command left, and end it; was there a guest?"""
    left = orphans()
    if left:
        guard = left[0]
        pid_file = f"{detached.runtime_dir}/{{}}/child.pid"
        waiting.until(
            lambda: any(os.path.exists(pid_file.format(uuid)) for uuid in detached.uuids()),
            DEADLINE_S,
            "the guest comes up",
        )
        assert detached.guard_pids() == [guard]
        assert not is_free(disk)
        waiting.until(
            lambda: insight.status(descendants(guard)[0])["Name"] == "sleep", DEADLINE_S, "it runs"
        )
        left = orphans()
        detached.end()
        for pid in left:  # ours to reap, the guest from the guard's death on
            os.waitpid(pid, 0)
    else:
        assert detached.uuids() == []
    assert is_free(disk)
    return bool(left)


class Held:
    """A command whose configuration does not come before the test says so."""

    def __init__(self, detached: Detached, disk: str, directory: Path) -> None:
        fifo = str(directory / "config")
        os.mkfifo(fifo)
        self._fd = os.open(fifo, os.O_RDWR)
        self.started: Started = detached.start(*on_disk(disk, "--config", fifo))
        self.pid = self.started.process.pid
        waiting.until(self._reads, DEADLINE_S, "it reads its configuration")
        self._fifo = fifo

    def _reads(self) -> bool:
        with open(f"/proc/{self.pid}/syscall", encoding="ascii") as file:
            words = file.read().split()
        if words[0] != str(READ):
            return False
        return os.readlink(f"/proc/{self.pid}/fd/{int(words[1], 16)}").endswith("/config")

    def let_go(self) -> None:
        os.close(self._fd)
        os.unlink(self._fifo)


@pytest.mark.slow
def test_killed_before_any_system_call_it_leaves_nothing_or_a_guest_that_runs(
    detached: Detached,
    disk: str,
    tmp_path: Path,
    orphans: Orphans,
    rounds: Callable[[int, int], int],
) -> None:
    """From the configuration on: the log, the pipe, the fork, the wait, the answer."""
    held = Held(detached, disk, tmp_path)
    with Stepper(held.pid) as stepper:
        held.let_go()
        total = next(n for n in range(1, ENDLESS) if stepper.next().number in EXITS)
        stepper.kill(held.started.pidfd)
    assert assert_all_or_nothing(detached, disk, orphans)
    seen = set()
    steps = rounds(40, total)
    for turn in range(steps):
        held = Held(detached, disk, tmp_path)
        with Stepper(held.pid) as stepper:
            held.let_go()
            for _ in range(turn * total // steps):
                stepper.next()
            stepper.kill(held.started.pidfd)
        seen.add(assert_all_or_nothing(detached, disk, orphans))
    assert seen == {True, False}


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_nothing_or_a_guest_that_runs(
    detached: Detached, disk: str, orphans: Orphans, rounds: Callable[[int, int], int]
) -> None:
    """Also inside system calls: while it waits for the guard's exec, say."""
    count = rounds(30, 300)
    for turn in range(count):
        started = detached.start(*on_disk(disk))
        pause(LAUNCH_S * turn / count)
        started.process.kill()
        started.process.wait(DEADLINE_S)
        assert_all_or_nothing(detached, disk, orphans)
