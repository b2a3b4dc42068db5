"""Who is on the control pipe, and how does each get its answers in order?

Loaded, off the main thread, when the first client connects. Clients are
bounded in number, message size and unread output; a hostile one loses its
connection, never anybody else's time. It must not know what a
command does, nor whose guard it serves.
"""

import _socket
import os
import time
from _struct import calcsize, pack, unpack

from lockplugins.contract import LockError
from supervisor import __version__
from supervisor.qmp.wire import READABLE, WRITABLE, Framer, WireError, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from supervisor.qmp.wire import Poller

    class Done(Protocol):
        """Answers one command: a result, or an error; descriptors travel with the result."""

        def __call__(
            self, result: object, error: LockError | None = None, fds: tuple[int, ...] = ()
        ) -> None: ...

    Arguments = dict[str, object]
    Run = Callable[[str, Arguments, Done], None]

MAX_CLIENTS = 64
MAX_UNREAD_BYTES = 256 << 10
MESSAGES_A_TURN = 16
_READ_BYTES = 4 << 10
_UCRED = "3i"
_GREETING: dict[str, object] = {
    "QMP": {"version": {"lock-supervisor": __version__}, "capabilities": []}
}


class Server:
    """Serves the listening socket `listen_fd`, which it owns, until the process exits.

    `run(command, arguments, done)` has to call `done` once for each command.
    """

    def __init__(self, listen_fd: int, loop: "Poller", run: "Run") -> None:
        self.loop = loop
        self.run = run
        self._listener = _socket.socket(fileno=listen_fd)
        self._clients: list[Client] = []
        loop.watch(listen_fd, READABLE, lambda _: self._accept())

    def _accept(self) -> None:
        try:
            # socket.accept(), without the 6 ms of the socket module (D2)
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
        except OSError:
            return  # gone again, or out of descriptors: the others go on
        peer = _socket.socket(fileno=fd)
        os.set_inheritable(fd, False)
        peer.setblocking(False)
        if not _is_allowed(peer):
            peer.close()
            return
        if len(self._clients) >= MAX_CLIENTS:
            min(self._clients, key=lambda client: client.heard_at).close()
        client = Client(self, peer)
        self._clients.append(client)
        client.send(_GREETING)

    def forget(self, client: "Client") -> None:
        """Drop a client whose connection is closed."""
        self._clients.remove(client)

    def broadcast(self, event: str, data: dict[str, object]) -> None:
        """Send an event to every client that has negotiated."""
        seconds, fraction = divmod(time.time(), 1)
        stamp = {"seconds": int(seconds), "microseconds": int(fraction * 1e6)}
        message: dict[str, object] = {"event": event, "data": data, "timestamp": stamp}
        for client in list(self._clients):
            if client.negotiated:
                client.send(message)


class Client:
    """One connection: one command at a time, answers in the order of the questions."""

    def __init__(self, server: Server, peer: _socket.socket) -> None:
        self._server = server
        self._peer = peer
        self._framer = Framer()
        self._out = bytearray()
        self._busy = self._serving = self._closing = self._behind = False
        self.negotiated = False
        self.heard_at = time.monotonic()
        self._watch()

    def _watch(self) -> None:
        """Read only when idle and with little unread output: a slow reader slows itself alone."""
        if self._peer.fileno() < 0:
            return
        events = 0 if self._busy or self._closing or self._behind else READABLE
        events |= WRITABLE if self._out else 0
        self._server.loop.watch(self._peer.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        try:
            self._transfer(events)
        except Exception:  # noqa: BLE001  # the client's edge: a guest must not end for one (D8)
            self.close()

    def _transfer(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        if self._peer.fileno() >= 0 and events & ~WRITABLE:
            self._read()  # while busy only a hang-up comes here

    def _read(self) -> None:
        try:
            data = self._peer.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.heard_at = time.monotonic()
        self._framer.feed(data)
        self._serve()

    def _serve(self) -> None:
        """Take up what has arrived, up to a message that must be waited for.

        No more than MESSAGES_A_TURN before the others have theirs.
        """
        if self._serving:
            return
        self._serving = True
        left = MESSAGES_A_TURN
        while left and not self._busy and not self._closing and self._peer.fileno() >= 0:
            left -= 1
            try:
                message = self._framer.next()
            except WireError as error:
                self._closing = error.fatal
                text = f"cannot understand message: {error}"
                self.send({"error": {"class": "GenericError", "desc": text, "fields": {}}})
                continue
            if message is None:
                break
            self._take(message)
        self._serving = False
        self._behind = not left and self._peer.fileno() >= 0
        if self._behind:
            self._server.loop.at(f"client {self._peer.fileno()}", 0.0, self._serve)
        if self._closing and not self._out:
            self.close()
        else:
            self._watch()

    def _take(self, message: dict[str, object]) -> None:
        extra = {"id": message["id"]} if "id" in message else {}
        command, arguments = message.get("execute"), message.get("arguments", {})
        if command == "qmp_capabilities":
            self.negotiated = True
            self.send({"return": {}, **extra})
            return
        self._busy = True

        def done(result: object, error: LockError | None = None, fds: tuple[int, ...] = ()) -> None:
            self._busy = False
            answer = {"return": result, **extra}
            if fds and error is None and not self._send_with(answer, fds):
                advice = "read them, then ask again"
                error = LockError("hand out", "descriptor", "earlier answers are unread", advice)
            if error is not None:
                self.send({"error": _as_wire(error), **extra})
            elif not fds:
                self.send(answer)
            self._serve()

        if not self.negotiated:
            done(
                None, _RefusedError("CommandNotFound", "the first command must be qmp_capabilities")
            )
        elif not isinstance(command, str) or not isinstance(arguments, dict):
            done(
                None,
                _RefusedError("GenericError", "a message needs execute and an object arguments"),
            )
        else:
            self._server.run(command, arguments, done)

    def send(self, message: dict[str, object]) -> None:
        """Queue a message; a reader that leaves too much unread is dropped."""
        if self._peer.fileno() < 0:
            return
        self._out += encode(message)
        if len(self._out) > MAX_UNREAD_BYTES:
            self.close()
        else:
            self._flush()

    def _send_with(self, message: dict[str, object], fds: tuple[int, ...]) -> bool:
        """Send a message now, descriptors with its first byte; False when that cannot be."""
        if self._out or self._peer.fileno() < 0:
            return False
        data = encode(message)
        rights = pack(f"{len(fds)}i", *fds)
        try:
            sent = self._peer.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        except OSError:
            return False
        self._out += data[sent:]
        self._flush()
        return True

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._peer.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._closing and not self._out:
            self.close()
        else:
            self._watch()

    def close(self) -> None:
        """End the connection."""
        if self._peer.fileno() >= 0:
            self._server.loop.cancel(f"client {self._peer.fileno()}")
            self._server.loop.unwatch(self._peer.fileno())
            self._peer.close()
            self._server.forget(self)


class _RefusedError(LockError):
    """A message that is no command of ours."""

    def __init__(self, wire_class: str, reason: str) -> None:
        super().__init__("obey", "message", reason)
        self.wire_class = wire_class


def _as_wire(error: LockError) -> dict[str, object]:
    """Return an error as it goes out: its Python name without Error, its words, its fields."""
    named = getattr(error, "wire_class", type(error).__name__.removesuffix("Error"))
    fields = {**error.fields(), "exit_code": error.exit_code}
    return {"class": named, "desc": str(error), "fields": fields}


def _is_allowed(peer: _socket.socket) -> bool:
    credentials = peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, calcsize(_UCRED))
    return unpack(_UCRED, credentials)[1] in (0, os.geteuid())
