"""What does doctor say of the plugin `file`? Of each file that a lease consists of, in turn.

Locks nothing that a guest or another lock manager locks, and creates no name.
"""

from __future__ import annotations

import os
import stat

from lockplugins.contract import LockError, Mode
from lockplugins.file import names
from lockplugins.kernel_locks import exclusion, reach
from lockplugins.kernel_locks.places import finding, of_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lockplugins.contract import Finding, Resource

PLACE = "place"
DEVICE = "device"
CHECKS = (PLACE, exclusion.NAME, reach.NAME, DEVICE)

_SYSFS = "/sys/dev/block"


def of_resource(resource: Resource, config: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found of the files of one resource."""
    try:
        located = names.locate(resource, config)
    except LockError as error:
        yield PLACE, False, error.reason, error.advice or "name a disk that is there"
        return
    try:
        files = list(
            {(found.stat.st_dev, found.stat.st_ino): found for found in located.found}.values()
        )
        places = [f"byte 0 of {found.path}" for found in files]
        places += [f"lock file {directory}/{name}" for directory, name in located.lock_files]
        yield PLACE, True, f"the lease is {', '.join(places)}", ""
        for found in files:
            writable = resource.mode == Mode.EXCLUSIVE
            place = "" if found.path == resource.path else found.path
            yield finding(exclusion.NAME, place, exclusion.of_file(found.fd, writable=writable))
            yield finding(reach.NAME, place, reach.of_file(found.fd))
        if stat.S_ISBLK(located.found[0].stat.st_mode):
            yield _of_device(located.found[0].stat.st_rdev)
    finally:
        located.close()


def of_lockspaces(config: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found of the configured lockspace directories."""
    for key in (names.FILES, names.VOLUMES, names.UNITS):
        if key in config:
            yield from of_directory(config[key])


def _of_device(device: int) -> Finding:
    """Which other devices and files are the same storage, with locks of their own?"""
    at = os.path.realpath(f"{_SYSFS}/{os.major(device)}:{os.minor(device)}")
    others = [f"the image {image}" for image in _lines(f"{at}/loop/backing_file")]
    if os.path.exists(f"{at}/partition"):
        others.append(f"the whole disk /dev/{os.path.basename(os.path.dirname(at))}")
    parts = [name for name in sorted(os.listdir(at)) if os.path.exists(f"{at}/{name}/partition")]
    others += [f"its partition /dev/{name}" for name in parts]
    if any(uuid.startswith("mpath-") for uuid in _lines(f"{at}/dm/uuid")):
        others += [f"its path /dev/{name}" for name in sorted(os.listdir(f"{at}/slaves"))]
    if others:
        why = f"the same storage has other names, with locks of their own: {', '.join(others)}"
        return DEVICE, False, why, "let no guest, and nothing else, use those"
    return DEVICE, True, "no other device or file is known to be the same storage", ""


def _lines(path: str) -> list[str]:
    """Return the lines of a file in sysfs, none if it is not there."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []
