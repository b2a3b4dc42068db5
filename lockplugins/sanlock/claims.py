"""What has to be held for the leases of one guest, and in which mode?

A resource for every name by which the guest has a disk, once however many
leases need it; the strongest mode in which it has that very disk wins. It must
not know the daemon.
"""

from __future__ import annotations

from lockplugins.contract import LeaseLostError, LockError, Mode, UnsupportedError, cause
from lockplugins.sanlock import files
from lockplugins.sanlock.library import MAX_RESOURCES
from lockplugins.sanlock.names import called

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping, Sequence

    from lockplugins.sanlock.names import Located, Place

    Key = tuple[str, str]


class Claim:
    """One resource, in the mode in which it is wanted or held; since then `version` and `file`."""

    __slots__ = ("file", "mode", "place", "version")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.mode = Mode.SHARED
        self.version = 0
        self.file: tuple[int, int] | None = None

    def is_in(self) -> tuple[int, int]:
        """Return which file it is in now; (0, 0): there is none. Raises LockError: who can tell?"""
        try:
            return files.identity(self.place.path)
        except FileNotFoundError:
            return (0, 0)
        except OSError as error:
            name, why = f"lease {self.place.key[1]}", cause(error, self.place.path)
            raise LockError("look at", name, why, "is it there?") from error

    def check_file(self) -> None:
        """Raise LeaseLostError if it is in another file than it was; others may use that."""
        if self.file and self.is_in() != self.file:
            why = f"{self.place.path} is another file now, which other hosts may use"
            raise LeaseLostError("keep", f"lease {self.place.key[1]}", why)


def wanted(located: Sequence[Located]) -> dict[Key, Claim]:
    """Return what has to be held for all of these, in their order; raises UnsupportedError."""
    exclusive: set[Hashable] = {
        each.identity for each in located if each.resource.mode == Mode.EXCLUSIVE
    }
    claims: dict[Key, Claim] = {}
    for each in located:
        for place in each.places:
            claim = claims.setdefault(place.key, Claim(place))
            if each.identity in exclusive:
                claim.mode = Mode.EXCLUSIVE
    if len(claims) > MAX_RESOURCES:
        why = f"it would need {len(claims)} resources of sanlock, which has {MAX_RESOURCES} a guest"
        advice = "name disks by their realpath (else they need two), or lease them by one --lease"
        raise UnsupportedError("lease", called(located[-1].resource), why, advice)
    return claims


def shared(claims: Mapping[Key, Claim], keys: Container[Key]) -> dict[Key, Claim]:
    """Return the same ones, those of `keys` shared."""
    after = {key: Claim(claim.place) for key, claim in claims.items()}
    for key, claim in after.items():
        claim.mode = Mode.SHARED if key in keys else claims[key].mode
    return after


def places_of(each: Located, all_located: Sequence[Located]) -> list[Place]:
    """Return every place that has to be held for one of them as strongly as for itself."""
    same = [other for other in all_located if other.identity == each.identity]
    return list({place.key: place for other in same for place in other.places}.values())


class Change:
    """What is to be done so that `after` is held instead of `before`."""

    def __init__(self, before: dict[Key, Claim], after: dict[Key, Claim]) -> None:
        self.taken = [claim for key, claim in after.items() if key not in before]
        self.dropped = [claim for key, claim in before.items() if key not in after]
        kept = [(before[key], claim) for key, claim in after.items() if key in before]
        turned = [claim for was, claim in kept if was.mode != claim.mode]
        self.raised = [claim for claim in turned if claim.mode == Mode.EXCLUSIVE]
        self.lowered = [claim for claim in turned if claim.mode == Mode.SHARED]
        for was, claim in kept:
            claim.version, claim.file = was.version, was.file
