"""Are all leases held, does the launcher agree, does the guest execute?

The way from the waiting child to a running guest, on behalf of the
Supervisor, whose state it only changes by telling it what happened.
"""

import _socket
import _thread
import posix

from lockplugins import registry
from lockplugins.contract import Guest, LeaseHeldError, LockError
from supervisor import exitcodes
from supervisor.guard import announce, fork
from supervisor.guard.child import LAUNCHED_PID
from supervisor.guard.lifecycle import Event, State
from supervisor.guard.loop import READABLE, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.contract import Resource
    from supervisor.guard.supervise import Supervisor
    from supervisor.holders import Known
    from supervisor.waiting_line import WaitingLine

    Obstacle = tuple[Resource, Known]

INQUIRY_S = 1.0
LINE_S = 1.0
_GO = b"GO\n"


class Launching:
    """Acquires, shakes hands, listens for exec."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._prepared = supervisor.prepared
        self._answer = b""
        self._going = False
        self._daemonized = False
        self._waits = True
        self._here = _thread.allocate_lock()  # free when the guest's process waits for go
        self._here.acquire()
        self._line: WaitingLine | None = None
        self._guest = Guest(supervisor.spec.uuid, supervisor.spec.name, supervisor.spec.id)

    def start(self) -> None:
        """Have the leases acquired, and listen to the child."""
        supervisor, spec, loop = self._supervisor, self._supervisor.spec, self._supervisor.loop
        jobs = supervisor.jobs
        jobs.submit(self._acquire, self._acquired)
        if spec.wait_s:
            loop.at("wait", now() + spec.wait_s, self._waited)
        # Whatever becomes of the line, the launch goes on.
        loop.at("line", now() + LINE_S, lambda: jobs.apart(self._show_line, lambda *_: None))
        if spec.handshake_fd is not None:  # asked for nothing yet, it can only hang up
            loop.watch(spec.handshake_fd, 0, lambda _: self._no_go())
        report_fd = self._prepared.launch.report.fileno()
        loop.watch(report_fd, READABLE, lambda _: self.hear_child())
        init_fd = self._prepared.child.report_fd
        if init_fd is not None:
            loop.watch(init_fd, READABLE, lambda _: self._hear_init(init_fd))

    def _acquire(self) -> None:
        """Acquire and publish everything (jobs thread)."""
        supervisor, spec, record = self._supervisor, self._supervisor.spec, self._supervisor.record
        record.publish_acquiring()
        plugin = registry.load(spec.plugin, spec.config, self._prepared.carrier, spec.classes)
        supervisor.plugin = plugin
        plugin.open(self._guest)
        if self._prepared.launch.register:
            self._register(self._guest)
        if spec.parks and plugin.PROOF_TERM_S:
            # In memory before the guest runs: what is lost may be the disk that it is on.
            __import__("supervisor.guard.parking")
        spec.resources = registry.claims(plugin, spec.uuid, spec.resources)
        try:
            wait_until = now() + spec.wait_s if spec.wait_s else None
            supervisor.leases = supervisor.acquire(spec.resources, wait_until)
        finally:
            self.end_line()
        if plugin.PROOF_TERM_S:
            from supervisor.guard.deadline import Deadline  # only if leases expire

            supervisor.deadline = Deadline(plugin, supervisor.loop, supervisor.lose)
            supervisor.deadline.prove()
        record.publish_acquired(supervisor.child.pid, supervisor.leases)

    def _register(self, guest: Guest) -> None:
        """Have the process that the guest ends with known to the lock manager (jobs thread).

        What it refuses or dies of is heard on the main thread, as ever.
        """
        from supervisor.guard.registration import BOUND_S  # in memory by now

        self._prepared.launch.go(fork.REGISTER)
        if not self._here.acquire(timeout=BOUND_S):
            reason = f"the lock manager has not answered in {BOUND_S:g} s"
            raise LockError("register", f"guest {guest.name}", reason, "nothing was acquired")
        guest.pid = self._prepared.child.first_pid

    def _acquired(self, _result: object, error: BaseException | None) -> None:
        for timer in ("wait", "line"):
            self._supervisor.loop.cancel(timer)
        if error is None:
            self._supervisor.guard_leases()
            self._supervisor.happen(Event.LEASED)
        else:
            self._supervisor.fail(error)

    def _waited(self) -> None:
        """Time is up for --wait: say who still holds what, while the job stays blocked."""
        supervisor, spec = self._supervisor, self._supervisor.spec
        why = f"its leases are not free after {spec.wait_s:g} s"
        late = LeaseHeldError("start", f"guest {spec.name}", why, "see who DISK")

        def inquired(found: "Obstacle | None", _failure: BaseException | None) -> None:
            if found is not None:
                what, holder = f"{found[0].type} {found[0].path}", found[1].words()
                late.reason = f"{what} still held after {spec.wait_s:g} s, by {holder}"
            if supervisor.state == State.ACQUIRING:
                supervisor.fail(late)

        supervisor.jobs.apart(self._obstacle, inquired)
        supervisor.loop.at("wait", now() + INQUIRY_S, lambda: inquired(None, None))

    def _obstacle(self) -> "Obstacle | None":
        """Return the first resource that is held, and by whom (a thread of its own)."""
        from supervisor import holders  # only while waiting

        spec = self._supervisor.spec
        return holders.in_the_way(self._supervisor.plugin, spec.resources, spec.runtime_dir)

    def _show_line(self) -> None:
        """Tell a person at a terminal who is waited for (a thread of its own)."""
        if self._waits and posix.isatty(2):
            from supervisor.waiting_line import WaitingLine  # only while waiting

            guest = self._guest
            self._line = WaitingLine(guest, self._obstacle, lambda: self._waits, LINE_S)
            self._line.run()

    def end_line(self) -> None:
        """The wait is over: give the terminal back as it was (any thread)."""
        self._waits = False  # first: a line that is just being made looks at it
        if self._line is not None:
            self._line.end()

    def offer(self) -> None:
        """Let the launcher say go, if it wants to be asked."""
        fd = self._supervisor.spec.handshake_fd
        if fd is None:
            self._supervisor.happen(Event.GO)
        elif announce.tell(fd, "ACQUIRED\n"):
            self._supervisor.loop.watch(fd, READABLE, lambda _: self._answered(fd))
        else:
            self._no_go()

    def _answered(self, fd: int) -> None:
        try:
            data = posix.read(fd, 64)
        except OSError:
            data = b""
        self._answer += data
        if data and self._answer != _GO and _GO.startswith(self._answer):
            return  # the rest will come
        if self._answer == _GO:
            self._supervisor.loop.unwatch(fd)
            self._supervisor.happen(Event.GO)
        else:
            self._no_go()

    def _no_go(self) -> None:
        self._supervisor.loop.unwatch(self._supervisor.spec.handshake_fd or -1)
        name = self._supervisor.spec.name
        text = f"cannot start guest {name}: the launcher did not say GO; leases released"
        self._supervisor.end_with(exitcodes.FAILED, text, Event.FAILED)

    def hear_child(self) -> None:
        """The child says hello, or why exec failed; end of file as exec closes its end.

        Also to be called before its death is believed: its last words come first.
        """
        launch = self._prepared.launch
        try:
            # All of it: the child's death may be next in this round of the loop.
            while (heard := launch.hear(_socket.MSG_DONTWAIT))[0]:
                data, pid = heard
                if data == fork.GOING:
                    self._going = True
                elif data == fork.HELLO:
                    self._prepared.child.follow(pid)
                    self._here.release()
                else:
                    code, _, text = data.decode("utf-8", "surrogateescape").partition(" ")
                    self._supervisor.end_with(int(code), text, Event.FAILED)
        except (BlockingIOError, ProcessLookupError):  # nothing more; or gone: its end is next
            return
        self._supervisor.loop.unwatch(launch.report.fileno())
        if self._going and not self._prepared.daemonizes:
            self._going = False  # said once
            receives = self._supervisor.spec.incoming
            self._supervisor.happen(Event.RECEIVING if receives else Event.UP)

    def receive(self) -> None:
        """Watch a migration's destination before anything can arrive; then it is up."""
        supervisor = self._supervisor

        def loaded(error: BaseException | None) -> None:
            if error is not None:
                supervisor.fail(error)
                return
            from supervisor.guard.migrating import Migration  # in memory by now (D2, D3)

            supervisor.migration = Migration(supervisor)
            supervisor.migration.arrival.receive()

        supervisor.jobs.load("supervisor.guard.migrating", loaded)

    def _hear_init(self, fd: int) -> None:
        """The init of the namespace reaped somebody: the launched process, or a later one."""
        ended = self._prepared.child.read_init_report()
        self._daemonized |= self._prepared.daemonizes and ended == (LAUNCHED_PID, 0)
        if ended is None:
            self._supervisor.loop.unwatch(fd)
        elif self._daemonized:
            self._supervisor.jobs.submit(self._follow_survivor, self._followed)

    def _follow_survivor(self) -> int | None:
        """Publish who is the guest, once, now that the launched process has exited (jobs)."""
        pid = self._prepared.child.find_survivor()
        if pid is not None:
            self._supervisor.record.publish_acquired(pid, self._supervisor.leases)
        return pid

    def _followed(self, pid: int | None, error: BaseException | None) -> None:
        if error is not None:
            self._supervisor.fail(error)
        elif pid is not None:
            self._supervisor.happen(Event.UP)
