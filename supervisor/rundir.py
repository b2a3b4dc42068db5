"""Which files does a guest's runtime directory hold, and is its guard alive?

`<base>/<uuid>/`, mode 0700: `supervisor.pid` (locked while the guard lives),
`child.pid`, `guest.json`, `control`. The guard writes them, everyone reads
them. It knows nothing of leases or of the control pipe's language. Imported on
the guard's launch path: builtin modules only (README, D2).
"""

import errno
import fcntl
import os
from _struct import pack, unpack

from lockplugins.contract import LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SUPERVISOR_PID = "supervisor.pid"
CHILD_PID = "child.pid"
GUEST_JSON = "guest.json"
CONTROL = "control"
FILES = (CONTROL, GUEST_JSON, CHILD_PID, SUPERVISOR_PID)

_FLOCK = "hhqqi4x"
_CREATE_ATTEMPTS = 100
_NOT_PERMITTED = (errno.EACCES, errno.EPERM)


class RundirError(LockError):
    """The runtime directory cannot be used; exit code 111."""


class NoRundirError(RundirError):
    """There is no place for a runtime directory; exit code 2."""

    exit_code = 2


class SupervisedError(RundirError):
    """A living guard has this uuid in this runtime directory; exit code 110."""

    exit_code = 110


def default_base() -> str:
    """Return the runtime directory of this user; raises NoRundirError when there is none."""
    if os.geteuid() == 0:
        return "/run/lock-supervisor"
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return base + "/lock-supervisor"
    raise NoRundirError(
        "choose",
        "a runtime directory",
        "not root and XDG_RUNTIME_DIR is not set",
        "give one with --runtime-dir",
    )


def as_json(value: object) -> str:
    """Render None, bool, int, float, str, list, tuple and dict as ASCII JSON."""
    if isinstance(value, str):
        return _quoted(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        items = (f"{_quoted(key)}: {as_json(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_json, value)) + "]"
    raise TypeError(type(value))


def _quoted(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    from _json import encode_basestring_ascii  # 0.3 ms, for the odd name alone (D2)

    return str(encode_basestring_ascii(text))


def boot_id() -> str:
    """Return the kernel's random identity of this boot."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def start_time(pid: int) -> int | None:
    """Return a process's start in clock ticks since boot, None when there is no such process.

    Field 22 of /proc/PID/stat (proc_pid_stat(5)); with the boot id it makes a pid unique.
    """
    try:
        stat = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat[stat.rindex(")") + 2 :].split()[19])


class GuardDir:
    """The guard's own runtime directory, from `claim` to `remove`.

    Owns `dir_fd` and `lock_fd` (an OFD write lock on the whole of
    supervisor.pid); both close with the process, which ends the claim.
    """

    def __init__(self, path: str, dir_fd: int, lock_fd: int) -> None:
        self.path = path
        self.dir_fd = dir_fd
        self.lock_fd = lock_fd

    @classmethod
    def claim(cls, base: str, uuid: str) -> "GuardDir":
        """Create and lock the directory of `uuid`; clears what a dead guard left.

        Raises SupervisedError while another guard has it, RundirError when
        the filesystem refuses; then nothing of ours is left there.
        """
        path = os.path.join(os.path.abspath(base), uuid)
        try:
            os.makedirs(base, 0o700, exist_ok=True)
            for _ in range(_CREATE_ATTEMPTS):
                if (claimed := _try_claim(path)) is not None:
                    break
            else:
                raise RundirError("claim", f"runtime directory {path}", "it keeps disappearing")
        except OSError as error:
            raise _failed("create", f"runtime directory {path}", error) from error
        guard_dir = cls(path, *claimed)
        try:
            for name in (CONTROL, GUEST_JSON, CHILD_PID):
                guard_dir._unlink(name)
            os.ftruncate(guard_dir.lock_fd, 0)
            os.pwrite(guard_dir.lock_fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            guard_dir.remove()
            raise _failed("write", f"{path}/{SUPERVISOR_PID}", error) from error
        return guard_dir

    def publish(self, name: str, text: str) -> None:
        """Put `text` into the file `name`, whole or not at all; raises RundirError."""
        temporary = name + ".new"
        try:
            fd = os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC,
                0o600,
                dir_fd=self.dir_fd,
            )
            try:
                data = text.encode()
                while data:
                    data = data[os.write(fd, data) :]
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
        except OSError as error:
            self._unlink(temporary)
            raise _failed("write", f"{self.path}/{name}", error) from error

    def control_path(self) -> str:
        """Return a path for bind(2) that fits sun_path however long the directory's is."""
        return f"/proc/self/fd/{self.dir_fd}/{CONTROL}"

    def remove(self) -> None:
        """Remove the directory; what cannot be removed is left to the next command."""
        for name in FILES:
            self._unlink(name)
        try:
            os.rmdir(self.path)
        except OSError:
            return

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.dir_fd)
        except OSError:  # not there, or a read-only filesystem: the next command's to remove
            return


def _try_claim(path: str) -> tuple[int, int] | None:
    """Open and lock once; None when a remover was faster."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        return None
    try:
        dir_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock_fd = os.open(SUPERVISOR_PID, flags, 0o600, dir_fd=dir_fd)
    except FileNotFoundError:
        os.close(dir_fd)
        return None
    except OSError:
        os.close(dir_fd)
        _rmdir_if_empty(path)
        raise
    try:
        fcntl.fcntl(lock_fd, fcntl.F_OFD_SETLK, pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
    except BlockingIOError as error:
        pid = os.pread(lock_fd, 32, 0).decode("ascii", "replace").strip()
        os.close(lock_fd)
        os.close(dir_fd)
        raise SupervisedError(
            "start",
            f"guest {os.path.basename(path)}",
            f"supervisor process {pid} already runs it ({path})",
            "stop it first or use another uuid",
        ) from error
    if _is_linked(lock_fd, path):
        return dir_fd, lock_fd
    os.close(lock_fd)
    os.close(dir_fd)
    return None


def _is_linked(lock_fd: int, path: str) -> bool:
    ours = os.fstat(lock_fd)
    try:
        named = os.stat(os.path.join(path, SUPERVISOR_PID), follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)


def _rmdir_if_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        return


def is_guarded(path: str) -> bool:
    """Is the guard of the runtime directory `path` alive? Changes nothing."""
    try:
        fd = os.open(os.path.join(path, SUPERVISOR_PID), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        probe = pack(_FLOCK, fcntl.F_RDLCK, 0, 0, 0, 0)
        return bool(unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, probe))[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)


def remove_dead(path: str) -> bool:
    """Remove a dead guard's directory under its lock; False when it is not dead."""
    try:
        claimed = _try_claim(path) if os.path.isdir(path) else None
    except SupervisedError:
        return False
    if claimed is None:
        return not os.path.isdir(path)
    dir_fd, lock_fd = claimed
    GuardDir(path, dir_fd, lock_fd).remove()
    os.close(lock_fd)
    os.close(dir_fd)
    return True


def directories(base: str) -> "Iterator[str]":
    """Yield the runtime directories under `base`, living and dead; raises RundirError."""
    try:
        names = sorted(os.listdir(base))
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed("read", f"runtime directory {base}", error) from error
    for name in names:
        path = os.path.join(base, name)
        if os.path.isdir(path):
            yield path


def guest_of(pid: int) -> dict[str, object] | None:
    """Return the guest.json of the guard that runs as `pid`, in whatever runtime directory.

    The guard is found by the supervisor.pid that it has open, never by name.
    None when `pid` is no guard or may not be looked at.
    """
    try:
        links = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return None
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if os.path.basename(target) == SUPERVISOR_PID:
            guest = read_guest(os.path.dirname(target))
            if guest is not None and guest.get("supervisor_pid") == pid:
                return guest
    return None


def read_guest(path: str) -> dict[str, object] | None:
    """Return the guest.json of the runtime directory `path`; None when there is none (yet)."""
    import json  # costs the guard's launch 6 ms (D2)

    try:
        guest = json.loads(_read(os.path.join(path, GUEST_JSON)))
    except (OSError, ValueError):
        return None
    return guest if isinstance(guest, dict) else None


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
        return os.fsdecode(b"".join(chunks))
    finally:
        os.close(fd)


def _failed(verb: str, name: str, error: OSError) -> RundirError:
    advice = "give another with --runtime-dir" if error.errno in _NOT_PERMITTED else ""
    reason = f"{os.strerror(error.errno or 0)}; nothing was started"
    return RundirError(verb, name, reason, advice)
