"""SIGKILL of the supervisor: does anybody get a lease while the guest is alive?

A real QEMU against a process that spins on its leases, in either containment;
SIGSTOPped guests and hot-plugged leases included.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.faults import firmware, processes
from tests.support.contender import Contender
from tests.support.measured import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.guard import Guard, Guards

pytestmark = pytest.mark.usefixtures("as_root")

MODES = (Containment.PDEATHSIG, pytest.param(Containment.PIDNS, marks=pytest.mark.slow))
KILL_TO_FREE_S = 10


def plug(guard: Guard, path: str) -> None:
    """Acquire one more lease, as before blockdev-add."""
    with guard.connect() as client:
        arguments: dict[str, object] = {"type": "disk", "path": path, "mode": "exclusive"}
        client.execute("acquire-resource", arguments, KILL_TO_FREE_S)


@pytest.mark.parametrize("mode", MODES)
def test_nobody_gets_a_lease_while_the_guest_is_alive(
    mode: str,
    guards: Guards,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    boot, plugged = firmware.image(tmp_path / "boot"), firmware.image(tmp_path / "plugged")
    took: dict[str, list[float]] = {}
    for number in range(rounds(20, 200)):
        hot_plug, stopped = number % 2 == 1, number % 3 == 1
        guard = guards.run(boot, command=firmware.argv(boot), containment=mode)
        leases = [boot]
        if hot_plug:
            plug(guard, plugged)
            leases.append(plugged)
        with Contender(guard.child_pid, *leases) as contender:
            if stopped:
                processes.stop(guard.child_pid)
            assert not contender.has_won()
            killed_at = time.monotonic()
            signal.pidfd_send_signal(guard.pidfd, signal.SIGKILL)
            for won in contender.won(KILL_TO_FREE_S):
                assert not won.alive, f"round {number}: {won.path} free, guest {won.alive}"
                assert won.at > killed_at
                which = f"guest {'stopped' if stopped else 'running'}"
                took.setdefault(which, []).append(won.at - killed_at)
        guards.end(guard)
    for which, values in took.items():
        measured("takeover", f"guard killed to lease won, {mode}, {which}: {milliseconds(values)}")
