"""How does a guest come to hold other resources than before? By orders to the daemon.

They are for the process that has registered, which takes one at a time. It must
not know leases, wait for anybody, or judge a refusal.
"""

from __future__ import annotations

import _thread
import os
import select
from errno import EALREADY, EEXIST, ESRCH

from lockplugins.contract import Mode
from lockplugins.sanlock import status
from lockplugins.sanlock.claims import Change
from lockplugins.sanlock.library import AT_VERSION, NAME_BYTES, OWNER_NOWAIT, SHARED, SanlockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.sanlock import library
    from lockplugins.sanlock.claims import Claim, Key
    from lockplugins.sanlock.library import Library


class Taking:
    """What the registered process `pid` holds, as far as it has been ordered: `claims`.

    `name` is what sanlock shows the process by.
    """

    def __init__(self, asked: Library, pid: int, name: str) -> None:
        self.pid = pid
        self.claims: dict[Key, Claim] = {}
        self._library = asked
        self._name = name.encode("utf-8", "surrogateescape")[:NAME_BYTES]
        self._busy = _thread.allocate_lock()
        self._pidfd = os.pidfd_open(pid)

    def become(self, after: dict[Key, Claim]) -> list[Claim]:
        """Hold and rely on `after` instead; raises SanlockError, with nothing changed.

        What is taken and has a version is taken at that one alone. Returns what
        is not relied on any more, for `free`.
        """
        with self._busy:
            change = Change(self.claims, after)
            if change.taken:
                self._acquire(change.taken)
            self._turn(change)
            self.claims = after
        return change.dropped

    def free(self, claims: list[Claim]) -> None:
        """Give up what is not relied on; raises SanlockError."""
        with self._busy:
            self._free(claims)

    def _free(self, claims: list[Claim]) -> None:
        if not claims:
            return
        if self.has_ended(0):
            # What the daemon would say, which to be asked now keeps from releasing them.
            raise SanlockError("release", -ESRCH)
        self._library.release(self.pid, [_resource(claim) for claim in reversed(claims)])

    def take(self, claims: Sequence[Claim]) -> None:
        """Acquire what the guest does not rely on, for `free`; raises SanlockError."""
        with self._busy:
            self._acquire(claims)

    def _acquire(self, claims: Sequence[Claim]) -> None:
        resources = [_resource(claim) for claim in claims]
        self._library.acquire(self.pid, resources, OWNER_NOWAIT, self._name)

    def lists(self, claims: list[Claim]) -> bool:
        """Does the daemon say that the process has one of these, or had it just now?"""
        keys = {claim.place.key for claim in claims}
        resources = status.read().resources
        return any(each.key in keys and each.pid == self.pid for each in resources)

    def lacks(self) -> bool:
        """Does the daemon not say that the process has all of it? Raises SanlockError.

        No doubt while that is changing.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            words = self._library.inquire(self.pid).split(" ")
            held = {tuple(word.split(":")[:2]) for word in words}
            return not held.issuperset(self.claims)
        except SanlockError as error:
            if error.code != -ESRCH:
                raise
            return bool(self.claims)
        finally:
            self._busy.release()

    def has_ended(self, within_ms: int) -> bool:
        """Is the process dead, or soon?"""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(within_ms))

    def _turn(self, change: Change) -> None:
        """Convert what is held already; what has been taken is given back if that is refused."""
        raised: list[Claim] = []
        try:
            for claim in change.raised:
                self._raise(claim)
                raised.append(claim)
            for claim in change.lowered:
                self._lower(claim)
        except SanlockError:
            for claim in raised:
                claim.mode = Mode.SHARED
                self._library.convert(self.pid, _resource(claim), 0)
            self._free(change.taken)
            raise

    def _lower(self, claim: Claim) -> None:
        """Make an exclusive claim shared, unless the process has ended: it has neither then."""
        try:
            self._library.convert(self.pid, _resource(claim), 0)
        except SanlockError as error:
            if error.code != -ESRCH:
                raise

    def _raise(self, claim: Claim) -> None:
        """Make a shared claim exclusive, if no other process of this host shares it.

        sanlock converts it all the same, and only then takes no more of them; it
        cannot go back either, but to others it is the more held for that.
        """
        self._check_alone(claim)
        try:
            self._library.convert(self.pid, _resource(claim), OWNER_NOWAIT)
        except SanlockError as error:
            if error.code != -EALREADY:
                raise
        self._check_alone(claim)

    def _check_alone(self, claim: Claim) -> None:
        for held in status.read().resources:
            if held.key == claim.place.key and held.pid != self.pid:
                raise SanlockError("convert", -EEXIST)


def _resource(claim: Claim) -> library.Resource:
    flags = SHARED if claim.mode == Mode.SHARED else 0
    if claim.version:
        flags |= AT_VERSION
    return claim.place.resource(flags, claim.version)
