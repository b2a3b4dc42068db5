"""How is the sanlock daemon asked for something? libsanlock_client.so.1, by ctypes.

Every call blocks until the daemon answers, which one that is stopped never
does; ctypes lets other threads run meanwhile. A refusal is a `SanlockError`
with sanlock's own number. It must not know guests or disks.
"""

from __future__ import annotations

import ctypes
import os
from errno import errorcode

from lockplugins.contract import LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FILE = "libsanlock_client.so.1"
MAX_RESOURCES = 8
NAME_BYTES = 47  # and a NUL
PATH_BYTES = 1023

SHARED = 0x4  # of a resource, as the next
AT_VERSION = 0x1  # acquire it only while it has that version
# How large a lockspace or a resource is: 512 bytes for a host, 1 MiB in all; or 4096 and 8 MiB.
SMALL, LARGE = 0x110, 0x280
OWNER_NOWAIT = 0x8  # of acquire and convert
RESTRICT_ALL, RESTRICT_SIGTERM = 0x1, 0x4
_UNTIL_KNOWN = 0x1  # of inq_lockspace

ERRORS = {
    -201: "SANLK_ERROR",
    -202: "SANLK_AIO_TIMEOUT",
    -203: "SANLK_WD_ERROR",
    -210: "SANLK_DBLOCK_READ",
    -211: "SANLK_DBLOCK_WRITE",
    -212: "SANLK_DBLOCK_LVER",
    -213: "SANLK_DBLOCK_MBAL",
    -214: "SANLK_DBLOCK_CHECKSUM",
    -220: "SANLK_LEADER_READ",
    -221: "SANLK_LEADER_WRITE",
    -222: "SANLK_LEADER_DIFF",
    -223: "SANLK_LEADER_MAGIC",
    -224: "SANLK_LEADER_VERSION",
    -225: "SANLK_LEADER_SECTORSIZE",
    -226: "SANLK_LEADER_LOCKSPACE",
    -227: "SANLK_LEADER_RESOURCE",
    -228: "SANLK_LEADER_NUMHOSTS",
    -229: "SANLK_LEADER_CHECKSUM",
    -230: "SANLK_ADDLS_SIZES",
    -231: "SANLK_ADDLS_INVALID_HOSTID",
    -240: "SANLK_ACQUIRE_LVER",
    -241: "SANLK_ACQUIRE_LOCKSPACE",
    -242: "SANLK_ACQUIRE_IDDISK",
    -243: "SANLK_ACQUIRE_IDLIVE",
    -244: "SANLK_ACQUIRE_OWNED",
    -245: "SANLK_ACQUIRE_OTHER",
    -246: "SANLK_ACQUIRE_SHRETRY",
    -247: "SANLK_ACQUIRE_OWNED_RETRY",
    -250: "SANLK_RELEASE_LVER",
    -251: "SANLK_RELEASE_OWNER",
    -260: "SANLK_RENEW_OWNER",
    -261: "SANLK_RENEW_DIFF",
    -262: "SANLK_HOSTID_BUSY",
    -270: "SANLK_REQUEST_MAGIC",
    -271: "SANLK_REQUEST_VERSION",
    -272: "SANLK_REQUEST_OLD",
    -273: "SANLK_REQUEST_LVER",
}
CODES = {name: code for code, name in ERRORS.items()}


class SanlockError(Exception):
    """A call that sanlock refused, or did not finish, with its `code`."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(call, code)
        self.call = call
        self.code = code

    def __str__(self) -> str:
        """Return the call, and the code by name and number."""
        return f"{self.call}: {named(self.code)}"


def named(code: int) -> str:
    """Return what sanlock calls its number `code`, or the kernel."""
    if code == -1:
        return "no reason given (-1)"  # not EPERM: the connection's end, too
    return f"{ERRORS.get(code) or errorcode.get(-code, 'error')} ({code})"


class Disk(ctypes.Structure):
    """Where a lease is: struct sanlk_disk."""

    _fields_ = (
        ("path", ctypes.c_char * 1024),
        ("offset", ctypes.c_uint64),
        ("pad1", ctypes.c_uint32),
        ("pad2", ctypes.c_uint32),
    )


class Resource(ctypes.Structure):
    """What is acquired: struct sanlk_resource, with the one disk that ours have."""

    _fields_ = (
        ("lockspace", ctypes.c_char * 48),
        ("name", ctypes.c_char * 48),
        ("version", ctypes.c_uint64),
        ("data64", ctypes.c_uint64),
        ("data32", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("num_disks", ctypes.c_uint32),
        ("disk", Disk),
    )


class Lockspace(ctypes.Structure):
    """What is joined: struct sanlk_lockspace."""

    _fields_ = (
        ("name", ctypes.c_char * 48),
        ("host_id", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("disk", Disk),
    )


class Owner(ctypes.Structure):
    """A host to whom a resource belongs, according to the storage: struct sanlk_host."""

    _fields_ = (
        ("host_id", ctypes.c_uint64),
        ("generation", ctypes.c_uint64),
        ("timestamp", ctypes.c_uint64),
        ("io_timeout", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class _Options(ctypes.Structure):
    """struct sanlk_options."""

    _fields_ = (
        ("owner_name", ctypes.c_char * 48),
        ("flags", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    )


def bytes_of(flags: int) -> int:
    """Return how much storage that takes, lockspace or resource."""
    return (flags & 0xF0) << 16


class Library:
    """The functions that we use; raises LockError where the library is not installed."""

    def __init__(self, file: str = FILE) -> None:
        try:
            self._dll = ctypes.CDLL(file)
            self._free = ctypes.CDLL(None).free
        except OSError as error:
            advice = "run: apt-get install libsanlock-client1"
            raise LockError("load", "libsanlock", f"{error}", advice) from error
        self._free.argtypes = [ctypes.c_void_p]
        self._free.restype = None

    def _call(self, name: str, *arguments: Any) -> int:  # noqa: ANN401  # whatever C takes
        """Return a result that is not negative; raises SanlockError."""
        code = int(getattr(self._dll, f"sanlock_{name}")(*arguments))
        if code < 0:
            raise SanlockError(name, code)
        return code

    def register(self) -> int:
        """Return a connection that makes this process known; its last copy's end frees leases."""
        return self._call("register")

    def restrict(self, fd: int, flags: int) -> None:
        """Have the daemon take no more orders from this connection, or not send every signal."""
        self._call("restrict", ctypes.c_int(fd), ctypes.c_uint32(flags))

    def acquire(self, pid: int, resources: Sequence[Resource], flags: int, name: bytes) -> None:
        """Acquire all of at most MAX_RESOURCES for a registered process, or none.

        `name` is what sanlock shows the process by, at most NAME_BYTES.
        """
        shown = ctypes.byref(_Options(name))
        self._call("acquire", *_for(pid, flags), len(resources), _pointers(resources), shown)

    def release(self, pid: int, resources: Sequence[Resource]) -> None:
        self._call("release", *_for(pid), len(resources), _pointers(resources))

    def convert(self, pid: int, wanted: Resource, flags: int) -> None:
        """Make a resource that the process has shared, or exclusive, as `wanted` says."""
        self._call("convert", *_for(pid, flags), ctypes.byref(wanted))

    def inquire(self, pid: int) -> str:
        """Return sanlock's words for what a registered process holds.

        LOCKSPACE:NAME:PATH:OFFSET:VERSION for each, or SH for the version, with blanks between.
        """
        count, state = ctypes.c_int(), ctypes.c_void_p()
        self._call("inquire", *_for(pid), ctypes.byref(count), ctypes.byref(state))
        if state.value is None:
            return ""
        text = ctypes.string_at(state.value)
        self._free(state)
        return os.fsdecode(text)

    def add_lockspace(self, lockspace: Lockspace, io_timeout: int) -> None:
        """Join; 0 is the daemon's own io_timeout."""
        self._call("add_lockspace_timeout", ctypes.byref(lockspace), 0, io_timeout)

    def inquire_lockspace(self, lockspace: Lockspace) -> None:
        """Return if this very one is joined, once that is decided."""
        self._call("inq_lockspace", ctypes.byref(lockspace), ctypes.c_uint32(_UNTIL_KNOWN))

    def write_lockspace(self, lockspace: Lockspace, io_timeout: int) -> None:
        """Format; nobody may use what is there."""
        self._call("write_lockspace", ctypes.byref(lockspace), 0, ctypes.c_uint32(0), io_timeout)

    def read_lockspace(self, lockspace: Lockspace) -> None:
        """Complete `lockspace` from the storage."""
        asked = (ctypes.byref(lockspace), ctypes.c_uint32(0), ctypes.byref(ctypes.c_uint32()))
        self._call("read_lockspace", *asked)

    def write_resource(self, what: Resource) -> None:
        """Format; nobody may use what is there."""
        self._call("write_resource", ctypes.byref(what), 0, 0, ctypes.c_uint32(0))

    def read_resource(self, what: Resource) -> None:
        """Complete `what` from the storage."""
        self._call("read_resource", ctypes.byref(what), ctypes.c_uint32(0))

    def owners(self, what: Resource) -> list[Owner]:
        """Return who owns the resource according to the storage, alive or not; completes `what`."""
        found, count = ctypes.POINTER(Owner)(), ctypes.c_int()
        asked = (ctypes.byref(what), ctypes.c_uint32(0), ctypes.byref(found), ctypes.byref(count))
        self._call("read_resource_owners", *asked)
        if not found:
            return []
        owners = [Owner.from_buffer_copy(found[index]) for index in range(count.value)]
        self._free(found)
        return owners


def _for(pid: int, flags: int = 0) -> tuple[ctypes.c_int, ctypes.c_int, ctypes.c_uint32]:
    """Return what begins a call on behalf of a registered process, which need not be ours."""
    return ctypes.c_int(-1), ctypes.c_int(pid), ctypes.c_uint32(flags)


def _pointers(resources: Sequence[Resource]) -> ctypes.Array[Any]:
    kind = ctypes.POINTER(Resource)
    return (kind * len(resources))(*(ctypes.pointer(each) for each in resources))
