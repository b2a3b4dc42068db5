"""Does a name lead to one plugin, with its own checked configuration?"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lockplugins import registry
from lockplugins.contract import ConfigError, Plugin, Resource, UnsupportedError
from lockplugins.file.plugin import FilePlugin
from lockplugins.nop import NopPlugin
from tests.support.sources import CHECKOUT
from tests.support.stand_ins import CARRIER, CLASSES, One

if TYPE_CHECKING:
    from pathlib import Path


def test_built_in_names_lead_to_built_in_plugins() -> None:
    assert isinstance(registry.load("file", {}, CARRIER), FilePlugin)
    assert isinstance(registry.load("nop", {}, CARRIER), NopPlugin)
    assert {"file", "nop"} <= set(registry.known())


def test_a_third_partys_class_is_loaded_by_name_but_takes_no_built_in_one() -> None:
    taken = {**CLASSES, "file": CLASSES["one"]}
    assert registry.plugin_class("one", taken) is One
    assert registry.plugin_class("file", taken) is FilePlugin
    assert registry.known(taken).count("file") == 1


@pytest.mark.parametrize("name", ["fiel", "", "file+", "FILE", "sync-manager2"])
def test_an_unknown_name_is_a_usage_error_that_names_the_known(name: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed: file nop.* one two three") as error:
        registry.load(name, {}, CARRIER, CLASSES)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("where", ["no.such:Thing", "os:path", "os:nothing", "os:PathLike", "os"])
def test_a_class_that_is_not_there_or_no_plugin_is_a_usage_error(where: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot use plugin mine: {where}"):
        registry.load("mine", {}, CARRIER, {"mine": where})


def test_a_plugin_named_twice_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match="names one twice"):
        registry.load("file+one+file", {}, CARRIER, CLASSES)


def test_the_old_name_of_sanlock_means_sanlock() -> None:
    if "sanlock" in registry.known():
        same = registry.plugin_class("sync-manager") is registry.plugin_class("sanlock")
        assert same
    else:
        why = "plugin sync-manager: it is the old name of sanlock, which is not there"
        with pytest.raises(ConfigError, match=why):
            registry.plugin_class("sync-manager")


def test_a_plugin_gets_its_own_table_whose_keys_are_checked() -> None:
    config = {"one": {"owner": "me"}, "two": {}, "file": {"no": "matter"}}
    assert registry.load("one", config, CARRIER, CLASSES).config == {"owner": "me"}
    config["one"]["onwer"] = "you"
    with pytest.raises(ConfigError, match=r"key onwer of plugin one: .*allowed: directory owner"):
        registry.load("two+one", config, CARRIER, CLASSES)
    with pytest.raises(ConfigError, match=r"key x of plugin nop: .*allowed: none"):
        registry.load("nop", {"nop": {"x": "1"}}, CARRIER)


def test_entry_points_are_found_with_the_directory_to_import_them_from(tmp_path: Path) -> None:
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    entries = "[lockplugins]\nmine = mine.locks:Mine\nfile = mine.locks:Evil\n"
    (info / "entry_points.txt").write_text(entries)
    script = "from lockplugins.loading import entry_points_classes; print(entry_points_classes())"
    found = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert found.stdout == f"{{'mine': ('mine.locks:Mine', '{tmp_path}')}}\n"


def test_without_a_carrier_a_plugin_can_be_asked(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    asked = registry.load("file", {}, None)
    assert asked.inquire(Resource(str(disk))) == []
    assert asked.named(Resource(str(disk))) == [("direct", str(disk))]


def test_a_plugin_that_cannot_be_asked_says_so() -> None:
    asked = Plugin({}, CARRIER)
    with pytest.raises(UnsupportedError, match=r"cannot tell who holds /a: plugin .*cannot"):
        asked.inquire(Resource("/a"))
    assert asked.named(Resource("/a")) == []
