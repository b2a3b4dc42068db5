"""Is a process said to stand still only if every thread of it does, and nothing is below it?"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from supervisor import stillness
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 30
THREADS = "import threading, time; threading.Thread(target=time.sleep, args=[999]).start()"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def start(started: list[subprocess.Popen[bytes]], code: str) -> int:
    argv = [
        sys.executable,
        "-c",
        f"{code}; print('here', flush=True); import time; time.sleep(999)",
    ]
    started.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
    stdout = started[-1].stdout
    assert stdout is not None
    assert stdout.readline() == b"here\n"
    return started[-1].pid


def test_all_threads_stand_still(started: list[subprocess.Popen[bytes]]) -> None:
    pid = start(started, THREADS)
    assert re.search("is in state [SR], not T", stillness.why_not(pid, pid))
    os.kill(pid, signal.SIGSTOP)
    waiting.until(lambda: not stillness.why_not(pid, pid), DEADLINE_S, "it stands still")
    os.kill(pid, signal.SIGCONT)
    waiting.until(lambda: stillness.why_not(pid, pid), DEADLINE_S, "it goes on")


def test_a_process_that_has_forked_is_not_all_of_it(started: list[subprocess.Popen[bytes]]) -> None:
    pid = start(started, "import subprocess; child = subprocess.Popen(['sleep', '5'])")
    os.kill(pid, signal.SIGSTOP)
    waiting.until(lambda: "forked" in stillness.why_not(pid, pid), DEADLINE_S, "it is seen")


def test_it_has_to_be_alone_below_its_init(started: list[subprocess.Popen[bytes]]) -> None:
    pid = start(started, "pass")
    start(started, "pass")
    os.kill(pid, signal.SIGSTOP)
    assert stillness.why_not(pid, os.getpid()) == "its PID namespace has other processes"


def test_what_is_gone_is_not_believed() -> None:
    with pytest.raises(FileNotFoundError):
        stillness.why_not(2**22 + 1, 2**22 + 1)
