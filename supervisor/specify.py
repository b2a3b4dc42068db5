"""What will the guard be told? From options, configuration and discovery to a GuestSpec.

The command line, or a program's parameters, win over the configuration. It must not touch a
disk beyond reading image headers, nor ask a lock manager.
"""

from __future__ import annotations

import importlib.util
import os

from lockplugins import loading, registry
from lockplugins.contract import Capability, ConfigError, LockError, Mode, Resource, shown
from supervisor import config, parkable
from supervisor.discovery import disks, domain_xml, lockd, network
from supervisor.spec import NAME_BYTES, GuestSpec, check_name, check_uuid, parse_lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NotRequired, TypedDict

    from lockplugins.contract import Plugin
    from supervisor.config import Config
    from supervisor.discovery.disk import Disk
    from supervisor.discovery.domain_xml import Domain

    class Given(TypedDict):
        """What was given, as `run`'s options; None where one was left out."""

        name: str | None
        uuid: str | None
        guest_id: str | None
        plugin: str | None
        disk: tuple[str, ...]
        lease: tuple[str, ...]
        no_discover: bool
        domain: NotRequired[str | Domain | None]  # --domain-xml, read or understood already
        domain_xml: str | None
        wait: float
        incoming: bool
        on_lockfailure: str | None
        containment: str | None
        no_monitor: bool
        stop_timeout: float | None
        ready_fd: int | None
        handshake_fd: int | None
        detach: bool
        log: str | None
        config: str | None
        runtime_dir: str | None
        command: tuple[str, ...]
        registered: NotRequired[tuple[Disk, ...]]


_HOLDS_NOTHING = "nop"
_LOCKS_AS_LOCKD = "file"


def nothing_given() -> Given:
    """Return what `run` is given when no option is."""
    return {
        "name": None,
        "uuid": None,
        "guest_id": None,
        "plugin": None,
        "disk": (),
        "lease": (),
        "no_discover": False,
        "domain_xml": None,
        "wait": 0.0,
        "incoming": False,
        "on_lockfailure": None,
        "containment": None,
        "no_monitor": False,
        "stop_timeout": None,
        "ready_fd": None,
        "handshake_fd": None,
        "detach": False,
        "log": None,
        "config": None,
        "runtime_dir": None,
        "command": (),
    }


def build(given: Given) -> GuestSpec:
    """Return what the guard is to be told; raises LockError with the exit code."""
    settings = config.read(given["config"])
    domain = _domain(given, settings)
    found = _disks(given, settings, domain)
    name, uuid = _names(given, domain, found)
    spec = GuestSpec(name, uuid, config.runtime_dir(given["runtime_dir"], given["config"]))
    spec.id = given["guest_id"]
    spec.resources = _canonical(found, _leases(given, domain))
    plugins = choose_plugins(spec, given["plugin"], settings)
    _refuse_network(found, plugins)
    _refuse_lockd(name, plugins)
    spec.wait_s = given["wait"]
    spec.incoming = given["incoming"]
    spec.copied = sorted({disk.path for disk in found if disk.copied})
    spec.on_lockfailure = settings.on_lockfailure or spec.on_lockfailure
    if given["on_lockfailure"] is not None:
        spec.on_lockfailure = config.on_lockfailure(
            "the command line", "--on-lockfailure", given["on_lockfailure"]
        )
    spec.containment = given["containment"] or settings.containment or spec.containment
    spec.monitor = not given["no_monitor"]
    if spec.parks:
        parkable.check(spec, given["command"], plugins)
    for timeout in (settings.stop_timeout, given["stop_timeout"]):
        spec.stop_timeout_s = spec.stop_timeout_s if timeout is None else timeout
    spec.ready_fd, spec.handshake_fd = given["ready_fd"], given["handshake_fd"]
    if settings.require_lease_for_disks:
        _require_leases(given, domain, spec, plugins)
    return spec


def choose_plugins(spec: GuestSpec, plugin: str | None, settings: Config) -> Sequence[type[Plugin]]:
    """Put the plugins, where to find them and their tables into the spec; returns their classes."""
    for chosen in (settings.plugin, plugin):
        spec.plugin = spec.plugin if chosen is None else chosen
    words = spec.plugin.split(registry.JOIN)
    third = loading.third_party(words)
    spec.classes = {word: where for word, (where, _) in third.items()}
    spec.import_dirs = list(dict.fromkeys([_prctl(), *(where for _, where in third.values())]))
    plugins = registry.plugin_classes(spec.plugin, spec.classes)
    names = {*words, *(plugin.name for plugin in plugins)}  # a table may be under an old name's new
    spec.config = {name: table for name, table in settings.tables.items() if name in names}
    return plugins


def _refuse_lockd(name: str, plugins: Sequence[type[Plugin]]) -> None:
    """Refuse to lock what libvirt itself will lock for this guest, when its processors start."""
    locks_alike = any(plugin.name == _LOCKS_AS_LOCKD for plugin in plugins)
    if locks_alike and (connected := lockd.connection()) is not None:
        reason = (
            "libvirt's own lock manager lockd is active for it (descriptor {} is a connection to "
            "{}) and would take the same lock".format(*connected)
        )
        advice = "unset lock_manager in qemu.conf and restart libvirtd, or use --plugin nop"
        raise ConfigError("start", f"guest {name}", reason, advice)


def _refuse_network(found: Iterable[Disk], plugins: Sequence[type[Plugin]]) -> None:
    """Refuse a network disk where a plugin leases files."""
    can = registry.capabilities(plugins)
    if Capability.RESOURCES in can and Capability.NETWORK not in can:
        for disk in network.among(found):
            raise network.refused(disk)


def resources(given: Given, settings: Config, plugins: Sequence[type[Plugin]]) -> list[Resource]:
    """Return what a guest would be leased; COMMAND may be empty. Raises LockError."""
    domain = _domain(given, settings)
    found = _disks(given, settings, domain)
    _refuse_network(found, plugins)
    return _canonical(found, _leases(given, domain))


def _leases(given: Given, domain: Domain) -> list[Resource]:
    named = [parse_lease(text) for text in given["lease"]]
    for text, lease in zip(given["lease"], named, strict=True):
        lease.found_in = f"--lease {text}"
    return [*named, *domain.leases]


def discovers(given: Given, settings: Config) -> bool:
    return not given["no_discover"] and settings.auto_disk_leases


def _domain(given: Given, settings: Config) -> Domain:
    """Return what --domain-xml says; of its disks only where they have to be known."""
    domain, path = given.get("domain"), given["domain_xml"]
    if domain is None and path is not None:
        domain = domain_xml.read(path)
    if not isinstance(domain, str):
        return domain or domain_xml.Domain(None, None)
    return domain_xml.parse(
        domain,
        with_disks=discovers(given, settings) or settings.require_lease_for_disks,
        allow_outside=bool(given["disk"]),
    )


def _has_domain(given: Given) -> bool:
    return given["domain_xml"] is not None or given.get("domain") is not None


def _disks(given: Given, settings: Config, domain: Domain) -> list[Disk]:
    """Return the disks to lease: those of --disk, of --domain-xml, then those of the arguments."""
    cwd, command = config.working_directory(), given["command"]
    named = [disks.parse_disk_option(text, cwd) for text in given["disk"]]
    named += given.get("registered", ())
    if not discovers(given, settings):
        return named
    if not command:
        return named + domain.disks
    if disks.is_qemu(command[0]):
        found = disks.discover(command, cwd, allow_outside=bool(named))
        return named + domain.disks + found
    if not named and not given["lease"] and not _has_domain(given):
        reason = "it is not QEMU, whose arguments would tell"
        advice = "name them with --disk or --domain-xml, or say --no-discover"
        raise ConfigError("find the disks of", command[0], reason, advice)
    return named + domain.disks


def _canonical(found: Iterable[Disk], leases: Iterable[Resource]) -> list[Resource]:
    """Return each resource once, in its strongest mode, in the one order that all guests use."""
    merged: dict[str, Resource] = {}
    for disk in found:
        found_in = disk.found_in
        resource = merged.setdefault(disk.path, Resource(disk.path, disk.mode, found_in=found_in))
        resource.identity = resource.identity or disk.identity
        if (resource.mode, disk.mode) == (Mode.SHARED, Mode.EXCLUSIVE):
            resource.mode, resource.found_in = disk.mode, found_in
    explicit: dict[tuple[object, ...], Resource] = {}
    for lease in leases:
        lease.path = os.path.join(config.working_directory(), lease.path) if lease.path else ""
        explicit[str(lease.lockspace), str(lease.key), lease.path, lease.offset_bytes] = lease
    return [
        *sorted(merged.values(), key=lambda disk: (os.path.realpath(disk.path), disk.path)),
        *(explicit[words] for words in sorted(explicit)),
    ]


def _names(given: Given, domain: Domain, found: Sequence[Disk]) -> tuple[str, str]:
    """Return the guest's name and uuid: given, of the domain, QEMU's or made up."""
    command = given["command"]
    program = command[0] if command else ""
    qemu_name, qemu_uuid = disks.guest_names(command) if disks.is_qemu(program) else (None, None)
    uuid = given["uuid"] if given["uuid"] is not None else domain.uuid or qemu_uuid or random_uuid()
    uuid = uuid.lower()
    check_uuid(uuid)
    name = given["name"]
    if name is None:
        first = os.path.basename(found[0].path if found else program)
        name = _usable(domain.name or qemu_name or first or program or uuid)
    check_name(name)
    return name, uuid


def _usable(name: str) -> str:
    """Return `name` as far as it can name a guest."""
    name = shown(name)
    while len(os.fsencode(name)) > NAME_BYTES:
        name = name[:-1]
    return name


def random_uuid() -> str:
    """Return a random uuid (RFC 4122, version 4)."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _require_leases(
    given: Given, domain: Domain, spec: GuestSpec, plugins: Sequence[type[Plugin]]
) -> None:
    """Refuse a writable disk without a lease, and disks that cannot be told."""
    leasing = any(
        Capability.RESOURCES in plugin.capabilities and plugin.name != _HOLDS_NOTHING
        for plugin in plugins
    )
    leased = {os.path.realpath(r.path) for r in spec.resources if r.mode == Mode.EXCLUSIVE}
    reason, advice = "it has no lease, and require_lease_for_disks is set", "name it with --disk"
    command, found = given["command"], domain.disks
    if command and disks.is_qemu(command[0]):
        found = found + disks.discover(
            command, config.working_directory(), allow_outside=bool(leased)
        )
    elif not _has_domain(given) and not (leasing and leased):
        raise ConfigError("start", command[0] if command else spec.name, reason, advice)
    for disk in found:
        if disk.mode == Mode.EXCLUSIVE and not (leasing and os.path.realpath(disk.path) in leased):
            raise ConfigError("start with writable disk", disk.path, reason, advice)


def _prctl() -> str:
    """Return the directory that the guard imports prctl from."""
    found = importlib.util.find_spec("prctl")
    if found is None or found.origin is None:
        reason, advice = "the Python module prctl is not installed", "install python3-prctl"
        raise LockError("start", "the guard", reason, advice)
    return os.path.dirname(found.origin)
