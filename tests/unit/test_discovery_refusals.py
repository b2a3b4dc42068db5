"""Is what may name a disk, and is not understood, always an error that names the argument?"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from supervisor.discovery.disks import DiscoveryError, discover

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
        ("-drive file=a,file=b", "-drive file=a,file=b", "it gives file twice"),
        ("-drive file=a,readonly=on,read-only=off", "-drive", "it gives read-only twice"),
        ("-drive file=a,readonly=off,readonly=on", "-drive", "it gives readonly twice"),
        ("-drive file=nbd:localhost:1", "-drive file=nbd:localhost:1", "nbd is a network disk"),
        ("-hda https://x/a.iso", "-hda https://x/a.iso", "https is a network disk"),
        ("-hdb nbd+unix:///x?socket=s", "-hdb nbd", "nbd+unix is a network disk"),
        ("rbd:pool/a", "rbd:pool/a", "rbd is a network disk"),
        ("-blockdev iscsi,node-name=i,portal=p", "-blockdev iscsi", "iscsi is a network disk"),
        ("-drive file.driver=ssh,file.path=x", "-drive file.driver=ssh", "network disk"),
        ("-hda fat:rw:dir", "-hda fat:rw:dir", "a directory cannot be leased"),
        ("-blockdev vvfat,dir=x,node-name=n", "-blockdev vvfat", "a directory cannot be leased"),
        ("-hda weird:a", "-hda weird:a", "protocol weird is not known"),
        ("-hda blkdebug::a", "-hda blkdebug::a", "protocol blkdebug is not known"),
        ("-hda nvme://0/1", "-hda nvme://0/1", "protocol nvme is not known"),
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
        ("-drive file=/dev/fdset/7", "/dev/fdset/7", "stand for 0 files"),
        ("-drive file=/dev/fd/1022", "/dev/fd/1022", "descriptor 1022 has no file name"),
    ],
)
def test_what_is_not_understood_is_refused(line: str, argument: str, reason: str) -> None:
    with pytest.raises(DiscoveryError) as raised:
        discover(["qemu-system-x86_64", *shlex.split(line)], "/vm")
    assert raised.value.exit_code == 2
    assert str(raised.value).startswith(f"cannot find the disks of {argument}")
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


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
