"""Which end of a migration are we, and may the guest run here (README, D10)?

The source is the owner until its QEMU says that the migration has completed,
and again after a cancel that its plugin grants; the destination from
complete-in on. An end that is not the owner, and whose guest runs all the
same, is fenced. Whoever drives the migration does so on a monitor of his own.
Loaded for a destination, and when a client asks. It must not know how leases
are handed over.
"""

from __future__ import annotations

from lockplugins.contract import ConfigError, LeaseUnknownError, LockError, UnsupportedError
from lockplugins.handover import Handover
from supervisor import exitcodes
from supervisor.guard import announce
from supervisor.guard.arriving import Arrival
from supervisor.guard.departing import LEAVING, Departure
from supervisor.guard.lifecycle import State
from supervisor.guard.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.guard.commands import Step
    from supervisor.guard.supervise import Supervisor
    from supervisor.qmp.server import Arguments, Done


COOKIE = "lock-supervisor-1"
DEAF_S = 1.0
_WORDS = 5
_NONCE = 2 * Handover.NONCE_BYTES


class MigrationError(LockError):
    """The guest's migration is not at that point."""


class Migration:
    """The migrations of one guest, in and out, on the main thread.

    While `fenced` a guest that runs is ended.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        """Raise UnsupportedError where a migration cannot be seen, or not be answered for."""
        self.supervisor = supervisor
        self.name = f"guest {supervisor.spec.name}"
        self.handover = supervisor.plugin.migration()
        monitor = supervisor.prepared.monitor(supervisor.loop)
        if monitor is None:
            why = "it has no private monitor to see its migration by"
            raise UnsupportedError("migrate", self.name, why, "nothing was touched")
        self.monitor = monitor
        self.monitor.listeners.append(self._heard)
        self.monitor.on_close = self._deaf
        self.fenced = False
        self.arrival = Arrival(self)
        self._departure = Departure(self)

    def step(self, command: str, arguments: Arguments) -> Step:
        """Return what a client's command is to do; the destination's cancel ends its wait."""
        cancel = arguments.get("cancel", False)
        if not isinstance(cancel, bool):
            raise ConfigError("obey", command, "cancel is neither true nor false")
        return {
            ("prepare-migrate", False): ((State.RUNNING,), self._departure.prepare, ""),
            ("complete-migrate-in", False): ((State.INCOMING,), self.arrival.complete, ""),
            ("complete-migrate-in", True): ((State.INCOMING,), self.arrival.cancel, command),
            ("complete-migrate-out", False): (LEAVING, self._departure.complete, ""),
            ("complete-migrate-out", True): (LEAVING, self._departure.cancel, ""),
        }[command, cancel and command != "prepare-migrate"]

    def cookie(self, nonce: str, told: str) -> str:
        """Return what names this attempt to the destination: a line of printable ASCII."""
        spec = self.supervisor.spec
        return f"{COOKIE}:{spec.uuid}:{spec.plugin}:{nonce}:{told}"

    def nonce_and_told(self, cookie: object) -> tuple[str, str]:
        """Return nonce and what the source told; raises ConfigError unless it is our guest's."""
        spec = self.supervisor.spec
        words = cookie.split(":") if isinstance(cookie, str) else []
        nonce = words[3] if len(words) == _WORDS else ""
        if words[:1] != [COOKIE] or len(nonce) != _NONCE or nonce.strip("0123456789abcdef"):
            why, advice = "that is no cookie of ours", "give what migrate prepare has printed"
        elif words[1] != spec.uuid:
            why, advice = f"the cookie is of guest {words[1]}", "give this guest's"
        elif words[2] != spec.plugin:
            why = f"the source's plugin is {words[2]}, here it is {spec.plugin}"
            advice = "start the destination with the source's"
        else:
            return nonce, words[4]
        raise ConfigError("migrate", self.name, why, advice)

    def refuse(self, done: Done, why: str, advice: str = "") -> None:
        done(None, self.error(why, advice))

    def error(self, why: str, advice: str = "") -> LockError:
        return MigrationError("migrate", self.name, why, advice)

    def end(self, how: str, event: str, side: str, done: Done) -> None:
        """End the guest at this end, with exit code 0; answer when the kernel says it is dead."""

        def dead() -> None:
            self.supervisor.on_event(event, {"side": side})
            done({})

        self.supervisor.on_death = dead
        self.supervisor.end_with(exitcodes.OK, "", how)

    def _heard(self, event: str, data: dict[str, object]) -> None:
        """QEMU says that the guest runs, or how far its migration is."""
        if event == "RESUME" and self.fenced:
            awaited = self.supervisor.state == State.INCOMING
            self.supervisor.lose("it was resumed where it is not, or not yet, the disks' owner")
            if awaited:  # it may have written: the source must not go on as if it had not
                self.supervisor.jobs.submit(self.handover.confirm, lambda *_: None)
        elif event == "MIGRATION" and data.get("status") == "completed":
            self._departure.completed()

    def _deaf(self) -> None:
        """The monitor is gone: with its QEMU in most cases, which then is dead before long.

        In an attempt nobody would see that the guest has gone, and then runs here again.
        """
        if self.fenced or self._departure.is_under_way:
            why = "its monitor is closed, so that nobody sees whether it runs"
            self.supervisor.loop.at("deaf", now() + DEAF_S, lambda: self.supervisor.lose(why))

    def publish_after(self, job: Callable[[], None]) -> None:
        """Hand leases over and write what is held now (jobs thread); a refusal names the guest."""
        self.supervisor.naming_who(job, self.supervisor.spec.resources)
        self.supervisor.publish()

    def say(self, text: str) -> None:
        self.supervisor.jobs.submit(lambda: announce.say(text))

    def as_lock_error(self, error: BaseException) -> LockError:
        if isinstance(error, LockError):
            return error
        return LeaseUnknownError("migrate", self.name, f"our own fault: {error!r}")
