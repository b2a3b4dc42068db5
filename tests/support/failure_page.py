"""How does docs/migration-failures.md look? Prints it: `python -m tests.support.failure_page`.

Every pair of the guard's states is on it: with the rows of a scene, or with the
reason why the two ends are never found there. A test compares the page, others
do every row.
"""

from __future__ import annotations

from itertools import groupby

from supervisor.guard.lifecycle import State
from tests.support.failures import CHANGES, NOTHING, REFUSED, Row, impossible, rows, title
from tests.support.outcomes import (
    DESTINATION,
    GIVING_UP,
    HERE,
    MOVING,
    NOBODY,
    PASSING,
    SOURCE,
    THERE,
    Ends,
    mend,
    reachable,
    scenes,
)

PATH = "docs/migration-failures.md"
COMMAND = f".venv/bin/python -m tests.support.failure_page >{PATH}"
_HEAD = f"""<!-- Made of the guard's own states: {COMMAND} -->
# What becomes of a migration

Whatever happens to a [live migration](migration.md): one end is the owner, or none, never two; a
guest that runs has its leases. Each row here is done by a test to QEMU guests that write without
pause (`tests/faults/test_migration_failures.py`), and judged from outside: by the processes that
live, by QEMU's own word whether it runs, by the kernel's list of locks, by whether anybody else
gets the disk (nobody, while one of the two is left), and by what is on the disk.

*Source* and *destination* are states as `status` says them, or how the supervisor has ended:
*gone* (SIGKILL) or its exit code. *Leases* are what is said of the disk's. *Mend* is what makes
one end the only owner again, after which QEMU's `cont` runs the guest if it stands still; where
it is *anew*, end what is left (`complete-in --cancel`, `kill`) and start the guest, as after a
crash of its host. *The daemon* is whoever drives both ends; its successor knows the guest's uuid
and the cookie. It finishes (`complete-in` if the destination is `incoming`, then `complete-out`)
or cancels (QEMU's `migrate_cancel`, `complete-in --cancel`, then `complete-out --cancel` if the
destination is gone).

A guest that is run where it may not is ended by SIGKILL within milliseconds of QEMU's RESUME.
What it has written by then stays written, and the other end's memory does not know of it: start
the guest anew, whatever the other end would still be granted.

## Which states meet

Down, the source's; across, the destination's. A number is a section below.
"""
_WHY = {
    "passes": ("p", "a supervisor goes on from there by itself"),
    "plugin": ("g", "the leases are given up there, which no plugin does that migrates a guest"),
    "empty": ("e", "the destination holds nothing yet: as if it was not there"),
    "source": ("s", "nobody migrates from there"),
    "destination": ("d", "a destination is not there before its source is gone"),
    "ends": ("x", "it is told to end, and does: as if it was gone"),
    "never": ("n", "not both at once: there is no such way, the other end's state forbids it"),
}
_MEMORY = {
    HERE: "The guest's memory is at the source.",
    MOVING: "QEMU is on its way with the guest's memory.",
    THERE: "The guest's memory is at the destination; the source's QEMU has stopped for good.",
}


def page() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, _matrix(), *map(_section, range(1, len(scenes()) + 1))])


def why_not(source: str, destination: str) -> str:
    """Return why the two states are no scene; raises LookupError where only rows are missing."""
    known, pair = reachable(), {source, destination}
    destinations = {ends.destination for ends in known} | {State.STOPPING}
    reasons = {
        "passes": pair & {*PASSING},
        "plugin": pair & {*GIVING_UP},
        "empty": destination == State.ACQUIRING,
        "source": source not in {ends.source for ends in known},
        "destination": destination not in destinations,
        "ends": State.STOPPING in pair,
        "never": all((ends.source, ends.destination) != (source, destination) for ends in known),
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    raise LookupError(f"{source}, {destination} has no rows")


def _cell(source: str, destination: str) -> str:
    numbers = [
        str(number) for number, ends in enumerate(scenes(), 1)
        if (ends.source if ends.source in State.ALL else "gone", ends.destination)
        == (source, destination)
    ]  # fmt: skip
    if not numbers and source == "gone":
        return ""
    return ", ".join(numbers) or _WHY[why_not(source, destination)][0]


def _matrix() -> str:
    lines = [f"| | {' | '.join(State.ALL)} |", "|---" * (len(State.ALL) + 1) + "|"]
    lines += [
        f"| {source} | {' | '.join(_cell(source, other) for other in State.ALL)} |"
        for source in (*State.ALL, "gone")
    ]
    words = "; ".join(f"*{letter}*: {words}" for letter, words in _WHY.values())
    return "\n".join([*lines, "", f"No number: {words}.", ""])


def _section(number: int) -> str:
    scene = scenes()[number - 1]
    found = rows(scene)
    head = f"## {number}. {title(scene)}\n\n{_MEMORY[scene.memory]} Owner: {scene.owner}; "
    head += f"runs: {scene.runs}. Leases: {_leases(scene)}.\n"
    changes = [_row(row) for row in found if row.kind == CHANGES]
    table = ["| then | source | destination | owner | runs | leases | mend |", "|---" * 7 + "|"]
    said = [
        f"{words}: {'; '.join(row.then for row in found if row.kind == kind)}.\n"
        for kind, words in ((NOTHING, "Changes nothing"), (REFUSED, "Refused, and changes nothing"))
        if any(row.kind == kind for row in found)
    ]
    not_here = sorted(impossible(scene).items(), key=lambda item: item[1])
    reasons = [
        f"{'; '.join(then for then, _ in group)} ({why})"
        for why, group in groupby(not_here, key=lambda item: item[1])
    ]
    last = [f"Cannot be: {'; '.join(reasons)}.\n"] if reasons else []
    return "\n".join([head, *table, *changes, "", *said, *last])


def _row(row: Row) -> str:
    ends = row.becomes
    cells = (row.then, ends.source, ends.destination, ends.owner, ends.runs, _leases(ends))
    return f"| {' | '.join(cells)} | {_mend(row)} |"


def _mend(row: Row) -> str:
    way = mend(row.becomes)
    if way is None:
        return "anew"
    if "full" in row.then:
        way = ["make room", *way]
    elif "image is locked" in row.then:
        way = ["end who has it", *way]
    return ", ".join(way)


def _leases(ends: Ends) -> str:
    """Return what `status` says of both ends' leases."""
    found = []
    if ends.lives(SOURCE):
        found.append("source " + ("shared" if ends.memory == THERE else "exclusive"))
    if ends.owner == DESTINATION:
        found.append("destination " + ("shared" if ends.lives(SOURCE) else "exclusive"))
    elif ends.lives(DESTINATION):
        found.append("destination pending")
    return ", ".join(found) or NOBODY


if __name__ == "__main__":
    print(page(), end="")
