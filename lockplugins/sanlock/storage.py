"""Can a lockspace live in `disk_lease_dir`? Looked at and tried, without a trace.

It must not know the daemon, beyond as whom it opens files.
"""

from __future__ import annotations

import mmap
import os
import pwd
import stat
from errno import EINVAL, EOPNOTSUPP

from lockplugins.contract import LockError, cause
from lockplugins.kernel_locks.reach import mount_of
from lockplugins.sanlock import lockspace, record
from lockplugins.sanlock.settings import LOCKSPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.contract import Finding
    from lockplugins.sanlock.settings import Settings

FILE, DIRECT, SHARED = "lockspace", "direct io", "shared storage"

_FOR_ALL = ("ceph", "fuse.glusterfs", "gfs2", "gpfs", "lustre", "nfs", "nfs4", "ocfs2")
_UNTOLD = ("9p", "cifs", "fuse", "overlay", "smb3", "virtiofs")
_MOVE = "have disk_lease_dir on what all hosts mount: NFS, GFS2, OCFS2"
_READ, _WRITE = 0o4, 0o2


class User:
    """As whom the daemon opens files: by number, with the groups that this user is in."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gids = {gid}
        try:
            self.gids.update(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
        except KeyError:
            pass  # a number that nobody has

    def may_use(self, uid: int, gid: int, mode: int) -> bool:
        """May he read and write a file of that owner and mode?"""
        if self.uid == 0:
            return True
        shift = 6 if self.uid == uid else 3 if gid in self.gids else 0
        return mode >> shift & (_READ | _WRITE) == _READ | _WRITE


def of_file(settings: Settings, daemon: User | None) -> Finding:
    """Is the lockspace there, whole, and the daemon's to open? Or can it be made?"""
    path = settings.lockspace_path
    try:
        lockspace.check_parent(settings)
        found, first = os.stat(path), record.read(path, 0)
    except LockError as error:
        return FILE, False, f"{path}: {error.reason}", "mount it, or make the directory"
    except FileNotFoundError:
        return _to_be_made(settings, daemon)
    except OSError as error:
        return FILE, False, cause(error, path), "mend what the kernel says, or ask as root"
    words = (
        f"{path}, {found.st_size >> 10} KiB, {_owner(found.st_uid, found.st_gid, found.st_mode)}"
    )
    if why := _flaw(first, found.st_size):
        return FILE, False, f"{words}: {why}", "if no host uses it, remove it"
    return _as_daemon(words, daemon, (found.st_uid, found.st_gid, found.st_mode))


def _flaw(first: record.Record | None, size: int) -> str:
    """Return why it is not our lockspace, or nothing."""
    if first is None or first.is_lease or first.sector_bytes not in record.SECTORS:
        return "that is no lockspace"
    if first.lockspace != LOCKSPACE:
        return f"that is lockspace {first.lockspace}"
    return "" if size >= record.FILE_BYTES[first.sector_bytes] else "it has been truncated"


def _to_be_made(settings: Settings, daemon: User | None) -> Finding:
    uid = settings.uid if settings.uid >= 0 else os.geteuid()
    gid = settings.gid if settings.gid >= 0 else os.getegid()
    made = (uid, gid, settings.mode)
    words = f"{settings.lockspace_path} is made by the first guest, {_owner(*made)}"
    if not os.access(settings.directory, os.W_OK | os.X_OK):
        return FILE, False, f"{words}: we may not write there", "be who may, or make it by hand"
    return _as_daemon(words, daemon, made)


def _as_daemon(words: str, daemon: User | None, file: tuple[int, int, int]) -> Finding:
    if daemon and not daemon.may_use(*file):
        mend = "name the daemon's user and group in [sanlock], and chown what is there"
        return FILE, False, f"{words}: the daemon, user {daemon.uid}, cannot open that", mend
    return FILE, True, words, ""


def _owner(uid: int, gid: int, mode: int) -> str:
    return f"mode {stat.S_IMODE(mode):04o} of {uid}:{gid}"


def of_direct_io(settings: Settings) -> Finding:
    """Can blocks be read, or written to a file without a name, past the page cache?"""
    path, flags = settings.lockspace_path, os.O_RDONLY
    if not os.path.exists(path):
        path, flags = settings.directory, os.O_TMPFILE | os.O_RDWR
    try:
        fd = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
        try:
            unit = _unit(fd, writes=flags != os.O_RDONLY)
        finally:
            os.close(fd)
    except OSError as error:
        why, mend = cause(error, path), "have disk_lease_dir on a filesystem that can do it"
        if error.errno == EOPNOTSUPP:
            why, mend = f"not tried: {why}", "ask again when the first guest has made the lockspace"
        elif error.errno == EINVAL:
            why = f"the filesystem has none: {why}"
        return DIRECT, False, why, mend
    return DIRECT, True, f"{path}: blocks of {unit} bytes go past the page cache", ""


def _unit(fd: int, *, writes: bool) -> int:
    """Return the smaller of sanlock's block sizes that works; raises OSError."""
    call = os.pwritev if writes else os.preadv
    for size in record.SECTORS:
        with mmap.mmap(-1, size) as block:  # on a page's boundary
            try:
                call(fd, [block], 0)
            except OSError as error:
                if error.errno != EINVAL or size == record.SECTORS[-1]:
                    raise
            else:
                return size
    raise AssertionError


def of_filesystem(settings: Settings) -> Finding:
    """Do other hosts see the same leases?"""
    place = settings.directory
    try:
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        return SHARED, False, cause(error, place), "mount it, or make the directory"
    try:
        mount = mount_of(fd)
    finally:
        os.close(fd)
    if mount is None:
        why = f"{place}: its filesystem is not in our list of mounts"
        return SHARED, False, why, "ask outside the container"
    if mount.type in _FOR_ALL:
        return SHARED, True, f"{place}: {mount.type}, the same on every host that mounts it", ""
    if mount.kind in _UNTOLD:
        why = f"{place}: {mount.type}: whether other hosts have the same files cannot be told"
        return SHARED, False, why, _MOVE
    why = f"{place}: {mount.type}: this host's alone, so its guests exclude each other, no others"
    return SHARED, False, why, _MOVE
