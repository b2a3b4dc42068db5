"""Does what an etcd guest gives up come back to it, and to nobody twice, however late etcd hears?

The plugin itself against a real member, to which what is asked may arrive late.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LeaseLostError, Mode, Resource, UnsupportedError
from lockplugins.etcd.client import RefusedError, UnknownOutcomeError
from lockplugins.etcd.keys import Place
from tests.support.etcd import NAMESPACE, USER
from tests.support.late import Late

if TYPE_CHECKING:
    from pathlib import Path

    from lockplugins.etcd.plugin import EtcdPlugin
    from tests.support.etcd import Cluster
    from tests.support.etcd_hosts import Host

PREFIX = f"/lsup/v1/{NAMESPACE}/"


def end_session(cluster: Cluster, plugin: EtcdPlugin) -> None:
    """Have etcd forget it, as an administrator or a bug does."""
    cluster.etcdctl("lease", "revoke", f"{plugin._session.grant:x}")


def test_a_release_that_arrives_late_frees_nothing_that_is_held_again(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    with Late(etcd_member.members[0]) as late:
        first = etcd_host(etcd_member, "first", endpoints=f"{late.url},{etcd_member.endpoints}")
        (lease,) = first.acquire([Resource(etcd_disks[0])], None)
        late.holds = b"request_delete_range"
        first.release(lease)  # no answer from the first member, and done by the next
        first.reacquire(lease)
        late.deliver()
        first.renew()
        with pytest.raises(LeaseHeldError):
            etcd_host(etcd_member, "second").acquire([Resource(etcd_disks[0])], None)


def test_a_guest_ends_without_a_word_when_etcd_has_forgotten_its_session(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first = etcd_host(etcd_member, "first")
    (lease,) = first.acquire([Resource(etcd_disks[0])], None)
    end_session(etcd_member, first)
    first.release(lease)
    first.close()
    assert not [key for key in etcd_member.kept() if "forgotten_its_session" in key]


def test_a_release_that_etcd_refuses_leaves_a_lease_that_is_proven(
    etcd_three: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first = etcd_host(etcd_three, "first")
    (lease,) = first.acquire([Resource(etcd_disks[0])], None)
    etcd_three.etcdctl("role", "revoke-permission", USER, "--prefix", PREFIX)
    try:
        with pytest.raises(RefusedError, match="permission denied"):
            first.release(lease)
    finally:
        etcd_three.etcdctl("role", "grant-permission", USER, "--prefix=true", "readwrite", PREFIX)
    first.renew()
    kept = etcd_three.kept().items()
    (owner,) = (key for key, value in kept if value == first._session.value and "/disk/" in key)
    etcd_three.etcdctl("del", owner)
    with pytest.raises(LeaseLostError, match="its key in etcd is gone"):
        first.renew()


@pytest.mark.long
def test_a_release_without_an_answer_is_in_doubt_and_done_later(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    with Late(etcd_member.members[0]) as late:
        first, second = (
            etcd_host(etcd_member, "first", endpoints=late.url),
            etcd_host(etcd_member, "second"),
        )
        (lease,) = first.acquire([Resource(etcd_disks[0])], None)
        late.holds = b"request_delete_range"
        with pytest.raises(UnknownOutcomeError):
            first.release(lease)
        late.holds = None
        first.reacquire(lease)
        late.deliver()
        first.renew()
        with pytest.raises(LeaseHeldError):
            second.acquire([Resource(etcd_disks[0])], None)
        late.holds = b"request_delete_range"
        with pytest.raises(UnknownOutcomeError):
            first.release(lease)
        late.holds = None
        first.release(lease)
        second.acquire([Resource(etcd_disks[0])], None)


def test_what_was_given_up_comes_back_however_long_that_takes(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first = etcd_host(etcd_member, "first")
    leases = first.acquire([Resource(etcd_disks[0]), Resource(etcd_disks[1], Mode.SHARED)], None)
    for lease in reversed(leases):
        first.release(lease)
    end_session(etcd_member, first)
    for lease in leases:
        first.reacquire(lease)
    assert first._keeping.healed == 0
    first.renew()
    assert first._keeping.healed == 1
    for lease in reversed(leases):
        first.release(lease)
    first.close()
    assert not [key for key in etcd_member.kept() if first._session.sid in key]


def test_a_sharer_does_not_come_back_when_another_that_came_back_has_written(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    writer, reader = etcd_host(etcd_member, "writer"), etcd_host(etcd_member, "reader")
    (written,) = writer.acquire([Resource(etcd_disks[0])], None)
    writer.release(written)
    (read,) = reader.acquire([Resource(etcd_disks[0], Mode.SHARED)], None)
    reader.release(read)
    writer.reacquire(written)
    writer.release(written)
    with pytest.raises(LeaseLostError, match="others have had it"):
        reader.reacquire(read)


def test_a_disk_of_two_names_comes_back_by_both(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(etcd_disks[0])
    first, second = etcd_host(etcd_member, "first"), etcd_host(etcd_member, "second")
    leases = first.acquire([Resource(etcd_disks[0]), Resource(str(link), Mode.SHARED)], None)
    for lease in reversed(leases):
        first.release(lease)
    for lease in leases:
        first.reacquire(lease)
    first.renew()
    with pytest.raises(LeaseHeldError):
        second.acquire([Resource(etcd_disks[0])], None)
    for lease in leases:
        first.release(lease)
    second.acquire([Resource(etcd_disks[0])], None)


def test_a_second_name_of_a_disk_is_attached_at_most_as_strongly(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(etcd_disks[0])
    first, second = etcd_host(etcd_member, "first"), etcd_host(etcd_member, "second")
    (strong,) = first.acquire([Resource(etcd_disks[0])], None)
    (weak,) = first.acquire([Resource(str(link), Mode.SHARED)], None)
    first.release(strong)
    first.renew()
    with pytest.raises(LeaseHeldError):
        second.acquire([Resource(etcd_disks[0], Mode.SHARED)], None)
    first.release(weak)
    first.acquire([Resource(etcd_disks[0], Mode.SHARED)], None)
    before = etcd_member.kept()
    with pytest.raises(UnsupportedError, match=r"this guest has it shared.*; detach that first"):
        first.acquire([Resource(str(link))], None)
    assert etcd_member.kept() == before


def test_a_refusal_of_before_is_not_said_again(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first, second = etcd_host(etcd_member, "first"), etcd_host(etcd_member, "second")
    (lease,) = first.acquire([Resource(etcd_disks[0])], None)
    with pytest.raises(LeaseHeldError):
        second.acquire([Resource(etcd_disks[0])], None)
    first.release(lease)
    end_session(etcd_member, second)
    assert len(second.acquire([Resource(etcd_disks[0])], None)) == 1


def test_what_strangers_have_written_is_an_owner_for_ever(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    plugin = etcd_host(etcd_member, "first")
    ((space, name),) = plugin.named(Resource(etcd_disks[0]))
    key = Place(space, "disk", name).owner
    etcd_member.etcdctl("put", key, os.fsdecode(b"\xff\xfe"))
    with pytest.raises(LeaseHeldError, match="not ours to read"):
        plugin.acquire([Resource(etcd_disks[0])], None)
    etcd_member.etcdctl("del", key)  # others cannot read it either
