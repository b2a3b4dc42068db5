"""What do the guests' files say to who only reads them? The other side of rundir's `publish`.

Reads as if it had not been there: no access time moves where the kernel lets
us ask for that, nothing waits for a FIFO. It must not change anything, nor
know who is alive.
"""

from __future__ import annotations

import json
import os
import stat

from lockplugins.contract import fsdecode
from supervisor import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST = 1 << 24  # a stranger's file may be endless
_UNASKED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def directories(base: str) -> Iterator[str]:
    """Yield the runtime directories under `base`, living and dead; raises RundirError."""
    try:
        fd = _open_untraced(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            names = sorted(os.listdir(fd))
        finally:
            os.close(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise rundir.failed("read", f"runtime directory {base}", error) from error
    for name in names:
        path = f"{base}/{name}"
        if rundir.is_dir(path):
            yield path


def read_guest(path: str) -> dict[str, object] | None:
    """Return the guest.json of the runtime directory `path`; None when there is none (yet)."""
    # Where `publish` has it, at any instant.
    for name in (rundir.GUEST_JSON, rundir.UNPUBLISHED, rundir.GUEST_JSON):
        try:
            if isinstance(guest := json.loads(_read(f"{path}/{name}")), dict):
                return guest
        except (OSError, ValueError, RecursionError):
            continue
    return None


def _read(path: str) -> str:
    fd = _open_untraced(path, _UNASKED)
    with open(fd, "rb") as file:
        return fsdecode(file.read(_LONGEST)) if stat.S_ISREG(os.fstat(fd).st_mode) else ""


def _open_untraced(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # O_NOATIME is the owner's
        return os.open(path, flags)
