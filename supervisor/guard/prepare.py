"""What must stand before any lease is asked for? The checks, the claim, the waiting child.

Runs on the main thread before any other exists; what it opens is the
`Prepared` guest's until the process ends. It must not touch a lease.
"""

import _socket

from supervisor.guard import containment, descriptors, fork
from supervisor.guard.carrier import Carrier
from supervisor.guard.record import Record
from supervisor.rundir import MONITOR, GuardDir
from supervisor.spec import Containment, is_qemu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.guard.child import Child
    from supervisor.guard.signals import Signals
    from supervisor.spec import GuestSpec

CHARDEV = '[chardev "lock-supervisor"]\nbackend = "socket"\nfd = "{fd}"\n'
MON = '[mon "lock-supervisor"]\nchardev = "lock-supervisor"\nmode = "control"\n'


class Prepared:
    """A guest that waits for go: its runtime directory, carrier, record and child.

    `monitor_fd` is our end of the private monitor, None without one.
    """

    def __init__(self, spec: "GuestSpec", command: list[str], launcher_signals: "Signals") -> None:
        """Claim and fork; raises LockError with nothing left behind."""
        argv = list(command)
        shelf = descriptors.Shelf(argv)
        shelf.withhold(spec.ready_fd, spec.handshake_fd)
        qemu = is_qemu(argv[0])
        if qemu:
            descriptors.check_named(argv)
        path = containment.resolve(argv[0])
        mode = containment.decide(spec.containment, argv, path)
        self.command = argv[0]
        self.daemonizes = containment.daemonizes(argv)
        self.monitor_fd: int | None = None
        self.dir = GuardDir.claim(spec.runtime_dir, spec.uuid)
        try:
            self.carrier = Carrier(shelf)
            inherit = [self.carrier.guest_fd]
            if qemu and spec.monitor:
                inherit.append(self._add_monitor(shelf, argv))
            self.record = Record(spec, self.dir, mode, self.carrier.inode())
            if mode == Containment.PIDNS:
                argv = self.record.take_pidfile(argv)
            self.launch = fork.Launch(argv, path, shelf, launcher_signals, inherit)
            fork.name_process(f"lock:{spec.name}")
            self.child: Child = fork.fork(mode, self.launch, spec.name)
        except BaseException:
            self.dir.remove()
            raise

    def _add_monitor(self, shelf: descriptors.Shelf, argv: list[str]) -> int:
        """Give QEMU a QMP monitor on a socket of ours; returns QEMU's end.

        By -readconfig: -mon among its arguments would take away the monitor
        that -nographic puts on the terminal (QEMU's default_monitor).
        """
        ours, guests = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.monitor_fd = shelf.lift(ours.detach())
        fd = shelf.lift(guests.detach())
        self.dir.publish(MONITOR, CHARDEV.format(fd=fd) + MON)
        argv += ["-readconfig", f"{self.dir.path}/{MONITOR}"]
        return fd
