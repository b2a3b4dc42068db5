"""Does a refusal, or a question, name who has the disk?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import prctl
import pytest

from lockplugins.contract import LeaseHeldError, LeaseUnknownError, Mode, Resource
from lockplugins.file.plugin import FilePlugin
from tests.support.locking import READ, CopyingCarrier, Locker, is_free, until_waited_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def plugin() -> Iterator[FilePlugin]:
    carrier = CopyingCarrier()
    yield FilePlugin({}, carrier)
    carrier.close()


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "a.qcow2"
    path.touch()
    return str(path)


def refusal(plugin: FilePlugin, disk: str) -> LeaseHeldError:
    with pytest.raises(LeaseHeldError) as refused:
        plugin.acquire([Resource(disk)], None)
    return refused.value


def test_nobody_holds_a_free_disk(plugin: FilePlugin, disk: str) -> None:
    assert plugin.inquire(Resource(disk)) == []


@pytest.mark.parametrize("posix", [True, False], ids=["POSIX", "OFD"])
@pytest.mark.parametrize("kind", [READ, 1], ids=["shared", "exclusive"])
def test_the_holder_is_named_with_pid_command_and_mode(
    plugin: FilePlugin, disk: str, *, posix: bool, kind: int
) -> None:
    mode = Mode.SHARED if kind == READ else Mode.EXCLUSIVE
    with Locker(disk, kind=kind, posix=posix) as other:
        (holder,) = plugin.inquire(Resource(disk))
        error = refusal(plugin, disk)
    for seen in (holder, error.holder):
        assert seen is not None
        assert (seen.pid, seen.mode, seen.host) == (other.pid, mode, None)
        assert seen.description.startswith(f"process {other.pid} (python")
        assert f": {sys.executable} -I -S -c" in seen.description
        assert len(seen.description) < 160
    assert str(error) == (
        f"cannot acquire exclusive lease for disk {disk}: held by {holder.description}; "
        "stop the guest there or wait for it (--wait)"
    ).replace("\n", "\\x0a")


def test_all_sharers_are_named_ourselves_included(plugin: FilePlugin, disk: str) -> None:
    plugin.acquire([Resource(disk, Mode.SHARED)], None)
    with Locker(disk, kind=READ) as one, Locker(disk, kind=READ, posix=True) as two:
        holders = plugin.inquire(Resource(disk))
    assert {holder.pid for holder in holders} == {os.getpid(), one.pid, two.pid}
    assert {holder.mode for holder in holders} == {Mode.SHARED}


def test_inquire_changes_nothing(plugin: FilePlugin, disk: str) -> None:
    before = (os.stat(disk), os.listdir("/proc/self/fd"))
    with Locker(disk, posix=True):
        plugin.inquire(Resource(disk))
        assert not is_free(disk)
    plugin.inquire(Resource(disk))
    assert (os.stat(disk), os.listdir("/proc/self/fd")) == before


def test_locks_of_qemu_and_whole_file_flocks_do_not_hold_the_lease(
    plugin: FilePlugin, disk: str
) -> None:
    hold = f"flock {disk} sh -c 'echo; read _'"
    with (
        Locker(disk, kind=READ, byte=100),
        Locker(disk, byte=1),
        subprocess.Popen(
            ["sh", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as flock,
    ):
        assert flock.stdout is not None
        assert flock.stdout.readline() == b"\n"
        assert plugin.inquire(Resource(disk)) == []
        flock.communicate(b"\n", timeout=20)


def test_a_waiter_is_no_holder(plugin: FilePlugin, disk: str) -> None:
    script = f"""
import fcntl, struct
file = open({disk!r}, "r+")
print(flush=True)
fcntl.fcntl(file, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", 1, 0, 0, 1, 0))
"""
    with Locker(disk, posix=True) as other:
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as waiter:
            assert waiter.stdout is not None
            waiter.stdout.readline()
            until_waited_for(disk)
            holders = plugin.inquire(Resource(disk))
            waiter.kill()
        assert [holder.pid for holder in holders] == [other.pid]


def test_a_lock_that_is_only_in_flight_is_held_by_nobody_that_can_be_seen(
    plugin: FilePlugin, disk: str
) -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sender, receiver:
        carrier = CopyingCarrier()
        other = FilePlugin({}, carrier)
        other.acquire([Resource(disk)], None)
        (fd,) = (file.fd for file in other._held.values())
        socket.send_fds(sender, [b"x"], [fd])
        carrier.close()
        os.close(fd)
        error = refusal(plugin, disk)
        assert error.holder is not None
        assert error.holder.pid is None
        assert "cannot be seen from here" in str(error)
        (holder,) = plugin.inquire(Resource(disk))
        assert (holder.pid, holder.mode) == (None, Mode.EXCLUSIVE)
    plugin.acquire([Resource(disk)], None)


@pytest.fixture
def unreadable_disk() -> Iterator[str]:
    """Of mode 0000, and we are not root while it exists."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103  # another user has to get in
        path = f"{directory}/disk"
        os.close(os.open(path, os.O_CREAT, 0o600))
        yield path


@pytest.fixture
def as_nobody(unreadable_disk: str) -> Iterator[str]:
    """Be another user while the disk exists; from its end on, root again."""
    if os.geteuid() != 0:
        pytest.skip("needs another user's file")
    os.seteuid(65534)
    prctl.set_dumpable(True)  # or /proc/self would belong to root from now on
    yield unreadable_disk
    os.seteuid(0)
    prctl.set_dumpable(True)


@pytest.mark.parametrize("posix", [True, False], ids=["POSIX", "OFD"])
def test_who_holds_what_may_not_be_opened_is_told_from_the_kernels_list(
    plugin: FilePlugin, as_nobody: str, *, posix: bool
) -> None:
    os.seteuid(0)
    with Locker(as_nobody, posix=posix) as other:
        os.seteuid(65534)
        prctl.set_dumpable(True)
        (holder,) = plugin.inquire(Resource(as_nobody))
        os.seteuid(0)
    assert (holder.pid, holder.mode) == (other.pid if posix else None, Mode.EXCLUSIVE)


def test_what_may_not_be_opened_and_nobody_is_seen_to_hold_cannot_be_told(
    plugin: FilePlugin, as_nobody: str
) -> None:
    with pytest.raises(LeaseUnknownError, match=r"cannot tell who holds disk .*EACCES"):
        plugin.inquire(Resource(as_nobody))
