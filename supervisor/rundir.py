"""Which files does a guest's runtime directory hold, and is its guard alive?

`<base>/<uuid>/`, mode 0700: `supervisor.pid` (locked while the guard lives),
`child.pid`, `guest.json`, `control`, `monitor` (what QEMU is told of ours). The
guard writes them; `records` reads them. It knows nothing of leases or of the
control pipe's language. Imported on the guard's launch path: builtin modules
only (README, D2).
"""

import fcntl
import posix
import select
from _stat import S_ISDIR
from _struct import pack, unpack

from lockplugins.contract import LockError, cause, fsdecode

SUPERVISOR_PID = "supervisor.pid"
CHILD_PID = "child.pid"
GUEST_JSON = "guest.json"
CONTROL = "control"
MONITOR = "monitor"
UNPUBLISHED = "new"
FILES = (UNPUBLISHED, MONITOR, CONTROL, GUEST_JSON, CHILD_PID, SUPERVISOR_PID)

_FLOCK = "hhqqi4x"
# O_NONBLOCK: in a directory of another user's a FIFO would keep root waiting.
_READ = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC | posix.O_NONBLOCK
_CREATE_ATTEMPTS, _CREATE_PAUSE_S = 100, 0.01
_ALL, _ONE = 0, 1  # how many bytes of supervisor.pid a guard locks, and one who removes it


class RundirError(LockError):
    """The runtime directory cannot be used; exit code 111."""


class SupervisedError(RundirError):
    """A living guard has this uuid in this runtime directory; exit code 110."""

    exit_code = 110


def as_json(value: object) -> str:
    """Render None, bool, int, float, str, list, tuple and dict as ASCII JSON."""
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", False: "false", True: "true"}[value]
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
        root = base if base.startswith("/") else f"{posix.getcwd()}/{base}"
        path = f"{root}/{uuid}"
        try:
            _make_dirs(root)
            for _ in range(_CREATE_ATTEMPTS):
                if (claimed := _try_claim(path, _ALL)) is not None:
                    break
                select.select((), (), (), _CREATE_PAUSE_S)  # not its lock: it may be stopped
            else:
                reason = "it keeps disappearing, or a link on the way leads nowhere"
                raise RundirError("claim", f"runtime directory {path}", reason, "see who does that")
        except OSError as error:
            raise failed("create", f"runtime directory {path}", error) from error
        guard_dir = cls(path, *claimed)
        try:
            for name in FILES[:-1]:
                guard_dir._unlink(name)
            posix.ftruncate(guard_dir.lock_fd, 0)
            posix.pwrite(guard_dir.lock_fd, f"{posix.getpid()}\n".encode(), 0)
        except OSError as error:
            guard_dir.remove()
            raise failed("write", f"{path}/{SUPERVISOR_PID}", error) from error
        return guard_dir

    def publish(self, name: str, text: str) -> None:
        """Put `text` into the file `name`, whole or not at all; raises RundirError."""
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC
        try:
            fd = posix.open(UNPUBLISHED, flags, 0o600, dir_fd=self.dir_fd)
            try:
                data = text.encode()
                while data:
                    data = data[posix.write(fd, data) :]
            finally:
                posix.close(fd)
            # When a rename replaces a file, ext4 flushes the new one: 3 ms. See records.
            self._unlink(name)
            posix.rename(UNPUBLISHED, name, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
        except OSError as error:
            self._unlink(UNPUBLISHED)
            raise failed("write", f"{self.path}/{name}", error) from error

    def control_path(self) -> str:
        """Return a path for bind(2) that fits sun_path however long the directory's is."""
        return f"/proc/self/fd/{self.dir_fd}/{CONTROL}"

    def remove(self) -> None:
        """Remove the directory; what cannot be removed is left to the next command."""
        for name in FILES:
            self._unlink(name)
        _rmdir_if_empty(self.path)

    def _unlink(self, name: str) -> None:
        try:
            posix.unlink(name, dir_fd=self.dir_fd)
        except OSError:
            return  # not there, or a read-only filesystem: the next command's to remove


def _try_claim(path: str, length: int) -> tuple[int, int] | None:
    """Open and lock once; None when a remover was faster, SupervisedError when a guard was."""
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        return None
    try:
        dir_fd = posix.open(path, _READ | posix.O_DIRECTORY)
    except FileNotFoundError:
        return None
    status = posix.fstat(dir_fd)
    if length == _ALL and (status.st_uid != posix.geteuid() or status.st_mode & 0o022):
        raise RundirError("use", f"runtime directory {path}", "others may change it", "remove it")
    flags = posix.O_RDWR | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        lock_fd = posix.open(SUPERVISOR_PID, flags, 0o600, dir_fd=dir_fd)
    except FileNotFoundError:
        posix.close(dir_fd)
        return None
    except OSError:
        posix.close(dir_fd)
        _rmdir_if_empty(path)
        raise
    guarded = False
    try:
        fcntl.fcntl(lock_fd, fcntl.F_OFD_SETLK, pack(_FLOCK, fcntl.F_WRLCK, 0, 0, length, 0))
        if _is_linked(lock_fd, path):
            return dir_fd, lock_fd
    except BlockingIOError:
        guarded = is_guarded(path)
    pid = posix.pread(lock_fd, 32, 0).decode("ascii", "replace").strip()
    posix.close(lock_fd)
    posix.close(dir_fd)
    if not guarded:
        return None
    name, reason = path.rpartition("/")[2], f"supervisor process {pid} already runs it ({path})"
    advice = "stop it first or use another uuid"
    raise SupervisedError("start", f"guest {name}", reason, advice)


def _make_dirs(path: str) -> None:
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_dirs(path.rpartition("/")[0])
        posix.mkdir(path, 0o700)


def is_dir(path: str) -> bool:
    """Is there a directory `path`, links followed?"""
    try:
        return S_ISDIR(posix.stat(path).st_mode)
    except OSError:
        return False


def _is_linked(lock_fd: int, path: str) -> bool:
    ours = posix.fstat(lock_fd)
    try:
        named = posix.stat(f"{path}/{SUPERVISOR_PID}", follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)


def _rmdir_if_empty(path: str) -> None:
    try:
        posix.rmdir(path)
    except OSError:
        return


def is_guarded(path: str) -> bool:
    """Is the guard of the runtime directory `path` alive? Changes nothing."""
    try:
        fd = posix.open(f"{path}/{SUPERVISOR_PID}", _READ)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        probe = pack(_FLOCK, fcntl.F_RDLCK, 0, _ONE, _ALL, 0)
        return bool(unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, probe))[0] != fcntl.F_UNLCK)
    finally:
        posix.close(fd)


def remove_dead(path: str) -> bool:
    """Remove a dead guard's directory under its lock; False when it is not dead."""
    try:
        claimed = _try_claim(path, _ONE) if is_dir(path) else None
    except SupervisedError:
        return False
    if claimed is None:
        return not is_guarded(path)
    GuardDir(path, *claimed).remove()
    for fd in claimed:
        posix.close(fd)
    return True


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return fsdecode(file.read())


def failed(verb: str, name: str, error: OSError) -> RundirError:
    """Return the error for what the filesystem refused, to be raised."""
    return RundirError(verb, name, cause(error), "mend it, or give another with --runtime-dir")
