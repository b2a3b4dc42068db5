"""How do messages look on the control pipe and on QEMU's monitor? QMP's wire format.

JSON objects one after another, white space between them optional
(docs/interop/qmp-spec of QEMU). It must not know what a message asks for.
"""

import json
import re
import select
import time

from supervisor.rundir import as_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Poller(Protocol):
        """What the server and the monitor need of an event loop (guard/loop.py)."""

        def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...
        def unwatch(self, fd: int) -> None: ...
        def at(self, name: str, instant: float, callback: Callable[[], None]) -> None: ...
        def cancel(self, name: str) -> None: ...


def now() -> float:
    """Return the clock of the loop's timers: seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


READABLE = select.POLLIN
WRITABLE = select.POLLOUT
MAX_MESSAGE_BYTES = 64 << 10
MAX_REPLY_BYTES = 16 << 20
MAX_DEPTH = 100  # rendering a message takes two frames of Python's stack a level

_QUOTE, _BACKSLASH = b'"\\'
_SPACE = b" \t\r\n"
_OUTSIDE = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'["\\]')


class WireError(Exception):
    """What arrived is no JSON object; `fatal` when the rest cannot be told apart either."""

    def __init__(self, reason: str, *, fatal: bool = False) -> None:
        super().__init__(reason)
        self.fatal = fatal


class Framer:
    """Cuts a byte stream into JSON objects; one a peer."""

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._seen = 0
        self._depth = 0
        self._in_string = False
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def next(self) -> dict[str, object] | None:
        """Return the next object, None when it is not all there; raises WireError.

        What it returns can be sent back: nested MAX_DEPTH deep at most, every number finite.
        """
        if self._skipping:
            self._skip_line()
        if self._seen == 0:
            self._buffer = self._buffer.lstrip(_SPACE)
            if self._buffer and self._buffer[0] != ord("{"):
                self._skip_line()
                raise WireError("not a JSON object")
        end = self._find_end()
        if end is None:
            if len(self._buffer) > self._limit:
                raise WireError(f"longer than {self._limit} bytes", fatal=True)
            return None
        text = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._restart()
        if len(text) > self._limit:
            raise WireError(f"longer than {self._limit} bytes", fatal=True)
        try:
            message = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        except ValueError as error:
            raise WireError(f"not JSON: {error}") from error
        return message if isinstance(message, dict) else None

    def _find_end(self) -> int | None:
        """Return the index behind the brace that closes the first object."""
        while mark := (_IN_STRING if self._in_string else _OUTSIDE).search(
            self._buffer, self._seen
        ):
            byte = self._buffer[mark.start()]
            if byte == _BACKSLASH and mark.end() == len(self._buffer):
                self._seen = mark.start()  # what it escapes is still to come
                return None
            self._seen = mark.end() + (byte == _BACKSLASH)
            if byte == _QUOTE:
                self._in_string = not self._in_string
            elif byte in b"{[":
                self._deepen()
            elif byte in b"}]":
                self._depth -= 1
                if self._depth <= 0:
                    return self._seen
        self._seen = len(self._buffer)
        return None

    def _deepen(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise WireError(f"nested deeper than {MAX_DEPTH}", fatal=True)

    def _skip_line(self) -> None:
        """Drop the rest of a line, also what of it is still to come."""
        end = self._buffer.find(b"\n")
        self._skipping = end < 0
        del self._buffer[: len(self._buffer) if end < 0 else end + 1]
        self._restart()

    def _restart(self) -> None:
        self._seen = self._depth = 0
        self._in_string = False


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _refuse(text)


def encode(message: dict[str, object]) -> bytes:
    """Return a message as it goes out: one line of ASCII."""
    return as_json(message).encode() + b"\r\n"
