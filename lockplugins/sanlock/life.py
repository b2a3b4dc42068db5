"""Until when is it proven that this host's leases are its own?

Until 8 io_timeouts after the last renewal of its host_id that reached the
storage: then sanlock ends who uses the lockspace, and later other hosts may
take over. The daemon counts on a clock that stands still while the host sleeps;
other hosts do not, nor does the guard. And it renews in the file that it has
open: one that has another name by now, or none, no other host looks at. It must
not know guests or disks.
"""

from __future__ import annotations

import select
import time

from lockplugins.contract import LeaseLostError, LockError, cause
from lockplugins.sanlock import files, library, record, status
from lockplugins.sanlock.times import failure_s

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.sanlock.status import Membership

_SOON_IO_TIMEOUTS = 2
_LOOK_MS = 200


def term_s(joined: Membership) -> float:
    """Return for how long one renewal proves."""
    return float(failure_s(joined.io_timeout_s))


class Sleep:
    """How long the host has slept since it booted, as read at several instants.

    Before the first reading it may have slept at any time.
    """

    def __init__(self) -> None:
        self._readings = [(float("-inf"), 0.0)]

    def note(self, instant: float, slept_s: float) -> None:
        """Keep what was read at `instant` of CLOCK_MONOTONIC."""
        self._readings.append((instant, slept_s))

    def before(self, instant: float) -> float:
        """Return what it was at `instant`, rather less: the last that was read by then."""
        return next(slept for at, slept in reversed(self._readings) if at <= instant)

    def forget(self, instant: float) -> None:
        """Drop what is not needed to tell for `instant` and later."""
        while len(self._readings) > 1 and self._readings[1][0] <= instant:
            del self._readings[0]


class Life:
    """The lockspaces that one guest's leases are in; for one thread, but `check`."""

    def __init__(self) -> None:
        self._joined: dict[str, tuple[int, tuple[int, int]]] = {}
        self._proven = 0.0
        self._sleep = Sleep()

    def watch(self, joined: Membership) -> None:
        """Count on this lockspace from now on, as it is joined now; raises LockError."""
        check_record(joined)
        self._joined[joined.name] = (joined.number, _file(joined))

    def begin(self) -> None:
        """Return when something is proven that is not over soon; raises LockError.

        That is at once, unless the host has slept since it booted (then at the
        next renewal), or sanlock does not renew.
        """
        found = self.check()
        margin = _SOON_IO_TIMEOUTS * max(joined.io_timeout_s for joined in found)
        deadline = time.monotonic() + max(map(term_s, found))
        while self._end(found) < time.clock_gettime(time.CLOCK_BOOTTIME) + margin:
            if time.monotonic() > deadline:
                raise self._unrenewed(found)
            select.poll().poll(_LOOK_MS)
            found = self.check()

    def end(self) -> float:
        """Return until when all is proven, in s of CLOCK_BOOTTIME; raises LockError.

        LeaseLostError: one is lost; any other: sanlock has not renewed since the last time.
        """
        found = self.check()
        end = self._end(found)
        if end <= self._proven:
            raise self._unrenewed(found)
        self._proven = end
        return end

    @staticmethod
    def _unrenewed(found: list[Membership]) -> LockError:
        oldest = min(found, key=lambda joined: joined.renewed)
        age = time.monotonic() - oldest.renewed
        name = f"host_id {oldest.host_id} in lockspace {oldest.name}"
        return LockError("renew", name, f"sanlock last did so {age:.1f} s ago{how(oldest)}")

    def _end(self, found: list[Membership]) -> float:
        monotonic = time.monotonic()
        ends = [each.renewed + term_s(each) + self._sleep.before(each.renewed) for each in found]
        self._sleep.note(monotonic, time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())
        self._sleep.forget(min(each.renewed for each in found))
        return min(ends)

    def check(self) -> list[Membership]:
        """Return the lockspaces as they are; raises LeaseLostError where one is not as it was."""
        found = {each.name: each for each in status.read(resources=False).lockspaces}
        for name, (number, file) in self._joined.items():
            joined = found.get(name)
            if joined is None or joined.number != number:
                raise LeaseLostError("keep", f"lockspace {name}", "this host has left it")
            if joined.is_ending:
                given_up = f"sanlock gives it up{how(joined)}"
                raise LeaseLostError("keep", f"lockspace {name}", given_up)
            if _file(joined) != file:
                why = f"{joined.path} is another file now, which other hosts may use"
                raise LeaseLostError("keep", f"lockspace {name}", why)
        return [found[name] for name in self._joined]


def _file(joined: Membership) -> tuple[int, int]:
    """Return which file the lockspace's path leads to; no I/O where the name is in memory."""
    try:
        return files.identity(joined.path)
    except OSError as error:
        raise _unseen(joined, error) from error


def check_record(joined: Membership) -> None:
    """Raise LockError unless the lockspace that others find says that this host is in it."""
    try:
        found = record.read(joined.path, joined.record_at)
    except OSError as error:
        raise _unseen(joined, error) from error
    if found is None or (found.host_id, found.generation) != (joined.host_id, joined.generation):
        why = f"this host is in one that was at {joined.path} before, where others find another"
        advice = "end what uses sanlock here, then: sanlock client rem_lockspace"
        raise LockError("count on", f"lockspace {joined.name}", why, advice)


def _unseen(joined: Membership, error: OSError) -> LockError:
    why = cause(error, joined.path)
    return LockError("look at", f"lockspace {joined.name}", why, "is it there, and readable?")


def how(joined: Membership) -> str:
    """Return why the last renewal failed, if it did."""
    return "" if joined.result > 0 else f": {library.named(joined.result)}"
