"""Does a big guest, which takes the kernel long to take down, outlive its leases?

The kernel closes a dying process's files after its memory. A lease that the
supervisor alone holds is free tens of milliseconds before the guest is gone:
`flock -o`, measured in the same run, shows that the test can see that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.faults import firmware
from tests.support import waiting
from tests.support.contender import Contender
from tests.support.measured import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Guards

DEADLINE_S = 30
MIB = 1 << 20

_TOUCH = """
import mmap, os, signal, sys
memory = mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
os.write(int(sys.argv[2]), b"%d\\n" % os.getpid())
signal.pause()
"""


class Big:
    """A guest that touches `size` bytes; `pid` waits until it has."""

    def __init__(self, size: int) -> None:
        self._read_fd, self.fd = os.pipe()
        python = getattr(sys, "_base_executable", sys.executable)
        self.argv = [python, "-I", "-S", "-c", _TOUCH, str(size), str(self.fd)]

    def pid(self) -> int:
        waiting.readable(self._read_fd, DEADLINE_S, "the guest has touched its memory")
        return int(os.read(self._read_fd, 32))


@contextmanager
def big(size: int) -> Iterator[Big]:
    guest = Big(size)
    try:
        yield guest
    finally:
        os.close(guest._read_fd)
        os.close(guest.fd)


def overlap(supervisor_pidfd: int, guest_pid: int, disk: str, kind: str) -> tuple[bool, float]:
    """Kill; returns whether the guest was alive when the lease was won, and for how long it was."""
    guest_pidfd = os.pidfd_open(guest_pid)
    try:
        with Contender(guest_pid, disk, kind=kind) as contender:
            signal.pidfd_send_signal(supervisor_pidfd, signal.SIGKILL)
            waiting.gone(guest_pidfd, DEADLINE_S)
            gone_at = time.monotonic()
            (won,) = contender.won()
            return bool(won.alive), max(0.0, gone_at - won.at)
    finally:
        os.close(guest_pidfd)


def overlap_of_ours(guards: Guards, disk: str, size: int) -> tuple[bool, float]:
    with big(size) as guest:
        guard = guards.start(guards.spec(disk), guest.argv, pass_fds=[guest.fd]).ready()
        found = overlap(guard.pidfd, guest.pid(), disk, "ofd")
        guards.end(guard)
        return found


def overlap_of_flock(flock: str, disk: str, size: int) -> tuple[bool, float]:
    """Measure flock(1) at its best: its child has the death signal, and not the lock."""
    with big(size) as guest:
        argv = [flock, "--close", disk, "setpriv", "--pdeathsig", "KILL", *guest.argv]
        with subprocess.Popen(argv, pass_fds=[guest.fd]) as process:
            pidfd = os.pidfd_open(process.pid)
            try:
                return overlap(pidfd, guest.pid(), disk, "flock")
            finally:
                process.kill()
                os.close(pidfd)


def seen(found: list[tuple[bool, float]]) -> int:
    """Count the rounds in which the guest was alive when its lease was free."""
    return sum(alive for alive, _ in found)


@pytest.mark.slow
def test_a_big_guest_never_outlives_its_leases(
    guards: Guards,
    tmp_path: Path,
    require: Callable[[str], str],
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    disk = firmware.image(tmp_path / "disk")
    size = rounds(256, 2048) * MIB
    ours = [overlap_of_ours(guards, disk, size) for _ in range(rounds(10, 100))]
    flock = require("flock")
    theirs = [overlap_of_flock(flock, disk, size) for _ in range(rounds(5, 20))]
    for name, found in (("the guard", ours), ("flock -o", theirs)):
        times = milliseconds([seconds for _, seconds in found])
        line = f"{name}: alive {seen(found)} times, its pidfd late by {times}"
        measured("memory", f"{size // MIB} MiB touched, lease free, {line}")
    assert seen(theirs), "the test cannot see what it looks for"
    assert not seen(ours)
