"""What is left when the command cannot be executed? The right code, one line, and nothing else.

A failed exec is never mistaken for a guest that exited.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.faults import firmware
from tests.support import locking
from tests.support.guard import descendants

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.guard import Ended, Guards

pytestmark = pytest.mark.usefixtures("as_root")

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
DEADLINE_S = 20
NOT_FOUND, NOT_EXECUTABLE, FAILED = 127, 126, 111


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return firmware.image(tmp_path / "disk")


def file(path: Path, content: bytes, mode: int = 0o755) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def missing(path: Path) -> str:
    return str(path / "missing")


def missing_on_the_path(_path: Path) -> str:
    return "there-is-no-such-command"


def missing_interpreter(path: Path) -> str:
    return file(path / "script", b"#!/nonexistent/interpreter\n")


def dangling_link(path: Path) -> str:
    os.symlink("/nonexistent", path / "link")
    return str(path / "link")


def not_executable(path: Path) -> str:
    return file(path / "plain", b"#!/bin/sh\n", 0o644)


def directory(path: Path) -> str:
    (path / "directory").mkdir()
    return str(path / "directory")


def below_a_file(path: Path) -> str:
    return file(path / "plain", b"") + "/command"


def no_program(path: Path) -> str:
    return file(path / "garbage", b"\x7fELF and nothing that a kernel knows\n")


def interpreter_is_a_directory(path: Path) -> str:
    return file(path / "script", f"#!{path}\n".encode())


def interpreters_without_end(path: Path) -> str:
    script = path / "script"
    return file(script, f"#!{script}\n".encode())


def links_without_end(path: Path) -> str:
    os.symlink(path / "link", path / "link")
    return str(path / "link")


def name_too_long(path: Path) -> str:
    return str(path / ("x" * 256))


MISSING = [missing, missing_on_the_path, missing_interpreter, dangling_link]
OTHERS = [
    not_executable, directory, below_a_file, no_program, interpreter_is_a_directory,
    interpreters_without_end, links_without_end, name_too_long,
]  # fmt: skip
CASES = [(how, NOT_FOUND) for how in MISSING] + [(how, NOT_EXECUTABLE) for how in OTHERS]


def assert_nothing_is_left(guards: Guards, disk: str) -> None:
    assert locking.is_free(disk)
    assert os.listdir(guards.runtime_dir) == []
    assert guards.left() == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("how", "code"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_command_that_cannot_be_executed(
    guards: Guards, disk: str, tmp_path: Path, *, how: Callable[[Path], str], code: int, mode: str
) -> None:
    command = how(tmp_path)
    refusal = guards.refusal(disk, command=[command], containment=mode)
    assert refusal.code == code
    assert_one_line(refusal, f"cannot run {command}: ")
    assert_nothing_is_left(guards, disk)


def test_a_program_that_somebody_writes_to(guards: Guards, disk: str, tmp_path: Path) -> None:
    program = str(shutil.copy("/bin/true", tmp_path / "busy"))
    with open(program, "r+b"):
        refusal = guards.refusal(disk, command=[program])
    assert refusal.code == NOT_EXECUTABLE
    assert_one_line(refusal, f"cannot run {program}: Text file busy")
    assert_nothing_is_left(guards, disk)


def assert_one_line(refusal: Ended, start: str) -> None:
    assert refusal.stderr.startswith(f"lock-supervisor: {start}"), refusal
    assert refusal.stderr.count("\n") == 1


@pytest.mark.parametrize("mode", MODES)
def test_arguments_too_long_for_the_kernel(mode: str, guards: Guards, disk: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(DEADLINE_S)
        spec = guards.spec(disk, containment=mode, handshake_fd=theirs.fileno())
        command = ["/bin/true", "x" * 100_000, "x" * 100_000]
        guard = guards.start(spec, command, pass_fds=[theirs.fileno()])
        assert ours.recv(64) == b"ACQUIRED\n"
        child = descendants(guard.pid)[-1]
        _soft, hard = resource.prlimit(child, resource.RLIMIT_STACK)
        resource.prlimit(child, resource.RLIMIT_STACK, (128 << 10, hard))
        ours.send(b"GO\n")
        refusal = guard.refused()
    assert refusal.code == NOT_EXECUTABLE
    assert_one_line(refusal, "cannot run /bin/true: Argument list too long")
    assert_nothing_is_left(guards, disk)


def test_a_pid_file_that_cannot_be_written(guards: Guards, disk: str, tmp_path: Path) -> None:
    pidfile = str(tmp_path / "missing" / "qemu.pid")
    command = firmware.argv(disk, extra=["-pidfile", pidfile])
    refusal = guards.refusal(disk, command=command, containment=Containment.PIDNS)
    assert refusal.code == FAILED
    assert_one_line(refusal, f"cannot write pid file {pidfile}: No such file or directory")
    assert_nothing_is_left(guards, disk)


@pytest.mark.parametrize("limit", ["true", "echo 0 >/proc/sys/user/max_pid_namespaces"])
def test_a_namespace_that_the_kernel_refuses(guards: Guards, disk: str, limit: str) -> None:
    """Or would not let us leave again: in a user namespace, the way back is the host's to allow."""
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", f'{limit} && exec "$@"', "sh"]
    spec = guards.spec(disk, containment=Containment.PIDNS)
    refusal = guards.start(spec, prefix=prefix).refused()
    assert refusal.code == FAILED
    assert_one_line(
        refusal, "cannot contain guest guest: the host or container allows no PID namespace: "
    )
    assert_nothing_is_left(guards, disk)
