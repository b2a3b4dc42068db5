"""Who is waited for, and since when? One line on the terminal, rewritten in place, then erased.

Loaded, on a thread of its own, only while a guard waits and its standard error
is a terminal. Nothing here can hold a launch up: the terminal is opened anew,
not to block (a ^S stops us short, nobody else), and is left alone while we are
in its background. It must not know locks, nor what comes after the wait.
"""

from __future__ import annotations

import _thread
import os
import time

from lockplugins.contract import LockError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from lockplugins.contract import Guest, Resource
    from supervisor.holders import Known

    Find = Callable[[], tuple[Resource, Known] | None]
else:
    import _signal

EVERY_S = 1.0
LOOK_AGAIN_S = 5.0  # looking reads much of /proc
_STDERR = 2
_USUAL_COLUMNS = 80


class WaitingLine:
    """The line of one wait; `run` draws it until `end`, which any other thread may call.

    The guest says what its plugin is at, if that takes long; `find` says what is held by whom,
    and may block; `still` whether the wait goes on, and says so before `end` is called.
    """

    def __init__(
        self, guest: Guest, find: Find, still: Callable[[], bool], waited_s: float
    ) -> None:
        self._guest = guest
        self._find = find
        self._still = still
        self._since = _now() - waited_s
        self._drawing = _thread.allocate_lock()
        self._over = _thread.allocate_lock()
        self._over.acquire()
        self._fd = -1
        self._drawn = False

    def run(self) -> None:
        """Draw until the wait is over; returns at once where there is no terminal to draw on."""
        # In the background, under `stty tostop`, a write would stop our whole process group.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGTTOU})
        try:
            self._fd = os.open(
                f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            )
        except OSError:  # another user's terminal, or gone
            return
        looked_at, words = -LOOK_AGAIN_S, ""
        try:
            while self._still():
                now = _now()
                if now - looked_at >= LOOK_AGAIN_S:
                    looked_at, words = now, self._words()
                with self._drawing:
                    if self._still() and _in_foreground(self._fd):
                        self._drawn = True
                        waited = f"waiting {now - self._since:.0f} s (^C gives up) for {words}"
                        self._put(f"lock-supervisor: {waited}")
                self._over.acquire(timeout=EVERY_S)
        finally:
            self.end()

    def end(self) -> None:
        """Erase the line, if there is one and the terminal is ours; nothing is drawn afterwards."""
        with self._drawing:
            if self._drawn and _in_foreground(self._fd):
                self._put("")
            self._drawn = False
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            if self._over.locked():
                self._over.release()

    def _words(self) -> str:
        if self._guest.doing:
            return self._guest.doing
        try:
            found = self._find()
        except LockError:  # the refusal will say what cannot be told
            found = None
        if found is None:
            return "its leases"
        resource, holder = found
        return f"{resource.type} {resource.path}, held by {holder.words()}"

    def _put(self, text: str) -> None:
        """Have the terminal's line say `text` alone, the cursor at its beginning."""
        columns = _columns(self._fd)
        # Spaces, which every terminal knows; in its last column the cursor waits for what is next.
        line = f"\r{' ' * columns}\r{_cut(shown(text), columns - 1)}\r"
        try:
            os.write(self._fd, line.encode("utf-8", "surrogateescape"))
        except OSError:
            return  # stopped by ^S, or hung up


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # as --wait counts


def _in_foreground(fd: int) -> bool:
    """May we draw? Yes where the terminal has no job control over us."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # not our controlling terminal


def _columns(fd: int) -> int:
    try:
        return os.get_terminal_size(fd).columns or _USUAL_COLUMNS
    except OSError:
        return _USUAL_COLUMNS


def _cut(text: str, columns: int) -> str:
    """Return as much of `text` as fits; what is not ASCII may be two columns wide."""
    used = 0
    for index, character in enumerate(text):
        used += 1 if character.isascii() else 2
        if used > columns:
            return text[:index]
    return text
