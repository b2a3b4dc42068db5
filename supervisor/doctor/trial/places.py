"""Are the runtime directory, and what the plugin keeps its leases in, fit for it?

What hangs here hangs alone: each place is a process's only business. It must
not know what a plugin looks at.
"""

from __future__ import annotations

import os
import stat

from lockplugins import registry
from lockplugins.contract import cause
from lockplugins.kernel_locks import exclusion, places, reach
from supervisor.doctor.names import Name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lockplugins.contract import Finding
    from supervisor.spec import GuestSpec

_BYTES, _INODES = 1 << 20, 64
_OTHERS = 0o022
_IN_MEMORY = ("ramfs", "tmpfs")


def plugin(guest: GuestSpec, _command: list[str]) -> Iterable[Finding]:
    """Have the plugin speak: of the guest's one resource, or of its lock manager."""
    loaded = registry.load(guest.plugin, guest.config, None, guest.classes)
    if guest.resources:
        return loaded.examine(guest.resources[0])
    words = f"{loaded.name} can do: {' '.join(loaded.capabilities) or 'nothing'}"
    return [(Name.PLUGIN, True, words, ""), *loaded.examine(None)]


def runtime_dir(guest: GuestSpec, _command: list[str]) -> Iterator[Finding]:
    base = guest.runtime_dir
    try:
        at, place = places.nearest(base)
        yield _directory(base, at, place)
    except OSError as error:
        yield Name.RUNTIME_DIR, False, cause(error, base), "give another with --runtime-dir"
        return
    yield from (found for found in places.of_directory(base) if found[0] == exclusion.NAME)


def _directory(base: str, at: str, place: str) -> Finding:
    status, room = os.stat(at), os.statvfs(at)
    fd = os.open(at, os.O_PATH | os.O_CLOEXEC)
    try:
        mount = reach.mount_of(fd)
    finally:
        os.close(fd)
    kind = mount.type if mount else "a filesystem out of our sight"
    free = room.f_bavail * room.f_frsize
    words = f"{place} on {kind}, mode {stat.S_IMODE(status.st_mode):04o}, {free >> 10} KiB free"
    why, mend = _weakness(base, at, status)
    if not why and (free < _BYTES or (room.f_files and room.f_favail < _INODES)):
        why, mend = f"{room.f_favail} files more, too little for guests", "make room there"
    if not why and mount and mount.kind in reach.REMOTE:
        why, mend = "it hangs with the network", "choose one on a tmpfs with --runtime-dir"
    if why:
        return Name.RUNTIME_DIR, False, f"{words}: {why}", mend
    if kind not in _IN_MEMORY:
        words += "; a disk that hangs would hang status and new starts, not guests"
    return Name.RUNTIME_DIR, True, words, ""


def _weakness(base: str, at: str, status: os.stat_result) -> tuple[str, str]:
    if not stat.S_ISDIR(status.st_mode):
        return "it is no directory", "give another with --runtime-dir"
    if not os.access(at, os.W_OK | os.X_OK):
        return "we may not write there", "give another with --runtime-dir"
    if at == base and status.st_uid != os.geteuid():
        return (
            f"it belongs to user {status.st_uid}, who can replace it",
            "give it to us, or another",
        )
    if at == base and status.st_mode & _OTHERS and not status.st_mode & stat.S_ISVTX:
        return "others may write there", f"chmod go-w {base}"
    return "", ""
