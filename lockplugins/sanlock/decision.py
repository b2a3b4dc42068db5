"""How far is one attempt to migrate a guest? A resource of its own tells, by its version.

Source and destination take it in turn, at the very version that comes before
their step: so one alone takes each step, and the other can read it, were the
first one dead by then. It is named by guest and attempt, and made anew for each. It must
not know leases.
"""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from errno import ENOENT

from lockplugins.contract import LeaseUnknownError, Mode, ResourceError, cause
from lockplugins.sanlock import lockspace, refusals
from lockplugins.sanlock.claims import Claim
from lockplugins.sanlock.library import CODES, SanlockError
from lockplugins.sanlock.names import md5, own_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from lockplugins.sanlock.library import Library
    from lockplugins.sanlock.settings import Settings
    from lockplugins.sanlock.taking import Taking

# Whose step leads there: the source's, the source's, of either the first, the source's.
GONE, PREPARED, HANDED, DECIDED, SEEN = range(5)

_SOON_S = 2.0
_LOOK_MS = 5
_NAME = "how far the guest's migration is"


class Decision:
    """One attempt as one end sees it; `is_ours`: this end has made HANDED to DECIDED."""

    def __init__(
        self, library: Library, holding: Taking, settings: Settings, uuid: str, nonce: str
    ) -> None:
        self.nonce = nonce
        self.is_ours = False
        self._library = library
        self._holding = holding
        self._settings = settings
        self._place = own_place(f"attempt {nonce} at {uuid}", _file(uuid), settings)

    def make(self) -> None:
        """Source: begin, in place of any attempt before; raises LockError."""
        _withdraw(self._place.path)
        lockspace.create_resources(self._library, self._settings, [Claim(self._place)])
        if not self.take(GONE):
            raise LeaseUnknownError("tell", _NAME, "somebody else was in between", "try again")
        self.let_go()

    def reached(self) -> int:
        """Return the last step that was taken, GONE if it is over; raises LockError."""
        what = self._place.resource()
        try:
            self._library.read_resource(what)
        except SanlockError as error:
            if error.code in (-ENOENT, CODES["SANLK_LEADER_RESOURCE"]):
                return GONE
            _doubt(error)
        return int(what.version)

    def take(self, after: int) -> bool:
        """Take the step that comes after that one, and keep the resource for now.

        False: it was not this one's turn, or it is over. Raises LockError: who knows.
        """
        deadline = time.monotonic() + _SOON_S
        while True:
            try:
                self._holding.take([self._claim(after)])
            except SanlockError as error:
                if error.code == CODES["SANLK_ACQUIRE_LVER"]:
                    return False
                if error.code not in refusals.HELD or time.monotonic() > deadline:
                    if self.reached() == GONE:
                        return False
                    _doubt(error)
                select.poll().poll(_LOOK_MS)
            else:
                return True

    def _claim(self, version: int = 0) -> Claim:
        claim = Claim(self._place)
        claim.mode, claim.version = Mode.EXCLUSIVE, version
        return claim

    def is_kept(self) -> bool:
        """Does who has taken the last step keep the resource? Raises LockError."""
        try:
            return bool(self._library.owners(self._place.resource()))
        except SanlockError as error:
            _doubt(error)

    def let_go(self) -> None:
        """Keep it no longer; raises LockError."""
        kept = [self._claim()]
        try:
            if self._holding.lists(kept):
                self._holding.free(kept)
        except SanlockError as error:
            _doubt(error)

    def withdraw(self) -> None:
        """End it: it is GONE."""
        _withdraw(self._place.path)


def _file(uuid: str) -> str:
    return f"attempts at {uuid}"


def withdraw_all(settings: Settings, uuid: str) -> None:
    """End whatever attempt there is at this guest; raises LockError."""
    _withdraw(settings.path_of(md5(_file(uuid))))


def _withdraw(path: str) -> None:
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        raise ResourceError("remove", f"lease file {path}", cause(error)) from error


def _doubt(error: SanlockError) -> NoReturn:
    raise LeaseUnknownError("tell", _NAME, str(error), "try again; see the daemon's log") from error
