"""How does a guard die at a line of its code? A forked one SIGKILLs itself; its guest lives on.

The guest has nothing but the carrier's end. Judges nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from supervisor.guard.carrier import Carrier
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Self

    Tell = Callable[[str], None]
    Hear = Callable[[], str]

DEADLINE_S = 20
DONE, FAILED = 0, 1
MOST = 8


class NoShelf:
    """Leaves descriptors where they are."""

    def lift(self, fd: int) -> int:
        return fd


def killing_at(line: int, traced: tuple[str, ...]) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that ends this process at that line of `traced` files.

    A line that comes again and again, where something is waited for, counts MOST times.
    """
    left = line
    counts: Counter[tuple[str, int]] = Counter()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if not any(part in frame.f_code.co_filename for part in traced):
            return None
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            counts[place] += 1
            left -= counts[place] <= MOST
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def be_guest(carrier: Carrier) -> None:
    """Keep nothing but the carrier's end, until killed."""
    os.closerange(3, carrier.guest_fd)
    os.closerange(carrier.guest_fd + 1, 1000)
    signal.pause()


def _line(fd: int) -> str:
    """Return the next line, and take no byte of the one after it."""
    said = b""
    while not said.endswith(b"\n"):
        waiting.readable(fd, DEADLINE_S, "the other process speaks")
        byte = os.read(fd, 1)
        assert byte, "the other process has died"
        said += byte
    return said.decode().rstrip("\n")


class DyingGuard:
    """A guard that does `act` and dies at `line` of it, or gets to its end; a context.

    `begin(carrier, tell, hear)` brings it to where `act` can be done, which it returns;
    `tell` and `hear` are lines to and from this process.
    """

    def __init__(self, begin: Callable[..., Callable[[], object]], traced: tuple[str, ...]) -> None:
        self._begin, self._traced = begin, traced
        (self._ours_in, theirs_out), (theirs_in, self._ours_out) = os.pipe(), os.pipe()
        self._theirs = theirs_in, theirs_out
        self.ended = False
        self._guest_pidfd = -1

    def start(self, line: int) -> None:
        """Fork it; it dies when it is told to go on for the last time."""
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os._exit(self._be(line))
            finally:
                os._exit(FAILED)
        for fd in self._theirs:
            os.close(fd)
        self._guest_pidfd = os.pidfd_open(int(self.hear()))

    def _be(self, line: int) -> int:
        shelf: object = NoShelf()
        carrier = Carrier(shelf)  # type: ignore[arg-type]  # the one method that the carrier uses
        guest_pid = os.fork()
        if guest_pid == 0:
            be_guest(carrier)
            os._exit(FAILED)
        theirs_in, theirs_out = self._theirs
        os.close(self._ours_in)
        os.close(self._ours_out)

        def tell(words: str) -> None:
            os.write(theirs_out, words.encode() + b"\n")

        tell(str(guest_pid))
        act = self._begin(carrier, tell, lambda: _line(theirs_in))
        sys.settrace(killing_at(line, self._traced))
        act()
        sys.settrace(None)
        return DONE

    def tell(self, words: str) -> None:
        os.write(self._ours_out, words.encode() + b"\n")

    def hear(self) -> str:
        return _line(self._ours_in)

    def wait(self) -> None:
        """Return when the guard has died, or come to the end of what it does."""
        _pid, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in {DONE, -signal.SIGKILL}
        self.ended = code == DONE

    def end_guest(self) -> None:
        signal.pidfd_send_signal(self._guest_pidfd, signal.SIGKILL)
        waiting.gone(self._guest_pidfd, DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self._ours_in, self._ours_out, self._guest_pidfd):
            os.close(fd)


class Hand:
    """One step: what the dying end does, and the other one before and after."""

    def begin(self, carrier: Carrier, tell: Tell, hear: Hear) -> Callable[[], object]:
        """Bring the dying end to where it can do the step; returns that (in the guard)."""
        raise NotImplementedError

    def meet(self, dying: DyingGuard) -> None:
        """Bring the other end to where the step can be done."""
        raise NotImplementedError

    def judge(self, *, ended: bool) -> None:
        """The guard is dead, its guest lives, and may run unless the step forbids it."""
        raise NotImplementedError

    def judge_last(self, *, ended: bool) -> None:
        """Its guest is dead, too."""

    def close(self) -> None:
        """Nothing is left of the other end."""


def die_at_each(new: Callable[[], Hand], traced: tuple[str, ...], stride: int) -> str:
    """Have a guard die at every so manyth line of a step; returns at how many that was."""
    line, ended = 0, False
    while not ended:
        line += stride
        hand = new()
        with DyingGuard(hand.begin, traced) as dying:
            dying.start(line)
            hand.meet(dying)
            dying.wait()
            ended = dying.ended
            hand.judge(ended=ended)
            dying.end_guest()
            hand.judge_last(ended=ended)
        hand.close()
    assert line > 20
    return (
        f"every {stride}. of {line - stride} lines" if stride > 1 else f"each of {line - 1} lines"
    )
