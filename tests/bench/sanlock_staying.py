"""What does a guest under sanlock cost while it idles? Memory and wake-ups, the daemon's too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.bench import memory, ours, staying
from tests.bench.report import Aim, Section
from tests.bench.sanlock_peers import CLIENT, IO_TIMEOUT_S, MODES, OURS_PIDNS
from tests.bench.starting import first_below

if TYPE_CHECKING:
    from tests.bench.sanlock_peers import Sanlock
    from tests.bench.starting import Lab, Started

INIT = f"init of {OURS_PIDNS}"
_MB_AIM, _WAKES_AIM = 4.5, 40.0
_IDLE_S, _QUICK_IDLE_S, _MANY = 30, 10, 50
_DAEMON = "sanlock daemon"
# In the daemon's log, when a guard has it say what its guest holds.
_PROOF = re.compile(r"cmd_inquire \S+ ci_in")


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

    def look(kinds: dict[str, list[int]]) -> dict[str, staying.Found]:
        return staying.look(kinds, seconds, lambda: len(_PROOF.findall(peers.daemon.said())))

    found = look({f"{_DAEMON} that holds nothing": [peers.daemon.pid]})
    for name in (CLIENT, ours.GUARD, *MODES):
        started = _start(lab, peers, name, count)
        pids = {} if name == CLIENT else {name: [one.pid for one in started]}
        if name == OURS_PIDNS:
            pids[INIT] = [first_below(one.pid) for one in started]
        if name != ours.GUARD:
            pids[f"{_DAEMON} that holds for {count}: {name}"] = [peers.daemon.pid]
        found |= look(pids)
        for one in started:
            lab.end(one)
        lab.stamps()
    for name, host in peers.hosts.items():
        found[f"libvirtd ({name})"] = staying.Found(1, memory.each([host.libvirtd_pid]))
    section.tables.append(staying.table(found, (*MODES, INIT), MODES))
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
