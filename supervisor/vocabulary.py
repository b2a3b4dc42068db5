"""Which words has the seed's API, beyond the names of its calls, and which errors of its own?

Imported by programs from `supervisor.manager`.
"""

from __future__ import annotations

from enum import Enum, IntFlag

from lockplugins import contract
from lockplugins.contract import ConfigError, LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Flags = TypeVar("Flags", bound=IntFlag)


class WrongOrderError(LockError):
    """The call does not belong here in the sequence of calls; nothing was touched."""

    exit_code = ConfigError.exit_code


class GuestRunsError(LockError):
    """The guest, or somebody who carries its leases, is still there."""


class ObjectType(Enum):
    """What a manager is for; the seed writes both names."""

    DOMAIN = 0
    START_DOMAIN = 0  # noqa: PIE796  # the seed writes both names


class ResourceType(Enum):
    """What is leased for a guest."""

    DISK = contract.ResourceType.DISK
    LEASE = contract.ResourceType.LEASE


class ResourceFlags(IntFlag):
    """How a resource is leased: exclusively, unless one of these is set."""

    READONLY = 1
    SHARED = 2


class NewFlags(IntFlag):
    """ATTACH: to a guest that runs. MIGRATE: for one that will come from another host."""

    ATTACH = 1
    MIGRATE = 2


class MigrateFlags(IntFlag):
    """CANCEL: the migration has failed."""

    CANCEL = 1


def checked(kind: type[Flags], flags: int) -> Flags:
    """Return `flags` as what they are; raises ConfigError for what is none of them."""
    of_others = isinstance(flags, bool | IntFlag) and not isinstance(flags, kind)
    if of_others or not isinstance(flags, int) or flags & ~sum(kind):
        allowed = "allowed: 0 " + " ".join(flag.name or "" for flag in kind)
        raise ConfigError("understand", f"flags {flags}", f"not {kind.__name__}", allowed)
    return kind(flags)


def leased(kind: object) -> ResourceType:
    """Return the type of a resource; raises ConfigError for what is none."""
    if not isinstance(kind, ResourceType):
        allowed = "allowed: " + " ".join(each.name for each in ResourceType)
        raise ConfigError("lease", f"{kind}", "it is no ResourceType", allowed)
    return kind
