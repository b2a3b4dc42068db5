"""How does a lease file come to be? Whole and under its own name, or not at all. Which is it?

It is made under another name, and linked when sanlock has formatted it: who is
killed in between, or finds the disk full, leaves nothing that others would take
for a lease; and of several who make one at once, one is first. It must not know
what is in the file.
"""

from __future__ import annotations

import os
import stat

from lockplugins.contract import ResourceError, cause
from lockplugins.sanlock import library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lockplugins.sanlock.settings import Settings


def identity(path: str) -> tuple[int, int]:
    """Return which file, or device, a path leads to; no I/O where the name is in memory."""
    found = os.stat(path)
    return (found.st_rdev, 0) if stat.S_ISBLK(found.st_mode) else (found.st_dev, found.st_ino)


def create(path: str, settings: Settings, flags: int, form: Callable[[bytes], None]) -> None:
    """Make the file, unless it is there by then; `form` is given the path to be formatted.

    Raises ResourceError, and what `form` raises, with nothing left behind.
    """
    being_made = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    try:
        fd = os.open(being_made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchown(fd, settings.uid, settings.gid)
            os.fchmod(fd, settings.mode)
            os.posix_fallocate(fd, 0, library.bytes_of(flags))
            form(os.fsencode(being_made))
            os.link(being_made, path)
        finally:
            os.unlink(being_made)
            os.close(fd)
    except FileExistsError:
        pass  # somebody was first: it is theirs that all use
    except OSError as error:
        advice = "has its filesystem room, and may we write there?"
        raise ResourceError("create", f"lease file {path}", cause(error), advice) from error
