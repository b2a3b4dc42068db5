"""How does a person at a terminal work? A real pty: typed at, read from, resized, hung up.

What is started with `launcher` and `streams` leads a session whose controlling
terminal this is. Knows nothing of the supervisor.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from typing import TYPE_CHECKING, Any

from tests.support import waiting
from tests.support.launcher import Launcher

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

DEADLINE_S = 30.0
CONTROL_A, CONTROL_C, CONTROL_Z, CONTROL_BACKSLASH = b"\x01", b"\x03", b"\x1a", b"\x1c"
CONTROL_Q, CONTROL_S = b"\x11", b"\x13"
ENTER = b"\r"


class Terminal:
    """One pty; `streams` are subprocess.Popen's for a process on it."""

    def __init__(self) -> None:
        self._fd, self._slave = os.openpty()
        self.launcher = Launcher(session=True, terminal=0)
        self.streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), self._slave)
        self._said = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        os.close(self._slave)
        self.hang_up()

    def fileno(self) -> int:
        """Return the descriptor of the side where the person sits."""
        return self._fd

    def type(self, text: bytes) -> None:
        os.write(self._fd, text)

    def read_until(self, words: bytes, deadline_s: float = DEADLINE_S) -> bytes:
        """Return what is said up to and with `words`; the rest is for the next call."""
        end = time.monotonic() + deadline_s
        while words not in self._said:
            why = f"the terminal says {words!r}; so far: {self._said[-2000:]!r}"
            waiting.readable(self._fd, max(0.0, end - time.monotonic()), why)
            self._said += os.read(self._fd, 4096)
        before, found, self._said = self._said.partition(words)
        return before + found

    def until_raw(self) -> None:
        """Wait until a program has set it up for keys rather than lines."""
        waiting.until(
            lambda: not termios.tcgetattr(self._slave)[3] & termios.ICANON,
            DEADLINE_S,
            "the terminal is set up for keys",
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def hang_up(self) -> None:
        """Close the terminal, as a closed window or a lost connection does."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
