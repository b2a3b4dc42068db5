"""What if a guard's host is cut off? A network namespace that is one cable away from ours.

Takes its end of the cable with it when it goes. Knows nothing of what runs there.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.support import waiting

if TYPE_CHECKING:
    from typing import Self

DEADLINE_S = 30.0
_HOLDER = ("unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec sleep 1000000")


class Apart:
    """A network of its own, a context; `address` is ours as it reaches us, `other` is its own."""

    def __init__(self) -> None:
        number = os.getpid() % (1 << 14) * 4  # of 169.254/16, a part for each process
        self.address, self.other = (
            f"169.254.{(number + at) >> 8}.{(number + at) & 255}" for at in (1, 2)
        )
        self._link = f"apart{os.getpid() % 10**6}"

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(
            _HOLDER, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._holder.stdout
        waiting.readable(self._holder.stdout.fileno(), DEADLINE_S, "there is another network")
        self.prefix = ("nsenter", "--net", "--target", str(self._holder.pid))
        peer = ("type", "veth", "peer", "name", "far", "netns", str(self._holder.pid))
        _run("ip", "link", "add", self._link, *peer)
        _run("ip", "address", "add", f"{self.address}/30", "dev", self._link)
        _run("ip", "link", "set", self._link, "up")
        _run(*self.prefix, "ip", "address", "add", f"{self.other}/30", "dev", "far")
        _run(*self.prefix, "ip", "link", "set", "far", "up")
        return self

    def __exit__(self, *_: object) -> None:
        _run("ip", "link", "delete", self._link)
        self._holder.kill()
        self._holder.wait(DEADLINE_S)
        assert self._holder.stdout
        self._holder.stdout.close()

    def cut(self) -> None:
        """Drop all that comes and goes, without a word to anybody."""
        for chain in ("INPUT", "OUTPUT"):
            _run(*self.prefix, "iptables", "-w", "-I", chain, "-j", "DROP")

    def mend(self) -> None:
        _run(*self.prefix, "iptables", "-w", "-F")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, timeout=DEADLINE_S)
