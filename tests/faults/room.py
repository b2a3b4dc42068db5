"""How does a filesystem get full under a test? A small one of its own, filled. Judges nothing."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.guard import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = 4096


@contextmanager
def tmpfs(directory: Path, options: str) -> Iterator[str]:
    """Mount a tmpfs with `options` while the context lasts."""
    path = directory / "tmpfs"
    path.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    subprocess.run(mount, check=True, timeout=DEADLINE_S)
    try:
        yield str(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=DEADLINE_S)


def fill(fd: int) -> None:
    """Write until the filesystem is full."""
    try:
        while os.write(fd, bytes(PAGE)):
            pass
    except OSError:
        return
