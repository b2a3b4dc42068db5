"""Which signals came for the guest, and had it got them already?

The forwarded signals are blocked from the start, so that none is lost, and
taken by a thread in sigwaitinfo(2), which alone tells a ^C that the terminal
sent to the whole process group from a signal sent to us. It must not decide
what a signal means for the guest.
"""

import _thread
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
else:
    import _signal

STOPPING = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP)
FORWARDED = (*STOPPING, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2)
SIGKILL = _signal.SIGKILL
SIGTERM = _signal.SIGTERM

_SI_KERNEL = 0x80  # sigaction(2): sent by the kernel, here the terminal's line discipline
# What Python's start-up ignores (Python/pylifecycle.c), whatever the launcher had. It handles
# SIGINT, unless that was ignored.
_IGNORED_BY_PYTHON = (_signal.SIGPIPE, _signal.SIGXFSZ)


class Signals:
    """The launcher's mask, and the signals that we take in its guest's name."""

    def __init__(self) -> None:
        taken = {s for s in FORWARDED if _signal.getsignal(s) != _signal.SIG_IGN}
        self.launcher_mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, taken)
        self._taken = taken
        # Ignored, it would have the kernel reap our children: no exit status (waitpid(2)).
        self._launcher_child = _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)

    def start(self, heard: "Callable[[int, bool], None]") -> None:
        """Call `heard(signal, by_group)`, on a thread of our own, for each signal.

        `by_group`: the kernel sent it to our whole process group.
        """
        _thread.start_new_thread(self._listen, (heard,))

    def restore(self) -> None:
        """Give the calling process, about to exec the guest, what the launcher had."""
        for number in (*_IGNORED_BY_PYTHON, *self._taken):
            _signal.signal(number, _signal.SIG_DFL)
        _signal.signal(_signal.SIGCHLD, self._launcher_child)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.launcher_mask)

    def _listen(self, heard: "Callable[[int, bool], None]") -> None:
        while True:
            info = _signal.sigwaitinfo(self._taken)
            # A terminal's hangup is told to the session's leader alone.
            alone = info.si_signo == _signal.SIGHUP and posix.getsid(0) == posix.getpid()
            heard(info.si_signo, info.si_code == _SI_KERNEL and not alone)


def block_all() -> None:
    """Block every signal that can be blocked (the init of a PID namespace)."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())


def pass_on_sigterm() -> None:
    """Have the calling process, a blocked init, send SIGTERM on to the rest of its namespace."""
    _signal.signal(SIGTERM, lambda *_: posix.kill(-1, SIGTERM))
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {SIGTERM})


def send(pidfd: int, number: int) -> None:
    """Signal the process behind `pidfd`, unless it is gone."""
    try:
        _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
