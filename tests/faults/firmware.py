"""Which real QEMU is cheap enough for hundreds of rounds? One that runs its firmware, no more.

Its threads really run when they are killed. Its own image locks are off: they
would pass the exclusion tests for us.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

QEMU = "qemu-system-x86_64"


def argv(*images: str | os.PathLike[str], extra: Sequence[str] = ()) -> list[str]:
    """Return the command line of a QEMU that runs its firmware on raw `images`."""
    words = [QEMU, "-accel", "tcg", "-machine", "q35", "-m", "64", "-display", "none"]
    for image in images:
        words += ["-drive", f"file={os.fspath(image)},file.locking=off,if=virtio,format=raw"]
    return [*words, "-nodefaults", *extra]


def image(path: str | os.PathLike[str], size: int = 1 << 20) -> str:
    """Make an empty raw image; returns its path."""
    with open(path, "wb") as file:
        file.truncate(size)
    return os.fspath(path)
