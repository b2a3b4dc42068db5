"""Which locks would the kernel grant to one open file? Tries each, and gives it back.

Run as a program (FD ACCESS BYTE) it is the other process: opens the file that
it inherited as FD anew, and says of each lock `granted` or `refused`, or the
errno. Imports nothing of ours, so that it can be run by its path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys

OFD, POSIX = "OFD", "POSIX"
KINDS = (fcntl.F_RDLCK, fcntl.F_WRLCK)
LOCKS = tuple((family, kind) for family in (OFD, POSIX) for kind in KINDS)
GRANTED, REFUSED = "granted", "refused"

TYPE_CHECKING = False
if TYPE_CHECKING:
    Lock = tuple[str, int]

_FLOCK = "hhqqi4x"
_SET = {OFD: fcntl.F_OFD_SETLK, POSIX: fcntl.F_SETLK}
_GET = {OFD: fcntl.F_OFD_GETLK, POSIX: fcntl.F_GETLK}
_HELD = (errno.EAGAIN, errno.EACCES)


def reopen(fd: int, access: int) -> int:
    """Return another description of the file that `fd` is open on; O_PATH will do."""
    flags = access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(f"/proc/self/fd/{fd}", flags)


def access_of(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def would(fd: int, lock: Lock, byte: int) -> bool:
    """Would the lock be granted? Tried and given back where `fd` may, else the kernel is asked."""
    family, kind = lock
    if kind == fcntl.F_WRLCK and access_of(fd) == os.O_RDONLY:
        answer = fcntl.fcntl(fd, _GET[family], struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
        return bool(struct.unpack(_FLOCK, answer)[0] == fcntl.F_UNLCK)
    granted = take(fd, lock, byte)
    if granted:
        give_back(fd, family, byte)
    return granted


def take(fd: int, lock: Lock, byte: int) -> bool:
    """Return whether the lock was granted; raises OSError when locks do not work."""
    family, kind = lock
    try:
        fcntl.fcntl(fd, _SET[family], struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def give_back(fd: int, family: str, byte: int) -> None:
    flock = struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0)
    fcntl.fcntl(fd, _SET[family], flock)


def main() -> None:
    """Be the other process."""
    inherited, access, byte = (int(word) for word in sys.argv[1:])
    try:
        fd = reopen(inherited, access)
        said = [GRANTED if would(fd, lock, byte) else REFUSED for lock in LOCKS]
    except OSError as error:
        said = [str(error.errno)]
    os.write(1, " ".join(said).encode())


if __name__ == "__main__":
    main()
