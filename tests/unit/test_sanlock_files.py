"""Is a lease file there whole, or not at all?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import ResourceError
from lockplugins.sanlock import files
from lockplugins.sanlock.library import LARGE, SMALL, SanlockError
from lockplugins.sanlock.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = Settings({})


@pytest.mark.parametrize(("flags", "size"), [(SMALL, 1 << 20), (LARGE, 8 << 20)])
def test_it_has_its_name_when_it_is_formatted(tmp_path: Path, flags: int, size: int) -> None:
    path = tmp_path / "lease"

    def form(being_made: bytes) -> None:
        assert not path.exists()
        assert os.stat(being_made).st_size == size
        with open(being_made, "r+b") as file:
            file.write(b"formatted")

    files.create(str(path), SETTINGS, flags, form)
    assert os.listdir(tmp_path) == ["lease"]
    assert path.read_bytes() == b"formatted" + bytes(size - 9)
    assert path.stat().st_mode & 0o7777 == 0o600


def test_a_group_may_write_it(tmp_path: Path) -> None:
    settings = Settings({"group": str(os.getgid())})
    files.create(str(tmp_path / "lease"), settings, SMALL, lambda _: None)
    status = (tmp_path / "lease").stat()
    assert (status.st_mode & 0o7777, status.st_gid) == (0o660, os.getgid())


def test_nothing_is_left_of_one_that_could_not_be_formatted(tmp_path: Path) -> None:
    def form(_being_made: bytes) -> None:
        raise SanlockError("write_resource", -202)

    with pytest.raises(SanlockError):
        files.create(str(tmp_path / "lease"), SETTINGS, SMALL, form)
    assert os.listdir(tmp_path) == []


def test_who_was_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "lease"

    def form(_being_made: bytes) -> None:
        path.write_bytes(b"theirs")

    files.create(str(path), SETTINGS, SMALL, form)
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["lease"]


def test_where_it_cannot_be_made_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"cannot create lease file .*: Not a directory"):
        files.create(str(tmp_path / "file" / "lease"), SETTINGS, SMALL, lambda _: None)
