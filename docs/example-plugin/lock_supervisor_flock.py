"""The plugin `flock`: leases are flock(2) locks on the disks, which scripts can take as well.

Holds with: flock(2) on each disk, LOCK_EX or LOCK_SH, by one open file
description for each.
Released when: a lease is released, or the last thread of guest and supervisor
is gone, whichever comes first. The guest carries the descriptors, so that the
supervisor's death alone frees nothing.
Loss is seen by: nobody. The kernel takes no lock away.
Does not protect against: programs that take no flock(2), QEMU and libvirt
among them; guests under the plugin `file`, whose locks are of another kind;
other hosts: on NFS flock(2) is a lock of another kind yet, and elsewhere it
stays on this host; a disk that is replaced by another file of its name.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from lockplugins.contract import (
    Capability,
    Holder,
    Lease,
    LeaseHeldError,
    LeaseUnknownError,
    LockError,
    Mode,
    Plugin,
    ResourceError,
    ResourceType,
    UnsupportedError,
    cause,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lockplugins.contract import Carrier, Resource

_HOW = {Mode.EXCLUSIVE: fcntl.LOCK_EX, Mode.SHARED: fcntl.LOCK_SH}
_MODES = {"WRITE": Mode.EXCLUSIVE, "READ": Mode.SHARED}
_WORDS = 8  # of a line in /proc/locks that is no waiter's


class FlockPlugin(Plugin):
    """Disks alone; an explicit lease is refused."""

    name = "flock"
    capabilities = (Capability.RESOURCES, Capability.HOTPLUG)
    FREED_BY_DEATH = True

    def __init__(self, config: Mapping[str, str], carrier: Carrier) -> None:
        super().__init__(config, carrier)
        self._held: dict[Lease, int] = {}

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:
        for resource in resources:
            if resource.type != ResourceType.DISK:
                why = f"plugin {self.name} leases disks"
                raise UnsupportedError("lease", f"{resource.type} {resource.key}", why)
        while True:
            acquired: list[Lease] = []
            try:
                for resource in resources:
                    self._lock(resource, acquired)
            except LeaseHeldError:
                self._give_back(acquired)  # nothing is held while we wait
                if wait_until is None or time.clock_gettime(time.CLOCK_BOOTTIME) >= wait_until:
                    raise
                self._wait_for(resources[len(acquired)])
            except BaseException:
                self._give_back(acquired)
                raise
            else:
                return acquired

    def release(self, lease: Lease) -> None:
        if (fd := self._held.pop(lease, None)) is None:
            raise LockError("release", f"the lease on {lease.resource}", "this guest has none")
        # Unlocked first: that frees it at once, whatever copies of the descriptor there are.
        fcntl.flock(fd, fcntl.LOCK_UN)
        self.carrier.drop(f"{self.name}:{fd}")
        os.close(fd)

    def inquire(self, resource: Resource) -> list[Holder]:
        try:
            status = os.stat(resource.path)
        except OSError as error:
            name = f"disk {resource.path}"
            raise LeaseUnknownError("tell who holds", name, cause(error)) from error
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        file = f"{device}:{status.st_ino}"
        with open("/proc/locks", encoding="ascii") as locks:
            lines = [line.split() for line in locks]
        return [
            Holder(_MODES[words[3]], f"process {words[4]}", int(words[4]))
            for words in lines
            if len(words) == _WORDS and words[1] == "FLOCK" and words[5] == file
        ]

    def named(self, resource: Resource) -> list[tuple[str, str]]:
        return [("flock", resource.path)]

    def _lock(self, resource: Resource, acquired: list[Lease]) -> None:
        """Lock one disk, hand it to the guest and add its lease, or raise."""
        fd = self._open(resource)
        try:
            fcntl.flock(fd, _HOW[resource.mode] | fcntl.LOCK_NB)
            self.carrier.keep(f"{self.name}:{fd}", fd)
        except BlockingIOError as error:
            os.close(fd)
            raise self._refusal(resource) from error
        except BaseException:
            os.close(fd)
            raise
        lease = Lease(resource, "flock", resource.path)
        self._held[lease] = fd
        acquired.append(lease)

    def _wait_for(self, resource: Resource) -> None:
        """Return when the lock was free for a moment."""
        fd = self._open(resource)
        try:
            fcntl.flock(fd, _HOW[resource.mode])
        finally:
            os.close(fd)

    def _refusal(self, resource: Resource) -> LeaseHeldError:
        holder = next(iter(self.inquire(resource)), Holder(Mode.EXCLUSIVE, "nobody any more"))
        name = f"{resource.mode} lease for disk {resource.path}"
        return LeaseHeldError("acquire", name, f"held by {holder.description}", "", holder)

    def _open(self, resource: Resource) -> int:
        try:
            return os.open(resource.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise ResourceError("open", f"disk {resource.path}", cause(error)) from error

    def _give_back(self, leases: Sequence[Lease]) -> None:
        for lease in reversed(leases):
            self.release(lease)
