"""Which locks do a migration's two ends hold, one after the other, so that nobody gets between?

The destination first has a *ticket*, byte 2 alone, where sharers of ours go:
so there is one destination. The source, its guest stopped for good, makes its
lock on byte 0 shared; the destination then shares it, and owns the disks. When
the source is gone its own lock becomes exclusive. A lock on byte 0 that
forbids writers is held throughout, by one or by both. It must not know when a
guest has stopped.

Does not keep out one who shares byte 0 and does not look at byte 2 (libvirt's
<shareable/>): the destination does not become the owner beside him.
"""

from __future__ import annotations

import _thread
import fcntl

from lockplugins.contract import (
    ConfigError,
    LeaseHeldError,
    LeaseState,
    LeaseUnknownError,
    LockError,
    Mode,
)
from lockplugins.file import steps
from lockplugins.file.attempt import Attempt
from lockplugins.handover import Handover
from lockplugins.kernel_locks import books
from lockplugins.kernel_locks.lockfile import (
    FREE,
    LEASE_BYTE,
    READ,
    SHARERS_BYTE,
    TICKET,
    TRIES,
    UNDECIDED_BYTE,
    WRITE,
    LockFile,
    Refusal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from lockplugins.contract import Carrier, Lease, Resource
    from lockplugins.file.attempt import Held
    from lockplugins.file.plugin import Make

    Take = Callable[[Sequence[Resource], float | None, Make], list[Lease]]

_LONGEST_TOLD = 3500  # a cookie has less than 4 KiB


class Claim(Attempt):
    """An attempt at what a destination may hold: tickets for what is to be exclusive."""

    def __init__(
        self,
        config: Mapping[str, str],
        carrier: Carrier,
        held: Held,
        won: LockFile | None,
        copied: Collection[str],
    ) -> None:
        super().__init__(config, carrier, held, won)
        self._copied = copied

    def mode_for(self, resource: Resource) -> str:
        awaited = resource.mode == Mode.EXCLUSIVE and resource.path not in self._copied
        return TICKET if awaited else resource.mode


class FileHandover(Handover):
    """Both roles of one guest, one after the other; `leases` are the plugin's own."""

    def __init__(self, take: Take, leases: dict[Lease, list[LockFile]]) -> None:
        self._take = take
        self._leases = leases
        self._claim: Claim | None = None
        self._attempt_byte = steps.NO_ATTEMPTS_BYTE
        self._lowered: list[Lease] = []
        self._lost = False
        self._verdict = _thread.allocate_lock()  # free when it is known whether we have lost
        self._verdict.acquire()

    def await_in(
        self, resources: Sequence[Resource], copied: Collection[str], wait_until: float | None
    ) -> list[Lease]:
        def claim(
            config: Mapping[str, str], carrier: Carrier, held: Held, won: LockFile | None
        ) -> Claim:
            self._claim = Claim(config, carrier, held, won, copied)
            return self._claim

        leases = self._take(resources, wait_until, claim)
        self._wait()
        return leases

    def _handed(self) -> list[LockFile]:
        return [file for file in self._files() if file.is_handed]

    def _wait(self) -> None:
        for lease, files in self._leases.items():
            if lease.mode == Mode.EXCLUSIVE and any(file.is_handed for file in files):
                lease.state = LeaseState.PENDING

    def _files(self) -> list[LockFile]:
        """Return each file that serves an exclusive lease once."""
        files = dict.fromkeys(file for files in self._leases.values() for file in files)
        return [file for file in files if Mode.EXCLUSIVE in file.users]

    def prepare(self, nonce: str) -> str:
        for file in (files := self._files()):
            if file.is_handed:
                why, advice = "its source still shares it", "try again, or see who DISK"
                raise LockError("hand over", file.name, why, advice)
        own = [x for x in self._leases.items() if x[0].mode == Mode.EXCLUSIVE]
        told = steps.NEXT.join(steps.told(lease, files) for lease, files in own)
        if len(told) > _LONGEST_TOLD:
            why = f"{len(self._leases)} disks are more than a cookie can tell of"
            raise LockError("hand over", "the guest's disks", why, "migrate it with fewer")
        self._attempt_byte = steps.byte_of(nonce)
        for file in files:
            if not file.set(READ, self._attempt_byte):
                self._end_attempt()
                why = "a lock of somebody else's is on all of it"
                raise LeaseHeldError("hand over", file.name, why, "see who DISK")
        return told

    def hand_over(self) -> None:
        for file in self._files():
            file.set(READ, LEASE_BYTE)
            file.mode = Mode.SHARED
        self._lower([lease for lease in self._leases if lease.mode == Mode.EXCLUSIVE])

    def _lower(self, leases: list[Lease]) -> None:
        """Say what is true of leases that source and destination share."""
        self._lowered = leases
        for lease in leases:
            lease.mode, lease.state = Mode.SHARED, LeaseState.HELD

    def _raise(self) -> None:
        for lease in self._lowered:
            lease.mode = Mode.EXCLUSIVE
        self._lowered = []

    def has_lost(self) -> bool:
        self._lost = steps.is_decided(self._handed())
        if self._lost:
            self._end_attempt()  # so that the destination goes on
        self._verdict.release()
        return self._lost

    def take_back(self, within_s: float = 0.0) -> None:
        handed = self._handed()
        if handed and self._verdict.acquire(timeout=within_s):
            self._verdict.release()  # what it is, is looked at when nobody else can come
        tries = TRIES
        while refusal := self._retake(handed):
            tries -= 1
            advice = "its guest stays fenced; cancel at the destination first, then try again"
            books.judge(refusal, "", tries, "take back", advice)
        if handed and not self._verdict.acquire(timeout=steps.ACK_S):
            steps.share_again(handed)
            why, advice = "it cannot be told whether its destination has owned them", "try again"
            raise LeaseUnknownError("take back", "the guest's disks", why, advice)
        if self._lost:
            steps.share_again(handed)
            self._verdict.release()
            why = "its destination has owned them since, and may have written"
            raise LockError("take back", "the guest's disks", why, "end it with complete-out")
        for file in handed:
            file.mode = Mode.EXCLUSIVE
        self._raise()
        self._end_attempt()

    def _retake(self, handed: list[LockFile]) -> Refusal | None:
        """Make every lock exclusive, where no destination awaits the guest any more.

        One that did could be completed after this guest's end, with a memory
        that its disks have left behind.
        """
        for index, file in enumerate(handed):
            if not file.set(WRITE, LEASE_BYTE):
                steps.share_again(handed[:index])
                return Refusal(file, TICKET, WRITE, LEASE_BYTE)
        for file in handed:
            if file.conflict(READ, SHARERS_BYTE):
                steps.share_again(handed)
                return Refusal(file, TICKET, READ, SHARERS_BYTE)
        return None

    def _end_attempt(self) -> None:
        for file in self._files():
            file.set(FREE, self._attempt_byte)
            file.set(FREE, UNDECIDED_BYTE)

    def complete_in(self, nonce: str, told: str) -> None:
        self._check(told)
        awaited = self._handed()
        tries = TRIES
        while refusal := steps.share_soon(awaited):
            tries -= 1
            books.judge(refusal, "", tries, steps.VERB, "let the source's migration end first")
        try:
            for file in awaited:
                steps.look_around(file, steps.byte_of(nonce))
            if self._claim is not None and not self._claim.still_named():
                why = "its files were replaced while the guest was awaited"
                raise LeaseUnknownError(steps.VERB, "the guest", why, "see who does that")
        except LockError:
            steps.let_go(awaited)
            raise
        self._attempt_byte = steps.byte_of(nonce)
        for file in awaited:
            file.mode = Mode.SHARED
        self._lower([lease for lease in self._leases if lease.state == LeaseState.PENDING])

    def confirm(self) -> None:
        steps.decide(self._handed(), self._attempt_byte)

    def _check(self, told: str) -> None:
        """Raise ConfigError unless the source was told of every disk that is awaited."""
        known = set(told.replace(steps.NEXT, steps.OR).split(steps.OR))
        for lease, files in self._leases.items():
            if lease.state == LeaseState.PENDING and known.isdisjoint(
                steps.told(lease, files).split(steps.OR)
            ):
                why = "the cookie is of a guest without it"
                advice = "give the one that this guest's source has printed"
                raise ConfigError(steps.VERB, f"{lease.type} {lease.resource}", why, advice)

    def let_go(self) -> None:
        awaited = self._handed()
        steps.let_go(awaited)
        for file in awaited:
            file.lock(TICKET)
        self._raise()
        self._wait()

    def become_sole(self) -> None:
        for file in self._files():
            if file.is_handed:
                file.set(WRITE, LEASE_BYTE, command=fcntl.F_OFD_SETLKW)
                file.mode = Mode.EXCLUSIVE
                file.settle()
                file.set(FREE, UNDECIDED_BYTE)
        self._raise()
