"""How soon does a guest start elsewhere after its host's death, and was the old one dead by then?

At default settings. Which hosts die, and how: `etcd_hosts`.
"""

from __future__ import annotations

import select
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lockplugins.etcd.timing import Timing
from lockplugins.sanlock.times import takeover_s
from tests.bench import etcd_hosts, idle, sanlock_peers
from tests.bench.etcd_peers import ETCDCTL, OURS
from tests.bench.figures import median
from tests.bench.report import Aim, Bar, Chart, Section, Table, number
from tests.bench.starting import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.etcd_hosts import Kind, Pair
    from tests.bench.etcd_peers import Etcd
    from tests.bench.starting import Lab

_AIM_S = 30.0
_BATCH = 10  # pairs of a holder and who waits, at once
_LATE_S = 60.0
_SETTLED_S = 2.0


def measure(lab: Lab, peers: Etcd, count: int) -> Section:
    """Strike hosts, and see when who waits for them starts."""
    timing = Timing(None)
    section = Section(
        "Failover",
        "From the strike to the first instruction of the next guest's program, which has waited, "
        f"and to the death of the old one's. failover_s {timing.failover_s:g}; sanlock's "
        f"io_timeout {sanlock_peers.IO_TIMEOUT_S}, whose hosts are given up after "
        f"{takeover_s(sanlock_peers.IO_TIMEOUT_S)} s; `{ETCDCTL}` with its own TTL of 10 s. "
        "*supervisor killed*: SIGKILL of the guard, and the kernel ends its guest; or of etcdctl. "
        "*host cut off*: its network is gone, and everything on it lives. *host dead*: guest, "
        f"guard and daemon at once. {_BATCH} at a time, at any moment between two renewals.",
    )
    found: dict[str, list[Pair]] = {}
    with ExitStack() as closing:
        slow = etcd_hosts.dead_host(lab, peers, closing)  # is seen to while others are
        for name, kind in etcd_hosts.kinds(lab, peers, closing).items():
            found[name] = []
            for number_ in range(count):
                found[name] += _batch(lab, kind, f"{name} {number_}", timing.every_s)
        name = f"{sanlock_peers.OURS}, host dead"
        found[name] = [slow]
        _watch([slow], takeover_s(sanlock_peers.IO_TIMEOUT_S) + _LATE_S)
        _end(lab, [slow])
    section.tables += [_table(found), _every(found)]
    for name, pairs in found.items():
        if name.startswith(OURS):
            longest = max(pair.failover_s for pair in pairs)
            what = f"{name}: failover, the longest of {len(pairs)}"
            section.aims.append(Aim(what, longest, _AIM_S, "s"))
    section.charts.append(_chart(found))
    return section


def _batch(lab: Lab, kind: Kind, label: str, every_s: float) -> list[Pair]:
    """Start pairs, strike, and wait until every next guest has started."""
    pairs = []
    for index in range(_BATCH):
        pairs.append(kind.pair(f"{label} {index}"))
        idle.pause(every_s / _BATCH)
    idle.pause(_SETTLED_S)
    if kind.together:
        _strike(kind, pairs)
    else:
        for index, pair in enumerate(pairs):
            _strike(kind, [pair])
            _notice(pairs[: index + 1], every_s / _BATCH)
    _watch(pairs, _LATE_S)
    _end(lab, pairs)
    kind.mend()
    return pairs


def _strike(kind: Kind, pairs: Sequence[Pair]) -> None:
    struck = time.monotonic_ns()
    kind.strike(pairs[0])
    for pair in pairs:
        pair.struck = struck


def _watch(pairs: Sequence[Pair], patience_s: float) -> None:
    """Note when guests die, until the next ones have all started."""
    deadline = time.monotonic() + patience_s
    while waits := [pair for pair in pairs if not pair.began]:
        if time.monotonic() > deadline:
            raise BenchError(f"{len(waits)} did not start elsewhere in {patience_s:g} s")
        _notice(pairs, 1.0)


def _notice(pairs: Sequence[Pair], seconds: float) -> None:
    """Let time pass, and note when guests die and start."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        waited = {pair.stamp_fd for pair in pairs if not pair.began}
        waited |= {pair.guest_fd for pair in pairs if not pair.died}
        ready = select.select(list(waited), [], [], left)[0]
        for pair in pairs:
            if pair.guest_fd in ready and not pair.died:
                pair.died = time.monotonic_ns()
            if pair.stamp_fd in ready and not pair.began:
                pair.see_start()


def _end(lab: Lab, pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        pair.end(lab)
    lab.stamps()


def _table(found: dict[str, list[Pair]]) -> Table:
    rows = []
    for name, pairs in found.items():
        starts = [pair.failover_s for pair in pairs]
        deaths = [(pair.died - pair.struck) / 1e9 for pair in pairs if pair.died]
        spare = [(pair.began - pair.died) / 1e9 for pair in pairs if pair.died]
        living = len(pairs) - len(deaths)
        rows.append([
            f"**{name}**" if name.startswith("guard") else name, str(len(pairs)),
            *(number(of(starts)) for of in (min, median, max)),
            f"{number(median(deaths))} to {number(max(deaths))}" if deaths else "",
            number(min(spare)) if spare else "", str(living),
        ])  # fmt: skip
    head = (
        "holder and next one, strike", "pairs", "next starts after s", "median", "longest",
        "old one dead after s", "least s between", "both ran",
    )  # fmt: skip
    return Table("From the strike to the next guest", head, rows)


def _every(found: dict[str, list[Pair]]) -> Table:
    """Show the whole distribution."""
    rows = [
        [name, " ".join(number(start) for start in sorted(pair.failover_s for pair in pairs))]
        for name, pairs in found.items()
    ]
    return Table("Every one, in seconds", ("holder and next one, strike", "started after"), rows)


def _chart(found: dict[str, list[Pair]]) -> Chart:
    longest = {name: max(pair.failover_s for pair in pairs) for name, pairs in found.items()}
    bars = [
        Bar(name, longest[name], name.startswith(OURS))
        for name in sorted(longest, key=lambda name: longest[name])
    ]
    title, unit = "Failover at default settings, the longest", "seconds"
    return Chart("bench-etcd-failover.svg", title, unit, bars, _AIM_S)
