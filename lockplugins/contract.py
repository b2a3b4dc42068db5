"""What does a lock manager plugin promise the guard, and in which words?

Holds the closed sets, the values, the errors, the `Plugin` base class. It must not know any lock
manager, nor the supervisor. On the launch path: no enum, typing or dataclasses (README, D2).
"""

import sys
from errno import errorcode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import ClassVar

    from lockplugins.carrier import Carrier as Carrier  # noqa: PLC0414  # plugins import it from here
    from lockplugins.handover import Handover

    Finding = tuple[str, bool, str, str]  # check, is it well, evidence, what to do if not


class Mode:
    """How a lease is held."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"
    ALL = (EXCLUSIVE, SHARED)


class ResourceType:
    """What a lease is on."""

    DISK = "disk"
    VM = "vm"
    LEASE = "lease"
    ALL = (DISK, VM, LEASE)


class LeaseState:
    """The condition of a lease; `UNKNOWN` is treated as held elsewhere."""

    HELD = "held"
    LOST = "lost"
    PENDING = "pending"
    UNKNOWN = "unknown"
    ALL = (HELD, LOST, PENDING, UNKNOWN)


class Capability:
    """What a plugin can do beyond acquire, release and inquire; NETWORK: lease network disks."""

    RESOURCES = "resources"
    HOTPLUG = "hotplug"
    MIGRATION = "migration"
    EXPIRES = "expires"
    GENERATIONS = "generations"
    VM, NETWORK = "vm", "network"
    ALL = (RESOURCES, HOTPLUG, MIGRATION, EXPIRES, GENERATIONS, VM, NETWORK)


class Guest:
    """The virtual machine on whose behalf leases are acquired."""

    __slots__ = ("doing", "id", "name", "pid", "uuid")

    def __init__(self, uuid: str, name: str, guest_id: str | None = None) -> None:
        self.uuid = uuid
        self.name = name
        self.id = guest_id
        self.pid, self.doing = 0, ""  # of who has registered; what `open` is at that takes long


class Resource:
    """One thing to claim: a disk by path, or an explicit lease by lockspace and key.

    `path` is the name as given; `identity` replaces it where names must be equal on all hosts.
    `lockspace`, `key`, `offset_bytes`: an explicit lease's. `found_in`: what named it, for people.
    """

    __slots__ = ("found_in", "identity", "key", "lockspace", "mode", "offset_bytes", "path", "type")

    def __init__(
        self,
        path: str,
        mode: str = Mode.EXCLUSIVE,
        resource_type: str = ResourceType.DISK,
        *,
        lockspace: str | None = None,
        key: str | None = None,
        offset_bytes: int = 0,
        identity: str | None = None,
        found_in: str = "",
    ) -> None:
        self.type = resource_type
        self.path = path
        self.mode = mode
        self.lockspace = lockspace
        self.key = key
        self.offset_bytes = offset_bytes
        self.identity = identity
        self.found_in = found_in


class Lease:
    """One claim that a plugin acquired; `lease` is the lock manager's own name for it."""

    __slots__ = ("claim", "generation", "lease", "lockspace", "mode", "resource", "state", "type")

    def __init__(
        self, resource: Resource, lockspace: str, lease: str, generation: int | None = None
    ) -> None:
        self.claim = resource
        self.resource = resource.path
        self.type = resource.type
        self.mode = resource.mode
        self.lockspace = lockspace
        self.lease = lease
        self.generation = generation
        self.state = LeaseState.HELD

    def as_json(self) -> dict[str, object]:
        """Return the lease as `status --json` shows it."""
        fields = ("resource", "type", "mode", "lockspace", "lease", "generation", "state")
        return {field: getattr(self, field) for field in fields}


class Holder:
    """Who has a lease: `pid` where the lock manager knows it, else words alone."""

    __slots__ = ("description", "generation", "host", "mode", "pid")

    def __init__(
        self,
        mode: str,
        description: str,
        pid: int | None = None,
        host: str | None = None,
        generation: int | None = None,
    ) -> None:
        self.mode = mode
        self.description = description
        self.pid = pid
        self.host = host
        self.generation = generation


def fsdecode(name: bytes) -> str:
    """Return os.fsdecode(name), without the millisecond that importing os costs (D2)."""
    return name.decode(sys.getfilesystemencoding(), "surrogateescape")


def shown(text: str) -> str:
    r"""Return `text` fit for one line: control characters as \xNN."""
    control = (ord(c) for c in text if not c.isprintable() and c < "\xa0")  # surrogates are bytes
    return text.translate({number: f"\\x{number:02x}" for number in control})


def cause(error: OSError, path: object = None) -> str:
    """Return what the kernel said (of `path`), with the errno's name."""
    words = f"{error.strerror} ({errorcode.get(error.errno or 0, 'no errno')})"
    return words if path is None else f"{path}: {words}"


class LockError(Exception):
    """cannot VERB NAME: REASON; ADVICE. Exit code 111 unless a subclass says otherwise."""

    exit_code = 111

    def __init__(self, verb: str, name: str, reason: str, advice: str = "") -> None:
        super().__init__(verb, name, reason, advice)
        self.verb = verb
        self.name = name
        self.reason = reason
        self.advice = advice

    def __str__(self) -> str:
        """Render the one line that a person sees (style: what, to what, why, what to do)."""
        text = f"cannot {self.verb} {shown(self.name)}: {shown(self.reason)}"
        return f"{text}; {shown(self.advice)}" if self.advice else text

    def fields(self) -> dict[str, object]:
        """Return the error's fields for the control pipe."""
        return {"verb": self.verb, "name": self.name, "reason": self.reason, "advice": self.advice}


class LeaseHeldError(LockError):
    """Someone else holds the lease; `holder` says who."""

    exit_code = 110

    def __init__(
        self, verb: str, name: str, reason: str, advice: str = "", holder: Holder | None = None
    ) -> None:
        super().__init__(verb, name, reason, advice)
        self.holder = holder


class LeaseUnknownError(LockError):
    """It cannot be told who holds the lease: treated as held elsewhere, never as free."""


class LeaseLostError(LockError):
    """We held the lease and do not any more; the guest has to be fenced."""

    exit_code = 112


class ResourceError(LockError):
    """The resource itself is missing, cannot be opened, or is of the wrong kind."""


class UnsupportedError(LockError):
    """The plugin cannot do this; raised before anything is touched."""


class ConfigError(LockError):
    """A plugin, key or value that does not exist; names what is allowed."""

    exit_code = 2


class Plugin:
    """One lock manager, on behalf of one guest.

    All calls but `in_child` are made on the guard's jobs thread (`renew`: its renewal thread), may
    block; none after `close`. `carrier` makes descriptors live as long as the guest. `config` is
    the plugin's table, checked. FREED_BY_DEATH: the deaths of guest and guard free every lease.
    """

    CONFIG_KEYS: "ClassVar[tuple[str, ...]]" = ()
    REGISTERS: bool = False
    name: str = ""  # an instance may know better than its class, here and below
    capabilities: tuple[str, ...] = ()
    FREED_BY_DEATH: bool = False
    CAVEAT: str = ""  # what `status` adds to the guarantee
    PROOF_TERM_S: float = 0.0
    RENEW_EVERY_S: float = 0.0

    def __init__(self, config: "Mapping[str, str]", carrier: "Carrier") -> None:
        self.config = config
        self.carrier = carrier

    def open(self, guest: Guest) -> None:
        """Connect to the lock manager for `guest`; raises LockError when it cannot be reached."""

    def in_child(self) -> tuple[int, ...]:
        """Connect this process, with which the guest ends, to the lock manager; if REGISTERS.

        Returns descriptors for the guest to inherit. This instance is not opened: the guard's is.
        """
        raise NotImplementedError

    def acquire(self, resources: "Sequence[Resource]", wait_until: float | None) -> list[Lease]:
        """Acquire all of `resources` or none, in the order given.

        `wait_until`: an instant of CLOCK_BOOTTIME (s; inf), None refuses at once. A wait holds
        nothing, may overstay. Raises a LockError with nothing held or changed.
        """
        raise NotImplementedError

    def release(self, lease: Lease) -> None:
        """Release one lease of ours at once; raises LockError when it cannot be confirmed."""
        raise NotImplementedError

    def reacquire(self, lease: Lease) -> None:
        """Acquire a released lease again if its generation is unchanged, else LeaseLostError."""
        raise UnsupportedError("re-acquire", lease.resource, f"plugin {self.name} cannot")

    def inquire(self, resource: Resource) -> list[Holder]:
        """Return who holds the resource, ourselves included; changes nothing, needs no `open`."""
        raise UnsupportedError("tell who holds", resource.path, f"plugin {self.name} cannot")

    def examine(self, resource: "Resource | None") -> "list[Finding]":  # noqa: ARG002  # others use it
        """Return what doctor says of it, None: of the lock manager; no trace. May hang."""
        return []

    def migration(self) -> "Handover":
        """Return what hands leases over, the same each time; only with MIGRATION."""
        raise UnsupportedError("migrate", "the guest", f"plugin {self.name} has no migration")

    def named(self, resource: Resource) -> list[tuple[str, str]]:  # noqa: ARG002  # for overriders
        """Return (lockspace, lease) of what `acquire` would take; empty if not known before."""
        return []

    def watch_fds(self) -> tuple[int, ...]:
        """Return descriptors whose readability `on_readable` wants to hear of."""
        return ()

    def on_readable(self, fd: int) -> None:
        """Look at a watched descriptor; raises LeaseLostError when a lease is gone."""

    def renew(self) -> float:
        """Prove every lease once more; returns when the proven request was sent.

        In seconds of CLOCK_BOOTTIME; without another the guest is fenced PROOF_TERM_S later.
        Raises LeaseLostError: proven lost; other LockErrors: tried again after RENEW_EVERY_S.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go; held leases stay with the guest. LeaseLostError: it may have died of that."""
