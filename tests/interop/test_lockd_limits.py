"""Where do guests of stock libvirt and ours not exclude one another? As docs/libvirt.md says.

Our QEMUs run without QEMU's own image locks here, too: what gets past the
lease is seen, not stopped by luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.sides import THEIRS
from tests.support.domain import Disk
from tests.support.libvirt import end_process

if TYPE_CHECKING:
    from tests.interop.sides import Sides
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
    pytest.param("direct", "elsewhere", True, id="theirs direct, ours indirect"),
]


@pytest.mark.parametrize(("mode", "ours", "excluded"), MISMATCHES)
def test_both_sides_are_to_be_configured_alike(
    sides: Sides, ours: str | None, *, excluded: bool
) -> None:
    sides.configure_ours(sides.directory / ours if ours else None)
    disk = sides.disk()
    assert_excluded(sides, Disk(disk), disk, excluded=excluded)


@pytest.mark.parametrize("theirs_by_link", [False, True])
def test_libvirt_takes_a_path_as_it_is_written(
    sides: Sides, names: Names, mode: str, *, theirs_by_link: bool
) -> None:
    disk = names.image()
    link = names.symlink(disk)
    theirs, ours = (link, disk) if theirs_by_link else (disk, link)
    excluded = mode == "direct" or not theirs_by_link
    assert_excluded(sides, Disk(theirs), ours, excluded=excluded)


@pytest.mark.parametrize("theirs_by_node", [False, True])
def test_another_node_of_a_device_is_another_disk_for_libvirt(
    sides: Sides, names: Names, *, theirs_by_node: bool
) -> None:
    device = names.device()
    node = names.second_node(device)
    theirs, ours = (node, device) if theirs_by_node else (device, node)
    assert_excluded(sides, Disk(theirs, type="block"), ours, excluded=not theirs_by_node)


def test_a_suspended_guest_of_theirs_holds_no_lease(sides: Sides) -> None:
    disk = sides.disk()
    sides.start_theirs(disk)
    assert len(sides.locked(disk)) == 1
    assert sides.host.virsh("suspend", THEIRS).code == 0
    assert sides.locked(disk) == []
    sides.qemu_refuses_ours(disk)
    sides.start_ours(disk)
    refused = sides.host.virsh("resume", THEIRS)
    assert refused.code == 1
    assert sides.is_locked(disk) in refused.err
    assert sides.host.state(THEIRS) == "paused"
    sides.end_ours()
    assert sides.host.virsh("resume", THEIRS).code == 0
    assert len(sides.locked(disk)) == 1


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
