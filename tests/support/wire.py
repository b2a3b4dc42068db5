"""How does a test speak QMP byte by byte? To the guard's control pipe, and to a QEMU of its own.

Independent of the product's client: it sends what no client would, and takes
nothing that is not one line of strict JSON. Judges nothing else.
"""

from __future__ import annotations

import array
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from tests.support import waiting

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn, Self

DEADLINE_S = 20.0
_CHUNK = 1 << 16


class Closed(Exception):  # noqa: N818 - it is the peer's decision, no error
    """The peer has closed the connection."""


class Refused(Exception):  # noqa: N818 - an answer like any other
    """The peer's `error`: its class, its words, and our guard's fields."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["desc"])
        self.wire_class: str = error["class"]
        self.desc: str = error["desc"]
        self.fields: dict[str, Any] = error.get("fields", {})


class Wire:
    """One connection, to the socket at a path or an own one; a context that closes it."""

    def __init__(self, to: str | socket.socket, *, negotiate: bool = True) -> None:
        self.events: list[dict[str, Any]] = []
        self.fds: list[int] = []
        self._buffer = b""
        self._last_id = 0
        self.sock = socket.socket(socket.AF_UNIX) if isinstance(to, str) else to
        try:
            if isinstance(to, str):
                _connect(self.sock, to)
            self.sock.settimeout(DEADLINE_S)
            self.greeting = self.message() if negotiate else {}
            if negotiate:
                self.execute("qmp_capabilities")
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()
        while self.fds:
            os.close(self.fds.pop())

    def finish(self) -> None:
        """Say nothing more; a peer that is gone already does not mind."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def message(self, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next message, whatever it is; raises Closed at the connection's end."""
        end = time.monotonic() + deadline_s
        while b"\n" not in self._buffer:
            waiting.readable(self.sock.fileno(), end - time.monotonic(), "the peer answers")
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        found = json.loads(line.decode("ascii"), parse_constant=_refuse)
        assert isinstance(found, dict), found
        return found

    def execute(
        self, command: str, arguments: object = None, deadline_s: float = DEADLINE_S
    ) -> Any:
        """Return what `command` returns, keeping the events that come first; raises Refused."""
        return self.answer(self.ask(command, arguments), deadline_s)

    def ask(self, command: str, arguments: object = None) -> int:
        """Send a command; returns its id."""
        self._last_id += 1
        message = {"execute": command, "arguments": arguments or {}, "id": self._last_id}
        self.send(json.dumps(message).encode() + b"\n")
        return self._last_id

    def answer(self, number: int, deadline_s: float = DEADLINE_S) -> Any:
        """Return what the command with this id returns; raises Refused."""
        end = time.monotonic() + deadline_s
        while "event" in (found := self.message(end - time.monotonic())):
            self.events.append(found)
        assert found.get("id") == number, found
        if "error" in found:
            raise Refused(found["error"])
        return found["return"]

    def event(self, name: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next event called `name`; what comes before it is dropped."""
        end = time.monotonic() + deadline_s
        while True:
            found = self.events.pop(0) if self.events else self.message(end - time.monotonic())
            if found.get("event") == name:
                return found

    def until_closed(self, deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
        """Return all that is said until the peer closes the connection."""
        said = []
        end = time.monotonic() + deadline_s
        while True:
            try:
                said.append(self.message(end - time.monotonic()))
            except Closed:
                return said

    def _receive(self) -> None:
        try:
            data, ancillary, _, _ = self.sock.recvmsg(_CHUNK, socket.CMSG_SPACE(64))
        except ConnectionResetError as error:
            raise Closed from error
        for _level, kind, payload in ancillary:
            assert kind == socket.SCM_RIGHTS
            fds = array.array("i")
            fds.frombytes(payload)
            self.fds += fds
        if not data:
            raise Closed
        self._buffer += data


def _connect(sock: socket.socket, path: str) -> None:
    """Connect through the directory's descriptor, since sun_path holds 108 bytes."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")
