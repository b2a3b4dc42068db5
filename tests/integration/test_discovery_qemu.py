"""Do we find exactly the files that QEMU opens, and know which of them it may write?

Judged from QEMU itself: its block nodes, its descriptors and its own image locks.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings

from supervisor.discovery.disks import discover
from supervisor.discovery.drivers import EMPTY
from supervisor.discovery.errors import DiscoveryError
from tests.integration.command_lines import BESIDE, IMAGES, REFUSED, SAME, UNWRITTEN, cases
from tests.support import insight, waiting
from tests.support.opened import running, write_locked
from tests.support.qemu import QEMU
from tests.support.quoting import JSON, NAMES, PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEADLINE_S = 30
X, S = "exclusive", "shared"
BACKING_FORMAT = b"\xe2\x79\x2a\xca"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]) -> Path:
    """Return a directory with one small image of every kind; QEMU runs in it."""
    directory = tmp_path_factory.mktemp("images")
    (directory / "sub").mkdir()
    (directory / "sub/link.qcow2").symlink_to(directory / "base.qcow2")
    (directory / "small").write_bytes(bytes(100))
    (directory / "config").write_text('[drive "d"]\n  file = "raw.img"\n  if = "none"\n')
    for line in cases(IMAGES):
        argv = [require("qemu-img"), *shlex.split(line.replace("create", "create -q", 1))]
        # Its LUKS measures itself, and gives up ("accurate CPU usage") where that is too fast.
        make = partial(subprocess.call, argv, cwd=directory, timeout=DEADLINE_S)
        waiting.until(lambda make=make: make() == 0, DEADLINE_S, "qemu-img makes the image")  # type: ignore[misc]  # bound now
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


@pytest.mark.parametrize("line", cases(BESIDE))
def test_what_is_no_disk_is_not_leased(line: str, images: Path) -> None:
    args = shlex.split(line)
    with running(args, images) as qemu:
        nodes = {os.path.join(images, node["file"]) for node in qemu.files}
        assert set(found(args, images)) == nodes == {f"{images}/raw.img"}
        assert qemu.open_files(images) >= nodes


@pytest.mark.parametrize("line", cases(REFUSED))
def test_what_is_refused_is_what_qemu_would_have_opened(line: str, images: Path) -> None:
    args = shlex.split(line)
    with pytest.raises(DiscoveryError):
        found(args, images)
    with running(args, images) as qemu:
        assert any(node["drv"] not in EMPTY for node in qemu.nodes)


def test_with_share_rw_a_second_guest_may_write_too(images: Path) -> None:
    drive = "if=none,id=d,file=raw.img,format=raw"
    args = ["-drive", drive, "-device", "virtio-blk-pci,drive=d,share-rw=on"]
    assert found(args, images) == {f"{images}/raw.img": S}
    with running(args, images), running(args, images):
        assert write_locked({f"{images}/raw.img"})


@pytest.mark.parametrize(("share", "mode", "mapped"), [("on", X, "rw-s"), ("off", S, "rw-p")])
@pytest.mark.parametrize("device", ["nvdimm,memdev=m", "nvme,serial=1,pmrdev=m"])
def test_the_file_of_persistent_memory_is_a_disk(
    device: str, share: str, mode: str, mapped: str, images: Path
) -> None:
    backend = f"memory-backend-file,id=m,size=1M,mem-path=other.img,share={share}"
    args = ["-machine", "nvdimm=on", "-m", "64M,slots=2,maxmem=1G", "-object", backend]
    args += ["-device", device]
    assert found(args, images) == {f"{images}/other.img": mode}
    with running(args, images) as qemu, open(f"/proc/{qemu.pid}/maps", encoding="utf-8") as maps:
        assert [line.split()[1] for line in maps if f"{images}/other.img" in line] == [mapped]


FILE_NAMES = NAMES.map(lambda name: name.replace(b"/", b"_")[:200]).filter(
    lambda name: name not in {b"", b".", b".."}
)


@given(FILE_NAMES)
@example(b"a,b,,c")
@example(b"a\nb")
@example(b"\xff\xfe")
@example("a:b=c.d'\"\\é😀".encode())
@settings(max_examples=settings().max_examples // 4)
def test_qemu_opens_the_very_name(images: Path, name: bytes) -> None:
    """Every spelling of one name in one command line: a descriptor each, and no other file."""
    path = os.fsdecode(os.path.join(os.fsencode(images), name))
    spellings = [*PLAIN, *(JSON if is_text(name) else ())]
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    args = [word for spelling in spellings for word in spelling(path)]
    assert found(args, images) == {path: X}
    with running(args, images) as qemu:
        assert qemu.open_files(images) == {path}
        assert list(insight.links(qemu.pid).values()).count(path) == len(spellings)


def is_text(name: bytes) -> bool:
    """Tell whether JSON can say it: Unicode without what stands for no character."""
    try:
        return not any(
            ord(c) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(c) <= 0xFDEF for c in name.decode()
        )
    except UnicodeDecodeError:
        return False


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
