"""Is it all or nothing, in order and back in reverse? For every plugin that excludes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from supervisor import rundir
from tests.conformance.setups import AT_ONCE, ORDER, SEVERAL
from tests.support import waiting
from tests.support.guard import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.setups import Setup
    from tests.support.guard import Guards

pytestmark = pytest.mark.asks(SEVERAL)

DISKS = 8


@pytest.fixture
def disks(manager: Setup) -> list[str]:
    return [manager.disk(f"disk{number}") for number in range(DISKS)]


@pytest.mark.parametrize("held", [0, 4, DISKS - 1])
@pytest.mark.parametrize("mode", Mode.ALL)
def test_one_held_disk_of_eight_leaves_all_others_free(
    manager: Setup, guards: Guards, disks: list[str], held: int, mode: str
) -> None:
    holder = guards.run((mode, disks[held]))
    signed = disks[0] + ".ran"
    refusal = guards.refusal(*disks, command=["/bin/touch", signed])
    assert refusal.code == 110
    assert f"disk {disks[held]}: held by guest {holder.spec.name} " in refusal.stderr
    assert not os.path.exists(signed)
    expected = [[mode] if number == held else [] for number in range(DISKS)]
    assert [manager.held(disk) for disk in disks] == expected


def test_a_missing_disk_leaves_all_others_free(
    manager: Setup, guards: Guards, tmp_path: Path, disks: list[str]
) -> None:
    missing = str(tmp_path / "missing")
    refusal = guards.refusal(*disks, missing)
    assert refusal.code == 111
    assert missing in refusal.stderr
    assert [manager.held(disk) for disk in disks] == [[]] * DISKS


def test_what_one_guest_was_refused_another_gets(
    manager: Setup, guards: Guards, disks: list[str]
) -> None:
    guards.run(disks[-1])
    guards.refusal(*disks)
    guards.run(*disks[:-1])
    assert [manager.held(disk) for disk in disks] == [[Mode.EXCLUSIVE]] * DISKS


@pytest.mark.asks(ORDER)
def test_what_was_taken_is_given_back_in_reverse(
    manager: Setup, guards: Guards, tmp_path: Path, disks: list[str]
) -> None:
    guards.run(disks[-1])
    record = tmp_path / "record"
    guards.start(guards.spec(*disks), prefix=manager.watch(record)).refused()
    given_back = manager.given_back(record, disks)
    assert [disk for disk in given_back if disk != disks[-1]] == disks[-2::-1]


@pytest.mark.asks(AT_ONCE)
def test_a_waiter_holds_nothing_while_it_waits(
    manager: Setup, guards: Guards, disks: list[str]
) -> None:
    free, held = disks[:2]
    holder = guards.run(held)
    waiter = guards.start(guards.spec(free, held, wait_s=DEADLINE_S))
    published = os.path.join(waiter.path, rundir.GUEST_JSON)
    waiting.until(lambda: os.path.exists(published), DEADLINE_S, "the waiter is known by name")
    bystander = guards.start(guards.spec(free, wait_s=DEADLINE_S)).ready()
    holder.kill()
    guards.start(guards.spec(held, wait_s=DEADLINE_S)).ready().kill()
    bystander.kill()
    waiter.ready()
    assert [manager.held(disk) for disk in (free, held)] == [[Mode.EXCLUSIVE]] * 2
