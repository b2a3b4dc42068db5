"""What can happen to a migration, and what becomes of it then? Computed by the model.

What cannot happen in a scene is said, with the reason. It does not know how
any of it is done.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from supervisor.guard.lifecycle import Event, State
from tests.support.outcomes import (
    DESTINATION,
    GONE,
    HERE,
    LEAVING,
    MOVING,
    NOBODY,
    SOURCE,
    STALE,
    THERE,
    Ends,
    Impossible,
    Refusal,
    attempt,
    cancel_in,
    cancel_out,
    complete_in,
    complete_out,
    hang_up,
    migrate,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NOTHING, REFUSED, CHANGES = "nothing", "refused", "changes"


class Row(NamedTuple):
    """One thing that happens in a scene, and what becomes of it."""

    scene: Ends
    then: str
    kind: str
    becomes: Ends


def _need(ends: Ends, end: str) -> None:
    if not ends.lives(end):
        raise Impossible(f"the {end} is gone")
    if not ends.executes(end):
        raise Impossible(f"the {end} has no QEMU yet")


def kill_supervisor(end: str, ends: Ends) -> Ends:
    if not ends.lives(end):
        raise Impossible(f"the {end} is gone")
    return ends.ended(end, GONE)


def kill_qemu(end: str, ends: Ends) -> Ends:
    if not ends.lives(end):
        raise Impossible(f"the {end} is gone")
    return ends.happens(end, Event.DEAD, f"{GONE}, 137")


def _is_watched(ends: Ends, end: str) -> bool:
    """Is this an end that is not the owner, or may soon be it no more?"""
    if end == SOURCE:
        return ends.source in {*LEAVING, State.STOPPING}
    return ends.destination == State.INCOMING


def close_monitor(end: str, ends: Ends) -> Ends:
    _need(ends, end)
    return ends.happens(end, Event.LOST, f"{GONE}, 112") if _is_watched(ends, end) else ends


def cont(end: str, ends: Ends) -> Ends:
    _need(ends, end)
    if ends.state(end) == State.PARKED:
        return run(ends.happens(end, Event.RESUMED))
    if not _is_watched(ends, end) or ends.owner == end:
        return ends
    if ends.memory != THERE:
        raise Impossible("the guest is not there to run yet")
    fenced = ends.happens(end, Event.LOST, f"{GONE}, 112")
    return fenced._replace(owned=True) if end == DESTINATION else fenced._replace(memory=STALE)


def cont_early(ends: Ends) -> Ends:
    """QEMU remembers, and runs the guest as soon as it has come."""
    if ends.destination != State.INCOMING or ends.memory == THERE:
        raise Impossible("no guest is to come")
    if ends.source != State.MIGRATING_OUT:
        raise Impossible("no migration is prepared")
    while ends.memory != THERE:
        ends = migrate(ends)
    return cont(DESTINATION, ends)


def cont_refused(ends: Ends) -> Ends:
    if ends.destination != State.RUNNING:
        raise Impossible("the destination may not run")
    return ends._replace(runs=NOBODY)


def dead_uri(ends: Ends) -> Ends:
    _need(ends, SOURCE)
    return ends


def other_machine(ends: Ends) -> Ends:
    _need(ends, SOURCE)
    if ends.destination != State.INCOMING or ends.memory != HERE:
        raise Impossible("QEMU looks at what it gets first, and then not")
    return ends.ended(DESTINATION, f"{GONE}, 1")


def prepare_refused(ends: Ends) -> Ends:
    _need(ends, SOURCE)
    raise Refusal


def disk_full(ends: Ends) -> Ends:
    if ends.runs == NOBODY:
        raise Impossible("nobody writes")
    return ends._replace(runs=NOBODY)


def directory_full(ends: Ends) -> Ends:
    return ends


def _without_daemon(ends: Ends) -> Ends:
    if ends.source in {State.RUNNING, State.PARKED}:
        raise Impossible("it has begun nothing")
    return attempt(hang_up, ends) or ends


def daemon_finishes(ends: Ends) -> Ends:
    ends = _without_daemon(ends)
    if not ends.lives(DESTINATION):
        raise Impossible("its destination waits for GO, and is gone with it")
    while (further := attempt(migrate, ends)) is not None:
        ends = further
    if (arrived := attempt(complete_in, ends)) is not None:
        ends = run(arrived)
    return attempt(complete_out, ends) or ends


def daemon_cancels(ends: Ends) -> Ends:
    ends = _without_daemon(ends)
    if ends.memory == MOVING:
        ends = ends.ended(DESTINATION, f"{GONE}, 1")  # by QEMU's migrate_cancel
    for step in (cancel_in, cancel_out):
        ends = attempt(step, ends) or ends
    return ends


FAULTS: dict[str, Callable[[Ends], Ends]] = {
    "SIGKILL of the source's supervisor": partial(kill_supervisor, SOURCE),
    "SIGKILL of the source's QEMU": partial(kill_qemu, SOURCE),
    "SIGKILL of the destination's supervisor": partial(kill_supervisor, DESTINATION),
    "SIGKILL of the destination's QEMU": partial(kill_qemu, DESTINATION),
    "SIGKILL of the daemon; its successor finishes": daemon_finishes,
    "SIGKILL of the daemon; its successor cancels": daemon_cancels,
    "`complete-in`": complete_in,
    "`complete-out`": complete_out,
    "`complete-in --cancel`": cancel_in,
    "`complete-out --cancel`": cancel_out,
    "`cont` on the source": partial(cont, SOURCE),
    "`cont` on the destination": partial(cont, DESTINATION),
    "`cont` on the destination, then its guest comes": cont_early,
    "QEMU refuses: `cont`, the image is locked": cont_refused,
    "QEMU refuses: `migrate` to a dead URI": dead_uri,
    "QEMU refuses: the destination is another machine": other_machine,
    "QEMU refuses: `prepare`, it migrates already": prepare_refused,
    "QEMU closes our monitor of the source": partial(close_monitor, SOURCE),
    "QEMU closes our monitor of the destination": partial(close_monitor, DESTINATION),
    "the disk's filesystem is full": disk_full,
    "the runtime directories' filesystem is full": directory_full,
}


def rows(scene: Ends) -> list[Row]:
    """Return what can happen in a scene."""
    found = []
    for then, fault in FAULTS.items():
        try:
            becomes = fault(scene)
        except Refusal:
            found.append(Row(scene, then, REFUSED, scene))
        except Impossible:
            continue
        else:
            found.append(Row(scene, then, NOTHING if becomes == scene else CHANGES, becomes))
    return found


def impossible(scene: Ends) -> dict[str, str]:
    """Return what cannot happen in a scene, and why."""
    found = {}
    for then, fault in FAULTS.items():
        try:
            fault(scene)
        except Impossible as why:
            found[then] = str(why)
        except Refusal:
            continue
    return found


def title(ends: Ends) -> str:
    words = {HERE: "", MOVING: ", its guest on the way", THERE: ""}[ends.memory]
    return f"{ends.source}, {ends.destination}{words}"
