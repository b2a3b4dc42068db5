"""Is a lease that stays ever free early, whichever line of attach or detach the guard dies at?

A forked guard runs the real plugin with the real carrier, and SIGKILLs itself
at the n-th line of theirs, for every n. Its guest, which has nothing but the
carrier's end, lives on: what it relies on must still be refused to us.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from lockplugins.contract import Lease, Mode, Resource
from lockplugins.file.plugin import FilePlugin
from supervisor.guard.carrier import Carrier
from tests.support import waiting
from tests.support.locking import DEADLINE_S, is_free

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from supervisor.guard.descriptors import Shelf

DISKS = ("stays", "goes", "third", "fourth", "alias")
TRACED = ("lockplugins/file/", "guard/carrier.py")
DONE, FAILED = 0, 1


class NoShelf:
    """Leaves descriptors where they are."""

    def lift(self, fd: int) -> int:
        return fd


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


def killing_at(line: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that ends this process at that line of ours."""
    left = line

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if not any(part in frame.f_code.co_filename for part in TRACED):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def be_guest(carrier: Carrier) -> None:
    """Keep nothing but the carrier's end, until killed."""
    os.closerange(3, carrier.guest_fd)
    os.closerange(carrier.guest_fd + 1, 1000)
    signal.pause()


def be_guard(directory: Path, step: Callable[[Scene], Callable[[], object]], line: int) -> int:
    """Run `step` as a guard that dies at `line`; returns DONE if there is no such line."""
    carrier = Carrier(_shelf())
    guest_pid = os.fork()
    if guest_pid == 0:
        be_guest(carrier)
        os._exit(FAILED)
    (directory / "guest.json").write_text(json.dumps(guest_pid))
    act = step(Scene(directory, carrier))
    sys.settrace(killing_at(line))
    act()
    sys.settrace(None)
    return DONE


def _shelf() -> Shelf:
    shelf: object = NoShelf()
    return shelf  # type: ignore[return-value]  # the one method that the carrier uses


def free_after_death_at(
    directory: Path, step: Callable[[Scene], Callable[[], object]], line: int
) -> tuple[bool, bool]:
    """Return whether the guard reached its end, and whether `stays` was free then."""
    guard_pid = os.fork()
    if guard_pid == 0:
        try:
            os._exit(be_guard(directory, step, line))
        finally:
            os._exit(FAILED)
    _pid, status = os.waitpid(guard_pid, 0)
    assert os.waitstatus_to_exitcode(status) in (DONE, -signal.SIGKILL)
    guest_pidfd = os.pidfd_open(json.loads((directory / "guest.json").read_text()))
    try:
        free = is_free(directory / "stays")
    finally:
        signal.pidfd_send_signal(guest_pidfd, signal.SIGKILL)
        waiting.gone(guest_pidfd, DEADLINE_S)
        os.close(guest_pidfd)
    assert is_free(directory / "stays"), "held by something else than the guest"
    return os.waitstatus_to_exitcode(status) == DONE, free


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
