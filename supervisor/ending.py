"""Is a guest gone, and nobody left who carries its leases? And how is one revoked?

Judges by pidfds and by the carrier's inode, never by a pid that somebody wrote
down, a process state or a lock. It must not know any lock manager.

Does not see a carrier in a process that we may not look at (another user's,
unless root).
"""

from __future__ import annotations

import os
import signal
import time

from lockplugins.contract import LockError, cause
from supervisor import rundir
from supervisor.client import is_readable, open_process
from supervisor.finding import is_guarded
from supervisor.holders import carries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from supervisor.finding import Guest

GONE_WITHIN_S = 30.0


class UnkillableError(LockError):
    """A process of the guest is still there: nothing is proven, nothing was released."""


class Witnesses:
    """The processes whose end proves a guest gone: guard, child, and all that carry its leases.

    Made before anything is ended: under a PID namespace its init is among the
    carriers, and its pidfd becomes readable when the whole namespace is dead.
    Owns the pidfds.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._fds: dict[int, str] = {}
        self.guard: int | None = None
        self._child: int | None = None
        this_boot = guest.record.get("boot_id") == rundir.boot_id()
        self._inode = guest.record.get("carrier_inode") if this_boot else None
        try:
            self._find()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._fds:
            os.close(self._fds.popitem()[0])

    def _find(self) -> None:
        self.guard = self._open("supervisor")
        self._add(self.guard, "its supervisor")
        if self.guard is None and is_guarded(self.guest.path):
            reason = "guest.json does not name its supervisor"
            raise UnkillableError("watch", f"guest {self.guest.words()}", reason, "try again")
        self._child = self._open("child")
        self._add(self._child, "its process")
        self._add_carriers()

    def _open(self, who: str) -> int | None:
        """Open a process that guest.json names; raises LockError if its writer could not end it.

        Whoever writes there would else have root end what process he likes.
        """
        pidfd = open_process(self.guest.record, who)
        writers = _other_writers(self.guest.path)
        if pidfd is None or not writers:
            return pidfd
        pid = self.guest.record[f"{who}_pid"]
        if (user := _user_of(pid)) is None or writers == {user}:
            return pidfd
        os.close(pidfd)
        name, others = f"guest {self.guest.words()}", " and ".join(map(str, sorted(writers)))
        reason = (
            f"its directory is user {others}'s, and names process {pid}, which is user {user}'s"
        )
        raise LockError("watch", name, reason, "nothing was ended; look at that process")

    def signal_guard(self, number: int) -> None:
        """Send the guard a signal; raises LockError when that is refused."""
        if self.guard is not None and is_guarded(self.guest.path):
            self._signal(self.guard, number)

    def fence(self) -> None:
        """SIGKILL the guest itself, in case it has escaped the kernel's; raises LockError."""
        if self._child is not None:
            self._signal(self._child, signal.SIGKILL)

    def _signal(self, pidfd: int, number: int) -> None:
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return
        except OSError as error:
            name, advice = f"guest {self.guest.words()}", "be root, or the user who started it"
            raise LockError("end", name, cause(error), advice) from error

    def wait(self, within_s: float | None) -> None:
        """Return when all are gone and nobody carries the leases; raises UnkillableError."""
        deadline = None if within_s is None else time.monotonic() + within_s
        while self._fds:
            for fd in list(self._fds):
                self._wait_for(fd, deadline)
            self._add_carriers()

    def guard_is_gone(self, within_s: float = 0.0) -> bool:
        """Has the guard ended, or does it within this time?"""
        return self.guard is None or _ends(self.guard, time.monotonic() + within_s)

    def _wait_for(self, fd: int, deadline: float | None) -> None:
        if not _ends(fd, deadline):
            raise UnkillableError(
                "prove",
                f"guest {self.guest.words()} gone",
                f"{self._fds[fd]} is still there, perhaps unkillable (uninterruptible sleep)",
                "nothing was released",
            )
        os.close(fd)
        del self._fds[fd]
        if fd == self.guard:
            self.guard = None

    def _add(self, pidfd: int | None, who: str) -> None:
        if pidfd is not None:
            self._fds[pidfd] = who

    def _add_carriers(self) -> None:
        if self._inode is not None:
            for pid in carriers(self._inode):
                self._add(
                    _open_carrier(pid, self._inode), f"process {pid}, which carries its leases,"
                )


def _other_writers(path: str) -> set[int]:
    """Return the users, us and root apart, who can put any pid into this runtime directory."""
    owners = {os.stat(os.path.dirname(path)).st_uid}
    try:
        owners.add(os.lstat(path).st_uid)
    except FileNotFoundError:
        pass  # removed by its guard, or by one of the others
    return owners - {0, os.geteuid()}


def _user_of(pid: object) -> int | None:
    """Return the real user of a process, None when it is gone: what he runs he may end."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Uid:"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def carriers(inode: object) -> list[int]:
    """Return the pids that have the carrier socket of this inode open."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if carries(pid, inode)]


def _open_carrier(pid: int, inode: object) -> int | None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if carries(pid, inode):  # still, with the pidfd open: no other process of this number
        return pidfd
    os.close(pidfd)
    return None


def _ends(pidfd: int, deadline: float | None) -> bool:
    return is_readable(pidfd, None if deadline is None else max(0.0, deadline - time.monotonic()))


def is_gone(guest: Guest, within_s: float) -> bool:
    """Is the guest gone, with all who carry its leases, or does it go within this time?"""
    try:
        with Witnesses(guest) as witnesses:
            witnesses.wait(within_s)
    except UnkillableError:
        return False
    return True


def revoke(guest: Guest, within_s: float = GONE_WITHIN_S) -> None:
    """SIGKILL the guest's supervisor and prove guest and leases gone; raises UnkillableError."""
    with Witnesses(guest) as witnesses:
        witnesses.signal_guard(signal.SIGKILL)
        witnesses.fence()
        witnesses.wait(within_s)
    rundir.remove_dead(guest.path)
