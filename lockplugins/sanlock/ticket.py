"""Who awaits a guest's disks, to have them alone? For each, a resource of sanlock of its own.

A destination has these tickets from before its source shares the disks until it
has them alone. So there is one destination; and a sharer of ours who gets in
meanwhile finds that he has to go again. It must not know guests.
"""

from __future__ import annotations

import os
import select
import time
from errno import EAGAIN

from lockplugins.contract import LeaseHeldError, LeaseUnknownError, Mode
from lockplugins.sanlock import holders, lockspace, refusals
from lockplugins.sanlock.claims import Claim
from lockplugins.sanlock.library import SanlockError
from lockplugins.sanlock.names import own_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

    from lockplugins.contract import Holder
    from lockplugins.sanlock.claims import Key
    from lockplugins.sanlock.library import Library
    from lockplugins.sanlock.names import Place
    from lockplugins.sanlock.settings import Settings
    from lockplugins.sanlock.taking import Taking

_SOON_S = 2.0
_LOOK_MS = 20
_NAME = "the guest"


class Tickets:
    """Those for some places."""

    def __init__(self, library: Library, settings: Settings, places: Iterable[Place]) -> None:
        self._library = library
        self._settings = settings
        self._claims = []
        for place in places:
            word = f"destination of {':'.join(place.key)}"
            claim = Claim(own_place(word, word, settings))
            claim.mode = Mode.EXCLUSIVE
            self._claims.append(claim)

    def take(self, holding: Taking, wait_until: float | None) -> None:
        """Have all of them, or none, if they are not had yet; raises LockError."""
        if not self._claims or holding.lists(self._claims):
            return
        lockspace.create_resources(self._library, self._settings, self._claims)
        until = max(wait_until or 0.0, _now() + _SOON_S)
        while True:
            try:
                holding.take(self._claims)
            except SanlockError as error:
                if error.code not in refusals.HELD:
                    _doubt(error)
                other = self.holder() or refusals.GONE
                is_named = bool(other.pid or other.host)
                if _now() > until or (wait_until is None and is_named):
                    why = f"its disks are awaited by {other.description}"
                    raise LeaseHeldError("await", _NAME, why, "end that", other) from error
                select.poll().poll(_LOOK_MS)
            else:
                return

    def give_back(self, holding: Taking) -> None:
        """Have none; raises LockError. The guest's death does it as well."""
        try:
            if holding.lists(self._claims):
                holding.free(self._claims)
        except SanlockError as error:
            _doubt(error)

    def respect(self, holding: Taking, after: dict[Key, Claim]) -> None:
        """Hold `after` instead, unless somebody has a ticket; raises SanlockError, LockError."""
        before = holding.claims
        holding.become(after)
        is_awaited = True
        try:
            is_awaited = self.holder() is not None
        finally:
            if is_awaited:
                holding.free(holding.become(before))
        if is_awaited:
            raise SanlockError("acquire", -EAGAIN)

    def holder(self) -> Holder | None:
        """Return who has one of them; raises LockError."""
        made = [claim.place for claim in self._claims if os.path.lexists(claim.place.path)]
        found = holders.of_places(made, self._library, _NAME) if made else []
        return found[0] if found else None


def _doubt(error: SanlockError) -> NoReturn:
    raise LeaseUnknownError("await", _NAME, str(error), "see the daemon's log") from error


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # as `wait_until` counts
