"""Who is the parent of a private libvirt's processes? Sets up its host, starts daemons, reaps.

Run in mount and UTS namespaces of its own, as `reaper.py DIRECTORY HOSTNAME`. Every line of
standard input is a JSON array: a file for the output, and an argv to start; the answer is its
pid. What the daemons leave to themselves becomes its child and is reaped at once: libvirt
waits until a QEMU that it has killed is reaped, and process 1 may take its time. When the input
ends, because the test is over or dead, everything is killed; it ends last. It must not
know what is tested.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

PR_SET_CHILD_SUBREAPER = 36
PRIVATE = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
    "run": "/run/libvirt",
    "hosts": "/etc/hosts",
    "passwd": "/etc/passwd",
    "group": "/etc/group",
    "kvm": "/dev/kvm",
}


def _become_host(directory: str, hostname: str) -> None:
    socket.sethostname(hostname)
    for name, place in PRIVATE.items():
        if not os.path.exists(f"{directory}/{name}"):
            continue
        if not os.path.exists(place):
            os.makedirs(place)
        subprocess.run(["mount", "--bind", f"{directory}/{name}", place], check=True, timeout=30)


def _reap(_number: int, _frame: FrameType | None) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _start(log: str, *argv: str) -> int:
    to_log = (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    no_input = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
    actions = (no_input, to_log, (os.POSIX_SPAWN_DUP2, 1, 2))
    return os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)


def _kill_all() -> None:
    """Kill the children, and their children as those become ours, until there are none."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    children = f"/proc/self/task/{os.getpid()}/children"
    while True:
        with open(children, encoding="ascii") as file:
            for pid in map(int, file.read().split()):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def main() -> None:
    _become_host(*sys.argv[1:])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    signal.signal(signal.SIGCHLD, _reap)
    for line in sys.stdin:
        print(_start(*json.loads(line)), flush=True)
    _kill_all()


if __name__ == "__main__":
    main()
