"""Is a guest of etcd's one end's alone, however late etcd hears, answers, or is heard of?

The plugin itself as both ends, against real members: requests that arrive late, answers that never
come, members that stand still.
"""

from __future__ import annotations

import signal
from base64 import b64encode
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LeaseLostError, LockError, Mode, Resource
from lockplugins.etcd.client import UnknownOutcomeError
from lockplugins.etcd.connection import now
from tests.support import waiting
from tests.support.etcd import Cluster
from tests.support.etcd_ends import NONCE, OTHER_NONCE, End
from tests.support.late import Late

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., End]

DEADLINE_S = 60.0
FAILOVER_S = "15"


@pytest.fixture
def table(etcd_member: Cluster, request: pytest.FixtureRequest) -> dict[str, str]:
    return etcd_member.config() | {"namespace": request.node.name, "failover_s": FAILOVER_S}


@pytest.fixture
def late(etcd_member: Cluster) -> Iterator[Late]:
    with Late(etcd_member.members[0]) as found:
        yield found


@pytest.fixture
def make(table: dict[str, str]) -> Iterator[Make]:
    """Return a maker of ends, which renew as guards' do."""
    with ExitStack() as stack:
        yield lambda **more: stack.enter_context(End(table | more).renewing())


def doubly(late: Late, table: dict[str, str]) -> str:
    """Return endpoints of which the first may hear late, and the second is asked then."""
    return f"{late.url},{table['endpoints']}"


def wire(text: str) -> bytes:
    """Return a value as it is in a request."""
    return b64encode(text.encode())


def owner(cluster: Cluster, end: End) -> set[bool]:
    """Return whether the keys of owners are this end's, by what etcd itself has."""
    below = f"/lsup/v1/{end.plugin.namespace}/"
    kept = cluster.kept(below)
    found = {key: value for key, value in kept.items() if key.endswith("/w") and "/in/" not in key}
    assert len(found) > 1
    return {end.plugin._session.value == value for value in found.values()}


def attempt(cluster: Cluster, end: End) -> list[str]:
    """Return what etcd has of an attempt to migrate the guest."""
    return list(cluster.kept(f"/lsup/v1/{end.plugin.namespace}/out/").values())


def handed(source: End, target: End, disks: list[str], nonce: str = NONCE) -> str:
    """Bring them to where the source has handed over; returns what the target is told."""
    if not source.leases:
        source.own(*disks)
    target.wait(*disks)
    told = source.side.prepare(nonce)
    source.side.hand_over()
    return told


def test_what_is_shared_is_shared_by_both_and_moves_with_its_reader(
    etcd_member: Cluster, make: Make, etcd_disks: list[str]
) -> None:
    own, shared = etcd_disks[:2]
    source, target, other = make(), make(), make(failover_s="60")
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
    make: Make, etcd_disks: list[str]
) -> None:
    """As hot-plug and parking need it, on both hosts."""
    source, target, other = make(), make(), make()
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
    back = make()
    back.wait(*etcd_disks[:2])
    told = target.side.prepare(OTHER_NONCE)
    target.side.hand_over()
    back.side.complete_in(OTHER_NONCE, told)
    target.end()
    assert {state for _, state in back.said()} == {"held"}


def test_a_beginning_that_arrives_late_begins_nothing(
    etcd_member: Cluster, make: Make, late: Late, table: dict[str, str], etcd_disks: list[str]
) -> None:
    source = make(endpoints=doubly(late, table))
    source.own(*etcd_disks)
    late.holds = wire(f"prepared {NONCE} {source.sid}")
    source.side.prepare(NONCE)  # no answer from the first member, and done by the next
    source.side.take_back()
    before = attempt(etcd_member, source)
    assert before == [f"over {NONCE} {source.sid}"]
    late.deliver()
    assert attempt(etcd_member, source) == before


def test_a_hand_over_that_arrives_late_is_of_an_attempt_that_is_over(
    etcd_member: Cluster, make: Make, late: Late, table: dict[str, str], etcd_disks: list[str]
) -> None:
    source, first, second = make(endpoints=doubly(late, table)), make(), make()
    late.holds = wire(f"handed {NONCE} {source.sid}")
    handed(source, first, etcd_disks)
    first.end()
    source.side.take_back()
    second.wait(*etcd_disks)
    told = source.side.prepare(OTHER_NONCE)
    late.deliver()
    assert attempt(etcd_member, source) == [f"prepared {OTHER_NONCE} {source.sid}"]
    with pytest.raises(LeaseHeldError, match="has not handed over"):
        second.side.complete_in(OTHER_NONCE, told)
    assert owner(etcd_member, source) == {True}


def test_a_cancel_that_arrives_late_ends_no_later_attempt(
    etcd_member: Cluster, make: Make, late: Late, table: dict[str, str], etcd_disks: list[str]
) -> None:
    source, target = make(endpoints=doubly(late, table)), make()
    source.own(*etcd_disks)
    source.side.prepare(NONCE)
    late.holds = wire(f"over {NONCE} {source.sid}")
    source.side.take_back()  # its guest runs: no ticket is needed
    told = handed(source, target, etcd_disks, OTHER_NONCE)
    late.deliver()
    assert attempt(etcd_member, source) == [f"handed {OTHER_NONCE} {source.sid}"]
    target.side.complete_in(OTHER_NONCE, told)
    assert owner(etcd_member, target) == {True}


def test_a_ticket_that_is_asked_for_and_comes_late_is_nobodys(
    etcd_member: Cluster, make: Make, late: Late, table: dict[str, str], etcd_disks: list[str]
) -> None:
    source, first, second = make(), make(endpoints=doubly(late, table)), make()
    source.own(*etcd_disks)
    late.holds = wire(f"/lsup/v1/{table['namespace']}/in/")[:-4]
    first.wait(*etcd_disks)
    first.end()
    late.deliver()
    assert not etcd_member.kept(f"/lsup/v1/{table['namespace']}/in/")
    second.side.complete_in(NONCE, handed(source, second, etcd_disks))
    assert owner(etcd_member, second) == {True}


def test_what_a_destination_has_asked_for_in_a_cancelled_attempt_is_never_done(
    etcd_member: Cluster, make: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, first, second = make(), make(endpoints=late.url), make()
    told = handed(source, first, etcd_disks)
    late.holds = b"request_put"
    with pytest.raises(UnknownOutcomeError):
        first.side.complete_in(NONCE, told)
    late.holds = None
    with pytest.raises(LeaseHeldError, match="is awaited by"):
        source.side.take_back()
    first.end()
    source.side.take_back()
    again = handed(source, second, etcd_disks, OTHER_NONCE)
    late.deliver()
    assert owner(etcd_member, source) == {True}
    assert attempt(etcd_member, source) == [f"handed {OTHER_NONCE} {source.sid}"]
    second.side.complete_in(OTHER_NONCE, again)
    assert owner(etcd_member, second) == {True}


def test_a_destination_that_owns_without_knowing_finds_out(
    etcd_member: Cluster, make: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, target = make(), make(endpoints=late.url)
    told = handed(source, target, etcd_disks)
    late.holds = b"request_put"
    with pytest.raises(UnknownOutcomeError):
        target.side.complete_in(NONCE, told)
    late.deliver()
    assert owner(etcd_member, target) == {True}
    with pytest.raises(LockError, match="end it with complete-out"):
        source.side.take_back()
    target.side.complete_in(NONCE, told)
    target.side.confirm()
    assert {state for _, state in target.said()} == {"held"}
    source.end()
    assert owner(etcd_member, target) == {True}


@pytest.mark.long
def test_a_source_that_does_not_know_whether_it_has_cancelled_asks_again(
    etcd_member: Cluster, make: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, target = make(endpoints=late.url), make()
    told = handed(source, target, etcd_disks)
    target.end()
    late.holds = wire(f"over {NONCE} {source.sid}")
    with pytest.raises(UnknownOutcomeError):
        source.side.take_back()
    late.deliver()
    again = make()
    again.wait(*etcd_disks)
    with pytest.raises(LockError, match="that attempt is over"):
        again.side.complete_in(NONCE, told)
    with pytest.raises(LeaseHeldError, match="is awaited by"):
        source.side.take_back()
    again.end()
    source.side.take_back()
    assert owner(etcd_member, source) == {True}
    source.side.prepare(OTHER_NONCE)


def test_a_destination_that_is_dead_is_known_by_its_session(
    etcd_member: Cluster, make: Make, etcd_disks: list[str]
) -> None:
    """With the source's own clock, and the longer of both hosts' times."""
    source, target = make(), make(failover_s="20")
    told = handed(source, target, etcd_disks)
    target.stop_renewing()
    etcd_member.etcdctl("lease", "revoke", f"{target.plugin._session.grant:x}")
    began = now()
    with pytest.raises(LeaseHeldError, match=r"its session is gone: try again in (9|10) s"):
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


def test_a_source_that_is_gone_leaves_the_guest_to_who_awaits_it_for_a_while(
    etcd_member: Cluster, make: Make, etcd_disks: list[str]
) -> None:
    source, target, other = make(), make(), make()
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
    etcd_member: Cluster, make: Make, etcd_disks: list[str]
) -> None:
    source, target, other = make(), make(), make()
    told = handed(source, target, etcd_disks)
    source.stop_renewing()
    etcd_member.etcdctl("lease", "revoke", f"{source.plugin._session.grant:x}")
    other.plugin.acquire([Resource(etcd_disks[1])], now() + DEADLINE_S)
    with pytest.raises(LeaseLostError, match="start the guest anew"):
        target.side.complete_in(NONCE, told)


def test_a_session_that_etcd_ends_in_between_is_healed(
    etcd_member: Cluster, make: Make, etcd_disks: list[str]
) -> None:
    source, target = make(), make()
    told = handed(source, target, etcd_disks)
    for end in (source, target):
        etcd_member.etcdctl("lease", "revoke", f"{end.plugin._session.grant:x}")
    target.side.complete_in(NONCE, told)
    assert owner(etcd_member, target) == {True}
    target.plugin.renew()


def test_a_guest_that_has_run_too_early_is_never_its_sources_again(
    make: Make, etcd_disks: list[str]
) -> None:
    source, target = make(), make()
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
    disks = ["/nowhere"]
    with Cluster(tmp_path / "etcd", 3) as cluster:
        table = cluster.config() | {"failover_s": FAILOVER_S}
        with End(table).renewing() as source, End(table).renewing() as target:
            source.own(*disks, identity="disk")
            steps: list[Callable[[], object]] = [
                lambda: target.wait(*disks, identity="disk"),
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
        step()
    finally:
        leader.send(signal.SIGCONT)
    waiting.until(cluster.is_healthy, DEADLINE_S, "all members go on")
