"""How is one etcd member asked one thing, and answered in bounded time?

HTTP/1.1 with JSON, over a connection that is kept (etcd's gRPC gateway). A
member that drips its answer, or resolves its name for minutes, holds nobody
up: names are resolved beforehand, and every read ends at the caller's instant.
It must not know which other members there are, nor what is asked.
"""

from __future__ import annotations

import http.client
import io
import json
import select
import socket
import time
from urllib.parse import urlsplit

from lockplugins.contract import ConfigError, LockError, cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.etcd.trust import Trust

LONGEST_ANSWER = 8 << 20
DEFAULT_PORT = 2379
TLS, PLAIN = "https", "http"


def now() -> float:
    """Return seconds of CLOCK_BOOTTIME, which runs on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def pause(seconds: float) -> None:
    """Let time pass, for who asks again."""
    select.poll().poll(max(seconds, 0) * 1000)


class NotSentError(Exception):
    """The member could not be reached; it has not seen what was asked."""


class NoAnswerError(Exception):
    """Asked, and no answer that can be believed: it may have been done, or be done yet."""


class Endpoint:
    """One member's client URL; `addresses` are its numeric ones, last known."""

    def __init__(self, url: str) -> None:
        """Raise ConfigError for what is no client URL."""
        try:
            parts = urlsplit(url if "//" in url else f"{PLAIN}://{url}")
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in {TLS, PLAIN} or not parts.hostname or port == 0:
            why = "that is no URL of an etcd member"
            raise ConfigError("use", f"endpoint {url}", why, "as in https://host:2379")
        if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ConfigError("use", f"endpoint {url}", "it has more than scheme, host and port")
        self.host = parts.hostname
        self.port = port or DEFAULT_PORT
        self.secure = parts.scheme == TLS
        self.addresses: list[tuple[int, tuple[object, ...]]] = []

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{TLS if self.secure else PLAIN}://{host}:{self.port}"

    @property
    def name(self) -> bytes:
        """The host for the resolver and TLS: a str has Python load 1.4 MB of other alphabets."""
        return self.host.encode("ascii" if self.host.isascii() else "idna")

    def resolve(self) -> None:
        """Look the name up; may take as long as the resolver likes. Raises LockError."""
        try:
            found = socket.getaddrinfo(self.name, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise LockError("resolve", f"etcd endpoint {self}", _said(error)) from error
        self.addresses = [(family, address) for family, _, _, _, address in found]


class Connection(http.client.HTTPConnection):
    """A kept connection to one member, for one thread; made anew when it is lost."""

    def __init__(self, endpoint: Endpoint, trust: Trust | None) -> None:
        super().__init__(endpoint.host, endpoint.port)
        self._endpoint = endpoint
        self._trust = trust
        self._until = 0.0
        self.response_class = self._response  # type: ignore[assignment]  # it makes one

    def ask(
        self, path: str, message: dict[str, object], headers: dict[str, str], until: float
    ) -> tuple[int, dict[str, object]]:
        """POST `message`; returns HTTP's status and the answer, by `until` (CLOCK_BOOTTIME).

        Raises NotSentError, NoAnswerError; after either the connection is closed.
        """
        self._until = until
        body = json.dumps(message, separators=(",", ":"))
        try:
            if self.sock is not None and _is_stale(self.sock):
                self.close()  # by the member, since the last answer: ask on a new one
            if self.sock is None:
                self.connect()
        except OSError as error:
            self.close()
            raise NotSentError(_said(error)) from error
        try:
            self.sock.settimeout(self.left())
            self.request("POST", path, body, {"Content-Type": "application/json"} | headers)
            return self._read_answer()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise NoAnswerError(_said(error)) from error

    def connect(self) -> None:
        """Connect to the first of the addresses that answers; never asks the resolver."""
        failure: OSError = OSError(0, "its name is not resolved")
        for tried, (family, address) in enumerate(self._endpoint.addresses):
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                # None takes the others' time: where IPv6 leads nowhere, IPv4 may.
                sock.settimeout(self.left() / (len(self._endpoint.addresses) - tried))
                sock.connect(address)
                sock.settimeout(self.left())
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._trust is not None and self._endpoint.secure:
                    name = self._endpoint.name
                    sock = self._trust.context().wrap_socket(sock, server_hostname=name)
            except OSError as error:
                sock.close()
                failure = error
            else:
                self.sock = sock
                return
        raise failure

    def certificate(self, until: float) -> bytes:
        """Return what the member of a secure endpoint shows, in DER; raises OSError, ValueError."""
        self._until = until
        self.connect()
        found = self.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]  # it is ssl's
        return bytes(found or b"")

    def _response(self, sock: socket.socket, **how: str) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Patient(sock, self), **how)  # type: ignore[arg-type]  # all that it uses of a socket

    def _read_answer(self) -> tuple[int, dict[str, object]]:
        answer = self.getresponse()
        data = answer.read(LONGEST_ANSWER)
        if not answer.isclosed() and answer.read(1):
            raise ValueError(f"its answer is longer than {LONGEST_ANSWER} bytes")
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"HTTP {answer.status}, and no JSON object")  # noqa: TRY004  # as above
        return answer.status, found

    def left(self) -> float:
        """Return how many seconds the member still has; raises TimeoutError when none."""
        left = self._until - now()
        if left <= 0:
            raise TimeoutError("no answer in time")
        return left


class _Patient:
    """A socket whose answer is read as long as there is time, however it drips."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self._sock = sock
        self._connection = connection

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock, self._connection))


class _Reader(io.RawIOBase):
    """What arrives on a socket, until its connection's time is over."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open with us
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]  # as io does
        self._sock.settimeout(self._connection.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _is_stale(sock: socket.socket) -> bool:
    """Is there something to read, or the end, where nothing was asked?"""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        # OpenSSL's are OSErrors whose number is its own.
        return error.strerror if hasattr(error, "library") else cause(error)
    return str(error) or type(error).__name__
