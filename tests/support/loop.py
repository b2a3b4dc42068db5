"""Where do tests get a block device? Loop devices, for root."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def loop_device(image: str, size: int = 1 << 20) -> Iterator[str]:
    """Create `image`, and a block device on it while the context lasts."""
    with open(image, "wb") as file:
        file.truncate(size)
    command = ["losetup", "--find", "--show", image]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)


def second_node(device: str, path: str) -> str:
    """Make another node of the same device."""
    os.mknod(path, 0o600 | 0o060000, os.stat(device).st_rdev)
    return path
