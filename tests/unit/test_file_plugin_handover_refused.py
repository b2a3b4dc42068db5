"""Who gets no disk of a guest that migrates: a wrong cookie's destination, a stranger?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import ConfigError, LeaseHeldError
from tests.support import proclocks
from tests.support.ends import NONCE, OTHER_NONCE, SHARED_BY_SOURCE, End, handed_over, image
from tests.support.locking import READ, Locker
from tests.support.proclocks import below_qemus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return image(tmp_path / "disk")


def test_the_cookie_of_another_attempt_is_refused(source: End, target: End, disk: Path) -> None:
    source.own(disk)
    told = source.side.prepare(OTHER_NONCE)
    source.side.take_back()
    target.wait(disk)
    assert source.side.prepare(NONCE) == told
    source.hand_over()
    with Locker(disk, kind=READ, byte=(1 << 60) + 1):  # of no interest to anybody
        with pytest.raises(LeaseHeldError, match="not by the cookie's source"):
            target.complete_in(OTHER_NONCE, told)
        assert below_qemus(disk) == SHARED_BY_SOURCE
        target.complete_in(NONCE, told)


def test_the_cookie_of_other_disks_is_refused(
    source: End, target: End, disk: Path, tmp_path: Path
) -> None:
    other = image(tmp_path / "other")
    source.own(other)
    told = source.side.prepare(NONCE)
    source.hand_over()
    target.wait(disk)
    with pytest.raises(ConfigError, match=f"disk {disk}: the cookie is of a guest without it"):
        target.complete_in(NONCE, told)
    assert below_qemus(disk) == [("WRITE", 2, "2")]


def test_another_name_of_the_same_disk_will_do(
    source: End, target: End, disk: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(disk)
    source.own(disk)
    target.wait(link)
    told = source.side.prepare(NONCE)
    source.hand_over()
    target.complete_in(NONCE, told)


@pytest.mark.parametrize("posix", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_a_stranger_who_shares_byte_0_is_named_and_the_destination_does_not_own(
    source: End, target: End, disk: Path, *, posix: bool, alone: bool
) -> None:
    told = handed_over(source, target, disk)
    with Locker(disk, kind=READ, posix=posix) as stranger:
        assert stranger.held
        if alone:
            source.die()
        with pytest.raises(LeaseHeldError, match=f"shared by process {stranger.pid} "):
            target.complete_in(NONCE, told)
        assert ("WRITE", 2) in [(lock.mode, lock.first) for lock in proclocks.locks(disk)]
    target.complete_in(NONCE, told)
