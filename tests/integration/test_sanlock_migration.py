"""Does a guest that writes migrate under sanlock's leases, with nobody in between?"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from tests.support import sanlock_facts as facts
from tests.support.measured import milliseconds
from tests.support.moved import judge, move, spoken
from tests.support.moving import DEADLINE_S, Intruder, World
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.sanlock import Daemon

pytestmark = pytest.mark.slow


@pytest.fixture
def world(
    tmp_path: Path, require: Callable[[str], str], sanlock_host: Daemon, sanlock_neighbour: Daemon
) -> Iterator[World]:
    require("qemu-system-x86_64")
    with World(tmp_path) as made:
        for guards, daemon in zip(made.hosts, (sanlock_host, sanlock_neighbour), strict=True):
            daemon.lease_to(guards)
        yield made


def test_in_the_seeds_order_the_target_completes_first(
    world: World,
    sanlock_host: Daemon,
    sanlock_neighbour: Daemon,
    measured: Callable[[str, str], None],
) -> None:
    source, target = world.boot(), world.receive()
    assert (source.state(), target.state()) == ("running", "incoming")
    assert target.leases() == [("exclusive", "pending")]
    assert sanlock_neighbour.held(world.disk) == []
    (held,) = sanlock_host.held(world.disk)
    cookie = source.prepare()
    assert cookie.isprintable()
    source.send_to(target)
    source.until("migrated")
    assert source.leases() == [("exclusive", "held")]
    assert sanlock_host.held(world.disk) == [held]
    target.complete_in(cookie)
    assert (source.state(), target.state()) == ("migrated", "running")
    assert target.leases() == [("exclusive", "held")]
    assert sanlock_host.held(world.disk) == []
    (moved,) = sanlock_neighbour.held(world.disk)
    assert moved.version is not None
    target.monitor.execute("cont")
    source.complete_out()
    assert source.guard is not None
    assert source.guard.wait().code == 0
    back = world.receive(0)
    stood = move(target, back)
    measured(
        "migration", f"sanlock, two hosts, nobody else there: stood still {1e3 * stood:.0f} ms"
    )
    judge(world, back)


def intruders(world: World, *daemons: Daemon) -> list[Intruder]:
    return [
        Intruder(
            CHECKOUT, facts.lease_name(world.disk), daemon.lease_file(world.disk), mode,
            program="sanlock_intruding.py", **daemon.env,
        )
        for daemon in daemons
        for mode in Mode.ALL
    ]  # fmt: skip


def test_back_and_forth_with_strangers_at_the_door(
    world: World,
    sanlock_host: Daemon,
    sanlock_neighbour: Daemon,
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    count = rounds(2, 40)
    here = world.boot()
    waiters = [world.want(mode) for mode in Mode.ALL]
    strangers = intruders(world, sanlock_host, sanlock_neighbour)
    stood: list[float] = []
    with ExitStack() as stack:
        for stranger in strangers:
            stack.enter_context(stranger)
        for number in range(1, count + 1):
            there = world.receive(number % 2)
            stood.append(move(here, there))
            world.end(here)
            here = there
        got_in = [stranger.got_in() for stranger in strangers]
    tried = [stranger.tried for stranger in strangers]
    assert got_in[::2] == [0, 0], f"of {tried[::2]} tries to have the disk alone"
    assert min(tried) > count
    assert not spoken(waiters, 0), "a waiter has got in"
    judge(world, here)
    assert spoken(waiters, DEADLINE_S), "they have waited for the guest's end"
    who = "two that try to have the disk alone, two that share it, and one of each that waits"
    measured("migration", f"sanlock, with strangers ({who}): stood still {milliseconds(stood)}")
    alone, shared = sum(tried[::2]), sum(tried[1::2])
    words = f"{alone:,} tries to have it alone: none; {shared:,} to share it: {sum(got_in):,}"
    measured("migration", f"sanlock, {count} times two hosts' strangers got in of {words}")
