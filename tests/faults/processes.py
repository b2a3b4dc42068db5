"""What do the fault tests do to processes, and see of them? By pid, of processes they started."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.support import insight, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 20


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a living process."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def stop(pid: int) -> None:
    """SIGSTOP a process, and see it stopped."""
    kill(pid, signal.SIGSTOP)
    waiting.until(lambda: state(pid) == "T", DEADLINE_S, "the process is stopped")


def state(pid: int) -> str:
    """Return the letter of the process's leader."""
    return insight.status(pid)["State"][0]


def thread_states(pid: int) -> str:
    """Return the letters of all threads of a process, sorted."""
    return "".join(sorted(_states(pid)))


def _states(pid: int) -> Iterator[str]:
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{tid}/stat", encoding="utf-8") as file:
                yield file.read().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue


def parent(pid: int) -> int:
    return int(insight.status(pid)["PPid"])
