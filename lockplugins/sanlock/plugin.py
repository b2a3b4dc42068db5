"""The plugin `sanlock`: leases on shared storage, where libvirt's sanlock driver has them.

Holds with: a resource of the lockspace `__LIBVIRT__DISKS__` in `disk_lease_dir`
for a disk's path as given, and for its realpath; for a block device instead of
that one for its number on this host. Shared and readonly disks: shared (libvirt
takes none for readonly). Explicit leases: as they are. The process with which
the guest ends is registered with the daemon, and the guest inherits that.
Released when: a lease is released, or the last of guest and init is dead; if
the whole host is, then 8 io_timeouts and 60 s after its last renewal. The
supervisor's death alone frees nothing.
Loss is seen by: the daemon, which ends the guest with SIGKILL if the lockspace
fails; by us, when the daemon ends, renews no more, or does not list a lease.
Does not protect against: programs that ask no lock manager; a libvirt that
knows the disk by a name that is neither ours nor its realpath; hard links in
another guest; a host without a watchdog (`-w 0`) that stands still as a whole,
and goes on later; hosts with another `disk_lease_dir`. A daemon that has a name of its own
(`-e`, our_host_name), killed and started anew while a supervisor stands still: its guest may
live for 8 io_timeouts more, for which we wait on this host, but libvirt and other hosts do not.
"""

from __future__ import annotations

import select
import time

from lockplugins.contract import (
    Capability,
    Guest,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    LockError,
    Mode,
    Plugin,
)
from lockplugins.sanlock import claims, holders, lockspace, names, settings, status
from lockplugins.sanlock.library import RESTRICT_ALL, RESTRICT_SIGTERM, Library, SanlockError
from lockplugins.sanlock.life import Life, term_s
from lockplugins.sanlock.refusals import Attempt
from lockplugins.sanlock.taking import Taking
from lockplugins.sanlock.ticket import Tickets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Mapping, Sequence

    from lockplugins.contract import Carrier, Finding, Holder, Resource
    from lockplugins.handover import Handover
    from lockplugins.sanlock.claims import Claim, Key
    from lockplugins.sanlock.names import Located

_NO_WATCHDOG = "without a watchdog, a host that stands still and goes on may write a moment longer"
_LOOK_AFTER_S = 5.0  # at the latest; a lockspace that fails ends the guest without us
_ENDING_MS = 1000
_FREED_S = 8.0
_LOOK_MS = 5


class SanlockPlugin(Plugin):
    """Leases of the host's sanlock daemon."""

    name = "sanlock"
    capabilities = (
        Capability.RESOURCES,
        Capability.HOTPLUG,
        Capability.MIGRATION,
        Capability.EXPIRES,
        Capability.GENERATIONS,
    )
    CONFIG_KEYS = settings.KEYS
    REGISTERS = True

    def __init__(self, config: Mapping[str, str], carrier: Carrier) -> None:
        super().__init__(config, carrier)
        self.settings = settings.Settings(config)
        self._life = Life()
        self._alone_from = 0.0  # then nobody runs on a proof of before the daemon has joined
        self._library: Library | None = None
        self._watched: _socket.socket | None = None
        self._knows_us = True
        self.guest = Guest("", "")
        self._taking: Taking | None = None
        self.located: dict[Lease, Located] = {}
        self.elsewhere: set[Lease] = set()  # which a migration's other end has, or may have
        self._handover: Handover | None = None
        self._given_up: dict[Lease, tuple[Located, dict[Key, int]]] = {}

    def asked(self) -> Library:
        if self._library is None:
            self._library = Library()
        return self._library

    def holding(self) -> Taking:
        """Return what the guest holds: the guard knows by now which process has registered."""
        if self._taking is None:
            self._taking = Taking(self.asked(), self.guest.pid, self.guest.name)
        return self._taking

    def open(self, guest: Guest) -> None:
        self.settings.check_host_id()
        lockspace.check_parent(self.settings)
        self.asked()
        self._watched = status.watch()
        self.guest = guest
        guest.doing = self.settings.joining
        joined = self._join()
        guest.doing = ""
        self.CAVEAT = "" if joined.watchdog else _NO_WATCHDOG
        self.PROOF_TERM_S = term_s(joined)
        self.RENEW_EVERY_S = min(_LOOK_AFTER_S, joined.io_timeout_s / 2)

    def _join(self) -> status.Membership:
        joined = lockspace.join(self.asked(), self.settings)
        self._life.watch(joined)
        self._life.begin()
        self._alone_from = joined.since + term_s(joined)
        return joined

    def in_child(self) -> tuple[int, ...]:
        library = self.asked()
        try:
            fd = library.register()
            # The guest can order nothing. It gets SIGKILL: init, or a stopped guest, would stay.
            library.restrict(fd, RESTRICT_ALL | RESTRICT_SIGTERM)
        except SanlockError as error:
            raise LockError("register", "the guest", str(error), "see the daemon's log") from error
        return (fd,)

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:
        located = [names.locate(resource, self.settings) for resource in resources]
        self._hold(located, wait_until, {})
        leases = [Lease(each.resource, *each.places[0].key) for each in located]
        for lease, each in zip(leases, located, strict=True):
            lease.generation = self.holding().claims[each.places[0].key].version
            self.located[lease] = each
        return leases

    def _hold(
        self, located: Sequence[Located], wait_until: float | None, versions: Mapping[Key, int]
    ) -> None:
        """Hold what these need, too; what has a version, at that one alone. Raises LockError."""
        holding = self.holding()
        in_all = [*self.located.values(), *located]
        after = claims.wanted(in_all)
        taken = claims.Change(holding.claims, after).taken
        lockspace.create_resources(self.asked(), self.settings, taken)
        for claim in taken:
            claim.version = versions.get(claim.place.key, 0)
        obstacles = [(each.resource, claims.places_of(each, in_all)) for each in located]
        attempt = Attempt(self.asked(), holding.pid, obstacles, wait_until)
        if not versions:  # else nobody has had them but this guest
            attempt.outlast(self.settings.host_id, self._alone_from)
        shared = [claim.place for claim in taken if claim.mode == Mode.SHARED]
        tickets = Tickets(self.asked(), self.settings, shared)
        while True:
            try:
                tickets.respect(holding, after)
                break
            except SanlockError as error:
                attempt.judge(error)
        try:
            self.look_at(after)
        except LockError:
            try:
                holding.free(holding.become(claims.wanted(list(self.located.values()))))
            except SanlockError:
                pass  # not relied on, and free at the latest when the process ends
            raise

    def look_at(self, held: Mapping[Key, Claim]) -> None:
        """Note the versions and files of what is held, and count on the lockspaces it is in."""
        for claim in held.values():
            claim.file = claim.file or claim.is_in()
        told = status.read()
        for each in told.resources:
            if each.key in held and each.pid == self.holding().pid:
                held[each.key].version = each.version
        for joined in told.lockspaces:
            if joined.name != settings.LOCKSPACE and any(joined.name == key[0] for key in held):
                self._life.watch(joined)

    def migration(self) -> Handover:
        if self._handover is None:
            from lockplugins.sanlock.handover import SanlockHandover  # only where a guest migrates

            self._handover = SanlockHandover(self)
        return self._handover

    def release(self, lease: Lease) -> None:
        if lease in self.elsewhere:
            return
        if (located := self.located.get(lease)) is None:
            raise LockError("release", f"the lease on {lease.resource}", "this guest has none")
        holding = self.holding()
        versions = {place.key: self._version(holding.claims[place.key]) for place in located.places}
        rest = [each for other, each in self.located.items() if other is not lease]
        try:
            dropped = holding.become(claims.wanted(rest))
        except SanlockError as error:
            name = f"the lease on {lease.resource}"
            raise LockError("release", name, str(error), "see the daemon's log") from error
        self._given_up[lease] = (located, versions)
        del self.located[lease]
        self._free(lease, dropped)

    def _version(self, claim: Claim) -> int:
        """Return the version that nobody may have written after; every new sharer has his own."""
        if claim.mode == Mode.SHARED:
            try:
                if all(joined.result > 0 for joined in self._life.check()):  # it can be read
                    what = claim.place.resource()
                    self.asked().read_resource(what)
                    return int(what.version)
            except (LockError, SanlockError):
                return claim.version
        return claim.version

    def _free(self, lease: Lease, dropped: list[Claim]) -> None:
        """Give them up for sure; the process's death does it as well. Raises LockError."""
        holding, deadline = self.holding(), time.monotonic() + _FREED_S
        refused: SanlockError | None = None
        while refused is None or holding.lists(dropped):
            if time.monotonic() > deadline:
                name, why = f"the lease on {lease.resource}", f"sanlock has it still: {refused}"
                raise LockError("release", name, why, "see the daemon's log") from refused
            try:
                holding.free(dropped)
            except SanlockError as error:
                refused = error
                select.poll().poll(_LOOK_MS)
            else:
                return

    def reacquire(self, lease: Lease) -> None:
        if (given := self._given_up.get(lease)) is None:
            raise LockError("re-acquire", f"the lease on {lease.resource}", "it was not released")
        if not self._knows_us:  # and nobody registers anew
            why = "the sanlock daemon that knew the guest has ended"
            raise LeaseLostError("re-acquire", f"the lease on {lease.resource}", why)
        try:
            self._life.check()
        except LeaseLostError:
            self._join()  # what was on the storage is judged by its version
        located, versions = given
        try:
            self._hold([located], None, versions)
        except LeaseHeldError as error:
            why = f"another has it by now: {error.reason}"
            raise LeaseLostError("re-acquire", error.name, why) from error
        lease.generation = self.holding().claims[located.places[0].key].version
        self.located[lease] = located
        del self._given_up[lease]

    def inquire(self, resource: Resource) -> list[Holder]:
        located = names.locate(resource, self.settings)
        return holders.of_places(located.places, self.asked(), names.called(resource))

    def examine(self, resource: Resource | None) -> list[Finding]:
        from lockplugins.sanlock import examine  # for doctor alone

        if resource is None:
            return list(examine.of_manager(self.settings))
        return list(examine.of_resource(resource, self.settings))

    def named(self, resource: Resource) -> list[tuple[str, str]]:
        return [place.key for place in names.locate(resource, self.settings).places]

    def watch_fds(self) -> tuple[int, ...]:
        return (self._watched.fileno(),) if self._watched else ()

    def on_readable(self, fd: int) -> None:  # noqa: ARG002  # there is but one
        """It says nothing: this is its end."""
        self._knows_us = False
        why = "it has ended, and with it what it knew of the guest"
        raise LeaseLostError("keep in touch with", "the sanlock daemon", why)

    def renew(self) -> float:
        self._check_listed()
        return self._life.end() - self.PROOF_TERM_S

    def _check_listed(self) -> None:
        """Raise LeaseLostError if the daemon does not list what the guest has, though it lives."""
        holding = self.holding()
        try:
            lacks = holding.lacks()
        except SanlockError as error:
            raise LockError("list", "the guest's leases", str(error)) from error
        if lacks and not holding.has_ended(_ENDING_MS):
            why = f"sanlock does not list them any more for process {holding.pid}"
            raise LeaseLostError("keep", "the guest's leases", why)
        for claim in list(holding.claims.values()):
            claim.check_file()

    def close(self) -> None:
        """Raise LeaseLostError if the guest may have ended because its leases were lost."""
        if self._watched:
            self._watched.close()
            self._watched = None
            self._life.check()
