"""Which resources do a migration's two ends hold, one after the other, so that nobody gets between?

The source has its disks exclusively until the destination, when the source's
guest has stopped for good, takes the attempt's decision (`decision`): from then
on they are the destination's. The source sees that and shares them; the
destination shares them as well; the source says that it shares them still, and
lets go; the destination makes them exclusive, and is the owner. Who wants them
exclusively finds them held throughout. If the source ends before it has said
so, their versions have to be the cookie's and one more, else somebody may have
had them. It must not know when a guest has stopped.

That is by conversion since a release would leave a gap of some 10 ms; of 92,000
tries by strangers to have a disk alone none got in.

Does not keep out one who shares a disk while both ends do (some 50 ms), and does
not look for tickets (`ticket`): the guest stands still until he has gone. With
the source gone a version says less where strangers try: who is refused what
others share moves it all the same.
"""

from __future__ import annotations

import select
import time

from lockplugins.contract import (
    ConfigError,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    LeaseState,
    LockError,
    Mode,
)
from lockplugins.sanlock import claims, decision, holders, names
from lockplugins.sanlock.leaving import LOOK_MS, NEXT, SOON_S, VERSION, Leaving, short
from lockplugins.sanlock.library import SanlockError
from lockplugins.sanlock.refusals import Attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lockplugins.contract import Holder, Resource
    from lockplugins.sanlock.claims import Claim, Key
    from lockplugins.sanlock.names import Located
    from lockplugins.sanlock.plugin import SanlockPlugin

_DISKS = "the guest's disks"
_VERB = "complete the migration of"


class SanlockHandover(Leaving):
    """Both roles of one guest, one after the other, in the name of its `plugin`."""

    def __init__(self, plugin: SanlockPlugin) -> None:
        super().__init__(plugin)
        self._awaited: dict[Lease, Located] = {}
        self._is_clean = False

    def await_in(
        self, resources: Sequence[Resource], copied: Collection[str], wait_until: float | None
    ) -> list[Lease]:
        located = [names.locate(resource, self.plugin.settings) for resource in resources]
        claims.wanted(located)
        awaited = {
            each.identity
            for each in located
            if each.resource.mode == Mode.EXCLUSIVE and each.resource.path not in copied
        }
        now = [each.resource for each in located if each.identity not in awaited]
        tickets = self.tickets(claims.wanted([x for x in located if x.identity in awaited]))
        tickets.take(self.plugin.holding(), wait_until)
        try:
            acquired = iter(self.plugin.acquire(now, wait_until))
        except LockError:
            tickets.give_back(self.plugin.holding())
            raise
        leases: list[Lease] = []
        for each in located:
            if each.identity not in awaited:
                leases.append(next(acquired))
                continue
            lease = Lease(each.resource, *each.places[0].key)
            lease.state = LeaseState.PENDING
            self._awaited[lease] = each
            self.plugin.elsewhere.add(lease)
            leases.append(lease)
        return leases

    def complete_in(self, nonce: str, told: str) -> None:
        versions = self._versions(told)
        deadline = time.monotonic() + SOON_S
        while True:
            try:
                self._decide(nonce)
                self._share(versions)
                self._prove()
                self._own()
                break
            except LeaseHeldError:
                if time.monotonic() > deadline:
                    raise
                select.poll().poll(LOOK_MS)

    def _versions(self, told: str) -> dict[Key, int]:
        """Return what the source has told of what is awaited; raises ConfigError."""
        pairs = dict(each.partition(VERSION)[::2] for each in told.split(NEXT))
        versions: dict[Key, int] = {}
        for lease, located in self._awaited.items():
            keys = [place.key for place in located.places]
            known = {
                key: pairs[short(key)] for key in keys if pairs.get(short(key), "").isdecimal()
            }
            if not known:
                why = "the cookie is of a guest without it"
                advice = "give the one that this guest's source has printed"
                raise ConfigError(_VERB, f"{lease.type} {lease.resource}", why, advice)
            versions.update({key: int(version) for key, version in known.items()})
        return versions

    def _decide(self, nonce: str) -> None:
        """Have them decidedly, once the source has handed over."""
        attempt = self.attempt(nonce)
        if attempt.is_ours:
            return
        if (reached := attempt.reached()) == decision.PREPARED:
            advice = "let the source's migration end first"
            raise LeaseHeldError(_VERB, "the guest", "its source has not handed over", advice)
        attempt.is_ours = reached == decision.HANDED and attempt.take(decision.HANDED)
        if not attempt.is_ours:
            why = "that attempt is over: its source has cancelled it, or another destination has it"
            raise LockError(_VERB, "the guest", why, "cancel it here")

    def _share(self, versions: dict[Key, int]) -> None:
        """Share what the source has told of; what it does not know is taken at once."""
        after = self._wanted()
        if self.plugin.holding().claims.keys() >= after.keys():
            return
        # Its last first, which the source shares last: then it is not one by one that they are had.
        after = dict(reversed(claims.shared(after, versions).items()))
        self._become(after)
        reached = {key: self._version(after[key]) for key in versions}
        self._is_clean = all(reached[key] == told + 1 for key, told in versions.items())

    def _wanted(self) -> dict[Key, Claim]:
        return claims.wanted([*self.plugin.located.values(), *self._awaited.values()])

    def _become(self, after: dict[Key, Claim]) -> None:
        plugin, holding = self.plugin, self.plugin.holding()
        obstacles = [(each.resource, each.places) for each in self._awaited.values()]
        attempt = Attempt(plugin.asked(), holding.pid, obstacles, None)
        while True:
            try:
                holding.become(after)
                break
            except SanlockError as error:
                attempt.judge(error)
        plugin.look_at(after)

    def _version(self, claim: Claim) -> int:
        what = claim.place.resource()
        try:
            self.plugin.asked().read_resource(what)
        except SanlockError:
            return 0
        return int(what.version)

    def _prove(self) -> None:
        """Raise LockError unless nobody else can have had them since the source."""
        attempt = self.attempt()
        attempt.let_go()  # which tells the source that they are shared
        other = self._other()  # before it is looked at whether the source has said so
        if attempt.reached() == decision.SEEN or self._is_clean:
            return
        if other is not None:
            held, advice = f"they are shared by {other.description}", "let that end, or answer"
            raise LeaseHeldError(_VERB, _DISKS, held, advice, other)
        lost = "somebody else may have had them since, and the source has ended"
        raise LeaseLostError(_VERB, _DISKS, lost, "cancel it here, and start the guest anew")

    def _other(self) -> Holder | None:
        """Return who else has one of them."""
        pid, library = self.plugin.holding().pid, self.plugin.asked()
        for located in self._awaited.values():
            name = names.called(located.resource)
            for holder in holders.of_places(located.places, library, name, beside=pid):
                return holder
        return None

    def _own(self) -> None:
        """Have them alone, when the source has let go, and all who have shared them meanwhile."""
        plugin = self.plugin
        after = self._wanted()
        self._become(after)
        for lease, located in self._awaited.items():
            lease.generation = after[located.places[0].key].version
            lease.state = LeaseState.HELD
            plugin.located[lease] = located
            plugin.elsewhere.discard(lease)
        self._awaited = {}
        self.tickets(after).give_back(plugin.holding())

    def let_go(self) -> None:
        """Keep them: from the decision on the source cannot have them again."""

    def confirm(self) -> None:
        if not self.attempt().is_ours:
            # The guest has run all the same: the source finds that the attempt is over.
            decision.withdraw_all(self.plugin.settings, self.plugin.guest.uuid)

    def become_sole(self) -> None:
        """It is since `complete_in`."""
