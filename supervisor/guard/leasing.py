"""How does a guest that runs get one more lease, and give one up? Before hot-plug, after unplug.

What is asked for is checked at once, and changed on the jobs thread. It must
not know how leases are held, nor how messages travel.
"""

import os
from operator import attrgetter

from lockplugins.contract import (
    Capability,
    ConfigError,
    LeaseState,
    LeaseUnknownError,
    LockError,
    Mode,
    Resource,
    ResourceError,
    ResourceType,
    UnsupportedError,
)
from supervisor import exitcodes
from supervisor.guard.lifecycle import PUBLIC_STATE, State
from supervisor.spec import parse_lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeGuard

    from lockplugins.contract import Lease
    from supervisor.guard.supervise import Supervisor
    from supervisor.qmp.images import OpenImages
    from supervisor.qmp.server import Arguments, Done

LONGEST_S = 1e9  # thirty years are for ever
_ACQUIRED = "RESOURCE_ACQUIRED"
_CLAIM = attrgetter("type", "path", "lockspace", "key", "offset_bytes")
_RUNS = (State.LAUNCHING, State.RUNNING, State.PARKED, State.STOPPING)


class ArgumentError(ConfigError):
    """A command's arguments are missing or wrong; exit code 2."""


class WrongStateError(LockError):
    """The guest is in no state for that, or another command that changes it has no answer yet."""


class NoSuchLeaseError(LockError):
    """The guest has no lease on that; exit code 1."""

    exit_code = exitcodes.NO_SUCH_GUEST


class Leasing:
    """The leases of one guest, as clients change them."""

    def __init__(self, supervisor: "Supervisor", images: "OpenImages") -> None:
        self._supervisor = supervisor
        self._images = images

    def acquire(self, arguments: "Arguments", done: "Done") -> None:
        """Acquire a lease; raises LockError before anything is touched, as `release` does."""
        wanted = self._wanted("attach", arguments)
        mode = arguments.get("mode", Mode.EXCLUSIVE)
        if mode not in Mode.ALL:
            raise ArgumentError("attach", wanted.path, f"mode is not one of {' '.join(Mode.ALL)}")
        if wanted.type == ResourceType.LEASE and mode != wanted.mode:
            raise UnsupportedError("attach", _called(wanted), f"explicit leases are {wanted.mode}")
        wanted.mode = str(mode)
        if _is_file_name(identity := arguments.get("identity")):
            wanted.identity = identity
        elif identity is not None:
            raise ArgumentError("attach", wanted.path, "identity is not a name")
        self._change(_ACQUIRED, lambda: self._attach(wanted), done)

    def _attach(self, wanted: Resource) -> "Lease":
        """Acquire and publish one more lease, or neither (jobs thread)."""
        supervisor = self._supervisor
        if self._on(wanted):
            reason = "the guest has a lease on it already"
            raise ResourceError("attach", _called(wanted), reason)
        acquired = supervisor.acquire([wanted], None)  # several: one of each lock manager
        supervisor.leases = [*supervisor.leases, *acquired]
        try:
            supervisor.record.publish(supervisor.child.pid, supervisor.leases)
        except LockError:
            self._give_back(acquired)
            raise
        return acquired[0]

    def release(self, arguments: "Arguments", done: "Done") -> None:
        """Release a lease, unless it is that of a disk which QEMU has open."""
        wanted = self._wanted("detach", arguments)

        def looked(answer: "bool | None", reason: str) -> None:
            if answer:
                advice = "unplug it first (device_del, then blockdev-del)"
                done(None, LockError("detach", _called(wanted), "QEMU has it open", advice))
            elif answer is None:
                advice = "its lease stays held; try again"
                done(None, LeaseUnknownError("detach", _called(wanted), reason, advice))
            else:
                self._change("RESOURCE_RELEASED", lambda: self._detach(wanted), done)

        self._to_release(wanted)
        if wanted.type == ResourceType.LEASE:
            looked(answer=False, reason="")
        else:
            self._images.is_open(wanted.path, self._supervisor.child.pid, looked)

    def _detach(self, wanted: Resource) -> "Lease":
        """Release what is held on one resource and publish that (jobs thread)."""
        leases = self._to_release(wanted)
        self._give_back(leases)
        self._supervisor.publish()
        return leases[0]

    def _give_back(self, leases: "list[Lease]") -> None:
        for lease in reversed(leases):
            try:
                self._supervisor.plugin.release(lease)
            except LeaseUnknownError:
                lease.state = LeaseState.UNKNOWN
                raise
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

    def _wanted(self, verb: str, arguments: "Arguments") -> Resource:
        """Return what hot-plug is about, in a guest and under a plugin that can."""
        supervisor, path = self._supervisor, arguments.get("path")
        kind = arguments.get("type", ResourceType.DISK)
        if kind == ResourceType.LEASE:
            wanted = parse_lease(str(path))
        elif kind != ResourceType.DISK:
            raise UnsupportedError(verb, f"{kind}", "only disks and leases can be hot-plugged")
        elif _is_file_name(path) and (
            path.startswith("/") or Capability.NETWORK in supervisor.plugin.capabilities
        ):
            wanted = Resource(path)
        else:
            raise ArgumentError(verb, "disk", "path is not an absolute path")
        if supervisor.state not in _RUNS:
            reason = f"the guest is {PUBLIC_STATE[supervisor.state]}, not running"
            raise WrongStateError(verb, _called(wanted), reason)
        if Capability.HOTPLUG not in supervisor.plugin.capabilities:
            reason = f"plugin {supervisor.spec.plugin} has no {Capability.HOTPLUG}"
            raise UnsupportedError(verb, _called(wanted), reason, "nothing was touched")
        return wanted

    def _on(self, wanted: Resource) -> "list[Lease]":
        return [lease for lease in self._supervisor.leases if _CLAIM(lease.claim) == _CLAIM(wanted)]

    def _to_release(self, wanted: Resource) -> "list[Lease]":
        if not (leases := self._on(wanted)):
            raise NoSuchLeaseError("detach", _called(wanted), "the guest has no lease on it")
        return leases


def seconds(verb: str, given: object) -> float:
    """Return a time that a client has given; raises ArgumentError."""
    if isinstance(given, bool) or not isinstance(given, int | float) or given < 0:
        raise ArgumentError(verb, "the guest", "timeout_s is not a number of seconds")
    return float(given) if given < LONGEST_S else float("inf")


def _called(resource: Resource) -> str:
    lease = resource.type == ResourceType.LEASE
    return f"{resource.type} {f'{resource.lockspace}:{resource.key}' if lease else resource.path}"


def _is_file_name(given: object) -> "TypeGuard[str]":
    try:
        return isinstance(given, str) and given != "" and b"\0" not in os.fsencode(given)
    except UnicodeEncodeError:
        return False
