"""How does a test start guests that stay when the command has come back? And end them all.

A detached guest is no child of the test: it is known by its runtime directory.
Judges nothing.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from supervisor import finding, rundir
from tests.support import waiting
from tests.support.guard import descendants

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.command import Command, Result, Started
    from tests.support.guard import Guards

DEADLINE_S = 30.0


class Detached:
    """`run --detach` with one log for all, in the runtime directory of the `guards` fixture."""

    def __init__(self, command: Command, runtime_dir: str, log: Path) -> None:
        self._command = command
        self.runtime_dir = runtime_dir
        self.log = log

    def __call__(self, *args: str, pass_fds: Sequence[int] = ()) -> Result:
        """Run the command to its end."""
        return self._command(*self.words(), *args, pass_fds=pass_fds)

    def start(self, *args: str, pass_fds: Sequence[int] = ()) -> Started:
        return self._command.start(*self.words(), *args, pass_fds=pass_fds)

    def words(self) -> list[str]:
        return ["run", "--detach", "--log", str(self.log)]

    def up(self, *args: str, pass_fds: Sequence[int] = ()) -> tuple[str, int, int]:
        """Start a guest that has to come up; returns its uuid, its guard's pid and its own."""
        result = self(*args, pass_fds=pass_fds)
        assert (result.code, result.err) == (0, ""), result
        uuid = result.out.removesuffix("\n")
        return uuid, self._number(uuid, rundir.SUPERVISOR_PID), self._number(uuid, rundir.CHILD_PID)

    def said(self) -> str:
        """Return what is in the log but for the lines that say who starts."""
        lines = self.log.read_text(errors="surrogateescape").splitlines(keepends=True)
        return "".join(line for line in lines if " lock-supervisor: starting guest " not in line)

    def guard_pids(self) -> list[int]:
        """Return the pids of the guards that live."""
        return [self._number(uuid, rundir.SUPERVISOR_PID) for uuid in self.uuids()]

    def uuids(self) -> list[str]:
        return [guest.uuid for guest in finding.guarded(self.runtime_dir)]

    def end(self) -> None:
        """SIGKILL every guard, and see it and its guest dead."""
        for pid in self.guard_pids():
            pidfds = [os.pidfd_open(each) for each in (pid, *descendants(pid))]
            signal.pidfd_send_signal(pidfds[0], signal.SIGKILL)
            for pidfd in pidfds:
                waiting.gone(pidfd, DEADLINE_S)
                os.close(pidfd)

    def _number(self, uuid: str, name: str) -> int:
        def read() -> int:
            try:
                with open(f"{self.runtime_dir}/{uuid}/{name}", encoding="ascii") as file:
                    return int(file.read())
            except (FileNotFoundError, ValueError):  # not yet
                return 0

        return waiting.until(read, DEADLINE_S, f"{name} of {uuid} is there")


@pytest.fixture
def detached(command: Command, guards: Guards, tmp_path: Path) -> Iterator[Detached]:
    """Give a test guests that outlive the command that starts them, but not the test."""
    started = Detached(command, guards.runtime_dir, tmp_path / "log")
    yield started
    started.end()
