"""How does a test kill a thread's process between any two of its system calls? By ptrace(2).

Stops one thread at the entry of each call, the others run on. Knows nothing of
what the thread does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support import waiting

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

DEADLINE_S = 20

_SEIZE, _INTERRUPT, _SYSCALL, _DETACH, _GET_SYSCALL_INFO = 0x4206, 0x4207, 24, 17, 0x420E
_TRACE_SYS_GOOD = 1
_ENTRY = 1
_WALL = 0x40000000
_INFO = struct.Struct("=B3xIQQQ6Q")  # struct ptrace_syscall_info, as of an entry
_TRIES = 2000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Call:
    """A system call about to be made: its number, and its first argument."""

    number: int
    first: int


def thread_reading_eventfd(pid: int) -> int:
    """Return the one thread of `pid` that sleeps in a call on an eventfd."""

    def found() -> int | None:
        tids = [int(tid) for tid in os.listdir(f"/proc/{pid}/task") if _on_eventfd(pid, tid)]
        return tids[0] if len(tids) == 1 else None

    return waiting.until(found, DEADLINE_S, "one thread is idle") or 0


def _on_eventfd(pid: int, tid: str) -> bool:
    with open(f"/proc/{pid}/task/{tid}/syscall", encoding="ascii") as file:
        words = file.read().split()
    try:
        return os.readlink(f"/proc/{pid}/fd/{int(words[1], 16)}") == "anon_inode:[eventfd]"
    except (IndexError, OSError):
        return False


class Stepper:
    """Traces one thread that sleeps in a call; a context, which lets go of it."""

    def __init__(self, tid: int) -> None:
        self._tid = tid
        self._alive = True
        _ptrace(_SEIZE, tid, _TRACE_SYS_GOOD)
        _ptrace(_INTERRUPT, tid)
        self._wait()
        self.idle = self.next()  # the call that it slept in, begun anew

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._alive:
            _ptrace(_DETACH, self._tid)

    def next(self) -> Call:
        """Let the thread run to the entry of its next system call, and return that."""
        while True:
            _ptrace(_SYSCALL, self._tid)
            self._wait()
            buffer = ctypes.create_string_buffer(_INFO.size)
            _ptrace(_GET_SYSCALL_INFO, self._tid, _INFO.size, ctypes.addressof(buffer))
            fields = _INFO.unpack(buffer)
            if fields[0] == _ENTRY:
                return Call(fields[4], fields[5])

    def kill(self, pidfd: int) -> None:
        """SIGKILL the process: the call that the thread was about to make is never made."""
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        while self._alive:
            self._wait()

    def _wait(self) -> None:
        """Wait for the thread's next stop, or its end."""

        def changed() -> int | None:
            for _ in range(_TRIES):  # most stops follow within microseconds
                tid, status = os.waitpid(self._tid, _WALL | os.WNOHANG)
                if tid:
                    return status + 1  # an exit status of 0 is true as well
            return None

        status = waiting.until(changed, DEADLINE_S, "the traced thread stops") or 0
        self._alive = os.WIFSTOPPED(status - 1)


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    if request == _SEIZE:
        address, data = 0, address
    if _libc.ptrace(request, tid, address, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace {request:#x}: {os.strerror(error)}")
