"""What if a link is slow, and what was sent arrives late? A program: slow.py HOST PORT:PORT.

What comes to the first port goes to the second one of HOST; each line of
standard input is a delay in seconds from now on. What was sent arrives, also
when the sender has given up and gone.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading


class Slow:
    """All connections that go through."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.delay_s = 0.0
        self._never = threading.Event()

    def serve(self, listener: socket.socket, port: int) -> None:
        while True:
            asker, _ = listener.accept()
            try:
                member = socket.create_connection((self._host, port))
            except OSError:
                asker.close()
                continue
            ends = [asker, member]
            for pair in (ends, ends[::-1]):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._never.wait(self.delay_s)
                target.sendall(data)
        self._never.wait(self.delay_s)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def main() -> None:
    slow = Slow(sys.argv[1])
    for pair in sys.argv[2:]:
        port, target = map(int, pair.split(":"))
        listener = socket.create_server(("", port), backlog=64)
        threading.Thread(target=slow.serve, args=(listener, target), daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        slow.delay_s = float(line)


if __name__ == "__main__":
    main()
