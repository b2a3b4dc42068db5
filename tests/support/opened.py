"""Which files does a running QEMU have open, and to which does it write? QEMU and the kernel tell.

Judged from its block nodes, its descriptors and its own image locks, never from what we found.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from supervisor.discovery.drivers import LOCAL
from tests.support.proclocks import locks
from tests.support.qemu import Monitor, idle_argv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DEADLINE_S = 30
_WRITE_LOCK = 101  # the byte by which QEMU says that it may write to an image


class Running:
    """A QEMU with its block nodes."""

    def __init__(self, pid: int, nodes: list[dict[str, Any]]) -> None:
        self.pid = pid
        self.nodes = nodes
        self.files = [node for node in nodes if node["drv"] in LOCAL]

    def open_files(self, directory: Path) -> set[str]:
        """Return which files of `directory` the process has open, itself not among them."""
        links = f"/proc/{self.pid}/fd"
        opened = {os.readlink(f"{links}/{fd}") for fd in os.listdir(links)}
        here = {path for path in opened if path.startswith(f"{directory}/")}
        return {path for path in here if not path.startswith(f"{directory}/scratch/")}

    def writable(self, directory: Path) -> set[str]:
        """Return which files of `directory` a block node has open for writing."""
        named = {os.path.join(directory, n["file"]) for n in self.files if not n["ro"]}
        return {os.path.realpath(name) for name in named if "/scratch/" not in name}


@contextmanager
def running(args: list[str], directory: Path, fds: tuple[int, ...] = ()) -> Iterator[Running]:
    """Run QEMU with its images open and its processor stopped."""
    scratch = directory / "scratch"  # for what -snapshot writes
    scratch.mkdir(exist_ok=True)
    with Monitor() as monitor:
        process = subprocess.Popen(
            [*idle_argv(machine="q35", extra=args), *monitor.argv],
            cwd=directory,
            env={**os.environ, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            pass_fds=(monitor.fd, *fds),
        )
        try:
            nodes = monitor.execute("query-named-block-nodes", flat=True)
            yield Running(process.pid, cast("list[dict[str, Any]]", nodes))
        finally:
            process.kill()
            process.wait(_DEADLINE_S)


def write_locked(paths: set[str]) -> set[str]:
    """Return to which images QEMU may write, by the locks that it holds on them."""
    return {
        path
        for path in paths
        if any(lock.first <= _WRITE_LOCK <= int(lock.last) for lock in locks(path))
    }
