"""Which images does QEMU have open, and which of them are not among those that we know?

Asks the monitor, compares by name, then by device and inode on a thread of its
own, since a hung filesystem must not hold any answer for long. It must not
change anything, nor know what a lease is.
"""

import json
import os

from supervisor.qmp.wire import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from supervisor.qmp.monitor import Monitor
    from supervisor.qmp.wire import Poller

    Apart = Callable[[Callable[[], Any], Callable[[Any, BaseException | None], None]], None]
    Surveyed = Callable[[list[str], str], None]

SURVEY_S = 0.5
OPEN_S = 5.0
_FILE_DRIVERS = ("file", "host_device", "host_cdrom")
_LATE = "the guest could not be looked at in time"


class OpenImages:
    """Compares QEMU's block nodes with known paths; `apart(job, then)` runs a job on a thread."""

    def __init__(self, monitor: "Monitor | None", loop: "Poller", apart: "Apart") -> None:
        self._monitor = monitor
        self._loop = loop
        self._apart = apart
        self._waiting: list[Surveyed] = []
        self._looking = False

    def survey(self, known: list[str], also: "Callable[[], str]", then: "Surveyed") -> None:
        """Call `then(unknown paths, doubt)` within SURVEY_S seconds or so.

        `also` looks at something else on the same thread; the doubt is its
        answer, or why none of this can be told.
        """
        self._waiting.append(then)
        if len(self._waiting) == 1:
            late = now() + SURVEY_S
            self._loop.at("survey", late, lambda: self._answer([], _LATE))
            if not self._looking:  # else the last look is still stuck, its answer as good
                self._ask(SURVEY_S, lambda paths, why: self._look(paths, why, known, also))

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

    def _look(
        self, paths: list[str], reason: str | None, known: list[str], also: "Callable[[], str]"
    ) -> None:
        if reason is not None:
            self._answer([], reason)
            return

        def looked(found: tuple[list[str], str] | None, error: BaseException | None) -> None:
            self._looking = False
            self._answer(*(found or ([], f"our own fault: {error!r}")))

        self._looking = True
        self._apart(lambda: (_unknown(paths, known), also()), looked)

    def _answer(self, unknown: list[str], doubt: str) -> None:
        self._loop.cancel("survey")
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(unknown, doubt)

    def is_open(self, path: str, pid: int, then: "Callable[[bool | None, str], None]") -> None:
        """Call `then(answer, reason)`: does QEMU have `path` open? None when it cannot be told.

        Asks QEMU, which runs as `pid`, and looks at its descriptors, since the
        name by which it opened a file may have gone, and persistent memory is
        no block node. Without a monitor the answer is no: the caller's word is taken.
        """
        if self._monitor is None:
            then(False, "")
            return

        def asked(paths: list[str], reason: str | None) -> None:
            if reason is not None:
                then(None, reason)
                return
            self._apart(
                lambda: not _unknown([path], paths) or _has_open(pid, path),
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


def _unknown(paths: list[str], known: list[str]) -> list[str]:
    """Return those of `paths` that are none of `known`, by name or by identity."""
    unnamed = [path for path in dict.fromkeys(paths) if path not in known]
    identities = {_identity(path) for path in known if unnamed} - {None}
    return [path for path in unnamed if _identity(path) not in identities]


def _has_open(pid: int, path: str) -> bool:
    """Is one of the process's descriptors this file? Raises OSError when that cannot be seen."""
    wanted = _identity(path)
    links = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    return wanted is not None and wanted in map(_identity, links)


def _identity(path: str) -> tuple[int, ...] | None:
    """Return what makes a file the same one: the device's number, else device and inode."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_rdev,) if status.st_rdev else (status.st_dev, status.st_ino)
