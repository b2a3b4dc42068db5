"""A daemon that is interrupted, forks, or has threads: are its leases as its calls have said?"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LockError
from supervisor.manager import LockManager, ResourceType
from supervisor.vocabulary import WrongOrderError
from tests.support import proclocks, waiting
from tests.support.daemon import DEADLINE_S, IDLE, Daemon, new_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from tests.support.guard import Guards

HELD = [("WRITE", 0, "0")]
UUID = "5f2c1d3e-0000-4000-8000-00000000001e"
ROUNDS = 4


class Interrupted(Exception):  # noqa: N818 - what a daemon's signal handler may raise
    """A signal came."""


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return new_disk(tmp_path / "vda")


@pytest.fixture
def alarm() -> Iterator[None]:
    """Have SIGALRM interrupt this thread."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def made(daemon: Daemon, disk: str, guest_uuid: str | None = UUID) -> LockManager:
    manager = daemon.manager(guest_uuid=guest_uuid)
    daemon.log(manager)
    manager.register_resource(ResourceType.DISK, disk)
    return manager


def test_what_is_given_back_can_be_had_at_once(daemon: Daemon, disk: str) -> None:
    """Free, and a refusal, return when the guard is gone that would be in the way."""
    for _ in range(ROUNDS):
        manager = made(daemon, disk)
        assert manager.acquire_object(IDLE)
        assert manager.free()
        assert proclocks.locks(disk) == []
        assert os.listdir(daemon.runtime_dir) == []
    for _ in range(ROUNDS):
        manager = made(daemon, disk)
        assert manager.acquire_object(["/missing/program"])
        with pytest.raises(LockError, match="No such file or directory"):
            manager.run()
        assert proclocks.locks(disk) == []
        assert os.listdir(daemon.runtime_dir) == []


def test_refused_a_manager_can_be_used_again(daemon: Daemon, disk: str) -> None:
    with made(daemon, disk, None) as holder, made(daemon, disk) as manager:
        holder.acquire_object(IDLE)
        for _ in range(ROUNDS):
            with pytest.raises(LeaseHeldError, match="held by guest web1") as refused:
                manager.acquire_object(IDLE)
        again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - our own
        assert (str(again), again.exit_code) == (str(refused.value), 110)
        assert "held by guest web1" in again.reason
        holder.free()
        assert manager.acquire_object(IDLE)
        assert proclocks.bytes_locked(disk) == HELD


@pytest.mark.usefixtures("alarm")
def test_interrupted_while_it_waits_it_has_started_nothing(daemon: Daemon, disk: str) -> None:
    holder = made(daemon, disk, None)
    holder.acquire_object(IDLE)
    (held_by,) = os.listdir(daemon.runtime_dir)
    manager = made(daemon, disk)
    manager.set_parameter("wait", float("inf"))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(Interrupted):
        manager.acquire_object(IDLE)
    assert os.listdir(daemon.runtime_dir) == [held_by]
    holder.free()
    with manager:
        assert manager.acquire_object(IDLE)
        assert proclocks.bytes_locked(disk) == HELD


def test_a_launcher_that_dies_while_the_guard_waits_takes_it_along(
    guards: Guards, tmp_path: Path
) -> None:
    disk = new_disk(tmp_path / "vda")
    holder = guards.run(disk)
    ours, theirs = socket.socketpair()
    spec = guards.spec(disk, wait_s=float("inf"), handshake_fd=theirs.fileno())
    waiter = guards.start(spec, pass_fds=[theirs.fileno()])
    theirs.close()
    waiting.until(
        lambda: os.path.exists(f"{waiter.path}/guest.json"), DEADLINE_S, "it waits for the disk"
    )
    ours.close()
    ended = waiter.refused()
    assert ended.code == 111
    assert "the launcher did not say GO" in ended.stderr
    assert not os.path.exists(waiter.path)
    assert proclocks.bytes_locked(disk) == HELD
    holder.kill()
    assert proclocks.locks(disk) == []


def test_of_two_threads_one_acquires_and_the_other_is_told(daemon: Daemon, disk: str) -> None:
    holder, manager = made(daemon, disk, None), made(daemon, disk)
    holder.acquire_object(IDLE)
    manager.set_parameter("wait", DEADLINE_S)
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(manager.acquire_object(IDLE)))
    thread.start()
    waiting.until(lambda: len(os.listdir(daemon.runtime_dir)) > 1, DEADLINE_S, "it has begun")
    in_another_thread = "being acquired, in another thread"
    with pytest.raises(WrongOrderError, match=in_another_thread):
        manager.acquire_object(IDLE)
    for call in (manager.run, manager.free):
        with pytest.raises(WrongOrderError, match=in_another_thread):
            call()
    holder.free()
    thread.join(DEADLINE_S)
    assert got == [True]
    assert manager.run()
    assert proclocks.bytes_locked(disk) == HELD


def test_what_was_forked_meanwhile_does_not_keep_the_leases(daemon: Daemon, disk: str) -> None:
    manager = made(daemon, disk)
    manager.acquire_object(IDLE)
    # A daemon's worker, with a copy of every descriptor of it.
    worker = os.posix_spawn(
        "/bin/sleep",
        ["sleep", "1000000"],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, 100 + fd) for fd in sockets()],
    )
    try:
        assert manager.free()
        assert proclocks.locks(disk) == []
        assert os.listdir(daemon.runtime_dir) == []
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def sockets() -> list[int]:
    """Return the descriptors of ours that are sockets."""
    fds = map(int, os.listdir("/proc/self/fd"))
    return [fd for fd in fds if is_socket(fd)]


def is_socket(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except FileNotFoundError:
        return False
