"""Whatever a command line, a JSON text or an image says: disks, or one line that refuses?"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockplugins.contract import LockError
from supervisor.discovery.disk import parse_disk_option
from supervisor.discovery.disks import discover, guest_names, passes_through
from supervisor.discovery.images import read_header
from supervisor.discovery.options import ALONE, WITH_VALUE
from supervisor.discovery.outside import writers
from tests.support import headers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NO_CONFIG = "/nonexistent/qemu.conf"
TEXT = st.binary(max_size=6).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"0")))
KEYS = st.sampled_from(
    """driver file file.driver file.filename file.file backing data-file.filename children.0 header
    children.0.file.filename node-name id drive if format readonly snapshot offset qom-type memdev
    mem-path share fd set media share-rw file.offset server.host path image""".split()  # noqa: SIM905 (a table of words)
)
WORDS = st.sampled_from(
    """a n raw qcow2 luks vmdk quorum throttle blkdebug blkverify copy-on-read null-co nbd file:x
    nbd:unix:/s json:{} json:{"driver":"raw"} /dev/fd/0 /dev/fd/99999999999999999999 /dev/fdset/1
    memory-backend-file nvdimm virtio-blk-pci vfio-pci scsi-cd on off none virtio cdrom 65536
    /proc/self/fd/1 vvfat file localhost host_device /dev/null /""".split()  # noqa: SIM905 (a table of words)
)
HUGE = st.sampled_from(["9" * 20, "9" * 5000, "\u0663", "-1", "1e9"])
VALUES = st.one_of(WORDS, TEXT, HUGE)
PAIRS = st.lists(st.tuples(st.one_of(KEYS, TEXT), VALUES), max_size=6).map(
    lambda pairs: ",".join(f"{key}={value}" for key, value in pairs)
)
LEAVES = st.one_of(VALUES, st.none(), st.booleans(), st.integers(), st.floats())
TREES = st.recursive(
    LEAVES,
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.one_of(KEYS, TEXT), below, max_size=4)
    ),
    max_leaves=12,
).map(json.dumps)
OPTIONS = st.one_of(
    st.sampled_from(["-drive", "-blockdev", "-device", "-object", "-hda", "-cdrom", "-add-fd"]),
    st.sampled_from(["-set", "-global", "-machine", "-snapshot", "-name", "-pflash"]),
    st.sampled_from(sorted(WITH_VALUE | ALONE)).map(lambda name: f"-{name}"),
)
ARGUMENTS = st.lists(st.one_of(OPTIONS, PAIRS, TREES, VALUES), max_size=8)


def answered(ask: Callable[[], object]) -> bool:
    """Tell whether there was an answer; a refusal has to be one line of our own."""
    said = ""
    try:
        ask()
    except LockError as refused:
        said = str(refused)
    assert "\n" not in said
    return not said


@given(ARGUMENTS, st.booleans())
def test_any_command_line_is_understood_or_refused(args: list[str], allow_outside: bool) -> None:  # noqa: FBT001
    argv = ["qemu-system-x86_64", *args]
    guest_names(argv)
    passes_through(argv)
    writers(argv)
    found = []
    if answered(lambda: found.extend(discover(argv, "/vm", allow_outside=allow_outside))):
        assert all(os.path.isabs(disk.path) and disk.found_in for disk in found)


@given(TREES, st.sampled_from(["-blockdev", "-device", "-object", "-hda"]))
def test_any_json_is_understood_or_refused(text: str, option: str) -> None:
    for value in (text, text.replace('"', "'"), text[:-1], f"json:{text}"):
        answered(partial(discover, ["q", option, value], "/vm"))


@given(st.one_of(PAIRS, TEXT))
def test_any_disk_option_is_understood_or_refused(text: str) -> None:
    if answered(lambda: parse_disk_option(text, "/vm")):
        assert parse_disk_option(text, "/vm").path.startswith("/")


SOUND = [
    headers.qcow2(b"base", "raw", "data"),
    headers.qcow2(b"base", version=2),
    headers.qed(b"base"),
    headers.vmdk_text('RW 4 FLAT "a"', parent="p"),
    headers.vmdk_sparse(parent="p", capacity=0, extents=('RW 4 SPARSE "a"',)),
    b"QFI\xfb\0\0\0\1".ljust(100, b"\0"),
]


@pytest.mark.parametrize("image_format", [None, "qcow", "qcow2", "qed", "vmdk"])
@given(
    st.sampled_from(SOUND),
    st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=8)), max_size=6),
    st.integers(0, 12000),
)
def test_any_header_is_understood_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    image_format: str | None,
    sound: bytes,
    damage: list[tuple[int, bytes]],
    size: int,
) -> None:
    data = bytearray(sound)
    for at, patch in damage:
        data[at : at + len(patch)] = patch
    path: Path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data[:size])
    answered(lambda: read_header(str(path), image_format))
