"""What does the storage say of a host_id, or of a lease? Reads its first sector.

It must not know the daemon, nor judge what is there.
"""

from __future__ import annotations

import os
from struct import Struct

SECTORS = (512, 4096)  # bytes: sanlock knows these two
FILE_BYTES = {512: 1 << 20, 4096: 8 << 20}

# struct leader_record: magic, version, flags, sector_size, num_hosts, max_hosts, owner_id,
# owner_generation, lver, space_name, resource_name, timestamp, -, checksum, -, io_timeout
_RECORD = Struct("<IIIiQQQQQ48s48sQQIHH")
_OF_HOST, _OF_LEASE = 0x12212010, 0x06152010


class Record:
    """A host's place in a lockspace, or a lease: `is_free` if nobody has it, or gave it up.

    `name` is what a host's daemon calls itself, or the lease's; `version` the lease's.
    """

    def __init__(self, said: bytes) -> None:
        fields = _RECORD.unpack(said)
        self.is_lease = fields[0] == _OF_LEASE
        self.sector_bytes, self.host_id = int(fields[3]), int(fields[6])
        self.generation, self.version = int(fields[7]), int(fields[8])
        self.lockspace, self.name = (os.fsdecode(word.rstrip(b"\0")) for word in fields[9:11])
        self.is_free = fields[11] == 0
        self.io_timeout_s = int(fields[15])


def read(path: str, at: int) -> Record | None:
    """Return the record at that byte of the file, None if there is none; raises OSError.

    Leaves the time of its reading as it is, if that may be left so.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        fd = os.open(path, flags)
    try:
        said = os.pread(fd, _RECORD.size, at)
    finally:
        os.close(fd)
    whole = len(said) == _RECORD.size
    if not whole or int.from_bytes(said[:4], "little") not in (_OF_HOST, _OF_LEASE):
        return None
    return Record(said)


def of_host(path: str, host_id: int) -> Record | None:
    """Return the record of a host_id, None if the file is no lockspace; raises OSError."""
    first = read(path, 0)
    if first is None or first.is_lease or first.sector_bytes not in SECTORS:
        return None
    return read(path, (host_id - 1) * first.sector_bytes)
