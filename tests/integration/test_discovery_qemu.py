"""Do we find exactly the files that QEMU opens, and know which of them it may write?

Judged from QEMU itself: its block nodes, its descriptors and its own image locks.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from supervisor.discovery.disks import discover
from tests.support.opened import running, write_locked
from tests.support.qemu import QEMU

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEADLINE_S = 30
X, S = "exclusive", "shared"
BACKING_FORMAT = b"\xe2\x79\x2a\xca"

IMAGES = """
create -f raw raw.img 1M
create -f raw other.img 1M
create -f raw cd.iso 1M
create -f qcow2 base.qcow2 1M
create -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
create -f qcow2 -o compat=0.10 -b mid.qcow2 -F qcow2 top.qcow2
create -f qcow2 -b ../top.qcow2 -F qcow2 sub/relative.qcow2
create -f qcow2 -b raw.img -F raw onraw.qcow2
create -f qcow2 -b base.qcow2 -F qcow2 unnamed.qcow2
create -f qcow2 -o data_file=data.img,data_file_raw=on external.qcow2 1M
create -f qcow2 -b external.qcow2 -F qcow2 onexternal.qcow2
create -f qcow2 -b 'json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}'
  -F qcow2 onjson.qcow2
create -f qcow2 -b file:base.qcow2 -F qcow2 onfile.qcow2
create -f qcow -b raw.img -F raw old.qcow
create -f qed -b raw.img -F raw onraw.qed
create -f qed -b base.qcow2 -F qcow2 onqcow2.qed
create -f vmdk base.vmdk 1M
create -f vmdk -b base.vmdk -F vmdk top.vmdk
create -f vmdk -o subformat=monolithicFlat flat.vmdk 1M
create -f vmdk -o subformat=twoGbMaxExtentSparse split.vmdk 3G
create -f vdi a.vdi 1M
create -f vpc a.vpc 1M
create -f vhdx a.vhdx 8M
create -f parallels a.hds 1M
"""

# What QEMU opens for writing is exclusive, and nothing else.
SAME = r"""
-hda raw.img -hdb base.qcow2 -cdrom cd.iso
top.qcow2
-snapshot -hda top.qcow2 -drive if=virtio,file=raw.img,format=raw
-snapshot -drive if=virtio,file=raw.img,format=raw,snapshot=off
-drive if=virtio,file=sub/relative.qcow2
-drive if=virtio,file=onraw.qcow2,format=qcow2
-drive if=virtio,file=unnamed.qcow2
-drive if=virtio,file=external.qcow2 -drive if=virtio,file=other.img,format=raw,readonly=on
-drive if=virtio,file=onexternal.qcow2
-drive if=virtio,file=onjson.qcow2 -hda raw.img
-drive if=virtio,file=file:onfile.qcow2
-drive if=virtio,file=old.qcow
-drive if=virtio,file=onraw.qed
-drive if=virtio,file=onqcow2.qed
-drive if=virtio,file=top.vmdk -drive if=virtio,file=flat.vmdk -drive if=virtio,file=split.vmdk
-drive if=virtio,file=flat.vmdk,readonly=on -drive if=virtio,file=base.vmdk,format=vmdk
-drive if=virtio,file=a.vdi -drive if=virtio,file=a.vpc,format=vpc -drive if=virtio,file=a.vhdx
-drive if=virtio,file=a.hds
-pflash raw.img -drive if=pflash,unit=1,file=other.img,format=raw,readonly=on
-drive if=none,file=top.qcow2,format=raw
-drive if=none,file=top.qcow2,backing=
-drive if=none,file=top.qcow2,backing.driver=raw
-drive if=none,file=unnamed.qcow2,backing.file.filename=mid.qcow2
-drive if=none,file=top.qcow2,backing.read-only=off
-drive if=none,file=external.qcow2,data-file.driver=file,data-file.filename=other.img
-drive if=none,id=e,media=cdrom -drive if=none,id=f -hda raw.img
-drive if=none,driver=copy-on-read,file=top.qcow2
-drive if=none,driver=raw,file.driver=qcow2,file.file.filename=top.qcow2
-drive if=none,driver=qcow2,file.driver=raw,file.offset=0,file.file.filename=mid.qcow2
-drive if=none,driver=quorum,vote-threshold=1,children.0.file.filename=mid.qcow2,\
children.1.file.filename=other.img
-drive if=none,driver=blkverify,raw.filename=raw.img,test.file.filename=top.qcow2
-drive if=none,driver=blkdebug,image.filename=top.qcow2
-drive 'if=none,file=json:{"driver":"qcow2",,"file.filename":"mid.qcow2"}'
-hda 'json:{"driver":"raw","read-only":true,"file.filename":"raw.img"}' -cdrom file:cd.iso
-blockdev file,node-name=f,filename=top.qcow2 -blockdev qcow2,node-name=q,file=f
  -device virtio-blk-pci,drive=q
-blockdev "{'driver':'qcow2','node-name':'q','file':{'driver':'file','filename':'top.qcow2'}}"
-blockdev qcow2,node-name=q,file.driver=file,file.filename=top.qcow2,backing=
-blockdev '{"driver":"qcow2","node-name":"q","backing":null,"file":{"driver":"file",\
"filename":"external.qcow2"}}'
-blockdev file,node-name=d,filename=other.img
  -blockdev qcow2,node-name=q,file.driver=file,file.filename=external.qcow2,data-file=d
-blockdev qcow2,node-name=b,file.driver=file,file.filename=base.qcow2
  -blockdev qcow2,node-name=t,file.driver=file,file.filename=mid.qcow2,backing=b
-blockdev vmdk,node-name=v,file.driver=file,file.filename=split.vmdk,read-only=on
-object throttle-group,id=g -blockdev throttle,node-name=t,throttle-group=g,file.driver=qcow2,\
file.file.driver=file,file.file.filename=top.qcow2
-blockdev file,node-name=a,filename=raw.img -blockdev file,node-name=b,filename=other.img
  -blockdev '{"driver":"quorum","node-name":"q","vote-threshold":1,"children":["a","b"]}'
-blockdev raw,node-name=r,file.driver=file,file.filename=raw.img,size=65536
  -snapshot -hda top.qcow2
-device virtio-scsi-pci -drive if=none,id=d,file=mid.qcow2 -device scsi-hd,drive=d
-device nvme,serial=1,drive=d -drive if=none,id=d,file=raw.img,format=raw
"""

# QEMU opens these for writing, but not to write to.
UNWRITTEN = r"""
-drive if=none,id=d,file=raw.img,format=raw -device ide-cd,drive=d
-device virtio-scsi-pci -drive if=none,id=d,file=raw.img,format=raw -device scsi-cd,drive=d
-blockdev file,node-name=s,filename=cd.iso -blockdev raw,node-name=f,read-only=on,file=s
  -device ide-cd,drive=f
-blockdev '{"driver":"file","node-name":"s","filename":"base.qcow2","auto-read-only":true}'
  -blockdev '{"driver":"qcow2","node-name":"f","file":"s","read-only":true}'
  -blockdev qcow2,node-name=t,file.driver=file,file.filename=mid.qcow2,backing=f
-blockdev raw,node-name=b,file.driver=file,file.filename=raw.img
  -blockdev qcow2,node-name=t,file.driver=file,file.filename=onraw.qcow2,backing=b
"""


def cases(table: str) -> list[str]:
    r"""Return a table's command lines; one goes on after `\\`, or where a line is indented."""
    return table.strip("\n").replace("\\\n", "").replace("\n  ", " ").splitlines()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]) -> Path:
    """Return a directory with one small image of every kind; QEMU runs in it."""
    directory = tmp_path_factory.mktemp("images")
    (directory / "sub").mkdir()
    for line in cases(IMAGES):
        argv = [require("qemu-img"), *shlex.split(line.replace("create", "create -q", 1))]
        subprocess.run(argv, cwd=directory, check=True, timeout=DEADLINE_S)
    unnamed = directory / "unnamed.qcow2"  # as older QEMUs made it: its backing format not named
    unnamed.write_bytes(unnamed.read_bytes().replace(BACKING_FORMAT, b"\0\0\0\1"))
    return directory


def found(args: list[str], directory: Path) -> dict[str, str]:
    """Return the disks by the names that /proc has for them."""
    disks = discover([QEMU, *args], str(directory))
    return {os.path.realpath(disk.path): disk.mode for disk in disks}


def exclusive(disks: dict[str, str]) -> set[str]:
    return {path for path, mode in disks.items() if mode == X}


@pytest.mark.parametrize("line", cases(SAME))
def test_the_disks_found_are_those_that_qemu_opens(line: str, images: Path) -> None:
    args = shlex.split(line)
    disks = found(args, images)
    with running(args, images) as qemu:
        opened = qemu.open_files(images)
        assert set(disks) == opened
        assert opened
        assert exclusive(disks) == qemu.writable(images)
        assert write_locked(opened) <= exclusive(disks)


@pytest.mark.parametrize("line", cases(UNWRITTEN))
def test_what_qemu_does_not_write_to_is_shared(line: str, images: Path) -> None:
    args = shlex.split(line)
    disks = found(args, images)
    with running(args, images) as qemu:
        assert set(disks) == qemu.open_files(images)
        assert qemu.writable(images) > exclusive(disks)
        assert write_locked(set(disks)) == exclusive(disks)


def test_with_share_rw_a_second_guest_may_write_too(images: Path) -> None:
    drive = "if=none,id=d,file=raw.img,format=raw"
    args = ["-drive", drive, "-device", "virtio-blk-pci,drive=d,share-rw=on"]
    assert found(args, images) == {f"{images}/raw.img": S}
    with running(args, images), running(args, images):
        assert write_locked({f"{images}/raw.img"})


@pytest.mark.parametrize(("share", "mode", "mapped"), [("on", X, "rw-s"), ("off", S, "rw-p")])
def test_the_file_of_an_nvdimm_is_a_disk(share: str, mode: str, mapped: str, images: Path) -> None:
    backend = f"memory-backend-file,id=m,size=1M,mem-path=other.img,share={share}"
    args = ["-machine", "nvdimm=on", "-m", "64M,slots=2,maxmem=1G", "-object", backend]
    args += ["-device", "nvdimm,memdev=m"]
    assert found(args, images) == {f"{images}/other.img": mode}
    with running(args, images) as qemu, open(f"/proc/{qemu.pid}/maps", encoding="utf-8") as maps:
        assert [line.split()[1] for line in maps if f"{images}/other.img" in line] == [mapped]


@pytest.mark.parametrize("name", [b"a b", b"a,b,,c", b"a\nb", b"\xff\xfe", b"a:b=c.d", b"'\"\\"])
def test_qemu_opens_the_very_name(name: bytes, images: Path) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(images), name))
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    quoted = path.replace(",", ",,")
    spellings = [
        ["-hda", path],
        ["-drive", f"if=none,format=raw,file={quoted}"],
        ["-drive", f"if=none,format=raw,file.filename={quoted}"],
        ["-blockdev", f"file,node-name=f,filename={quoted}"],
        ["-blockdev", f"raw,node-name=f,file.driver=file,file.filename={quoted}"],
    ]
    for args in spellings:
        with running(args, images) as qemu:
            assert qemu.open_files(images) == {path}
        assert found(args, images) == {path: X}


def test_descriptors_are_resolved_as_qemu_resolves_them(images: Path) -> None:
    fd = os.open(images / "top.qcow2", os.O_RDWR)
    try:
        for args in (
            ["-drive", f"if=none,file=/dev/fd/{fd},backing.file.filename={images}/mid.qcow2"],
            ["-add-fd", f"fd={fd},set=5", "-blockdev", "file,node-name=f,filename=/dev/fdset/5"],
        ):
            disks = found(args, images)
            with running(args, images, (fd,)) as qemu:
                assert set(disks) == qemu.open_files(images)
            assert exclusive(disks) == {str(images / "top.qcow2")}
    finally:
        os.close(fd)
