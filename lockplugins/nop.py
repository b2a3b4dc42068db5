"""The plugin `nop`: takes no lease, so that the rest can be used, and tested, without one.

Holds with: nothing.
Released when: there is nothing to release.
Loss is seen by: nobody.
Does not protect against: a second guest on the same disks, or anything else.

Imported on the launch path (README, D2).
"""

from lockplugins.contract import Capability, Plugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Finding, Holder, Lease, Resource


class NopPlugin(Plugin):
    """Accepts every resource and holds none."""

    name = "nop"
    capabilities = (Capability.RESOURCES, Capability.NETWORK)
    FREED_BY_DEATH = True

    def acquire(self, resources: "Sequence[Resource]", wait_until: float | None) -> "list[Lease]":  # noqa: ARG002  # the contract's signature
        return []

    def examine(self, resource: "Resource | None") -> "list[Finding]":
        why = "plugin nop holds no lease"
        return [] if resource else [("leases", False, why, "choose another --plugin")]

    def inquire(self, resource: "Resource") -> "list[Holder]":  # noqa: ARG002  # the contract's signature
        return []
