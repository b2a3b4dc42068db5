"""What can a client of the control pipe ask, and what is the answer?

Every command answers by calling `done(result, error)` once, at once or when a
job has ended; what the guard already knows it answers at once, however busy
the jobs thread is. It must not know how messages travel.
"""

import os

from lockplugins.contract import (
    Capability,
    LeaseHeldError,
    LeaseUnknownError,
    LockError,
    Mode,
    Resource,
    ResourceError,
    ResourceType,
    UnsupportedError,
)
from supervisor import exitcodes
from supervisor.guard.images import OpenImages
from supervisor.guard.lifecycle import PUBLIC_STATE, State
from supervisor.guard.loop import now
from supervisor.qmp.monitor import Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lockplugins.contract import Lease
    from supervisor.guard.supervise import Supervisor
    from supervisor.qmp.server import Done

POWER_BUTTON_S = 2.0
_RUNS = (State.LAUNCHING, State.RUNNING, State.STOPPING)


class CommandNotFoundError(LockError):
    """No such command; exit code 2."""

    exit_code = exitcodes.USAGE


class ArgumentError(LockError):
    """A command's arguments are missing or wrong; exit code 2."""

    exit_code = exitcodes.USAGE


class GuestNotRunningError(LockError):
    """The guest has not started yet, or is on its way out."""


class NoSuchLeaseError(LockError):
    """The guest has no lease on that; exit code 1."""

    exit_code = exitcodes.NO_SUCH_GUEST


class Commands:
    """The control pipe's commands, on behalf of one supervisor."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._monitor: Monitor | None = None
        if supervisor.prepared.monitor_fd is not None:
            self._monitor = Monitor(supervisor.prepared.monitor_fd, supervisor.loop)
        self._images = OpenImages(supervisor, self._monitor)
        self._table: dict[str, Callable[[dict[str, object], Done], None]] = {
            "query-child": self._query_child,
            "query-status": self._query_status,
            "query-leases": self._query_leases,
            "acquire-resource": self._acquire_resource,
            "release-resource": self._release_resource,
            "stop-guest": self._stop_guest,
        }

    def run(self, command: str, arguments: dict[str, object], done: "Done") -> None:
        """Obey one command."""
        handler = self._table.get(command)
        if handler is None:
            known = " ".join(sorted(self._table))
            done(None, CommandNotFoundError("obey", command, "no such command", f"known: {known}"))
            return
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
        }
        done(child, None, fds)

    def _query_leases(self, _arguments: dict[str, object], done: "Done") -> None:
        done([lease.as_json() for lease in self._supervisor.leases])

    def _query_status(self, _arguments: dict[str, object], done: "Done") -> None:
        self._images.survey(lambda unleased, words: done(self._status(unleased, words)))

    def _status(self, unleased: list[str], guarantee: str) -> dict[str, object]:
        supervisor, spec = self._supervisor, self._supervisor.spec
        deadline = supervisor.deadline
        return {
            "uuid": spec.uuid,
            "name": spec.name,
            "id": spec.id,
            "state": PUBLIC_STATE[supervisor.state],
            "supervisor_pid": os.getpid(),
            "child_pid": supervisor.child.pid,
            "plugin": spec.plugin,
            "containment": supervisor.record.mode,
            "guarantee": guarantee,
            "since": supervisor.record.since,
            "leases": [lease.as_json() for lease in supervisor.leases],
            "deadline_s": None if deadline is None else round(deadline.instant - now(), 3),
            "unleased": unleased,
        }

    def _acquire_resource(self, arguments: dict[str, object], done: "Done") -> None:
        supervisor = self._supervisor
        path = self._disk_path(arguments, "attach")
        mode = arguments.get("mode", Mode.EXCLUSIVE)
        if mode not in Mode.ALL:
            raise ArgumentError("attach", path, f"mode is not one of {' '.join(Mode.ALL)}")
        self._must_run("attach", path)
        if self._lease_on(path) is not None:
            raise ResourceError("attach", f"disk {path}", "the guest has a lease on it already")

        def acquired(lease: "Lease | None", error: BaseException | None) -> None:
            if lease is None:
                done(None, self._as_error("attach", path, error))
                return
            supervisor.on_event("RESOURCE_ACQUIRED", lease.as_json())
            done(lease.as_json())

        supervisor.jobs.submit(lambda: self._attach(Resource(path, str(mode))), acquired)

    def _attach(self, resource: Resource) -> "Lease":
        """Acquire and publish one more lease, or neither (jobs thread)."""
        supervisor, plugin = self._supervisor, self._supervisor.plugin
        if plugin is None:
            raise GuestNotRunningError("attach", resource.path, "the guest has not started")
        if self._lease_on(resource.path) is not None:
            raise ResourceError("attach", resource.path, "the guest has a lease on it already")
        try:
            (lease,) = plugin.acquire([resource], None)
        except LeaseHeldError as error:
            supervisor.record.name_holder(error)
            raise
        leases = [*supervisor.leases, lease]
        try:
            supervisor.record.publish_leases(supervisor.child.pid, leases)
        except LockError:
            plugin.release(lease)
            raise
        supervisor.leases = leases
        return lease

    def _release_resource(self, arguments: dict[str, object], done: "Done") -> None:
        path = self._disk_path(arguments, "detach")
        self._must_run("detach", path)
        lease = self._lease_on(path)
        if lease is None:
            raise NoSuchLeaseError("detach", f"disk {path}", "the guest has no lease on it")

        def looked(answer: "bool | None", reason: str) -> None:
            if answer:
                advice = "unplug it first (device_del, then blockdev-del)"
                done(None, LockError("detach", f"disk {path}", "QEMU has it open", advice))
            elif answer is None:
                advice = "its lease stays held; try again"
                done(None, LeaseUnknownError("detach", f"disk {path}", reason, advice))
            else:
                self._supervisor.jobs.submit(lambda: self._detach(lease), released)

        def released(_result: object, error: BaseException | None) -> None:
            if error is not None:
                done(None, self._as_error("detach", path, error))
                return
            self._supervisor.on_event("RESOURCE_RELEASED", lease.as_json())
            done({})

        self._images.is_open(path, looked)

    def _detach(self, lease: "Lease") -> None:
        """Release one lease and publish that (jobs thread)."""
        supervisor, plugin = self._supervisor, self._supervisor.plugin
        if plugin is None or lease not in supervisor.leases:
            raise NoSuchLeaseError(
                "detach", f"disk {lease.resource}", "the guest has no lease on it"
            )
        plugin.release(lease)
        supervisor.leases = [other for other in supervisor.leases if other is not lease]
        supervisor.record.publish_leases(supervisor.child.pid, supervisor.leases)

    def _stop_guest(self, arguments: dict[str, object], done: "Done") -> None:
        timeout_s = arguments.get("timeout_s", self._supervisor.spec.stop_timeout_s)
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or timeout_s < 0:
            raise ArgumentError("stop", "guest", "timeout_s is not a number of seconds")
        supervisor = self._supervisor

        def pressed(_result: object, reason: str | None) -> None:
            supervisor.ask_to_stop(timeout_s, press_only=reason is None)
            via = "power button" if reason is None else "SIGTERM"
            done({"via": via, "timeout_s": None if timeout_s == float("inf") else timeout_s})

        if self._monitor is None:
            pressed(None, "no monitor")
            return
        self._monitor.execute("system_powerdown", {}, pressed, min(POWER_BUTTON_S, timeout_s))

    def _must_run(self, verb: str, path: str) -> None:
        state = self._supervisor.state
        if state not in _RUNS:
            reason = f"the guest is {PUBLIC_STATE[state]}, not running"
            raise GuestNotRunningError(verb, f"disk {path}", reason)
        plugin = self._supervisor.plugin
        if plugin is None or Capability.HOTPLUG not in plugin.capabilities:
            reason = f"plugin {self._supervisor.spec.plugin} has no {Capability.HOTPLUG}"
            raise UnsupportedError(verb, f"disk {path}", reason, "nothing was touched")

    def _disk_path(self, arguments: dict[str, object], verb: str) -> str:
        path = arguments.get("path")
        if arguments.get("type", ResourceType.DISK) != ResourceType.DISK:
            raise UnsupportedError(verb, "resource", "only type disk can be hot-plugged")
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise ArgumentError(verb, "disk", "path is not an absolute path")
        try:
            os.fsencode(path)
        except UnicodeEncodeError as error:
            raise ArgumentError(verb, "disk", "path is not a file name") from error
        return path

    def _lease_on(self, path: str) -> "Lease | None":
        for lease in self._supervisor.leases:
            if lease.type == ResourceType.DISK and lease.resource == path:
                return lease
        return None

    def _as_error(self, verb: str, path: str, error: BaseException | None) -> LockError:
        """Return what a job raised as a LockError: a doubt is never success."""
        if isinstance(error, LockError):
            return error
        return LeaseUnknownError(verb, f"disk {path}", f"our own fault: {error!r}")
