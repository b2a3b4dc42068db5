"""Does a guest that writes migrate under its leases, with nobody in between and nothing lost?"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from tests.support import proclocks, waiting
from tests.support.guest.checker import check
from tests.support.measured import milliseconds, percentile
from tests.support.moved import judge, move, spoken, stood_still
from tests.support.moving import DEADLINE_S, Intruder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.moving import End, World

pytestmark = pytest.mark.slow

HELD = [("WRITE", 0, "0")]
HANDED = [("READ", 0, "0"), ("WRITE", 2, "2")]


def move_without_us(source: End, target: End) -> float:
    source.send_to(target)
    target.until_qemu("paused")
    target.monitor.execute("cont")
    return stood_still(source, target)


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
    world: World,
    without_us: World,
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    """In each round a guest of ours moves, then one that nobody supervises; the other stands."""
    count = rounds(3, 50)
    here, alone = world.boot(), without_us.bare(waits=False)
    waiters = [world.want(mode) for mode in Mode.ALL]
    ours: list[float] = []
    theirs: list[float] = []
    with Intruder(world.disk) as intruder:
        for number in range(1, count + 1):
            there = world.receive(number % 2)
            with standing(alone):
                ours.append(move(here, there))
            target_is_sole(world, there)
            here, there = there, without_us.bare(waits=True)
            with standing(here):
                theirs.append(move_without_us(alone, there))
            without_us.end(alone)
            alone = there
        assert intruder.got_in() == 0
    assert intruder.tried > 100 * count
    assert not spoken(waiters, 0), "a waiter has got in"
    judge(world, here)
    assert spoken(waiters, DEADLINE_S), "they have waited for the guest's end"
    tell(measured, ours, theirs)
    blocks = check(world.disk).boots[0].blocks
    measured("migration", f"of {blocks:,} blocks that our guest wrote meanwhile none is lost")
    who = "one waits to have the disk alone, one to share it, and one tries both"
    measured("migration", f"strangers throughout: {who}, {intruder.tried:,} times; none got in")


@contextmanager
def standing(guest: End) -> Iterator[None]:
    """Have a guest stand still while another is measured."""
    guest.monitor.execute("stop")
    guest.monitor.wait_event("STOP")
    yield
    guest.monitor.execute("cont")


def tell(
    measured: Callable[[str, str], None], ours: Sequence[float], theirs: Sequence[float]
) -> None:
    more = percentile([one / other for one, other in zip(ours, theirs, strict=True)], 50)
    measured("migration", f"a guest's standstill under two supervisors: {milliseconds(ours)}")
    measured("migration", f"without us, in the same rounds: {milliseconds(theirs)}")
    measured("migration", f"the former over the latter, within a round: p50 {more:.2f}")
