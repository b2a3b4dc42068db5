"""Is what may name a disk, and is not understood, always an error that names the argument?"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from supervisor.discovery.disks import DiscoveryError, discover
from supervisor.discovery.outside import writers

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("line", "argument", "reason"),
    [
        ("-frobnicate x", "-frobnicate x", "not an option of QEMU"),
        ("-drive", "-drive", "value is missing"),
        ("-", "", "not an option"),
        ("-readconfig vm.cfg", "-readconfig vm.cfg", "files of options are not read"),
        ("-set drive.d.file=b -hda a", "-set drive.d.file=b", "it changes a disk"),
        ("-set drive.d.cache=none", "-set drive.d.cache=none", "it changes a disk"),
        ("-set device.d.drive=x", "-set device.d.drive=x", "it changes a disk"),
        ("-set device.d.share-rw=on", "-set device.d.share-rw=on", "it changes a disk"),
        ("-set device.d.pmrdev=m", "-set device.d.pmrdev=m", "it changes a disk"),
        ("-global scsi-hd.drive=d", "-global scsi-hd.drive=d", "it changes a disk"),
        ("-global driver=nvdimm,property=memdev,value=m", "-global driver", "it changes a disk"),
        ("-xen-domid 7", "-xen-domid 7", "Xen's own store may name disks"),
        ("-drive file=a,file=b", "-drive file=a,file=b", "it gives file twice"),
        ("-drive file=a,readonly=on,read-only=off", "-drive", "it gives read-only twice"),
        ("-drive file=a,readonly=off,readonly=on", "-drive", "it gives readonly twice"),
        ("-drive file=nbd:far:1", "-drive file=nbd:far:1", "or on the network"),
        ("-hda nbd://far/127.0.0.1", "-hda nbd://far", "or on the network"),
        ("-hda nbd://127.0.0.1.far/x", "-hda nbd://127", "or on the network"),
        ("-drive file=nbd://far/x,format=qcow2", "-drive file=nbd", "or on the network"),
        ("-hda https://x/a.iso", "-hda https://x/a.iso", "or on the network"),
        ("rbd:pool/a", "rbd:pool/a", "or on the network"),
        ("-blockdev nbd,node-name=n,export=a", "-blockdev nbd", "network disk without a server"),
        ("-blockdev iscsi,node-name=i,portal=p", "-blockdev iscsi", "network disk without target"),
        ("-blockdev rbd,node-name=r,pool=p", "-blockdev rbd", "network disk without image"),
        (
            "-blockdev vxhs,node-name=v",
            "-blockdev vxhs",
            "driver vxhs are known by file name alone",
        ),
        (
            "-drive file.driver=ssh,file.path=x",
            "-drive file.driver=ssh",
            "network disk without a server",
        ),
        ("-hda fat:rw:dir", "-hda fat:rw:dir", "a directory cannot be leased"),
        ("-blockdev vvfat,dir=x,node-name=n", "-blockdev vvfat", "a directory cannot be leased"),
        ("-hda weird:a", "-hda weird:a", "protocol weird is not known"),
        ("-hda blkdebug::a", "-hda blkdebug::a", "protocol blkdebug is not known"),
        ("-hda nvme://0/1", "-hda nvme://0/1", "QEMU drives a PCI device by itself"),
        ("-blockdev nvme,node-name=n,device=0,namespace=1", "-blockdev nvme", "a PCI device by"),
        ("-blockdev nvme-io_uring,node-name=n,path=/dev/ng0n1", "-blockdev nvme", "goes past the"),
        (
            "-blockdev io_uring,node-name=n,filename=a",
            "-blockdev io_uring",
            "io_uring is not known",
        ),
        ("-blockdev replication,node-name=r,file.driver=file", "-blockdev", "replication is not"),
        ("-blockdev file,node-name=f", "-blockdev file,node-name=f", "without a file name"),
        ("-blockdev raw,node-name=f", "-blockdev raw,node-name=f", "names no file"),
        ("-blockdev raw,node-name=r,file=x", "-blockdev raw", "refers to the node x"),
        ("-blockdev raw,node-name=r,file=r", "-blockdev raw", "refers to the node r"),
        ("-blockdev '{\"driver\"'", "-blockdev {", "not JSON that can be read"),
        ("-hda json:x", "-hda json:x", "not JSON that can be read"),
        (
            "-blockdev raw,node-name=r,file.driver=file,file.filename=a,tail.filename=b",
            "-blockdev raw",
            "driver raw is not known to have a part tail",
        ),
        (
            "-blockdev throttle,node-name=r,file.driver=file,file.filename=a,new.driver=b",
            "-blockdev throttle",
            "not known to have a part new",
        ),
        (
            "-drive driver=qcow2,file.driver=luks,file.file.filename=a",
            "-drive driver=qcow2",
            "its header lies inside another format",
        ),
        ("-drive file=/dev/fdset/7", "/dev/fdset/7", "gives that set 0 files"),
        ("-drive file=/dev/fd/1022", "/dev/fd/1022", "descriptor 1022 is not open"),
    ],
)
def test_what_is_not_understood_is_refused(line: str, argument: str, reason: str) -> None:
    with pytest.raises(DiscoveryError) as raised:
        discover(["qemu-system-x86_64", *shlex.split(line)], "/vm")
    assert raised.value.exit_code == 2
    assert str(raised.value).startswith(f"cannot find the disks of {argument}")
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


OUTSIDE = """
-device vfio-pci,host=0
-device vhost-user-blk-pci,chardev=c
-device vhost-scsi-ccw,wwpn=naa.5
-device {"driver":"vhost-user-scsi-pci"}
-device vhost-user-device-pci,chardev=c
-device vhost-vdpa-device-pci,vhostdev=/dev/vhost-vdpa-0
-device x-pci-proxy-dev,fd=3
-blockdev virtio-blk-vhost-user,node-name=n,path=s
-blockdev virtio-blk-vhost-vdpa,node-name=n,path=/dev/vhost-vdpa-0
-blockdev virtio-blk-vfio-pci,node-name=n,path=/sys/bus/pci/devices/0
-drive file=nbd:unix:/s,format=raw
-drive file=nbd:localhost:10809,format=raw
-drive file=nbd://u@127.0.0.1:10809/x,format=raw
-drive file=nbd+unix:///x?socket=s,format=raw
-drive file=nbd://[::1]/x,format=raw,snapshot=on
-drive file.driver=nbd,file.host=localhost,format=raw
-drive file.driver=nbd,file.path=s,format=raw,if=virtio
-blockdev nbd,node-name=n,server.type=unix,server.path=s
-blockdev {"driver":"nbd","node-name":"n","server":{"type":"inet","host":"127.0.0.1","port":"1"}}
-drive file=iscsi://127.0.0.1:3260/iqn/1,format=raw
-blockdev iscsi,node-name=n,transport=tcp,portal=127.0.0.1:3260,target=t
"""


@pytest.mark.parametrize("line", OUTSIDE.strip().splitlines())
def test_a_writer_outside_the_guest_is_refused_unless_allowed(line: str) -> None:
    argv = ["qemu-system-x86_64", *line.split(" ", 1), "-hda", "a.img"]
    with pytest.raises(DiscoveryError, match="its writer is outside the guest, and") as raised:
        discover(argv, "/vm")
    assert str(raised.value).startswith(f"cannot find the disks of {line}: ")
    assert [d.path for d in discover(argv, "/vm", allow_outside=True)] == ["/vm/a.img"]
    assert writers(argv) == [line]


def test_a_guest_that_writes_by_itself_has_no_writer_outside() -> None:
    line = "-device virtio-blk-pci,drive=d -drive file=a.img,id=d -blockdev { -append nbd:unix:/s"
    more = "-hda nbd://far/a nbd:a -blockdev file,filename=nbd:unix:/s -snapshot"
    argv = ["qemu-kvm", *line.split(), *more.split()]
    assert writers(argv) == []


@pytest.mark.parametrize("image_format", ["", ",format=qcow2", ",format=vmdk"])
def test_what_lies_behind_another_process_cannot_be_read(image_format: str) -> None:
    argv = ["qemu-system-x86_64", "-drive", f"file=nbd:unix:/s{image_format}"]
    with pytest.raises(DiscoveryError, match="header lies inside another format, outside"):
        discover(argv, "/vm", allow_outside=True)


def test_the_way_out_is_named() -> None:
    with pytest.raises(DiscoveryError, match=r"; name the disks with --disk PATH and add --no-dis"):
        discover(["qemu-system-x86_64", "-hda", "nbd:x"], "/")


def test_a_configuration_file_that_qemu_reads_unasked_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "qemu.conf"
    argv = ["qemu-system-x86_64", "-S"]
    config.write_text('# nothing\n[machine]\n  type = "q35"\n')
    assert discover(argv, "/", qemu_config=str(config)) == []
    config.write_text('[drive "d"]\n  file = "a.img"\n')
    with pytest.raises(DiscoveryError, match="it may name disks"):
        discover(argv, "/", qemu_config=str(config))
    assert discover([*argv, "-no-user-config"], "/", qemu_config=str(config)) == []
