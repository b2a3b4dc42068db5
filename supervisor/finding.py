"""Which guests does a runtime directory know, and which of them does GUEST mean?

Reads files and locks, asks nobody. A dead guard's directory is removed by
whoever meets it here, unless the guest still lives: then it is the only record
of what is left. It must not know the control pipe's commands.
"""

from __future__ import annotations

import os

from lockplugins.contract import LockError
from supervisor import exitcodes, records, rundir
from supervisor.client import open_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_PREFIX = 4

_UUID_CHARACTERS = frozenset("0123456789abcdef-")
_UUID_LENGTH = 36


class NoSuchGuestError(LockError):
    """No guest of this runtime directory is meant; exit code 1."""

    exit_code = exitcodes.NO_SUCH_GUEST


class AmbiguousGuestError(LockError):
    """More than one guest is meant; exit code 2."""

    exit_code = exitcodes.USAGE


class Guest:
    """A guest as its files tell; `guarded` false: its guard is dead, the guest is not yet.

    `record` is guest.json, empty while there is none.
    """

    __slots__ = ("guarded", "name", "path", "record", "uuid")

    def __init__(self, path: str, *, guarded: bool) -> None:
        self.path = path
        self.guarded = guarded
        self.record = records.read_guest(path) or {}
        self.uuid = os.path.basename(path)
        self.name = str(self.record.get("name", ""))

    def words(self) -> str:
        return f"{self.name} ({self.uuid})" if self.name else self.uuid


def guests(base: str) -> list[Guest]:
    """Return the guests of the runtime directory `base`; raises RundirError."""
    return [guest for path in _paths(base) if (guest := look(path)) is not None]


def guarded(base: str) -> list[Guest]:
    """Return the guests that have a living guard, and leave the others' directories alone."""
    return [Guest(path, guarded=True) for path in _paths(base) if is_guarded(path)]


def _paths(base: str) -> Iterator[str]:
    return (path for path in records.directories(base) if _is_uuid(os.path.basename(path)))


def look(path: str) -> Guest | None:
    """Return the guest of one directory, None (and the directory removed) when it is over."""
    guest = Guest(path, guarded=is_guarded(path))
    if guest.guarded:
        return guest
    pidfd = open_process(guest.record, "child")
    if pidfd is not None:
        os.close(pidfd)
        return guest
    try:
        removed = rundir.remove_dead(path)
    except OSError:  # a read-only filesystem: dead all the same
        return None
    return None if removed else Guest(path, guarded=True)  # a new guard was faster


def is_guarded(path: str) -> bool:
    """Is the guard of `path` alive, as far as we may know? Cannot tell is never dead."""
    try:
        return rundir.is_guarded(path)
    except OSError:  # another user's
        return True


def resolve(base: str, text: str) -> Guest:
    """Return the guest whose uuid or name `text` is, or whose uuid alone begins with it."""
    lowered = text.lower()
    if _is_uuid(lowered) and (guest := look(os.path.join(base, lowered))) is not None:
        return guest
    known = guests(base)
    meant = [guest for guest in known if guest.name == text]
    if not meant and len(text) >= MIN_PREFIX:
        meant = [guest for guest in known if guest.uuid.startswith(lowered)]
    if not meant:
        advice = "see list; other guests may be in another --runtime-dir"
        raise NoSuchGuestError("find", f"guest {text}", f"there is none in {base}", advice)
    if len(meant) > 1:
        candidates = ", ".join(guest.words() for guest in meant)
        raise AmbiguousGuestError(
            "tell", f"which guest {text} is", f"it may be {candidates}", "give the uuid"
        )
    return meant[0]


def _is_uuid(name: str) -> bool:
    return len(name) == _UUID_LENGTH and _UUID_CHARACTERS.issuperset(name)
