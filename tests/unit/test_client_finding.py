"""Does GUEST mean exactly one guest, and is nothing removed that somebody still needs?"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from supervisor import finding
from tests.support.scripted import Directory, child_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = "5f2c1d3e-0000-4000-8000-00000000000a"
SECOND = "5f2c1d3e-0000-4000-8000-00000000000b"
OTHER = "a0000000-0000-4000-8000-000000000001"


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def three(base: str) -> Iterator[None]:
    """Run three guests: web1 and web2 with much of their uuids in common, and 5f2c."""
    with (
        Directory(base, {"uuid": FIRST, "name": "web1"}),
        Directory(base, {"uuid": SECOND, "name": "web2"}),
        Directory(base, {"uuid": OTHER, "name": "5f2c"}),
    ):
        yield


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        yield process
        process.kill()


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (FIRST, FIRST),
        (FIRST.upper(), FIRST),
        ("web2", SECOND),
        ("5f2c", OTHER),  # a name comes before a prefix
        ("a000", OTHER),
        ("A0000000-", OTHER),
        (SECOND[:-1] + "b", SECOND),
    ],
)
def test_uuid_name_and_prefix_in_that_order(base: str, text: str, meant: str) -> None:
    assert finding.resolve(base, text).uuid == meant


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("text", ["a00", "web", "WEB1", "", "5f2c1d3e-9", OTHER[:-1] + "2"])
def test_what_means_no_guest_says_so(base: str, text: str) -> None:
    with pytest.raises(finding.NoSuchGuestError, match=f"cannot find guest {text}") as caught:
        finding.resolve(base, text)
    assert caught.value.exit_code == 1


@pytest.mark.usefixtures("three")
def test_what_means_two_guests_names_both(base: str) -> None:
    with pytest.raises(finding.AmbiguousGuestError) as caught:
        finding.resolve(base, "5f2c1")
    assert caught.value.exit_code == 2
    assert all(word in str(caught.value) for word in (FIRST, SECOND, "web1", "web2"))


def test_two_guests_of_one_name_are_told_apart_by_uuid(base: str) -> None:
    with Directory(base, {"uuid": FIRST}), Directory(base, {"uuid": SECOND}):
        with pytest.raises(finding.AmbiguousGuestError):
            finding.resolve(base, "web1")
        assert finding.resolve(base, SECOND).uuid == SECOND


def test_no_runtime_directory_means_no_guest(base: str) -> None:
    assert finding.guests(base + "/missing") == []
    with pytest.raises(finding.NoSuchGuestError):
        finding.resolve(base + "/missing", "web1")


def test_a_dead_guards_directory_is_removed_by_whoever_meets_it(base: str) -> None:
    with Directory(base, {"uuid": FIRST}) as dead, Directory(base, {"uuid": SECOND}):
        dead.die()
        assert [guest.uuid for guest in finding.guests(base)] == [SECOND]
        assert os.listdir(base) == [SECOND]


def test_resolving_a_dead_guests_uuid_removes_its_directory_too(base: str) -> None:
    with Directory(base, {"uuid": FIRST}) as dead:
        dead.die()
        with pytest.raises(finding.NoSuchGuestError):
            finding.resolve(base, FIRST)
    assert os.listdir(base) == []


def test_a_dead_guards_directory_stays_while_its_guest_lives(
    base: str, sleeper: subprocess.Popen[bytes]
) -> None:
    with Directory(base, child_of(sleeper.pid)) as dead:
        dead.die()
        for _ in range(2):
            (guest,) = finding.guests(base)
            assert (guest.name, guest.guarded) == ("web1", False)
        sleeper.kill()
        sleeper.wait()
        assert finding.guests(base) == []
        assert not os.path.exists(dead.path)


@pytest.mark.parametrize("name", ["control", "notes", "5f2c1d3e-0000-4000-8000", "x" * 36])
def test_a_strangers_directory_is_left_alone(base: str, name: str) -> None:
    stranger = os.path.join(base, name)
    os.mkdir(stranger)
    with open(os.path.join(stranger, "control"), "w", encoding="ascii") as file:
        file.write("not ours")
    before = os.stat(stranger).st_mtime_ns
    assert finding.guests(base) == []
    assert os.listdir(stranger) == ["control"]
    assert os.stat(stranger).st_mtime_ns == before


def test_a_guard_without_guest_json_yet_is_known_by_its_uuid(base: str) -> None:
    with Directory(base) as early:
        os.unlink(early.file("guest.json"))
        (guest,) = finding.guests(base)
        assert (guest.guarded, guest.name, guest.record) == (True, "", {})
        assert guest.words() == guest.uuid == finding.resolve(base, guest.uuid[:8]).uuid
