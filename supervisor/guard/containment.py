"""How is the guest tied to the guard's life, and does the tie hold for this command?

Decides between the parent-death signal and a PID namespace from argv, mode
bits and file capabilities (README, D4). It must not fork.
"""

import posix
from _stat import S_ISREG

from lockplugins.contract import ConfigError, fsdecode
from supervisor.spec import Containment, is_qemu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_CAPABILITY_XATTR = "security.capability"
_SET_ID = 0o6000
_CAP_SYS_ADMIN = 21
_DEFAULT_PATH = b"/bin:/usr/bin"


def resolve(command: str) -> str:
    """Return the file that exec of `command` runs, as execvp(3) searches; else `command` itself."""
    if "/" in command:
        return command
    for directory in fsdecode(posix.environ.get(b"PATH", _DEFAULT_PATH)).split(":"):
        path = f"{directory or '.'}/{command}"
        if posix.access(path, posix.X_OK) and S_ISREG(posix.stat(path).st_mode):
            return path
    return command


def daemonizes(argv: "Sequence[str]") -> bool:
    """Does QEMU's argv make it fork and let its parent exit?"""
    return is_qemu(argv[0]) and "-daemonize" in options(argv)


def decide(requested: str, argv: "Sequence[str]", path: str) -> str:
    """Return the containment for this command; raises ConfigError when none can hold."""
    why = disarms_death_signal(argv, path)
    why = f"{why}, which disarms the parent-death signal" if why else ""
    name = f"guest {argv[0]}"
    if requested == Containment.PDEATHSIG and why:
        raise ConfigError("contain", name, why, "use --containment pidns")
    if requested == Containment.PDEATHSIG or (requested == Containment.AUTO and not why):
        return Containment.PDEATHSIG
    if not int(status_of("self").get("CapEff", "0"), 16) >> _CAP_SYS_ADMIN & 1:
        why = f"{why}; a PID namespace needs CAP_SYS_ADMIN".removeprefix("; ")
        raise ConfigError("contain", name, why, "run as root, or change the command")
    return Containment.PIDNS


def disarms_death_signal(argv: "Sequence[str]", path: str) -> str:
    """Return why prctl(2)'s PR_SET_PDEATHSIG would be lost, or nothing."""
    if is_qemu(argv[0]):
        words = options(argv)
        for option, value in zip(words, [*words[1:], ""], strict=False):
            if option == "-runas" or (option == "-run-with" and "user=" in value):
                return f"QEMU is told to change user ({option} {value})"
        if "-daemonize" in words:
            return "QEMU is told to fork (-daemonize)"
    for program in _programs(path):
        try:
            if posix.stat(program).st_mode & _SET_ID:
                return f"{program} is set-user-ID or set-group-ID"
            if posix.getxattr(program, _CAPABILITY_XATTR):
                return f"{program} has file capabilities"
        except OSError:
            continue  # no such attribute; or exec will say what is wrong with the file
    return ""


def _programs(path: str) -> list[str]:
    """Return the file and the interpreters that its #! lines name, as execve(2) follows them."""
    programs = [path]
    for _ in range(4):
        try:
            if not S_ISREG(posix.stat(programs[-1]).st_mode):
                break  # exec will say so; opening a FIFO would wait for its writer
            with open(programs[-1], "rb", buffering=0) as file:
                head = file.read(256)
        except OSError:
            break
        words = head[2:].split(b"\n")[0].split() if head.startswith(b"#!") else []
        if not words:
            break
        programs.append(fsdecode(words[0]))
    return programs


def options(argv: "Sequence[str]") -> list[str]:
    """Return argv with QEMU's --option spelled -option."""
    return [a[1:] if a.startswith("--") else a for a in argv[1:]]


def status_of(pid: int | str) -> dict[str, str]:
    """Return /proc/PID/status as a mapping; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = fsdecode(file.read())
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n"))
    return {key: value.strip() for key, _, value in pairs}


def children_of(pid: int) -> list[int]:
    """Return the pids that the process's main thread has forked, and those left to it."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []  # gone
