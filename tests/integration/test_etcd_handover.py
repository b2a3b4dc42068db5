"""Is a guest of etcd's one end's alone, whoever of the two dies, and whatever etcd forgets?

The plugin itself as both ends, against real members.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LeaseLostError, LockError, Mode, Resource
from lockplugins.etcd.client import UnknownOutcomeError, UnreachableError
from lockplugins.etcd.connection import now
from tests.support import waiting
from tests.support.etcd import Cluster
from tests.support.etcd_ends import FAILOVER_S, NONCE, OTHER_NONCE, End, handed, owner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.etcd_ends import Make

DEADLINE_S = 60.0


def test_what_is_shared_is_shared_by_both_and_moves_with_its_reader(
    etcd_member: Cluster, etcd_end: Make, etcd_disks: list[str]
) -> None:
    own, shared = etcd_disks[:2]
    source, target, other = etcd_end(), etcd_end(), etcd_end(failover_s="60")
    source.own(own, shared=(shared,))
    target.wait(own, shared=(shared,))
    assert target.said() == [("exclusive", "pending")] * 2 + [("shared", "held")]
    told = source.side.prepare(NONCE)
    source.side.hand_over()
    target.side.complete_in(NONCE, told)
    assert target.said() == [("exclusive", "held")] * 2 + [("shared", "held")]
    assert source.side.has_lost()
    assert source.said() == [("exclusive", "lost")] * 2 + [("shared", "held")]
    source.end()
    for disk in (own, shared):
        with pytest.raises(LeaseHeldError):
            other.plugin.acquire([Resource(disk)], None)
    other.plugin.acquire([Resource(shared, Mode.SHARED)], None)
    assert owner(etcd_member, target) == {True}
    generations = [lease.generation for lease in target.leases]
    assert None not in generations
    target.end()
    assert other.plugin.acquire([Resource(own)], None)[0].generation > max(generations)  # type: ignore[type-var, operator]  # none is None


def test_a_lease_that_comes_after_the_hand_over_is_as_every_other(
    etcd_end: Make, etcd_disks: list[str]
) -> None:
    """As hot-plug and parking need it, on both hosts."""
    source, target, other = etcd_end(), etcd_end(), etcd_end()
    source.own(*etcd_disks[:1])
    (goes,) = source.plugin.acquire([Resource(etcd_disks[1])], None)
    source.plugin.release(goes)
    target.side.complete_in(NONCE, handed(source, target, etcd_disks[:1]))
    (late,) = target.plugin.acquire([Resource(etcd_disks[1])], None)
    for lease in (late, target.leases[1]):
        target.plugin.release(lease)
        target.plugin.reacquire(lease)
        with pytest.raises(LeaseHeldError):
            other.plugin.acquire([Resource(lease.resource)], None)
    with pytest.raises(LockError):
        source.plugin.reacquire(goes)
    source.end()
    back = etcd_end()
    back.wait(*etcd_disks[:2])
    told = target.side.prepare(OTHER_NONCE)
    target.side.hand_over()
    back.side.complete_in(OTHER_NONCE, told)
    target.end()
    assert {state for _, state in back.said()} == {"held"}


def test_a_destination_that_is_dead_is_known_by_its_session(
    etcd_member: Cluster, etcd_end: Make, etcd_disks: list[str]
) -> None:
    """With the source's own clock, and the longer of both hosts' times."""
    source, target = etcd_end(), etcd_end(failover_s="20")
    told = handed(source, target, etcd_disks)
    target.stop_renewing()
    etcd_member.etcdctl("lease", "revoke", f"{target.plugin._session.grant:x}")
    began = now()
    with pytest.raises(LeaseHeldError, match=r"its session is gone: try again in \d+ s"):
        source.side.take_back()

    def is_back() -> bool:
        try:
            source.side.take_back()
        except LeaseHeldError:
            return False
        return True

    waiting.until(is_back, DEADLINE_S, "the source has it again")
    took = now() - began
    assert took >= source.plugin.timing.watch_of(target.plugin.timing.proof_s)
    assert owner(etcd_member, source) == {True}
    with pytest.raises(LockError, match="that attempt is over"):
        target.side.complete_in(NONCE, told)


def test_without_the_ticket_in_its_own_hand_a_source_cancels_nothing(
    etcd_member: Cluster, etcd_end: Make, etcd_disks: list[str]
) -> None:
    """As when somebody takes that away just before."""
    source, target = etcd_end(), etcd_end()
    told = handed(source, target, etcd_disks)
    side = source.plugin._handover
    assert side
    assert not side._attempt.cancel(side._owned(), now() + DEADLINE_S, alone=True)
    target.side.complete_in(NONCE, told)
    assert owner(etcd_member, target) == {True}


def test_a_source_that_is_gone_leaves_the_guest_to_who_awaits_it_for_a_while(
    etcd_member: Cluster, etcd_end: Make, etcd_disks: list[str]
) -> None:
    source, target, other = etcd_end(), etcd_end(), etcd_end()
    told = handed(source, target, etcd_disks)
    source.stop_renewing()
    etcd_member.etcdctl("lease", "revoke", f"{source.plugin._session.grant:x}")
    with pytest.raises(LeaseHeldError):
        other.plugin.acquire([Resource(etcd_disks[0])], None)
    target.side.complete_in(NONCE, told)
    assert owner(etcd_member, target) == {True}
    with pytest.raises(LeaseHeldError):
        other.plugin.acquire([Resource(etcd_disks[0])], None)


def test_who_has_had_a_disk_since_the_source_ended_is_found_out(
    etcd_member: Cluster, etcd_end: Make, etcd_disks: list[str]
) -> None:
    source, target, other = etcd_end(), etcd_end(), etcd_end()
    told = handed(source, target, etcd_disks)
    source.stop_renewing()
    etcd_member.etcdctl("lease", "revoke", f"{source.plugin._session.grant:x}")
    other.plugin.acquire([Resource(etcd_disks[1])], now() + DEADLINE_S)
    with pytest.raises(LeaseLostError, match="start the guest anew"):
        target.side.complete_in(NONCE, told)


def test_a_session_that_etcd_ends_in_between_is_healed(
    etcd_member: Cluster, etcd_end: Make, etcd_disks: list[str]
) -> None:
    source, target = etcd_end(), etcd_end()
    told = handed(source, target, etcd_disks)
    for end in (source, target):
        etcd_member.etcdctl("lease", "revoke", f"{end.plugin._session.grant:x}")
    target.side.complete_in(NONCE, told)
    assert owner(etcd_member, target) == {True}
    target.plugin.renew()


def test_a_guest_that_has_run_too_early_is_never_its_sources_again(
    etcd_end: Make, etcd_disks: list[str]
) -> None:
    source, target = etcd_end(), etcd_end()
    told = handed(source, target, etcd_disks)
    target.side.confirm()
    with pytest.raises(LockError, match="that attempt is over"):
        target.side.complete_in(NONCE, told)
    target.end()
    with pytest.raises(LockError, match="or has run"):
        source.side.take_back()


def test_while_the_leader_stands_still_every_step_is_done(
    require: Callable[[str], str], tmp_path: Path
) -> None:
    require("etcd")
    disks = ["one", "two"]
    with Cluster(tmp_path / "etcd", 3) as cluster:
        table = cluster.config() | {"failover_s": FAILOVER_S}
        with End(table).renewing() as source, End(table).renewing() as target:
            source.own(*disks)
            steps: list[Callable[[], object]] = [
                lambda: target.wait(*disks),
                lambda: source.side.prepare(NONCE),
                source.side.take_back,
                lambda: source.side.prepare(OTHER_NONCE),
                source.side.hand_over,
            ]
            for step in steps:
                beside_a_frozen_leader(cluster, step)
            told = source.told()
            beside_a_frozen_leader(cluster, lambda: target.side.complete_in(OTHER_NONCE, told))
            assert owner(cluster, target) == {True}
            target.plugin.renew()


def beside_a_frozen_leader(cluster: Cluster, step: Callable[[], object]) -> None:
    """Do a step while the leader stands still; then it goes on, with what it had been asked."""
    leader = cluster.leader()
    leader.send(signal.SIGSTOP)
    try:
        waiting.until(lambda: is_known(step), DEADLINE_S, "the others have chosen another")
    finally:
        leader.send(signal.SIGCONT)
    waiting.until(cluster.is_healthy, DEADLINE_S, "all members go on")


def is_known(step: Callable[[], object]) -> bool:
    """Do a step: is it known to be done? If not it may be asked for again."""
    try:
        step()
    except (UnknownOutcomeError, UnreachableError):
        return False
    return True
