"""Which files do images refer to, and are they found without a trace in the images?"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from supervisor.discovery.disks import DiscoveryError, discover
from supervisor.discovery.images import read_header
from tests.support import headers

if TYPE_CHECKING:
    from pathlib import Path

X, S = "exclusive", "shared"
NO_CONFIG = "/nonexistent/qemu.conf"


def modes(directory: Path, *args: str) -> dict[str, str]:
    """Return the disks found from within `directory`, named relative to it."""
    found = discover(["qemu-system-x86_64", *args], str(directory), qemu_config=NO_CONFIG)
    return {disk.path.removeprefix(f"{directory}/"): disk.mode for disk in found}


def write(directory: Path, **images: bytes) -> None:
    for name, data in images.items():
        (directory / name).write_bytes(data)


def test_a_chain_is_followed_to_its_end(tmp_path: Path) -> None:
    write(tmp_path, top=headers.qcow2(b"mid"), mid=headers.qcow2(b"low", version=2))
    write(tmp_path, low=headers.qed(b"base"), base=b"no image format at all")
    expected = {"top": X, "mid": S, "low": S, "base": S}
    assert modes(tmp_path, "-hda", "top") == expected
    found = discover(["q", "-hda", "top"], str(tmp_path), qemu_config=NO_CONFIG)
    assert [disk.found_in for disk in found] == [
        "-hda top",
        f"backing file of {tmp_path}/top",
        f"backing file of {tmp_path}/mid",
        f"backing file of {tmp_path}/low",
    ]


def test_a_missing_backing_file_is_still_a_disk(tmp_path: Path) -> None:
    write(tmp_path, top=headers.qcow2(b"/gone/base"))
    assert modes(tmp_path, "-hda", "top") == {"top": X, "/gone/base": S}


def test_backing_names_are_relative_to_their_image_and_data_files_to_qemu(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", top=headers.qcow2(b"base", data_file="data"))
    assert modes(tmp_path, "-hda", "sub/top") == {"sub/top": X, "sub/base": S, "data": X}
    write(tmp_path / "sub", top=headers.qcow2(b"file:base"))
    assert modes(tmp_path, "-hda", "sub/top") == {"sub/top": X, "base": S}
    write(tmp_path / "sub", top=headers.qcow2(b'json:{"driver":"raw","file.filename":"b"}'))
    assert modes(tmp_path, "-hda", "sub/top") == {"sub/top": X, "b": S}


def test_a_data_file_is_leased_like_its_image(tmp_path: Path) -> None:
    write(tmp_path, top=headers.qcow2(b"mid"), mid=headers.qcow2(data_file=f"{tmp_path}/data"))
    assert modes(tmp_path, "-hda", "top") == {"top": X, "mid": S, "data": S}
    assert modes(tmp_path, "-hda", "mid") == {"mid": X, "data": X}
    assert modes(tmp_path, "-cdrom", "mid") == {"mid": S, "data": S}
    given = "file=mid,data-file.driver=file,data-file.filename=other"
    assert modes(tmp_path, "-drive", given) == {"mid": X, "other": X}
    write(tmp_path, mid=headers.qcow2(data_file="data", data_file_bit=False))
    assert modes(tmp_path, "-hda", "mid") == {"mid": X}


def test_a_raw_disk_with_a_forged_header_has_no_backing_file(tmp_path: Path) -> None:
    write(tmp_path, disk=headers.qcow2(b"/etc/shadow"), top=headers.qcow2(b"disk", "raw"))
    assert modes(tmp_path, "-drive", "file=disk,format=raw") == {"disk": X}
    raw = "raw,node-name=r,file.driver=file,file.filename=disk"
    assert modes(tmp_path, "-blockdev", raw) == {"disk": X}
    assert modes(tmp_path, "-hda", "top") == {"top": X, "disk": S}
    write(tmp_path, top=headers.qed(b"disk", raw=True))
    assert modes(tmp_path, "-hda", "top") == {"top": X, "disk": S}
    assert modes(tmp_path, "-hda", "disk") == {"disk": X, "/etc/shadow": S}  # as QEMU probes


def test_a_file_node_alone_has_no_format(tmp_path: Path) -> None:
    write(tmp_path, disk=headers.qcow2(b"base"))
    assert modes(tmp_path, "-blockdev", "file,node-name=f,filename=disk") == {"disk": X}
    assert modes(tmp_path, "-drive", "driver=copy-on-read,file=disk") == {"disk": X}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("file=top,backing=", {"top": X}),
        ("file=top,backing.driver=raw", {"top": X, "mid": S}),
        ("file=top,backing.file.filename=other", {"top": X, "other": S}),
        ("file=top,backing.backing.file.filename=other", {"top": X, "mid": S, "other": S}),
        ("file=top,backing.read-only=off", {"top": X, "mid": X, "base": S}),
        ("file=top,readonly=on", {"top": S, "mid": S, "base": S}),
        ("file=top,snapshot=on", {"top": S, "mid": S, "base": S}),
        ("file=top,backing.driver=qcow2,backing.file.driver=file,backing.file.filename=mid",
         {"top": X, "mid": S, "base": S}),
    ],
)  # fmt: skip
def test_options_replace_what_the_header_says(
    tmp_path: Path, given: str, expected: dict[str, str]
) -> None:
    write(tmp_path, top=headers.qcow2(b"mid", "qcow2"), mid=headers.qcow2(b"base"), base=b"")
    assert modes(tmp_path, "-drive", given) == expected


def test_a_header_behind_an_offset_is_found(tmp_path: Path) -> None:
    write(tmp_path, slice=bytes(65536) + headers.qcow2(b"base"))
    node = "qcow2,node-name=q,file.driver=raw,file.offset={},file.file.driver=file"
    file = ",file.file.filename=slice"
    assert modes(tmp_path, "-blockdev", node.format(65536) + file) == {"slice": X, "base": S}
    assert modes(tmp_path, "-blockdev", node.format(0) + file) == {"slice": X}
    with pytest.raises(DiscoveryError, match="inside another format"):
        modes(tmp_path, "-blockdev", node.format("64k") + file)


def test_a_vmdk_names_its_extents_and_its_parent(tmp_path: Path) -> None:
    flat, sparse = 'RW 2048 FLAT "a flat.vmdk" 0', 'RW 4 SPARSE "/x/s.vmdk"'
    write(tmp_path, text=headers.vmdk_text(flat, sparse, parent="base"), base=b"")
    assert modes(tmp_path, "-hda", "text") == {
        "text": X,
        "base": S,
        "a flat.vmdk": X,
        "/x/s.vmdk": X,
    }
    write(tmp_path, binary=headers.vmdk_sparse(parent="base", extents=('RW 4 SPARSE "binary"',)))
    assert modes(tmp_path, "-hda", "binary") == {"binary": X, "base": S}
    write(tmp_path, binary=headers.vmdk_sparse(capacity=0, extents=(flat,)))
    assert modes(tmp_path, "-cdrom", "binary") == {"binary": S, "a flat.vmdk": S}
    write(tmp_path, text=b"CID=1\n" + headers.vmdk_text(flat))  # no magic: by its driver alone
    assert modes(tmp_path, "-hda", "text") == {"text": X}
    assert modes(tmp_path, "-drive", "file=text,format=vmdk") == {"text": X, "a flat.vmdk": X}


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"", "raw"),
        (b"QFI\xfb\0\0\0\0", "raw"),
        (b"QFI\xfb\0\0\0\1", "qcow"),
        (b"QFI\xfb\0\0\0\2", "qcow2"),
        (b"QED\0", "qed"),
        (b"COWD", "vmdk"),
        (b"# c\n  \r\nversion=2\r\n", "vmdk"),
        (b"x\nversion=1\n", "raw"),
        (b"version=4\n", "raw"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "vdi"),
        (b"conectix", "vpc"),
        (b"vhdxfile", "vhdx"),
        (b"LUKS\xba\xbe", "luks"),
        (b"WithouFreSpacExt", "parallels"),
    ],
)
def test_the_format_is_probed(tmp_path: Path, start: bytes, expected: str) -> None:
    write(tmp_path, image=start)
    header = read_header(str(tmp_path / "image"), None)
    assert header is not None
    assert header.format == expected


def test_names_in_headers_are_bytes_that_end_at_a_nul(tmp_path: Path) -> None:
    write(tmp_path, top=headers.qcow2(b"a \xff\n,b\0ignored"))
    assert modes(tmp_path, "-hda", "top") == {"top": X, "a \udcff\n,b": S}


@pytest.mark.parametrize(
    "damaged",
    [
        struct.pack(">4sIQI", b"QFI\xfb", 3, 200, 100),
        struct.pack(">4sIQI", b"QFI\xfb", 2, 72, 5000) + bytes(6000),
        struct.pack(">4sIQI", b"QFI\xfb", 2, 1 << 63, 10),
        headers.qed(b"base")[:-2],
    ],
)
def test_a_damaged_header_is_an_error(tmp_path: Path, damaged: bytes) -> None:
    write(tmp_path, top=damaged)
    with pytest.raises(DiscoveryError, match=f"disks of {tmp_path}/top: .*header"):
        modes(tmp_path, "-hda", "top")


def test_images_that_refer_to_each_other_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, a=headers.qcow2(b"b"), b=headers.qcow2(b"./a"), self=headers.qcow2(b"self"))
    for name in ("a", "self"):
        with pytest.raises(DiscoveryError, match="refer to each other without end"):
            modes(tmp_path, "-hda", name)


def test_images_that_multiply_are_an_error(tmp_path: Path) -> None:
    for level in range(15):
        child = f'{{"file.filename":"{level + 1}"}}'
        twice = f'json:{{"driver":"quorum","children":[{child},{child}]}}'
        (tmp_path / str(level)).write_bytes(headers.qcow2(twice.encode()))
    with pytest.raises(DiscoveryError, match="refer to each other without end"):
        modes(tmp_path, "-hda", "0")
    assert len(modes(tmp_path, "-hda", "10")) == 6


@pytest.mark.parametrize("backing", [b"nbd://host/x", b"rbd:pool/x", b'json:{"driver":"nbd"}'])
def test_a_backing_file_on_the_network_is_an_error(tmp_path: Path, backing: bytes) -> None:
    write(tmp_path, top=headers.qcow2(backing))
    why = "or on the network|network disk without a server"
    with pytest.raises(DiscoveryError, match=f"backing file of {tmp_path}/top: .*({why})"):
        modes(tmp_path, "-hda", "top")


def test_a_raw_backing_file_on_the_network_is_shared(tmp_path: Path) -> None:
    write(tmp_path, top=headers.qcow2(b"nbd://host/x", "raw"))
    found = discover(["qemu-kvm", "-no-user-config", "-hda", "top"], str(tmp_path))
    assert [(disk.path, disk.mode) for disk in found] == [
        (f"{tmp_path}/top", X),
        ("nbd://host/x", S),
    ]


def test_what_is_no_disk_is_neither_opened_nor_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it could wake or starve its reader
    (tmp_path / "directory").mkdir()
    for path in ("fifo", "directory", "/dev/null", "missing", "fifo/below"):
        assert modes(tmp_path, "-hda", path) == {path: X}


def test_reading_changes_no_timestamp(tmp_path: Path) -> None:
    write(tmp_path, top=headers.qcow2(b"base"), base=b"")
    for name in ("top", "base"):
        os.utime(tmp_path / name, (1, 2))
    assert len(modes(tmp_path, "-hda", "top")) == 2
    for name in ("top", "base"):
        seen = os.stat(tmp_path / name)
        assert (seen.st_atime, seen.st_mtime) == (1, 2)


def test_descriptors_stand_for_the_files_behind_them(tmp_path: Path) -> None:
    write(tmp_path, top=headers.qcow2(b"base"), other=b"")
    fd, other = os.open(tmp_path / "top", os.O_RDONLY), os.open(tmp_path / "other", os.O_RDONLY)
    pipe, end = os.pipe()
    try:
        assert modes(tmp_path, "-hda", f"/dev/fd/{fd}") == {"top": X, "base": S}
        assert modes(tmp_path, "-cdrom", f"/proc/self/fd/{fd}") == {"top": S, "base": S}
        add = ["-add-fd", f"fd={fd},set=3", "-add-fd", f"fd={fd},set=3,opaque=x"]
        assert modes(tmp_path, "-hda", "/dev/fdset/3", *add) == {"top": X, "base": S}
        with pytest.raises(DiscoveryError, match="gives that set 2 files"):
            modes(tmp_path, "-hda", "/dev/fdset/3", *add, "-add-fd", f"fd={other},set=3")
        with pytest.raises(
            DiscoveryError, match=rf"descriptor {pipe} is pipe:.*, which no file is called"
        ):
            modes(tmp_path, "-hda", f"/dev/fd/{pipe}")
        os.rename(tmp_path / "other", tmp_path / "top")
        with pytest.raises(DiscoveryError, match=r"which no file is called"):
            modes(tmp_path, "-hda", f"/dev/fd/{fd}")
    finally:
        for opened in (fd, other, pipe, end):
            os.close(opened)
