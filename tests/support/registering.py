"""Which plugins register the guest's process with a lock manager? Two stand-ins, and theirs.

Registered the public way, as a third party's are. The lock manager is
`registry_daemon`, a real process.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, ClassVar

from lockplugins.contract import Capability, Lease, LeaseHeldError, LockError, Plugin, cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Guest, Resource

DIRECTORY = "directory"
REFUSED = ("register", "the guest", "the daemon is full", "end another guest first")
FAULT = "fault"  # the file that has the plugin itself fail


class RegisteringPlugin(Plugin):
    """Acquires in the name of the process that has registered."""

    name = "registering"
    capabilities = (Capability.RESOURCES, Capability.HOTPLUG)
    CONFIG_KEYS = (DIRECTORY,)
    REGISTERS = True
    FREED_BY_DEATH = True
    leaked: ClassVar[list[int]] = []

    def open(self, guest: Guest) -> None:
        self._guest = guest
        with self._connected() as connection:
            self._call(connection, "open")

    def in_child(self) -> tuple[int, ...]:
        # As libraries do: not close-on-exec, and forgotten.
        self.leaked.append(os.open("/dev/zero", os.O_RDONLY))
        os.set_inheritable(self.leaked[-1], True)
        if os.path.exists(os.path.join(self.config[DIRECTORY], FAULT)):
            raise KeyError(FAULT)
        self._connection = self._connected()
        inode = os.fstat(self._connection.fileno()).st_ino
        self._call(self._connection, f"register {self.name} {inode}")
        return (self._connection.fileno(),)

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:  # noqa: ARG002  # the contract's signature
        with self._connected() as connection:
            self._call(connection, f"acquire {self.name} {self._guest.pid}")
        return [Lease(resource, self.name, resource.path) for resource in resources]

    def release(self, lease: Lease) -> None:
        """Release nothing: the connection's end does."""

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.set_inheritable(connection.fileno(), True)  # as from a library in C
        try:
            connection.connect(os.path.join(self.config[DIRECTORY], "daemon"))
        except OSError as error:
            raise LockError("reach", "the daemon", cause(error), "start it") from error
        return connection

    def _call(self, connection: socket.socket, line: str) -> None:
        """Have the daemon agree to `line`; it may never answer."""
        connection.sendall(f"{line}\n".encode())
        answer = connection.recv(1 << 10).decode()
        if answer == "refuse":
            raise LeaseHeldError(*REFUSED)
        if answer != "well":
            raise LockError(
                "obey", line.partition(" ")[0], answer or "the daemon is gone", "start it"
            )


class SecondPlugin(RegisteringPlugin):
    """Another one, to be joined with the first."""

    name = "second"


CLASSES = {
    found.name: f"{__name__}:{found.__name__}" for found in (RegisteringPlugin, SecondPlugin)
}
