"""Until when may the guest run on the last proof? Renewal, and the kernel's own timer.

Imported only for plugins whose leases expire. A proof counts from the moment
it was sent. `margin_s` before the deadline the main thread fences the guest, or
has it parked; if it cannot, the kernel sends SIGKILL to the guard, and so to
the guest, also when the guard is stopped, spinning, or swapped out. It must not
know how a proof is made.
"""

import _thread
import ctypes
import os

from lockplugins.contract import LeaseLostError, LockError
from supervisor.guard.loop import now
from supervisor.guard.signals import SIGKILL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lockplugins.contract import Plugin
    from supervisor.guard.loop import Loop

SOFT_MARGIN_S = 1.0

_CLOCK_BOOTTIME = 7
_TIMER_ABSTIME = 1
_SigEvent = ctypes.c_int * 16  # sigevent(7): value in two words, signal, SIGEV_SIGNAL (0), room
_TimerSpec = ctypes.c_long * 4  # timer_settime(2): interval and value, each in s and ns


class KernelTimer:
    """A timer that SIGKILLs this process; lost on exec and not inherited by fork."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._id = ctypes.c_void_p()
        event = _SigEvent(0, 0, SIGKILL)
        self._call("timer_create", _CLOCK_BOOTTIME, event, ctypes.byref(self._id))

    def __del__(self) -> None:
        self._libc.timer_delete(self._id)

    def arm(self, instant: float) -> None:
        """SIGKILL this process at `instant` of CLOCK_BOOTTIME; 0 disarms."""
        spec = _TimerSpec(0, 0, int(instant), int(instant % 1 * 1e9))
        self._call("timer_settime", self._id, _TIMER_ABSTIME, spec, None)

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._libc, name)(*arguments) != 0:
            reason = f"{name}: {os.strerror(ctypes.get_errno())}"
            raise LockError("arm", "the deadline", reason, "the guest is not run without it")


class Deadline:
    """Renews, and calls `lost(reason)` on the main thread when the guest may not run on."""

    def __init__(self, plugin: "Plugin", loop: "Loop", lost: "Callable[[str], None]") -> None:
        self._plugin = plugin
        self._loop = loop
        self.lost = lost
        self.margin_s = SOFT_MARGIN_S
        self._timer = KernelTimer()
        self._pause = _thread.allocate_lock()
        self._disarmed = self.renewing = False
        self._last_doubt = "no answer"
        self.instant = 0.0

    def prove(self) -> None:
        """Renew once and move the deadline; raises LockError when nothing of use was proven."""
        instant = self._plugin.renew() + self._plugin.PROOF_TERM_S
        if instant <= now() + self.margin_s:  # the timer would end us without a word
            raise LockError(
                "arm", "the deadline", "the last proof is too old", "does anybody renew?"
            )
        self.instant = instant
        self._timer.arm(instant)
        self._loop.post(self.watch)

    def start(self) -> None:
        """Renew from now on, on a thread of its own, `renewing` until that has ended."""
        self.renewing = self._pause.acquire()
        _thread.start_new_thread(self._renew, ())

    def disarm(self) -> None:
        """End nobody any more: the guest has got its SIGKILL.

        Renew all the same: one that sleeps uninterruptibly may write yet, and nobody may have
        its disks until it is dead.
        """
        self._disarmed = True
        self._loop.cancel("deadline")
        self._timer.arm(0)

    def stop(self) -> None:
        """Renew no more: the guest is dead, or stands still without its leases."""
        self.disarm()
        if self._pause.locked():
            self._pause.release()

    def watch(self) -> None:
        """See to it that `lost` is called in time."""
        if not self._disarmed:
            self._loop.at("deadline", self.instant - self.margin_s, self._passed)

    def _passed(self) -> None:
        age = now() - self.instant + self._plugin.PROOF_TERM_S
        bound = self._plugin.PROOF_TERM_S
        self.lost(f"{self._last_doubt}; last proof {age:.1f} s ago, bound {bound:g} s")

    def _renew(self) -> None:
        while not self._pause.acquire(timeout=self._plugin.RENEW_EVERY_S):  # else stopped
            try:
                self.prove()
            except BaseException as error:  # noqa: BLE001  # the plugin call edge: nothing is proven
                known = isinstance(error, LockError)
                self._last_doubt = str(error) if known else f"our own fault: {error!r}"
                if isinstance(error, LeaseLostError):
                    self._loop.post(lambda: self.lost(self._last_doubt))
                    break
            if self._disarmed:
                self._timer.arm(0)
        self.renewing = False
