"""Which class is a plugin called NAME, and what are several of them together?

Built-in names are a table; a third party's come from the caller, as `module:Class`: looking at what
is installed is `loading`, and not for the guard. It must not know any lock manager.
Imported on the launch path, and imports only the plugins asked for (README, D2).
"""

import sys

from lockplugins.contract import (
    Capability,
    ConfigError,
    LeaseHeldError,
    LeaseLostError,
    LockError,
    Plugin,
    Resource,
    ResourceType,
    UnsupportedError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lockplugins.contract import Carrier, Guest, Holder, Lease
    from lockplugins.handover import Handover, Take

JOIN = "+"

_BUILT_IN = {
    "file": "lockplugins.file.plugin:FilePlugin",
    "nop": "lockplugins.nop:NopPlugin",
    "vm": "lockplugins.vm:VmPlugin",
    "sanlock": "lockplugins.sanlock.plugin:SanlockPlugin",
    "etcd": "lockplugins.etcd.plugin:EtcdPlugin",
}
_ALIASES = {"sync-manager": "sanlock"}


def known(classes: "Mapping[str, str] | None" = None) -> tuple[str, ...]:
    """Return the names that can be loaded: built in, then the caller's."""
    return (*_BUILT_IN, *(name for name in classes or {} if name not in _BUILT_IN))


def renamed(name: str) -> str:
    """Return what a plugin is called now."""
    return _ALIASES.get(name, name)


def plugin_class(name: str, classes: "Mapping[str, str] | None" = None) -> type[Plugin]:
    """Return the class of one plugin; raises ConfigError naming what is allowed."""
    where = _BUILT_IN.get(renamed(name)) or (classes or {}).get(name)
    if where is None:
        why = "there is none of that name"
        if name in _ALIASES:
            why = f"it is the old name of {_ALIASES[name]}, which is not there"
        allowed = "allowed: " + " ".join(known(classes))
        raise ConfigError("use", f"plugin {name}", why, allowed)
    module, _, attribute = where.partition(":")
    try:
        __import__(module)
        found: object = getattr(sys.modules[module], attribute)
    except (ImportError, AttributeError) as error:
        why, advice = f"{where}: {error}", "is its package installed?"
        raise ConfigError("use", f"plugin {name}", why, advice) from error
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        why = f"{where} is no lockplugins.contract.Plugin"
        raise ConfigError("use", f"plugin {name}", why, "ask who made the package")
    return found


def plugin_classes(
    joined: str, classes: "Mapping[str, str] | None" = None
) -> tuple[type[Plugin], ...]:
    """Return the classes of NAME or NAME+NAME…, in that order; raises ConfigError."""
    found = tuple(plugin_class(name, classes) for name in joined.split(JOIN))
    if len(set(found)) < len(found):
        raise ConfigError("use", f"plugin {joined}", "it names one twice", "name each once")
    return found


def load(
    name: str,
    config: "Mapping[str, Mapping[str, str]]",
    carrier: "Carrier | None",
    classes: "Mapping[str, str] | None" = None,
) -> Plugin:
    """Return the plugin NAME or NAME+NAME…; `config` has a table for each. Raises ConfigError.

    Without a carrier it can be asked, and acquires nothing.
    """
    if carrier is None:
        from lockplugins.carrier import NoCarrier  # not where a guest is launched

        carrier = NoCarrier()
    parts = []
    for word, found in zip(name.split(JOIN), plugin_classes(name, classes), strict=True):
        table = config.get(renamed(word), {})
        for key in table:
            if key not in found.CONFIG_KEYS:
                allowed = "allowed: " + (" ".join(found.CONFIG_KEYS) or "none")
                what = f"key {key} of plugin {word}"
                raise ConfigError("use", what, "there is none of that name", allowed)
        parts.append(found(table, carrier))
    return parts[0] if len(parts) == 1 else Composite(parts)


def capabilities(parts: "Sequence[Plugin | type[Plugin]]") -> tuple[str, ...]:
    """Return what plugins can do together.

    RESOURCES and VM: one that does is enough, the others are not asked. EXPIRES: one is enough to
    end the guest. HOTPLUG, NETWORK: all that take resources. MIGRATION and GENERATIONS: all, since
    a lease that one of them cannot hand over, or know when it comes back, may not be let go.
    """
    some = {name for part in parts for name in part.capabilities}
    lacking = {name for part in parts for name in Capability.ALL if name not in part.capabilities}
    can = some - lacking | some & {Capability.RESOURCES, Capability.VM, Capability.EXPIRES}
    takers = [part for part in parts if Capability.RESOURCES in part.capabilities]
    for name in (Capability.HOTPLUG, Capability.NETWORK):
        if takers and all(name in part.capabilities for part in takers):
            can.add(name)
    return tuple(name for name in Capability.ALL if name in can)


def claims(plugin: Plugin, uuid: str, resources: "Sequence[Resource]") -> "list[Resource]":
    """Return what `plugin` is to lease for a guest: the guest itself first, then its resources.

    Disks are left out where the plugin leases none of them; an explicit lease
    never is, and is the plugin's to refuse.
    """
    guest = Resource(uuid, resource_type=ResourceType.VM, found_in="the guest's uuid")
    wanted = [r for r in resources if r.type == ResourceType.LEASE or takes(plugin, r)]
    return [guest, *wanted] if takes(plugin, guest) else wanted


def takes(part: Plugin, resource: "Resource") -> bool:
    """Does the plugin lease resources of this type?"""
    needed = Capability.VM if resource.type == ResourceType.VM else Capability.RESOURCES
    return needed in part.capabilities


class Composite(Plugin):
    """Several plugins as one: all leases or none, in order, released in reverse.

    A disk's lease is one of each part that takes resources. Waiting, it holds
    nothing of any part.
    """

    def __init__(self, parts: "Sequence[Plugin]") -> None:
        super().__init__({}, parts[0].carrier)
        self.name = JOIN.join(part.name for part in parts)
        self.capabilities = capabilities(parts)
        self.FREED_BY_DEATH = all(part.FREED_BY_DEATH for part in parts)
        self.REGISTERS = any(part.REGISTERS for part in parts)
        self._parts = tuple(parts)
        self._expiring = [part for part in parts if Capability.EXPIRES in part.capabilities]
        self._ends: dict[Plugin, float] = {}
        self._first_end = 0.0
        self._issuer: dict[Lease, Plugin] = {}
        self._handover: Handover | None = None

    def open(self, guest: "Guest") -> None:
        opened: list[Plugin] = []
        try:
            for part in self._parts:
                part.open(guest)
                opened.append(part)
        except BaseException:
            _close(opened)
            raise
        self.CAVEAT = "; ".join(filter(None, (part.CAVEAT for part in self._parts)))
        if self._expiring:
            self.PROOF_TERM_S = min(part.PROOF_TERM_S for part in self._expiring)
            self.RENEW_EVERY_S = min(part.RENEW_EVERY_S for part in self._expiring)

    def in_child(self) -> tuple[int, ...]:
        return tuple(fd for part in self._parts if part.REGISTERS for fd in part.in_child())

    def acquire(self, resources: "Sequence[Resource]", wait_until: float | None) -> "list[Lease]":
        return self._take(resources, wait_until, lambda part, *wanted: part.acquire(*wanted))

    def _take(
        self, resources: "Sequence[Resource]", wait_until: float | None, take: "Take"
    ) -> "list[Lease]":
        for resource in resources:
            self._takers("lease", resource)
        awaited: Plugin | None = None
        while True:
            # The one that refused goes first: it may wait, as nothing else is held yet.
            order = sorted(self._parts, key=lambda part: part is not awaited)
            taken: dict[Plugin, list[Lease]] = {}
            try:
                for part in order:
                    wanted = [resource for resource in resources if takes(part, resource)]
                    patience = wait_until if part is awaited else None
                    taken[part] = take(part, wanted, patience)
            except BaseException as error:
                give_back(taken)
                refused = order[len(taken)]
                held = isinstance(error, LeaseHeldError)
                if not held or wait_until is None or refused is awaited:
                    raise
                awaited = refused
                continue
            for part, leases in taken.items():
                self._issuer.update(dict.fromkeys(leases, part))
            return [lease for part in self._parts for lease in taken[part]]

    def release(self, lease: "Lease") -> None:
        self._issuer_of(lease).release(lease)
        if lease.generation is None:  # else it may come back
            del self._issuer[lease]

    def reacquire(self, lease: "Lease") -> None:
        self._issuer_of(lease).reacquire(lease)

    def _issuer_of(self, lease: "Lease") -> Plugin:
        if (part := self._issuer.get(lease)) is None:
            raise LockError("find", f"the lease on {lease.resource}", "this guest has none")
        return part

    def migration(self) -> "Handover":
        if self._handover is None:
            from lockplugins import handover  # only where a guest migrates

            sides = {part: part.migration() for part in self._parts}
            self._handover = handover.Composite(sides, self._take)
        return self._handover

    def inquire(self, resource: "Resource") -> "list[Holder]":
        takers = self._takers("tell who holds", resource)
        return [holder for part in takers for holder in part.inquire(resource)]

    def named(self, resource: "Resource") -> list[tuple[str, str]]:
        return [name for part in self._takers("name", resource) for name in part.named(resource)]

    def _takers(self, verb: str, resource: "Resource") -> list[Plugin]:
        """Return the parts that lease resources of this type; raises UnsupportedError."""
        takers = [part for part in self._parts if takes(part, resource)]
        if not takers:
            name = f"{resource.type} {resource.path}"
            raise UnsupportedError(verb, name, f"no part of {self.name} leases that")
        return takers

    def watch_fds(self) -> tuple[int, ...]:
        return tuple(fd for part in self._parts for fd in part.watch_fds())

    def on_readable(self, fd: int) -> None:
        for part in self._parts:
            if fd in part.watch_fds():
                part.on_readable(fd)

    def renew(self) -> float:
        """Renew every part whose leases expire; returns an instant PROOF_TERM_S before the first.

        Each part's own term runs from its own last proof. A part that proves
        nothing now is an error only if that leaves the first end where it was.
        """
        doubt: LockError | None = None
        for part in self._expiring:
            try:
                self._ends[part] = part.renew() + part.PROOF_TERM_S
            except LeaseLostError:
                raise
            except LockError as error:
                doubt = error
        first_end = min(self._ends.get(part, 0.0) for part in self._expiring)
        if doubt and first_end <= self._first_end:
            raise doubt
        self._first_end = first_end
        return first_end - self.PROOF_TERM_S

    def close(self) -> None:
        _close(self._parts)


def give_back(taken: "dict[Plugin, list[Lease]]") -> None:
    """Release in reverse, and all of it before a failure is raised."""
    failure: LockError | None = None
    for part, leases in reversed(taken.items()):
        for lease in reversed(leases):
            try:
                part.release(lease)
            except LockError as error:
                failure = error
    if failure:
        raise failure


def _close(parts: "Sequence[Plugin]") -> None:
    """Close in reverse, and all of them before a failure is raised."""
    failure: LockError | None = None
    for part in reversed(parts):
        try:
            part.close()
        except LockError as error:
            failure = error
    if failure:
        raise failure
