"""How is a question asked whose answer may hang? By a copy of this process, for so long only.

For what has to be asked here, with this process's descriptors and directory;
see asking.py for the rest. It must not know the question.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import time

from lockplugins.contract import LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Value = TypeVar("Value")

_DYING_S = 1.0
_MOST = 1 << 16


def answer(name: str, call: Callable[[], Value], within_s: float) -> Value:
    """Return what `call` returns, or raise what it raises.

    Raises LockError for want of an answer; then the copy is killed, or left
    behind where that is impossible. Call it where there is one thread.
    """
    reading, writing = os.pipe()
    copy = os.fork()
    if copy == 0:
        try:
            os.close(reading)
            null = os.open("/dev/null", os.O_WRONLY)
            for standard in {1, 2} - {writing}:  # left behind, it is to hold nobody's pipe open
                os.dup2(null, standard)
            _say(writing, call)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        said = _hear(reading, time.monotonic() + within_s)
    finally:
        os.kill(copy, signal.SIGKILL)  # ours, and not reaped yet
        if _hear(reading, time.monotonic() + _DYING_S) is not None:
            os.waitpid(copy, 0)
        os.close(reading)
    if said is None:
        reason, advice = f"no answer within {within_s:g} s", "see which disk or server hangs"
        raise LockError("find", name, reason, advice)
    found = pickle.loads(said)  # noqa: S301  # what our own copy said
    if isinstance(found, Exception):
        raise found
    value: Value = found
    return value


def _say(fd: int, call: Callable[[], object]) -> None:
    found: object
    try:
        found = call()
    except Exception as error:  # noqa: BLE001  # the caller's, as if there were no copy
        found = error
    with os.fdopen(fd, "wb") as file:
        pickle.dump(found, file)


def _hear(fd: int, deadline: float) -> bytes | None:
    """Return all that is said until its end, None when that does not come."""
    said = b""
    while select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
        if not (data := os.read(fd, _MOST)):
            return said
        said += data
    return None
