"""Whose host dies, and who waits for that? Pairs of guests that want one disk, and strikes.

What is cut off has a network of its own, whose only way to etcd can be taken
away. Measures nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lockplugins.contract import Resource
from tests.bench import ours, sanlock_peers
from tests.bench.etcd_peers import ETCDCTL, OURS, THREE
from tests.bench.starting import DEADLINE_S, STAMP_FD, first_below, tool
from tests.support import sanlock, waiting
from tests.support.etcd import Cluster, Member

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from tests.bench.etcd_peers import Etcd
    from tests.bench.starting import Lab, Started

KILLED, CUT_OFF = ", supervisor killed", ", host cut off"
_CUT = "cut"  # a cluster that a network of its own leads to
_NET, _LINK = "bench-cut", "bench-way"
_ETCD, _HERE, _THERE = "198.51.100.1", "198.51.100.5", "198.51.100.6"
_ROOM = "/30"


@dataclass
class Pair:
    """A holder, and who waits for its disk; instants as time.monotonic_ns() counts, or 0."""

    holder: Started
    guest_fd: int
    waiter: Started
    stamp_fd: int
    struck: int = 0
    died: int = 0
    began: int = 0

    @property
    def failover_s(self) -> float:
        return (self.began - self.struck) / 1e9

    def see_start(self) -> None:
        """Read when the waiter's program began."""
        (self.began,) = struct.unpack("q", os.read(self.stamp_fd, 8))

    def end(self, lab: Lab) -> None:
        """End all that is left, also what etcdctl leaves behind."""
        for started in (self.holder, self.waiter):
            lab.end(started)
        try:
            signal.pidfd_send_signal(self.guest_fd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for fd in (self.guest_fd, self.stamp_fd):
            os.close(fd)


@dataclass(frozen=True)
class Kind:
    """`pair(label)` makes one; `strike` hits its holder, or all at once if `together`."""

    pair: Callable[[str], Pair]
    strike: Callable[[Pair], None]
    together: bool = False
    mend: Callable[[], None] = lambda: None


def kinds(lab: Lab, peers: Etcd, closing: ExitStack) -> dict[str, Kind]:
    """Return what is struck; all of it lives as long as `closing`."""
    network = _Network(lab, closing)
    directory = Path(lab.path("etcd")) / _CUT
    peers.clusters[_CUT] = cluster = Cluster(directory, on_disk=True)
    cluster.members = [Member("n0", directory, _ETCD)]
    closing.callback(peers.clusters.pop, _CUT)
    closing.enter_context(cluster)

    def guards(where: str, before: list[str]) -> Callable[[str], Pair]:
        def pair(label: str) -> Pair:
            disks = peers.disks(label, 1)
            holder, waiter = (
                peers.guard(where, f"{label} {who}", disks, wait_s=float("inf"))
                for who in ("holder", "waiter")
            )
            return _start(lab, [*before, *holder], waiter)

        return pair

    def locks(before: list[str]) -> Callable[[str], Pair]:
        def pair(label: str) -> Pair:
            words = peers.lock(_CUT, label.replace(" ", "-"))
            return _start(lab, [*before, *words], words)

        return pair

    def cut_off(pair: Callable[[str], Pair]) -> Kind:
        return Kind(pair, lambda _: network.cut(), together=True, mend=network.mend)

    return {
        OURS + THREE + KILLED: Kind(guards(THREE, []), _kill),
        OURS + CUT_OFF: cut_off(guards(_CUT, network.enter)),
        ETCDCTL + KILLED: Kind(locks([]), _kill),
        ETCDCTL + CUT_OFF: cut_off(locks(network.enter)),
    }


def _start(lab: Lab, holder: list[str], waiter: list[str]) -> Pair:
    held = lab.spawn([*holder, *lab.holding])
    lab.await_stamp(held)
    reading, writing = os.pipe()
    waits = lab.spawn([*waiter, *lab.holding], {STAMP_FD: writing})
    os.close(writing)
    return Pair(held, os.pidfd_open(first_below(held.pid)), waits, reading)


def _kill(pair: Pair) -> None:
    signal.pidfd_send_signal(pair.holder.pidfd, signal.SIGKILL)


def dead_host(lab: Lab, peers: Etcd, closing: ExitStack) -> Pair:
    """Have sanlock's host die, with a guest that one on another host waits for."""
    host = peers.sanlock.daemon
    other = sanlock.Daemon(
        Path(lab.path("host2")), host.lease_dir, 2, io_timeout_s=sanlock_peers.IO_TIMEOUT_S
    )
    closing.enter_context(other).join()
    disks = peers.sanlock.disks("dead host", 1)
    waiter = ours.spec(
        lab, "dead host waiter", plugin="sanlock", config={"sanlock": other.config},
        wait_s=float("inf"),
    )  # fmt: skip
    waiter.resources = [Resource(disk) for disk in disks]
    elsewhere = [shutil.which("env") or "", *(f"{key}={value}" for key, value in other.env.items())]
    holder = peers.sanlock.guard("dead host holder", disks, sanlock_peers.OURS)
    pair = _start(lab, holder, [*elsewhere, *ours.words(waiter)])
    os.kill(pair.holder.pid, signal.SIGSTOP)  # it does nothing more
    pair.struck = time.monotonic_ns()
    host.kill()
    _kill(pair)
    waiting.gone(pair.guest_fd, DEADLINE_S)
    pair.died = time.monotonic_ns()
    return pair


class _Network:
    """A network of its own, with one way to where etcd is; `enter` goes before a command."""

    def __init__(self, lab: Lab, closing: ExitStack) -> None:
        self._lab = lab
        self._ip = shutil.which("ip") or "ip"
        self.enter = [self._ip, "netns", "exec", _NET]
        self._do("address", "add", _ETCD, "dev", "lo")
        closing.callback(self._do, "address", "del", f"{_ETCD}/32", "dev", "lo")
        self._do("netns", "add", _NET)
        closing.callback(self._do, "netns", "del", _NET)  # and the link
        self._do("link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", _NET)
        self._do("address", "add", _HERE + _ROOM, "dev", _LINK)
        self._do("-n", _NET, "address", "add", _THERE + _ROOM, "dev", "eth0")
        for words in (["link", "set", _LINK, "up"], ["-n", _NET, "link", "set", "eth0", "up"]):
            self._do(*words)
        self._do("-n", _NET, "route", "add", "default", "via", _HERE)

    def cut(self) -> None:
        """Take the way away; nobody on it is told."""
        self._do("link", "set", _LINK, "down")

    def mend(self) -> None:
        self._do("link", "set", _LINK, "up")

    def _do(self, *words: str) -> None:
        tool([self._ip, *words], self._lab.env)
