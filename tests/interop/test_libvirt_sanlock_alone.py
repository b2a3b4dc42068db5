"""Does the tests' libvirt lock with sanlock, and what does its driver do? Nothing of ours here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.sanlock_sides import HELD_HERE, ONE
from tests.interop.sides import THEIRS
from tests.support import sanlock_facts as facts
from tests.support.domain import Disk

if TYPE_CHECKING:
    from tests.interop.sanlock_sides import SanlockSides

pytestmark = pytest.mark.parametrize("daemons", [ONE])


def test_a_domain_has_the_lease_of_its_disk_while_it_runs(sanlock_sides: SanlockSides) -> None:
    sides, disk = sanlock_sides, sanlock_sides.disk()
    sides.start_theirs(disk)
    (held,) = sides.theirs.held(disk)
    assert held.pid == sides.host.qemu_pid(THEIRS)
    assert (held.lockspace, held.offset) == (facts.LOCKSPACE, 0)
    assert held.path == sides.theirs.lease_file(disk)
    assert sides.host.virsh("suspend", THEIRS).code == 0
    sides.theirs.until_free(disk)
    assert sides.host.virsh("resume", THEIRS).code == 0
    (again,) = sides.theirs.held(disk)
    assert (again.pid, again.version) == (held.pid, (held.version or 0) + 1)
    sides.destroy_theirs()
    sides.theirs.until_free(disk)


def test_a_stranger_who_has_the_lease_is_respected(sanlock_sides: SanlockSides) -> None:
    sides, disk = sanlock_sides, sanlock_sides.disk()
    stranger = sides.theirs.hold(disk)
    assert HELD_HERE in sides.theirs_refused(disk)
    assert HELD_HERE in sides.theirs_refused(Disk(disk, shareable=True))
    sides.start_theirs(Disk(disk, readonly=True))  # without a lease
    assert [held.pid for held in sides.theirs.held(disk)] == [stranger.pid]


def test_shareable_disks_are_shared(sanlock_sides: SanlockSides) -> None:
    sides, disk = sanlock_sides, sanlock_sides.disk()
    stranger = sides.theirs.hold(disk, shared=True)
    assert HELD_HERE in sides.theirs_refused(disk)
    sides.start_theirs(Disk(disk, shareable=True))
    pids = {held.pid: held.version for held in sides.theirs.held(disk)}
    assert pids == {stranger.pid: None, sides.host.qemu_pid(THEIRS): None}
    with pytest.raises(facts.SanlockError, match="acquire done -17"):
        sides.theirs.hold(disk)
