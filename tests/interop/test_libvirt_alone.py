"""Is the tests' libvirt the real thing, and does it leave nothing behind? Nothing of ours here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.interop.sides import THEIRS
from tests.support import proclocks, waiting
from tests.support.domain import domain_xml
from tests.support.guest.checker import check

if TYPE_CHECKING:
    from tests.interop.sides import Sides
    from tests.support.libvirt import Hosts


def test_a_domain_starts_and_is_destroyed(sides: Sides) -> None:
    disk = sides.disk()
    sides.start_theirs(disk)
    assert sides.host.state(THEIRS) == "running"
    assert sides.locked(disk) == [proclocks.Lock("POSIX", "WRITE", 0, "0")]
    sides.destroy_theirs()
    assert sides.host.state(THEIRS) == "shut off"
    assert sides.locked(disk) == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["direct"])
def test_a_guest_writes_and_answers_its_power_button(sides: Sides) -> None:
    disk = sides.disk()
    nonce = sides.theirs_writes(disk)
    assert sides.host.virsh("shutdown", THEIRS).code == 0
    sides.until_theirs_are_off()
    report = check(disk)
    assert report.clean, report.reasons
    assert [boot.nonce for boot in report.boots] == [nonce]


@pytest.mark.parametrize("mode", ["direct"])
def test_hosts_are_apart_and_leave_nothing_behind(sides: Sides, libvirt: Hosts) -> None:
    one, two = libvirt.start(), libvirt.start(lock_manager=None)
    one.define(domain_xml("web1", sides.disk()))
    assert one.virsh("start", "web1").code == 0
    assert one.run("hostname").out == "host0\n"
    assert two.virsh("list", "--all", "--name").out.strip() == ""
    assert str(one.directory) not in mounts()
    assert str(one.directory) in mounts(one.libvirtd_pid)
    pids = [one.qemu_pid("web1"), one.libvirtd_pid, one.virtlockd_pid, two.libvirtd_pid]
    pidfds = [os.pidfd_open(pid) for pid in pids]
    libvirt.end()
    for pidfd in pidfds:
        waiting.gone(pidfd, 0)
        os.close(pidfd)
    assert str(one.directory) not in mounts()


def mounts(pid: int | str = "self") -> str:
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as file:
        return file.read()
