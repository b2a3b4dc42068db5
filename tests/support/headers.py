"""What does an image's header look like? Writes the first bytes of images, from the formats' specs.

Independent of the code that reads them; no image here holds any data.
"""

from __future__ import annotations

import struct


def extension(kind: int, text: str) -> bytes:
    data = text.encode()
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


def qcow2(
    backing: bytes = b"",
    backing_format: str = "",
    data_file: str = "",
    *,
    version: int = 3,
    data_file_bit: bool = True,
) -> bytes:
    """Return a qcow2 header with its extensions, and the backing file's name after them."""
    length = 104 if version > 2 else 72
    extensions = b""
    if backing_format:
        extensions += extension(0xE2792ACA, backing_format)
    extensions += extension(0x6803F857, "a feature's name")
    if data_file:
        extensions += extension(0x44415441, data_file)
    extensions += bytes(8)
    at = length + len(extensions) if backing else 0
    start = struct.pack(">4sIQIIQ", b"QFI\xfb", version, at, len(backing), 16, 1 << 20)
    incompatible = 4 if data_file and data_file_bit else 0
    if version > 2:
        start = start.ljust(72, b"\0") + struct.pack(">Q", incompatible)
        start = start.ljust(96, b"\0") + struct.pack(">II", 4, length)
    return start.ljust(length, b"\0") + extensions + backing


def qed(backing: bytes = b"", *, raw: bool = False) -> bytes:
    features = (1 if backing else 0) | (4 if raw else 0)
    start = struct.pack("<4sIIIQ", b"QED\0", 65536, 4, 1, features)
    return start.ljust(56, b"\0") + struct.pack("<II", 64, len(backing)) + backing


def vmdk_text(*extents: str, parent: str = "") -> bytes:
    lines = ["# Disk DescriptorFile", "version=1", "CID=fffffffe", 'createType="custom"']
    lines += [f'parentFileNameHint="{parent}"'] if parent else []
    return "\n".join([*lines, *extents, 'ddb.adapterType = "ide"', ""]).encode()


def vmdk_sparse(*, parent: str = "", capacity: int = 2048, extents: tuple[str, ...] = ()) -> bytes:
    """Return a binary vmdk with its descriptor in the second sector."""
    start = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, capacity, 128, 1, 20)
    return start.ljust(512, b"\0") + vmdk_text(*extents, parent=parent).ljust(10240, b"\0")
