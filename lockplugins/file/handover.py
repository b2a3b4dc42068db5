"""Which locks do a migration's two ends hold, one after the other, so that nobody gets between?

The destination first has a *ticket*, byte 2 alone, where sharers of ours go:
so there is one destination. The source, its guest stopped for good, makes its
lock on byte 0 shared; the destination then shares it, and owns the disks. When
the source is gone its own lock becomes exclusive. A lock on byte 0 that
forbids writers is held throughout, by one or by both. Who prepared says so by
a lock far beyond any image, which names the attempt: a cookie of another one is
refused. It must not know when a guest has stopped.

Does not keep out one who shares byte 0 and does not look at byte 2 (libvirt's
<shareable/>): the destination does not become the owner beside him.
"""

from __future__ import annotations

import fcntl

from lockplugins.contract import (
    ConfigError,
    LeaseHeldError,
    LeaseState,
    LeaseUnknownError,
    LockError,
    Mode,
)
from lockplugins.file.attempt import Attempt
from lockplugins.file.names import sha256
from lockplugins.handover import Handover
from lockplugins.kernel_locks import books
from lockplugins.kernel_locks.lockfile import (
    FREE,
    LEASE_BYTE,
    READ,
    SHARERS_BYTE,
    TICKET,
    TRIES,
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

ATTEMPTS_BYTE = 1 << 60  # plus the nonce: below 2^61, where doctor tries locks
_NEXT, _OR = ",."
_HASHED = 12  # hexadecimal digits
_LONGEST_TOLD = 3500  # a cookie has less than 4 KiB
_VERB = "complete the migration of"


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
        self._attempt_byte = 0
        self._lowered: list[Lease] = []

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
        told = _NEXT.join(_told(lease, files) for lease, files in own)
        if len(told) > _LONGEST_TOLD:
            why = f"{len(self._leases)} disks are more than a cookie can tell of"
            raise LockError("hand over", "the guest's disks", why, "migrate it with fewer")
        self._attempt_byte = _byte_of(nonce)
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

    def take_back(self) -> None:
        handed = [file for file in self._files() if file.is_handed]
        tries = TRIES
        while refusal := self._retake(handed):
            tries -= 1
            advice = "its guest stays fenced; cancel at the destination first, then try again"
            books.judge(refusal, "", tries, "take back", advice)
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
                return _share_again(handed[:index], Refusal(file, TICKET, WRITE, LEASE_BYTE))
        for file in handed:
            if file.conflict(READ, SHARERS_BYTE):
                return _share_again(handed, Refusal(file, TICKET, READ, SHARERS_BYTE))
        return None

    def _end_attempt(self) -> None:
        for file in self._files():
            file.set(FREE, self._attempt_byte)

    def complete_in(self, nonce: str, told: str) -> None:
        self._check(told)
        awaited = [file for file in self._files() if file.is_handed]
        tries = TRIES
        while refusal := _share(awaited):
            tries -= 1
            books.judge(refusal, "", tries, _VERB, "let the source's migration end first")
        try:
            for file in awaited:
                _look_around(file, _byte_of(nonce))
            if self._claim is not None and not self._claim.still_named():
                why = "its files were replaced while the guest was awaited"
                raise LeaseUnknownError(_VERB, "the guest", why, "see who does that")
        except LockError:
            _let_go(awaited)
            raise
        for file in awaited:
            file.mode = Mode.SHARED
        self._lower([lease for lease in self._leases if lease.state == LeaseState.PENDING])

    def _check(self, told: str) -> None:
        """Raise ConfigError unless the source was told of every disk that is awaited."""
        known = set(told.replace(_NEXT, _OR).split(_OR))
        for lease, files in self._leases.items():
            if lease.state == LeaseState.PENDING and known.isdisjoint(
                _told(lease, files).split(_OR)
            ):
                why = "the cookie is of a guest without it"
                advice = "give the one that this guest's source has printed"
                raise ConfigError(_VERB, f"{lease.type} {lease.resource}", why, advice)

    def let_go(self) -> None:
        awaited = [file for file in self._files() if file.is_handed]
        _let_go(awaited)
        for file in awaited:
            file.mode = TICKET
        self._raise()
        self._wait()

    def become_sole(self) -> None:
        for file in self._files():
            if file.is_handed:
                file.set(WRITE, LEASE_BYTE, command=fcntl.F_OFD_SETLKW)
                file.mode = Mode.EXCLUSIVE
                file.settle()
        self._raise()


def _byte_of(nonce: str) -> int:
    return ATTEMPTS_BYTE + int(nonce, 16)


def _told(lease: Lease, files: list[LockFile]) -> str:
    """Return a disk as a cookie tells of it: by name, or by device and inode on the same host."""
    device, inode = files[0].identity
    words = (f"{lease.type} {lease.resource} {lease.lease}", f"{device} {inode}")
    return _OR.join(sha256(word.encode("utf-8", "surrogateescape"))[:_HASHED] for word in words)


def _share(files: list[LockFile]) -> Refusal | None:
    """Share byte 0 of all, or of none."""
    for index, file in enumerate(files):
        if not file.set(READ, LEASE_BYTE):
            _let_go(files[:index])
            return Refusal(file, Mode.SHARED, READ, LEASE_BYTE)
    return None


def _let_go(files: list[LockFile]) -> None:
    for file in files:
        file.set(FREE, LEASE_BYTE)


def _share_again(files: list[LockFile], refusal: Refusal) -> Refusal:
    for file in files:
        file.set(READ, LEASE_BYTE)  # less than it is: not refused
    return refusal


def _look_around(file: LockFile, attempt_byte: int) -> None:
    """Raise LeaseHeldError if anybody shares the file but the source of this very attempt."""
    stranger = books.beside_source(file.fd, attempt_byte)
    if stranger is None:
        other = file.conflict(WRITE, LEASE_BYTE) and not file.conflict(WRITE, attempt_byte)
        stranger = books.unseen(Mode.SHARED) if other else None
    if stranger is not None:
        why = f"{file.name} is shared by {stranger.description}, not by the cookie's source"
        advice = "end that, or give the cookie that its source printed last"
        raise LeaseHeldError(_VERB, "the guest", why, advice, stranger)
