"""What does the runtime directory say about this guest, and what do refusals say of others?

Writes guest.json, child.pid, the control socket and, under pidns, QEMU's own
pid file; turns a holder's pid into a guest's name. Runs on the jobs thread but
for `take_pidfile` and `remove_pidfile`. It must not decide anything.
"""

import _socket
import posix
import time

from lockplugins.contract import LeaseHeldError, LockError, shown
from supervisor import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Lease, Plugin
    from supervisor.spec import GuestSpec

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

    def publish_acquiring(self) -> None:
        """Write guest.json before any lease is asked for, so that a refusal can name us."""
        self.boot_id = rundir.boot_id()
        self.since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._publish(None, [])

    def publish_acquired(self, child_pid: int, leases: "Sequence[Lease]") -> None:
        """Write guest.json, child.pid and QEMU's pid file, and listen on the control pipe."""
        self.child_start_time = rundir.start_time(child_pid)
        self._publish(child_pid, leases)
        self._dir.publish(rundir.CHILD_PID, f"{child_pid}\n")
        if self._pidfile is not None:
            self._write_pidfile(self._pidfile, child_pid)
        if self.control_fd < 0:
            self._listen()

    def publish_leases(self, child_pid: int, leases: "Sequence[Lease]") -> None:
        """Write guest.json anew after a lease came or went."""
        self._publish(child_pid, leases)

    def _publish(self, child_pid: int | None, leases: "Sequence[Lease]") -> None:
        spec = self._spec
        guest = {
            "uuid": spec.uuid,
            "name": spec.name,
            "id": spec.id,
            "plugin": spec.plugin,
            "config": spec.config,
            "containment": self.mode,
            "since": self.since,
            "boot_id": self.boot_id,
            "supervisor_pid": posix.getpid(),
            "supervisor_start_time": rundir.start_time(posix.getpid()),
            "child_pid": child_pid,
            "child_start_time": self.child_start_time,
            "carrier_inode": self._inode,
            "leases": [lease.as_json() for lease in leases],
        }
        self._dir.publish(rundir.GUEST_JSON, rundir.as_json(guest) + "\n")

    def _listen(self) -> None:
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        listener.setblocking(False)
        path = self._dir.control_path()
        try:
            listener.bind(path)
            posix.chmod(path, 0o600)
            listener.listen(_BACKLOG)
        except OSError as error:
            reason = f"{posix.strerror(error.errno or 0)}; nothing was started"
            raise LockError("listen on", f"{self._dir.path}/{rundir.CONTROL}", reason) from error
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
            fd = posix.open(
                path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600
            )
            try:
                posix.write(fd, f"{pid}\n".encode())
            finally:
                posix.close(fd)
        except OSError as error:
            raise LockError(
                "write", f"pid file {path}", posix.strerror(error.errno or 0)
            ) from error

    def remove_pidfile(self) -> None:
        """Remove QEMU's pid file as QEMU does when it ends."""
        if self._pidfile is not None:
            try:
                posix.unlink(self._pidfile)
            except OSError:
                return

    def name_holder(self, error: LeaseHeldError) -> None:
        """Say the guest's name where the holder is a guard of ours."""
        holder = error.holder
        guest = rundir.guest_of(holder.pid) if holder and holder.pid else None
        if holder is None or guest is None:
            return
        name, uuid, since = (shown(str(guest.get(key))) for key in ("name", "uuid", "since"))
        child_pid = guest.get("child_pid")
        child = f", guest pid {child_pid}" if child_pid else ""
        words = f"guest {name} ({uuid}), supervisor pid {holder.pid}{child}, since {since}"
        error.reason = error.reason.replace(holder.description, words)
        holder.description = words

    def find_holder(self, plugin: "Plugin | None", reason: str) -> LockError | None:
        """Return the refusal that names who holds the first resource that is held."""
        for resource in self._spec.resources if plugin else ():
            for holder in plugin.inquire(resource) if plugin else ():
                if holder.pid != posix.getpid():
                    name = f"{resource.mode} lease for {resource.type} {resource.path}"
                    why = f"{reason} by {holder.description}"
                    error = LeaseHeldError("acquire", name, why, holder=holder)
                    self.name_holder(error)
                    return error
        return None
