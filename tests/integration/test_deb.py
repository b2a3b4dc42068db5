"""Does the Debian package work on a Debian that has nothing else, and leave nothing behind?

COMMAND is a shell, whose disk is named: a minimal Debian has no QEMU.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor import __version__
from tests.support import waiting
from tests.support.packages import build, files_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.machine import Machine
    from tests.support.packages import Packages

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]

DEADLINE_S = 60.0
COMMAND = "lock-supervisor"
CODE = "/usr/share/lock-supervisor"
MADE_AT_RUN_TIME = ("/run/lock-supervisor", "/var/log/lock-supervisor")
USER = "65534:65534"
LOCKED = ["run", "--name", "web1", "--disk", "/tmp/disk.img", "--"]


@pytest.fixture
def debian(clean_machine: Machine, packages: Packages) -> Iterator[Machine]:
    """Give a clean machine with the package installed; it is purged in the end."""
    install(clean_machine, packages.deb)
    clean_machine.ok("truncate", "-s", "1M", "/tmp/disk.img")
    clean_machine.ok("chmod", "666", "/tmp/disk.img")
    yield clean_machine
    clean_machine.ok("dpkg", "--purge", COMMAND)


def install(machine: Machine, deb: str) -> None:
    machine.ok("dpkg", "--install", carried(machine, deb))


def carried(machine: Machine, path: str) -> str:
    """Put a file of the host onto the machine."""
    there = f"/tmp/{path.rpartition('/')[2]}"
    with open(path, "rb") as file:
        put = machine.argv("sh", "-c", f"cat >{there}")
        subprocess.run(put, stdin=file, timeout=DEADLINE_S, check=True)
    return there


def started(machine: Machine, user: str | None = None, **env: str) -> subprocess.Popen[str]:
    """Start a guest; returns when it says that it runs, its supervisor being asked nothing."""
    guest = ("sh", "-c", "echo up; exec sleep 1000")
    process = machine.start(COMMAND, *LOCKED, *guest, user=user, **env)
    assert process.stdout is not None
    waiting.readable(process.stdout.fileno(), DEADLINE_S, "the guest runs")
    assert process.stdout.readline() == "up\n"
    return process


def test_the_same_source_gives_the_same_bytes(packages: Packages, tmp_path: Path) -> None:
    again = build(tmp_path)
    assert Path(again.deb).read_bytes() == Path(packages.deb).read_bytes()
    assert Path(again.wheel).read_bytes() == Path(packages.wheel).read_bytes()


def test_a_guest_runs_and_a_second_one_is_refused(debian: Machine) -> None:
    assert debian.ok(COMMAND, "--version") == f"{COMMAND} {__version__}\n"
    assert debian.run(COMMAND, *LOCKED, "sh", "-c", "exit 7").code == 7
    first = started(debian)
    second = debian.run(COMMAND, "run", "--disk", "/tmp/disk.img", "--", "true")
    assert second.code == 110
    assert second.err.startswith(
        "lock-supervisor: cannot acquire exclusive lease for disk /tmp/disk.img: "
        "held by guest web1 ("
    )
    status = json.loads(debian.ok(COMMAND, "status", "web1", "--json"))
    assert status["leases"][0]["state"] == "held"
    debian.ok(COMMAND, "stop", "web1")
    assert first.wait(DEADLINE_S) == 128 + 15


def test_it_runs_for_an_ordinary_user_too(debian: Machine) -> None:
    debian.ok("install", "-d", "-m", "700", "-o", "nobody", "/run/user")
    own = {"XDG_RUNTIME_DIR": "/run/user"}
    first = started(debian, user=USER, **own)
    assert debian.run(COMMAND, *LOCKED, "true", user=USER, **own).code == 110
    assert debian.run(COMMAND, "kill", "web1", user=USER, **own).code == 0
    assert first.wait(DEADLINE_S) == -9
    assert debian.run(COMMAND, *LOCKED, "sh", "-c", "exit 7", user=USER, **own).code == 7


def test_its_parts_are_where_debian_looks_for_them(debian: Machine) -> None:
    listed = debian.ok("dpkg", "--listfiles", COMMAND).splitlines()
    for path in (
        "/usr/bin/lock-supervisor",
        "/usr/share/man/man1/lock-supervisor.1.gz",
        "/usr/lib/systemd/system/lock-supervisor@.service",
        "/usr/share/lock-supervisor/libvirt-emulator",
        "/usr/share/bash-completion/completions/lock-supervisor",
        "/usr/share/zsh/vendor-completions/_lock-supervisor",
        "/usr/share/fish/vendor_completions.d/lock-supervisor.fish",
        "/usr/share/doc/lock-supervisor/copyright",
        "/usr/share/doc/lock-supervisor/install.md",
    ):
        assert path in listed
        debian.ok("test", "-s", path)
    debian.ok("/usr/share/python3/runtime.d/lock-supervisor.rtupdate", "rtupdate", "old", "new")
    sources = debian.ok("find", CODE, "-name", "*.py").splitlines()
    compiled = debian.ok("find", CODE, "-name", "*.pyc").splitlines()
    assert len(sources) == len(compiled) > 10
    assert "lock" not in debian.ok("ls", "/usr/lib/python3/dist-packages")


PLUGIN = """
import os, sys
place = "/usr/local/lib/python%d.%d/dist-packages" % sys.version_info[:2]
os.makedirs(f"{place}/theirs.dist-info")
with open(f"{place}/theirs.py", "w") as file:
    file.write("from lockplugins.nop import NopPlugin\\n")
    file.write("class Theirs(NopPlugin): name = 'theirs'\\n")
with open(f"{place}/theirs.dist-info/entry_points.txt", "w") as file:
    file.write("[lockplugins]\\ntheirs = theirs:Theirs\\n")
"""


def test_a_plugin_that_pip_has_installed_is_found(debian: Machine) -> None:
    theirs = ["run", "--plugin", "theirs", "--no-discover", "--", "sh", "-c", "exit 7"]
    assert debian.run(COMMAND, *theirs).code == 2
    debian.ok("python3", "-c", PLUGIN)
    assert debian.run(COMMAND, *theirs).code == 7
    debian.ok("sh", "-c", "rm -r /usr/local/lib/python3.*/dist-packages/theirs*")


def test_a_guest_outlives_an_upgrade_and_is_still_answered_for(
    debian: Machine, packages: Packages, tmp_path: Path
) -> None:
    first = started(debian)
    child = debian.ok("sh", "-c", "cat /run/lock-supervisor/*/child.pid")
    newer = f"{__version__}.1"
    install(debian, renumbered(packages.deb, newer, str(tmp_path)))
    assert debian.ok(COMMAND, "--version") == f"{COMMAND} {newer}\n"
    code = debian.ok("ls", CODE).split()
    assert newer in code
    assert __version__ not in code
    status = json.loads(debian.ok(COMMAND, "status", "web1", "--json"))
    assert f"{status['child_pid']}\n" == child
    assert status["state"] == "running"
    assert debian.run(COMMAND, *LOCKED, "true").code == 110
    debian.ok(COMMAND, "stop", "web1")
    assert first.wait(DEADLINE_S) == 128 + 15


def test_a_guest_outlives_the_package(debian: Machine, packages: Packages) -> None:
    first = started(debian)
    child = debian.ok("sh", "-c", "cat /run/lock-supervisor/*/child.pid").strip()
    debian.ok("dpkg", "--remove", COMMAND)
    assert debian.run(COMMAND, "list").code == 127
    debian.ok("sh", "-c", f"kill -0 {child}")
    install(debian, packages.deb)
    assert debian.ok(COMMAND, "child", "web1").strip() == child
    debian.ok(COMMAND, "kill", "web1")
    assert first.wait(DEADLINE_S) == -9


def renumbered(deb: str, version: str, directory: str) -> str:
    """Return the package with another version."""
    argv = ["dpkg-deb", "--raw-extract", deb, f"{directory}/deb"]
    subprocess.run(argv, timeout=DEADLINE_S, check=True)
    script = (
        f"mv usr/share/lock-supervisor/{__version__} usr/share/lock-supervisor/{version}\n"
        f"grep -rlF {__version__} . | xargs sed -i 's/{__version__}/{version}/g'\n"
        f"dpkg-deb --root-owner-group --build . ../{version}.deb"
    )
    subprocess.run(
        ["sh", "-ec", script],
        cwd=f"{directory}/deb",
        timeout=DEADLINE_S,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return f"{directory}/{version}.deb"


def test_purged_it_leaves_nothing_behind(clean_machine: Machine, packages: Packages) -> None:
    before = files_of(clean_machine)
    install(clean_machine, packages.deb)
    assert len(files_of(clean_machine)) > len(before) + 50
    clean_machine.ok("truncate", "-s", "1M", "/tmp/disk.img")
    clean_machine.ok(COMMAND, "run", "--detach", *LOCKED[1:], "sleep", "1000")
    clean_machine.ok(COMMAND, "kill", "web1")
    clean_machine.ok("ls", *MADE_AT_RUN_TIME)
    clean_machine.ok("dpkg", "--purge", COMMAND)
    assert files_of(clean_machine) == before
    for path in MADE_AT_RUN_TIME:
        assert clean_machine.run("ls", path).code == 2
