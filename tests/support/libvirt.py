"""How does a test get hosts that run stock libvirt? libvirtd and virtlockd, without systemd.

Each has namespaces, a name and directories of its own, so that several stand side by side
on one kernel. Disks and lockspace directories outside /etc/libvirt, /var/*/libvirt and
/run/libvirt are the same for all. Judges nothing, and knows nothing of the supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import reaper, waiting
from tests.support.command import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Any, Self

    from tests.support.sanlock import Daemon

DEADLINE_S = 60.0
TOOLS = ("libvirtd", "virtlockd", "virsh", "unshare", "nsenter", "qemu-system-x86_64")

_DIRECTORIES = ("etc", "lib", "log", "cache", "run")
# Whom Debian's package libvirt-daemon-system would add: libvirt does not start without.
_USER = "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin"
_GROUP = "libvirt-qemu:x:64055:"
_LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
auth_unix_rw = "none"
unix_sock_group = "root"
"""
# No cgroups for QEMU: they are the host's, and would outlive a killed one.
_QEMU_CONF = """\
user = "{user}"
group = "{group}"
security_driver = "none"
stdio_handler = "file"
namespaces = {namespaces}
cgroup_controllers = []
"""


class Host:
    """One host; a context that leaves no process, mount or socket behind.

    `lock_manager` is "lockd" or None (unset); with `sanlock`, a daemon, it is "sanlock".
    `file_lockspace_dir` None is libvirt's direct mode. `user` and `group` are QEMU's;
    `namespaces` ("mount") are what QEMU gets of its own. `qemu_conf` are more lines of
    qemu.conf. The pids are those of its daemons, 0 for none.
    """

    def __init__(
        self,
        directory: Path,
        hostname: str,
        *,
        lock_manager: str | None = "lockd",
        sanlock: Daemon | None = None,
        file_lockspace_dir: str | os.PathLike[str] | None = None,
        auto_disk_leases: bool = True,
        user: str = "root",
        group: str = "root",
        namespaces: Sequence[str] = (),
        qemu_conf: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.hostname = hostname
        self.virtlockd_pid = self.libvirtd_pid = 0
        for name in _DIRECTORIES:
            (directory / name).mkdir()
        lockspace = [f'file_lockspace_dir = "{file_lockspace_dir}"']
        if sanlock is not None:
            lock_manager = "sanlock"
            self._write("etc/qemu-sanlock.conf", "auto_disk_leases = 1", *sanlock.settings())
        manager = [f'lock_manager = "{lock_manager}"']
        self._write("etc/libvirtd.conf", _LIBVIRTD_CONF.format(uuid=uuid.uuid4()))
        self._write(
            "etc/qemu.conf",
            _QEMU_CONF.format(user=user, group=group, namespaces=json.dumps([*namespaces])),
            *(manager if lock_manager is not None else []),
            *qemu_conf,
        )
        self._write(
            "etc/qemu-lockd.conf",
            f"auto_disk_leases = {int(auto_disk_leases)}",
            *(lockspace if file_lockspace_dir is not None else []),
        )
        self._write("hosts", f"127.0.0.1 localhost {hostname}")
        self._write("passwd", Path("/etc/passwd").read_text(), _USER)
        self._write("group", Path("/etc/group").read_text(), _GROUP)
        self._make_kvm_usable()
        self._locks = lock_manager == "lockd"
        self._reaper = self._start_reaper({**os.environ, **(sanlock.env if sanlock else {})})
        self.pidfd = os.pidfd_open(self._reaper.pid)

    def _make_kvm_usable(self) -> None:
        """Spare other users than root 8 s a start: libvirt probes QEMU until it may use KVM."""
        if os.path.exists("/dev/kvm"):
            os.mknod(node := self.directory / "kvm", stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
            node.chmod(0o666)

    def _write(self, name: str, *lines: str) -> None:
        (self.directory / name).write_text("\n".join([*lines, ""]))

    def _start_reaper(self, env: dict[str, str]) -> subprocess.Popen[str]:
        namespaces = ["unshare", "--mount", "--uts", "--propagation", "private"]
        program = [sys.executable, "-I", "-S", os.path.abspath(reaper.__file__)]
        return subprocess.Popen(
            [*namespaces, *program, str(self.directory), self.hostname],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        try:
            if self._locks:
                self.start_virtlockd()
            self.start_libvirtd()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Kill everything on this host; returns when all is gone."""
        if self.pidfd < 0:
            return
        self._reaper.communicate(timeout=DEADLINE_S)
        waiting.gone(self.pidfd, DEADLINE_S)
        os.close(self.pidfd)
        self.pidfd = -1

    def start_virtlockd(self) -> None:
        self.virtlockd_pid = self._daemon("virtlockd")
        self._until_connectable("virtlockd-sock")

    def start_libvirtd(self) -> None:
        self.libvirtd_pid = self._daemon("libvirtd")
        self._until_connectable("libvirt-sock")
        assert self.virsh("uri").code == 0, self.daemons_said()

    def restart_libvirtd(self, number: int = signal.SIGTERM) -> None:
        """End libvirtd, gently or not, and start it again; guests run on."""
        end_process(self.libvirtd_pid, number)
        self.start_libvirtd()

    def start(self, *argv: str, log: str) -> int:
        """Start a program that outlives its parent here; returns its pid."""
        assert self._reaper.stdin is not None
        assert self._reaper.stdout is not None
        self._reaper.stdin.write(json.dumps([log, *argv]) + "\n")
        self._reaper.stdin.flush()
        return int(self._reaper.stdout.readline())

    def enter(self, argv: Sequence[str]) -> list[str]:
        """Return the argv that runs `argv` on this host, as a child of whoever starts it."""
        prefix = ["nsenter", f"--target={self._reaper.pid}", "--mount", "--uts"]
        return [*prefix, f"--wdns={os.getcwd()}", "--", *argv]

    def run(self, *argv: str) -> Result:
        """Run a command on this host to its end."""
        done = subprocess.run(
            self.enter(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def virsh(self, *args: str) -> Result:
        return self.run("virsh", "-q", "-c", "qemu:///system", *args)

    def define(self, xml: str) -> None:
        """Make a domain known; it does not run."""
        path = self.directory / "domain.xml"
        path.write_text(xml)
        defined = self.virsh("define", str(path))
        assert defined.code == 0, defined

    def state(self, name: str) -> str:
        """Return libvirt's word for a domain: running, paused or shut off."""
        return self.virsh("domstate", name).out.strip()

    def qemu_pid(self, name: str) -> int:
        """Return the pid that libvirt takes for the domain's QEMU."""
        return int((self.directory / f"run/qemu/{name}.pid").read_text())

    def log(self, name: str) -> str:
        """Return libvirt's log of a domain: its command lines, and what QEMU wrote."""
        return (self.directory / f"log/qemu/{name}.log").read_text()

    def clear(self) -> None:
        """Destroy and forget every domain."""
        for name in self.virsh("list", "--all", "--name").out.split():
            self.virsh("destroy", name)
            forgotten = ("--managed-save", "--snapshots-metadata", "--keep-nvram")
            undefined = self.virsh("undefine", name, *forgotten)
            assert undefined.code == 0, undefined

    def daemons_said(self) -> str:
        return "".join(log.read_text() for log in sorted(self.directory.glob("log/*d.log")))

    def _daemon(self, name: str) -> int:
        log = f"/var/log/libvirt/{name}.log"
        return self.start(name, "-p", f"/run/libvirt/{name}.pid", log=log)

    def _until_connectable(self, name: str) -> None:
        # By this way the address is short however long the directory's name is.
        address = f"/proc/{self._reaper.pid}/root/run/libvirt/{name}"
        waiting.until(lambda: _is_connectable(address), DEADLINE_S, f"{name}: see {self.directory}")


def end_process(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a process, and wait until it is dead."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, number)
        waiting.gone(pidfd, DEADLINE_S)
    finally:
        os.close(pidfd)


def _is_connectable(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        # A killed daemon leaves its socket: that one refuses.
        return client.connect_ex(address) == 0


class Hosts:
    """Starts hosts in `directory`, and ends them all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.started: list[Host] = []

    def start(self, **options: Any) -> Host:
        """Start a host; `options` are Host's."""
        hostname = f"host{len(self.started)}"
        (directory := self._directory / hostname).mkdir()
        self.started.append(Host(directory, hostname, **options))
        return self.started[-1].__enter__()

    def end(self) -> None:
        while self.started:
            self.started.pop().end()


@pytest.fixture(scope="session")
def hosts_in(pytestconfig: pytest.Config, require: Callable[[str], str]) -> Callable[[Path], Hosts]:
    """Skip without libvirt and root, or fail under --strict-env."""
    for tool in TOOLS:
        require(tool)
    if os.geteuid() != 0:
        refuse = pytest.fail if pytestconfig.getoption("--strict-env") else pytest.skip
        refuse("namespaces need root")
    return Hosts


@pytest.fixture
def libvirt(hosts_in: Callable[[Path], Hosts], tmp_path: Path) -> Iterator[Hosts]:
    """Give a test hosts of its own: `libvirt.start(lock_manager="lockd")`."""
    hosts = hosts_in(tmp_path)
    yield hosts
    hosts.end()


@pytest.fixture(scope="session")
def libvirt_hosts(
    hosts_in: Callable[[Path], Hosts], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosts]:
    """Give fixtures hosts that many tests use: none may hurt one, each clears it."""
    hosts = hosts_in(tmp_path_factory.mktemp("libvirt"))
    yield hosts
    hosts.end()
