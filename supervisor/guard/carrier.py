"""How does the guest carry its leases? Descriptors in flight to a socket that it inherits.

Lock descriptors travel as SCM_RIGHTS messages into the receive queue of a
socket whose receiving end the guest has and never reads: they live until the
guest's last thread is gone, also when the guard gets SIGKILL at any line. It
must not know what a descriptor stands for (README, D1).
"""

import _socket
import errno
import posix
from _struct import pack, unpack_from

from lockplugins.contract import LockError, cause
from supervisor.guard.descriptors import raise_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.guard.descriptors import Shelf

# The kernel queues 278 one-descriptor messages at the default buffer size; rotation needs room.
CAPACITY = 256
_DESCRIPTOR_BYTES = 4


class Carrier:
    """Both ends of the socket; the guest inherits `guest_fd`, the guard keeps a copy of it.

    `keep` and `drop` are for one thread (jobs). Nothing closes: the guard's
    death does.
    """

    def __init__(self, shelf: "Shelf") -> None:
        sender, receiver = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._sender = _socket.socket(fileno=shelf.lift(sender.detach()))
        self.guest_fd = shelf.lift(receiver.detach())
        self._receiver = _socket.socket(fileno=self.guest_fd)
        self._sender.setblocking(False)
        self._receiver.setblocking(False)
        self._tokens: dict[str, int] = {}
        self._next_token = 0

    def inode(self) -> int:
        """Return the inode of the guest's end: whoever has it open carries the leases."""
        return posix.fstat(self.guest_fd).st_ino

    def keep(self, name: str, fd: int) -> None:
        """Put a copy of `fd` into the guest's hands; raises LockError when there is no room."""
        token = self._next_token
        if len(self._tokens) >= CAPACITY:
            reason = f"the guest carries {CAPACITY} already"
            raise LockError("carry", f"lease {name}", reason, "detach one first")
        try:
            try:
                self._send(token, fd)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                raise_limit()  # what is in flight counts against the soft limit
                self._send(token, fd)
        except OSError as error:
            raise LockError("carry", f"lease {name}", cause(error), "see ulimit -n") from error
        self._next_token += 1
        self._tokens[name] = token

    def drop(self, name: str) -> None:
        """Take the copy sent under `name` back, never holding less than the rest in flight.

        Each other message is peeked, sent to the tail, then taken from the
        head: a SIGKILL anywhere leaves every one of them in the queue once at
        least. Draining first freed leases under a living guest.
        """
        token = self._tokens.pop(name)
        for _ in range(len(self._tokens) + 1):
            try:
                head, copies = self._receive(_socket.MSG_PEEK)
            except BlockingIOError:
                return  # the guest has taken them out
            try:
                if head != token:
                    self._send(head, copies[0])
            except (OSError, IndexError):
                # No room, or no number for a copy: it stays in flight, unlocked, and holds nothing.
                return
            finally:
                _close(copies)
            _close(self._receive(0)[1])
            if head == token:
                return

    def _send(self, token: int, fd: int) -> None:
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pack("i", fd))
        self._sender.sendmsg([token.to_bytes(8, "little")], [rights])

    def _receive(self, flags: int) -> tuple[int, list[int]]:
        room = _socket.CMSG_SPACE(_DESCRIPTOR_BYTES)
        data, ancillary, _flags, _address = self._receiver.recvmsg(
            8, room, flags | _socket.MSG_CMSG_CLOEXEC
        )
        fds = [unpack_from("i", rights)[0] for _level, _type, rights in ancillary]
        return int.from_bytes(data, "little"), fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        posix.close(fd)
