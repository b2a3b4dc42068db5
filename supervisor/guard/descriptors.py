"""Which descriptor numbers are the launcher's, which may be ours?

What the launcher passed reaches the guest by number, so ours live at 200 and
above, clear of every number in the guest's argv; and closed standard
descriptors are occupied while we run, or the guest would get one of ours as
its stdin. It must not know what a descriptor is for.
"""

import fcntl
import posix

from lockplugins.contract import ConfigError, LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FIRST_OWN = 200
_ROOM = 64
_LONGEST_NUMBER = 7
_STANDARD = (0, 1, 2)
_DIGITS = b"0123456789"
_ONLY_DIGITS = bytes(c if c in _DIGITS else ord(" ") for c in range(256))
_NO_QUOTES = {ord(c): None for c in "\"'{}[] "}


class Shelf:
    """Where our own descriptors go before the fork.

    `ending` are those that the child closes: the standard ones that the
    launcher had closed, /dev/null here.
    `limits` is the launcher's RLIMIT_NOFILE when it had to be raised. The
    child restores it.
    """

    def __init__(self, argv: "Sequence[str]") -> None:
        self.ending = {fd for fd in _STANDARD if not _is_open(fd)}
        for fd in self.ending:
            _occupy(fd, inheritable=False)
        digits = " ".join(argv).encode("utf-8", "surrogateescape").translate(_ONLY_DIGITS)
        self._taken = {int(run) for run in digits.split() if len(run) <= _LONGEST_NUMBER}
        self.limits: tuple[int, int] | None = None
        if posix.sysconf("SC_OPEN_MAX") < FIRST_OWN + _ROOM:
            self.limits = raise_limit()
            if posix.sysconf("SC_OPEN_MAX") < FIRST_OWN + _ROOM:
                reason = f"RLIMIT_NOFILE is {self.limits[1]}, less than {FIRST_OWN + _ROOM}"
                raise LockError("open", "the guard's descriptors", reason, "raise the hard limit")

    def withhold(self, *fds: int | None) -> "list[int | None]":
        """Take descriptors of the launcher's from the guest; returns where they are now.

        A standard one is /dev/null from then on: were it closed, the guest's next file, or ours,
        would be its output. Raises ConfigError if one is not open.
        """
        given = {fd for fd in fds if fd is not None}
        for fd in given:
            if fd in self.ending or not _is_open(fd):
                raise _not_open("the guard", fd)
        own = {fd: self.lift(fd) for fd in given}
        for fd in given.intersection(_STANDARD):
            _occupy(fd, inheritable=True)
        return [None if fd is None else own[fd] for fd in fds]

    def lift(self, fd: int) -> int:
        """Move `fd` to a number that neither the launcher nor argv uses, close-on-exec."""
        number = FIRST_OWN
        while number in self._taken or _is_open(number):
            number += 1
        try:
            own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, number)
        except OSError:  # the numbers in argv leave no room: they cannot all be descriptors
            own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_OWN)
        posix.close(fd)
        return own


def raise_limit() -> tuple[int, int]:
    """Raise our own soft RLIMIT_NOFILE to the hard one; returns what it was.

    Descriptors in flight count against the sender's soft limit (unix(7), ETOOMANYREFS).
    """
    import resource  # off the launch path where the limit is high enough

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    return limits


def lower_limit(limits: tuple[int, int]) -> None:
    """Give the calling process the launcher's limit back."""
    import resource  # as above

    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def check_named(argv: "Sequence[str]") -> None:
    """Raise ConfigError when argv tells QEMU to use a descriptor that is not open."""
    for argument in argv[1:]:
        if "fd" in argument:
            for fd in _named(argument):
                if not _is_open(fd):
                    raise _not_open(f"the guest with {argument}", fd)


def _named(argument: str) -> "Iterator[int]":
    """Yield the numbers behind fd=, vhostfds=, "fd": and fd: in one argument, and in /dev/fd/N."""
    for word in argument.translate(_NO_QUOTES).split(","):
        equals, colon = word.find("="), word.find(":")
        cut = min(i for i in (equals, colon, len(word)) if i >= 0)
        key, value = word[:cut], word[cut + 1 :]
        for directory in ("/dev/fd/", "/proc/self/fd/"):
            if (value or word).startswith(directory):
                key, value = "fd", (value or word)[len(directory) :]
        if key.replace("_", "").replace("-", "").isalpha() and key.endswith(("fd", "fds")):
            yield from (int(n) for n in value.split(":") if n.isascii() and n.isdigit())


def _not_open(what: str, fd: int) -> ConfigError:
    return ConfigError("start", what, f"descriptor {fd} is not open", "pass it on")


def _occupy(fd: int, *, inheritable: bool) -> None:
    """Put /dev/null at a number that is not open."""
    null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    if null != fd:
        posix.dup2(null, fd)
        posix.close(null)
    posix.set_inheritable(fd, inheritable)


def opened() -> set[int]:
    """Return every descriptor of this process, without what the looking takes."""
    return {fd for fd in map(int, posix.listdir("/proc/self/fd")) if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except (OSError, OverflowError):
        return False
    return True
