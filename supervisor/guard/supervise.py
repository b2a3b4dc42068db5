"""How does one guest run under its leases, from fork to exit code?

The `Supervisor` turns what happens into events, looks the next state up in
lifecycle.TABLE and does the action found there. Its main thread forks and
afterwards only polls (README, D3). It must not know any lock manager.
"""

import errno
import gc
import posix

from lockplugins import registry
from lockplugins.contract import Guest, LeaseHeldError, LockError
from supervisor import exitcodes
from supervisor.guard import announce, fork
from supervisor.guard.child import LAUNCHED_PID
from supervisor.guard.jobs import Jobs
from supervisor.guard.lifecycle import TABLE, Action, Event, State
from supervisor.guard.loop import READABLE, Loop, now
from supervisor.guard.signals import SIGTERM, STOPPING, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lockplugins.contract import Lease, Plugin
    from supervisor.guard.deadline import Deadline
    from supervisor.guard.prepare import Prepared
    from supervisor.guard.signals import Signals
    from supervisor.guard.spec import GuestSpec

UNKILLABLE_S = 30.0
RELEASE_BOUND_S = 10.0
_BEFORE_GO = (State.ACQUIRING, State.ACQUIRED)


class Supervisor:
    """One guest's supervisor; `run` returns the exit code with guest and leases gone."""

    def __init__(
        self, spec: "GuestSpec", prepared: "Prepared", launcher_signals: "Signals"
    ) -> None:
        self.spec = spec
        self.prepared = prepared
        self.child = prepared.child
        self.record = prepared.record
        self.signals = launcher_signals
        self.state = State.ACQUIRING
        self.plugin: Plugin | None = None
        self.leases: list[Lease] = []
        self.deadline: Deadline | None = None
        self.outcome: tuple[int, str] | None = None
        self.on_event: Callable[[str, dict[str, object]], None] = _no_listener
        self.loop = Loop()
        self.jobs = Jobs(self.loop)
        self._stop_timeout_s = spec.stop_timeout_s
        self._announced = False
        self._fenced_at = 0.0
        self._actions = {
            Action.NOTHING: lambda: None,
            Action.OFFER: self._offer,
            Action.LAUNCH: self._launch,
            Action.ANNOUNCE: self._announce,
            Action.TIME_STOP: self._time_stop,
            Action.FENCE: self._fence,
            Action.RELEASE: self._release,
            Action.FINISH: self._finish,
        }

    def run(self) -> int:
        """Acquire, run the guest, release; returns the exit code."""
        self.signals.start(lambda *heard: self.loop.post(lambda: self._heard(*heard)))
        self.jobs.start()
        self.jobs.submit(self._acquire, self._acquired)
        if self.spec.wait_s:
            self.loop.at("wait", now() + self.spec.wait_s, self._waited)
        report_fd = self.prepared.launch.report.fileno()
        self.loop.watch(report_fd, READABLE, lambda _: self._report_readable(report_fd))
        self.loop.watch(self.child.end_pidfd, READABLE, lambda _: self._ended())
        init_fd = self.child.report_fd()
        if init_fd is not None:
            self.loop.watch(init_fd, READABLE, lambda _: self._init_reports(init_fd))
        self.loop.run()
        return self._conclude()

    def _acquire(self) -> None:
        """Acquire and publish everything (jobs thread)."""
        spec, record = self.spec, self.record
        record.publish_acquiring()
        plugin = registry.load(spec.plugin, spec.config, self.prepared.carrier, spec.classes)
        self.plugin = plugin
        plugin.open(Guest(spec.uuid, spec.name, spec.id))
        wait_until = now() + spec.wait_s if spec.wait_s else None
        try:
            self.leases = plugin.acquire(spec.resources, wait_until)
        except LeaseHeldError as error:
            record.name_holder(error)
            raise
        if plugin.PROOF_TERM_S:
            from supervisor.guard.deadline import Deadline  # only if leases expire

            self.deadline = Deadline(plugin, self.loop, self.lose)
            self.deadline.prove()
        record.publish_acquired(self.child.pid, self.leases)

    def _acquired(self, _result: object, error: BaseException | None) -> None:
        self.loop.cancel("wait")
        if error is not None:
            self.refuse(error)
            return
        if self.deadline is not None:
            self.deadline.start()
        for fd in self.plugin.watch_fds() if self.plugin else ():
            self._watch_plugin(fd)
        self.loop.watch(self.record.control_fd, READABLE, lambda _: self._first_client())
        self.happen(Event.LEASED)

    def refuse(self, error: BaseException) -> None:
        """The guest may not start (or our own fault): why, and with which code."""
        if isinstance(error, LockError):
            self._end_with(error.exit_code, str(error), Event.REFUSED)
        else:
            self._end_with(exitcodes.OUR_FAULT, self._fault(error), Event.FAULT)

    def _waited(self) -> None:
        """Time is up for --wait: say who still holds what, while the job stays blocked."""
        reason = f"after {self.spec.wait_s:g} s still held elsewhere"

        def found(error: LockError | None, _failure: BaseException | None) -> None:
            if self.state == State.ACQUIRING:
                self.refuse(error or LeaseHeldError("start", f"guest {self.spec.name}", reason))

        self.jobs.apart(lambda: self.record.find_holder(self.plugin, reason), found)
        self.loop.at("wait", now() + 1.0, lambda: found(None, None))

    # -- what happens -----------------------------------------------------------------------

    def happen(self, event: str) -> None:
        """Move to the next state and do what the table says."""
        self.state, action = TABLE[(self.state, event)]
        self._actions[action]()

    def lose(self, reason: str) -> None:
        """Fence the guest: a lease is lost, or not proven in time."""
        text = f"cannot keep guest {self.spec.name} running: lease lost ({reason})"
        self._end_with(exitcodes.LEASE_LOST, text, Event.LOST)
        self.on_event("LEASE_LOST", {"reason": reason})

    def _end_with(self, code: int, text: str, event: str) -> None:
        if self.outcome is None:
            self.outcome = (code, text)
        self.happen(event)

    def _heard(self, number: int, from_terminal: bool) -> None:
        """A signal arrived: for us before go, else for the guest."""
        if self.state in _BEFORE_GO and number in STOPPING:
            text = (
                f"cannot start guest {self.spec.name}: signal {number} came first; nothing is held"
            )
            self._end_with(exitcodes.SIGNAL_BASE + number, text, Event.STOP)
            return
        if not (from_terminal and self._shares_our_group()):
            send(self.child.pidfd, number)
        if number in STOPPING:
            self.happen(Event.STOP)

    def _shares_our_group(self) -> bool:
        try:
            return posix.getpgid(self.child.pid) == posix.getpgrp()
        except ProcessLookupError:
            return False

    def ask_to_stop(self, timeout_s: float, *, press_only: bool = False) -> None:
        """Start the stop timer for a client, with SIGTERM unless the power button was pressed."""
        self._stop_timeout_s = timeout_s
        self.happen(Event.STOP)
        if not press_only:
            send(self.child.pidfd, SIGTERM)

    def _report_readable(self, fd: int) -> None:
        """The child speaks: hello, a failed exec, or end of file as exec closes its end."""
        data = self.prepared.launch.report.recv(4096)
        if data and data != fork.HELLO:
            number, _, stage = data.decode().partition(" ")
            self._exec_failed(int(number), stage)
        elif not data:
            self.loop.unwatch(fd)
            if not self.prepared.daemonizes:
                self.happen(Event.UP)

    def _exec_failed(self, number: int, stage: str) -> None:
        command = self.prepared.command
        code = exitcodes.FAILED
        if stage == fork.EXEC_STAGE:
            missing = number == errno.ENOENT
            code = exitcodes.NOT_FOUND if missing else exitcodes.NOT_EXECUTABLE
        text = f"cannot {stage} {command}: {posix.strerror(number)}; leases released"
        self._end_with(code, text, Event.EXEC_FAILED)

    def _init_reports(self, fd: int) -> None:
        """The init of the namespace reaped somebody: the launched process, or a survivor."""
        ended = self.child.read_init_report()
        if ended is None:
            self.loop.unwatch(fd)
        elif ended == (LAUNCHED_PID, 0) and self.prepared.daemonizes:
            self.jobs.submit(self._follow_survivor, self._survived)

    def _follow_survivor(self) -> bool:
        """Publish who is the guest now that the launched process has exited (jobs thread)."""
        pid = self.child.find_survivor()
        if pid is not None:
            self.record.publish_acquired(pid, self.leases)
        return pid is not None

    def _survived(self, alive: bool | None, error: BaseException | None) -> None:
        if error is not None:
            self.refuse(error)
        elif alive:
            self.happen(Event.UP)

    def _watch_plugin(self, fd: int) -> None:
        """Have the plugin look whenever its descriptor is readable."""
        self.loop.watch(fd, READABLE, lambda _: self._plugin_readable(fd))

    def _plugin_readable(self, fd: int) -> None:
        self.loop.unwatch(fd)
        plugin = self.plugin

        def looked(_result: object, error: BaseException | None) -> None:
            if error is not None:
                self.lose(str(error))
            else:
                self._watch_plugin(fd)

        if plugin is not None:
            self.jobs.submit(lambda: plugin.on_readable(fd), looked)

    def _first_client(self) -> None:
        """Load the control pipe's server, off this thread, when somebody first wants it."""
        self.loop.unwatch(self.record.control_fd)

        def load() -> type:
            from supervisor.guard.control import Control  # noqa: PLC0415  # after go (D2)

            return Control

        def loaded(control: type | None, error: BaseException | None) -> None:
            if error is not None or control is None:
                announce.say(self._fault(error))
            else:
                control(self)

        self.jobs.submit(load, loaded)

    # -- actions ----------------------------------------------------------------------------

    def _offer(self) -> None:
        fd = self.spec.handshake_fd
        if fd is None:
            self.happen(Event.GO)
        elif announce.tell(fd, "ACQUIRED\n"):
            self.loop.watch(fd, READABLE, lambda _: self._answered(fd))
        else:
            self._no_go()

    def _answered(self, fd: int) -> None:
        self.loop.unwatch(fd)
        try:
            answer = posix.read(fd, 64)
        except OSError:
            answer = b""
        if answer == b"GO\n":
            self.happen(Event.GO)
        else:
            self._no_go()

    def _no_go(self) -> None:
        text = f"cannot start guest {self.spec.name}: the launcher did not say GO; leases released"
        self._end_with(exitcodes.FAILED, text, Event.NO_GO)

    def _launch(self) -> None:
        self.prepared.launch.go()

    def _announce(self) -> None:
        gc.enable()
        self._announced = True
        announce.tell(self.spec.ready_fd, f"READY child={self.child.pid}\n")
        if self.spec.ready_fd is not None:
            posix.close(self.spec.ready_fd)
        announce.notify(f"READY=1\nMAINPID={posix.getpid()}")

    def _time_stop(self) -> None:
        self.loop.at("stop", now() + self._stop_timeout_s, lambda: self.happen(Event.INSIST))

    def _fence(self) -> None:
        self.child.kill()
        self._fenced_at = now()
        if self.deadline is not None:
            self.deadline.disarm()
        self.loop.cancel("stop")
        self.loop.at("unkillable", self._fenced_at + UNKILLABLE_S, self._unkillable)

    def _unkillable(self) -> None:
        text = (
            f"cannot end guest {self.spec.name}: pid {self.child.pid} is unkillable "
            f"{UNKILLABLE_S:g} s after SIGKILL (uninterruptible sleep); its leases stay held"
        )
        self.jobs.submit(lambda: announce.say(text))

    def _ended(self) -> None:
        self.loop.unwatch(self.child.end_pidfd)
        self.child.reap()
        self.happen(Event.DEAD)

    def _release(self) -> None:
        """The kernel frees what dies with us; the rest is given back, in reverse order."""
        self.on_event("GUEST_EXITED", {"status": self.child.status})
        if self.plugin is None or self.plugin.FREED_BY_DEATH:
            self.happen(Event.RELEASED)
            return
        self.jobs.submit(self._give_back, self._given_back)
        late = LockError(
            "release", f"leases of {self.spec.name}", f"no answer in {RELEASE_BOUND_S:g} s"
        )
        self.loop.at("release", now() + RELEASE_BOUND_S, lambda: self._given_back(None, late))

    def _give_back(self) -> None:
        if self.plugin is not None:
            for lease in reversed(self.leases):
                self.plugin.release(lease)
            self.plugin.close()

    def _given_back(self, _result: object, error: BaseException | None) -> None:
        if error is not None and self.outcome is None:
            self.outcome = (exitcodes.FAILED, str(error))
        self.happen(Event.RELEASED)

    def _finish(self) -> None:
        self.prepared.dir.remove()
        self.record.remove_pidfile()
        self.loop.stop()

    def _conclude(self) -> int:
        """Say what has to be said, now that the guest is dead; returns the exit code."""
        if self.outcome is None:
            return self.child.status
        code, text = self.outcome
        if code == exitcodes.LEASE_LOST:
            took = now() - self._fenced_at
            text += f"; fenced, pid {self.child.pid} gone after {took:.2f} s; exiting {code}"
        announce.refusal(None if self._announced else self.spec.ready_fd, code, text)
        return code

    def _fault(self, error: BaseException | None) -> str:
        return f"cannot supervise guest {self.spec.name}: our own fault: {error!r}; guest ended"


def _no_listener(_event: str, _data: dict[str, object]) -> None:
    """Nobody is connected to the control pipe."""
