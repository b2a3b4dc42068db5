"""How is this host a member of libvirt's lockspace? Made when missing, joined by its host_id.

Whoever comes first makes it, whoever comes first on a host joins it, and others
do at the same moment: libvirt's sanlock driver, too. It must not know guests or
disks.
"""

from __future__ import annotations

import os
import select
import stat
import time
from errno import EAGAIN, EEXIST, EINPROGRESS, EINVAL, EMSGSIZE, ENODEV, ENOENT

from lockplugins.contract import LockError, ResourceError
from lockplugins.sanlock import files, status
from lockplugins.sanlock.library import CODES, LARGE, SMALL, Disk, Lockspace, SanlockError, named
from lockplugins.sanlock.settings import LOCKSPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.sanlock.claims import Claim
    from lockplugins.sanlock.library import Library
    from lockplugins.sanlock.names import Place
    from lockplugins.sanlock.settings import Settings

HALF_MADE_S = 10.0  # how long libvirt, which makes it in place, may take

_LOOK_MS = 200
_HALF_MADE = (-EMSGSIZE, CODES["SANLK_LEADER_MAGIC"])
_UNDECIDED = (-EINPROGRESS, -EAGAIN)
_IN_IT = (-EEXIST, -EINVAL)  # as asked; under another host_id, or another name of the path
_NO_LOCKSPACE = ("that is no lockspace, or not any more", "if no host uses it, remove it")
_WORDS = {
    -EMSGSIZE: _NO_LOCKSPACE,
    CODES["SANLK_LEADER_MAGIC"]: _NO_LOCKSPACE,
    CODES["SANLK_LEADER_CHECKSUM"]: _NO_LOCKSPACE,
    CODES["SANLK_LEADER_LOCKSPACE"]: (
        "that is another lockspace",
        "give it a directory of its own",
    ),
    CODES["SANLK_HOSTID_BUSY"]: ("another host uses this host_id", "give every host its own"),
    CODES["SANLK_ADDLS_INVALID_HOSTID"]: ("there is no room for this host_id", "use a lower one"),
    CODES["SANLK_WD_ERROR"]: ("the daemon has no watchdog", "start wdmd, or see its option -w 0"),
    -ENODEV: ("the daemon cannot open it", "name its user and group in [sanlock]"),
}


class ParentError(LockError):
    """There is no directory for the lockspace: said in libvirt's words, which scripts know."""

    def __str__(self) -> str:
        """Return them alone."""
        return f"Unable to create lockspace {self.name}: {self.reason}"


def check_parent(settings: Settings) -> None:
    """Raise ParentError if there is neither a lockspace nor a directory for it."""
    path = settings.lockspace_path
    try:
        is_there = stat.S_ISDIR(os.stat(os.path.dirname(path)).st_mode)
    except OSError:
        is_there = False
    if not (is_there or os.path.lexists(path)):
        reason = "parent directory does not exist or is not a directory"
        raise ParentError("create", path, reason)


def create(library: Library, settings: Settings) -> None:
    """Make the lockspace's file if there is none; raises LockError, SanlockError."""
    path = settings.lockspace_path
    if os.path.lexists(path):
        return
    check_parent(settings)
    for flags in (SMALL, LARGE):

        def form(being_made: bytes, flags: int = flags) -> None:
            library.write_lockspace(_lockspace(being_made, 0, flags), settings.io_timeout_s)

        try:
            files.create(path, settings, flags, form)
            break
        except SanlockError as error:
            if error.code != -EINVAL or flags == LARGE:  # else: not 512 bytes at a time here
                raise


def join(library: Library, settings: Settings) -> status.Membership:
    """Be in the lockspace, which is made if it is missing; raises LockError.

    Takes three io_timeouts, and minutes if whoever had the host_id last did not give it up.
    """
    try:
        create(library, settings)
        _add(library, settings)
    except SanlockError as error:
        name = f"lockspace {settings.lockspace_path} as host_id {settings.host_id}"
        raise _refused("join", name, error) from error
    return membership(settings)


def _add(library: Library, settings: Settings) -> None:
    """Return when this host is in the lockspace, by whomever; raises SanlockError."""
    wanted = _lockspace(settings.lockspace_path, settings.host_id)
    deadline = time.monotonic() + HALF_MADE_S
    while True:
        try:
            library.add_lockspace(wanted, settings.io_timeout_s)
            break
        except SanlockError as error:
            if error.code in _IN_IT:
                break
            if error.code in _UNDECIDED:
                _await(library, wanted)
            elif error.code in _HALF_MADE and time.monotonic() < deadline:
                select.poll().poll(_LOOK_MS)
            else:
                raise


def _await(library: Library, wanted: Lockspace) -> None:
    """Return when another's joining, or leaving, has come to its end."""
    try:
        library.inquire_lockspace(wanted)
    except SanlockError as error:
        if error.code != -ENOENT:
            raise


def membership(settings: Settings) -> status.Membership:
    """Return how this host is in the lockspace; raises LockError unless that is as configured."""
    name = f"lockspace {settings.lockspace_path}"
    spaces = status.read(resources=False).lockspaces
    found = next((each for each in spaces if each.name == LOCKSPACE), None)
    if found is None:
        raise LockError("be in", name, "this host has just left it", "see the daemon's log")
    if found.host_id != settings.host_id or not _is_same(found.path, settings.lockspace_path):
        why = f"this host is in it as host_id {found.host_id}, at {found.path}"
        raise LockError("be in", name, why, "configure libvirt and this alike")
    if found.is_ending:
        reason = "it has failed, or is being left: sanlock is ending what uses it"
        raise LockError("be in", name, reason, "try again; see the daemon's log")
    return found


def create_resources(library: Library, settings: Settings, claims: Sequence[Claim]) -> None:
    """Make the files of those that are disks' and are missing; raises LockError."""
    missing = [
        claim.place
        for claim in claims
        if claim.place.is_made and not os.path.lexists(claim.place.path)
    ]
    if not missing:
        return
    lockspace = _lockspace(settings.lockspace_path)
    try:
        library.read_lockspace(lockspace)
        flags = int(lockspace.flags)  # as large as the lockspace's own
        for place in missing:

            def form(being_made: bytes, place: Place = place) -> None:
                what = place.resource(flags)
                what.disk.path = being_made
                library.write_resource(what)

            files.create(place.path, settings, flags, form)
    except SanlockError as error:
        raise _refused("create", f"leases in {settings.directory}", error) from error


def _lockspace(path: str | bytes, host_id: int = 0, flags: int = 0) -> Lockspace:
    return Lockspace(LOCKSPACE.encode(), host_id, flags, Disk(os.fsencode(path)))


def _is_same(path: str, other: str) -> bool:
    try:
        return path == other or os.path.samefile(path, other)
    except OSError:
        return False


def _refused(verb: str, name: str, error: SanlockError) -> LockError:
    why, advice = _WORDS.get(error.code, ("sanlock refuses", "see the daemon's log"))
    return ResourceError(verb, name, f"{why}: {named(error.code)}", advice)
