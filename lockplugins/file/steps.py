"""Which locks does each step of a hand-over take, and what do they tell the other end?

On bytes 0 and 2, and on two far beyond any image. The *attempt's* is named by
the cookie and read-locked by the source: a cookie of another attempt is found
out. The *undecided* one is the destination's alone with its ticket, shared as
soon as it owns. The source waits for it, and so has the kernel's word whether a
destination that is gone has owned the disks. It must not know whose turn it is.
"""

from __future__ import annotations

import fcntl
import select
import time

from lockplugins.contract import LeaseHeldError, Mode
from lockplugins.file.names import sha256
from lockplugins.kernel_locks import books
from lockplugins.kernel_locks.lockfile import (
    FREE,
    LEASE_BYTE,
    READ,
    UNDECIDED_BYTE,
    WRITE,
    LockFile,
    Refusal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.contract import Lease

VERB = "complete the migration of"
# Below 2^61, where doctor tries locks.
ATTEMPTS_BYTE = 1 << 60  # plus the nonce
NO_ATTEMPTS_BYTE = ATTEMPTS_BYTE - 1  # where no cookie has named one: nobody locks it
NEXT, OR = ",."
ACK_S = 1.0
SOON_S = 0.05  # naming who is in the way reads much of /proc
_LOOK_MS = 1
_HASHED = 12  # hexadecimal digits


def byte_of(nonce: str) -> int:
    """Return the byte of one attempt."""
    return ATTEMPTS_BYTE + int(nonce, 16)


def told(lease: Lease, files: list[LockFile]) -> str:
    """Return a disk as a cookie tells of it: by name, or by device and inode on the same host."""
    device, inode = files[0].identity
    words = (f"{lease.type} {lease.resource} {lease.lease}", f"{device} {inode}")
    return OR.join(sha256(word.encode("utf-8", "surrogateescape"))[:_HASHED] for word in words)


def share_soon(files: list[LockFile]) -> Refusal | None:
    """Share byte 0 of all, or of none; a source that is just handing over has a moment to do it."""
    deadline = time.monotonic() + SOON_S
    while (refusal := share(files)) and time.monotonic() < deadline:
        select.poll().poll(_LOOK_MS)
    return refusal


def share(files: list[LockFile]) -> Refusal | None:
    """Share byte 0 of all, or of none."""
    for index, file in enumerate(files):
        if not file.set(READ, LEASE_BYTE):
            let_go(files[:index])
            return Refusal(file, Mode.SHARED, READ, LEASE_BYTE)
    return None


def let_go(files: list[LockFile]) -> None:
    for file in files:
        file.set(FREE, LEASE_BYTE)


def share_again(files: list[LockFile]) -> None:
    for file in files:
        file.set(READ, LEASE_BYTE)  # less than it is: not refused


def look_around(file: LockFile, attempt_byte: int) -> None:
    """Raise LeaseHeldError if anybody shares the file but the source of this very attempt."""
    stranger = books.beside_source(file.fd, attempt_byte)
    if stranger is None:
        other = file.conflict(WRITE, LEASE_BYTE) and not file.conflict(WRITE, attempt_byte)
        stranger = books.unseen(Mode.SHARED) if other else None
    if stranger is not None:
        why = f"{file.name} is shared by {stranger.description}, not by the cookie's source"
        advice = "end that, or give the cookie that its source printed last"
        raise LeaseHeldError(VERB, "the guest", why, advice, stranger)


def decide(files: list[LockFile], attempt_byte: int) -> None:
    """Destination: it owns, or has run; returns when the source has seen it, or is gone.

    A source that is stopped is not waited for longer than ACK_S: it can take
    nothing back while this end lives.
    """
    for file in files:
        file.set(READ, UNDECIDED_BYTE)
    deadline = time.monotonic() + ACK_S
    while any(file.conflict(WRITE, attempt_byte) for file in files):
        if time.monotonic() > deadline:
            return
        select.poll().poll(_LOOK_MS)


def is_decided(files: list[LockFile]) -> bool:
    """Source: wait until the destination owns (True) or is gone without having owned (False).

    Keeps what it waited for: so the attempt has no other destination.
    """
    for file in files:
        file.set(READ, UNDECIDED_BYTE, command=fcntl.F_OFD_SETLKW)
        if file.conflict(WRITE, UNDECIDED_BYTE):
            return True
    return False
