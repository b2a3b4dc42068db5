"""Does the guest find the descriptors that the launcher passed? By number, and one of ours.

Compared with the same command run bare by the same launcher: what each number
is, its offset and flags, and that it is the launcher's own open file.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from lockplugins.contract import Resource
from supervisor import records
from supervisor.spec import Containment
from tests.support import insight, prefixes, waiting
from tests.support.guard import DEADLINE_S
from tests.support.launcher import Launcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guard, Guards

FIRST_HIGH = 200
SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture
def passed(tmp_path: Path) -> Iterator[list[int]]:
    """Open one of each kind of descriptor, and one of each once more at 200 and above."""
    with ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        file = tmp_path / "file"
        file.write_bytes(bytes(5000))
        for part in socket.socketpair():
            keep(part.detach())
        listener = socket.socket(socket.AF_INET)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        opened = [*map(keep, os.pipe()), *map(keep, os.pipe2(os.O_NONBLOCK)), keep(os.eventfd(7))]
        opened += [
            keep(listener.detach()),
            keep(os.memfd_create("memory")),
            *map(keep, os.openpty()),
        ]
        flags = (os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_NONBLOCK, os.O_PATH)
        opened += [keep(os.open(file, flag)) for flag in flags]
        opened += [keep(os.open(tmp_path, os.O_DIRECTORY)), keep(os.open("/dev/null", os.O_WRONLY))]
        os.lseek(opened[-6], 1234, os.SEEK_SET)
        gone = tmp_path / "gone"
        opened.append(keep(os.open(gone, os.O_RDWR | os.O_CREAT)))
        gone.unlink()
        epoll = select.epoll()
        stack.callback(epoll.close)
        epoll.register(opened[0], select.EPOLLIN)
        opened.append(epoll.fileno())
        again = [keep(fcntl.fcntl(fd, fcntl.F_DUPFD, FIRST_HIGH)) for fd in opened]
        opened.append(keep(fcntl.fcntl(opened[0], fcntl.F_DUPFD, 1000)))
        yield opened + again


def extra(guard: Guard, bare_pid: int) -> dict[int, tuple[str, bytes]]:
    """Return what the guest has open beyond what the bare command has; fails if it lacks any."""
    expected = insight.descriptors(bare_pid)
    found = insight.descriptors(guard.child_pid)
    assert {fd: found.get(fd) for fd in expected} == expected
    return {fd: seen for fd, seen in found.items() if fd not in expected}


def carrier(guard: Guard) -> str:
    guest = records.read_guest(guard.path)
    assert guest is not None
    return f"socket:[{guest['carrier_inode']}]"


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("limit", [None, (16, 2000)], ids=["", "more than it may have"])
def test_every_descriptor_arrives_by_number_and_one_of_ours(
    guards: Guards, passed: list[int], way: str, limit: tuple[int, int] | None
) -> None:
    launcher = Launcher(limits={"RLIMIT_NOFILE": limit} if limit else {})
    guard = prefixes.idling(guards, way, launcher, pass_fds=passed, popen=SILENT)
    with prefixes.bare(launcher, pass_fds=passed, **SILENT) as bare_pid:
        ours = extra(guard, bare_pid)
    assert [what for what, _info in ours.values()] == [carrier(guard)]
    assert min(ours) >= FIRST_HIGH
    assert all(insight.same_file(guard.pid, guard.child_pid, fd) for fd in (0, 1, 2, *passed))


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_qemu_has_the_monitor_besides(guards: Guards, tmp_path: Path, way: str) -> None:
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("#!/bin/busybox sh\nread line\n")
    qemu.chmod(0o755)
    guard = prefixes.start(guards, way, [str(qemu)], stdin=subprocess.PIPE).ready()
    prefixes.settle(guard.child_pid)
    found = insight.descriptors(guard.child_pid)
    ours = [what for fd, (what, _info) in found.items() if fd > 2 and what.startswith("socket:")]
    assert len(ours) == 2
    assert carrier(guard) in ours
    assert guard.process.stdin is not None
    guard.process.stdin.close()


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_a_closed_standard_descriptor_stays_closed(
    guards: Guards, way: str, closed: list[int]
) -> None:
    launcher = Launcher(closed=closed)
    guard = prefixes.idling(guards, way, launcher, popen=SILENT)
    with prefixes.bare(launcher, **SILENT) as bare_pid:
        assert not set(closed) & set(insight.descriptors(bare_pid))
        assert [what for what, _info in extra(guard, bare_pid).values()] == [carrier(guard)]


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_what_is_for_the_guard_ends_there(guards: Guards, way: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        fields = {"handshake_fd": fd}
        guard = prefixes.start(guards, way, fields=fields, pass_fds=[fd], **SILENT)
        waiting.readable(ours.fileno(), DEADLINE_S, "the guard says ACQUIRED")
        assert ours.recv(64) == b"ACQUIRED\n"
        ours.send(b"GO\n")
        guard.ready()
        prefixes.settle(guard.child_pid)
    assert guard.spec.ready_fd not in insight.descriptors(guard.child_pid)
    with prefixes.bare(Launcher(), **SILENT) as bare_pid:
        assert [what for what, _info in extra(guard, bare_pid).values()] == [carrier(guard)]


@pytest.mark.parametrize("containment", [Containment.PDEATHSIG, Containment.PIDNS])
def test_what_is_told_on_a_standard_descriptor_leaves_the_guest_none_that_is_closed(
    command: Command, containment: str
) -> None:
    """Closed, it would be the guest's next file: a disk, with what the guest says written to it."""
    words = ("run", "--no-discover", "--name", "told", "--containment", containment)
    process = command.start(*words, "--ready-fd", "1", "--", "sleep", "1000000").process
    assert process.stdout is not None
    said = process.stdout.read()  # to its end, while the guest runs
    assert said.startswith("READY child=")
    pid = int(said.split()[1].removeprefix("child="))
    assert os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"
    assert command("kill", "told").code == 0


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_ours_keep_clear_of_numbers_that_are_passed_or_named(guards: Guards, way: str) -> None:
    command = ["busybox", "sh", "-c", "read line", "-m", "200", "socket,fd=201,x=202", "203:204"]
    with ExitStack() as stack:
        fds = [os.dup(0)]
        while fds[-1] < FIRST_HIGH + 8:
            fds.append(fcntl.fcntl(0, fcntl.F_DUPFD, FIRST_HIGH + 5))
        for fd in fds:
            stack.callback(os.close, fd)
        guard = prefixes.start(
            guards, way, command, pass_fds=fds, stdin=subprocess.PIPE, **SILENT
        ).ready()
    prefixes.settle(guard.child_pid)
    found = insight.descriptors(guard.child_pid)
    (number,) = [fd for fd, (what, _info) in found.items() if what == carrier(guard)]
    assert number > FIRST_HIGH + 8
    assert set(found) == {0, 1, 2, number, *fds}
    assert guard.process.stdin is not None
    guard.process.stdin.close()


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_the_launchers_locks_last_as_long_as_the_guest(
    guards: Guards, tmp_path: Path, way: str
) -> None:
    posix, flock, disk = (tmp_path / name for name in ("posix", "flock", "disk"))
    with ExitStack() as stack:
        opened = []
        for path in (posix, flock, disk):
            path.write_bytes(bytes(5000))
            opened.append(stack.enter_context(path.open("r+b")).fileno())
        fcntl.flock(opened[1], fcntl.LOCK_EX)
        launcher = Launcher(posix_locks=[(opened[0], 0), (opened[2], 4000)])
        resources = [Resource(str(disk))]
        guard = prefixes.idling(
            guards, way, launcher, pass_fds=opened, plugin="file", resources=resources
        )
    assert (posix_holder(posix, 0), posix_holder(disk, 4000)) == (guard.pid, guard.pid)
    assert not flock_is_free(flock)
    guard.kill()
    assert (posix_holder(posix, 0), posix_holder(disk, 4000)) == (0, 0)
    assert flock_is_free(flock)


def posix_holder(path: Path, byte: int) -> int:
    """Return who has a POSIX lock on `byte`, 0 for nobody."""
    probe = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    with path.open("r+b") as file:
        kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, probe))
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def flock_is_free(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
