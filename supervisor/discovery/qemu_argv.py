"""What does a QEMU command line say of the guest as a whole, its disks aside?

Is it QEMU, what are the guest's name and uuid, is there a guest at all? It
must not know disks and images.
"""

from __future__ import annotations

import os

from supervisor.discovery.options import cut, pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.discovery.options import Option

HELP = ("help", "?")
# Options after which QEMU prints a list and exits: HELP as the whole value, or as one item of it.
LISTING = ("accel", "audio", "audiodev", "cpu", "d", "display", "netdev", "tpmdev", "trace", "vga")
LISTING_ITEMS = ("M", "chardev", "device", "machine", "net", "nic", "object")
NAMING_DISKS = {
    *("blockdev", "cdrom", "drive", "fda", "fdb", "hda", "hdb", "hdc", "hdd"),
    *("mtdblock", "pflash", "readconfig", "sd"),
}


def is_qemu(argv0: str) -> bool:
    """Tell whether a command is QEMU's system emulator, by its name."""
    name = os.path.basename(argv0)
    return name.startswith("qemu-system-") or name in {"qemu-kvm", "kvm"}


def guest_names(argv: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the guest's name and uuid as the command line has them, else None."""
    name = uuid = None
    for option in cut(argv):
        if option.name == "name":
            name = dict(pairs(option.value or "", "guest")).get("guest", name)
        elif option.name == "uuid":
            uuid = option.value
    return name, uuid


def passes_through(argv: Sequence[str]) -> bool:
    """Tell whether no guest will run: QEMU prints help, or is probed by libvirt.

    In doubt there is a guest. A list is asked for only where no disk is named,
    since QEMU may have opened the disks before it prints.
    """
    options = cut(argv)
    names = {option.name for option in options}
    if not all(option.known for option in options):
        return False
    if names & {"h", "help", "version"}:
        return True
    if names & NAMING_DISKS or any(not option.name for option in options):
        return False
    last = {option.name: option for option in options}  # of some, QEMU forgets the others
    return any(map(_lists, last.values())) or (
        {"daemonize", "qmp"} <= names and _machine(options) == "none"
    )


def _lists(option: Option) -> bool:
    value = option.value or ""
    if option.name in LISTING:
        return value in HELP
    if option.name not in LISTING_ITEMS or value.startswith("{"):
        return False
    return any(
        key in HELP or (key in {"driver", "model"} and given in HELP)
        for key, given in pairs(value, "driver")
    )


def _machine(options: Sequence[Option]) -> str | None:
    """Return the type of machine: of several, QEMU takes the last."""
    types = [
        dict(pairs(option.value or "", "type")).get("type")
        for option in options
        if option.name in {"machine", "M"}
    ]
    return next((given for given in reversed(types) if given), None)
