"""Which plugin waits at a gate? A stand-in whose verbs block until the test says so.

Registered the public way (`class=gate=…:GatePlugin`). A gate is a FIFO in the
plugin's directory, named after the verb: where there is none, the verb passes.
It takes no lease from anybody; it blocks as a hung lock manager does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lockplugins.contract import Capability, Holder, Lease, Plugin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Resource

DIRECTORY = "directory"


class GatePlugin(Plugin):
    """Acquires whatever it is asked for, once the gate is open."""

    name = "gate"
    capabilities = (Capability.RESOURCES, Capability.HOTPLUG)
    CONFIG_KEYS = (DIRECTORY,)

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:  # noqa: ARG002 - the contract's signature
        self._pass("acquire")
        return [Lease(resource, self.name, resource.path) for resource in resources]

    def release(self, lease: Lease) -> None:  # noqa: ARG002 - the contract's signature
        self._pass("release")

    def inquire(self, resource: Resource) -> list[Holder]:  # noqa: ARG002 - the contract's signature
        self._pass("inquire")
        return []

    def _pass(self, verb: str) -> None:
        """Wait until the writer of the FIFO is gone, if there is such a FIFO."""
        try:
            fd = os.open(os.path.join(self.config[DIRECTORY], verb), os.O_RDONLY)
        except FileNotFoundError:
            return
        while os.read(fd, 1):
            pass
        os.close(fd)
