"""Does a program get hold of a plugin by name, and of nothing after it has given it back?"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import lockplugins
from lockplugins import registry
from lockplugins.contract import Capability, ConfigError
from lockplugins.loading import UnloadedError
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lockplugins.loading import LoadedPlugin


def test_a_loaded_plugin_tells_its_name_and_what_it_can_do() -> None:
    plugin = lockplugins.load("file")
    assert plugin.name == "file"
    assert plugin.capabilities == registry.plugin_class("file").capabilities
    assert Capability.HOTPLUG in plugin.capabilities


def test_several_plugins_can_do_what_they_can_do_together() -> None:
    plugin = lockplugins.load("file+nop")
    assert plugin.name == "file+nop"
    assert plugin.capabilities == (Capability.RESOURCES,)


def test_a_third_partys_plugin_has_the_name_that_it_is_installed_under(tmp_path: Path) -> None:
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[lockplugins]\nmine = theirs:Mine\n")
    head = "from lockplugins.contract import Plugin\nclass Mine(Plugin):\n    "
    (tmp_path / "theirs.py").write_text(head + "name = 'theirs'\n    capabilities = ('vm',)\n")
    script = "import lockplugins; found = lockplugins.load('file+mine'); print(found.name)"
    ran = subprocess.run(
        [sys.executable, "-c", f"{script}; print(*found.capabilities)"],
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == ["file+mine", "resources hotplug vm"]


def test_the_seeds_name_for_sanlock_names_sanlock() -> None:
    if "sanlock" in registry.known():
        assert lockplugins.load("sync-manager").name == "sanlock"
    else:
        with pytest.raises(ConfigError, match="sync-manager: it is the old name of sanlock"):
            lockplugins.load("sync-manager")


def test_a_name_that_nobody_has_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match="plugin sanlok: there is none of that name") as error:
        lockplugins.load("sanlok")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("use", "verb"),
    [
        (lambda plugin: plugin.unload(), "unload"),
        (lambda plugin: plugin.name, "use"),
        (lambda plugin: plugin.capabilities, "use"),
    ],
)
def test_nothing_can_be_done_with_an_unloaded_plugin(
    use: Callable[[LoadedPlugin], object], verb: str
) -> None:
    plugin = lockplugins.load("nop")
    assert plugin.unload() is True
    with pytest.raises(UnloadedError, match=f"cannot {verb} plugin nop: it has been unloaded"):
        use(plugin)
    assert lockplugins.load("nop").name == "nop"


def test_what_the_package_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="lockplugins has no attribute unload"):
        getattr(lockplugins, "unload")  # noqa: B009  # mypy knows that it is not there


def test_importing_the_package_imports_nothing_that_loading_needs() -> None:
    script = (
        "import lockplugins, sys; print('lockplugins.loading' in sys.modules); lockplugins.load"
    )
    script += "; print('lockplugins.loading' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["False", "True"]
