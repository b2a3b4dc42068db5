"""Do libvirt's guests on this host hold leases that exclude ours? Reads libvirt's settings.

`key = "value"` files, in which libvirt's own parser allows little more. It
must not ask libvirt, which may not run.
"""

from __future__ import annotations

import os
import re

from lockplugins.contract import cause
from lockplugins.registry import JOIN
from supervisor.doctor.asking import Check
from supervisor.doctor.names import Name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTORY = "/etc/libvirt"
_QEMU, _LOCKD, _SANLOCK = "qemu.conf", "qemu-lockd.conf", "qemu-sanlock.conf"
_SETTING = re.compile(r"""^\s*(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)'|(\w+))""", re.MULTILINE)
_PLACE = "_lockspace_dir"  # how the keys end that say where locks are
# What has to be alike under sanlock, with libvirt's default, and what follows where it is not.
_ALIKE = (
    ("disk_lease_dir", "/var/lib/libvirt/sanlock", "neither sees the other"),
    ("host_id", "0", "whoever comes second is refused"),
)
_RESTART = "and restart libvirtd"
# Ours lock the image besides.
_ON_IMAGES = "they see each other's locks on images, which for a block device end with this host"


def beside(
    plugins: str,
    config: Mapping[str, Mapping[str, str]],
    directory: str = DIRECTORY,
    ours: str | None = None,
) -> Check:
    """Compare libvirt's lock driver with our plugins and their tables."""
    try:
        if (settings := _read(f"{directory}/{_QEMU}")) is None:
            return Check(Name.LIBVIRT, True, f"not installed: there is no {directory}/{_QEMU}")
        lockd = _read(f"{directory}/{_LOCKD}") or {}
        sanlock = _read(f"{directory}/{_SANLOCK}") or {}
    except OSError as error:
        evidence = f"cannot be read: {cause(error, error.filename)}"
        return Check(Name.LIBVIRT, False, evidence, "ask as root")
    manager = settings.get("lock_manager", "nop")
    if manager == "lockd":
        return _lockd(plugins.split(JOIN), config.get("file", {}), lockd, directory, ours)
    if manager == "sanlock" and manager in plugins.split(JOIN):
        return _sanlock(config.get(manager, {}), sanlock, directory)
    if manager == "nop":
        evidence = f"lock_manager is not set in {directory}/{_QEMU}: libvirt's guests hold no lease"
        mend = f'set lock_manager = "lockd" there {_RESTART}, or make us the <emulator> of all'
        return Check(Name.LIBVIRT, False, evidence, mend)
    evidence = f'lock_manager = "{manager}", and we use {plugins}: neither sees the other'
    return Check(Name.LIBVIRT, False, evidence, f"use plugin {manager}, or lockd there {_RESTART}")


def _lockd(
    plugins: list[str],
    table: Mapping[str, str],
    lockd: Mapping[str, str],
    directory: str,
    ours: str | None,
) -> Check:
    words = 'lock_manager = "lockd"'
    if "file" not in plugins:
        evidence = f"{words}, and we do not use plugin file: neither sees the other"
        return Check(Name.LIBVIRT, False, evidence, "add plugin file")
    if lockd.get("auto_disk_leases") == "0":
        evidence = f"{words} with auto_disk_leases = 0: its guests hold no lease on their disks"
        mend = f"remove that from {directory}/{_LOCKD} {_RESTART}"
        return Check(Name.LIBVIRT, False, evidence, mend)
    places = sorted({key for key in (*lockd, *table) if key.endswith(_PLACE)})
    for key in places:
        if _same(lockd.get(key)) != _same(table.get(key)):
            here, there = table.get(key, "not set"), lockd.get(key, "not set")
            meet = "neither sees the other" if lockd.keys() & set(places) else _ON_IMAGES
            evidence = f"{words}, where {key} is {there}; ours is {here}: {meet}"
            file = ours or "our configuration file"
            wanted = f'set {key} = "{there}"' if key in lockd else f"remove {key}"
            return Check(Name.LIBVIRT, False, evidence, f"{wanted} in [file] of {file}")
    where = ", ".join(f"{key} {table[key]}" for key in places) or "the images"
    return Check(Name.LIBVIRT, True, f"{words}, with locks where ours are: {where}")


def _sanlock(table: Mapping[str, str], theirs: Mapping[str, str], directory: str) -> Check:
    words, file = 'lock_manager = "sanlock"', f"{directory}/{_SANLOCK}"
    if theirs.get("auto_disk_leases", "0") == "0":  # libvirt's default
        evidence = f"{words} without auto_disk_leases: its guests hold no lease on their disks"
        return Check(
            Name.LIBVIRT, False, evidence, f"set auto_disk_leases = 1 in {file} {_RESTART}"
        )
    for key, default, meet in _ALIKE:
        here, there = table.get(key, default), theirs.get(key, default)
        if _same(here) != _same(there):
            evidence = f"{words}, where {key} is {there}; ours is {here}: {meet}"
            return Check(Name.LIBVIRT, False, evidence, f"have {key} alike in [sanlock] and {file}")
    where = table.get("disk_lease_dir", _ALIKE[0][1])
    return Check(Name.LIBVIRT, True, f"{words}, with leases where ours are: {where}")


def _same(path: str | None) -> str | None:
    return path and os.path.normpath(path)


def _read(path: str) -> dict[str, str] | None:
    """Return the settings of a file, None where there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return {key: double or single or bare for key, double, single, bare in _SETTING.findall(text)}
