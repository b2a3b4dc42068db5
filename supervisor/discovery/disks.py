"""Which disks will this command line's guest open, and how must each be leased?

Reads the QEMU options that name disks. It must not know lock managers or plugins.
"""

from __future__ import annotations

import os
import re

from lockplugins.contract import Mode
from supervisor.discovery import outside
from supervisor.discovery.blockdev import Graph
from supervisor.discovery.disk import Disk, named, parse_disk_option, strongest
from supervisor.discovery.errors import DiscoveryError, refusal
from supervisor.discovery.options import IMAGE, Option, below, cut, is_on, pairs, values
from supervisor.discovery.qemu_argv import guest_names, is_qemu, passes_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from supervisor.discovery.blockdev import Node

__all__ = [
    "DiscoveryError",
    "Disk",
    "discover",
    "guest_names",
    "is_qemu",
    "named",
    "parse_disk_option",
    "passes_through",
]

QEMU_CONFIG = "/etc/qemu/qemu.conf"  # QEMU reads it unless told -no-user-config

FILE_OPTIONS = ("fda", "fdb", "hda", "hdb", "hdc", "hdd", "mtdblock", "pflash", "sd", IMAGE)
# Devices that keep their content in a memory backend's file, and where they name the backend.
PERSISTENT_MEMORY = ("acpi-erst", "cxl-type3", "nvdimm", "nvme", "spapr-nvdimm", "virtio-pmem")
PERSISTENT_KEYS = ("lsa", "memdev", "persistent-memdev", "pmrdev")
CHANGING_DISKS = ("drive", "driver", "jsonfile", "share-rw", *PERSISTENT_KEYS)

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")
_DESCRIPTOR_SET = re.compile(r"/dev/fdset/([0-9]+)")
_CONFIG_SECTION = re.compile(r"^\s*\[\s*(drive|device)\b", re.MULTILINE)


def discover(
    argv: Sequence[str], cwd: str, *, allow_outside: bool = False, qemu_config: str = QEMU_CONFIG
) -> list[Disk]:
    """Return the disks of a QEMU command line with all that their images refer to.

    A disk that is met twice is returned once, in its strongest mode. What may
    name a disk and is not understood raises DiscoveryError; so does a device
    whose writer is not the guest, unless `allow_outside`. Images that cannot be
    opened are returned unread: acquiring their leases will fail.
    """
    machine = _Machine(cut(argv), cwd, allow_outside=allow_outside)
    machine.refuse_configuration(qemu_config)
    return strongest(machine.disks())


class _Machine:
    """What the options say about disks, gathered in QEMU's own order of work."""

    def __init__(self, options: list[Option], cwd: str, *, allow_outside: bool) -> None:
        self._options = options
        self._cwd = cwd
        self._allow_outside = allow_outside
        self._graph = Graph(self._located, allow_outside=allow_outside)
        self._snapshot = any(option.name == "snapshot" for option in options)
        self._tops: list[Node] = []
        self._uses: dict[str, list[bool]] = {}  # node name → does each of its devices write?
        self._memory: dict[str, Disk] = {}
        self._persistent: list[str] = []
        self._variables: list[Disk] = []
        self._descriptors: dict[str, list[int]] = {}
        for option in options:
            if not option.known:
                raise refusal(str(option), "not an option of QEMU 7.2 to 10; it may name a disk")
            if option.name in _READERS and option.value is None:
                raise refusal(str(option), "its value is missing")

    def disks(self) -> Iterator[Disk]:
        # QEMU knows descriptors and objects before nodes, and nodes before drives.
        for names in (_READERS.keys() - {"blockdev"} - _DRIVES, {"blockdev"}, _DRIVES):
            for option in self._options:
                if option.name in names:
                    _READERS[option.name](self, option)
        self._use_nodes()
        for node in self._graph.nodes:
            if node.path is not None:
                yield Disk(node.path, node.mode, node.found_in)
        yield from (self._memory[name] for name in self._persistent if name in self._memory)
        yield from self._variables

    def _use_nodes(self) -> None:
        """Say of every node whether it is written to: by its devices, or if none by anyone."""
        for name, node in self._graph.named.items():
            for writing in self._uses.get(name, ()):
                node.use(writing=writing)
                node.referenced = True
        for node in self._tops:
            if not node.referenced:
                node.use(writing=True)

    def refuse_configuration(self, path: str) -> None:
        """Refuse a configuration file that QEMU reads unasked, if it may name disks."""
        if any(option.name == "no-user-config" for option in self._options):
            return
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                if _CONFIG_SECTION.search(file.read()):
                    raise refusal(path, "it may name disks, and is not read", "add -no-user-config")
        except OSError:
            return

    def read_blockdev(self, option: Option) -> None:
        self._tops.append(self._graph.open(None, values(option, "driver"), str(option)))

    def read_drive(self, option: Option) -> None:
        given: dict[str, str] = {}
        for key, value in pairs(option.value or ""):
            known = {"readonly": "read-only", "format": "driver"}.get(key, key)
            if given.setdefault(known, value) != value:
                raise refusal(str(option), f"it gives {key} twice, with different values")
        self._add_drive(option, given)

    def read_file_option(self, option: Option) -> None:
        self._add_drive(option, {"file": option.value or ""})

    def read_cdrom(self, option: Option) -> None:
        self._add_drive(option, {"file": option.value or "", "media": "cdrom"})

    def _add_drive(self, option: Option, given: dict[str, str]) -> None:
        # With snapshot=on everything written goes to a temporary file over the image.
        snapshot = given.get("snapshot", "on" if self._snapshot else "off")
        read_only = is_on(given.get("read-only")) or given.get("media") == "cdrom"
        # Said either way, since it goes before what a json: file name says.
        given["read-only"] = "on" if read_only or is_on(snapshot) else "off"
        filename = given.pop("file", "") or None
        if filename is None and "driver" not in given and not below(given, "file"):
            return  # a drive without a medium
        node = self._graph.open(filename, given, str(option))
        self._tops.append(node)
        if "id" in given:
            self._graph.named[given["id"]] = node

    def read_device(self, option: Option) -> None:
        given = values(option, "driver")
        driver = str(given.get("driver", ""))
        if driver.startswith(outside.DEVICES) and not self._allow_outside:
            raise outside.refused(str(option))
        if "drive" in given:
            writing = not (is_on(given.get("share-rw")) or driver.endswith("-cd"))
            self._uses.setdefault(str(given["drive"]), []).append(writing)
        if driver.startswith(PERSISTENT_MEMORY):
            self._persistent += [str(given[key]) for key in PERSISTENT_KEYS if key in given]
        if driver.startswith("uefi-vars") and "jsonfile" in given:
            path = self._located(str(given["jsonfile"]))
            self._variables.append(Disk(path, Mode.EXCLUSIVE, str(option)))

    def read_object(self, option: Option) -> None:
        given = values(option, "qom-type")
        path = given.get("mem-path")
        if given.get("qom-type") == "memory-backend-file" and isinstance(path, str):
            writing = is_on(given.get("share")) and not is_on(given.get("readonly"))
            mode = Mode.EXCLUSIVE if writing else Mode.SHARED
            self._memory[str(given.get("id"))] = Disk(self._located(path), mode, str(option))

    def read_add_fd(self, option: Option) -> None:
        given = values(option)
        fd, name = str(given.get("fd")), str(given.get("set"))
        if fd.isdecimal() and fd.isascii():
            self._descriptors.setdefault(name, []).append(int(fd))

    def read_set(self, option: Option) -> None:
        group, _, rest = (option.value or "").partition(".")
        key = rest.partition("=")[0].partition(".")[2]
        if group == "drive" or key in CHANGING_DISKS:
            raise refusal(str(option), "it changes a disk", "write it into the option itself")

    def read_global(self, option: Option) -> None:
        given = option.value or ""
        key = given.partition("=")[0].partition(".")[2] or dict(pairs(given)).get("property")
        if key in CHANGING_DISKS:
            raise refusal(str(option), "it changes a disk", "write it into the device's own option")

    def read_machine(self, option: Option) -> None:
        for key, name in values(option, "type").items():
            if key.startswith("pflash"):
                self._uses.setdefault(str(name), []).append(True)

    def read_readconfig(self, option: Option) -> None:
        raise refusal(str(option), "files of options are not read")

    def read_xen(self, option: Option) -> None:
        raise refusal(str(option), "Xen's own store may name disks, and is not read")

    def _located(self, name: str) -> str:
        """Return the absolute path of a file name, or of what a descriptor's name stands for."""
        one, several = _DESCRIPTOR.fullmatch(name), _DESCRIPTOR_SET.fullmatch(name)
        if several:
            paths = {_opened(fd, name) for fd in self._descriptors.get(several.group(1), ())}
            if len(paths) != 1:
                raise refusal(name, f"-add-fd gives that set {len(paths)} files, not one")
            return paths.pop()
        return _opened(int(one.group(1)), name) if one else os.path.join(self._cwd, name)


def _opened(fd: int, name: str) -> str:
    """Return the path of what we inherited as `fd`, which QEMU will inherit too."""
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
    except OSError as error:
        raise refusal(name, f"descriptor {fd} is not open", "pass it on") from error
    try:
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            return path
    except OSError:
        pass  # no file has that name
    raise refusal(name, f"descriptor {fd} is {path}, which no file is called")


_READERS = {
    **dict.fromkeys(FILE_OPTIONS, _Machine.read_file_option),
    "add-fd": _Machine.read_add_fd,
    "blockdev": _Machine.read_blockdev,
    "cdrom": _Machine.read_cdrom,
    "device": _Machine.read_device,
    "drive": _Machine.read_drive,
    "global": _Machine.read_global,
    "object": _Machine.read_object,
    "readconfig": _Machine.read_readconfig,
    "set": _Machine.read_set,
    "xen-domid": _Machine.read_xen,
    **dict.fromkeys(("M", "machine"), _Machine.read_machine),
}
_DRIVES = {*FILE_OPTIONS, "cdrom", "drive"}
