"""Which plugin has a bug? A stand-in that raises what no plugin should, when told to acquire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockplugins.contract import Capability, Lease, Plugin
from lockplugins.handover import Handover

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Resource


class FaultyPlugin(Plugin):
    """Acquires nothing well, and anything badly; hands nothing over."""

    name = "faulty"
    capabilities = (Capability.RESOURCES, Capability.HOTPLUG)

    def migration(self) -> Handover:
        return Handover()

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:  # noqa: ARG002  # the contract's signature
        if resources:
            raise KeyError(resources[0].path)
        return []
