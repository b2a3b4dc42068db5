"""What is a person, a script or a program told while a host is not in its lockspace yet?"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

import lockplugins
from lockplugins.contract import LockError
from supervisor.manager import LockManager, ObjectType
from supervisor.spec import Containment
from tests.support import prefixes, waiting
from tests.support.command import DEADLINE_S, PROGRAM
from tests.support.screen import Screen
from tests.support.terminal import CONTROL_C, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guards
    from tests.support.sanlock import Daemon

LINE = "lock-supervisor: waiting 1 s (^C gives up) for lockspace "
WIDE = 400
WHERE = "ldconfig -p | sed -n 's/.*libsanlock_client.so.1 .* => //p' | head -n 1"


@pytest.fixture
def host(sanlock_hosts: Callable[[int], Daemon]) -> Daemon:
    """Give a test a host of its own, which has not joined: that takes 3 s."""
    return sanlock_hosts(1)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as opened:
        yield opened


def test_a_person_is_told_what_takes_so_long(
    host: Daemon, guards: Guards, terminal: Terminal
) -> None:
    screen = Screen(terminal, WIDE)
    guards.env |= host.env
    command = ("/bin/sh", "-c", "printf first; exec sleep 1000")
    fields = {"plugin": "sanlock", "config": {"sanlock": host.config}}
    guard = prefixes.start(
        guards, Containment.PDEATHSIG, command,
        launcher=terminal.launcher, fields=fields, **terminal.streams,
    )  # fmt: skip
    words = f"{LINE}{host.lockspace}, which takes 3 s to join, or 72 s where sanlock was killed"
    screen.until(lambda lines: lines == [words], "the line is there")
    screen.until(lambda lines: lines == ["first"], "what the guest says is all there is")
    guard.kill()


def test_whoever_gives_up_waits_no_longer(host: Daemon, guards: Guards, terminal: Terminal) -> None:
    screen = Screen(terminal, WIDE)
    guards.env |= host.env
    fields = {"plugin": "sanlock", "config": {"sanlock": host.config}}
    guard = prefixes.start(
        guards, Containment.PIDNS, ("/bin/true",),
        launcher=terminal.launcher, fields=fields, **terminal.streams,
    )  # fmt: skip
    screen.until(lambda lines: any(LINE in line for line in lines), "the line is there")
    terminal.type(CONTROL_C)
    said = "lock-supervisor: cannot run guest guest: signal 2 came first; nothing held"
    screen.until(lambda lines: lines == [said], "the error is all that is left")
    assert guard.wait().code == 128 + signal.SIGINT
    waiting.until(lambda: host.status().lockspaces, DEADLINE_S, "the host has joined all the same")


@pytest.fixture
def message(tmp_path: Path, command: Command) -> str:
    """Configure a directory that is not there; returns what the seed has said of that."""
    (tmp_path / "config.toml").write_text(
        f'[sanlock]\nhost_id = 1\ndisk_lease_dir = "{tmp_path}/none"\n'
    )
    command.env["LOCK_SUPERVISOR_CONFIG"] = str(tmp_path / "config.toml")
    reason = "parent directory does not exist or is not a directory"
    return f"Unable to create lockspace {tmp_path}/none/__LIBVIRT__DISKS__: {reason}"


def test_the_seeds_message_is_the_commands(command: Command, message: str) -> None:
    refused = command("run", "--plugin", "sync-manager", "--no-discover", "--", "/bin/true")
    assert (refused.code, refused.out) == (111, "")
    assert refused.err == f"lock-supervisor: {message}\n"


def test_the_seeds_message_is_the_logs(command: Command, message: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ("--plugin", "sanlock", "--detach", "--log", str(log), "--no-discover")
    refused = command("run", *words, "--", "/bin/true")
    assert (refused.code, refused.err) == (111, f"lock-supervisor: {message}\n")
    assert f"lock-supervisor: {message}\n" in log.read_text().splitlines(keepends=True)


def test_the_seeds_message_is_the_programs(command: Command, message: str, tmp_path: Path) -> None:
    plugin = lockplugins.load("sync-manager")
    config, runtime_dir = command.env["LOCK_SUPERVISOR_CONFIG"], str(tmp_path / "run")
    manager = LockManager(plugin, ObjectType.DOMAIN, config=config, runtime_dir=runtime_dir)
    with manager:
        for key, value in {"id": 1, "name": "web1", "log": str(tmp_path / "log")}.items():
            manager.set_parameter(key, value)
        manager.set_parameter("no_discover", value=True)
        with pytest.raises(LockError) as refused:
            manager.acquire_object(["/bin/true"])
    assert str(refused.value) == message
    assert f"lock-supervisor: {message}\n" in (tmp_path / "log").read_text()


def hidden(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command where a shell's script has hidden something, for it alone."""
    argv = ["unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh", PROGRAM, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"mount --bind /dev/null $({WHERE})", "cannot load libsanlock: "),
        ("mount -t tmpfs none /usr/sbin", "cannot reach the sanlock daemon: it is not installed"),
        ("true", "cannot reach the sanlock daemon: it is not running (/run/sanlock/sanlock.sock: "),
    ],
)
def test_what_is_missing_is_named_with_the_command_to_run(
    tmp_path: Path, script: str, words: str
) -> None:
    if os.path.exists("/run/sanlock/sanlock.sock"):
        pytest.skip("the host has a sanlock daemon of its own")
    (tmp_path / "leases").mkdir()
    (tmp_path / "config.toml").write_text(
        f'[sanlock]\nhost_id = 1\ndisk_lease_dir = "{tmp_path}/leases"\n'
    )
    options = ("--config", str(tmp_path / "config.toml"), "--runtime-dir", str(tmp_path / "run"))
    ran = tmp_path / "ran"
    done = hidden(
        script,
        "run",
        *options,
        "--plugin",
        "sanlock",
        "--no-discover",
        "--",
        "/bin/touch",
        str(ran),
    )
    assert (done.returncode, done.stdout) == (111, "")
    assert done.stderr.startswith(f"lock-supervisor: {words}")
    run = {"load": "apt-get install libsanlock-client1", "installed": "apt-get install sanlock"}
    expected = next((run[word] for word in run if word in words), "systemctl start sanlock")
    assert done.stderr.endswith(f"; run: {expected}\n")
    assert not ran.exists()
    assert os.listdir(tmp_path / "leases") == []
