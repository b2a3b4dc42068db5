"""Does a guest behave at a terminal as if nothing stood in front of it? Real ptys, a real shell."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING, Self

import pytest

from supervisor import rundir
from supervisor.spec import render
from tests.support import insight, prefixes, waiting
from tests.support.counting import Counting
from tests.support.guard import DEADLINE_S
from tests.support.terminal import (
    CONTROL_A,
    CONTROL_BACKSLASH,
    CONTROL_C,
    CONTROL_Z,
    ENTER,
    Terminal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.support.guard import Guards

KEYS = {CONTROL_C: signal.SIGINT, CONTROL_BACKSLASH: signal.SIGQUIT}
PATIENT = {"stop_timeout_s": 1000.0}
QEMU = ["-accel", "tcg", "-nodefaults", "-S"]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as opened:
        yield opened


@pytest.fixture
def qemu(require: Callable[[str], str]) -> str:
    return require("qemu-system-x86_64")


def in_front(guards: Guards, way: str, command: Sequence[str]) -> tuple[str, list[str]]:
    """Return the runtime directory of a guest-to-be, and the argv that starts it."""
    mode = "auto" if way == prefixes.FRONT_DOOR else way
    spec = guards.spec(plugin="nop", containment=mode, **PATIENT)
    argv_of = prefixes.front_door if way == prefixes.FRONT_DOOR else render
    return os.path.join(spec.runtime_dir, spec.uuid), [*argv_of(spec), *command]


class Shell:
    """A shell that leads the session of `terminal`, and ends with the test."""

    def __init__(self, terminal: Terminal, argv: Sequence[str]) -> None:
        env = {**os.environ, "PS1": "prompt> ", "TERM": "dumb", "HISTFILE": ""}
        self._process = subprocess.Popen(
            [*terminal.launcher.prefix(), *argv], env=env, **terminal.streams
        )

    def __enter__(self) -> None:
        """Nothing to open."""

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


class Running:
    """What the published files of a guest say: guard and child; both are ended with the test."""

    def __init__(self, path: str) -> None:
        waiting.until(lambda: self._number(path, rundir.CHILD_PID), DEADLINE_S, "the guest runs")
        self.guard_pid = self._number(path, rundir.SUPERVISOR_PID)
        self.child_pid = self._number(path, rundir.CHILD_PID)
        self.pidfd = os.pidfd_open(self.guard_pid)

    def _number(self, path: str, name: str) -> int:
        try:
            with open(os.path.join(path, name), encoding="ascii") as file:
                return int(file.read() or 0)
        except FileNotFoundError:
            return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            waiting.gone(self.pidfd, DEADLINE_S)
            os.close(self.pidfd)


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_qemu_without_graphics_is_typed_at(
    guards: Guards, terminal: Terminal, qemu: str, way: str
) -> None:
    """Its terminal is a serial line and a monitor in turn, for as long as nothing names either."""
    command = [qemu, "-accel", "tcg", "-machine", "pc", "-S", "-nographic", "-net", "none"]
    guard = prefixes.start(
        guards, way, command, launcher=terminal.launcher, **terminal.streams
    ).ready()
    terminal.until_raw()
    terminal.type(CONTROL_A + b"c")
    terminal.read_until(b"(qemu) ")
    terminal.type(b"info status" + ENTER)
    terminal.read_until(b"VM status: paused")
    terminal.read_until(b"(qemu) ")
    terminal.type(CONTROL_A + b"x")
    assert guard.wait().code == 0


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_a_shell_stops_qemu_and_brings_it_back(
    guards: Guards, terminal: Terminal, qemu: str, way: str
) -> None:
    path, argv = in_front(guards, way, [qemu, *QEMU, "-display", "none", "-monitor", "stdio"])
    with Shell(terminal, ["/bin/bash", "--norc", "-i"]):
        terminal.read_until(b"prompt> ")
        terminal.type(shlex.join(argv).encode() + ENTER)
        terminal.read_until(b"(qemu) ")
        with Running(path) as running:
            for _ in range(2):
                terminal.type(CONTROL_Z)
                terminal.read_until(b"Stopped")
                waiting.until(lambda: is_stopped(running), DEADLINE_S, "both are stopped")
                terminal.read_until(b"prompt> ")
                terminal.type(b"fg" + ENTER)
                terminal.read_until(b"lock-supervisor" if way == prefixes.FRONT_DOOR else b"guard")
                terminal.type(b"info status" + ENTER)
                terminal.read_until(b"VM status: paused")
            terminal.type(b"quit" + ENTER)
            terminal.read_until(b"prompt> ")
            waiting.gone(running.pidfd, DEADLINE_S)
            terminal.type(b"echo status=$?" + ENTER)
            terminal.read_until(b"\nstatus=0")


def is_stopped(running: Running) -> bool:
    pids = (running.guard_pid, running.child_pid)
    return {insight.status(pid)["State"] for pid in pids} == {"T (stopped)"}


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_the_terminal_arrives_once(
    guards: Guards, terminal: Terminal, tmp_path: Path, way: str, key: bytes
) -> None:
    counting = Counting(tmp_path / "counted")
    guard = prefixes.start(
        guards,
        way,
        counting.command,
        launcher=terminal.launcher,
        fields=PATIENT,
        **terminal.streams,
    ).ready()
    counting.ready()
    # Stopped, the guard cannot forward it before the guest has counted it.
    os.kill(guard.pid, signal.SIGSTOP)
    terminal.type(key)
    counting.wait_for(KEYS[key])
    os.kill(guard.pid, signal.SIGCONT)
    os.kill(guard.pid, signal.SIGUSR1)
    assert counting.wait_for(signal.SIGUSR1) == [KEYS[key], signal.SIGUSR1]


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_control_c_under_a_shell_arrives_once_each_time(
    guards: Guards, terminal: Terminal, tmp_path: Path, way: str
) -> None:
    counting = Counting(tmp_path / "counted")
    path, argv = in_front(guards, way, counting.command)
    with Shell(terminal, ["/bin/bash", "--norc", "-i"]):
        terminal.read_until(b"prompt> ")
        terminal.type(shlex.join(argv).encode() + ENTER)
        with Running(path) as running:
            counting.ready()
            for times, number in enumerate((signal.SIGUSR1, signal.SIGUSR2), 1):
                terminal.type(CONTROL_C)
                counting.wait_for(signal.SIGINT, times)
                os.kill(running.guard_pid, number)
                counting.wait_for(number)
            assert counting.arrived() == [
                signal.SIGINT, signal.SIGUSR1, signal.SIGINT, signal.SIGUSR2,
            ]  # fmt: skip


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_a_new_window_size_is_told_once(
    guards: Guards, terminal: Terminal, tmp_path: Path, way: str
) -> None:
    counting = Counting(tmp_path / "counted")
    guard = prefixes.start(
        guards, way, counting.command, launcher=terminal.launcher, **terminal.streams
    ).ready()
    counting.ready()
    terminal.resize(50, 132)
    counting.wait_for(signal.SIGWINCH)
    os.kill(guard.pid, signal.SIGUSR1)
    assert counting.wait_for(signal.SIGUSR1) == [signal.SIGWINCH, signal.SIGUSR1]
    assert os.get_terminal_size(terminal.streams["stdin"]) == (132, 50)


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_a_guard_that_leads_the_session_passes_the_hangup_on(
    guards: Guards, terminal: Terminal, tmp_path: Path, way: str
) -> None:
    counting = Counting(tmp_path / "counted")
    guard = prefixes.start(
        guards,
        way,
        counting.command,
        launcher=terminal.launcher,
        fields=PATIENT,
        **terminal.streams,
    ).ready()
    counting.ready()
    terminal.hang_up()
    counting.wait_for(signal.SIGHUP)
    os.kill(guard.pid, signal.SIGUSR1)
    assert counting.wait_for(signal.SIGUSR1) == [signal.SIGHUP, signal.SIGUSR1]


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_the_hangup_of_a_shells_terminal_arrives_once(
    guards: Guards, terminal: Terminal, tmp_path: Path, way: str
) -> None:
    counting = Counting(tmp_path / "counted")
    path, argv = in_front(guards, way, counting.command)
    # A shell without job control: the kernel tells the foreground group when it dies of it.
    with Shell(terminal, ["/bin/sh", "-c", f"{shlex.join(argv)}; :"]), Running(path) as running:
        counting.ready()
        terminal.hang_up()
        counting.wait_for(signal.SIGHUP)
        os.kill(running.guard_pid, signal.SIGUSR1)
        assert counting.wait_for(signal.SIGUSR1) == [signal.SIGHUP, signal.SIGUSR1]
