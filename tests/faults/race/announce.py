#!/usr/bin/python3 -IS
"""When may a guest of the race begin? QEMU's name, by which supervisors start it; a program.

Tells the judge, waits until he has written that down, and becomes QEMU: so no
guest runs that he has not seen begin. It must not know who started it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

JUDGE, RUN, QEMU = "RACE_JUDGE", "RACE_RUN", "RACE_QEMU"
GO = b"go"


def main() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as judge:
        judge.connect(os.environ[JUDGE])
        judge.send(os.environ[RUN].encode())
        if judge.recv(len(GO)) != GO:
            sys.exit("the judge has not seen it")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(os.environ[QEMU], sys.argv)


if __name__ == "__main__":
    main()
