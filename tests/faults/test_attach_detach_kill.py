"""SIGKILL of the guard between any two system calls of attach and detach: is anything free early?

The thread that does the work is stopped before each of its calls in turn and
the guard killed there. The guest has given its death signal up, so that it
lives on with what it carries: the time between the guard's death and its own,
made as long as one likes. Detaching rotates what the guest carries.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.faults import firmware
from tests.support import locking, waiting
from tests.support.contender import Contender
from tests.support.stepping import Stepper, thread_reading_eventfd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from supervisor.client import Client
    from tests.support.guard import Guard, Guards

pytestmark = pytest.mark.slow

DEADLINE_S = 20
LIVES_ON = ("setpriv", "--pdeathsig", "clear", "sleep", "1000000")


@dataclass(frozen=True)
class Step:
    """One change to a guest's leases: `held` at the start, `stays` whatever happens."""

    held: tuple[tuple[str, str], ...]
    command: str
    path: str
    mode: str
    stays: tuple[str, ...]
    stays_once_done: tuple[str, ...] = ()


# disk-0 and link-0 are one file.
STEPS = {
    "attach": Step(
        (("exclusive", "disk-1"), ("shared", "disk-2")),
        "acquire-resource", "disk-3", "exclusive",
        ("disk-1", "disk-2"), ("disk-3",),
    ),
    "attach to make a shared lease exclusive": Step(
        (("exclusive", "disk-1"), ("shared", "disk-0")),
        "acquire-resource", "link-0", "exclusive",
        ("disk-1", "disk-0"),
    ),
    "detach": Step(
        tuple(("exclusive", f"disk-{number}") for number in range(1, 5)),
        "release-resource", "disk-2", "",
        ("disk-1", "disk-3", "disk-4"),
    ),
    "detach to make an exclusive lease shared": Step(
        (("exclusive", "disk-1"), ("exclusive", "link-0"), ("shared", "disk-0")),
        "release-resource", "link-0", "",
        ("disk-1", "disk-0"),
    ),
}  # fmt: skip


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    for number in range(5):
        firmware.image(tmp_path / f"disk-{number}")
    os.link(tmp_path / "disk-0", tmp_path / "link-0")
    return tmp_path


def begin(client: Client, step: Step, disks: Path) -> None:
    arguments: dict[str, object] = {"type": "disk", "path": str(disks / step.path)}
    if step.mode:
        arguments["mode"] = step.mode
    client.send(step.command, arguments)


def start(guards: Guards, step: Step, disks: Path) -> Guard:
    """Start the guest of `step`, and see that it has given its death signal up."""
    held = [(mode, str(disks / name)) for mode, name in step.held]
    guard = guards.run(*held, command=LIVES_ON, containment="pdeathsig")
    waiting.until(lambda: comm(guard.child_pid) == "sleep\n", DEADLINE_S, "the guest sleeps")
    return guard


def comm(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read()


def kill_after(guards: Guards, step: Step, disks: Path, calls: int) -> bool:
    """Kill the guard after so many system calls of the step; returns whether it was done by then.

    What stays must not be free, then and later, before the guest's own death.
    """
    guard = start(guards, step, disks)
    stays = [str(disks / name) for name in step.stays]
    with guard.connect() as client, Contender(guard.child_pid, *stays) as contender:
        client.execute("query-leases", timeout_s=DEADLINE_S)
        with Stepper(thread_reading_eventfd(guard.pid)) as thread:
            begin(client, step, disks)
            done = False
            for _ in range(calls):
                done = thread.next() == thread.idle
                if done:
                    client.receive(None)
                    stays += [str(disks / name) for name in step.stays_once_done]
                    break
            thread.kill(guard.pidfd)
        waiting.gone(guard.pidfd, DEADLINE_S)
        assert not [path for path in stays if locking.is_free(path)], f"after {calls} calls"
        assert not contender.has_won(), f"after {calls} calls"
        signal.pidfd_send_signal(guard.child_pidfd, signal.SIGKILL)
        for won in contender.won():
            assert not won.alive, f"after {calls} calls: {won.path} free, guest {won.alive}"
    guards.end(guard)
    return done


@pytest.mark.parametrize("name", STEPS)
def test_nothing_that_stays_is_free_before_the_guest_is_dead(
    name: str, guards: Guards, disks: Path, rounds: Callable[[int, int], int]
) -> None:
    step = STEPS[name]
    stride = rounds(3, 1)
    calls = 1
    while not kill_after(guards, step, disks, calls):
        calls += stride
    assert calls > 20
