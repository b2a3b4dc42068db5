"""What do sanlock's daemons and storage hold? Read with sanlock's own command, never the plugin.

Knows nothing of who started a daemon. Judges nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEADLINE_S = 60.0
LOCKSPACE = "__LIBVIRT__DISKS__"
IO_TIMEOUT_S = 1
FILE_BYTES = 1 << 20  # a lockspace's and a lease's, on sectors of 512 bytes


class SanlockError(Exception):
    """The daemon, or the storage, said no."""


@dataclass(frozen=True)
class Held:
    """One lease as a daemon lists it: its name, whose it is, and its version (None: shared).

    It is listed until it can be taken again, a little longer than its holder lives.
    """

    lockspace: str
    resource: str
    path: str
    offset: int
    pid: int
    version: int | None


@dataclass(frozen=True)
class Joined:
    """One lockspace as a daemon lists it; `fields` are those of `status -D`."""

    name: str
    host_id: int
    path: str
    fields: dict[str, str]


@dataclass(frozen=True)
class Status:
    """All that a daemon says at one time; `clients` are registered pids, with their fields."""

    daemon: dict[str, str]
    clients: dict[int, dict[str, str]]
    lockspaces: list[Joined]
    leases: list[Held]


def program() -> str:
    if (path := shutil.which("sanlock")) is None:
        raise SanlockError("sanlock is not installed")
    return path


def run(env: Mapping[str, str], *words: str, deadline_s: float = DEADLINE_S) -> str:
    """Return what `sanlock WORDS` prints. Raises SanlockError, at once if no daemon answers."""
    try:
        done = subprocess.run(
            [program(), *words], env={**os.environ, **env}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=deadline_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SanlockError(f"sanlock {' '.join(words)}: no answer in {deadline_s:g} s") from error
    if done.returncode != 0:
        raise SanlockError(f"sanlock {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def init_lockspace(path: str, name: str = LOCKSPACE, io_timeout_s: int = IO_TIMEOUT_S) -> None:
    """Make a lockspace, as an administrator does; needs no daemon."""
    _make_file(path)
    run({}, "direct", "init", "-s", f"{name}:0:{path}:0", "-o", str(io_timeout_s))


def init_lease(path: str, resource: str, lockspace: str = LOCKSPACE, offset: int = 0) -> None:
    """Make a lease that nobody holds."""
    _make_file(path, offset + FILE_BYTES)
    run({}, "direct", "init", "-r", f"{lockspace}:{resource}:{path}:{offset}")


def _make_file(path: str, size: int = FILE_BYTES) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.truncate(fd, max(size, os.fstat(fd).st_size))
    finally:
        os.close(fd)


def lease_name(disk: str) -> str:
    """Return the name that libvirt gives a disk's lease and its file: of the path, verbatim."""
    return hashlib.md5(os.fsencode(disk), usedforsecurity=False).hexdigest()


def leader(path: str, resource: str, lockspace: str = LOCKSPACE) -> dict[str, str]:
    """Return what a lease's first sector says: owner_id, owner_generation, lver and more."""
    said = run({}, "direct", "read_leader", "-r", f"{lockspace}:{resource}:{path}:0")
    return _fields(said.splitlines())


def dump(path: str) -> list[list[str]]:
    """Return the words of each line, save the head, that `sanlock direct dump` shows."""
    return [line.split() for line in run({}, "direct", "dump", path).splitlines()[1:]]


def parse(said: str) -> Status:
    """Read `sanlock client status -D`: a line for each thing, its fields indented below it."""
    status = Status({}, {}, [], [])
    heads: list[tuple[str, list[str]]] = []
    for line in said.splitlines():
        if line.startswith(" "):
            heads[-1][1].append(line)
        else:
            heads.append((line, []))
    for head, lines in heads:
        kind, _, rest = head.partition(" ")
        fields = _fields(line.strip().replace("=", " ", 1) for line in lines)
        if kind == "daemon":
            status.daemon.update(fields)
        elif kind == "p" and not rest.startswith("-1"):
            status.clients[int(rest.split()[0])] = fields
        elif kind == "s":
            name, host_id, path, _offset = rest.split()[0].rsplit(":", 3)
            status.lockspaces.append(Joined(name, int(host_id), path, fields))
        elif kind == "r" and fields["list"] != "add":
            where, pid = rest.split(" p ")
            name, resource, path, offset, version = where.rsplit(":", 4)
            number = None if version == "SH" else int(version)
            status.leases.append(
                Held(name, resource, path, int(offset), int(pid.split()[0]), number)
            )
    return status


def _fields(lines: Iterable[str]) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in lines if " " in line)
