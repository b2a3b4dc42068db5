"""Does a guest under etcd end, or stand still, before another may have its disk?

Real guards and guests, a real etcd that is frozen under them. Judged by pidfds,
at the moment at which the taker says READY.
"""

from __future__ import annotations

import re
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LockError
from lockplugins.etcd.connection import now
from tests.faults.freezing import filesystem
from tests.support import waiting
from tests.support.etcd import Cluster
from tests.support.guard import DEADLINE_S
from tests.support.late import Late
from tests.support.pausing import Pausable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from supervisor.client import Client
    from supervisor.spec import GuestSpec
    from tests.support.guard import Guard, Guards

    Specify = Callable[..., GuestSpec]

FAILOVER_S = 15
PROOF_S, WATCH_S = 0.4 * FAILOVER_S, 0.5 * FAILOVER_S

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(require: Callable[[str], str], tmp_path: Path) -> Iterator[Cluster]:
    require("etcd")
    with Cluster(tmp_path / "etcd") as found:
        yield found


@pytest.fixture
def spec(cluster: Cluster, guards: Guards, tmp_path: Path) -> Specify:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 16))
    table = cluster.config() | {"failover_s": str(FAILOVER_S)}

    def specify(**fields: object) -> GuestSpec:
        return guards.spec(disk, plugin="etcd", config={"etcd": table}, **fields)

    return specify


def is_dead(guard: Guard) -> bool:
    return bool(select.select([guard.child_pidfd], [], [], 0)[0])


def test_without_a_quorum_the_guest_is_dead_within_what_status_announces(
    cluster: Cluster, guards: Guards, spec: Specify
) -> None:
    guard = guards.start(spec()).ready()
    cluster.members[0].send(signal.SIGSTOP)
    announced = guard.status()["deadline_s"]
    assert isinstance(announced, float)
    assert 0 < announced <= PROOF_S
    waiting.gone(guard.child_pidfd, announced + DEADLINE_S)
    dead = time.monotonic()
    ended = guard.wait(DEADLINE_S)
    assert ended.code == 112
    assert f"bound {PROOF_S:g} s" in ended.stderr
    told = re.search(r"gone after ([\d.]+) s", ended.stderr)
    assert told
    giving_back_s = time.monotonic() - dead  # in vain
    assert float(told[1]) < giving_back_s / 2
    cluster.members[0].send(signal.SIGCONT)


def test_a_frozen_guard_is_ended_by_the_kernel_before_its_disk_is_taken(
    cluster: Cluster, guards: Guards, spec: Specify
) -> None:
    assert cluster
    guard = guards.start(spec()).ready()
    taker = guards.start(spec(wait_s=2 * DEADLINE_S))
    signal.pidfd_send_signal(guard.pidfd, signal.SIGSTOP)
    waiting.gone(guard.child_pidfd, PROOF_S + DEADLINE_S)
    assert guard.wait().code == -signal.SIGKILL
    assert taker.line(2 * DEADLINE_S).startswith("READY ")
    assert is_dead(guard)


def test_a_taker_starts_only_when_the_guest_of_a_killed_guard_is_dead(
    cluster: Cluster, guards: Guards, spec: Specify
) -> None:
    guard = guards.start(spec()).ready()
    taker = guards.start(spec(wait_s=2 * DEADLINE_S))
    before = max(lease["generation"] for lease in guard.status()["leases"])  # type: ignore[attr-defined]  # JSON
    guard.kill()
    ready = re.fullmatch(r"READY child=\d+ generation=(\d+)\n", taker.line(2 * DEADLINE_S))
    assert is_dead(guard)
    assert ready
    assert int(ready[1]) > before  # the fencing token rises
    (owner,) = (value for key, value in cluster.kept().items() if key.endswith("disk/w"))
    assert f'"pid":{taker.pid},' in owner


@pytest.mark.parametrize("owners", ["etcd", "file"])
def test_a_launch_that_is_refused_leaves_nothing(
    owners: str, cluster: Cluster, guards: Guards, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    table = {"etcd": cluster.config()}
    guards.start(guards.spec(disk, plugin=owners, config=table)).ready()
    before = set(cluster.kept())
    refused = guards.start(guards.spec(disk, plugin="etcd+file", config=table)).refused()
    assert refused.code == 110
    assert set(cluster.kept()) == before


def test_a_detach_without_an_answer_is_in_doubt_until_it_is_asked_for_again(
    cluster: Cluster, guards: Guards, tmp_path: Path
) -> None:
    system, data = tmp_path / "system", tmp_path / "data"
    for disk in (system, data):
        disk.touch()
    with Late(cluster.members[0]) as late:
        table = cluster.config() | {"failover_s": str(FAILOVER_S), "endpoints": late.url}
        guard = guards.start(guards.spec(system, plugin="etcd", config={"etcd": table})).ready()
        with guard.connect() as control:
            control.execute("acquire-resource", {"path": str(data)})
            late.holds = b"request_delete_range"
            with pytest.raises(LockError, match="asked, and no answer"):
                control.execute("release-resource", {"path": str(data)}, timeout_s=DEADLINE_S)
            late.holds = None
            assert states(control)[str(data)] == "unknown"
            control.execute("release-resource", {"path": str(data)}, timeout_s=DEADLINE_S)
            assert str(data) not in states(control)
        assert len([key for key in cluster.kept() if key.endswith("/w")]) == 2


def states(control: Client) -> dict[str, str]:
    leases = control.execute("query-leases")
    assert isinstance(leases, list)
    return {lease["resource"]: lease["state"] for lease in leases}


@pytest.mark.usefixtures("as_root")
def test_what_a_guest_that_sleeps_uninterruptibly_has_is_kept_until_it_is_dead(
    cluster: Cluster, guards: Guards, tmp_path: Path
) -> None:
    with filesystem(tmp_path) as mounted:
        disk = f"{mounted.path}/disk"
        with open(disk, "wb") as file:
            file.truncate(1 << 16)
        table = {"etcd": cluster.config() | {"failover_s": str(FAILOVER_S)}}
        spec = guards.spec(disk, plugin="etcd", config=table, stop_timeout_s=0.1)
        guard = guards.start(spec, writing(disk)).ready()
        wait_s = 4 * DEADLINE_S
        taker = guards.start(guards.spec(disk, plugin="etcd", config=table, wait_s=wait_s))
        mounted.freeze()
        waiting.until(lambda: state_of(guard.child_pid) == "D", DEADLINE_S, "its write hangs")
        signal.pidfd_send_signal(guard.pidfd, signal.SIGTERM)
        waiting.until(
            lambda: "has got SIGKILL" in str(guard.status()["guarantee"]), DEADLINE_S, "and it"
        )
        proven_then = now() + PROOF_S  # by then, what was proven before is worth nothing
        waiting.until(lambda: now() > proven_then, DEADLINE_S, "it is")
        announced = guard.status()["deadline_s"]
        assert isinstance(announced, float)
        assert announced > 0
        mounted.thaw()
        assert taker.line(2 * DEADLINE_S).startswith("READY ")
        assert is_dead(guard)


def writing(path: str) -> tuple[str, ...]:
    """Return a guest that writes to `path` for ever, and goes past every cache."""
    open_ = f"import os; fd = os.open({path!r}, os.O_WRONLY | os.O_DSYNC)"
    return (sys.executable, "-c", f"{open_}\nwhile True: os.pwrite(fd, b'x', 0)")


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_guest_is_parked_while_etcd_is_away_and_goes_on_when_it_is_back(
    cluster: Cluster, guards: Guards, spec: Specify, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    with Pausable(guards, spec(on_lockfailure="pause")) as guest:
        cluster.members[0].send(signal.SIGSTOP)
        waiting.until(lambda: guest.state() == "parked", PROOF_S + DEADLINE_S, "it is parked")
        assert not is_dead(guest.guard)
        cluster.members[0].send(signal.SIGCONT)
        waiting.until(lambda: guest.state() == "running", 2 * DEADLINE_S, "it goes on")
        assert guest.runs()
        assert not is_dead(guest.guard)


def test_a_pause_may_take_longer_than_the_session_lives(
    cluster: Cluster, guards: Guards, spec: Specify, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    with Pausable(guards, spec()) as guest:
        state = guest.pause()
        waiting.until(
            lambda: not [key for key in cluster.kept() if "/sess/" in key], DEADLINE_S, "it ends"
        )
        guest.resume(state)
        assert guest.runs()
        assert guest.state() == "running"


def test_a_parked_guest_whose_disk_was_taken_is_ended(
    cluster: Cluster, guards: Guards, spec: Specify, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    with Pausable(guards, spec(on_lockfailure="pause")) as guest:
        state = guest.pause()
        assert "released=" in state
        taker = guards.start(spec(wait_s=DEADLINE_S)).ready()
        assert guest.state() == "parked"
        taker.kill()
        cluster.etcdctl("del", "--prefix", "/lsup/v1/fleet/disk/")
        guest.control.ask("resume-guest", {"state": state})
        assert guest.guard.wait(DEADLINE_S).code == 112
        assert is_dead(guest.guard)
