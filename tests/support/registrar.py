"""How does a test run the lock manager that knows guests by their processes?"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from tests.support import registering, registry_daemon, waiting
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 30
_PROGRAM = os.path.join(CHECKOUT, "tests/support/registry_daemon.py")
_PYTHON = getattr(sys, "_base_executable", sys.executable)


class RegistryDaemon:
    """A `registry_daemon` in a directory of its own; a context."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "log").touch()
        self.becomes(registry_daemon.WELL)

    def __enter__(self) -> Self:
        argv = [_PYTHON, "-I", "-S", _PROGRAM, str(self._directory)]
        self.process = subprocess.Popen(argv)
        socket = self._directory / "daemon"
        waiting.until(socket.exists, DEADLINE_S, "the daemon listens")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def becomes(self, how: str) -> None:
        """Answer who registers in this way from now on."""
        (self._directory / "how").write_text(how)

    def fault(self) -> None:
        """Have the plugin itself fail when it is to register."""
        (self._directory / registering.FAULT).touch()

    def registered(self) -> list[tuple[int, str, str]]:
        """Return who has tried to register: the pid as the kernel tells it, as what, the socket."""
        lines = (line.split() for line in (self._directory / "log").read_text().splitlines())
        return [(int(pid), name, inode) for pid, name, inode in lines]

    def lease(self, name: str = "registering") -> str:
        """Return the file that is locked while somebody is registered."""
        return str(self._directory / f"{name}.lease")

    def fields(self, plugin: str = "registering") -> dict[str, object]:
        """Return what a guest's spec says to register here."""
        config = {registering.DIRECTORY: str(self._directory)}
        tables = dict.fromkeys(plugin.split("+"), config)
        return {"plugin": plugin, "classes": registering.CLASSES, "config": tables}
