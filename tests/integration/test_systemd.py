"""Does the unit template do what it says, under a real systemd?

systemd is process 1 of a machine of its own, on the host's files: with no unit but ours and
the targets that it cannot do without, a hierarchy of cgroups below the host's, and no journal.
"""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.support import waiting
from tests.support.command import PROGRAM
from tests.support.guest.checker import check
from tests.support.machine import Machine
from tests.support.qemu import guest_argv
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]

DEADLINE_S = 60.0
UNIT = "lock-supervisor@.service"
TARGETS = ("sysinit", "basic", "shutdown", "network-online", "local-fs", "remote-fs", "boot")
TARGET = "[Unit]\nDefaultDependencies=no\n"
# What journald would be told, and the guest's console.
SAID = "[Service]\nStandardOutput=append:{directory}/%i.said\nStandardError=inherit\n"
LAYERS = """\
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/layers/etc/lock-supervisor /run/layers/bin /run/work/etc /run/work/bin /run/lock
ln -s {program} /run/layers/bin/lock-supervisor
mount -t overlay -o lowerdir=/etc,upperdir=/run/layers/etc,workdir=/run/work/etc overlay /etc
mount -t overlay -o lowerdir=/usr/bin,upperdir=/run/layers/bin,workdir=/run/work/bin \
    overlay /usr/bin
"""
CGROUPS = """\
umount -R /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
"""
HIERARCHY = "/sys/fs/cgroup/systemd"


class Services:
    """Guests as services of one systemd."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.directory = directory

    def configure(self, name: str, *argv: str, **settings: str) -> None:
        """Write an instance's file as docs/install.md says."""
        command = " ".join(f"'{word}'" if " " in word else word for word in argv)
        lines = [f"{key}={value}\n" for key, value in {**settings, "COMMAND": command}.items()]
        path = f"/proc/{self.machine.init_pid}/root/etc/lock-supervisor/{name}.conf"
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(lines)

    def systemctl(self, verb: str, name: str) -> int:
        return self.machine.run("systemctl", verb, f"lock-supervisor@{name}").code

    def shown(self, name: str, value: str) -> str:
        unit = f"lock-supervisor@{name}"
        return self.machine.ok("systemctl", "show", "--value", "-p", value, unit).strip()

    def said(self, name: str) -> str:
        return (self.directory / f"{name}.said").read_text(errors="replace")

    def until_it_writes(self, name: str) -> None:
        """Wait for a guest of tests/support/guest; before, it hears no power button."""
        waiting.until(lambda: "ready nonce=" in self.said(name), DEADLINE_S, f"{name} writes")

    def until(self, name: str, state: str) -> None:
        waiting.until(
            lambda: self.shown(name, "ActiveState") == state, DEADLINE_S, f"{name} is {state}"
        )


@pytest.fixture
def services(tmp_path: Path, require: Callable[[str], str]) -> Iterator[Services]:
    systemd = "/lib/systemd/systemd"
    require(systemd)
    units = tmp_path / "units"
    units.mkdir()
    for name in TARGETS:
        (units / f"{name}.target").write_text(TARGET)
    shutil.copy(f"{CHECKOUT}/docs/{UNIT}", units)
    (units / f"{UNIT}.d").mkdir()
    (units / f"{UNIT}.d" / "said.conf").write_text(SAID.format(directory=tmp_path))
    cgroup = f"{HIERARCHY}/lock-supervisor-test.{uuid.uuid4()}"
    environment = ["container=test", f"SYSTEMD_UNIT_PATH={units}", "PATH=/usr/bin:/usr/sbin"]
    machine = Machine(
        ["env", "-i", *environment, systemd, "--system", "--unit=boot.target",
         "--log-target=console", "--log-level=err", "--show-status=no"],
        before=f"mkdir {cgroup}\necho $$ >{cgroup}/cgroup.procs",
        set_up=LAYERS.format(program=PROGRAM) + CGROUPS,
        namespaces=["--cgroup"],
    )  # fmt: skip
    try:
        with machine:
            bus = f"/proc/{machine.init_pid}/root/run/systemd/private"
            waiting.until(lambda: os.path.exists(bus), DEADLINE_S, "systemd answers")
            yield Services(machine, tmp_path)
    finally:
        for directory, _, _ in os.walk(cgroup, topdown=False):
            os.rmdir(directory)


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "a disk.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return str(path)


def test_a_guest_is_started_refused_a_second_time_and_stopped_by_its_power_button(
    services: Services, disk: str
) -> None:
    services.configure("web1", *guest_argv(disk))
    services.configure("web2", *guest_argv(disk))
    assert services.systemctl("start", "web1") == 0
    assert services.shown("web1", "ActiveState") == "active"
    guest = services.machine.ok("lock-supervisor", "child", "web1").strip()
    parent = services.machine.ok("sed", "-n", r"s/^PPid:\s*//p", f"/proc/{guest}/status").strip()
    assert parent == services.shown("web1", "MainPID")
    services.until_it_writes("web1")

    assert services.systemctl("start", "web2") == 1
    assert services.shown("web2", "ExecMainStatus") == "110"
    assert "held by guest web1 (" in services.said("web2")

    assert services.systemctl("stop", "web1") == 0
    assert services.shown("web1", "ActiveState") == "inactive"
    assert services.shown("web1", "Result") == "success"
    assert services.shown("web1", "ExecMainStatus") == "0"
    assert ": power button" in services.said("web1")
    assert services.systemctl("start", "web2") == 0
    services.until_it_writes("web2")
    assert services.systemctl("stop", "web2") == 0
    report = check(disk)
    assert not report.interleaved, report.reasons


def test_after_sigkill_of_the_supervisor_the_guest_is_gone_and_the_unit_starts_again(
    services: Services, disk: str
) -> None:
    services.configure("web1", *guest_argv(disk))
    assert services.systemctl("start", "web1") == 0
    services.until_it_writes("web1")
    guest = services.machine.ok("lock-supervisor", "child", "web1").strip()
    services.machine.ok("sh", "-c", f"kill -KILL {services.shown('web1', 'MainPID')}")
    services.until("web1", "failed")
    assert services.shown("web1", "Result") == "signal"
    assert services.machine.run("sh", "-c", f"kill -0 {guest}").code == 1
    assert services.systemctl("start", "web1") == 0
    waiting.until(lambda: services.said("web1").count("ready nonce=") > 1, DEADLINE_S, "it writes")
    assert services.systemctl("stop", "web1") == 0
    report = check(disk)
    assert len(report.boots) == 2
    assert not report.interleaved, report.reasons


def test_a_guest_that_ends_by_itself_is_a_service_that_has_succeeded(
    services: Services, disk: str
) -> None:
    services.configure("web1", *guest_argv(disk, count=3), OPTIONS="--wait 5")
    assert services.systemctl("start", "web1") == 0
    services.until("web1", "inactive")
    assert services.shown("web1", "Result") == "success"


def test_a_guest_that_cannot_start_is_no_service(services: Services) -> None:
    services.configure("web1", "qemu-system-x86_64", "-drive", "file=/nowhere.img")
    assert services.systemctl("start", "web1") == 1
    assert services.shown("web1", "ExecMainStatus") == "111"
    assert services.systemctl("start", "web2") == 1  # has no file


def test_systemd_finds_no_fault_with_the_unit(services: Services) -> None:
    units = services.directory / "units"
    argv = ["systemd-analyze", "verify", "--man=no", "lock-supervisor@web1.service"]
    found = services.machine.run(*argv, SYSTEMD_UNIT_PATH=str(units))
    assert (found.out, found.err, found.code) == ("", "", 0)
