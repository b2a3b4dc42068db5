"""Do the etcd plugin's leases exclude, outlive what etcd does to sessions, and prove themselves?

The plugin itself against real clusters: one member, and three with TLS and
users; no guests, so that etcd alone is the judge.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import (
    LeaseHeldError,
    LeaseLostError,
    LockError,
    Mode,
    Resource,
    ResourceType,
)
from lockplugins.etcd.client import UnknownOutcomeError, UnreachableError
from lockplugins.etcd.connection import now
from lockplugins.etcd.plugin import ANSWER_S
from tests.support import waiting
from tests.support.etcd import Tls

if TYPE_CHECKING:
    from pathlib import Path

    from lockplugins.etcd.plugin import EtcdPlugin
    from tests.support.etcd import Cluster
    from tests.support.etcd_hosts import Host


def disk(path: str, mode: str = Mode.EXCLUSIVE) -> Resource:
    return Resource(path, mode)


def vm(name: str) -> Resource:
    return Resource(f"uuid-{name}", resource_type=ResourceType.VM)


def end_session(cluster: Cluster, plugin: EtcdPlugin) -> None:
    """Have etcd forget it, as an administrator or a bug does."""
    cluster.etcdctl("lease", "revoke", f"{plugin._session.grant:x}")


def test_all_of_a_guest_is_taken_in_one_transaction_or_nothing(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first, second = etcd_host(etcd_member, "first"), etcd_host(etcd_member, "second")
    leases = first.acquire([vm("first"), *map(disk, etcd_disks)], None)
    assert len({lease.generation for lease in leases}) == 1
    before = etcd_member.kept()
    with pytest.raises(
        LeaseHeldError, match=r"guest first \(uuid-first\) on host .*generation \d+"
    ) as refused:
        second.acquire([vm("second"), disk(etcd_disks[1]), disk(etcd_disks[0])], None)
    assert refused.value.holder is not None
    assert refused.value.holder.host == os.uname().nodename
    assert etcd_member.kept() == before
    for lease in reversed(leases):
        first.release(lease)
    assert len(second.acquire([vm("second"), disk(etcd_disks[0])], None)) == 2


def test_readers_share_and_keep_the_writer_out(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first, second, third = (etcd_host(etcd_member, name) for name in ("first", "second", "third"))
    shared = [
        plugin.acquire([disk(etcd_disks[0], Mode.SHARED)], None)[0] for plugin in (first, second)
    ]
    with pytest.raises(LeaseHeldError, match=r"guest (first|second)"):
        third.acquire([disk(etcd_disks[0])], None)
    first.release(shared[0])
    with pytest.raises(LeaseHeldError, match="guest second"):
        third.acquire([disk(etcd_disks[0])], None)
    second.release(shared[1])
    third.acquire([disk(etcd_disks[0])], None)
    with pytest.raises(LeaseHeldError, match="guest third"):
        first.acquire([disk(etcd_disks[0], Mode.SHARED)], None)
    holders = third.inquire(disk(etcd_disks[0]))
    assert [(holder.mode, "guest third" in holder.description) for holder in holders] == [
        (Mode.EXCLUSIVE, True)
    ]


def test_a_guest_of_one_uuid_runs_once(etcd_member: Cluster, etcd_host: Host) -> None:
    etcd_host(etcd_member, "web1").acquire([vm("web1")], None)
    with pytest.raises(LeaseHeldError, match="guest web1"):
        etcd_host(etcd_member, "web1").acquire([vm("web1")], None)


def test_the_same_disk_twice_is_one_claim_of_the_stronger_mode(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(etcd_disks[0])
    plugin = etcd_host(etcd_member, "first")
    leases = plugin.acquire([disk(str(link), Mode.SHARED), disk(etcd_disks[0])], None)
    other = etcd_host(etcd_member, "second")
    plugin.release(leases[0])
    with pytest.raises(LeaseHeldError):
        other.acquire([disk(etcd_disks[0], Mode.SHARED)], None)
    plugin.release(leases[1])
    other.acquire([disk(etcd_disks[0], Mode.SHARED)], None)


@pytest.mark.parametrize("mode", Mode.ALL)
def test_a_session_that_ends_early_is_healed_and_frees_nothing(
    mode: str, etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first, second = etcd_host(etcd_member, "first"), etcd_host(etcd_member, "second")
    first.acquire([vm("first"), disk(etcd_disks[0], mode)], None)
    end_session(etcd_member, first)
    with pytest.raises(LeaseHeldError, match=r"its session is gone: it can be taken over in \d+ s"):
        second.acquire([disk(etcd_disks[0])], None)
    before = now()
    assert first.renew() >= before
    assert first._keeping.healed == 1
    with pytest.raises(LeaseHeldError, match="stop the guest there"):
        second.acquire([disk(etcd_disks[0])], None)


def test_the_dead_are_taken_over_after_their_time_and_not_before(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first, reader, second = (etcd_host(etcd_member, name) for name in ("first", "reader", "second"))
    first.acquire([vm("first"), disk(etcd_disks[0])], None)
    reader.acquire([disk(etcd_disks[1], Mode.SHARED)], None)
    for dead in (first, reader):
        end_session(etcd_member, dead)
    began = now()
    second.acquire([vm("second"), disk(etcd_disks[0]), disk(etcd_disks[1])], began + 60)
    took = now() - began
    print(f"taken over {took:.1f} s after the session's end, W {first.timing.watch_s:g} s")
    assert took >= first.timing.watch_of(first.timing.proof_s)
    for dead in (first, reader):
        with pytest.raises(LeaseLostError, match=r"guest second|key in etcd is gone"):
            dead.renew()
    second.renew()


def test_who_has_waited_for_long_is_told_of_the_holder(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    etcd_host(etcd_member, "first").acquire([disk(etcd_disks[0])], None)
    second = etcd_host(etcd_member, "second")
    with pytest.raises(LeaseHeldError, match="guest first"):
        second.acquire([disk(etcd_disks[0])], now() + ANSWER_S + 1)


def test_an_owner_key_that_is_deleted_is_a_loss(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    plugin = etcd_host(etcd_member, "first")
    plugin.acquire([vm("first"), disk(etcd_disks[0])], None)
    (owner,) = (key for key in etcd_member.kept() if key.endswith("a/w") and "deleted_is" in key)
    etcd_member.etcdctl("del", owner)
    with pytest.raises(LeaseLostError, match="its key in etcd is gone"):
        plugin.renew()


def test_what_was_given_up_comes_back_unless_others_had_it(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first, second = etcd_host(etcd_member, "first"), etcd_host(etcd_member, "second")
    (lease,) = first.acquire([disk(etcd_disks[0])], None)
    first.release(lease)
    first.reacquire(lease)
    first.renew()
    first.release(lease)
    (other,) = second.acquire([disk(etcd_disks[0])], None)
    with pytest.raises(LockError):
        first.reacquire(lease)
    second.release(other)
    with pytest.raises(LeaseLostError, match="others have had it"):
        first.reacquire(lease)


def test_a_lease_is_released_whatever_became_of_the_session(
    etcd_member: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    first, second = etcd_host(etcd_member, "first"), etcd_host(etcd_member, "second")
    lease, kept = first.acquire([disk(etcd_disks[0]), disk(etcd_disks[1])], None)
    end_session(etcd_member, first)
    first.release(lease)
    second.acquire([disk(etcd_disks[0])], None)
    with pytest.raises(LeaseHeldError):
        second.acquire([disk(kept.resource)], None)
    first.renew()


def test_three_members_with_tls_and_users_serve_a_guest_while_the_leader_is_away(
    etcd_three: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    plugin = etcd_host(etcd_three, "first")
    leases = plugin.acquire([vm("first"), *map(disk, etcd_disks)], None)
    for gone in (signal.SIGSTOP, signal.SIGKILL):
        leader = etcd_three.leader()
        leader.send(gone)
        before = now()
        assert plugin.renew() > before
        took = now() - before
        print(f"leader gone by {gone.name}: proven after {took:.2f} s")
        assert took < plugin.timing.proof_s
        if gone == signal.SIGSTOP:
            leader.send(signal.SIGCONT)
        else:
            leader.kill()
            etcd_three.start(leader)
    for lease in reversed(leases):
        plugin.release(lease)


def test_a_guest_logs_in_once_and_again_when_etcd_has_forgotten_it(
    etcd_three: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    plugin = etcd_host(etcd_three, "first")
    assert plugin._login
    first = plugin._login.token
    (lease,) = plugin.acquire([disk(etcd_disks[0])], None)
    plugin.renew()
    assert plugin._login.token == first
    stale = f"x{first}"  # as all are after 300 s, to a member that was not asked meanwhile
    plugin._login.token = stale
    plugin.renew()
    assert plugin._login.token not in {first, stale, ""}
    plugin.release(lease)


def test_two_of_three_frozen_members_leave_no_proof(
    etcd_three: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    plugin = etcd_host(etcd_three, "first")
    plugin.acquire([disk(etcd_disks[0])], None)
    frozen = etcd_three.members[:2]
    for member in frozen:
        member.send(signal.SIGSTOP)
    try:
        with pytest.raises((UnknownOutcomeError, UnreachableError)):
            plugin.renew()
    finally:
        for member in frozen:
            member.send(signal.SIGCONT)
    proven(plugin)  # when they have a leader again


def proven(plugin: EtcdPlugin) -> None:
    def renewed() -> bool:
        try:
            return plugin.renew() <= now()
        except LockError:
            return False

    waiting.until(renewed, 60, "it is proven again")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"namespace": "other"}, "permission denied"),
        ({"username": "nobody"}, "authentication failed"),
        ({"password_file": "/nowhere"}, "cannot read password_file /nowhere: .*ENOENT"),
        ({"ca_cert": "/nowhere"}, "cannot read /nowhere: .*ENOENT"),
    ],
)
def test_who_may_not_is_told_why(
    table: dict[str, str], words: str, etcd_three: Cluster, etcd_host: Host
) -> None:
    with pytest.raises(LockError, match=words):
        etcd_host(etcd_three, "first", **table)


def test_a_member_of_a_strange_authority_is_not_believed(
    etcd_three: Cluster, etcd_host: Host, tmp_path: Path
) -> None:
    strange = Tls(tmp_path / "strange").ca
    with pytest.raises(UnreachableError, match="certificate verify failed") as refused:
        etcd_host(etcd_three, "first", ca_cert=strange)
    assert "EPERM" not in str(refused.value)
