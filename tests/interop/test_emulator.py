"""As libvirt's <emulator>: are leases taken and freed at the right moments, and refusals told?"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import proclocks, waiting
from tests.support.contender import Contender
from tests.support.emulator import DEADLINE_S, HELD, Emulated, held, ready
from tests.support.guest.checker import check
from tests.support.locking import until_waited_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.libvirt import Hosts

pytestmark = pytest.mark.slow

ONE_GUEST = "the guest runs only while every lease is held"


def test_probing_passes_through(emulated: Emulated) -> None:
    """The host is new to this emulator: libvirt starts it twice for its QMP, and asks for help."""
    wrapper = str(emulated.wrapper)
    found = emulated.virsh("domcapabilities", "--virttype", "qemu", "--emulatorbin", wrapper)
    assert f"<path>{wrapper}</path>" in found
    assert "<value>virtio</value>" in found
    assert os.listdir(emulated.runtime_dir) == []


def test_a_domain_holds_its_lease_from_start_to_destroy(emulated: Emulated) -> None:
    disk = emulated.disk()
    emulated.start("web1", disk)
    guard, guest = emulated.pids("web1")
    assert emulated.host.qemu_pid("web1") == guard
    assert held(disk) == HELD
    assert emulated.leased("web1") == [disk]
    assert emulated.status("web1")["guarantee"].startswith(ONE_GUEST)
    assert emulated.status("web1")["unleased"] == []
    assert disk in emulated.virsh("domblklist", "web1")
    pidfile = emulated.host.directory / "run/qemu/web1.pid"
    assert [lock.kind for lock in proclocks.locks(pidfile)] == ["POSIX"]
    pidfd = os.pidfd_open(guest)
    emulated.virsh("destroy", "web1")
    assert held(disk) == []
    waiting.gone(pidfd, 0)
    os.close(pidfd)
    assert emulated.reason("web1") == "destroyed"
    assert f"terminating on signal 15 from pid {guard} " in emulated.host.log("web1")


def test_a_second_domain_on_the_disk_is_refused_in_our_words(emulated: Emulated) -> None:
    disk = emulated.disk()
    emulated.start("web1", disk)
    status = emulated.status("web1")
    emulated.define("web2", disk)
    assert emulated.refused("start", "web2") == (
        f"cannot acquire exclusive lease for disk {disk}: held by guest web1 ({status['uuid']}), "
        f"supervisor pid {status['supervisor_pid']}, guest pid {status['child_pid']}, "
        f"since {status['since']}; stop the guest there or wait for it (--wait)"
    )
    assert emulated.host.state("web1") == "running"
    assert held(disk) == HELD
    emulated.virsh("suspend", "web1")
    assert "held by guest web1" in emulated.refused("start", "web2")
    emulated.virsh("resume", "web1")
    emulated.virsh("destroy", "web1")
    emulated.virsh("start", "web2")
    assert emulated.leased("web2") == [disk]


def test_a_domain_may_wait_for_its_lease(emulated: Emulated, tmp_path: Path) -> None:
    (directory := tmp_path / "waiting").mkdir()
    waiting_ones = Emulated(emulated.host, directory, "--wait", "inf")
    disk = emulated.disk()
    emulated.start("web1", disk)
    for end, code in (("web2", 1), ("web1", 0)):
        waiting_ones.define("web2", disk)
        started = emulated.begin("start", "web2")
        until_waited_for(disk)
        emulated.virsh("destroy", end)
        said = started.end(DEADLINE_S)
        assert said.code == code, said
        assert ("signal 15 came first; nothing held" in said.err) == bool(code)
    assert held(disk) == HELD
    assert waiting_ones.leased("web2") == [disk]


def test_guard_killed_guest_killed_power_off_each_frees_the_disk_at_the_guests_end(
    emulated: Emulated,
) -> None:
    disk = emulated.disk()
    nonces = []
    for killed in ("guard", "guest"):
        with emulated.writing("web1", disk) as serial:
            nonces.append(ready(serial))
            guard, guest = emulated.pids("web1")
            with Contender(guest, disk) as contender:
                os.kill(guard if killed == "guard" else guest, signal.SIGKILL)
                (won,) = contender.won()
            assert won.alive == ()
            assert emulated.until_off("web1") == "crashed"
            assert emulated.command.json("list") == []
    with emulated.writing("web1", disk, count=50) as serial:
        nonces.append(ready(serial))
        assert emulated.until_off("web1") == "shutdown"
    assert held(disk) == []
    report = check(disk)
    assert report.clean, report.reasons
    assert [boot.nonce for boot in report.boots] == nonces


def test_a_hung_guest_is_ended_when_libvirt_loses_patience(emulated: Emulated) -> None:
    """SIGTERM, and 10 s later SIGKILL, to the guard: the kernel ends QEMU with it."""
    disk = emulated.disk()
    emulated.start("web1", disk)
    _guard, guest = emulated.pids("web1")
    pidfd = os.pidfd_open(guest)
    os.kill(guest, signal.SIGSTOP)
    with Contender(guest, disk) as contender:
        emulated.virsh("destroy", "web1")
        (won,) = contender.won()
    assert won.alive == ()
    waiting.gone(pidfd, DEADLINE_S)
    os.close(pidfd)
    assert emulated.reason("web1") == "destroyed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_libvirtd_comes_back_to_its_domain(libvirt: Hosts, tmp_path: Path, number: int) -> None:
    emulated = Emulated(libvirt.start(lock_manager=None), tmp_path)
    disk = emulated.disk()
    emulated.start("web1", disk)
    pids = emulated.pids("web1")
    emulated.host.restart_libvirtd(number)
    assert emulated.host.state("web1") == "running"
    emulated.virsh("suspend", "web1")
    assert emulated.host.state("web1") == "paused"
    emulated.virsh("resume", "web1")
    assert emulated.pids("web1") == pids
    assert held(disk) == HELD
    emulated.virsh("destroy", "web1")
    assert held(disk) == []
    assert emulated.reason("web1") == "destroyed"


def test_under_lockd_it_is_refused_before_anything_starts(libvirt: Hosts, tmp_path: Path) -> None:
    host = libvirt.start(lock_manager="lockd")
    emulated = Emulated(host, tmp_path)
    disk = emulated.disk()
    emulated.define("web1", disk)
    assert emulated.refused("start", "web1") == (
        "cannot start guest web1: libvirt's own lock manager lockd is active for it (descriptor 6 "
        "is a connection to /run/libvirt/virtlockd-sock) and would take the same lock; unset "
        "lock_manager in qemu.conf and restart libvirtd, or use --plugin nop"
    )
    assert os.listdir(emulated.runtime_dir) == []
    assert proclocks.locks(disk) == []
    assert host.state("web1") == "shut off"


def test_under_lockd_plugin_nop_leaves_the_locking_to_it(libvirt: Hosts, tmp_path: Path) -> None:
    emulated = Emulated(libvirt.start(lock_manager="lockd"), tmp_path, "--plugin", "nop")
    disk = emulated.disk()
    emulated.start("web1", disk)
    (lock, *_qemus) = proclocks.locks(disk)
    assert lock == ("POSIX", "WRITE", 0, "0")
    guard, guest = emulated.pids("web1")
    with Contender(guest, disk) as contender:
        os.kill(guard, signal.SIGKILL)
        contender.won()
    assert emulated.until_off("web1") == "crashed"
