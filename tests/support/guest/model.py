"""What do guests leave on a disk, well-behaved or not? Synthetic images for the checker's tests.

`Ring` is a disk; `Writer` does to it what writer.c does, save judging what it finds. Every
fault is made by hand: two writers at once, a page put back, a page half written.
"""

from __future__ import annotations

from tests.support.guest.block import (
    BLOCK_BYTES,
    GAP,
    MAX_BOOTS,
    MIN_SLOTS,
    NO_CONFLICT,
    Block,
    Boot,
    Conflict,
    parse,
)

EMPTY = bytes(BLOCK_BYTES)


class Ring:
    """The pages of a disk."""

    def __init__(self, slots: int = MIN_SLOTS) -> None:
        self.pages = [EMPTY] * slots

    def newest(self) -> Block | None:
        slots = len(self.pages)
        blocks = (parse(page, slot, slots) for slot, page in enumerate(self.pages))
        return max((b for b in blocks if b), key=lambda b: b.seq, default=None)

    def put(self, block: Block) -> None:
        self.pages[block.slot] = block.pack()

    def tear(self, block: Block) -> None:
        """Write only the first half of `block`: what a kill may leave behind."""
        half = BLOCK_BYTES // 2
        self.pages[block.slot] = block.pack()[:half] + self.pages[block.slot][half:]


class Writer:
    """One boot of a guest: reads the disk when made, then writes block after block."""

    def __init__(self, ring: Ring, nonce: int, conflict: Conflict = NO_CONFLICT) -> None:
        newest = ring.newest()
        self.ring = ring
        self.nonce = nonce
        self.conflict = conflict
        self.before = newest.history[1 - MAX_BOOTS :] if newest else ()
        self.first = self.seq = (newest.seq if newest else 0) + 1 + GAP + nonce % GAP

    def block(self) -> Block:
        """Return the block that is to be written next."""
        history = (*self.before, Boot(self.nonce, self.first, self.seq))
        return Block(len(self.ring.pages), history, "model", self.conflict)

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            self.ring.put(self.block())
            self.seq += 1
