"""Are etcd's leases and the kernel's locks one, under `etcd+file`? Real etcd, real QEMU.

All or none, in order and back in reverse, lost if any is lost. What the kernel
holds is read from its own books, what etcd holds by its own tool.
"""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import proclocks, waiting
from tests.support.etcd import NAMESPACE, Cluster
from tests.support.guard import DEADLINE_S
from tests.support.qemu import idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Ended, Guard, Guards

FAILOVER_S = 15
PROOF_S = 0.4 * FAILOVER_S
ETCD, FILE, BOTH = "etcd", "file", "etcd+file"

pytestmark = pytest.mark.slow


class World:
    """Two disks, a cluster, and guests of any plugin on them."""

    def __init__(self, guards: Guards, cluster: Cluster, directory: Path) -> None:
        self._guards = guards
        self.cluster = cluster
        self._table = cluster.config() | {"failover_s": str(FAILOVER_S)}
        self.disks = [str(directory / name) for name in ("one", "two")]
        for disk in self.disks:
            with open(disk, "wb") as file:
                file.truncate(1 << 16)

    def start(
        self, plugin: str, *disks: str, prefix: tuple[str, ...] = (), **fields: object
    ) -> Guard:
        config = {"etcd": self._table} if ETCD in plugin else {}
        spec = self._guards.spec(*disks, plugin=plugin, config=config, **fields)
        return self._guards.start(spec, idle_argv(*disks), prefix=prefix)

    def refused(self, plugin: str, *disks: str) -> Ended:
        refusal = self.start(plugin, *disks).refused()
        assert refusal.code == 110
        return refusal

    def held(self) -> list[tuple[bool, bool]]:
        """Return of each disk whether etcd has an owner for it, and the kernel a lock."""
        kept = self.cluster.kept(f"/lsup/v1/{NAMESPACE}/disk/")
        return [
            (
                any(key.endswith(f"{disk.replace('/', '%2F')}/w") for key in kept),
                any(lock.first == 0 for lock in proclocks.locks(disk)),
            )
            for disk in self.disks
        ]


@pytest.fixture
def world(guards: Guards, require: Callable[[str], str], tmp_path: Path) -> Iterator[World]:
    for tool in ("etcd", "qemu-system-x86_64", "strace"):
        require(tool)
    with Cluster(tmp_path / "etcd") as cluster:
        yield World(guards, cluster, tmp_path)


def test_both_are_held_or_none(world: World) -> None:
    one, two = world.disks
    for part in (ETCD, FILE):
        holder = world.start(part, two).ready()
        before = world.held()
        assert before == [(False, False), (part == ETCD, part == FILE)]
        assert f"disk {two}: held by" in world.refused(BOTH, one, two).stderr
        assert world.held() == before
        signal.pidfd_send_signal(holder.pidfd, signal.SIGTERM)
        holder.wait()
    both = world.start(BOTH, one, two).ready()
    assert world.held() == [(True, True)] * 2
    leases = both.status()["leases"]
    assert isinstance(leases, list)
    assert [lease["resource"] for lease in leases] == [both.spec.uuid, one, two, one, two]
    assert [lease["generation"] is None for lease in leases] == [False] * 3 + [True] * 2
    for part in (ETCD, FILE):
        world.refused(part, two)


def test_they_are_given_back_in_reverse(world: World, tmp_path: Path) -> None:
    record = tmp_path / "record"
    traced = ("strace", "-f", "-y", "-qq", "-s", "4096", "-o", str(record))
    prefix = (*traced, "-e", "trace=fcntl,sendto")
    guard = world.start(BOTH, *world.disks, prefix=prefix).ready()
    signal.pidfd_send_signal(guard.child_pidfd, signal.SIGKILL)
    guard.wait()
    assert world.held() == [(False, False)] * 2
    _before, _dead, after = record.read_text().partition("killed by SIGKILL")
    pattern = re.compile(
        r"fcntl\(\d+<([^>]+)>, F_OFD_SETLK, \{l_type=F_UNLCK|(request_delete_range)"
    )
    given_back = [path or "etcd" for path, _etcd in pattern.findall(after)]
    order = list(dict.fromkeys(given_back))
    assert order == [*reversed(world.disks), "etcd"]


def test_what_etcd_has_lost_is_lost_altogether(world: World) -> None:
    guard = world.start(BOTH, *world.disks).ready()
    (owner,) = (key for key in world.cluster.kept() if key.endswith("one/w"))
    world.cluster.etcdctl("del", owner)
    waiting.gone(guard.child_pidfd, PROOF_S + DEADLINE_S)
    assert guard.wait().code == 112
    assert world.held() == [(False, False)] * 2


def test_without_etcd_the_guest_is_dead_in_time_and_then_its_file_is_free(world: World) -> None:
    guard = world.start(BOTH, *world.disks).ready()
    waiter = world.start(FILE, world.disks[0], wait_s=4 * DEADLINE_S)
    (member,) = world.cluster.members
    member.send(signal.SIGSTOP)
    assert waiter.line(PROOF_S + 2 * DEADLINE_S).startswith("READY ")
    assert waiting.is_gone(guard.child_pidfd)
    member.send(signal.SIGCONT)
    assert guard.wait().code == 112


def test_a_waiter_has_nothing_until_it_has_both(world: World) -> None:
    one = world.disks[0]
    holder = world.start(BOTH, one).ready()
    waiter = world.start(BOTH, one, wait_s=4 * DEADLINE_S)
    holder.kill()
    bystander = world.start(FILE, one).ready()  # free at once; etcd's is to be watched first
    assert world.held()[0] == (True, True)
    bystander.kill()
    assert waiter.line(4 * DEADLINE_S).startswith("READY ")
    assert world.held()[0] == (True, True)
    world.refused(FILE, one)
