"""Which plugin has leases that expire, and generations? A stand-in whose lock manager is a file.

Registered the public way. `claims`, a file of its directory, holds a line for each disk: its
generation, who holds it, and its path. So a test reads it, and claims or frees a disk in
somebody else's name, as another host would. While `how` says `doubt` or
`stale` the manager is not there: nothing can be claimed, freed or proven.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lockplugins.contract import (
    Capability,
    Holder,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    LockError,
    Mode,
)
from tests.support.expiring import DIRECTORY, DOUBT, STALE, ExpiringPlugin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lockplugins.contract import Guest, Resource

NOBODY = "-"


class Claims:
    """The lock manager's books, in a directory."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = os.path.join(directory, "claims")

    def read(self, disk: str) -> tuple[int, str]:
        """Return a disk's generation and its holder."""
        with self._opened() as books:
            return books.get(disk, (0, NOBODY))

    def claim(self, disk: str, holder: str, generation: int | None = None) -> int | None:
        """Claim a disk that is free, and has had this generation; returns its new one, or None."""
        with self._opened() as books:
            was, held_by = books.get(disk, (0, NOBODY))
            if held_by != NOBODY or generation not in (None, was):
                return None
            books[disk] = (was + 1, holder)
            return was + 1

    def free(self, disk: str, holder: str) -> bool:
        """Free a disk, if it is this holder's."""
        with self._opened() as books:
            generation, held_by = books.get(disk, (0, NOBODY))
            if held_by == holder:
                books[disk] = (generation, NOBODY)
            return held_by == holder

    @contextmanager
    def _opened(self) -> Iterator[dict[str, tuple[int, str]]]:
        with open(self._path, "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            books = {}
            for line in file.read().splitlines():
                generation, holder, disk = line.split(" ", 2)
                books[disk] = (int(generation), holder)
            yield books
            file.truncate(0)
            file.writelines(f"{count} {who} {disk}\n" for disk, (count, who) in books.items())


class ClaimingPlugin(ExpiringPlugin):
    """Excludes by the file."""

    name = "claiming"
    capabilities = (*ExpiringPlugin.capabilities, Capability.GENERATIONS)

    def open(self, guest: Guest) -> None:
        super().open(guest)
        self._uuid = guest.uuid
        self._claims = Claims(self.config[DIRECTORY])
        self._held: list[str] = []

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:
        leases = super().acquire(resources, wait_until)
        for lease in leases:
            lease.generation = self._claim("acquire", lease.resource, None)
        return leases

    def release(self, lease: Lease) -> None:
        super().release(lease)
        self._reach()
        if not self._claims.free(lease.resource, self._uuid):
            raise LockError("release", lease.resource, "it is not ours")
        self._held.remove(lease.resource)

    def reacquire(self, lease: Lease) -> None:
        self._log("reacquire")
        self._reach()
        generation, holder = self._claims.read(lease.resource)
        if generation != lease.generation:
            raise LeaseLostError("re-acquire", lease.resource, f"generation {generation} by now")
        if holder == self._uuid:
            return  # it could not be released
        lease.generation = self._claim("re-acquire", lease.resource, generation)

    def _claim(self, verb: str, disk: str, generation: int | None) -> int:
        claimed = self._claims.claim(disk, self._uuid, generation)
        if claimed is None:
            raise LeaseHeldError(verb, disk, f"held by {self._claims.read(disk)[1]}")
        self._held += [] if disk in self._held else [disk]
        return claimed

    def inquire(self, resource: Resource) -> list[Holder]:
        generation, holder = Claims(self.config[DIRECTORY]).read(resource.path)
        free = holder == NOBODY
        return [] if free else [Holder(Mode.EXCLUSIVE, holder, generation=generation)]

    def renew(self) -> float:
        sent = super().renew()
        for disk in self._held:
            if self._claims.read(disk)[1] != self._uuid:
                raise LeaseLostError("keep", disk, "somebody else has it")
        return sent

    def _reach(self) -> None:
        if self._how() in (DOUBT, STALE):
            raise LockError("reach", "the lock manager", "it is not there")
