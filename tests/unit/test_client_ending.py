"""Is a guest called gone only when guard, guest and every carrier of its leases are?"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LockError
from supervisor import ending, finding, rundir
from supervisor.ending import UnkillableError, Witnesses
from tests.support.scripted import Directory, child_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., subprocess.Popen[bytes]]

SOON_S = 0.05
PLENTY_S = 10.0
USER = 64055  # libvirt-qemu


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that sleep, and end them with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def sleeping(*inherited: int, user: int | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["/bin/sleep", "1000"], pass_fds=inherited, user=user)
        started.append(process)
        return process

    yield sleeping
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def carrier() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield theirs


def supervised_by(pid: int) -> dict[str, object]:
    return {"supervisor_pid": pid, "supervisor_start_time": rundir.start_time(pid)}


def test_a_guest_is_gone_when_guard_and_child_are(tmp_path: Path, start: Start) -> None:
    guard, child = start(), start()
    fields = {**supervised_by(guard.pid), **child_of(child.pid)}
    with Directory(str(tmp_path), fields) as made:
        guest = finding.Guest(made.path, guarded=True)
        with Witnesses(guest) as witnesses:
            for left in (guard, child):
                with pytest.raises(UnkillableError, match="nothing was released"):
                    witnesses.wait(SOON_S)
                left.kill()
                left.wait()
            witnesses.wait(SOON_S)


def test_a_guest_is_not_gone_while_anybody_carries_its_leases(
    tmp_path: Path, start: Start, carrier: socket.socket
) -> None:
    guard, grandchild = start(), start(carrier.fileno())
    inode = os.fstat(carrier.fileno()).st_ino
    carrier.close()
    assert ending.carriers(inode) == [grandchild.pid]
    with Directory(str(tmp_path), {**supervised_by(guard.pid), "carrier_inode": inode}) as made:
        guard.kill()
        guard.wait()
        made.die()
        with Witnesses(finding.Guest(made.path, guarded=False)) as witnesses:
            with pytest.raises(UnkillableError, match=f"process {grandchild.pid}, which carries"):
                witnesses.wait(SOON_S)
            grandchild.kill()
            grandchild.wait()
            witnesses.wait(SOON_S)


def test_a_carrier_that_comes_late_is_waited_for(tmp_path: Path, carrier: socket.socket) -> None:
    inode = os.fstat(carrier.fileno()).st_ino
    with subprocess.Popen(
        ["/bin/sh", "-c", "read _; /bin/sleep 30 & echo $!"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[carrier.fileno()],
    ) as guard:
        carrier.close()
        fields = {**supervised_by(guard.pid), "carrier_inode": inode}
        with (
            Directory(str(tmp_path), fields) as made,
            Witnesses(finding.Guest(made.path, guarded=True)) as witnesses,
        ):
            assert guard.stdin is not None
            assert guard.stdout is not None
            guard.stdin.write(b"\n")
            guard.stdin.flush()
            heir_pidfd = os.pidfd_open(int(guard.stdout.readline()))
            guard.wait()
            with pytest.raises(UnkillableError, match="which carries"):
                witnesses.wait(SOON_S)
            signal.pidfd_send_signal(heir_pidfd, signal.SIGKILL)
            os.close(heir_pidfd)
            witnesses.wait(PLENTY_S)


def test_the_carrier_of_another_boot_means_nothing(
    tmp_path: Path, start: Start, carrier: socket.socket
) -> None:
    start(carrier.fileno())
    fields = {"carrier_inode": os.fstat(carrier.fileno()).st_ino, "boot_id": "another"}
    with (
        Directory(str(tmp_path), fields, guarded=False) as made,
        Witnesses(finding.Guest(made.path, guarded=False)) as witnesses,
    ):
        witnesses.wait(SOON_S)


def test_a_pid_that_was_used_again_is_neither_signalled_nor_waited_for(
    tmp_path: Path, start: Start
) -> None:
    stranger = start()
    started = rundir.start_time(stranger.pid)
    assert started is not None
    fields: dict[str, object] = {
        "supervisor_pid": stranger.pid,
        "supervisor_start_time": started - 1,
        "child_pid": stranger.pid,
        "child_start_time": started - 1,
    }
    with Directory(str(tmp_path), fields, guarded=False) as made:
        ending.revoke(finding.Guest(made.path, guarded=False), SOON_S)
        assert not os.path.exists(made.path)
    assert stranger.poll() is None


def test_a_living_guard_that_guest_json_does_not_name_is_a_doubt(
    tmp_path: Path, start: Start
) -> None:
    fields = supervised_by(start().pid)
    with Directory(str(tmp_path), {**fields, "supervisor_start_time": 1}) as made:
        with pytest.raises(UnkillableError, match=r"guest\.json does not name its supervisor"):
            ending.revoke(finding.Guest(made.path, guarded=True), SOON_S)
        os.unlink(made.file("guest.json"))
        with pytest.raises(UnkillableError, match=r"guest\.json does not name its supervisor"):
            ending.revoke(finding.Guest(made.path, guarded=True), SOON_S)


def test_a_guard_is_not_signalled_when_its_lock_is_free(tmp_path: Path, start: Start) -> None:
    process = start()
    with (
        Directory(str(tmp_path), supervised_by(process.pid), guarded=False) as made,
        Witnesses(finding.Guest(made.path, guarded=False)) as witnesses,
    ):
        witnesses.signal_guard(signal.SIGKILL)
        assert not witnesses.guard_is_gone(SOON_S)
    assert process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="the directory of another user needs root")
@pytest.mark.parametrize("named", ["supervisor", "child"])
@pytest.mark.parametrize("theirs", ["directory", "base", "link"])
def test_another_user_cannot_have_root_end_a_process(
    tmp_path: Path, start: Start, named: str, theirs: str
) -> None:
    victim = start()
    fields = supervised_by(victim.pid)
    if named == "child":
        fields = {"supervisor_pid": None, **child_of(victim.pid)}
    with Directory(str(tmp_path / "base"), fields, guarded=named == "supervisor") as made:
        guest = finding.Guest(made.path, guarded=named == "supervisor")
        if theirs == "link":
            (elsewhere := tmp_path / "elsewhere").mkdir()
            guest.path = str(elsewhere / guest.uuid)
            os.symlink(made.path, guest.path)
            os.chown(elsewhere, USER, USER)
        else:
            os.chown(made.path if theirs == "directory" else tmp_path / "base", USER, USER)
        with pytest.raises(LockError, match=f"user {USER}'s, and names process {victim.pid}, "):
            ending.revoke(guest)
    assert victim.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="the directory of another user needs root")
def test_root_ends_another_users_guest(tmp_path: Path, start: Start) -> None:
    guard, child = start(user=USER), start(user=USER)
    fields = {**supervised_by(guard.pid), **child_of(child.pid)}
    with Directory(str(tmp_path / "base"), fields) as made:
        for path in (os.path.dirname(made.path), made.path):
            os.chown(path, USER, USER)
        guest = finding.Guest(made.path, guarded=True)
        with Witnesses(guest) as witnesses:
            witnesses.signal_guard(signal.SIGKILL)
            witnesses.fence()
            witnesses.wait(PLENTY_S)
    assert (guard.wait(PLENTY_S), child.wait(PLENTY_S)) == (-signal.SIGKILL, -signal.SIGKILL)


def test_no_descriptor_is_left_behind(tmp_path: Path, start: Start) -> None:
    guard, child = start(), start()
    fields = {**supervised_by(guard.pid), **child_of(child.pid)}
    with Directory(str(tmp_path), fields) as made:
        before = len(os.listdir("/proc/self/fd"))
        with Witnesses(finding.Guest(made.path, guarded=True)):
            assert len(os.listdir("/proc/self/fd")) == before + 2
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="the directory of another user needs root")
def test_a_refusal_leaves_no_descriptor_behind(tmp_path: Path, start: Start) -> None:
    guard, child = start(user=USER), start()
    fields = {**supervised_by(guard.pid), **child_of(child.pid)}
    with Directory(str(tmp_path), fields) as made:
        os.chown(made.path, USER, USER)
        before = os.listdir("/proc/self/fd")
        with pytest.raises(LockError, match=f"names process {child.pid}, "):
            Witnesses(finding.Guest(made.path, guarded=True))
        assert os.listdir("/proc/self/fd") == before
