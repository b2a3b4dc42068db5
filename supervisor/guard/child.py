"""Which process is the guest, is anything of it still alive, and how did it end?

The guard's view of what fork.py started: a pid to name, a pidfd to signal, and
an end that only the kernel declares. It must not fork, nor decide.
"""

import posix

from supervisor.guard import containment, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

LAUNCHED_PID = 2  # the first process that an init forks in its namespace
_KILLED_WITH_INIT = 128 + signals.SIGKILL
_REPORT_BYTES = 64


class Child:
    """The guest: `pid` to name and `pidfd` to signal it, `end_pidfd` to see its end.

    `end_pidfd` is readable when nothing of the guest runs any more. Under
    pidns it is that of init, whose process is `first_pid` and whose reports of
    what it reaped come over `init_report`, readable at `report_fd`; `pidfd` is the guest's own.
    `status` is the exit status as a shell counts it, valid after `reap`. `on_stir` hears from init
    that a process of the guest was stopped, or continued.
    """

    def __init__(
        self, first_pid: int, end_pidfd: int, init_report: "_socket.socket | None" = None
    ) -> None:
        self.pid = first_pid
        self.pidfd = end_pidfd
        self.end_pidfd = end_pidfd
        self.status = _KILLED_WITH_INIT
        self.first_pid = first_pid
        self._init_report = init_report
        self.report_fd = None if init_report is None else init_report.fileno()
        self._followed_pid = LAUNCHED_PID
        self.on_stir = _ignore

    def follow(self, pid: int) -> None:
        """Take `pid`, alive and not reaped, for the guest from now on."""
        self.pid = pid
        self.pidfd = posix.pidfd_open(pid)

    def kill(self) -> None:
        """SIGKILL everything of the guest."""
        signals.send(self.end_pidfd, signals.SIGKILL)

    def reap(self) -> None:
        """Collect the exit status; call when `end_pidfd` is readable."""
        ended = posix.waitid(posix.P_PIDFD, self.end_pidfd, posix.WEXITED)
        if self._init_report is not None:
            while self.read_init_report() is not None:
                pass
        elif ended is not None:
            self.status = _as_shell_counts(ended.si_code, ended.si_status)

    def read_init_report(self) -> tuple[int, int] | None:
        """Return (pid in the namespace, status) of a process that init reaped, None at the end.

        A pid of 0: of one that was stopped or continued.
        """
        if self._init_report is None:
            return None
        data = self._init_report.recv(_REPORT_BYTES)
        if not data:
            return None
        pid, code, status = (int(number) for number in data.split())
        if code in (posix.CLD_STOPPED, posix.CLD_CONTINUED):
            self.on_stir(code)
            return 0, 0
        counted = _as_shell_counts(code, status)
        if pid == self._followed_pid:
            self.status = counted
        return pid, counted

    def find_survivor(self) -> int | None:
        """Follow what a -daemonize left running; returns its pid, None when nobody new is there.

        QEMU forks twice. The process in the middle, still there or a zombie,
        is known by leading the session.
        """
        for pid in containment.children_of(self.first_pid):
            try:
                status = containment.status_of(pid)
                own, session = (int(status[key].split()[-1]) for key in ("NSpid", "NSsid"))
                if own != session and self._followed_pid == LAUNCHED_PID:
                    self.follow(pid)
                    self._followed_pid = own
                    return pid
            except (KeyError, ProcessLookupError):
                continue  # gone meanwhile
        return None


def _ignore(code: int) -> None:
    """Whoever stops and continues a guest that is not parked may do so."""


def _as_shell_counts(code: int, status: int) -> int:
    """Return the exit status, 128 + n for death by signal n."""
    return status if code == posix.CLD_EXITED else 128 + status
