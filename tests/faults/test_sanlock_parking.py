"""Is a guest parked, and back, with a real sanlock daemon? What it holds is read from the daemon.

Each guest is a QEMU that writes, on a host of its own; two at once, in threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.freezing import filesystem
from tests.faults.sanlock_scenes import LOST, Scene
from tests.support import waiting
from tests.support.guest.checker import check
from tests.support.parkable import DEADLINE_S, Parkable
from tests.support.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from supervisor.spec import GuestSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]


def spec(scene: Scene, on_lockfailure: str = "pause") -> GuestSpec:
    made = scene.spec()
    made.on_lockfailure = on_lockfailure
    return made


def guest(scene: Scene, on_lockfailure: str = "pause") -> Parkable:
    if not scene.daemon.status().lockspaces:
        scene.daemon.join()
    return Parkable(scene.guards, spec(scene, on_lockfailure), scene.image.path)


def paused_and_back(directory: Path) -> None:
    with Scene(directory) as scene, guest(scene, "kill") as parked:
        (held,) = scene.daemon.held(scene.image.path)
        state = parked.pause()
        assert scene.daemon.held(scene.image.path) == []
        assert parked.status()["state"] == "parked"
        written = parked.written()
        parked.control.execute("resume-guest", {"state": state})
        assert written <= parked.written()
        (again,) = scene.daemon.held(scene.image.path)
        assert again.pid == held.pid
        parked.writes()
        assert f"@{held.version}" in state


def paused_and_somebody_had_it(directory: Path) -> None:
    with Scene(directory) as scene, guest(scene, "kill") as parked:
        state = parked.pause()
        written = parked.written()
        stranger = scene.daemon.hold(scene.image.path)
        with pytest.raises(Refused) as refused:
            parked.control.execute("resume-guest", {"state": state})
        assert refused.value.wire_class == "LeaseLost"
        stranger.kill()
        assert parked.guard.wait(DEADLINE_S).code == LOST
        assert parked.written() == written


def daemon_stopped_for_a_moment(directory: Path) -> None:
    with Scene(directory) as scene, guest(scene) as parked:
        scene.daemon.stop()
        parked.control.event("GUEST_PARKED", DEADLINE_S)
        scene.daemon.cont()
        parked.control.event("GUEST_RESUMED", DEADLINE_S)
        parked.writes()
        assert scene.daemon.held(scene.image.path)


def daemon_killed(directory: Path) -> None:
    """Nothing registers the guest with another daemon."""
    with Scene(directory) as scene, guest(scene) as parked:
        scene.daemon.kill()
        parked.control.event("GUEST_PARKED", DEADLINE_S)
        written = parked.written()
        found = parked.guard.wait(DEADLINE_S)
        assert (found.code, parked.written()) == (LOST, written)
        assert "the sanlock daemon that knew the guest has ended" in found.stderr


def storage_frozen_for_long(directory: Path) -> None:
    """Without being parked it would be dead."""
    with (
        filesystem(directory) as storage,
        Scene(directory, Path(storage.path) / "leases") as scene,
        guest(scene) as parked,
    ):
        storage.freeze()
        parked.control.event("GUEST_PARKED", DEADLINE_S)
        written = parked.written()
        ended = "all pids clear"  # sanlock has given the lockspace up, and found nobody to end
        waiting.until(lambda: ended in scene.daemon.said(), DEADLINE_S, "the lockspace is lost")
        assert parked.status()["state"] == "parked"
        assert parked.written() == written
        storage.thaw()
        parked.control.event("GUEST_RESUMED", DEADLINE_S)
        parked.writes()
        assert scene.daemon.held(scene.image.path)


SCENES: dict[str, Callable[[Path], None]] = {
    scene.__name__: scene
    for scene in (
        paused_and_back,
        paused_and_somebody_had_it,
        daemon_stopped_for_a_moment,
        daemon_killed,
        storage_frozen_for_long,
    )
}


@pytest.fixture(scope="module")
def played(
    lease_dirs: Callable[[], Path], require: Callable[[str], str]
) -> Iterator[dict[str, tuple[Path, Future[None]]]]:
    require("qemu-system-x86_64")
    with ThreadPoolExecutor(2) as threads:
        places = {name: lease_dirs() for name in SCENES}
        yield {name: (place, threads.submit(SCENES[name], place)) for name, place in places.items()}


@pytest.mark.parametrize("name", SCENES)
def test_a_guest_is_parked_and_back_or_dead(
    name: str, played: dict[str, tuple[Path, Future[None]]]
) -> None:
    directory, future = played[name]
    future.result()
    assert check(directory / "disk.raw").clean
