"""Do the kernel's file locks exclude in this place? Tries them all, and leaves no trace.

Two open file descriptions of one file, in one process and in two, OFD locks
and POSIX ones (virtlockd's), exclusive and shared. In an image only one byte
is touched, somewhere beyond 2^61, which no lock manager and no image uses; in
a directory it is a file without a name. It must not know what a place is for.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys

from lockplugins.contract import cause
from lockplugins.kernel_locks import granted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockplugins.kernel_locks.granted import Lock

NAME = "exclusion"

_FAR = 1 << 61
_WORDS = {fcntl.F_RDLCK: "a shared", fcntl.F_WRLCK: "an exclusive"}
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_MEND = "keep leases on a filesystem whose locks work; no guest is safe here"


def of_file(fd: int, *, writable: bool) -> tuple[bool, str, str]:
    """Try the locks of the file that `fd` (O_PATH will do) is open on.

    A block device is opened for reading alone, since closing it after writing
    has udev look at it; what an exclusive lock would meet can be asked.
    """
    access = os.O_RDWR if writable and stat.S_ISREG(os.fstat(fd).st_mode) else os.O_RDONLY
    try:
        first, second = granted.reopen(fd, access), granted.reopen(fd, access)
    except OSError as error:
        mend = f"let us {'write to' if access == os.O_RDWR else 'read'} it: the lease needs that"
        return False, f"cannot be opened: {cause(error)}", mend
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
        why = f"no lock can be tried: {cause(error)}"
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
    ours = os.geteuid() in (0, os.stat(path).st_uid)  # O_NOATIME is the owner's to ask for
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOATIME if ours else 0)
    directory = os.open(path, flags)
    try:
        for name in os.listdir(directory):
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
    finally:
        os.close(directory)
    return None


def _judge(first: int, second: int) -> tuple[bool, str, str]:
    """Try every lock beside every lock, on two descriptions of one file."""
    byte = _FAR + int.from_bytes(os.urandom(7), "big")  # no other doctor's either
    try:
        if not granted.would(second, (granted.OFD, fcntl.F_WRLCK), byte):
            why = "no lock can be tried: somebody has one on all of the file"
            return False, why, "ask again when that is gone (see who)"
        wrong = list(_failures(first, second, byte))
    except OSError as error:
        return False, f"locks fail: {cause(error)}", _MEND
    if wrong:
        more = f" (and {len(wrong) - 1} more like it)" if wrong[1:] else ""
        return False, f"does not exclude: {wrong[0]}{more}", _MEND
    writable = granted.access_of(first) == os.O_RDWR
    kinds = "exclusive and shared" if writable else "shared (it is opened to read)"
    return True, f"OFD and POSIX locks, {kinds}, exclude between two opens and two processes", ""


def _failures(first: int, second: int, byte: int) -> Iterator[str]:
    """Yield what does not go as it must, with each lock held in turn, and none."""
    for held in (None, *granted.LOCKS):
        if held and held[1] == fcntl.F_WRLCK and granted.access_of(first) == os.O_RDONLY:
            continue
        if held and not granted.take(first, held, byte):
            yield f"{_words(held)} is refused where there is none"
            continue
        if held and held[0] == granted.OFD:
            os.close(granted.reopen(second, os.O_RDONLY))  # must not end it, as it ends POSIX locks
        for where, lock, was_granted in _beside(second, byte):
            if was_granted == _conflict(held, lock):
                answer = granted.GRANTED if was_granted else granted.REFUSED
                yield f"{_words(lock)} of {where} is {answer} beside {_words(held)}"
        if held:
            granted.give_back(first, held[0], byte)


def _beside(fd: int, byte: int) -> Iterator[tuple[str, Lock, bool]]:
    """Yield whether another description, and another process, would be granted each lock."""
    for kind in granted.KINDS:
        lock = granted.OFD, kind
        yield "another open", lock, granted.would(fd, lock, byte)
    words = (str(fd), str(granted.access_of(fd)), str(byte))
    done = subprocess.run(
        [sys.executable, "-I", "-S", granted.__file__, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        pass_fds=[fd],
        check=False,
    )
    answers = done.stdout.decode().split()
    if len(answers) != len(granted.LOCKS):
        number = int(answers[0]) if answers else errno.EIO
        raise OSError(number, os.strerror(number))
    for lock, answer in zip(granted.LOCKS, answers, strict=True):
        yield "another process", lock, answer == granted.GRANTED


def _conflict(held: Lock | None, wanted: Lock) -> bool:
    return held is not None and fcntl.F_WRLCK in (held[1], wanted[1])


def _words(lock: Lock | None) -> str:
    return f"{_WORDS[lock[1]]} {lock[0]} lock" if lock else "no lock"
