"""Do the seed's sequences about one guest run as they are written, on guests that write?

Each test follows its sequence line by line; the seed's lines are the comments with >.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

import lockplugins
from lockplugins.contract import LeaseHeldError
from lockplugins.loading import UnloadedError
from supervisor.manager import LockManager, NewFlags, ObjectType, ResourceFlags, ResourceType
from supervisor.vocabulary import GuestRunsError
from tests.support import proclocks, waiting
from tests.support.daemon import DEADLINE_S, IDLE, Daemon, new_disk
from tests.support.guest.checker import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from supervisor.client import Child
    from tests.support.daemon import Machine

pytestmark = pytest.mark.slow  # each boots guests

UUID = "5f2c1d3e-0000-4000-8000-00000000001e"
HELD = [("WRITE", 0, "0")]
DISK = ResourceType.DISK


def end(child: Child) -> None:
    """Wait for the end of a guest that was asked for, and close its pidfd."""
    assert child.pidfd is not None
    waiting.gone(child.pidfd, DEADLINE_S)
    os.close(child.pidfd)


def test_at_libvirtd_startup_and_shutdown() -> None:
    # > plugin = virLockManagerPluginLoad("sync-manager");
    plugin = lockplugins.load("file")
    assert plugin.name == "file"
    # > virLockManagerPluginUnload(plugin)
    assert plugin.unload()
    with pytest.raises(UnloadedError):
        LockManager(plugin, ObjectType.DOMAIN)


def test_at_guest_startup_and_guest_shutdown(
    daemon: Daemon, machine: Callable[..., Machine], tmp_path: Path
) -> None:
    disk, backing = new_disk(tmp_path / "vda"), new_disk(tmp_path / "readonly")
    qemu = machine(disk)
    # > manager = virLockManagerNew(plugin, VIR_LOCK_MANAGER_OBJECT_DOMAIN, 0);
    manager = LockManager(daemon.plugin, ObjectType.DOMAIN, 0, runtime_dir=daemon.runtime_dir)
    # > virLockManagerSetParameter(manager, "id", id); "uuid", uuid; "name", name
    assert manager.set_parameter("id", 1)
    assert manager.set_parameter("uuid", UUID)
    assert manager.set_parameter("name", "web1")
    daemon.log(manager)
    # > foreach disk: virLockManagerRegisterResource(manager, TYPE_DISK, disk.path, ..flags...);
    assert manager.register_resource(DISK, disk, 0)
    assert manager.register_resource(DISK, backing, ResourceFlags.READONLY)
    # > if (!virLockManagerAcquireObject(manager)) abort..
    if not manager.acquire_object(qemu.argv):
        pytest.fail("a call returns True or raises")
    assert proclocks.bytes_locked(disk) == HELD
    assert ("READ", 0, "0") in proclocks.bytes_locked(backing)
    # > run QEMU
    assert manager.run()
    child = manager.get_child()
    nonce = qemu.wait_ready()

    another = daemon.manager(name="web2")
    another.register_resource(DISK, disk)
    daemon.log(another)
    with pytest.raises(LeaseHeldError, match=f"held by guest web1 .{UUID}.") as refused:
        another.acquire_object(["true"])
    assert refused.value.exit_code == 110

    with pytest.raises(GuestRunsError, match=r"still there after 0\.1 s"):
        manager.shutdown(0.1)

    # > ...send QEMU 'quit' monitor command, and/or kill(qemupid)...
    qemu.quit()
    # > if (!virLockManagerShutdown(manager)) kill(supervisorpid);
    if not manager.shutdown(DEADLINE_S):
        pytest.fail("a call returns True or raises")
    end(child)
    # > virLockManagerFree(manager);
    assert manager.free()
    assert proclocks.locks(disk) == proclocks.locks(backing) == []
    assert not os.path.exists(f"{daemon.runtime_dir}/{UUID}")
    report = check(disk)
    assert report.clean, report.reasons
    assert [boot.nonce for boot in report.boots] == [nonce]


def test_at_guest_shutdown_a_guest_that_stays_is_killed_by_its_supervisor(
    daemon: Daemon, machine: Callable[..., Machine], tmp_path: Path
) -> None:
    disk = new_disk(tmp_path / "vda")
    qemu = machine(disk)
    manager = daemon.manager(guest_uuid=UUID)
    daemon.log(manager)
    manager.register_resource(DISK, disk)
    assert manager.acquire_object(qemu.argv)
    assert manager.run()
    child = manager.get_child()
    qemu.wait_ready()
    # > if (!virLockManagerShutdown(manager))
    with pytest.raises(GuestRunsError):
        manager.shutdown(0.1)
    # > kill(supervisorpid);
    assert manager.kill_supervisor()
    assert proclocks.locks(disk) == []
    end(child)
    assert manager.free()
    assert check(disk).clean


def test_at_libvirtd_restart_with_running_guests(
    daemon: Daemon, machine: Callable[..., Machine], tmp_path: Path
) -> None:
    disk = new_disk(tmp_path / "vda")
    qemu = machine(disk)
    with daemon.process(UUID, disk, qemu.argv) as libvirtd:
        said = libvirtd.run()
        nonce = qemu.wait_ready()
    # > foreach still running guest:
    # > manager = virLockManagerNew(driver, VIR_LOCK_MANAGER_START_DOMAIN, NEW_ATTACH);
    manager = LockManager(
        daemon.plugin, ObjectType.START_DOMAIN, NewFlags.ATTACH, runtime_dir=daemon.runtime_dir
    )
    # > virLockManagerSetParameter(manager, "id", id); "uuid", uuid; "name", name
    manager.set_parameter("id", 1)
    manager.set_parameter("uuid", UUID)
    manager.set_parameter("name", "web1")
    # > if (!virLockManagerGetChild(manager, &qemupid)) kill(supervisorpid);
    child = manager.get_child()

    assert child.pid == said
    assert proclocks.bytes_locked(disk) == HELD
    qemu.quit()
    assert manager.shutdown(DEADLINE_S)
    end(child)
    report = check(disk)
    assert report.clean, report.reasons
    assert [boot.nonce for boot in report.boots] == [nonce]


def test_at_libvirtd_restart_a_supervisor_that_does_not_answer_is_still_believed_or_killed(
    daemon: Daemon, tmp_path: Path
) -> None:
    disk = new_disk(tmp_path / "vda")
    first = daemon.manager(guest_uuid=UUID)
    daemon.log(first)
    first.register_resource(DISK, disk)
    first.acquire_object(IDLE)
    first.run()
    child = first.get_child()
    (guest,) = os.listdir(daemon.runtime_dir)
    with open(f"{daemon.runtime_dir}/{guest}/supervisor.pid", encoding="ascii") as file:
        os.kill(int(file.read()), signal.SIGSTOP)
    manager = daemon.manager(NewFlags.ATTACH, guest_uuid=UUID)
    recorded = manager.get_child()
    assert (recorded.pid, recorded.start_time) == (child.pid, child.start_time)
    assert manager.kill_supervisor()
    end(child)
    end(recorded)
    assert proclocks.locks(disk) == []


def test_at_guest_shutdown_the_leases_of_a_supervisor_that_is_just_ending_are_not_called_free(
    daemon: Daemon, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    """It removes its directory a moment before it exits, which frees the last lease."""
    disk = new_disk(tmp_path / "vda")
    for number in range(rounds(10, 200)):
        manager = daemon.manager(name=f"web{number}")
        daemon.log(manager)
        manager.register_resource(DISK, disk)
        manager.acquire_object(IDLE)
        manager.run()
        child = manager.get_child()
        assert child.pidfd is not None
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        waiting.until(lambda: os.listdir(daemon.runtime_dir) == [], DEADLINE_S, "it is removed")
        assert manager.shutdown(DEADLINE_S)
        assert proclocks.locks(disk) == []
        end(child)
