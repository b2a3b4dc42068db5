"""Is what a plugin cannot do refused, named, and nothing touched? For every plugin, and for nop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import lockplugins
from lockplugins.contract import Capability, UnsupportedError
from supervisor.manager import LockManager, NewFlags, ObjectType, ResourceFlags, ResourceType
from tests.conformance.capable import capabilities, unable
from tests.support.guard import IDLE, Guards
from tests.support.pausing import Pausable
from tests.support.qemu import idle_argv
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conformance.setups import Setup

HOTPLUG = ("acquire-resource", "release-resource")
ASKED = ({"type": "disk"}, {"type": "lease", "path": "space:key:/leases"})
MIGRATION = {
    "prepare-migrate": {"uri": "tcp:host2:4444"},
    "complete-migrate-in": {"cancel": True},
    "complete-migrate-out": {},
}


@pytest.mark.parametrize("manager", unable(Capability.HOTPLUG), indirect=True)
def test_hot_plug_is_refused_by_what_has_none(manager: Setup, guards: Guards) -> None:
    own, other = manager.disk("own"), manager.disk("other")
    guard = guards.run(own)
    before = manager.facts([own, other])
    with Wire(f"{guard.path}/control") as control:
        for command in HOTPLUG:
            for asked in ASKED:
                with pytest.raises(Refused) as refused:
                    control.execute(command, {"path": "/disk", **asked})
                assert_names(refused.value, manager.plugin, Capability.HOTPLUG)
        assert control.execute("query-status")["state"] == "running"
    assert manager.facts([own, other]) == before


@pytest.mark.parametrize("manager", unable(Capability.MIGRATION), indirect=True)
def test_migration_is_refused_by_what_has_none(
    manager: Setup, guards: Guards, require: Callable[[str], str], tmp_path: Path
) -> None:
    require("qemu-system-x86_64")
    disk = manager.disk("disk")
    with Pausable(guards, guards.spec(disk)) as guest:
        before = manager.facts([disk])
        for command, arguments in MIGRATION.items():
            with pytest.raises(Refused) as refused:
                guest.control.execute(command, arguments)
            assert_names(refused.value, manager.plugin, Capability.MIGRATION)
        assert manager.facts([disk]) == before
        assert (guest.state(), guest.runs()) == ("running", True)
    monitor = tmp_path / "monitor"
    words = ["-S", "-incoming", "defer", "-qmp", f"unix:{monitor},server=on,wait=off"]
    other = manager.disk("other")
    refusal = guards.refusal(other, command=idle_argv(extra=words), incoming=True)
    assert refusal.code == 111
    assert f"plugin {manager.plugin} has no migration" in refusal.stderr
    assert manager.held(other) == []
    assert not os.path.exists(monitor), "QEMU never ran"


def assert_names(refused: Refused, plugin: str, capability: str) -> None:
    assert (refused.wire_class, refused.fields["exit_code"]) == ("Unsupported", 111)
    assert f"plugin {plugin} has no {capability}" in refused.desc


@pytest.mark.parametrize("manager", unable(Capability.HOTPLUG), indirect=True)
def test_a_program_is_refused_before_anybody_is_asked(manager: Setup, tmp_path: Path) -> None:
    """There is no such guest: the refusal needs none."""
    refuses(manager.plugin, Capability.HOTPLUG, str(tmp_path))


@pytest.mark.parametrize("plugin", ["nop", "nop+file", "vm+file", "vm+nop"])
def test_several_can_do_what_all_of_them_can(plugin: str, tmp_path: Path) -> None:
    for capability in (Capability.HOTPLUG, Capability.MIGRATION):
        if capability not in capabilities(plugin):
            refuses(plugin, capability, str(tmp_path))


def refuses(plugin: str, capability: str, directory: str) -> None:
    """See that a program's calls are refused, the plugin named, and that nothing is made."""
    loaded = lockplugins.load(plugin)
    made = LockManager(loaded, ObjectType.DOMAIN, NewFlags.ATTACH, runtime_dir=directory + "/run")
    made.set_parameter("uuid", "5f2c1d3e-0000-4000-8000-00000000001e")
    disk = ResourceType.DISK
    calls = {
        Capability.HOTPLUG: (
            lambda: made.acquire_resource(disk, "/disk", ResourceFlags.SHARED),
            lambda: made.release_resource(disk, "/disk"),
        ),
        Capability.MIGRATION: (
            lambda: made.prepare_migrate("tcp:host2:4444"),
            made.complete_migrate_in,
            made.complete_migrate_out,
            lambda: LockManager(loaded, ObjectType.DOMAIN, NewFlags.MIGRATE),
        ),
    }
    for call in calls[capability]:
        with pytest.raises(UnsupportedError) as error:
            call()
        assert f"plugin {loaded.name} has no {capability}" in str(error.value)
    assert not os.path.exists(directory + "/run")


def test_nop_holds_nothing_and_says_so(tmp_path: Path) -> None:
    with Guards(tmp_path) as guards:
        guard = guards.start(guards.spec("/disk", plugin="nop"), IDLE).ready()
        with Wire(f"{guard.path}/control") as control:
            assert control.execute("query-leases") == []
            for command in HOTPLUG:
                with pytest.raises(Refused) as refused:
                    control.execute(command, {"path": "/disk"})
                assert_names(refused.value, "nop", Capability.HOTPLUG)
