"""Did two guests ever write to one image at once? Was a write lost, or torn?

The newest block on the disk tells the whole history (block.py); the disk must hold exactly
what that history leaves behind. Besides, every guest judges in the same way what it finds
at its start and what it is about to overwrite, and hands on the first conflict, a foreign
block before all others, in all later blocks: so evidence is not overwritten unseen.

Interleaved: a block of a boot that the newest block's writer knew nothing of, or that its
successor had not seen, or with another history. Lost: an older block, or none, where an
acknowledged one must be. Torn: half a block, except the one in flight when a boot was killed.
Not seen: the loss of the very last block; a guest that only read. A guest that is writing
moves the ground: judge when all are dead. This file must not know who started the guests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.support.guest.block import (
    BLOCK_BYTES,
    GAP,
    MAX_BOOTS,
    MAX_SLOTS,
    Block,
    Boot,
    is_empty,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_QCOW2_MAGIC = b"QFI\xfb"
_CONVERT_TIMEOUT_S = 60
_LINES_SHOWN = 10


class Kind(StrEnum):
    """What can be wrong with an image; in the order of writer.c's numbers, from 1."""

    INTERLEAVED = "interleaved"
    LOST = "lost"
    TORN = "torn"


@dataclass(frozen=True)
class Violation:
    """One thing on the disk that no single guest at a time leaves behind."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class BootReport:
    """One boot: its interval of sequence numbers, and how many of its blocks are still there."""

    nonce: int
    first: int
    last: int
    visible: int

    @property
    def blocks(self) -> int:
        """How many blocks the boot wrote."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Report:
    """The boots that wrote, oldest first (the last 128), and what is wrong."""

    guest: str
    boots: tuple[BootReport, ...]
    violations: tuple[Violation, ...]

    @property
    def interleaved(self) -> bool:
        """Whether two guests were at the disk at once."""
        return any(v.kind is Kind.INTERLEAVED for v in self.violations)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(f"{v.kind}: {v.text}" for v in self.violations)

    @property
    def clean(self) -> bool:
        """Whether guests wrote, one at a time, and nothing of it is missing."""
        return bool(self.boots) and not self.violations


@dataclass
class _History:
    """What the newest block says, and what every slot must therefore hold."""

    newest: Block
    boots: dict[int, Boot] = field(init=False)
    expected: dict[int, int] = field(init=False)
    ends: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        history, slots = self.newest.history, self.newest.slots
        self.boots = {boot.nonce: boot for boot in history}
        self.expected = {}
        for _, first, last in history:
            for seq in range(max(first, last - slots + 1), last + 1):
                self.expected[seq % slots] = seq
        self.ends = (0, *(boot.last for boot in history))

    @property
    def is_cut(self) -> bool:
        """Whether boots older than the history may have left blocks, judged in their time."""
        return len(self.newest.history) == MAX_BOOTS

    def may_be_torn(self, slot: int) -> bool:
        """Whether a boot killed while writing may have left this slot torn.

        Its next block, or a successor's very first one. Nothing written since.
        """
        for last in self.ends:
            offset = (slot - last) % self.newest.slots
            if (offset == 1 or GAP < offset <= 2 * GAP) and self.expected.get(slot, 0) < (
                last + offset
            ):
                return True
        return False

    def contradicts(self, block: Block) -> bool:
        """Whether `block`, of a known boot, tells another history than the newest one."""
        at = self.newest.history.index(self.boots[block.boot.nonce])
        ours, theirs = self.newest.history[:at], block.history[:-1]
        common = min(len(ours), len(theirs))
        full = len(ours) == len(theirs) or self.is_cut
        same = ours[len(ours) - common :] == theirs[len(theirs) - common :]
        return not (full and same and block.boot.first == self.newest.history[at].first)


def _judge_page(history: _History, slot: int, page: bytes) -> Violation | None:
    """Judge a slot that holds no block."""
    expected = history.expected.get(slot)
    if is_empty(page):
        lost = Violation(Kind.LOST, f"slot {slot} must hold seq {expected}, but is empty")
        return lost if expected else None
    if history.may_be_torn(slot) or (history.is_cut and not expected):
        return None
    return Violation(Kind.TORN, f"slot {slot} holds neither a block nor nothing")


def _judge_block(history: _History, block: Block) -> Violation | None:
    expected = history.expected.get(block.slot)
    boot = history.boots.get(block.boot.nonce)
    found = (
        f"slot {block.slot} must {f'hold seq {expected}' if expected else 'be empty'},"
        f" but holds seq {block.seq} of boot {block.boot.nonce:016x}"
    )
    kind = Kind.INTERLEAVED
    if history.is_cut and block.seq < history.newest.history[0].first:
        kind = Kind.LOST
        if not expected:
            return None
    elif boot is None:
        found += ", unknown to the newest block's writer"
    elif history.contradicts(block):
        found += ", whose history is another"
    elif block.seq > boot.last:
        found += f", written after {boot.last}, its last block when its successor began"
    elif block.seq == expected:
        return None
    else:
        kind = Kind.LOST
    return Violation(kind, found)


def _recorded(newest: Block) -> Violation | None:
    """Return the conflict that a guest found while it ran."""
    conflict = newest.conflict
    if not conflict.kind:
        return None
    found = (
        f"seq {conflict.found_seq} of boot {conflict.found_nonce:016x}"
        if conflict.found_nonce
        else "no whole block"
    )
    return Violation(
        list(Kind)[conflict.kind - 1],
        f"boot {conflict.nonce:016x} found {found} in slot {conflict.slot}"
        f" before it wrote seq {conflict.seq}",
    )


def judge(pages: Sequence[bytes]) -> Report:
    """Judge the pages of a ring."""
    slots = len(pages)
    blocks = [parse(page, slot, slots) for slot, page in enumerate(pages)]
    valid = [block for block in blocks if block]
    if not valid:
        rest = sum(not is_empty(page) for page in pages)
        torn = Violation(Kind.TORN, f"{rest} slots are not empty, and none holds a whole block")
        return Report("", (), (torn,) if rest > 1 else ())
    newest = max(valid, key=lambda block: block.seq)
    history = _History(newest)
    verdicts = [
        _judge_block(history, block) if block else _judge_page(history, slot, pages[slot])
        for slot, block in enumerate(blocks)
    ]
    visible = [block.boot.nonce for block in valid]
    return Report(
        newest.guest,
        tuple(BootReport(*boot, visible.count(boot.nonce)) for boot in newest.history),
        tuple(v for v in (_recorded(newest), *verdicts) if v),
    )


def read_pages(image: str | os.PathLike[str]) -> list[bytes]:
    """Return the pages of the ring on `image`, raw or qcow2."""
    with open(image, "rb") as file:
        if file.read(4) == _QCOW2_MAGIC:
            with tempfile.NamedTemporaryFile(prefix="checker-", suffix=".raw") as raw:
                convert = ("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw")
                subprocess.run(
                    [*convert, os.fspath(image), raw.name],
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=_CONVERT_TIMEOUT_S,
                )
                return read_pages(raw.name)
        file.seek(0)
        data = file.read(MAX_SLOTS * BLOCK_BYTES)
    whole = len(data) - len(data) % BLOCK_BYTES
    return [data[at : at + BLOCK_BYTES] for at in range(0, whole, BLOCK_BYTES)]


def check(image: str | os.PathLike[str]) -> Report:
    """Judge an image that no guest is writing to any more."""
    return judge(read_pages(image))


def describe(report: Report) -> str:
    lines = [
        f"boot {boot.nonce:016x}: seq {boot.first} to {boot.last},"
        f" {boot.blocks} blocks, {boot.visible} not overwritten yet"
        for boot in report.boots[-_LINES_SHOWN:]
    ]
    lines += report.reasons[:_LINES_SHOWN]
    if len(report.reasons) > _LINES_SHOWN:
        lines.append(f"and {len(report.reasons) - _LINES_SHOWN} more")
    if report.clean:
        lines.append("clean: one guest at a time, no write lost, none torn")
    elif not report.violations:
        lines.append("no guest has written to this image")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    if len(argv) != 1:
        sys.stderr.write("usage: python -m tests.support.guest.checker IMAGE\n")
        return 1
    try:
        report = check(argv[0])
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        sys.stderr.write(f"cannot check image {argv[0]}: {said.strip()}\n")
        return 1
    sys.stdout.write(describe(report) + "\n")
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
