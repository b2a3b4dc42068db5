"""Which files do the devices of a libvirt domain open, and how must each be leased?

Each becomes a block node, so that modes and backing chains are told by the same rules as for
QEMU's own arguments. It must not know how the XML is read.
"""

from __future__ import annotations

from urllib.parse import quote

from lockplugins.contract import Mode
from supervisor.discovery import outside
from supervisor.discovery.blockdev import DEEPEST, Graph
from supervisor.discovery.disk import Disk
from supervisor.discovery.disks import discover
from supervisor.discovery.errors import refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

    from supervisor.discovery.options import Values

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"

# Where <source> names a file, by the type of the disk; and why other types have no lease.
FILES = {"file": "file", "block": "dev"}
NETWORK = "network"
NO_FILE = {
    "dir": "a directory cannot be leased",
    "nvme": "QEMU drives a PCI device by itself, which has no name to lease",
    "volume": "a volume of a storage pool, whose path only libvirt knows",
}
OUTSIDE_DISKS = ("vhostuser", "vhostvdpa")
OUTSIDE_HOST_DEVICES = ("mdev", "pci", "scsi_host")
REMOVABLE = ("cdrom", "floppy")
PERSISTENT_MEMORY = ("nvdimm", "virtio-pmem")


def found_disks(domain: Element, *, allow_outside: bool) -> Iterator[Disk]:
    """Yield the files of a domain's disks and flash memory, and what their images refer to."""
    return _Disks(domain, allow_outside=allow_outside).found()


class _Disks:
    """The disks of a domain, as nodes of QEMU's own kind."""

    def __init__(self, root: Element, *, allow_outside: bool) -> None:
        self._root = root
        self._allow_outside = allow_outside
        self._graph = Graph(lambda path: path, allow_outside=allow_outside)

    def found(self) -> Iterator[Disk]:
        for name, disk in self._targets().items():
            self._add_disk(disk, f"domain XML disk {name}")
        for device in self._root.iterfind("devices/hostdev"):
            self._refuse_host_device(device)
        self._add_firmware()
        for node in self._graph.nodes:
            if node.path is not None:
                yield Disk(node.path, node.mode, node.found_in)
        yield from self._persistent_memory()
        passed = self._root.iterfind(f"{QEMU}commandline/{QEMU}arg")
        argv = ["qemu", "-no-user-config", *(argument.get("value", "") for argument in passed)]
        yield from discover(argv, "/", allow_outside=self._allow_outside)

    def _targets(self) -> dict[str, Element]:
        targets: dict[str, Element] = {}
        for disk in self._root.iterfind("devices/disk"):
            target = disk.find("target")
            name = "" if target is None else target.get("dev", "")
            if not name or name in targets:
                reason = "another has the same target" if name else "it has no target"
                raise refusal(f"domain XML disk {name}".rstrip(), reason)
            targets[name] = disk
        return targets

    def _add_disk(self, disk: Element, found_in: str) -> None:
        kind, source = disk.get("type", "file"), disk.find("source")
        if kind in OUTSIDE_DISKS:
            self._refuse_outside(found_in)
            return
        empty = source is None or (kind in FILES and not source.get(FILES[kind]))
        if empty and disk.get("device") in REMOVABLE:
            return
        transient = disk.find("transient")
        shared_backing = transient is not None and transient.get("shareBacking") == "yes"
        read_only = disk.get("device") == "cdrom" or disk.find("readonly") is not None
        options = _chain(disk, found_in)
        node = self._graph.open(None, options, found_in, read_only=read_only or shared_backing)
        node.use(writing=disk.find("shareable") is None)

    def _refuse_host_device(self, device: Element) -> None:
        kind = device.get("type", "")
        if kind in OUTSIDE_HOST_DEVICES:
            self._refuse_outside(f"domain XML hostdev {kind}")
        elif kind != "usb":
            reason = "a device of the host by its address, which has no name to lease"
            raise refusal(f"domain XML hostdev {kind}", reason)

    def _refuse_outside(self, found_in: str) -> None:
        if not self._allow_outside:
            raise outside.refused(found_in)

    def _add_firmware(self) -> None:
        """Add what is flash memory to the guest: its firmware, and the firmware's variables."""
        system = self._root.find("os")
        if system is None:
            return
        loader = system.find("loader")
        given, path = ({}, "") if loader is None else (loader.attrib, loader.text)
        flash, read_only = given.get("type") == "pflash", given.get("readonly") == "yes"
        if not path and (flash or system.get("firmware") == "efi"):
            raise refusal("domain XML loader", "libvirt chooses it when the guest starts")
        if loader is not None and flash:
            self._add_flash(loader, read_only=read_only)
        stores = [e for tag in ("nvram", "varstore") for e in system.iterfind(tag)]
        for store in stores:
            self._add_flash(store, read_only=False)
        if flash and read_only and not stores and given.get("stateless") != "yes":
            raise refusal("domain XML nvram", "libvirt chooses it when it defines the guest")

    def _add_flash(self, element: Element, *, read_only: bool) -> None:
        found_in = f"domain XML {element.tag}"
        image_format = element.get("format", "raw")
        path = element.get("path") or element.text
        if path and element.find("source") is None:
            options = _named(path, image_format, found_in)
        else:
            options = _image(element, image_format, found_in)
        self._graph.open(None, options, found_in, read_only=read_only).use(writing=True)

    def _persistent_memory(self) -> Iterator[Disk]:
        """Yield the files of memory whose content outlives the guest; a private one is copied."""
        places = (("cpu/numa/cell", "memAccess"), ("memoryBacking/access", "mode"))
        said = {e.get(key) for path, key in places for e in self._root.iterfind(path)}
        for memory in self._root.iterfind("devices/memory"):
            model, path = memory.get("model", ""), memory.findtext("source/path", "")
            if model not in PERSISTENT_MEMORY:
                continue
            found_in = f"domain XML memory {model}"
            _check_absolute(path, found_in)
            shared = memory.get("access", "shared" if "shared" in said else "") == "shared"
            writing = (shared or model != "nvdimm") and memory.find("target/readonly") is None
            mode = Mode.EXCLUSIVE if writing else Mode.SHARED
            yield Disk(path, mode, found_in)


def _chain(disk: Element, found_in: str) -> Values:
    """Return what QEMU is told of a disk's image, and of the images behind it as far as known."""
    driver = disk.find("driver")
    # Without a type it is raw to libvirt: a guest could write any header into it.
    image_format = "raw" if driver is None else driver.get("type", "raw")
    options: Values = {}
    element, prefix = disk, ""
    for _ in range(DEEPEST):
        image = _image(element, image_format, found_in)
        options.update({f"{prefix}{key}": value for key, value in image.items()})
        backing = element.find("backingStore")
        if backing is None:  # its header knows
            return options
        if not len(backing):
            options[f"{prefix}backing"] = None
            return options
        prefix += "backing."
        image_format = _format(backing, found_in)
        element = backing
    raise refusal(found_in, f"more than {DEEPEST} images in one chain")


def _format(element: Element, found_in: str) -> str:
    form = element.find("format")
    if form is None or not form.get("type"):
        raise refusal(found_in, f"a <{element.tag}> without a format")
    return form.get("type", "")


def _image(element: Element, image_format: str, found_in: str) -> Values:
    """Return what QEMU is told of the one image that `element` names."""
    kind, source = element.get("type", "file"), element.find("source")
    if kind not in FILES and kind != NETWORK:
        raise refusal(found_in, NO_FILE.get(kind, f"disks of type {kind} are not known"))
    if source is None:
        raise refusal(found_in, f"its <{element.tag}> names no source")
    if kind == NETWORK:
        options = _of_network(source, image_format, found_in)
    else:
        options = _named(source.get(FILES[kind], ""), image_format, found_in)
    slice_ = source.find("slices/slice")
    if slice_ is not None:
        offset = slice_.get("offset", "0")
        below = {f"file.{key}": value for key, value in options.items() if key != "driver"}
        options = {"driver": image_format, "file.driver": "raw", "file.offset": offset, **below}
    data = source.find("dataStore")
    if data is not None:
        given = _image(data, _format(data, found_in), found_in)
        options.update({f"data-file.{key}": value for key, value in given.items()})
    return options


def _of_network(source: Element, image_format: str, found_in: str) -> Values:
    """Return what QEMU is told of an image whose server the source names."""
    protocol, name = source.get("protocol", ""), source.get("name", "")
    host, snapshot = source.find("host"), source.find("snapshot")
    if protocol == "rbd":
        uri = f"rbd:{name}" if snapshot is None else f"rbd:{name}@{snapshot.get('name')}"
    elif host is None:
        raise refusal(found_in, "its <source> names no host")
    elif host.get("transport") == "unix":
        uri = f"{protocol}+unix:///{quote(name)}?socket={host.get('socket')}"
    else:
        server = ":".join(filter(None, (host.get("name", ""), host.get("port"))))
        lun = "/0" if protocol == "iscsi" and "/" not in name else ""
        uri = f"{protocol}://{server}/{quote(name)}{lun}"
    return {"driver": image_format, "file.driver": protocol, "file.filename": uri}


def _named(path: str, image_format: str, found_in: str) -> Values:
    _check_absolute(path, found_in)
    return {"driver": image_format, "file.driver": "file", "file.filename": path}


def _check_absolute(path: str, found_in: str) -> None:
    if not path.startswith("/"):
        raise refusal(found_in, f"its file name is not absolute ({path})")
