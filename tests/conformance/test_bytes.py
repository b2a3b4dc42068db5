"""Which bytes of a file does plugin `file` lock, and does QEMU keep the ones that it locks?"""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from tests.support import proclocks, waiting
from tests.support.guard import DEADLINE_S, Guards
from tests.support.qemu import idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LEASE = {Mode.EXCLUSIVE: [("WRITE", 0, "0")], Mode.SHARED: [("READ", 0, "0"), ("READ", 2, "2")]}


@pytest.fixture
def guards(tmp_path: Path) -> Iterator[Guards]:
    """Start guards with plugin `file`, whatever the suite's other tests use."""
    with Guards(tmp_path) as started:
        yield started


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def with_a_disk(disk: str) -> list[str]:
    """Return a QEMU that locks `disk` by itself and gives it to a device."""
    extra = ["-device", "virtio-blk-pci,drive=none0"]
    return idle_argv(disk, machine="pc", locking_off=False, extra=extra)


def qemus(disk: str) -> list[tuple[str, int, str]]:
    return [lock for lock in proclocks.bytes_locked(disk) if lock[1] >= proclocks.QEMUS_FIRST_BYTE]


@pytest.mark.parametrize("mode", Mode.ALL)
def test_the_image_is_locked_on_our_bytes_alone(guards: Guards, disk: str, mode: str) -> None:
    guards.run((mode, disk))
    assert proclocks.bytes_locked(disk) == LEASE[mode]


@pytest.mark.parametrize("mode", Mode.ALL)
def test_image_and_lock_file_are_locked_alike(
    guards: Guards, tmp_path: Path, disk: str, mode: str
) -> None:
    lockspace = tmp_path / "lockspace"
    guards.run((mode, disk), config={"file": {"file_lockspace_dir": str(lockspace)}})
    lock_file = lockspace / hashlib.sha256(os.fsencode(disk)).hexdigest()
    assert os.listdir(lockspace) == [lock_file.name]
    assert lock_file.stat().st_size == 0
    assert proclocks.bytes_locked(disk) == LEASE[mode]
    assert proclocks.bytes_locked(lock_file) == LEASE[mode]


def test_a_guest_with_both_modes_on_one_disk_holds_the_stronger(guards: Guards, disk: str) -> None:
    guards.run((Mode.SHARED, disk), (Mode.EXCLUSIVE, disk))
    assert proclocks.bytes_locked(disk) == LEASE[Mode.EXCLUSIVE]


def test_qemu_locks_its_own_bytes_under_ours(
    guards: Guards, disk: str, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    guards.run(disk, command=with_a_disk(disk))
    waiting.until(lambda: qemus(disk), DEADLINE_S, "QEMU has locks of its own")
    assert proclocks.below_qemus(disk) == LEASE[Mode.EXCLUSIVE]
    second = subprocess.run(
        with_a_disk(disk),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert 'Failed to get "write" lock' in second.stderr
    assert proclocks.below_qemus(disk) == LEASE[Mode.EXCLUSIVE]
    assert qemus(disk)


def test_two_guests_of_ours_share_a_disk_that_qemu_locks(
    guards: Guards, disk: str, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    extra = ["-drive", f"file={disk},format=raw,if=none,id=d,readonly=on"]
    command = idle_argv(machine="pc", extra=[*extra, "-device", "virtio-blk-pci,drive=d"])
    guards.run((Mode.SHARED, disk), command=command)
    guards.run((Mode.SHARED, disk), command=command)
    waiting.until(lambda: qemus(disk), DEADLINE_S, "QEMU has locks of its own")
    assert sorted(proclocks.below_qemus(disk)) == sorted(LEASE[Mode.SHARED] * 2)
    assert guards.refusal(disk).code == 110
