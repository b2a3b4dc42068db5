"""Does a daemon's call that is out of order, or wrong, touch nothing and say what is wrong?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import ConfigError, LockError, UnsupportedError
from lockplugins.loading import UnloadedError
from supervisor import config, parameters
from supervisor.cli.run import run_command
from supervisor.finding import NoSuchGuestError
from supervisor.getchild import NotRunningError
from supervisor.manager import (
    LockManager,
    MigrateFlags,
    NewFlags,
    ObjectType,
    ResourceFlags,
    ResourceType,
)
from supervisor.spec import END, parse
from supervisor.vocabulary import WrongOrderError
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    Call = Callable[[LockManager], object]

UUID = "5f2c1d3e-0000-4000-8000-00000000001e"
DISK, LEASE = ResourceType.DISK, ResourceType.LEASE
NOT_PARAMETERS = {"plugin", "detach"}  # the manager's own, and what it does always
NOT_OPTIONS = {"domain"}  # what --domain-xml names a file of
CALLS: dict[str, Call] = {
    "set_parameter": lambda manager: manager.set_parameter("name", "web1"),
    "register_resource": lambda manager: manager.register_resource(DISK, "/disk"),
    "get_supervisor_path": lambda manager: manager.get_supervisor_path(),
    "get_supervisor_args": lambda manager: manager.get_supervisor_args(),
    "acquire_object": lambda manager: manager.acquire_object(["true"]),
    "run": lambda manager: manager.run(),
    "get_child": lambda manager: manager.get_child(0),
    "acquire_resource": lambda manager: manager.acquire_resource(DISK, "/disk"),
    "release_resource": lambda manager: manager.release_resource(DISK, "/disk"),
    "prepare_migrate": lambda manager: manager.prepare_migrate("tcp:host2:4444"),
    "complete_migrate_in": lambda manager: manager.complete_migrate_in(),
    "complete_migrate_out": lambda manager: manager.complete_migrate_out(),
    "shutdown": lambda manager: manager.shutdown(0),
    "kill_supervisor": lambda manager: manager.kill_supervisor(),
    "free": lambda manager: manager.free(),
}
ALWAYS = {"set_parameter", "free"}
PREFIX = {"get_supervisor_path", "get_supervisor_args"}
STARTING = {"register_resource", "acquire_object", *PREFIX}
FOUND = set(CALLS) - STARTING - {"run", *ALWAYS}
# What may be called on a manager that is new, has been asked for its prefix, attaches, is freed.
MAY = {
    "new": STARTING | ALWAYS,
    "prefix": PREFIX | FOUND | {"free"},
    "attached": FOUND | ALWAYS,
    "freed": set[str](),
}


@pytest.fixture
def of_state(tmp_path: Path) -> Iterator[Callable[[str], LockManager]]:
    daemon = Daemon(tmp_path)

    def made(state: str) -> LockManager:
        manager = daemon.manager(NewFlags.ATTACH if state == "attached" else 0, guest_uuid=UUID)
        if state == "prefix":
            manager.get_supervisor_path()
        elif state == "freed":
            manager.free()
        return manager

    yield made
    assert not os.path.exists(daemon.runtime_dir)
    daemon.reap()


@pytest.fixture
def manager(tmp_path: Path) -> LockManager:
    return Daemon(tmp_path).manager(guest_uuid=UUID)


@pytest.mark.parametrize(
    ("state", "call"),
    [(state, call) for state, may in MAY.items() for call in CALLS if call not in may],
)
def test_a_call_out_of_order_is_refused_and_touches_nothing(
    of_state: Callable[[str], LockManager], state: str, call: str
) -> None:
    with pytest.raises(
        WrongOrderError, match=f"cannot call {call} for guest web1: it is "
    ) as error:
        CALLS[call](of_state(state))
    assert error.value.exit_code == 2


@pytest.mark.parametrize("call", sorted(FOUND - {"shutdown", "kill_supervisor"}))
def test_a_guest_that_is_not_there_has_no_process_and_no_leases(
    of_state: Callable[[str], LockManager], call: str
) -> None:
    with pytest.raises(LockError) as error:
        CALLS[call](of_state("attached"))
    assert not isinstance(error.value, WrongOrderError)


def test_a_guest_that_is_gone_is_gone(of_state: Callable[[str], LockManager]) -> None:
    manager = of_state("attached")
    assert manager.shutdown(0)
    assert manager.kill_supervisor()
    with pytest.raises(WrongOrderError, match="it is ended"):
        manager.get_child()
    assert manager.free()


@pytest.mark.parametrize("call", ["shutdown", "kill_supervisor"])
def test_a_supervisor_that_was_never_seen_is_not_called_gone(
    of_state: Callable[[str], LockManager], call: str
) -> None:
    with pytest.raises(NoSuchGuestError, match="no supervisor of it has been seen"):
        CALLS[call](of_state("prefix"))


def test_a_guest_that_may_still_come_is_waited_for(of_state: Callable[[str], LockManager]) -> None:
    with pytest.raises(NotRunningError, match="no supervisor has begun it, after 0"):
        of_state("prefix").get_child(0.05)
    with pytest.raises(NoSuchGuestError, match="its supervisor is gone"):
        of_state("attached").get_child()


def test_to_attach_the_uuid_has_to_be_known(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    manager = LockManager(daemon.plugin, ObjectType.DOMAIN, NewFlags.ATTACH)
    with pytest.raises(WrongOrderError, match="its uuid was not said"):
        manager.get_child()


def test_the_parameters_are_runs_long_options() -> None:
    options = {
        option.removeprefix("--").replace("-", "_")
        for parameter in run_command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    known = {*parameters._REPEATED, *parameters._TAKEN}
    assert options - NOT_PARAMETERS == known - NOT_OPTIONS


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("nmae", "web1", "parameter nmae: there is none of that name"),
        ("plugin", "nop", "parameter plugin: there is none of that name"),
        ("name", "", "parameter name: it is not a text of 1 to 8192 characters"),
        ("name", None, "parameter name: it is not a text"),
        ("name", "\ud800", "parameter name: it is not a text"),
        (["name"], "web1", "parameter's name: it is not a text"),
        ("domain", b"<domain/>", "neither a domain XML's text nor a Domain"),
        ("name", "a\nb", "control characters"),
        ("uuid", "5f2c", "uuid 5f2c: not 8-4-4-4-12"),
        ("wait", "soon", "wait=soon: not a number of seconds"),
        ("wait", -1, "wait=-1: not a number of seconds"),
        ("containment", "none", "containment=none: unknown value"),
        ("no_monitor", "yes", "yes is neither True nor False"),
        ("on_lockfailure", "ignore", "ignore of the parameters: unknown value"),
        ("handshake_fd", "x", "handshake_fd=x: not a descriptor"),
        ("log", "a\0b", "parameter log: it is not a text of 1 to 8192 characters without a NUL"),
        ("log", 1, "parameter log: it is not a text"),
        ("wait", True, "parameter wait: it is not a text"),
    ],
)
def test_a_wrong_parameter_is_a_usage_error(
    manager: LockManager, key: Any, value: object, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        manager.set_parameter(key, value)
    assert error.value.exit_code == 2


def test_wrong_flags_are_usage_errors(manager: LockManager, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flags 4: not ResourceFlags; allowed: 0 READONLY SHARED"):
        manager.register_resource(DISK, "/disk", 4)
    with pytest.raises(ConfigError, match="flags 8: not NewFlags"):
        Daemon(tmp_path).manager(8)
    with pytest.raises(ConfigError, match="give ATTACH or MIGRATE"):
        Daemon(tmp_path).manager(NewFlags.ATTACH | NewFlags.MIGRATE)
    assert [*NewFlags, *MigrateFlags] == [NewFlags.ATTACH, NewFlags.MIGRATE, MigrateFlags.CANCEL]
    assert ObjectType["START_DOMAIN"] is ObjectType["DOMAIN"]


def test_a_plugin_that_has_been_unloaded_has_no_managers(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    kept = daemon.manager(guest_uuid=UUID)
    daemon.plugin.unload()
    with pytest.raises(UnloadedError):
        daemon.manager()
    assert kept.get_supervisor_args()[-1] == END


def test_what_the_prefix_says_is_what_was_said(manager: LockManager, tmp_path: Path) -> None:
    odd, shared = f"{tmp_path}/a,copied", f"{tmp_path}/b,exclusive"
    assert manager.register_resource(DISK, odd, ResourceFlags.SHARED)
    assert manager.register_resource(DISK, shared)
    assert manager.register_resource(LEASE, "prod:web1:/srv")
    for key, value in {"wait": 2.5, "no_monitor": True, "containment": "pidns"}.items():
        assert manager.set_parameter(key, value)
    path, words = manager.get_supervisor_path(), manager.get_supervisor_args()
    assert os.access(path, os.X_OK)
    made, command = parse([*words[words.index("-S") + 2 :], "true"])
    assert command == ["true"]
    assert (made.name, made.uuid, made.id) == ("web1", UUID, "1")
    assert (made.wait_s, made.monitor, made.containment) == (2.5, False, "pidns")
    assert [(r.path, r.mode) for r in made.resources if r.lockspace is None] == [
        (odd, "shared"),
        (shared, "exclusive"),
    ]
    assert [r.lockspace for r in made.resources if r.lockspace] == ["prod"]
    assert manager.get_supervisor_args() == words


def test_without_a_name_a_guest_is_called_by_its_first_disk_else_by_its_uuid(
    tmp_path: Path,
) -> None:
    daemon = Daemon(tmp_path)
    for disks, name in (([f"{tmp_path}/vda.img"], "vda.img"), ([], UUID)):
        manager = LockManager(daemon.plugin, ObjectType.DOMAIN, runtime_dir=daemon.runtime_dir)
        manager.set_parameter("uuid", UUID.upper())
        for disk in disks:
            manager.register_resource(DISK, disk)
        assert f"name={name}" in manager.get_supervisor_args()


def test_the_configuration_is_the_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"containment = 'pidns'\nruntime_dir = '{tmp_path}/configured'\n")
    monkeypatch.setenv(config.FILE_VARIABLE, str(file))
    manager = LockManager(Daemon(tmp_path).plugin, ObjectType.DOMAIN)
    words = manager.get_supervisor_args()
    assert f"runtime_dir={tmp_path}/configured" in words
    assert "containment=pidns" in words


def test_an_explicit_lease_is_exclusive(manager: LockManager) -> None:
    with pytest.raises(UnsupportedError, match="explicit leases are exclusive"):
        manager.register_resource(LEASE, "prod:web1", ResourceFlags.SHARED)
    with pytest.raises(ConfigError, match="lease prod: not LOCKSPACE:KEY"):
        manager.register_resource(LEASE, "prod")


def test_the_context_frees_once(manager: LockManager) -> None:
    with manager:
        pass
    with pytest.raises(WrongOrderError, match="it is freed"):
        manager.free()
    with manager:
        pass
