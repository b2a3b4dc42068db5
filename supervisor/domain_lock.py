"""How does a management daemon lock a guest that it knows as a libvirt domain?

The wrappers of libvirt's domain_lock.h, for a domain XML as text, or a
`supervisor.discovery.domain_xml.Domain`. Explicit leases and disks are locked
before the guest is executed, and until it is dead, in pauses too. What is asked
about a guest that runs is asked of its guard, found by the domain's uuid in
`runtime_dir` (else where the configuration says). Calls return True or their
value, and raise a LockError. It must not know any lock manager.
"""

from __future__ import annotations

import os

from lockplugins.contract import ConfigError, LockError, Mode, Resource
from supervisor import client, config, given
from supervisor.discovery import domain_xml
from supervisor.discovery.disk import Disk
from supervisor.discovery.domain_xml import Domain
from supervisor.manager import LockManager
from supervisor.orders import WITHIN_S, order
from supervisor.spec import check_uuid, lease_words
from supervisor.vocabulary import ObjectType, ResourceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.loading import LoadedPlugin

_ATTACH, _DETACH = "acquire-resource", "release-resource"


def process_start(
    plugin: LoadedPlugin,
    domain: str | Domain,
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    log: str | None = None,
    wait_s: float = 0,
    config: str | None = None,
    runtime_dir: str | None = None,
) -> LockManager:
    """Execute QEMU's command line `argv` with the domain's leases and disks locked.

    Returns its manager when it runs. What `argv` names beyond the domain is
    locked too; `wait_s` is how long to wait for what is held elsewhere, the
    rest is LockManager's. Raised: nothing held, nothing started.
    """
    uuid = _uuid(domain)
    manager = LockManager(plugin, ObjectType.DOMAIN, config=config, runtime_dir=runtime_dir)
    try:
        manager.set_parameter("domain", domain)
        manager.set_parameter("uuid", uuid)
        manager.set_parameter("wait", wait_s)
        if log is not None:
            manager.set_parameter("log", log)
        manager.acquire_object(argv, pass_fds)
        manager.run()
    except BaseException:
        manager.free()
        raise
    return manager


def process_pause(domain: str | Domain, *, runtime_dir: str | None = None) -> str:
    """Have the guest stand still; returns the state that `process_resume` wants.

    A line of printable ASCII. It ends in `leases-kept` where the leases stay
    held, as under every plugin without generations; else it names those that
    are given up, with their generations (docs/parking.md).
    """
    return str(_ask(domain, runtime_dir, "pause-guest", {})["state"])


def process_resume(domain: str | Domain, state: str, *, runtime_dir: str | None = None) -> bool:
    """Have the guest go on, if `state` is that of the pause which it is in.

    LeaseLostError: somebody else had one of its leases in between, and the guest is ended.
    Other errors leave it as it was.
    """
    _ask(domain, runtime_dir, "resume-guest", {"state": given.text("state", state)})
    return True


def process_inquire(domain: str | Domain, *, runtime_dir: str | None = None) -> str | None:
    """Return the state of the pause which the guest is in, None for one that was not paused."""
    status = _ask(domain, runtime_dir, "query-status", {})
    parked = status.get("parked")  # one that was started before an upgrade knows of none
    return None if parked is None else str(parked)


def image_attach(domain: str | Domain, disk: str | Disk, *, runtime_dir: str | None = None) -> bool:
    """Lock one more disk, a `<disk>` element or a `Disk`, before QEMU's blockdev-add.

    All of its images, or none. A backing file that the guest has locked already is left as it is.
    """
    where, images = _where(domain, runtime_dir), _images(disk)
    held = _held(where)
    locked: list[Disk] = []
    try:
        for image in images:
            if image.mode == Mode.EXCLUSIVE or image.path not in held:
                _change_image(where, _ATTACH, image)
                locked.append(image)
    except LockError:
        for image in reversed(locked):
            _change_image(where, _DETACH, image)
        raise
    return True


def image_detach(domain: str | Domain, disk: str | Disk, *, runtime_dir: str | None = None) -> bool:
    """Unlock a disk, after QEMU's DEVICE_DELETED and blockdev-del.

    Its backing files stay locked, as others of the guest's disks may stand on them: until the
    guest's end, or until each is given as a `Disk`.
    """
    _change_image(_where(domain, runtime_dir), _DETACH, _images(disk)[0])
    return True


def lease_attach(
    domain: str | Domain, lease: str | Resource, *, runtime_dir: str | None = None
) -> bool:
    """Acquire one more explicit lease, a `<lease>` element or one of a `Domain`'s."""
    _change_lease(_where(domain, runtime_dir), _ATTACH, lease)
    return True


def lease_detach(
    domain: str | Domain, lease: str | Resource, *, runtime_dir: str | None = None
) -> bool:
    """Release an explicit lease."""
    _change_lease(_where(domain, runtime_dir), _DETACH, lease)
    return True


def _uuid(domain: str | Domain) -> str:
    found = domain_xml.parse(domain, with_disks=False) if isinstance(domain, str) else domain
    if not isinstance(found, Domain):
        raise ConfigError(
            "find", "the guest", "neither a domain XML's text nor a Domain", "give one"
        )
    if found.uuid is None:
        name, reason = f"guest {found.name or 'without a name'}", "the domain has no uuid"
        raise ConfigError("find", name, reason, "take what virsh dumpxml prints")
    check_uuid(uuid := given.text("uuid", found.uuid).lower())
    return uuid


def _where(domain: str | Domain, runtime_dir: str | None) -> str:
    """Return the guest's own directory."""
    base = None if runtime_dir is None else given.path("runtime_dir", runtime_dir)
    return os.path.join(config.runtime_dir(base, None), _uuid(domain))


def _ask(
    domain: str | Domain, runtime_dir: str | None, command: str, arguments: dict[str, object]
) -> dict[str, object]:
    where = _where(domain, runtime_dir)
    doubt = f"whether guest {os.path.basename(where)} is paused"
    return order(where, command, arguments, doubt, WITHIN_S)


def _held(where: str) -> set[str]:
    """Return the paths on which the guest has leases."""
    with client.connect(where) as guard:
        leases = guard.execute("query-leases")
    return {str(lease["resource"]) for lease in leases} if isinstance(leases, list) else set()


def _images(disk: str | Disk) -> list[Disk]:
    """Return the disk's images, the one that the guest sees first."""
    found = [disk] if isinstance(disk, Disk) else _device(disk).disks
    if not found:
        reason, advice = "it names no image", "an empty drive needs no lock"
        raise ConfigError("lock", "the disk", reason, advice)
    return found


def _device(text: str) -> Domain:
    """Return what one element of <devices> says."""
    if not isinstance(text, str):
        raise ConfigError("read", "the device", "it is no text of one element", "give that")
    return domain_xml.parse(f"<domain><devices>{text}</devices></domain>")


def _change_image(where: str, command: str, image: Disk) -> None:
    _change(where, command, ResourceType.DISK, image.path, mode=image.mode)


def _change_lease(where: str, command: str, lease: str | Resource) -> None:
    found = [lease] if isinstance(lease, Resource) else _device(lease).leases
    if len(found) != 1:
        raise ConfigError("lock", "the lease", "it is not one <lease> element", "give one")
    _change(where, command, ResourceType.LEASE, lease_words(found[0]))


def _change(where: str, command: str, kind: ResourceType, path: str, **more: object) -> None:
    asked = {"type": kind.value, "path": path, **more}
    order(where, command, asked, f"whether {path} is leased", WITHIN_S)
