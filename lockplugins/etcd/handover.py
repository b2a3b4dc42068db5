"""Which keys do a migration's two ends have, one after the other, so that nobody gets between?

The source has its disks alone until the destination, in one transaction, owns them. It awaits the
guest with a *ticket* until then: an exclusive claim on nothing else, which is proven, healed, and
taken over from the dead as every other. So there is one destination; and a source that has handed
over runs again only with the ticket in its own hand. Shared disks are shared by both meanwhile. How
far an attempt is, `attempt` tells. It must not know when a guest has stopped.

Does not keep the disks for a destination for longer than W when the source's supervisor is gone.
"""

from __future__ import annotations

import hashlib

from lockplugins.contract import ConfigError, Lease, LeaseHeldError, LeaseState, Mode, Resource
from lockplugins.etcd.attempt import DISKS, VERB
from lockplugins.etcd.connection import now, pause
from lockplugins.etcd.taking import Claim
from lockplugins.handover import Handover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lockplugins.etcd.attempt import Attempt
    from lockplugins.etcd.plugin import EtcdPlugin
    from lockplugins.etcd.taking import Taking

NEXT = ","
LOOK_S = 0.1
_BETWEEN_S = 0.02
_HASHED = 12  # hexadecimal digits


class EtcdHandover(Handover):
    """Both roles of one guest, one after the other, in the name of its `plugin`.

    What is asked has an answer, or none within K: then it is unknown, and asked for again.
    """

    def __init__(self, plugin: EtcdPlugin, attempt: Attempt, taking: Taking) -> None:
        self._plugin = plugin
        self._attempt = attempt
        self._taking = taking
        self._keeping = attempt.keeping
        guest = Resource(attempt.ticket.name, Mode.EXCLUSIVE, "arrival of guest")
        self._ticket = Claim(guest, attempt.ticket, Mode.EXCLUSIVE, attempt.session.sid)
        self._is_left: bool | None = None

    def _until(self) -> float:
        return now() + self._plugin.timing.proof_s

    def _owned(self) -> list[str]:
        return list(dict.fromkeys(claim.key for claim in self._plugin.leases.values()))

    def _pending(self) -> dict[Lease, Claim]:
        leases = self._plugin.leases
        return {x: claim for x, claim in leases.items() if x.state == LeaseState.PENDING}

    def await_in(
        self, resources: Sequence[Resource], copied: Collection[str], wait_until: float | None
    ) -> list[Lease]:
        plugin, sid = self._plugin, self._attempt.session.sid
        located = [(resource, plugin.place_of(resource)) for resource in resources]
        awaited = {
            place.below
            for resource, place in located
            if resource.mode == Mode.EXCLUSIVE and resource.path not in copied
        }
        at_once = [each for each in located if each[1].below not in awaited]
        acquired = iter(plugin.acquire_all(at_once, [self._ticket], wait_until))
        leases = []
        for resource, place in located:
            if place.below not in awaited:
                leases.append(next(acquired))
                continue
            lease = Lease(resource, plugin.namespace, place.name)
            lease.state = LeaseState.PENDING
            plugin.leases[lease] = Claim(resource, place, Mode.EXCLUSIVE, sid)
            leases.append(lease)
        return leases

    def prepare(self, nonce: str) -> str:
        self._attempt.prepare(nonce, self._owned(), self._until())
        own = [claim for claim in self._plugin.leases.values() if claim.mode == Mode.EXCLUSIVE]
        return NEXT.join(dict.fromkeys(map(_told, own)))

    def hand_over(self) -> None:
        self._keeping.is_handed = True  # also when it is not known: it may be done
        self._attempt.hand_over(self._owned(), self._until())

    def has_lost(self) -> bool:
        while self._keeping.is_handed:
            moved = [
                lease
                for lease, claim in list(self._plugin.leases.items())
                if claim.key not in self._keeping.held
            ]
            if moved:
                for lease in moved:
                    lease.state = LeaseState.LOST
                return True
            pause(LOOK_S)
        return False

    def take_back(self, within_s: float = 0.0) -> None:
        alone, deadline = self._keeping.is_handed, now() + within_s
        is_back = False
        while not is_back:
            if alone:
                self._be_alone(deadline)
            is_back = self._attempt.cancel(self._owned(), self._until(), alone=alone)
        self._keeping.is_handed = False

    def _be_alone(self, deadline: float) -> None:
        """Have the ticket, so that no destination has; raises LockError.

        One that is dead is known by its session, absent for W, seen by this call and earlier ones.
        """
        while self._taking.attempt([self._ticket], self._until()) is None:
            found = list(self._taking.blockers.values())
            if found and now() > deadline:
                other, again = found[0].holder(), "cancel at the destination first, then try again"
                if found[0].absent_since is not None:
                    left = found[0].may_be_taken_at(self._plugin.timing) - now()
                    again = f"its session is gone: try again in {max(left, 0):.0f} s"
                why = f"its guest is awaited by {other.description}"
                advice = f"its guest stays fenced; {again}"
                raise LeaseHeldError("take back", DISKS, why, advice, other)
            pause(_BETWEEN_S)

    def complete_in(self, nonce: str, told: str) -> None:
        pending = self._pending()
        for lease, claim in pending.items():
            if _told(claim) not in told.split(NEXT):
                why = "the cookie is of a guest without it"
                advice = "give the one that this guest's source has printed"
                raise ConfigError(VERB, f"{lease.type} {lease.resource}", why, advice)
        if not pending:
            return  # it is the owner
        names = {claim.key: claim.resource.path for claim in pending.values()}
        revision = self._attempt.own(nonce, names, self._until())
        self._keeping.held |= names
        for lease in pending:
            lease.generation, lease.state = revision, LeaseState.HELD

    def let_go(self) -> None:
        """Keep them: the source cannot have them again."""

    def confirm(self) -> None:
        if self._pending():
            self._attempt.own_up(self._until())

    def become_sole(self) -> None:
        """It is since `complete_in`."""

    def leaves(self, claim: Claim) -> bool:
        """Source, its guest dead: is what it claims a destination's that has yet to own it?"""
        return claim.mode == Mode.EXCLUSIVE and self._leaves_all()

    def _leaves_all(self) -> bool:
        if self._is_left is None and self._keeping.is_handed:  # looked at once, in the end
            self._is_left = self._attempt.is_awaited(self._until())
        return bool(self._is_left)

    def close(self) -> None:
        """Leave nothing of an attempt, save what a destination needs."""
        if not self._leaves_all():
            self._attempt.forget(self._until())


def _told(claim: Claim) -> str:
    """Return a place as a cookie tells of it."""
    word = claim.place.below.encode()
    return hashlib.sha256(word, usedforsecurity=False).hexdigest()[:_HASHED]
