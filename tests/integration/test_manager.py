"""Whatever a daemon does between two calls, or does not live to do: who holds what then?"""

from __future__ import annotations

import os
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LockError
from supervisor.finding import NoSuchGuestError
from supervisor.getchild import NotRunningError
from supervisor.manager import LockManager, NewFlags, ResourceType
from supervisor.starting import NotStartedError
from supervisor.vocabulary import WrongOrderError
from tests.support import proclocks, waiting
from tests.support.daemon import DEADLINE_S, IDLE, Daemon, new_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HELD = [("WRITE", 0, "0")]
DISK = ResourceType.DISK
UUID = "5f2c1d3e-0000-4000-8000-00000000001e"


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return new_disk(tmp_path / "vda")


@pytest.fixture
def manager(daemon: Daemon, disk: str) -> LockManager:
    """Return the manager of a guest with one disk."""
    return made(daemon, disk)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Reap what a test started itself."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait(DEADLINE_S)


def made(daemon: Daemon, disk: str, guest_uuid: str = UUID) -> LockManager:
    manager = daemon.manager(guest_uuid=guest_uuid)
    daemon.log(manager)
    manager.register_resource(DISK, disk)
    return manager


def freed(disk: str) -> None:
    waiting.until(lambda: proclocks.locks(disk) == [], DEADLINE_S, "the lease is free")


def close(pidfd: int | None) -> None:
    assert pidfd is not None
    os.close(pidfd)


def signs(path: Path) -> list[str]:
    return ["/bin/sh", "-c", f'echo ran > "{path}"; exec sleep 1000000']


def test_the_guest_waits_with_its_leases_held_until_run(
    manager: LockManager, daemon: Daemon, disk: str, tmp_path: Path
) -> None:
    signed = tmp_path / "signed"
    assert manager.acquire_object(signs(signed))
    with pytest.raises(NotRunningError, match="it waits for leases, or for GO"):
        daemon.manager(NewFlags.ATTACH, guest_uuid=UUID).get_child(0.1)
    assert proclocks.bytes_locked(disk) == HELD
    with pytest.raises(WrongOrderError, match="acquire_object for guest web1: it is acquired"):
        manager.acquire_object(IDLE)
    assert not signed.exists()
    assert manager.run()
    waiting.until(signed.exists, DEADLINE_S, "the guest runs")


def test_freed_before_run_the_guest_never_runs(
    manager: LockManager, disk: str, tmp_path: Path
) -> None:
    signed = tmp_path / "signed"
    manager.acquire_object(signs(signed))
    assert manager.free()
    freed(disk)
    assert not signed.exists()


def test_another_guest_started_meanwhile_does_not_keep_the_first_one_waiting(
    manager: LockManager, daemon: Daemon, disk: str, tmp_path: Path
) -> None:
    """A descriptor of the first one's launch that the second inherited would."""
    manager.acquire_object(IDLE)
    second = made(daemon, new_disk(tmp_path / "vdb"), str(uuid.uuid4()))
    second.acquire_object(IDLE)
    second.run()
    manager.free()
    freed(disk)
    child = second.get_child()
    assert os.path.samefile(f"/proc/{child.pid}/fd/0", "/dev/null")
    close(child.pidfd)


def test_a_daemon_killed_before_run_leaves_nothing(
    daemon: Daemon, disk: str, tmp_path: Path
) -> None:
    signed = tmp_path / "signed"
    with daemon.process(UUID, disk, signs(signed)):
        assert proclocks.bytes_locked(disk) == HELD
    freed(disk)
    assert not signed.exists()
    assert daemon.manager(NewFlags.ATTACH, guest_uuid=UUID).shutdown(DEADLINE_S)
    with made(daemon, disk) as another:
        assert another.acquire_object(IDLE)


def test_refused_nothing_is_held_and_nothing_was_started(
    manager: LockManager, daemon: Daemon, disk: str, tmp_path: Path
) -> None:
    manager.acquire_object(IDLE)
    signed, free = tmp_path / "signed", new_disk(tmp_path / "vdb")
    second = daemon.manager(name="web2")
    daemon.log(second)
    for path in (free, disk):
        second.register_resource(DISK, path)
    with pytest.raises(LeaseHeldError, match=f"disk {disk}: held by guest web1 ") as refused:
        second.acquire_object(signs(signed))
    assert isinstance(refused.value, NotStartedError)
    freed(free)
    assert not signed.exists()
    with pytest.raises(WrongOrderError, match="run for guest web2: it is new"):
        second.run()
    manager.free()
    freed(disk)
    assert second.acquire_object(signs(signed))
    assert second.run()


def test_what_cannot_be_executed_is_told_by_run(manager: LockManager, disk: str) -> None:
    manager.acquire_object(["/missing/qemu"])
    with pytest.raises(NotStartedError, match="cannot run /missing/qemu: No such file") as told:
        manager.run()
    assert told.value.exit_code == 127
    freed(disk)
    with pytest.raises(WrongOrderError, match="it is ended"):
        manager.get_child()
    assert manager.shutdown(DEADLINE_S)


def test_a_guest_gets_the_descriptors_that_it_is_to_have_and_no_other(
    manager: LockManager, tmp_path: Path
) -> None:
    read_fd, write_fd = os.pipe()
    kept = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    program = f"ls -l /proc/self/fd >&{write_fd}"
    manager.acquire_object(["/bin/bash", "-c", program], pass_fds=[write_fd])
    manager.run()
    os.close(write_fd)
    with open(read_fd, encoding="utf-8") as said:
        listed = said.read()
    assert f" {write_fd} -> pipe:" in listed
    assert f" -> {tmp_path}\n" not in listed
    os.close(kept)


def test_as_a_prefix_the_guest_is_waited_for(
    manager: LockManager, disk: str, processes: list[subprocess.Popen[bytes]]
) -> None:
    prefix = [manager.get_supervisor_path(), *manager.get_supervisor_args()]
    processes.append(subprocess.Popen([*prefix, *IDLE]))
    child = manager.get_child(DEADLINE_S)
    with open(f"/proc/{child.pid}/comm", encoding="ascii") as file:
        assert file.read() == "sleep\n"
    assert proclocks.bytes_locked(disk) == HELD
    close(child.pidfd)
    assert manager.kill_supervisor()
    with pytest.raises(WrongOrderError, match="it is ended"):
        manager.get_child()


def test_as_a_prefix_a_supervisor_that_has_gone_is_told_of(
    manager: LockManager, processes: list[subprocess.Popen[bytes]]
) -> None:
    prefix = [manager.get_supervisor_path(), *manager.get_supervisor_args()]
    processes.append(subprocess.Popen([*prefix, *IDLE]))
    close(manager.get_child(DEADLINE_S).pidfd)
    processes[0].kill()
    processes[0].wait(DEADLINE_S)
    with pytest.raises(NoSuchGuestError, match="its supervisor is gone"):
        manager.get_child()


def test_a_guest_that_waits_for_a_lease_is_not_there_yet(
    manager: LockManager, daemon: Daemon, disk: str, processes: list[subprocess.Popen[bytes]]
) -> None:
    manager.acquire_object(IDLE)
    manager.run()
    second = made(daemon, disk, str(uuid.uuid4()))
    second.set_parameter("wait", float("inf"))
    prefix = [second.get_supervisor_path(), *second.get_supervisor_args()]
    processes.append(subprocess.Popen([*prefix, *IDLE]))
    waiting.until(lambda: len(os.listdir(daemon.runtime_dir)) > 1, DEADLINE_S, "it has begun")
    with pytest.raises(NotRunningError, match="it waits for leases, or for GO"):
        second.get_child(0.2)
    assert manager.kill_supervisor()
    close(second.get_child(DEADLINE_S).pidfd)


@pytest.mark.parametrize(
    "call", [lambda made: made.acquire_resource(DISK, "/disk"), lambda made: made.get_child()]
)
def test_a_guest_that_has_ended_is_no_guest(
    manager: LockManager, call: Callable[[LockManager], object]
) -> None:
    manager.acquire_object(["/bin/true"])
    manager.run()
    waiting.until(lambda: ended(manager), DEADLINE_S, "the guest has ended")
    with pytest.raises(LockError) as error:
        call(manager)
    assert not isinstance(error.value, WrongOrderError)


def ended(manager: LockManager) -> bool:
    try:
        close(manager.get_child(0).pidfd)
    except NoSuchGuestError:
        return True
    except NotRunningError:
        return False
    return False
