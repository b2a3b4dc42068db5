"""Does libvirt's own lock manager lease this guest's disks? The descriptors it hands on tell.

With lock_manager = "lockd" libvirt registers every QEMU with virtlockd, over a
connection that QEMU inherits: when it closes, virtlockd ends the guest. So
nothing here closes a descriptor, nor a duplicate of one. It must not know who
else would lease them.
"""

from __future__ import annotations

import _socket
import os
import stat

VIRTLOCKD_SOCKET = "virtlockd-sock"


def connection() -> tuple[int, str] | None:
    """Return the inherited descriptor that is connected to virtlockd, and to which socket."""
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        peer = _peer(fd)
        if isinstance(peer, str) and os.path.basename(peer) == VIRTLOCKD_SOCKET:
            return fd, peer
    return None


def _peer(fd: int) -> object:
    """Return the address that a socket is connected to, None for every other descriptor."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
        borrowed = _socket.socket(fileno=fd)
    except OSError:  # the one that listed them, closed again
        return None
    try:
        return borrowed.getpeername()
    except OSError:  # it is not connected
        return None
    finally:
        borrowed.detach()
