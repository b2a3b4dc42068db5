"""What did a process get from who started it? All that /proc shows, in a form to compare.

Reads from outside, so that asking changes nothing. Knows nothing of the
supervisor.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_KCMP, _KCMP_FILE = 312, 0  # kcmp(2) on x86-64

# What /proc/PID/status says of the process itself, and not of how far it has come.
_STATUS = (
    "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Cpus_allowed", "Mems_allowed",
    "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt",
    "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
)  # fmt: skip
# Fields of /proc/PID/stat, numbered as in proc_pid_stat(5).
_STAT = {
    "pgrp": 5, "session": 6, "tty_nr": 7, "tpgid": 8, "priority": 18, "nice": 19,
    "exit_signal": 38, "rt_priority": 40, "policy": 41,
}  # fmt: skip
_FILES = ("environ", "limits", "oom_score_adj", "coredump_filter", "personality", "timerslack_ns")
_LINKS = ("cwd", "root", "ns/mnt", "ns/net", "ns/user", "ns/uts", "ns/ipc", "ns/cgroup")


def read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


def status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status by field."""
    pairs = (line.partition(":") for line in read(pid, "status").decode().splitlines())
    return {name: value.strip() for name, _, value in pairs}


def signals(pid: int, name: str) -> set[int]:
    """Return the signals in SigBlk, SigIgn, SigCgt, SigPnd or ShdPnd."""
    mask = int(status(pid)[name], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def stat(pid: int) -> dict[str, int]:
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return {name: int(fields[number - 3]) for name, number in _STAT.items()}


def inherited(pid: int, launched: int) -> dict[str, object]:
    """Return what of a process its launcher decided, descriptors left out.

    `launched` is the process that the launcher became: 0 stands for it where
    it leads a process group or session, for comparisons.
    """
    found: dict[str, object] = {name: read(pid, name) for name in _FILES}
    found |= {name: os.readlink(f"/proc/{pid}/{name}") for name in _LINKS}
    said = status(pid)
    found |= {name: said[name] for name in _STATUS}
    return found | {name: 0 if number == launched else number for name, number in stat(pid).items()}


def descriptors(pid: int) -> dict[int, tuple[str, bytes]]:
    """Return every open descriptor: what it is, and its offset, flags and inode.

    One that is closed meanwhile is left out.
    """
    found = {}
    for fd, link in links(pid).items():
        with suppress(FileNotFoundError):
            found[fd] = (link, read(pid, f"fdinfo/{fd}"))
    return found


def links(pid: int) -> dict[int, str]:
    """Return what every open descriptor is; one that is closed meanwhile is left out."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def same_file(pid: int, other: int, fd: int) -> bool:
    """Is descriptor `fd` of both processes one open file description (kcmp(2))?"""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.syscall(_KCMP, pid, other, _KCMP_FILE, fd, fd)
    assert answer >= 0, f"kcmp: {os.strerror(ctypes.get_errno())}"
    return bool(answer == 0)
