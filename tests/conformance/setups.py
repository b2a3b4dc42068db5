"""Which plugins that exclude are there, how is each set up, and what does its lock manager say?

A set-up looks at the lock manager by itself, never through the plugin under
test. A new plugin joins the suite by one more line in SETUPS.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from lockplugins.contract import Mode, Resource, ResourceType
from tests.support import proclocks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest

    from supervisor.spec import GuestSpec
    from tests.support.etcd import Cluster
    from tests.support.guard import Guard
    from tests.support.sanlock import Daemon

    Facts = dict[str, tuple[object, ...]]

DISK_BYTES = 1 << 16


class Setup(Protocol):
    """One plugin, ready to be used by guards; `plugin` and `config` are for GuestSpec.

    `env` is what all who use the lock manager need in their environment.
    """

    plugin: str
    config: dict[str, dict[str, str]]
    env: dict[str, str]
    kind: str

    def disk(self, name: str) -> str:
        """Make a disk, or what the plugin leases instead of disks, and return its name."""

    def lease(self, spec: GuestSpec, mode: str, disk: str) -> None:
        """Have the guest of `spec` leased one more of them."""

    def held(self, disk: str) -> list[str]:
        """Return the modes in which `disk` is held, sorted, as the lock manager sees it."""

    def holder(self, guard: Guard) -> int:
        """Return the process that holds, for the lock manager, what a guard's guest has."""

    def facts(self, disks: Sequence[str]) -> Facts:
        """Return all that a refusal and an inquiry may not change: bytes, stat, locks."""

    def watch(self, record: Path) -> list[str]:
        """Return a prefix for the guard's command line that records what it gives back."""

    def given_back(self, record: Path, disks: Sequence[str]) -> list[str]:
        """Return which of `disks` were given back after the refusal, in that order."""


class Disks:
    """What set-ups have in common whose plugins lease disks: images in a directory."""

    kind = ResourceType.DISK

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def disk(self, name: str) -> str:
        path = self._directory / name
        path.write_bytes(os.urandom(DISK_BYTES))
        os.utime(path, ns=(1, 2))  # read before written: any read moves it (relatime)
        return str(path)

    def lease(self, spec: GuestSpec, mode: str, disk: str) -> None:
        spec.resources.append(Resource(disk, mode))

    def watch(self, record: Path) -> list[str]:
        raise NotImplementedError(record)

    def given_back(self, record: Path, disks: Sequence[str]) -> list[str]:
        raise NotImplementedError(record, disks)


class FileSetup(Disks):
    """Plugin `file`: locks on the images, with `lockspace` also on files in a directory."""

    plugin = "file"

    def __init__(self, directory: Path, *, lockspace: bool) -> None:
        super().__init__(directory)
        self._lockspace = str(directory / "lockspace") if lockspace else None
        table = {"file_lockspace_dir": self._lockspace} if self._lockspace else {}
        self.config = {"file": table}
        self.env: dict[str, str] = {}

    def held(self, disk: str) -> list[str]:
        found = [_held(file) for file in self._files(disk)]
        assert all(held == found[0] for held in found), f"image and lock file differ: {found}"
        return found[0]

    def holder(self, guard: Guard) -> int:
        return guard.pid

    def facts(self, disks: Sequence[str]) -> Facts:
        files = list(disks)
        if self._lockspace and os.path.isdir(self._lockspace):
            files += [os.path.join(self._lockspace, name) for name in os.listdir(self._lockspace)]
        return {file: _facts(file) for file in files}

    def watch(self, record: Path) -> list[str]:
        return ["strace", "-f", "-y", "-qq", "-e", "trace=fcntl,close", "-o", str(record)]

    def given_back(self, record: Path, disks: Sequence[str]) -> list[str]:
        """Closing its last descriptor unlocks an image that no guest carries."""
        _before, refused, after = record.read_text().partition("EAGAIN")
        assert refused, "no lock was refused"
        closed = re.findall(r"close\(\d+<([^>]+)>", after)
        return [path for path in closed if path in disks]

    def _files(self, disk: str) -> list[str]:
        if self._lockspace is None:
            return [disk]
        name = hashlib.sha256(os.fsencode(disk)).hexdigest()
        lock_file = os.path.join(self._lockspace, name)
        return [disk, lock_file] if os.path.exists(lock_file) else [disk]


class VmSetup:
    """Plugin `vm`: a lock for each guest's uuid; guests of one uuid have runtime directories apart.

    Else the runtime directory would refuse the second one before any lease is asked for.
    """

    plugin = "vm"
    kind = ResourceType.VM

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "leases"
        self.config = {"vm": {"lease_dir": str(self._directory)}}
        self.env: dict[str, str] = {}

    def disk(self, name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, name))

    def lease(self, spec: GuestSpec, mode: str, disk: str) -> None:
        assert mode == Mode.EXCLUSIVE, "a guest is never leased shared"
        spec.uuid = disk
        spec.runtime_dir = os.path.join(spec.runtime_dir, str(uuid.uuid4()))

    def held(self, disk: str) -> list[str]:
        path = self._directory / disk
        return _held(str(path)) if path.exists() else []

    def holder(self, guard: Guard) -> int:
        return guard.pid

    def facts(self, disks: Sequence[str]) -> Facts:
        paths = [str(self._directory / disk) for disk in disks]
        return {path: _facts(path) for path in paths if os.path.exists(path)}

    def watch(self, record: Path) -> list[str]:
        raise NotImplementedError(record)

    def given_back(self, record: Path, disks: Sequence[str]) -> list[str]:
        raise NotImplementedError(record, disks)


class SanlockSetup(Disks):
    """Plugin `sanlock`: the session's daemon, a host that is in its lockspace."""

    plugin = "sanlock"

    def __init__(self, directory: Path, daemon: Daemon) -> None:
        super().__init__(directory)
        self._daemon = daemon
        self.config = {"sanlock": daemon.config}
        self.env = daemon.env

    def held(self, disk: str) -> list[str]:
        held = self._daemon.held(disk)
        return sorted(Mode.SHARED if one.version is None else Mode.EXCLUSIVE for one in held)

    def holder(self, guard: Guard) -> int:
        return guard.child_pid

    def facts(self, disks: Sequence[str]) -> Facts:
        held = [one for disk in disks for one in self._daemon.held(disk)]
        leases = [file for file in map(self._daemon.lease_file, disks) if os.path.exists(file)]
        return {path: (*_facts(path), *held) for path in (*disks, *leases)}


class EtcdSetup(Disks):
    """Plugin `etcd`: a cluster of the session's; a namespace of the test's own without users."""

    plugin = "etcd"

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        super().__init__(directory)
        self._cluster = cluster
        table = cluster.config() | {"failover_s": "15"}
        if not cluster.auth:
            table["namespace"] = str(uuid.uuid4())
        self._namespace = table["namespace"]
        self.config = {"etcd": table}
        self.env: dict[str, str] = {}

    def held(self, disk: str) -> list[str]:
        return sorted(
            Mode.EXCLUSIVE if key.endswith("/w") else Mode.SHARED for key in self._kept(disk)
        )

    def _kept(self, disk: str) -> dict[str, str]:
        name = quote(f"{os.uname().nodename}:{disk}", safe=":")
        below = f"/lsup/v1/{self._namespace}/disk/{name}/"
        found = self._cluster.kept(below)
        return {key: value for key, value in found.items() if "/p/" not in key}

    def holder(self, guard: Guard) -> int:
        return guard.pid

    def facts(self, disks: Sequence[str]) -> Facts:
        return {disk: (*_facts(disk), self._kept(disk)) for disk in disks}


def _held(path: str) -> list[str]:
    modes = {"READ": Mode.SHARED, "WRITE": Mode.EXCLUSIVE}
    return sorted(modes[lock.mode] for lock in proclocks.locks(path) if lock.first == 0)


def _facts(path: str) -> tuple[object, ...]:
    status = os.stat(path)
    fields = tuple(getattr(status, name) for name in dir(status) if name.startswith("st_"))
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        content = os.read(fd, DISK_BYTES + 1)
    finally:
        os.close(fd)
    return (*fields, content, *proclocks.locks(path))


SETUPS: dict[str, Callable[[Path, pytest.FixtureRequest], Setup]] = {
    "file": lambda directory, _: FileSetup(directory, lockspace=False),
    "file-lockspace": lambda directory, _: FileSetup(directory, lockspace=True),
    "vm": lambda directory, _: VmSetup(directory),
    "sanlock": lambda directory, tests: SanlockSetup(
        directory, tests.getfixturevalue("sanlock_host")
    ),
    "etcd": lambda directory, tests: EtcdSetup(directory, tests.getfixturevalue("etcd_member")),
    "etcd-three": lambda directory, tests: EtcdSetup(
        directory, tests.getfixturevalue("etcd_three")
    ),
}

SEVERAL = "several"
ORDER = "order"
KEPT = "kept"
AT_ONCE = "at once"
DEATH = "death"
# What cannot be asked of a plugin: a mode; several leases for one guest; in which order it gives
# back what it had when it is refused; to keep the leases of a guest that pauses; to have free at
# once what a supervisor held that was killed.
CANNOT: dict[str, set[str]] = {
    "vm": {Mode.SHARED, SEVERAL, ORDER},
    "sanlock": {ORDER, KEPT},
    "etcd": {ORDER, KEPT, AT_ONCE},
    "etcd-three": {ORDER, KEPT, AT_ONCE},
}
# What is asked of a plugin in its second set-up under --long alone: each death is waited for until
# a taker may know of it.
LONG: dict[str, set[str]] = {"etcd-three": {DEATH}}
