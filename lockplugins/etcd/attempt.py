"""How far is one attempt to migrate a guest? A key in etcd tells, which both ends change in turn.

The source, the owner, begins it; when its guest has stopped for good, it hands over: from then on
the destination that has the ticket, and was told the nonce, may own all in one transaction. The
source runs again only after a transaction of its own that found it the owner in this attempt, and
ended it. So whatever was asked and arrives late finds another step, or another attempt: every order
is in tests/support/etcd_model/handover.pml. It must not know leases, nor when a guest has stopped.
"""

from __future__ import annotations

from lockplugins.contract import LeaseHeldError, LeaseLostError, LockError, UnsupportedError
from lockplugins.etcd import keys
from lockplugins.etcd.transaction import MOST_OPERATIONS, Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lockplugins.etcd.client import Client
    from lockplugins.etcd.keeping import Keeping
    from lockplugins.etcd.session import Session
    from lockplugins.etcd.transaction import KeyValue, Outcome

# Whose step leads there: the source's, the source's, the source's, a destination's that has no
# right to. One that the destination completes leaves no key.
PREPARED, HANDED, OVER, RAN = "prepared", "handed", "over", "ran"

DISKS = "the guest's disks"
VERB = "complete the migration of"
_WHAT = "the guest's migration"
_WORDS = 3
_BESIDES = 3  # session, ticket, attempt: what a step demands besides what is owned


class Attempt:
    """One guest's attempts, as one end has them; for the thread whose client it has.

    `ticket` is the place of who awaits the guest. What is `owned` are keys of this session's.
    """

    def __init__(
        self, client: Client, keeping: Keeping, session: Session, namespace: str, uuid: str
    ) -> None:
        self.keeping = keeping
        self.session = session
        self.ticket = keys.Place(namespace, keys.INCOMING, uuid)
        self._key = keys.attempt(namespace, uuid)
        self._client = client
        self._nonce = ""

    def _value(self, step: str) -> str:
        return f"{step} {self._nonce} {self.session.sid}"

    def _look(self, owned: Iterable[str], until: float) -> dict[str, KeyValue]:
        """Return the attempt, the ticket and these keys as they are at one instant."""
        transaction = Transaction()
        for key in (self._key, self.ticket.owner, *owned):
            transaction.read(key)
        return transaction.commit_read(self._client, until, _WHAT).found()

    def _is_ours(self, key: str, found: dict[str, KeyValue]) -> bool:
        return key in found and found[key].value == self.session.value

    def _step(
        self, transaction: Transaction, owned: Sequence[str], step: str, until: float
    ) -> Outcome:
        """Go to that step if all of `owned` is, and what the transaction demands besides is met."""
        for key in owned:
            transaction.demand_value(key, self.session.value)
        transaction.put(self._key, self._value(step))
        transaction.read_otherwise(self._key)
        return transaction.commit(self._client, until, _WHAT)

    def prepare(self, nonce: str, owned: Sequence[str], until: float) -> None:
        """Source: begin an attempt, in place of any before; raises LockError.

        Done late it would begin one that is over: so it demands the key as it was read.
        """
        if len(owned) > MOST_OPERATIONS - _BESIDES:
            why = f"{len(owned)} leases, and etcd takes {MOST_OPERATIONS} operations in one step"
            raise UnsupportedError("hand over", DISKS, why, "migrate it with fewer")
        self._nonce = nonce
        while True:
            found = self._look(owned, until)
            if not all(self._is_ours(key, found) for key in owned):
                raise LeaseLostError("hand over", DISKS, "they are not all this guest's by now")
            self._give_ticket_back(found, until)  # of a cancel, asked for twice and come late
            before = found.get(self._key)
            if before is not None and before.value == self._value(PREPARED):
                return  # by an earlier try
            transaction = Transaction()
            transaction.demand_unchanged(self._key, before.mod_revision if before else 0)
            if self._step(transaction, owned, PREPARED, until).succeeded:
                return

    def hand_over(self, owned: Sequence[str], until: float) -> None:
        """Source, its guest stopped for good: let the destination own; raises LockError."""
        transaction = Transaction()
        transaction.demand_value(self._key, self._value(PREPARED))
        outcome = self._step(transaction, owned, HANDED, until)
        reached = outcome.found().get(self._key)
        if not outcome.succeeded and (reached is None or reached.value != self._value(HANDED)):
            raise LockError("hand over", DISKS, "the attempt is over", "end its guest")

    def cancel(self, owned: Sequence[str], until: float, *, alone: bool) -> bool:
        """Source: own as before, and run; raises LockError when it never will.

        `alone`: only with the ticket in its own hand; False: it has not got that any more.
        """
        while True:
            found = self._look(owned, until)
            reached = found[self._key].value if self._key in found else ""
            if not all(self._is_ours(key, found) for key in owned) or reached not in {
                self._value(step) for step in (PREPARED, HANDED, OVER)
            }:
                why = "its destination has owned them since, or has run, and may have written"
                raise LockError("take back", DISKS, why, "end it with complete-out")
            if reached == self._value(OVER):  # by an earlier try, this source's and no other's
                self._give_ticket_back(found, until)
                return True
            transaction = Transaction()
            transaction.demand_value(self._key, reached)
            if alone:
                if not self._is_ours(self.ticket.owner, found):
                    return False
                transaction.demand_value(self.ticket.owner, self.session.value)
                transaction.delete(self.ticket.owner)
            if self._step(transaction, owned, OVER, until).succeeded:
                return True

    def own(self, nonce: str, wanted: Mapping[str, str], until: float) -> int:
        """Destination: have all of `wanted`, the source's, or nothing; returns the revision.

        `wanted` has a name for people for each key. Raises LeaseHeldError while the source has not
        handed over, LockError when it never will; after UnknownOutcomeError a next call finds out.
        """
        while True:
            found = self._look(wanted, until)
            if all(self._is_ours(key, found) for key in wanted):
                revision = self.keeping.confirm(self._client, list(wanted), until, _WHAT)
                if revision is not None:
                    return revision
                continue
            source = self._handed_by(nonce, found)
            transaction = Transaction()
            transaction.demand_created(self.session.key, self.session.created)
            transaction.demand_value(self.ticket.owner, self.session.value)
            transaction.demand_value(self._key, found[self._key].value)
            for key, name in wanted.items():
                transaction.demand_value(key, _of(source, name, found.get(key)))
                transaction.put(key, self.session.value)
            for key in (self.ticket.owner, self._key):
                transaction.delete(key)
            transaction.read_otherwise(self._key)
            # Not relied on from here, whatever the answer: it may be gone with what arrives late.
            self.keeping.held.pop(self.ticket.owner, None)
            outcome = transaction.commit(self._client, until, _WHAT)
            if outcome.succeeded:
                return outcome.revision
            self.keeping.prove(self._client, until)  # the session may have been healed

    def _handed_by(self, nonce: str, found: dict[str, KeyValue]) -> str:
        """Return the session of the source that has handed over in this attempt."""
        words = found[self._key].value.split(" ") if self._key in found else []
        if len(words) == _WORDS and words[:2] == [PREPARED, nonce]:
            advice = "let the source's migration end first"
            raise LeaseHeldError(VERB, "the guest", "its source has not handed over", advice)
        if len(words) != _WORDS or words[:2] != [HANDED, nonce]:
            over = "that attempt is over: its source has cancelled it, or another has the guest"
            raise LockError(VERB, "the guest", over, "cancel it here")
        if not self._is_ours(self.ticket.owner, found):
            silent = "this end is not awaited any more: it was silent for too long"
            raise LockError(VERB, "the guest", silent, "cancel it here")
        return words[2]

    def own_up(self, until: float) -> None:
        """Destination: its guest has run, and it is not the owner; the source is to know it."""
        while True:
            found = self._look((), until)
            if self._key not in found or not self._is_ours(self.ticket.owner, found):
                return
            _, _, rest = found[self._key].value.partition(" ")
            transaction = Transaction()
            transaction.demand_unchanged(self._key, found[self._key].mod_revision)
            transaction.demand_value(self.ticket.owner, self.session.value)
            transaction.put(self._key, f"{RAN} {rest}")
            if transaction.commit(self._client, until, _WHAT).succeeded:
                return

    def is_awaited(self, until: float) -> bool:
        """Source: has it handed over, and is there a destination that may own yet?"""
        found = self._look((), until)
        is_handed = self._key in found and found[self._key].value == self._value(HANDED)
        return is_handed and self.ticket.owner in found

    def forget(self, until: float) -> None:
        """Delete what is this session's of the attempt and the ticket."""
        found = self._look((), until)
        self._give_ticket_back(found, until)
        if self._key in found and found[self._key].value.endswith(f" {self.session.sid}"):
            self._delete(found[self._key], until)

    def _give_ticket_back(self, found: dict[str, KeyValue], until: float) -> None:
        if self._is_ours(self.ticket.owner, found):
            self._delete(found[self.ticket.owner], until)

    def _delete(self, kept: KeyValue, until: float) -> None:
        """Delete a key if it is as it was read."""
        transaction = Transaction()
        transaction.demand_unchanged(kept.key, kept.mod_revision)
        transaction.delete(kept.key)
        transaction.commit(self._client, until, _WHAT)


def _of(source: str, name: str, kept: KeyValue | None) -> str:
    """Return the value by which the source owns a key; raises LeaseLostError if it does not."""
    owner = keys.read_owner(kept.value) if kept else None
    if kept is None or owner is None or owner.sid != source:
        others = f"{owner.description} has it" if owner else "it is nobody's, or not ours to read"
        why = f"its source does not own {name} any more: {others}"
        raise LeaseLostError(VERB, "the guest", why, "cancel it here, and start the guest anew")
    return kept.value
