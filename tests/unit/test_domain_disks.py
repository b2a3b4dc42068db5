"""Which disks does a libvirt domain open, and in which mode? Its images are headers at most."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from supervisor.discovery.domain_xml import parse
from supervisor.discovery.errors import DiscoveryError
from tests.support import headers

if TYPE_CHECKING:
    from pathlib import Path

X, S = "exclusive", "shared"
QEMU = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"


def modes(body: str, *, allow_outside: bool = False) -> dict[str, str]:
    """Return the modes of the disks of a domain with `body`, where `<disk…>` may lack a target."""
    parts = body.split("</disk>")
    targets = [f"<target dev='vd{number}'/></disk>" for number in range(len(parts) - 1)]
    text = "".join(part + target for part, target in zip(parts, [*targets, ""], strict=True))
    if "<devices>" not in body and "<os" not in body and "qemu:" not in body:
        text = f"<devices>{text}</devices>"
    found = parse(f"<domain {QEMU}>{text}</domain>", allow_outside=allow_outside).disks
    assert len({disk.path for disk in found}) == len(found)
    return {disk.path: disk.mode for disk in found}


DISKS = """
<disk><source file='/a'/></disk>
    exclusive /a
<disk type='file' device='disk'><driver type='qcow2'/><source file='/a'/></disk>
    exclusive /a
<disk type='block'><source dev='/dev/vg/a'/></disk>
    exclusive /dev/vg/a
<disk type='block' device='lun'><driver type='raw'/><source dev='/dev/sdx'/></disk>
    exclusive /dev/sdx
<disk><source file='/a'/><readonly/></disk>
    shared /a
<disk><source file='/a'/><shareable/></disk>
    shared /a
<disk><driver type='qcow2'/><source file='/a'/><shareable/></disk>
    exclusive /a
<disk device='cdrom'><source file='/a'/></disk>
    shared /a
<disk device='floppy'><source file='/a'/></disk>
    exclusive /a
<disk device='cdrom'></disk><disk device='floppy'><source file=''/></disk>
    nothing
<disk type='block' device='cdrom'><source startupPolicy='optional'/></disk>
    nothing
<disk type='network' device='cdrom'></disk>
    nothing
<disk><source file='/a'/><transient/></disk>
    exclusive /a
<disk><source file='/a'/><transient shareBacking='yes'/></disk>
    shared /a
<disk><source file='/a'/></disk><disk><source file='/a'/><readonly/></disk>
    exclusive /a
<disk><source file='/a&#10;b,,c json:{=&apos;'/></disk>
    exclusive '/a
b,,c json:{='"'"
<disk><driver type='raw'/><source file='/a'><encryption format='luks'/></source></disk>
    exclusive /a
<disk><driver type='qcow2'/><source file='/a'/><backingStore/></disk>
    exclusive /a
<disk><driver type='qcow2'/><source file='/a'/><backingStore type='block'><format type='qcow2'/>\
<source dev='/dev/b'/><backingStore type='file'><format type='raw'/><source file='/c'/>\
<backingStore/></backingStore></backingStore></disk>
    exclusive /a; shared /dev/b /c
<disk><driver type='qcow2'/><source file='/a'><dataStore type='file'><format type='raw'/>\
<source file='/d'/></dataStore></source><backingStore/></disk>
    exclusive /a /d
<disk type='network'><source protocol='rbd' name='p/a'/></disk><disk type='network'>\
<source protocol='iscsi' name='iqn.2001-04.com:x'><host name='far'/></source></disk>
    exclusive rbd:p/a iscsi://far/iqn.2001-04.com%3Ax/0
<disk type='network'><source protocol='rbd' name='p/a'><snapshot name='s'/></source><readonly/>\
</disk><disk type='network'><source protocol='nbd' name='a'><host name='far' port='9'/></source>\
</disk>
    shared rbd:p/a@s; exclusive nbd://far:9/a
<hostdev mode='subsystem' type='usb'><source/></hostdev><filesystem><source dir='/x'/></filesystem>
    nothing
<memory model='dimm'/><memory model='nvdimm' access='shared'><source><path>/m</path></source>\
</memory>
    exclusive /m
<memory model='nvdimm'><source><path>/m</path></source></memory>
    shared /m
<memory model='nvdimm' access='shared'><source><path>/m</path></source><target><readonly/></target>\
</memory><memory model='virtio-pmem'><source><path>/p</path></source></memory>
    exclusive /p; shared /m
<memoryBacking><access mode='shared'/></memoryBacking><devices><memory model='nvdimm'><source>\
<path>/m</path></source></memory></devices>
    exclusive /m
<os><loader type='rom'>/code</loader><kernel>/k</kernel></os>
    nothing
<os><loader readonly='yes' type='pflash'>/code</loader><nvram template='/t'>/vars</nvram></os>
    shared /code; exclusive /vars
<os firmware='efi'><loader readonly='yes' type='pflash' format='qcow2'>/code</loader>\
<nvram type='block' format='raw'>&#10; <source dev='/dev/vars'/>&#10;</nvram></os>
    shared /code; exclusive /dev/vars
<os firmware='efi'><loader readonly='yes' type='rom'>/code</loader><varstore path='/v.json'/></os>
    exclusive /v.json
<os><loader type='pflash'>/code</loader></os>
    exclusive /code
<os><loader readonly='yes' stateless='yes' type='pflash'>/code</loader></os>
    shared /code
<qemu:commandline><qemu:arg value='-drive'/><qemu:arg value='file=/a,readonly=on'/>\
<qemu:arg value='-hda'/><qemu:arg value='b'/><qemu:env name='X' value='-hdb'/></qemu:commandline>
    shared /a; exclusive /b
"""


def cases(table: str) -> list[tuple[str, dict[str, str]]]:
    """Return a table's XML, each of which ends with an indented line of its disks."""
    found = []
    for case in table.strip("\n").replace("\\\n", "").split("\n<"):
        body, _, said = case.partition("\n    ")
        groups = [shlex.split(group) for group in said.split(";") if said.strip() != "nothing"]
        disks = {path: mode for mode, *paths in groups for path in paths}
        found.append(("<" + body.removeprefix("<"), disks))
    return found


@pytest.mark.parametrize(("body", "expected"), cases(DISKS))
def test_the_disks_of_a_domain(body: str, expected: dict[str, str]) -> None:
    assert modes(body) == expected


REFUSED = """
<disk type='dir'><source dir='/d'/><readonly/></disk>
    disk vd0: a directory cannot be leased
<disk type='network'><source protocol='nbd' name='a'/></disk>
    disk vd0: its <source> names no host
<disk type='network'><driver type='qcow2'/><source protocol='rbd' name='p/a'/></disk>
    disk vd0: its header lies inside another format, outside the guest or on the network
<disk type='volume' device='cdrom'><source pool='p' volume='v'/></disk>
    disk vd0: a volume of a storage pool
<disk type='nvme'><source type='pci' namespace='1'/></disk>
    disk vd0: QEMU drives a PCI device by itself
<disk type='what'><source/></disk>
    disk vd0: disks of type what are not known
<disk></disk>
    disk vd0: its <disk> names no source
<disk><source/></disk>
    disk vd0: its file name is not absolute ()
<disk><source file='a.img'/></disk>
    disk vd0: its file name is not absolute (a.img)
<disk><driver type='vhd'/><source file='/a'/></disk>
    disk vd0: the block driver or protocol vhd is not known
<disk><driver type='qcow2'/><source file='/a'/><backingStore type='network'><format type='raw'/>\
</backingStore></disk>
    disk vd0: its <backingStore> names no source
<disk><driver type='qcow2'/><source file='/a'/><backingStore type='file'><source file='/b'/>\
</backingStore></disk>
    disk vd0: a <backingStore> without a format
<hostdev mode='subsystem' type='scsi'><source/></hostdev>
    hostdev scsi: a device of the host by its address
<os firmware='efi'/>
    loader: libvirt chooses it when the guest starts
<os><loader readonly='yes' type='pflash'>/code</loader></os>
    nvram: libvirt chooses it when it defines the guest
<os><nvram type='network'><source name='x'/></nvram></os>
    nvram: its <source> names no host
<memory model='nvdimm'><source><path>m</path></source></memory>
    memory nvdimm: its file name is not absolute (m)
<os><nvram template='/t'/></os>
    nvram: its <nvram> names no source
<os><nvram>vars.fd</nvram></os>
    nvram: its file name is not absolute (vars.fd)
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [case.replace("\\\n", "").split("\n    ") for case in REFUSED.strip().split("\n<")],
)
def test_what_cannot_be_leased_is_refused(body: str, reason: str) -> None:
    with pytest.raises(DiscoveryError) as raised:
        modes(body if body.startswith("<") else f"<{body}", allow_outside=True)
    assert str(raised.value).startswith(f"cannot find the disks of domain XML {reason}")
    assert str(raised.value).endswith("; name the disks with --disk PATH and add --no-discover")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("<disk type='vhostuser'><source type='unix' path='/s'/></disk>", "disk vd0"),
        ("<disk type='vhostvdpa'><source dev='/dev/vhost-vdpa-0'/></disk>", "disk vd0"),
        ("<hostdev type='pci'><source/></hostdev>", "hostdev pci"),
        ("<hostdev type='mdev' model='vfio-pci'><source/></hostdev>", "hostdev mdev"),
        ("<hostdev type='scsi_host'><source/></hostdev>", "hostdev scsi_host"),
    ],
)
def test_a_writer_outside_the_guest_is_refused_unless_allowed(body: str, name: str) -> None:
    with pytest.raises(DiscoveryError, match=f"XML {name}: its writer is outside the guest"):
        modes(body)
    assert modes(body, allow_outside=True) == {}


@pytest.mark.parametrize("targets", ["", "<target/>", "<target dev='vda'/>"])
def test_a_disk_is_known_by_its_target_alone(targets: str) -> None:
    disk = f"<disk><source file='/a'/>{targets}</disk>"
    with pytest.raises(DiscoveryError, match=r"disk.*: (it has no|another has the same) target"):
        parse(f"<domain><devices>{disk}{disk}</devices></domain>")


def test_a_chain_that_is_not_in_the_xml_is_in_the_images(tmp_path: Path) -> None:
    (tmp_path / "top").write_bytes(headers.qcow2(b"mid", "qcow2"))
    (tmp_path / "mid").write_bytes(headers.qcow2(b"base", data_file="/data"))
    (tmp_path / "sliced").write_bytes(bytes(4096) + headers.qcow2(b"base"))
    top = f"<driver type='qcow2'/><source file='{tmp_path}/top'/>"
    mid = f"<format type='qcow2'/><source file='{tmp_path}/mid'/>"
    below = {f"{tmp_path}/mid": S, "/data": S, f"{tmp_path}/base": S}
    assert modes(f"<disk>{top}</disk>") == {f"{tmp_path}/top": X, **below}
    chain = f"<disk>{top}<backingStore type='file'>{mid}</backingStore></disk>"
    assert modes(chain) == {f"{tmp_path}/top": X, **below}
    raw = f"<disk><source file='{tmp_path}/top'/></disk>"  # not probed: a guest could write this
    assert modes(raw) == {f"{tmp_path}/top": X}
    part = "<slices><slice type='storage' offset='4096' size='9000'/></slices>"
    sliced = f"<driver type='qcow2'/><source file='{tmp_path}/sliced'>{part}</source>"
    assert modes(f"<disk>{sliced}</disk>") == {f"{tmp_path}/sliced": X, f"{tmp_path}/base": S}


def test_a_chain_without_end_is_refused() -> None:
    link = "<backingStore type='file'><format type='qcow2'/><source file='/b'/>"
    chain = link * 200 + "</backingStore>" * 200
    with pytest.raises(DiscoveryError, match="more than 100 images in one chain"):
        modes(f"<disk><driver type='qcow2'/><source file='/a'/>{chain}</disk>")
