"""Where do locks fail to exclude? On a filesystem of the test's own, served from here by FUSE.

One directory with one file, `disk`; what becomes of locks is the test's choice.
Speaks the kernel's protocol (include/uapi/linux/fuse.h) on /dev/fuse, so that
no library is needed. Root only.
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPE = "fuse.test"
LOCAL, GRANTING, FAILING = "local", "granting", "failing"
SILENT, DEAD = "silent", "dead"  # answers no lock; answers nothing

_LOOKUP, _FORGET, _GETATTR, _OPEN, _STATFS, _INIT, _INTERRUPT = 1, 2, 3, 14, 17, 26, 36
_OPENDIR, _READDIR, _RELEASEDIR = 27, 28, 29
_GETLK, _SETLK, _SETLKW = 31, 32, 33
_RELEASE, _FLUSH, _BATCH_FORGET = 18, 25, 42
_LOCKS = (_GETLK, _SETLK, _SETLKW)
_UNANSWERED = (_FORGET, _BATCH_FORGET, _INTERRUPT)
_HANGING = {SILENT: _LOCKS, DEAD: (*_LOCKS, _LOOKUP)}
_POSIX_LOCKS = 1 << 1
_F_UNLCK = 2
_ROOT, _DISK = 1, 2
_HEADER = struct.Struct("IIQQIIIHH")
_INIT_OUT = "IIIIHHIIHHI28x"
_SIZE = 1 << 20


class Server:
    """Answers the kernel until the filesystem is unmounted, or `abort` is called."""

    def __init__(self, path: str, how: str) -> None:
        self.path = path
        self.disk = f"{path}/disk"
        self._how = how
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        mount = ["mount", "-i", "-t", TYPE, "-o", options, "test", path]
        subprocess.run(mount, check=True, timeout=30, pass_fds=[self._fd])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Unmount; whoever waits for an answer gets an error."""
        subprocess.run(["umount", "--force", "--lazy", self.path], check=False, timeout=30)
        self._thread.join(30)
        os.close(self._fd)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, 1 << 18)
            except OSError:  # unmounted
                return
            _length, opcode, unique, node, *_ = _HEADER.unpack_from(request)
            if opcode in _UNANSWERED or opcode in _HANGING.get(self._how, ()):
                continue
            error, body = self._answer(opcode, node, request[_HEADER.size :])
            head = struct.pack("IiQ", 16 + len(body), -error, unique)
            try:
                os.write(self._fd, head + body)
            except OSError:  # who asked has been killed, or all is over
                continue

    def _answer(self, opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
        """Return errno and reply."""
        if opcode in _LOCKS and self._how == FAILING:
            return errno.ENOLCK, b""
        if opcode == _LOOKUP and (node, body) != (_ROOT, b"disk\0"):
            return errno.ENOENT, b""
        flags = 0 if self._how == LOCAL else _POSIX_LOCKS
        replies = {
            _INIT: struct.pack(_INIT_OUT, 7, 31, 1 << 16, flags, 16, 8, 1 << 16, 1, 1, 0, 0),
            _LOOKUP: struct.pack("QQQQII", _DISK, 0, 60, 60, 0, 0) + _attributes(_DISK),
            _GETATTR: struct.pack("QII", 60, 0, 0) + _attributes(node),
            _OPEN: struct.pack("QII", 0, 0, 0),
            _OPENDIR: struct.pack("QII", 0, 0, 0),
            _READDIR: b"" if any(body[8:16]) else struct.pack("QQII8s", _DISK, 1, 4, 8, b"disk"),
            _STATFS: struct.pack("QQQQQIIII24x", 100, 100, 100, 100, 100, 4096, 255, 4096, 0),
            _GETLK: struct.pack("QQII", 0, 0, _F_UNLCK, 0),
            **dict.fromkeys((_SETLK, _SETLKW, _RELEASE, _RELEASEDIR, _FLUSH), b""),
        }
        return (0, replies[opcode]) if opcode in replies else (errno.ENOSYS, b"")


def _attributes(node: int) -> bytes:
    mode = 0o040755 if node == _ROOT else 0o100644
    return struct.pack(
        "QQQQQQIIIIIIIIII", node, _SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
    )


@contextmanager
def served(directory: str | os.PathLike[str], how: str) -> Iterator[Server]:
    """Mount one under `directory` while the context lasts."""
    path = f"{os.fspath(directory)}/fuse"
    os.mkdir(path)
    server = Server(path, how)
    try:
        yield server
    finally:
        server.close()
