"""What does every test of the conformance suite get? One plugin, set up, and guards that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.setups import SETUPS
from tests.support.guard import Guards

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from supervisor.spec import GuestSpec
    from tests.conformance.setups import Setup


class PluginGuards(Guards):
    """Guards that all use one plugin."""

    def __init__(self, tmp_path: Path, manager: Setup) -> None:
        super().__init__(tmp_path)
        self._manager = manager

    def spec(self, *disks: str | os.PathLike[str] | tuple[str, str], **fields: object) -> GuestSpec:
        manager = self._manager
        return super().spec(*disks, plugin=manager.plugin, config=manager.config, **fields)


@pytest.fixture(params=SETUPS)
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Setup:
    """Set one plugin up."""
    return SETUPS[request.param](tmp_path)


@pytest.fixture
def guards(tmp_path: Path, manager: Setup) -> Iterator[PluginGuards]:
    with PluginGuards(tmp_path, manager) as started:
        yield started
