"""What else runs a command under a lock? Argument prefixes, and the daemons some of them need.

A rival that this machine lacks is listed in `missing` and left out of every
table. Measures nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from tests.bench.starting import DEADLINE_S, BenchError, tool
from tests.support import sanlock, waiting
from tests.support import sanlock_facts as facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.starting import Lab

FLOCK = "flock"
FLOCK_CLOSE = "flock -o"
FLOCK_EXEC = "flock -F"
SETLOCK = "setlock"
TINI = "tini -s"
SANLOCK = "sanlock client command"
ETCDCTL = "etcdctl lock"

_RESOURCES = 8
_FAILURES = (BenchError, facts.SanlockError, OSError, AssertionError, subprocess.TimeoutExpired)


class Rivals:
    """The rivals of this machine; their daemons live as long as `lab`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.missing: list[str] = []
        self.versions: list[str] = []
        self.sanlock_pid = self.etcd_pid = 0
        self.sanlock_status: list[str] = []
        self.etcdctl_get: list[str] = []
        self._prefixes: dict[str, Callable[[str], list[str]]] = {}
        self._turn = 0
        self._log_fd = os.open(lab.path("daemons"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._add_programs()
        for name, start in ((SANLOCK, self._start_sanlock), (ETCDCTL, self._start_etcd)):
            try:
                start()
            except _FAILURES as error:
                self.missing.append(f"{name}: {error}")

    def has(self, name: str) -> bool:
        return name in self._prefixes

    def names(self) -> list[str]:
        return list(self._prefixes)

    def prefix(self, name: str, lock: str) -> list[str]:
        """Return what goes before the command; rivals with one `lock` exclude each other."""
        return self._prefixes[name](lock)

    def _add_programs(self) -> None:
        flock = self._find("flock", FLOCK)
        if flock:
            self._prefixes[FLOCK] = lambda lock: [flock, self.lab.image(lock)]
            self._prefixes[FLOCK_CLOSE] = lambda lock: [flock, "-o", self.lab.image(lock)]
            self._prefixes[FLOCK_EXEC] = lambda lock: [flock, "-F", self.lab.image(lock)]
        setlock = self._find("setlock", SETLOCK)
        if setlock:
            self._prefixes[SETLOCK] = lambda lock: [setlock, self.lab.image(lock)]
        tini = self._find("tini", TINI)
        if tini:
            self._prefixes[TINI] = lambda _lock: [tini, "-s", "--"]

    def _find(self, program: str, name: str) -> str:
        path = shutil.which(program)
        if path is None:
            self.missing.append(f"{name}: {program} is not installed")
            return ""
        if program != "setlock":  # it has no option that says so
            said = tool([path, "--version"], self.lab.env).splitlines()[0]
            self.versions.append(said)
        return path

    def _start_sanlock(self) -> None:
        """Run a daemon without watchdog and privileges, and join a lockspace of our own."""
        lab = self.lab
        run_dir, lockspace, leases = map(lab.path, ("sanlock", "lockspace", "leases"))
        lab.env |= sanlock.environment(run_dir)
        os.mkdir(run_dir)
        facts.init_lockspace(lockspace, "bench")
        for number in range(_RESOURCES):
            facts.init_lease(leases, f"r{number}", "bench", number * facts.FILE_BYTES)
        daemon = lab.spawn(sanlock.daemon_argv(), {2: self._log_fd})
        waiting.until(lambda: sanlock.answers(lab.env), DEADLINE_S, "sanlock")
        joining = ("-s", f"bench:1:{lockspace}:0", "-o", str(facts.IO_TIMEOUT_S))
        facts.run(lab.env, "client", "add_lockspace", *joining)
        self.versions.append(f"sanlock {facts.run(lab.env, 'version').strip()}")
        client = [facts.program(), "client"]

        def prefix(_lock: str) -> list[str]:
            # The daemon frees a lease a little after its process: each time another one.
            self._turn = (self._turn + 1) % _RESOURCES
            where = f"bench:r{self._turn}:{leases}:{self._turn * facts.FILE_BYTES}"
            return [*client, "command", "-r", where, "-c"]

        self._prefixes[SANLOCK] = prefix
        self.sanlock_status = [*client, "status"]
        self.sanlock_pid = daemon.pid

    def _start_etcd(self) -> None:
        """Run a server of one member on loopback ports."""
        lab, server, client = self.lab, self._program("etcd"), self._program("etcdctl")
        urls, peers = (f"http://127.0.0.1:{port}" for port in _free_ports())
        argv = [
            server, "--data-dir", lab.path("etcd"), "--log-level", "error",
            "--listen-client-urls", urls, "--advertise-client-urls", urls,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"default={peers}",
        ]  # fmt: skip
        daemon = lab.spawn(argv, {2: self._log_fd})
        lab.env |= {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": urls}
        health = [client, "endpoint", "health"]
        waiting.until(lambda: _succeeds(health, lab.env), DEADLINE_S, "etcd is healthy")
        self.versions.append(tool([server, "--version"], lab.env).splitlines()[0])
        self._prefixes[ETCDCTL] = lambda lock: [client, "lock", lock, "--"]
        self.etcdctl_get = [client, "get", "bench"]
        self.etcd_pid = daemon.pid

    def etcd_keys(self, lock: str) -> int:
        """Count who has or waits for an etcd lock."""
        client = self._program("etcdctl")
        keys = tool([client, "get", "--prefix", "--keys-only", f"{lock}/"], self.lab.env)
        return len(keys.split())

    def _program(self, name: str) -> str:
        path = shutil.which(name)
        if path is None:
            raise BenchError(f"{name} is not installed")
        return path


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _succeeds(argv: list[str], env: dict[str, str]) -> bool:
    done = subprocess.run(
        argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    return done.returncode == 0
