"""Does a guest that writes migrate under its leases, with nobody in between and nothing lost?"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import pytest

from tests.support import proclocks, waiting
from tests.support.guest.checker import check, describe
from tests.support.measured import milliseconds
from tests.support.moving import DEADLINE_S, Intruder

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.moving import End, World

pytestmark = pytest.mark.slow

HELD = [("WRITE", 0, "0")]
HANDED = [("READ", 0, "0"), ("WRITE", 2, "2")]


def instant(event: dict[str, dict[str, int]]) -> float:
    stamp = event["timestamp"]
    return stamp["seconds"] + stamp["microseconds"] / 1e6


def move(source: End, target: End) -> float:
    """Migrate in the seed's order; returns for how long the guest stood still."""
    cookie = source.prepare()
    source.send_to(target)
    target.complete_in(cookie)
    target.monitor.execute("cont")
    source.complete_out()
    stopped = instant(source.monitor.wait_event("STOP"))
    return instant(target.monitor.wait_event("RESUME")) - stopped


def test_in_the_seeds_order_the_target_completes_first(world: World) -> None:
    source, target = world.boot(), world.receive()
    assert (source.state(), target.state()) == ("running", "incoming")
    assert target.leases() == [("exclusive", "pending")]
    cookie = source.prepare()
    assert cookie.isprintable()
    assert cookie.isascii()
    assert len(cookie) < 4096
    assert source.state() == "migrating-out"
    assert source.leases() == [("exclusive", "held")]
    assert proclocks.below_qemus(world.disk) == [*HELD, ("WRITE", 2, "2")]
    source.send_to(target)
    source.until("migrated")
    assert source.leases() == [("shared", "held")]
    assert proclocks.below_qemus(world.disk) == HANDED
    target.complete_in(cookie)
    assert (source.state(), target.state()) == ("migrated", "running")
    assert target.leases() == [("shared", "held")]
    target.monitor.execute("cont")
    source.complete_out()
    assert source.guard is not None
    assert source.guard.wait().code == 0
    target_is_sole(world, target)
    assert [event["event"] for event in source.control.events][:1] == ["MIGRATION_PREPARED"]
    assert [event["event"] for event in target.control.events] == ["MIGRATION_COMPLETED"]
    judge(world, target)


def target_is_sole(world: World, target: End) -> None:
    """Wait until the target is alone on byte 0; a sharer that tries has byte 2 at times."""
    waiting.until(
        lambda: target.leases() == [("exclusive", "held")], DEADLINE_S, "the lease is exclusive"
    )
    assert [lock for lock in proclocks.below_qemus(world.disk) if lock[1] == 0] == HELD


def judge(world: World, last: End) -> None:
    """End the guest, and see that it was one, and has lost nothing."""
    assert last.guard is not None
    last.guard.kill()
    report = check(world.disk)
    assert report.clean, describe(report)
    assert [f"{boot.nonce:016x}" for boot in report.boots] == [world.nonce]


@pytest.mark.parametrize("containment", ["pdeathsig", "pidns"])
def test_the_source_may_complete_first(world: World, containment: str) -> None:
    source, target = (start(containment=containment) for start in (world.boot, world.receive))
    cookie = source.prepare()
    source.send_to(target)
    source.complete_out()
    assert source.guard is not None
    assert source.guard.wait().code == 0
    target.complete_in(cookie)
    target.monitor.execute("cont")
    target_is_sole(world, target)
    judge(world, target)


def test_back_and_forth_with_strangers_at_the_door(
    world: World, rounds: Callable[[int, int], int], measured: Callable[[str, str], None]
) -> None:
    count = rounds(3, 50)
    still: list[float] = []
    here = world.boot()
    guards = world.hosts[0]
    waiters = [
        guards.start(guards.spec((mode, world.disk), wait_s=float("inf")))
        for mode in ("exclusive", "shared")
    ]
    with Intruder(world.disk) as intruder:
        for number in range(count):
            there = world.receive((number + 1) % 2)
            still.append(move(here, there))
            assert here.guard is not None
            assert here.guard.wait().code == 0
            target_is_sole(world, there)
            here = there
        assert intruder.got_in() == 0
    assert intruder.tried > 100 * count
    for waiter in waiters:
        assert not select.select([waiter._ready_fd], [], [], 0)[0], "a waiter has got in"
        waiter.process.terminate()
        waiter.wait()
    judge(world, here)
    words = f"{intruder.tried} tries to get in, none did"
    measured("migration", f"standstill under two supervisors: {milliseconds(still)}; {words}")
    measured("migration", f"standstill without us: {milliseconds(unsupervised(world, count))}")


def unsupervised(world: World, count: int) -> list[float]:
    """Migrate the same guest back and forth without us, the machine as busy."""
    still: list[float] = []
    world.nonce = "0123456789abcdef"
    here = world.bare(waits=False)
    with Intruder(world.disk):
        for _ in range(count):
            there = world.bare(waits=True)
            here.send_to(there)
            there.until_qemu("paused")
            there.monitor.execute("cont")
            stopped = instant(here.monitor.wait_event("STOP"))
            still.append(instant(there.monitor.wait_event("RESUME")) - stopped)
            here = there
    return still
