"""Which other names can a disk have? Links, mounts and device nodes, made and taken back.

Needs root. Knows what leads to the same file; not what is leased.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 20.0


def run(*command: str) -> str:
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return result.stdout.strip()


class Names:
    """Makes other names of files, and takes back what outlives a directory."""

    def __init__(self, tmp_path: Path) -> None:
        self.directory = str(tmp_path)
        self._undo: list[tuple[str, ...]] = []

    def close(self) -> None:
        while self._undo:
            run(*self._undo.pop())

    def image(self, name: str = "disk") -> str:
        path = f"{self.directory}/{name}"
        with open(path, "wb") as file:
            file.truncate(1 << 20)
        return path

    def device(self) -> str:
        """Return a block device, by the kernel's own node."""
        device = run("losetup", "--find", "--show", self.image("behind a loop"))
        self._undo.append(("losetup", "--detach", device))
        return device

    def slashes(self, path: str) -> str:
        return path.replace("/", "//")

    def dots(self, path: str) -> str:
        head, tail = os.path.split(path)
        return f"{head}/./../{os.path.basename(head)}/{tail}"

    def symlink(self, path: str) -> str:
        os.symlink(path, other := f"{self.directory}/symlink")
        return other

    def symlink_chain(self, path: str) -> str:
        os.symlink(os.path.relpath(self.symlink(path), self.directory), other := path + ".link")
        return other

    def symlinked_directory(self, path: str) -> str:
        os.symlink(os.path.dirname(path), other := f"{self.directory}/elsewhere")
        return f"{other}/{os.path.basename(path)}"

    def hard_link(self, path: str) -> str:
        os.link(path, other := f"{self.directory}/hard link")
        return other

    def bind_mount(self, path: str) -> str:
        other = self.image("mounted over")
        self._mount(path, other)
        return other

    def bind_mounted_directory(self, path: str) -> str:
        os.mkdir(other := f"{self.directory}/mounted")
        self._mount(os.path.dirname(path), other)
        return f"{other}/{os.path.basename(path)}"

    def by_proc(self, path: str) -> str:
        return f"/proc/{os.getpid()}/root{path}"

    def second_node(self, path: str) -> str:
        node = f"{self.directory}/node"
        os.mknod(node, os.stat(path).st_mode, os.stat(path).st_rdev)
        return node

    def _mount(self, path: str, over: str) -> None:
        run("mount", "--bind", path, over)
        self._undo.append(("umount", "--lazy", over))


FILE_SPELLINGS = (
    Names.slashes, Names.dots, Names.symlink, Names.symlink_chain, Names.symlinked_directory,
    Names.hard_link, Names.bind_mount, Names.bind_mounted_directory, Names.by_proc,
)  # fmt: skip
DEVICE_SPELLINGS = (Names.slashes, Names.dots, Names.symlink, Names.by_proc, Names.second_node)
