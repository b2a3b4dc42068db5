"""Can a guest be parked when it loses a lease (docs/parking.md), as it is to be started?

It must not know how that is done.
"""

from __future__ import annotations

from lockplugins.contract import Capability, ConfigError, UnsupportedError
from supervisor.spec import is_qemu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Plugin
    from supervisor.spec import GuestSpec

_ADVICE = "use --on-lockfailure kill"


def check(spec: GuestSpec, command: Sequence[str], plugins: Sequence[type[Plugin]]) -> None:
    """Raise LockError where it could not be stopped, or not be let on when its leases are back."""
    name = f"guest {spec.name}"
    if not spec.monitor:
        deaf = "without its private monitor (--no-monitor) it cannot be stopped"
        raise ConfigError("park", name, deaf, _ADVICE)
    for plugin in plugins:
        if Capability.EXPIRES not in plugin.capabilities:
            continue  # what it holds is never lost
        if command and not is_qemu(command[0]):
            other = f"{command[0]} is not QEMU, and has no monitor to be stopped by"
            raise ConfigError("park", name, other, _ADVICE)
        if Capability.GENERATIONS not in plugin.capabilities:
            reason = f"what it loses of plugin {plugin.name} is not known again when it is back"
            raise UnsupportedError("park", name, reason, _ADVICE)
