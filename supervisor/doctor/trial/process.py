"""How does a trial start processes that end with it? Armed by the guard's own code.

It must not know what they are for.
"""

from __future__ import annotations

import os
import select
import signal

from supervisor.guard.fork import arm_parent_death

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


def tie_to(pidfd: int) -> None:
    """Have this process die with the one of `pidfd`, its parent, and reap what is left to it."""
    from _prctl import PR_SET_CHILD_SUBREAPER, prctl

    arm_parent_death(pidfd)
    prctl(PR_SET_CHILD_SUBREAPER, 1)


class Process:
    """A child that lives `life` and ends; dies with us, and at the latest with the context."""

    def __init__(self, life: Callable[[], object]) -> None:
        parent = os.pidfd_open(os.getpid())
        self.pid = os.fork()
        if self.pid == 0:
            try:
                arm_parent_death(parent)
                life()
            finally:
                os._exit(1)
        os.close(parent)
        self.pidfd = os.pidfd_open(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)

    def kill(self) -> None:
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


def readable(fd: int, timeout_s: float | None = None) -> bool:
    """Wait for it; a pidfd is readable when its process is dead."""
    return bool(select.select([fd], [], [], timeout_s)[0])
