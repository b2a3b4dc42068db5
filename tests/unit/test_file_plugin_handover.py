"""Is a disk one end's or the other's through a whole hand-over, and never nobody's?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import (
    Capability,
    LeaseHeldError,
    LeaseState,
    LeaseUnknownError,
    LockError,
    Mode,
    Resource,
)
from lockplugins.file.plugin import FilePlugin
from lockplugins.registry import Composite, capabilities
from tests.support.ends import ALONE, NONCE, OTHER_NONCE, SHARED_BY_SOURCE, End, handed_over, image
from tests.support.locking import CopyingCarrier, is_free, on_a_thread
from tests.support.proclocks import below_qemus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


DEADLINE_S = 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return image(tmp_path / "disk")


def test_the_disk_changes_hands_without_a_gap(source: End, target: End, disk: Path) -> None:
    source.own(disk)
    target.wait(disk)
    assert target.said() == [(Mode.EXCLUSIVE, LeaseState.PENDING)]
    told = source.side.prepare(NONCE)
    assert below_qemus(disk) == [*ALONE, ("WRITE", 2, "2")]
    source.hand_over()
    assert source.said() == [(Mode.SHARED, LeaseState.HELD)]
    assert below_qemus(disk) == SHARED_BY_SOURCE
    target.complete_in(NONCE, told)
    assert target.said() == [(Mode.SHARED, LeaseState.HELD)]
    sole = on_a_thread(target.side.become_sole)
    assert not sole.done()
    source.die()
    sole.result(DEADLINE_S)
    assert target.said() == [(Mode.EXCLUSIVE, LeaseState.HELD)]
    assert below_qemus(disk) == ALONE
    target.plugin.release(target.leases[0])
    assert below_qemus(disk) == []


@pytest.mark.parametrize("prepared", [False, True])
def test_the_destination_gets_nothing_while_the_source_owns(
    source: End, target: End, disk: Path, *, prepared: bool
) -> None:
    source.own(disk)
    target.wait(disk)
    told = source.side.prepare(NONCE)
    if not prepared:
        source.side.take_back()
    with pytest.raises(LeaseHeldError, match=f"held by process {os.getpid()}"):
        target.complete_in(NONCE, told)
    assert target.said() == [(Mode.EXCLUSIVE, LeaseState.PENDING)]
    assert below_qemus(disk) == [*ALONE, ("WRITE", 2, "2")]


def test_the_source_gone_the_destination_is_the_only_holder(
    source: End, target: End, disk: Path
) -> None:
    told = handed_over(source, target, disk)
    source.die()
    target.complete_in(NONCE, told)
    target.side.become_sole()
    assert below_qemus(disk) == ALONE


def test_between_the_ends_nobody_of_ours_gets_in(
    source: End, target: End, disk: Path, ends: Callable[..., End]
) -> None:
    told = handed_over(source, target, disk)
    source.die()
    stranger = ends()
    for mode in Mode.ALL:
        with pytest.raises(LeaseHeldError, match=f"{mode} lease for disk"):
            stranger.own(disk, mode=mode)
    assert below_qemus(disk) == [("WRITE", 2, "2")]
    target.complete_in(NONCE, told)


def test_a_second_destination_and_sharers_of_ours_are_refused(
    source: End, target: End, disk: Path, ends: Callable[..., End]
) -> None:
    source.own(disk)
    target.wait(disk)
    second = ends()
    with pytest.raises(LeaseHeldError, match="exclusive lease for disk"):
        second.wait(disk)
    source.side.prepare(NONCE)
    source.hand_over()
    for mode in Mode.ALL:
        with pytest.raises(LeaseHeldError):
            second.own(disk, mode=mode)
    assert below_qemus(disk) == SHARED_BY_SOURCE


def test_the_source_takes_its_leases_back_when_no_destination_is_left(
    source: End, target: End, disk: Path
) -> None:
    handed_over(source, target, disk)
    with pytest.raises(LeaseHeldError, match="cancel at the destination first"):
        source.side.take_back()
    assert below_qemus(disk) == SHARED_BY_SOURCE
    target.die()
    assert source.lost.result(DEADLINE_S) is False
    source.side.take_back()
    assert source.said() == [(Mode.EXCLUSIVE, LeaseState.HELD)]
    assert below_qemus(disk) == ALONE
    assert is_free(disk, byte=(1 << 60) + int(NONCE, 16))


def test_the_source_gives_a_destination_a_moment_to_be_gone(
    source: End, target: End, disk: Path
) -> None:
    handed_over(source, target, disk)
    taken_back = on_a_thread(lambda: source.side.take_back(DEADLINE_S))
    with pytest.raises(TimeoutError):
        taken_back.result(0.5)
    target.die()
    taken_back.result(DEADLINE_S)
    assert below_qemus(disk) == ALONE


def test_the_source_takes_nothing_back_from_a_destination_that_owns(
    source: End, target: End, disk: Path
) -> None:
    told = handed_over(source, target, disk)
    target.complete_in(NONCE, told)
    with pytest.raises(LeaseHeldError):
        source.side.take_back()
    assert below_qemus(disk) == [("READ", 0, "0"), ("READ", 0, "0"), ("WRITE", 2, "2")]


def test_the_source_takes_nothing_back_from_a_destination_that_has_owned_and_is_gone(
    source: End, target: End, disk: Path
) -> None:
    told = handed_over(source, target, disk)
    target.complete_in(NONCE, told)
    target.die()
    assert source.lost.result(DEADLINE_S) is True
    for _ in range(2):
        with pytest.raises(LockError, match="its destination has owned them since"):
            source.side.take_back()
        assert below_qemus(disk) == [("READ", 0, "0")]


def test_an_attempt_whose_destination_is_gone_has_no_other_one(
    source: End, target: End, disk: Path, ends: Callable[..., End]
) -> None:
    handed_over(source, target, disk)
    target.die()
    assert source.lost.result(DEADLINE_S) is False
    with pytest.raises(LeaseHeldError):
        ends().wait(disk)
    source.side.take_back()
    ends().wait(disk)
    assert below_qemus(disk) == [*ALONE, ("WRITE", 2, "2")]


def test_a_source_that_nobody_watches_keeps_what_it_cannot_tell(
    source: End, target: End, disk: Path
) -> None:
    source.own(disk)
    target.wait(disk)
    source.side.prepare(NONCE)
    source.side.hand_over()
    target.die()
    with pytest.raises(LeaseUnknownError, match="cannot be told"):
        source.side.take_back()
    assert below_qemus(disk) == [("READ", 0, "0")]


def test_all_disks_or_none(source: End, target: End, disk: Path, tmp_path: Path) -> None:
    second = image(tmp_path / "second")
    source.own(disk, second)
    target.wait(disk, second)
    told = source.side.prepare(NONCE)
    source.hand_over()
    lock = source.plugin._held[os.stat(second).st_dev, os.stat(second).st_ino]
    assert lock.lock(Mode.EXCLUSIVE) is None
    with pytest.raises(LeaseHeldError):
        target.complete_in(NONCE, told)
    assert below_qemus(disk) == SHARED_BY_SOURCE
    assert {state for _, state in target.said()} == {LeaseState.PENDING}


def test_shared_disks_are_shared_at_once_and_copied_ones_exclusive(
    source: End, target: End, tmp_path: Path
) -> None:
    base, copy, disk = (image(tmp_path / name) for name in ("base", "copy", "disk"))
    source.own(base, mode=Mode.SHARED)
    resources = [Resource(str(base), Mode.SHARED), Resource(str(copy)), Resource(str(disk))]
    target.leases = target.side.await_in(resources, [str(copy)], None)
    assert below_qemus(base) == [("READ", 0, "0")] * 2 + [("READ", 2, "2")] * 2
    assert below_qemus(copy) == ALONE
    assert below_qemus(disk) == [("WRITE", 2, "2")]
    held, pending = LeaseState.HELD, LeaseState.PENDING
    assert [state for _, state in target.said()] == [held, held, pending]


def test_until_it_is_the_only_holder_the_destination_keeps_its_leases_as_they_are(
    source: End, target: End, disk: Path
) -> None:
    told = handed_over(source, target, disk)
    target.complete_in(NONCE, told)
    for attempt in (
        lambda: target.plugin.release(target.leases[0]),
        lambda: target.plugin.acquire([Resource(str(disk))], None),
        lambda: target.side.prepare(OTHER_NONCE),
    ):
        with pytest.raises(LockError, match="share"):
            attempt()
    assert below_qemus(disk) == [("READ", 0, "0"), ("READ", 0, "0"), ("WRITE", 2, "2")]


def test_with_a_lock_file_of_its_own_and_one_that_is_replaced(
    ends: Callable[..., End], disk: Path, tmp_path: Path
) -> None:
    lockspace = tmp_path / "lockspace"
    source, target = (ends(file_lockspace_dir=str(lockspace)) for _ in range(2))
    told = handed_over(source, target, disk)
    (name,) = os.listdir(lockspace)
    assert below_qemus(lockspace / name) == SHARED_BY_SOURCE
    os.rename(lockspace / name, tmp_path / "away")
    with pytest.raises(LeaseUnknownError, match="replaced"):
        target.complete_in(NONCE, told)
    os.rename(tmp_path / "away", lockspace / name)
    target.complete_in(NONCE, told)


def test_more_disks_than_a_cookie_tells_of_are_refused_in_words(
    source: End, tmp_path: Path
) -> None:
    source.own(*(image(tmp_path / f"disk-{number}") for number in range(200)))
    with pytest.raises(LockError, match="200 disks are more than a cookie can tell of"):
        source.side.prepare(NONCE)


def test_a_composite_hands_over_all_of_its_parts(disk: Path) -> None:
    ends = [
        Composite([FilePlugin({}, carrier)]) for carrier in (CopyingCarrier(), CopyingCarrier())
    ]
    source, target = ends
    assert Capability.MIGRATION in capabilities([source])
    source.acquire([Resource(str(disk))], None)
    target.migration().await_in([Resource(str(disk))], (), None)
    told = source.migration().prepare(NONCE)
    source.migration().hand_over()
    lost = on_a_thread(source.migration().has_lost)
    target.migration().complete_in(NONCE, told)
    target.migration().let_go()
    assert below_qemus(disk) == SHARED_BY_SOURCE
    target.migration().complete_in(NONCE, told)
    target.migration().confirm()
    assert lost.result(DEADLINE_S) is True
    with pytest.raises(LeaseHeldError):
        source.migration().take_back()
