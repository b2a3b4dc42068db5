"""Does the client of the control pipe believe only what a guard says in time?"""

from __future__ import annotations

import os
import select
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LockError, UnsupportedError
from supervisor import client
from tests.support.scripted import GREETING, Connection, Control, Directory, answering

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Command = dict[str, object]

SOON_S = 0.05
PLENTY_S = 10.0


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    with Directory(str(tmp_path)) as made:
        yield made


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        yield process
        process.kill()


def is_readable(fd: int, within_s: float = 0) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def test_a_command_returns_its_own_answer_whatever_comes_between(directory: Directory) -> None:
    def reply(connection: Connection, command: Command) -> None:
        connection.say({"event": "LEASE_LOST", "data": {}})
        connection.say({"return": "of somebody else", "id": 0})
        connection.answer(command, [command["execute"], command["arguments"]])

    with Control(directory.path, answering(reply)), client.connect(directory.path) as guard:
        assert guard.execute("query-leases", {"a": 1}) == ["query-leases", {"a": 1}]
        assert [event["event"] for event in guard.events] == ["LEASE_LOST"]
        assert guard.execute("query-child") == ["query-child", {}]


def test_an_answer_may_arrive_byte_by_byte(directory: Directory) -> None:
    def reply(connection: Connection, command: Command) -> None:
        for byte in b'{"return": "\\u00e9", "id": %s}\r\n' % str(command["id"]).encode():
            connection.say_raw(bytes([byte]))

    with Control(directory.path, answering(reply)), client.connect(directory.path) as guard:
        assert guard.execute("query-status") == "\u00e9"


def test_a_pidfd_comes_with_the_answer_and_is_not_inherited(
    directory: Directory, sleeper: subprocess.Popen[bytes]
) -> None:
    theirs = os.pidfd_open(sleeper.pid)

    def reply(connection: Connection, command: Command) -> None:
        connection.answer(command, {"pid": sleeper.pid, "start_time": 7}, theirs)

    with Control(directory.path, answering(reply)):
        child = client.get_child(directory.path, pidfd=True)
        assert client.get_child(directory.path).pidfd is None
    assert (child.pid, child.start_time) == (sleeper.pid, 7)
    assert child.pidfd is not None
    assert not os.get_inheritable(child.pidfd)
    assert not is_readable(child.pidfd)
    sleeper.kill()
    assert is_readable(child.pidfd, PLENTY_S)
    os.close(child.pidfd)
    os.close(theirs)


def test_descriptors_that_nobody_took_are_closed(directory: Directory) -> None:
    def reply(connection: Connection, command: Command) -> None:
        connection.answer(command, {}, 0, 0, 0)

    before = len(os.listdir("/proc/self/fd"))
    with Control(directory.path, answering(reply)):
        with client.connect(directory.path) as guard:
            guard.execute("query-child")
            taken = guard.take_fd()
        assert taken is not None
        os.close(taken)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("wire", "kind", "code", "text"),
    [
        (
            {
                "class": "LeaseHeld",
                "desc": "ignored",
                "fields": {
                    "verb": "acquire",
                    "name": "disk a",
                    "reason": "held by b",
                    "advice": "wait",
                    "exit_code": 110,
                },
            },
            LeaseHeldError,
            110,
            "cannot acquire disk a: held by b; wait",
        ),
        (
            {"class": "Unsupported", "fields": {"verb": "attach", "name": "x", "reason": "no"}},
            UnsupportedError,
            111,
            "cannot attach x: no",
        ),
        (
            {
                "class": "NoSuchLease",
                "fields": {"verb": "detach", "name": "x", "reason": "none", "exit_code": 1},
            },
            LockError,
            1,
            "cannot detach x: none",
        ),
        (
            {"class": "GenericError", "desc": "what?"},
            LockError,
            111,
            "cannot ask the supervisor of guest 5f2c1d3e-0000-4000-8000-00000000000a: what?",
        ),
    ],
)
def test_an_error_comes_back_as_the_guard_raised_it(
    directory: Directory, wire: Command, kind: type[LockError], code: int, text: str
) -> None:
    def reply(connection: Connection, command: Command) -> None:
        connection.say({"error": wire, "id": command["id"]})

    with (
        Control(directory.path, answering(reply)),
        client.connect(directory.path) as guard,
        pytest.raises(LockError) as caught,
    ):
        guard.execute("acquire-resource")
    assert type(caught.value) is kind
    assert (caught.value.exit_code, str(caught.value)) == (code, text)


def test_silence_is_no_answer(directory: Directory) -> None:
    def reply(_connection: Connection, _command: Command) -> None:
        pass

    with Control(directory.path, answering(reply)), client.connect(directory.path) as guard:
        start = time.monotonic()
        with pytest.raises(client.NoAnswerError, match="in time"):
            guard.execute("query-status", timeout_s=SOON_S)
        assert SOON_S <= time.monotonic() - start < PLENTY_S


def test_a_late_answer_is_not_taken_for_the_next_one(directory: Directory) -> None:
    late: list[Command] = []

    def reply(connection: Connection, command: Command) -> None:
        if not late:
            late.append(command)
            return
        connection.answer(late[0], "late")
        connection.answer(command, "mine")

    with Control(directory.path, answering(reply)), client.connect(directory.path) as guard:
        with pytest.raises(client.NoAnswerError):
            guard.execute("first", timeout_s=SOON_S)
        assert guard.execute("second") == "mine"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "closed the connection"),
        (b'{"QMP": ', "closed the connection"),
        (b"HTTP/1.1 400\r\n", "does not speak JSON"),
        (b"[]\r\n", "no JSON object"),
    ],
)
def test_nonsense_is_no_answer(directory: Directory, said: bytes, reason: str) -> None:
    def talk(connection: Connection) -> None:
        connection.hear()
        connection.hear()
        connection.say_raw(said)

    with (
        Control(directory.path, talk),
        client.connect(directory.path) as guard,
        pytest.raises(client.NoAnswerError, match=reason),
    ):
        guard.execute("query-status", timeout_s=PLENTY_S)


def test_events_are_waited_for_to_the_end_of_the_connection(directory: Directory) -> None:
    def talk(connection: Connection) -> None:
        connection.say(GREETING)
        connection.hear()
        connection.say({"return": {}})
        connection.say({"event": "GUEST_EXITED", "data": {"status": 3}})

    with Control(directory.path, talk), client.connect(directory.path) as guard:
        assert guard.next_event(None)["data"] == {"status": 3}
        with pytest.raises(client.NoAnswerError, match="closed"):
            guard.next_event(None)


def test_a_path_longer_than_a_socket_address_is_reached(tmp_path: Path) -> None:
    base = tmp_path.joinpath(*["d" * 100] * 3)

    def reply(connection: Connection, command: Command) -> None:
        connection.answer(command, "here")

    with (
        Directory(str(base)) as far,
        Control(far.path, answering(reply)),
        client.connect(far.path) as guard,
    ):
        assert guard.execute("query-status") == "here"


def test_nobody_there_is_no_answer(directory: Directory, tmp_path: Path) -> None:
    for path in (directory.path, str(tmp_path / "missing")):
        with pytest.raises(client.NoAnswerError, match="No such file"):
            client.connect(path)
    with Control(directory.path, answering(lambda *_: None)):
        pass
    with pytest.raises(client.NoAnswerError, match="refused"):
        client.connect(directory.path)
