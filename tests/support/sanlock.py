"""How does a test get hosts with sanlock? Daemons with run directories of their own.

Several daemons on one lease directory are several hosts, for the leases that no network
hands out. Judges nothing, and knows nothing of the plugin.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import sanlock_facts as facts
from tests.support import waiting
from tests.support.sanlock_facts import DEADLINE_S, IO_TIMEOUT_S, LOCKSPACE, SanlockError
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    from tests.support.guard import Guards


_DISK_TOO_SLOW = "done -202"  # SANLK_AIO_TIMEOUT: not within io_timeout


def environment(run_dir: str | os.PathLike[str]) -> dict[str, str]:
    """Return what a daemon without privileges, and whoever speaks to it, has in its environment."""
    return {"SANLOCK_PRIVILEGED": "0", "SANLOCK_RUN_DIR": os.fspath(run_dir)}


def daemon_argv(name: str = "", *, watchdog: bool = False) -> list[str]:
    """Return the command of a daemon without privileges, which stays in front.

    One with a watchdog answers, and joins nothing: there is none.
    """
    user = pwd.getpwuid(os.geteuid()).pw_name
    words = f"daemon -D -w {int(watchdog)} -l 0 -h 0 -U {user} -G {user}"
    return [facts.program(), *words.split(), *(["-e", name] if name else [])]


def answers(env: Mapping[str, str]) -> bool:
    """Is there a daemon that answers?"""
    try:
        return facts.run(env, "client", "status").startswith("daemon ")
    except SanlockError:
        return False


class Daemon:
    """One sanlock daemon: a host with `host_id`. A context; in the end nothing of it runs.

    `lease_dir` is where its lockspace and the leases of disks are, `env` what its clients
    need. The run directory is `directory`, whose name must be short (it holds a socket).
    With a `name` it knows itself again when it is started anew, and joins at once; else it
    waits for over a minute, as for a stranger's death.
    """

    def __init__(
        self,
        directory: Path,
        lease_dir: Path,
        host_id: int = 1,
        name: str = "",
        *,
        watchdog: bool = False,
        io_timeout_s: int = IO_TIMEOUT_S,
    ) -> None:
        self.directory = directory
        self.lease_dir = lease_dir
        self.host_id = host_id
        self.name = name
        self._argv = daemon_argv(name, watchdog=watchdog)
        self.lockspace = str(lease_dir / LOCKSPACE)
        self.env = environment(directory)
        self.config = {
            "disk_lease_dir": str(lease_dir),
            "host_id": str(host_id),
            "io_timeout": str(io_timeout_s),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._holders: list[subprocess.Popen[bytes]] = []
        directory.mkdir(exist_ok=True)
        lease_dir.mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for holder in self._holders:
            holder.kill()
            holder.wait(DEADLINE_S)

    @property
    def pid(self) -> int:
        assert self._process, "the daemon is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it, the first time or again; returns when it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        waiting.until(
            lambda: answers(self.env), DEADLINE_S, f"it answers: see {self.directory}/log"
        )

    def stop(self) -> None:
        """SIGSTOP it: it keeps its connections, and answers nobody."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL it; returns when it is dead. Its lockspace stays as it left it."""
        if self._process:
            self._process.kill()
            self._process.wait(DEADLINE_S)
        self._process = None

    def lease_to(self, guards: Guards) -> None:
        """Have these guards' guests on this host."""
        guards.defaults = {"plugin": "sanlock", "config": {"sanlock": self.config}}
        guards.env |= self.env

    def settings(self) -> list[str]:
        """Return lines for libvirt's qemu-sanlock.conf, or for the plugin's table."""
        return [
            f"{key} = {value if value.isdigit() else json.dumps(value)}"
            for key, value in self.config.items()
        ]

    def toml(self) -> str:
        """Return a configuration file for the plugin."""
        return "\n".join(["[sanlock]", *self.settings(), ""])

    def client(self, *words: str, deadline_s: float = DEADLINE_S) -> str:
        """Return what `sanlock client WORDS` prints; raises SanlockError."""
        return facts.run(self.env, "client", *words, deadline_s=deadline_s)

    def join(self) -> None:
        """Join the lockspace, made if it is not there: 3 io_timeouts, and more on a slow disk."""
        if not os.path.exists(self.lockspace):
            facts.init_lockspace(self.lockspace, io_timeout_s=int(self.config["io_timeout"]))
        waiting.until(self._joins, DEADLINE_S, f"it joins: see {self.directory}/log")

    def _joins(self) -> bool:
        where = f"{LOCKSPACE}:{self.host_id}:{self.lockspace}:0"
        try:
            self.client("add_lockspace", "-s", where, "-o", self.config["io_timeout"])
        except SanlockError as error:
            if _DISK_TOO_SLOW not in str(error):
                raise
            return False
        return True

    def leave(self) -> None:
        """Leave it, cleanly: sanlock kills whoever still has leases there."""
        self.client("rem_lockspace", "-s", f"{LOCKSPACE}:{self.host_id}:{self.lockspace}:0")

    def said(self) -> str:
        """Return its log."""
        return (self.directory / "log").read_text(errors="replace")

    def status(self) -> facts.Status:
        return facts.parse(self.client("status", "-D"))

    def leases(self) -> list[facts.Held]:
        return self.status().leases

    def held(self, disk: str) -> list[facts.Held]:
        """Return the leases of `disk` that this daemon has given."""
        return [lease for lease in self.leases() if lease.resource == facts.lease_name(disk)]

    def until_free(self, disk: str) -> None:
        """Wait until what this daemon has given of `disk` is given back."""
        waiting.until(lambda: not self.held(disk), DEADLINE_S, f"{disk} is free")

    def lease_file(self, disk: str) -> str:
        return str(self.lease_dir / facts.lease_name(disk))

    def leader(self, disk: str) -> dict[str, str]:
        return facts.leader(self.lease_file(disk), facts.lease_name(disk))

    def hold(self, disk: str, *, shared: bool = False) -> subprocess.Popen[bytes]:
        """Have a stranger take the lease of `disk`, made if it is not there.

        It holds as long as the process lives. Raises SanlockError if sanlock refuses.
        """
        if not os.path.exists(path := self.lease_file(disk)):
            facts.init_lease(path, facts.lease_name(disk))
        where = f"{LOCKSPACE}:{facts.lease_name(disk)}:{path}:0" + (":SH" if shared else "")
        argv = [facts.program(), "client", "command", "-r", where, "-c", "/bin/sleep", "1000000"]
        with tempfile.TemporaryFile() as said:
            holder = subprocess.Popen(
                argv, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL,
                stdout=said, stderr=said,
            )  # fmt: skip
            self._holders.append(holder)

            def decided() -> bool:
                mine = any(lease.pid == holder.pid for lease in self.held(disk))
                return mine or holder.poll() is not None

            waiting.until(decided, DEADLINE_S, "the stranger has it, or is refused")
            if holder.returncode is not None:
                said.seek(0)
                raise SanlockError(said.read().decode())
        return holder


_ROOM_BYTES = 1 << 30


@pytest.fixture(scope="session")
def lease_dirs(require: Callable[[str], str]) -> Iterator[Callable[[], Path]]:
    """Make directories with short names, on a filesystem with direct I/O, for as long as pytest."""
    require("sanlock")
    made: list[Path] = []
    # In memory where it can be: a disk that others keep busy for a second is a loss to them.
    places = ("/dev/shm", "/tmp", "/var/tmp", f"{CHECKOUT}/.cache")
    where = next(path for path in places if _is_direct(path) and _has_room(path))

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="sanlock-", dir=where)))
        return made[-1]

    yield make
    for path in made:
        shutil.rmtree(path)


def _has_room(directory: str) -> bool:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize > _ROOM_BYTES


def _is_direct(directory: str) -> bool:
    try:
        os.close(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def sanlock_host(lease_dirs: Callable[[], Path]) -> Iterator[Daemon]:
    """Share one daemon that has joined its lockspace: none may hurt it, disks are a test's own."""
    directory = lease_dirs()
    with Daemon(directory / "run", directory / "leases") as daemon:
        daemon.join()
        yield daemon


@pytest.fixture(scope="session")
def sanlock_neighbour(sanlock_host: Daemon, lease_dirs: Callable[[], Path]) -> Iterator[Daemon]:
    """Share another host, which has joined the same lockspace: none may hurt it."""
    with Daemon(lease_dirs() / "run", sanlock_host.lease_dir, host_id=2) as daemon:
        daemon.join()
        yield daemon


@pytest.fixture
def sanlock_hosts(lease_dirs: Callable[[], Path]) -> Iterator[Callable[[int], Daemon]]:
    """Give a test hosts of its own, not joined, on one lease directory: `sanlock_hosts(1)`."""
    directory = lease_dirs()
    started: list[Daemon] = []

    def start(host_id: int) -> Daemon:
        place = directory / f"run{len(started)}"
        started.append(Daemon(place, directory / "leases", host_id))
        return started[-1].__enter__()

    yield start
    for daemon in started:
        daemon.__exit__()
