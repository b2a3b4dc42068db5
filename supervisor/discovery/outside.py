"""Which writers of a guest's disks are not the guest itself, and go on when it is dead?

Told by devices, block drivers and servers' addresses alone; no image is opened.
"""

from __future__ import annotations

import re

from supervisor.discovery.drivers import protocol
from supervisor.discovery.errors import DiscoveryError, refusal
from supervisor.discovery.options import IMAGE, below, cut, values
from supervisor.discovery.qemu_argv import NAMING_DISKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from supervisor.discovery.options import Option, Value

# Devices whose backend is another process, the host's kernel or hardware: it writes on by itself.
DEVICES = (
    "vfio-",
    "vhost-scsi",
    "vhost-user-blk",
    "vhost-user-device",
    "vhost-user-scsi",
    "vhost-user-test-device",
    "vhost-vdpa-device",
    "x-pci-proxy-dev",
)
DRIVERS = ("virtio-blk-vfio-pci", "virtio-blk-vhost-user", "virtio-blk-vhost-vdpa")
SERVERS = ("iscsi", "iser", "nbd", "nbd+tcp", "nbd+unix", "nbds", "nbds+unix")

_HERE = r"(?:localhost|127(?:\.\d+){3}|\[?::1\]?)"  # as a server's host
_SERVER_HERE = re.compile(
    rf"nbds?\+unix:|nbd:unix:|nbd:{_HERE}:|[^:/]+://(?:[^@/]*@)?{_HERE}(?:[:/]|$)"
)
_HOST_HERE = re.compile(rf"{_HERE}(?::\d+)?")


def refused(argument: str) -> DiscoveryError:
    """Return the error for an argument that names such a writer, to be raised."""
    reason = "its writer is outside the guest, and goes on when the guest is dead"
    advice = "lease its disk by running the writer under lock-supervisor, or name it with --disk"
    return refusal(argument, reason, advice)


def is_driver(driver: str, filename: str | None, options: Mapping[str, Value]) -> bool:
    """Tell whether what writes to the disk is another process of this host, or hardware."""
    if driver in SERVERS:
        hosts = (str(options.get(key, "")) for key in ("host", "server.host", "portal"))
        return (
            _SERVER_HERE.match(filename or "") is not None
            or not {"path", "server.path"}.isdisjoint(options)
            or any(map(_HOST_HERE.fullmatch, hosts))
        )
    return driver in DRIVERS


def writers(argv: Sequence[str]) -> list[str]:
    """Return the arguments of a QEMU command line that name such writers by themselves."""
    return [str(option) for option in cut(argv) if option.value and _names_one(option)]


def _names_one(option: Option) -> bool:
    if option.name not in {"blockdev", "device", "drive"}:
        name = option.value if option.name in {IMAGE, *NAMING_DISKS} else None
        return is_driver(protocol(name) or "", name, {})
    try:
        given = values(option, "driver")
    except DiscoveryError:  # QEMU may know better; whoever starts it is told
        return False
    if option.name == "device":
        return str(given.get("driver", "")).startswith(DEVICES)
    file = str(given.get("file", ""))
    return is_driver(protocol(file) or "", file, {}) or any(
        is_driver(str(value), None, below(given, key.removesuffix("driver").rstrip(".")) or given)
        for key, value in given.items()
        if key.rpartition(".")[2] == "driver"
    )
