"""What must stand before any lease is asked for? The checks, the claim, the waiting child.

Runs on the main thread before any other exists; what it opens is the
`Prepared` guest's until the process ends. It must not touch a lease.
"""

import _socket

from lockplugins import registry
from lockplugins.contract import ConfigError
from supervisor.guard import containment, descriptors, fork
from supervisor.guard.carrier import Carrier
from supervisor.guard.record import Record
from supervisor.rundir import MONITOR, GuardDir
from supervisor.spec import Containment, is_qemu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.guard.child import Child
    from supervisor.guard.loop import Loop
    from supervisor.guard.signals import Signals
    from supervisor.qmp.monitor import Monitor
    from supervisor.spec import GuestSpec

CHARDEV = '[chardev "lock-supervisor"]\nbackend = "socket"\nfd = "{fd}"\n'
MON = '[mon "lock-supervisor"]\nchardev = "lock-supervisor"\nmode = "control"\n'


class Prepared:
    """A guest that waits for go: its runtime directory, carrier, record and child."""

    def __init__(self, spec: "GuestSpec", command: list[str], launcher_signals: "Signals") -> None:
        """Claim and fork; raises LockError with nothing left behind."""
        argv = list(command)
        shelf = descriptors.Shelf(argv)
        spec.ready_fd, spec.handshake_fd = shelf.withhold(spec.ready_fd, spec.handshake_fd)
        qemu = is_qemu(argv[0])
        if qemu:
            descriptors.check_named(argv)
        path = containment.resolve(argv[0])
        mode = containment.decide(spec.containment, argv, path)
        if spec.incoming:
            _check_receives(spec, argv)
        self.command = argv[0]
        self.daemonizes = containment.daemonizes(argv)
        self.monitor_fd: int | None = None
        self._monitor: Monitor | None = None
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
            if any(p.REGISTERS for p in registry.plugin_classes(spec.plugin, spec.classes)):
                from supervisor.guard.registration import register  # for these alone

                self.launch.register = lambda: register(self.launch, spec)
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

    def monitor(self, loop: "Loop") -> "Monitor | None":
        """Return our end of the private monitor, negotiated with when first asked for.

        None without one. For parts that are loaded late, and its module with them.
        """
        if self._monitor is None and self.monitor_fd is not None:
            from supervisor.qmp.monitor import Monitor

            self._monitor = Monitor(self.monitor_fd, loop)
        return self._monitor


def _check_receives(spec: "GuestSpec", argv: list[str]) -> None:
    """Raise ConfigError unless QEMU awaits a guest, does not start it itself, and is watched."""
    name = f"guest {spec.name} as a migration's destination"
    missing = [word for word in ("-incoming", "-S") if word not in containment.options(argv)]
    if not is_qemu(argv[0]):
        raise ConfigError("start", name, f"{argv[0]} is not QEMU", "leave out --incoming")
    if missing:
        why = f"its arguments have no {' and no '.join(missing)}"
        raise ConfigError("start", name, why, "add -incoming URI and -S")
    if not spec.monitor:
        raise ConfigError("start", name, "it has no private monitor", "leave out --no-monitor")
    if "-daemonize" in containment.options(argv):
        raise ConfigError("start", name, "it is told to fork (-daemonize)", "use --detach")
