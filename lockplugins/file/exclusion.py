"""Do the kernel's file locks exclude in this place? Tries them all, and leaves no trace.

Two open file descriptions of one file, in one process and in two, OFD locks
and POSIX ones (virtlockd's), exclusive and shared. In an image only one byte
is touched, somewhere beyond 2^61, which no lock manager and no image uses; in
a directory it is a file without a name. It must not know what a place is for.
Run as a program it is the second process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Lock = tuple[str, int]

NAME = "exclusion"

_FAR = 1 << 61
_FLOCK = "hhqqi4x"
_KINDS = {fcntl.F_RDLCK: "a shared", fcntl.F_WRLCK: "an exclusive"}
_SET = {"OFD": fcntl.F_OFD_SETLK, "POSIX": fcntl.F_SETLK}
_GET = {"OFD": fcntl.F_OFD_GETLK, "POSIX": fcntl.F_GETLK}
_LOCKS = tuple((family, kind) for family in _SET for kind in _KINDS)
_REFUSED = (errno.EAGAIN, errno.EACCES)
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_MEND = "keep leases on a filesystem whose locks work; no guest is safe here"


def of_file(fd: int, *, writable: bool) -> tuple[bool, str, str]:
    """Try the locks of the file that `fd` (O_PATH will do) is open on.

    A block device is opened for reading alone, since closing it after writing
    has udev look at it; what an exclusive lock would meet can be asked.
    """
    access = os.O_RDWR if writable and stat.S_ISREG(os.fstat(fd).st_mode) else os.O_RDONLY
    try:
        first, second = _open(fd, access), _open(fd, access)
    except OSError as error:
        why = f"cannot be opened: {os.strerror(error.errno or 0)}"
        return False, why, "an exclusive lease needs write access" if access == os.O_RDWR else why
    try:
        return _judge(first, second)
    finally:
        os.close(first)
        os.close(second)


def of_directory(path: str) -> tuple[bool, str, str]:
    """Try the locks of a file in the directory: one without a name, else one that is there."""
    try:
        fd = _any_file(path)
    except OSError as error:
        why = f"no lock can be tried: {os.strerror(error.errno or 0)}"
        return False, why, "make it a directory that we may write to"
    if fd is None:
        why = "no lock can be tried: no file is here, and this filesystem makes none without a name"
        return False, why, "ask again when a guest has run"
    try:
        return of_file(fd, writable=True)
    finally:
        os.close(fd)


def _any_file(path: str) -> int | None:
    try:
        return os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | _unseen(path))
    try:
        for name in os.listdir(directory):
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
    finally:
        os.close(directory)
    return None


def _unseen(path: str) -> int:
    """Return O_NOATIME where it is ours to ask for."""
    return os.O_NOATIME if os.geteuid() in (0, os.stat(path).st_uid) else 0


def _judge(first: int, second: int) -> tuple[bool, str, str]:
    """Try every lock beside every lock, on two descriptions of one file."""
    byte = _FAR + int.from_bytes(os.urandom(7), "big")  # no other doctor's either
    try:
        if not _would(second, "OFD", fcntl.F_WRLCK, byte):
            why = "no lock can be tried: somebody has one on all of the file"
            return False, why, "ask again when that is gone (see who)"
        wrong = list(_failures(first, second, byte))
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        return False, f"locks fail: {os.strerror(error.errno or 0)} ({name})", _MEND
    if wrong:
        more = f" (and {len(wrong) - 1} more like it)" if wrong[1:] else ""
        return False, f"does not exclude: {wrong[0]}{more}", _MEND
    kinds = "exclusive and shared" if _is_writable(first) else "shared (it is opened to read)"
    return True, f"OFD and POSIX locks, {kinds}, exclude between two opens and two processes", ""


def _failures(first: int, second: int, byte: int) -> Iterator[str]:
    """Yield what does not go as it must, with each lock held in turn, and none."""
    for held in (None, *_LOCKS):
        if held and held[1] == fcntl.F_WRLCK and not _is_writable(first):
            continue
        if held and not _set(first, held, byte):
            yield f"{_words(held)} is refused where there is none"
            continue
        if held and held[0] == "OFD":
            os.close(_open(second, os.O_RDONLY))  # must not end it, as it ends a POSIX lock
        for where, lock, granted in _beside(second, byte):
            if granted == _conflict(held, lock):
                answer = "granted" if granted else "refused"
                yield f"{_words(lock)} of {where} is {answer} beside {_words(held)}"
        if held:
            _set(first, (held[0], fcntl.F_UNLCK), byte)


def _beside(fd: int, byte: int) -> Iterator[tuple[str, Lock, bool]]:
    """Yield every lock that another description and another process would be granted."""
    for kind in _KINDS:
        yield "another open", ("OFD", kind), _would(fd, "OFD", kind, byte)
    access = os.O_RDWR if _is_writable(fd) else os.O_RDONLY
    done = subprocess.run(
        [sys.executable, "-I", "-S", __file__, str(fd), str(access), str(byte)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        pass_fds=[fd],
        check=False,
    )
    answers = done.stdout.decode().split()
    if len(answers) != len(_LOCKS) or done.returncode:
        raise OSError(int(answers[-1]) if answers else errno.EIO, "the other process failed")
    for lock, answer in zip(_LOCKS, answers, strict=True):
        yield "another process", lock, answer == "granted"


def _conflict(held: Lock | None, wanted: Lock) -> bool:
    return held is not None and fcntl.F_WRLCK in (held[1], wanted[1])


def _open(fd: int, access: int) -> int:
    """Return another description of the file that `fd` is open on."""
    flags = access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(f"/proc/self/fd/{fd}", flags)


def _would(fd: int, family: str, kind: int, byte: int) -> bool:
    """Would the lock be granted? Tried and given back where `fd` may, else the kernel is asked."""
    if kind == fcntl.F_WRLCK and not _is_writable(fd):
        answer = fcntl.fcntl(fd, _GET[family], struct.pack(_FLOCK, kind, 0, byte, 1, 0))
        return bool(struct.unpack(_FLOCK, answer)[0] == fcntl.F_UNLCK)
    granted = _set(fd, (family, kind), byte)
    if granted:
        _set(fd, (family, fcntl.F_UNLCK), byte)
    return granted


def _set(fd: int, lock: Lock, byte: int) -> bool:
    family, kind = lock
    try:
        fcntl.fcntl(fd, _SET[family], struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in _REFUSED:
            return False
        raise
    return True


def _is_writable(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _words(lock: Lock | None) -> str:
    return f"{_KINDS[lock[1]]} {lock[0]} lock" if lock else "no lock"


def _other_process(inherited: int, access: int, byte: int) -> None:
    """Say of each lock whether it is granted to us, on a description of our own."""
    try:
        fd = _open(inherited, access)
        for family, kind in _LOCKS:
            print("granted" if _would(fd, family, kind, byte) else "refused")  # noqa: T201
    except OSError as error:
        print(error.errno)  # noqa: T201  # our one reader's language
        sys.exit(1)


if __name__ == "__main__":
    _other_process(*(int(word) for word in sys.argv[1:]))
