"""Which disks does a command line name, and in which mode? No image here exists."""

from __future__ import annotations

import shlex

import pytest

from supervisor.discovery.disks import discover

X, S = "exclusive", "shared"
NO_CONFIG = "/nonexistent/qemu.conf"


def modes(line: str) -> dict[str, str]:
    argv = ["qemu-system-x86_64", *shlex.split(line)]
    found = discover(argv, "/vm", qemu_config=NO_CONFIG)
    assert len({disk.path for disk in found}) == len(found)
    return {disk.path.removeprefix("/vm/"): disk.mode for disk in found}


DRIVES = r"""
-S
    nothing
-m 512 -S -nographic -name guest=a,process=b -uuid 0 -kernel k -initrd i -append a.img
    nothing
-bios b -dtb d -option-rom r -fw_cfg name=x,file=y -acpitable file=z -smbios file=s
    nothing
-serial file:log -chardev file,id=c,path=p -D log -pidfile pid -L dir -chroot c
    nothing
-incoming defer -runas nobody -run-with chroot=/x -sandbox on -object iothread,id=i
    nothing
-fsdev local,id=f,path=/srv,security_model=none -virtfs local,path=/s,mount_tag=t
    nothing
a.img
    exclusive a.img
-S a.img -m 1
    exclusive a.img
-hda a.img
    exclusive a.img
--hda a.img
    exclusive a.img
-hda a -hdb b -hdc c -hdd d -fda e -fdb f
    exclusive a b c d e f
-pflash code.fd -mtdblock mtd -sd card
    exclusive code.fd mtd card
-cdrom a.iso
    shared a.iso
-hda a,b=c,,d
    exclusive a,b=c,,d
-hda file:a.img
    exclusive a.img
-hda /abs/./x//y/../z
    exclusive /abs/./x//y/../z
-hda ./with:colon
    exclusive ./with:colon
-drive file=a.img
    exclusive a.img
-drive file=a.img,if=virtio,format=raw,cache=none,aio=native,id=x,index=1
    exclusive a.img
-drive if=none,id=x,file=a,,b.img
    exclusive a,b.img
-drive file=a.img,readonly=on
    shared a.img
-drive file=a.img,readonly
    shared a.img
-drive file=a.img,read-only=yes
    shared a.img
-drive file=a.img,readonly=off
    exclusive a.img
-drive file=a.img,noreadonly
    exclusive a.img
-drive file=a.img,readonly=on,readonly=on
    shared a.img
-drive file=a.iso,media=cdrom
    shared a.iso
-drive file=a.iso,media=cdrom,readonly=off
    shared a.iso
-drive file=a.img,media=disk
    exclusive a.img
-drive if=ide,media=cdrom
    nothing
-drive if=ide,media=cdrom,file=
    nothing
-drive if=none,id=empty
    nothing
-drive file=a.img,snapshot=on
    shared a.img
-drive file=a.img,snapshot
    shared a.img
-snapshot -drive file=a.img -hda b.img c.img
    shared a.img b.img c.img
-drive file=a.img,snapshot=off -snapshot
    exclusive a.img
-snapshot -blockdev file,node-name=n,filename=a.img
    exclusive a.img
-drive if=pflash,format=raw,unit=0,file=CODE.fd,readonly=on
    shared CODE.fd
-drive if=pflash,format=raw,unit=1,file=VARS.fd
    exclusive VARS.fd
-drive file.filename=a.img
    exclusive a.img
-drive file.filename=nbd:1:2
    exclusive nbd:1:2
-drive file.driver=file,file.filename=file:a.img,format=raw
    exclusive file:a.img
-drive file=a.img,file.locking=off
    exclusive a.img
-drive file=a.img,file.driver=host_device
    exclusive a.img
-drive file=host_device:/dev/vg/x
    exclusive /dev/vg/x
-drive driver=file,filename=a.img
    exclusive a.img
-drive file=a.img,file.read-only=on
    shared a.img
-drive driver=raw,file.driver=raw,file.file.filename=a.img
    exclusive a.img
-drive driver=null-co,size=1G
    nothing
-drive file=null-co://
    nothing
-drive 'file=json:{"driver":"raw",,"file":{"driver":"file",,"filename":"a,,b"}}'
    exclusive a,b
-hda 'json:{"driver":"raw","file.filename":"a.img"}'
    exclusive a.img
-hda 'json:{"driver":"raw","read-only":true,"file.filename":"a.img"}'
    exclusive a.img
-drive 'readonly=on,file=json:{"driver":"raw",,"read-only":false,,"file.filename":"a.img"}'
    shared a.img
-drive driver=copy-on-read,file=a.img
    exclusive a.img
-drive file=a.img -drive file=a.img,readonly=on
    exclusive a.img
-drive file=a.img,readonly=on -drive file=a.img
    exclusive a.img
-set device.x.serial=1 -drive file=a.img
    exclusive a.img
"""

DEVICES = r"""
-drive if=none,id=d,file=a -device virtio-blk-pci,drive=d
    exclusive a
-drive if=none,id=d,format=raw,file=a -device virtio-blk-pci,drive=d,share-rw=on
    shared a
-drive if=none,id=d,format=qcow2,file=a -device scsi-hd,drive=d,share-rw=on
    exclusive a
-drive if=none,id=d,file=a -device virtio-blk-pci,drive=d,share-rw=on
    exclusive a
-drive if=none,id=d,format=raw,file=a -device ide-hd,drive=d,share-rw=off
    exclusive a
-drive if=none,id=d,format=raw,file=a -device ide-cd,drive=d
    shared a
-drive if=none,id=d,format=raw,file=a -device scsi-cd,drive=d -device ide-hd,drive=d
    exclusive a
-blockdev raw,node-name=d,file.driver=file,file.filename=a
-device '{"driver":"scsi-hd","drive":"d","share-rw":true}'
    shared a
-blockdev raw,node-name=d,file.driver=file,file.filename=a,file.node-name=f
-device scsi-hd,drive=d,share-rw=on -device scsi-hd,drive=f
    exclusive a
-blockdev raw,node-name=d,file.driver=file,file.filename=a -machine type=q35,pflash1=d
-device scsi-hd,drive=d,share-rw=on
    exclusive a
-global scsi-hd.serial=1 -global driver=cfi.pflash01,property=secure,value=on -machine q35
    nothing
-object memory-backend-file,id=m,mem-path=pmr,size=1G,share=on -device nvme,serial=1,pmrdev=m
    exclusive pmr
-device uefi-vars-x64,jsonfile=vars.json -device uefi-vars-sysbus
    exclusive vars.json
-device nvme,drive=nothing -device usb-tablet -device virtio-net-pci
    nothing
-object memory-backend-file,id=m,mem-path=/huge,size=1G -device pc-dimm,memdev=m
    nothing
-object memory-backend-file,id=m,mem-path=pmem,size=1G,share=on -device nvdimm,memdev=m
    exclusive pmem
-object memory-backend-file,id=m,mem-path=pmem,size=1G -device virtio-pmem-pci,memdev=m
    shared pmem
-object '{"qom-type":"memory-backend-file","id":"m","mem-path":"p","share":true,"readonly":true}'
-device nvdimm,memdev=m
    shared p
-device cxl-type3,persistent-memdev=m,lsa=l -object memory-backend-file,id=m,share=on,mem-path=a
-object memory-backend-file,id=l,share=on,mem-path=b
    exclusive a b
"""

BLOCKDEVS = r"""
-blockdev driver=file,node-name=f,filename=a.img
    exclusive a.img
-blockdev file,node-name=f,filename=a.img,read-only=on
    shared a.img
-blockdev file,node-name=f,filename=fat:a,,b
    exclusive fat:a,b
-blockdev host_device,node-name=f,filename=/dev/sdx
    exclusive /dev/sdx
-blockdev host_cdrom,node-name=f,filename=/dev/sr0,read-only=on
    shared /dev/sr0
-blockdev null-co,node-name=n,size=1G -blockdev null-aio,node-name=m
    nothing
-blockdev qcow2,node-name=q,file.driver=file,file.filename=a
    exclusive a
-blockdev '{"driver":"file","filename":"a.img","node-name":"a.img-s","auto-read-only":true}'
-blockdev '{"node-name":"a.img-f","read-only":false,"driver":"raw","file":"a.img-s"}'
    exclusive a.img
-blockdev '{"driver":"file","filename":"a.iso","node-name":"a.iso-s","auto-read-only":true}'
-blockdev '{"node-name":"a.iso-f","read-only":true,"driver":"raw","file":"a.iso-s"}'
    shared a.iso
-blockdev file,node-name=f,filename=a -blockdev raw,node-name=r,file=f,read-only=on
    shared a
-blockdev file,node-name=f,filename=a -blockdev raw,node-name=r,file=f,read-only=on
-blockdev raw,node-name=w,file=f
    exclusive a
-blockdev qcow2,node-name=b,read-only=on,file.driver=file,file.filename=base
-blockdev qcow2,node-name=t,file.driver=file,file.filename=top,backing=b
    exclusive top; shared base
-blockdev raw,node-name=b,file.driver=file,file.filename=base
-blockdev qcow2,node-name=t,file.driver=file,file.filename=top,backing=b
    exclusive top; shared base
-blockdev qcow2,node-name=b,file.driver=file,file.filename=base
-blockdev qcow2,node-name=t,file.driver=file,file.filename=top,backing=b
    exclusive base top
-blockdev qcow2,node-name=t,file.driver=file,file.filename=top,backing=
    exclusive top
-blockdev '{"driver":"qcow2","node-name":"t","backing":null,"file":{"driver":"file",\
"filename":"top"}}'
    exclusive top
-blockdev '{"driver":"qcow2","node-name":"t","file":{"driver":"file","filename":"top"},\
"backing":{"driver":"raw","file":{"driver":"file","filename":"base"}}}'
    exclusive top; shared base
-blockdev qcow2,node-name=t,file.driver=file,file.filename=top,data-file.driver=file,\
data-file.filename=data
    exclusive top data
-blockdev file,node-name=d,filename=data
-blockdev qcow2,node-name=t,read-only=on,file.driver=file,file.filename=top,data-file=d
    shared top data
-blockdev luks,node-name=l,key-secret=s,file.driver=file,file.filename=a
    exclusive a
-blockdev luks,node-name=l,file.driver=file,file.filename=a,header.driver=file,header.filename=h
    exclusive a h
-object throttle-group,id=g
-blockdev throttle,node-name=t,throttle-group=g,file.driver=raw,file.file.driver=file,\
file.file.filename=a
    exclusive a
-blockdev copy-on-read,node-name=c,file.driver=file,file.filename=a
    exclusive a
-blockdev blkdebug,node-name=c,image.driver=file,image.filename=a,config=c
    exclusive a
-blockdev blkverify,node-name=c,raw.driver=file,raw.filename=a,test.driver=file,test.filename=b
    exclusive a b
-blockdev quorum,node-name=q,vote-threshold=1,children.0.driver=file,children.0.filename=a,\
children.1.driver=file,children.1.filename=b
    exclusive a b
-blockdev file,node-name=a,filename=a -blockdev file,node-name=b,filename=b
-blockdev '{"driver":"quorum","node-name":"q","vote-threshold":1,"children":["a","b"]}'
-blockdev raw,node-name=r,read-only=on,file=q
    shared a b
-blockdev file,node-name=a,filename=a
-blockdev copy-before-write,node-name=c,file=a,target.driver=file,target.filename=t
    exclusive a t
-blockdev preallocate,node-name=p,file.driver=file,file.filename=a
    exclusive a
-blockdev vdi,node-name=v,file.driver=file,file.filename=a
-blockdev vhdx,node-name=w,file.driver=file,file.filename=b
-blockdev vpc,node-name=x,file.driver=file,file.filename=c,read-only=on
    exclusive a b; shared c
-blockdev "{'driver':'file','node-name':'a','filename':'a'}"
    exclusive a
-drive file=a,if=none,node-name=n -blockdev null-co,node-name=o
    exclusive a
"""


def cases(table: str) -> list[tuple[str, dict[str, str]]]:
    """Return a table's command lines, each of which ends with an indented line of its disks."""
    found, command = [], list[str]()
    for line in table.strip("\n").splitlines():
        if not line.startswith("    "):
            command.append(line.removesuffix("\\") if line.endswith("\\") else f"{line} ")
            continue
        groups = [group.split() for group in line.split(";") if line.strip() != "nothing"]
        found.append(("".join(command), {path: mode for mode, *paths in groups for path in paths}))
        command = []
    return found


@pytest.mark.parametrize(("line", "expected"), cases(DRIVES + DEVICES + BLOCKDEVS))
def test_the_disks_of_a_command_line(line: str, expected: dict[str, str]) -> None:
    assert modes(line) == expected


def test_each_disk_says_which_argument_named_it() -> None:
    argv = ["qemu-system-x86_64", "-drive", "file=a,if=virtio", "-cdrom", "c.iso", "x.img"]
    found = discover(argv, "/vm", qemu_config=NO_CONFIG)
    assert [(disk.path, disk.found_in) for disk in found] == [
        ("/vm/a", "-drive file=a,if=virtio"),
        ("/vm/c.iso", "-cdrom c.iso"),
        ("/vm/x.img", "x.img"),
    ]
