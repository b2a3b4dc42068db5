"""What does doctor say of a directory that lock files are, or will be, kept in?

Locks nothing that anybody else locks, and creates no name.
"""

from __future__ import annotations

import os

from lockplugins.contract import cause
from lockplugins.kernel_locks import exclusion, reach

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockplugins.contract import Finding


def of_directory(path: str) -> Iterator[Finding]:
    """Yield what is found of a directory, or of the one that it will be made in."""
    place = path
    try:
        at, place = nearest(path)
        fd = os.open(at, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        yield exclusion.NAME, False, cause(error, place), "name a directory that we may enter"
        return
    yield finding(exclusion.NAME, place, exclusion.of_directory(at))
    try:
        yield finding(reach.NAME, place, reach.of_file(fd))
    finally:
        os.close(fd)


def nearest(path: str) -> tuple[str, str]:
    """Return the directory, or where it will be made, and that in words; raises OSError."""
    at = path
    while True:
        try:
            os.stat(at)
        except FileNotFoundError:
            at = os.path.dirname(at)
        else:
            return at, at if at == path else f"{path}, to be made in {at}"


def finding(check: str, place: str, found: tuple[bool, str, str]) -> Finding:
    """Return what was found, with the place that it was found in."""
    well, evidence, mend = found
    return check, well, f"{place}: {evidence}" if place else evidence, mend
