"""How many renewals a second does a cluster answer, and so how many guests does it serve?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockplugins.etcd.timing import LEAST_FAILOVER_S, Timing
from tests.bench import etcd_asking, idle
from tests.bench.etcd_peers import ONE, THREE, opened, wanted
from tests.bench.figures import percentile
from tests.bench.report import Section, Table, number
from tests.bench.starting import DEADLINE_S, BenchError
from tests.support import waiting
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from tests.bench.etcd_peers import Etcd
    from tests.bench.starting import Lab
    from tests.support.etcd import Cluster

SPREAD = ", each asker's first another"
_ASKERS, _GUESTS = (1, 4, 16), 8
_RESERVE = 3
_FAILOVERS_S = (LEAST_FAILOVER_S, 30, 60, 120)
_LIVES = 100


@dataclass(frozen=True)
class Rate:
    """What some askers got answered."""

    askers: int
    a_second: float
    took_ms: list[float]
    etcd_us: float
    ours_us: float
    bytes_each: float


def measure(lab: Lab, peers: Etcd, seconds: int) -> Section:
    """Have more and more askers renew as fast as they are answered."""
    section = Section(
        "Renewals",
        "Processes that each renew the leases of "
        f"{_GUESTS} guests, a disk and the VM each, in turn and as fast as they are answered, for "
        f"{seconds} s: a keepalive, and a proof by the majority. Askers, in Python, and all "
        f"members share the {len(os.sched_getaffinity(0))} cores of this machine: members on "
        "machines of their own answer more.",
    )
    found: dict[str, list[Rate]] = {}
    for where in (ONE, THREE, THREE + SPREAD):
        cluster = peers.clusters[where.removesuffix(SPREAD)]
        pids = peers.pids(where.removesuffix(SPREAD))
        found[where] = [
            _rate(lab, cluster, pids, many, seconds, spread=where.endswith(SPREAD))
            for many in _ASKERS
        ]
    section.tables += [_table(found), _sizing(found), _growth(peers)]
    return section


def _rate(
    lab: Lab, cluster: Cluster, pids: list[int], many: int, seconds: int, *, spread: bool
) -> Rate:
    label = f"{many}{SPREAD if spread else ''}"
    askers = [
        _start(lab, cluster, f"{label} {number}", seconds, number if spread else 0)
        for number in range(many)
    ]
    try:
        for asker in askers:
            _line(asker)
        before = sum(idle.count(pid)[2] for pid in pids)
        for asker in askers:
            assert asker.stdin is not None
            asker.stdin.write("go\n")
            asker.stdin.flush()
        said = [json.loads(_line(asker)) for asker in askers]
        etcd_us = sum(idle.count(pid)[2] for pid in pids) - before
    finally:
        for asker in askers:
            asker.kill()
            asker.wait(DEADLINE_S)
    took = [ms for one in said for ms in one["ms"]]
    ours_us = sum(one["cpu_s"] for one in said) * 1e6
    carried = sum(one["bytes"] for one in said)
    total = len(took)
    return Rate(many, total / seconds, took, etcd_us / total, ours_us / total, carried / total)


def _start(
    lab: Lab, cluster: Cluster, name: str, seconds: int, first: int
) -> subprocess.Popen[str]:
    endpoints = cluster.endpoints.split(",")
    first %= len(endpoints)
    table = cluster.config() | {"endpoints": ",".join(endpoints[first:] + endpoints[:first])}
    words = [CHECKOUT, f"{cluster.directory.name} {name}", str(_GUESTS), str(seconds)]
    words += [f"{key}={value}" for key, value in table.items()]
    argv = [sys.executable, etcd_asking.__file__, *words]
    return subprocess.Popen(
        argv, env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _line(asker: subprocess.Popen[str]) -> str:
    assert asker.stdout is not None
    waiting.readable(asker.stdout.fileno(), DEADLINE_S, "an asker says something")
    if not (line := asker.stdout.readline()):
        raise BenchError("an asker has ended")
    return line


def _table(found: dict[str, list[Rate]]) -> Table:
    rows = [
        [
            f"etcd{where}", str(rate.askers), str(rate.askers * _GUESTS), number(rate.a_second),
            *(number(percentile(rate.took_ms, percent)) for percent in (50, 99, 100)),
            number(rate.etcd_us), number(rate.ours_us), number(rate.bytes_each),
        ]
        for where, rates in found.items()
        for rate in rates
    ]  # fmt: skip
    head = (
        "cluster", "askers", "guests", "renewals/s", "ms", "p99", "max",
        "members' CPU µs each", "asker's CPU µs each", "bytes each, both ways",
    )  # fmt: skip
    return Table("Renewals that are answered", head, rows)


def _sizing(found: dict[str, list[Rate]]) -> Table:
    """Say how many guests may renew in time, with a reserve."""
    timings = [Timing(str(seconds)) for seconds in _FAILOVERS_S]
    rows = []
    for where in (ONE, THREE):
        most = max(rate.a_second for rate in found[where])
        guests = [number(most / _RESERVE * timing.every_s // 10 * 10) for timing in timings]
        rows.append([f"etcd{where}", number(most), *guests])
    head = ("cluster", "renewals/s", *(f"failover_s {timing.failover_s:g}" for timing in timings))
    return Table(
        f"Guests for a third of what was answered here ({_RESERVE}-fold reserve)", head, rows
    )


def _growth(peers: Etcd) -> Table:
    """Say what guests' lives, and renewals, add to the database."""
    cluster = peers.clusters[ONE]
    rows = []
    before = _status(cluster)
    for index in range(_LIVES):
        plugin = opened(cluster.config(), f"life {index}")
        leases = plugin.acquire(wanted(f"life {index}", [peers.lab.image("life")]), None)
        for lease in reversed(leases):
            plugin.release(lease)
        plugin.close()
    after = _status(cluster)
    rows.append(["a guest's life, 1 disk and the VM", *_grown(before, after, _LIVES)])
    keeper = opened(cluster.config(), "keeper")
    keeper.acquire(wanted("keeper", [peers.lab.image("keeper")]), None)
    before = _status(cluster)
    for _ in range(_LIVES):
        keeper.renew()
    rows.append(["a renewal", *_grown(before, _status(cluster), _LIVES)])
    keeper.disconnect()
    head = ("what", "revisions", "bytes of database until compaction")
    return Table("What the database grows by", head, rows)


def _status(cluster: Cluster) -> tuple[int, int]:
    """Return the revision, and the bytes of the database."""
    told = json.loads(cluster.etcdctl("endpoint", "status", "--write-out", "json"))[0]["Status"]
    return told["header"]["revision"], told["dbSize"]


def _grown(before: tuple[int, int], after: tuple[int, int], count: int) -> list[str]:
    return [number((new - old) / count) for old, new in zip(before, after, strict=True)]
