"""Who does what may block? A thread that runs jobs in order and posts how they ended.

Plugin calls, imports, files and log lines run here, started after the fork of
the guest, so that a hung filesystem never holds the main thread (README, D3).
It must not know what a job is about.
"""

import _thread
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from supervisor.guard.loop import Loop

    Job = Callable[[], Any]
    Then = Callable[[Any, BaseException | None], None]


def _ignore(_result: object, error: BaseException | None) -> None:
    """Drop a result; a failure of a job that nobody waits for is our own fault."""
    if error is not None:
        raise error


def _code_times() -> dict[str, int]:
    """When was each file of our code written, and of what is loaded late to work with it?"""
    ours = __file__.removesuffix("guard/jobs.py")
    paths = (
        f"{ours}{part}/{name}" for part in ("guard", "qmp") for name in posix.listdir(ours + part)
    )
    return {path: posix.stat(path).st_mtime_ns for path in paths if path.endswith(".py")}


class Jobs:
    """One thread; `start` it after the guest is forked. The rest is for the main thread."""

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        self._queue: list[tuple[Job, Then]] = []
        self._pending_fd = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_SEMAPHORE)
        self._code_times = _code_times()

    def start(self) -> None:
        """Start the thread."""
        _thread.start_new_thread(self._work, ())

    def submit(self, job: "Job", then: "Then" = _ignore) -> None:
        """Run `job` on the thread, then `then(result, error)` on the main one."""
        self._queue.append((job, then))
        posix.eventfd_write(self._pending_fd, 1)

    def apart(self, job: "Job", then: "Then") -> None:
        """Run `job` at once on a thread of its own: for questions while a job is blocked."""
        try:
            _thread.start_new_thread(self._run, (job, then))
        except RuntimeError as error:  # RLIMIT_NPROC, pids.max: no answer, and no reason to end
            failure = error
            self._loop.post(lambda: then(None, failure))

    def load(self, module: str, then: "Callable[[BaseException | None], None]") -> None:
        """Load, off the main thread, a part of the guard that not every guest needs."""

        def job() -> None:
            # Replaced on the disk? The parts of another version would not fit (D8).
            if _code_times() != self._code_times:
                raise ImportError("lock-supervisor has been replaced since the guest's start")
            __import__(module)

        self.submit(job, lambda _result, error: then(error))

    def _work(self) -> None:
        while True:
            posix.eventfd_read(self._pending_fd)
            self._run(*self._queue.pop(0))

    def _run(self, job: "Job", then: "Then") -> None:
        result, failure = None, None
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001  # the plugin call edge: `then` judges it
            failure = error
        self._loop.post(lambda: then(result, failure))
