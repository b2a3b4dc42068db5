"""What does it cost a guest of the etcd plugin to have its leases, and to prove them?

Measured inside the plugin: from the call to its return, connections open.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lockplugins.etcd.connection import now
from lockplugins.etcd.transaction import Transaction
from tests.bench.etcd_peers import key, opened, wanted
from tests.bench.figures import median, percentile, ratios, rounds
from tests.bench.report import TIMES, Aim, Section, Table, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from lockplugins.etcd.plugin import EtcdPlugin
    from tests.bench.etcd_peers import Etcd
    from tests.bench.starting import Lab

BARE = "one bare transaction"
ACQUIRE, PROOF = "acquire", "renewal"
ONE, EIGHT = "1 disk and the VM", "8 disks and the VM"
COUNTS = {ONE: 1, EIGHT: 8}
_AIM = 2.0
_PATIENCE_S = 10.0


def measure(_lab: Lab, peers: Etcd, count: int) -> Section:
    """Measure every row side by side."""
    with ExitStack() as closing:
        rows: dict[str, Callable[[], float]] = {}
        for where in peers.clusters:
            rows |= _rows(peers, where, closing)
        samples = rounds(rows, count)
    section = Section(
        "Leases, inside the plugin",
        f"From the plugin's call to its return. *{BARE}* demands that the session is ours, puts "
        "one key, and reads in the other branch; *acquire* takes all leases of a guest in one "
        "transaction; *renewal* is a keepalive and a proof of them all, a linearizable read by the "
        f"majority, at all of a guest's connections kept. {count} rounds.",
    )
    section.tables.append(_table(peers, samples))
    for where in peers.clusters:
        over = ratios(samples[f"{ACQUIRE} {EIGHT}{where}"], samples[BARE + where])
        what = f"acquire {EIGHT}, over {BARE}{where}"
        section.aims.append(Aim(what, median(over), _AIM, TIMES))
    return section


def _rows(peers: Etcd, where: str, closing: ExitStack) -> dict[str, Callable[[], float]]:
    config = peers.clusters[where].config()
    rows: dict[str, Callable[[], float]] = {}
    for what, many in COUNTS.items():
        disks = peers.disks(f"acquire {where}", many)
        taker, keeper = (opened(config, f"{how} {many}") for how in (ACQUIRE, PROOF))
        for plugin in (taker, keeper):
            closing.callback(plugin.disconnect)
        keeper.acquire(wanted(f"keeper {many}", peers.disks(f"keep {where} {many}", many)), None)
        rows[f"{ACQUIRE} {what}{where}"] = _acquire(taker, many, disks)
        rows[f"{PROOF} {what}{where}"] = _timed(keeper.renew)
        rows[BARE + where] = _bare(taker)
    return rows


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def row() -> float:
        begin = time.monotonic_ns()
        call()
        return (time.monotonic_ns() - begin) / 1e6

    return row


def _acquire(plugin: EtcdPlugin, many: int, disks: list[str]) -> Callable[[], float]:
    timed = _timed(lambda: plugin.acquire(wanted(f"taker {many}", disks), None))

    def row() -> float:
        took = timed()
        forgetting = (
            Transaction()
        )  # not released: that would leave a trace that a first launch has not
        for taken in plugin._keeping.held:
            forgetting.delete(taken)
        forgetting.commit(plugin._jobs, now() + _PATIENCE_S, "all leases")
        plugin._keeping.held.clear()
        plugin.leases.clear()
        return took

    return row


def _bare(plugin: EtcdPlugin) -> Callable[[], float]:
    session, name = plugin._session, key("bare")

    def commit() -> None:
        transaction = Transaction()
        transaction.demand_created(session.key, session.created)
        transaction.put(name, session.value)
        transaction.read_otherwise(name)
        assert transaction.commit(plugin._jobs, now() + _PATIENCE_S, name).succeeded

    return _timed(commit)


def _table(peers: Etcd, samples: dict[str, list[float]]) -> Table:
    rows = []
    for where in peers.clusters:
        names = [name for name in samples if name.endswith(where)]
        for name in sorted(names, key=lambda name: median(samples[name])):
            times = ratios(samples[name], samples[BARE + where])
            rows.append([
                name if name.startswith(BARE) else f"**{name}**",
                number(median(samples[name])), number(percentile(samples[name], 90)),
                f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
            ])  # fmt: skip
    head = ("what", "ms", "p90", f"{TIMES} {BARE}, same cluster (range)")
    return Table("Leases of etcd, inside the plugin", head, rows)
