"""What if a member hears late of what it was asked, or is not heard? A way to it like that."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from tests.support import waiting

if TYPE_CHECKING:
    from typing import Self

    from tests.support.etcd import Member

DEADLINE_S = 30.0
_HOST = "127.0.0.1"


class Late:
    """Another way to a member, on which what is asked may arrive late; a context.

    While `holds` is set, what has those bytes in it, or comes after that on the
    same connection, gets no answer, and waits for `deliver`. While `swallows`
    is, it arrives, and its answer does not.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._listener = socket.create_server((_HOST, 0))
        self.url = f"http://{_HOST}:{self._listener.getsockname()[1]}"
        self.holds: bytes | None = None
        self.swallows: bytes | None = None
        self.swallowed = 0
        self._mute: set[socket.socket] = set()
        self._held: list[tuple[socket.socket, bytes]] = []
        self._open = [self._listener]
        self._answered = threading.Semaphore(0)

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                asker, _ = self._listener.accept()
                member = socket.create_connection((self._member.host, self._member.port))
                self._open += [asker, member]
                for each in (self._ask, self._answer):
                    threading.Thread(target=each, args=[asker, member], daemon=True).start()

    def _ask(self, asker: socket.socket, member: socket.socket) -> None:
        held = b""
        with contextlib.suppress(OSError):
            while data := asker.recv(1 << 16):
                if held or (self.holds is not None and self.holds in data):
                    held += data
                else:
                    if self.swallows is not None and self.swallows in data:
                        self._mute.add(asker)
                    member.sendall(data)
        if held:
            self._held.append((member, held))

    def _answer(self, asker: socket.socket, member: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := member.recv(1 << 16):
                self._answered.release()
                if asker in self._mute:
                    self.swallowed += 1
                    continue
                with contextlib.suppress(OSError):
                    asker.sendall(data)

    def deliver(self, most: int = 1) -> None:
        """Have what was held arrive, as far as `most`; returns when each of it is answered."""
        self.holds = None
        waiting.until(lambda: len(self._held) >= 1, DEADLINE_S, "its asker has given up")
        while self._answered.acquire(blocking=False):
            pass
        for member, data in self._held[:most]:
            member.sendall(data)
            assert self._answered.acquire(timeout=DEADLINE_S)
