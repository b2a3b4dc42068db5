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

# libvirt's words for a lease that is held: by this daemon's own, and by another host's.
HELD_HERE = "Failed to acquire lock: File exists"


class SanlockSides(Sides):
    """Guests of `host`, configured with a daemon, and of ours with `daemon`."""

    def __init__(self, host: Host, command: Command, directory: Path, daemon: Daemon) -> None:
        super().__init__(host, command, directory, None)
        self.daemon = daemon
        self.config.write_text(daemon.toml())
        self.options += ["--plugin", "sanlock"]
        command.env |= daemon.env
