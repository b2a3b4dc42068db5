"""How does a test migrate leases alone? Between machines that have no processor and no disk.

Judges nothing, and knows no plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support import waiting
from tests.support.guard import DEADLINE_S
from tests.support.qemu import Monitor, idle_argv
from tests.support.wire import Wire

if TYPE_CHECKING:
    from tests.support.guard import Guards

UUID = "5f2c1d3e-0000-4000-8000-00000000001e"


class End:
    """One end: a QEMU under a guard, its monitor and control pipe."""

    def __init__(
        self, guards: Guards, leases: list[tuple[str, str]], uri: str | None, uuid: str = UUID
    ) -> None:
        self.monitor = Monitor()
        arrives = [] if uri is None else ["-incoming", uri]
        argv = idle_argv(extra=[*self.monitor.argv, *arrives])
        spec = guards.spec(*leases, name="web1", uuid=uuid, incoming=uri is not None)
        self.guard = guards.start(spec, argv, pass_fds=[self.monitor.fd]).ready()
        self.control = Wire(f"{self.guard.path}/control")

    def order(self, command: str, **arguments: object) -> Any:
        return self.control.execute(command, arguments, DEADLINE_S)

    def state(self) -> str:
        return str(self.order("query-status")["state"])

    def leases(self) -> set[tuple[str, str]]:
        return {(lease["mode"], lease["state"]) for lease in self.order("query-leases")}

    def migrate(self, uri: str) -> None:
        self.monitor.execute("migrate", uri=uri)
        waiting.until(lambda: self.state() == "migrated", DEADLINE_S, "the source has handed over")

    def close(self) -> None:
        self.control.close()
        self.monitor.__exit__()
