"""Does waiting end with the lease, and is nothing held meanwhile?"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Lease, LeaseHeldError, Mode, Resource
from lockplugins.file.plugin import FilePlugin
from tests.support import waiting
from tests.support.locking import (
    DEADLINE_S,
    READ,
    CopyingCarrier,
    Locker,
    is_free,
    on_a_thread,
    until_waited_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    Starter = Callable[..., Future[list[Lease]]]

FOR_EVER = float("inf")


@pytest.fixture
def disks(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a.img", tmp_path / "b.img"]
    for path in paths:
        path.touch()
    return [str(path) for path in paths]


@pytest.fixture
def wait_for() -> Iterator[Starter]:
    """Start acquiring, and do not wait for it."""
    carriers: list[CopyingCarrier] = []

    def start(*resources: Resource, config: dict[str, str] | None = None) -> Future[list[Lease]]:
        carriers.append(CopyingCarrier())
        plugin = FilePlugin(config or {}, carriers[-1])
        return on_a_thread(lambda: plugin.acquire(resources, FOR_EVER))

    yield start
    for carrier in carriers:
        carrier.close()


@pytest.mark.parametrize("posix", [True, False], ids=["POSIX", "OFD"])
def test_waits_until_the_holder_is_gone(
    wait_for: Starter, disks: list[str], *, posix: bool
) -> None:
    with Locker(disks[1], posix=posix):
        acquired = wait_for(Resource(disks[0]), Resource(disks[1]))
        until_waited_for(disks[1])
        assert is_free(disks[0]), "held while waiting for the other"
        assert not acquired.done()
    leases = acquired.result(DEADLINE_S)
    assert [lease.resource for lease in leases] == disks
    assert not is_free(disks[0])
    assert not is_free(disks[1])


def test_waits_for_one_after_the_other(wait_for: Starter, disks: list[str]) -> None:
    with Locker(disks[1]):
        with Locker(disks[0]):
            acquired = wait_for(Resource(disks[0]), Resource(disks[1]))
            until_waited_for(disks[0])
        until_waited_for(disks[1])
        assert is_free(disks[0])
        assert not acquired.done()
    acquired.result(DEADLINE_S)
    assert not is_free(disks[0])


def test_a_sharer_waits_for_each_of_its_two_bytes(wait_for: Starter, disks: list[str]) -> None:
    with Locker(disks[0]):
        with Locker(disks[0], byte=2):
            acquired = wait_for(Resource(disks[0], Mode.SHARED))
            until_waited_for(disks[0])
        until_waited_for(disks[0])
        waiting.until(lambda: is_free(disks[0], byte=2), DEADLINE_S, "byte 2 is not held either")
    acquired.result(DEADLINE_S)
    assert not is_free(disks[0], byte=2)


def test_a_disk_that_was_replaced_while_waiting_is_the_one_that_is_leased(
    wait_for: Starter, disks: list[str]
) -> None:
    old = os.open(disks[0], os.O_RDWR)
    with Locker(disks[0]):
        acquired = wait_for(Resource(disks[0]))
        until_waited_for(disks[0])
        os.rename(disks[1], disks[0])
    acquired.result(DEADLINE_S)
    assert not is_free(disks[0])
    assert is_free(f"/proc/self/fd/{old}"), "the old file's lock was not given back"
    os.close(old)


def test_a_lock_file_that_virtlockd_unlinked_while_waiting_is_made_again(
    wait_for: Starter, disks: list[str], tmp_path: Path
) -> None:
    lock_file = tmp_path / hashlib.sha256(disks[0].encode()).hexdigest()
    lock_file.touch()
    with Locker(lock_file, posix=True):
        acquired = wait_for(Resource(disks[0]), config={"file_lockspace_dir": str(tmp_path)})
        until_waited_for(str(lock_file))
        lock_file.unlink()
    acquired.result(DEADLINE_S)
    assert not is_free(lock_file)


def test_a_crowd_of_waiters_gets_it_one_by_one(disks: list[str]) -> None:
    inside, most, guard = 0, 0, threading.Lock()

    def visit() -> None:
        nonlocal inside, most
        carrier = CopyingCarrier()
        plugin = FilePlugin({}, carrier)
        leases = plugin.acquire([Resource(disk) for disk in disks], FOR_EVER)
        with guard:
            inside += 1
            most = max(most, inside)
        with guard:
            inside -= 1
        for lease in reversed(leases):
            plugin.release(lease)
        carrier.close()

    for visitor in [on_a_thread(visit) for _ in range(20)]:
        visitor.result(DEADLINE_S)
    assert most == 1


def test_when_the_time_is_over_it_refuses_and_says_who(disks: list[str]) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    plugin = FilePlugin({}, CopyingCarrier())
    with Locker(disks[0]) as other, pytest.raises(LeaseHeldError) as refused:
        on_a_thread(lambda: plugin.acquire([Resource(disks[0])], now)).result(DEADLINE_S)
    assert refused.value.holder is not None
    assert refused.value.holder.pid == other.pid


def test_to_convert_what_it_holds_it_never_waits(disks: list[str]) -> None:
    carrier = CopyingCarrier()
    plugin = FilePlugin({}, carrier)
    plugin.acquire([Resource(disks[0], Mode.SHARED)], None)
    with Locker(disks[0], kind=READ), pytest.raises(LeaseHeldError):
        on_a_thread(lambda: plugin.acquire([Resource(disks[0])], FOR_EVER)).result(DEADLINE_S)
    carrier.close()
