"""Does a process stand still, every thread of it?

Reads /proc, and believes nothing that it cannot read. It must not know why anybody asks.
"""

from __future__ import annotations

import os


def why_not(pid: int, init: int) -> str:
    """Return what of the process is not stopped, or may run unheard of, or nothing.

    `init`, if it is another, is that of its PID namespace, in which it has to be alone.
    Raises OSError.
    """
    if init != pid and _read(f"{init}/task/{init}/children").split() != [str(pid)]:
        return "its PID namespace has other processes"
    for task in os.listdir(f"/proc/{pid}/task"):
        state = _read(f"{pid}/task/{task}/stat").rpartition(") ")[2][:1]
        if state != "T":
            return f"its thread {task} is in state {state}, not T"
        if _read(f"{pid}/task/{task}/children").strip():
            return "it has forked"
    return ""


def _read(path: str) -> str:
    with open(f"/proc/{path}", encoding="utf-8", errors="replace") as file:
        return file.read()
