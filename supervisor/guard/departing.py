"""How does a guest leave by migration? The source's end, from prepare to its guest's death.

It owns the disks until QEMU says that the migration has completed; from then
on its guest may not run, unless a cancel is granted. It must not know how
leases are handed over.
"""

from __future__ import annotations

import os

from lockplugins.contract import ConfigError
from lockplugins.handover import Handover
from supervisor.guard.lifecycle import Event, State
from supervisor.guard.loop import now
from supervisor.qmp.status import ANSWER_S, OVER, enable, look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.guard.migrating import Migration
    from supervisor.qmp.server import Arguments, Done

EVENTS = "events"
LEAVING = (State.MIGRATING_OUT, State.MIGRATED)
GOING_S = 1.0  # for a destination that has given up: its supervisor ends after it has said so
RETRY_S = 0.01
# QEMU's words (qapi/run-state.json).
_MAY_LEAVE = ("running", "paused", "prelaunch", "suspended")


class Departure:
    """The source's side; `_attempt` is the nonce of the attempt that is under way."""

    def __init__(self, migration: Migration) -> None:
        self._migration = migration
        self._monitor = migration.monitor
        self._supervisor = migration.supervisor
        self._attempt: str | None = None
        self._cancelling = False

    @property
    def is_under_way(self) -> bool:
        return self._attempt is not None

    def completed(self) -> None:
        """QEMU says that a migration has completed: the guest has stopped for good."""
        if self._attempt is None:
            return  # nobody's but the user's: saved to a file, say
        self._migration.fenced = True
        # While a cancel is under way we stay the owner, whichever way that ends.
        if self._supervisor.state == State.MIGRATING_OUT and not self._cancelling:
            self._hand_over()

    def prepare(self, arguments: Arguments, done: Done) -> None:
        """Source: begin an attempt, if nothing is under way; the answer has the cookie."""
        uri = arguments.get("uri")
        if not isinstance(uri, str) or not uri.isprintable():
            raise ConfigError("migrate", self._migration.name, "uri is not a line of text")
        nonce = self._attempt = os.urandom(Handover.NONCE_BYTES).hex()

        def failed(why: str) -> None:
            self._end_attempt()
            self._migration.refuse(done, why, "nothing was touched")

        def looked(status: str, migration: str) -> None:
            if status not in _MAY_LEAVE or migration not in OVER:
                failed(f"QEMU is {status}, its last migration {migration or 'none'}")
            else:
                self._supervisor.jobs.submit(
                    lambda: self._migration.handover.prepare(nonce), prepared
                )

        def prepared(told: str, error: BaseException | None) -> None:
            if error is not None:
                self._end_attempt()
                done(None, self._migration.as_lock_error(error))
                return
            self._supervisor.happen(Event.PREPARED)
            if self._migration.fenced:
                self._hand_over()  # it has been quick
            self._supervisor.on_event("MIGRATION_PREPARED", {"uri": uri})
            done({"cookie": self._migration.cookie(nonce, told)})

        enable(self._monitor, EVENTS, lambda: look(self._monitor, looked, failed), failed)

    def _end_attempt(self) -> None:
        """We are the owner, and the guest may run."""
        self._attempt, self._migration.fenced = None, False

    def _hand_over(self) -> None:
        """Source: its guest has stopped for good; the destination may become the owner."""

        def handed(_result: object, error: BaseException | None) -> None:
            if error is None:
                self._supervisor.happen(Event.HANDED)
                # Who takes leases back asks the plugin whether that has returned.
                self._supervisor.jobs.apart(self._migration.handover.has_lost, lambda *_: None)
            else:  # the owner still, fenced: complete-out and cancel are both left
                self._migration.say(str(error))

        self._supervisor.jobs.submit(
            lambda: self._migration.publish_after(self._migration.handover.hand_over), handed
        )

    def cancel(self, _arguments: Arguments, done: Done) -> None:
        """Source: own again, and run again, if the destination has given up."""
        until = now() + ANSWER_S

        def ask() -> None:
            look(self._monitor, looked, lambda why: self._migration.refuse(done, why))

        def looked(_status: str, migration: str) -> None:
            if migration == "cancelling" and now() < until:  # as QEMU is for a moment
                self._supervisor.loop.at("cancelling", now() + RETRY_S, ask)
                return
            if migration not in OVER:
                self._migration.refuse(
                    done, f"its migration is {migration}", "migrate_cancel it first"
                )
                return
            self._cancelling = True

            def job() -> None:
                self._migration.handover.take_back(GOING_S)

            self._supervisor.jobs.submit(lambda: self._migration.publish_after(job), taken_back)

        def taken_back(_result: object, error: BaseException | None) -> None:
            self._cancelling = False
            if error is not None:
                done(None, self._migration.as_lock_error(error))
                if self._migration.fenced and self._supervisor.state == State.MIGRATING_OUT:
                    self._hand_over()
                return
            self._end_attempt()
            self._supervisor.happen(Event.CANCELLED)
            self._supervisor.on_event("MIGRATION_CANCELLED", {"side": "source"})
            done({})

        ask()

    def complete(self, _arguments: Arguments, done: Done) -> None:
        """Source: end the guest, and its leases with it; answered when it is dead."""

        def looked(status: str, _migration: str) -> None:
            if status != "postmigrate" or self._supervisor.state not in LEAVING:
                self._migration.refuse(
                    done, f"QEMU is {status}, not postmigrate", "let it migrate first"
                )
            else:
                self._migration.end(Event.AWAY, "MIGRATION_COMPLETED", "source", done)

        look(self._monitor, looked, lambda why: self._migration.refuse(done, why))
