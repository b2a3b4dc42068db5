"""Which other files does an image's header name? Reads headers, without changing a timestamp.

Knows the formats that can name other files (qcow, qcow2, qed, vmdk); every
other format ends the chain. It must not know QEMU's command line.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct

from lockplugins.contract import cause
from supervisor.discovery.errors import refusal

LONGEST_NAME = 1023  # QEMU's limit for a backing file name
NAMING = ("qcow", "qcow2", "qed", "vmdk")  # the formats whose headers may name other files

# What the guard will refuse by itself, so that it need not be known here what is inside.
_UNREADABLE = (
    errno.EACCES,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENODEV,
    errno.ENOENT,
    errno.ENOMEDIUM,
    errno.ENOTDIR,
    errno.ENXIO,
    errno.EPERM,
)
_DESCRIPTOR_AT = 0x200  # where QEMU looks for the parent's name in a binary vmdk
_DESCRIPTOR_BYTES = 20 * 512
_LONGEST_DESCRIPTOR = 1 << 20
_VMDK_TEXT = re.compile(rb"(?:#[^\n]*\n| +\r?\n)*version=[123]\r?\n")
_VMDK_PARENT = re.compile(rb'parentFileNameHint..([^"]*)"', re.DOTALL)
_VMDK_EXTENT = re.compile(rb'^[ \t]*\w+[ \t]+\d+[ \t]+\w+[ \t]+"([^"\r\n]+)"', re.MULTILINE)
_MAGIC = {
    b"conectix": "vpc",
    b"vhdxfile": "vhdx",
    b"LUKS\xba\xbe": "luks",
    b"WithoutFreeSpace": "parallels",
    b"WithouFreSpacExt": "parallels",
}
_QCOW2_DATA_FILE = 1 << 2
_QCOW2_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_QCOW2_EXTENSION_DATA_FILE = 0x44415441
_QED_BACKING_FILE = 1 << 0
_QED_BACKING_IS_RAW = 1 << 2


class Header:
    """An image's format and the files that it names, as the header spells them."""

    __slots__ = ("backing", "backing_format", "data_file", "extents", "format")

    def __init__(
        self, image_format: str, backing: str | None = None, backing_format: str | None = None
    ) -> None:
        self.format = image_format
        self.backing = backing or None
        self.backing_format = backing_format or None
        self.data_file: str | None = None
        self.extents: list[str] = []


class _Image:
    """An image open for reading; `base` is where it begins in its file."""

    __slots__ = ("_base", "_fd", "_path")

    def __init__(self, path: str, fd: int, base: int) -> None:
        self._path = path
        self._fd = fd
        self._base = base

    def bytes_at(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._fd, size, self._base + offset)
        except (OSError, OverflowError) as error:
            why = cause(error) if isinstance(error, OSError) else str(error)
            raise refusal(self._path, f"its header cannot be read: {why}") from error

    def fields(self, layout: str, offset: int = 0) -> tuple[int, ...]:
        """Return numbers of the header, zeros where the image is shorter."""
        size = struct.calcsize(layout)
        return struct.unpack(layout, self.bytes_at(offset, size).ljust(size, b"\0"))

    def text(self, offset: int, size: int) -> str:
        """Return a name from the header, which ends at a NUL as it does in QEMU."""
        raw = self.bytes_at(offset, min(size, LONGEST_NAME))
        if len(raw) < size:
            raise refusal(self._path, f"its header is damaged (a name of {size} bytes)")
        return os.fsdecode(raw.partition(b"\0")[0])


def read_header(path: str, image_format: str | None, base: int = 0) -> Header | None:
    """Return what the header of `path` names; None if it cannot be opened (the guard says why).

    Without `image_format` the format is probed as QEMU does. With it, the
    image's bytes do not choose it: a guest can write any header into a raw disk.
    """
    fd = _open(path)
    if fd is None:
        return None
    try:
        image = _Image(path, fd, base)
        probed = _probe(image)
        chosen = image_format or probed
        if chosen not in NAMING or chosen not in {probed, "vmdk"}:  # a vmdk may lack every magic
            return Header(chosen)
        return _READERS[chosen](image)
    finally:
        os.close(fd)


def opened(path: str) -> int:
    """Open a file for reading; no timestamp changes, no device waits or rewinds."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # O_NOATIME is the owner's
        return os.open(path, flags)


def _open(path: str) -> int | None:
    """Open a regular file or block device; None if it is neither, or cannot be opened."""
    try:
        mode = os.stat(path).st_mode
        return opened(path) if stat.S_ISREG(mode) or stat.S_ISBLK(mode) else None
    except OSError as error:
        if error.errno in _UNREADABLE:
            return None
        raise refusal(path, f"it cannot be opened: {cause(error)}") from error


def _probe(image: _Image) -> str:
    """Return the format by the magic numbers that QEMU looks for, `raw` for every other."""
    start = image.bytes_at(0, 512)
    version = int.from_bytes(start[4:8], "big")
    if start.startswith(b"QFI\xfb") and version:
        return "qcow" if version == 1 else "qcow2"
    if start.startswith(b"QED\0"):
        return "qed"
    if start.startswith((b"KDMV", b"COWD")) or _VMDK_TEXT.match(start):
        return "vmdk"
    if start[64:68] == b"\x7f\x10\xda\xbe":
        return "vdi"
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "raw")


def _read_qcow(image: _Image) -> Header:
    backing_at, backing_size = image.fields(">8xQI")
    return Header("qcow", image.text(backing_at, backing_size) if backing_at else None)


def _read_qcow2(image: _Image) -> Header:
    version, backing_at, backing_size, cluster_bits = image.fields(">4xIQII")
    incompatible, length = image.fields(">72xQ20xI")
    if version == 2:  # noqa: PLR2004 (the version's own name)
        incompatible, length = 0, 72
    header = Header("qcow2", image.text(backing_at, backing_size) if backing_at else None)
    end = backing_at or 1 << min(cluster_bits, 21)
    while length + 8 <= end:
        kind, size = image.fields(">II", length)
        if not kind:
            break
        if kind == _QCOW2_EXTENSION_BACKING_FORMAT:
            header.backing_format = image.text(length + 8, size)
        elif kind == _QCOW2_EXTENSION_DATA_FILE and incompatible & _QCOW2_DATA_FILE:
            header.data_file = image.text(length + 8, size)
        length += 8 + (size + 7) // 8 * 8
    return header


def _read_qed(image: _Image) -> Header:
    features, backing_at, backing_size = image.fields("<16xQ32xII")
    if not features & _QED_BACKING_FILE:
        return Header("qed")
    backing_format = "raw" if features & _QED_BACKING_IS_RAW else None
    return Header("qed", image.text(backing_at, backing_size), backing_format)


def _read_vmdk(image: _Image) -> Header:
    capacity, descriptor_at = image.fields("<12xQ8xQ")
    binary = image.bytes_at(0, 4) in {b"KDMV", b"COWD"}
    parent_at = _DESCRIPTOR_AT if binary else 0
    parent = _VMDK_PARENT.search(_string(image, parent_at, _DESCRIPTOR_BYTES))
    header = Header("vmdk", os.fsdecode(parent.group(1)) if parent else None)
    if not binary or (image.bytes_at(0, 4) == b"KDMV" and not capacity):
        listed = _string(image, descriptor_at << 9 if binary else 0, _LONGEST_DESCRIPTOR)
        header.extents = [os.fsdecode(name) for name in _VMDK_EXTENT.findall(listed)]
    return header


def _string(image: _Image, offset: int, size: int) -> bytes:
    return image.bytes_at(offset, size).partition(b"\0")[0]


_READERS = {"qcow": _read_qcow, "qcow2": _read_qcow2, "qed": _read_qed, "vmdk": _read_vmdk}
