"""Is the tests' libvirt the real thing, and does it leave nothing behind? Nothing of ours here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support import proclocks, waiting
from tests.support.domain import console, domain_xml
from tests.support.guest.checker import check
from tests.support.qemu import wait_ready

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.libvirt import Host, Hosts

DEADLINE_S = 30


def new_disk(path: Path) -> Path:
    path.touch()
    os.truncate(path, 8 << 20)
    return path


def test_a_domain_starts_and_is_destroyed(host: Host, tmp_path: Path) -> None:
    disk = new_disk(tmp_path / "disk.raw")
    host.define(domain_xml("web1", disk))
    assert host.virsh("start", "web1").code == 0
    assert host.state("web1") == "running"
    assert proclocks.locks(disk)[0] == ("POSIX", "WRITE", 0, "0")
    assert host.virsh("destroy", "web1").code == 0
    assert host.state("web1") == "shut off"
    assert proclocks.locks(disk) == []


def test_a_guest_writes_and_answers_its_power_button(host: Host, tmp_path: Path) -> None:
    disk = new_disk(tmp_path / "disk.raw")
    with console(tmp_path / "console") as serial:
        host.define(domain_xml("web1", disk, writes_to=tmp_path / "console"))
        assert host.virsh("start", "web1").code == 0
        nonce = wait_ready(serial)
        assert host.virsh("shutdown", "web1").code == 0
        waiting.until(lambda: host.state("web1") == "shut off", DEADLINE_S, "the guest is off")
    report = check(disk)
    assert report.clean, report.reasons
    assert [boot.nonce for boot in report.boots] == [int(nonce, 16)]


def test_hosts_are_apart_and_leave_nothing_behind(libvirt: Hosts, tmp_path: Path) -> None:
    before = mounts()
    one, two = libvirt.start(), libvirt.start(lock_manager=None)
    one.define(domain_xml("web1", new_disk(tmp_path / "disk.raw")))
    assert one.virsh("start", "web1").code == 0
    assert one.run("hostname").out == "host0\n"
    assert two.virsh("list", "--all", "--name").out.strip() == ""
    assert mounts() == before
    pids = [one.qemu_pid("web1"), one.libvirtd_pid, one.virtlockd_pid, two.libvirtd_pid]
    pidfds = [os.pidfd_open(pid) for pid in pids]
    libvirt.end()
    for pidfd in pidfds:
        waiting.gone(pidfd, 0)
        os.close(pidfd)
    assert mounts() == before


def mounts() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return file.read()
