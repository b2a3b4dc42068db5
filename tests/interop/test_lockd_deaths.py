"""After a SIGKILL on either side of stock libvirt and ours, does the other start, and how soon?

And never before: a guest that writes all the time is judged by what is on its disk.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.sides import THEIRS
from tests.support import waiting
from tests.support.command import ready
from tests.support.domain import console
from tests.support.guest.checker import check
from tests.support.libvirt import end_process
from tests.support.locking import on_a_thread
from tests.support.measured import milliseconds
from tests.support.qemu import WRITER, guest_argv, wait_ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.sides import Sides

pytestmark = pytest.mark.slow

# Guests that boot and write; which file is locked makes no difference to them.
WRITERS = ["direct", pytest.param("indirect", marks=pytest.mark.long)]
DEADLINE_S = 30


@pytest.mark.parametrize("killed", ["supervisor", "guest"])
def test_ours_is_killed_and_theirs_starts_at_its_first_try(
    sides: Sides,
    killed: str,
    mode: str,
    measured: Callable[[str, str], None],
    rounds: Callable[[int, int], int],
) -> None:
    disk = sides.disk()
    died, ran = [], []
    for _ in range(rounds(1, 20)):
        ours, guest_pid = sides.start_ours(disk)
        guest_pidfd = os.pidfd_open(guest_pid)
        assert sides.is_locked(disk) in sides.theirs_refused(disk)
        begun = time.monotonic()
        end_process({"supervisor": ours.process.pid, "guest": guest_pid}[killed])
        waiting.gone(guest_pidfd, DEADLINE_S)
        died.append(time.monotonic() - begun)
        sides.start_theirs(disk)
        ran.append(time.monotonic() - begun)
        sides.destroy_theirs()
        os.close(guest_pidfd)
    title = f"{mode}, our {killed} killed until"
    measured("interop", f"{title} our guest is dead: {milliseconds(died)}")
    measured("interop", f"{title} `virsh start` has started theirs: {milliseconds(ran)}")


def test_their_qemu_is_killed_and_ours_which_waits_starts(
    sides: Sides, mode: str, measured: Callable[[str, str], None], rounds: Callable[[int, int], int]
) -> None:
    disk = sides.disk()
    ran = []
    for _ in range(rounds(1, 20)):
        sides.start_theirs(disk)
        _ours, announcement = sides.ours_waits(disk)
        begun = time.monotonic()
        end_process(sides.host.qemu_pid(THEIRS))
        ready(announcement)
        ran.append(time.monotonic() - begun)
        sides.until_theirs_are_off()
        assert sides.is_locked(disk) in sides.theirs_refused(disk)
        sides.end_ours()
    measured("interop", f"{mode}, their QEMU killed until ours runs: {milliseconds(ran)}")


def test_libvirtd_is_killed_and_their_guest_keeps_its_lease(own_sides: Sides) -> None:
    disk, host = own_sides.disk(), own_sides.host
    own_sides.start_theirs(disk)
    qemu_pid = host.qemu_pid(THEIRS)
    holder = f"held by process {host.virtlockd_pid} (virtlockd: "
    end_process(host.libvirtd_pid)
    assert holder in own_sides.ours_refused(disk)
    host.start_libvirtd()
    assert host.state(THEIRS) == "running"
    assert holder in own_sides.ours_refused(disk)
    _ours, announcement = own_sides.ours_waits(disk)
    end_process(host.libvirtd_pid)
    end_process(qemu_pid)
    ready(announcement)  # virtlockd frees what a dead guest had, libvirtd or not
    host.start_libvirtd()
    own_sides.until_theirs_are_off()
    assert own_sides.is_locked(disk) in own_sides.theirs_refused(disk)


def test_a_virtlockd_that_executes_itself_anew_keeps_their_leases(own_sides: Sides) -> None:
    disk, host = own_sides.disk(), own_sides.host
    own_sides.start_theirs(disk)
    before = auxiliary_vector(host.virtlockd_pid)
    os.kill(host.virtlockd_pid, signal.SIGUSR1)  # systemctl reload
    waiting.until(
        lambda: auxiliary_vector(host.virtlockd_pid) not in {b"", before},
        DEADLINE_S,
        "virtlockd has executed itself",
    )
    assert f"held by process {host.virtlockd_pid} (" in own_sides.ours_refused(disk)
    own_sides.destroy_theirs()
    own_sides.start_ours(disk)
    assert own_sides.is_locked(disk) in own_sides.theirs_refused(disk)


def auxiliary_vector(pid: int) -> bytes:
    """Return what the kernel gave a program at its start: random addresses among it."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        return file.read()


@pytest.mark.parametrize("mode", WRITERS)
def test_no_write_of_either_side_falls_into_the_others_time(sides: Sides) -> None:
    disk = sides.disk()
    fifo = sides.directory / "our console"
    nonces = [sides.theirs_writes(disk)]
    with console(fifo) as serial:
        ours, announcement = sides.ours_waits(disk, guest_argv(disk, serial=f"file:{fifo}"))
        end_process(sides.host.qemu_pid(THEIRS))
        guest_pidfd = os.pidfd_open(ready(announcement))
        nonces.append(int(wait_ready(serial), 16))
    sides.until_theirs_are_off()
    assert sides.is_locked(disk) in sides.theirs_refused(disk)
    end_process(ours.process.pid)
    waiting.gone(guest_pidfd, DEADLINE_S)
    os.close(guest_pidfd)
    nonces.append(sides.theirs_writes(disk))
    sides.destroy_theirs()
    report = check(disk)
    assert report.clean, report.reasons
    assert [boot.nonce for boot in report.boots] == nonces


@pytest.mark.parametrize("mode", WRITERS)
def test_ours_tries_all_the_time_and_gets_in_between_theirs_alone(sides: Sides) -> None:
    disk = sides.disk()
    over = threading.Event()
    codes = on_a_thread(lambda: write_and_end_until(over, sides, disk))
    nonces = set()
    try:
        for _ in range(3):
            nonces.add(sides.theirs_writes(disk, tries_s=DEADLINE_S))
            end_process(sides.host.qemu_pid(THEIRS))
            sides.until_theirs_are_off()
    finally:
        over.set()
    found = set(codes.result(DEADLINE_S))
    report = check(disk)
    assert report.clean, report.reasons
    assert found == {0, 110}
    assert nonces < {boot.nonce for boot in report.boots}


def write_and_end_until(over: threading.Event, sides: Sides, disk: str) -> list[int]:
    """Run a writer that looks at no lock under our lease, again and again; returns exit codes."""
    codes = []
    while not over.is_set():
        nonce = f"nonce={secrets.randbits(64) | 1:016x}"
        words = ["--no-discover", "--disk", disk, "--", str(WRITER), disk, nonce, "count=3"]
        codes.append(sides.command("run", *sides.options, *words).code)
    return codes
