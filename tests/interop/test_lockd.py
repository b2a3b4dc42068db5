"""Do guests of stock libvirt with its lockd driver and ours exclude one another?

Both ways, direct and indirect. QEMU's own image locks are off on our side, so that it is
the lease that refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.sides import OURS, SHARED, THEIRS
from tests.support.domain import Disk

if TYPE_CHECKING:
    from tests.interop.sides import Sides


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
