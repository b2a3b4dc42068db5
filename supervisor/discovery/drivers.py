"""Which block drivers does QEMU have, and what lies beneath each?

Tables, and the rules of file names. It must not know nodes or images.
"""

from __future__ import annotations

import os
import re

from supervisor.discovery.errors import refusal
from supervisor.discovery.images import NAMING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.discovery.options import Value

LOCAL = ("file", "host_device", "host_cdrom")
EMPTY = ("null-co", "null-aio")
NETWORK = frozenset(
    """ftp ftps gluster gluster+rdma gluster+tcp gluster+unix http https iscsi iser nbd nbd+tcp
    nbd+unix nbd+vsock nbds nfs rbd sheepdog sheepdog+tcp sheepdog+unix ssh tftp
    vxhs""".split()  # noqa: SIM905 (a table of words)
)
HARDWARE = {
    "nvme": "QEMU drives a PCI device by itself, which has no name to lease",
    "nvme-io_uring": "it goes past the block device, which is what a lease is on",
}
FORMATS = ("bochs", "cloop", "dmg", "luks", "parallels", "raw", "vdi", "vhdx", "vpc", *NAMING)
PROTOCOL_FILTERS = ("blkdebug", "blkverify")  # in a file name they have a syntax of their own
PASSIVE_FILTERS = (
    *PROTOCOL_FILTERS,
    "blkreplay",
    "compress",
    "copy-on-read",
    "preallocate",
    "quorum",
    "snapshot-access",
    "throttle",
)
FILTERS = (*PASSIVE_FILTERS, "blklogwrites", "copy-before-write")
PASSIVE = (*LOCAL, *EMPTY, *PASSIVE_FILTERS, "raw")  # they write only what they are told to

# The parts of a driver, the first of which holds the image; of the others it is `file`.
PARTS = {
    "blkdebug": ("image",),
    "blklogwrites": ("file", "log"),
    "blkreplay": ("image",),
    "blkverify": ("raw", "test"),
    "copy-before-write": ("file", "target"),
    "luks": ("file", "header"),
    "qcow": ("file", "backing"),
    "qcow2": ("file", "backing", "data-file"),
    "qed": ("file", "backing"),
    "quorum": ("children",),
    "vmdk": ("file", "backing", "extents"),
}
PROBED_PARTS = ("children", "test")  # of these QEMU reads the format from the image

_PROTOCOL = re.compile(r"([^:/]*):")


def protocol(filename: str | None) -> str | None:
    """Return the protocol that a file name begins with, as QEMU tells it from a path."""
    match = _PROTOCOL.match(filename or "")
    return match.group(1) if match else None


def is_network(filename: str) -> bool:
    """Tell a network disk's name, as QEMU takes it, from a path."""
    return protocol(filename) in NETWORK


def beside(path: str, name: str) -> str:
    """Return `name` as seen from the image `path`, which may be relative to its directory."""
    return name if protocol(name) else os.path.join(os.path.dirname(path), name)


def offset(options: Mapping[str, Value]) -> int | None:
    """Return where a raw node begins in its file; None if that is not a plain number."""
    given = str(options.get("offset", 0))
    return int(given) if given.isascii() and given.isdigit() else None


def check_parts(driver: str, options: Mapping[str, Value], argument: str) -> None:
    """Refuse options that describe a part which this driver is not known to have."""
    known = PARTS.get(driver, ("file",))
    for key in options:
        part, dot, rest = key.partition(".")
        if dot and part not in known and rest.rpartition(".")[2] in {"driver", "filename"}:
            raise refusal(argument, f"driver {driver} is not known to have a part {part}")


def why_not(driver: str) -> str:
    if driver in HARDWARE:
        return HARDWARE[driver]
    if driver in {"fat", "vvfat"}:
        return "a directory cannot be leased"
    return f"the block driver or protocol {driver} is not known"
