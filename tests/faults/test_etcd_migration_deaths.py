"""Is there one owner at most, whatever ends or stands still during a migration with etcd?

The machines have no processor and no disk. Judged by QEMU's own word whether it runs, and by what
etcd itself has.
"""

from __future__ import annotations

import json
import signal
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support import waiting
from tests.support.etcd import Cluster
from tests.support.guard import DEADLINE_S
from tests.support.idle_ends import HELD, Pair, refused
from tests.support.qemu import GuestError
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.idle_ends import End

pytestmark = pytest.mark.slow

FAILED, LOST = 111, 112
FAILOVER_S = 15
PROOF_S = 0.4 * FAILOVER_S
HOST_DEATH_S = 2 * FAILOVER_S + DEADLINE_S


class EtcdPair(Pair):
    """Both ends with the same cluster, in a namespace of their own."""

    def __init__(self, directory: Path, cluster: Cluster, plugin: str) -> None:
        self._below = str(uuid.uuid4())
        self.cluster = cluster
        table = cluster.config() | {"namespace": self._below, "failover_s": str(FAILOVER_S)}
        defaults = {"plugin": plugin, "config": {"etcd": table}}
        super().__init__(directory, *(lambda guards: guards.defaults.update(defaults),) * 2)

    def pids(self) -> set[int]:
        """Return the supervisors that own the guest or a disk, by what etcd has."""
        found: dict[str, str] = {}
        for kind in ("vm", "disk"):
            found |= self.cluster.kept(f"/lsup/v1/{self._below}/{kind}/")
        owners = [value for key, value in found.items() if key.endswith("/w")]
        assert len(owners) == 1 + len(self.disks)
        return {json.loads(value)["pid"] for value in owners}

    def runs_alone(self, end: End) -> None:
        """See that an end owns and runs, and that nobody else gets anything."""
        assert self.runs(end)
        assert self.pids() == {end.guard.pid}


@pytest.fixture
def new_pair(
    tmp_path: Path, require: Callable[[str], str]
) -> Iterator[Callable[[Cluster, str], EtcdPair]]:
    require("qemu-system-x86_64")
    made: list[EtcdPair] = []

    def make(cluster: Cluster, plugin: str = "etcd") -> EtcdPair:
        made.append(EtcdPair(tmp_path, cluster, plugin))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


@pytest.fixture
def pair(new_pair: Callable[[Cluster], EtcdPair], etcd_member: Cluster) -> EtcdPair:
    return new_pair(etcd_member)


@pytest.fixture
def own(
    new_pair: Callable[[Cluster], EtcdPair], require: Callable[[str], str], tmp_path: Path
) -> Iterator[EtcdPair]:
    """Give a test a pair whose cluster it may hurt."""
    require("etcd")
    with Cluster(tmp_path / "etcd") as cluster:
        yield new_pair(cluster)


@pytest.mark.parametrize(
    "plugin",
    [*(pytest.param(name, marks=pytest.mark.long) for name in ("etcd", "etcd+file")), "file+etcd"],
)
def test_a_destination_that_dies_waiting_leaves_the_guest_to_its_source(
    new_pair: Callable[[Cluster, str], EtcdPair], etcd_member: Cluster, plugin: str
) -> None:
    pair = new_pair(etcd_member, plugin)
    pair.migrate()
    assert refused(pair.cancel_out) == HELD
    pair.target.guard.kill()
    assert refused(pair.cancel_out) == HELD, "it is not known yet to be dead"

    def is_back() -> bool:
        with suppress(Refused):
            pair.cancel_out()
        return pair.source.state() == "running"

    waiting.until(is_back, HOST_DEATH_S, "the source may have it again")
    pair.runs_alone(pair.source)


def test_a_destination_that_has_owned_is_followed_by_nobody(pair: EtcdPair) -> None:
    pair.migrate()
    pair.complete_in()
    pair.target.guard.kill()
    assert refused(pair.cancel_out) == FAILED
    assert pair.source.order("complete-migrate-out") == {}
    assert pair.source.guard.wait().code == 0
    assert pair.pids() == {pair.target.guard.pid}, "until its session has been absent for W"


@pytest.mark.parametrize("ends", [False, True])
def test_a_source_that_is_gone_is_not_needed(pair: EtcdPair, *, ends: bool) -> None:
    pair.migrate()
    if ends:
        assert pair.source.order("complete-migrate-out") == {}
    else:
        pair.source.guard.kill()
    pair.complete_in()
    pair.runs_alone(pair.target)


def test_a_destination_that_runs_too_early_takes_the_guest_from_both(pair: EtcdPair) -> None:
    pair.migrate()
    with suppress(GuestError, ConnectionError):  # ended before it has answered
        pair.target.monitor.execute("cont")
    assert pair.target.guard.wait().code == LOST
    waiting.until(lambda: refused(pair.cancel_out) == FAILED, DEADLINE_S, "the source knows it")


def test_a_source_that_stands_still_is_not_waited_for(pair: EtcdPair) -> None:
    pair.migrate()
    signal.pidfd_send_signal(pair.source.guard.pidfd, signal.SIGSTOP)
    pair.complete_in()
    pair.runs_alone(pair.target)
    waiting.gone(pair.source.guard.child_pidfd, PROOF_S + DEADLINE_S)
    assert pair.source.guard.wait().code == -signal.SIGKILL


@pytest.mark.parametrize("side", ["source", "target"])
def test_what_is_asked_while_etcd_stands_still_is_done_when_it_goes_on(
    own: EtcdPair, side: str
) -> None:
    own.migrate()
    if side == "source":
        own.cancel_in()
    command, asked = {
        "source": ("complete-migrate-out", {"cancel": True}),
        "target": ("complete-migrate-in", {"cookie": own.cookie, "timeout_s": DEADLINE_S}),
    }[side]
    end = {"source": own.source, "target": own.target}[side]
    own.cluster.members[0].send(signal.SIGSTOP)
    with Wire(f"{end.guard.path}/control") as client:
        number = client.ask(command, asked)
        waiting.until(
            lambda: own.source.order("query-status")["deadline_s"] < PROOF_S - 2,
            DEADLINE_S,
            "a proof is missed",
        )
        own.cluster.members[0].send(signal.SIGCONT)
        assert client.answer(number) == {}
    own.runs_alone(end)


def test_without_etcd_for_too_long_neither_end_is_left(own: EtcdPair) -> None:
    own.migrate()
    own.cluster.members[0].send(signal.SIGSTOP)
    own.target.control.ask("complete-migrate-in", {"cookie": own.cookie})
    ends = own.source, own.target
    for end in ends:
        waiting.gone(end.guard.child_pidfd, PROOF_S + DEADLINE_S)
    own.cluster.members[0].send(signal.SIGCONT)
    assert {end.guard.wait().code for end in ends} <= {LOST, -signal.SIGKILL}
