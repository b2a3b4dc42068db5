"""Do a refusal and an inquiry change nothing at all? For every plugin that excludes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins import registry
from lockplugins.contract import Guest, Mode, Resource
from tests.conformance.setups import SEVERAL
from tests.support.locking import CopyingCarrier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockplugins.contract import Plugin
    from tests.conformance.setups import Setup
    from tests.support.guard import Guards


@pytest.fixture
def plugin(manager: Setup) -> Iterator[Plugin]:
    """Load the plugin into this process, which holds nothing."""
    carrier = CopyingCarrier()
    loaded = registry.load(manager.plugin, manager.config, carrier)
    loaded.open(Guest("00000000-0000-4000-8000-000000000000", "bystander"))
    yield loaded
    loaded.close()
    assert not carrier.calls


@pytest.mark.asks(SEVERAL)
@pytest.mark.parametrize("held", Mode.ALL)
@pytest.mark.parametrize("asked", Mode.ALL)
def test_a_refusal_changes_nothing(manager: Setup, guards: Guards, held: str, asked: str) -> None:
    disks = [manager.disk(f"disk{number}") for number in range(3)]
    guards.run(*((held, disk) for disk in disks))
    guards.run((Mode.SHARED, unrelated := manager.disk("unrelated")))
    before = manager.facts([*disks, unrelated])
    wanted = [(asked, disk) for disk in disks]
    if held == asked == Mode.SHARED:
        wanted[-1] = (Mode.EXCLUSIVE, disks[-1])
    refusal = guards.refusal((Mode.SHARED, unrelated), *wanted)
    assert refusal.code == 110
    assert manager.facts([*disks, unrelated]) == before


@pytest.mark.asks(SEVERAL)
def test_a_refusal_leaves_free_disks_as_they_were(manager: Setup, guards: Guards) -> None:
    free, held = manager.disk("free"), manager.disk("held")
    guards.run(held)
    before = manager.facts([free, held])
    assert guards.refusal(free, held).code == 110
    after = manager.facts([free, held])  # new lock files there may be, nothing else
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("held", [(), ("exclusive",), ("shared",), ("shared", "shared")])
def test_inquire_names_every_holder_and_changes_nothing(
    manager: Setup, guards: Guards, plugin: Plugin, held: tuple[str, ...]
) -> None:
    disk = manager.disk("disk")
    holders = [guards.run((mode, disk)) for mode in held]
    before = manager.facts([disk])
    found = plugin.inquire(Resource(disk, resource_type=manager.kind))
    assert manager.facts([disk]) == before
    assert sorted(holder.mode for holder in found) == list(held)
    assert {holder.pid for holder in found} == {manager.holder(guard) for guard in holders}


@pytest.mark.parametrize("held", [(), ("exclusive",), ("shared", "shared")])
def test_examine_changes_nothing_and_says_what_to_do(
    manager: Setup, guards: Guards, plugin: Plugin, held: tuple[str, ...]
) -> None:
    disk = manager.disk("disk")
    for mode in held:
        guards.run((mode, disk))
    before = manager.facts([disk])
    found = [*plugin.examine(None), *plugin.examine(Resource(disk, resource_type=manager.kind))]
    assert manager.facts([disk]) == before
    assert found
    for check, well, evidence, mend in found:
        assert check
        assert evidence
        assert bool(mend) == (not well)


@pytest.mark.parametrize("mode", Mode.ALL)
def test_a_lease_is_named_before_it_is_acquired_and_nothing_is_touched(
    manager: Setup, guards: Guards, plugin: Plugin, mode: str
) -> None:
    disk = manager.disk("disk")
    before = manager.facts([disk])
    named = plugin.named(Resource(disk, mode, manager.kind))
    assert manager.facts([disk]) == before
    assert manager.held(disk) == []
    guard = guards.run((mode, disk))
    with guard.connect() as connection:
        leases = connection.execute("query-leases")
    assert isinstance(leases, list)
    found = [lease for lease in leases if lease["type"] == manager.kind]
    assert [(lease["lockspace"], lease["lease"]) for lease in found] == named
