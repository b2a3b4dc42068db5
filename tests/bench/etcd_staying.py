"""What does a guest under etcd cost while it idles? Memory and wake-ups, the members' too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockplugins.etcd.timing import Timing
from tests.bench import ours, sanlock_peers, staying
from tests.bench.etcd_peers import ETCDCTL, ONE, OURS, THREE
from tests.bench.report import Aim, Bar, Chart, Section, Table, number

if TYPE_CHECKING:
    from tests.bench.etcd_peers import Etcd
    from tests.bench.starting import Lab, Started
    from tests.bench.staying import Found

_AIM_MB = 14.0
_IDLE_S, _QUICK_IDLE_S, _MANY = 30, 6, 50
_FEWER = 5  # etcdctl, sanlock: fewer of them say as much
_SANLOCK = sanlock_peers.OURS
_MEMBER = "etcd member"
_NOTHING = "that holds nothing"


def measure(lab: Lab, peers: Etcd, count: int) -> Section:
    """Start `count` of each at once, leave them alone, and read what the kernel counted."""
    seconds = _IDLE_S if count >= _MANY else _QUICK_IDLE_S
    every = Timing(None).every_s
    section = Section(
        "Staying",
        f"{count} guards at once, with a disk each, at the default failover_s; then nothing "
        f"happens for {seconds} s but a renewal every {every:g} s. Megabytes (2²⁰ bytes) are from "
        "`smaps_rollup`, context switches and CPU time of all threads, each of the many; "
        "a member's rows are what that costs one of etcd's servers, all guests together.",
    )
    nobody = {f"{_MEMBER}{where}, {_NOTHING}": peers.pids(where) for where in peers.clusters}
    found = staying.look(nobody, seconds)
    guards = [OURS + where for where in peers.clusters]
    for name in (ours.GUARD, *guards, *(ETCDCTL + where for where in peers.clusters), _SANLOCK):
        many = count if name in (ours.GUARD, *guards) else max(2, count // _FEWER)
        started = _start(lab, peers, name, many)
        kinds = {name: [one.pid for one in started]}
        for where in peers.clusters:
            if name.endswith(where):
                kinds[_with(where, name, many)] = peers.pids(where)
        found |= staying.look(kinds, seconds)
        for one in started:
            lab.end(one)
        lab.stamps()
    section.tables += [staying.table(found, guards), _renewals(peers, found, count, every)]
    for name in guards:
        usage = found[name].usage["Pss"]
        section.aims.append(Aim(f"{name}: PSS of each of {count}", usage, _AIM_MB, "MB"))
    section.charts.append(_chart(found, guards))
    return section


def _with(where: str, name: str, many: int) -> str:
    return f"{_MEMBER}{where}, with {many} of {name.removesuffix(where)}"


def _start(lab: Lab, peers: Etcd, name: str, count: int) -> list[Started]:
    """Start `count` of one kind, one after the other, each with a disk of its own."""
    started = []
    for index in range(count):
        label = f"stays {name} {index}"
        where = THREE if name.endswith(THREE) else ONE
        if name == ours.GUARD:
            words = ours.guard(lab, label)
        elif name == _SANLOCK:
            words = peers.sanlock.guard(label, peers.sanlock.disks(label, 1), name)
        elif name.startswith(ETCDCTL):
            words = peers.lock(where, label)
        else:
            words = peers.guard(where, label, peers.disks(label, 1))
        started.append(lab.spawn([*words, *lab.holding]))
        lab.await_stamp(started[-1])
    return started


def _renewals(peers: Etcd, found: dict[str, Found], count: int, every: float) -> Table:
    """Say what one renewal costs the guard, and all members together."""
    rows = []
    for where, cluster in peers.clusters.items():
        name, members = OURS + where, len(cluster.members)
        busy, idles = found[_with(where, name, count)], found[f"{_MEMBER}{where}, {_NOTHING}"]
        renewals = 60 / every
        guard_us = found[name].a_minute[2] / renewals
        etcd_us = (busy.a_minute[2] - idles.a_minute[2]) * members / renewals / count
        grown = (busy.usage["Pss"] - idles.usage["Pss"]) * members / count
        rows.append([
            f"**{name}**", number(guard_us), number(etcd_us),
            number(found[name].a_minute[0] / renewals), number(grown),
        ])  # fmt: skip
    head = (
        "kind", "guard's CPU µs each", "members' CPU µs each, all together",
        "guard's wake-ups each", "members' MB for each guest, all together",
    )  # fmt: skip
    return Table("A renewal, when there is time", head, rows)


def _chart(found: dict[str, Found], guards: list[str]) -> Chart:
    names = [name for name in found if not name.startswith(_MEMBER)]
    order = sorted(names, key=lambda name: found[name].usage["Pss"])
    bars = [Bar(name, found[name].usage["Pss"], name in guards) for name in order]
    unit = "MB of PSS for each of many at once"
    return Chart("bench-etcd-memory.svg", "Memory of a guard under etcd", unit, bars, _AIM_MB)
