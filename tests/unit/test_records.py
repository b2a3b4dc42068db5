"""Are the guests' files read as if nobody had, whoever wrote them?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Holder, LeaseHeldError, Mode, Resource
from supervisor import holders, records, rundir
from tests.support.locking import on_a_thread
from tests.support.scripted import Directory, child_of, guest_json

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 20
EARLY = 1  # before any write: reading moves it (relatime)


def age(path: str) -> None:
    os.utime(path, ns=(EARLY, os.stat(path).st_mtime_ns))


def test_reading_moves_no_access_time(tmp_path: Path) -> None:
    with Directory(str(tmp_path)) as made:
        paths = [made.file(rundir.GUEST_JSON), made.path, str(tmp_path)]
        for path in paths:
            age(path)
        assert list(records.directories(str(tmp_path))) == [made.path]
        guest = records.read_guest(made.path)
        assert guest is not None
        assert guest["name"] == "web1"
        assert [os.stat(path).st_atime_ns for path in paths] == [EARLY] * 3


def test_a_fifo_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / rundir.GUEST_JSON)
    reading = on_a_thread(lambda: records.read_guest(str(tmp_path)))
    assert reading.result(DEADLINE_S) is None


@pytest.mark.parametrize("text", ["[" * 200_000, '{"name": ' * 200_000, "1" * 10_000, "\0"])
def test_nonsense_is_no_guest(tmp_path: Path, text: str) -> None:
    (tmp_path / rundir.GUEST_JSON).write_text(text)
    assert records.read_guest(str(tmp_path)) is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / rundir.GUEST_JSON).symlink_to("elsewhere")
    assert records.read_guest(str(tmp_path)) is None


@pytest.mark.parametrize(
    "lie",
    [
        {"name": None},
        {"uuid": 7},
        {"since": ["2026"]},
        {"child_pid": "1"},
        {"supervisor_pid": os.getpid() + 1},
    ],
)
def test_what_no_guard_writes_names_no_guest(tmp_path: Path, lie: dict[str, object]) -> None:
    with Directory(str(tmp_path), lie if "uuid" not in lie else {}) as made:
        made.write(guest_json(lie))
        assert holders.guest_of(os.getpid()) is None
        made.write(guest_json({}))
        guest = holders.guest_of(os.getpid())
        assert guest is not None
        assert guest["name"] == "web1"


def unseen(error_name: str) -> LeaseHeldError:
    holder = Holder(Mode.EXCLUSIVE, "somebody unseen")
    return LeaseHeldError("acquire", error_name, "held by somebody unseen", holder=holder)


def test_a_guest_without_its_guard_is_named_for_its_own_disks_alone(tmp_path: Path) -> None:
    disk, other = str(tmp_path / "disk"), str(tmp_path / "other")
    for path in (disk, other):
        with open(path, "wb"):
            pass
    lease = {"type": "disk", "resource": disk}
    with Directory(str(tmp_path / "run"), child_of(os.getpid()) | {"leases": [lease, 7]}) as made:
        alive = unseen(f"exclusive lease for disk {disk}")
        holders.name_guest(alive, [Resource(disk)], str(tmp_path / "run"))
        assert alive.reason == "held by somebody unseen"  # its guard lives: it would be seen
        made.die()
        orphan, another = unseen(f"lease for disk {disk}"), unseen(f"lease for disk {other}")
        for error in (orphan, another):
            holders.name_guest(error, [Resource(disk), Resource(other)], str(tmp_path / "run"))
        assert orphan.reason.startswith("held by guest web1 (")
        assert orphan.reason.endswith("; the kernel is ending it")
        assert another.reason == "held by somebody unseen"
    assert holders.identify(Holder(Mode.SHARED, "x"), [disk], str(tmp_path / "none")).words() == "x"


def test_an_orphan_of_another_boot_or_a_pid_used_again_is_nobody(tmp_path: Path) -> None:
    disk = str(tmp_path / "disk")
    with open(disk, "wb"):
        pass
    lease = {"leases": [{"type": "disk", "resource": disk}]}
    us = child_of(os.getpid()) | lease
    for lie in ({"boot_id": "another"}, {"child_start_time": 1}, {"child_pid": None}):
        with Directory(str(tmp_path / "run"), {**us, **lie}) as made:
            made.die()
            known = holders.identify(Holder(Mode.SHARED, "x"), [disk], str(tmp_path / "run"))
            assert known.guest is None
            made.write(guest_json(us))
            known = holders.identify(Holder(Mode.SHARED, "x"), [disk], str(tmp_path / "run"))
            assert known.guest is not None
            for name in os.listdir(made.path):
                os.unlink(made.file(name))
            os.rmdir(made.path)
