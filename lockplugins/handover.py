"""How does a plugin hand a guest's leases to the same guest on another host (README, D10)?

The verbs of a plugin with capability MIGRATION, and several plugins as one.
Loaded only where a guest migrates. It must not know any lock manager, nor
what drives the migration.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from lockplugins.contract import LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from lockplugins.contract import Lease, Plugin, Resource

    Take = Callable[[Plugin, Sequence[Resource], float | None], list[Lease]]
    TakeAll = Callable[[Sequence[Resource], float | None, Take], list[Lease]]

_JOIN = "+"


class Handover:
    """One guest's side of migrations, source or destination; calls as on a `Plugin`.

    `nonce` names one attempt: NONCE_BYTES random bytes in hexadecimal. What
    `prepare` tells travels in the cookie: printable ASCII without blanks or `+`.
    """

    NONCE_BYTES = 7

    def await_in(
        self, resources: Sequence[Resource], copied: Collection[str], wait_until: float | None
    ) -> list[Lease]:
        """Hold what a destination may, all or nothing; as `Plugin.acquire` otherwise.

        What is to be exclusive is pending, save the disks in `copied`, which the
        migration fills: nobody has those. A second destination is refused.
        """
        raise NotImplementedError

    def prepare(self, nonce: str) -> str:
        """Source: begin an attempt, still exclusive; returns what the destination is told."""
        raise NotImplementedError

    def hand_over(self) -> None:
        """Source, its guest stopped for good: be ready to lose, to this destination alone."""
        raise NotImplementedError

    def has_lost(self) -> bool:
        """Source, after `hand_over`: return, when it is known, whether the destination has owned.

        Blocks, on a thread of its own, beside other calls.
        """
        raise NotImplementedError

    def take_back(self, within_s: float = 0.0) -> None:
        """Source: end the attempt, owner as before; raises LockError, and nothing has changed.

        Refused when a destination is there, and in `within_s` has not gone, and
        for good when one has owned.
        """
        raise NotImplementedError

    def complete_in(self, nonce: str, told: str) -> None:
        """Destination: take what the owner has, all or nothing; then `confirm` makes it that.

        Raises LeaseHeldError while the source has not handed over, ConfigError
        if another guest's or attempt's source was told so.
        """
        raise NotImplementedError

    def let_go(self) -> None:
        """Destination: undo `complete_in`, and wait as before."""
        raise NotImplementedError

    def confirm(self) -> None:
        """Destination: be the owner, or own up that its guest has run: the source is to know it.

        Never waits for the source's end, nor long for one that does not look.
        """
        raise NotImplementedError

    def become_sole(self) -> None:
        """Destination, the owner: return when the source holds nothing any more.

        Blocks, on a thread of its own, beside other calls.
        """
        raise NotImplementedError


class Composite(Handover):
    """Several plugins' as one: all, or undone in reverse; `take` takes of all or of none.

    What one has taken back stays so when another refuses: it may be tried again, and a
    destination cannot complete without it.
    """

    def __init__(self, sides: Mapping[Plugin, Handover], take: TakeAll) -> None:
        self._sides = sides
        self._parts = tuple(sides.values())
        self._take = take

    def await_in(
        self, resources: Sequence[Resource], copied: Collection[str], wait_until: float | None
    ) -> list[Lease]:
        return self._take(
            resources,
            wait_until,
            lambda part, wanted, until: self._sides[part].await_in(wanted, copied, until),
        )

    def prepare(self, nonce: str) -> str:
        told: list[str] = []
        self._each(lambda part: told.append(part.prepare(nonce)), lambda part: part.take_back())
        return _JOIN.join(told)

    def hand_over(self) -> None:
        for part in self._parts:
            part.hand_over()

    def has_lost(self) -> bool:
        # Beside one another: what one waits for may come when the destination has another's.
        with ThreadPoolExecutor(len(self._parts)) as threads:
            return any(list(threads.map(lambda part: part.has_lost(), self._parts)))

    def take_back(self, within_s: float = 0.0) -> None:
        for part in self._parts:
            part.take_back(within_s)

    def complete_in(self, nonce: str, told: str) -> None:
        words = iter(told.split(_JOIN))
        self._each(
            lambda part: part.complete_in(nonce, next(words, "")), lambda part: part.let_go()
        )

    def let_go(self) -> None:
        for part in reversed(self._parts):
            part.let_go()

    def confirm(self) -> None:
        for part in self._parts:
            part.confirm()

    def become_sole(self) -> None:
        for part in self._parts:
            part.become_sole()

    def _each(self, do: Callable[[Handover], object], undo: Callable[[Handover], None]) -> None:
        done: list[Handover] = []
        try:
            for part in self._parts:
                do(part)
                done.append(part)
        except LockError:
            for part in reversed(done):
                undo(part)
            raise
