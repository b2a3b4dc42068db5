"""How are leases given up for a while, so that they come back only if nobody had them meanwhile?

Every call is made on the guard's jobs thread, as the plugin's are. It must not
know why they are given up, nor any lock manager.
"""

from __future__ import annotations

import os
import string

from lockplugins.contract import LeaseLostError, LeaseState, LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Lease, Plugin

_PLAIN = string.ascii_letters + string.digits + "-._/"


def returnable(leases: Sequence[Lease]) -> list[Lease]:
    """Return the leases that are known by their generation when they come back."""
    return [lease for lease in leases if lease.generation is not None]


def words(leases: Sequence[Lease]) -> str:
    """Return leases and their generations, in printable ASCII without spaces and colons."""
    return ",".join(
        "".join(
            chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}"
            for byte in os.fsencode(f"{lease.lockspace}/{lease.lease}")
        )
        + f"@{lease.generation}"
        for lease in leases
    )


def give_up(plugin: Plugin, leases: Sequence[Lease]) -> LockError | None:
    """Release leases in reverse, as far as it goes; returns what could not be confirmed."""
    doubt = None
    for lease in reversed(leases):
        lease.state = LeaseState.LOST
        try:
            plugin.release(lease)
        except LockError as error:
            doubt, lease.state = error, LeaseState.UNKNOWN
    return doubt


def take_back(plugin: Plugin, leases: Sequence[Lease]) -> None:
    """Have all of `leases` back, or none.

    Raises LeaseLostError when somebody else had one, or what was back cannot be given up again;
    other LockErrors: it may be tried again.
    """
    back: list[Lease] = []
    try:
        for lease in leases:
            plugin.reacquire(lease)
            back.append(lease)
    except LockError as refusal:
        doubt = give_up(plugin, back)
        if doubt is not None:
            reason = f"{refusal}; {doubt}"
            raise LeaseLostError("take back", "half of the leases", reason) from refusal
        raise
    for lease in leases:
        lease.state = LeaseState.HELD
