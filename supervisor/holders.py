"""Which guest is behind a lease's holder, and how is it named to a person and to a script?

Used by the guard, off its main thread, when it is refused or has to wait, and
by the commands that only tell; not loaded before (README, D2). It must not
look at locks.
"""

from __future__ import annotations

import os

from lockplugins.contract import Mode, ResourceType, shown
from supervisor import records, rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lockplugins.contract import Holder, LeaseHeldError, Plugin, Resource

    Record = dict[str, object]


class Known:
    """A holder and, where it is a guest of ours, its guest.json.

    `guarded` false: the guest's guard is dead, and the guest is not yet.
    """

    __slots__ = ("guarded", "guest", "holder")

    def __init__(self, holder: Holder, guest: Record | None, *, guarded: bool) -> None:
        self.holder = holder
        self.guest = guest
        self.guarded = guarded

    def words(self) -> str:
        """Say who it is: a guest by name, another as its lock manager described it."""
        guest = self.guest
        if guest is None:
            return self.holder.description
        name, uuid, since = (shown(str(guest.get(key))) for key in ("name", "uuid", "since"))
        pid = guest.get("supervisor_pid")
        guard = f"supervisor pid {pid}" if self.guarded else "its supervisor dead"
        child_pid = guest.get("child_pid")
        child = f", guest pid {child_pid}" if child_pid else ""
        ending = "" if self.guarded else "; the kernel is ending it"
        return f"guest {name} ({uuid}), {guard}{child}, since {since}{ending}"

    def as_json(self) -> dict[str, object]:
        """Return the holder as `who --json` shows it; what is not known is None."""
        guest = self.guest or {}
        local = self.guest is not None or self.holder.pid is not None
        return {
            "host": self.holder.host or (os.uname().nodename if local else None),
            "guest": guest.get("name"),
            "uuid": guest.get("uuid"),
            "supervisor_pid": guest.get("supervisor_pid") if self.guarded else None,
            "child_pid": guest.get("child_pid"),
            "since": guest.get("since"),
            "generation": self.holder.generation,
            "description": self.words(),
        }


def identify(holder: Holder, paths: Sequence[str], base: str) -> Known:
    """Find the guest behind a holder of one of the disks `paths`.

    A living guard is found in whatever runtime directory; a guest that has
    outlived its guard in `base`, if it is the holder, or none is seen to be.
    """
    if holder.pid is not None and (guest := guest_of(holder.pid)) is not None:
        return Known(holder, guest, guarded=True)
    orphans = (
        guest
        for guest in _orphans(base)
        if holder.host is None and _leases_one_of(guest, paths)
        if holder.pid in (None, guest["child_pid"])
    )
    return Known(holder, next(orphans, None), guarded=False)


def is_in_the_way(holder: Holder, resource: Resource) -> bool:
    """Does another's lease keep us from the resource in the mode that it is wanted in?"""
    return holder.pid != os.getpid() and Mode.EXCLUSIVE in (holder.mode, resource.mode)


def in_the_way(
    plugin: Plugin, resources: Iterable[Resource], base: str
) -> tuple[Resource, Known] | None:
    """Return the first of `resources` that another keeps us from, and whom."""
    for resource in resources:
        for holder in plugin.inquire(resource):
            if is_in_the_way(holder, resource):
                return resource, identify(holder, [resource.path], base)
    return None


def name_guest(error: LeaseHeldError, resources: Iterable[Resource], base: str) -> None:
    """Say the guest's name in a refusal, of one of `resources`, whose holder is a guest of ours."""
    holder = error.holder
    if holder is not None:
        paths = [resource.path for resource in resources if error.name.endswith(resource.path)]
        words = identify(holder, paths, base).words()
        error.reason = error.reason.replace(holder.description, words)
        holder.description = words


def guest_of(pid: int) -> Record | None:
    """Return the guest.json of the guard that runs as `pid`, or has `pid` as its child.

    In whatever runtime directory: the guard is found by the supervisor.pid that
    it has open, never by name. None where that may not be looked at.
    """
    return _guest_of_guard(pid) or _guest_of_guard(_parent(pid))


def _guest_of_guard(pid: int) -> Record | None:
    for target in _open_files(pid):
        directory, _, name = target.rpartition("/")
        if name == rundir.SUPERVISOR_PID:
            guest = records.read_guest(directory)
            if guest is not None and guest.get("supervisor_pid") == pid and _is_sound(guest):
                return guest
    return None


def _parent(pid: int) -> int:
    """Return the parent of a process, 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def carries(pid: int, inode: object) -> bool:
    """Is the process seen to have the carrier socket of this inode open?"""
    return f"socket:[{inode}]" in _open_files(pid)


def _open_files(pid: int) -> Iterator[str]:
    """Yield what the process's descriptors are links to; nothing when that may not be looked at."""
    directory = f"/proc/{pid}/fd"
    try:
        fds = os.listdir(directory)
    except OSError:
        return
    for fd in fds:
        try:
            yield os.readlink(f"{directory}/{fd}")
        except OSError:
            continue  # closed meanwhile


def _is_sound(guest: Record) -> bool:
    """Is this what a guard writes, as far as it is handed on? The file may be a stranger's."""
    words = (guest.get(key) for key in ("name", "uuid", "since"))
    return isinstance(guest.get("child_pid"), int | None) and all(isinstance(w, str) for w in words)


def _orphans(base: str) -> Iterator[Record]:
    """Yield the guests of `base` that live on while their guard is dead."""
    try:
        for path in records.directories(base):
            guest = None if rundir.is_guarded(path) else records.read_guest(path)
            if guest is not None and _is_sound(guest) and guest.get("boot_id") == rundir.boot_id():
                pid = guest["child_pid"]
                if isinstance(pid, int) and rundir.start_time(pid) == guest.get("child_start_time"):
                    yield guest
    except (rundir.RundirError, OSError):
        return  # not ours to look at: nobody is named


def _leases_one_of(guest: Record, paths: Sequence[str]) -> bool:
    """Had the guest a lease on one of these very files, or are they its own uuid?"""
    leases = guest.get("leases")
    for lease in leases if isinstance(leases, list) else ():
        if not isinstance(lease, dict):
            continue
        kind, named = str(lease.get("type")), str(lease.get("resource"))
        if kind == ResourceType.VM and named in paths:
            return True
        if kind == ResourceType.DISK:
            try:
                if any(os.path.samefile(named, path) for path in paths):
                    return True
            except (OSError, ValueError):  # gone, or no path
                continue
    return False
