"""What has the guard imported when its guest starts? Only what costs next to nothing.

Observed from outside: `-X importtime` names every module as it is imported,
and a guard that waits for its launcher's GO has imported all that it will
before exec. A module more is a decision: it costs every guest start its time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import prctl
import pytest

from lockplugins.contract import Resource
from supervisor import spec
from tests.support.sources import CHECKOUT, LATE_PARTS
from tests.support.waiting import readable

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 20
# What is compiled into the interpreter costs nothing to speak of.
ALLOWED = {*sys.builtin_module_names, "__future__", "_prctl"}
# What no plugin that speaks to a C library can do without: 3 ms. `types` and `struct` are its own.
CTYPES = {"ctypes", "ctypes._endian", "_ctypes", "struct", "types"}
ONLY_WHEN_REFUSED = {"supervisor.holders", "supervisor.records", "supervisor.waiting_line"}
FAR_TOO_DEAR = {
    "enum", "json", "typing", "dataclasses", "signal", "re", "contextlib", "collections",
    "functools", "click", "psutil", "asyncio", "socket", "selectors", "threading", "subprocess",
    "logging", "pathlib", "site", "importlib.metadata",
}  # fmt: skip


def imported(report: bytes) -> set[str]:
    """Return the modules that `-X importtime` named."""
    lines = report.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def imported_by(line: str) -> set[str]:
    """Return what an interpreter has imported that has run this line."""
    argv = [spec.python(), "-X", "importtime", "-I", "-S", "-c", line]
    run = subprocess.run(argv, stderr=subprocess.PIPE, timeout=DEADLINE_S, check=True)
    return imported(run.stderr)


def interpreter_with_os() -> set[str]:
    return imported_by("import os")


def guard_until_go(directory: Path, plugin: str, command: list[str]) -> tuple[set[str], set[str]]:
    """Run a guard; return what it has imported when it waits for GO, and when it has ended."""
    disk = directory / "disk.img"
    disk.write_bytes(bytes(4096))
    guest = spec.GuestSpec("imports", str(uuid.uuid4()), str(directory))
    guest.plugin = plugin
    guest.config = {"vm": {"lease_dir": str(directory / "leases")}} if plugin == "vm" else {}
    guest.import_dirs = [os.path.dirname(str(prctl.__file__))]
    guest.resources = [Resource(str(disk))]
    guest.wait_s = float("inf")
    ours, guards = socket.socketpair()
    report = directory / "imports"
    with ours, guards, report.open("wb") as stderr:
        guest.handshake_fd = guards.fileno()
        python, *arguments = spec.render(guest)
        argv = [python, "-X", "importtime", *arguments, *command]
        with subprocess.Popen(argv, stderr=stderr, pass_fds=[guards.fileno()]) as guard:
            guards.close()
            readable(ours.fileno(), DEADLINE_S, "the guard has its leases")
            assert ours.recv(64) == b"ACQUIRED\n", report.read_text()
            before_go = imported(report.read_bytes())
            ours.sendall(b"GO\n")
            assert guard.wait(DEADLINE_S) == 0, report.read_text()
    return before_go, imported(report.read_bytes())


@pytest.mark.parametrize("plugin", ["nop", "file", "vm"])
def test_a_guard_that_nobody_asks_anything_imports_next_to_nothing(
    tmp_path: Path, plugin: str
) -> None:
    before_go, in_all = guard_until_go(tmp_path, plugin, ["/bin/true"])
    assert "supervisor.guard.fork" in before_go
    assert f"lockplugins.{plugin}" in before_go
    assert foreign(in_all) == set()
    assert in_all & (ONLY_WHEN_REFUSED | LATE_PARTS) == set()


@pytest.mark.parametrize("plugin", ["nop", "file", "vm"])
def test_a_guard_of_qemu_has_imported_next_to_nothing_when_qemu_starts(
    tmp_path: Path, plugin: str
) -> None:
    qemu = tmp_path / "qemu-system-none"
    qemu.symlink_to("/bin/true")
    before_go, _ = guard_until_go(tmp_path, plugin, [str(qemu)])
    assert "supervisor.guard.fork" in before_go
    assert foreign(before_go) == set()


def test_the_plugin_sanlock_brings_ctypes_and_nothing_else() -> None:
    plugin = "lockplugins.sanlock.plugin"
    modules = imported_by(f"import sys; sys.path.insert(0, {CHECKOUT!r}); import {plugin}")
    assert plugin in modules
    assert foreign(modules) - CTYPES == set()


def foreign(modules: set[str]) -> set[str]:
    ours = {name for name in modules if name.partition(".")[0] in ("supervisor", "lockplugins")}
    return modules - ours - interpreter_with_os() - ALLOWED


def test_the_allowance_holds_nothing_dear() -> None:
    assert (ALLOWED | CTYPES | interpreter_with_os()) & FAR_TOO_DEAR == set()
