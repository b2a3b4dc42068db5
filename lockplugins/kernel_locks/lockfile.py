"""How is one file locked, so that libvirt, QEMU and we understand one another?

Always by open file description (OFD), never POSIX locks, which vanish when
any descriptor of the file closes. Byte 0 is where libvirt's lockd driver
locks; sharers also read-lock byte 2, which is ours, and who awaits a guest by
migration has it alone. Never byte 1 (libvirt's security drivers) nor 100 and
up (QEMU). It must not know why a file is locked. Imported on the launch path
(README, D2).
"""

import _stat
import errno
import fcntl
import posix
import time
from _struct import pack, unpack

from lockplugins.contract import (
    ConfigError,
    LeaseUnknownError,
    Mode,
    ResourceError,
    ResourceType,
    cause,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lockplugins.contract import Resource

LEASE_BYTE = 0
SHARERS_BYTE = 2
UNDECIDED_BYTE = 1 << 59  # a migration's; far beyond any image

# Looks at a holder that was gone before it could be named, or at a file that was replaced.
TRIES = 4

READ = fcntl.F_RDLCK
WRITE = fcntl.F_WRLCK
FREE = fcntl.F_UNLCK

TICKET = "ticket"  # the place of a migration's destination: neither sharers nor a second one
STRENGTH = (Mode.SHARED, TICKET, Mode.EXCLUSIVE)

# In this order: what a mode lacks of byte 2 is added before byte 0 is given up.
_BYTES = {
    Mode.EXCLUSIVE: ((WRITE, LEASE_BYTE),),
    Mode.SHARED: ((READ, SHARERS_BYTE), (READ, LEASE_BYTE)),
    TICKET: ((WRITE, SHARERS_BYTE), (WRITE, UNDECIDED_BYTE)),
}
_SEEK_SET = 0
_FLOCK = "hhqqi4x"  # struct flock of fcntl_locking(2)
_HELD_ELSEWHERE = (errno.EAGAIN, errno.EACCES)


def check_directories(plugin: str, config: "Mapping[str, str]") -> None:
    """Raise ConfigError unless every value of the plugin's table is an absolute path."""
    for key, directory in config.items():
        if not directory.startswith("/"):
            where, why = f"{key} of plugin {plugin}", f"'{directory}' is not an absolute path"
            raise ConfigError("use", where, why, "give one that begins with /")


def called(resource: "Resource") -> str:
    """Return what errors call the resource."""
    if resource.type == ResourceType.LEASE:
        return f"resource {resource.lockspace}:{resource.key}"
    return f"{resource.type} {resource.path}"


def create(directory: str, name: str, resource: "Resource") -> tuple[int, str]:
    """Open a lock file for `resource`, an empty one if there is none yet, as virtlockd does.

    We never unlink it: a waiter may hold its descriptor. Raises ResourceError.
    """
    path = f"{directory}/{name}"
    access = posix.O_RDWR | posix.O_CREAT | posix.O_NOFOLLOW
    try:
        try:
            fd = open_quietly(path, access)
        except FileNotFoundError:
            from os import makedirs

            makedirs(directory, 0o700, exist_ok=True)
            fd = open_quietly(path, access)
    except OSError as error:
        name, advice = f"lock file of {called(resource)}", "is that directory mounted?"
        raise ResourceError("open", name, cause(error, path), advice) from error
    if not _stat.S_ISREG(posix.fstat(fd).st_mode):
        posix.close(fd)
        why = f"{path} is not a regular file"
        raise ResourceError("lease", called(resource), why, "remove what is there")
    return fd, path


def is_named(path: str, identity: tuple[int, int]) -> bool:
    """Does the path lead to that very file? libvirt unlinks lock files, people move."""
    try:
        status = posix.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == identity


def open_quietly(path: str, access: int) -> int:
    """Open without waiting for anybody, becoming anybody's terminal, or passing it on."""
    return posix.open(path, access | posix.O_NONBLOCK | posix.O_NOCTTY | posix.O_CLOEXEC, 0o600)


class LockFile:
    """One file that serves leases of this guest, by one open file description.

    Owns `fd`, opened with `access` (O_PATH, O_RDONLY or O_RDWR). `mode` is
    what is locked, None while nothing is; `users` are the modes of the leases
    it serves; `name` is what errors call the resource it was found for.
    """

    __slots__ = ("access", "fd", "identity", "mode", "name", "users")

    def __init__(self, fd: int, access: int, name: str) -> None:
        self.fd = fd
        self.access = access
        self.name = name
        status = posix.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)
        self.mode: str | None = None
        self.users: list[str] = []

    @property
    def is_handed(self) -> bool:
        """Is it an exclusive lease's, and not exclusive, because the guest migrates?"""
        return self.mode != Mode.EXCLUSIVE and Mode.EXCLUSIVE in self.users

    def reopen(self, access: int) -> int:
        """Return a new description of the very same file; raises ResourceError.

        By the descriptor, not by the path: what was looked at is what is
        opened, never a FIFO or terminal that took its place.
        """
        try:
            return open_quietly(f"/proc/self/fd/{self.fd}", access)
        except OSError as error:
            advice = "an exclusive lease needs write access" if access == posix.O_RDWR else ""
            raise ResourceError("open", self.name, cause(error), advice) from error

    def replace(self, fd: int, access: int) -> None:
        """Go on with another description; closes the old one, which ends its locks."""
        posix.close(self.fd)
        self.fd = fd
        self.access = access

    def lock(self, mode: str) -> "Refusal | None":
        """Lock for `mode` without waiting; converting is atomic, a refusal leaves what was held.

        Byte 2 stays locked after a conversion to exclusive, until `settle`.
        """
        for kind, byte in _BYTES[mode]:
            if not self.set(kind, byte):
                return Refusal(self, mode, kind, byte)
        self.mode = mode
        return None

    def settle(self) -> None:
        """Give up what the mode does not need; before that, going back cannot be refused."""
        if self.mode == Mode.EXCLUSIVE:
            self.set(FREE, SHARERS_BYTE)

    def unlock(self) -> None:
        """Free the file at once, whatever copies of the descriptor exist; raises LockError."""
        self.set(FREE, LEASE_BYTE, SHARERS_BYTE + 1)
        self.set(FREE, UNDECIDED_BYTE)
        self.mode = None

    def close(self) -> None:
        posix.close(self.fd)
        self.fd = -1

    def conflict(self, kind: int, byte: int) -> tuple[str, int] | None:
        """Return mode and pid of a lock that is in the way of such a one of ours, else None.

        The pid is not positive where the kernel has none: an OFD lock, another
        host, another PID namespace. Raises LeaseUnknownError.
        """
        flock = pack(_FLOCK, kind, _SEEK_SET, byte, 1, 0)
        answer = self._ask(fcntl.F_OFD_GETLK, flock)
        found, _whence, _start, _length, pid = unpack(_FLOCK, answer or flock)
        if found == FREE:
            return None
        return (Mode.EXCLUSIVE if found == WRITE else Mode.SHARED), pid

    def set(self, kind: int, byte: int, length: int = 1, command: int = fcntl.F_OFD_SETLK) -> bool:
        """Return False if it is held elsewhere; anything else that fails cannot be told."""
        flock = pack(_FLOCK, kind, _SEEK_SET, byte, length, 0)
        return self._ask(command, flock) is not None

    def _ask(self, command: int, flock: bytes) -> bytes | None:
        """Return the kernel's answer, None for "held elsewhere"; raises LeaseUnknownError."""
        try:
            return fcntl.fcntl(self.fd, command, flock)
        except OSError as error:
            if error.errno in _HELD_ELSEWHERE:
                return None
            advice = "no lease without locks that work; see doctor"
            raise LeaseUnknownError("lock", self.name, cause(error), advice) from error


class Refusal:
    """A lock for `mode` on `file` that is held elsewhere: of `kind`, on `byte`."""

    __slots__ = ("byte", "file", "kind", "mode")

    def __init__(self, file: LockFile, mode: str, kind: int, byte: int) -> None:
        self.file = file
        self.mode = mode
        self.kind = kind
        self.byte = byte

    def may_be_waited_for(self, wait_until: float | None) -> bool:
        """Is there time left? Never waits to convert what the guest holds already."""
        if wait_until is None or self.file.users:
            return False
        return time.clock_gettime(time.CLOCK_BOOTTIME) < wait_until

    def wait(self) -> None:
        """Wait until that very lock is ours; raises LeaseUnknownError, the file closed."""
        try:
            self.file.set(self.kind, self.byte, command=fcntl.F_OFD_SETLKW)
        except BaseException:
            self.file.close()
            raise
