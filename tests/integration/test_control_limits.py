"""Can many clients, slow ones or strangers keep the control pipe from the others?"""

from __future__ import annotations

import os
import pwd
import resource
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from supervisor.qmp.server import MAX_CLIENTS
from tests.support import waiting
from tests.support.wire import DEADLINE_S, Closed, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Guard, Guards

ANSWER_S = 1.0
FLOODED_S = 3.0
CROWD = 1000
STATUS = b'{"execute": "query-status"}'
# Connects as whoever it is to ./control, says how that went, then what it was told.
_STRANGER = """
import socket
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(20)
sock.connect("control")
print("connected", sock.recv(100)[:6])
"""
# Keeps sending on many connections, without reading, and connects anew whenever it is dropped.
_FLOOD = """
import os, select, socket, sys
count, data = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
os.chdir(sys.argv[3])
def connect():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect("control")
    sock.setblocking(False)
    sock.send(b'{"execute": "qmp_capabilities"}')
    return sock
crowd = [connect() for _ in range(count)]
os.write(1, b"flooding")
while True:
    for index, sock in enumerate(crowd):
        try:
            sock.send(data)
        except BlockingIOError:
            continue
        except OSError:
            sock.close()
            crowd[index] = connect()
"""


@pytest.fixture
def guard(guards: Guards, tmp_path: Path) -> Guard:
    disk = tmp_path / "disk"
    disk.touch()
    return guards.run(disk)


@pytest.fixture
def connect(guard: Guard) -> Iterator[Callable[..., Wire]]:
    """Connect to the guard, as often as a test likes."""
    open_wires: list[Wire] = []

    def connected(*, negotiate: bool = True) -> Wire:
        open_wires.append(Wire(f"{guard.path}/control", negotiate=negotiate))
        return open_wires[-1]

    yield connected
    for wire in open_wires:
        wire.close()


def ask(wire: Wire, guard: Guard) -> None:
    """GetChild has its answer in time."""
    start = time.monotonic()
    assert wire.execute("query-child")["pid"] == guard.child_pid
    assert time.monotonic() - start < ANSWER_S


def is_closed(wire: Wire) -> bool:
    """Has the guard closed this connection, by now?"""
    poll = select.poll()  # not select(2): a crowd's descriptors are beyond 1023
    poll.register(wire.sock, select.POLLIN)
    try:
        while poll.poll(0):
            wire.message(0)
    except (Closed, AssertionError):
        return True
    return False


def test_sixty_four_clients_are_kept_and_the_longest_silent_is_displaced(
    guard: Guard, connect: Callable[..., Wire]
) -> None:
    crowd = [connect() for _ in range(MAX_CLIENTS)]
    for wire in crowd:
        ask(wire, guard)
    ask(crowd[0], guard)  # so that the second is the longest silent
    ask(connect(), guard)
    assert [index for index, wire in enumerate(crowd) if is_closed(wire)] == [1]
    for wire in crowd[2:]:
        ask(wire, guard)
    ask(connect(), guard)
    assert [index for index, wire in enumerate(crowd) if is_closed(wire)] == [0, 1]


def test_a_thousand_clients_come_and_stay_silent(
    guard: Guard, connect: Callable[..., Wire]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, CROWD * 2), hard))
    try:
        asker = connect()
        crowd = []
        for number in range(CROWD):
            crowd.append(connect(negotiate=bool(number % 2)))
            if number % 10 == 0:
                ask(asker, guard)
        assert sum(not is_closed(wire) for wire in crowd) == MAX_CLIENTS - 1
        ask(asker, guard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_that_never_reads_is_dropped_and_the_others_are_not(
    guard: Guard, connect: Callable[..., Wire]
) -> None:
    asker, deaf = connect(), connect()
    deaf.sock.setblocking(False)
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        ask(asker, guard)
        try:
            deaf.sock.send(STATUS * 100)
        except BlockingIOError:
            continue
        except OSError:
            return
    pytest.fail("the one that never reads is still connected")


def test_one_that_reads_late_gets_every_answer(guard: Guard, connect: Callable[..., Wire]) -> None:
    slow, asker = connect(), connect()
    for _ in range(300):
        slow.send(b'{"execute": "query-leases"}')
    ask(asker, guard)
    assert [set(slow.message()) for _ in range(300)] == [{"return"}] * 300


def test_half_a_command_keeps_nobody_waiting(guard: Guard, connect: Callable[..., Wire]) -> None:
    half, asker = connect(), connect()
    half.send(b'{"execute": "query-chi')
    ask(asker, guard)
    ask(connect(), guard)
    half.send(b'ld", "id": [1, {"a": "}"}]}')
    answer = half.message()
    assert answer["id"] == [1, {"a": "}"}]
    assert answer["return"]["pid"] == guard.child_pid


@pytest.mark.parametrize(
    "data",
    [b"x\n" * 512, STATUS * 40, b"[" * 1024, b'{"a":' * 20, b'{"id": "' + b"x" * 1024],
    ids=["garbage", "questions", "brackets", "braces", "string"],
)
def test_a_flood_leaves_time_for_others(
    guard: Guard, connect: Callable[..., Wire], data: bytes
) -> None:
    flood = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FLOOD, str(MAX_CLIENTS - 1), data.hex(), guard.path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert flood.stdout is not None
        waiting.readable(flood.stdout.fileno(), DEADLINE_S, "the flood has begun")
        for _ in range(30):
            start = time.monotonic()
            wire = connect()  # an older client might be the longest silent by now
            assert wire.execute("query-child")["pid"] == guard.child_pid
            assert time.monotonic() - start < FLOODED_S
            wire.close()
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.communicate(timeout=DEADLINE_S)


@pytest.mark.parametrize(
    "data",
    [b"x\n" * 8192, STATUS * 600, b"{}" * 8192, b'{"a": "' + b"x" * 16000],
    ids=["garbage", "questions", "nothing", "string"],
)
def test_all_who_speak_at_once_have_their_turn(
    guard: Guard, connect: Callable[..., Wire], data: bytes
) -> None:
    """Sixty-three clients with full buffers, all waiting when the guard comes to itself."""
    crowd = [connect() for _ in range(MAX_CLIENTS - 1)]
    asker = connect()
    signal.pidfd_send_signal(guard.pidfd, signal.SIGSTOP)
    for wire in crowd:
        wire.sock.setblocking(False)
        wire.sock.send(data)
    number = asker.ask("query-child")
    start = time.monotonic()
    signal.pidfd_send_signal(guard.pidfd, signal.SIGCONT)
    assert asker.answer(number)["pid"] == guard.child_pid
    assert time.monotonic() - start < ANSWER_S / 2


def stranger(directory: str, user: str) -> subprocess.CompletedProcess[str]:
    """Connect to ./control as `user`."""
    account = pwd.getpwnam(user)
    return subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-c", _STRANGER],
        cwd=directory,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_the_files_keep_a_foreign_uid_out(guard: Guard) -> None:
    assert oct(os.stat(guard.path).st_mode & 0o7777) == "0o700"
    assert oct(os.stat(f"{guard.path}/control").st_mode & 0o7777) == "0o600"
    assert "PermissionError" in stranger(guard.path, "nobody").stderr


def test_a_foreign_uid_that_gets_to_the_socket_is_refused(
    guard: Guard, connect: Callable[..., Wire]
) -> None:
    asker = connect()
    # Its own directory alone: where a process stands already, no path leads there.
    os.chmod(guard.path, 0o711)  # noqa: S103 - so that the guard is the only one to refuse
    os.chmod(f"{guard.path}/control", 0o666)  # noqa: S103 - as above
    refused = stranger(guard.path, "nobody")
    assert refused.stdout == "connected b''\n", refused.stderr
    allowed = stranger(guard.path, "root")
    assert allowed.stdout == "connected b'{\"QMP\"'\n", allowed.stderr
    ask(asker, guard)


def test_a_client_that_leaves_at_once_costs_nothing(
    guard: Guard, connect: Callable[..., Wire]
) -> None:
    asker = connect()
    ask(asker, guard)
    before = len(os.listdir(f"/proc/{guard.pid}/fd"))
    for _ in range(CROWD):
        connect(negotiate=False).close()
    ask(asker, guard)
    waiting.until(
        lambda: len(os.listdir(f"/proc/{guard.pid}/fd")) <= before, DEADLINE_S, "none is left"
    )
