"""Why does a guest not stand still, or not go on?"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lockplugins import comeback
from lockplugins.contract import LockError, Resource
from tests.support.errors.world import Case, Said, raised, wired
from tests.support.locking import CopyingCarrier
from tests.support.manager import Manager
from tests.support.qemu import idle_argv
from tests.support.stand_ins import StandIn
from tests.support.wire import Wire

if TYPE_CHECKING:
    from lockplugins.contract import Lease
    from tests.support.errors.world import Provoke, World
    from tests.support.guard import Guard

# A QEMU that refuses whatever it is asked on our monitor, but for what it was told to answer.
_REFUSING = """#!/usr/bin/python3
import json, re, socket, sys
told = open(sys.argv[sys.argv.index("-readconfig") + 1]).read()
monitor = socket.socket(fileno=int(re.search('fd = "([0-9]+)"', told)[1]))
monitor.sendall(b'{"QMP": {}}\\n')
for line in monitor.makefile():
    asked, known = json.loads(line), json.loads(sys.argv[1])
    error = {"class": "GenericError", "desc": "Resetting the Virtual Machine is required"}
    obeyed = asked["execute"] in known
    answer = {"return": known[asked["execute"]]} if obeyed else {"error": error}
    monitor.sendall(json.dumps({**answer, "id": asked["id"]}).encode() + b"\\n")
"""


def refusing(world: World, **known: object) -> Guard:
    program = world.write("qemu-kvm", _REFUSING, 0o755)
    answers = {"qmp_capabilities": {}, **known}
    return world.guest(command=[program, json.dumps(answers)])


def not_stopped(world: World) -> Said:
    return wired(refusing(world), "pause-guest")


def not_continued(world: World) -> Said:
    known = {"stop": {}, "query-status": {"running": False}}
    guard = refusing(world, **known)
    with Wire(f"{guard.path}/control") as wire:
        state = wire.execute("pause-guest")["state"]
    return wired(guard, "resume-guest", state=state)


def another_state(world: World) -> Said:
    guard = world.guest(command=idle_argv())
    with Wire(f"{guard.path}/control") as wire:
        wire.execute("pause-guest")
    return wired(guard, "resume-guest", state="nonsense")


def paused(**fields: object) -> Provoke:
    """Provoke by pausing such a guest."""
    return lambda world: wired(world.guest(**fields), "pause-guest")


def parked(world: World) -> tuple[Manager, Guard, str]:
    """Pause a guest whose leases are given up."""
    manager = played(world)
    guard = world.guards.start(manager.spec("claiming", term_s=60), idle_argv()).ready()
    with Wire(f"{guard.path}/control") as wire:
        return manager, guard, wire.execute("pause-guest")["state"]


def played(world: World) -> Manager:
    os.mkdir(world.path("manager"))
    return Manager(world.guards, Path(world.path("manager")))


def had_by_another(world: World) -> Said:
    manager, guard, state = parked(world)
    manager.claims.claim(manager.disk, "host2")
    return wired(guard, "resume-guest", state=state)


def half_of_the_leases(_world: World) -> Said:
    carrier = CopyingCarrier()
    plugin = Refusing({}, carrier)
    leases = plugin.acquire([Resource("/srv/a"), Resource("/srv/b")], None)
    found = raised(lambda: comeback.take_back(plugin, leases))
    carrier.close()
    return found


class Refusing(StandIn):
    """Takes the first lease back, and then knows nothing any more."""

    name = "refusing"

    def reacquire(self, lease: Lease) -> None:
        if lease.resource == "/srv/b":
            raise LockError("reach", "the lock manager", "ECONNREFUSED")

    def release(self, lease: Lease) -> None:
        raise LockError("release", lease.resource, "ECONNREFUSED")


CASES = (
    Case(111, paused(),
         "It is no QEMU, or was started with `--no-monitor`. Start it again with its monitor."),
    Case(111, not_stopped,
         "QEMU's own words, or that it did not answer. If it does stop after all, it is held as "
         "before; `cont` on its monitor has it go on."),
    Case(111, not_continued,
         "QEMU's own words: it does not run in the state that it is in."),
    Case(2, another_state,
         "The state is another guest's, or of an earlier pause. `status --json` has the right one "
         "in `parked`."),
    Case(112, had_by_another,
         "Somebody else has had a lease since the pause: the guest's memory is of before that. It "
         "was ended.", at="supervisor.guard.parking:Parking._taken_back"),
    Case(112, half_of_the_leases,
         "Some of the leases were back, others not, and the lock manager does not say that the "
         "first are given up again. The guest is ended."),
)  # fmt: skip
