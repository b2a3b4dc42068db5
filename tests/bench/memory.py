"""How much memory does one that stays take, when there are many of them?"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING

from supervisor import client
from supervisor.spec import Containment
from tests.bench import ours, rivals
from tests.bench.report import Aim, Bar, Chart, Section, Table, number
from tests.bench.starting import DEADLINE_S, READY_FD, BenchError, first_below

if TYPE_CHECKING:
    from tests.bench.rivals import Rivals
    from tests.bench.starting import Lab

_AIM_MB = 3.5
_ASKED = "guard, file, pdeathsig, asked once"
_INITS = "init of guard, file, pidns"
# etcdctl is an order of magnitude larger: fewer of them say as much.
_FEWER = 5
_FIELDS = ("Rss", "Pss", "Private_Clean", "Private_Dirty")
_MB = 1 << 20
_OURS = ("guard", "init")

Usage = dict[str, float]


def measure(lab: Lab, peers: Rivals, count: int) -> Section:
    """Start `count` of each at once, and read what the kernel says of each."""
    section = Section(
        "Memory",
        "Megabytes (2²⁰ bytes) of each process that stays, `smaps_rollup`, while all of its kind "
        "run at once with a disk each. The command under the lock is not counted.",
    )
    found: dict[str, tuple[int, Usage]] = {}
    profile: dict[str, Usage] = {}
    for name in (rivals.FLOCK, rivals.TINI, rivals.ETCDCTL):
        if peers.has(name):
            many = count if name != rivals.ETCDCTL else max(2, count // _FEWER)
            _add(lab, found, name, [
                [*peers.prefix(name, f"memory {name} {index}"), *lab.holding]
                for index in range(many)
            ])  # fmt: skip
    profile[ours.FLOOR] = _add(lab, found, ours.FLOOR, [
        [*ours.floor(lab, f"memory floor {index}"), *lab.holding] for index in range(count)
    ])  # fmt: skip
    profile[ours.GUARD] = _guards(lab, found, count, ours.GUARD, Containment.PDEATHSIG)
    _guards(lab, found, count, ours.GUARD_PIDNS, Containment.PIDNS)
    section.tables.append(_table(found))
    section.profile.append(_profile(profile))
    floor = found[ours.FLOOR][1]["Pss"]
    for name in (ours.GUARD, ours.GUARD_PIDNS, _INITS):
        many, usage = found[name]
        what = f"{name}: PSS of each of {many}, before any control client"
        section.aims.append(Aim(what, usage["Pss"], _AIM_MB, "MB", floor))
    order = sorted(found, key=lambda name: found[name][1]["Pss"])
    bars = [Bar(name, found[name][1]["Pss"], name.startswith(_OURS)) for name in order]
    unit = "MB of PSS for each of many at once"
    section.charts.append(
        Chart("bench-memory.svg", "Memory of one that stays", unit, bars, _AIM_MB)
    )
    return section


def _add(lab: Lab, found: dict[str, tuple[int, Usage]], name: str, argvs: list[list[str]]) -> Usage:
    """Start all, read their usage into `found`, end them; returns the first one's mappings."""
    started = [lab.spawn(argv) for argv in argvs]
    for one in started:
        lab.await_stamp(one)
    found[name] = (len(started), each([one.pid for one in started]))
    mappings = _mappings(started[0].pid)
    for one in started:
        lab.end(one)
    return mappings


def _guards(
    lab: Lab, found: dict[str, tuple[int, Usage]], count: int, name: str, mode: str
) -> Usage:
    """Do as `_add` for guards, their inits, and once more after a client has asked each."""
    ready, our_ready = os.pipe()
    specs = [
        ours.spec(lab, f"{name} {index}", containment=mode, ready_fd=READY_FD)
        for index in range(count)
    ]
    started = [
        lab.spawn([*ours.words(spec), *lab.holding], {READY_FD: our_ready}) for spec in specs
    ]
    said = b""
    while said.count(b"\n") < count:
        lab.await_readable(ready, started[0])
        said += os.read(ready, 1 << 16)
    if said.count(b"READY") != count:
        raise BenchError(f"a guard did not start: {lab.said()}")
    lab.stamps()
    found[name] = (count, each([one.pid for one in started]))
    mappings = _mappings(started[0].pid)
    if mode == Containment.PIDNS:
        found[_INITS] = (count, each([first_below(one.pid) for one in started]))
    else:
        for spec in specs:
            with client.connect(os.path.join(spec.runtime_dir, spec.uuid), DEADLINE_S) as asked:
                asked.execute("query-child", {}, DEADLINE_S)
        found[_ASKED] = (count, each([one.pid for one in started]))
    for one in started:
        lab.end(one)
    os.close(ready)
    os.close(our_ready)
    return mappings


def each(pids: list[int]) -> Usage:
    """Return the mean usage of the processes, in megabytes."""
    total: Usage = dict.fromkeys(_FIELDS, 0.0)
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                field, _, value = line.partition(":")
                if field in total:
                    total[field] += int(value.split()[0]) * 1024 / _MB
    return {field: value / len(pids) for field, value in total.items()}


def _mappings(pid: int) -> Usage:
    """Return the PSS of one process in megabytes, by what is mapped."""
    found: Usage = defaultdict(float)
    kind = ""
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                kind = _kind(words[5] if len(words) > 5 else "", writable="w" in words[1])
            elif words[0] == "Pss:":
                found[kind] += int(words[1]) * 1024 / _MB
    return found


def _kind(path: str, *, writable: bool) -> str:
    if not path:
        return "anonymous: Python's objects, thread stacks, arenas"
    if path.startswith("["):
        return "heap" if path == "[heap]" else "main stack, vdso"
    what = "interpreter" if "python" in os.path.basename(path) else "libraries, locale"
    return f"{what}, written to" if writable else f"{what}, shared"


def _table(found: dict[str, tuple[int, Usage]]) -> Table:
    rows = []
    for name, (many, usage) in sorted(found.items(), key=lambda row: row[1][1]["Pss"]):
        private = usage["Private_Clean"] + usage["Private_Dirty"]
        rows.append([
            f"**{name}**" if name.startswith(_OURS) else name,
            str(many), number(usage["Pss"]), number(private), number(usage["Rss"]),
        ])  # fmt: skip
    head = ("process", "at once", "PSS MB", "private MB", "RSS MB")
    return Table("Memory of each", head, rows)


def _profile(profile: dict[str, Usage]) -> Table:
    kinds = sorted({kind for usage in profile.values() for kind in usage})
    rows = [[kind, *(number(usage.get(kind, 0.0)) for usage in profile.values())] for kind in kinds]
    return Table("Profile: PSS of one by mapping, MB", ("mapping", *profile), rows)
