"""In which ways does a command run: bare, under the guard, through the front door?

Starts one command twice by the same launcher, so that a test can compare what
the two processes got. Judges nothing.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.spec import Containment, render
from tests.support import insight, waiting
from tests.support.guard import DEADLINE_S
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from supervisor.spec import GuestSpec
    from tests.support.guard import Guard, Guards
    from tests.support.launcher import Launcher

FRONT_DOOR = "front door"
# For parametrize; one of them is enough for a quick run.
WAYS = (
    Containment.PDEATHSIG,
    pytest.param(Containment.PIDNS, marks=pytest.mark.slow),
    pytest.param(FRONT_DOOR, marks=pytest.mark.slow),
)
# Statically linked: it opens nothing, so that its descriptors are what it was given.
IDLE = ("/bin/busybox", "sleep", "1000000")


def front_door(spec: GuestSpec) -> list[str]:
    """Return the command line that makes `lock-supervisor` exec the guard of `spec`."""
    words = [f"{CHECKOUT}/bin/lock-supervisor", "run", "--name", spec.name, "--uuid", spec.uuid]
    words += ["--plugin", spec.plugin, "--runtime-dir", spec.runtime_dir, "--no-discover"]
    words += ["--containment", spec.containment, "--stop-timeout", str(spec.stop_timeout_s)]
    words += [] if spec.monitor else ["--no-monitor"]
    words += ["--wait", f"{spec.wait_s:g}"] if spec.wait_s else []
    for resource in spec.resources:
        words += ["--disk", f"{resource.path},{resource.mode}"]
    descriptors = (("--ready-fd", spec.ready_fd), ("--handshake-fd", spec.handshake_fd))
    for option, fd in descriptors:
        words += [option, str(fd)] if fd is not None else []
    return [*words, "--"]


def start(
    guards: Guards,
    way: str,
    command: Sequence[str] = IDLE,
    *,
    launcher: Launcher | None = None,
    pass_fds: Sequence[int] = (),
    fields: Mapping[str, object] | None = None,
    **popen: Any,
) -> Guard:
    """Start a guard in one of WAYS, with plugin nop unless `fields` name another."""
    mode = Containment.AUTO if way == FRONT_DOOR else way
    spec = guards.spec(**{"plugin": "nop", "containment": mode, **(fields or {})})
    return guards.start(
        spec,
        command,
        argv_of=front_door if way == FRONT_DOOR else render,
        prefix=launcher.prefix() if launcher else (),
        pass_fds=pass_fds,
        **popen,
    )


def idling(
    guards: Guards,
    way: str,
    launcher: Launcher | None = None,
    *,
    pass_fds: Sequence[int] = (),
    popen: Mapping[str, Any] | None = None,
    **fields: object,
) -> Guard:
    """Start a guard of IDLE, and wait until that idles."""
    guard = start(
        guards, way, launcher=launcher, pass_fds=pass_fds, fields=fields, **(popen or {})
    ).ready()
    settle(guard.child_pid)
    return guard


def settle(pid: int) -> None:
    """Wait until the process sleeps: what exec does, it has done."""
    waiting.until(
        lambda: insight.status(pid)["State"].startswith("S"), DEADLINE_S, f"{pid} is idle"
    )


@contextmanager
def bare(launcher: Launcher, *, pass_fds: Sequence[int] = (), **popen: Any) -> Iterator[int]:
    """Run IDLE without anything in front of it; gives its pid."""
    popen = {"stdin": subprocess.DEVNULL, **popen}
    argv = [*launcher.prefix(), *IDLE]
    process: subprocess.Popen[bytes] = subprocess.Popen(argv, pass_fds=pass_fds, **popen)
    program = os.path.realpath(IDLE[0])
    try:
        link = f"/proc/{process.pid}/exe"
        waiting.until(lambda: os.readlink(link) == program, DEADLINE_S, "it executes")
        settle(process.pid)
        yield process.pid
    finally:
        process.kill()
        process.wait()
