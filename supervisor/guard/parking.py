"""How does a guest stand still, at a client's request, or because its leases are lost?

Asked to, under a plugin without generations: it is parked when its QEMU says
that it has stopped, its leases are held all the while, and whoever has it run
again only changes the state. With generations, and after a loss, it gives its
leases up: so nothing of it may write (`quiet`), the kernel has to say that it
stands still (`resting`), and it runs again only when each lease is back with
its generation unchanged (`retaking`). Anything else ends it.
Loaded when a client asks, and before the guest runs where a loss is to park
it. It must not know how leases are held.
"""

from __future__ import annotations

import os

from lockplugins import comeback
from lockplugins.contract import (
    Capability,
    ConfigError,
    LeaseLostError,
    LockError,
    UnsupportedError,
)
from supervisor.guard import announce
from supervisor.guard.deadline import SOFT_MARGIN_S, Deadline
from supervisor.guard.lifecycle import Event, State
from supervisor.guard.loop import now
from supervisor.guard.resting import Rest
from supervisor.qmp.status import ANSWER_S, quiet, stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.contract import Lease
    from supervisor.guard.commands import Step
    from supervisor.guard.supervise import Supervisor
    from supervisor.qmp.server import Arguments, Done

PARKING_S = 10.0  # to be parked in before the deadline, or a quarter of the plugin's term
HEAD, KEPT = "lock-supervisor-parked-1", "leases-kept"
NOTICE_S = 1.0  # for the guest to be parked when a lease is said to be lost already
BOUND_TERMS = 10  # times the plugin's term: how long a guest waits for what it has lost
RETRY_S = 1.0
_NONCE_BYTES = 7


class Parking:
    """The pauses of one guest, on the main thread; `state` names the last one to its client.

    `given_up` are the leases that are not held meanwhile (jobs thread). A guest that has lost them
    is ended at a bound, which is its deadline then; a pause that was asked for has none.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        """Raise UnsupportedError where a guest cannot be stopped."""
        spec, monitor = supervisor.spec, supervisor.prepared.monitor(supervisor.loop)
        self._supervisor = supervisor
        self._name = f"guest {spec.name}"
        if monitor is None:
            why = "it has no private monitor to be stopped by"
            raise UnsupportedError("pause", self._name, why, "nothing was touched")
        self._monitor = monitor
        self._monitor.listeners.append(self._heard)
        self._gives_up = Capability.GENERATIONS in supervisor.plugin.capabilities
        self._rest = Rest(supervisor, supervisor.lose)
        self._bound_s = BOUND_TERMS * supervisor.plugin.PROOF_TERM_S
        self._has_stopped = self._runs_again = False
        self._lost = ""
        self._done: Done | None = None
        self.state = ""
        self.given_up: list[Lease] = []
        if spec.parks and (deadline := supervisor.deadline) is not None:
            supervisor.on_loss = deadline.lost = self._lose
            deadline.margin_s = SOFT_MARGIN_S + min(PARKING_S, supervisor.plugin.PROOF_TERM_S / 4)
            deadline.watch()

    def step(self, command: str, _arguments: Arguments) -> Step:
        """Return in which states a client's command is obeyed, and what does it."""
        if command == "resume-guest":
            return (State.PARKED, State.UNLEASED), self._resume, ""
        return (State.RUNNING,), self._pause, ""

    def _pause(self, _arguments: Arguments, done: Done) -> None:
        self._done = done
        if self._gives_up:
            self._begin("", now() + ANSWER_S)
            return
        self._has_stopped = False

        def stopped() -> None:
            if self._supervisor.state != State.RUNNING:
                self._undo("it is to end by now")
                return
            self._supervisor.happen(Event.PARKED)
            self._parked(KEPT)
            self._answer(None, state=self.state)

        stop(self._monitor, stopped, self._undo)

    def _undo(self, why: str) -> None:
        """Refuse a pause: as if it had never been asked for."""
        if self._has_stopped:  # by us
            self._monitor.execute("cont", {}, lambda *_: None, ANSWER_S)
        self._answer(LockError("pause", self._name, why, "its leases stay held"))

    def _parked(self, leases: str) -> None:
        """Name this pause, and what becomes of the leases, in printable ASCII; tell everybody."""
        spec, nonce = self._supervisor.spec, os.urandom(_NONCE_BYTES).hex()
        self.state = f"{HEAD}:{spec.uuid}:{spec.plugin}:{nonce}:{leases}"
        self._supervisor.on_event("GUEST_PARKED", {"state": self.state})

    def _answer(self, error: LockError | None, **result: str) -> None:
        """Tell the client who has asked, if one has."""
        done, self._done = self._done, None
        if done is not None:
            done(result, error)

    def _lose(self, reason: str) -> None:
        """Park the guest, or end it: a lease is lost, or its proof will be too old before long."""
        supervisor, deadline = self._supervisor, self._supervisor.deadline
        if supervisor.state == State.UNLEASED or (self._lost and supervisor.state == State.PARKING):
            return  # as it is to be
        if deadline is None or supervisor.state != State.RUNNING:
            supervisor.lose(reason)
            return
        until = deadline.instant - SOFT_MARGIN_S
        if now() < deadline.instant - deadline.margin_s:
            until = min(until, now() + NOTICE_S)
        supervisor.on_event("LEASE_LOST", {"reason": reason})
        self._begin(reason, until)

    def _begin(self, lost: str, until: float) -> None:
        """Have the guest stand still by `until`."""
        supervisor, self._lost = self._supervisor, lost
        self._has_stopped = self._runs_again = False
        supervisor.happen(Event.PARKING)
        supervisor.loop.at("parking", until, lambda: self._fail("it takes too long"))

        def is_quiet() -> None:
            if supervisor.state == State.PARKING:
                self._rest.fall(fallen)

        def fallen(why: str) -> None:
            self._monitor.drain()
            if supervisor.state == State.PARKING and not why and not self._runs_again:
                self._rests()
            else:
                self._fail(why or "somebody has it run again")

        quiet(self._monitor, is_quiet, self._fail, until - now())

    def _fail(self, why: str) -> None:
        """It cannot be parked: it ends if a lease is lost, else it goes on."""
        supervisor = self._supervisor
        supervisor.loop.cancel("parking")
        if supervisor.state == State.PARKING and self._lost:
            supervisor.lose(f"{self._lost}; it cannot be parked: {why}")
        elif supervisor.state == State.PARKING:
            self._rest.let_go()
            supervisor.happen(Event.RESUMED)
            self._undo(why)
        self._answer(LockError("pause", self._name, f"it is to end by now: {why}"))

    def _rests(self) -> None:
        """The guest stands still, as the kernel says: its leases may go."""
        supervisor = self._supervisor
        self._rest.keep()  # before the deadline ends
        supervisor.happen(Event.PARKED)
        supervisor.loop.cancel("parking")
        until = now() + self._bound_s if self._lost else float("inf")
        if supervisor.deadline is not None:
            supervisor.deadline.stop()
            supervisor.deadline.instant = until
        why = f"{self._lost}; it was parked, and they are not back after {self._bound_s:g} s"
        supervisor.loop.at("parked", until, lambda: supervisor.lose(why))
        self._parked("released=" + comeback.words(comeback.returnable(supervisor.leases)))
        supervisor.jobs.submit(self._give_up, self._gave_up)

    def _give_up(self) -> None:
        """Release what can be had back, the rest stays the guest's (jobs thread)."""
        supervisor = self._supervisor
        self.given_up = comeback.returnable(supervisor.leases)
        doubt = comeback.give_up(supervisor.plugin, self.given_up)
        supervisor.publish()
        if doubt is not None:  # as when a lock manager is not there
            announce.say(str(doubt))

    def _gave_up(self, _result: object, error: BaseException | None) -> None:
        if error is not None:
            self._supervisor.fail(error)
        self._answer(None, state=self.state)
        if self._lost:
            self._retake(float("inf"))

    def _resume(self, arguments: Arguments, done: Done) -> None:
        if arguments.get("state") != self.state:
            why = "that is not the state of the pause it is in"
            raise ConfigError("resume", self._name, why, "give what pause-guest has returned")
        self._done = done
        is_kept = self._supervisor.state == State.PARKED
        self._continue() if is_kept else self._retake(now() + ANSWER_S)

    def _retake(self, until: float) -> None:
        """Try to have the leases back, again and again."""

        def taken_back(_result: object, error: BaseException | None) -> None:
            self._taken_back(error, until)

        if self._supervisor.state == State.UNLEASED:
            self._supervisor.jobs.submit(self._take_back, taken_back)

    def _take_back(self) -> None:
        """Have every lease back, or none; and all of them proven (jobs thread)."""
        supervisor, deadline = self._supervisor, self._supervisor.deadline
        if deadline is not None and deadline.renewing:
            raise LockError("resume", self._name, "the last renewal has no answer yet")
        comeback.take_back(supervisor.plugin, self.given_up)
        self.given_up = []  # held from now on, though not relied on before they are proven
        if deadline is not None:
            fresh = Deadline(supervisor.plugin, supervisor.loop, deadline.lost)
            fresh.margin_s = deadline.margin_s
            fresh.prove()
            fresh.start()
            supervisor.deadline = fresh

    def _taken_back(self, error: BaseException | None, until: float) -> None:
        supervisor = self._supervisor
        if supervisor.state != State.UNLEASED:
            error = LockError("resume", self._name, "it does not stand still by now")
        elif error is None:
            self._wake()
            return
        elif isinstance(error, LeaseLostError) or not isinstance(error, LockError):
            supervisor.lose(str(error))
            error = LeaseLostError("resume", self._name, str(error), "it is ended")
        elif now() < until:
            supervisor.loop.at("retake", now() + RETRY_S, lambda: self._retake(until))
            return
        self._answer(error)

    def _wake(self) -> None:
        """Every lease is held, and proven: the guest goes on as it was."""
        supervisor = self._supervisor
        self._rest.let_go()
        supervisor.loop.cancel("parked")
        supervisor.happen(Event.RESUMED)
        for fd in supervisor.plugin.watch_fds():
            supervisor.watch_plugin(fd)
        supervisor.jobs.submit(supervisor.publish)
        supervisor.on_event("GUEST_RESUMED", {})
        # Not if it had been stopped before, by somebody else.
        self._continue() if self._has_stopped else self._answer(None)

    def _continue(self) -> None:
        """Have QEMU run its guest."""

        def answered(_result: object, reason: str | None) -> None:
            if reason is None:
                self._resumed()  # a QEMU that has yet to start says so later
                self._answer(None)
            else:
                self._answer(LockError("resume", self._name, reason, "its leases stay held"))

        self._monitor.execute("cont", {}, answered, ANSWER_S)

    def _heard(self, event: str, _data: dict[str, object]) -> None:
        """QEMU says that the guest stops or runs, whoever asked for it."""
        if event == "STOP":
            self._has_stopped, self._runs_again = True, False
        elif event == "RESUME":
            self._runs_again = True
            self._resumed()

    def _resumed(self) -> None:
        if self._supervisor.state == State.PARKED:
            self._supervisor.happen(Event.RESUMED)
            self._supervisor.on_event("GUEST_RESUMED", {})
        elif self._supervisor.state == State.UNLEASED:
            self._supervisor.lose("somebody had it run while it was parked")
