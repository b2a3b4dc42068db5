"""What does doctor say of the plugin `sanlock`? Of library, daemon, watchdog, host_id and times.

Joins nothing and makes nothing. A daemon that is stopped is asked for as long as any other.
"""

from __future__ import annotations

import socket
from errno import ENOENT

from lockplugins.contract import LockError, cause
from lockplugins.sanlock import library, life, lockspace, names, record, status, storage
from lockplugins.sanlock.settings import DEFAULT_IO_TIMEOUT_S, LOCKSPACE
from lockplugins.sanlock.times import failure_s, renewal_s, takeover_s

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockplugins.contract import Finding, Resource
    from lockplugins.sanlock.settings import Settings

LIBRARY, DAEMON, WATCHDOG = "sanlock library", "sanlock daemon", "watchdog"
HOST_ID, TIMES, LEASE = "host id", "times", "lease"
CHECKS = (LIBRARY, DAEMON, WATCHDOG, HOST_ID, TIMES, LEASE,
          storage.FILE, storage.DIRECT, storage.SHARED)  # fmt: skip

_WDMD = "/run/wdmd/wdmd.sock"
_GUARD_EARLIER_S = 1  # than the proof's end
_OWN_ID = "give every host one of its own, from 1 to 2000, in [sanlock]"


def of_manager(settings: Settings) -> Iterator[Finding]:
    """Yield what is found of this host's sanlock, and of the lockspace."""
    try:
        library.Library()
        yield LIBRARY, True, f"{library.FILE} is loaded", ""
    except LockError as error:
        yield LIBRARY, False, error.reason, error.advice
    told: status.Status | None = None
    try:
        told = status.read(resources=False)
        version, host = told.daemon["version_str"], told.daemon["our_host_name"]
        yield DAEMON, True, f"sanlock {version} answers; this host is {host} to it", ""
    except LockError as error:
        yield DAEMON, False, error.reason, error.advice
    joined = None
    if told:
        joined = next((each for each in told.lockspaces if each.name == LOCKSPACE), None)
        yield _watchdog(told, joined)
    yield _host_id(settings, told, joined)
    user = storage.User(int(told.daemon["uid"]), int(told.daemon["gid"])) if told else None
    yield storage.of_file(settings, user)
    yield storage.of_direct_io(settings)
    yield storage.of_filesystem(settings)
    yield from _times(_io_timeout_s(settings, joined))


def _watchdog(told: status.Status, joined: status.Membership | None) -> Finding:
    """Is the host reset if it cannot be had to keep its word otherwise?"""
    if told.daemon["use_watchdog"] != "1":
        why = "none (-w 0): a guest that cannot be killed, or a host that stands still and goes on"
        why += ", may write after others took over"
        return WATCHDOG, False, why, "run wdmd, and the daemon without -w 0"
    if joined is None and (refusal := _without_wdmd()):
        why = f"wdmd does not answer: {refusal}; the daemon joins no lockspace without it"
        return WATCHDOG, False, why, "run: systemctl start wdmd (it needs /dev/watchdog)"
    words = "wdmd resets this host if the daemon dies, or cannot end who lost his leases"
    return WATCHDOG, True, words, ""


def _without_wdmd() -> str:
    """Return why the watchdog's daemon cannot be reached, or nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        try:
            connection.connect(_WDMD)
        except BlockingIOError:
            return ""  # it is there, and has much to do
        except OSError as error:
            return cause(error, _WDMD)
    return ""


def _host_id(
    settings: Settings, told: status.Status | None, joined: status.Membership | None
) -> Finding:
    """Is this host in the lockspace under its own number, or can it be?"""
    try:
        settings.check_host_id()
        if told is None:
            why = f"{settings.host_id}: only the daemon can tell whether this host is in"
            return HOST_ID, False, why, "see the sanlock daemon"
        if joined is None:
            return _to_join(settings, told.daemon["our_host_name"])
        joined = lockspace.membership(settings)
        life.check_record(joined)
    except LockError as error:
        return HOST_ID, False, error.reason, error.advice or "see the daemon's log"
    words = f"{joined.host_id}, generation {joined.generation}, in {joined.path}"
    if failed := life.how(joined):
        mend = "mend the storage: guests are ended if it stays so"
        return HOST_ID, False, f"{words}: the last renewal failed{failed}", mend
    return HOST_ID, True, words, ""


def _to_join(settings: Settings, our_name: str) -> Finding:
    """Is the number anybody's, as far as the lockspace tells?"""
    words = f"{settings.host_id}, not joined yet: the first guest does so"
    try:
        found = record.of_host(settings.lockspace_path, settings.host_id)
    except OSError as error:
        if error.errno == ENOENT:
            return HOST_ID, True, words, ""
        return HOST_ID, False, cause(error, settings.lockspace_path), "ask as root"
    if found is None or found.is_free or found.name == our_name:
        return HOST_ID, True, words, ""
    why = f"{settings.host_id} was not given up by {found.name}"
    seconds = takeover_s(found.io_timeout_s)
    mend = f"if that is another host, {_OWN_ID}; if it was this one, joining takes {seconds} s"
    return HOST_ID, False, why, mend


def _io_timeout_s(settings: Settings, joined: status.Membership | None) -> int:
    """Return what this host counts by, or will."""
    if joined:
        return joined.io_timeout_s
    return settings.io_timeout_s or DEFAULT_IO_TIMEOUT_S


def _times(io_timeout_s: int) -> Iterator[Finding]:
    """Yield when what happens, after the last renewal that reached the storage."""
    renewed, failed = renewal_s(io_timeout_s), failure_s(io_timeout_s)
    for seconds, words in (
        (renewed, f"the next renewal (io_timeout {io_timeout_s} s)"),
        (failed - _GUARD_EARLIER_S, "no renewal yet: the supervisor ends its guest, or parks it"),
        (failed, "sanlock ends the guest; so does the kernel, with a supervisor that is frozen"),
        (takeover_s(io_timeout_s), "another host may take its leases; a watchdog has reset this"),
    ):
        yield TIMES, True, f"{seconds:4} s: {words}", ""


def of_resource(resource: Resource, settings: Settings) -> Iterator[Finding]:
    """Yield what the leases of one resource are, and whether what is there is one."""
    try:
        places = names.locate(resource, settings).places
    except LockError as error:
        yield LEASE, False, error.reason, error.advice or "name what is there"
        return
    for place in places:
        where = f"{place.path}, offset {place.offset_bytes}"
        try:
            found = record.read(place.path, place.offset_bytes)
        except OSError as error:
            if place.is_made and error.errno == ENOENT:
                yield LEASE, True, f"{where}: made when it is first leased", ""
            else:
                yield LEASE, False, cause(error, where), "mend what the kernel says, or ask as root"
            continue
        if found and found.is_lease and (found.lockspace, found.name) == place.key:
            yield LEASE, True, f"{where}: version {found.version}", ""
        else:
            why = f"{where} is not the lease {':'.join(place.key)}"
            yield LEASE, False, why, "if no host uses it, remove it"
