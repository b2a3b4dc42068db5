"""How often did each signal arrive? A command that writes down its signals, for guards to run.

It takes the signals that its launcher does not ignore, and ends by SIGKILL
alone. Knows nothing of the supervisor.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from tests.support import waiting

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 30.0
_SCRIPT = """
import os, signal, sys
left_out = {signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT, signal.SIGCHLD}
counted = {s for s in signal.valid_signals() - left_out if signal.getsignal(s) != signal.SIG_IGN}
signal.pthread_sigmask(signal.SIG_BLOCK, counted)
fd = os.open(os.fsencode(sys.argv[1]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, b"0\\n")
while True:
    os.write(fd, b"%d\\n" % signal.sigwaitinfo(counted).si_signo)
"""


class Counting:
    """`command` counts into the file `path`; `arrived` are the signals in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.command = [sys.executable, "-I", "-S", "-c", _SCRIPT, os.fspath(path)]

    def _numbers(self) -> list[int]:
        try:
            return [int(line) for line in self._path.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def arrived(self) -> list[int]:
        return self._numbers()[1:]

    def ready(self) -> None:
        """Wait until it counts."""
        waiting.until(self._numbers, DEADLINE_S, "the command counts signals")

    def wait_for(self, number: int, times: int = 1) -> list[int]:
        """Wait until signal `number` has arrived so often; returns all that have."""
        why = f"{signal.Signals(number)!r} arrives"
        waiting.until(lambda: self.arrived().count(number) >= times, DEADLINE_S, why)
        return self.arrived()
