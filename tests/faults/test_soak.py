"""Random starts, kills, stops and attaches over a handful of disks: does anything go wrong or stay?

Real guests that write, and cheaper ones, through the command and the guard
itself. LOCK_SUPERVISOR_SOAK_SEED=N makes the same choices again, as far as
the machine's speed lets them fall on the same processes.
"""

from __future__ import annotations

import os
import random
import time
from functools import partial
from typing import TYPE_CHECKING

import prctl
import pytest

from lockplugins.contract import Mode
from tests.faults import processes
from tests.faults.soak import asking, hurting, plugging, starting
from tests.faults.soak.disks import Disks
from tests.faults.soak.runs import Kind, Run
from tests.faults.soak.world import World, children
from tests.support import insight, proclocks
from tests.support.guard import descendants
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guards

SEED = "LOCK_SUPERVISOR_SOAK_SEED"
_ACTIONS: dict[Callable[[World], None], int] = {
    starting.start: 30,
    starting.second: 8,
    starting.twin: 1,
    hurting.kill_guard: 3,
    hurting.kill_guest: 3,
    hurting.kill_init: 3,
    hurting.term_guard: 3,
    hurting.freeze: 6,
    hurting.fuzz: 4,
    hurting.fall_mute: 4,
    asking.list_guests: 4,
    asking.status: 5,
    asking.child: 3,
    asking.wait: 3,
    asking.stop: 4,
    asking.kill: 3,
    plugging.attach: 12,
    plugging.detach: 8,
    plugging.plug: 6,
    plugging.unplug: 4,
    plugging.churn: 3,
}
_ENDS = (hurting.kill_guard, hurting.term_guard, asking.stop, asking.kill)


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Adopt whoever loses its parent: nobody that is started here gets out of sight."""
    before = children()
    prctl.set_child_subreaper(1)
    yield
    for pid in set(children()).difference(before):  # after a failure
        processes.kill(pid)
        os.waitpid(pid, 0)
    prctl.set_child_subreaper(0)


@pytest.fixture
def world(subreaper: None, guards: Guards, command: Command, tmp_path: Path) -> Iterator[World]:  # noqa: ARG001  # before anything is started
    """Give the test its world; a failed one is told of."""
    seed = int(os.environ.get(SEED) or random.SystemRandom().getrandbits(32))
    made = World(seed, tmp_path, Disks(tmp_path), guards, command)
    yield made
    print(made.report())


def start_anchors(world: World) -> dict[Run, dict[str, int]]:
    """Start guests that nobody ends; returns what each guard has at first."""
    for disk in world.disks.anchored:
        drawn = [(disk, disk.file, Mode.EXCLUSIVE)]
        world.anchors.append(starting.launch(world, Kind.IDLE, drawn))
    world.until(lambda: all(run.up for run in world.anchors), "the anchors run")
    for _ in world.anchors * 8:
        plugging.churn(world)
    return {run: belongings(run) for run in world.anchors}


def belongings(run: Run) -> dict[str, int]:
    """Count what a guard has, and what is in flight to its guest (unix_show_fdinfo)."""
    pid, infos = run.guard.pid, []
    with Wire(f"{run.guard.path}/control"):  # answered after it has noticed who hung up before
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                infos.append(insight.read(pid, f"fdinfo/{fd}"))
            except FileNotFoundError:
                continue  # somebody hung up just now
    lines = b"".join(infos).splitlines()
    return {
        "descriptors": len(infos),
        "in flight": sum(int(line.split()[1]) for line in lines if b"scm_fds" in line),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "processes": len(descendants(pid)),
    }


def soak(world: World, seconds: float) -> None:
    """Do one random thing after another, until time is up or something is wrong."""
    while time.monotonic() < world.began + seconds and not world.faults:
        action = world.rng.choices(list(_ACTIONS), list(_ACTIONS.values()))[0]
        action(world)
        world.pause(world.rng.uniform(0, 0.2))


def end_all(world: World) -> None:
    """End every guest but the anchors, each in some way; wait for all who were asked."""
    for run in world.runs:
        run.thaw()
    for wire in world.mute:
        wire.close()
    while not world.faults and world.choose(lambda _: True):
        world.rng.choice(_ENDS)(world)
        world.pause(0.3)
    world.until(lambda: not world.clients, "every command has returned")


def end_anchors(world: World, before: dict[Run, dict[str, int]]) -> None:
    """Detach what is attached: then each guard has what it had at first; and end it."""
    for run, first in before.items():
        while loose := plugging.loose(run):
            plugging.give_back(world, run, loose[0])
            world.until(lambda: not world.clients, "detach returns")
        world.until(partial(has_again, run, first), f"{run} has no more than at first: {first}")
        assert run.calm(), run
    world.anchors.clear()
    end_all(world)


def has_again(run: Run, first: dict[str, int]) -> bool:
    return belongings(run) == first


@pytest.mark.slow
def test_a_soak_leaves_nothing_behind_and_never_two_on_a_disk(
    world: World,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    with world.judge:
        before = start_anchors(world)
        soak(world, rounds(60, 600))
        assert not world.faults
        end_all(world)
        end_anchors(world, before)
        world.look()
    assert not world.faults
    assert world.command.json("list") == []
    assert os.listdir(world.guards.runtime_dir) == []
    assert world.children() == set()
    for path in (*world.disks.files, *map(str, (tmp_path / "lockspace").glob("*"))):
        assert proclocks.locks(path) == [], path
    assert not world.disks.faults()
    boots, blocks = world.disks.boots()
    assert boots > 5, "hardly any guest wrote"
    measured("soak", f"seed {world.seed}, {boots} boots on the disks, {blocks} blocks")
    measured("soak", f"{world.judge.judged} uses of a disk judged in {world.judge.looks} looks")
    for what, count in sorted(world.counts.items()):
        measured("soak", f"{what}: {count}")
