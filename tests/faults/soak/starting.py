"""Which guests does the soak start, on which disks, and how? By the command, or the guard directly.

Draws, starts, and does not wait.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from lockplugins.contract import Mode, Resource
from supervisor.spec import Containment, render
from tests.faults.soak.runs import FOREVER, Claim, Kind, Run
from tests.faults.soak.world import PATIENCE_S
from tests.support import qemu
from tests.support.command import PROGRAM
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.spec import GuestSpec
    from tests.faults.soak.disks import Disk
    from tests.faults.soak.world import World

MOST_RUNS = 10
MOST_REAL = 2
_WEIGHTS = {Kind.REAL: 5, Kind.IDLE: 3, Kind.WRITER: 4, Kind.HOLDER: 4, Kind.CHECK: 3}
_WAITS = {0.0: 5, 1.0: 3, FOREVER: 3}
_REAL_WAITS = {0.0: 2, 1.0: 1, FOREVER: 5}  # refused it would write nothing
_STOP_TIMEOUTS_S = (0.3, 2.0, 10.0)

Drawn = list[tuple["Disk", str, str]]  # disk, its name, the mode


def start(world: World) -> None:
    """Start a guest on some disks, whoever has them."""
    if len(world.runs) >= MOST_RUNS:
        return
    rng = world.rng
    kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    if kind == Kind.REAL and sum(run.kind == kind for run in world.runs) >= MOST_REAL:
        kind = Kind.WRITER
    waits = _REAL_WAITS if kind == Kind.REAL else _WAITS
    wait_s = rng.choices(list(waits), list(waits.values()))[0]
    launch(world, kind, _draw(world, kind), wait_s=wait_s)


def _draw(world: World, kind: str) -> Drawn:
    rng, disks = world.rng, world.disks
    if kind == Kind.CHECK:
        disk = rng.choice(disks.main + disks.spare)
        return [(disk, disks.named(disk, rng), Mode.SHARED)]
    among = disks.raw if kind == Kind.WRITER else disks.main
    count = 1 if kind == Kind.WRITER else rng.choice((1, 1, 2, 3))
    can_share = kind in {Kind.IDLE, Kind.HOLDER}
    drawn = []
    for disk in rng.sample(among, count):
        shared = can_share and rng.random() < 0.4
        name = disks.named(disk, rng)
        drawn.append((disk, name, Mode.SHARED if shared else Mode.EXCLUSIVE))
    return drawn


def launch(world: World, kind: str, drawn: Drawn, *, wait_s: float = 0.0) -> Run:
    """Start a guest of this kind; returns at once."""
    rng = world.rng
    leases = dict.fromkeys(lease for disk, name, mode in drawn for lease in disk.leases(name, mode))
    spec = world.guards.spec(
        name=f"{kind}{world.number()}",
        resources=[Resource(name, mode) for _file, name, mode in leases],
        wait_s=wait_s,
        containment=Containment.PIDNS if kind == Kind.CHECK else rng.choice(Containment.ALL),
        stop_timeout_s=rng.choice(_STOP_TIMEOUTS_S),
    )
    spec.uuid = _old_uuid(world) or spec.uuid
    by_guard = rng.random() < 0.5
    if by_guard and rng.random() < 0.3:
        spec.config = {"file": {"file_lockspace_dir": str(world.directory / "lockspace")}}
    monitor = qemu.Monitor() if kind == Kind.REAL else None
    popen: dict[str, Any] = {"pass_fds": [monitor.fd]} if monitor else {}
    if kind == Kind.CHECK:
        popen = {"cwd": CHECKOUT, "env": {**os.environ, "TMPDIR": str(world.directory)}}
    argv_of = render if by_guard else _by_command(kind)
    command = _COMMANDS[kind](world, drawn, monitor)
    guard = world.guards.start(spec, command, argv_of=argv_of, **popen)
    claims = [Claim(file, name, mode) for file, name, mode in leases]
    run = Run(guard, kind, claims, monitor)
    world.runs.append(run)
    claimed = " ".join(f"{os.path.basename(c.name)}:{c.mode}" for c in claims)
    how = "guard" if by_guard else "run"
    world.say(f"{how} {run} {claimed} wait {wait_s:g} {spec.containment}")
    return run


def _old_uuid(world: World) -> str | None:
    """Return the uuid of a guest that has ended, now and then."""
    uuids = {run.guard.spec.uuid for run in world.past}
    uuids -= {run.guard.spec.uuid for run in world.runs}
    uuids -= {client.run.guard.spec.uuid for client in world.clients if client.run}
    return world.rng.choice(sorted(uuids)) if uuids and world.rng.random() < 0.2 else None


def _by_command(kind: str) -> Callable[[GuestSpec], list[str]]:
    """Have the real command make the guard: QEMU's disks are for it to find."""

    def argv(spec: GuestSpec) -> list[str]:
        words = [PROGRAM, "run", "--name", spec.name, "--uuid", spec.uuid]
        words += ["--runtime-dir", spec.runtime_dir, "--wait", f"{spec.wait_s:g}"]
        words += ["--containment", spec.containment, "--stop-timeout", f"{spec.stop_timeout_s:g}"]
        if kind not in Kind.QEMU:
            words += [f"--disk={disk.path},{disk.mode}" for disk in spec.resources]
        return [*words, "--ready-fd", str(spec.ready_fd), "--"]

    return argv


def _real(world: World, drawn: Drawn, monitor: qemu.Monitor | None) -> Sequence[str]:
    assert monitor is not None
    names = [name for _disk, name, _mode in drawn]
    return qemu.guest_argv(*names, nonce=_nonce(world), extra=monitor.argv)


def _idle(_world: World, drawn: Drawn, _monitor: qemu.Monitor | None) -> Sequence[str]:
    words = []
    for disk, name, mode in drawn:
        image_format = "qcow2" if disk.backing else "raw"
        options = f"file={name},format={image_format},if=none,file.locking=off"
        words += ["-drive", options + ",readonly=on" * (mode == Mode.SHARED)]
    return qemu.idle_argv(extra=words)


def _writer(world: World, drawn: Drawn, _monitor: qemu.Monitor | None) -> Sequence[str]:
    count = world.rng.choice((1, 100, 1000))
    words = [f"nonce={_nonce(world)}", f"count={count}"]
    return [str(qemu.WRITER), *(name for _disk, name, _mode in drawn), *words]


def _holder(_world: World, drawn: Drawn, _monitor: qemu.Monitor | None) -> Sequence[str]:
    opened = " ".join(
        f'{number}{"<" if mode == Mode.SHARED else "<>"}"${number - 2}"'
        for number, (_disk, _name, mode) in enumerate(drawn, 3)
    )
    names = [name for _disk, name, _mode in drawn]
    return ["/bin/sh", "-c", f"exec {opened}; exec sleep 1000000", "holder", *names]


def _check(_world: World, drawn: Drawn, _monitor: qemu.Monitor | None) -> Sequence[str]:
    checker = [sys.executable, "-m", "tests.support.guest.checker"]
    return [*checker, *(name for _disk, name, _mode in drawn)]


def _nonce(world: World) -> str:
    return f"{world.rng.getrandbits(64) | 1 << 63:016x}"


_COMMANDS = {
    Kind.REAL: _real,
    Kind.IDLE: _idle,
    Kind.WRITER: _writer,
    Kind.HOLDER: _holder,
    Kind.CHECK: _check,
}


def second(world: World) -> None:
    """Start a guest on a disk that a running one has: it must be refused, or wait."""
    run = world.choose(lambda run: run.calm() and len(world.runs) < MOST_RUNS, anchors=True)
    if run is None:
        return
    claim = world.rng.choice(run.claims)
    disks = {disk.file: disk for disk in world.disks.all}
    if claim.file not in disks or not claim.sure:
        return
    wait_s = world.rng.choice((0.0, 0.5))
    name = world.disks.named(disks[claim.file], world.rng)
    launch(world, Kind.HOLDER, [(disks[claim.file], name, Mode.EXCLUSIVE)], wait_s=wait_s)


def twin(world: World) -> None:
    """Start a guest by the uuid of one that nobody ends: it must be refused."""
    anchor = world.rng.choice(world.anchors)
    spec = world.guards.spec((Mode.SHARED, world.disks.base), uuid=anchor.guard.spec.uuid)
    guard = world.guards.start(spec)
    ended = guard.refused(PATIENCE_S)
    world.guards.end(guard)
    world.say(f"twin of {anchor}: {ended.code}")
    world.counts[f"twin: {ended.code}"] += 1
    if ended.code != 110:
        world.accuse(f"a twin of {anchor} ended with {ended}")
