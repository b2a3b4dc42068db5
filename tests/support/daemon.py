"""What has a management daemon in a test? A plugin, managers, and QEMU guests that write.

The managers are made as the seed makes them. Whatever guest is left in the
runtime directory in the end is revoked. Judges nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

import lockplugins
from supervisor import finding
from supervisor.ending import revoke
from supervisor.manager import LockManager, ObjectType
from tests.support import waiting
from tests.support.qemu import guest_argv, wait_ready
from tests.support.sources import CHECKOUT
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any, Self

    from lockplugins.loading import LoadedPlugin

DEADLINE_S = 30.0
DISK_BYTES = 16 << 20
IDLE = ("/bin/sleep", "1000000")


_PROCESS = """
import sys, lockplugins
from supervisor.manager import LockManager, ObjectType, ResourceType
runtime_dir, log, uuid, disk, *argv = sys.argv[1:]
manager = LockManager(lockplugins.load("file"), ObjectType.DOMAIN, runtime_dir=runtime_dir)
for key, value in (("id", 1), ("uuid", uuid), ("name", "web1"), ("log", log)):
    manager.set_parameter(key, value)
manager.register_resource(ResourceType.DISK, disk)
manager.acquire_object(argv)
print("acquired", flush=True)
if sys.stdin.readline() == "run\\n":
    manager.run()
    print(manager.get_child().pid, flush=True)
    sys.stdin.read()
"""


class Process:
    """A daemon in a process of its own: it has a guest's leases, lets it run, and is killed."""

    def __init__(self, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, *words],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._says() == "acquired"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE_S)

    def run(self) -> int:
        """Have it let the guest run; returns the guest's pid."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return int(self._says())

    def _says(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


class Daemon:
    """The managers of one host, whose runtime directory and logs are in `directory`."""

    def __init__(self, directory: Path, plugin: str = "file") -> None:
        self.directory = directory
        self.runtime_dir = str(directory / "run")
        self.plugin: LoadedPlugin = lockplugins.load(plugin)
        self.config: str | None = None

    def manager(
        self,
        flags: int = 0,
        *,
        guest_id: int = 1,
        guest_uuid: str | None = None,
        name: str = "web1",
        object_type: ObjectType = ObjectType.DOMAIN,
    ) -> LockManager:
        """Make a manager with the parameters that the seed sets."""
        manager = LockManager(
            self.plugin, object_type, flags, config=self.config, runtime_dir=self.runtime_dir
        )
        manager.set_parameter("id", guest_id)
        manager.set_parameter("uuid", guest_uuid or str(uuid.uuid4()))
        manager.set_parameter("name", name)
        return manager

    def process(self, guest_uuid: str, disk: str, argv: Sequence[str]) -> Process:
        """Start another daemon of this host, with a guest of its own."""
        return Process([self.runtime_dir, str(self.directory / "log"), guest_uuid, disk, *argv])

    def log(self, manager: LockManager) -> None:
        """Have the output of the guest kept with the test."""
        manager.set_parameter("log", str(self.directory / "log"))

    def reap(self) -> None:
        for guest in finding.guests(self.runtime_dir):
            revoke(guest)


class Machine:
    """A QEMU whose guest writes to its disks without pause, and says so on a FIFO."""

    def __init__(
        self, directory: Path, *disks: str, nonce: str | None = None, extra: Sequence[str] = ()
    ) -> None:
        self._fifo, self._monitor = str(directory / "serial"), str(directory / "qmp")
        os.mkfifo(self._fifo)
        self._serial = os.fdopen(os.open(self._fifo, os.O_RDWR), "rb", 0)
        monitor = ["-qmp", f"unix:{self._monitor},server=on,wait=off"]
        serial = f"file:{self._fifo}"
        extra = [*monitor, *extra]
        self.argv = guest_argv(*disks, nonce=nonce, guest="web", serial=serial, extra=extra)

    def wait_ready(self, disks: int = 1) -> int:
        """Wait until the guest writes to so many more disks; returns its nonce."""
        return int(wait_ready(self._serial, disks, DEADLINE_S * 2), 16)

    def qmp(self) -> Wire:
        """Connect to the daemon's own monitor of it."""
        found = waiting.until(self._connected, DEADLINE_S, "QEMU answers on its monitor")
        assert found is not None
        return found

    def _connected(self) -> Wire | None:
        try:
            return Wire(self._monitor)
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    def quit(self) -> None:
        """Send the monitor command `quit`."""
        with self.qmp() as monitor:
            monitor.execute("quit")

    def plug(self, disk: str) -> None:
        """Hot-plug a disk; returns when the guest writes to it."""
        with self.qmp() as monitor:
            file = {"driver": "file", "filename": disk, "locking": "off"}
            monitor.execute("blockdev-add", {"driver": "raw", "node-name": "hot", "file": file})
            device = {"driver": "virtio-blk-pci", "drive": "hot", "id": "hot"}
            monitor.execute("device_add", device)
        self.wait_ready()

    def unplug(self) -> None:
        """Unplug it; returns when guest and QEMU have let go of it."""
        with self.qmp() as monitor:
            monitor.execute("device_del", {"id": "hot"})
            while monitor.event("DEVICE_DELETED")["data"].get("device") != "hot":
                pass
            monitor.execute("blockdev-del", {"node-name": "hot"})

    def migrate(self, uri: str) -> None:
        """Have QEMU migrate its guest; returns when that has stopped here for good."""
        with self.qmp() as monitor:
            monitor.execute("migrate", {"uri": uri})
        self.until("postmigrate")

    def until(self, status: str) -> None:
        waiting.until(lambda: self.status() == status, DEADLINE_S * 2, f"QEMU is {status}")

    def status(self) -> str:
        with self.qmp() as monitor:
            return str(monitor.execute("query-status")["status"])

    def cont(self) -> None:
        with self.qmp() as monitor:
            monitor.execute("cont")

    def close(self) -> None:
        self._serial.close()


def new_disk(path: Path) -> str:
    """Make an empty disk for a guest that writes."""
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    return str(path)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a test a daemon, and end its guests."""
    made = Daemon(tmp_path)
    yield made
    made.reap()


@pytest.fixture
def machine(tmp_path: Path, require: Callable[[str], str]) -> Iterator[Callable[..., Machine]]:
    """Make machines, each with a directory of its own."""
    require("qemu-system-x86_64")
    made: list[Machine] = []

    def machine_of(*disks: str, **more: Any) -> Machine:
        directory = tmp_path / f"machine{len(made)}"
        directory.mkdir()
        made.append(Machine(directory, *disks, **more))
        return made[-1]

    yield machine_of
    for machine in made:
        machine.close()
