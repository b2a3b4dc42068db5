"""How does a program start a guard that outlives it, and what does the guard answer?

In a session of its own and nobody's child, so that a daemon may end, be killed
or be replaced under its guests. While the leases are acquired and the guest
waits, the guard hangs on a descriptor of ours: whatever ends us frees them. It
must not know what the guard does, nor where its arguments come from.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import socket
import subprocess

from lockplugins.contract import ConfigError, LeaseHeldError, LockError, cause
from supervisor import exitcodes
from supervisor.log import open_log
from supervisor.spec import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.spec import GuestSpec

READY, ERROR = "READY ", "ERROR "

_ACQUIRED, _GO = b"ACQUIRED\n", b"GO\n"
_BACK_WITHIN_MS = 10_000  # a lock manager that hangs is not waited for longer
_FIRST = 3  # above the standard descriptors
_LONGEST = 4096  # a line of the guard's comes in one piece
# The guard becomes the child of whoever adopts orphans: nobody has to reap it, no zombie stays.
_APART = ("setsid", "--fork")


class NotStartedError(LockError):
    """The guard refused, or has died; its own words where it had any are the `reason`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__("", "", "")
        self.args = code, text  # what it is made of anew, in another process
        self.exit_code = code or exitcodes.FAILED
        self.reason = text

    def __str__(self) -> str:
        return self.reason


class HeldElsewhereError(NotStartedError, LeaseHeldError):
    """The guard was refused a lease, or the uuid is supervised already."""


class Starting:
    """A guard, from its start to its running guest. Closed before `go`, it gives all back."""

    def __init__(
        self, spec: GuestSpec, command: Sequence[str], log: str | None, pass_fds: Sequence[int] = ()
    ) -> None:
        """Start the guard of `spec`; raises LockError when it cannot be executed."""
        if (spec.ready_fd, spec.handshake_fd) != (None, None):
            name, reason = f"guest {spec.name}", "ready_fd and handshake_fd are the prefix's"
            raise ConfigError("start", name, reason, "leave them out; run() returns when it runs")
        self._name, self._runs = spec.name, False
        self._log, log_fd = open_log(log, spec.name, spec.uuid)
        self._words_fd, words_fd = os.pipe2(os.O_CLOEXEC)
        self._shake, theirs = socket.socketpair()
        try:
            spec.ready_fd = clear_of(command, words_fd)
            spec.handshake_fd = clear_of(command, theirs.detach())
            _start([*render(spec), *command], log_fd, (*pass_fds, spec.ready_fd, spec.handshake_fd))
        except BaseException:
            self.close()
            raise
        finally:
            for fd in (log_fd, spec.ready_fd, spec.handshake_fd):
                if fd is not None:
                    os.close(fd)

    def acquire(self) -> None:
        """Return when every lease is held and the guest waits, else closed with NotStartedError."""
        poll = select.poll()
        poll.register(self._words_fd, select.POLLIN)
        poll.register(self._shake, select.POLLIN)
        try:
            if self._words_fd in dict(poll.poll()) or self._shake.recv(_LONGEST) != _ACQUIRED:
                raise self._refusal(self._line())
        except BaseException:
            self.close()
            raise

    def go(self) -> None:
        """Have the guest executed, and return when it is; raises NotStartedError."""
        self._runs = True  # or so, if this is interrupted
        try:
            self._shake.sendall(_GO)
        except OSError:
            pass  # the guard is gone: its last words tell why
        line = self._line()
        if not line.startswith(READY):
            self._runs = False
            raise self._refusal(line)

    def close(self) -> bool:
        """Let go, and return whether the guest runs; else its guard is about to exit."""
        if self._words_fd < 0:
            return self._runs
        self._shake.shutdown(socket.SHUT_RDWR)  # whoever was forked from us has it, too
        self._shake.close()
        poll = select.poll()
        poll.register(self._words_fd, select.POLLIN)
        while not self._runs and poll.poll(_BACK_WITHIN_MS) and os.read(self._words_fd, _LONGEST):
            pass  # its last words, up to their end
        os.close(self._words_fd)
        self._words_fd = -1
        return self._runs

    def _line(self) -> str:
        """Return the guard's line, empty when it and the waiting child have gone without one."""
        return os.fsdecode(os.read(self._words_fd, _LONGEST)).rstrip("\n")

    def _refusal(self, line: str) -> NotStartedError:
        return refused(line) or died(self._name, "ended", self._log)


def refused(line: str) -> NotStartedError | None:
    """Return the guard's own refusal, None if the line is none."""
    if not line.startswith(ERROR):
        return None
    _, code, text = line.split(" ", 2)
    held = int(code) == exitcodes.HELD_ELSEWHERE
    return (HeldElsewhereError if held else NotStartedError)(int(code), text)


def died(name: str, how: str, log: str, code: int = exitcodes.FAILED) -> NotStartedError:
    """Return the error for a guard that died without a word."""
    text = f"cannot start guest {name}: its supervisor {how} before the guest ran; see {log}"
    return NotStartedError(code, text)


def clear_of(command: Sequence[str], fd: int) -> int:
    """Move `fd` to a number that COMMAND does not mention.

    Else a descriptor that the launcher forgot to pass would seem to be there.
    """
    mentioned = set(re.findall(r"\d+", " ".join(command)))
    number = _FIRST
    while str(moved := fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, number)) in mentioned:
        os.close(moved)
        number = moved + 1
    os.close(fd)
    return moved


def _start(argv: list[str], log_fd: int, pass_fds: Sequence[int]) -> None:
    try:
        subprocess.run(
            [*_APART, *argv],
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=pass_fds,
            check=False,  # how the guard fares is told by its words alone
        )
    except OSError as error:
        reason, advice = cause(error), "util-linux has it; nothing was started"
        raise LockError("execute", _APART[0], reason, advice) from error
