"""How does a guest give a disk up, and have it back only if nobody owned it meanwhile?

A marker is left in the owner's place, which no session's end takes away: only
we do, or who comes to own the disk alone. What was asked may have had no answer
and arrive late, when the disk is ours again: so a key is deleted only as it was
when that was asked, and what is ours still is written anew before it counts.
It must not know leases.
"""

from __future__ import annotations

from lockplugins.contract import LeaseLostError, LockError
from lockplugins.etcd.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.etcd.client import Client
    from lockplugins.etcd.keeping import Keeping
    from lockplugins.etcd.keys import Place
    from lockplugins.etcd.session import Session


class GivingUp:
    """What one session gives up; for the thread whose client it has."""

    def __init__(self, client: Client, keeping: Keeping, session: Session) -> None:
        self._client = client
        self._confirm = keeping.confirm
        self._session = session

    def let_go(self, key: str, place: Place, until: float, name: str) -> None:
        """Delete a key of ours, if it is; raises the client's errors: it may be tried again."""
        look = Transaction()
        look.read(key)
        outcome = look.commit_read(self._client, until, name)
        while (kept := outcome.found().get(key)) and kept.value == self._session.value:
            transaction = Transaction()
            transaction.demand_unchanged(key, kept.mod_revision)
            transaction.delete(key)
            transaction.put(self._marker(place), self._session.value)
            transaction.read_otherwise(key)
            outcome = transaction.commit(self._client, until, name)

    def take_back(self, key: str, place: Place, until: float, name: str) -> None:
        """Have it again; raises LeaseLostError if others had it, LockErrors: try again."""
        value, marker = self._session.value, self._marker(place)
        transaction = Transaction()
        transaction.demand_value(marker, value)
        transaction.demand_created(place.owner, 0)
        if key == place.owner:
            transaction.demand_none_below(place.readers)
            transaction.delete(place.parked, below=True)
        else:
            transaction.delete(marker)
        transaction.put(key, value)
        for read in (marker, place.owner, key):
            transaction.read_otherwise(read)
        outcome = transaction.commit(self._client, until, name)
        found = outcome.found()
        if outcome.succeeded:
            return
        if key in found and found[key].value == value:  # it never arrived that we gave it up
            if self._confirm(self._client, [key], until, name) is not None:
                return
        elif marker not in found:
            raise LeaseLostError("re-acquire", name, "others have had it in between")
        raise LockError("re-acquire", name, "others have it")

    def forget(self, place: Place, until: float, name: str) -> None:
        """Take the marker away: it will not be had back."""
        transaction = Transaction()
        transaction.delete(self._marker(place))
        transaction.commit(self._client, until, name)

    def _marker(self, place: Place) -> str:
        return place.parked + self._session.sid
