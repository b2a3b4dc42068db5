"""How does a source hand its disks over by sanlock? They are its own until a destination has them.

The order of it is told in `handover`. It must not know what a destination does.
"""

from __future__ import annotations

import _thread
import select
import time

from lockplugins.contract import LeaseHeldError, LeaseState, LockError, Mode
from lockplugins.handover import Handover
from lockplugins.sanlock import claims, decision, names
from lockplugins.sanlock.decision import Decision
from lockplugins.sanlock.ticket import Tickets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lockplugins.sanlock.claims import Claim, Key
    from lockplugins.sanlock.plugin import SanlockPlugin

NEXT, VERSION = ",", "."
SOON_S = 1.0
LOOK_MS = 5

_DISKS = "the guest's disks"
_HASHED = 12  # hexadecimal digits
_OFTEN_S, _RARE_LOOK_MS = 10.0, 100


class Leaving(Handover):
    """The source's side, and what both have: the attempt that is under way."""

    def __init__(self, plugin: SanlockPlugin) -> None:
        self.plugin = plugin
        self._decision: Decision | None = None
        self._deciding = _thread.allocate_lock()  # to decide, or to find that it is decided
        self._is_handed = False

    def attempt(self, nonce: str | None = None) -> Decision:
        """Return the attempt of this name, or that of the last call; one that never was is GONE."""
        if self._decision is None or nonce not in (None, self._decision.nonce):
            plugin = self.plugin
            self._decision = Decision(
                plugin.asked(), plugin.holding(), plugin.settings, plugin.guest.uuid, nonce or ""
            )
        return self._decision

    def tickets(self, wanted: Mapping[Key, Claim]) -> Tickets:
        """Return the tickets for what is to be had alone."""
        places = [claim.place for claim in wanted.values() if claim.mode == Mode.EXCLUSIVE]
        return Tickets(self.plugin.asked(), self.plugin.settings, places)

    def prepare(self, nonce: str) -> str:
        self.attempt(nonce).make()
        self._is_handed = False
        own = self._own_alone()
        return NEXT.join(f"{short(key)}{VERSION}{claim.version}" for key, claim in own.items())

    def _own_alone(self) -> dict[Key, Claim]:
        held = self.plugin.holding().claims
        return {key: claim for key, claim in held.items() if claim.mode == Mode.EXCLUSIVE}

    def hand_over(self) -> None:
        attempt = self.attempt()
        self._is_handed = True
        if not attempt.take(decision.PREPARED) and attempt.reached() != decision.HANDED:
            why, advice = "the attempt is over, or its lease file is gone", "end its guest"
            raise LockError("hand over", _DISKS, why, advice)
        attempt.let_go()

    def has_lost(self) -> bool:
        attempt = self.attempt()
        began = time.monotonic()
        while (lost := self._has_lost(attempt)) is None:
            is_new = time.monotonic() - began < _OFTEN_S
            select.poll().poll(LOOK_MS if is_new else _RARE_LOOK_MS)
        if lost and attempt.reached() != decision.GONE:
            self._follow(attempt)
        return lost

    def _has_lost(self, attempt: Decision) -> bool | None:
        """Return None while it is not decided, or cannot be told."""
        with self._deciding:
            if attempt.is_ours:
                return False
            try:
                is_open = attempt.reached() in (decision.PREPARED, decision.HANDED)
            except LockError:
                is_open = True
            return None if is_open else True

    def _follow(self, attempt: Decision) -> None:
        """Share with the destination, say so, and let go."""
        plugin, holding = self.plugin, self.plugin.holding()
        gone = self._own_alone()
        holding.become(claims.shared(holding.claims, gone))
        while attempt.is_kept():  # until it shares them, too, or is gone
            select.poll().poll(LOOK_MS)
        if attempt.take(decision.DECIDED):
            attempt.let_go()
        for lease, located in list(plugin.located.items()):
            if any(place.key in gone for place in located.places):
                plugin.elsewhere.add(lease)
                del plugin.located[lease]
                lease.state = LeaseState.LOST
        holding.free(holding.become(claims.wanted(list(plugin.located.values()))))

    def take_back(self, within_s: float = 0.0) -> None:
        attempt = self.attempt()
        if self._is_handed:
            self._await_no_destination(within_s)
        with self._deciding:
            attempt.is_ours = (
                attempt.is_ours
                or attempt.reached() == decision.PREPARED
                or (self._is_handed and attempt.take(decision.HANDED))
            )
            if not attempt.is_ours:
                why = "its destination has taken them since, and may have written"
                raise LockError("take back", _DISKS, why, "end it with complete-out")
        attempt.let_go()
        attempt.withdraw()
        self._is_handed = False

    def _await_no_destination(self, within_s: float) -> None:
        tickets = self.tickets(self._own_alone())
        deadline = time.monotonic() + within_s
        while other := tickets.holder():
            if time.monotonic() > deadline:
                why = f"its guest is awaited by {other.description}"
                advice = "its guest stays fenced; cancel at the destination first, then try again"
                raise LeaseHeldError("take back", _DISKS, why, advice, other)
            select.poll().poll(LOOK_MS)


def short(key: Key) -> str:
    """Return a resource's name as a cookie has it."""
    return names.md5(":".join(key))[:_HASHED]
