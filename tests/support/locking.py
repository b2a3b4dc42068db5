"""What do the tests of file locks need? Other processes with locks, and a carrier that tells.

Knows kernel locks, not the plugin under test.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self, TypeVar

from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

DEADLINE_S = 20
Result = TypeVar("Result")
READ, WRITE = fcntl.F_RDLCK, fcntl.F_WRLCK

_FLOCK = "hhqqi4x"
_LOCKER = """
import fcntl, os, struct, sys
command, kind, byte, length = (int(word) for word in sys.argv[1:5])
for path in sys.argv[5:]:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, 0, byte, length, 0))
    except BlockingIOError:
        os.write(1, b"refused")
        sys.exit()
os.write(1, b"held")
os.read(0, 1)
"""


class Locker:
    """Another process that locks `paths` (POSIX or OFD), and has them while it lives."""

    def __init__(
        self,
        *paths: str | os.PathLike[str],
        kind: int = WRITE,
        byte: int = 0,
        length: int = 1,
        posix: bool = False,
    ) -> None:
        command = fcntl.F_SETLK if posix else fcntl.F_OFD_SETLK
        words = [
            str(command),
            str(kind),
            str(byte),
            str(length),
            *(os.fspath(path) for path in paths),
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LOCKER, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        waiting.readable(self._process.stdout.fileno(), DEADLINE_S, "the locker says how it went")
        self.held = os.read(self._process.stdout.fileno(), 100) == b"held"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Kill it; its locks are free when this returns."""
        self._process.kill()
        self._process.communicate(timeout=DEADLINE_S)


def is_free(path: str | os.PathLike[str], kind: int = WRITE, byte: int = 0) -> bool:
    """Would the lock be granted now? Tried with a description of its own, and given back."""
    fd = os.open(path, os.O_RDWR)
    try:
        flock = struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, flock)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def until_waited_for(path: str | os.PathLike[str]) -> None:
    """Return when the kernel's list has somebody waiting for a lock on the file."""
    ending = f":{os.stat(path).st_ino}"

    def waiter() -> bool:
        with open("/proc/locks", encoding="ascii") as locks:
            lines = [line.split() for line in locks]
        return any(words[1] == "->" and words[6].endswith(ending) for words in lines)

    waiting.until(waiter, DEADLINE_S, f"somebody waits for {path}")


def on_a_thread(call: Callable[[], Result]) -> Future[Result]:
    """Run `call` on a thread that keeps nobody waiting, should it hang."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  # it is the caller's, by way of the future
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class CopyingCarrier:
    """A carrier whose copies stay open for ever, as if rotation never came to them.

    What is free while they exist was unlocked, not merely closed. `calls` are
    the calls in order; with `room` left at 0, `keep` raises `error`.
    """

    def __init__(self, room: int = 1000, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self.carried: dict[str, int] = {}
        self._copies: list[int] = []
        self._room = room
        self._error = error

    def keep(self, name: str, fd: int) -> None:
        if self._error is not None and len(self.carried) >= self._room:
            raise self._error
        assert name not in self.carried
        self.carried[name] = os.dup(fd)
        self._copies.append(self.carried[name])
        self.calls.append(("keep", name))

    def drop(self, name: str) -> None:
        del self.carried[name]
        self.calls.append(("drop", name))

    def close(self) -> None:
        for fd in self._copies:
            os.close(fd)
