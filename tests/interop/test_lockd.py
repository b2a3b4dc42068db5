"""Do guests of stock libvirt with its lockd driver and ours exclude one another?

Both ways, direct and indirect. QEMU's own image locks are off on our side, so that it is
the lease that refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.sides import DEADLINE_S, OURS, SHARED, THEIRS, Sides
from tests.support import proclocks, waiting
from tests.support.domain import Disk, domain_xml
from tests.support.qemu import guest_argv, idle_argv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.libvirt import Hosts
    from tests.support.spelling import Names

pytestmark = pytest.mark.slow


def test_their_guest_refuses_ours_and_is_named(sides: Sides) -> None:
    disk = sides.disk()
    sides.start_theirs(disk)
    virtlockd = f"process {sides.host.virtlockd_pid} (virtlockd: virtlockd -p "
    for mode, asked in (("exclusive", disk), ("shared", disk + SHARED)):
        refusal = sides.ours_refused(asked)
        assert f"cannot acquire {mode} lease for disk {disk}: held by {virtlockd}" in refusal
    sides.destroy_theirs()
    sides.start_ours(disk)


def test_our_guest_refuses_theirs(sides: Sides) -> None:
    disk = sides.disk()
    sides.start_ours(disk)
    assert sides.is_locked(disk) in sides.theirs_refused(disk)
    assert sides.is_locked(disk) in sides.theirs_refused(Disk(disk, shareable=True))
    sides.end_ours()
    sides.start_theirs(disk)


def test_who_and_plan_name_virtlockd(sides: Sides) -> None:
    disk, command = sides.disk(), sides.command
    config = ["--config", str(sides.config)]
    virtlockd = f"process {sides.host.virtlockd_pid} (virtlockd: virtlockd -p "
    assert command("who", disk, *config).code == 1
    sides.start_theirs(disk)
    assert virtlockd in command("who", disk, *config).out
    plan = command.json("plan", *sides.ours(disk))
    assert f"disk {disk} is held by {virtlockd}" in plan["refusal"]
    sides.destroy_theirs()
    sides.start_theirs(Disk(disk, shareable=True))
    sides.start_ours(disk + SHARED)
    leases = command.json("who", disk, *config)["leases"]
    assert [lease["mode"] for lease in leases] == ["shared", "shared"]
    ours, theirs = sorted((lease["holder"] for lease in leases), key=lambda h: h["guest"] is None)
    assert ours["guest"] == OURS
    assert virtlockd in theirs["description"]


@pytest.mark.parametrize("mode", ["direct"])
def test_qemus_own_lock_speaks_first_where_it_is_on(sides: Sides) -> None:
    disk = sides.disk()
    sides.command.guest(*sides.ours(command=guest_argv(disk, locking_off=False)))
    waiting.until(lambda: len(proclocks.locks(disk)) > 1, DEADLINE_S, "QEMU has its image locks")
    refusal = sides.theirs_refused(disk)
    assert 'Failed to get "write" lock' in refusal
    assert "is locked" not in refusal


# What libvirt calls it; whether ours, exclusive or shared, gets along with it.
KINDS = [
    (Disk("", shareable=True), False, True),
    (Disk("", readonly=True), True, True),  # libvirt takes no lease for it
]


@pytest.mark.parametrize(("kind", "exclusive", "shared"), KINDS, ids=["shareable", "readonly"])
def test_who_shares_with_whom(sides: Sides, kind: Disk, *, exclusive: bool, shared: bool) -> None:
    disk = sides.disk()
    theirs = Disk(disk, shareable=kind.shareable, readonly=kind.readonly)
    for ours, together in ((disk, exclusive), (disk + SHARED, shared)):
        sides.start_theirs(theirs)
        if together:
            sides.start_ours(ours)
            sides.destroy_theirs()
        else:
            assert f"held by process {sides.host.virtlockd_pid} " in sides.ours_refused(ours)
            sides.destroy_theirs()
            sides.start_ours(ours)
        if together:
            sides.start_theirs(theirs)
            sides.destroy_theirs()
        else:
            assert sides.is_locked(disk) in sides.theirs_refused(theirs)
        sides.end_ours()


def test_hot_plugged_disks_exclude_too(sides: Sides) -> None:
    cold, hot = sides.disk("cold.raw"), sides.disk("hot.raw")
    element = sides.disk_element(hot)
    sides.start_theirs(cold)
    sides.start_ours(hot)
    refused = sides.host.virsh("attach-device", THEIRS, element)
    assert refused.code == 1
    assert sides.is_locked(hot) in refused.err
    sides.end_ours()
    assert sides.host.virsh("attach-device", THEIRS, element).code == 0
    sides.start_ours(sides.disk("other.raw"))
    refused = sides.command("attach", OURS, hot)
    assert refused.code == 110
    assert f"held by process {sides.host.virtlockd_pid} (virtlockd: " in refused.err


def test_block_devices_exclude_too(sides: Sides, names: Names) -> None:
    device = names.device()
    theirs = Disk(device, type="block")
    sides.start_theirs(theirs)
    assert f"held by process {sides.host.virtlockd_pid} " in sides.ours_refused(device)
    sides.destroy_theirs()
    sides.start_ours(device)
    assert sides.is_locked(device) in sides.theirs_refused(theirs)
    sides.end_ours()  # before the device goes


def test_a_command_of_ours_leases_what_their_xml_names(
    sides: Sides, command: Command, tmp_path: Path
) -> None:
    disk, xml = sides.disk(), tmp_path / "theirs.xml"
    sides.start_theirs(disk)
    xml.write_text(sides.host.virsh("dumpxml", THEIRS).out)
    ours = ["--domain-xml", str(xml), *sides.ours(command=["sleep", "1000"])]
    refused = command("run", *ours)
    assert refused.code == 110
    assert f"lease for disk {disk}: held by process {sides.host.virtlockd_pid} " in refused.err
    sides.destroy_theirs()
    command.guest(*ours)
    assert sides.is_locked(disk) in sides.theirs_refused(disk)
    (guest,) = command.json("list")
    assert guest["uuid"] == sides.host.virsh("domuuid", THEIRS).out.strip()


def test_explicit_leases_exclude_too(libvirt: Hosts, command: Command, tmp_path: Path) -> None:
    (tmp_path / "lockd").mkdir()
    (tmp_path / "lockd/key").touch()
    host = libvirt.start(file_lockspace_dir=tmp_path / "lockd")
    sides = Sides(host, command, tmp_path, tmp_path / "lockd")
    lease = f"<lease><lockspace>lockd</lockspace><key>key</key><target path='{tmp_path}'/></lease>"
    ours = ["--name", OURS, "--lease", f"lockd:key:{tmp_path}", "--no-discover", "--"]
    host.define(domain_xml(THEIRS, sides.disk(), devices=[lease]))
    assert host.virsh("start", THEIRS).code == 0
    refused = command("run", *ours, *idle_argv())
    assert refused.code == 110
    assert f"held by process {host.virtlockd_pid} (virtlockd: " in refused.err
    sides.destroy_theirs()
    command.guest(*ours, *idle_argv())
    refused = host.virsh("start", THEIRS)
    assert refused.code == 1
    assert "resource busy: Lockspace resource 'key' is locked" in refused.err


def test_two_hosts_of_theirs_and_ours(
    libvirt: Hosts, command: Command, tmp_path: Path, mode: str
) -> None:
    lockspace = tmp_path / "lockd" if mode == "indirect" else None
    hosts = [libvirt.start(file_lockspace_dir=lockspace) for _ in range(2)]
    both = [Sides(host, command, tmp_path, lockspace) for host in hosts]
    disk = both[0].disk()
    for one, other in (both, reversed(both)):
        one.start_theirs(disk)
        other.theirs_refused(disk)  # by QEMU's own lock, which comes first
        assert f"held by process {one.host.virtlockd_pid} (" in one.ours_refused(disk)
        one.destroy_theirs()
    both[0].start_ours(disk)
    for one in both:
        assert one.is_locked(disk) in one.theirs_refused(disk)
    both[0].end_ours()
    both[0].start_ours(disk + SHARED)
    for one in both:
        one.start_theirs(Disk(disk, shareable=True))
    modes = [(lock.kind, lock.mode) for lock in both[0].locked(disk)]
    assert sorted(modes) == [("OFDLCK", "READ"), ("POSIX", "READ"), ("POSIX", "READ")]
