"""Is there one owner at most when a migration finds no room, or its image locked?

The rest of the rows of docs/migration-failures.md, which need filesystems, or
image locks, of their own.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.migrating import (
    FULL_DIRECTORY,
    FULL_DISK,
    LOCKED,
    judge,
    loud,
    mended,
    name,
    new_world,
)
from tests.faults.room import fill, tmpfs
from tests.support import waiting
from tests.support.failing import Pair
from tests.support.failures import Row, title
from tests.support.moving import DEADLINE_S
from tests.support.outcomes import SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.moving import End, World

pytestmark = pytest.mark.slow

ALONE = [("exclusive", "held")]
WRITES_A_SECOND = 50


@pytest.mark.long
@pytest.mark.parametrize("row", loud([LOCKED], first=None), ids=name)
def test_an_image_that_is_locked(row: Row, world: World) -> None:
    world.locking_off = False
    pair = Pair(world.boot(), row.scene, locked=True)
    judge(pair, row.becomes)
    assert pair.locker is not None
    pair.locker.end()
    mended(pair, row.becomes)


@pytest.mark.long
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("row", loud([FULL_DISK], first=None), ids=name)
def test_a_disk_whose_filesystem_is_full(row: Row, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    with tmpfs(tmp_path, "size=24m") as path, new_world(Path(path), memory, 16 << 20) as world:
        pair = Pair(slowed(world.boot()), row.scene)
        writer = pair.source if row.scene.runs == SOURCE else slowed(pair.destination)
        with filled(path):
            writer.until_qemu("io-error")
            judge(pair, row.becomes)
        mended(pair, row.becomes)


def slowed(end: End) -> End:
    """Have the guest write so slowly that it does not come to the end of its disk."""
    limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
    monitor = end.monitor
    monitor.execute("block_set_io_throttle", device="virtio0", iops=WRITES_A_SECOND, **limits)
    return end


@contextmanager
def filled(path: str) -> Iterator[None]:
    """Have no room left on the filesystem for a while."""
    filler = f"{path}/filler"
    with open(filler, "wb", buffering=0) as file:
        fill(file.fileno())
    yield
    os.unlink(filler)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("row", loud([FULL_DIRECTORY], first=True), ids=name)
def test_runtime_directories_that_are_full(row: Row, tmp_path: Path) -> None:
    directory_full(row, tmp_path)


@pytest.mark.long
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("row", loud([FULL_DIRECTORY], first=False), ids=name)
def test_runtime_directories_that_are_full_elsewhere(row: Row, tmp_path: Path) -> None:
    directory_full(row, tmp_path)


def directory_full(row: Row, directory: Path) -> None:
    """Fill them: nothing happens, and whatever is done then is done as ever."""
    with tmpfs(directory, "size=256k") as path, new_world(directory, directory / "memory") as world:
        for number, guards in enumerate(world.hosts):
            guards.runtime_dir = f"{path}/{number}"
        pair = Pair(world.boot(), row.scene)
        with filled(path):
            judge(pair, row.becomes)
            last = mended(pair, row.becomes)
            assert last is not None
            waiting.until(lambda: last.leases() == ALONE, DEADLINE_S, "it is alone")
            assert last.guard is not None
            if title(row.scene) == "migrated, incoming":
                assert "No space left on device" in last.guard.stderr()
