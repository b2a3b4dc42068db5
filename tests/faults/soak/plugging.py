"""Which disks come and go while the soak's guests run? Leases alone, and with QEMU's device.

Every answer is judged: a refusal needs somebody else who may have the disk.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from lockplugins.contract import Mode
from tests.faults.soak.judge import identity
from tests.faults.soak.runs import Claim, Kind, Run
from tests.support import waiting
from tests.support.qemu import GuestError
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from tests.faults.soak.world import World
    from tests.support.command import Result

UNPLUG_S = 20.0
CHURNS = 10
_NO_SUCH = 1
_HELD = 110
_FAILED = 111


def attach(world: World) -> None:
    """`attach` a disk that anybody may have."""
    run = world.choose(lambda run: run.up and not run.changes % 2, anchors=True)
    if run is None:
        return
    rng = world.rng
    disk = rng.choice(world.disks.spare if rng.random() < 0.8 else world.disks.main)
    mode = Mode.SHARED if rng.random() < 0.25 else Mode.EXCLUSIVE
    _attach(world, run, Claim(disk.file, world.disks.named(disk, rng), mode))


def _attach(world: World, run: Run, claim: Claim) -> None:
    has_it = any(claim.name == other.name and other.sure for other in run.claims)
    began = time.monotonic()
    run.changes += 1

    def answered(result: Result) -> str:
        run.changes += 1
        if result.code == 0 and not has_it:
            return _attached(world, run, claim)
        claim.ended = time.monotonic()
        if not run.calm(began):
            return f"{result.code}, meanwhile"
        if has_it:
            return "111, has it" if result.code == _FAILED else "FAULT"
        rivals = world.rivals(run, claim, began)
        return "110" if result.code == _HELD and rivals else f"FAULT, {rivals=}"

    if not has_it:
        run.claims.append(claim)
    world.ask("attach", run, answered, f"{claim.name},{claim.mode}")


def _attached(world: World, run: Run, claim: Claim) -> str:
    if run.ended < claim.ended:
        claim.ended = run.ended
        return "0, meanwhile"
    world.acknowledge(claim)
    lock = world.judge.lock_on(identity(claim.file))
    wanted = {fcntl.F_WRLCK} | ({fcntl.F_RDLCK} if claim.mode == Mode.SHARED else set())
    return "0" if lock in wanted or run.guest_is_gone() else f"FAULT, lock type {lock}"


def detach(world: World) -> None:
    """`detach` what was attached and is not plugged into QEMU."""
    run = world.choose(lambda run: not run.changes % 2 and loose(run), anchors=True)
    if run is not None:
        give_back(world, run, world.rng.choice(loose(run)))


def loose(run: Run) -> list[Claim]:
    """Return what was attached to a run alone: it may be the disk that it has open."""
    attached = [claim for claim in run.claims if claim.sure and claim.began > run.began]
    return [c for c in attached if c.node is None]


def give_back(world: World, run: Run, claim: Claim) -> None:
    """Have one lease detached."""
    began = time.monotonic()
    claim.sure = False
    run.changes += 1

    def answered(result: Result) -> str:
        run.changes += 1
        if result.code == 0:
            claim.ended = min(claim.ended, time.monotonic())
            return "0" if _is_given_up(world, run, claim, began) else "FAULT, still held"
        if not run.calm(began):
            return f"{result.code}, meanwhile"
        claim.sure = True
        if result.code == _FAILED and "QEMU has it open" in result.err:
            opened = any(claim.file == other.file for other in run.claims if other is not claim)
            return "111, open" if opened or claim.node else "FAULT"
        return "FAULT"

    world.ask("detach", run, answered, claim.name)


def _is_given_up(world: World, run: Run, claim: Claim, since: float) -> bool:
    """Is the disk free, unless others may have it, or the guest by another name?"""
    again = any(claim.file == other.file for other in run.claims if other is not claim)
    free = world.judge.lock_on(identity(claim.file)) == fcntl.F_UNLCK
    rivals = world.rivals(run, Claim(claim.file, claim.name, Mode.EXCLUSIVE), since)
    return free or again or rivals


def plug(world: World) -> None:
    """Attach a spare disk and give it to a real guest, which writes to it at once."""
    run = world.choose(
        lambda run: run.kind == Kind.REAL and run.calm() and run.booted() and not run.changes % 2
    )
    if run is None or run.monitor is None:
        return
    disk = world.rng.choice(world.disks.spare)
    if any(claim.file == disk.file and claim.sure for claim in run.claims):
        return
    claim = Claim(disk.file, disk.names[0], Mode.EXCLUSIVE)
    _attach(world, run, claim)
    world.until(lambda: not run.changes % 2, f"{run} answers attach")
    if not claim.sure or not run.calm():
        return
    claim.node = f"plugged{world.number()}"
    file = {"driver": "file", "filename": claim.name, "locking": "off"}
    run.monitor.execute("blockdev-add", driver="raw", file=file, **{"node-name": claim.node})
    run.monitor.execute("device_add", driver="virtio-blk-pci", drive=claim.node, id=claim.node)
    world.counts["plug"] += 1
    world.say(f"plugged {disk.file} into {run}")


def unplug(world: World) -> None:
    """Take a disk from a real guest, and then its lease; not before, which is refused."""
    run = world.choose(
        lambda run: run.calm() and not run.changes % 2 and any(c.node for c in run.claims)
    )
    if run is None or run.monitor is None:
        return
    monitor = run.monitor
    claim = next(claim for claim in run.claims if claim.node and claim.sure)
    if world.rng.random() < 0.5:
        give_back(world, run, claim)
        world.until(lambda: not run.changes % 2, f"{run} answers detach")
        if not run.calm():
            return

    def is_out() -> bool:
        try:
            monitor.execute("blockdev-del", **{"node-name": claim.node})
        except GuestError as error:
            if "in use" not in str(error):
                raise
            return False
        return True

    monitor.execute("device_del", id=claim.node)
    waiting.until(is_out, UNPLUG_S, f"{run} gives {claim.file} up")
    claim.node = None
    world.counts["unplug"] += 1
    give_back(world, run, claim)


def churn(world: World) -> None:
    """Attach and detach a spare disk many times in a row, without the command."""
    run = world.rng.choice(world.anchors)
    disk = world.rng.choice(world.disks.spare)
    if run.changes % 2 or any(claim.file == disk.file and claim.sure for claim in run.claims):
        return
    arguments = {"type": "disk", "path": disk.file}
    claim = Claim(disk.file, disk.file, Mode.EXCLUSIVE)
    run.claims.append(claim)
    world.say(f"churn {os.path.basename(disk.file)} in {run}")
    with Wire(f"{run.guard.path}/control") as wire:
        for _ in range(CHURNS):
            try:
                wire.execute("acquire-resource", arguments)
            except Refused as refused:
                if refused.fields["exit_code"] != _HELD or not world.rivals(
                    run, claim, claim.began
                ):
                    world.accuse(f"churn: {refused}")
                world.counts["churn: refused"] += 1
                continue
            wire.execute("release-resource", arguments)
            world.counts["churn: 0"] += 1
    claim.ended = time.monotonic()
    run.changes += 2
