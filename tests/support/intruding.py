"""Does anybody get between the two ends of a migration? A program of its own that tries.

intruding.py PATH…: without pause, until its standard input ends, tries to be an exclusive holder
of each file (OFD and POSIX) or one more sharer of ours, and gives back what it got; then says how
often it tried, and how often it got in. Runs under `python -I -S`.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys

Lock = tuple[int, int, int]  # command, kind, byte
WAYS: tuple[tuple[Lock, ...], ...] = (
    ((fcntl.F_OFD_SETLK, fcntl.F_WRLCK, 0),),
    ((fcntl.F_SETLK, fcntl.F_WRLCK, 0),),
    ((fcntl.F_OFD_SETLK, fcntl.F_RDLCK, 2), (fcntl.F_OFD_SETLK, fcntl.F_RDLCK, 0)),
)


def _set(fd: int, command: int, kind: int, byte: int) -> bool:
    try:
        fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))
    except BlockingIOError:
        return False
    return True


def _gets_in(fd: int, way: tuple[Lock, ...]) -> bool:
    taken: list[Lock] = []
    for lock in way:
        if not _set(fd, *lock):
            break
        taken.append(lock)
    for command, _kind, byte in taken:
        _set(fd, command, fcntl.F_UNLCK, byte)
    return len(taken) == len(way)


def main(paths: list[str]) -> None:
    fds = [os.open(path, os.O_RDWR) for path in paths]
    tried = got_in = 0
    while not select.select([0], [], [], 0)[0]:
        for fd in fds:
            for way in WAYS:
                got_in += _gets_in(fd, way)
                tried += 1
        if tried == len(fds) * len(WAYS):
            os.write(1, b"intruding\n")
    os.write(1, f"{tried} {got_in}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
