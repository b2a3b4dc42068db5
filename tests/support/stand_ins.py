"""Which plugins stand in for lock managers? Registered the public way, as a third party's are.

They keep a log of what they are asked, and refuse what the test tells them to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lockplugins.contract import Capability, Guest, Holder, Lease, LockError, Mode, Plugin, Resource
from tests.support.locking import CopyingCarrier

if TYPE_CHECKING:
    from collections.abc import Sequence

CARRIER = CopyingCarrier()


class StandIn(Plugin):
    """Registered the public way; writes what it is asked into `log`."""

    capabilities: tuple[str, ...] = (Capability.RESOURCES, Capability.HOTPLUG)
    log: ClassVar[list[str]] = []
    refuse: ClassVar[dict[str, LockError]] = {}

    def open(self, guest: Guest) -> None:
        self._write(f"open {guest.name}")

    def close(self) -> None:
        self._write("close")

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:
        waits = "" if wait_until is None else " waiting"
        self._write(f"acquire {' '.join(resource.path for resource in resources)}{waits}")
        return [Lease(resource, self.name, resource.path) for resource in resources]

    def release(self, lease: Lease) -> None:
        self._write(f"release {lease.resource}")

    def inquire(self, resource: Resource) -> list[Holder]:
        return [Holder(Mode.SHARED, f"{self.name} {resource.path}")]

    def named(self, resource: Resource) -> list[tuple[str, str]]:
        return [(self.name, resource.path)]

    def _write(self, text: str) -> None:
        self.log.append(f"{self.name}: {text}")
        refusal = self.refuse.get(f"{self.name}: {text}")
        if refusal:
            raise refusal


class One(StandIn):
    name = "one"
    CONFIG_KEYS = ("directory", "owner")


class Two(StandIn):
    name = "two"


class Three(StandIn):
    name = "three"


class Expiring(Plugin):
    """Proves what the test put into `sent`."""

    capabilities = (Capability.RESOURCES, Capability.EXPIRES, Capability.GENERATIONS)

    def __init__(self, term_s: float, every_s: float) -> None:
        super().__init__({}, CARRIER)
        self.PROOF_TERM_S = term_s
        self.RENEW_EVERY_S = every_s
        self.sent: float | LockError = 0.0

    def renew(self) -> float:
        if isinstance(self.sent, LockError):
            raise self.sent
        return self.sent


class Vm(StandIn):
    name = "machine"
    capabilities = (Capability.VM,)


CLASSES = {found.name: f"{__name__}:{found.__name__}" for found in (One, Two, Three, Vm)}
