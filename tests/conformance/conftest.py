"""What does every test of the conformance suite get? One plugin, set up, and guards that use it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from tests.conformance.setups import CANNOT, LONG, SETUPS
from tests.support.guard import Guards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from supervisor.spec import GuestSpec
    from tests.conformance.setups import Setup


class PluginGuards(Guards):
    """Guards that all use one plugin."""

    def __init__(self, tmp_path: Path, manager: Setup) -> None:
        super().__init__(tmp_path)
        self.env |= manager.env
        self._manager = manager

    def spec(self, *disks: str | os.PathLike[str] | tuple[str, str], **fields: object) -> GuestSpec:
        manager = self._manager
        spec = super().spec(plugin=manager.plugin, config=manager.config, **fields)
        for disk in disks:
            mode, name = disk if isinstance(disk, tuple) else (Mode.EXCLUSIVE, os.fspath(disk))
            manager.lease(spec, mode, name)
        return spec


@pytest.hookimpl(tryfirst=True)  # before what is long is left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot be asked of a plugin."""
    left_out = [item for item in items if meets(item, CANNOT)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if meets(item, LONG):
            item.add_marker(pytest.mark.long)


def meets(item: pytest.Item, words: dict[str, set[str]]) -> bool:
    """Does the test ask, by mark or parameters, for what `words` has for its set-up?"""
    params = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
    if "manager" not in params:
        return False  # no test of plugins: pytest hands over those of the whole run
    asked = {word for mark in item.iter_markers("asks") for word in mark.args}
    for value in params.values():
        asked.update(value if isinstance(value, tuple) else [value])
    return bool(asked & words.get(str(params["manager"]), set()))


@pytest.fixture(params=SETUPS)
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Setup:
    """Set one plugin up."""
    found = SETUPS[request.param](tmp_path, request)
    for name, value in found.env.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def guards(tmp_path: Path, manager: Setup) -> Iterator[PluginGuards]:
    with PluginGuards(tmp_path, manager) as started:
        yield started
