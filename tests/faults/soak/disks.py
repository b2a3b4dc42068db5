"""Which disks do the soak's guests fight over? Raw ones, qcow2 ones on one backing file, spares.

Each can be called by several names. Knows images, not who uses them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockplugins.contract import Mode
from tests.support.guest.checker import check
from tests.support.guest.model import Ring, Writer

if TYPE_CHECKING:
    import random
    from pathlib import Path

SLOTS = 512
RAW = ("a", "b", "c")
OVERLAYS = ("d", "e")
SPARES = ("s", "t", "u")
ANCHORED = ("x", "y")


@dataclass(frozen=True)
class Disk:
    """One image; `file` is its canonical path, `names` are all paths that lead to it."""

    file: str
    names: tuple[str, ...]
    backing: str | None = None

    def leases(self, name: str, mode: str) -> list[tuple[str, str, str]]:
        """Return (file, name, mode) of every lease that opening it as `name` needs."""
        backing = [(self.backing, self.backing, Mode.SHARED)] if self.backing else []
        return [(self.file, name, mode), *backing]


class Disks:
    """All images, made under `directory`.

    Guests boot from `main`; `spare` come and go; `anchored` are never let go.
    """

    def __init__(self, directory: Path) -> None:
        self._images = directory / "images"
        self._links = directory / "links"
        self._images.mkdir()
        self._links.mkdir()
        (directory / "other").symlink_to(self._images)
        base = self._images / "base.raw"
        ring = Ring(SLOTS)
        Writer(ring, 0xBA5E).write(20)
        base.write_bytes(b"".join(ring.pages))
        self.base = str(base)
        self._before = self._digest()
        self.raw = tuple(self._make(f"{name}.raw") for name in RAW)
        self.overlays = tuple(self._make(f"{name}.qcow2", self.base) for name in OVERLAYS)
        self.main = self.raw + self.overlays
        self.spare = tuple(self._make(f"{name}.raw") for name in SPARES)
        self.anchored = tuple(self._make(f"{name}.raw") for name in ANCHORED)
        self.all = self.main + self.spare + self.anchored
        self.files = [*(disk.file for disk in self.all), self.base]

    def _make(self, name: str, backing: str | None = None) -> Disk:
        path = self._images / name
        if backing:
            options = ("-f", "qcow2", "-b", backing, "-F", "raw")
            subprocess.run(["qemu-img", "create", "-q", *options, path], check=True, timeout=60)
        else:
            path.touch()
            os.truncate(path, os.path.getsize(self.base))
        link = self._links / name
        link.hardlink_to(path)
        names = (path, f"{self._images}//{name}", self._images.parent / "other" / name, link)
        return Disk(str(path), tuple(str(known) for known in names), backing)

    def _digest(self) -> str:
        with open(self.base, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def named(self, disk: Disk, rng: random.Random) -> str:
        """Choose one of the disk's names, mostly the plain one."""
        return rng.choice(disk.names) if rng.random() < 0.3 else disk.names[0]

    def faults(self) -> list[str]:
        """Say what is wrong with the images, now that nobody uses them."""
        found = [
            f"{disk.file}: {reason}" for disk in self.all for reason in check(disk.file).reasons
        ]
        return found + ([] if self._digest() == self._before else [f"{self.base} has changed"])

    def boots(self) -> tuple[int, int]:
        """Count the boots that wrote, as far as the images know them, and their blocks."""
        boots = [boot for disk in self.all for boot in check(disk.file).boots]
        return len(boots), sum(boot.blocks for boot in boots)
