"""What is known of one start of the soak? Its claims, what was done to it, how it may end.

Knows the test's own deeds, pidfds, and the one line of --ready-fd; asks the
product nothing. Does not choose.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lockplugins.contract import Mode
from supervisor import exitcodes
from tests.faults import processes
from tests.faults.soak.judge import Life
from tests.support.guard import descendants

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.guard import Guard
    from tests.support.qemu import Monitor

FOREVER = float("inf")
CHECKED_CLEAN = "clean: one guest at a time"
CHECKED_EMPTY = "no guest has written to this image"


class Kind:
    """What a guest is: its command."""

    REAL = "real"  # a Linux under QEMU that writes without pause
    IDLE = "idle"  # a QEMU without a machine
    WRITER = "writer"  # a process of the host that writes as the real one does
    HOLDER = "holder"  # a process that has its disks open
    CHECK = "check"  # the checker, under a shared lease
    ALL = (REAL, IDLE, WRITER, HOLDER, CHECK)
    QEMU = (REAL, IDLE)
    END_ALONE = (WRITER, CHECK)


class Hurt:
    """What was done to a run that may end it."""

    KILL_GUARD = "kill guard"
    KILL_GUEST = "kill guest"
    KILL_INIT = "kill init"
    TERM = "term guard"
    STOP = "stop"
    KILL = "kill"
    FREEZE = "freeze"


_KILLED = exitcodes.SIGNAL_BASE + signal.SIGKILL
_TERMINATED = exitcodes.SIGNAL_BASE + signal.SIGTERM
_ASKED = {0, _TERMINATED, _KILLED}
_CODES: dict[str, set[int]] = {
    Hurt.KILL_GUARD: {-signal.SIGKILL},
    Hurt.KILL_GUEST: {_KILLED},
    Hurt.KILL_INIT: {_KILLED},
    Hurt.TERM: {*_ASKED, -signal.SIGTERM},  # before the front door became the guard
    Hurt.STOP: _ASKED,
    Hurt.KILL: {-signal.SIGKILL},
    Hurt.FREEZE: set(),
}


@dataclass(eq=False)
class Claim:
    """One lease that a run asked for; `sure` from its answer until it is given back."""

    file: str
    name: str
    mode: str
    began: float = field(default_factory=time.monotonic)
    ended: float = FOREVER
    sure: bool = False
    node: str | None = None  # plugged into QEMU as this

    def contradicts(self, other: Claim) -> bool:
        """May the two not be held at once?"""
        return self.file == other.file and Mode.EXCLUSIVE in {self.mode, other.mode}

    def overlaps(self, began: float) -> bool:
        """May it have been held between `began` and now?"""
        return self.ended >= began


class Run:
    """One guard and its guest; `line` is what it told --ready-fd, None before that."""

    def __init__(
        self, guard: Guard, kind: str, claims: Iterable[Claim], monitor: Monitor | None
    ) -> None:
        self.guard = guard
        self.kind = kind
        self.claims = list(claims)
        self.monitor = monitor
        self.began = time.monotonic()
        self.ended = FOREVER
        self.line: str | None = None
        self.up = False
        self.life: Life | None = None
        self.hurts: dict[str, float] = {}
        self.frozen: dict[int, float] = {}
        self.disturbed = self.began
        self.changes = 0  # attaches and detaches begun and ended: odd while one is on its way

    def __str__(self) -> str:
        return f"{self.guard.spec.name} ({self.guard.pid})"

    def hear(self) -> bool:
        """Take what the guard says to --ready-fd, if it has said it."""
        if self.line is not None or not _readable(self.guard._ready_fd):
            return False
        self.line = self.guard.line()
        self.up = self.line.startswith("READY child=")
        self.disturbed = time.monotonic()
        if self.up:
            self._meet(int(self.line.split()[1].removeprefix("child=")))
            for claim in self.claims:
                claim.sure = True
        return True

    def _meet(self, pid: int) -> None:
        """Open the guest, if it has not ended yet and its number become another's."""
        try:
            pidfd, life = os.pidfd_open(pid), Life(pid)
        except (FileNotFoundError, ProcessLookupError):
            return
        if pid not in descendants(os.getpid()):
            os.close(pidfd)
            life.close()
            return
        self.guard.child_pid, self.guard.child_pidfd, self.life = pid, pidfd, life
        self.guard._guest_pidfds.append(pidfd)

    def signs_of_life(self) -> list[str]:
        """Say which threads of the guest may still run."""
        if self.life is None or self.guest_is_gone():
            return []
        return self.life.signs()

    def guest_is_gone(self) -> bool:
        pidfd = self.guard.child_pidfd
        return self.ended < FOREVER or pidfd < 0 or _readable(pidfd)

    def guard_is_gone(self) -> bool:
        return self.ended < FOREVER or _readable(self.guard.pidfd)

    def is_over(self) -> bool:
        return self.guard_is_gone() and self.guest_is_gone()

    def awaited(self) -> list[int]:
        """Return the descriptors whose readability is news."""
        fds = [self.guard._ready_fd] if self.line is None else []
        fds += [] if self.guard_is_gone() else [self.guard.pidfd]
        return fds + ([] if self.guest_is_gone() else [self.guard.child_pidfd])

    def calm(self, since: float = FOREVER) -> bool:
        """Is it up, and has nobody done anything to it, or not after `since`?"""
        return (
            self.up
            and self.ended == FOREVER
            and not (set(self.hurts) - {Hurt.FREEZE} or self.frozen)
            and self.kind not in Kind.END_ALONE
            and self.disturbed < since
        )

    def hurt(self, how: str) -> None:
        self.hurts[how] = self.disturbed = time.monotonic()

    def freeze(self, pidfd: int, thaw_at: float) -> None:
        """SIGSTOP the process of `pidfd`, which is this object's to close now."""
        self.hurt(Hurt.FREEZE)
        self.frozen[pidfd] = thaw_at
        _send(pidfd, signal.SIGSTOP)

    def thaw(self, now: float = FOREVER) -> None:
        """SIGCONT what is due."""
        for pidfd in [fd for fd, at in self.frozen.items() if at <= now]:
            _send(pidfd, signal.SIGCONT)
            os.close(pidfd)
            del self.frozen[pidfd]
            self.disturbed = time.monotonic()

    def init(self) -> int:
        """Return the pid of the guest's init, 0 without one."""
        try:
            above = processes.parent(self.guard.child_pid)
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return above if above not in {self.guard.pid, os.getpid()} else 0

    def booted(self) -> bool:
        """Has a real guest begun to write?"""
        return "ready nonce=" in self.guard.stderr()

    def finish(self) -> str:
        """Note its end; returns its exit code in words."""
        self.ended = time.monotonic()
        self.thaw()
        for claim in self.claims:
            claim.ended = min(claim.ended, self.ended)
            claim.sure = False
        if self.life is not None:
            self.life.close()
        if self.monitor is not None:
            self.monitor.__exit__()
        return f"exit {self.guard.process.wait(10)}"

    def fault(self, *, rivals: bool) -> str | None:
        """Judge how it ended: return what is wrong. `rivals`: others may have had its disks."""
        code, said = self.guard.process.returncode, self.guard.stderr()
        for word in ("own fault", "Traceback", "conflict disk=", "Kernel panic"):
            if word in said:
                return f"{self} said {said!r}"
        allowed = {code for hurt in self.hurts for code in _CODES[hurt]}
        if not self.up and code == exitcodes.HELD_ELSEWHERE:
            return None if rivals else f"{self} was refused, nobody had its disks: {said!r}"
        if self.kind == Kind.WRITER and self.up:
            allowed.add(0)
        if self.kind == Kind.CHECK and self.up:
            allowed |= {0} if CHECKED_CLEAN in said else {1} if CHECKED_EMPTY in said else set()
        if code not in allowed:
            return f"{self} ended with {code}, after {list(self.hurts)}: {self.line!r}, {said!r}"
        return None


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _send(pidfd: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
