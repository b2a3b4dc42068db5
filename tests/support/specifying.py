"""How does a test turn options into a spec? What click hands over, in a directory of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor import config, specify

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor import spec
    from supervisor.specify import Given


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty directory, where nothing configures us."""
    monkeypatch.delenv(config.FILE_VARIABLE, raising=False)
    monkeypatch.delenv(config.RUNTIME_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(config, "DEFAULT_FILE", str(tmp_path / "missing.toml"))
    monkeypatch.chdir(tmp_path)


def given(*command: str, **options: object) -> Given:
    """Return what click hands over when nothing else was given."""
    made = specify.nothing_given()
    made["command"] = command
    assert options.keys() <= made.keys()
    made.update(options)  # type: ignore[typeddict-item]  # checked in the line above
    return made


def configured(text: str) -> str:
    with open("config.toml", "w", encoding="utf-8") as file:
        file.write(text)
    return "config.toml"


def paths(made: spec.GuestSpec) -> list[tuple[str, str]]:
    return [(resource.path, resource.mode) for resource in made.resources]
