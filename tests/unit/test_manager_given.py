"""Does a program's value of a wrong type touch nothing, and does a text do, however it comes?"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import pytest

import lockplugins
from lockplugins.contract import ConfigError
from lockplugins.loading import LoadedPlugin
from supervisor.manager import LockManager, MigrateFlags, NewFlags, ObjectType, ResourceType
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    Call = Callable[[LockManager], object]

UUID = "5f2c1d3e-0000-4000-8000-00000000001e"
DISK, LEASE = ResourceType.DISK, ResourceType.LEASE


@pytest.fixture
def manager(tmp_path: Path) -> LockManager:
    return Daemon(tmp_path).manager(guest_uuid=UUID)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda made: made.register_resource(DISK, None), "path: it is not a text"),
        (lambda made: made.register_resource(DISK, ["/disk"]), "path: it is not a text"),
        (lambda made: made.register_resource(DISK, "/\ud800"), "path: it is not a text"),
        (lambda made: made.register_resource(LEASE, 5), "lease: it is not a text"),
        (lambda made: made.register_resource("disk", "/disk"), "no ResourceType"),
        (lambda made: made.register_resource(DISK, "/disk", MigrateFlags.CANCEL), "not Resource"),
        (lambda made: made.acquire_object("true"), "argv: it is not a list of a program and"),
        (lambda made: made.acquire_object(b"true"), "argv: it is not a list"),
        (lambda made: made.acquire_object([]), "argv: it is not a list"),
        (lambda made: made.acquire_object(["", "x"]), "argv: it is not a list"),
        (lambda made: made.acquire_object(["true", 5]), "argv: it is not a list"),
        (lambda made: made.acquire_object(["true", "a\0b"]), "argv: it is not a list"),
        (lambda made: made.acquire_object(["true"], [-1]), "pass_fds: it is not a list of open"),
        (lambda made: made.acquire_object(["true"], [1 << 40]), "pass_fds: it is not a list"),
        (lambda made: made.acquire_object(["true"], 5), "pass_fds: it is not a list"),
        (lambda made: made.acquire_object(["true"], [True]), "pass_fds: it is not a list"),
    ],
)
def test_what_is_of_a_wrong_type_is_refused_and_the_manager_is_as_it_was(
    manager: LockManager, call: Call, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        call(manager)
    assert error.value.exit_code == 2
    assert "new" in repr(manager)
    assert [word for word in manager.get_supervisor_args() if word.startswith("disk=")] == []


@pytest.mark.parametrize("timeout_s", [None, "5", -1, float("nan"), True, []])
def test_a_timeout_is_a_number_of_seconds(tmp_path: Path, timeout_s: Any) -> None:
    manager = Daemon(tmp_path).manager(NewFlags.ATTACH, guest_uuid=UUID)
    for call in (manager.get_child, manager.shutdown):
        with pytest.raises(ConfigError, match="timeout_s: it is not a number of seconds"):
            call(timeout_s)
    assert manager.shutdown(float("inf"))


@pytest.mark.parametrize("config", [True, 1.5, [], ""])
def test_a_file_is_named_not_numbered(tmp_path: Path, config: Any) -> None:
    plugin = Daemon(tmp_path).plugin
    for names in ({"config": config}, {"runtime_dir": config}):
        with pytest.raises(ConfigError, match="it is not a text"):
            LockManager(plugin, ObjectType.DOMAIN, **names)


def test_only_a_plugin_that_was_loaded_has_managers() -> None:
    for odd in (None, "file", LoadedPlugin):
        with pytest.raises(ConfigError, match=r"is no plugin; give what lockplugins\.load returns"):
            LockManager(odd, ObjectType.DOMAIN)  # type: ignore[arg-type]  # that is the mistake
    for name in (None, b"file", 5):
        with pytest.raises(ConfigError, match="cannot use a plugin: its name is a "):
            lockplugins.load(name)  # type: ignore[arg-type]  # the same


def test_a_text_is_taken_however_it_comes(manager: LockManager, tmp_path: Path) -> None:
    guest, disk = uuid.uuid4(), os.fsencode(tmp_path) + b"/\xff"
    for key, value in {"uuid": guest, "id": 7, "name": b"web\xff", "wait": "2.5"}.items():
        assert manager.set_parameter(key, value)
    manager.register_resource(DISK, disk)  # type: ignore[arg-type]  # as a program may all the same
    manager.register_resource(DISK, tmp_path / "b")  # type: ignore[arg-type]  # the same
    words = manager.get_supervisor_args()
    wanted = {f"uuid={guest}", "id=7", "name=web\udcff", "wait=2.5"}
    assert wanted <= set(words)
    disks = [word for word in words if word.startswith("disk=")]
    assert disks == [f"disk=exclusive:{tmp_path}/b", f"disk=exclusive:{os.fsdecode(disk)}"]


def test_what_is_relative_is_so_to_where_it_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = LockManager(Daemon(tmp_path).plugin, ObjectType.DOMAIN, runtime_dir="run")
    manager.register_resource(DISK, "vda")
    manager.register_resource(LEASE, "prod:web1:leases")
    monkeypatch.chdir("/")
    words = manager.get_supervisor_args()
    assert {
        f"runtime_dir={tmp_path}/run",
        f"disk=exclusive:{tmp_path}/vda",
        f"lease=prod:web1:{tmp_path}/leases:0",
    } <= set(words)


def test_what_is_the_prefixs_alone_is_refused(manager: LockManager) -> None:
    manager.set_parameter("no_discover", value=True)
    manager.set_parameter("ready_fd", 1)
    with pytest.raises(ConfigError, match="ready_fd and handshake_fd are the prefix's"):
        manager.acquire_object(["true"])
    assert "ready_fd=1" in manager.get_supervisor_args()
