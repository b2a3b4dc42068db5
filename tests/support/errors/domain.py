"""What in a libvirt domain XML cannot be understood, or not leased?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from supervisor.discovery.domain_xml import parse
from tests.support.errors.world import Case, Said, raised, run

if TYPE_CHECKING:
    from tests.support.errors.world import Provoke, World


def file(text: str | bytes) -> Provoke:
    """Provoke by `run` for the domain of this file."""

    def provoke(world: World) -> Said:
        path = world.write("web1.xml", text)
        return world.says("run", "--domain-xml", path, "--", "true")

    return provoke


def a_fifo(world: World) -> Said:
    os.mkfifo(world.path("web1.xml"))
    return world.says("run", "--domain-xml", "web1.xml", "--", "true")


def domain(inner: str) -> Provoke:
    return file(f"<domain><name>web1</name>{inner}</domain>")


def disk(inner: str, kind: str = "file") -> Provoke:
    return domain(f"<devices><disk type='{kind}'><target dev='vda'/>{inner}</disk></devices>")


def lease(inner: str) -> Provoke:
    return domain(f"<devices><lease>{inner}</lease></devices>")


OUTSIDE = "supervisor.discovery.domain_disks"
SOURCE = "<source file='/srv/disk.qcow2'/>"
BACKING = "<backingStore type='file'><format type='qcow2'/><source file='/srv/base'/>"
EFI = "<os><loader type='pflash' readonly='yes'>/srv/efi.fd</loader></os>"
CASES = (
    Case(2, run("--domain-xml", "missing.xml", "--", "true"),
         "The file is not there."),
    Case(2, a_fifo,
         "A pipe or a device cannot be read to its end. Save the XML to a file first."),
    Case(2, file(b" " * (17 << 20)),
         "Not a domain XML: that is 20 KiB long."),
    Case(2, file(b"<domain>\xff</domain>"),
         "Not a domain XML, or one in another encoding."),
    Case(2, file("<!DOCTYPE domain><domain/>"),
         "Such a document can grow without end, so none is read. `virsh dumpxml` writes none."),
    Case(2, file("<?xml version='1.0' encoding='latin1'?><domain/>"),
         "Convert it: `iconv -f latin1 -t utf-8`, and change its first line."),
    Case(2, file("<domain>"),
         "The file was cut off, or is no XML."),
    Case(2, lambda _: raised(lambda: parse("<domain>\ud800</domain>")),
         "Handed over by a program, not read from a file."),
    Case(2, file("<network/>"),
         "It describes something else: `virsh dumpxml GUEST` prints the domain's."),
    Case(2, lease("<lockspace>prod</lockspace>"),
         "`<lease>` needs `<lockspace>`, `<key>` and `<target path=…>`."),
    Case(2, lease("<lockspace>a:b</lockspace><key>web1</key><target path='/srv'/>"),
         "A colon separates lockspace and key on our command line."),
    Case(2, lease("<lockspace>prod</lockspace><key>web1</key><target path='/srv' offset='x'/>"),
         "Correct the offset."),
    Case(2, domain("<devices><disk/></devices>"),
         "Every `<disk>` has a `<target dev=…>` in libvirt's own XML."),
    Case(2, disk("<source><nvme/></source>", "vhostuser"),
         "Another process writes to this disk and goes on when QEMU is dead. Put that process "
         "under `lock-supervisor run`, and name the disk.", OUTSIDE),
    Case(2, domain("<devices><hostdev type='pci'/></devices>"),
         "A device of the host is handed to the guest, whose driver in there writes to it. Name "
         "what must be leased with `--disk`.", OUTSIDE),
    Case(2, domain("<devices><hostdev type='scsi'/></devices>"),
         "Find the block device behind it, and name that with `--disk`."),
    Case(2, domain("<os firmware='efi'/>"),
         "The XML does not say which firmware file it will be. Dump the XML of the running "
         "guest."),
    Case(2, domain(EFI),
         "The same for the firmware's variables."),
    Case(2, disk(SOURCE + BACKING * 100 + "</backingStore>" * 100),
         "The chain is longer than QEMU could open. Commit some of its images."),
    Case(2, disk(SOURCE + "<backingStore type='file'><source file='/srv/b'/></backingStore>"),
         "libvirt writes a `<format type=…>` into each `<backingStore>`; this one was written by "
         "hand."),
    Case(2, disk("<source pool='p' volume='web1'/>", "volume"),
         "There is no file on this host to lock. If another lease protects it, name that, and "
         "say `--no-discover`.", "supervisor.discovery.domain_disks:_image"),
    Case(2, disk("<source protocol='nbd' name='web1'/>", "network"),
         "A network disk's `<source>` has a `<host>`, unless it is `rbd`."),
    Case(2, disk("<backingStore/>"),
         "Add a `<source>`, or remove the disk."),
    Case(2, disk("<source file='disk.qcow2'/>"),
         "libvirt wants absolute paths too."),
)  # fmt: skip
