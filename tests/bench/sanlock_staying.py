"""What does a guest under sanlock cost while it idles? Memory and wake-ups, the daemon's too."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench import idle, memory, ours
from tests.bench.report import Aim, Section, Table, number
from tests.bench.sanlock_peers import CLIENT, IO_TIMEOUT_S, MODES, OURS_PIDNS
from tests.bench.starting import first_below

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.memory import Usage
    from tests.bench.sanlock_peers import Sanlock
    from tests.bench.starting import Lab, Started

INIT = f"init of {OURS_PIDNS}"
_MB_AIM, _WAKES_AIM = 4.5, 40.0
_SETTLED_S = 2.0
_IDLE_S, _QUICK_IDLE_S, _MANY = 30, 10, 50
_DAEMON = "sanlock daemon"
# In the daemon's log, when a guard has it say what its guest holds.
_PROOF = re.compile(r"cmd_inquire \S+ ci_in")


@dataclass(frozen=True)
class Found:
    """What the kernel said of each of many; `a_minute`: switches, voluntary or not, and CPU µs.

    `proofs` are how often, each minute, the daemon was asked what a guest holds.
    """

    many: int
    usage: Usage
    a_minute: Sequence[float] = ()
    proofs: float = 0


def measure(lab: Lab, peers: Sanlock, count: int) -> Section:
    """Start `count` of each at once, leave them alone, and read what the kernel counted."""
    seconds = _IDLE_S if count >= _MANY else _QUICK_IDLE_S
    section = Section(
        "Staying",
        f"{count} at once of each kind, with a disk each, at sanlock's default io_timeout of "
        f"{IO_TIMEOUT_S} s; then nothing happens for {seconds} s. Megabytes (2²⁰ bytes) are from "
        "`smaps_rollup`, context switches and CPU time of all threads, each of the many. Of "
        f"`{CLIENT}` nothing stays: it has become the command. A guard has its guest's leases "
        "proven every 5 s; the daemon's rows are what that costs the host, all guests together.",
    )
    found = _look(peers, {f"{_DAEMON} that holds nothing": [peers.daemon.pid]}, seconds)
    for name in (CLIENT, ours.GUARD, *MODES):
        started = _start(lab, peers, name, count)
        pids = {} if name == CLIENT else {name: [one.pid for one in started]}
        if name == OURS_PIDNS:
            pids[INIT] = [first_below(one.pid) for one in started]
        if name != ours.GUARD:
            pids[f"{_DAEMON} that holds for {count}: {name}"] = [peers.daemon.pid]
        found |= _look(peers, pids, seconds)
        for one in started:
            lab.end(one)
        lab.stamps()
    for name, host in peers.hosts.items():
        found[f"libvirtd ({name})"] = Found(1, memory.each([host.libvirtd_pid]))
    section.tables.append(_table(found))
    for name in (*MODES, INIT):
        usage = found[name].usage["Pss"]
        section.aims.append(Aim(f"{name}: PSS of each of {count}", usage, _MB_AIM, "MB"))
    for name in MODES:
        what = f"{name}: voluntary context switches a minute"
        section.aims.append(Aim(what, found[name].a_minute[0], _WAKES_AIM, "/min"))
    return section


def _start(lab: Lab, peers: Sanlock, name: str, count: int) -> list[Started]:
    """Start `count` of one kind, one after the other, each with a disk of its own."""
    started = []
    for index in range(count):
        label = f"stays {name} {index}"
        if name == ours.GUARD:
            words = ours.guard(lab, label)
        elif name == CLIENT:
            words = peers.client(peers.disks(label, 1))
        else:
            words = peers.guard(label, peers.disks(label, 1), name)
        started.append(lab.spawn([*words, *lab.holding]))
        lab.await_stamp(started[-1])
    return started


def _look(peers: Sanlock, kinds: dict[str, list[int]], seconds: int) -> dict[str, Found]:
    """Return what each of a kind, given by its pids, has and does meanwhile."""
    idle.pause(_SETTLED_S)
    usage = {name: memory.each(pids) for name, pids in kinds.items()}
    begin, before = time.monotonic(), {name: _sums(pids) for name, pids in kinds.items()}
    asked = _proofs(peers)
    idle.pause(seconds)
    asked = _proofs(peers) - asked
    minutes = (time.monotonic() - begin) / 60
    found = {}
    for name, pids in kinds.items():
        more = [new - old for old, new in zip(before[name], _sums(pids), strict=True)]
        a_minute = [each / len(pids) / minutes for each in more]
        found[name] = Found(len(pids), usage[name], a_minute, asked / len(pids) / minutes)
    return found


def _proofs(peers: Sanlock) -> int:
    return len(_PROOF.findall(peers.daemon.said()))


def _sums(pids: list[int]) -> list[int]:
    return [sum(column) for column in zip(*map(idle.count, pids), strict=True)]


def _table(found: dict[str, Found]) -> Table:
    rows = []
    for name, each in sorted(found.items(), key=lambda row: row[1].usage["Pss"]):
        private = each.usage["Private_Clean"] + each.usage["Private_Dirty"]
        a_minute = ["", "", "", ""]
        if each.a_minute:
            voluntary, forced, cpu_us = each.a_minute
            a_minute = [*map(number, (voluntary, forced, cpu_us / 1000)), ""]
        if name in MODES:
            a_minute[-1] = number(each.proofs)
        rows.append([
            f"**{name}**" if name in (*MODES, INIT) else name, str(each.many),
            number(each.usage["Pss"]), number(private), number(each.usage["Rss"]),
            *a_minute,
        ])  # fmt: skip
    head = (
        "process", "at once", "PSS MB", "private MB", "RSS MB",
        "voluntary switches/min", "involuntary/min", "CPU ms/min", "leases proven/min",
    )  # fmt: skip
    return Table("Memory and wake-ups of each", head, rows)
