"""Do `attach` and `detach` change what a real guest holds, at once and no more than that?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.locking import READ, Locker, is_free

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guards


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return image(tmp_path / "disk.raw")


@pytest.fixture
def other(tmp_path: Path) -> str:
    return image(tmp_path / "other.raw")


def image(path: Path) -> str:
    path.write_bytes(bytes(1 << 20))
    return str(path)


def resources(command: Command) -> list[str]:
    return [lease["resource"] for lease in command.json("status", "web1")["leases"]]


def test_attach_holds_from_when_it_returns_until_detach_returns(
    guards: Guards, command: Command, disk: str, other: str
) -> None:
    guards.run(disk, name="web1")
    assert command("attach", "web1", other).code == 0
    assert not is_free(other)
    assert not is_free(other, READ)
    assert resources(command) == [disk, other]
    assert command("detach", "web1", other).code == 0
    assert is_free(other)
    assert not is_free(disk)
    assert resources(command) == [disk]


def test_a_shared_disk_is_held_shared(
    guards: Guards, command: Command, disk: str, other: str
) -> None:
    guards.run(disk, name="web1")
    assert command("attach", "web1", f"{other},readonly").code == 0
    assert is_free(other, READ)
    assert not is_free(other)


def test_a_path_is_taken_from_the_working_directory(
    guards: Guards, command: Command, disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards.run(disk, name="web1")
    odd = image(tmp_path / "a,b \n\udcff.raw")
    monkeypatch.chdir(tmp_path)
    assert command("attach", "web1", "a,b \n\udcff.raw").code == 0
    assert not is_free(odd)
    assert resources(command)[1] == odd
    assert "a,b \\x0a\udcff.raw" in command("status", "web1").out
    assert command("detach", "web1", "a,b \n\udcff.raw").code == 0
    assert is_free(odd)


def test_what_cannot_be_attached_leaves_everything_as_it_was(
    guards: Guards, command: Command, disk: str, other: str, tmp_path: Path
) -> None:
    guards.run(disk, name="web1")
    guards.run(other, name="web2")
    held = command("attach", "web1", other)
    assert held.code == 110
    assert held.err.startswith("lock-supervisor: cannot ")
    assert "web2" in held.err
    for path in (disk, str(tmp_path / "missing.raw"), str(tmp_path)):
        refused = command("attach", "web1", path)
        assert refused.code == 111, refused
        assert (refused.out, refused.err.count("\n")) == ("", 1)
    assert resources(command) == [disk]


def test_a_lock_of_nobody_we_know_refuses_too(
    guards: Guards, command: Command, disk: str, other: str
) -> None:
    guards.run(disk, name="web1")
    with Locker(other) as stranger:
        result = command("attach", "web1", other)
    assert (result.code, str(stranger.pid) in result.err) == (110, True), result


def test_detach_of_what_is_not_leased_is_exit_1(
    guards: Guards, command: Command, disk: str, other: str
) -> None:
    guards.run(disk, name="web1")
    for path in (other, "/missing"):
        result = command("detach", "web1", path)
        assert (result.code, result.out, result.err.count("\n")) == (1, "", 1), result


def test_a_wrong_option_is_part_of_the_path_or_an_error(
    guards: Guards, command: Command, disk: str, other: str
) -> None:
    guards.run(disk, name="web1")
    assert command("attach", "web1", f"{other},nonsense").code == 111  # no such file
    assert command("attach", "web1", f"{other},id=").code == 2
    assert resources(command) == [disk]
