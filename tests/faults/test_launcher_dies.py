"""What if the launcher gets SIGKILL at some stage of the launch? The guard does not need it.

Only the handshake asks the launcher anything: without its GO nothing runs.
Before and after, the guest comes up and stays up, its lease held.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment, render
from tests.faults import firmware, processes
from tests.support import locking, waiting
from tests.support.contender import Contender
from tests.support.guard import descendants

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from supervisor.spec import GuestSpec
    from tests.support.guard import Guards

pytestmark = pytest.mark.usefixtures("as_root")

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
DEADLINE_S = 20
HANDSHAKE_FD, READY_FD = 50, 51

# Prints the guard's pid, then the stage that it has come to, and waits for its end.
_LAUNCHER = """
import json, os, signal, socket, subprocess, sys
stage, argv = sys.argv[1], json.loads(sys.argv[2])
ours, theirs = socket.socketpair()
ready, written = os.pipe()
os.dup2(theirs.detach(), 50)
os.dup2(written, 51)
os.close(written)
print(subprocess.Popen(argv, pass_fds=[50, 51]).pid, flush=True)
os.close(50)
os.close(51)
if stage != "started":
    assert ours.recv(64) == b"ACQUIRED\\n"
if stage not in ("started", "acquired"):
    ours.send(b"GO\\n")
if stage == "ready":
    assert os.read(ready, 64).startswith(b"READY ")
print(stage, flush=True)
signal.pause()
"""


class Launched:
    """A launcher and the guard that it started; `kill` ends the launcher alone."""

    def __init__(self, stage: str, argv: list[str]) -> None:
        words = ["-I", "-S", "-c", _LAUNCHER, stage, json.dumps(argv)]
        self._launcher = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
        )
        self.pid = int(self._line())
        self.pidfd = os.pidfd_open(self.pid)

    def _line(self) -> str:
        assert self._launcher.stdout is not None
        waiting.readable(self._launcher.stdout.fileno(), DEADLINE_S, "the launcher says something")
        return self._launcher.stdout.readline().decode().strip()

    def kill(self, stage: str) -> None:
        """SIGKILL the launcher when it has come to `stage`."""
        assert self._line() == stage
        self._launcher.kill()
        self._launcher.wait(DEADLINE_S)

    def end(self) -> None:
        """Kill launcher, guard and whatever is left of the guest."""
        pidfds = [os.pidfd_open(pid) for pid in descendants(self.pid)]
        for pidfd in (self.pidfd, *pidfds):
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._launcher.kill()
        self._launcher.communicate(timeout=DEADLINE_S)
        for pidfd in (self.pidfd, *pidfds):
            waiting.gone(pidfd, DEADLINE_S)
            os.close(pidfd)


class Launches:
    """Starts launchers for a guest that leaves a mark when it runs."""

    def __init__(self, guards: Guards, directory: Path) -> None:
        self._guards = guards
        self._started: list[Launched] = []
        self.disk = firmware.image(directory / "disk")
        self.mark = directory / "mark"

    def start(self, stage: str, mode: str, wait_s: float = 0.0) -> tuple[GuestSpec, Launched]:
        shakes_hands = stage != "started"
        spec = self._guards.spec(self.disk, containment=mode, ready_fd=READY_FD, wait_s=wait_s)
        spec.handshake_fd = HANDSHAKE_FD if shakes_hands else None
        command = ["/bin/sh", "-c", ': >"$0" && exec sleep 1000000', str(self.mark)]
        launched = Launched(stage, [*render(spec), *command])
        self._started.append(launched)
        return spec, launched

    def end(self) -> None:
        for launched in self._started:
            launched.end()


@pytest.fixture
def launches(guards: Guards, tmp_path: Path) -> Iterator[Launches]:
    started = Launches(guards, tmp_path)
    yield started
    started.end()


def assert_guest_runs(launches: Launches, spec: GuestSpec, launched: Launched) -> None:
    """See the guest run under its lease, and die with the guard."""
    waiting.until(launches.mark.exists, DEADLINE_S, "the guest runs")
    with open(f"{spec.runtime_dir}/{spec.uuid}/child.pid", encoding="ascii") as file:
        guest_pid = int(file.read())
    with Contender(guest_pid, launches.disk) as contender:
        assert not contender.has_won()
        processes.kill(launched.pid)
        for won in contender.won():
            assert not won.alive, f"{won.path} free, guest {won.alive}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", ["started", "go", "ready"])
def test_a_launcher_that_dies_leaves_the_guest_running(
    stage: str, mode: str, launches: Launches
) -> None:
    spec, launched = launches.start(stage, mode)
    launched.kill(stage)
    assert_guest_runs(launches, spec, launched)


@pytest.mark.parametrize("mode", MODES)
def test_a_launcher_that_dies_while_its_guard_waits_leaves_it_waiting(
    mode: str, launches: Launches
) -> None:
    with locking.Locker(launches.disk) as holder:
        spec, launched = launches.start("started", mode, wait_s=float("inf"))
        guest_json = f"{spec.runtime_dir}/{spec.uuid}/guest.json"
        waiting.until(lambda: os.path.exists(guest_json), DEADLINE_S, "the guard acquires")
        launched.kill("started")
        assert not launches.mark.exists()
        holder.end()
        assert_guest_runs(launches, spec, launched)


@pytest.mark.parametrize("mode", MODES)
def test_a_launcher_that_dies_before_it_says_go_takes_everything_with_it(
    mode: str, launches: Launches
) -> None:
    spec, launched = launches.start("acquired", mode)
    launched.kill("acquired")
    waiting.gone(launched.pidfd, DEADLINE_S)
    assert locking.is_free(launches.disk)
    assert not launches.mark.exists()
    assert os.listdir(spec.runtime_dir) == []
