"""Does a guest with a lease of its own run once, whatever its disks are, and is it told of?"""

from __future__ import annotations

import os
import stat
import uuid
from typing import TYPE_CHECKING

import pytest

from lockplugins import registry
from lockplugins.contract import LockError, Mode, Resource, ResourceType
from lockplugins.vm import DEFAULT_DIR, VmPlugin
from supervisor.client import NoAnswerError
from tests.support import proclocks
from tests.support.locking import CopyingCarrier, is_free, on_a_thread, until_waited_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guards

UUID = "5f2c1d3e-0000-4000-8000-00000000001c"
LOCKED = [("WRITE", 0, "0")]


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    return tmp_path / "leases"


@pytest.fixture
def settings(tmp_path: Path, leases: Path) -> list[str]:
    """Return the options that make the command use our own directory of leases."""
    path = tmp_path / "config.toml"
    path.write_text(f"[vm]\nlease_dir = '{leases}'\n")
    return ["--config", str(path)]


@pytest.fixture
def plugin(leases: Path) -> Iterator[VmPlugin]:
    carrier = CopyingCarrier()
    yield VmPlugin({"lease_dir": str(leases)}, carrier)
    carrier.close()


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    return str(path)


def guest(guest_uuid: str = UUID) -> Resource:
    return Resource(guest_uuid, resource_type=ResourceType.VM)


def test_a_lease_is_an_empty_private_file_that_outlives_it(plugin: VmPlugin, leases: Path) -> None:
    (lease,) = plugin.acquire([guest()], None)
    path = leases / UUID
    assert (lease.type, lease.resource, lease.mode) == (ResourceType.VM, UUID, Mode.EXCLUSIVE)
    assert plugin.named(guest()) == [(lease.lockspace, lease.lease)] == [(str(leases), UUID)]
    assert stat.S_IMODE(leases.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (path.stat().st_size, proclocks.bytes_locked(path)) == (0, LOCKED)
    plugin.release(lease)
    assert is_free(path)
    with pytest.raises(LockError, match=f"cannot release the lease on {UUID}"):
        plugin.release(lease)


def test_a_waiter_gets_the_lease_when_it_is_released(plugin: VmPlugin, leases: Path) -> None:
    (lease,) = plugin.acquire([guest()], None)
    carrier = CopyingCarrier()
    second = VmPlugin(plugin.config, carrier)
    waiter = on_a_thread(lambda: second.acquire([guest()], float("inf")))
    until_waited_for(leases / UUID)
    plugin.release(lease)
    assert [waited.resource for waited in waiter.result(30)] == [UUID]
    assert [call for call, _ in carrier.calls] == ["keep"]
    carrier.close()


def test_a_waiter_whose_lease_file_was_removed_locks_the_new_one(
    plugin: VmPlugin, leases: Path
) -> None:
    (lease,) = plugin.acquire([guest()], None)
    carrier = CopyingCarrier()
    second = VmPlugin(plugin.config, carrier)
    waiter = on_a_thread(lambda: second.acquire([guest()], float("inf")))
    until_waited_for(leases / UUID)
    (leases / UUID).unlink()
    plugin.release(lease)
    assert [waited.resource for waited in waiter.result(30)] == [UUID]
    assert proclocks.bytes_locked(leases / UUID) == LOCKED
    carrier.close()


def test_disks_are_accepted_and_ignored_explicit_leases_refused(
    guards: Guards, leases: Path, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing")
    table = {"vm": {"lease_dir": str(leases)}}
    guard = guards.run(missing, plugin="vm", config=table)
    assert os.listdir(leases) == [guard.spec.uuid]
    explicit = Resource("", resource_type=ResourceType.LEASE, lockspace="prod", key="web1")
    refused = guards.refusal(plugin="vm", config=table, resources=[explicit])
    assert refused.code == 111
    assert "cannot lease resource prod:web1: plugin vm leases guests" in refused.stderr
    assert os.listdir(leases) == [guard.spec.uuid]


def test_the_guests_own_lease_comes_before_those_of_its_disks(
    guards: Guards, leases: Path, disk: str
) -> None:
    """Whatever the order of the plugins' names, the guest's uuid is the first to be held."""
    table = {"vm": {"lease_dir": str(leases)}}
    first = guards.run(disk, plugin="vm+file", config=table)
    with first.connect() as connection:
        held = connection.execute("query-leases")
    assert isinstance(held, list)
    assert [(lease["type"], lease["resource"]) for lease in held] == [
        (ResourceType.VM, first.spec.uuid),
        (ResourceType.DISK, disk),
    ]
    refusal = guards.refusal(disk, plugin="vm+file", config=table)
    assert f"disk {disk}: held by guest {first.spec.name}" in refusal.stderr
    lease_files = [leases / name for name in os.listdir(leases) if name != first.spec.uuid]
    assert [is_free(path) for path in lease_files] == [True]


@pytest.mark.parametrize("command_name", ["acquire-resource", "release-resource"])
def test_hotplug_is_refused_before_anything_is_touched(
    guards: Guards, leases: Path, disk: str, command_name: str
) -> None:
    guard = guards.run(plugin="vm", config={"vm": {"lease_dir": str(leases)}})
    with guard.connect() as connection, pytest.raises(LockError) as error:
        connection.execute(command_name, {"type": "disk", "path": disk})
    assert type(error.value).__name__ == "UnsupportedError"
    assert not isinstance(error.value, NoAnswerError)
    assert "plugin vm has no hotplug" in str(error.value)
    assert proclocks.locks(disk) == []


def test_who_and_plan_and_status_tell_of_the_guests_lease(
    command: Command, settings: list[str], leases: Path, tmp_path: Path
) -> None:
    options = ["--plugin", "vm", "--uuid", UUID, "--name", "web1", *settings, "--no-discover"]
    assert command("who", UUID, "--plugin", "vm", *settings).code == 1
    planned = command.json("plan", *options, "sleep", "1000000")
    assert [(row["lockspace"], row["lease"]) for row in planned["resources"]] == [
        (str(leases), UUID)
    ]
    assert planned["resources"][0]["held_by"] is None
    assert not leases.exists()
    _started, pid = command.guest(*options, "sleep", "1000000")
    told = command.json("who", UUID.upper(), "--plugin", "vm", *settings)
    assert told["disk"] == UUID
    assert [lease["holder"]["child_pid"] for lease in told["leases"]] == [pid]
    elsewhere = ["--runtime-dir", str(tmp_path / "elsewhere")]
    planned = command.json("plan", *options, *elsewhere, "sleep", "1000000")
    assert planned["resources"][0]["held_by"]["guest"] == "web1"
    assert f"vm {UUID} is held by guest web1" in planned["refusal"]
    refused = command("run", *options, *elsewhere, "sleep", "1000000")
    assert (refused.code, f"lease for vm {UUID}: held by guest web1 " in refused.err) == (110, True)
    (lease,) = command.json("status", "web1")["leases"]
    assert (lease["type"], lease["resource"], lease["state"]) == ("vm", UUID, "held")


def test_who_does_not_call_a_disk_free_that_nobody_leases(
    command: Command, settings: list[str], disk: str
) -> None:
    asked = command("who", disk, "--plugin", "vm", *settings)
    assert asked.code == 111
    assert "plugin vm leases guests by their uuid alone" in asked.err


def test_doctor_says_that_nobody_leases_the_disks(
    command: Command, settings: list[str], leases: Path, disk: str
) -> None:
    asked = command("doctor", "--plugin", "vm", *settings, "--disk", disk, "true")
    assert f"{leases}, to be made in " in asked.out
    assert "plugin vm leases the guest, not its disks" in asked.out
    both = command("doctor", "--plugin", "vm+file", *settings, "--disk", disk, "true")
    assert "plugin vm+file leases the guest, not its disks" not in both.out
    assert not leases.exists()


def test_the_default_place_is_the_documented_one() -> None:
    assert DEFAULT_DIR == "/var/lib/lock-supervisor/vm"
    named = registry.load("vm", {}, None).named(guest(str(uuid.UUID(UUID))))
    assert named == [(DEFAULT_DIR, UUID)]
