"""How does a test use `lock-supervisor` as a person does? Runs a command, or starts one of many.

Every process that it starts is reaped with the fixture. Judges nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import waiting
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from tests.support.guard import Guard, Guards

PROGRAM = f"{CHECKOUT}/bin/lock-supervisor"
DEADLINE_S = 30.0


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code (-n: died of signal n) and what it wrote."""

    code: int
    out: str
    err: str


class Started:
    """A command that runs beside the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pidfd = os.pidfd_open(process.pid)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def has_open(self, link: str) -> bool:
        """Has it a descriptor whose link in /proc begins so?"""
        directory = f"/proc/{self.process.pid}/fd"
        for fd in os.listdir(directory):
            try:
                if os.readlink(f"{directory}/{fd}").startswith(link):
                    return True
            except FileNotFoundError:
                continue
        return False

    def sleeps(self) -> bool:
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "S"

    def end(self, deadline_s: float = DEADLINE_S) -> Result:
        """Wait until it ends by itself."""
        out, err = self.process.communicate(timeout=deadline_s)
        return Result(self.process.returncode, out, err)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)
        os.close(self.pidfd)


class Command:
    """`lock-supervisor` with the runtime directory of the `guards` fixture."""

    def __init__(self, runtime_dir: str, cwd: str | None = None) -> None:
        self.cwd = cwd
        self.env = {**os.environ, "LOCK_SUPERVISOR_RUNTIME_DIR": runtime_dir}
        self.started: list[Started] = []

    def __call__(
        self, *args: str, deadline_s: float = DEADLINE_S, pass_fds: Sequence[int] = (), **env: str
    ) -> Result:
        """Run one command to its end."""
        started = self.start(*args, pass_fds=pass_fds, **env)
        try:
            return started.end(deadline_s)
        finally:
            started.process.kill()

    def start(self, *args: str, pass_fds: Sequence[int] = (), **env: str) -> Started:
        """Start one command, and let it run."""
        process = subprocess.Popen(
            [PROGRAM, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            cwd=self.cwd,
            env={**self.env, **env},
            encoding="utf-8",
            errors="surrogateescape",
        )
        self.started.append(Started(process))
        return self.started[-1]

    def json(self, name: str, *args: str) -> Any:
        """Return what a command with --json prints; it must succeed."""
        result = self(name, "--json", *args)
        assert (result.code, result.err) == (0, ""), result
        return json.loads(result.out)

    def guest(self, *args: str) -> tuple[Started, int]:
        """Start `run` with these arguments; returns when READY, with the guest's pid."""
        started, announcement = self.guest_to_be(*args)
        return started, ready(announcement)

    def guest_to_be(self, *args: str) -> tuple[Started, IO[bytes]]:
        """Start `run` with these arguments; what it announces is for `ready`, which closes it."""
        read_fd, write_fd = os.pipe()
        started = self.start("run", "--ready-fd", str(write_fd), *args, pass_fds=[write_fd])
        os.close(write_fd)
        return started, open(read_fd, "rb")

    def reap(self) -> None:
        for started in self.started:
            started.kill()


def ready(announcement: IO[bytes]) -> int:
    """Wait until `run` says READY; returns the guest's pid."""
    with announcement:
        waiting.readable(announcement.fileno(), DEADLINE_S, "run says READY or ERROR")
        line = announcement.readline()
    assert line.startswith(b"READY child="), line
    return int(line.split()[1].removeprefix(b"child="))


def freeze(guard: Guard) -> None:
    """SIGSTOP a guard, and return when all of it stands still."""
    signal.pidfd_send_signal(guard.pidfd, signal.SIGSTOP)

    def stands() -> bool:
        tasks = f"/proc/{guard.pid}/task"
        return all(_state(f"{tasks}/{task}/stat") == "T" for task in os.listdir(tasks))

    waiting.until(stands, DEADLINE_S, "every thread of the guard is stopped")


def _state(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.fixture
def command(guards: Guards) -> Iterator[Command]:
    """Give a test the command line, for the runtime directory of its guards."""
    made = Command(guards.runtime_dir)
    yield made
    made.reap()
