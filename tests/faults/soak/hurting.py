"""What does the soak do to processes? Kills, stops and freezes guards, guests and inits.

And looks at once whether a lease is free before its guest is dead.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from typing import TYPE_CHECKING

from lockplugins.contract import Mode
from tests.faults.soak.judge import identity
from tests.faults.soak.runs import Hurt
from tests.support.wire import Closed, Wire

if TYPE_CHECKING:
    from tests.faults.soak.runs import Run
    from tests.faults.soak.world import World

WITNESS_S = 1.0
MOST_MUTE = 6
_GARBAGE = (
    b"\0\xff\xfe",
    b'{"execute": ',
    b'{"execute": "query-status", "arguments": []}\n',
    b'{"execute": "query-child", "id": ' + b"[" * 500 + b"]" * 500 + b"}\n",
    b'{"execute": "acquire-resource", "arguments": {"path": 7, "type": null}}\n',
    b'{"execute": "release-resource", "arguments": {"path": "/nowhere"}}\n',
    b'{"execute": "stop-guest", "arguments": {"timeout_s": -1}}\n',
    b"x" * 70_000,
    b"\n" * 1000,
)


def kill_guard(world: World) -> None:
    """SIGKILL a guard, or the front door on its way to becoming one."""
    run = world.choose_victim()
    if run is not None:
        _kill(world, run, run.guard.pidfd, Hurt.KILL_GUARD)


def kill_guest(world: World) -> None:
    """SIGKILL a guest's process alone."""
    run = world.choose_victim(lambda run: not run.guest_is_gone())
    if run is not None:
        _kill(world, run, run.guard.child_pidfd, Hurt.KILL_GUEST)


def kill_init(world: World) -> None:
    """SIGKILL the init of a PID namespace alone."""
    run = world.choose_victim(lambda run: not run.guest_is_gone() and run.init())
    if run is None:
        return
    init = run.init()
    pidfd = os.pidfd_open(init)
    if run.init() == init:
        _kill(world, run, pidfd, Hurt.KILL_INIT)
    os.close(pidfd)


def term_guard(world: World) -> None:
    """SIGTERM a guard, in whatever state."""
    run = world.choose_victim()
    if run is not None:
        world.say(f"SIGTERM to {run}")
        world.counts[Hurt.TERM] += 1
        run.hurt(Hurt.TERM)
        _send(run.guard.pidfd, signal.SIGTERM)


def freeze(world: World) -> None:
    """SIGSTOP a guard, a guest or an init, for a while."""
    run = world.choose(lambda run: not run.guest_is_gone() and not run.frozen)
    if run is None:
        return
    target = world.rng.choice([run.guard.pid, run.guard.child_pid, run.init() or run.guard.pid])
    try:
        pidfd = os.pidfd_open(target)
    except ProcessLookupError:
        return
    if target in {run.guard.pid, run.init()} or not run.guest_is_gone():
        world.say(f"freeze {target} of {run}")
        world.counts[Hurt.FREEZE] += 1
        run.freeze(pidfd, time.monotonic() + world.rng.uniform(0.1, 2.5))
    else:
        os.close(pidfd)


def fuzz(world: World) -> None:
    """Send a control pipe what no client would."""
    run = world.choose(lambda run: run.up and not run.guest_is_gone(), anchors=True)
    wire = _connect(run)
    if run is None or wire is None:
        return
    world.say(f"fuzz {run}")
    world.counts["fuzz"] += 1
    with wire:
        try:
            for _ in range(world.rng.randint(1, 4)):
                wire.send(world.rng.choice(_GARBAGE))
        except OSError:
            world.counts["fuzz: hung up"] += 1


def fall_mute(world: World) -> None:
    """Ask much and never read, until later; or hang up on an earlier one."""
    if len(world.mute) >= MOST_MUTE:
        world.mute.pop(0).close()
        return
    run = world.choose(lambda run: run.calm(), anchors=True)
    wire = _connect(run)
    if run is None or wire is None:
        return
    world.say(f"mute client of {run}")
    world.counts["mute client"] += 1
    world.mute.append(wire)
    try:
        wire.send(b'{"execute": "qmp_capabilities"}\n' + b'{"execute": "query-status"}\n' * 30)
    except OSError:
        world.counts["mute client: hung up"] += 1


def _connect(run: Run | None) -> Wire | None:
    """Connect without a word, if there is anybody to connect to."""
    if run is None or run.frozen:
        return None
    try:
        return Wire(f"{run.guard.path}/control", negotiate=False)
    except (OSError, Closed):
        return None


def _kill(world: World, run: Run, pidfd: int, how: str) -> None:
    world.say(f"{how} of {run}")
    world.counts[how] += 1
    run.hurt(how)
    mine = [c.file for c in run.claims if c.sure and c.mode == Mode.EXCLUSIVE and run.life]
    awaited = {identity(file): file for file in mine}
    _send(pidfd, signal.SIGKILL)
    end = time.monotonic() + WITNESS_S
    while awaited and time.monotonic() < end and not run.is_over():
        for file, name in list(awaited.items()):
            if world.judge.lock_on(file) == fcntl.F_UNLCK:
                del awaited[file]
                world.counts["lease seen to come free"] += 1
                if signs := run.signs_of_life():
                    world.accuse(f"{name} is free after {how} of {run}, its guest {signs}")


def _send(pidfd: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
