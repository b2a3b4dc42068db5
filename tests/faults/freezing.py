"""Where does a guest's write hang for as long as a test likes? On a filesystem that it freezes.

fsfreeze(8) of an ext4 on a loop device: who writes then is in uninterruptible
sleep, SIGKILL or not, until the thaw. Root only.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 64 << 20


class Filesystem:
    """A mounted ext4 of its own; `path` is its mount point."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._frozen = False

    def freeze(self) -> None:
        _run("fsfreeze", "--freeze", self.path)
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen:
            _run("fsfreeze", "--unfreeze", self.path)
        self._frozen = False


@contextmanager
def filesystem(
    directory: str | os.PathLike[str], options: str = "loop", size: int = SIZE
) -> Iterator[Filesystem]:
    """Make and mount one under `directory`; thawed and unmounted in the end."""
    image, path = f"{os.fspath(directory)}/ext4", f"{os.fspath(directory)}/mounted"
    with open(image, "wb") as file:
        file.truncate(size)
    os.mkdir(path)
    _run("mkfs.ext4", "-q", "-F", image)
    _run("mount", "-o", options, image, path)
    mounted = Filesystem(path)
    try:
        yield mounted
    finally:
        mounted.thaw()
        _run("umount", "--lazy", path)  # a guest that a failed test left may still be there


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=60, stdin=subprocess.DEVNULL)
