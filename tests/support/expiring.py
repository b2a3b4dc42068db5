"""Which plugin's leases expire? A stand-in that proves them, or does not, as the test says.

Registered the public way (`class=expiring=…:ExpiringPlugin`). Its directory
holds `how`, read at each renewal: one of the words below; and `log`, a line
for each call: its name, the instant of CLOCK_BOOTTIME, and for `release` the
processes that the guard still had then.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from lockplugins.contract import Capability, Holder, Lease, LeaseLostError, LockError, Plugin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Guest, Resource

WELL = "well"  # proves
SLOW = "slow"  # proves what was asked for SLOW_S ago
DOUBT = "doubt"  # cannot tell
STALE = "stale"  # proves once what was asked for so long ago that a loss is near, then cannot tell
LOST = "lost"  # proves that the lease is gone
FAULT = "fault"  # raises what no plugin should
HANG = "hang"  # never answers
STUCK = "stuck"  # proves, and never answers to a release
DENIED = "denied"  # proves, and refuses every release
GONE = "gone"  # proves, and says in the end that the lease was lost before

SLOW_S = 0.8
STALE_TERMS, STALE_S = 0.75, 1.5  # of the term, less this: for a guest that can be parked
DIRECTORY, TERM, EVERY = "directory", "term_s", "every_s"


class ExpiringPlugin(Plugin):
    """Excludes nobody; `notice`, a FIFO of its directory, brings the news of a loss at once."""

    name = "expiring"
    capabilities: tuple[str, ...] = (Capability.RESOURCES, Capability.HOTPLUG, Capability.EXPIRES)
    CONFIG_KEYS = (DIRECTORY, TERM, EVERY)

    def open(self, guest: Guest) -> None:  # noqa: ARG002  # the contract's signature
        self.PROOF_TERM_S = float(self.config[TERM])
        self.RENEW_EVERY_S = float(self.config[EVERY])
        self._has_been_stale = False
        self._notice_fd = os.open(self._path("notice"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:  # noqa: ARG002  # the contract's signature
        self._log("acquire")
        return [Lease(resource, self.name, resource.path) for resource in resources]

    def release(self, lease: Lease) -> None:
        pid = os.getpid()
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            self._log("release", file.read())
        if self._how() == STUCK:
            self._hang()
        if self._how() == DENIED:
            raise LockError("release", lease.resource, "the lock manager denies it")

    def close(self) -> None:
        if self._how() == GONE:
            raise LeaseLostError("keep", "the lease", "the lock manager has taken it away")

    def inquire(self, resource: Resource) -> list[Holder]:  # noqa: ARG002  # the contract's signature
        return []

    def renew(self) -> float:
        sent = time.clock_gettime(time.CLOCK_BOOTTIME)
        how = self._how()
        self._log(f"renew:{how}")
        if how == LOST:
            raise LeaseLostError("keep", "the lease", "somebody else has it")
        if how == STALE and not self._has_been_stale:
            self._has_been_stale = True
            return sent - self.PROOF_TERM_S * STALE_TERMS + STALE_S
        if how in (DOUBT, STALE):
            raise LockError("reach", "the lock manager", "it is not there")
        self._has_been_stale = False
        if how == FAULT:
            raise KeyError(how)
        if how == HANG:
            self._hang()
        return sent - SLOW_S if how == SLOW else sent

    def watch_fds(self) -> tuple[int, ...]:
        return (self._notice_fd,)

    def on_readable(self, fd: int) -> None:
        raise LeaseLostError("keep", "the lease", f"the lock manager says {os.read(fd, 100)!r}")

    def _how(self) -> str:
        with open(self._path("how"), encoding="ascii") as file:
            return file.read()

    def _log(self, call: str, detail: str = "") -> None:
        line = f"{call} {time.clock_gettime(time.CLOCK_BOOTTIME):.6f} {detail}\n"
        with open(self._path("log"), "a", encoding="ascii") as file:
            file.write(line)

    def _hang(self) -> None:
        """Wait for a writer that never comes."""
        with open(self._path("never"), "rb"):
            pass

    def _path(self, name: str) -> str:
        return os.path.join(self.config[DIRECTORY], name)
