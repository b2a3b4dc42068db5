"""What does it cost to launch a command under etcd's leases of 1 disk, and of 8?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import ours, phases, sanlock_peers
from tests.bench.etcd_peers import ETCDCTL, ONE, OURS, PUT, THREE, key
from tests.bench.figures import median, percentile, ratios, rounds
from tests.bench.report import TIMES, Aim, Bar, Chart, Section, Table, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.etcd_peers import Etcd
    from tests.bench.starting import Cost, Lab

BARE = "bare vfork and exec"
DISK, DISKS = ", 1 disk", ", 8 disks"
COUNTS = {DISK: 1, DISKS: 8}
_AIM = 2.0

Samples = dict[str, list[float]]


def measure(lab: Lab, peers: Etcd, count: int) -> Section:
    """Measure every row side by side."""
    costs = rounds(_rows(lab, peers), count)
    samples = {
        name: [cost.launch_ms or cost.whole_ms for cost in row] for name, row in costs.items()
    }
    section = Section(
        "Launch",
        "From the instant before posix_spawn(3) to the first instruction of a static C program "
        f"that runs under the leases; `{ours.GUARD}` locks a file instead. A guard under etcd "
        "takes the lease of the VM with those of the disks, and proves them once before the "
        f"program runs. `{PUT}` is one bare transaction, as a process, to its end. "
        f"`{ETCDCTL}` has one lock, and "
        "stays to keep it alive, but does not end the program when it loses it; "
        f"`{sanlock_peers.CLIENT}` execs the program in its own place. Ratios are medians of those "
        f"within each of {count} rounds.",
    )
    section.tables.append(_table(samples))
    section.aims += _aims(samples)
    section.charts.append(_chart(samples))
    words = {
        f"{OURS}{where}": peers.guard(where, "phases", peers.disks("phases", 1))
        for where in peers.clusters
    }
    section.profile += phases.clustered(lab, max(3, count // 3), words)
    return section


def _rows(lab: Lab, peers: Etcd) -> dict[str, Callable[[], Cost]]:
    prefixes = {BARE: [], ours.FLOOR: ours.floor(lab, "floor"), ours.GUARD: ours.guard(lab, "file")}
    prefixes |= {ETCDCTL + where: peers.lock(where, "launch") for where in peers.clusters}
    for disks, many in COUNTS.items():
        for where in peers.clusters:
            name = OURS + where + disks
            prefixes[name] = peers.guard(where, name, peers.disks(f"launch {where}", many))
    rows = {name: _row(lab, [*prefix, *lab.command]) for name, prefix in prefixes.items()}
    for where in peers.clusters:
        rows[PUT + where] = _row(lab, peers.etcdctl(where, "put", key("put"), "value"))
    for disks, many in COUNTS.items():
        for name in (sanlock_peers.CLIENT, sanlock_peers.OURS):
            rows[name + disks] = _turning(lab, peers.sanlock.prefix(name, "launch", many))
    return rows


def _row(lab: Lab, argv: list[str]) -> Callable[[], Cost]:
    return lambda: lab.run(argv)


def _turning(lab: Lab, prefix: Callable[[], list[str]]) -> Callable[[], Cost]:
    return lambda: lab.run([*prefix(), *lab.command])


def _is_ours(name: str) -> bool:
    return name.startswith((OURS, sanlock_peers.OURS))


def _order(samples: Samples) -> list[str]:
    return sorted(samples, key=lambda name: median(samples[name]))


def _table(samples: Samples) -> Table:
    rows = []
    for name in _order(samples):
        cells = [f"**{name}**" if _is_ours(name) else name]
        cells += [number(median(samples[name])), number(percentile(samples[name], 90))]
        for unit in (PUT + ONE, ETCDCTL + THREE):
            times = ratios(samples[name], samples[unit])
            cells.append(f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})")
        rows.append(cells)
    units = (f"{TIMES} {unit} (range)" for unit in (PUT + ONE, ETCDCTL + THREE))
    return Table("Launch under etcd", ("command", "launch ms", "p90", *units), rows)


def _aims(samples: Samples) -> list[Aim]:
    aims = []
    for where in (ONE, THREE):
        eight = samples[OURS + where + DISKS]
        for unit in (PUT, ETCDCTL):
            times = median(ratios(eight, samples[unit + where]))
            what = f"{OURS}{where}: launch with 8 disks and the VM, over `{unit}`"
            aims.append(Aim(what, times, _AIM, TIMES))
        times = median(ratios(eight, samples[OURS + where + DISK]))
        what = f"{OURS}{where}: launch with 8 disks and the VM, over one with 1"
        aims.append(Aim(what, times, _AIM, TIMES))
    return aims


def _chart(samples: Samples) -> Chart:
    bars = [Bar(name, median(samples[name]), _is_ours(name)) for name in _order(samples)]
    return Chart("bench-etcd-launch.svg", "Launch under etcd's leases", "milliseconds", bars)
