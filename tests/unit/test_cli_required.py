"""Is a writable disk without a lease refused where leases are required?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import ConfigError
from supervisor import config, spec
from supervisor.cli import specify

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.cli.specify import Given

QEMU = "qemu-system-x86_64"
UUID = "5f2c1d3e-0000-4000-8000-00000000000a"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(config.FILE_VARIABLE, raising=False)
    monkeypatch.delenv(config.RUNTIME_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(config, "DEFAULT_FILE", str(tmp_path / "missing.toml"))
    monkeypatch.chdir(tmp_path)


def given(*command: str, **options: object) -> Given:
    """Return what click hands over when nothing else was given."""
    made: Given = {
        "name": None,
        "uuid": None,
        "guest_id": None,
        "plugin": None,
        "disk": (),
        "lease": (),
        "no_discover": False,
        "wait": 0.0,
        "on_lockfailure": None,
        "containment": None,
        "no_monitor": False,
        "stop_timeout": None,
        "ready_fd": None,
        "handshake_fd": None,
        "config": None,
        "runtime_dir": None,
        "command": command,
    }
    assert options.keys() <= made.keys()
    made.update(options)  # type: ignore[typeddict-item]  # checked in the line above
    return made


def configured(text: str) -> str:
    with open("config.toml", "w", encoding="utf-8") as file:
        file.write(text)
    return "config.toml"


def paths(made: spec.GuestSpec) -> list[tuple[str, str]]:
    return [(resource.path, resource.mode) for resource in made.resources]


REQUIRED = "require_lease_for_disks = true\n"
WRITABLE = (QEMU, "-hda", "a.raw")
READ_ONLY = (QEMU, "-drive", "file=a.raw,format=raw,readonly=on")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (WRITABLE, {}),
        (WRITABLE, {"no_discover": True, "disk": ("a.raw",)}),
        (WRITABLE, {"no_discover": True, "disk": ("./../here/a.raw",)}),
        (READ_ONLY, {"no_discover": True}),
        ((QEMU,), {"no_discover": True}),
        (("/bin/sleep",), {"disk": ("a.raw",)}),
    ],
)
def test_leased_disks_satisfy_the_requirement(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    options: dict[str, object],
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    specify.build(given(*command, config=configured(REQUIRED), **options))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (WRITABLE, {"no_discover": True}),
        (WRITABLE, {"no_discover": True, "disk": ("b.raw",)}),
        (WRITABLE, {"no_discover": True, "disk": ("a.raw,shared",)}),
        (WRITABLE, {"no_discover": True, "lease": ("s:k",)}),
        (WRITABLE, {"plugin": "nop"}),
        (("/bin/sleep",), {"no_discover": True}),
    ],
)
def test_a_writable_disk_without_a_lease_is_refused_where_required(
    command: tuple[str, ...], options: dict[str, object]
) -> None:
    specify.build(given(*command, **options))
    with pytest.raises(ConfigError, match="require_lease_for_disks is set") as caught:
        specify.build(given(*command, config=configured(REQUIRED), **options))
    assert caught.value.exit_code == 2
