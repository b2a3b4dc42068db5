"""Does a guest that writes migrate under etcd's leases, with nobody in between?

The two hosts have different `failover_s`.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from lockplugins.contract import Mode
from tests.support import proclocks
from tests.support.measured import milliseconds
from tests.support.moved import judge, move, spoken
from tests.support.moving import DEADLINE_S, Intruder, World
from tests.support.sources import CHECKOUT
from tests.support.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.etcd import Cluster
    from tests.support.moving import End

pytestmark = pytest.mark.slow

FAILOVERS = ("30", "15")
HELD, PENDING, LOST = ("exclusive", "held"), ("exclusive", "pending"), ("exclusive", "lost")


def tables(cluster: Cluster, world: World) -> list[dict[str, str]]:
    """Return each host's table, in a namespace of the world's own."""
    return [
        cluster.config() | {"namespace": world.uuid, "failover_s": failover}
        for failover in FAILOVERS
    ]


@pytest.fixture
def world(tmp_path: Path, require: Callable[[str], str], etcd_member: Cluster) -> Iterator[World]:
    require("qemu-system-x86_64")
    with World(tmp_path) as made:
        for guards, table in zip(made.hosts, tables(etcd_member, made), strict=True):
            guards.defaults = {"plugin": "etcd", "config": {"etcd": table}}
        yield made


def leases(end: End) -> set[tuple[str, str]]:
    """Return what is said of the disk's lease and the guest's own."""
    return set(end.leases())


def owners(world: World, cluster: Cluster) -> set[str]:
    """Return the supervisors that have the disk or the guest, by what etcd has of them."""
    name = quote(f"{os.uname().nodename}:{world.disk}", safe=":")
    below = f"/lsup/v1/{world.uuid}/"
    kept = cluster.kept(below)
    keys = (f"{below}disk/{name}/w", f"{below}vm/{world.uuid}/w")
    return {str(json.loads(kept[key])["pid"]) for key in keys}


def pid(end: End) -> str:
    assert end.guard is not None
    return str(end.guard.pid)


def test_in_the_seeds_order_the_target_completes_first(
    world: World, etcd_member: Cluster, measured: Callable[[str, str], None]
) -> None:
    source, target = world.boot(), world.receive()
    assert (source.state(), target.state()) == ("running", "incoming")
    assert (leases(source), leases(target)) == ({HELD}, {PENDING})
    cookie = source.prepare()
    assert cookie.isprintable()
    assert len(cookie) < 4096
    source.send_to(target)
    source.until("migrated")
    assert leases(source) == {HELD}
    assert owners(world, etcd_member) == {pid(source)}
    target.complete_in(cookie)
    assert owners(world, etcd_member) == {pid(target)}
    assert (source.state(), target.state()) == ("migrated", "running")
    assert leases(target) == {HELD}
    target.monitor.execute("cont")
    with pytest.raises(Refused):
        source.cancel_out()
    source.complete_out()
    assert source.guard is not None
    assert source.guard.wait().code == 0
    assert owners(world, etcd_member) == {pid(target)}
    stood = move(target, world.receive(0))
    measured("etcd-migration", f"nobody else there: stood still {1e3 * stood:.0f} ms")
    judge(world, world._ends[-1])


def test_the_source_may_complete_first(world: World, etcd_member: Cluster) -> None:
    source, target = world.boot(), world.receive()
    waiter = world.want(Mode.EXCLUSIVE)
    cookie = source.prepare()
    source.send_to(target)
    source.complete_out()
    assert source.guard is not None
    assert source.guard.wait().code == 0
    assert owners(world, etcd_member) == {pid(source)}, "they are left to who awaits them"
    target.complete_in(cookie)
    assert owners(world, etcd_member) == {pid(target)}
    target.monitor.execute("cont")
    assert not spoken([waiter], 0)
    judge(world, target)


def test_a_cancelled_guest_goes_on_and_migrates_again(world: World) -> None:
    source, target = world.boot(), world.receive()
    old = source.prepare()
    source.send_to(target)
    source.until("migrated")
    with pytest.raises(Refused, match="is awaited by guest web1"):
        source.cancel_out()
    target.cancel_in()
    assert target.guard is not None
    assert target.guard.wait().code == 0
    source.cancel_out()
    assert (source.state(), leases(source)) == ("running", {HELD})
    source.monitor.execute("cont")
    again = world.receive()
    cookie = source.prepare()
    source.send_to(again)
    with pytest.raises(Refused, match="that attempt is over"):
        again.complete_in(old)
    again.complete_in(cookie)
    again.monitor.execute("cont")
    source.complete_out()
    judge(world, again)


def intruders(world: World, cluster: Cluster) -> list[Intruder]:
    table = json.dumps(tables(cluster, world)[0])
    return [
        Intruder(CHECKOUT, table, world.disk, mode, program="etcd_intruding.py")
        for mode in Mode.ALL
    ]


def test_back_and_forth_with_strangers_at_the_door(
    world: World,
    etcd_member: Cluster,
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    count = rounds(2, 40)
    here = world.boot()
    waiters = [world.want(mode) for mode in Mode.ALL]
    strangers = intruders(world, etcd_member)
    stood: list[float] = []
    with ExitStack() as stack:
        for stranger in strangers:
            stack.enter_context(stranger)
        for number in range(1, count + 1):
            there = world.receive(number % 2)
            stood.append(move(here, there))
            world.end(here)
            here = there
        assert [stranger.got_in() for stranger in strangers] == [0, 0]
    assert min(stranger.tried for stranger in strangers) > count
    assert not spoken(waiters, 0), "a waiter has got in"
    judge(world, here)
    assert spoken(waiters, DEADLINE_S), "they have waited for the guest's end"
    measured("etcd-migration", f"with strangers: stood still {milliseconds(stood)}")
    tried = sum(stranger.tried for stranger in strangers)
    measured(
        "etcd-migration", f"{count} times, {tried:,} tries to have or share the disk: none got in"
    )


def test_with_the_plugin_file_both_hand_over_or_neither(world: World, etcd_member: Cluster) -> None:
    for guards in world.hosts:
        guards.defaults["plugin"] = "etcd+file"
    source, target = world.boot(), world.receive()
    cookie = source.prepare()
    source.send_to(target)
    source.until("migrated")
    with pytest.raises(Refused, match="is awaited by"):
        source.cancel_out()
    target.cancel_in()
    source.cancel_out()
    source.monitor.execute("cont")
    assert proclocks.below_qemus(world.disk) == [("WRITE", 0, "0")]
    assert owners(world, etcd_member) == {pid(source)}
    again = world.receive()
    move(source, again)
    assert owners(world, etcd_member) == {pid(again)}
    assert len(cookie) < 4096
    judge(world, again)
