"""What does the sanlock daemon say of itself: its lockspaces, their hosts, and who holds what here?

What `sanlock client status` and `host_status` print, for which the library has
no function, read from the daemon's socket; never waits for long. It must not
know guests or disks.
"""

from __future__ import annotations

import _socket  # socket would import enum and selectors, and this is loaded at launch
import ctypes
import os
from struct import Struct

from lockplugins.contract import LeaseUnknownError, LockError, cause
from lockplugins.sanlock import library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RUN_DIR_VARIABLE, RUN_DIR = "SANLOCK_RUN_DIR", "/run/sanlock"
ANSWER_S = 5

_NAME = "the sanlock daemon"
_PROGRAMS = ("/usr/sbin/sanlock", "/usr/local/sbin/sanlock")
_TIMEVAL = Struct("2l")
_HEADER = Struct("6IiI")  # struct sm_header: magic, protocol, command, -, length, -, what, -
_MAGIC, _PROTOCOL, _STATUS, _HOST_STATUS, _VERSION = 0x04282010, 1, 5, 15, 28
_ENTRY = Struct("3I4xQ48sI4x")  # struct sanlk_state: kind, -, number, large, name, bytes of text
_DAEMON, _LOCKSPACE, _RESOURCE, _HOST = 1, 3, 4, 5
_CHUNK = 1 << 16
_DISK_BYTES = 1040
_RESOURCE_BYTES = 128  # without disks; how many there are is the last field


class Membership:
    """A lockspace that this host is in, and where in its file that is written: `record_at`.

    `watchdog`: is the host reset if need be? `number` is new each time it is joined, which
    was at `since`. `renewed` is when the last renewal that reached the storage began, `result`
    how the last one went; all in the daemon's words, whole seconds of CLOCK_MONOTONIC.
    """

    def __init__(
        self, where: library.Lockspace, fields: dict[str, str], daemon: dict[str, str]
    ) -> None:
        self.name = os.fsdecode(where.name)
        self.host_id = int(where.host_id)
        self.path = os.fsdecode(where.disk.path)
        self.number = int(fields["space_id"])
        self.watchdog = daemon["use_watchdog"] == "1"
        self.record_at = int(where.disk.offset) + (self.host_id - 1) * int(fields["sector_size"])
        self.io_timeout_s = int(fields["io_timeout"])
        self.generation = int(fields["host_generation"])
        self.since = int(fields["acquire_last_success"])
        self.renewed = int(fields["renewal_last_success"])
        self.result = int(fields["corrupt_result"]) or int(fields["renewal_last_result"])
        dead = fields["killing_pids"] != "0" or fields["space_dead"] != "0"
        self.is_ending = dead or fields["list"] != "spaces"


class Held:
    """A resource that a process of this host holds, or is acquiring or giving up just now."""

    def __init__(
        self, what: library.Resource, pid: int, version: int, fields: dict[str, str]
    ) -> None:
        self.key = (os.fsdecode(what.lockspace), os.fsdecode(what.name))
        self.is_shared = bool(what.flags & library.SHARED)
        self.pid = pid
        self.version = version
        self.is_leaving = fields["list"] == "rem"  # its process has ended, or lets go of it


class Host:
    """A host as this one sees it; `seen` is when its timestamp was last seen to change."""

    def __init__(self, host_id: int, fields: dict[str, str]) -> None:
        self.host_id = host_id
        self.generation = int(fields["owner_generation"])
        self.is_free = fields["timestamp"] == "0"
        self.io_timeout_s = int(fields["io_timeout"])
        self.seen = int(fields["last_live"])
        self.name = fields["owner_name"]


class Status:
    """What the daemon told; `daemon` are its settings."""

    def __init__(self) -> None:
        self.daemon: dict[str, str] = {}
        self.lockspaces: list[Membership] = []
        self.resources: list[Held] = []

    def hear(self, entry: _Entry) -> None:
        """Take one part of the answer in."""
        if entry.kind == _LOCKSPACE:
            where = library.Lockspace.from_buffer_copy(entry.structure)
            self.lockspaces.append(Membership(where, entry.fields(), self.daemon))
        elif entry.kind == _RESOURCE:
            what = library.Resource.from_buffer_copy(entry.structure)
            self.resources.append(Held(what, entry.number, entry.large, entry.fields()))
        elif entry.kind == _DAEMON:
            self.daemon = entry.fields()


def watch() -> _socket.socket:
    """Return a connection that ends with the daemon, to be closed by the caller; raises LockError.

    It begins with a question. A daemon that takes the place in its list of one that has just
    closed for readable waits for this one's first words, and serves nobody until they are there.
    """
    connection, _ = _connect(_header(_VERSION), _HEADER.size)
    return connection


def _connect(message: bytes, most: float = float("inf")) -> tuple[_socket.socket, bytes]:
    """Return a connection to the daemon, and its answer: `most` bytes, or all until its end.

    Raises LockError, which says how to have a daemon.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        # Not settimeout: then connect does not wait for a daemon that is busy with others.
        for bound in (_socket.SO_SNDTIMEO, _socket.SO_RCVTIMEO):
            connection.setsockopt(_socket.SOL_SOCKET, bound, _TIMEVAL.pack(ANSWER_S, 0))
        connection.connect(_socket_path())
        connection.sendall(message)
        heard = bytearray()
        while len(heard) < most and (said := connection.recv(_CHUNK)):
            heard += said
        return connection, bytes(heard)
    except OSError as error:
        connection.close()
        raise LockError("reach", _NAME, *_unreachable(error)) from error


def _socket_path() -> str:
    return f"{os.environ.get(RUN_DIR_VARIABLE) or RUN_DIR}/sanlock.sock"


def _unreachable(error: OSError) -> tuple[str, str]:
    """Return why the daemon cannot be asked, and what to do."""
    why, advice = cause(error, _socket_path()), "see its log"
    if isinstance(error, BlockingIOError):
        why, advice = f"no answer in {ANSWER_S} s", "is it stopped, or its storage hung?"
    elif isinstance(error, PermissionError):
        advice = "run this as root, or as a member of the daemon's group"
    elif isinstance(error, FileNotFoundError | ConnectionRefusedError):
        if any(map(os.path.exists, _PROGRAMS)):
            why, advice = f"it is not running ({why})", "run: systemctl start sanlock"
        else:
            why, advice = "it is not installed", "run: apt-get install sanlock"
    return why, advice


def read(*, resources: bool = True) -> Status:
    """Ask who is what here; raises LockError. Without resources it costs the daemon less."""
    status = Status()
    _ask(_STATUS, 0 if resources else _LOCKSPACE, b"", status.hear)
    return status


def hosts(lockspace: str) -> list[Host]:
    """Ask which hosts have been in the lockspace; raises LockError, also if this one is not."""
    asked = library.Lockspace(os.fsencode(lockspace))
    found: list[Host] = []

    def hear(entry: _Entry) -> None:
        if entry.kind == _HOST:
            found.append(Host(entry.number, entry.fields()))

    _ask(_HOST_STATUS, 0, bytes(asked), hear)
    return found


class _Entry:
    """One part of an answer: what it is about, the daemon's own words, and a structure."""

    def __init__(self, answer: _Answer) -> None:
        head = _ENTRY.unpack(answer.take(_ENTRY.size))
        self.kind, _, self.number, self.large, _, length = head
        self._text = answer.take(length)
        self.structure = b""
        if self.kind == _LOCKSPACE:
            self.structure = answer.take(ctypes.sizeof(library.Lockspace))
        elif self.kind == _RESOURCE:
            fixed = answer.take(_RESOURCE_BYTES)
            disks = int.from_bytes(fixed[-4:], "little")
            self.structure = fixed + answer.take(disks * _DISK_BYTES)

    def fields(self) -> dict[str, str]:
        """Return the words KEY=VALUE."""
        words = os.fsdecode(self._text.rstrip(b"\0")).split(" ")
        return dict(word.partition("=")[::2] for word in words)


class _Answer:
    """The bytes of an answer, taken one after the other; raises LeaseUnknownError at their end."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def __bool__(self) -> bool:
        return bool(self._rest)

    def take(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        if len(taken) < size:
            raise LeaseUnknownError("ask", _NAME, "its answer ends too early", "see its log")
        return bytes(taken)


def _header(command: int, more_bytes: int = 0, what: int = 0) -> bytes:
    length = _HEADER.size + more_bytes
    return _HEADER.pack(_MAGIC, _PROTOCOL, command, 0, length, 0, what, 0)


def _ask(command: int, what: int, structure: bytes, hear: Callable[[_Entry], None]) -> None:
    """Have the parts of an answer heard; raises LockError, also for one that is none."""
    message = _header(command, len(structure), what) + structure
    connection, data = _connect(message)
    connection.close()
    answer = _Answer(data)
    if code := _HEADER.unpack(answer.take(_HEADER.size))[6]:
        raise LeaseUnknownError("ask", _NAME, library.named(code), "see its log")
    try:
        while answer:
            hear(_Entry(answer))
    except (KeyError, ValueError) as error:
        why, advice = f"its answer cannot be understood: {error!r}", "is it sanlock 3.8 or newer?"
        raise LeaseUnknownError("ask", _NAME, why, advice) from error
