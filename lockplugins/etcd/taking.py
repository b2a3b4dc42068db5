"""When may this guest own disks, and how does it come to? All of them in one transaction.

What is free is taken at once. What somebody has is taken over when his
session has been seen absent, by our own clock, for longer than he can live.
It must not know how ownership is kept.
"""

from __future__ import annotations

from lockplugins.contract import (
    Holder,
    LeaseHeldError,
    LeaseUnknownError,
    LockError,
    Mode,
    UnsupportedError,
)
from lockplugins.etcd import keys
from lockplugins.etcd.connection import now
from lockplugins.etcd.transaction import MOST_OPERATIONS, Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Resource
    from lockplugins.etcd.client import Client
    from lockplugins.etcd.keeping import Keeping
    from lockplugins.etcd.keys import Owner, Place
    from lockplugins.etcd.session import Session
    from lockplugins.etcd.timing import Timing
    from lockplugins.etcd.transaction import KeyValue

    Claims = Sequence["Claim"]


class Claim:
    """One place that is wanted, in one mode; `key` will say so, if it is given."""

    __slots__ = ("key", "mode", "place", "resource")

    def __init__(self, resource: Resource, place: Place, mode: str, sid: str) -> None:
        self.resource = resource
        self.place = place
        self.mode = mode
        self.key = place.claim(mode, sid)


class Blocker:
    """A holder in our way. `absent_since`: when its session was first seen to be gone, or None.

    By our own clock, after the answer; whatever changes of the key or the session starts it anew.
    """

    __slots__ = ("absent_since", "claim", "kept", "owner")

    def __init__(self, claim: Claim, kept: KeyValue) -> None:
        self.claim = claim
        self.kept = kept
        self.owner: Owner | None = keys.read_owner(kept.value)
        self.absent_since: float | None = None

    def may_be_taken_at(self, timing: Timing) -> float:
        """Return the instant from which it is proven dead; inf while it may live."""
        if self.owner is None or self.absent_since is None:
            return float("inf")
        return self.absent_since + timing.watch_of(self.owner.proof_s)

    def holder(self) -> Holder:
        mode = Mode.EXCLUSIVE if self.kept.key == self.claim.place.owner else Mode.SHARED
        generation, owner = self.kept.mod_revision, self.owner
        if owner is None:
            return Holder(mode, "what etcd has there is not ours to read", generation=generation)
        pid, host = owner.local_pid(), owner.host
        return Holder(mode, owner.description, pid=pid, host=host, generation=generation)


class Taking:
    """One guest's attempts; for the thread whose client it has."""

    def __init__(
        self, client: Client, keeping: Keeping, namespace: str, timing: Timing, session: Session
    ) -> None:
        self._client = client
        self._keeping = keeping
        self._namespace = namespace
        self._timing = timing
        self._session = session
        self._has_met = False  # anything of anybody's, so that more has to be said
        self.blockers: dict[str, Blocker] = {}

    def attempt(self, claims: Claims, until: float) -> int | None:
        """Take all of it, or nothing; returns the revision, None if somebody is in the way.

        `blockers` then says who. Raises the client's errors: after UnknownOutcomeError a next
        attempt finds out.
        """
        if self._is_of_no_use():  # a transaction is a write, also one that is refused
            self._look(claims, self._state(claims, until), until)
            if self._is_of_no_use():
                return None
        outcome = self._transaction(claims).commit(self._client, until, _named(claims))
        if outcome.succeeded:
            return outcome.revision
        self._has_met = True
        found = self._state(claims, until)
        ours = [found[claim.key] for claim in claims if claim.key in found]
        if len(ours) == len(claims) and all(kept.value == self._session.value for kept in ours):
            taken = [kept.key for kept in ours]  # an earlier try has done it
            return self._keeping.confirm(self._client, taken, until, _named(claims))
        mine = found.get(self._session.key)
        if mine is None or mine.create_revision != self._session.created:
            self._keeping.heal(self._client, until)  # and try again
        else:
            self._look(claims, found, until)
        return None

    def _is_of_no_use(self) -> bool:
        """Is somebody in the way, as last seen, who is not proven dead?"""
        return any(one.may_be_taken_at(self._timing) > now() for one in self.blockers.values())

    def _transaction(self, claims: Claims) -> Transaction:
        transaction = Transaction()
        transaction.demand_created(self._session.key, self._session.created)
        dead = [one for one in self.blockers.values() if one.may_be_taken_at(self._timing) <= now()]
        for session in {self._session_of(blocker) for blocker in dead}:
            transaction.demand_created(session, 0)
        for claim in claims:
            transaction.put(claim.key, self._session.value)
            if claim.mode == Mode.EXCLUSIVE and not self._has_met:
                transaction.demand_none_below(claim.place.below)  # half the work of all the rest
                continue
            self._demand(transaction, claim, [one for one in dead if one.claim is claim])
            if claim.mode == Mode.EXCLUSIVE:
                transaction.delete(claim.place.parked, below=True)
        proof = 1 + len(self._keeping.held) + len(claims)  # demands, when all of it is held
        takeover = 1 + 2 * len(claims)
        if max(transaction.operations(), proof, takeover) > MOST_OPERATIONS:
            why = f"etcd takes {MOST_OPERATIONS} operations in one transaction"
            advice = f"a guest has at most {MOST_OPERATIONS - 1} leases, and takes half at once"
            raise UnsupportedError("lease", _named(claims), why, advice)
        return transaction

    def _state(self, claims: Claims, until: float) -> dict[str, KeyValue]:
        """Read what is in the way: not in the transaction, whose members would do most for it."""
        transaction = Transaction()
        for claim in claims:
            transaction.read(claim.place.owner)
            transaction.read(claim.place.readers, below=True)
        transaction.read(self._session.key)
        return transaction.commit_read(self._client, until, _named(claims)).found()

    def _demand(self, transaction: Transaction, claim: Claim, dead: list[Blocker]) -> None:
        """Demand that nobody is in the way but who is proven dead, and unchanged since."""
        owners = [blocker for blocker in dead if blocker.kept.key == claim.place.owner]
        readers = [blocker for blocker in dead if blocker not in owners]
        revision = owners[0].kept.mod_revision if owners else 0
        transaction.demand_unchanged(claim.place.owner, revision)
        if owners and claim.mode == Mode.SHARED:
            transaction.delete(claim.place.owner)
        if claim.mode == Mode.EXCLUSIVE:
            newest = max((blocker.kept.mod_revision for blocker in readers), default=0)
            alive = len(self._on(claim)) - len(dead)
            transaction.demand_none_newer(claim.place.readers, 0 if alive else newest)
            for blocker in readers:
                transaction.delete(blocker.kept.key)

    def _on(self, claim: Claim) -> list[Blocker]:
        return [blocker for blocker in self.blockers.values() if blocker.claim is claim]

    def _session_of(self, blocker: Blocker) -> str:
        sid = blocker.owner.sid if blocker.owner else ""  # "": never proven dead, and not asked for
        return keys.session(self._namespace, sid)

    def _look(self, claims: Claims, found: dict[str, KeyValue], until: float) -> None:
        """See who is in the way, and since when his session is gone.

        Keys and sessions are read in one transaction: read one after the other
        they may never have been so at the same time.
        """
        blockers = [
            Blocker(claim, kept)
            for claim in claims
            for key, kept in found.items()
            if key.startswith(claim.place.below) and kept.value != self._session.value
            if key == claim.place.owner or claim.mode == Mode.EXCLUSIVE
        ]
        known, self.blockers = self.blockers, {}
        if not blockers:
            return  # gone since
        transaction = Transaction()
        for claim in claims:
            transaction.read(claim.place.owner)
            if claim.mode == Mode.EXCLUSIVE:
                transaction.read(claim.place.readers, below=True)
        sessions = {self._session_of(blocker) for blocker in blockers}
        if transaction.operations() + len(sessions) > MOST_OPERATIONS:
            transaction.read(keys.session(self._namespace, ""), below=True)
        else:
            for session in sessions:
                transaction.read(session)
        present = transaction.commit_read(self._client, until, _named(claims)).found()
        seen = now()
        for blocker in blockers:
            kept = present.get(blocker.kept.key)
            if kept is None or kept.mod_revision != blocker.kept.mod_revision:
                continue  # changed since: the next attempt will meet it
            self.blockers[kept.key] = blocker
            if blocker.owner is not None and self._session_of(blocker) not in present:
                before = known.get(kept.key)
                same = before is not None and before.kept.mod_revision == kept.mod_revision
                earlier = before.absent_since if before is not None and same else None
                blocker.absent_since = seen if earlier is None else earlier

    def refusal(self, claims: Claims) -> LockError:
        """Return who is in the way, and until when, as an error."""
        if not self.blockers:
            return LeaseUnknownError(
                "acquire", _named(claims), "nobody is in the way for long", "try again"
            )
        # Who lives goes first: the dead are not waited for as long.
        blocker = min(self.blockers.values(), key=lambda blocker: blocker.absent_since or 0)
        holder, claim = blocker.holder(), blocker.claim
        advice = "stop the guest there, or wait with --wait"
        if blocker.absent_since is not None:
            left = blocker.may_be_taken_at(self._timing) - now()
            advice = f"its session is gone: it can be taken over in {max(left, 0):.0f} s (--wait)"
        if blocker.owner is None:
            advice = f"see etcdctl get {blocker.kept.key}"
        why = f"held by {holder.description}, generation {holder.generation}"
        name = f"{claim.mode} lease for {claim.resource.type} {claim.resource.path}"
        return LeaseHeldError("acquire", name, why, advice, holder)


def _named(claims: Claims) -> str:
    first = f"{claims[0].resource.type} {claims[0].resource.path}" if claims else "nothing"
    return f"lease for {first}" if len(claims) == 1 else f"leases for {first} and others"
