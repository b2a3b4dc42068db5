"""What is said when the file of a lease of sanlock is another than it was?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lockplugins.sanlock import claims, names
from lockplugins.sanlock.settings import LOCKSPACE
from tests.support.errors.world import Case, Said, raised

if TYPE_CHECKING:
    from tests.support.errors.world import World


def out_of_reach(world: World) -> Said:
    path = world.path("loop")
    os.symlink("loop", path)
    claim = claims.Claim(names.Place((LOCKSPACE, "2da7ec14"), path))
    return raised(claim.is_in)


def replaced(world: World) -> Said:
    claim = claims.Claim(names.Place((LOCKSPACE, "2da7ec14"), world.path("lease")))
    claim.file = (1, 2)
    return raised(claim.check_file)


CASES = (
    Case(111, out_of_reach,
         "The file of a lease cannot be looked at; it is tried again until the deadline."),
    Case(112, replaced,
         "Somebody has removed the file of a lease, or put another in its place: other hosts would "
         "find the disk free. The guest is ended."),
)  # fmt: skip
