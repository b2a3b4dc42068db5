"""Which resources of sanlock stand for a disk or an explicit lease, and where are they?

For a disk, libvirt's: the MD5 of its path as given, and of its realpath if that
differs; an explicit lease's as it is. Touches nothing. It must not know who
holds what.
"""

from __future__ import annotations

import os
import stat
from errno import ENOENT

from lockplugins.contract import ResourceError, ResourceType, UnsupportedError, cause
from lockplugins.sanlock import library
from lockplugins.sanlock.settings import LOCKSPACE, PARTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from lockplugins.contract import Resource
    from lockplugins.sanlock.settings import Settings

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


class Place:
    """One resource: its names, by which sanlock knows it; where it is; is it made when missing?"""

    __slots__ = ("is_made", "key", "offset_bytes", "path")

    def __init__(
        self, key: tuple[str, str], path: str, offset_bytes: int = 0, *, is_made: bool = False
    ) -> None:
        self.key = key
        self.path = path
        self.offset_bytes = offset_bytes
        self.is_made = is_made

    def resource(self, flags: int = 0, version: int = 0) -> library.Resource:
        """Return it as the library wants it."""
        disk = library.Disk(os.fsencode(self.path), self.offset_bytes)
        return library.Resource(*map(os.fsencode, self.key), version, 0, 0, 0, flags, 1, disk)


class Located:
    """What stands for one resource; `identity` is the same for every name of one disk."""

    __slots__ = ("identity", "places", "resource")

    def __init__(self, resource: Resource, identity: Hashable, places: list[Place]) -> None:
        self.resource = resource
        self.identity = identity
        self.places = places


def own_place(name: str, file: str, settings: Settings) -> Place:
    """Return a resource that stands for no disk, in the file of another name."""
    return Place((LOCKSPACE, md5(name)), settings.path_of(md5(file)), is_made=True)


def called(resource: Resource) -> str:
    """Return what errors call the resource."""
    if resource.type == ResourceType.LEASE:
        return f"resource {resource.lockspace}:{resource.key}"
    return f"{resource.type} {resource.path}"


def locate(resource: Resource, settings: Settings) -> Located:
    """Return the resources that stand for `resource`; raises ResourceError, UnsupportedError."""
    if resource.type == ResourceType.DISK:
        return _disk(resource, settings)
    if resource.type == ResourceType.LEASE:
        place = _explicit(resource)
        return Located(resource, place.key, [place])
    why, advice = "plugin sanlock leases disks", "use vm+sanlock"
    raise UnsupportedError("lease", called(resource), why, advice)


def _disk(resource: Resource, settings: Settings) -> Located:
    path = resource.path
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        encoded = b""
    if not encoded.startswith(b"/") or b"\0" in encoded:
        why, advice = f"'{path}' is not an absolute path", "give one that begins with /"
        raise ResourceError("lease", called(resource), why, advice)
    try:
        status = os.stat(path)
        names = [path, os.path.realpath(path, strict=True)]
    except OSError as error:
        advice = "is its name right, its filesystem mounted?" if error.errno == ENOENT else ""
        raise ResourceError("open", called(resource), cause(error), advice) from error
    identity: Hashable = (status.st_dev, status.st_ino)
    if stat.S_ISBLK(status.st_mode):
        # Its realpath, /dev/sdb or so, may be another device on another host; so may its numbers.
        numbers = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        identity = numbers
        names = [path, f"{numbers} of host_id {settings.host_id}"]
    elif not stat.S_ISREG(status.st_mode):
        kind = next((word for is_it, word in _KINDS if is_it(status.st_mode)), "of an unknown kind")
        advice = "only regular files and block devices can be leased"
        raise ResourceError("lease", called(resource), f"it is {kind}", advice)
    return Located(resource, identity, [_place(name, settings) for name in dict.fromkeys(names)])


def _place(name: str, settings: Settings) -> Place:
    return own_place(name, name, settings)


def _explicit(resource: Resource) -> Place:
    """Return the lease that is named in full, if sanlock can be told of it."""
    lockspace, key, path = resource.lockspace or "", resource.key or "", resource.path
    most, most_of_path = library.NAME_BYTES, library.PATH_BYTES
    for word, longest in ((lockspace, most), (key, most), (path, most_of_path)):
        if not 0 < len(os.fsencode(word)) <= longest or PARTING & set(word):
            why = f"'{word}' is empty, longer than {longest} bytes, or has a blank, : or \\ in it"
            advice = "give LOCKSPACE:KEY:PATH[:OFFSET]"
            raise ResourceError("lease", called(resource), why, advice)
    return Place((lockspace, key), path, resource.offset_bytes)


def md5(name: str) -> str:
    """Return what libvirt's sanlock driver makes of a name."""
    # Not hashlib, which loads OpenSSL.
    from _md5 import md5  # type: ignore[import-not-found]  # typeshed has no stub

    return str(md5(os.fsencode(name)).hexdigest())
