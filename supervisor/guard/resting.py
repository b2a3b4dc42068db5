"""Does the guest stand still, so that its leases can be given up, and for as long as they are?

SIGSTOP, until the kernel says that all of the guest has stopped. That is no
lock: anybody's SIGCONT undoes it. So who has it continue, before `let_go`, has
it killed, by the thread that the kernel wakes for that (under pidns its init
reports it). A guard that is frozen meanwhile would not: the kernel ends it,
and the guest with it, PULSE_S after its last beat. It must not know why the
guest rests.

Does not see a tracer that has a single thread of the guest run.
"""

from __future__ import annotations

import os
from signal import SIGCONT, SIGSTOP

from supervisor import stillness
from supervisor.guard.deadline import KernelTimer
from supervisor.guard.loop import now
from supervisor.guard.signals import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.guard.supervise import Supervisor

PULSE_S = 3.0
_BEAT_S = 1.0
_AWAKE, _FALLING, _ASLEEP = "awake", "falling", "asleep"


class Rest:
    """The standstills of one guest; the main thread's, but for those that hear of it stirring."""

    def __init__(self, supervisor: Supervisor, disturbed: Callable[[str], None]) -> None:
        """Call `disturbed(reason)` when a guest was continued while it rested."""
        self._child = supervisor.child
        self._loop = supervisor.loop
        self._apart = supervisor.jobs.apart
        self._disturbed = disturbed
        self._timer = KernelTimer()
        self._state = _AWAKE
        self._then = disturbed
        self._child.on_stir = self._stirred
        self._apart(self._watch, lambda *_: None)  # without a thread for it, no guest comes to rest

    def fall(self, then: Callable[[str], None]) -> None:
        """Have the guest stand still; calls `then("")` when all of it does, else `then(why)`.

        It may never be called. `then` is to be another one each time.
        """
        self._then, self._state = then, _FALLING
        send(self._child.pidfd, SIGSTOP)

    def keep(self) -> None:
        """Beat from now on, until `let_go`: a guard that does not is ended by the kernel."""
        self._timer.arm(now() + PULSE_S)
        self._loop.at("beat", now() + _BEAT_S, self.keep)

    def let_go(self) -> None:
        """Have the guest continue."""
        self._state = _AWAKE
        self._loop.cancel("beat")
        self._timer.arm(0)
        send(self._child.pidfd, SIGCONT)

    def _watch(self) -> None:
        """Hear from the kernel whenever the guest, or its init, is stopped or continued."""
        while True:
            news = os.waitid(os.P_PIDFD, self._child.end_pidfd, os.WSTOPPED | os.WCONTINUED)
            if news is not None:
                self._stirred(news.si_code)

    def _stirred(self, code: int) -> None:
        """It was stopped, or continued: where it has stopped already, it was awake meanwhile."""
        if self._state == _FALLING and code == os.CLD_STOPPED:
            self._state = _ASLEEP
            self._loop.post(self._look)
        elif self._state != _AWAKE:
            self._child.kill()
            self._loop.post(lambda: self._disturbed("somebody had it continue while it was parked"))

    def _look(self) -> None:
        """The kernel says that the guest has stopped: see that this is all of the guest."""
        then = self._then

        def looked(why: str | None, error: BaseException | None) -> None:
            if then is self._then:  # else too late
                then(repr(error) if error is not None else why or "")

        pid, first_pid = self._child.pid, self._child.first_pid
        self._apart(lambda: stillness.why_not(pid, first_pid), looked)
