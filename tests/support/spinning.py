"""Who gets a lease first, and could the guest still run when he got it? A program of its own.

spinning.py KIND GUEST_PID PATH…: tries a write lock on byte 0 of each file (KIND ofd) or on the
whole file (KIND flock) without pause; a line of JSON for each one won. At that very moment it
looks at every thread of the guest: the kernel sets PF_EXITING on a thread that will never again
run a guest's instruction. Judges by that alone. Runs under `python -I -S`.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import sys
import time

_FLOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
_PF_EXITING = 0x4  # include/linux/sched.h
_DEAD_STATES = (b"Z", b"X")


class Threads:
    """The threads of one process: their stat files are open before they matter."""

    def __init__(self, pid: int) -> None:
        self.pidfd = os.pidfd_open(pid)
        self._process_fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        self._open = {tid: fd for tid in self._ids() if (fd := self._stat(tid)) is not None}

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

    def _stat(self, tid: str) -> int | None:
        try:
            return os.open(f"task/{tid}/stat", os.O_RDONLY, dir_fd=self._process_fd)
        except (FileNotFoundError, ProcessLookupError):
            return None

    def able_to_run(self) -> list[str]:
        """Return the threads that may still run, known ones first, those born since then next."""
        able = [found for fd in self._open.values() if (found := _able(fd))]
        for tid in self._ids():
            if tid not in self._open and (fd := self._stat(tid)) is not None:
                able += [found] if (found := _able(fd)) else []
                os.close(fd)
        return able

    def are_gone(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 0)[0])


def _able(stat_fd: int) -> str | None:
    """Return "tid state flags" unless the thread is dead or on its way there for good."""
    try:
        text = os.pread(stat_fd, 1024, 0)
    except ProcessLookupError:
        return None
    rest = text[text.rindex(b")") + 2 :].split()
    if rest[0] in _DEAD_STATES or int(rest[6]) & _PF_EXITING:
        return None
    return f"{text.split(maxsplit=1)[0].decode()} {rest[0].decode()} {int(rest[6]):#x}"


def _won(kind: str, fd: int) -> bool:
    try:
        if kind == "flock":
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK)
    except BlockingIOError:
        return False
    return True


def main(kind: str, guest_pid: int, paths: list[str]) -> None:
    threads = Threads(guest_pid)
    wanted = {path: os.open(path, os.O_RDWR) for path in paths}
    said = False
    while wanted:
        for path, fd in list(wanted.items()):
            if not _won(kind, fd):
                continue
            at = time.monotonic()
            able = threads.able_to_run()
            gone = threads.are_gone()
            won = {"path": path, "at": at, "able": able, "gone": gone}
            os.write(1, json.dumps(won).encode() + b"\n")
            del wanted[path]
        if not said:
            os.write(1, b"spinning\n")
            said = True


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
