"""What is a disk to lease, and what does `--disk` say of one? Knows neither QEMU nor images."""

from __future__ import annotations

import os

from lockplugins.contract import Mode
from supervisor.discovery.drivers import is_network
from supervisor.discovery.errors import DiscoveryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Disk:
    """A disk to lease: its path, the lease's mode, and the argument that named it.

    The path is absolute, or else the name of a network disk, as QEMU takes it.
    """

    __slots__ = ("copied", "found_in", "identity", "mode", "path")

    def __init__(self, path: str, mode: str, found_in: str) -> None:
        self.path = path
        self.mode = mode
        self.found_in = found_in
        self.identity: str | None = None
        self.copied = False


def strongest(disks: Iterable[Disk]) -> list[Disk]:
    """Return each path's disk once, in the strongest mode that was found."""
    found: dict[str, Disk] = {}
    for disk in disks:
        known = found.get(disk.path)
        if known is None or (known.mode, disk.mode) == (Mode.SHARED, Mode.EXCLUSIVE):
            found[disk.path] = disk
    return list(found.values())


def named(path: str, cwd: str) -> str:
    """Return the absolute path of a file; a network disk's name is left as it is."""
    return path if is_network(path) else os.path.join(cwd, path)


def parse_disk_option(text: str, cwd: str) -> Disk:
    """Return the disk of `--disk PATH[,OPTION…]`.

    Options are read from the right as long as they are options; `exclusive`
    ends the reading, so that a PATH may end like one.
    """
    argument = f"--disk {text}"
    path, options = text, dict[str, str]()
    while options.get("mode") != Mode.EXCLUSIVE:
        rest, comma, word = path.rpartition(",")
        kind = _kind(word)
        if not comma or not kind or kind in options:
            break
        path, options[kind] = rest, word
    mode = Mode.EXCLUSIVE if options.get("mode", Mode.EXCLUSIVE) == Mode.EXCLUSIVE else Mode.SHARED
    if not path:
        raise DiscoveryError("read", argument, "the path is empty", "begin with the path")
    if options.get("id") == "id=":
        raise DiscoveryError("read", argument, "the identity after id= is empty", "give one")
    if "copied" in options and mode == Mode.SHARED:
        reason = f"a copied disk cannot be {options['mode']}"
        raise DiscoveryError("read", argument, reason, "leave out one of the two")
    disk = Disk(named(path, cwd), mode, argument)
    disk.identity = options["id"].removeprefix("id=") if "id" in options else None
    disk.copied = "copied" in options
    return disk


def _kind(word: str) -> str:
    """Return which option of `--disk` a word is, empty if none."""
    if word in {*Mode.ALL, "readonly"}:
        return "mode"
    return "id" if word.startswith("id=") else "copied" * (word == "copied")
