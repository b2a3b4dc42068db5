"""Who else holds leases of one sanlock daemon, and how is each started? Ours among them.

One daemon at sanlock's own io_timeout, which has joined; disks with leases of
their own, which are made here, as after a first launch; and two hosts with stock
libvirt, one with its sanlock driver. What this machine lacks is in `missing`.
Measures nothing.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lockplugins.contract import Resource
from supervisor.spec import Containment
from tests.bench import ours
from tests.bench.starting import BenchError, tool
from tests.support import libvirt, sanlock
from tests.support import sanlock_facts as facts
from tests.support.domain import domain_xml

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from typing import Any

    from supervisor.spec import GuestSpec
    from tests.bench.starting import Cost, Lab

OURS = "guard, sanlock, pdeathsig"
OURS_PIDNS = "guard, sanlock, pidns"
CLIENT = "sanlock client command"
DRIVER = "virsh start, sanlock driver"
UNLOCKED = "virsh start, no lock manager"
IO_TIMEOUT_S = 10  # sanlock's default
MODES = {OURS: Containment.PDEATHSIG, OURS_PIDNS: Containment.PIDNS}

# The daemon frees a lease a little after its process: each time other disks.
_TURNS = 3
_FAILURES = (BenchError, facts.SanlockError, OSError, AssertionError)


class Sanlock:
    """What lives as long as `closing`: `daemon`, and the libvirt hosts by their row's name."""

    def __init__(self, lab: Lab, closing: ExitStack, *, beside_libvirt: bool = True) -> None:
        self.lab = lab
        self.missing: list[str] = []
        self.versions: list[str] = []
        self.hosts: dict[str, libvirt.Host] = {}
        places = Path(lab.path("host")), Path(lab.path("leases"))
        self.daemon = sanlock.Daemon(*places, io_timeout_s=IO_TIMEOUT_S)
        try:
            closing.enter_context(self.daemon)
            self.daemon.join()
        except _FAILURES as error:
            self.missing.append(f"sanlock: {error}")
            return
        lab.env |= self.daemon.env
        self.versions.append(f"sanlock {facts.run(lab.env, 'version').strip()}")
        try:
            if beside_libvirt:
                self._start_libvirt(closing)
        except _FAILURES as error:
            self.missing.append(f"libvirt: {error}")

    def _start_libvirt(self, closing: ExitStack) -> None:
        if lacking := [name for name in libvirt.TOOLS if shutil.which(name) is None]:
            raise BenchError(f"not installed: {', '.join(lacking)}")
        hosts = libvirt.Hosts(directory := Path(self.lab.path("libvirt")))
        directory.mkdir()
        closing.callback(hosts.end)
        self.hosts = {
            DRIVER: hosts.start(sanlock=self.daemon),
            UNLOCKED: hosts.start(lock_manager=None),
        }
        self.versions.append(tool(["libvirtd", "--version"], self.lab.env).strip())

    def disks(self, name: str, count: int) -> list[str]:
        """Return the paths of `count` disks, which have leases."""
        images = [self.lab.image(f"{name} {index}") for index in range(count)]
        for image in images:
            if not os.path.exists(file := self.daemon.lease_file(image)):
                facts.init_lease(file, facts.lease_name(image))
        return images

    def spec(self, name: str, disks: Sequence[str], row: str = OURS, **fields: Any) -> GuestSpec:
        """Return a guest of ours with these disks."""
        fields |= {"plugin": "sanlock", "config": {"sanlock": self.daemon.config}}
        guest = ours.spec(self.lab, name, containment=MODES[row], **fields)
        guest.resources = [Resource(disk) for disk in disks]
        return guest

    def guard(self, name: str, disks: Sequence[str], row: str, **fields: Any) -> list[str]:
        """Return its guard's words, up to what it is to run."""
        return ours.words(self.spec(name, disks, row, **fields))

    def client(self, disks: Sequence[str]) -> list[str]:
        """Return sanlock's own command, up to what it is to exec."""
        words = [facts.program(), "client", "command"]
        for disk in disks:
            where = f"{facts.LOCKSPACE}:{facts.lease_name(disk)}:{self.daemon.lease_file(disk)}:0"
            words += ["-r", where]
        return [*words, "-c"]

    def prefix(self, name: str, label: str, count: int) -> Callable[[], list[str]]:
        """Return what makes a row's words up to the command, each time for other disks."""
        labels = [f"{label} {name} {count} {turn}" for turn in range(_TURNS)]
        turns = [self.disks(label, count) for label in labels]
        if name == CLIENT:
            words = [self.client(disks) for disks in turns]
        else:
            words = [
                self.guard(label, disks, name) for label, disks in zip(labels, turns, strict=True)
            ]
        turning = itertools.cycle(words)
        return lambda: next(turning)

    def define(self, name: str, domain: str, disks: Sequence[str]) -> None:
        """Make a domain with these disks known to the host of row `name`."""
        self.hosts[name].define(domain_xml(domain, *disks))

    def start(self, name: str, domain: str) -> Cost:
        """Have virsh start a domain there, to virsh's end: then the guest's CPU runs."""
        virsh = self.hosts[name].enter(["virsh", "-q", "-c", "qemu:///system", "start", domain])
        return self.lab.run([shutil.which(virsh[0]) or virsh[0], *virsh[1:]])

    def destroy(self, name: str, domain: str, disks: Sequence[str]) -> None:
        """End it; returns when its leases are free."""
        done = self.hosts[name].virsh("destroy", domain)
        assert done.code == 0, done
        for disk in disks:
            self.daemon.until_free(disk)
