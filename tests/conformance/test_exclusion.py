"""Does exactly one hold, whoever comes, in whatever mode? For every plugin that excludes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from tests.conformance.setups import AT_ONCE
from tests.support import waiting
from tests.support.guard import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.setups import Setup
    from tests.support.guard import Ended, Guard, Guards

CONTENDERS = 20
EXCLUSIVE, SHARED = Mode.EXCLUSIVE, Mode.SHARED
# Every contender waits on the same pipe, and starts when its last writer closes it.
BARRIER = ("/bin/bash", "-c", 'read -r -u "$0"; eval "exec $0<&-"; exec "$@"')
SIGN_IN = 'echo "$0" >> "$1"; exec sleep 1000000'


class Race:
    """Guards that all start at the same instant; who runs signs a file."""

    def __init__(self, guards: Guards, tmp_path: Path) -> None:
        self._guards = guards
        self._signed = tmp_path / "ran"
        self._started: list[Guard] = []
        self._barrier_fd, self._open_fd = os.pipe()

    def enter(self, disk: str, mode: str) -> None:
        """Have one more guard wait at the barrier."""
        name = f"contender {len(self._started)}"
        spec = self._guards.spec((mode, disk), name=name)
        command = ["/bin/sh", "-c", SIGN_IN, name, str(self._signed)]
        fd = self._barrier_fd
        prefix = (*BARRIER, str(fd))
        self._started.append(self._guards.start(spec, command, pass_fds=[fd], prefix=prefix))

    def run(self) -> tuple[list[Guard], list[Ended]]:
        """Open the barrier; returns who runs, and how the others ended."""
        os.close(self._barrier_fd)
        os.close(self._open_fd)
        lines = [(guard, guard.line()) for guard in self._started]
        run = [guard for guard, line in lines if line.startswith("READY ")]
        refused = [guard.wait() for guard, line in lines if not line.startswith("READY ")]
        waiting.until(lambda: len(self._signatures()) >= len(run), DEADLINE_S, "all have signed")
        assert sorted(self._signatures()) == sorted(guard.spec.name for guard in run)
        return run, refused

    def _signatures(self) -> list[str]:
        return self._signed.read_text().splitlines() if self._signed.exists() else []


@pytest.fixture
def race(guards: Guards, tmp_path: Path) -> Race:
    return Race(guards, tmp_path)


def names_one_of(holders: list[Guard], refusal: Ended) -> bool:
    """Does the refusal name a holder in full: name, uuid and pid?"""
    return any(
        f"held by guest {holder.spec.name} ({holder.spec.uuid}), supervisor pid {holder.pid}"
        in refusal.stderr
        for holder in holders
    )


def test_of_twenty_contenders_one_holds_and_the_others_name_it(manager: Setup, race: Race) -> None:
    disk = manager.disk("disk")
    for _ in range(CONTENDERS):
        race.enter(disk, EXCLUSIVE)
    run, refused = race.run()
    assert len(run) == 1
    assert manager.held(disk) == [EXCLUSIVE]
    assert [ended.code for ended in refused] == [110] * (CONTENDERS - 1)
    for ended in refused:
        assert names_one_of(run, ended), ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr


@pytest.mark.asks(SHARED)
def test_twenty_sharers_all_hold(manager: Setup, race: Race) -> None:
    disk = manager.disk("disk")
    for _ in range(CONTENDERS):
        race.enter(disk, SHARED)
    run, refused = race.run()
    assert not refused
    assert len(run) == CONTENDERS
    assert manager.held(disk) == [SHARED] * CONTENDERS


@pytest.mark.asks(SHARED)
def test_sharers_and_exclusive_contenders_never_mix(manager: Setup, race: Race) -> None:
    disk = manager.disk("disk")
    for number in range(CONTENDERS):
        race.enter(disk, (EXCLUSIVE, SHARED)[number % 2])
    run, refused = race.run()
    modes = sorted(guard.spec.resources[0].mode for guard in run)
    assert modes == manager.held(disk)
    assert modes == [EXCLUSIVE] or (modes and set(modes) == {SHARED})
    assert {ended.code for ended in refused} == {110}


@pytest.mark.parametrize(
    ("held", "asked"), [(EXCLUSIVE, EXCLUSIVE), (EXCLUSIVE, SHARED), (SHARED, EXCLUSIVE)]
)
def test_conflicting_modes_are_refused(
    manager: Setup, guards: Guards, held: str, asked: str
) -> None:
    disk = manager.disk("disk")
    holder = guards.run((held, disk))
    refusal = guards.refusal((asked, disk))
    assert refusal.code == 110
    assert names_one_of([holder], refusal)
    assert f"cannot acquire {asked} lease for {manager.kind} {disk}: " in refusal.stderr
    assert manager.held(disk) == [held]


@pytest.mark.asks(SHARED, AT_ONCE)
def test_exclusive_follows_the_last_sharer(manager: Setup, guards: Guards) -> None:
    disk = manager.disk("disk")
    first, last = guards.run((SHARED, disk)), guards.run((SHARED, disk))
    assert names_one_of([first, last], guards.refusal(disk))
    first.kill()
    assert names_one_of([last], guards.refusal(disk))
    last.kill()
    guards.run(disk)
    assert manager.held(disk) == [EXCLUSIVE]


def test_guests_on_different_disks_do_not_meet(manager: Setup, guards: Guards) -> None:
    disks = [manager.disk("one"), manager.disk("two")]
    for disk in disks:
        guards.run(disk)
    assert [manager.held(disk) for disk in disks] == [[EXCLUSIVE]] * 2
