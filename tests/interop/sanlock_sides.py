"""How do a test's two sides start guests under sanlock? Stock libvirt's driver, and our plugin.

Both keep their leases in one directory. They may have a daemon together, or one each, which
makes them two hosts. Judges nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.interop.sides import Sides

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.libvirt import Host
    from tests.support.sanlock import Daemon
    from tests.support.sanlock_facts import Held

ONE, TWO = "one daemon", "two daemons"
# libvirt's words for a lease that is held: through this daemon, and by another host.
HELD_HERE = "Failed to acquire lock: File exists"
HELD_THERE = "resource busy: Failed to acquire lock: Lease is held by another host"


class SanlockSides(Sides):
    """Guests of `host`, which has the daemon `theirs`, and of ours, with the daemon `ours`."""

    def __init__(
        self, host: Host, command: Command, directory: Path, *, ours: Daemon, theirs: Daemon
    ) -> None:
        super().__init__(host, command, directory, None)
        self.theirs = theirs
        self.daemon = ours
        self.config.write_text(ours.toml())
        self.options += ["--plugin", "sanlock"]
        command.env |= ours.env

    def is_locked(self, _disk: str) -> str:
        """Return libvirt's words for a lease that our side holds."""
        return HELD_HERE if self.daemon is self.theirs else HELD_THERE

    def held(self, disk: str) -> list[Held]:
        """Return who has the lease, according to both daemons."""
        daemons = {self.daemon.pid: self.daemon, self.theirs.pid: self.theirs}
        return [held for daemon in daemons.values() for held in daemon.held(disk)]
