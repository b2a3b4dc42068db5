"""Is this guest still the owner of all it has, and since when is that proven?

A proof is a linearizable read that finds the session and every key ours; the
answer of a keepalive is none. A session that etcd ended early is healed, if
every key is still ours: each is written again, so that a taker who has seen it
absent starts his watch anew. What a migration's source has handed over may be
its destination's by now, and is no loss: it runs again only when it has found
itself the owner of all of it. It must not know how ownership is taken.
"""

from __future__ import annotations

from lockplugins.contract import LeaseLostError
from lockplugins.etcd import keys
from lockplugins.etcd.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lockplugins.etcd.client import Client
    from lockplugins.etcd.session import Session
    from lockplugins.etcd.transaction import KeyValue, Outcome

WHAT = "proof of ownership"


class Keeping:
    """What one session owns: `held` has a name for people for each key, all of one value.

    `is_handed`: what it has alone may be had by a migration's destination.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.held: dict[str, str] = {}  # changed in one step each time, copied by other threads
        self.is_handed = False
        self.healed = 0

    def prove(self, client: Client, until: float) -> float:
        """Return when the proven request was sent (CLOCK_BOOTTIME).

        Raises LeaseLostError: a key is somebody else's, or gone; the client's errors: try again.
        """
        while True:
            held, session = dict(self.held), self._session
            if not session.created:  # the demand would be that there is none
                return self.heal(client, until)
            transaction = Transaction()
            transaction.demand_created(session.key, session.created)
            self._demand_all(transaction, held)
            transaction.read(session.key)
            for key in (session.key, *held):
                transaction.read_otherwise(key)
            outcome = transaction.commit(client, until, WHAT)
            if outcome.succeeded:
                return outcome.sent
            if self._is_ours(held, outcome):
                return self.heal(client, until)
            # Else a lease was released while we asked: without it.

    def heal(self, client: Client, until: float) -> float:
        """Have the session, and every key with it, anew; returns when that was asked, as a proof.

        Raises as `prove` does.
        """
        while True:
            held, session = dict(self.held), self._session
            grant = session.new_grant(client, until)
            transaction = Transaction()
            transaction.demand_created(session.key, 0)
            self._demand_all(transaction, held)
            transaction.put(session.key, session.value, grant)
            for key in held:
                transaction.put(key, session.value)
            for key in (session.key, *held):
                transaction.read_otherwise(key)
            outcome = transaction.commit(client, until, WHAT)
            if outcome.succeeded:
                self.healed += session.created > 0
                session.adopt(grant, outcome.revision)
                return outcome.sent
            if not self._is_ours(held, outcome):
                continue
            if mine := outcome.read[0]:  # another try, or another thread, has healed it
                session.adopt(mine[0].lease, mine[0].create_revision)
                return self.prove(client, until)
            # Else it was healed and has ended again, all the while.

    def confirm(self, client: Client, names: Sequence[str], until: float, what: str) -> int | None:
        """Write keys that are ours anew: what was asked before and arrives late finds others.

        Returns the revision, None if they are not all ours by now; raises the client's errors.
        """
        transaction = Transaction()
        self._demand_all(transaction, names)
        for key in names:
            transaction.put(key, self._session.value)
        transaction.read_otherwise(self._session.key)
        outcome = transaction.commit(client, until, what)
        return outcome.revision if outcome.succeeded else None

    def _demand_all(self, transaction: Transaction, held: Iterable[str]) -> None:
        for key in held:
            transaction.demand_value(key, self._session.value)

    def _is_ours(self, held: dict[str, str], outcome: Outcome) -> bool:
        """Is every key still ours? Else False if it was released meanwhile, or LeaseLostError."""
        found = outcome.found()
        mine = found.get(self._session.key)
        if mine is not None and mine.value != self._session.value:
            raise LeaseLostError("keep", "the session", _fate(mine))
        wrong = [key for key in held if key not in found or found[key].value != self._session.value]
        for key in wrong:
            if self.is_handed and key.endswith(f"/{keys.ALONE}"):
                self.held.pop(key, None)
            elif key in self.held:
                raise LeaseLostError("keep", held[key], _fate(found.get(key)))
        return not wrong


def _fate(kept: KeyValue | None) -> str:
    if kept is None:
        return "its key in etcd is gone"
    owner = keys.read_owner(kept.value)
    taker = "what we have not written" if owner is None else owner.description
    return f"etcd has it for {taker}, generation {kept.mod_revision}"
