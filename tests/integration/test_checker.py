"""Can the checker fail, and does it pass what is right? Real guests, no leases, no QEMU locks.

The judge of the exclusion tests has to be seen to convict. Nothing here knows the supervisor.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.guest.checker import check
from tests.support.qemu import Monitor, guest_argv, wait_ready

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow

DISK_BYTES = 8 << 20
OFF_WITHIN_S = 5


class Guests:
    """Starts guests; every one of them is dead when the test is over."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def start(self, argv: Sequence[str], pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        process = self._stack.enter_context(
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0, pass_fds=pass_fds
            )
        )
        self._stack.callback(process.kill)
        return process

    def end(self) -> None:
        self._stack.close()


@pytest.fixture
def guests() -> Iterator[Guests]:
    guests = Guests()
    yield guests
    guests.end()


def new_disk(path: Path) -> Path:
    path.touch()
    os.truncate(path, DISK_BYTES)
    return path


def ready(process: subprocess.Popen[bytes], disks: int = 1) -> int:
    assert process.stdout
    return int(wait_ready(process.stdout, disks), 16)


def kill(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        assert process.poll() is None
        process.kill()
    for process in processes:
        process.wait(timeout=10)


def test_two_guests_on_one_image_are_convicted(guests: Guests, tmp_path: Path) -> None:
    image = new_disk(tmp_path / "disk.raw")
    two = [guests.start(guest_argv(image)) for _ in range(2)]
    nonces = {ready(process) for process in two}
    kill(*two)
    report = check(image)
    assert len(nonces) == 2
    assert report.interleaved
    assert {boot.nonce for boot in report.boots} <= nonces


def test_a_guest_after_a_killed_one_is_acquitted(guests: Guests, tmp_path: Path) -> None:
    raw, qcow2 = new_disk(tmp_path / "disk.raw"), tmp_path / "disk.qcow2"
    create = ("qemu-img", "create", "-q", "-f", "qcow2", qcow2, str(DISK_BYTES))
    subprocess.run(create, check=True, timeout=30)
    first = guests.start(guest_argv(raw, qcow2))
    nonces = [ready(first, disks=2)]
    kill(first)
    second = guests.start(guest_argv(raw, qcow2, nonce="00000000c0ffee00", guest="second", count=9))
    nonces.append(ready(second, disks=2))
    assert second.wait(timeout=30) == 0
    for image in (raw, qcow2):
        report = check(image)
        assert report.clean, report.reasons
        assert [boot.nonce for boot in report.boots] == nonces
        assert report.boots[1].nonce == 0xC0FFEE00
        assert report.boots[1].blocks == 9
        assert report.guest == "second"


def test_hot_plugged_disks_and_the_power_button(guests: Guests, tmp_path: Path) -> None:
    cold, hot = new_disk(tmp_path / "vda,1.raw"), new_disk(tmp_path / "vdb.raw")
    file = {"driver": "file", "filename": str(hot), "locking": "off"}
    hot_nonces = []
    with Monitor() as monitor:
        guest = guests.start(guest_argv(cold, extra=monitor.argv), [monitor.fd])
        cold_nonce = ready(guest)
        for _ in range(2):
            monitor.execute("blockdev-add", driver="raw", file=file, **{"node-name": "hot"})
            monitor.execute("device_add", driver="virtio-blk-pci", drive="hot", id="hot")
            hot_nonces.append(ready(guest))
            monitor.execute("device_del", id="hot")
            monitor.wait_event("DEVICE_DELETED", device="hot")
            monitor.execute("blockdev-del", **{"node-name": "hot"})
        monitor.execute("system_powerdown")
        assert guest.wait(timeout=OFF_WITHIN_S) == 0
    for image, nonces in ((cold, [cold_nonce]), (hot, hot_nonces)):
        report = check(image)
        assert report.clean, report.reasons
        assert [boot.nonce for boot in report.boots] == nonces
