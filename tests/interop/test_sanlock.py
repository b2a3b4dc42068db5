"""Do guests of stock libvirt with its sanlock driver and ours exclude one another?

Both ways, on one host and across two. QEMU's own image locks are off on our side, so that
it is the lease that refuses.
"""

from __future__ import annotations

import grp
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.sanlock_sides import ONE, TWO
from tests.interop.sides import DEADLINE_S, DISK_BYTES, OURS, SHARED, THEIRS
from tests.support import sanlock_facts as facts
from tests.support import waiting
from tests.support.command import ready
from tests.support.domain import Disk, console, domain_xml
from tests.support.guest.checker import check
from tests.support.libvirt import end_process
from tests.support.qemu import guest_argv, idle_argv, wait_ready

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.interop.sanlock_sides import SanlockSides
    from tests.support.command import Command
    from tests.support.libvirt import Hosts
    from tests.support.sanlock import Daemon

pytestmark = pytest.mark.slow


def holder_of(sides: SanlockSides) -> str:
    """Return how our side names their guest."""
    if sides.daemon is sides.theirs:
        return f"process {sides.host.qemu_pid(THEIRS)} (qemu-system-x86)"
    return f"host_id {sides.theirs.host_id}"


def test_their_guest_refuses_ours_and_is_named(sanlock_sides: SanlockSides) -> None:
    sides, disk = sanlock_sides, sanlock_sides.disk()
    sides.start_theirs(disk)
    for mode, asked in (("exclusive", disk), ("shared", disk + SHARED)):
        refusal = sides.ours_refused(asked)
        assert f"cannot acquire {mode} lease for disk {disk}" in refusal
        assert f"held by {holder_of(sides)}" in refusal
    sides.destroy_theirs()
    _ours, pid = sides.start_ours(disk)
    assert [held.pid for held in sides.daemon.held(disk)] == [pid]


def test_our_guest_refuses_theirs(sanlock_sides: SanlockSides) -> None:
    sides, disk = sanlock_sides, sanlock_sides.disk()
    sides.start_ours(disk)
    assert sides.is_locked(disk) in sides.theirs_refused(disk)
    assert sides.is_locked(disk) in sides.theirs_refused(Disk(disk, shareable=True))
    sides.end_ours()
    sides.start_theirs(disk)
    assert [held.pid for held in sides.theirs.held(disk)] == [sides.host.qemu_pid(THEIRS)]


def test_who_and_plan_name_their_guest(sanlock_sides: SanlockSides) -> None:
    sides, disk, command = sanlock_sides, sanlock_sides.disk(), sanlock_sides.command
    who = (disk, "--plugin", "sanlock", "--config", str(sides.config))
    assert command("who", *who).code == 1
    sides.start_theirs(disk)
    (lease,) = command.json("who", *who)["leases"]
    assert (lease["mode"], lease["state"]) == ("exclusive", "held")
    assert holder_of(sides) in lease["holder"]["description"]
    plan = command.json("plan", *sides.ours(disk))
    assert f"disk {disk} is held by {holder_of(sides)}" in plan["refusal"]


@pytest.mark.parametrize("daemons", [TWO])
def test_shareable_disks_are_shared(sanlock_sides: SanlockSides) -> None:
    sides, disk = sanlock_sides, sanlock_sides.disk()
    sides.start_theirs(Disk(disk, shareable=True))
    assert f"held by {holder_of(sides)}" in sides.ours_refused(disk)
    _ours, pid = sides.start_ours(disk + SHARED)
    assert {(held.pid, held.version) for held in sides.held(disk)} == {
        (pid, None),
        (sides.host.qemu_pid(THEIRS), None),
    }
    sides.destroy_theirs()
    waiting.until(lambda: len(sides.held(disk)) == 1, DEADLINE_S, "theirs is given back")
    assert "Failed to acquire lock: " in sides.theirs_refused(disk)


@pytest.mark.parametrize("daemons", [ONE])
def test_a_disk_that_is_readonly_to_libvirt_has_no_lease_there(sanlock_sides: SanlockSides) -> None:
    sides, disk = sanlock_sides, sanlock_sides.disk()
    sides.start_theirs(Disk(disk, readonly=True))
    _ours, pid = sides.start_ours(disk)
    assert [held.pid for held in sides.held(disk)] == [pid]


@pytest.mark.parametrize("daemons", [ONE])
def test_ours_is_killed_and_theirs_starts(
    sanlock_sides: SanlockSides, measured: Callable[[str, str], None]
) -> None:
    sides, disk = sanlock_sides, sanlock_sides.disk()
    for killed in ("supervisor", "guest"):
        ours, guest_pid = sides.start_ours(disk)
        guest_pidfd = os.pidfd_open(guest_pid)
        begun = time.monotonic()
        end_process({"supervisor": ours.process.pid, "guest": guest_pid}[killed])
        waiting.gone(guest_pidfd, DEADLINE_S)
        os.close(guest_pidfd)
        sides.daemon.until_free(disk)
        sides.start_theirs(disk)
        took = time.monotonic() - begun
        measured("sanlock", f"our {killed} killed until `virsh start` has started: {took:.2f} s")
        sides.destroy_theirs()
        sides.theirs.until_free(disk)


# Guests that boot and write; theirs and ours are farthest apart with two daemons.
@pytest.mark.parametrize("daemons", [pytest.param(ONE, marks=pytest.mark.long), TWO])
def test_no_write_of_either_side_falls_into_the_others_time(sanlock_sides: SanlockSides) -> None:
    sides, disk = sanlock_sides, sanlock_sides.disk()
    fifo = sides.directory / "our console"
    nonces = [sides.theirs_writes(disk)]
    with console(fifo) as serial:
        words = sides.ours(disk, command=guest_argv(disk, serial=f"file:{fifo}"))
        waiter, announcement = sides.command.guest_to_be("--wait", "inf", *words)
        end_process(sides.host.qemu_pid(THEIRS))
        guest_pidfd = os.pidfd_open(ready(announcement))
        nonces.append(int(wait_ready(serial), 16))
    sides.until_theirs_are_off()
    assert sides.is_locked(disk) in sides.theirs_refused(disk)
    end_process(waiter.process.pid)
    waiting.gone(guest_pidfd, DEADLINE_S)
    os.close(guest_pidfd)
    nonces.append(sides.theirs_writes(disk, tries_s=DEADLINE_S))
    sides.destroy_theirs()
    report = check(disk)
    assert report.clean, report.reasons
    assert [boot.nonce for boot in report.boots] == nonces


class Alone:
    """Our side alone: its guests take a lease, and give it up again."""

    def __init__(self, command: Command, directory: Path) -> None:
        self._command = command
        self._directory = directory

    def image(self, name: str) -> str:
        path = self._directory / name
        path.touch()
        os.truncate(path, DISK_BYTES)
        return str(path)

    def run(self, daemon: Daemon, disk: str) -> None:
        config = self._directory / "config.toml"
        config.write_text(daemon.toml())
        self._command.env |= daemon.env
        words = ("--name", OURS, "--plugin", "sanlock", "--config", str(config))
        _started, pid = self._command.guest(*words, "--", *idle_argv(disk))
        assert [held.pid for held in daemon.held(disk)] == [pid]
        assert self._command("kill", OURS).code == 0


@pytest.fixture
def ours(command: Command, tmp_path: Path) -> Alone:
    return Alone(command, tmp_path)


def layout(daemon: Daemon) -> dict[str, tuple[int, int, int]]:
    """Return the names in a lease directory, each with its owner, group and size."""
    found = ((entry.name, entry.stat()) for entry in os.scandir(daemon.lease_dir))
    return {name: (status.st_uid, status.st_gid, status.st_size) for name, status in found}


@pytest.mark.parametrize(("first", "group"), [(OURS, ""), (THEIRS, "disk")])
def test_the_files_of_either_side_are_the_others(
    first: str, group: str, libvirt: Hosts, sanlock_hosts: Callable[[int], Daemon], ours: Alone
) -> None:
    daemon = sanlock_hosts(1)
    daemon.config |= {"user": "root", "group": group} if group else {}
    disks = [ours.image(name) for name in ("one.raw", "two.raw")]
    if first == OURS:
        ours.run(daemon, disks[0])
    host = libvirt.start(sanlock=daemon)
    for disk in disks:
        host.define(domain_xml(THEIRS, disk))
        assert host.virsh("start", THEIRS).code == 0
        assert host.virsh("destroy", THEIRS).code == 0
        ours.run(daemon, disk)
    gid = grp.getgrnam(group).gr_gid if group else 0
    names = (facts.LOCKSPACE, *map(facts.lease_name, disks))
    assert layout(daemon) == dict.fromkeys(names, (0, gid, facts.FILE_BYTES))
    modes = {stat.filemode(file.stat().st_mode) for file in os.scandir(daemon.lease_dir)}
    # libvirt, as its umask is, leaves out what its documentation says of a group.
    assert modes <= {"-rw-------", "-rw-r-----", "-rw-rw----"}
    assert group or modes == {"-rw-------"}
