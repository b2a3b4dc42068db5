"""Which images does QEMU have open, and does each have a lease of ours?

Asks the private monitor, compares by name, then by device and inode on a
thread of its own, since a hung filesystem must not hold any answer for long.
It must not change anything.
"""

import json
import os

from supervisor.guard import containment
from supervisor.guard.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.guard.supervise import Supervisor
    from supervisor.qmp.monitor import Monitor

    Surveyed = Callable[[list[str], str], None]

SURVEY_S = 0.5
OPEN_S = 5.0
_FILE_DRIVERS = ("file", "host_device", "host_cdrom")
_LATE = "the guest could not be looked at in time"


class OpenImages:
    """Compares QEMU's block nodes with the supervisor's leases."""

    def __init__(self, supervisor: "Supervisor", monitor: "Monitor | None") -> None:
        self._supervisor = supervisor
        self._monitor = monitor
        self._waiting: list[Surveyed] = []
        self._looking = False

    def survey(self, then: "Surveyed") -> None:
        """Call `then(unleased paths, guarantee in words)` within SURVEY_S seconds or so."""
        self._waiting.append(then)
        if len(self._waiting) == 1:
            late = now() + SURVEY_S
            self._supervisor.loop.at("survey", late, lambda: self._answer([], _LATE))
            if not self._looking:  # else the last look is still stuck, its answer as good
                self._ask(SURVEY_S, self._look)

    def _ask(self, timeout_s: float, then: "Callable[[list[str], str | None], None]") -> None:
        """Call `then(paths, reason)` with what QEMU has open, or why that cannot be told."""
        if self._monitor is None:
            then([], None)
            return
        self._monitor.execute(
            "query-named-block-nodes",
            {"flat": True},
            lambda nodes, reason: then(list(_paths(nodes)), reason),
            timeout_s,
        )

    def _look(self, paths: list[str], reason: str | None) -> None:
        if reason is not None:
            self._answer([], reason)
            return
        supervisor = self._supervisor
        leased = [lease.resource for lease in supervisor.leases]
        mode, pid = supervisor.record.mode, supervisor.child.pid
        inode = supervisor.prepared.carrier.inode()

        def looked(found: tuple[list[str], str] | None, error: BaseException | None) -> None:
            self._looking = False
            self._answer(*(found or ([], f"our own fault: {error!r}")))

        self._looking = True
        supervisor.jobs.apart(
            lambda: (_unleased(paths, leased), containment.doubts(mode, pid, inode)), looked
        )

    def _answer(self, unleased: list[str], doubt: str) -> None:
        self._supervisor.loop.cancel("survey")
        waiting, self._waiting = self._waiting, []
        words = containment.guarantee(self._supervisor.record.mode, doubt, unleased)
        for then in waiting:
            then(unleased, words)

    def is_open(self, path: str, then: "Callable[[bool | None, str], None]") -> None:
        """Call `then(answer, reason)`: does QEMU have `path` open? None when it cannot be told.

        Without a monitor the answer is no: the caller's word is taken.
        """

        def asked(paths: list[str], reason: str | None) -> None:
            if reason is not None:
                then(None, reason)
                return
            self._supervisor.jobs.apart(
                lambda: bool(paths) and not set(_unleased([path], paths)),
                lambda found, error: then(found, f"our own fault: {error!r}"),
            )

        self._ask(OPEN_S, asked)


def _paths(nodes: object) -> "Iterable[str]":
    """Yield the host files of query-named-block-nodes."""
    for node in nodes if isinstance(nodes, list) else []:
        if isinstance(node, dict) and node.get("drv") in _FILE_DRIVERS:
            name = str(node.get("file"))
            if name.startswith("json:"):
                name = str(json.loads(name[5:]).get("filename"))
            yield name.removeprefix("file:")


def _unleased(paths: list[str], leased: list[str]) -> list[str]:
    """Return those of `paths` that are none of `leased`, by name or by identity."""
    unnamed = [path for path in dict.fromkeys(paths) if path not in leased]
    identities = {_identity(path) for path in leased if unnamed} - {None}
    return [path for path in unnamed if _identity(path) not in identities]


def _identity(path: str) -> tuple[int, ...] | None:
    """Return what makes a file the same one: the device's number, else device and inode."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_rdev,) if status.st_rdev else (status.st_dev, status.st_ino)
