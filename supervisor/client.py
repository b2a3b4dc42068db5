"""How does another process talk to a guest's guard?

A synchronous client of the control pipe, which speaks QMP's wire format:
greeting, commands, replies, events; a pidfd may ride on a reply. Also GetChild,
which believes the pid file when the pipe is silent. It must not know which
directory belongs to which guest, nor what a person typed.
"""

from __future__ import annotations

import _socket
import array
import json
import os
import select
import struct
import time

from lockplugins import contract
from lockplugins.contract import LockError, cause
from supervisor import records, rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

ANSWER_S = 1.0

_CHUNK = 1 << 16
_FDS_A_MESSAGE = 8
_LONGEST_MS = 1 << 30  # 12 days; poll(2) takes an int
_FIELDS = ("verb", "name", "reason", "advice")


class NoAnswerError(LockError):
    """The guard could not be asked or did not answer in time; nothing follows from it."""


class Child:
    """The guest's process; `pidfd`, when asked for, is the caller's to close.

    `state` is the guest's in cli.md's words, empty if its guard did not say.
    """

    __slots__ = ("pid", "pidfd", "start_time", "state")

    def __init__(
        self, pid: int, start_time: int, pidfd: int | None = None, state: str = ""
    ) -> None:
        self.pid = pid
        self.start_time = start_time
        self.pidfd = pidfd
        self.state = state

    def __repr__(self) -> str:
        return f"<process {self.pid}, {self.state or 'of a silent supervisor'}>"


class Client:
    """One connection to a guard; owns its socket, and received descriptors until they are taken.

    Deadlines are instants of time.monotonic(), None for ever. `events` holds
    the events that came while a reply was awaited. Waiting ends with
    BrokenPipeError when nobody reads `reader_fd`, where it is given.
    """

    def __init__(self, sock: _socket.socket, guest: str) -> None:
        self.events: list[dict[str, object]] = []
        self.reader_fd: int | None = None
        self._sock = sock
        self._guest = guest
        self._buffer = b""
        self._fds: list[int] = []
        self._last_id = 0
        self._greeted = False
        self._send({"execute": "qmp_capabilities"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()
        while self._fds:
            os.close(self._fds.pop())

    def execute(
        self, command: str, arguments: dict[str, object] | None = None, timeout_s: float = ANSWER_S
    ) -> object:
        """Return what `command` returns; raises the guard's error, or NoAnswerError."""
        deadline = time.monotonic() + timeout_s
        self.send(command, arguments)
        return self.receive(deadline)

    def send(self, command: str, arguments: dict[str, object] | None = None) -> None:
        """Send a command; `receive` gets its reply."""
        self._last_id += 1
        self._send({"execute": command, "arguments": arguments or {}, "id": self._last_id})

    def receive(self, deadline: float | None) -> object:
        """Return what the command sent last returns."""
        while True:
            message = self._next(deadline)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise _error_of(self._guest, message["error"])
            elif message.get("id") == self._last_id:  # an older one's came too late
                return message.get("return")

    def next_event(self, deadline: float | None) -> dict[str, object]:
        """Return the next event; raises NoAnswerError at the deadline or the connection's end."""
        while not self.events:
            message = self._next(deadline)
            if "event" in message:
                self.events.append(message)
        return self.events.pop(0)

    def take_fd(self) -> int | None:
        """Return the oldest descriptor received; it is the caller's now."""
        return self._fds.pop(0) if self._fds else None

    def _send(self, message: dict[str, object]) -> None:
        try:
            self._sock.sendall(json.dumps(message).encode() + b"\r\n")
        except OSError as error:
            raise _no_answer(self._guest, error) from error

    def _next(self, deadline: float | None) -> dict[str, object]:
        """Return the next message after the greeting."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                self._fill(deadline)
                continue
            self._buffer = rest
            try:
                message = json.loads(line)
            except ValueError as error:
                raise _no_answer(self._guest, "it does not speak JSON") from error
            if not isinstance(message, dict):
                raise _no_answer(self._guest, "it sent no JSON object")
            if self._greeted:
                return message
            self._greeted = True

    def _fill(self, deadline: float | None) -> None:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not is_readable(self._sock.fileno(), left_s, self.reader_fd):
            raise _no_answer(self._guest, "it did not answer in time")
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                _CHUNK, _socket.CMSG_SPACE(_FDS_A_MESSAGE * 4), _socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise _no_answer(self._guest, error) from error
        for level, kind, payload in ancillary:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds.extend(fds)
        if not data:
            raise _no_answer(self._guest, "it closed the connection")
        self._buffer += data


def connect(path: str, timeout_s: float = ANSWER_S) -> Client:
    """Connect to the guard of the runtime directory `path`; raises NoAnswerError."""
    guest = os.path.basename(path)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    seconds = int(timeout_s)
    limit = struct.pack("ll", seconds, int((timeout_s - seconds) * 1_000_000))
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)  # connect(2) heeds it too
        dir_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{dir_fd}/{rundir.CONTROL}")
        finally:
            os.close(dir_fd)
    except OSError as error:
        sock.close()
        raise _no_answer(guest, error) from error
    try:
        return Client(sock, guest)
    except NoAnswerError:
        sock.close()
        raise


def get_child(path: str, *, pidfd: bool = False, answer_s: float = ANSWER_S) -> Child:
    """Return the child of the guard of `path` (GetChild), asking the guard first.

    When it does not answer in time, the files are believed as far as
    `recorded_child` believes them. Raises the guard's error, or NoAnswerError.
    """
    try:
        with connect(path, answer_s) as client:
            answer = client.execute("query-child", {"pidfd": pidfd}, answer_s)
            if not isinstance(answer, dict):
                raise _no_answer(os.path.basename(path), "it named no child")
            pid, start_time = int(answer["pid"]), int(answer["start_time"])
            child = Child(pid, start_time, client.take_fd(), str(answer.get("state", "")))
    except NoAnswerError:
        recorded = recorded_child(path)
        if recorded is None:
            raise
        child = recorded
    if not pidfd and child.pidfd is not None:
        os.close(child.pidfd)
        child.pidfd = None
    return child


def recorded_child(path: str) -> Child | None:
    """Return the child that the files of `path` name, None when they cannot be believed.

    They are while supervisor.pid is locked, child.pid and guest.json agree,
    and pid, start time and boot are those of a living process.
    """
    guest = records.read_guest(path)
    try:
        with open(os.path.join(path, rundir.CHILD_PID), encoding="ascii") as file:
            pid = int(file.read())
        guarded = rundir.is_guarded(path)
    except (OSError, ValueError):
        return None
    if not guarded or guest is None or guest.get("child_pid") != pid:
        return None
    pidfd = open_process(guest, "child")
    return None if pidfd is None else Child(pid, int(str(guest["child_start_time"])), pidfd)


def open_process(guest: dict[str, object], who: str) -> int | None:
    """Return a pidfd of the "child" or "supervisor" that guest.json names; None when it is gone.

    A zombie is gone, unless a thread of it still runs: its pidfd says so.
    """
    pid, start_time = guest.get(f"{who}_pid"), guest.get(f"{who}_start_time")
    if not isinstance(pid, int) or guest.get("boot_id") != rundir.boot_id():
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    same = rundir.start_time(pid) == start_time  # looked at with the pidfd open: no reuse between
    if same and not is_readable(pidfd, 0.0):
        return pidfd
    os.close(pidfd)
    return None


def is_readable(fd: int, within_s: float | None, reader_fd: int | None = None) -> bool:
    """Is `fd` readable, or does it become so in time (None: wait for ever)?

    Raises BrokenPipeError when nobody reads `reader_fd` any more.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if reader_fd is not None:
        poll.register(reader_fd, 0)  # trouble is told unasked
    ready = dict(poll.poll(None if within_s is None else min(within_s * 1000, _LONGEST_MS)))
    if reader_fd in ready:
        raise BrokenPipeError
    return bool(ready)


def _no_answer(guest: str, reason: OSError | str) -> NoAnswerError:
    name, advice = f"the supervisor of guest {guest}", "see status; kill ends it all the same"
    if isinstance(reason, PermissionError):
        advice = "only root and its own user may"
    if isinstance(reason, OSError):
        reason = cause(reason)
    return NoAnswerError("ask", name, reason, advice)


def _error_of(guest: str, wire: object) -> LockError:
    """Rebuild the guard's error: its class where the contract has it, its fields, its exit code."""
    wire = wire if isinstance(wire, dict) else {}
    fields = wire.get("fields")
    if not isinstance(fields, dict):
        return LockError("ask", f"the supervisor of guest {guest}", str(wire.get("desc")))
    kind = getattr(contract, f"{wire.get('class')}Error", LockError)
    error: LockError = kind(*(str(fields.get(field, "")) for field in _FIELDS))
    error.exit_code = int(fields.get("exit_code", error.exit_code))
    return error
