"""Can the kernel do, for this user, what a guard asks of it? Each thing is really done, once.

With the guard's own code where it has it, on processes that die with us. It
must not touch a disk.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import struct

from lockplugins.contract import LockError, cause
from supervisor.doctor.names import Name
from supervisor.doctor.trial.process import Process, readable
from supervisor.guard.carrier import CAPACITY, Carrier
from supervisor.guard.deadline import KernelTimer
from supervisor.guard.descriptors import Shelf
from supervisor.guard.fork import namespace_calls
from supervisor.guard.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lockplugins.contract import Finding
    from supervisor.spec import GuestSpec

_CLONE_NEWPID = 0x20000000
_WRITE_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
_TIMER_S, _LATE_S = 0.2, 4.0  # late: on a busy machine
_BE_ROOT = "be root; in a container, give it CAP_SYS_{} too (--cap-add)"
_NEWER_KERNEL = "use Linux 5.10 or newer, without a seccomp filter that denies it"


def pidfd(_spec: GuestSpec, _command: list[str]) -> Iterator[Finding]:
    with Process(signal.pause) as process:
        was_alive = not readable(process.pidfd, 0)
        begin = now()
        process.kill()
        readable(process.pidfd)
        took = _since(begin)
    words = f"a process was signalled by pidfd, and by it seen dead {took} later"
    yield _finding(Name.PIDFD, was_alive, words, "a living process's pidfd was readable")


def parent_death(_spec: GuestSpec, _command: list[str]) -> Iterator[Finding]:
    ours, theirs = socket.socketpair()

    def parent() -> None:
        with Process(lambda: _announce(theirs)):
            signal.pause()

    died, took = _takes_along(parent, ours)
    words = f"a child was dead {took} after its parent's SIGKILL"
    weak = f"a child outlived its parent by {took}: guests would outlive their supervisors"
    yield _finding(Name.PARENT_DEATH, died, words, weak)


def pid_namespace(_spec: GuestSpec, _command: list[str]) -> Iterator[Finding]:
    ours, theirs = socket.socketpair()
    unshare, _setns = namespace_calls()

    def apart() -> None:
        os.setsid()
        _announce(theirs)

    def init() -> None:
        with Process(apart):
            signal.pause()

    try:
        unshare(_CLONE_NEWPID)
    except OSError as error:
        why = f"unshare(CLONE_NEWPID): {cause(error)}: guests that need it are refused"
        yield Name.PID_NAMESPACE, False, why, _BE_ROOT.format("ADMIN")
        return
    died, took = _takes_along(init, ours)
    words = f"a process of its own session was dead {took} after its init's SIGKILL"
    weak = f"a process outlived the init of its namespace by {took}"
    yield _finding(Name.PID_NAMESPACE, died, words, weak)


def timer(_spec: GuestSpec, _command: list[str]) -> Iterator[Finding]:
    begin = now()

    def arm_and_stop() -> None:
        timer = KernelTimer()  # whose end would be the kernel's, too
        timer.arm(begin + _TIMER_S)
        os.kill(os.getpid(), signal.SIGSTOP)

    with Process(arm_and_stop) as process:
        stopped = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        stood = stopped is not None and stopped.si_code == os.CLD_STOPPED
        fired = readable(process.pidfd, _TIMER_S + _LATE_S)
        late = (now() - begin - _TIMER_S) * 1000
    words = f"SIGKILL came to a stopped process, {late:.1f} ms after its instant"
    weak = "a stopped process was not ended by its timer" if stood else "no timer could be armed"
    yield _finding(Name.TIMER, stood and fired, words, weak)


def carried(_spec: GuestSpec, _command: list[str]) -> Iterator[Finding]:
    """Is a lock that is only in flight held, and freed by the death of who could receive it?"""
    ours, theirs = socket.socketpair()
    guards_end, guests_end = socket.socketpair()
    shelf = Shelf([])
    file_fd = os.memfd_create("lock-supervisor-doctor")

    def guest() -> None:
        socket.recv_fds(guests_end, 1, 1)  # the carrier, which nobody reads
        _announce(theirs)

    def guard() -> None:
        lock_fd = os.open(f"/proc/self/fd/{file_fd}", os.O_RDWR | os.O_CLOEXEC)
        fcntl.fcntl(lock_fd, fcntl.F_OFD_SETLK, _WRITE_LOCK)
        carrier = Carrier(shelf)
        carrier.keep("lock", lock_fd)
        socket.send_fds(guards_end, [b"."], [carrier.guest_fd])
        signal.pause()

    with Process(guest) as receiver:
        with Process(guard):
            _announced(ours)
        held = not _lock(file_fd, fcntl.F_OFD_SETLK)
        begin = now()
        receiver.kill()
        _lock(file_fd, fcntl.F_OFD_SETLKW)
        took = _since(begin)
    words = (
        f"a lock in flight outlived its sender, and was free {took} after its receiver's SIGKILL"
    )
    yield _finding(Name.CARRIED, held, words, "a lock in flight was free when its sender was dead")


def descriptors(_spec: GuestSpec, _command: list[str]) -> Iterator[Finding]:
    """Does the limit of open files allow a guard as many leases as it may carry?"""
    in_flight = _in_flight()
    shelf = Shelf([])
    carrier = Carrier(shelf)
    done, why = 0, ""
    try:
        for done in range(CAPACITY):
            carrier.keep(str(done), shelf.lift(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)))
        done = CAPACITY
    except LockError as error:
        why = error.reason
    except OSError as error:
        why = cause(error)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    beside = f"hard RLIMIT_NOFILE {hard}; this user is seen to have {in_flight} in flight already"
    if done == CAPACITY:
        yield Name.DESCRIPTORS, True, f"a guest can carry {done} leases ({beside})", ""
    else:
        words = f"a guest can carry {done} leases, then: {why} ({beside})"
        yield Name.DESCRIPTORS, False, words, "raise the hard limit (LimitNOFILE=, limits.conf)"


def oom(_spec: GuestSpec, _command: list[str]) -> Iterator[Finding]:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-1000")
    except OSError as error:
        why = f"oom_score_adj -1000: {cause(error)}: when memory is short the"
        why += " kernel may choose a supervisor, whose guest dies with it"
        yield Name.OOM, False, why, _BE_ROOT.format("RESOURCE")
    else:
        yield Name.OOM, True, "oom_score_adj -1000 is permitted: the kernel spares supervisors", ""


def holders(_spec: GuestSpec, _command: list[str]) -> Iterator[Finding]:
    """Can every process's descriptors be looked at, so that whoever holds a lease can be named?"""
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
    denied = [pid for pid in processes if _is_denied(f"/proc/{pid}/fdinfo")]
    hidden = "" if os.path.exists("/proc/1") else _hiding()
    if not denied and not hidden:
        words = f"the descriptors of all {len(processes)} processes can be looked at"
        yield Name.HOLDERS, True, words, ""
        return
    why = "other users' processes are hidden" + hidden
    if denied:
        why = f"the descriptors of {len(denied)} of {len(processes)} processes cannot be looked at"
        why += f" (process {denied[0]} first)"
    why += ": if such a process holds a lease, it cannot be named"
    mend = _BE_ROOT.format("PTRACE") + "; see hidepid in proc(5)"
    yield Name.HOLDERS, False, why, mend


def _is_denied(path: str) -> bool:
    try:
        os.listdir(path)
    except PermissionError:
        return True
    except OSError:
        return False  # gone meanwhile
    return False


def _hiding() -> str:
    """Return in words what /proc is mounted with."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        procs = [line.split()[-1] for line in mounts if line.split()[4] == "/proc"]
    return f" (/proc is mounted with {procs[-1]})" if procs else ""


def _finding(check: str, well: bool, words: str, weak: str) -> Finding:  # noqa: FBT001  # a finding's own order
    return (check, True, words, "") if well else (check, False, weak, _NEWER_KERNEL)


def _announce(to: socket.socket) -> None:
    """Hand on a pidfd of ours, and wait for our end."""
    socket.send_fds(to, [b"."], [os.pidfd_open(os.getpid())])
    signal.pause()


def _announced(by: socket.socket) -> int:
    _data, fds, _flags, _address = socket.recv_fds(by, 1, 1)
    return fds[0]


def _takes_along(life: Callable[[], None], ours: socket.socket) -> tuple[bool, str]:
    """SIGKILL who lives `life`; did its child, which announces itself to us, die, and when?"""
    with Process(life) as process:
        child = _announced(ours)
        begin = now()
        process.kill()
        return _dies(child), _since(begin)


def _dies(pidfd: int) -> bool:
    """Wait for a process that the kernel has to end, and end it if that does not."""
    died = readable(pidfd, _LATE_S)
    if not died:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        readable(pidfd)
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)  # as a rule left to us
    except ChildProcessError:
        pass
    return died


def _lock(fd: int, command: int) -> bool:
    try:
        fcntl.fcntl(fd, command, _WRITE_LOCK)
    except BlockingIOError:
        return False
    return True


def _since(begin: float) -> str:
    return f"{(now() - begin) * 1000:.1f} ms"


def _in_flight() -> int:
    """Count the descriptors in flight to the processes of this user that we may look at."""
    found: dict[str, int] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
                continue
            for fd in os.listdir(f"/proc/{pid}/fdinfo"):
                with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
                    fields = dict(line.split(":", 1) for line in file if ":" in line)
                if "scm_fds" in fields:
                    found[fields.get("ino", f"{pid} {fd}")] = int(fields["scm_fds"])
        except OSError:
            continue  # gone meanwhile
    return sum(found.values())
