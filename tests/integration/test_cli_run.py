"""Does `run` start what it was told, as the same process, and refuse with the right exit code?"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import waiting
from tests.support.command import PROGRAM
from tests.support.locking import is_free, until_waited_for
from tests.support.qemu import QEMU, idle_argv
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guards

UUID = "5f2c1d3e-0000-4000-8000-00000000000a"
SHELL = ("--plugin", "nop", "--no-discover", "--", "/bin/sh", "-c")


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return str(path)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -9 $$", 137)],
)
def test_the_exit_code_is_the_guests(command: Command, script: str, code: int) -> None:
    result = command("run", *SHELL, script)
    assert (result.code, result.out, result.err) == (code, "", "")


def test_what_cannot_be_executed_is_127_or_126(command: Command, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for name, code in (("missing", 127), ("text", 126)):
        result = command("run", "--plugin", "nop", "--no-discover", str(tmp_path / name))
        assert (result.code, result.err.count("\n")) == (code, 1), result
        assert result.err.startswith("lock-supervisor: cannot ")


def test_front_door_and_guard_are_one_process(command: Command) -> None:
    started, pid = command.guest(*SHELL, "echo $PPID; exec sleep 1000")
    assert started.process.stdout is not None
    assert int(started.process.stdout.readline()) == started.process.pid
    (guest,) = command.json("list")
    assert (guest["supervisor_pid"], guest["child_pid"]) == (started.process.pid, pid)


@pytest.mark.parametrize("option", ["--ready-fd", "--handshake-fd"])
@pytest.mark.parametrize("words", [["--plugin", "nop", "--no-discover", "true"], [QEMU, "-h"]])
def test_a_descriptor_that_is_not_open_is_exit_2(
    command: Command, option: str, words: list[str]
) -> None:
    result = command("run", option, "987", *words)
    assert (result.code, result.out, "987" in result.err) == (2, "", True), result


def test_an_answer_that_cannot_be_written_is_an_error(command: Command) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [PROGRAM, "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=command.env,
            check=False,
            timeout=10,
        )
    assert result.returncode == 111
    assert result.stderr == (
        b"lock-supervisor: cannot print the answer: No space left on device (ENOSPC)\n"
    )


@pytest.mark.parametrize("dashes", [["--"], []])
def test_everything_from_command_on_is_the_guests(command: Command, dashes: list[str]) -> None:
    words = ["--name", "--help", "--", "--plugin=nonsense", "-x", ""]
    options = ["--plugin", "nop", "--no-discover"]
    result = command("run", *options, *dashes, "/usr/bin/printf", r"%s\n", *words)
    assert (result.code, result.out.split("\n")) == (0, [*words, ""])


def test_help_and_probes_of_qemu_take_nothing(command: Command, tmp_path: Path) -> None:
    result = command("run", "--config", "/missing.toml", QEMU, "-version")
    assert (result.code, "QEMU emulator version" in result.out) == (0, True), result
    result = command("run", "--", QEMU, "-device", "help")
    assert (result.code, "virtio-blk" in result.out) == (0, True)
    assert not os.path.exists(tmp_path / "run")
    result = command("run", "--", "/missing/qemu-kvm", "-version")
    assert (result.code, result.err.count("\n")) == (127, 1), result


def test_a_probe_gets_the_signals_and_the_environment_that_we_got(
    command: Command, tmp_path: Path
) -> None:
    probe = tmp_path / "qemu-kvm"
    probe.write_text("#!/bin/sh\ngrep SigIgn /proc/$$/status\ntr '\\0' '\\n' </proc/$$/environ\n")
    probe.chmod(0o755)
    bare = subprocess.run(
        [str(probe), "-version"], env={**command.env, "LC_CTYPE": "C"}, capture_output=True,
        text=True, check=True, timeout=10,
    )  # fmt: skip
    result = command("run", str(probe), "-version", LC_CTYPE="C")
    assert (result.code, result.out) == (0, bare.stdout)


def test_a_disk_held_elsewhere_is_refused_naming_the_guest_that_has_it(
    command: Command, disk: str
) -> None:
    command.guest("--name", "web1", "--", *idle_argv(disk))
    assert not is_free(disk)
    result = command("run", "--name", "web2", "--", *idle_argv(disk))
    assert (result.code, result.out, result.err.count("\n")) == (110, "", 1), result
    assert "web1" in result.err
    assert disk in result.err


def test_wait_starts_when_the_other_guest_is_gone(command: Command, disk: str) -> None:
    command.guest("--name", "web1", "--", *idle_argv(disk))
    refused = command("run", "--name", "web2", "--wait", "0.2", "--", *idle_argv(disk))
    assert (refused.code, "web1" in refused.err) == (110, True), refused
    second = command.start("run", "--name", "web2", "--wait", "inf", "--", *idle_argv(disk))
    until_waited_for(disk)
    assert command("kill", "web1").code == 0
    waiting.until(
        lambda: [guest["state"] for guest in command.json("list")] == ["running"], 10, "web2 runs"
    )
    assert not is_free(disk)
    assert command("kill", "web2").code == 0
    assert second.end().code == -signal.SIGKILL


def test_one_supervisor_for_a_uuid(command: Command) -> None:
    command.guest("--uuid", UUID.upper(), *SHELL, "exec sleep 1000")
    result = command("run", "--uuid", UUID, *SHELL, "true")
    assert (result.code, UUID in result.err) == (110, True), result


def test_the_configuration_reaches_the_plugin(command: Command, disk: str, tmp_path: Path) -> None:
    locks = tmp_path / "locks"
    locks.mkdir()
    config = tmp_path / "config.toml"
    config.write_text(f'[file]\nfile_lockspace_dir = "{locks}"\n')
    command.guest("--config", str(config), "--name", "web1", "--", *idle_argv(disk))
    (lease,) = command.json("status", "web1")["leases"]
    assert lease["lockspace"] == str(locks)
    assert len(os.listdir(locks)) == 1
    result = command(
        "run", "--no-discover", "--disk", disk, "/bin/true", LOCK_SUPERVISOR_CONFIG=str(config)
    )
    assert (result.code, "web1" in result.err) == (110, True), result


def test_an_explicit_lease_is_a_file_in_its_lockspace(command: Command, tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    key = tmp_path / "space" / "key"
    key.touch()
    command.guest("--lease", f"space:key:{tmp_path}", "/bin/sleep", "1000")
    assert not is_free(key)


def test_a_third_partys_plugin_is_found_and_told_to_the_guard(
    command: Command, guards: Guards, disk: str, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        "[lockplugins]\nmine = theirs:Mine\n"
    )
    (site / "theirs.py").write_text(
        "from lockplugins.contract import Capability, Lease, Plugin\n"
        "class Mine(Plugin):\n"
        "    name = 'mine'\n"
        "    capabilities = (Capability.RESOURCES,)\n"
        "    CONFIG_KEYS = ('colour',)\n"
        "    FREED_BY_DEATH = True\n"
        "    def acquire(self, resources, wait_until):\n"
        "        return [Lease(r, self.config['colour'], r.path) for r in resources]\n"
    )
    (tmp_path / "config.toml").write_text('plugin = "mine"\n[mine]\ncolour = "blue"\n')
    paths = [str(site), CHECKOUT, *(path for path in sys.path if path.endswith("-packages"))]
    program = f"import sys; sys.path += {paths!r}; from supervisor.cli.main import main; main()"
    words = ["run", "--config", str(tmp_path / "config.toml"), "--name", "web1", "--disk", disk]
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program, *words, "/bin/sleep", "1000"], env=command.env
    ) as process:
        try:
            status = waiting.until(
                lambda: [g for g in command.json("list") if g["state"] == "running"], 10, "it runs"
            )
            assert status[0]["plugin"] == "mine"
            (lease,) = command.json("status", "web1")["leases"]
            assert (lease["resource"], lease["lockspace"]) == (disk, "blue")
        finally:
            process.kill()
    assert guards.started == []


def test_a_plugin_that_is_nowhere_names_those_that_are(command: Command) -> None:
    result = command("run", "--plugin", "nonsense", "--no-discover", "/bin/true")
    assert (result.code, "allowed: file nop" in result.err) == (2, True), result


def test_the_handshake_waits_for_go(command: Command, disk: str, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        marker = tmp_path / "started"
        started = command.start(
            *("run", "--handshake-fd", str(theirs.fileno()), "--no-discover", "--disk", disk),
            *("/usr/bin/touch", str(marker)),
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        waiting.readable(ours.fileno(), 10, "it says ACQUIRED")
        assert ours.recv(100) == b"ACQUIRED\n"
        assert not is_free(disk)
        assert not marker.exists()
        assert command.json("list")[0]["state"] == "acquired"
        ours.sendall(b"GO\n")
        assert started.end().code == 0
        assert marker.exists()


def test_output_that_nobody_reads_is_no_fault_of_ours(command: Command) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    result = subprocess.run(
        [PROGRAM, "list"], stdout=write_fd, stderr=subprocess.PIPE, env=command.env, check=False,
        timeout=10,
    )  # fmt: skip
    os.close(write_fd)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, b"")


def test_interrupted_we_say_130_and_nothing(command: Command, guards: Guards) -> None:
    guards.run(plugin="nop", name="web1")
    waiter = command.start("wait", "web1")

    waiting.until(lambda: waiter.has_open("socket:"), 10, "it has connected")
    waiter.process.send_signal(signal.SIGINT)
    result = waiter.end()
    assert (result.code, result.out, result.err) == (130, "", "")
