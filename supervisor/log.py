"""Where does the output of a detached guest go? Names its log, and opens it.

Appends always, so that whoever rotates logs may copy and truncate. It must not
know who writes there.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from lockplugins.contract import LockError, cause, shown

_SYSTEM = "/var/log/lock-supervisor"
_PRIVATE_DIR, _PRIVATE_FILE = 0o700, 0o600  # what a guest says on its console may be secret
_FLAGS = (
    os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
    | os.O_NONBLOCK  # a FIFO that nobody reads is an error, not a wait
)  # fmt: skip


def open_log(given: str | None, name: str, uuid: str) -> tuple[str, int]:
    """Open the log of guest `name`, say in it who starts; returns its path and descriptor.

    Without `given` in the user's own place, whose directory is made. Raises
    LockError when nothing can be written there.
    """
    path = _default(name) if given is None else given
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        if given is None:
            os.makedirs(os.path.dirname(path), _PRIVATE_DIR, exist_ok=True)
        fd = os.open(path, _FLAGS, _PRIVATE_FILE)
        if stat.S_ISBLK(os.fstat(fd).st_mode):  # somebody's disk
            raise OSError(errno.ENOTSUP, "")
        os.set_blocking(fd, True)
        line = f"{now} lock-supervisor: starting guest {shown(name)} ({uuid})\n"
        _write(fd, line.encode("utf-8", "surrogateescape"))  # check_name has done so, too
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or cause(error)
        raise LockError("write", f"log {path}", reason, "name another with --log") from error
    return path, fd


_REASONS = {
    errno.ELOOP: "it is a symbolic link",
    errno.ENOTSUP: "it is a block device",
    errno.ENXIO: "it is a FIFO that nobody reads, or no device",
}


def _default(name: str) -> str:
    """Return the path of a guest's log in this user's place; names that differ never share one."""
    file_name = name.replace("%", "%25").replace("/", "%2F")
    if file_name.startswith("."):
        file_name = "%2E" + file_name[1:]
    return os.path.join(_directory(), f"{file_name}.log")


def _directory() -> str:
    if os.geteuid() == 0:
        return _SYSTEM
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # to be ignored, says the XDG Base Directory Specification
        state = os.path.expanduser("~/.local/state")
    if not os.path.isabs(state):
        reason = "neither XDG_STATE_HOME nor HOME says where"
        raise LockError("choose", "a log", reason, "name one with --log")
    return os.path.join(state, "lock-supervisor")


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
