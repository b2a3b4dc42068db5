"""What does the table `[sanlock]` say? Checked, with libvirt's words and defaults.

It must not know the daemon.
"""

from __future__ import annotations

from lockplugins.contract import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTORY, HOST_ID, IO_TIMEOUT = "disk_lease_dir", "host_id", "io_timeout"
USER, GROUP = "user", "group"
KEYS = (DIRECTORY, HOST_ID, IO_TIMEOUT, USER, GROUP)
DEFAULT_DIRECTORY = "/var/lib/libvirt/sanlock"
DEFAULT_IO_TIMEOUT_S = 10
LOCKSPACE = "__LIBVIRT__DISKS__"

_NUMBERS = {HOST_ID: range(1, 2001), IO_TIMEOUT: range(256)}  # one byte on the storage
_LONGEST = 900  # of what sanlock takes for a path, leases and what they are made under included
# In a name they part it from the next, in sanlock's own words for what a process holds.
PARTING = frozenset(" :\\")


def allowed(key: str, value: str) -> str:
    """Return what `key` may be if `value` is not that, else nothing."""
    if key in _NUMBERS:
        numbers = _NUMBERS[key]
        is_one = value.isascii() and value.isdecimal() and int(value) in numbers
        return "" if is_one else f"a number from {numbers[0]} to {numbers[-1]}"
    if key == DIRECTORY and (
        not value.startswith("/")
        or PARTING & set(value)
        or len(value.encode(errors="surrogateescape")) > _LONGEST
    ):
        return f"an absolute directory of at most {_LONGEST} bytes, without blank, colon, backslash"
    return ""


class Settings:
    """The table's values; raises ConfigError. `uid`, `gid`: -1 leaves the files' as they are."""

    def __init__(self, config: Mapping[str, str]) -> None:
        for key, value in config.items():
            if words := allowed(key, value):
                raise _wrong(key, value, "unusable value", f"allowed: {words}")
        self.directory = config.get(DIRECTORY, DEFAULT_DIRECTORY)
        self.lockspace_path = self.path_of(LOCKSPACE)
        self.io_timeout_s = int(config.get(IO_TIMEOUT, "0"))  # 0: the daemon's own
        self.host_id = int(config.get(HOST_ID, "0"))  # 0: not set, enough to look
        self.uid, self.gid = _number(USER, config.get(USER)), _number(GROUP, config.get(GROUP))
        self.mode = 0o600 if self.gid < 0 else 0o660

    def path_of(self, name: str) -> str:
        """Return where the lockspace, or the lease of that name, is."""
        return f"{self.directory.rstrip('/')}/{name}"

    @property
    def joining(self) -> str:
        """Return in words how long it takes to join."""
        io_timeout_s = self.io_timeout_s or DEFAULT_IO_TIMEOUT_S
        usual, killed = 2 * io_timeout_s + 1, 11 * io_timeout_s + 61
        return (
            f"lockspace {self.lockspace_path}, which takes {usual} s to join, "
            f"or {killed} s where sanlock was killed"
        )

    def check_host_id(self) -> None:
        """Raise ConfigError if there is none."""
        if not self.host_id:
            why, advice = "host_id is not set", "give every host one of its own, from 1 to 2000"
            raise ConfigError("use", "plugin sanlock", why, advice)


def _number(key: str, name: str | None) -> int:
    """Return the number of a user or group, by name or number."""
    if name is None or name.isdecimal():
        return -1 if name is None else int(name)
    import grp
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid if key == USER else grp.getgrnam(name).gr_gid
    except KeyError as error:
        why, advice = "this host knows no such name", "give one that it knows, or a number"
        raise _wrong(key, name, why, advice) from error


def _wrong(key: str, value: str, reason: str, advice: str) -> ConfigError:
    return ConfigError("use", f"{key} = {value} of plugin sanlock", reason, advice)
