"""How does a test get a machine of its own? A process 1 and mounts that nobody else sees.

The kernel is the host's. With its process 1 everything on the machine ends. Judges nothing,
and knows nothing of the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING

from tests.support import waiting
from tests.support.command import Result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

DEADLINE_S = 60.0
_PRIVATE = ("--mount", "--pid", "--uts", "--ipc", "--propagation", "private")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LC_ALL": "C.UTF-8"}


class Machine:
    """A machine; a context that leaves no process and no mount behind.

    `before` and `set_up` are lines of sh: outside its namespaces and inside
    of them. `init` becomes its process 1, `namespaces` are more than the usual
    ones. `root` is where commands see `/`.
    """

    def __init__(
        self,
        init: Sequence[str],
        *,
        set_up: str,
        before: str = "",
        root: str = "/",
        namespaces: Sequence[str] = (),
    ) -> None:
        self._root = root
        inside = f"set -e\n{set_up}\necho up\nexec {shlex.join(init)} >&2"
        unshare = ["unshare", *_PRIVATE, *namespaces, "--fork", "--kill-child", "--mount-proc"]
        outside = f"set -e\n{before}\nexec {shlex.join([*unshare, '/bin/sh', '-c', inside])}"
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "/bin/sh", "-c", outside],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._namespaces = ("--mount", "--pid", "--uts", "--ipc", *namespaces)
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        waiting.readable(self._process.stdout.fileno(), DEADLINE_S, "the machine is set up")
        assert self._process.stdout.readline() == b"up\n"
        pid = self._process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            self.init_pid = int(file.read())
        self.init_pidfd = os.pidfd_open(self.init_pid)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Kill process 1; it is gone when all the others are."""
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            signal.pidfd_send_signal(self.init_pidfd, signal.SIGKILL)
        waiting.gone(self.init_pidfd, DEADLINE_S)
        os.close(self.init_pidfd)
        self._process.communicate(timeout=DEADLINE_S)
        for process in self._started:
            process.communicate(timeout=DEADLINE_S)

    def argv(self, *command: str, user: str | None = None) -> list[str]:
        """Return what runs `command` on the machine, as root or as user:group."""
        inside = ["chroot", *([f"--userspec={user}"] if user else []), self._root]
        return ["nsenter", "--target", str(self.init_pid), *self._namespaces, *inside, *command]

    def start(self, *command: str, user: str | None = None, **env: str) -> subprocess.Popen[str]:
        """Start a command on the machine, and let it run."""
        process = subprocess.Popen(
            self.argv(*command, user=user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**_ENVIRONMENT, **env},
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *command: str, user: str | None = None, **env: str) -> Result:
        """Run a command on the machine to its end."""
        process = self.start(*command, user=user, **env)
        try:
            out, err = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
        return Result(process.returncode, out, err)

    def ok(self, *command: str, **env: str) -> str:
        """Run a command that must succeed; returns what it printed."""
        result = self.run(*command, **env)
        assert result.code == 0, (command, result)
        return result.out
