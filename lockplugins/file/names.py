"""Which files stand for a resource, and what does libvirt call them?

A disk is its image, for a block device also the kernel's own node, and in
each configured lockspace directory one lock file for each of its names, as
libvirt's lockd driver names it. Opens images as O_PATH only, which neither
blocks nor touches anything. It must not know locks. Imported on the launch
path (README, D2).
"""

import _stat
import posix
import sys
from errno import ENOENT

from lockplugins.contract import (
    LeaseUnknownError,
    ResourceError,
    ResourceType,
    UnsupportedError,
    cause,
)
from lockplugins.kernel_locks.lockfile import called

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lockplugins.contract import Resource

FILES = "file_lockspace_dir"
VOLUMES = "lvm_lockspace_dir"
UNITS = "scsi_lockspace_dir"

DIRECT = "direct"
_KINDS = {
    _stat.S_IFDIR: "a directory",
    _stat.S_IFCHR: "a character device",
    _stat.S_IFIFO: "a FIFO",
    _stat.S_IFSOCK: "a socket",
}


class Found:
    """A file that exists; owns `fd`, which is O_PATH."""

    __slots__ = ("fd", "path", "stat")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self.stat = posix.fstat(fd)


class Located:
    """Every file to lock for one resource, and the lock's name for people.

    `lock_files` are (directory, name), to be created. The caller closes it.
    """

    __slots__ = ("found", "lease", "lock_files", "lockspace")

    def __init__(self) -> None:
        self.found: list[Found] = []
        self.lock_files: list[tuple[str, str]] = []
        self.lockspace = DIRECT
        self.lease = ""

    def close(self) -> None:
        """Close what is still open."""
        while self.found:
            posix.close(self.found.pop().fd)


def locate(resource: "Resource", config: "Mapping[str, str]") -> Located:
    """Find the files of `resource`; raises ResourceError, UnsupportedError, LeaseUnknownError."""
    located = Located()
    try:
        if resource.type == ResourceType.DISK:
            _locate_disk(resource, config, located)
        elif resource.type == ResourceType.LEASE:
            _locate_lease(resource, located)
        else:
            advice = "use plugin vm with it"
            raise UnsupportedError("lease", called(resource), "plugin file leases disks", advice)
    except BaseException:
        located.close()
        raise
    return located


def _locate_disk(resource: "Resource", config: "Mapping[str, str]", located: Located) -> None:
    path = _usable(resource, resource.path)
    image = _find(resource, path, located)
    # Not realpath(3): this is the name of the very file that will be locked.
    names = [path, posix.readlink(f"/proc/self/fd/{image.fd}")]
    is_block = _stat.S_ISBLK(image.stat.st_mode)
    if is_block:
        names.append(_find_kernel_node(resource, image.stat.st_rdev, located).path)
    located.lease = path
    for name in dict.fromkeys(names):
        if (place := lock_file(name, config, is_block=is_block)) is None:
            continue
        if name == path:
            located.lockspace, located.lease = place
        if place not in located.lock_files:
            located.lock_files.append(place)
    if is_block and VOLUMES in config:
        _check_volume_named(resource, image.stat.st_rdev, config[VOLUMES], located)


def _check_volume_named(
    resource: "Resource", device: int, directory: str, located: Located
) -> None:
    """Raise LeaseUnknownError for a logical volume that `lvs` did not name.

    libvirt goes on to the next kind of name, which is right only for what is
    no volume: another host, or the next start, would lock another file.
    """
    from lockplugins.file.volumes import is_lvm

    if is_lvm(device) and all(place[0] != directory for place in located.lock_files):
        why = "the kernel says it is a logical volume, lvs does not name it"
        raise LeaseUnknownError("lease", called(resource), why, "see lvs and vgck")


def _locate_lease(resource: "Resource", located: Located) -> None:
    """Byte 0 of the existing PATH/LOCKSPACE/KEY, which must not lead elsewhere by its words."""
    name = called(resource)
    if resource.offset_bytes:
        why = f"offset {resource.offset_bytes}: plugin file locks byte 0 of the lease's file"
        raise UnsupportedError("lease", name, why, "give offset 0")
    lockspace, key = resource.lockspace or "", resource.key or ""
    for word in (lockspace, key):
        if word in {"", ".", ".."} or "/" in word:
            advice = "LOCKSPACE is a directory under PATH, KEY a file in it"
            raise ResourceError("lease", name, f"'{word}' is not a file's name", advice)
    if not resource.path:
        advice = f"say --lease {lockspace}:{key}:PATH, and there is PATH/{lockspace}/{key}"
        raise UnsupportedError(
            "lease", name, "plugin file leases files, and no PATH is given", advice
        )
    located.lockspace = f"{_usable(resource, resource.path)}/{lockspace}"
    located.lease = key
    found = _find(resource, _usable(resource, f"{located.lockspace}/{key}"), located)
    if not _stat.S_ISREG(found.stat.st_mode):
        raise ResourceError("lease", name, f"{found.path} is a device", "name a regular file")


def _usable(resource: "Resource", path: str) -> str:
    """Return `path` if a kernel can be asked for it: absolute, encodable, no NUL."""
    try:
        usable = _encoded(path).startswith(b"/") and "\0" not in path
    except UnicodeEncodeError:
        usable = False
    if not usable:
        why, advice = f"'{path}' is not an absolute path", "give one that begins with /"
        raise ResourceError("lease", called(resource), why, advice)
    return path


def _find(resource: "Resource", path: str, located: Located) -> Found:
    """Open `path` as O_PATH if it is a regular file or block device."""
    try:
        found = Found(posix.open(path, posix.O_PATH | posix.O_CLOEXEC), path)
    except OSError as error:
        where = None if path == resource.path else path
        advice = "is its name right, its filesystem mounted?" if error.errno == ENOENT else ""
        raise ResourceError("open", called(resource), cause(error, where), advice) from error
    located.found.append(found)
    mode = found.stat.st_mode
    if not (_stat.S_ISREG(mode) or _stat.S_ISBLK(mode)):
        kind = _KINDS.get(_stat.S_IFMT(mode), "of an unknown kind")
        advice = "only regular files and block devices can be leased"
        raise ResourceError("lease", called(resource), f"it is {kind}", advice)
    return found


def _find_kernel_node(resource: "Resource", device: int, located: Located) -> Found:
    """Find the device's node in /dev: another node is another file, with locks of its own."""
    numbers = f"{posix.major(device)}:{posix.minor(device)}"
    try:
        node = _find(resource, "/dev/" + _device_name(numbers), located)
    except OSError as error:
        trouble = cause(error, f"sysfs, device {numbers}")
    except ResourceError as error:
        trouble = error.reason
    else:
        if node.stat.st_rdev != device:  # 0 for a regular file
            trouble = f"{node.path} is not block device {numbers}"
        elif not _is_on_devtmpfs(node.stat.st_dev):
            trouble = f"{node.path} is a copy in a private /dev"
        else:
            return node
    why = f"the kernel's own node of the device cannot be used: {trouble}"
    advice = "mend /dev (libvirt: namespaces = [] in qemu.conf); another node has another lock"
    raise ResourceError("lease", called(resource), why, advice)


def _is_on_devtmpfs(filesystem: int) -> bool:
    """Is it the one filesystem that the kernel itself fills? A tmpfs looks the same but here."""
    numbers = f"{posix.major(filesystem)}:{posix.minor(filesystem)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        fields = [line.split() for line in mounts]
    return any(f[2] == numbers and f[f.index("-", 6) + 1] == "devtmpfs" for f in fields)


def _device_name(numbers: str) -> str:
    """Return the name of the device under /dev that the kernel gives it; raises OSError."""
    fd = posix.open(f"/sys/dev/block/{numbers}/uevent", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        settings = posix.read(fd, 4096).decode().split("\n")
    finally:
        posix.close(fd)
    return next((line[8:] for line in settings if line.startswith("DEVNAME=")), "")


def lock_file(name: str, config: "Mapping[str, str]", *, is_block: bool) -> tuple[str, str] | None:
    """Return (directory, file name) that libvirt locks for `name`, None if it locks the disk.

    Its order is LVM, SCSI, file; a tool that knows no name passes to the next.
    """
    if is_block and name.startswith("/dev") and (VOLUMES in config or UNITS in config):
        from lockplugins.file import volumes

        if VOLUMES in config and (uuid := volumes.lvm_uuid(name)):
            return config[VOLUMES], uuid
        if UNITS in config and (serial := volumes.scsi_serial(name)):
            return config[UNITS], serial
    if FILES in config:
        return config[FILES], sha256(_encoded(name))
    return None


def _encoded(path: str) -> bytes:
    return path.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def sha256(data: bytes) -> str:
    # Not hashlib, which loads OpenSSL.
    if sys.version_info >= (3, 12):
        from _sha2 import sha256  # type: ignore[import-not-found]  # typeshed has no stub
    else:
        from _sha256 import sha256  # type: ignore[import-not-found]  # typeshed has no stub
    return str(sha256(data).hexdigest())
