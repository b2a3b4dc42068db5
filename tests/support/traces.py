"""What does looking leave behind? Every file's stat, every directory's entries, every kernel lock.

Looks without leaving anything itself. Knows nothing of the supervisor.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support import proclocks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

DEADLINE_S = 30
_FIELDS = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks",
           "st_atime_ns", "st_mtime_ns", "st_ctime_ns")  # fmt: skip
_LOCKING = """
import fcntl, os, struct, sys
fds = [os.open(path, os.O_RDWR) for path in sys.argv[1:]]
locks = [struct.pack("hhqqi4x", kind, 0, 0, 0, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK)]
os.set_blocking(0, False)
tries = refused = 0
while True:
    for fd in fds:
        tries += 1
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, locks[0])
        except BlockingIOError:
            refused += 1
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, locks[1])
    if tries == len(fds):
        os.write(1, b"begun\\n")
    try:
        if not os.read(0, 1):
            break
    except BlockingIOError:
        continue
print(tries, refused)
"""


def of(top: str) -> dict[str, tuple[object, ...]]:
    """Return all that can be told of `top` and everything below it, and of locks there."""
    device = os.stat(top).st_dev
    locks = proclocks.lines(f"{os.major(device):02x}:{os.minor(device):02x}:")
    found: dict[str, tuple[object, ...]] = {"locks": tuple(map(tuple, locks))}
    directories = [top]
    while directories:
        path = directories.pop()
        found[path] = _stat(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
        try:
            names = sorted(os.listdir(fd))
        finally:
            os.close(fd)
        found[path] += tuple(names)
        for name in names:
            below = f"{path}/{name}"
            if stat.S_ISDIR(os.lstat(below).st_mode):
                directories.append(below)
            else:
                found[below] = _stat(below)
    return found


def _stat(path: str) -> tuple[object, ...]:
    status = os.lstat(path)
    return tuple((field, getattr(status, field)) for field in _FIELDS)


def age(top: str) -> None:
    """Make everything read before it was written: then any use moves an access time (relatime)."""
    for directory, names, files in os.walk(top, topdown=False):
        for path in (*(f"{directory}/{name}" for name in (*names, *files)), directory):
            os.utime(path, ns=(1, os.lstat(path).st_mtime_ns), follow_symlinks=False)


class Spinner:
    """Another program that write-locks the whole of `paths` again and again, without waiting."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LOCKING, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"begun\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE_S)

    def end(self) -> tuple[int, int]:
        """Return how often it tried, and how often it was refused."""
        said, _ = self._process.communicate(timeout=DEADLINE_S)
        tries, refused = said.split()
        return int(tries), int(refused)
