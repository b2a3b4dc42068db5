"""Where sanlock's files cannot be used, is the launch refused, and all left as it was?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.freezing import filesystem
from tests.faults.room import fill
from tests.faults.sanlock_scenes import FAILED, Scene
from tests.support import sanlock_facts as facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.guard import Guards
    from tests.support.sanlock import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]


class Ballast:
    """A file that leaves the filesystem of `directory` no room."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "ballast"

    def __enter__(self) -> None:
        with open(self._path, "wb", buffering=0) as file:
            fill(file.fileno())

    def __exit__(self, *_: object) -> None:
        self._path.unlink()


def test_a_full_filesystem_is_said_and_nothing_half_done_is_left(
    lease_dirs: Callable[[], Path],
) -> None:
    directory = lease_dirs()
    with filesystem(directory) as storage, Scene(directory, Path(storage.path) / "leases") as scene:
        leases = scene.daemon.lease_dir
        with Ballast(Path(storage.path)):
            refused = scene.refused()
            assert (refused.code, "ENOSPC" in refused.stderr) == (FAILED, True), refused
            assert os.listdir(leases) == []
        facts.init_lockspace(scene.daemon.lockspace)
        with Ballast(Path(storage.path)):
            refused = scene.refused()
            assert (refused.code, "ENOSPC" in refused.stderr) == (FAILED, True), refused
            assert os.listdir(leases) == [facts.LOCKSPACE]
            assert scene.daemon.leases() == []
        scene.judge()


def of_another_lockspace(path: str, disk: str) -> None:
    facts.init_lease(path, facts.lease_name(disk), lockspace="another")


def of_another_resource(path: str, disk: str) -> None:
    facts.init_lease(path, facts.lease_name(f"{disk}.another"))


def of_zeroes(path: str, _disk: str) -> None:
    Path(path).write_bytes(bytes(facts.FILE_BYTES))


def of_garbage(path: str, _disk: str) -> None:
    Path(path).write_bytes(os.urandom(facts.FILE_BYTES))


def that_is_empty(path: str, _disk: str) -> None:
    Path(path).touch()


def that_is_a_directory(path: str, _disk: str) -> None:
    Path(path).mkdir()


LEASES = (
    of_another_lockspace,
    of_another_resource,
    of_zeroes,
    of_garbage,
    that_is_empty,
    that_is_a_directory,
)


@pytest.mark.parametrize("spoil", LEASES, ids=lambda spoil: str(spoil.__name__))
def test_a_lease_file_that_is_none_is_refused_and_stays_as_it_is(
    spoil: Callable[[str, str], None], sanlock_host: Daemon, guards: Guards, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    disk.touch()
    lease = Path(sanlock_host.lease_file(str(disk)))
    spoil(str(lease), str(disk))
    before = contents(lease)
    guards.env = sanlock_host.env
    refused = guards.refusal(disk, plugin="sanlock", config={"sanlock": sanlock_host.config})
    assert refused.code == FAILED
    assert f"disk {disk}" in refused.stderr or str(lease) in refused.stderr
    assert contents(lease) == before
    assert sanlock_host.held(str(disk)) == []


def contents(path: Path) -> tuple[int, list[str], bytes]:
    status = path.stat()
    if path.is_dir():
        return status.st_mode, os.listdir(path), b""
    return status.st_mode, [], path.read_bytes()


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_lease_whose_file_is_another_is_lost(
    how: str, guards: Guards, sanlock_host: Daemon, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 16))
    guards.env |= sanlock_host.env
    config = {"sanlock": sanlock_host.config}
    guard = guards.start(guards.spec(disk, plugin="sanlock", config=config)).ready()
    lease = Path(sanlock_host.lease_file(str(disk)))
    copy = lease.with_suffix(".copy")
    if how == "replaced":
        shutil.copy(lease, copy)
        copy.replace(lease)
    else:
        lease.unlink()
    ended = guard.wait()
    assert ended.code == 112
    assert f"{lease} is another file now, which other hosts may use" in ended.stderr
