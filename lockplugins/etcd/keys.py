"""Under which keys does etcd keep what, and what do their values say?

    /lsup/v1/NAMESPACE/sess/SID         a session: lives as long as its TTL is renewed
    /lsup/v1/NAMESPACE/disk/ID/w        exclusive owner         no TTL
    /lsup/v1/NAMESPACE/disk/ID/r/SID    shared holder           no TTL
    /lsup/v1/NAMESPACE/disk/ID/p/SID    parked owner: gone when anybody has owned since
    /lsup/v1/NAMESPACE/vm/UUID/w        the guest itself, exclusive
    /lsup/v1/NAMESPACE/in/UUID/w        who awaits the guest, as a migration's destination
    /lsup/v1/NAMESPACE/out/UUID         how far an attempt to migrate it is

No owner key has a TTL: what etcd does to a session, early or late, frees
nothing. It must not know how keys are changed.
"""

from __future__ import annotations

import json
import os
import time
from urllib.parse import quote, unquote

from lockplugins.contract import ConfigError, Mode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.contract import Guest

VERSION = "/lsup/v1/"
ALONE = "w"  # of an owner's keys the last word
INCOMING, OUTGOING = "in", "out"
DEFAULT_NAMESPACE = "default"
MOST_NAME_BYTES = 512  # etcd stands more; a person who reads a listing does not


class Place:
    """Where the claims on one disk, or on one guest, are kept: a directory of keys."""

    __slots__ = ("below", "name")

    def __init__(self, namespace: str, kind: str, name: str) -> None:
        self.name = name
        self.below = f"{VERSION}{encoded(namespace)}/{kind}/{encoded(name)}/"

    @property
    def owner(self) -> str:
        return self.below + ALONE

    @property
    def readers(self) -> str:
        return self.below + "r/"

    @property
    def parked(self) -> str:
        return self.below + "p/"

    def claim(self, mode: str, sid: str) -> str:
        """Return the key of a holder in that mode."""
        return self.owner if mode == Mode.EXCLUSIVE else self.readers + sid


def session(namespace: str, sid: str) -> str:
    return f"{VERSION}{encoded(namespace)}/sess/{sid}"


def attempt(namespace: str, uuid: str) -> str:
    return f"{VERSION}{encoded(namespace)}/{OUTGOING}/{encoded(uuid)}"


def encoded(name: str) -> str:
    """Return `name` so that none can look like a part of a key, and a person can read most."""
    found = quote(name, safe=":@+,=", errors="surrogateescape")
    if len(found) > MOST_NAME_BYTES:
        raise ConfigError("lease", name, f"its name has more than {MOST_NAME_BYTES} bytes")
    return found or "%"  # an empty name, which no other can look like


def decoded(name: str) -> str:
    return "" if name == "%" else unquote(name, errors="surrogateescape")


class Owner:
    """Who has a key, as its value says it; `proof_s` is the owner's K, for takers."""

    __slots__ = ("boot_id", "guest", "host", "pid", "proof_s", "sid", "since", "uuid")

    def __init__(self, sid: str, guest: Guest, pid: int, proof_s: float) -> None:
        self.sid = sid
        self.guest = guest.name
        self.uuid = guest.uuid
        self.host = os.uname().nodename
        self.boot_id = _boot_id()
        self.pid = pid
        self.proof_s = proof_s
        self.since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())  # for people alone

    @property
    def description(self) -> str:
        where = f"on host {self.host} since {self.since}"
        return f"guest {self.guest} ({self.uuid}) {where}"

    def local_pid(self) -> int | None:
        """Return its supervisor's pid, if that is one of this host's since it booted."""
        return self.pid if self.boot_id == _boot_id() else None

    def as_value(self) -> str:
        """Return what is written: the same for every key of one session, compared byte by byte."""
        fields = {field: getattr(self, field) for field in self.__slots__}
        return json.dumps(fields, separators=(",", ":"), sort_keys=True)


def read_owner(value: str) -> Owner | None:
    """Return who a value names, None for what we have not written: an owner for ever."""
    try:
        fields = json.loads(value)
        found = Owner.__new__(Owner)
        for field, kind in _FIELDS.items():
            if not isinstance(fields[field], kind):
                return None
            setattr(found, field, fields[field])
        value.encode("ascii")  # as all that json.dumps writes
        os.fsencode(found.description)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    plain = found.sid.isalnum() and found.sid.isascii()
    sane = 0 < found.proof_s < _LONGEST_S and 0 < found.pid < _MOST_PID
    return found if plain and sane and len(value) < _MOST_VALUE else None


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


_LONGEST_S, _MOST_PID, _MOST_VALUE = 1e6, 1 << 31, 8192
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "sid": str, "guest": str, "uuid": str, "host": str, "pid": int, "proof_s": (int, float),
    "since": str, "boot_id": str,
}  # fmt: skip
