"""Which plugin gives its leases up in a pause? A stand-in that has none, and generations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockplugins.contract import Capability, Lease, Plugin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Resource


class GenerationsPlugin(Plugin):
    """Registered the public way, as a third party's is."""

    name = "generations"
    capabilities = (Capability.RESOURCES, Capability.GENERATIONS)
    FREED_BY_DEATH = True

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:  # noqa: ARG002  # the contract's signature
        return []


FIELDS = {"plugin": "generations", "classes": {"generations": f"{__name__}:GenerationsPlugin"}}
