"""How are all files of some resources locked, or none? One try at it, and its undoing.

Opens everything first, so that a missing disk is known before any lock is
taken; each file once, whatever names lead to it. The guest gets descriptors
only when everything is won. It must not wait, nor judge a refusal. Imported on
the launch path (README, D2).
"""

import posix

from lockplugins.contract import Lease, LockError, Mode
from lockplugins.file import names
from lockplugins.kernel_locks.lockfile import (
    LEASE_BYTE,
    READ,
    SHARERS_BYTE,
    STRENGTH,
    LockFile,
    Refusal,
    called,
    create,
    is_named,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lockplugins.contract import Carrier, Resource

Held = dict[tuple[int, int], LockFile]


def carried_as(file: LockFile) -> str:
    """Return the carrier's name for the file's descriptor, unique while that is open."""
    return f"file:{file.fd}"


class Attempt:
    """One try. `held` has what the guest holds already; `won` is a file that was waited for.

    Ends in `commit` or `undo`, never in both.
    """

    def __init__(
        self, config: "Mapping[str, str]", carrier: "Carrier", held: Held, won: LockFile | None
    ) -> None:
        self._config = config
        self._carrier = carrier
        self._held = held
        self._fresh: Held = {won.identity: won} if won else {}
        self._wanted: dict[LockFile, str] = {}
        self._raised: list[LockFile] = []
        self._seen: list[tuple[str, tuple[int, int]]] = []
        self._claims: list[tuple[Lease, list[LockFile]]] = []

    def open(self, resources: "Sequence[Resource]") -> None:
        """Open every file of `resources`; raises LockError."""
        for resource in resources:
            located = names.locate(resource, self._config)
            files: dict[LockFile, None] = {}
            try:
                while located.found:
                    found = located.found.pop(0)
                    files[self._add(found.fd, posix.O_PATH, found.path, resource)] = None
                for place in located.lock_files:
                    fd, path = create(*place, resource)
                    files[self._add(fd, posix.O_RDWR, path, resource)] = None
            finally:
                located.close()
            lease = Lease(resource, located.lockspace, located.lease)
            self._claims.append((lease, list(files)))

    def _add(self, fd: int, access: int, path: str, resource: "Resource") -> LockFile:
        file = LockFile(fd, access, called(resource))
        self._seen.append((path, file.identity))
        known = self._held.get(file.identity) or self._fresh.get(file.identity)
        if known:
            file.close()
            if known.is_handed:
                why, advice = "its lease is still shared with a migration's source", "try again"
                raise LockError("lease", file.name, why, advice)
            known.name = file.name
            file = known
        else:
            self._fresh[file.identity] = file
        mode = self.mode_for(resource)
        self._wanted[file] = max(mode, self._wanted.get(file, mode), key=STRENGTH.index)
        return file

    def mode_for(self, resource: "Resource") -> str:
        """Return how the files of `resource` are to be locked."""
        return resource.mode

    def lock(self) -> "Refusal | None":
        """Lock everything in order without waiting, up to the first refusal; raises LockError."""
        for file, mode in self._wanted.items():
            if file.mode in (mode, Mode.EXCLUSIVE):
                continue
            self._make_lockable(file, mode)
            if file.users:
                self._raised.append(file)
            if refusal := file.lock(mode):
                return refusal
            # Whose source is gone already: byte 0 is free, and the destination's all the same.
            if mode == Mode.EXCLUSIVE and file.conflict(READ, SHARERS_BYTE):
                return Refusal(file, mode, READ, SHARERS_BYTE)
        return None

    def _make_lockable(self, file: LockFile, mode: str) -> None:
        """Open the file as `mode` needs it: a write lock needs a description that may write."""
        access = posix.O_RDONLY if mode == Mode.SHARED else posix.O_RDWR
        if file.access in (access, posix.O_RDWR):
            return
        fd = file.reopen(access)
        if not file.users:
            file.replace(fd, access)
            return
        # The guest relies on the old description: it gets the new one, locked, before that goes.
        new = LockFile(fd, access, file.name)
        try:
            new.lock(Mode.SHARED)  # not refused: we share it
            self._carrier.keep(carried_as(new), new.fd)
        except BaseException:
            new.close()
            raise
        old = carried_as(file)
        file.unlock()
        self._carrier.drop(old)
        file.replace(fd, access)
        file.mode = Mode.SHARED

    def still_named(self) -> bool:
        """Does every path still lead to what is locked?"""
        return all(is_named(path, identity) for path, identity in self._seen)

    def commit(self, leases: dict[Lease, list[LockFile]]) -> list[Lease]:
        """Hand everything to the guest and into `leases`; raises LockError, then `undo`."""
        self._hand_over([file for file in self._wanted if not file.users])
        for file in self._fresh.values():
            if file in self._wanted:
                self._held[file.identity] = file
            else:
                file.close()  # waited for, but its name has come to mean another file
        for lease, files in self._claims:
            leases[lease] = files
            for file in files:
                file.users.append(lease.mode)
        return [lease for lease, _files in self._claims]

    def _hand_over(self, files: list[LockFile]) -> None:
        kept: list[LockFile] = []
        try:
            for file in files:
                self._carrier.keep(carried_as(file), file.fd)
                kept.append(file)
            for file in self._raised:
                file.settle()
        except BaseException:
            for file in reversed(kept):
                file.unlock()
                self._carrier.drop(carried_as(file))
            raise

    def undo(self, keep: LockFile | None = None) -> None:
        """Give back what was taken, in reverse; `keep` stays open, but unlocked."""
        for file in reversed(self._raised):
            file.set(READ, LEASE_BYTE)  # byte 2 was never given up: not refused
            file.mode = Mode.SHARED
        for file in reversed(self._fresh.values()):
            if file is not keep:
                _free(file)
        if keep:
            keep.unlock()


def _free(file: LockFile) -> None:
    """Unlock and close: whoever just looks at the descriptor in /proc has it open, too."""
    try:
        if file.access != posix.O_PATH:
            file.unlock()
    except LockError:
        pass  # its end does the same
    file.close()
