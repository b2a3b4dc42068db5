"""Which process is the guest, as soon as it runs? GetChild, for a program that has just begun it.

Asks the guard again until it says that the guest executes. Until there is a
guard, or a control pipe of its, there is nothing yet whose readiness could be
waited for; from then on it is milliseconds. So it looks a hundred times a
second at first, less often at one that keeps it waiting (for leases, say), up
to a deadline, on the caller's thread. It must not start or end anything.
"""

from __future__ import annotations

import os
import select
import time

from lockplugins.contract import LockError
from supervisor import client
from supervisor.finding import NoSuchGuestError, is_guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.client import Child

_SHORTEST_S, _LONGEST_S = 0.01, 0.25
_OF_THE_WAIT = 0.05  # so much later than it could, at most, the guest is seen
_NOT_YET = ("acquiring", "acquired")


class NotRunningError(LockError):
    """The guest does not run yet; it may still come up."""


def running_child(path: str, timeout_s: float, *, expected: bool = False) -> Child:
    """Return the child of the guard of `path`, which runs; its pidfd is the caller's to close.

    `expected`: the guard may not be there yet. Raises NoSuchGuestError when it
    is gone, NotRunningError after `timeout_s`.
    """
    began, has_begun = time.monotonic(), not expected
    name = f"guest {os.path.basename(path)}"
    while True:
        guarded, waited = is_guarded(path), time.monotonic() - began
        is_late = waited >= timeout_s
        if guarded and (child := _ask(path, believe_files=has_begun or is_late)) is not None:
            return child
        if not guarded and not expected:
            reason, advice = "its supervisor is gone", "see its log, or what it wrote to you"
            raise NoSuchGuestError("find", f"the process of {name}", reason, advice)
        expected = expected and not guarded
        if is_late:
            reason = "it waits for leases, or for GO" if guarded else "no supervisor has begun it"
            why = f"{reason}, after {timeout_s:g} s"
            raise NotRunningError("find", f"the process of {name}", why, "ask again, or kill it")
        pause = min(max(_SHORTEST_S, waited * _OF_THE_WAIT), _LONGEST_S)
        select.select((), (), (), min(pause, timeout_s - waited))


def _ask(path: str, *, believe_files: bool) -> Child | None:
    """Return the child if it runs, or where the guard is silent, if its files can be believed.

    They name a child that does not execute yet as well: not to be believed of one just begun.
    """
    try:
        child = client.get_child(path, pidfd=True)
    except client.NoAnswerError:
        return None
    if child.state not in _NOT_YET and (child.state or believe_files):
        return child
    if child.pidfd is not None:
        os.close(child.pidfd)
    return None
