"""What does the product say in every case, and which of its places said it?

Provokes all cases, some side by side, and matches each line to the one site whose words it is.
"""

from __future__ import annotations

import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.errors import (
    arguments,
    configuration,
    control,
    domain,
    ending,
    etcd,
    etcd_migration,
    guard,
    hotplug,
    leases,
    library,
    migration,
    pausing,
    sanlock,
    sanlock_files,
    starting,
)
from tests.support.errors.world import UUID, Case, Said, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.errors.sites import Site

SUBJECTS: dict[str, tuple[Case, ...]] = {
    "Starting a guest": starting.CASES,
    "Disks found in arguments": arguments.CASES,
    "Disks found in a domain XML": domain.CASES,
    "Leases that are not acquired": leases.CASES,
    "Leases of sanlock": (*sanlock.CASES, *sanlock_files.CASES),
    "Leases of etcd": (*etcd.CASES, *etcd_migration.CASES),
    "Disks that come and go": hotplug.CASES,
    "Finding, watching and ending guests": ending.CASES,
    "Pauses": pausing.CASES,
    "Migration": migration.CASES,
    "Configuration": configuration.CASES,
    "The control pipe": control.CASES,
    "The guard": guard.CASES,
    "Programs that use the packages": library.CASES,
}

_AT_ONCE = 3  # each waits for processes most of the time
_NEUTRAL = {
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": UUID,
    r"\b(pid|process) \d+": r"\1 4711",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ": "2026-01-02T03:04:05Z",
    r"\b\d\.\d+ s\b": "0.08 s",
    r"\bsession [0-9a-f]{16}\b": "session 2da7ec14…",
    r"\b127\.0\.0\.1:\d{4,5}\b": "10.0.0.1:2379",
    r"/[0-9a-f]{64}": "/2da7ec14…",
    r"/[0-9a-f]{32}\b": "/8f6479a5…",
    r"\bdescriptor \d+\b": "descriptor 987",
    r"/dev/fd/\d+": "/dev/fd/987",
    r"\blease file:\d+": "lease file:12",
    r"pipe:\[\d+\]": "pipe:[4711]",
    r"/dev/loop\d+": "/dev/loop0",
    r"(\w)\1{60,}": r"\1\1\1…",
    r"python3\.\d+": "python3",
}


@dataclass(frozen=True)
class Line:
    """A case and what was said; in `example` the varying parts are neutral examples."""

    subject: str
    case: Case
    said: Said
    example: str


def provoke_all() -> list[Line]:
    """Provoke every case; returns their lines in the order of SUBJECTS.

    A case that provokes something else has code -1, and says what went wrong.
    """
    cases = [(subject, case) for subject, several in SUBJECTS.items() for case in several]
    with (
        tempfile.TemporaryDirectory(prefix="errors-") as top,
        ThreadPoolExecutor(_AT_ONCE) as threads,
    ):
        os.chmod(top, 0o711)  # noqa: S103  # another user's commands run below it
        places = [os.path.join(top, str(number)) for number in range(len(cases))]
        subjects, provoked = zip(*cases, strict=True)
        return list(threads.map(_provoke, subjects, provoked, places))


def _provoke(subject: str, case: Case, place: str) -> Line:
    with World(place) as world:
        try:
            said = case.provoke(world)
        except AssertionError as error:
            said = Said(-1, f"{case.provoke.__name__}: {error}")
    return Line(subject, case, said, _neutral(said.line, world))


def _neutral(line: str, world: World) -> str:
    line = line.replace(world.guards.runtime_dir, "/run/lock-supervisor")
    line = line.replace(world.path("checkout"), "/opt/lock-supervisor")
    line = line.replace(world.directory, "/srv")
    for pattern, example in _NEUTRAL.items():
        line = re.sub(pattern, example, line)
    return line


def site_of(line: Line, sites: Sequence[Site]) -> Site:
    """Return the one site that says this line; where several fit, the case has to say which."""
    places = [site for site in sites if site.where.startswith(line.case.at)]
    fits = {site: site.fits(line.said.line) for site in places}
    best = [site for site, fit in fits.items() if fit >= 0 and fit == max(fits.values())]
    listed = "\n".join(map(str, best)) or "none of them"
    assert len(best) == 1, f"{line.said.line}\nmay be said by {listed}\nname one of them in `at`"
    return best[0]
