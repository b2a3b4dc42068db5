"""Who is told what about the launch? The launcher by descriptors, systemd by datagram, people.

Each call writes one short message and fails silently: the guest's fate never
hangs on somebody listening. It must not know the guest's state.
"""

import posix
import select

from lockplugins.contract import shown

_PATIENCE_MS = 1000
_LONGEST = 4096  # PIPE_BUF: where poll(2) says so, a pipe takes as much without waiting


def say(line: str) -> None:
    """Write one line of ours to standard error, unless nobody takes it for a second."""
    tell(2, f"lock-supervisor: {shown(line)}\n")


def tell(fd: int | None, text: str) -> bool:
    """Write `text` to the launcher's descriptor; False when it could not be."""
    if fd is None:
        return False
    try:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if not poll.poll(_PATIENCE_MS):
            return False
        data = text.encode("utf-8", "surrogateescape")
        posix.write(fd, data if len(data) <= _LONGEST else data[: _LONGEST - 1] + b"\n")
    except OSError:
        return False
    return True


def refusal(ready_fd: int | None, code: int, text: str) -> None:
    """Say on standard error, and to a launcher that waits for READY, why there is no guest."""
    say(text)
    tell(ready_fd, f"ERROR {code} {shown(text)}\n")


def notify(state: str) -> None:
    """Send `state` to the service manager, if it asked for it (sd_notify(3))."""
    address = posix.environ.get(b"NOTIFY_SOCKET")
    if not address:
        return
    import _socket  # loaded with the carrier

    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.sendto(state.encode(), b"\0" + address[1:] if address.startswith(b"@") else address)
        sock.close()
    except OSError:
        return
