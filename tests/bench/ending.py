"""How long after the guest's end does the one that supervises it exit?"""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.spec import Containment
from tests.bench import ours, phases, rivals
from tests.bench.figures import median, percentile, rounds
from tests.bench.report import Aim, Section, Table, number
from tests.bench.starting import DEADLINE_S, GO_FD, READY_FD, BenchError, first_below

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.rivals import Rivals
    from tests.bench.starting import Lab

_OURS = (ours.GUARD, ours.GUARD_PIDNS)
_STAY = (rivals.FLOCK, rivals.TINI, rivals.ETCDCTL)
_AIM = 1.0


@dataclass(frozen=True)
class End:
    """Milliseconds to the supervisor's death, as its pidfd shows it.

    `from_stamp_ms` counts from the child's last instruction before _exit(2),
    `from_death_ms` from its own pidfd.
    """

    from_stamp_ms: float
    from_death_ms: float


def measure(lab: Lab, peers: Rivals, count: int) -> Section:
    """Let the child of everyone who stays exit, and watch both deaths."""
    section = Section(
        "The guest's end",
        "From the child's last act before _exit(2), and from the readiness of its pidfd, to the "
        "readiness of its supervisor's pidfd. Under pidns the child's end is that of the whole "
        "namespace for the guard, which waits for it.",
    )
    floor = [*ours.floor(lab, "end floor"), *lab.holding]
    guard = [*ours.guard(lab, "end", ready_fd=READY_FD), *lab.holding]
    pidns = ours.guard(lab, "end pidns", containment=Containment.PIDNS, ready_fd=READY_FD)
    rows: dict[str, Callable[[], End]] = {
        ours.FLOOR: lambda: _end(lab, floor, ready=False),
        ours.GUARD: lambda: _end(lab, guard, ready=True),
        ours.GUARD_PIDNS: lambda: _end(lab, [*pidns, *lab.holding], ready=True),
    }

    def rival(name: str) -> Callable[[], End]:
        return lambda: _end(lab, [*peers.prefix(name, f"end {name}"), *lab.holding], ready=False)

    samples = rounds(rows | {name: rival(name) for name in _STAY if peers.has(name)}, count)
    section.tables.append(_table(samples))
    late = {name: median([end.from_stamp_ms for end in ends]) for name, ends in samples.items()}
    for name in _OURS:
        what = f"{name}: child's last act to our exit"
        section.aims.append(Aim(what, late[name], _AIM, "ms", late[ours.FLOOR]))
    section.profile += phases.end(lab, max(5, count // 4))
    return section


def _end(lab: Lab, argv: list[str], *, ready: bool) -> End:
    """Start a supervisor whose child waits, let that exit, return how both ended."""
    go, our_go = os.pipe()
    said, our_said = os.pipe()
    try:
        started = lab.spawn(argv, {GO_FD: go, READY_FD: our_said})
        lab.await_stamp(started)
        if ready:
            lab.await_readable(said, started)
            child = int(os.read(said, 100).split(b"child=")[1])
        else:
            child = first_below(started.pid)
        pidfd = os.pidfd_open(child)
        os.write(our_go, b"G")
        died, exited = _watch(pidfd, started.pidfd)
        os.close(pidfd)
        lab.reap(started, expected=0)
        (last,) = lab.stamps()
    finally:
        for fd in (go, our_go, said, our_said):
            os.close(fd)
    return End((exited - last) / 1e6, (exited - died) / 1e6)


def _watch(child_pidfd: int, pidfd: int) -> tuple[int, int]:
    """Return when each was seen dead."""
    poll = select.poll()
    seen: dict[int, int] = {}
    for fd in (child_pidfd, pidfd):
        poll.register(fd, select.POLLIN)
    while len(seen) < 2:
        events = poll.poll(DEADLINE_S * 1000)
        now = time.monotonic_ns()
        if not events:
            raise BenchError("a process did not end")
        for fd, _ in events:
            seen[fd] = now
            poll.unregister(fd)
    return seen[child_pidfd], seen[pidfd]


def _table(samples: dict[str, list[End]]) -> Table:
    rows = []
    for name in sorted(samples, key=lambda name: median([e.from_stamp_ms for e in samples[name]])):
        stamp = [end.from_stamp_ms for end in samples[name]]
        death = [end.from_death_ms for end in samples[name]]
        rows.append([
            f"**{name}**" if name in _OURS else name,
            number(median(stamp)), number(percentile(stamp, 90)),
            number(median(death)), number(percentile(death, 90)),
        ])  # fmt: skip
    head = ("supervisor", "from last act ms", "p90", "from pidfd ms", "p90")
    return Table(f"Child's end to supervisor's exit, {len(next(iter(samples.values())))} rounds",
                 head, rows)  # fmt: skip
