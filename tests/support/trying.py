"""Is a lease ever refused to somebody who asks without pause? A program of its own.

trying.py PATH…: takes and gives back write locks on bytes 0 and 2 of each file, OFD and POSIX,
until its standard input ends; then says how often, and how often it was refused. Runs under
`python -I -S`.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys

_COMMANDS = (fcntl.F_OFD_SETLK, fcntl.F_SETLK)
_BYTES = (0, 2)


def _try(fd: int, command: int, byte: int) -> bool:
    try:
        fcntl.fcntl(fd, command, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except BlockingIOError:
        return False
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))
    return True


def main(paths: list[str]) -> None:
    fds = [os.open(path, os.O_RDWR) for path in paths]
    tried = refused = 0
    while not select.select([0], [], [], 0)[0]:
        for fd in fds:
            for command in _COMMANDS:
                for byte in _BYTES:
                    refused += not _try(fd, command, byte)
                    tried += 1
        if tried == len(fds) * len(_COMMANDS) * len(_BYTES):
            os.write(1, b"trying\n")
    os.write(1, f"{tried} {refused}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
