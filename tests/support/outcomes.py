"""What becomes of a migration, whatever happens to it? A model, made of the code's own states.

A scene is what two ends can be found in, for good until somebody does
something; all that lifecycle.TABLE lets them reach are found by trying every
step. The model knows who owns, who runs and where QEMU has the guest's memory,
but no lock: what the kernel says is compared with it by a test. It does not
know how any of it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from supervisor.guard.lifecycle import TABLE, Action, Event, State

SOURCE, DESTINATION, NOBODY = "source", "destination", "none"
HERE, MOVING, THERE = "here", "moving", "there"
STALE = "stale"  # one end has run where it might not: no memory is the disks' any more
ABSENT, GONE = "absent", "gone"
LEAVING = (State.MIGRATING_OUT, State.MIGRATED)
# Where leases are given up: no plugin that migrates a guest does that.
GIVING_UP = (State.PARKING, State.UNLEASED)
_UNSETTLED = {State.ACQUIRED, State.INCOMING, *LEAVING}
# The supervisor is on its way to the next one: nobody can find a guest there for long.
_ON_THE_WAY = (Action.LAUNCH, Action.FENCE, Action.RELEASE, Action.FINISH)
PASSING = tuple(
    state for state in State.ALL
    if (entered := {action for (old, _), (new, action) in TABLE.items() if new == state != old})
    and entered <= set(_ON_THE_WAY)
)  # fmt: skip


class Refusal(Exception):  # noqa: N818 - an answer like any other
    """The step is refused, and nothing has changed."""


class Impossible(Exception):  # noqa: N818 - a fact
    """The step cannot be done there; why."""


class Ends(NamedTuple):
    """Both ends' states, or how they are gone; where QEMU has the memory; who executes."""

    source: str = State.RUNNING
    destination: str = ABSENT
    memory: str = HERE
    runs: str = SOURCE
    owned: bool = False  # a destination has owned the disks

    @property
    def owner(self) -> str:
        if self.destination in {State.RUNNING, State.PARKED}:
            return DESTINATION
        owns = self.source in {State.RUNNING, State.PARKED, State.MIGRATING_OUT}
        return SOURCE if owns and self.memory != THERE else NOBODY

    def happens(self, end: str, event: str, how: str = "") -> Ends:
        """Have TABLE move one end; whom it fences is gone, `how`."""
        old = self.state(end)
        state = TABLE[old, event][0] if old in State.ALL else old
        if state == old:
            raise Refusal
        return self.ended(end, how) if state in PASSING else self._with(end, state)

    def ended(self, end: str, how: str) -> Ends:
        """Have one end be gone; a QEMU that receives does not outlive its sender."""
        ends = self._with(end, how)._replace(runs=NOBODY if self.runs == end else self.runs)
        if ends.memory != MOVING:
            return ends
        ends = ends._replace(memory=HERE)
        return ends._replace(destination=f"{GONE}, 1") if end == SOURCE else ends

    def _with(self, end: str, state: str) -> Ends:
        return self._replace(source=state) if end == SOURCE else self._replace(destination=state)

    def state(self, end: str) -> str:
        return self.source if end == SOURCE else self.destination

    def lives(self, end: str) -> bool:
        return self.state(end) in State.ALL

    def executes(self, end: str) -> bool:
        """Is there a QEMU, or does the child still wait for its turn?"""
        return self.lives(end) and self.state(end) not in {State.ACQUIRING, State.ACQUIRED}


Step = Callable[[Ends], Ends]


def prepare(ends: Ends) -> Ends:
    return ends.happens(SOURCE, Event.PREPARED)


def receive(ends: Ends) -> Ends:
    if ends.destination != ABSENT or ends.source not in {State.RUNNING, State.MIGRATING_OUT}:
        raise Impossible("a destination is there, or comes too late")
    acquired = TABLE[State.ACQUIRING, Event.LEASED][0]
    return ends._replace(destination=acquired)


def go(ends: Ends) -> Ends:
    launching = ends.happens(DESTINATION, Event.GO, State.LAUNCHING)
    return launching.happens(DESTINATION, Event.RECEIVING)


def migrate(ends: Ends) -> Ends:
    if (ends.source, ends.destination) != (State.MIGRATING_OUT, State.INCOMING):
        raise Impossible("nobody to migrate to")
    if ends.memory == HERE:
        return ends._replace(memory=MOVING)
    if ends.memory == THERE:
        raise Impossible("it has")
    return ends._replace(memory=THERE, runs=NOBODY).happens(SOURCE, Event.HANDED)


def complete_in(ends: Ends) -> Ends:
    if ends.memory != THERE or ends.owner == SOURCE:
        raise Refusal
    return ends.happens(DESTINATION, Event.ARRIVED)._replace(owned=True)


def complete_out(ends: Ends) -> Ends:
    if ends.memory != THERE:
        raise Refusal
    return ends.happens(SOURCE, Event.AWAY, f"{GONE}, 0")


def cancel_in(ends: Ends) -> Ends:
    return ends.happens(DESTINATION, Event.CANCELLED, f"{GONE}, 0")


def cancel_out(ends: Ends) -> Ends:
    handed = ends.source == State.MIGRATED
    if ends.memory == MOVING or (handed and (ends.lives(DESTINATION) or ends.owned)):
        raise Refusal
    ends = ends.happens(SOURCE, Event.CANCELLED)
    return ends._replace(memory=HERE) if handed else ends


def hang_up(ends: Ends) -> Ends:
    """Let go of a destination that waits for GO."""
    if ends.destination != State.ACQUIRED:
        raise Impossible("it does not wait for GO")
    return ends.happens(DESTINATION, Event.FAILED, f"{GONE}, 111")


def run(ends: Ends) -> Ends:
    """Have the owner's guest executed, unless it is parked; nobody else's may be."""
    runs = NOBODY if ends.state(ends.owner) == State.PARKED else ends.owner
    return ends._replace(runs=runs)


def pause(ends: Ends) -> Ends:
    if ends.owner == NOBODY:
        raise Refusal
    return ends.happens(ends.owner, Event.PARKED)._replace(runs=NOBODY)


def stop(ends: Ends) -> Ends:
    """Ask the source to end, which its guest does not hear when it stands still."""
    if ends.source != State.MIGRATED:
        raise Impossible("it ends")
    return ends.happens(SOURCE, Event.STOP)


COMMANDS: dict[str, Step] = {
    "`complete-in`": complete_in,
    "`complete-out`": complete_out,
    "`complete-in --cancel`": cancel_in,
    "no GO": hang_up,
    "`complete-out --cancel`": cancel_out,
}
_STEPS = (
    prepare, receive, go, migrate, pause, stop, run, *COMMANDS.values(),
)  # fmt: skip


def reachable() -> list[Ends]:
    """Return all that steps lead to, those nearest to the beginning first."""
    found = [Ends()]
    for ends in found:
        for step in _STEPS:
            new = attempt(step, ends)
            if new is not None and new not in found:
                found.append(new)
    return found


def attempt(step: Step, ends: Ends) -> Ends | None:
    try:
        return step(ends)
    except (Refusal, Impossible):
        return None


def scenes() -> list[Ends]:
    """Return what both ends can be in, each of which holds something, and one of which waits."""
    return [
        ends for ends in reachable()
        if ends.lives(DESTINATION) and (ends.lives(SOURCE) or ends.destination == State.INCOMING)
        and run(ends) == ends  # its owner runs, as it may
    ]  # fmt: skip


def locks(ends: Ends) -> list[tuple[str, int, str]]:
    """Return what both ends then hold on bytes 0 and 2, as the kernel tells of it."""
    found = []
    if ends.lives(SOURCE):
        found.append(("READ" if ends.memory == THERE else "WRITE", 0, "0"))
    if ends.owner == DESTINATION:
        found.append(("READ" if ends.lives(SOURCE) else "WRITE", 0, "0"))
    if ends.lives(DESTINATION) and (ends.owner != DESTINATION or ends.lives(SOURCE)):
        found.append(("WRITE", 2, "2"))
    return found


def mend(ends: Ends) -> list[str] | None:
    """Return the fewest commands after which one end owns, and no other is left; None: none do."""
    if ends.memory == STALE:
        return None
    ways: list[tuple[Ends, list[str]]] = [(ends, [])]
    for now, way in ways:
        if now.owner != NOBODY and not _UNSETTLED & {now.source, now.destination}:
            return way
        for name, command in COMMANDS.items():
            new = attempt(command, now)
            if new is not None and all(new != known for known, _ in ways):
                ways.append((new, [*way, name]))
    return None
