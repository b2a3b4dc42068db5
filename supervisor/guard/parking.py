"""How does a guest stand still at a client's request, its leases held all the while?

It is parked when its QEMU says that it has stopped. Whoever has it run again,
a client of ours or a stranger on another monitor: no lease was let go, so that
nothing but the state changes. Loaded when a client asks. It must not know how
leases are held.
"""

from __future__ import annotations

import os

from lockplugins.contract import Capability, ConfigError, LockError, UnsupportedError
from supervisor.guard.lifecycle import Event, State
from supervisor.qmp.status import ANSWER_S, stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.guard.commands import Step
    from supervisor.guard.supervise import Supervisor
    from supervisor.qmp.server import Arguments, Done

HEAD, KEPT = "lock-supervisor-parked-1", "leases-kept"
_NONCE_BYTES = 7


class Parking:
    """The pauses of one guest, on the main thread; `state` names the last one to its client."""

    def __init__(self, supervisor: Supervisor) -> None:
        """Raise UnsupportedError where a guest cannot be stopped, or not with its leases kept."""
        spec, monitor = supervisor.spec, supervisor.prepared.monitor(supervisor.loop)
        self._supervisor = supervisor
        self._name = f"guest {spec.name}"
        self.state = ""
        self._has_stopped = False
        why = "it has no private monitor to be stopped by"
        if gives_up := Capability.GENERATIONS in supervisor.plugin.capabilities:
            why = f"plugin {spec.plugin} gives leases up in a pause, which is not supported yet"
        if monitor is None or gives_up:
            raise UnsupportedError("pause", self._name, why, "nothing was touched")
        self._monitor = monitor
        self._monitor.listeners.append(self._heard)

    def step(self, command: str, _arguments: Arguments) -> Step:
        """Return in which state a client's command is obeyed, and what does it."""
        if command == "pause-guest":
            return (State.RUNNING,), self._pause, ""
        return (State.PARKED,), self._resume, ""

    def _pause(self, _arguments: Arguments, done: Done) -> None:
        self._has_stopped = False

        def failed(why: str) -> None:
            if self._has_stopped:  # by us: refused is as if never asked
                self._monitor.execute("cont", {}, lambda *_: None, ANSWER_S)
            done(None, LockError("pause", self._name, why, "its leases stay held"))

        def stopped() -> None:
            if self._supervisor.state != State.RUNNING:
                failed("it is to end by now")
                return
            self.state = self._new_state()
            self._supervisor.happen(Event.PARKED)
            self._supervisor.on_event("GUEST_PARKED", {"state": self.state})
            done({"state": self.state})

        stop(self._monitor, stopped, failed)

    def _new_state(self) -> str:
        """Return what names one pause, and says what became of the leases: printable ASCII."""
        spec, nonce = self._supervisor.spec, os.urandom(_NONCE_BYTES).hex()
        return f"{HEAD}:{spec.uuid}:{spec.plugin}:{nonce}:{KEPT}"

    def _resume(self, arguments: Arguments, done: Done) -> None:
        if arguments.get("state") != self.state:
            why = "that is not the state of the pause it is in"
            raise ConfigError("resume", self._name, why, "give what pause-guest has returned")

        def answered(_result: object, reason: str | None) -> None:
            if reason is None:
                self._resumed()  # a QEMU that has yet to start says so later
                done({})
            else:
                done(None, LockError("resume", self._name, reason, "its leases stay held"))

        self._monitor.execute("cont", {}, answered, ANSWER_S)

    def _heard(self, event: str, _data: dict[str, object]) -> None:
        """QEMU says that the guest stops or runs, whoever asked for it."""
        self._has_stopped |= event == "STOP"
        if event == "RESUME":
            self._resumed()

    def _resumed(self) -> None:
        if self._supervisor.state == State.PARKED:
            self._supervisor.happen(Event.RESUMED)
            self._supervisor.on_event("GUEST_RESUMED", {})
