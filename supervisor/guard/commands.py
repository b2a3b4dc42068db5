"""What can a client of the control pipe ask, and what is the answer?

Every command answers by calling `done(result, error)` once, at once or when a
job has ended; what the guard already knows it answers at once, however busy
the jobs thread is. It must not know how messages travel.
"""

from lockplugins.contract import ConfigError, LockError
from supervisor.guard import guarantee
from supervisor.guard.leasing import Leasing, WrongStateError, seconds
from supervisor.guard.lifecycle import PUBLIC_STATE, State
from supervisor.guard.loop import now
from supervisor.qmp.images import OpenImages
from supervisor.qmp.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.guard.migrating import Migration
    from supervisor.guard.parking import Parking
    from supervisor.guard.supervise import Supervisor
    from supervisor.qmp.server import Arguments, Done

    # In which states a command is obeyed, what does it, and whose wait it may end.
    Step = tuple[tuple[str, ...], Callable[[Arguments, Done], None], str]

# The commands of parts that are loaded when the first of them comes.
_LATE = {
    "pause-guest": "parking", "resume-guest": "parking", "prepare-migrate": "migrating",
    "complete-migrate-in": "migrating", "complete-migrate-out": "migrating",
}  # fmt: skip
COMMANDS = (
    "query-child", "query-status", "query-leases", "acquire-resource", "release-resource",
    *_LATE, "stop-guest",
)  # fmt: skip
POWER_BUTTON_S = 2.0
_PARKED = (State.PARKED, State.UNLEASED)
_NOT_THE_OWNER = {
    State.INCOMING: "the guest holds its place and awaits the migration's end: run before, it ends",
    State.MIGRATED: "the guest has stopped for its destination: run before a cancel, it ends",
    State.UNLEASED: "the guest stands still without its leases: run before they are back, it ends",
    State.FENCING: "the guest has got SIGKILL: until it is dead, it may sleep uninterruptibly",
}


class CommandNotFoundError(ConfigError):
    """No such command; exit code 2."""


def serve(supervisor: "Supervisor") -> "Callable[[str, dict[str, object]], None]":
    """Open the control pipe; returns what tells an event to every client (main thread)."""
    server = Server(supervisor.record.control_fd, supervisor.loop, Commands(supervisor).run)
    return server.broadcast


class Commands:
    """The control pipe's commands, on behalf of one supervisor."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._monitor = supervisor.prepared.monitor(supervisor.loop)
        self._images = OpenImages(self._monitor, supervisor.loop, supervisor.jobs.apart)
        leasing = Leasing(supervisor, self._images)
        self._acquire_resource, self._release_resource = leasing.acquire, leasing.release
        self._step = ""

    def run(self, command: str, arguments: "Arguments", done: "Done") -> None:
        """Obey one command."""
        if command not in COMMANDS:
            known = "known: " + " ".join(COMMANDS)
            done(None, CommandNotFoundError("obey", command, "no such command", known))
            return
        if command in _LATE:
            self._load(command, arguments, done)
            return
        handler = getattr(self, "_" + command.replace("-", "_"))
        try:
            handler(arguments, done)
        except LockError as error:
            done(None, error)

    def _load(self, command: str, arguments: "Arguments", done: "Done") -> None:
        """Have the part obey whose command it is, when it is loaded."""
        name = f"guest {self._supervisor.spec.name}"

        def loaded(error: BaseException | None) -> None:
            if error is not None:
                done(None, LockError(command, name, f"its code cannot be loaded: {error}"))
                return
            try:
                self._begin(command, name, arguments, done)
            except LockError as refusal:
                done(None, refusal)

        self._supervisor.jobs.load(f"supervisor.guard.{_LATE[command]}", loaded)

    def _begin(self, command: str, name: str, arguments: "Arguments", done: "Done") -> None:
        """Begin what will be answered later; raises LockError before anything is touched."""
        states, begin, ends = self._part(command).step(command, arguments)
        beside = self._step and self._step == ends
        if self._step and not beside:
            raise WrongStateError(command, name, f"{self._step} is under way", "wait for it")
        if self._supervisor.state not in states:
            why = f"it is {PUBLIC_STATE[self._supervisor.state]}, not {' or '.join(states)}"
            raise WrongStateError(command, name, why, "see status")

        def answer(
            result: object, error: LockError | None = None, fds: tuple[int, ...] = ()
        ) -> None:
            self._step = self._step if beside else ""
            done(result, error, fds)

        self._step = command  # until it is answered
        try:
            begin(arguments, answer)
        except LockError as refusal:
            answer(None, refusal)

    def _part(self, command: str) -> "Migration | Parking":
        """Return the part, which is in memory by now (D2, D3)."""
        if _LATE[command] == "parking":
            from supervisor.guard.parking import Parking

            self._supervisor.parking = self._supervisor.parking or Parking(self._supervisor)
            return self._supervisor.parking
        from supervisor.guard.migrating import Migration

        self._supervisor.migration = self._supervisor.migration or Migration(self._supervisor)
        return self._supervisor.migration

    def _query_child(self, arguments: "Arguments", done: "Done") -> None:
        supervisor, record = self._supervisor, self._supervisor.record
        fds = (supervisor.child.pidfd,) if arguments.get("pidfd") is True else ()
        child = {
            "pid": supervisor.child.pid,
            "start_time": record.child_start_time,
            "boot_id": record.boot_id,
            "state": PUBLIC_STATE[supervisor.state],
        }
        done(child, None, fds)

    def _query_leases(self, _arguments: "Arguments", done: "Done") -> None:
        done([lease.as_json() for lease in self._supervisor.leases])

    def _query_status(self, _arguments: "Arguments", done: "Done") -> None:
        supervisor, mode = self._supervisor, self._supervisor.record.mode
        if supervisor.state == State.UNLEASED:  # nobody would answer
            done(self._status([], ""))
            return
        pid, inode = supervisor.child.pid, supervisor.prepared.carrier.inode()
        self._images.survey(
            [lease.resource for lease in supervisor.leases],
            lambda: guarantee.doubts(mode, pid, inode),
            lambda unleased, doubt: done(self._status(unleased, doubt)),
        )

    def _status(self, unleased: list[str], doubt: str) -> dict[str, object]:
        supervisor, record = self._supervisor, self._supervisor.record
        parking = supervisor.parking if supervisor.state in _PARKED else None
        until = float("inf") if supervisor.deadline is None else supervisor.deadline.instant
        return {
            **record.summary(supervisor.child.pid, supervisor.leases),
            "state": PUBLIC_STATE[supervisor.state],
            "guarantee": _NOT_THE_OWNER.get(supervisor.state, "")
            or guarantee.words(record.mode, doubt, unleased, supervisor.plugin),
            "deadline_s": None if until == float("inf") else round(until - now(), 3),
            "unleased": unleased,
            "parked": None if parking is None else parking.state,
        }

    def _stop_guest(self, arguments: "Arguments", done: "Done") -> None:
        given = arguments.get("timeout_s", self._supervisor.spec.stop_timeout_s)
        timeout_s = float("inf") if given is None else seconds("stop", given)
        supervisor = self._supervisor

        def pressed(_result: object, reason: str | None) -> None:
            supervisor.ask_to_stop(timeout_s, press_only=reason is None)
            via = "power button" if reason is None else "SIGTERM"
            via = "SIGKILL, as it may not run" if supervisor.state == State.FENCING else via
            done({"via": via, "timeout_s": None if timeout_s == float("inf") else timeout_s})

        if self._monitor is None or supervisor.state in _PARKED:
            pressed(None, "nobody would see the button")
            return
        self._monitor.execute("system_powerdown", {}, pressed, min(POWER_BUTTON_S, timeout_s))
