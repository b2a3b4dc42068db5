"""How much fits into etcd's transactions: of one guest, of a dead one, of one disk's readers?

Beyond it a guest is refused before anything is touched, and never ended later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, Mode, Resource, ResourceType, UnsupportedError
from lockplugins.etcd.connection import now

if TYPE_CHECKING:
    from tests.support.etcd import Cluster
    from tests.support.etcd_hosts import Host

AT_ONCE = 63  # leases; all but one of them disks
IN_ALL = 127
DEADLINE_S = 60.0


def disks(first: int, count: int) -> list[Resource]:
    return [Resource("/nowhere", identity=f"d{number}") for number in range(first, first + count)]


def guest(name: str) -> list[Resource]:
    """Return as many leases as a guest can have when it starts: the disks are everybody's."""
    return [Resource(f"uuid-{name}", resource_type=ResourceType.VM), *disks(1, AT_ONCE - 1)]


def test_as_much_as_a_guest_can_have_is_proven_taken_over_and_released(
    etcd_member: Cluster, etcd_host: Host
) -> None:
    first, second = etcd_host(etcd_member, "first"), etcd_host(etcd_member, "second")
    first.acquire(guest("first"), None)
    assert first.renew() <= now()
    etcd_member.etcdctl("lease", "revoke", f"{first._session.grant:x}")
    taken = second.acquire(guest("second"), now() + DEADLINE_S)
    assert len(taken) == AT_ONCE
    assert second.renew() <= now()
    for lease in reversed(taken):
        second.release(lease)


def test_a_lease_too_many_is_refused_and_the_guest_goes_on(
    etcd_member: Cluster, etcd_host: Host
) -> None:
    plugin = etcd_host(etcd_member, "first")
    with pytest.raises(UnsupportedError, match="has at most 127 leases, and takes half at once"):
        plugin.acquire([*guest("first"), *disks(1000, 1)], None)
    plugin.acquire(guest("first"), None)
    plugin.acquire(disks(100, AT_ONCE), None)
    (last,) = plugin.acquire(disks(1000, IN_ALL - 2 * AT_ONCE), None)
    with pytest.raises(UnsupportedError, match="has at most 127 leases, and takes half at once"):
        plugin.acquire(disks(1001, 1), None)
    assert plugin.renew() <= now()
    etcd_member.etcdctl("lease", "revoke", f"{plugin._session.grant:x}")
    assert plugin.renew() <= now()
    assert plugin._keeping.healed == 1
    plugin.release(last)
    plugin.acquire(disks(1001, 1), None)


def test_a_writer_is_told_of_one_of_many_readers(etcd_member: Cluster, etcd_host: Host) -> None:
    for number in range(IN_ALL + 2):
        reader = etcd_host(etcd_member, f"reader{number}")
        reader.acquire([Resource("/nowhere", Mode.SHARED, identity="base")], None)
        reader.disconnect()
    with pytest.raises(LeaseHeldError, match="held by guest reader"):
        etcd_host(etcd_member, "writer").acquire([Resource("/nowhere", identity="base")], None)
