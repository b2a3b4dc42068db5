"""How does a test hold a guard's jobs at a gate? The other side of `gate_plugin`."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.support import waiting
from tests.support.gate_plugin import DIRECTORY, GatePlugin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 20.0


class Gate:
    """The gates of one guard's plugin, open until `shut`; `fields` are for its GuestSpec."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._shut: dict[str, int] = {}
        self.fields = {
            "plugin": GatePlugin.name,
            "classes": {GatePlugin.name: f"{GatePlugin.__module__}:{GatePlugin.__name__}"},
            "config": {GatePlugin.name: {DIRECTORY: self._directory}},
        }

    def shut(self, verb: str) -> None:
        """Have the next `acquire` or `release` wait."""
        os.mkfifo(self._path(verb))

    def wait(self, verb: str) -> None:
        """Return when the plugin waits at the gate."""
        fd = waiting.until(lambda: self._meet(verb), DEADLINE_S, f"the plugin is at {verb}")
        os.unlink(self._path(verb))
        self._shut[verb] = fd

    def open(self, verb: str) -> None:
        """Let through who waits there."""
        os.close(self._shut.pop(verb))

    def close(self) -> None:
        while self._shut:
            self.open(next(iter(self._shut)))

    def _path(self, verb: str) -> str:
        return os.path.join(self._directory, verb)

    def _meet(self, verb: str) -> int:
        try:
            return os.open(self._path(verb), os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return 0


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    directory = tmp_path / "gates"
    directory.mkdir()
    gates = Gate(directory)
    yield gates
    gates.close()
