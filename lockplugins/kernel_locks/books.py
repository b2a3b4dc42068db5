"""Who holds a file's lock? Reads the kernel's books, changes nothing.

/proc/locks has the pid of POSIX locks (virtlockd) and -1 for OFD locks; which
process has such a description open stands in /proc/PID/fdinfo alone. Imported
only when somebody asks. It must not know guests, nor what a lock is for.
"""

from __future__ import annotations

import os

from lockplugins.contract import (
    Holder,
    LeaseHeldError,
    LeaseUnknownError,
    Mode,
    ResourceError,
    cause,
)
from lockplugins.kernel_locks.lockfile import LEASE_BYTE, WRITE, LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lockplugins.kernel_locks.lockfile import Refusal

GONE = Holder(Mode.EXCLUSIVE, "a process that was gone before it could be named")

_MODES = {"READ": Mode.SHARED, "WRITE": Mode.EXCLUSIVE}
_WORDS = 8
_TELLINGS = 10
_COMMAND_CHARACTERS = 100
_WAIT = "stop the guest there or wait for it (--wait)"


def judge(
    refusal: Refusal | None, name: str, tries: int, verb: str = "acquire", advice: str = _WAIT
) -> None:
    """Raise, unless what stood in the way of `name` may be gone by now and `tries` are left.

    No refusal: a file was replaced between open and lock.
    """
    if refusal is None:
        if tries <= 0:
            why, advice = "its files are replaced again and again", "see who does that"
            raise LeaseUnknownError("lease", name, why, advice)
        return
    holder = of_refusal(refusal)
    if tries > 0 and (holder is None or holder.pid is None):
        return
    holder = holder or GONE
    why = f"held by {holder.description}"
    mode = Mode.SHARED if refusal.mode == Mode.SHARED else Mode.EXCLUSIVE
    raise LeaseHeldError(verb, f"{mode} lease for {refusal.file.name}", why, advice, holder)


def beside_source(fd: int, byte: int) -> Holder | None:
    """Return one on this host, not us, who shares the file's lease without a lock on `byte`."""
    file = _kernel_name(fd)
    sharers, more = _sharers(file, byte)
    if more == 0:
        return None
    for lock in sharers:
        if lock.pid > 0:
            return _named(lock.mode, lock.pid)
    theirs = {pid for _mode, pid in _described_by_fdinfo(file, byte)} | {os.getpid()}
    for mode, pid in _described_by_fdinfo(file, LEASE_BYTE):
        if pid not in theirs:
            return _named(mode, pid)
    # Counted twice, as in `_of_file`: a list that changes may be told wrong.
    return unseen(Mode.SHARED) if min(more, _sharers(file, byte)[1]) > 0 else None


def _sharers(file: str, byte: int) -> tuple[list[_Lock], int]:
    """Return who shares the file's lease, and by how many they exceed its source and us."""
    locks = _granted(file)
    sharers = [lock for lock in locks if lock.covers(file, LEASE_BYTE)]
    sources = sum(lock.covers(file, byte) for lock in locks)
    return sharers, len(sharers) - sources - 1


def of_refusal(refusal: Refusal) -> Holder | None:
    """Return one holder that is in the way, None if all are gone; raises LeaseUnknownError."""
    conflict = refusal.file.conflict(refusal.kind, refusal.byte)
    if conflict is None:
        return None
    mode, pid = conflict
    if pid > 0:
        return _named(mode, pid)
    local = [lock for lock in _of_file(refusal.file.fd, refusal.byte) if lock.mode == mode]
    # Ourselves last: a guest that shares is not in its own way when it wants more.
    return min(local, key=lambda holder: holder.pid == os.getpid(), default=unseen(mode))


def of_files(fds: Iterable[int], name: str) -> list[Holder]:
    """Return all who hold a lease by one of these files (O_PATH will do), ourselves included.

    `name` is what errors call the resource; raises LeaseUnknownError.
    """
    holders: dict[tuple[int | None, str], Holder] = {}
    for fd in fds:
        for holder in _of_lease(fd, name):
            holders.setdefault((holder.pid, holder.mode), holder)
    return list(holders.values())


def open_lock_file(directory: str, lock_file: str, name: str) -> int | None:
    """Return a descriptor (O_PATH) of a lock file, None if nobody has made it yet."""
    path = f"{directory}/{lock_file}"
    try:
        return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot_tell(name, cause(error, path)) from error


def _of_lease(fd: int, name: str) -> list[Holder]:
    local = _of_file(fd, LEASE_BYTE)
    if local:
        return local
    # Nobody here. The filesystem's server knows of other hosts.
    file = LockFile(os.dup(fd), os.O_PATH, name)
    try:
        file.replace(file.reopen(os.O_RDONLY), os.O_RDONLY)
        conflict = file.conflict(WRITE, LEASE_BYTE)
    except ResourceError as error:
        raise _cannot_tell(name, error.reason) from error
    finally:
        file.close()
    return [unseen(conflict[0])] if conflict else []


def _cannot_tell(name: str, why: str) -> LeaseUnknownError:
    return LeaseUnknownError("tell who holds", name, why, "ask as root")


def unseen(mode: str) -> Holder:
    seen_elsewhere = "another host, user or PID namespace, or a guest that is just dying"
    return Holder(mode, f"a process that cannot be seen from here ({seen_elsewhere})")


def _of_file(fd: int, byte: int) -> list[Holder]:
    """Return the processes of this host with a lock on `byte` of the file (O_PATH will do)."""
    file = _kernel_name(fd)
    locks = _listed(file, byte)
    holders = [_named(lock.mode, lock.pid) for lock in locks if lock.pid > 0]
    carried = [lock.mode for lock in locks if lock.pid < 0]
    if not carried:
        return holders
    described = list(_described_by_fdinfo(file, byte))
    holders += [_named(*lock) for lock in dict.fromkeys(described)]
    # Every lock whose description we may look at has a line in some fdinfo: fewer lines than
    # locks, and somebody is hidden. Counted twice, since a process may end while we look.
    still = sum(lock.pid < 0 for lock in _listed(file, byte))
    if len(described) < min(len(carried), still):
        holders.append(unseen(carried[0]))
    return holders


def _listed(file: str, byte: int) -> list[_Lock]:
    """Return what /proc/locks has on `byte` of the file."""
    return [lock for lock in _granted(file) if lock.covers(file, byte)]


def _granted(file: str) -> list[_Lock]:
    """Return what /proc/locks has on the file."""
    locks = (_Lock.parse(f"0:{line}") for line in settled(_tellings(file)))
    return [lock for lock in locks if lock]


def _tellings(file: str) -> Iterator[list[str]]:
    """Yield what /proc/locks has on the file, without numbers, again and again.

    The kernel tells its list a page at a time. What comes or goes between two
    pages makes it leave lines out or tell some twice: in 15 of 100 readings of
    two pages, beside a busy neighbour.
    """
    for _ in range(_TELLINGS):
        numbered = _read("/proc/locks").split("\n")
        yield [line for line in (n.partition(":")[2] for n in numbered) if file in line.split()]


def settled(tellings: Iterable[list[str]]) -> list[str]:
    """Return the first that is told twice running, else the last."""
    told: list[str] = []
    before: list[str] | None = None
    for told in tellings:
        if told == before:
            break
        before = told
    return told


def _named(mode: str, pid: int) -> Holder:
    """Return a holder that is described by its command line."""
    try:
        name = _read(f"/proc/{pid}/comm").rstrip("\n")
        command = _read(f"/proc/{pid}/cmdline").rstrip("\0").replace("\0", " ")
    except OSError:
        return Holder(mode, f"process {pid}", pid)
    if len(command) > _COMMAND_CHARACTERS:
        command = command[: _COMMAND_CHARACTERS - 1] + "…"
    words = f"{name}: {command}" if command else name
    return Holder(mode, f"process {pid} ({words})", pid)


class _Lock:
    """One lock as /proc/locks and fdinfo write it."""

    __slots__ = ("end", "file", "mode", "pid", "start")

    def __init__(self, words: list[str]) -> None:
        self.mode = _MODES[words[3]]
        self.pid = int(words[4])
        self.file = words[5]
        self.start = int(words[6])
        self.end = float("inf") if words[7] == "EOF" else int(words[7])

    @classmethod
    def parse(cls, line: str) -> _Lock | None:
        """Return None for what is no granted record lock: flock(2), leases, waiters ("->")."""
        words = line.split()
        if len(words) != _WORDS or words[1] not in {"POSIX", "OFDLCK"} or words[3] not in _MODES:
            return None
        return cls(words)

    def covers(self, file: str, byte: int) -> bool:
        return self.file == file and self.start <= byte <= self.end


def _described_by_fdinfo(file: str, byte: int) -> Iterator[tuple[str, int]]:
    """Yield (mode, pid) of every process that has a description with an OFD lock there."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fds = os.listdir(f"/proc/{pid}/fdinfo")
        except OSError:
            continue  # gone, or not ours to look at
        for fd in fds:
            try:
                text = _read(f"/proc/{pid}/fdinfo/{fd}")
            except OSError:
                continue
            for line in text.split("\n"):
                label, _, rest = line.partition(":")
                if label != "lock":
                    continue
                if (lock := _Lock.parse(rest)) and lock.pid < 0 and lock.covers(file, byte):
                    yield lock.mode, int(pid)


def _kernel_name(fd: int) -> str:
    """Return MAJOR:MINOR:INODE as the kernel writes it into its lists of locks.

    Not always what stat(2) says: btrfs and overlayfs show it another device.
    Before Linux 5.14 fdinfo has no inode, and stat's has to do.
    """
    status = os.fstat(fd)
    inode, mount = str(status.st_ino), ""
    for line in _read(f"/proc/self/fdinfo/{fd}").split("\n"):
        label, _, value = line.partition(":")
        if label == "ino":
            inode = value.strip()
        elif label == "mnt_id":
            mount = value.strip()
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    for line in _read("/proc/self/mountinfo").split("\n"):
        words = line.split(" ", 3)
        if words[0] == mount:
            major, minor = map(int, words[2].split(":"))
    return f"{major:02x}:{minor:02x}:{inode}"


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
