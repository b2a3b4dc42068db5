"""How does a guest arrive by migration? The destination's end, until it owns the disks.

Before that its guest may not run. It must not know how leases are handed over.
"""

from __future__ import annotations

from lockplugins.contract import LeaseHeldError, LockError
from supervisor.guard.leasing import seconds
from supervisor.guard.lifecycle import Event, State
from supervisor.guard.loop import now
from supervisor.qmp.status import enable, look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.guard.migrating import Migration
    from supervisor.qmp.server import Arguments, Done

LATE_ACTIVATION = "late-block-activate"
PATIENCE_S = 10.0  # for the source to hand over, unless the client says otherwise
RETRY_S = 0.01
_TOO_LATE, _ENDS_IT = "it is the owner by now", "stop it, or kill it"


class Arrival:
    """The destination's side."""

    def __init__(self, migration: Migration) -> None:
        self._migration = migration
        self._monitor = migration.monitor
        self._supervisor = migration.supervisor
        self._awaited: Awaited | None = None

    def receive(self) -> None:
        """Destination: see to it that QEMU leaves the disks alone; then the guest is up."""
        self._migration.fenced = True

        def looked(status: str, _migration: str) -> None:
            if status == "inmigrate":
                self._supervisor.happen(Event.UP)
            else:
                failed(f"it is {status} already")

        def failed(why: str) -> None:
            self._supervisor.fail(
                LockError("await", self._migration.name, f"QEMU: {why}", "it is ended")
            )

        enable(self._monitor, LATE_ACTIVATION, lambda: look(self._monitor, looked, failed), failed)

    def complete(self, arguments: Arguments, done: Done) -> None:
        """Destination: be the owner, as soon as the source has handed over."""
        cookie = self._migration.nonce_and_told(arguments.get("cookie"))
        deadline = now() + seconds("migrate", arguments.get("timeout_s", PATIENCE_S))

        def answer(error: LockError | None) -> None:
            self._awaited = None
            if error is None:
                self._arrive()
            done(None if error else {}, error)

        self._awaited = Awaited(self._migration, cookie, deadline, answer)
        self._awaited.attempt()

    def _arrive(self) -> None:
        """Destination: it is the owner; when the source is gone, the only holder."""
        supervisor = self._supervisor
        self._migration.fenced = False
        supervisor.happen(Event.ARRIVED)
        supervisor.on_event("MIGRATION_COMPLETED", {"side": "destination"})

        def sole(_result: object, error: BaseException | None) -> None:
            if error is not None:  # shared as before: no writer gets in
                self._migration.say(str(error))
            supervisor.jobs.submit(supervisor.publish)

        supervisor.jobs.apart(self._migration.handover.become_sole, sole)

    def cancel(self, arguments: Arguments, done: Done) -> None:
        """Destination: give up, unless a complete-in that waits succeeds; the guest here ends."""
        if arguments.get("cookie") is not None:
            self._migration.nonce_and_told(arguments["cookie"])

        def end() -> None:
            self._migration.end(Event.CANCELLED, "MIGRATION_CANCELLED", "destination", done)

        if self._awaited is None:
            end()
        else:
            self._awaited.cancel(end, lambda: self._migration.refuse(done, _TOO_LATE, _ENDS_IT))


class Awaited:
    """The source's handing over, for one complete-in: tried until it is answered, once."""

    def __init__(
        self,
        migration: Migration,
        cookie: tuple[str, str],
        deadline: float,
        answer: Callable[[LockError | None], None],
    ) -> None:
        self._migration = migration
        self._supervisor = migration.supervisor
        self._cookie = cookie
        self._deadline = deadline
        self._answer = answer
        self._cancelled: tuple[Callable[[], None], Callable[[], None]] | None = None

    def cancel(self, then: Callable[[], None], late: Callable[[], None]) -> None:
        """Answer it now, and do `then`; or `late`, if it succeeds all the same."""
        if self._cancelled is not None:
            raise self._migration.error("its cancel is under way", "wait for it")
        self._cancelled = (then, late)

    def attempt(self) -> None:
        look(
            self._migration.monitor, self._looked, lambda why: self._end(self._migration.error(why))
        )

    def _looked(self, status: str, _migration: str) -> None:
        if status == "inmigrate":
            why = "QEMU has not got all of the guest yet"
            self._again(self._migration.error(why, "let the migration end first"))
        else:
            self._supervisor.jobs.submit(
                lambda: self._migration.publish_after(self._own), self._owned
            )

    def _own(self) -> None:
        """Take what the owner has, and be it (jobs thread)."""
        self._migration.handover.complete_in(*self._cookie)
        self._migration.handover.confirm()

    def _owned(self, _result: object, error: BaseException | None) -> None:
        if isinstance(error, LeaseHeldError):
            self._again(error)
        elif error is not None:
            self._end(self._migration.as_lock_error(error))
        elif self._supervisor.state != State.INCOMING:  # it was run before: it is fenced
            self._end(self._migration.error(f"it is {self._supervisor.state} by now"))
        else:
            self._end(None)

    def _again(self, error: LockError) -> None:
        if self._cancelled is not None:
            self._end(self._migration.error("it is cancelled"))
        elif now() >= self._deadline or self._supervisor.state != State.INCOMING:
            self._end(error)
        else:
            self._supervisor.loop.at("complete-in", now() + RETRY_S, self.attempt)

    def _end(self, error: LockError | None) -> None:
        self._answer(error)
        if self._cancelled is not None:
            then, late = self._cancelled
            (late if error is None else then)()
