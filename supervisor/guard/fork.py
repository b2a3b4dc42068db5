"""How does the guest come to life? Forks it and, in the fork, makes exec transparent.

Under `pdeathsig` the guest is our child; under `pidns` it is the child of an
init that we fork into a new PID namespace. Either waits for one byte on the go
pipe before exec, and reports why it cannot on a socket that a successful exec
closes. It must not decide when the guest may go.
"""

import _socket
import posix
import select
import sys
from _struct import calcsize, unpack_from

from lockplugins.contract import LockError, cause
from supervisor import exitcodes
from supervisor.guard.child import Child
from supervisor.guard.descriptors import Shelf, lower_limit, opened
from supervisor.guard.signals import SIGKILL, Signals, block_all, pass_on_sigterm
from supervisor.spec import Containment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_UCRED = "3i"
_GO, REGISTER = b"G", b"R"
HELLO, GOING = b"here", b"going"
_REPORT_BYTES = 8192
_OOM_FILE = "/proc/self/oom_score_adj"
_CLONE_NEWPID = 0x20000000


class Launch:
    """What the child needs between fork and exec.

    `inherit` are our descriptors that exec hands on: carrier, monitor. `register`, where
    the plugin needs it, makes the process that the guest ends with known to a lock manager.
    """

    def __init__(
        self, argv: list[str], path: str, shelf: Shelf, taken: Signals, inherit: list[int]
    ) -> None:
        self.argv = argv
        self.path = path
        self.shelf = shelf
        self.signals = taken
        self.inherit = inherit
        self.register: Callable[[], list[int]] | None = None
        self.oom_score_adj: bytes | None = None
        go_read, go_write = posix.pipe2(posix.O_CLOEXEC)
        self.go_read, self.go_write = shelf.lift(go_read), shelf.lift(go_write)
        ours, childs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        self.report = _socket.socket(fileno=shelf.lift(ours.detach()))
        self.childs_report = _socket.socket(fileno=shelf.lift(childs.detach()))
        self.guard_pidfd = shelf.lift(posix.pidfd_open(posix.getpid()))

    def go(self, word: bytes = _GO) -> None:
        """Let the child do what it waits for: register, or exec."""
        try:
            posix.write(self.go_write, word)
        except BrokenPipeError:
            return  # it is dead: its pidfd is next

    def refuse(self, code: int, text: str) -> None:
        """Say why there will be no guest, and with which code the guard is to exit (the child)."""
        self.childs_report.send(f"{code} {text}".encode("utf-8", "surrogateescape"))

    def hear(self, flags: int = 0) -> tuple[bytes, int]:
        """Return what the child reports, and its pid: the kernel translates it (unix(7)).

        Nothing once it has executed or is dead.
        """
        data, ancillary, _flags, _address = self.report.recvmsg(
            _REPORT_BYTES, _socket.CMSG_SPACE(calcsize(_UCRED)), flags
        )
        return data, unpack_from(_UCRED, ancillary[0][2])[0] if ancillary else 0


def fork(mode: str, launch: Launch, guest_name: str) -> Child:
    """Fork the guest (main thread, before any other thread); raises LockError."""
    _protect_from_oom(launch)
    if mode == Containment.PIDNS:
        child = _fork_into_namespace(launch, guest_name)
    else:
        pid = posix.fork()
        if pid == 0:
            _become_guest(launch, arm=True)
        child = Child(pid, posix.pidfd_open(pid))
    posix.close(launch.go_read)
    launch.childs_report.close()
    return child


def _protect_from_oom(launch: Launch) -> None:
    """Make the kernel choose others when memory is short, where we may."""
    try:
        with open(_OOM_FILE, "rb") as file:
            was = file.read()
        _put(_OOM_FILE, b"-1000")
        launch.oom_score_adj = was
    except OSError:
        return  # not permitted: doctor says so


def arm_parent_death(guard_pidfd: int) -> None:
    """Have the kernel SIGKILL this process when the guard dies.

    Call in the forked child, before exec, from a fork made by the main
    thread: the kernel watches the forking *thread*, not the process. It does
    not cover a change of user, nor set-id bits, nor file capabilities at exec:
    containment.decide() refuses those.
    """
    # Here, not at the top: while the guard goes on; and prctl.py costs 0.8 ms more (D2).
    from _prctl import PR_SET_PDEATHSIG, prctl

    prctl(PR_SET_PDEATHSIG, SIGKILL)
    # Dead before prctl took effect? Then no signal will ever come. Not
    # getppid(): it is 0 in a new PID namespace, parent alive or dead.
    poll = select.poll()
    poll.register(guard_pidfd, select.POLLIN)
    if poll.poll(0):
        posix._exit(exitcodes.OUR_FAULT)


def _become_guest(launch: Launch, *, arm: bool) -> "NoReturn":
    """Undo in this process what Python and the guard changed, wait for go, exec."""
    stage, code = "prepare the child for", exitcodes.FAILED
    try:
        if arm:
            arm_parent_death(launch.guard_pidfd)
            if launch.register:
                launch.inherit += launch.register()
        launch.childs_report.send(HELLO)
        if launch.oom_score_adj is not None:
            _put(_OOM_FILE, launch.oom_score_adj)
        _restore_environment()
        posix.close(launch.go_write)
        for fd in launch.inherit:
            posix.set_inheritable(fd, True)
        for fd in launch.shelf.ending:
            posix.close(fd)
        if launch.shelf.limits is not None:
            lower_limit(launch.shelf.limits)
        if posix.read(launch.go_read, 1) != _GO:
            posix._exit(exitcodes.OUR_FAULT)
        launch.signals.restore()
        stage, code = "run", exitcodes.NOT_EXECUTABLE
        launch.childs_report.send(GOING)  # no signal that waited has ended this process
        posix.execv(launch.path, launch.argv)
    except (OSError, ImportError) as error:
        if code == exitcodes.NOT_EXECUTABLE and isinstance(error, FileNotFoundError):
            code = exitcodes.NOT_FOUND
        reason = getattr(error, "strerror", error)
        launch.refuse(code, f"cannot {stage} {launch.argv[0]}: {reason}; leases released")
    finally:
        posix._exit(exitcodes.OUR_FAULT)


def _restore_environment() -> None:
    """Undo PEP 538's coercion, the one change that Python made to environ(7)."""
    with open("/proc/self/environ", "rb") as file:
        given = file.read()
    for entry in given.split(b"\0"):
        if entry.startswith(b"LC_CTYPE="):
            posix.putenv(b"LC_CTYPE", entry[9:])
            return
    posix.unsetenv(b"LC_CTYPE")


def _fork_into_namespace(launch: Launch, guest_name: str) -> Child:
    """Fork an init into a new PID namespace; it forks the guest.

    Between unshare(2) and setns(2) this process can start no thread, and
    after init's death no process: so setns back at once.
    """
    ours, inits = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    own_namespace = posix.open("/proc/self/ns/pid", posix.O_RDONLY | posix.O_CLOEXEC)
    unshare, setns = namespace_calls()
    try:
        setns(own_namespace, _CLONE_NEWPID)  # changes nothing, but says whether it lets us back
        unshare(_CLONE_NEWPID)
    except OSError as error:
        reason = f"the host or container allows no PID namespace: {cause(error)}"
        raise LockError("contain", f"guest {guest_name}", reason, "run it outside") from error
    pid = posix.fork()
    if pid == 0:
        _be_init(launch, inits)
    setns(own_namespace, _CLONE_NEWPID)
    posix.close(own_namespace)
    inits.close()
    launch.childs_report.close()
    child = Child(pid, posix.pidfd_open(pid), ours)
    if not launch.register:  # else init waits, and the guest's process is heard of later
        data, guest_pid = launch.hear()
        if data != HELLO:
            raise LockError("start", f"guest {guest_name}", "its PID namespace ended at once")
        child.follow(guest_pid)
    return child


def _be_init(launch: Launch, report: _socket.socket) -> "NoReturn":
    """Be process 1 of the namespace: fork the guest, reap, report, end with the last process.

    Never execs and never changes user, so the parent-death signal stays; the
    kernel ends the whole namespace with this process.
    """
    try:
        arm_parent_death(launch.guard_pidfd)
        block_all()
        name_process("lock-init")
        registered = launch.register() if launch.register else []
        launch.inherit += registered
        pid = posix.fork()
        if pid == 0:
            report.close()
            _become_guest(launch, arm=False)
        # Never to exec, it would hold everything for good. What it is registered by it does hold:
        # so a guest that closes all that it inherits keeps its leases.
        for fd in opened() - {0, 1, 2, report.fileno(), *registered}:
            posix.close(fd)
        if launch.register:
            pass_on_sigterm()  # by which a lock manager asks for the guest's end
        while True:
            news = posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WSTOPPED | posix.WCONTINUED)
            if news is not None:
                report.send(f"{news.si_pid} {news.si_code} {news.si_status}".encode())
    except ChildProcessError:
        posix._exit(exitcodes.OK)
    finally:
        posix._exit(exitcodes.OUR_FAULT)


def name_process(name: str) -> None:
    """Set the name in /proc/self/comm, cut by the kernel; argv stays, since it is the spec."""
    _put("/proc/self/comm", name.encode("utf-8", "replace"))


def _put(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)


def namespace_calls() -> "tuple[Callable[[int], None], Callable[[int, int], None]]":
    """Return unshare(2) and setns(2): os has them from Python 3.12 on."""
    if sys.version_info >= (3, 12):
        return posix.unshare, posix.setns
    import ctypes  # 1.6 ms, for this containment alone

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int) -> None:
        if getattr(libc, name)(*arguments) != 0:
            raise OSError(number := ctypes.get_errno(), posix.strerror(number))

    return (lambda flags: call("unshare", flags)), (lambda fd, flags: call("setns", fd, flags))
