"""What are the two ends of a migration to the plugin `etcd`? Opened plugins, each with leases.

Two in one process stand for two hosts: etcd tells them apart by their sessions. Judges nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockplugins.contract import Guest, Mode, Resource, ResourceType
from lockplugins.etcd.plugin import EtcdPlugin
from tests.support.stand_ins import CARRIER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from lockplugins.contract import Lease

UUID = "5f2c1d3e-0000-4000-8000-00000000001f"
NONCE, OTHER_NONCE = "00112233445566", "00112233445567"


class End:
    """One end of migrations of one guest; a context, which leaves all in etcd as it is."""

    def __init__(self, table: Mapping[str, str], uuid: str = UUID) -> None:
        self.plugin = EtcdPlugin(table, CARRIER)
        self.guest = Resource(uuid, resource_type=ResourceType.VM)
        self.plugin.open(Guest(uuid, "web1"))
        self.side = self.plugin.migration()
        self.leases: list[Lease] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.plugin.disconnect()

    def own(self, *disks: str, shared: tuple[str, ...] = ()) -> None:
        self.leases = self.plugin.acquire(self._resources(disks, shared), None)

    def wait(self, *disks: str, shared: tuple[str, ...] = ()) -> None:
        self.leases = self.side.await_in(self._resources(disks, shared), (), None)

    def _resources(self, disks: tuple[str, ...], shared: tuple[str, ...]) -> list[Resource]:
        sharers = [Resource(disk, Mode.SHARED) for disk in shared]
        return [self.guest, *map(Resource, disks), *sharers]

    def said(self) -> list[tuple[str, str]]:
        return [(lease.mode, lease.state) for lease in self.leases]

    def end(self) -> None:
        """Give all back and let go, as a guard does whose guest is dead."""
        for lease in reversed(self.leases):
            if lease.state != "lost":
                self.plugin.release(lease)
        self.plugin.close()
