"""What does a host's clock say? How far it is off is in a file, which clock.c reads."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

DEADLINE_S = 60.0
_FLAGS = ("-shared", "-fPIC", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")


def build(directory: Path) -> Path:
    """Compile what is preloaded."""
    library = directory / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["gcc", *_FLAGS, "-o", library, source], check=True, timeout=DEADLINE_S)
    return library


class Clock:
    """One host's; `env` is for its programs."""

    def __init__(self, library: Path, path: Path) -> None:
        self.off_s = 0
        self._path = path
        self._path.write_bytes(struct.pack("q", 0))
        self.env = {"LD_PRELOAD": str(library), "RACE_CLOCK": str(path)}

    def step(self, seconds: int) -> None:
        """Set it, for who runs now too."""
        self.off_s += seconds
        with self._path.open("r+b", buffering=0) as file:
            file.write(struct.pack("q", self.off_s))
