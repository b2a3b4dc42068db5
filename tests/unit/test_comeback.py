"""Are all of the leases back, or none? And is what names them one word of printable ASCII?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins import comeback, registry
from lockplugins.contract import Guest, LeaseLostError, LeaseState, LockError, Resource
from tests.support.stand_ins import CARRIER, CLASSES, StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockplugins.contract import Lease, Plugin

DISKS = ("/a", "/b", "/c")


class Returning(StandIn):
    """Has generations, and takes leases back as it is told."""

    name = "returning"

    def acquire(self, resources: list[Resource], wait_until: float | None) -> list[Lease]:  # type: ignore[override]  # a test's own
        leases = super().acquire(resources, wait_until)
        for lease in leases:
            lease.generation = 7
        return leases

    def reacquire(self, lease: Lease) -> None:
        self._write(f"reacquire {lease.resource}")


@pytest.fixture(autouse=True)
def told() -> Iterator[None]:
    StandIn.log.clear()
    StandIn.refuse.clear()
    yield
    StandIn.log.clear()
    StandIn.refuse.clear()


@pytest.fixture
def plugin() -> Plugin:
    classes = {**CLASSES, "returning": f"{__name__}:Returning"}
    return registry.load("one+returning", {}, CARRIER, classes)


def held(plugin: Plugin) -> list[Lease]:
    plugin.open(Guest("uuid", "web1"))
    leases = plugin.acquire([Resource(disk) for disk in DISKS], None)
    StandIn.log.clear()
    return comeback.returnable(leases)


def test_what_has_a_generation_goes_in_reverse_and_comes_back_in_order(plugin: Plugin) -> None:
    leases = held(plugin)
    assert [lease.resource for lease in leases] == list(DISKS)
    assert comeback.give_up(plugin, leases) is None
    assert {lease.state for lease in leases} == {LeaseState.LOST}
    comeback.take_back(plugin, leases)
    assert {lease.state for lease in leases} == {LeaseState.HELD}
    gone = [f"returning: release {disk}" for disk in reversed(DISKS)]
    assert StandIn.log == [*gone, *(f"returning: reacquire {disk}" for disk in DISKS)]


def test_what_is_not_confirmed_does_not_keep_the_others(plugin: Plugin) -> None:
    leases = held(plugin)
    StandIn.refuse["returning: release /b"] = doubt = LockError("release", "/b", "no answer")
    assert comeback.give_up(plugin, leases) is doubt
    lost, unknown = LeaseState.LOST, LeaseState.UNKNOWN
    assert [lease.state for lease in leases] == [lost, unknown, lost]


@pytest.mark.parametrize("error", [LockError, LeaseLostError])
def test_all_are_back_or_none(plugin: Plugin, error: type[LockError]) -> None:
    leases = held(plugin)
    comeback.give_up(plugin, leases)
    StandIn.log.clear()
    StandIn.refuse["returning: reacquire /c"] = error("re-acquire", "/c", "not now")
    with pytest.raises(error, match="cannot re-acquire /c"):
        comeback.take_back(plugin, leases)
    assert StandIn.log[-2:] == ["returning: release /b", "returning: release /a"]
    assert {lease.state for lease in leases} == {LeaseState.LOST}
    StandIn.refuse.clear()
    comeback.take_back(plugin, leases)


def test_half_of_them_that_cannot_be_given_up_again_is_a_loss(plugin: Plugin) -> None:
    leases = held(plugin)
    comeback.give_up(plugin, leases)
    StandIn.refuse["returning: reacquire /b"] = LockError("re-acquire", "/b", "not now")
    StandIn.refuse["returning: release /a"] = LockError("release", "/a", "no answer")
    with pytest.raises(LeaseLostError, match="not now; cannot release /a"):
        comeback.take_back(plugin, leases)


def test_leases_are_named_in_one_word(plugin: Plugin) -> None:
    (lease, *_) = held(plugin)
    lease.lease, lease.lockspace = "a b:c,d@\u00e4\udcff", "prod"
    named = comeback.words([lease, lease])
    assert named == ",".join(["prod/a%20b%3Ac%2Cd%40%C3%A4%FF@7"] * 2)
