"""Where do guests of stock libvirt and ours not exclude one another? As docs/libvirt.md says.

Our QEMUs run without QEMU's own image locks here, too: what gets past the
lease is seen, not stopped by luck.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.interop.sides import THEIRS, Sides
from tests.support import proclocks
from tests.support.command import PROGRAM
from tests.support.domain import Disk, domain_xml
from tests.support.libvirt import end_process
from tests.support.spelling import run

if TYPE_CHECKING:
    from typing import Any

    from tests.support.command import Command
    from tests.support.libvirt import Hosts
    from tests.support.spelling import Names

pytestmark = pytest.mark.slow


def assert_excluded(sides: Sides, theirs: Disk, ours: str, *, excluded: bool) -> None:
    """Both ways round: who comes second is refused, or both run."""
    sides.start_theirs(theirs)
    if excluded:
        sides.ours_refused(ours)
        sides.destroy_theirs()
        sides.start_ours(ours)
        assert "' is locked" in sides.theirs_refused(theirs)
    else:
        sides.start_ours(ours)
        sides.destroy_theirs()
        sides.start_theirs(theirs)
        sides.destroy_theirs()
    sides.end_ours()


MISMATCHES = [
    pytest.param("indirect", None, False, id="theirs indirect, ours direct"),
    pytest.param("indirect", "elsewhere", False, id="two directories"),
    # On this host: ours lock the image as well.
    pytest.param("direct", "elsewhere", True, id="theirs direct, ours indirect"),
]


@pytest.mark.parametrize(("mode", "ours", "excluded"), MISMATCHES)
def test_both_sides_are_to_be_configured_alike_and_doctor_says_so(
    sides: Sides, ours: str | None, *, excluded: bool
) -> None:
    assert doctor_on_libvirt(sides)["ok"]
    sides.configure_ours(sides.directory / ours if ours else None)
    found = doctor_on_libvirt(sides)
    assert not found["ok"]
    assert ("neither sees the other" in found["evidence"]) == (not excluded)
    disk = sides.disk()
    assert_excluded(sides, Disk(disk), disk, excluded=excluded)


def doctor_on_libvirt(sides: Sides) -> dict[str, Any]:
    answer = sides.host.run(PROGRAM, "doctor", "--json", "--config", str(sides.config))
    (found,) = (one for one in json.loads(answer.out)["checks"] if one["check"] == "libvirt")
    return dict(found)


@pytest.mark.parametrize("theirs_by_link", [False, True])
@pytest.mark.parametrize("type_", ["file", "block"])
def test_libvirt_takes_a_path_as_it_is_written(
    sides: Sides, names: Names, mode: str, type_: str, *, theirs_by_link: bool
) -> None:
    disk = names.image() if type_ == "file" else names.device()
    link = names.symlink(disk)
    theirs, ours = (link, disk) if theirs_by_link else (disk, link)
    excluded = mode == "direct" or not theirs_by_link
    assert_excluded(sides, Disk(theirs, type=type_), ours, excluded=excluded)


@pytest.mark.parametrize("theirs_by_node", [False, True])
def test_another_node_of_a_device_is_another_disk_for_libvirt(
    sides: Sides, names: Names, *, theirs_by_node: bool
) -> None:
    device = names.device()
    node = names.second_node(device)
    theirs, ours = (node, device) if theirs_by_node else (device, node)
    assert_excluded(sides, Disk(theirs, type="block"), ours, excluded=not theirs_by_node)


def test_a_refused_attach_by_another_name_ends_libvirts_own_lease(
    sides: Sides, names: Names, mode: str
) -> None:
    """A POSIX lock ends when its process closes any descriptor of the file, as virtlockd does."""
    disk = names.image()
    sides.start_theirs(disk)
    sides.start_theirs(sides.disk("other.raw"), name="other")
    assert len(sides.locked(disk)) == 1
    element = sides.disk_element(names.symlink(disk))
    refused = sides.host.virsh("attach-device", "other", element)
    assert refused.code == 1
    assert 'Failed to get "write" lock' in refused.err
    assert sides.host.state(THEIRS) == "running"
    assert len(sides.locked(disk)) == (0 if mode == "direct" else 1)
    if mode == "direct":
        sides.qemu_refuses_ours(disk)


def test_libvirt_leases_no_backing_files(sides: Sides, names: Names) -> None:
    base, overlay = names.image(), f"{names.directory}/overlay"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay)
    theirs = Disk(overlay, format="qcow2", backing=base)
    sides.start_theirs(theirs)
    assert f"held by process {sides.host.virtlockd_pid} " in sides.ours_refused(overlay)
    sides.qemu_refuses_ours(base)
    sides.start_ours(base)
    sides.end_ours()
    sides.destroy_theirs()
    sides.start_ours(overlay)  # which shares its base
    assert sides.is_locked(base) in sides.theirs_refused(base)


@pytest.mark.parametrize("start", [["start"], ["start", "--paused"]], ids=" ".join)
def test_a_paused_guest_of_theirs_holds_no_lease(sides: Sides, start: list[str]) -> None:
    disk, host = sides.disk(), sides.host
    host.define(domain_xml(THEIRS, disk))
    assert host.virsh(*start, THEIRS).code == 0
    if host.state(THEIRS) == "running":
        assert len(sides.locked(disk)) == 1
        assert host.virsh("suspend", THEIRS).code == 0
    assert sides.locked(disk) == []
    sides.qemu_refuses_ours(disk)
    sides.start_ours(disk)
    refused = host.virsh("resume", THEIRS)
    assert refused.code == 1
    assert sides.is_locked(disk) in refused.err
    assert host.state(THEIRS) == "paused"
    sides.end_ours()
    assert host.virsh("resume", THEIRS).code == 0
    assert len(sides.locked(disk)) == 1


def test_a_saved_guest_of_theirs_holds_nothing_at_all(sides: Sides) -> None:
    disk, host = sides.disk(), sides.host
    sides.start_theirs(disk)
    assert host.virsh("managedsave", THEIRS).code == 0
    assert proclocks.locks(disk) == []
    sides.start_ours(disk)
    refused = host.virsh("start", THEIRS)
    assert refused.code == 1
    assert sides.is_locked(disk) in refused.err
    sides.end_ours()
    assert host.virsh("start", THEIRS).code == 0  # whatever ours has written


def test_a_refused_start_of_theirs_has_touched_our_disk(libvirt: Hosts, command: Command) -> None:
    """The owner is changed for their QEMU and back, before libvirt asks for the lease."""
    host = libvirt.start(user="libvirt-qemu", group="libvirt-qemu")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)  # noqa: S103  # for libvirt-qemu
        sides = Sides(host, command, Path(directory), None)
        disk = sides.disk()
        sides.start_ours(disk)
        before = os.stat(disk)
        assert sides.is_locked(disk) in sides.theirs_refused(disk)
        after = os.stat(disk)
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_a_killed_virtlockd_leaves_their_guest_without_its_lease(own_sides: Sides) -> None:
    disk, host = own_sides.disk(), own_sides.host
    own_sides.start_theirs(disk)
    end_process(host.virtlockd_pid)
    assert own_sides.locked(disk) == []
    assert host.state(THEIRS) == "running"
    own_sides.qemu_refuses_ours(disk)
    host.start_virtlockd()
    assert own_sides.locked(disk) == []
    own_sides.start_ours(disk)
    assert host.state(THEIRS) == "running"
    own_sides.destroy_theirs()
    if own_sides.lockspace:
        unknown = f"Lockspace for path {own_sides.lockspace} does not exist"
        assert unknown in own_sides.theirs_refused(disk)
    host.restart_libvirtd()
    assert own_sides.is_locked(disk) in own_sides.theirs_refused(disk)
