"""Is a lease that stays ever free early, whichever line of attach or detach the guard dies at?

A forked guard runs the real plugin with the real carrier, and SIGKILLs itself
at the n-th line of theirs, for every n. Its guest, which has nothing but the
carrier's end, lives on: what it relies on must still be refused to us.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Lease, Mode, Resource
from lockplugins.file.plugin import FilePlugin
from tests.faults.dying import DyingGuard
from tests.support.locking import is_free

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from supervisor.guard.carrier import Carrier

DISKS = ("stays", "goes", "third", "fourth", "alias")
TRACED = ("lockplugins/file/", "guard/carrier.py")


class Scene:
    """What a step starts from; the disk `stays`, and its alias, are never free meanwhile."""

    def __init__(self, directory: Path, carrier: Carrier) -> None:
        self._paths = {name: str(directory / name) for name in DISKS}
        self.plugin = FilePlugin({}, carrier)

    def acquire(self, *names: str, mode: str = Mode.EXCLUSIVE) -> list[Lease]:
        return self.plugin.acquire([Resource(self._paths[name], mode) for name in names], None)


def attach(scene: Scene) -> Callable[[], object]:
    scene.acquire("stays", "third")
    return lambda: scene.acquire("goes")


def detach(scene: Scene) -> Callable[[], object]:
    leases = scene.acquire("third", "goes", "stays", "fourth")
    return lambda: scene.plugin.release(leases[1])


def attach_alias(scene: Scene) -> Callable[[], object]:
    scene.acquire("stays")
    return lambda: scene.acquire("alias")


def detach_alias(scene: Scene) -> Callable[[], object]:
    scene.acquire("stays", "third")
    (lease,) = scene.acquire("alias", mode=Mode.SHARED)
    return lambda: scene.plugin.release(lease)


def make_exclusive(scene: Scene) -> Callable[[], object]:
    scene.acquire("stays", "third", mode=Mode.SHARED)
    return lambda: scene.acquire("alias")


def make_shared(scene: Scene) -> Callable[[], object]:
    (lease,) = scene.acquire("alias")
    scene.acquire("stays", "third", mode=Mode.SHARED)
    return lambda: scene.plugin.release(lease)


STEPS = (attach, detach, attach_alias, detach_alias, make_exclusive, make_shared)


def free_after_death_at(
    directory: Path, step: Callable[[Scene], Callable[[], object]], line: int
) -> tuple[bool, bool]:
    """Return whether the guard reached its end, and whether `stays` was free then."""

    def begin(carrier: Carrier, _tell: object, _hear: object) -> Callable[[], object]:
        return step(Scene(directory, carrier))

    with DyingGuard(begin, TRACED) as dying:
        dying.start(line)
        dying.wait()
        free = is_free(directory / "stays")
        dying.end_guest()
    assert is_free(directory / "stays"), "held by something else than the guest"
    return dying.ended, free


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_what_stays_is_never_free_while_the_guest_lives(
    tmp_path: Path, step: Callable[[Scene], Callable[[], object]]
) -> None:
    for name in DISKS[:-1]:
        (tmp_path / name).touch()
    os.link(tmp_path / "stays", tmp_path / "alias")
    line, ended, free_at = 0, False, []
    while not ended:
        line += 1
        ended, free = free_after_death_at(tmp_path, step, line)
        if free:
            free_at.append(line)
    print(f"{step.__name__}: killed at {line - 1} lines")
    assert line > 20
    assert free_at == []
