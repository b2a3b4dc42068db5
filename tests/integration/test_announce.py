"""Who is told what about a launch? READY or ERROR, and the handshake."""

from __future__ import annotations

import copy
import fcntl
import os
import select
import signal
import socket
import struct
import termios
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import render
from tests.support import insight, locking, prefixes, waiting
from tests.support.guard import DEADLINE_S, descendants

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from supervisor.spec import GuestSpec
    from tests.support.guard import Guard, Guards

UCRED = struct.Struct("3i")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a launcher's socket; the test closes the guard's once it is passed on."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(DEADLINE_S)
        yield ours, theirs


def offered(
    guards: Guards, ends: tuple[socket.socket, socket.socket], disk: Path, way: str = "pdeathsig"
) -> Guard:
    """Start a guard of `touch DISK.ran`, which waits for GO with the lease on `disk`."""
    ours, theirs = ends
    disk.write_bytes(bytes(4096))
    spec = guards.spec(disk, handshake_fd=theirs.fileno())
    fields = {"plugin": "file", "resources": spec.resources, "handshake_fd": theirs.fileno()}
    command = ["/bin/busybox", "touch", f"{disk}.ran"]
    guard = prefixes.start(guards, way, command, pass_fds=[theirs.fileno()], fields=fields)
    theirs.close()
    assert ours.recv(64) == b"ACQUIRED\n"
    return guard


def has_run(disk: Path) -> bool:
    return disk.with_name(f"{disk.name}.ran").exists()


def rest(guard: Guard) -> bytes:
    """Return what follows on --ready-fd until the guard has closed it."""
    waiting.readable(guard._ready_fd, DEADLINE_S, "the guard closes --ready-fd")
    return os.read(guard._ready_fd, 4096)


# -- READY and ERROR


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_ready_names_the_guest_and_is_all(guards: Guards, way: str) -> None:
    guard = prefixes.start(guards, way)
    line = guard.line()
    child = int(line.removeprefix("READY child="))
    assert line == f"READY child={child}\n"
    assert child in descendants(guard.pid)
    prefixes.settle(child)
    assert os.readlink(f"/proc/{child}/exe") == os.path.realpath(prefixes.IDLE[0])
    assert rest(guard) == b""
    assert guard.process.poll() is None


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize(
    ("command", "code"), [("/nowhere\n\x1b[31m\udcff", 127), ("/etc/passwd", 126), ("/usr", 126)]
)
def test_error_is_one_line_with_the_exit_code(
    guards: Guards, way: str, command: str, code: int
) -> None:
    guard = prefixes.start(guards, way, [command])
    line = guard.line()
    ended = guard.wait()
    assert ended.code == code
    assert line.startswith(f"ERROR {code} cannot run /")
    assert line.endswith("; leases released\n")
    assert line.count("\n") == 1
    assert ended.stderr == f"lock-supervisor: {line.removeprefix(f'ERROR {code} ')}"
    assert "\x1b" not in line
    assert rest(guard) == b""


def test_a_fifo_is_no_command_to_wait_for(guards: Guards, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o755)
    assert prefixes.start(guards, "pdeathsig", [str(tmp_path / "fifo")]).refused().code == 126


def test_a_guest_that_ends_at_once_was_ready(guards: Guards) -> None:
    for _ in range(20):
        guard = prefixes.start(guards, "pdeathsig", ["/bin/busybox", "true"])
        assert guard.line().startswith("READY child=")
        assert guard.wait().code == 0


def test_a_child_killed_before_it_runs_is_an_error(
    guards: Guards, ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    guard = offered(guards, ends, tmp_path / "disk")
    (child,) = descendants(guard.pid)
    os.kill(child, signal.SIGKILL)
    assert guard.line().startswith("ERROR 137 cannot start guest guest: ")
    assert guard.wait().code == 137


def test_a_launcher_that_does_not_listen_any_more_does_no_harm(guards: Guards) -> None:
    guard = prefixes.start(guards, "pdeathsig", ["/bin/busybox", "sh", "-c", "exit 5"])
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, guard._ready_fd)  # closes the only reading end
    os.close(null)
    assert guard.wait().code == 5


def test_a_launcher_that_never_reads_holds_nothing_up(guards: Guards) -> None:
    read_fd, write_fd = os.pipe()
    fill(write_fd)
    try:
        guard = guards.start(
            guards.spec(plugin="nop"),
            ["/bin/busybox", "sh", "-c", "exit 6"],
            argv_of=lambda spec: told_at(spec, write_fd),
            pass_fds=[write_fd],
            stderr=write_fd,
        )
        assert guard.wait().code == 6
        os.read(read_fd, select.PIPE_BUF)  # less room than for what is to be said
        refused = guards.start(
            guards.spec(plugin="nop"),
            ["/nowhere" + "/x" * 50_000],
            argv_of=lambda spec: told_at(spec, write_fd),
            pass_fds=[write_fd],
            stderr=write_fd,
        )
        assert refused.wait().code == 126
    finally:
        os.close(read_fd)
        os.close(write_fd)


def fill(fd: int) -> None:
    while select.select([], [fd], [], 0)[1]:
        os.write(fd, bytes(select.PIPE_BUF))


def told_at(spec: GuestSpec, ready_fd: int) -> list[str]:
    """Return the argv of a guard that is told another --ready-fd than the helper's."""
    other = copy.copy(spec)
    other.ready_fd = ready_fd
    return render(other)


@pytest.mark.parametrize("key", ["ready_fd", "handshake_fd"])
def test_a_descriptor_that_is_not_open_is_refused_before_anything(
    guards: Guards, tmp_path: Path, key: str
) -> None:
    def argv_of(spec: GuestSpec) -> list[str]:
        other = copy.copy(spec)
        setattr(other, key, 77)
        return render(other)

    guard = guards.start(guards.spec(plugin="nop"), prefixes.IDLE, argv_of=argv_of)
    ended = guard.wait()
    assert ended.code == 2
    assert ended.stderr.startswith("lock-supervisor: cannot start the guard: descriptor 77 is not")
    line = guard.line()
    assert line == (
        "" if key == "ready_fd" else ended.stderr.replace("lock-supervisor:", "ERROR 2")
    )
    assert not (tmp_path / "run").exists()


# -- the handshake


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_between_acquired_and_go_the_lease_is_held_and_nothing_runs(
    guards: Guards, ends: tuple[socket.socket, socket.socket], tmp_path: Path, way: str
) -> None:
    disk = tmp_path / "disk"
    guard = offered(guards, ends, disk, way)
    assert not locking.is_free(disk)
    programs = {os.readlink(f"/proc/{pid}/exe") for pid in descendants(guard.pid)}
    assert programs == {os.path.realpath("/usr/bin/python3")}
    ends[0].send(b"GO\n")
    assert guard.line().startswith("READY child=")
    assert guard.wait().code == 0
    assert has_run(disk)


def test_go_may_come_byte_by_byte(
    guards: Guards, ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    guard = offered(guards, ends, tmp_path / "disk")
    for byte in b"GO\n":
        ends[0].send(bytes([byte]))
        waiting.until(lambda: not unread(ends[0]), DEADLINE_S, "the guard has taken it")
    assert guard.wait().code == 0
    assert has_run(tmp_path / "disk")


def unread(sender: socket.socket) -> int:
    """Return how many bytes the other end has not taken yet."""
    buffer = fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(buffer, "little")


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize(
    "answer",
    [b"", b"G", b"GO", b"GO ", b"go\n", b"NO\n", b"\n", b"GOGO\n", b" GO\n", b"\0", b"x" * 500],
)
def test_anything_but_go_releases_and_nothing_runs(
    guards: Guards,
    ends: tuple[socket.socket, socket.socket],
    tmp_path: Path,
    way: str,
    answer: bytes,
) -> None:
    disk = tmp_path / "disk"
    guard = offered(guards, ends, disk, way)
    ends[0].send(answer)
    ends[0].shutdown(socket.SHUT_WR)
    assert guard.line().startswith("ERROR 111 cannot start guest guest: the launcher did not say")
    assert guard.wait().code == 111
    assert locking.is_free(disk)
    assert not has_run(disk)


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_a_launcher_that_is_gone_before_acquired_is_no_go(guards: Guards, way: str) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        fields = {"handshake_fd": theirs.fileno()}
        guard = prefixes.start(guards, way, fields=fields, pass_fds=[theirs.fileno()])
    assert guard.refused().code == 111


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_go_releases_and_nothing_runs(
    guards: Guards, ends: tuple[socket.socket, socket.socket], tmp_path: Path, way: str, number: int
) -> None:
    disk = tmp_path / "disk"
    guard = offered(guards, ends, disk, way)
    os.kill(guard.pid, number)
    assert guard.refused().code == 128 + number
    assert locking.is_free(disk)
    assert not has_run(disk)


def test_one_socket_can_serve_for_all(
    guards: Guards, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    fd = theirs.fileno()
    guard = guards.start(
        guards.spec(plugin="nop", handshake_fd=fd),
        prefixes.IDLE,
        argv_of=lambda spec: told_at(spec, fd),
        pass_fds=[fd],
    )
    theirs.close()
    assert ours.recv(64) == b"ACQUIRED\n"
    ours.send(b"GO\n")
    child = int(ours.recv(64).removeprefix(b"READY child="))
    prefixes.settle(child)
    assert fd not in insight.descriptors(child)
    assert guard.process.poll() is None


# -- the service manager
