"""How do a test's two sides start guests on the same disks? Stock libvirt's, and ours beside it.

Both are configured alike: the same lockspace directory, or none. Our QEMUs
run without QEMU's own image locks, those of libvirt cannot. Judges nothing.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from tests.support import proclocks, waiting
from tests.support.domain import Disk, console, domain_xml
from tests.support.locking import until_waited_for
from tests.support.qemu import guest_argv, idle_argv, wait_ready

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import IO

    from tests.support.command import Command, Result, Started
    from tests.support.libvirt import Host

DEADLINE_S = 30
DISK_BYTES = 8 << 20
THEIRS = "theirs"
OURS = "ours"
SHARED = ",shared"


class Sides:
    """Guests of `host` and of ours. `lockspace` is the directory of indirect mode, or None."""

    def __init__(
        self, host: Host, command: Command, directory: Path, lockspace: Path | None
    ) -> None:
        self.host = host
        self.command = command
        self.directory = directory
        self.lockspace = lockspace
        self.config = directory / "config.toml"
        self.options = ["--name", OURS, "--config", str(self.config)]
        self.configure_ours(lockspace)

    def configure_ours(self, lockspace: Path | None) -> None:
        line = f'file_lockspace_dir = "{lockspace}"\n' if lockspace else ""
        self.config.write_text(f"[file]\n{line}")

    def disk(self, name: str = "disk.raw") -> str:
        path = self.directory / name
        path.touch()
        os.truncate(path, DISK_BYTES)
        return str(path)

    def start_theirs(self, *disks: Disk | str, name: str = THEIRS) -> None:
        started = self.try_theirs(*disks, name=name)
        assert started.code == 0, started

    def theirs_refused(self, *disks: Disk | str, name: str = THEIRS) -> str:
        """Return virsh's error."""
        refused = self.try_theirs(*disks, name=name)
        assert refused.code == 1, refused
        assert self.host.state(name) == "shut off"
        return refused.err

    def try_theirs(self, *disks: Disk | str, name: str = THEIRS) -> Result:
        self.host.define(domain_xml(name, *disks))
        return self.host.virsh("start", name)

    def theirs_writes(self, disk: Disk | str, tries_s: float = 0) -> int:
        """Start their guest that writes to `disk`; returns its nonce when it does.

        `tries_s` is how long `virsh start` may be refused.
        """
        path = self.directory / f"console.{len(os.listdir(self.directory))}"
        with console(path) as serial:
            self.host.define(domain_xml(THEIRS, disk, writes_to=path))
            start = ("start", THEIRS)
            waiting.until(lambda: self.host.virsh(*start).code == 0, tries_s, "theirs starts")
            return int(wait_ready(serial), 16)

    def until_theirs_are_off(self, name: str = THEIRS) -> None:
        """Wait until libvirtd knows that the guest is dead."""
        waiting.until(lambda: self.host.state(name) == "shut off", DEADLINE_S, f"{name} is off")

    def destroy_theirs(self, name: str = THEIRS) -> None:
        assert self.host.virsh("destroy", name).code == 0

    def disk_element(self, disk: str) -> str:
        """Write the XML that virsh attaches and detaches `disk` with; returns its path."""
        path = self.directory / "disk.xml"
        path.write_text(Disk(disk).xml("vdz"))
        return str(path)

    def ours(self, *disks: str, command: Sequence[str] = ()) -> list[str]:
        """Return run's arguments, for an idle guest if not told; a disk may end in SHARED."""
        words: list[str] = []
        if any(disk.endswith(SHARED) for disk in disks):
            words = ["--no-discover", *(word for disk in disks for word in ("--disk", disk))]
        idle = idle_argv(*(disk.removesuffix(SHARED) for disk in disks))
        return [*self.options, *words, "--", *(command or idle)]

    def start_ours(self, *disks: str) -> tuple[Started, int]:
        """Return the supervisor, and the pid of QEMU."""
        return self.command.guest(*self.ours(*disks))

    def end_ours(self) -> None:
        assert self.command("kill", OURS).code == 0

    def ours_refused(self, *disks: str) -> str:
        """Return the one line that our command says."""
        refused = self.command("run", *self.ours(*disks))
        assert refused.code == 110, refused
        assert refused.err.count("\n") == 1, refused
        return refused.err

    def ours_waits(self, disk: str, command: Sequence[str] = ()) -> tuple[Started, IO[bytes]]:
        """Start ours while the lease is held elsewhere; returns when it waits in the kernel.

        Its READY is for `ready`.
        """
        waiter = self.command.guest_to_be("--wait", "inf", *self.ours(disk, command=command))
        until_waited_for(self.lease(disk))
        return waiter

    def qemu_refuses_ours(self, disk: str) -> None:
        """See our QEMU fail, with its own image locks on, although the lease is free."""
        failed = self.command("run", *self.ours(command=guest_argv(disk, locking_off=False)))
        assert failed.code == 1, failed
        assert 'Failed to get "write" lock' in failed.err

    def lease(self, disk: str) -> str:
        """Return the file that libvirt locks for the disk."""
        return f"{self.lockspace}/{lease_name(disk)}" if self.lockspace else disk

    def locked(self, disk: str) -> list[proclocks.Lock]:
        """Return the locks on the byte that both sides lock."""
        if not os.path.exists(self.lease(disk)):
            return []  # virtlockd unlinks a lock file that nobody else has locked
        return [lock for lock in proclocks.locks(self.lease(disk)) if lock.first == 0]

    def is_locked(self, disk: str) -> str:
        """Return libvirt's words for a lease that is held elsewhere."""
        name = lease_name(disk) if self.lockspace else disk
        return f"resource busy: Lockspace resource '{name}' is locked"


def lease_name(path: str) -> str:
    """Return the name that libvirt gives a path's lock file: what stands in the XML, verbatim."""
    return hashlib.sha256(path.encode()).hexdigest()
