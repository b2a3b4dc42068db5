"""How does a test play the lock manager whose leases expire (tests/support/expiring, claiming)?

It says how renewals are answered, sends news, and reads what the plugin was asked. Judges nothing.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from supervisor.spec import Containment
from tests.support import expiring, waiting
from tests.support.claiming import Claims
from tests.support.guard import DEADLINE_S, IDLE
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from supervisor.spec import GuestSpec
    from tests.support.guard import Guard, Guards

TERM_S, EVERY_S = 2.0, 0.1
CLASSES = {
    "expiring": "tests.support.expiring:ExpiringPlugin",
    "claiming": "tests.support.claiming:ClaimingPlugin",
}


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Manager:
    """The lock manager that the stand-in pretends to speak to, and a disk of its guests."""

    def __init__(self, guards: Guards, directory: Path) -> None:
        self._guards = guards
        self._directory = directory
        self.disk = str(directory / "disk")
        with open(self.disk, "wb") as disk:
            disk.truncate(1 << 20)
        self.claims = Claims(directory)
        for fifo in ("never", "notice"):
            os.mkfifo(directory / fifo)
        (directory / "log").touch()
        self.becomes(expiring.WELL)

    def becomes(self, how: str) -> None:
        """Answer renewals in this way from now on."""
        (self._directory / "how.new").write_text(how)
        (self._directory / "how.new").rename(self._directory / "how")

    def tells(self, news: bytes) -> None:
        """Send word of a loss."""
        with open(self._directory / "notice", "wb") as notice:
            notice.write(news)

    def calls(self, name: str) -> list[tuple[float, list[str]]]:
        """Return when it was asked for `name`, and what the plugin noted then."""
        lines = [line.split() for line in (self._directory / "log").read_text().splitlines()]
        return [(float(at), rest) for call, at, *rest in lines if call == name]

    def wait_for(self, name: str, count: int = 1) -> None:
        seen = len(self.calls(name))
        waiting.until(lambda: len(self.calls(name)) >= seen + count, DEADLINE_S, f"{count} {name}")

    def spec(
        self, plugin: str, mode: str = Containment.AUTO, term_s: float = TERM_S, **fields: Any
    ) -> GuestSpec:
        """Return what a guard of a guest of this lock manager is told."""
        spec = self._guards.spec(self.disk, plugin=plugin, containment=mode, **fields)
        spec.classes = {name: where for name, where in CLASSES.items() if name in plugin.split("+")}
        spec.import_dirs += [CHECKOUT]
        table = {
            expiring.DIRECTORY: str(self._directory),
            expiring.TERM: str(term_s),
            expiring.EVERY: str(EVERY_S),
        }
        spec.config = dict.fromkeys(spec.classes, table)
        return spec

    def start(
        self,
        command: Sequence[str] = IDLE,
        *,
        plugin: str = "expiring",
        mode: str = Containment.AUTO,
        term_s: float = TERM_S,
        handshake_fd: int | None = None,
    ) -> Guard:
        spec = self.spec(plugin, mode, term_s, handshake_fd=handshake_fd)
        pass_fds = [] if handshake_fd is None else [handshake_fd]
        return self._guards.start(spec, command, pass_fds=pass_fds)
