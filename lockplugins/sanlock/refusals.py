"""Why does sanlock refuse resources, and who is in the way?

A holder that is going just now is not a reason yet. It must not know what the
resources are taken for.
"""

from __future__ import annotations

import os
import select
import time
from errno import EAGAIN, EBUSY, EEXIST, EMSGSIZE, ENOSPC, ESRCH

from lockplugins.contract import (
    Holder,
    LeaseHeldError,
    LeaseLostError,
    LeaseUnknownError,
    LockError,
    Mode,
    ResourceError,
)
from lockplugins.sanlock import holders
from lockplugins.sanlock.library import CODES, SanlockError, named
from lockplugins.sanlock.names import called

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Resource
    from lockplugins.sanlock.library import Library
    from lockplugins.sanlock.names import Place

    Wanted = tuple[Resource, Sequence[Place]]

GONE = Holder(Mode.EXCLUSIVE, "a process that was gone before it could be named")
SOON_S = 3.0

HELD = {
    -EEXIST,
    -EAGAIN,
    -EBUSY,
    CODES["SANLK_ACQUIRE_IDLIVE"],
    CODES["SANLK_ACQUIRE_OWNED"],
    CODES["SANLK_ACQUIRE_OTHER"],
    CODES["SANLK_ACQUIRE_SHRETRY"],
    CODES["SANLK_ACQUIRE_OWNED_RETRY"],
}
_NO_LEASE = {
    -EMSGSIZE,
    CODES["SANLK_LEADER_MAGIC"],
    CODES["SANLK_LEADER_LOCKSPACE"],
    CODES["SANLK_LEADER_RESOURCE"],
    CODES["SANLK_LEADER_CHECKSUM"],
    CODES["SANLK_LEADER_SECTORSIZE"],
}
_TIMEOUTS = 2
_WAIT = "stop the guest there or wait for it (--wait)"
_SOON_MS, _HERE_MS, _ELSEWHERE_MS = 5, 250, 1000


class Attempt:
    """One acquisition for the process `pid`, tried again as long as that may help."""

    def __init__(
        self, library: Library, pid: int, wanted: Sequence[Wanted], wait_until: float | None
    ) -> None:
        self._library = library
        self._pid = pid
        self._wanted = wanted
        self._wait_until = wait_until
        self._soon = _now() + SOON_S
        self._timeouts = 0

    def judge(self, error: SanlockError) -> None:
        """Raise a LockError, unless what is in the way may be gone: then return, a moment later."""
        if error.code in HELD:
            self._judge_holder()
        elif error.code in _NO_LEASE and _now() < self._soon:
            _pause(_SOON_MS)  # libvirt makes it in place
        elif error.code == CODES["SANLK_AIO_TIMEOUT"] and self._timeouts < _TIMEOUTS:
            self._timeouts += 1
        else:
            raise self._failure(error) from error

    def outlast(self, host_id: int, instant: float) -> None:
        """See that this host has none of it from before, or be past `instant` of CLOCK_MONOTONIC.

        sanlock itself would give it at once. Raises LeaseHeldError.
        """
        while time.monotonic() < instant and self._is_left(f"host_id {host_id}"):
            self._judge_holder()

    def _is_left(self, host: str) -> bool:
        try:
            found = self._obstacle()
        except LeaseUnknownError:
            return False  # what is no lease sanlock does not give: it says why
        return found is not None and found[1].host == host

    def _judge_holder(self) -> None:
        resource, holder = self._obstacle() or (self._wanted[0][0], GONE)
        is_going = holder.pid is None and holder.host is None
        if is_going and _now() < self._soon:
            _pause(_SOON_MS)
        elif self._wait_until is not None and _now() < self._wait_until:
            _pause(_HERE_MS if holder.pid or is_going else _ELSEWHERE_MS, holder.pid)
        else:
            name = f"{resource.mode} lease for {called(resource)}"
            raise LeaseHeldError("acquire", name, f"held by {holder.description}", _WAIT, holder)

    def _obstacle(self) -> tuple[Resource, Holder] | None:
        """Return the first resource that another process or host is in the way of, and whom."""
        for resource, places in self._wanted:
            name = called(resource)
            for holder in holders.of_places(places, self._library, name, beside=self._pid):
                if Mode.EXCLUSIVE in (holder.mode, resource.mode):
                    return resource, holder
        return None

    def _failure(self, error: SanlockError) -> LockError:
        """Return what is wrong, and with which of the resources."""
        name = ", ".join(called(resource) for resource, _ in self._wanted)
        if error.code == -ENOSPC:
            why = "this host is not in its lockspace, or sanlock has given that up"
            return LockError("lease", name, f"{why}: {named(error.code)}", "join it, or try again")
        if error.code == CODES["SANLK_ACQUIRE_LVER"]:
            why = f"its version has changed: {named(error.code)}"
            return LeaseLostError("re-acquire", name, why)
        if error.code == -ESRCH:
            why = f"sanlock knows no process {self._pid}: {named(error.code)}"
            return LockError("lease", name, why, "did it close what it inherits?")
        for resource, places in self._wanted:
            for place in places:
                try:
                    self._library.read_resource(place.resource())
                except SanlockError as reading:
                    why = f"{place.path} is not the lease {':'.join(place.key)}"
                    why += f": {named(reading.code)}"
                    advice = "if no host uses it, remove it"
                    return ResourceError("lease", called(resource), why, advice)
        return LeaseUnknownError("lease", name, named(error.code), "see the daemon's log")


def _pause(milliseconds: int, pid: int | None = None) -> None:
    """Wait, no longer than for the process's end."""
    poll = select.poll()
    try:
        pidfd = os.pidfd_open(pid) if pid else -1
    except OSError:
        pidfd = -1
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    poll.poll(milliseconds)
    if pidfd >= 0:
        os.close(pidfd)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # as `wait_until` counts
