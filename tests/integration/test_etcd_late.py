"""Is a guest of etcd's one end's alone, however late etcd hears, or is not heard of?

The plugin itself as both ends, against a real member, to which requests may arrive late.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LockError
from lockplugins.etcd.client import UnknownOutcomeError
from tests.support.etcd_ends import NONCE, OTHER_NONCE, attempt, handed, owner
from tests.support.late import Late

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.etcd import Cluster
    from tests.support.etcd_ends import Make


@pytest.fixture
def late(etcd_member: Cluster) -> Iterator[Late]:
    with Late(etcd_member.members[0]) as found:
        yield found


def doubly(late: Late, cluster: Cluster) -> str:
    """Return endpoints of which the first may hear late, and the second is asked then."""
    return f"{late.url},{cluster.endpoints}"


def wire(text: str) -> bytes:
    """Return a value as it is in a request."""
    return b64encode(text.encode())


@pytest.mark.parametrize("unheard", ["await", "prepare", "hand over", "take back", "complete in"])
def test_a_step_whose_answer_is_lost_is_found_done(
    etcd_member: Cluster, etcd_end: Make, late: Late, etcd_disks: list[str], unheard: str
) -> None:
    ways = doubly(late, etcd_member)
    source, target = etcd_end(endpoints=ways), etcd_end(endpoints=ways)
    source.own(*etcd_disks)
    steps: dict[str, Callable[[], object]] = {
        "await": lambda: target.wait(*etcd_disks),
        "prepare": lambda: source.side.prepare(NONCE),
        "take back": source.side.take_back,
        "prepare again": lambda: source.side.prepare(OTHER_NONCE),
        "hand over": source.side.hand_over,
        "complete in": lambda: target.side.complete_in(OTHER_NONCE, target.told()),
    }
    for name, step in steps.items():
        late.swallows = b"request_put" if name == unheard else None
        step()
    assert late.swallowed > 0
    assert owner(etcd_member, target) == {True}
    source.end()
    target.plugin.renew()


def test_a_beginning_that_arrives_late_begins_nothing(
    etcd_member: Cluster, etcd_end: Make, late: Late, etcd_disks: list[str]
) -> None:
    source = etcd_end(endpoints=doubly(late, etcd_member))
    source.own(*etcd_disks)
    late.holds = wire(f"prepared {NONCE} {source.sid}")
    source.side.prepare(NONCE)  # no answer from the first member, and done by the next
    source.side.take_back()
    before = attempt(etcd_member, source)
    assert before == [f"over {NONCE} {source.sid}"]
    late.deliver()
    assert attempt(etcd_member, source) == before


def test_a_hand_over_that_arrives_late_is_of_an_attempt_that_is_over(
    etcd_member: Cluster, etcd_end: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, first, second = etcd_end(endpoints=doubly(late, etcd_member)), etcd_end(), etcd_end()
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
    etcd_member: Cluster, etcd_end: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, target = etcd_end(endpoints=doubly(late, etcd_member)), etcd_end()
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
    etcd_member: Cluster, etcd_end: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, first, second = etcd_end(), etcd_end(endpoints=doubly(late, etcd_member)), etcd_end()
    source.own(*etcd_disks)
    late.holds = wire(f"/lsup/v1/{first.plugin.namespace}/in/")[:-4]
    first.wait(*etcd_disks)
    first.end()
    late.deliver()
    assert not etcd_member.kept(f"/lsup/v1/{first.plugin.namespace}/in/")
    second.side.complete_in(NONCE, handed(source, second, etcd_disks))
    assert owner(etcd_member, second) == {True}


def test_what_a_destination_has_asked_for_in_a_cancelled_attempt_is_never_done(
    etcd_member: Cluster, etcd_end: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, first, second = etcd_end(), etcd_end(endpoints=late.url), etcd_end()
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
    etcd_member: Cluster, etcd_end: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, target = etcd_end(), etcd_end(endpoints=late.url)
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


def test_a_ticket_that_comes_late_to_a_source_is_given_back(
    etcd_member: Cluster, etcd_end: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, first, second = etcd_end(endpoints=doubly(late, etcd_member)), etcd_end(), etcd_end()
    handed(source, first, etcd_disks)
    first.end()
    late.holds = wire(f"/lsup/v1/{source.plugin.namespace}/in/")[:-4]
    source.side.take_back()
    late.deliver()
    with pytest.raises(LeaseHeldError, match=r"arrival of guest .* held by guest web1"):
        second.wait(*etcd_disks)
    told = source.side.prepare(OTHER_NONCE)
    second.wait(*etcd_disks)
    source.side.hand_over()
    second.side.complete_in(OTHER_NONCE, told)
    assert owner(etcd_member, second) == {True}


def test_a_source_that_does_not_know_whether_it_has_cancelled_asks_again(
    etcd_member: Cluster, etcd_end: Make, late: Late, etcd_disks: list[str]
) -> None:
    source, target = etcd_end(endpoints=late.url), etcd_end()
    told = handed(source, target, etcd_disks)
    target.end()
    late.holds = wire(f"over {NONCE} {source.sid}")
    with pytest.raises(UnknownOutcomeError):
        source.side.take_back()
    late.deliver()
    again = etcd_end()
    again.wait(*etcd_disks)
    with pytest.raises(LockError, match="that attempt is over"):
        again.side.complete_in(NONCE, told)
    with pytest.raises(LeaseHeldError, match="is awaited by"):
        source.side.take_back()
    again.end()
    source.side.take_back()
    assert owner(etcd_member, source) == {True}
    last = etcd_end()
    last.side.complete_in(OTHER_NONCE, handed(source, last, etcd_disks, OTHER_NONCE))
    assert owner(etcd_member, last) == {True}
