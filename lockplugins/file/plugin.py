"""The plugin `file`: leases are kernel file locks, where libvirt's lockd driver has them.

Holds with: an OFD lock on byte 0 of the image, for a block device also of the
kernel's own node; with `file_lockspace_dir`, `lvm_lockspace_dir` or
`scsi_lockspace_dir` also of a lock file there for each of the disk's names.
Sharers read-lock bytes 0 and 2. While a guest migrates, source and destination
share byte 0, and the destination has byte 2 (handover.py).
Released when: a lease is released, or the last thread of guest and supervisor
is gone, whichever comes first. The guest carries the descriptors, so that the
supervisor's death alone frees nothing.
Loss is seen by: nobody. The kernel takes no lock away; a network filesystem
whose server forgot its locks says nothing.
Does not protect against: programs that look at no lock; other hosts, unless
the image or the lockspace directory is on a filesystem that locks across
hosts; a libvirt that is configured with lockspace directories when we are
not, or that knows the disk by a name that is neither ours nor its realpath;
other devices on the same storage (a disk and its partition, an image and a
loop device on it).

Imported on the launch path (README, D2).
"""

from lockplugins.contract import Capability, LockError, Mode, Plugin
from lockplugins.file import names
from lockplugins.file.attempt import Attempt, carried_as
from lockplugins.kernel_locks.lockfile import READ, SHARERS_BYTE, TRIES, called, check_directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lockplugins.contract import Carrier, Finding, Holder, Lease, Resource
    from lockplugins.file.attempt import Held
    from lockplugins.file.handover import FileHandover
    from lockplugins.handover import Handover
    from lockplugins.kernel_locks.lockfile import LockFile, Refusal

    Make = Callable[[Mapping[str, str], Carrier, Held, LockFile | None], Attempt]


class FilePlugin(Plugin):
    """Kernel file locks in libvirt's layout.

    `_held` has one LockFile for each (st_dev, st_ino), since a second one would
    be refused by our own; `_leases` has those that serve each lease.
    """

    name = "file"
    capabilities = (Capability.RESOURCES, Capability.HOTPLUG, Capability.MIGRATION)
    CONFIG_KEYS = (names.FILES, names.VOLUMES, names.UNITS)
    FREED_BY_DEATH = True

    def __init__(self, config: "Mapping[str, str]", carrier: "Carrier") -> None:
        super().__init__(config, carrier)
        check_directories(self.name, config)
        self._held: Held = {}
        self._leases: dict[Lease, list[LockFile]] = {}
        self._handover: FileHandover | None = None

    def acquire(self, resources: "Sequence[Resource]", wait_until: float | None) -> "list[Lease]":
        return self._take(resources, wait_until, Attempt)

    def migration(self) -> "Handover":
        if self._handover is None:
            from lockplugins.file.handover import FileHandover  # only where a guest migrates

            self._handover = FileHandover(self._take, self._leases)
        return self._handover

    def _take(
        self, resources: "Sequence[Resource]", wait_until: float | None, make: "Make"
    ) -> "list[Lease]":
        tries = TRIES
        won: LockFile | None = None
        while True:
            attempt = make(self.config, self.carrier, self._held, won)
            awaited: Refusal | None = None
            try:
                attempt.open(resources)
                refusal = attempt.lock()
                if refusal is None and attempt.still_named():
                    return attempt.commit(self._leases)
                if refusal and refusal.may_be_waited_for(wait_until):
                    awaited = refusal
                else:
                    from lockplugins.kernel_locks import books

                    tries -= 1
                    books.judge(refusal, ", ".join(map(called, resources)), tries)
            except BaseException:
                attempt.undo()
                raise
            won = awaited.file if awaited else None
            attempt.undo(keep=won)
            if awaited:
                awaited.wait()  # and this one is locked when the next attempt begins

    def release(self, lease: "Lease") -> None:
        files = self._leases.get(lease)
        if files is None:
            raise LockError("release", f"the lease on {lease.resource}", "this guest has none")
        if any(file.is_handed for file in files):
            why, advice = "it is still shared with a migration's source", "try again"
            raise LockError("release", f"the lease on {lease.resource}", why, advice)
        self._lower(lease, files)
        while files:
            file = files[-1]
            if file.users == [lease.mode]:
                # Unlocked first: that frees it at once, whatever copies are in flight.
                file.unlock()
                self.carrier.drop(carried_as(file))
                file.close()
                del self._held[file.identity]
            file.users.remove(lease.mode)
            files.pop()
        del self._leases[lease]

    def _lower(self, lease: "Lease", files: "list[LockFile]") -> None:
        """Convert to shared what only sharers of this guest will use; all of `files` or none."""
        lowered = [
            file
            for file in files
            if lease.mode == Mode.EXCLUSIVE and file.users.count(Mode.EXCLUSIVE) == 1
            if len(file.users) > 1
        ]
        for file in lowered:
            if not file.set(READ, SHARERS_BYTE):
                for other in lowered:
                    other.settle()
                why = "shared leases of this guest need a lock that is held elsewhere"
                raise LockError("release", f"the lease on {lease.resource}", why, "try again")
        for file in lowered:
            file.lock(Mode.SHARED)  # byte 2 is ours already: not refused

    def inquire(self, resource: "Resource") -> "list[Holder]":
        from lockplugins.file import holders

        return holders.of_resource(resource, self.config)

    def examine(self, resource: "Resource | None") -> "list[Finding]":
        from lockplugins.file import examine

        if resource is None:
            return list(examine.of_lockspaces(self.config))
        return list(examine.of_resource(resource, self.config))

    def named(self, resource: "Resource") -> list[tuple[str, str]]:
        located = names.locate(resource, self.config)
        located.close()
        return [(located.lockspace, located.lease)]
