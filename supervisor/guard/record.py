"""What does the runtime directory say about this guest?

Writes guest.json, child.pid, the control socket and, under pidns, QEMU's own
pid file. Runs on the jobs thread but for `take_pidfile` and `remove_pidfile`.
It must not decide anything.
"""

import _socket
import _thread
import posix
import time

from lockplugins.contract import LockError, cause
from supervisor import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Lease
    from supervisor.spec import GuestSpec

PUBLISH_BOUND_S = 1.0
_BACKLOG = 128
_PIDFILE = ("-pidfile", "--pidfile")


class Record:
    """The published side of one guest; owns the listening `control_fd` once acquired."""

    def __init__(
        self, spec: "GuestSpec", guard_dir: rundir.GuardDir, mode: str, inode: int
    ) -> None:
        self._spec = spec
        self._dir = guard_dir
        self.mode = mode
        self._inode = inode
        self._pidfile: str | None = None
        self.since = ""
        self.boot_id = ""
        self.child_start_time: int | None = None
        self.control_fd = -1
        self._publishing = _thread.RLock()

    def publish_acquiring(self) -> None:
        """Write guest.json before any lease is asked for, so that a refusal can name us."""
        self.boot_id = rundir.boot_id()
        self.since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.publish(None, [])

    def publish_acquired(self, child_pid: int, leases: "Sequence[Lease]") -> None:
        """Write guest.json and child.pid, listen on the control pipe, write QEMU's pid file."""
        self.child_start_time = rundir.start_time(child_pid)
        with self._publishing:
            self.publish(child_pid, leases)
            self._dir.publish(rundir.CHILD_PID, f"{child_pid}\n")
            if self.control_fd < 0:
                self._listen()
            if self._pidfile is not None:
                self._write_pidfile(self._pidfile, child_pid)

    def publish(self, child_pid: int | None, leases: "Sequence[Lease]") -> None:
        """Write guest.json anew."""
        guest = {
            **self.summary(child_pid, leases),
            "config": self._spec.config,
            "boot_id": self.boot_id,
            "supervisor_start_time": rundir.start_time(posix.getpid()),
            "child_start_time": self.child_start_time,
            "carrier_inode": self._inode,
        }
        with self._publishing:
            self._dir.publish(rundir.GUEST_JSON, rundir.as_json(guest) + "\n")

    def summary(self, child_pid: int | None, leases: "Sequence[Lease]") -> dict[str, object]:
        """Return what the file and a client are both told."""
        return {
            **{key: getattr(self._spec, key) for key in ("uuid", "name", "id", "plugin")},
            "containment": self.mode,
            "since": self.since,
            "supervisor_pid": posix.getpid(),
            "child_pid": child_pid,
            "leases": [lease.as_json() for lease in leases],
        }

    def _listen(self) -> None:
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        listener.setblocking(False)
        path = self._dir.control_path()
        try:
            listener.bind(path)
            posix.chmod(path, 0o600)
            listener.listen(_BACKLOG)
        except OSError as error:
            path = f"{self._dir.path}/{rundir.CONTROL}"
            raise LockError("listen on", path, cause(error), "see --runtime-dir") from error
        self.control_fd = listener.detach()

    def take_pidfile(self, argv: list[str]) -> list[str]:
        """Take -pidfile FILE out: in a PID namespace QEMU would write a pid nobody else knows."""
        for index, word in enumerate(argv[:-1]):
            if index and word in _PIDFILE:
                self._pidfile = argv[index + 1]
                return self.take_pidfile(argv[:index] + argv[index + 2 :])
        return argv

    def _write_pidfile(self, path: str, pid: int) -> None:
        try:
            with open(path, "w", encoding="ascii", opener=_private) as file:
                file.write(f"{pid}\n")
        except OSError as error:
            raise LockError("write", f"pid file {path}", cause(error), "see -pidfile") from error

    def withdraw(self) -> None:
        """Remove what was published, for good: who publishes after this waits for our end."""
        self._publishing.acquire(timeout=PUBLISH_BOUND_S)
        self._dir.remove()
        if self._pidfile is not None and self.control_fd >= 0:  # else it is somebody else's
            try:
                posix.unlink(self._pidfile)  # as QEMU does when it ends
            except OSError:
                return


def _private(path: str, flags: int) -> int:
    return posix.open(path, flags, 0o600)
