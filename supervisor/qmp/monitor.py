"""What does our private QMP monitor say? Asks QEMU without ever blocking on it.

Negotiates on first use: until then QEMU sends nothing but its greeting. Every
question has a time limit, since a stopped QEMU never answers. It must not
know what the answers are good for.
"""

import errno
import os

from supervisor.qmp.wire import MAX_REPLY_BYTES, READABLE, Framer, WireError, encode, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.qmp.wire import Poller

    Then = Callable[[object, str | None], None]


class Monitor:
    """A QMP client on the monitor's descriptor; `then(result, error)` gets each answer.

    `listeners` hear what QEMU says unasked, as (event, data); `on_close()` that it says no more.
    """

    def __init__(self, fd: int, loop: "Poller") -> None:
        self._fd = fd
        self._loop = loop
        self._framer = Framer(MAX_REPLY_BYTES)
        self._waiting: dict[int, Then] = {}
        self._next_id = 0
        self._gone = False
        self.listeners: list[Callable[[str, dict[str, object]], None]] = []
        self.on_close: Callable[[], None] = lambda: None
        os.set_blocking(fd, False)
        loop.watch(fd, READABLE, lambda _: self.drain())
        self.execute("qmp_capabilities", {}, lambda _result, _error: None, float("inf"))

    def execute(
        self, command: str, arguments: dict[str, object], then: "Then", timeout_s: float
    ) -> None:
        """Ask QEMU; `then(None, reason)` when it refuses, is gone, or is silent for too long."""
        number = self._next_id
        self._next_id += 1
        message = encode({"execute": command, "arguments": arguments, "id": number})
        if self._gone or not self._send(message):
            then(None, "its monitor is closed")
            return
        self._waiting[number] = then
        self._loop.at(
            f"monitor {number}",
            now() + timeout_s,
            lambda: self._answer(number, None, f"QEMU did not answer {command} in {timeout_s:g} s"),
        )

    def _send(self, message: bytes) -> bool:
        try:
            # Far below the socket's buffer: whole, or QEMU has not read for very long.
            return os.write(self._fd, message) == len(message)
        except OSError:
            return False

    def drain(self) -> None:
        """Take up all that QEMU has said so far."""
        while not self._gone and self._read():
            pass

    def _read(self) -> bool:
        """Take up some of it; returns whether there was any."""
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
            data = b""
        if not data:
            self._close("the guest closed it")
            return False
        self._framer.feed(data)
        try:
            while (message := self._framer.next()) is not None:
                self._take(message)
        except WireError as error:
            self._close(str(error))
        return True

    def _take(self, message: dict[str, object]) -> None:
        number = message.get("id")
        if isinstance(number, int):
            error = message.get("error")
            reason = str(error.get("desc")) if isinstance(error, dict) else None
            self._answer(number, message.get("return"), reason)
        elif (event := message.get("event")) is not None:
            data = message.get("data")
            for listener in self.listeners:
                listener(str(event), data if isinstance(data, dict) else {})

    def _answer(self, number: int, result: object, reason: str | None) -> None:
        self._loop.cancel(f"monitor {number}")
        then = self._waiting.pop(number, None)
        if then is not None:
            then(result, reason)

    def _close(self, reason: str) -> None:
        self._gone = True
        self._loop.unwatch(self._fd)
        for number in list(self._waiting):
            self._answer(number, None, reason)
        self.on_close()
