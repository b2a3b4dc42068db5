"""Whatever becomes of sanlock, is the guest dead before its time is over, and the loss said?

Each fault has a host of its own, and all happen at once, in threads: what takes the time
is sanlock's waiting.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.freezing import filesystem
from tests.faults.sanlock_scenes import DEADLINE_S, LOST, Image, Scene, deadline_s, freeze, is_dead
from tests.support import sanlock_facts as facts
from tests.support import waiting
from tests.support.sanlock import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]

TERM_S = 8 * facts.IO_TIMEOUT_S


def daemon_killed(directory: Path) -> float:
    with Scene(directory) as scene:
        guard = scene.start()
        assert "the sanlock daemon" in scene.fenced(guard, scene.daemon.kill)
        scene.daemon.start()
        scene.judge()
        return scene.took_s


def daemon_stopped_for_long(directory: Path) -> float:
    with Scene(directory) as scene:
        guard = scene.start()
        scene.fenced(guard, scene.daemon.stop)
        scene.daemon.cont()
        scene.judge()
        return scene.took_s


def daemon_stopped_for_a_moment(directory: Path) -> None:
    with Scene(directory) as scene:
        guard = scene.start()
        scene.daemon.stop()
        waiting.until(lambda: deadline_s(guard) < TERM_S / 2, DEADLINE_S, "half the time is over")
        scene.daemon.cont()
        scene.runs_on(guard)
        guard.kill()
        scene.judge()


def daemon_killed_under_a_frozen_guard(directory: Path) -> None:
    with Scene(directory) as scene:
        guard = scene.start()
        announced = deadline_s(guard)
        freeze(guard)
        scene.daemon.kill()
        waiting.gone(guard.child_pidfd, announced + 1)
        assert guard.wait().code == -9
        scene.daemon.start()
        scene.judge()


def daemon_restarted_under_a_frozen_guard(directory: Path) -> None:
    """What it had given before it was killed is free to sanlock, while its guest lives on."""
    with Scene(directory) as scene:
        guard = scene.start()
        freeze(guard)
        scene.daemon.kill()
        scene.daemon.start()
        scene.daemon.join()
        assert "before sanlock was started anew; its guest may live" in scene.refused().stderr
        scene.follow(guard)
        scene.image.check()


def storage_frozen_for_long(directory: Path) -> float:
    with filesystem(directory) as storage, Scene(directory, Path(storage.path) / "leases") as scene:
        guard = scene.start()
        scene.fenced(guard, storage.freeze)
        storage.thaw()
        scene.judge()
        return scene.took_s


def storage_frozen_for_a_moment(directory: Path) -> None:
    with filesystem(directory) as storage, Scene(directory, Path(storage.path) / "leases") as scene:
        guard = scene.start()
        storage.freeze()
        waiting.until(lambda: deadline_s(guard) < TERM_S / 2, DEADLINE_S, "half the time is over")
        storage.thaw()
        scene.runs_on(guard)
        guard.kill()
        scene.judge()


def storage_frozen_with_the_image(directory: Path) -> None:
    """No signal ends a guest whose write hangs: nothing is given back before the thaw."""
    with filesystem(directory) as storage, Scene(directory, Path(storage.path) / "leases") as scene:
        scene.image = Image(Path(storage.path) / "disk.raw")
        guard = scene.start()
        storage.freeze()
        waiting.until(lambda: deadline_s(guard) < -1, DEADLINE_S, "the time is over")
        assert not is_dead(guard.child_pidfd, 0)
        assert str(guard.status()["guarantee"]).startswith("the guest has got SIGKILL: ")
        assert [held.pid for held in scene.daemon.held(scene.image.path)] == [guard.child_pid]
        storage.thaw()
        waiting.gone(guard.child_pidfd, DEADLINE_S)
        assert guard.wait().code == LOST
        scene.judge()


def storage_unreadable(directory: Path) -> float:
    with filesystem(directory) as storage, Scene(directory, Path(storage.path) / "leases") as scene:
        guard = scene.start()
        scene.fenced(guard, lambda: os.truncate(directory / "ext4", 0))
        return scene.took_s


def overwrite(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(os.urandom(facts.FILE_BYTES))


def lockspace_overwritten(directory: Path) -> float:
    with Scene(directory) as scene:
        guard = scene.start()
        scene.fenced(guard, lambda: overwrite(scene.daemon.lockspace))
        os.unlink(scene.daemon.lockspace)
        scene.judge()
        return scene.took_s


def lockspace_truncated(directory: Path) -> float:
    with Scene(directory) as scene:
        guard = scene.start()
        scene.fenced(guard, lambda: os.truncate(scene.daemon.lockspace, 0))
        os.unlink(scene.daemon.lockspace)
        scene.judge()
        return scene.took_s


def lockspace_replaced(directory: Path) -> float:
    """The daemon renews in the old one for ever, and other hosts join the new one."""
    with Scene(directory) as scene:
        guard = scene.start()
        facts.init_lockspace(new := f"{scene.daemon.lockspace}.new")
        scene.fenced(guard, lambda: os.rename(new, scene.daemon.lockspace))
        assert "where others find another" in scene.refused().stderr
        scene.daemon.leave()
        scene.judge()
        return scene.took_s


def lockspace_removed(directory: Path) -> float:
    with Scene(directory) as scene:
        guard = scene.start()
        scene.fenced(guard, lambda: os.unlink(scene.daemon.lockspace))
        return scene.took_s


def lockspace_left(directory: Path) -> float:
    with Scene(directory) as scene:
        guard = scene.start()
        scene.fenced(guard, scene.daemon.leave)
        scene.judge()
        return scene.took_s


def lockspace_overwritten_under_a_frozen_guard(directory: Path) -> None:
    """The daemon ends the guest by itself."""
    with Scene(directory) as scene:
        guard = scene.start()
        announced = deadline_s(guard)
        freeze(guard)
        overwrite(scene.daemon.lockspace)
        waiting.gone(guard.child_pidfd, announced)
        os.unlink(scene.daemon.lockspace)
        guard.kill()
        scene.judge()


def host_id_taken(directory: Path) -> float:
    """Another host has our number, and our name: a copy of this one."""
    with Scene(directory) as scene:
        guard = scene.start()
        lease_dir, name = scene.daemon.lease_dir, scene.daemon.name
        with Daemon(directory / "twin", lease_dir, scene.daemon.host_id, name) as twin:
            scene.fenced(guard, twin.join)
            with pytest.raises(facts.SanlockError):
                scene.daemon.hold(scene.image.path)
            twin.leave()
        scene.judge()
        return scene.took_s


SCENES: dict[str, Callable[[Path], float | None]] = {
    scene.__name__: scene
    for scene in (
        daemon_killed,
        daemon_stopped_for_long,
        daemon_stopped_for_a_moment,
        daemon_killed_under_a_frozen_guard,
        daemon_restarted_under_a_frozen_guard,
        storage_frozen_for_long,
        storage_frozen_for_a_moment,
        storage_frozen_with_the_image,
        storage_unreadable,
        lockspace_overwritten,
        lockspace_truncated,
        lockspace_replaced,
        lockspace_removed,
        lockspace_left,
        lockspace_overwritten_under_a_frozen_guard,
        host_id_taken,
    )
}


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, lease_dirs: Callable[[], Path]
) -> Iterator[dict[str, Future[float | None]]]:
    """Play the scenes that tests of this run ask for, all at once."""
    asked = {
        item.callspec.params.get("name")
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    }
    with ThreadPoolExecutor(len(SCENES)) as threads:
        yield {
            name: threads.submit(scene, lease_dirs())
            for name, scene in SCENES.items()
            if name in asked
        }


@pytest.mark.parametrize("name", SCENES)
def test_the_guest_is_dead_in_time_and_the_loss_is_said(
    name: str, played: dict[str, Future[float | None]], measured: Callable[[str, str], None]
) -> None:
    took = played[name].result()
    if took is not None:
        words = name.replace("_", " ")
        measured("sanlock", f"{words}, until the guest is dead: {took:.1f} s (io_timeout 1)")
