"""Does etcd ever let two guests on one disk? Three members, three hosts, all that goes wrong.

Real guests that write, under the real command, beside the same under `etcdctl
lock`, through the same faults. LOCK_SUPERVISOR_RACE_SEED=N makes the same
choices again, as far as the machine's speed lets them fall on the same processes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.faults.race import verdict
from tests.faults.race.faults import REPLACED
from tests.faults.race.harm import HEALED
from tests.faults.race.picture import draw
from tests.faults.race.report import Report
from tests.faults.race.verdict import FOREVER, OURS, tokens_that_do_not_rise
from tests.support import waiting
from tests.support.machine import Machine
from tests.support.measured import heading, write
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SEED = "LOCK_SUPERVISOR_RACE_SEED"
PAGE = "etcd-race"
TITLE = "Guests under lock-supervisor, and under etcdctl lock, through the same faults"
END_S = 240.0  # from the last second of a race to its result, where the machine is slow

pytestmark = pytest.mark.slow


@pytest.fixture
def race(
    require: Callable[[str], str],
    as_root: None,  # noqa: ARG001  # it makes namespaces
    tmp_path: Path,
) -> Iterator[Callable[[float, int], Report]]:
    """Run a race in namespaces of its own: with the test's end, whatever that is, all is gone."""
    for tool in ("etcd", "etcdctl", "qemu-system-x86_64", "ip", "iptables", "tini", "fsfreeze"):
        require(tool)
    home = tempfile.mkdtemp(prefix="race-")  # short: a socket is in it
    yield lambda seconds, seed: _race(home, tmp_path / "seen.json", seconds, seed)
    os.rmdir(home)  # the mount on it was seen by the race alone


def _race(home: str, seen: Path, seconds: float, seed: int) -> Report:
    lab = f"{home}/lab"
    words = [lab, str(seconds), str(seed), str(seen)]
    set_up = f"mount -t tmpfs -o size=3g race {home}; mkdir {lab}; cd {CHECKOUT}"
    init = ["tini", "--", sys.executable, "-m", "tests.faults.race", *words]
    with Machine(init, set_up=set_up, namespaces=["--net"]) as machine, thawing(machine, lab):
        waiting.gone(machine.init_pidfd, seconds + END_S)
    return Report.read(seen)


@contextmanager
def thawing(machine: Machine, lab: str) -> Iterator[None]:
    """Thaw in the end what the race froze: who writes there could not even be killed.

    By a process of its own, which nobody kills with the race, and which hears of this one's end.
    """
    thaw = f'read -r _; for disk in {lab}/etcd/*/mounted; do fsfreeze -u "$disk"; done 2>/dev/null'
    enter = ["nsenter", "--target", str(machine.init_pid), "--mount", "sh", "-c", thaw]
    thawer = subprocess.Popen(enter, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        thawer.communicate(timeout=END_S)


def introduction(report: Report) -> str:
    seed, seconds = report.seen["seed"], report.seen["seconds"]
    return f"""`--long`, seed {seed}, {seconds:.0f} s. Three members of etcd, three hosts, each in
a network of its own; `failover_s` is 15, 15 and 20. Each host wants each disk, again and again,
for some seconds. Judged by pidfds, on one clock, from before QEMU's exec to the death of its last
thread, and by what is on the disks. `etcdctl lock` guards the same guest on a disk of its own, in
the same run, through the same faults.

![{TITLE}]({PAGE}.svg)

"""


def test_no_fault_has_two_guests_on_a_disk(
    race: Callable[[float, int], Report],
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    seed = int(os.environ.get(SEED) or random.SystemRandom().getrandbits(32))
    print(f"{SEED}={seed}")
    report = race(rounds(90, 900), seed)
    assert report.seen["accused"] == []
    assert report.overlaps == []
    assert report.reasons(OURS) == []
    assert tokens_that_do_not_rise(report.ours, report.turns) == []
    assert [run for run in report.runs if run.end == FOREVER] == []
    # Else nothing has happened that could have gone wrong.
    assert len(report.ours) >= rounds(4, 40)
    assert len(report.takeovers) >= rounds(1, 8)
    assert report.seen["counts"].get(HEALED, 0) >= rounds(1, 5)
    assert report.seen["counts"].get(REPLACED, 0) >= rounds(0, 3)
    written = [report.seen["images"][disk] for disk in verdict.disks_of(report.ours)]
    assert sum(image["boots"] for image in written) >= rounds(1, 20)
    if rounds(0, 1):
        assert report.their_overlaps, "the judge finds none where there must be some"
        write(f"{PAGE}.svg", draw(report, TITLE))
        page = heading(PAGE) + introduction(report) + "\n".join(report.lines())
        write(f"{PAGE}.md", page + "\n")
    for line in report.lines() * rounds(1, 0):  # else they are on the page
        measured(PAGE, line)
