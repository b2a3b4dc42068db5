"""What does the guard promise to somebody who is not root, and what does it refuse to?

The parent-death signal needs no privilege; a PID namespace does. Run from a
copy that everybody may read, as an installed package is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseUnknownError
from supervisor.client import is_readable
from supervisor.records import read_guest
from supervisor.spec import Containment
from tests.faults import firmware, processes
from tests.faults.public import AS_USER, Public
from tests.support import insight, waiting
from tests.support.contender import Contender
from tests.support.guard import IDLE, Guards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.guard import Guard


pytestmark = pytest.mark.usefixtures("as_root")

DEADLINE_S = 20
RUNAS = ("-runas", "nobody")
DISARMS = "which disarms the parent-death signal"
NO_THREAD = "can't start new thread"
NEEDS = "a PID namespace needs CAP_SYS_ADMIN; run as root, or change the command"


@pytest.fixture
def public() -> Iterator[Public]:
    with tempfile.TemporaryDirectory(prefix="public-") as path:
        os.chmod(path, 0o711)  # noqa: S103  # pytest's own directories are root's alone
        yield Public(path)


@pytest.fixture
def guards(public: Public) -> Iterator[Guards]:
    with Guards(Path(public.path)) as started:
        yield started


@pytest.mark.parametrize("containment", [Containment.PDEATHSIG, Containment.AUTO])
def test_an_ordinary_users_guest_dies_with_its_guard(
    containment: str, public: Public, guards: Guards, rounds: Callable[[int, int], int]
) -> None:
    for _ in range(rounds(3, 30)):
        guard = public.start(guards, firmware.argv(public.disk), containment).ready()
        assert "0" not in insight.status(guard.child_pid)["Uid"].split()
        status = guard.status()
        assert status["containment"] == Containment.PDEATHSIG
        assert str(status["guarantee"]).startswith("the guest runs only while every lease is held")
        with Contender(guard.child_pid, public.disk) as contender:
            processes.kill(guard.pid)
            for won in contender.won():
                assert not won.alive, f"{won.path} free, guest {won.alive}"
        guards.end(guard)


@pytest.mark.parametrize(
    ("options", "containment", "reason"),
    [
        ((), Containment.PIDNS, ""),
        (("-daemonize",), Containment.AUTO, f"QEMU is told to fork (-daemonize), {DISARMS}; "),
        (RUNAS, Containment.AUTO, f"QEMU is told to change user (-runas nobody), {DISARMS}; "),
        (RUNAS, Containment.PIDNS, f"QEMU is told to change user (-runas nobody), {DISARMS}; "),
    ],
    ids=str,
)
def test_what_needs_a_namespace_is_refused_to_an_ordinary_user(
    options: Sequence[str], containment: str, reason: str, public: Public, guards: Guards
) -> None:
    command = firmware.argv(public.disk, extra=options)
    refusal = public.start(guards, command, containment).refused()
    assert refusal.code == 2
    error = f"lock-supervisor: cannot contain guest {command[0]}: {reason}{NEEDS}\n"
    assert refusal.stderr == error
    assert not os.path.exists(guards.runtime_dir)


def test_a_program_with_set_id_bits_is_refused_to_an_ordinary_user(
    public: Public, guards: Guards
) -> None:
    program = shutil.copy("/bin/sleep", f"{public.path}/program")
    os.chmod(program, 0o4755)  # noqa: S103  # what it is about
    refusal = public.start(guards, [program, "1000000"], Containment.AUTO).refused()
    assert refusal.code == 2
    assert f"{program} is set-user-ID or set-group-ID, {DISARMS}; {NEEDS}" in refusal.stderr


def use_up_threads(guard: Guard) -> None:
    """RLIMIT_NPROC counts all that a user runs; pids.max of a container does the same to root."""
    words = ("prlimit", f"--pid={guard.pid}", "--nproc=1")
    subprocess.run([*AS_USER, *words], check=True)


def test_a_guest_outlives_questions_that_no_thread_can_answer(
    public: Public, guards: Guards
) -> None:
    guard = public.start(guards, firmware.argv(public.disk), Containment.PDEATHSIG).ready()
    use_up_threads(guard)
    for _ in range(2):  # the first leaves nothing behind that the second would wait for
        with guard.connect() as client:
            status = client.execute("query-status", timeout_s=DEADLINE_S)
        assert isinstance(status, dict)
        assert str(status["guarantee"]).startswith("weakened: our own fault")
        assert NO_THREAD in str(status["guarantee"])
    with guard.connect() as client, pytest.raises(LeaseUnknownError, match=NO_THREAD):
        client.execute("release-resource", {"path": public.disk}, timeout_s=DEADLINE_S)
    assert not is_readable(guard.child_pidfd, 0.0)


@pytest.mark.slow
def test_a_wait_that_no_thread_can_explain_ends_as_a_refusal(
    public: Public, guards: Guards
) -> None:
    public.start(guards, firmware.argv(public.disk), Containment.PDEATHSIG).ready()
    late = public.start(guards, IDLE, Containment.PDEATHSIG, wait_s=3.0)
    waiting.until(lambda: read_guest(late.path), DEADLINE_S, "its threads run")
    use_up_threads(late)
    assert late.refused().code == 110
