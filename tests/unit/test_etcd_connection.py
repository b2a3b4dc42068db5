"""Is a member that drips, lies, floods or hangs given up in time, and told from one not asked?

The members are small real servers on loopback, each with one vice.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from lockplugins.etcd.client import (
    Believed,
    Client,
    RefusedError,
    UnknownOutcomeError,
    UnreachableError,
)
from lockplugins.etcd.connection import Connection, Endpoint, NoAnswerError, NotSentError, now
from tests.support.etcd import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Vice = Callable[[socket.socket], None]

IN_TIME_S = 5.0
PATIENCE_S = 0.3
_FULL = "etcdserver: mvcc: database space exceeded"
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Member:
    """A server that answers each connection with its vice; `seen` has what was sent."""

    def __init__(self, vice: Vice) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint(f"http://127.0.0.1:{self._listener.getsockname()[1]}")
        self.endpoint.resolve()
        self.seen: list[bytes] = []
        self._open: list[socket.socket] = []
        self._vice = vice
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            threading.Thread(target=self._answer, args=[sock], daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        try:
            while data := sock.recv(65536):
                self.seen.append(data)
                if data.endswith(b"}"):
                    self._vice(sock)
        except OSError:
            pass  # the client has given up

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            sock.close()


@pytest.fixture
def member() -> Iterator[Callable[[Vice], Member]]:
    made: list[Member] = []

    def make(vice: Vice) -> Member:
        made.append(Member(vice))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(*endpoints: Endpoint, try_s: float = PATIENCE_S) -> Client:
        made.append(Client(endpoints, try_s=try_s))
        return made[-1]

    yield make
    for one in made:
        one.close()


def drip(sock: socket.socket) -> None:
    """Send a byte at a time, each well within any time-out of a read."""
    never = threading.Event()
    for byte in _OK[:20] + b"X-Long: " + b"y" * 10_000:
        sock.sendall(bytes([byte]))
        never.wait(0.02)


def says(answer: bytes) -> Vice:
    return lambda sock: sock.sendall(answer)


def refuses(status: int, code: int, message: str) -> Vice:
    body = f'{{"error": "{message}", "message": "{message}", "code": {code}}}'.encode()
    return says(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


VICES: dict[str, Vice] = {
    "drips": drip,
    "hangs": lambda _: None,
    "is no HTTP": says(b"SSH-2.0-OpenSSH_9.2\r\n" * 3),
    "closes": lambda sock: sock.shutdown(socket.SHUT_RDWR),
    "ends within": says(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    "is no JSON": says(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nHTML"),
    "is no object": says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"),
    "is too deep": says(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"[" * 90_000),
    "is endless": says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b" " * 9_000_000),
}


@pytest.mark.parametrize("vice", VICES)
def test_no_vice_holds_the_asker_up_or_passes_for_an_answer(
    vice: str, member: Callable[[Vice], Member]
) -> None:
    connection = Connection(member(VICES[vice]).endpoint, None)
    began = time.monotonic()
    with pytest.raises(NoAnswerError):
        connection.ask("/v3/kv/range", {}, {}, now() + PATIENCE_S)
    assert time.monotonic() - began < IN_TIME_S
    assert connection.sock is None


def test_who_is_not_there_has_not_been_asked() -> None:
    port, _ = free_ports()
    endpoint = Endpoint(f"http://127.0.0.1:{port}")
    with pytest.raises(NotSentError, match="not resolved"):
        Connection(endpoint, None).ask("/", {}, {}, now() + PATIENCE_S)
    endpoint.resolve()
    with pytest.raises(NotSentError, match="ECONNREFUSED"):
        Connection(endpoint, None).ask("/", {}, {}, now() + PATIENCE_S)


def test_one_connection_serves_many_questions_and_is_made_anew_when_closed(
    member: Callable[[Vice], Member],
) -> None:
    once = member(says(_OK))
    connection = Connection(once.endpoint, None)
    for _ in range(3):
        assert connection.ask("/", {}, {}, now() + IN_TIME_S) == (200, {})
    first = connection.sock
    once._open[0].shutdown(socket.SHUT_RDWR)
    assert connection.ask("/", {}, {}, now() + IN_TIME_S) == (200, {})
    assert connection.sock is not first
    assert len(once._open) == 2
    connection.close()


def test_who_is_slow_is_answered_in_a_later_turn(
    member: Callable[[Vice], Member], client: Callable[..., Client]
) -> None:
    def slow(sock: socket.socket) -> None:
        threading.Event().wait(1.5 * PATIENCE_S)
        sock.sendall(_OK)

    one = member(slow)
    answer = client(one.endpoint).ask("/v3/kv/txn", {}, now() + 2 * IN_TIME_S, "test")
    assert answer.doubtful
    assert len(one.seen) > 1


def test_the_next_member_is_asked_and_the_doubt_is_kept(
    member: Callable[[Vice], Member], client: Callable[..., Client]
) -> None:
    bad, good = member(VICES["hangs"]), member(says(_OK))
    both = client(bad.endpoint, good.endpoint)
    before = now()
    answer = both.ask("/v3/kv/txn", {}, now() + IN_TIME_S, "test")
    assert answer.doubtful
    assert answer.endpoint == str(good.endpoint)
    assert answer.sent >= before + PATIENCE_S  # of the try that was answered
    again = both.ask("/v3/kv/txn", {}, now() + IN_TIME_S, "test")
    assert not again.doubtful  # the good one goes first now
    assert b"".join(bad.seen).count(b"POST") == 1


def test_unreachable_and_unknown_are_told_apart(
    member: Callable[[Vice], Member], client: Callable[..., Client]
) -> None:
    port, _ = free_ports()
    nobody = Endpoint(f"http://127.0.0.1:{port}")
    nobody.resolve()
    with pytest.raises(UnreachableError, match="ECONNREFUSED"):
        client(nobody).ask("/", {}, now() + PATIENCE_S, "test")
    silent = member(VICES["hangs"])
    with pytest.raises(UnknownOutcomeError, match="timed out"):
        client(nobody, silent.endpoint, try_s=0.1).ask("/", {}, now() + PATIENCE_S, "test")


def test_a_refusal_after_a_try_without_an_answer_is_a_doubt(
    member: Callable[[Vice], Member], client: Callable[..., Client]
) -> None:
    silent, full = member(VICES["hangs"]), member(refuses(429, 8, _FULL))
    with pytest.raises(UnknownOutcomeError, match=f"timed out; .*{_FULL}"):
        client(silent.endpoint, full.endpoint).ask("/", {}, now() + IN_TIME_S, "test")


def test_an_address_that_leads_nowhere_leaves_time_for_the_next(
    member: Callable[[Vice], Member],
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as waits:
        waits.connect(full.getsockname())  # the next one's SYN is dropped
        one = member(says(_OK))
        one.endpoint.addresses.insert(0, (socket.AF_INET, full.getsockname()))
        connection = Connection(one.endpoint, None)
        assert connection.ask("/", {}, {}, now() + 2) == (200, {})
        connection.close()


@pytest.mark.parametrize("cluster", [{}, [1], "2", 2])
def test_a_member_of_another_cluster_is_not_believed(cluster: object) -> None:
    believed = Believed()
    believed.check({"header": {"cluster_id": "1"}})
    with pytest.raises(NotSentError, match="of another cluster"):
        believed.check({"header": {"cluster_id": cluster}})


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ((400, 3, "etcdserver: key is not provided"), RefusedError),
        ((403, 7, "etcdserver: permission denied"), RefusedError),
        ((429, 8, _FULL), RefusedError),
        ((429, 8, "etcdserver: too many requests"), UnknownOutcomeError),
        ((503, 14, "etcdserver: request timed out"), UnknownOutcomeError),
        ((503, 14, "etcdserver: leader changed"), UnknownOutcomeError),
        ((500, 2, "boom"), UnknownOutcomeError),
        ((504, 4, "context deadline exceeded"), UnknownOutcomeError),
    ],
)
def test_only_a_final_no_is_a_refusal(
    said: tuple[int, int, str],
    error: type,
    member: Callable[[Vice], Member],
    client: Callable[..., Client],
) -> None:
    one = member(refuses(*said))
    with pytest.raises(error, match=said[-1]) as raised:
        client(one.endpoint, try_s=0.2).ask("/", {}, now() + PATIENCE_S, "test")
    assert isinstance(raised.value, error)
