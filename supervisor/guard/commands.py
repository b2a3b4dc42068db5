"""What can a client of the control pipe ask, and what is the answer?

Every command answers by calling `done(result, error)` once, at once or when a
job has ended; what the guard already knows it answers at once, however busy
the jobs thread is. It must not know how messages travel.
"""

import os

from lockplugins.contract import (
    Capability,
    ConfigError,
    LeaseUnknownError,
    LockError,
    Mode,
    Resource,
    ResourceError,
    ResourceType,
    UnsupportedError,
)
from supervisor import exitcodes
from supervisor.guard import announce, containment
from supervisor.guard.lifecycle import PUBLIC_STATE, State
from supervisor.guard.loop import now
from supervisor.qmp.images import OpenImages
from supervisor.qmp.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lockplugins.contract import Lease
    from supervisor.guard.supervise import Supervisor
    from supervisor.qmp.server import Done

COMMANDS = (
    "query-child", "query-status", "query-leases", "acquire-resource", "release-resource",
    "prepare-migrate", "complete-migrate-in", "complete-migrate-out", "stop-guest",
)  # fmt: skip
POWER_BUTTON_S = 2.0
LONGEST_S = 1e9  # thirty years are for ever
_ACQUIRED = "RESOURCE_ACQUIRED"
_NOT_THE_OWNER = {
    State.INCOMING: "the guest holds its place and awaits the migration's end: run before, it ends",
    State.MIGRATED: "the guest has stopped for its destination: run before a cancel, it ends",
}
_RUNS = (State.LAUNCHING, State.RUNNING, State.STOPPING)


class CommandNotFoundError(ConfigError):
    """No such command; exit code 2."""


class ArgumentError(ConfigError):
    """A command's arguments are missing or wrong; exit code 2."""


class GuestNotRunningError(LockError):
    """The guest has not started yet, or is on its way out."""


class NoSuchLeaseError(LockError):
    """The guest has no lease on that; exit code 1."""

    exit_code = exitcodes.NO_SUCH_GUEST


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

    def run(self, command: str, arguments: dict[str, object], done: "Done") -> None:
        """Obey one command."""
        if command not in COMMANDS:
            known = "known: " + " ".join(COMMANDS)
            done(None, CommandNotFoundError("obey", command, "no such command", known))
            return
        handler = getattr(self, "_" + command.replace("-", "_"))
        try:
            handler(arguments, done)
        except LockError as error:
            done(None, error)

    def _query_child(self, arguments: dict[str, object], done: "Done") -> None:
        supervisor, record = self._supervisor, self._supervisor.record
        fds = (supervisor.child.pidfd,) if arguments.get("pidfd") is True else ()
        child = {
            "pid": supervisor.child.pid,
            "start_time": record.child_start_time,
            "boot_id": record.boot_id,
            "state": PUBLIC_STATE[supervisor.state],
        }
        done(child, None, fds)

    def _query_leases(self, _arguments: dict[str, object], done: "Done") -> None:
        done([lease.as_json() for lease in self._supervisor.leases])

    def _query_status(self, _arguments: dict[str, object], done: "Done") -> None:
        supervisor, mode = self._supervisor, self._supervisor.record.mode
        pid, inode = supervisor.child.pid, supervisor.prepared.carrier.inode()
        self._images.survey(
            [lease.resource for lease in supervisor.leases],
            lambda: containment.doubts(mode, pid, inode),
            lambda unleased, doubt: done(self._status(unleased, doubt)),
        )

    def _status(self, unleased: list[str], doubt: str) -> dict[str, object]:
        supervisor, record = self._supervisor, self._supervisor.record
        deadline = supervisor.deadline
        return {
            **record.summary(supervisor.child.pid, supervisor.leases),
            "state": PUBLIC_STATE[supervisor.state],
            "guarantee": _NOT_THE_OWNER.get(supervisor.state, "")
            or containment.guarantee(record.mode, doubt, unleased),
            "deadline_s": None if deadline is None else round(deadline.instant - now(), 3),
            "unleased": unleased,
        }

    def _prepare_migrate(self, arguments: dict[str, object], done: "Done") -> None:
        self._migrate("prepare-migrate", arguments, done)

    def _complete_migrate_in(self, arguments: dict[str, object], done: "Done") -> None:
        self._migrate("complete-migrate-in", arguments, done)

    def _complete_migrate_out(self, arguments: dict[str, object], done: "Done") -> None:
        self._migrate("complete-migrate-out", arguments, done)

    def _migrate(self, command: str, arguments: dict[str, object], done: "Done") -> None:
        """Have the part that migrates obey; it is loaded when the first such command comes."""
        supervisor = self._supervisor

        def loaded(error: BaseException | None) -> None:
            if error is not None:
                why = f"its code cannot be loaded: {error}"
                done(None, LockError("migrate", f"guest {supervisor.spec.name}", why))
                return
            from supervisor.guard.migrating import Migration  # in memory by now (D2, D3)

            try:
                supervisor.migration = supervisor.migration or Migration(supervisor)
                supervisor.migration.obey(command, arguments, done)
            except LockError as refusal:
                done(None, refusal)

        supervisor.load("supervisor.guard.migrating", loaded)

    def _acquire_resource(self, arguments: dict[str, object], done: "Done") -> None:
        path = self._target("attach", arguments)
        mode = arguments.get("mode", Mode.EXCLUSIVE)
        if mode not in Mode.ALL:
            raise ArgumentError("attach", path, f"mode is not one of {' '.join(Mode.ALL)}")
        self._change(_ACQUIRED, lambda: self._attach(Resource(path, str(mode))), done)

    def _attach(self, resource: Resource) -> "Lease":
        """Acquire and publish one more lease, or neither (jobs thread)."""
        supervisor = self._supervisor
        if self._leases_on(resource.path):
            name, reason = f"disk {resource.path}", "the guest has a lease on it already"
            raise ResourceError("attach", name, reason)
        acquired = supervisor.acquire([resource], None)  # several: one of each lock manager
        supervisor.leases = [*supervisor.leases, *acquired]
        try:
            supervisor.record.publish(supervisor.child.pid, supervisor.leases)
        except LockError:
            self._give_back(acquired)
            raise
        return acquired[0]

    def _release_resource(self, arguments: dict[str, object], done: "Done") -> None:
        path = self._target("detach", arguments)

        def looked(answer: "bool | None", reason: str) -> None:
            if answer:
                advice = "unplug it first (device_del, then blockdev-del)"
                done(None, LockError("detach", f"disk {path}", "QEMU has it open", advice))
            elif answer is None:
                advice = "its lease stays held; try again"
                done(None, LeaseUnknownError("detach", f"disk {path}", reason, advice))
            else:
                self._change("RESOURCE_RELEASED", lambda: self._detach(path), done)

        self._leases_to_release(path)
        self._images.is_open(path, self._supervisor.child.pid, looked)

    def _detach(self, path: str) -> "Lease":
        """Release what is held on one disk and publish that (jobs thread)."""
        leases = self._leases_to_release(path)
        self._give_back(leases)
        try:
            self._supervisor.record.publish(self._supervisor.child.pid, self._supervisor.leases)
        except LockError as error:
            announce.say(str(error))  # the lease is free all the same
        return leases[0]

    def _give_back(self, leases: "list[Lease]") -> None:
        for lease in reversed(leases):
            self._supervisor.plugin.release(lease)
            self._supervisor.leases = [x for x in self._supervisor.leases if x is not lease]

    def _change(self, event: str, job: "Callable[[], Lease]", done: "Done") -> None:
        """Have `job` change one lease, tell everybody, answer."""

        def changed(lease: "Lease", error: BaseException | None) -> None:
            if isinstance(error, LockError):
                done(None, error)
            elif error is not None:  # a doubt is never success
                done(None, LeaseUnknownError("change", "leases", f"our own fault: {error!r}"))
            else:
                self._supervisor.on_event(event, lease.as_json())
                done(lease.as_json() if event == _ACQUIRED else {})

        self._supervisor.jobs.submit(job, changed)

    def _stop_guest(self, arguments: dict[str, object], done: "Done") -> None:
        given = arguments.get("timeout_s", self._supervisor.spec.stop_timeout_s)
        if isinstance(given, bool) or not isinstance(given, int | float | None) or (given or 0) < 0:
            raise ArgumentError("stop", "guest", "timeout_s is not a number of seconds, or null")
        timeout_s = float("inf") if given is None or given > LONGEST_S else float(given)
        supervisor = self._supervisor

        def pressed(_result: object, reason: str | None) -> None:
            supervisor.ask_to_stop(timeout_s, press_only=reason is None)
            via = "power button" if reason is None else "SIGTERM"
            done({"via": via, "timeout_s": None if timeout_s == float("inf") else timeout_s})

        if self._monitor is None:
            pressed(None, "no monitor")
            return
        self._monitor.execute("system_powerdown", {}, pressed, min(POWER_BUTTON_S, timeout_s))

    def _target(self, verb: str, arguments: dict[str, object]) -> str:
        """Return the disk that hot-plug is about, in a guest and under a plugin that can."""
        supervisor, path = self._supervisor, arguments.get("path")
        if not isinstance(path, str) or not path.startswith("/") or not _is_file_name(path):
            raise ArgumentError(verb, "disk", "path is not an absolute path")
        name = f"disk {path}"
        if arguments.get("type", ResourceType.DISK) != ResourceType.DISK:
            raise UnsupportedError(verb, name, "only type disk can be hot-plugged")
        if supervisor.state not in _RUNS:
            reason = f"the guest is {PUBLIC_STATE[supervisor.state]}, not running"
            raise GuestNotRunningError(verb, name, reason)
        if Capability.HOTPLUG not in supervisor.plugin.capabilities:
            reason = f"plugin {supervisor.spec.plugin} has no {Capability.HOTPLUG}"
            raise UnsupportedError(verb, name, reason, "nothing was touched")
        return path

    def _leases_on(self, path: str) -> "list[Lease]":
        disks = [x for x in self._supervisor.leases if x.type == ResourceType.DISK]
        return [lease for lease in disks if lease.resource == path]

    def _leases_to_release(self, path: str) -> "list[Lease]":
        if not (leases := self._leases_on(path)):
            raise NoSuchLeaseError("detach", f"disk {path}", "the guest has no lease on it")
        return leases


def _is_file_name(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
