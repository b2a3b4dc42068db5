"""Do the seed's sequences about hot-plugged disks run as they are written?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LockError, UnsupportedError
from supervisor.manager import NewFlags, ResourceFlags, ResourceType
from tests.support import proclocks
from tests.support.daemon import DEADLINE_S, IDLE, Daemon, new_disk
from tests.support.guest.checker import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Machine

pytestmark = pytest.mark.slow  # each boots guests

UUID = "5f2c1d3e-0000-4000-8000-00000000001e"
HELD = [("WRITE", 0, "0")]
DISK = ResourceType.DISK


def test_with_disk_hotplug_and_disk_unhotplug(
    daemon: Daemon, machine: Callable[..., Machine], tmp_path: Path
) -> None:
    cold, hot = new_disk(tmp_path / "vda"), new_disk(tmp_path / "vdb")
    qemu = machine(cold)
    starter = daemon.manager(guest_uuid=UUID)
    daemon.log(starter)
    starter.register_resource(DISK, cold)
    starter.acquire_object(qemu.argv)
    starter.run()
    qemu.wait_ready()
    manager = daemon.manager(NewFlags.ATTACH, guest_uuid=UUID)

    # > if (virLockManagerAcquireResource(manager, TYPE_DISK, disk.path ..flags..))
    # >     ...abort hotplug attempt ...
    if not manager.acquire_resource(DISK, hot, 0):
        pytest.fail("a call returns True or raises")
    assert proclocks.bytes_locked(hot) == HELD
    # > ...hotplug the device...
    qemu.plug(hot)

    # released too early: ours is not what QEMU still writes to
    with pytest.raises(LockError, match="QEMU has it open"):
        manager.release_resource(DISK, hot, 0)
    assert proclocks.bytes_locked(hot) == HELD

    # > ...hotunplug the device...
    qemu.unplug()
    # > if (virLockManagerReleaseResource(manager, TYPE_DISK, disk.path ..flags..))
    # >     ...log warning ...
    if not manager.release_resource(DISK, hot, 0):
        pytest.fail("a call returns True or raises")
    assert proclocks.locks(hot) == []

    qemu.quit()
    assert starter.shutdown(DEADLINE_S)
    for disk in (cold, hot):
        report = check(disk)
        assert report.clean, report.reasons
        assert len(report.boots) == 1


def test_with_disk_hotplug_of_what_another_guest_has(daemon: Daemon, tmp_path: Path) -> None:
    own, theirs = new_disk(tmp_path / "own"), new_disk(tmp_path / "theirs")
    managers = []
    for name, disk in (("web1", own), ("web2", theirs)):
        managers.append(daemon.manager(name=name))
        daemon.log(managers[-1])
        managers[-1].register_resource(DISK, disk)
        managers[-1].acquire_object(IDLE)
        managers[-1].run()
    for flags in (0, ResourceFlags.SHARED, ResourceFlags.READONLY):
        with pytest.raises(LeaseHeldError, match="held by guest web2"):
            managers[0].acquire_resource(DISK, theirs, flags)
    assert managers[1].release_resource(DISK, theirs)
    assert managers[0].acquire_resource(DISK, theirs, ResourceFlags.SHARED)
    assert managers[1].acquire_resource(DISK, theirs, ResourceFlags.READONLY)


def test_an_explicit_lease_comes_and_goes_as_a_disk_does(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    key = tmp_path / "space" / "key"
    key.touch()
    manager = daemon.manager()
    daemon.log(manager)
    manager.set_parameter("no_discover", value=True)
    manager.acquire_object(IDLE)
    manager.run()
    assert manager.acquire_resource(ResourceType.LEASE, f"space:key:{tmp_path}")
    assert proclocks.bytes_locked(key) == HELD
    assert manager.release_resource(ResourceType.LEASE, f"space:key:{tmp_path}")
    assert proclocks.locks(key) == []
    with pytest.raises(UnsupportedError, match="explicit leases are exclusive"):
        manager.acquire_resource(ResourceType.LEASE, f"space:key:{tmp_path}", ResourceFlags.SHARED)


def test_a_plugin_that_does_not_support_hotplug_returns_an_error_from_all_such_calls(
    tmp_path: Path,
) -> None:
    """And one that does just VM level leases ignores all the resource paths at startup."""
    (tmp_path / "config.toml").write_text(f"[vm]\nlease_dir = '{tmp_path}/leases'\n")
    daemon = Daemon(tmp_path, "vm")
    daemon.config = str(tmp_path / "config.toml")
    disk = new_disk(tmp_path / "vda")
    manager = daemon.manager(guest_uuid=UUID)
    daemon.log(manager)
    manager.register_resource(DISK, str(tmp_path / "missing"))
    manager.acquire_object(IDLE)
    manager.run()
    try:
        assert proclocks.bytes_locked(tmp_path / "leases" / UUID) == HELD
        for call in (manager.acquire_resource, manager.release_resource):
            with pytest.raises(UnsupportedError, match="plugin vm has no hotplug"):
                call(DISK, disk)
        assert proclocks.locks(disk) == []
        with pytest.raises(UnsupportedError, match="plugin vm has no migration"):
            manager.prepare_migrate("tcp:host2:4444")
        for complete in (manager.complete_migrate_in, manager.complete_migrate_out):
            with pytest.raises(UnsupportedError, match="plugin vm has no migration"):
                complete()
        with pytest.raises(UnsupportedError, match="plugin vm has no migration"):
            daemon.manager(NewFlags.MIGRATE)
    finally:
        daemon.reap()
