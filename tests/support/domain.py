"""Which domains does a test define with libvirt? The XML of small guests under TCG.

An idle one that only holds its disks, or the guest that writes without pause
(tests/support/guest) and answers its power button. Knows nothing of the supervisor.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from tests.support.qemu import APPEND, INITRAMFS, KERNEL, QEMU

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

_ATTRIBUTES = {"file": "file", "block": "dev"}


@dataclass(frozen=True)
class Disk:
    """One virtio disk; `backing` is the path of a raw image behind a qcow2 one."""

    path: str | os.PathLike[str]
    type: str = "file"
    format: str = "raw"
    shareable: bool = False
    readonly: bool = False
    backing: str | os.PathLike[str] | None = None

    def xml(self, target: str) -> str:
        parts = [
            f"<driver name='qemu' type='{self.format}' cache='unsafe'/>",
            f"<source {_ATTRIBUTES[self.type]}='{_quoted(self.path)}'/>",
            f"<target dev='{target}' bus='virtio'/>",
        ]
        if self.backing is not None:
            source = f"<format type='raw'/><source file='{_quoted(self.backing)}'/><backingStore/>"
            parts.append(f"<backingStore type='file'>{source}</backingStore>")
        parts += ["<shareable/>"] * self.shareable + ["<readonly/>"] * self.readonly
        return f"<disk type='{self.type}' device='disk'>{''.join(parts)}</disk>"


def domain_xml(
    name: str,
    *disks: Disk | str | os.PathLike[str],
    writes_to: str | os.PathLike[str] | None = None,
    emulator: str | None = None,
    machine: str = "pc",
    memory_mib: int = 128,
    devices: Sequence[str] = (),
) -> str:
    """Return a domain's XML; a disk that is only a path is exclusive and raw.

    With `writes_to`, the FIFO of its `console`, it is the guest that writes to
    all its disks; without, one that finds nothing to boot. `devices` are more
    elements of <devices>. The uuid follows from the name, so that a domain can
    be defined anew.
    """
    found = emulator or shutil.which(QEMU)
    parts = [f"<emulator>{_quoted(found or QEMU)}</emulator>"]
    for number, disk in enumerate(disks):
        whole = disk if isinstance(disk, Disk) else Disk(disk)
        parts.append(whole.xml(f"vd{chr(ord('a') + number)}"))
    boot = ""
    if writes_to is not None:
        boot = f"<kernel>{KERNEL}</kernel><initrd>{INITRAMFS}</initrd><cmdline>{APPEND}</cmdline>"
        parts.append(f"<serial type='file'><source path='{_quoted(writes_to)}'/></serial>")
    return f"""<domain type='qemu'>
  <name>{escape(name)}</name>
  <uuid>{uuid.uuid5(uuid.NAMESPACE_OID, name)}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='{machine}'>hvm</type>{boot}</os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>{"".join([*parts, *devices])}<memballoon model='none'/></devices>
</domain>
"""


def console(path: str | os.PathLike[str]) -> IO[bytes]:
    """Make the FIFO for `writes_to`, and return its reading end for `qemu.wait_ready`."""
    os.mkfifo(path)
    # Both ends: libvirt, which only writes, then does not wait for a reader.
    return open(os.open(path, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0)


def _quoted(path: str | os.PathLike[str]) -> str:
    return escape(os.fspath(path))
