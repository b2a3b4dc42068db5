"""What does one block hold that the tests' guest (writer.c) writes to its disk?

The disk's first `MAX_SLOTS` pages are a ring: sequence number `seq` goes to slot
`seq % slots`. Every block names all boots that ever wrote, itself last, each with its
nonce and the interval of sequence numbers that it wrote; so the newest block tells what
the whole ring must hold. A boot starts `GAP` to 2 * `GAP` numbers after its predecessor's
last block: what the predecessor, still alive, writes too late stays visible in the gap.
This file must not know how a disk is judged.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

BLOCK_BYTES = 4096
MAX_SLOTS = 4096
MIN_SLOTS = 256
MAX_BOOTS = 128
GAP = 64

_MAGIC = b"LSGUEST1"
_HEAD = struct.Struct("<8sQII16sIIQQQQ")
_BOOT = struct.Struct("<QQQ")
_CRC = struct.Struct("<I")
_CRC_OFFSET = BLOCK_BYTES - _CRC.size
_EMPTY = bytes(BLOCK_BYTES)


class Boot(NamedTuple):
    """One start of a guest: the sequence numbers `first` to `last` are its blocks."""

    nonce: int
    first: int
    last: int


class Conflict(NamedTuple):
    """What a guest found instead of what it had to find, before overwriting it.

    `kind` is one of writer.c's, 0 for none. `found_nonce` is 0 for what is no block.
    """

    kind: int = 0
    slot: int = 0
    found_nonce: int = 0
    found_seq: int = 0
    nonce: int = 0
    seq: int = 0


NO_CONFLICT = Conflict()


@dataclass(frozen=True)
class Block:
    """One block: who wrote it, its place in the ring, and all that went before."""

    slots: int
    history: tuple[Boot, ...]
    guest: str = ""
    conflict: Conflict = NO_CONFLICT

    @property
    def boot(self) -> Boot:
        """The boot that wrote this block, as of this block."""
        return self.history[-1]

    @property
    def seq(self) -> int:
        return self.boot.last

    @property
    def slot(self) -> int:
        return self.seq % self.slots

    def pack(self) -> bytes:
        kind, slot, *rest = self.conflict
        head = _HEAD.pack(
            _MAGIC, self.seq, self.slots, len(self.history), self.guest.encode(), kind, slot, *rest
        )
        body = head + b"".join(_BOOT.pack(*boot) for boot in self.history)
        body = body.ljust(_CRC_OFFSET, b"\0")
        return body + _CRC.pack(zlib.crc32(body))


def is_empty(page: bytes) -> bool:
    return page == _EMPTY


def parse(page: bytes, slot: int, slots: int) -> Block | None:
    """Return the block that `page`, read from `slot`, holds; None if it is no whole block."""
    magic, seq, its_slots, boots, guest, *conflict = _HEAD.unpack_from(page)
    (crc,) = _CRC.unpack_from(page, _CRC_OFFSET)
    if magic != _MAGIC or crc != zlib.crc32(page[:_CRC_OFFSET]):
        return None
    if its_slots != slots or seq % slots != slot or not 0 < boots <= MAX_BOOTS:
        return None
    table = page[_HEAD.size : _HEAD.size + boots * _BOOT.size]
    history = tuple(Boot(*entry) for entry in _BOOT.iter_unpack(table))
    if history[-1].last != seq:
        return None
    name = guest.rstrip(b"\0").decode("ascii", "backslashreplace")
    return Block(slots, history, name, Conflict(*conflict))
