"""What is the main thread waiting for? One poll over descriptors, timers and posted calls.

No tick: with nothing to do it sleeps in poll(2) for good. Callbacks must not
block: the kernel's death signal for the guest hangs on this thread (README, D3).
It must not know what the descriptors mean.
"""

import posix
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READABLE = select.POLLIN
_LONGEST_MS = 1 << 30  # 12 days; poll(2) takes an int, and a timer may be further away


def now() -> float:
    """Return seconds of CLOCK_BOOTTIME, which runs on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Loop:
    """A poll(2) loop that runs until `done`; `post` is the only method for other threads."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: dict[str, tuple[float, Callable[[], None]]] = {}
        self._posted: list[Callable[[], None]] = []
        self._wake_fd = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK)
        self.done = False
        self.watch(self._wake_fd, READABLE, self._run_posted)

    def watch(self, fd: int, events: int, callback: "Callable[[int], None]") -> None:
        """Call `callback(revents)` whenever `fd` is ready, in place of any earlier watch of it."""
        self._callbacks[fd] = callback
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`, watched or not; call before closing it."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def at(self, name: str, instant: float, callback: "Callable[[], None]") -> None:
        """Call `callback` once at `instant` of CLOCK_BOOTTIME; replaces the timer `name`."""
        self._timers[name] = (instant, callback)

    def cancel(self, name: str) -> None:
        """Forget the timer `name`, set or not."""
        self._timers.pop(name, None)

    def post(self, call: "Callable[[], None]") -> None:
        """Have the main thread run `call`; for any thread (list.append is atomic)."""
        self._posted.append(call)
        posix.eventfd_write(self._wake_fd, 1)

    def run(self) -> None:
        """Serve until a callback sets `done`."""
        while not self.done:
            for fd, events in self._poll.poll(self._timeout_ms()):
                callback = self._callbacks.get(fd)
                if callback is not None and not self.done:  # else an earlier one closed it
                    callback(events)
            for name, timer in list(self._timers.items()):
                due = timer[0] <= now() and self._timers.get(name) is timer
                if due and not self.done:
                    del self._timers[name]
                    timer[1]()

    def _timeout_ms(self) -> float | None:
        if not self._timers:
            return None
        first = min(instant for instant, _ in self._timers.values())
        return min(max(0.0, (first - now()) * 1000 + 1), _LONGEST_MS)

    def _run_posted(self, _events: int) -> None:
        posix.eventfd_read(self._wake_fd)
        while self._posted and not self.done:
            self._posted.pop(0)()
