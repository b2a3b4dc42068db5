"""How does a test migrate leases alone? Between machines that have no processor and no disk.

Judges nothing, and knows no plugin.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from lockplugins.contract import Mode
from tests.support import waiting
from tests.support.guard import DEADLINE_S, Guards
from tests.support.qemu import Monitor, idle_argv
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HELD = 110


class End:
    """One end: a QEMU under a guard, its monitor and control pipe."""

    def __init__(
        self, guards: Guards, leases: list[tuple[str, str]], uri: str | None, guest: str
    ) -> None:
        self.monitor = Monitor()
        arrives = [] if uri is None else ["-incoming", uri]
        argv = idle_argv(extra=[*self.monitor.argv, *arrives])
        spec = guards.spec(*leases, name="web1", uuid=guest, incoming=uri is not None)
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


class Pair:
    """A guest with two disks, that runs at one end and is awaited at the other."""

    def __init__(self, directory: Path, *lease_to: Callable[[Guards], None]) -> None:
        """`lease_to`: what makes an end's guards lease as they are to, the source's first."""
        self.uuid = str(uuid.uuid4())
        self.disks = [str(directory / name) for name in ("one", "two")]
        for disk in self.disks:
            with open(disk, "wb") as file:
                file.truncate(1 << 16)
        self.uri = f"unix:{directory}/migration"
        self.guards = Guards(directory / "here"), Guards(directory / "there")
        for guards, lease in zip(self.guards, lease_to, strict=True):
            lease(guards)
        leases = [(Mode.EXCLUSIVE, disk) for disk in self.disks]
        self.source = End(self.guards[0], leases, None, self.uuid)
        self.source.monitor.execute("cont")
        self.target = End(self.guards[1], leases, self.uri, self.uuid)
        self.cookie = self.source.order("prepare-migrate", uri=self.uri)["cookie"]

    def migrate(self) -> None:
        self.source.migrate(self.uri)

    def complete_in(self, timeout_s: float = DEADLINE_S) -> None:
        self.target.order("complete-migrate-in", cookie=self.cookie, timeout_s=timeout_s)

    def cancel_in(self) -> None:
        self.target.order("complete-migrate-in", cancel=True)
        assert self.target.guard.wait().code == 0

    def cancel_out(self) -> None:
        self.source.order("complete-migrate-out", cancel=True)

    def runs(self, end: End) -> bool:
        """Have an end run that has its leases, and see that it does, and that nobody else may."""
        waiting.until(
            lambda: end.leases() == {(Mode.EXCLUSIVE, "held")}, DEADLINE_S, "it has its leases"
        )
        end.monitor.execute("cont")
        refusals = [
            guards.refusal((mode, self.disks[0])) for guards in self.guards for mode in Mode.ALL
        ]
        alone = all(refusal.code == HELD for refusal in refusals)
        return alone and "'running'" in str(end.monitor.execute("query-status"))

    def close(self) -> None:
        self.source.close()
        self.target.close()
        for guards in self.guards:
            guards.__exit__(None, None, None)


def refused(step: Callable[[], None]) -> int:
    """Return the exit code with which a step is refused."""
    with pytest.raises(Refused) as error:
        step()
    code = error.value.fields["exit_code"]
    assert isinstance(code, int)
    return code
