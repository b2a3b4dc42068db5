"""What do several plugins promise together? What all of them can, all of it or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins import registry
from lockplugins.contract import (
    Capability,
    Guest,
    LeaseHeldError,
    LeaseLostError,
    LockError,
    Plugin,
    Resource,
    ResourceType,
    UnsupportedError,
)
from lockplugins.nop import NopPlugin
from tests.support.locking import DEADLINE_S, CopyingCarrier, Locker, is_free, on_a_thread
from tests.support.stand_ins import CARRIER, CLASSES, Expiring, One, StandIn

if TYPE_CHECKING:
    from pathlib import Path

GUEST = Guest("c7f1", "web1")
A, B = Resource("/a"), Resource("/b")
HELD = LeaseHeldError("acquire", "it", "held by somebody")


@pytest.fixture(autouse=True)
def _blank() -> None:
    StandIn.log.clear()
    StandIn.refuse.clear()


def load(name: str) -> Plugin:
    return registry.load(name, {}, CARRIER, CLASSES)


def test_several_plugins_take_all_in_order_and_release_to_their_own() -> None:
    both = load("one+two")
    both.open(GUEST)
    leases = both.acquire([A, B], None)
    assert [(lease.lockspace, lease.resource) for lease in leases] == [
        ("one", "/a"), ("one", "/b"), ("two", "/a"), ("two", "/b"),
    ]  # fmt: skip
    for lease in reversed(leases):
        both.release(lease)
    both.close()
    assert both.name == "one+two"
    assert StandIn.log == [
        "one: open web1", "two: open web1", "one: acquire /a /b", "two: acquire /a /b",
        "two: release /b", "two: release /a", "one: release /b", "one: release /a",
        "two: close", "one: close",
    ]  # fmt: skip
    with pytest.raises(LockError, match="this guest has none"):
        both.release(leases[0])


def test_all_or_none_of_several_plugins() -> None:
    StandIn.refuse["three: acquire /a /b"] = HELD
    with pytest.raises(LeaseHeldError):
        load("one+two+three").acquire([A, B], None)
    assert StandIn.log[3:] == [
        "two: release /b", "two: release /a", "one: release /b", "one: release /a",
    ]  # fmt: skip


def test_a_failed_release_while_giving_back_leaves_no_other_behind() -> None:
    StandIn.refuse["two: acquire /a /b"] = HELD
    StandIn.refuse["one: release /b"] = LockError("release", "b", "no answer")
    with pytest.raises(LockError, match="cannot release b"):
        load("one+two").acquire([A, B], None)
    assert StandIn.log[-1] == "one: release /a"


def test_a_plugin_that_cannot_open_closes_those_before_it() -> None:
    StandIn.refuse["two: open web1"] = LockError("reach", "two", "ECONNREFUSED")
    with pytest.raises(LockError, match="cannot reach two"):
        load("one+two").open(GUEST)
    assert StandIn.log[-1] == "one: close"


def test_waiting_for_one_plugin_holds_nothing_of_the_other() -> None:
    StandIn.refuse["two: acquire /a"] = HELD
    leases = load("one+two").acquire([A], 1e9)
    assert StandIn.log == [
        "one: acquire /a", "two: acquire /a", "one: release /a",
        "two: acquire /a waiting", "one: acquire /a",
    ]  # fmt: skip
    assert [lease.lockspace for lease in leases] == ["one", "two"]
    StandIn.refuse["two: acquire /a waiting"] = HELD
    with pytest.raises(LeaseHeldError):
        on_a_thread(lambda: load("one+two").acquire([A], 1e9)).result(DEADLINE_S)


def test_each_resource_goes_to_the_plugins_that_take_its_type() -> None:
    vm = Resource("c7f1", resource_type=ResourceType.VM)
    both = load("machine+one")
    leases = both.acquire([vm, A], None)
    assert [lease.lockspace for lease in leases] == ["machine", "one"]
    assert StandIn.log == ["machine: acquire c7f1", "one: acquire /a"]
    assert [holder.description for holder in both.inquire(A)] == ["one /a"]
    assert [holder.description for holder in load("two+one").inquire(A)] == ["two /a", "one /a"]
    assert both.named(A) == [("one", "/a")]
    assert load("two+one").named(A) == [("two", "/a"), ("one", "/a")]
    assert load("nop").named(A) == []
    with pytest.raises(UnsupportedError, match="no part of one\\+two leases that"):
        load("one+two").acquire([A, vm], None)
    assert StandIn.log[2:] == []


R, H, M, E, G, V, N = Capability.ALL


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ((R, H), (R, H), (R, H)),
        ((R, H), (R,), (R,)),
        ((R, N), (R,), (R,)),
        ((R, N), (V,), (R, V, N)),
        ((V,), (R, H), (R, H, V)),
        ((V,), (V,), (V,)),
        ((R, H, M, E, G), (R, H), (R, H, E)),
        ((R, H, M, E, G), (R, M, G), (R, M, E, G)),
    ],
)
def test_what_several_can_do_together(
    first: tuple[str, ...], second: tuple[str, ...], together: tuple[str, ...]
) -> None:
    parts = [type("Part", (Plugin,), {"capabilities": able}) for able in (first, second)]
    assert registry.capabilities(parts) == together
    made = registry.Composite([part({}, CARRIER) for part in parts])
    assert made.capabilities == together


def test_death_frees_all_only_if_it_frees_every_part() -> None:
    assert registry.load("file+nop", {}, CARRIER).FREED_BY_DEATH
    assert not load("file+one").FREED_BY_DEATH


def test_the_part_that_ends_first_sets_the_deadline() -> None:
    slow, fast = Expiring(80, 20), Expiring(12, 2)
    both = registry.Composite([NopPlugin({}, CARRIER), slow, fast])
    both.open(GUEST)
    assert (both.PROOF_TERM_S, both.RENEW_EVERY_S) == (12, 2)
    slow.sent, fast.sent = 100.0, 120.0
    assert both.renew() + both.PROOF_TERM_S == 132
    slow.sent, fast.sent = LockError("reach", "slow", "no answer"), 140.0
    assert both.renew() + both.PROOF_TERM_S == 152
    fast.sent = 190.0
    assert both.renew() + both.PROOF_TERM_S == 180, "the end of slow's last proof"
    fast.sent = 192.0
    with pytest.raises(LockError, match="cannot reach slow"):
        both.renew()
    slow.sent, fast.sent = 185.0, LockError("reach", "fast", "no answer")
    assert both.renew() + both.PROOF_TERM_S == 204
    with pytest.raises(LockError, match="cannot reach fast"):
        both.renew()
    slow.sent = LeaseLostError("keep", "slow", "another generation")
    with pytest.raises(LeaseLostError):
        both.renew()


def test_a_part_that_never_proved_anything_gives_no_deadline() -> None:
    slow, fast = Expiring(80, 20), Expiring(12, 2)
    both = registry.Composite([slow, fast])
    both.open(GUEST)
    slow.sent, fast.sent = LockError("reach", "slow", "no answer"), 100.0
    with pytest.raises(LockError, match="cannot reach slow"):
        both.renew()


def test_file_with_another_gives_everything_back_when_a_disk_is_held(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    carrier = CopyingCarrier()
    both = registry.load("one+file", {}, carrier, CLASSES)
    with Locker(disk), pytest.raises(LeaseHeldError):
        both.acquire([Resource(str(disk))], None)
    assert StandIn.log == [f"one: acquire {disk}", f"one: release {disk}"]
    leases = both.acquire([Resource(str(disk))], None)
    assert not is_free(disk)
    for lease in reversed(leases):
        both.release(lease)
    assert is_free(disk)
    carrier.close()


def test_readable_descriptors_go_to_their_plugin() -> None:
    class Watched(StandIn):
        name = "watched"

        def watch_fds(self) -> tuple[int, ...]:
            return (77,)

        def on_readable(self, fd: int) -> None:
            self._write(f"heard {fd}")

    both = registry.Composite([One({}, CARRIER), Watched({}, CARRIER)])
    assert both.watch_fds() == (77,)
    both.on_readable(77)
    assert StandIn.log == ["watched: heard 77"]
