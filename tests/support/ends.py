"""What are the two ends of a migration to the plugin `file`? Plugins, each with a guest's leases.

Two in one process stand for two hosts: their locks are of different open file
descriptions, and exclude one another as any two do. A `Host` has its ends in a
process of its own. Judges nothing.
"""

from __future__ import annotations

import fcntl
import multiprocessing
from concurrent.futures import Future
from multiprocessing.managers import BaseManager
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode, Resource
from lockplugins.file import steps
from lockplugins.file.plugin import FilePlugin
from tests.support.locking import DEADLINE_S, CopyingCarrier, on_a_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lockplugins.contract import Carrier, Lease

NONCE, OTHER_NONCE = "00112233445566", "00112233445567"
# Below what QEMU locks by itself (proclocks.below_qemus).
ALONE = [("WRITE", 0, "0")]
SHARED_BY_SOURCE = [("READ", 0, "0"), ("WRITE", 2, "2")]


class End:
    """One end of migrations: a plugin with leases."""

    def __init__(self, carrier: Carrier | None = None, **config: str) -> None:
        self.carrier = carrier or CopyingCarrier()
        self.plugin = FilePlugin(config, self.carrier)
        self.side = self.plugin.migration()
        self.leases: list[Lease] = []
        self.lost: Future[bool] = Future()

    def own(self, *disks: Path, mode: str = Mode.EXCLUSIVE) -> None:
        self.leases = self.plugin.acquire([Resource(str(disk), mode) for disk in disks], None)

    def wait(self, *disks: Path, wait_until: float | None = None) -> None:
        resources = [Resource(str(disk)) for disk in disks]
        self.leases = self.side.await_in(resources, (), wait_until)

    def hand_over(self) -> None:
        """Hand over, and wait on a thread for what becomes of it, as the guard does."""
        self.side.hand_over()
        self.lost = on_a_thread(self.side.has_lost)

    def complete_in(self, nonce: str, told: str) -> None:
        self.side.complete_in(nonce, told)
        self.side.confirm()

    def said(self) -> list[tuple[str, str]]:
        return [(lease.mode, lease.state) for lease in self.leases]

    def told(self) -> str:
        """Return what the source of these disks tells, which it would tell alike."""
        files = self.plugin._leases.items()
        return steps.NEXT.join(steps.told(lease, held) for lease, held in files)

    def die(self) -> None:
        """Let go of every lock, as the deaths of guest and guard do.

        Closing would not do: a thread of ours may wait on a description.
        """
        if isinstance(self.carrier, CopyingCarrier):
            self.carrier.close()
        for file in self.plugin._held.values():
            file.set(fcntl.F_UNLCK, 0, 1 << 62)
            file.close()
        self.plugin._held.clear()


class HostedEnd(End):
    """An end whose every step answers with a value, and so can be another process's."""

    def prepare(self, nonce: str) -> str:
        return self.side.prepare(nonce)

    def has_lost(self) -> bool:
        return self.lost.result(DEADLINE_S)

    def become_sole(self) -> None:
        self.side.become_sole()


class Host(BaseManager):
    """A process of its own with ends in it, which `end` makes; a context."""

    if TYPE_CHECKING:

        def end(self) -> HostedEnd: ...

    def __init__(self) -> None:
        super().__init__(ctx=multiprocessing.get_context("spawn"))


Host.register("end", HostedEnd)


@pytest.fixture
def ends() -> Iterator[Callable[..., End]]:
    made: list[End] = []

    def end(**config: str) -> End:
        made.append(End(None, **config))
        return made[-1]

    yield end
    for one in made:
        if one.plugin._held:
            one.die()


@pytest.fixture
def source(ends: Callable[..., End]) -> End:
    return ends()


@pytest.fixture
def target(ends: Callable[..., End]) -> End:
    return ends()


def handed_over(source: End, target: End, disk: Path) -> str:
    """Bring them to where the source has handed over; returns what the target is told."""
    source.own(disk)
    target.wait(disk)
    told = source.side.prepare(NONCE)
    source.hand_over()
    return told


def image(path: Path) -> Path:
    path.write_bytes(bytes(4096))
    return path
