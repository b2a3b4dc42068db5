"""Is a lease free while its guest can run? Another process spins on it and says what it found.

The judge of every exclusion test: it asks the kernel, never the product.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.support import sources, waiting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

DEADLINE_S = 30
_PROGRAM = os.path.join(sources.CHECKOUT, "tests/support/spinning.py")
_PYTHON = getattr(sys, "_base_executable", sys.executable)


@dataclass(frozen=True)
class Won:
    """The contender got the lock on `path` at the instant `at` of time.monotonic().

    `alive` says which of the guest's threads could still run then, or had
    files open; `gone`, whether its pidfd was readable, which it is a little
    after the last thread has closed its files.
    """

    path: str
    at: float
    alive: tuple[str, ...]
    gone: bool


class Contender:
    """A process that spins on locks of `paths` until it has all of them; a context.

    `env` is what it needs in its environment for locks of its kind.
    """

    def __init__(
        self, guest_pid: int, *paths: str, kind: str = "ofd", env: Mapping[str, str] | None = None
    ) -> None:
        self._count = len(paths)
        self._buffer = b""
        self._process = subprocess.Popen(
            [_PYTHON, "-I", "-S", _PROGRAM, kind, str(guest_pid), *paths],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=os.environ | (env or {}),
        )
        line = self._line(DEADLINE_S)
        assert line == "spinning", f"the contender got a lease at its first try: {line}"

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

    def has_won(self) -> bool:
        """Has it got any lease by now?"""
        assert self._process.stdout is not None
        return bool(self._buffer or select.select([self._process.stdout], [], [], 0)[0])

    def won(self, deadline_s: float = DEADLINE_S) -> list[Won]:
        """Wait until it has every lease; returns how it got them, in that order."""
        found: list[Won] = []
        while len(found) < self._count:
            fields = json.loads(self._line(deadline_s))
            found.append(Won(**{**fields, "alive": tuple(fields["alive"])}))
        return found

    def _line(self, deadline_s: float) -> str:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            fd = self._process.stdout.fileno()
            waiting.readable(fd, deadline_s, "the contender says something")
            data = os.read(fd, 1 << 16)
            assert data, "the contender ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()
