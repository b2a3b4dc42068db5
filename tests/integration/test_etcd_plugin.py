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
    Guest,
    LeaseHeldError,
    LeaseLostError,
    LockError,
    Mode,
    Resource,
    ResourceType,
)
from lockplugins.etcd.client import UnknownOutcomeError, UnreachableError
from lockplugins.etcd.connection import now
from lockplugins.etcd.plugin import EtcdPlugin
from tests.support.etcd import Cluster, Tls
from tests.support.stand_ins import CARRIER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Host = Callable[..., EtcdPlugin]

FAILOVER_S = 15


@pytest.fixture
def one(etcd_member: Cluster) -> Cluster:
    return etcd_member


@pytest.fixture(scope="module")
def three(
    require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    require("etcd")
    directory = tmp_path_factory.mktemp("three")
    with Cluster(directory / "etcd", 3, Tls(directory / "tls"), auth=True) as cluster:
        yield cluster


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Return a maker of guests' plugins, opened, in a namespace of the test's own."""
    opened: list[EtcdPlugin] = []

    def start(cluster: Cluster, name: str, **table: str) -> EtcdPlugin:
        space = cluster.config()["namespace"] if cluster.auth else request.node.name
        config = cluster.config() | {"namespace": space, "failover_s": str(FAILOVER_S)} | table
        plugin = EtcdPlugin(config, CARRIER)
        opened.append(plugin)
        plugin.open(Guest(f"uuid-{name}", name))
        return plugin

    yield start
    for plugin in opened:
        plugin.disconnect()


@pytest.fixture
def disks(tmp_path: Path) -> list[str]:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    return [str(tmp_path / name) for name in ("a", "b", "c")]


def disk(path: str, mode: str = Mode.EXCLUSIVE) -> Resource:
    return Resource(path, mode)


def vm(name: str) -> Resource:
    return Resource(f"uuid-{name}", resource_type=ResourceType.VM)


def end_session(cluster: Cluster, plugin: EtcdPlugin) -> None:
    """Have etcd forget it, as an administrator or a bug does."""
    cluster.etcdctl("lease", "revoke", f"{plugin._session.grant:x}")


def test_all_of_a_guest_is_taken_in_one_transaction_or_nothing(
    one: Cluster, host: Host, disks: list[str]
) -> None:
    first, second = host(one, "first"), host(one, "second")
    leases = first.acquire([vm("first"), *map(disk, disks)], None)
    assert len({lease.generation for lease in leases}) == 1
    before = one.kept()
    with pytest.raises(
        LeaseHeldError, match=r"guest first \(uuid-first\) on host .*generation \d+"
    ) as refused:
        second.acquire([vm("second"), disk(disks[1]), disk(disks[0])], None)
    assert refused.value.holder is not None
    assert refused.value.holder.host == os.uname().nodename
    assert one.kept() == before
    for lease in reversed(leases):
        first.release(lease)
    assert len(second.acquire([vm("second"), disk(disks[0])], None)) == 2


def test_readers_share_and_keep_the_writer_out(one: Cluster, host: Host, disks: list[str]) -> None:
    first, second, third = (host(one, name) for name in ("first", "second", "third"))
    shared = [plugin.acquire([disk(disks[0], Mode.SHARED)], None)[0] for plugin in (first, second)]
    with pytest.raises(LeaseHeldError, match=r"guest (first|second)"):
        third.acquire([disk(disks[0])], None)
    first.release(shared[0])
    with pytest.raises(LeaseHeldError, match="guest second"):
        third.acquire([disk(disks[0])], None)
    second.release(shared[1])
    third.acquire([disk(disks[0])], None)
    with pytest.raises(LeaseHeldError, match="guest third"):
        first.acquire([disk(disks[0], Mode.SHARED)], None)
    holders = third.inquire(disk(disks[0]))
    assert [(holder.mode, "guest third" in holder.description) for holder in holders] == [
        (Mode.EXCLUSIVE, True)
    ]


def test_a_guest_of_one_uuid_runs_once(one: Cluster, host: Host) -> None:
    host(one, "web1").acquire([vm("web1")], None)
    with pytest.raises(LeaseHeldError, match="guest web1"):
        host(one, "web1").acquire([vm("web1")], None)


def test_the_same_disk_twice_is_one_claim_of_the_stronger_mode(
    one: Cluster, host: Host, disks: list[str], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(disks[0])
    plugin = host(one, "first")
    leases = plugin.acquire([disk(str(link), Mode.SHARED), disk(disks[0])], None)
    other = host(one, "second")
    plugin.release(leases[0])
    with pytest.raises(LeaseHeldError):
        other.acquire([disk(disks[0], Mode.SHARED)], None)
    plugin.release(leases[1])
    other.acquire([disk(disks[0], Mode.SHARED)], None)


@pytest.mark.parametrize("mode", Mode.ALL)
def test_a_session_that_ends_early_is_healed_and_frees_nothing(
    mode: str, one: Cluster, host: Host, disks: list[str]
) -> None:
    first, second = host(one, "first"), host(one, "second")
    first.acquire([vm("first"), disk(disks[0], mode)], None)
    end_session(one, first)
    with pytest.raises(LeaseHeldError, match=r"its session is gone: it can be taken over in \d+ s"):
        second.acquire([disk(disks[0])], None)
    before = now()
    assert first.renew() >= before
    assert first._keeping.healed == 1
    with pytest.raises(LeaseHeldError, match="stop the guest there"):
        second.acquire([disk(disks[0])], None)


def test_the_dead_are_taken_over_after_their_time_and_not_before(
    one: Cluster, host: Host, disks: list[str]
) -> None:
    first, reader, second = (host(one, name) for name in ("first", "reader", "second"))
    first.acquire([vm("first"), disk(disks[0])], None)
    reader.acquire([disk(disks[1], Mode.SHARED)], None)
    for dead in (first, reader):
        end_session(one, dead)
    began = now()
    second.acquire([vm("second"), disk(disks[0]), disk(disks[1])], began + 60)
    took = now() - began
    print(f"taken over {took:.1f} s after the session's end, W {first.timing.watch_s:g} s")
    assert took >= first.timing.watch_of(first.timing.proof_s)
    for dead in (first, reader):
        with pytest.raises(LeaseLostError, match=r"guest second|key in etcd is gone"):
            dead.renew()
    second.renew()


def test_an_owner_key_that_is_deleted_is_a_loss(one: Cluster, host: Host, disks: list[str]) -> None:
    plugin = host(one, "first")
    plugin.acquire([vm("first"), disk(disks[0])], None)
    (owner,) = (key for key in one.kept() if key.endswith("a/w") and "deleted_is" in key)
    one.etcdctl("del", owner)
    with pytest.raises(LeaseLostError, match="its key in etcd is gone"):
        plugin.renew()


def test_what_was_given_up_comes_back_unless_others_had_it(
    one: Cluster, host: Host, disks: list[str]
) -> None:
    first, second = host(one, "first"), host(one, "second")
    (lease,) = first.acquire([disk(disks[0])], None)
    first.release(lease)
    first.reacquire(lease)
    first.renew()
    first.release(lease)
    (other,) = second.acquire([disk(disks[0])], None)
    with pytest.raises(LockError):
        first.reacquire(lease)
    second.release(other)
    with pytest.raises(LeaseLostError, match="others have had it"):
        first.reacquire(lease)


def test_three_members_with_tls_and_users_serve_a_guest_while_the_leader_is_away(
    three: Cluster, host: Host, disks: list[str]
) -> None:
    plugin = host(three, "first")
    leases = plugin.acquire([vm("first"), *map(disk, disks)], None)
    for gone in (signal.SIGSTOP, signal.SIGKILL):
        leader = three.leader()
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
            three.start(leader)
    for lease in reversed(leases):
        plugin.release(lease)


def test_two_of_three_frozen_members_leave_no_proof(
    three: Cluster, host: Host, disks: list[str]
) -> None:
    plugin = host(three, "first")
    plugin.acquire([disk(disks[0])], None)
    frozen = three.members[:2]
    for member in frozen:
        member.send(signal.SIGSTOP)
    try:
        with pytest.raises((UnknownOutcomeError, UnreachableError)):
            plugin.renew()
    finally:
        for member in frozen:
            member.send(signal.SIGCONT)
    assert plugin.renew() <= now()


def test_doctor_sees_the_cluster_well_and_says_the_arithmetic(
    three: Cluster, disks: list[str]
) -> None:
    before = three.kept()
    plugin = EtcdPlugin(three.config(), CARRIER)
    found = {(check, well): evidence for check, well, evidence, _mend in plugin.examine(None)}
    assert "12 s after its last proof" in found["failover", True]
    assert "one cluster" in found["etcd cluster", True]
    assert "linearizable read is answered" in found["etcd quorum", True]
    assert found["etcd alarms", True] == "none"
    assert found["etcd version", True].startswith("3.")
    assert "authority until" in found["etcd TLS", False]  # the tests' is for two days
    ((name, well, _evidence, mend),) = plugin.examine(disk(disks[0]))
    assert (name, well, "id=IDENTITY" in mend) == ("name", False, True)
    assert three.kept() == before


def test_doctor_names_the_members_that_are_away_and_a_quorum_that_is_lost(three: Cluster) -> None:
    for member in three.members[:2]:
        member.send(signal.SIGSTOP)
    try:
        found = EtcdPlugin(three.config(), CARRIER).examine(None)
    finally:
        for member in three.members[:2]:
            member.send(signal.SIGCONT)
    ill = [check for check, well, _evidence, _mend in found if not well]
    assert ill.count("etcd member") >= 2
    assert "etcd quorum" in ill
    assert all(mend for _check, well, _evidence, mend in found if not well)


def test_members_of_two_clusters_are_told_apart_and_one_alone_is_believed(
    one: Cluster, host: Host, tmp_path: Path, disks: list[str]
) -> None:
    with Cluster(tmp_path / "other") as other:
        both = f"{one.endpoints},{other.endpoints}"
        found = EtcdPlugin(one.config() | {"endpoints": both}, CARRIER).examine(None)
        ((words, mend),) = (
            (evidence, mend) for check, well, evidence, mend in found if check == "etcd cluster"
        )
        assert one.endpoints in words
        assert other.endpoints in words
        assert mend == "name those of one"
        plugin = host(one, "first", endpoints=both)
        plugin.acquire([disk(disks[0])], None)
        one.members[0].send(signal.SIGSTOP)
        try:
            with pytest.raises(LockError, match="it is of another cluster"):
                plugin.renew()
        finally:
            one.members[0].send(signal.SIGCONT)
        assert other.kept() == {}


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
    table: dict[str, str], words: str, three: Cluster, host: Host
) -> None:
    with pytest.raises(LockError, match=words):
        host(three, "first", **table)
