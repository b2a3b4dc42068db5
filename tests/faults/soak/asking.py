"""What does the soak ask of the real command? Every question, and which answers are right when.

What a command says of a guest to which nothing has happened meanwhile must be
true; of others it may say that they are gone.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tests.faults.soak.runs import Hurt

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.soak.runs import Run
    from tests.faults.soak.world import World
    from tests.support.command import Result

_GONE = 1
_FAILED = 111
_SILENT = ("could not be looked at", "did not answer")


def list_guests(world: World) -> None:
    """`list`: every calm guest is there, with its pid."""
    calm = {run.guard.spec.uuid: run for run in world.runs if run.calm()}

    def answered(result: Result) -> str:
        if result.code:
            return "FAULT"
        found = {guest["uuid"]: guest for guest in json.loads(result.out)}
        wrong = [
            run
            for uuid, run in calm.items()
            if run.calm(client.began) and not _is_told(run, found.get(uuid))
        ]
        return f"FAULT wrong about {', '.join(map(str, wrong))}" if wrong else "0"

    client = world.ask("list", None, answered, "--json")


def status(world: World) -> None:
    """`status`: the leases are those that were acknowledged."""

    def judged(run: Run, result: Result) -> bool:
        guest = json.loads(result.out)
        held = {(claim.name, claim.mode) for claim in run.claims if claim.sure}
        told = {(lease["resource"], lease["mode"]) for lease in guest["leases"]}
        whole = not guest["guarantee"].startswith("weakened")
        whole = whole or any(words in guest["guarantee"] for words in _SILENT)
        return _is_told(run, guest) and held == told and whole

    _ask_about(world, "status", judged, "--json")


def child(world: World) -> None:
    """`child`: the pid, and no other."""
    _ask_about(world, "child", lambda run, result: result.out == f"{run.guard.child_pid}\n")


def _is_told(run: Run, guest: dict[str, Any] | None) -> bool:
    return (
        guest is not None
        and guest["child_pid"] == run.guard.child_pid
        and guest["supervisor_pid"] == run.guard.pid
        and guest["state"] in {"running", "unknown"}  # on a busy machine an answer may come late
    )


def _ask_about(
    world: World, verb: str, judged: Callable[[Run, Result], bool], *options: str
) -> None:
    run = world.choose(lambda _: True, anchors=True)
    if run is None:
        return
    changes = run.changes

    def answered(result: Result) -> str:
        if not run.calm(client.began):
            return f"{result.code}, meanwhile"
        if changes % 2 or changes != run.changes:
            return "0, changing" if result.code == 0 else "FAULT"
        return "0" if result.code == 0 and judged(run, result) else "FAULT"

    client = world.ask(verb, run, answered, *options)


def stop(world: World) -> None:
    """`stop`: when it returns 0, guest and leases are gone."""
    run = world.choose_victim()
    if run is not None:
        timeout_s = world.rng.choice(("0", "0.5", "5"))
        _end(world, run, Hurt.STOP, "--timeout", timeout_s)


def kill(world: World) -> None:
    """`kill`: as `stop`."""
    run = world.choose_victim()
    if run is not None:
        _end(world, run, Hurt.KILL)


def _end(world: World, run: Run, how: str, *options: str) -> None:
    hurt_before, was_up = set(run.hurts), run.up
    run.hurt(how)

    def answered(result: Result) -> str:
        if result.code == 0:
            # Who else asks may be removing the directory just now.
            alone = all(client.run is not run for client in world.clients)
            gone = run.is_over() and not (alone and os.path.exists(run.guard.path))
            return "0" if gone else f"FAULT not gone, {run.signs_of_life()}"
        if result.code == _GONE:
            return "1" if run.guest_is_gone() or hurt_before or not was_up else "FAULT"
        return _excused(run, result, was_up=was_up)

    world.ask(how, run, answered, *options)


def _excused(run: Run, result: Result, *, was_up: bool) -> str:
    """Accept that a frozen guard does not answer, and that a new one has no files yet."""
    if result.code == _FAILED and Hurt.FREEZE in run.hurts:
        return "111, frozen"
    if result.code == _FAILED and "try again" in result.err and not was_up:
        return "111, too early"
    return "FAULT"


def wait(world: World) -> None:
    """`wait`: returns when the guest is gone."""
    run = world.choose(lambda _: True)
    if run is None:
        return
    was_up = run.up

    def answered(result: Result) -> str:
        if result.code == _GONE:
            return "1" if run.guest_is_gone() or run.hurts or not was_up else "FAULT"
        if result.code == 0:
            return "0" if run.is_over() else f"FAULT not gone, {run.signs_of_life()}"
        return _excused(run, result, was_up=was_up)

    world.ask("wait", run, answered)
