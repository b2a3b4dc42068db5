"""What are the two ends of a migration to the plugin `etcd`? Opened plugins, each with leases.

Two in one process stand for two hosts: etcd tells them apart by their sessions. Judges nothing.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Guest, LockError, Mode, Resource, ResourceType
from lockplugins.etcd.handover import NEXT, _told
from lockplugins.etcd.plugin import EtcdPlugin
from tests.support.stand_ins import CARRIER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    from lockplugins.contract import Lease
    from tests.support.etcd import Cluster

    Make = Callable[..., "End"]

UUID = "5f2c1d3e-0000-4000-8000-00000000001f"
RENEW_S = 0.5
FAILOVER_S = "15"
NONCE, OTHER_NONCE = "00112233445566", "00112233445567"


class End:
    """One end of migrations of one guest; a context, which leaves all in etcd as it is."""

    def __init__(self, table: Mapping[str, str], guest: str = UUID) -> None:
        self.plugin = EtcdPlugin(table, CARRIER)
        self.guest = Resource(guest, resource_type=ResourceType.VM)
        self.plugin.open(Guest(guest, "web1"))
        self.side = self.plugin.migration()
        self.leases: list[Lease] = []
        self._stop = threading.Event()
        self._renewals = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_renewing()
        self.plugin.disconnect()

    def own(self, *disks: str, shared: tuple[str, ...] = ()) -> None:
        """Own disks, by path, or by a name that is all there is of them."""
        self.leases = self.plugin.acquire(self._resources(disks, shared), None)

    def wait(self, *disks: str, shared: tuple[str, ...] = ()) -> None:
        self.leases = self.side.await_in(self._resources(disks, shared), (), None)

    def _resources(self, disks: tuple[str, ...], shared: tuple[str, ...]) -> list[Resource]:
        own = [Resource(disk, identity=disk if disk[:1] != "/" else None) for disk in disks]
        return [self.guest, *own, *(Resource(disk, Mode.SHARED) for disk in shared)]

    @property
    def sid(self) -> str:
        return self.plugin._session.sid

    def told(self) -> str:
        """Return what the source of these disks tells, which it would tell alike."""
        return NEXT.join(map(_told, self.plugin.leases.values()))

    def renewing(self) -> Self:
        """Prove on a thread of its own from now on, as a guard does, to the end of the context."""
        self._renewals.start()
        return self

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            try:
                self.plugin.renew()
            except LockError:
                continue  # of an end that is away, or that has lost

    def stop_renewing(self) -> None:
        self._stop.set()
        if self._renewals.is_alive():
            self._renewals.join()

    def said(self) -> list[tuple[str, str]]:
        return [(lease.mode, lease.state) for lease in self.leases]

    def end(self) -> None:
        """Give all back and let go, as a guard does whose guest is dead."""
        for lease in reversed(self.leases):
            if lease.state != "lost":
                self.plugin.release(lease)
        self.stop_renewing()
        self.plugin.close()


@pytest.fixture
def etcd_end(etcd_member: Cluster) -> Iterator[Make]:
    """Return a maker of ends in a namespace of the test's own, which renew as guards' do."""
    table = etcd_member.config() | {"namespace": str(uuid.uuid4()), "failover_s": FAILOVER_S}
    with ExitStack() as stack:
        yield lambda **more: stack.enter_context(End(table | more).renewing())


def owner(cluster: Cluster, end: End) -> set[bool]:
    """Return whether the keys of owners are this end's, by what etcd itself has."""
    kept = cluster.kept(f"/lsup/v1/{end.plugin.namespace}/")
    found = {key: value for key, value in kept.items() if key.endswith("/w") and "/in/" not in key}
    assert len(found) > 1
    return {end.plugin._session.value == value for value in found.values()}


def attempt(cluster: Cluster, end: End) -> list[str]:
    """Return what etcd has of an attempt to migrate the guest."""
    return list(cluster.kept(f"/lsup/v1/{end.plugin.namespace}/out/").values())


def handed(source: End, target: End, disks: list[str], nonce: str = NONCE) -> str:
    """Bring them to where the source has handed over; returns what the target is told."""
    if not source.leases:
        source.own(*disks)
    target.wait(*disks)
    told = source.side.prepare(nonce)
    source.side.hand_over()
    return told
