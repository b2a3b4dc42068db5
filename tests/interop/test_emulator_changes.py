"""As libvirt's <emulator>: does the lease follow what virsh saves, plugs in and snapshots?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import waiting
from tests.support.emulator import DEADLINE_S, HELD, held, ready
from tests.support.guest.checker import check

if TYPE_CHECKING:
    from tests.support.emulator import Emulated

pytestmark = pytest.mark.slow


def test_a_saved_domain_comes_back_only_with_its_lease(emulated: Emulated) -> None:
    disk, saved = emulated.disk(), str(emulated.directory / "saved")
    emulated.define("web2", disk)
    with emulated.writing("web1", disk) as serial:
        nonce = ready(serial)
        for save, restore in (
            (("managedsave", "web1"), ("start", "web1")),
            (("save", "web1", saved), ("restore", saved)),
        ):
            emulated.virsh(*save)
            assert held(disk) == []
            assert emulated.command.json("list") == []
            emulated.virsh("start", "web2")
            assert "held by guest web2" in emulated.refused(*restore)
            emulated.virsh("destroy", "web2")
            emulated.virsh(*restore)
            assert emulated.reason("web1") == "restored"
            assert held(disk) == HELD
            until_written(emulated)
        emulated.virsh("shutdown", "web1")
        assert emulated.until_off("web1") == "shutdown"
    report = check(disk)
    assert report.clean, report.reasons
    assert [boot.nonce for boot in report.boots] == [nonce]


def test_a_disk_is_attached_before_it_is_plugged_in(emulated: Emulated) -> None:
    disk, extra = emulated.disk(), emulated.disk("extra.raw")
    element = emulated.disk_element(extra)
    with emulated.writing("web1", disk) as serial:
        ready(serial)
        assert emulated.command("attach", "web1", extra).code == 0
        emulated.virsh("attach-device", "web1", element)
        ready(serial)
        assert emulated.status("web1")["unleased"] == []
        emulated.define("web2", extra)
        assert "held by guest web1" in emulated.refused("start", "web2")
        early = emulated.command("detach", "web1", extra)
        assert (early.code, early.err.partition("; ")[0]) == (
            111,
            f"lock-supervisor: cannot detach disk {extra}: QEMU has it open",
        )
        emulated.virsh("detach-device", "web1", element)
        assert held(extra) == HELD
        assert emulated.command("detach", "web1", extra).code == 0
        assert held(extra) == []
        emulated.virsh("start", "web2")
        stopped = emulated.command("stop", "web1", deadline_s=DEADLINE_S)
        assert (stopped.code, stopped.err) == (0, "")
        assert stopped.out.splitlines()[0].endswith(": power button")
        assert emulated.until_off("web1") == "shutdown"
    for image in (disk, extra):
        report = check(image)
        assert report.clean, report.reasons


def test_what_is_plugged_in_without_attach_is_named(emulated: Emulated) -> None:
    disk, extra = emulated.disk(), emulated.disk("extra.raw")
    emulated.start("web1", disk)
    emulated.virsh("attach-device", "web1", emulated.disk_element(extra))
    status = emulated.status("web1")
    assert status["unleased"] == [extra]
    assert status["guarantee"].startswith(f"weakened: 1 open without a lease ({extra}, ")
    assert emulated.command("attach", "web1", extra).code == 0
    assert emulated.status("web1")["unleased"] == []


def test_a_snapshot_is_attached_before_and_detached_after_its_commit(emulated: Emulated) -> None:
    disk, overlay = emulated.disk(), str(emulated.directory / "overlay.qcow2")
    emulated.start("web1", disk)
    with open(overlay, "xb"):
        pass  # to be leased it has to be there
    assert emulated.command("attach", "web1", overlay).code == 0
    emulated.virsh(
        *("snapshot-create-as", "web1", "--disk-only", "--no-metadata"),
        *("--diskspec", f"vda,file={overlay}"),
    )
    assert overlay in emulated.virsh("domblklist", "web1")
    assert emulated.status("web1")["unleased"] == []
    assert held(disk) == held(overlay) == HELD
    emulated.virsh("blockcommit", "web1", "vda", "--active", "--pivot", "--wait")
    assert disk in emulated.virsh("domblklist", "web1")
    # virsh does not wait until libvirt has closed the overlay; until then we refuse.
    waiting.until(
        lambda: emulated.command("detach", "web1", overlay).code == 0,
        DEADLINE_S,
        "libvirt has closed the overlay",
    )
    assert held(overlay) == []
    assert held(disk) == HELD
    assert emulated.leased("web1") == [disk]


def test_what_libvirt_reads_of_our_process_is_ours(emulated: Emulated) -> None:
    """What docs/libvirt.md says is wrong by nature; if it is right one day, that has to go."""
    emulated.start("web1", emulated.disk())
    guard, guest = emulated.pids("web1")
    said = emulated.virsh("domstats", "web1", "--vcpu", "--balloon").split()
    numbers = dict(pair.split("=", 1) for pair in said if "=" in pair)
    assert (numbers["vcpu.0.time"], numbers["vcpu.0.wait"]) == ("0", "0")
    assert int(numbers["balloon.rss"]) <= high_water_kib(guard) < high_water_kib(guest)


def until_written(emulated: Emulated) -> None:
    """Wait until the domain has written since now."""

    def requests() -> int:
        lines = map(str.split, emulated.virsh("domblkstat", "web1", "vda").splitlines())
        return next(int(words[2]) for words in lines if words[1:2] == ["wr_req"])

    before = requests()
    waiting.until(lambda: requests() > before, DEADLINE_S, "it writes on")


def high_water_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
