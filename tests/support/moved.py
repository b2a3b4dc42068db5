"""How does a test move a guest that writes, and what has become of it? Judges."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from tests.support.guest.checker import check, describe

if TYPE_CHECKING:
    from tests.support.guard import Guard
    from tests.support.moving import End, World


def move(source: End, target: End) -> float:
    """Migrate in the seed's order; returns for how long the guest stood still."""
    cookie = source.prepare()
    source.send_to(target)
    target.complete_in(cookie)
    target.monitor.execute("cont")
    source.complete_out()
    assert source.guard is not None
    assert source.guard.wait().code == 0
    return stood_still(source, target)


def stood_still(source: End, target: End) -> float:
    stopped = instant(source.monitor.wait_event("STOP"))
    return instant(target.monitor.wait_event("RESUME")) - stopped


def instant(event: dict[str, dict[str, int]]) -> float:
    stamp = event["timestamp"]
    return stamp["seconds"] + stamp["microseconds"] / 1e6


def judge(world: World, last: End) -> None:
    """End the guest, and see that it was one, and has lost nothing."""
    assert last.guard is not None
    last.guard.kill()
    report = check(world.disk)
    assert report.clean, describe(report)
    assert [f"{boot.nonce:016x}" for boot in report.boots] == [world.nonce]


def spoken(waiters: list[Guard], within_s: float) -> bool:
    """Has one of them said how it went?"""
    return bool(select.select([waiter._ready_fd for waiter in waiters], [], [], within_s)[0])
