"""What can a plugin ask for, so that a descriptor lives as long as the guest?

It must not know how the guest is made to hold one. Not loaded where a guest
is launched: the guard brings a carrier of its own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Carrier(Protocol):
        """The guard's carrier: descriptors that the guest holds until it is dead."""

        def keep(self, name: str, fd: int) -> None:
            """Send a duplicate of `fd` to the guest under `name`; `fd` stays the caller's."""

        def drop(self, name: str) -> None:
            """Take the copy sent under `name` back out of the guest's hands."""


class NoCarrier:
    """Where there is no guest to carry anything."""

    def keep(self, name: str, fd: int) -> None:
        raise NotImplementedError

    def drop(self, name: str) -> None:
        raise NotImplementedError
