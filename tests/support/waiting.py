"""How does a test wait? For an event where there is one, else by asking again until a deadline.

The only file that may sleep. Knows nothing of what is waited for.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE_S = 0.005
Seen = TypeVar("Seen")


def until(predicate: Callable[[], Seen], deadline_s: float, why: str) -> Seen:
    """Return the first true value of `predicate`, asked again for `deadline_s` seconds.

    Fails with the last value seen. For what offers no event to wait on.
    """
    end = time.monotonic() + deadline_s
    while not (seen := predicate()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {why}; last seen: {seen!r}"
        time.sleep(_PAUSE_S)  # noqa: TID251 - the one place where a test may sleep
    return seen


def readable(fd: int, deadline_s: float, why: str) -> None:
    """Wait until `fd` is readable or at its end; fails after `deadline_s` seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    events = dict(poll.poll(deadline_s * 1000))
    assert events, f"not within {deadline_s:g} s: {why} (descriptor {fd})"
    assert not events[fd] & select.POLLNVAL, f"descriptor {fd} is not open: {why}"


def is_gone(pidfd: int) -> bool:
    """Is the process of `pidfd` dead, its last thread included?"""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def gone(pidfd: int, deadline_s: float) -> None:
    """Wait until the process of `pidfd` is dead, its last thread included."""
    readable(pidfd, deadline_s, "the process is dead")
