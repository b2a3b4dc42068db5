"""Who gets a lease first, and was the guest still alive when he got it? A program of its own.

spinning.py KIND GUEST_PID PATH…: tries a write lock on byte 0 of each file (KIND ofd) or on the
whole file (KIND flock), or sanlock's lease LOCKSPACE:NAME:PATH (KIND sanlock), without pause; a
line of JSON for each one won. At that very moment it looks at every thread of the guest. One is
alive that may ever again run an instruction (the kernel has not set PF_EXITING) or has its files
open, and so I/O on the way. Judges by that alone. Runs under `python -I -S`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FLOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
# struct sanlk_resource with its struct sanlk_disk, and a flag of sanlock_acquire: sanlock_admin.h,
# sanlock_resource.h.
_SANLK_RESOURCE = struct.Struct("48s48sQQ4I1024sQ2I")
_OWNER_NOWAIT = 0x8
_NOT_NOW = (-errno.EEXIST, -errno.EAGAIN, -202)  # SANLK_AIO_TIMEOUT: the storage is busy
_PF_EXITING = 0x4  # include/linux/sched.h
_DEAD_STATES = (b"Z", b"X")


class Threads:
    """The threads of one process: what tells of them is open before it matters."""

    def __init__(self, pid: int) -> None:
        self.pidfd = os.pidfd_open(pid)
        self._process_fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        self._known = {tid: self._open(tid) for tid in self._ids()}

    def _ids(self) -> list[str]:
        try:
            fd = os.open("task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._process_fd)
        except (FileNotFoundError, ProcessLookupError):
            return []
        try:
            return os.listdir(fd)
        except (FileNotFoundError, ProcessLookupError):
            return []
        finally:
            os.close(fd)

    def _open(self, tid: str) -> tuple[int, int] | None:
        try:
            stat_fd = os.open(f"task/{tid}/stat", os.O_RDONLY, dir_fd=self._process_fd)
            return stat_fd, os.open(f"task/{tid}/fd", os.O_RDONLY, dir_fd=self._process_fd)
        except (FileNotFoundError, ProcessLookupError):
            return None

    def alive(self) -> list[str]:
        """Return what is alive, in words; first the threads that were known, then newer ones."""
        found = [words for fds in self._known.values() if fds and (words := _alive(*fds))]
        for tid in self._ids():
            if tid not in self._known and (fds := self._open(tid)):
                found += [words] if (words := _alive(*fds)) else []
        return found

    def are_gone(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 0)[0])


def _alive(stat_fd: int, files_fd: int) -> str | None:
    """Return in words why the thread is alive, None for a dead one."""
    try:
        text = os.pread(stat_fd, 1024, 0)
        files = os.listdir(files_fd)
    except (FileNotFoundError, ProcessLookupError):
        return None
    tid = text.split(maxsplit=1)[0].decode()
    rest = text[text.rindex(b")") + 2 :].split()
    if rest[0] not in _DEAD_STATES and not int(rest[6]) & _PF_EXITING:
        return f"{tid} in state {rest[0].decode()}"
    return f"{tid} with {len(files)} open files" if files else None


def _lock(kind: str, path: str) -> Callable[[], bool]:
    """Return what tries to lock a file."""
    fd = os.open(path, os.O_RDWR)

    def won() -> bool:
        try:
            if kind == "flock":
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK)
        except BlockingIOError:
            return False
        return True

    return won


def _sanlock() -> Callable[[str], Callable[[], bool]]:
    """Register this process; return what makes a try of a lease's name."""
    library = ctypes.CDLL("libsanlock_client.so.1")
    connection = library.sanlock_register()
    assert connection >= 0, f"sanlock_register: {connection}"

    def lease(name: str) -> Callable[[], bool]:
        lockspace, resource, path = (word.encode() for word in name.split(":"))
        data = ctypes.create_string_buffer(
            _SANLK_RESOURCE.pack(lockspace, resource, 0, 0, 0, 0, 0, 1, path, 0, 0, 0)
        )
        resources = (ctypes.c_void_p * 1)()

        def won() -> bool:
            resources[0] = ctypes.addressof(data)  # here, so that `data` lives as long as this
            code = library.sanlock_acquire(connection, -1, _OWNER_NOWAIT, 1, resources, None)
            assert code in (0, *_NOT_NOW), f"sanlock_acquire: {code}"
            return bool(code == 0)

        return won

    return lease


def main(kind: str, guest_pid: int, paths: list[str]) -> None:
    threads = Threads(guest_pid)
    lease = _sanlock() if kind == "sanlock" else lambda path: _lock(kind, path)
    wanted = {path: lease(path) for path in paths}
    said = False
    while wanted:
        for path, won in list(wanted.items()):
            if not won():
                continue
            at = time.monotonic()
            alive = threads.alive()
            found = {"path": path, "at": at, "alive": alive, "gone": threads.are_gone()}
            os.write(1, json.dumps(found).encode() + b"\n")
            del wanted[path]
        if not said:
            os.write(1, b"spinning\n")
            said = True


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
