"""Does the documentation's example of a plugin do what it says, installed as anybody would?

By pip into an environment of its own; the guard then gets it by name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import waiting
from tests.support.command import Result
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

INSTALL_S = 300.0
DEADLINE_S = 60.0
HEADINGS = ("Holds with:", "Released when:", "Loss is seen by:", "Does not protect against:")
PROGRAM = "from supervisor.cli.main import main; main()"


class Environment:
    """A virtual environment with the example in it, and the checkout beside it."""

    def __init__(self, directory: Path) -> None:
        self.python = str(directory / "venv" / "bin" / "python")
        self._env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LOCK_SUPERVISOR_RUNTIME_DIR": str(directory / "run"),
        }
        source = directory / "example-plugin"  # pip builds in the very directory
        shutil.copytree(f"{CHECKOUT}/docs/example-plugin", source)
        self._do(sys.executable, "-m", "venv", str(directory / "venv"))
        install = ("install", "--no-deps", "--quiet", "--disable-pip-version-check")
        self._do(self.python, "-m", "pip", *install, str(source))
        (site,) = (directory / "venv" / "lib").glob("python*/site-packages")
        beside = [CHECKOUT, sysconfig.get_paths()["purelib"]]
        (site / "checkout.pth").write_text("\n".join(beside) + "\n")

    def _do(self, *argv: str) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, "-c", PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._env,
            text=True,
        )

    def run(self, *words: str) -> Result:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=DEADLINE_S)
        return Result(process.returncode, out, err)

    def runs(self, name: str) -> bool:
        return self.run("child", name).code == 0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("example-plugin"))


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    return str(path)


def can_lock(path: str, how: int) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_a_guest_runs_under_its_flock_and_its_death_frees_it(
    environment: Environment, disk: str
) -> None:
    words = ("run", "--plugin", "flock", "--name", "web1", "--disk", disk, "/bin/sleep", "1000000")
    with environment.start(*words):
        waiting.until(lambda: not can_lock(disk, fcntl.LOCK_SH), DEADLINE_S, "web1 has the lock")
        second = environment.run(*words[:3], "--name", "web2", *words[5:])
        assert second.code == 110
        assert f"lease for disk {disk}: held by guest web1 " in second.err
        asked = environment.run("who", disk, "--plugin", "flock")
        assert (asked.code, "guest web1 " in asked.out) == (0, True)
        assert environment.run("kill", "web1").code == 0
    assert can_lock(disk, fcntl.LOCK_EX)
    assert environment.run("who", disk, "--plugin", "flock").code == 1


def test_a_script_that_has_the_lock_is_waited_for(environment: Environment, disk: str) -> None:
    script = os.open(disk, os.O_RDONLY)
    fcntl.flock(script, fcntl.LOCK_EX)
    refused = environment.run("run", "--plugin", "flock", "--disk", disk, "/bin/true")
    assert (refused.code, f"held by process {os.getpid()}" in refused.err) == (110, True)
    words = ("run", "--plugin", "flock", "--wait", "inf", "--disk", disk, "/bin/echo", "it ran")
    with environment.start(*words) as waiter:
        waiting.until(lambda: waits_for(disk), DEADLINE_S, "the guest waits for the script")
        os.close(script)
        assert waiter.communicate(timeout=DEADLINE_S)[0] == "it ran\n"


def waits_for(path: str) -> bool:
    with open("/proc/locks", encoding="ascii") as file:
        lines = [line.split() for line in file]
    ending = f":{os.stat(path).st_ino}"
    return any(words[1] == "->" and words[6].endswith(ending) for words in lines)


def test_two_readers_share_and_disks_come_and_go(environment: Environment, disk: str) -> None:
    words = ("--plugin", "flock", "--disk", f"{disk},shared", "/bin/sleep", "1000000")
    with (
        environment.start("run", "--name", "a", *words) as first,
        environment.start("run", "--name", "b", *words) as second,
    ):
        for name in ("a", "b"):
            waiting.until(partial(environment.runs, name), DEADLINE_S, f"{name} runs")
        assert not can_lock(disk, fcntl.LOCK_EX)
        for name in ("a", "b"):
            assert environment.run("detach", name, disk).code == 0
        assert can_lock(disk, fcntl.LOCK_EX)
        assert environment.run("attach", "a", disk).code == 0
        assert not can_lock(disk, fcntl.LOCK_SH)
        for process in (first, second):
            process.terminate()


DAEMON = """
import sys, lockplugins
from supervisor.manager import LockManager, ObjectType, ResourceType
plugin = lockplugins.load("flock")
with LockManager(plugin, ObjectType.DOMAIN, runtime_dir=sys.argv[1]) as manager:
    manager.set_parameter("log", "/dev/null")
    manager.register_resource(ResourceType.DISK, sys.argv[2])
    manager.acquire_object(["/bin/sleep", "1000000"])
    manager.run()
    print(*plugin.capabilities, manager.get_child().state, flush=True)
    sys.stdin.read()
    manager.kill_supervisor()
"""


def test_a_program_loads_it_by_name(environment: Environment, disk: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [environment.python, "-c", DAEMON, str(tmp_path / "run"), disk],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "resources hotplug running\n"
        assert not can_lock(disk, fcntl.LOCK_SH)
        daemon.communicate(timeout=DEADLINE_S)
    assert daemon.returncode == 0
    assert can_lock(disk, fcntl.LOCK_EX)


def test_its_docstring_says_what_it_is_worth(environment: Environment) -> None:
    program = "import lock_supervisor_flock as found; print(found.__doc__)"
    said = subprocess.run(
        [environment.python, "-c", program], capture_output=True, text=True, check=True
    )
    for heading in HEADINGS:
        assert heading in said.stdout
