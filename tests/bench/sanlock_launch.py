"""What does it cost to launch a command under sanlock's leases of 1 disk, and of 8?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import ours, phases
from tests.bench.figures import differences, median, percentile, ratios, rounds
from tests.bench.report import TIMES, Aim, Bar, Chart, Section, Table, number
from tests.bench.sanlock_peers import CLIENT, DRIVER, MODES, OURS, OURS_PIDNS, UNLOCKED

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.sanlock_peers import Sanlock
    from tests.bench.starting import Cost, Lab

BARE = "bare vfork and exec"
ONE, EIGHT = ", 1 disk", ", 8 disks"
COUNTS = {ONE: 1, EIGHT: 8}
_OURS = tuple(name + disks for name in MODES for disks in COUNTS)
_AIM = 1.5

Samples = dict[str, list[float]]


def measure(lab: Lab, peers: Sanlock, count: int) -> Section:
    """Measure every row side by side."""
    costs = rounds(_rows(lab, peers), count)
    samples = {name: [_ms(cost) for cost in row] for name, row in costs.items()}
    section = Section(
        "Launch",
        "From the instant before posix_spawn(3) to the first instruction of a static C program "
        f"that runs under the leases; `{ours.GUARD}` locks a file instead. `virsh start` is "
        "measured to its own end, when the CPU of a QEMU (TCG, 128 MiB) runs: with libvirt's "
        "sanlock driver, and on a host without a lock manager, so that the driver's own cost is "
        "seen. Lockspace and leases exist, the host has joined. Ratios and differences are "
        f"medians of those within each of {count} rounds. `{CLIENT}` execs the command in its own "
        "place: nobody stays to supervise it, and no one kills it but the daemon.",
    )
    section.tables += [_table(samples), _more(samples)]
    section.aims += _aims(samples)
    section.charts.append(_chart(samples))
    prefixes = {mode: peers.prefix(name, "phases", 1) for name, mode in MODES.items()}
    many = max(3, count // 3)
    section.profile += phases.registered(lab, many, lambda mode: prefixes[mode]())
    return section


def _rows(lab: Lab, peers: Sanlock) -> dict[str, Callable[[], Cost]]:
    floor = [*ours.floor(lab, "floor"), *lab.command]
    file = [*ours.guard(lab, "file"), *lab.command]
    rows: dict[str, Callable[[], Cost]] = {
        BARE: lambda: lab.run(lab.command),
        ours.FLOOR: lambda: lab.run(floor),
        ours.GUARD: lambda: lab.run(file),
    }
    for disks, many in COUNTS.items():
        for name in (CLIENT, *MODES):
            rows[name + disks] = _row(lab, peers.prefix(name, "launch", many))
        for name in peers.hosts:
            rows[name + disks] = _virsh(peers, name, many)
    return rows


def _row(lab: Lab, prefix: Callable[[], list[str]]) -> Callable[[], Cost]:
    return lambda: lab.run([*prefix(), *lab.command])


def _virsh(peers: Sanlock, name: str, many: int) -> Callable[[], Cost]:
    disks, domain = peers.disks(f"launch {name} {many}", many), f"launch{many}"
    peers.define(name, domain, disks)

    def row() -> Cost:
        cost = peers.start(name, domain)
        peers.destroy(name, domain, disks)
        return cost

    return row


def _ms(cost: Cost) -> float:
    """Return the milliseconds to the command's first instruction, or to the end of virsh."""
    return cost.launch_ms or cost.whole_ms


def _order(samples: Samples) -> list[str]:
    return sorted(samples, key=lambda name: median(samples[name]))


def _table(samples: Samples) -> Table:
    rows = []
    for name in _order(samples):
        disks = EIGHT if name.endswith(EIGHT) else ONE
        times = ratios(samples[name], samples[CLIENT + disks])
        rows.append([
            f"**{name}**" if name in _OURS else name,
            number(median(samples[name])), number(percentile(samples[name], 90)),
            f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
        ])  # fmt: skip
    head = ("command", "launch ms", "p90", f"{TIMES} {CLIENT}, as many disks (range)")
    return Table("Launch under sanlock", head, rows)


def _more(samples: Samples) -> Table:
    """Say what each adds to the same launch without it."""
    bases = {CLIENT: BARE, OURS: BARE, OURS_PIDNS: BARE, DRIVER: UNLOCKED}
    rows = []
    for name, base in bases.items():
        cells = [f"**{name}**" if name in MODES else name]
        for disks in COUNTS:
            without = base + disks if base == UNLOCKED else base
            if name + disks not in samples:
                break
            cells.append(number(median(differences(samples[name + disks], samples[without]))))
        else:
            rows.append([*cells, base])
    head = ("what", "1 disk ms", "8 disks ms", "more than")
    return Table("What the leases add", head, rows)


def _aims(samples: Samples) -> list[Aim]:
    aims = []
    for name in MODES:
        for base in (ours.FLOOR, ours.GUARD):
            more = differences(samples[name + ONE], samples[base])
            times = median(ratios(more, samples[CLIENT + ONE]))
            what = f"{name}: launch, less that of `{base}`, over `{CLIENT}`, 1 disk"
            aims.append(Aim(what, times, _AIM, TIMES))
        times = median(ratios(samples[name + EIGHT], samples[CLIENT + EIGHT]))
        aims.append(Aim(f"{name}: launch over `{CLIENT}`, 8 disks", times, _AIM, TIMES))
    return aims


def _chart(samples: Samples) -> Chart:
    order = [name for name in _order(samples) if not name.startswith((DRIVER, UNLOCKED))]
    bars = [Bar(name, median(samples[name]), name in _OURS) for name in order]
    unit = "milliseconds"
    if DRIVER + ONE in samples:
        late = number(median(samples[DRIVER + ONE]))
        unit += f" ({DRIVER}, 1 disk, and that is a QEMU: {late} ms, not drawn)"
    return Chart("bench-sanlock-launch.svg", "Launch under sanlock's leases", unit, bars)
