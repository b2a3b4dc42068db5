"""Has anybody a disk open without the lease for it, or beside another? Asks the kernel, all along.

A thread that looks at every process below this one. What it says of a moment
holds for the moment: the locks are read between two looks at who has which
disk open, and only who was there both times is judged. Knows disks by device
and inode, guards by being in our PID namespace; nothing that the product says.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.faults import processes
from tests.support import insight
from tests.support.guard import descendants
from tests.support.spinning import _alive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_PAUSE_S = 0.02
_FLOCK = "hhqqi4x"
_GONE = (FileNotFoundError, ProcessLookupError)
# They read disks, or lock them, in a guard's or a checker's name: no guests.
_NO_GUESTS = ("python", "qemu-img")
_LOCK_WORDS = 8

Identity = tuple[int, int]


class Use(NamedTuple):
    """A process that has a disk open."""

    pid: int
    start: str
    file: Identity
    writing: bool

    def __str__(self) -> str:
        return f"process {self.pid}, which {'writes' if self.writing else 'reads'}"


def identity(path: str) -> Identity:
    status = os.stat(path)
    return status.st_dev, status.st_ino


class Life:
    """Can a process still do anything? Asked by a descriptor, which outlives its number."""

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        os.close(self._fd)

    def signs(self) -> list[str]:
        """Return the threads that may run or have files open, in words."""
        return [words for tid in self._list("task") if (words := self._look(tid))]

    def _list(self, name: str) -> list[str]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._fd)
        except _GONE:
            return []
        try:
            return os.listdir(fd)
        except _GONE:
            return []
        finally:
            os.close(fd)

    def _look(self, tid: str) -> str | None:
        with ExitStack() as stack:

            def opened(name: str) -> int:
                fd = os.open(f"task/{tid}/{name}", os.O_RDONLY, dir_fd=self._fd)
                stack.callback(os.close, fd)
                return fd

            try:
                return _alive(opened("stat"), opened("fd"))
            except _GONE:
                return None


class Judge:
    """A context in which every use of `files` is watched; `faults` are what was seen."""

    def __init__(self, files: Sequence[str]) -> None:
        self._names = {identity(path): path for path in files}
        self._probes = {file: os.open(path, os.O_RDWR) for file, path in self._names.items()}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.faults: list[str] = []
        self.looks = 0
        self.judged = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        for fd in self._probes.values():
            os.close(fd)

    def lock_on(self, file: Identity) -> int:
        """Return F_WRLCK, F_RDLCK or F_UNLCK: what stands in the way of an exclusive lease."""
        flock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        answer = fcntl.fcntl(self._probes[file], fcntl.F_OFD_GETLK, flock)
        return int(struct.unpack(_FLOCK, answer)[0])

    def take(self) -> list[str]:
        """Return the faults that were seen since this was asked last."""
        found, self.faults = self.faults, []
        return found

    def _watch(self) -> None:
        while not self._ending.wait(_PAUSE_S):
            self.look()

    def look(self) -> None:
        """Judge this moment."""
        self.looks += 1
        before = self._uses(descendants(os.getpid()))
        locks = {use.file: self.lock_on(use.file) for use in before}
        strangers = {use for use in before if not _leased_by_its_guard(use)}
        sure = before & self._uses([use.pid for use in before])
        self.judged += len(sure)
        for use in sure:
            lock = locks[use.file]
            name = self._names[use.file]
            if lock == fcntl.F_UNLCK or (use.writing and lock != fcntl.F_WRLCK):
                self.faults.append(f"{use} {name} without a lease: lock type {lock}")
            if use in strangers:
                self.faults.append(f"{use} {name}: its guard does not have the lease")
        for one, other in itertools.combinations(sure, 2):
            if one.file == other.file and one.pid != other.pid and (one.writing or other.writing):
                self.faults.append(f"{one}, and {other} {self._names[one.file]} at once")

    def _uses(self, pids: Sequence[int]) -> set[Use]:
        found: set[Use] = set()
        for pid in set(pids):
            try:
                program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
                if not program.startswith(_NO_GUESTS):
                    found |= self._uses_of(pid)
            except _GONE:
                continue
        return found

    def _uses_of(self, pid: int) -> set[Use]:
        start = insight.read(pid, "stat").rpartition(b")")[2].split()[19].decode()
        found = set()
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                file = identity(f"/proc/{pid}/fd/{fd}")
                if file in self._names:
                    flags = int(insight.read(pid, f"fdinfo/{fd}").split()[3], 8)
                    writing = flags & os.O_ACCMODE != os.O_RDONLY
                    found.add(Use(pid, start, file, writing))
            except _GONE:
                continue
        return found


def _leased_by_its_guard(use: Use) -> bool:
    """Is the lock that of the guard above the process? Doubts, and a dead guard, pass."""
    try:
        guard = use.pid
        while (above := processes.parent(guard)) not in {0, os.getpid()}:
            guard = above
        ours = os.readlink("/proc/self/ns/pid") == os.readlink(f"/proc/{guard}/ns/pid")
        if guard == use.pid or not ours:
            return True
        # A guard that still has files open when all have been looked at had them open before.
        return use.file in _locked_by(guard) or not os.listdir(f"/proc/{guard}/fd")
    except _GONE:
        return True


def _locked_by(pid: int) -> set[Identity]:
    found: set[Identity] = set()
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            lines = insight.read(pid, f"fdinfo/{fd}").decode().splitlines()
        except _GONE:
            continue
        for words in (line.removeprefix("lock:").split() for line in lines if "OFDLCK" in line):
            if len(words) == _LOCK_WORDS and words[6] == "0":
                major, minor, inode = words[5].split(":")
                found.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    return found
