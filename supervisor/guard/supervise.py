"""How does one guest run under its leases, from fork to exit code?

The `Supervisor` turns what happens into events, looks the next state up in
lifecycle.TABLE and does the action found there. Its main thread forks and
afterwards only polls (README, D3). It must not know any lock manager.
"""

import gc
import posix

from lockplugins.contract import LeaseHeldError, LeaseLostError, LeaseState, LockError, Plugin
from lockplugins.registry import give_back
from supervisor import exitcodes
from supervisor.guard import announce
from supervisor.guard.jobs import Jobs
from supervisor.guard.launching import Launching
from supervisor.guard.lifecycle import TABLE, Action, Event, State
from supervisor.guard.loop import READABLE, Loop, now
from supervisor.guard.signals import SIGTERM, STOPPING, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from lockplugins.contract import Lease, Resource
    from supervisor.guard.deadline import Deadline
    from supervisor.guard.migrating import Migration
    from supervisor.guard.parking import Parking
    from supervisor.guard.prepare import Prepared
    from supervisor.guard.signals import Signals
    from supervisor.spec import GuestSpec

    T = TypeVar("T")

UNKILLABLE_S = 30.0
RELEASE_BOUND_S, HASTE_S = 10.0, 0.3  # what is held; what a launch was about to have
RETRY_S = 1.0
_MAY_NOT_RUN = (State.ACQUIRING, State.ACQUIRED, State.PARKING, State.UNLEASED)


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
        self.plugin = Plugin({}, prepared.carrier)  # holds nothing, until the one is loaded
        self.leases: list[Lease] = []
        self.deadline: Deadline | None = None
        self.outcome: tuple[int, str] | None = None
        self.migration: Migration | None = None
        self.parking: Parking | None = None
        self.on_loss = self.lose
        self.on_event: Callable[[str, dict[str, object]], None] = _nothing
        self.on_death: Callable[[], None] = _nothing
        self.loop = Loop()
        self.jobs = Jobs(self.loop)
        self.launching = Launching(self)
        self._stop_timeout_s = spec.stop_timeout_s
        self._announced = False
        self._fenced_at = self._dying_s = 0.0
        self._actions = {
            Action.NOTHING: _nothing,
            Action.OFFER: self.launching.offer,
            Action.LAUNCH: prepared.launch.go,
            Action.RECEIVE: self.launching.receive,
            Action.ANNOUNCE: self._announce,
            Action.TIME_STOP: self._time_stop,
            Action.FENCE: self._fence,
            Action.RELEASE: self._release,
            Action.FINISH: self._finish,
        }

    def run(self) -> int:
        """Acquire, run the guest, release; returns the exit code."""
        self.loop.watch(self.child.end_pidfd, READABLE, lambda _: self._ended())
        try:
            self.jobs.start()
            self.launching.start()
            self.signals.start(
                lambda number, tty: self.loop.post(lambda: self._heard(number, from_terminal=tty))
            )
        except RuntimeError as error:
            self.fail(LockError("start", f"guest {self.spec.name}", f"{error}", "see ulimit -a"))
        self.loop.run()
        return self._conclude()

    def happen(self, event: str) -> None:
        """Move to the next state and do what the table says."""
        self.state, action = TABLE[(self.state, event)]
        self._actions[action]()

    def lose(self, reason: str) -> None:
        """Fence the guest: a lease is lost, or not proven in time."""
        self.end_with(exitcodes.LEASE_LOST, self._loss(reason), Event.LOST)
        self.on_event("LEASE_LOST", {"reason": reason})

    def _loss(self, reason: object) -> str:
        return f"cannot keep guest {self.spec.name} running: lease lost ({reason})"

    def end_with(self, code: int, text: str, event: str) -> None:
        """Let `event` end the guest, if its time has not come yet; why, and with which code."""
        if self.outcome is None and TABLE[(self.state, event)][0] != self.state:
            self.outcome = (code, text)
        self.happen(event)

    def fail(self, error: BaseException) -> None:
        """End the guest: what it needs failed, or our own fault."""
        if isinstance(error, LockError):
            self.end_with(error.exit_code, str(error), Event.FAILED)
        else:
            text = f"cannot supervise guest {self.spec.name}: our own fault: {error!r}; it is ended"
            self.end_with(exitcodes.OUR_FAULT, text, Event.FAILED)

    def _heard(self, number: int, *, from_terminal: bool) -> None:
        """A signal arrived: for us before go, else for the guest."""
        if self.state in _MAY_NOT_RUN and number in STOPPING:
            text = f"cannot run guest {self.spec.name}: signal {number} came first; nothing held"
            self.end_with(exitcodes.SIGNAL_BASE + number, text, Event.STOP)
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
        if press_only:
            self.happen(Event.STOP)
        else:
            self._heard(SIGTERM, from_terminal=False)

    def acquire(self, resources: "Sequence[Resource]", until: float | None) -> "list[Lease]":
        """Have the plugin acquire (jobs thread)."""
        plugin, copied = self.plugin, self.spec.copied
        if self.state == State.ACQUIRING and self.spec.incoming:
            await_in = plugin.migration().await_in
            return self.naming_who(lambda: await_in(resources, copied, until), resources)
        return self.naming_who(lambda: plugin.acquire(resources, until), resources)

    def naming_who(self, job: "Callable[[], T]", resources: "Sequence[Resource]") -> "T":
        """Do a job about leases (jobs thread); a refusal says which guest is in the way."""
        try:
            return job()
        except LeaseHeldError as error:
            from supervisor import holders  # only when refused

            holders.name_guest(error, resources, self.spec.runtime_dir)
            raise

    def publish(self) -> None:
        """Write what is held now, if it can be: the leases have changed all the same (jobs)."""
        try:
            self.record.publish(self.child.pid, self.leases)
        except LockError as error:
            announce.say(str(error))

    def guard_leases(self) -> None:
        """Renew and watch what was acquired, and let clients in."""
        if self.deadline is not None:
            if self.spec.parks:
                from supervisor.guard.parking import Parking  # in memory by now (D2, D3)

                self.parking = Parking(self)
            self.deadline.start()
        for fd in self.plugin.watch_fds():
            self.watch_plugin(fd)
        self._hear_clients()

    def _hear_clients(self) -> None:
        self.loop.watch(self.record.control_fd, READABLE, lambda _: self._first_client())

    def watch_plugin(self, fd: int) -> None:
        """Have the plugin look whenever its descriptor is readable."""

        def look(_events: int) -> None:
            self.loop.unwatch(fd)
            self.jobs.submit(lambda: self.plugin.on_readable(fd), looked)

        def looked(_result: object, error: BaseException | None) -> None:
            self.watch_plugin(fd) if error is None else self.on_loss(str(error))

        self.loop.watch(fd, READABLE, look)

    def _first_client(self) -> None:
        """Load the control pipe's server when somebody first wants it."""
        self.loop.unwatch(self.record.control_fd)

        def loaded(error: BaseException | None) -> None:
            if error is not None:  # the guest runs on; clients are heard when it works again
                self.jobs.submit(lambda: announce.say(f"cannot load the control pipe: {error}"))
                if not isinstance(error, ImportError | FileNotFoundError):
                    self.loop.at("control", now() + RETRY_S, self._hear_clients)
                return
            from supervisor.guard.commands import serve  # in memory by now (D2, D3)

            self.on_event = serve(self)

        self.jobs.load("supervisor.guard.commands", loaded)

    def _announce(self) -> None:
        gc.enable()
        self._announced = True
        numbers = [lease.generation for lease in self.leases if lease.generation is not None]
        token = f" generation={max(numbers)}" if numbers else ""
        announce.tell(self.spec.ready_fd, f"READY child={self.child.pid}{token}\n")
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
        self.launching.hear_child()
        self.child.reap()
        self._dying_s = now() - self._fenced_at
        if self.deadline is not None:
            self.deadline.stop()
        self.happen(Event.DEAD)

    def _release(self) -> None:
        """The kernel frees what dies with us; the rest is given back, in reverse order."""
        self.on_event("GUEST_EXITED", {"status": self.child.status})
        self.on_death()
        if self.plugin.FREED_BY_DEATH:
            self.happen(Event.RELEASED)
            return
        self.jobs.submit(self._give_back, self._given_back)
        bound_s, name = RELEASE_BOUND_S if self.leases else HASTE_S, self.spec.name
        late = LockError("release", f"leases of guest {name}", f"no answer in {bound_s:g} s")
        self.loop.at("release", now() + bound_s, lambda: self._given_back(None, late))

    def _give_back(self) -> None:
        try:  # what was given up before is not held
            give_back({self.plugin: [x for x in self.leases if x.state != LeaseState.LOST]})
        finally:
            self.plugin.close()

    def _given_back(self, _result: object, error: BaseException | None) -> None:
        if error is not None and self.outcome is None and self.leases:
            self.outcome = (exitcodes.FAILED, str(error))
            if isinstance(error, LeaseLostError):  # so the lock manager itself may have ended it
                self.outcome = (exitcodes.LEASE_LOST, self._loss(error))
        self.happen(Event.RELEASED)

    def _finish(self) -> None:
        self.record.withdraw()
        self.loop.done = True

    def _conclude(self) -> int:
        """Say what has to be said, now that the guest is dead; returns the exit code."""
        status = self.child.status
        self.launching.end_line()
        if self.outcome is None and self._announced:
            return status
        early = f"cannot start guest {self.spec.name}: it ended with {status} before it was up"
        code, text = self.outcome or (status, early)
        if code == exitcodes.LEASE_LOST:
            how = f"pid {self.child.pid} had ended with {status}"
            if self._fenced_at:
                how = f"fenced, pid {self.child.pid} gone after {self._dying_s:.2f} s"
            text += f"; {how}; exiting {code}"
        if code != exitcodes.OK:  # else it has migrated away, or was not needed
            announce.refusal(None if self._announced else self.spec.ready_fd, code, text)
        return code


def _nothing(*_: object) -> None:
    """Do nothing; as a listener: nobody is connected to the control pipe."""
