"""The plugin `vm`: one lease for the whole guest, named by its uuid; its disks are not looked at.

Holds with: an OFD lock on byte 0 of the file `lease_dir`/UUID, empty, made when
missing and never unlinked.
Released when: the last thread of guest and supervisor is gone. The guest
carries the descriptor, so that the supervisor's death alone frees nothing.
Loss is seen by: nobody. The kernel takes no lock away; a network filesystem
whose server forgot its locks says nothing.
Does not protect against: another guest on the same disks, which is `vm+file`'s
to do; the same guest under another uuid; other hosts, unless `lease_dir` is on
a filesystem that locks across hosts and is the same there; whoever removes the
lease file.

Imported on the launch path (README, D2).
"""

import posix

from lockplugins.contract import (
    Capability,
    Lease,
    LockError,
    Mode,
    Plugin,
    ResourceType,
    UnsupportedError,
)
from lockplugins.kernel_locks.lockfile import (
    TRIES,
    LockFile,
    called,
    check_directories,
    create,
    is_named,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lockplugins.contract import Carrier, Finding, Holder, Resource

LEASE_DIR = "lease_dir"
DEFAULT_DIR = "/var/lib/lock-supervisor/vm"


class VmPlugin(Plugin):
    """One kernel lock a guest; disks are accepted and ignored, explicit leases refused."""

    name = "vm"
    capabilities = (Capability.VM,)
    CONFIG_KEYS = (LEASE_DIR,)
    FREED_BY_DEATH = True

    def __init__(self, config: "Mapping[str, str]", carrier: "Carrier") -> None:
        super().__init__(config, carrier)
        check_directories(self.name, config)
        self._directory = config.get(LEASE_DIR, DEFAULT_DIR)
        self._held: dict[Lease, LockFile] = {}

    def acquire(self, resources: "Sequence[Resource]", wait_until: float | None) -> list[Lease]:
        for resource in resources:
            if resource.type == ResourceType.LEASE:
                raise self._unsupported("lease", resource)
        acquired: list[Lease] = []
        try:
            for resource in resources:
                if resource.type == ResourceType.VM:
                    file = self._lock(resource, wait_until)
                    acquired.append(Lease(resource, self._directory, resource.path))
                    self._held[acquired[-1]] = file
        except BaseException:
            for lease in reversed(acquired):
                self.release(lease)
            raise
        return acquired

    def _lock(self, resource: "Resource", wait_until: float | None) -> LockFile:
        """Lock the guest's file and hand it to the guest; raises LockError, nothing held."""
        tries = TRIES
        while True:
            fd, path = create(self._directory, resource.path, resource)
            file = LockFile(fd, posix.O_RDWR, called(resource))
            try:
                refusal = file.lock(Mode.EXCLUSIVE)
                if refusal and refusal.may_be_waited_for(wait_until):
                    refusal.wait()
                    refusal = file.lock(Mode.EXCLUSIVE)  # not refused: it is ours
                if refusal is None and is_named(path, file.identity):
                    self.carrier.keep(_carried_as(file), fd)
                    return file
                from lockplugins.kernel_locks import books  # only when refused

                tries -= 1
                books.judge(refusal, file.name, tries)
            except BaseException:
                file.close()
                raise
            file.close()

    def release(self, lease: Lease) -> None:
        file = self._held.pop(lease, None)
        if file is None:
            raise LockError("release", f"the lease on {lease.resource}", "this guest has none")
        # Unlocked first: that frees it at once, whatever copies are in flight.
        file.unlock()
        self.carrier.drop(_carried_as(file))
        file.close()

    def inquire(self, resource: "Resource") -> "list[Holder]":
        if resource.type != ResourceType.VM:
            raise self._unsupported("tell who holds", resource)
        from lockplugins.kernel_locks import books

        name = called(resource)
        fd = books.open_lock_file(self._directory, resource.path, name)
        if fd is None:
            return []
        try:
            return books.of_files([fd], name)
        finally:
            posix.close(fd)

    def examine(self, resource: "Resource | None") -> "list[Finding]":
        from lockplugins.kernel_locks import places

        return [] if resource else list(places.of_directory(self._directory))

    def named(self, resource: "Resource") -> list[tuple[str, str]]:
        return [(self._directory, resource.path)] if resource.type == ResourceType.VM else []

    def _unsupported(self, verb: str, resource: "Resource") -> UnsupportedError:
        why, advice = "plugin vm leases guests by their uuid alone", "use vm+file for disks as well"
        return UnsupportedError(verb, called(resource), why, advice)


def _carried_as(file: LockFile) -> str:
    return f"vm:{file.fd}"
