"""In which networks do the race's members and hosts live? One namespace each, joined by a bridge.

Made in a network namespace of the race's own, which takes all of it with it. It
must not know what runs there.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DEADLINE_S = 30.0
BRIDGE = "lab"
_NET = "10.77.0"
_HOLDER = "hostname {name} && ip link set lo up && echo $$ && exec sleep infinity"


class Node:
    """A machine as far as its network, its name and its clocks go; `address` is its only one.

    `booted_s`: its CLOCK_BOOTTIME and CLOCK_MONOTONIC are that many seconds ahead of ours. `env`
    is what its programs have besides ours.
    """

    def __init__(self, name: str, number: int, booted_s: int = 0) -> None:
        self.name = name
        self.address = f"{_NET}.{number}"
        self.env: dict[str, str] = {}
        clocks = ["--time", f"--boottime={booted_s}", f"--monotonic={booted_s}"]
        self._namespaces = ["--net", "--uts", *(["--time"] if booted_s else [])]
        unshare = ["--net", "--uts", *(clocks if booted_s else []), "--fork", "--kill-child"]
        self._holder = subprocess.Popen(
            ["unshare", *unshare, "sh", "-c", _HOLDER.format(name=name)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        waiting.readable(self._holder.stdout.fileno(), DEADLINE_S, f"{name} is there")
        self._pid = self._holder.stdout.readline().decode().strip()
        veth = f"v-{name}"
        run("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", self._pid)
        run("ip", "link", "set", veth, "master", BRIDGE, "up")
        run(*self.argv("ip", "address", "add", f"{self.address}/24", "dev", "eth0"))
        run(*self.argv("ip", "link", "set", "eth0", "up"))

    def argv(self, *command: str) -> list[str]:
        """Return what becomes `command` there, in the same process."""
        return ["nsenter", "--target", self._pid, *self._namespaces, *command]

    def start(self, *command: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Start a program there; its pid is ours to signal."""
        env = {**os.environ, **self.env, **popen.pop("env", {})}
        return subprocess.Popen(self.argv(*command), env=env, **popen)

    @contextmanager
    def cut(self, chains: tuple[str, ...], peer: Node | None = None) -> Iterator[None]:
        """Drop what arrives (INPUT), or what leaves (OUTPUT), or what is a peer's of it."""
        rules = []
        for chain in chains:
            inward = chain == "INPUT"
            whose = ["-s" if inward else "-d", peer.address] if peer else []
            rules.append([chain, "-i" if inward else "-o", "eth0", *whose, "-j", "DROP"])
        try:
            for rule in rules:
                run(*self.argv("iptables", "-w", "-A", *rule))
            yield
        finally:
            for rule in rules:
                subprocess.run(
                    self.argv("iptables", "-w", "-D", *rule), check=False, timeout=DEADLINE_S
                )


def make_bridge() -> None:
    """Join what comes; we ourselves are on it, and can reach everybody who is not cut off."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{_NET}.254/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL)
