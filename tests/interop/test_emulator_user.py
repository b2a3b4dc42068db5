"""As libvirt's <emulator> under the user libvirt-qemu: what must be there, what may root do?"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import insight
from tests.support.domain import Disk
from tests.support.emulator import DISK_BYTES, HELD, Emulated, held, public_directory
from tests.support.loop import loop_device
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirt import Hosts

pytestmark = pytest.mark.slow

USER = "libvirt-qemu"
UID = 64055
PRIVATE_NODE = (
    "lock-supervisor: cannot lease disk {0}: the kernel's own node of the device cannot be used: "
    "{0} is a copy in a private /dev; mend /dev (libvirt: namespaces = [] in qemu.conf); "
    "another node has another lock\n"
)
# A place in the host's own mount namespace where every user may read the checkout.
PLACE = "/mnt"


@contextmanager
def under_the_user(libvirt: Hosts, *namespaces: str) -> Iterator[Emulated]:
    host = libvirt.start(lock_manager=None, user=USER, group=USER, namespaces=namespaces)
    assert host.run("mount", "--bind", CHECKOUT, PLACE).code == 0
    with public_directory() as directory:
        made = Emulated(host, directory, program=f"{PLACE}/bin/lock-supervisor")
        os.chown(made.runtime_dir, UID, UID)
        yield made
        host.clear()


@pytest.fixture
def emulated(libvirt: Hosts) -> Iterator[Emulated]:
    """Give a test domains that have the host's /dev."""
    with under_the_user(libvirt) as made:
        yield made


@pytest.fixture
def confined(libvirt: Hosts) -> Iterator[Emulated]:
    """Give a test libvirt's default: every QEMU has a mount namespace, with a /dev of its own."""
    with under_the_user(libvirt, "mount") as made:
        yield made


def test_roots_commands_work_on_its_guests(emulated: Emulated) -> None:
    disk, extra = emulated.disk(), emulated.disk("extra.raw")
    emulated.start("web1", disk)
    for pid in emulated.pids("web1"):
        status = insight.status(pid)
        assert status["Uid"].split() == [str(UID)] * 4
        assert int(status["CapEff"], 16) == 0
    assert held(disk) == HELD

    refused = emulated.command("attach", "web1", extra)
    assert refused.code == 111
    assert f"cannot open disk {extra}: Permission denied (EACCES)" in refused.err
    os.chown(extra, UID, UID)
    assert emulated.command("attach", "web1", extra).code == 0
    emulated.virsh("attach-device", "web1", emulated.disk_element(extra))
    assert emulated.status("web1")["unleased"] == []

    emulated.define("web2", disk)
    uuid = emulated.status("web1")["uuid"]
    assert f"held by guest web1 ({uuid})" in emulated.refused("start", "web2")
    assert emulated.command("kill", "web1").code == 0
    assert held(disk) == held(extra) == []
    assert emulated.until_off("web1") == "crashed"


def test_root_clears_what_a_killed_guard_leaves(emulated: Emulated) -> None:
    emulated.start("web1", emulated.disk())
    guard, _guest = emulated.pids("web1")
    uuid = emulated.status("web1")["uuid"]
    os.kill(guard, signal.SIGKILL)
    assert emulated.until_off("web1") == "crashed"
    assert os.listdir(emulated.runtime_dir) == [uuid]
    assert emulated.command.json("list") == []
    assert os.listdir(emulated.runtime_dir) == []
    emulated.virsh("start", "web1")
    assert emulated.status("web1")["supervisor_pid"] != guard


def test_a_runtime_directory_that_nobody_prepared_is_told(emulated: Emulated) -> None:
    os.chown(emulated.runtime_dir, 0, 0)
    emulated.define("web1", emulated.disk())
    uuid = emulated.virsh("domuuid", "web1").strip()
    assert emulated.refused("start", "web1") == (
        f"cannot create runtime directory {emulated.runtime_dir}/{uuid}: Permission denied "
        "(EACCES); mend it, or give another with --runtime-dir"
    )


def test_a_block_device_is_leased_by_its_node_in_the_hosts_dev(emulated: Emulated) -> None:
    with loop_device(str(emulated.directory / "loop.img"), DISK_BYTES) as device:
        emulated.start("web1", Disk(device, "block"))
        assert held(device) == HELD
        emulated.define("web2", Disk(device, "block"))
        assert "held by guest web1" in emulated.refused("start", "web2")
        emulated.virsh("destroy", "web1")
        assert held(device) == []


def test_a_copy_of_the_node_in_a_private_dev_gets_no_lease(confined: Emulated) -> None:
    disk = confined.disk()
    confined.start("web1", disk)
    _guard, guest = confined.pids("web1")
    hosts = os.readlink(f"/proc/{confined.host.libvirtd_pid}/ns/mnt")
    assert os.readlink(f"/proc/{guest}/ns/mnt") != hosts
    assert held(disk) == HELD
    with loop_device(str(confined.directory / "loop.img"), DISK_BYTES) as device:
        refused = confined.command("attach", "web1", device)
        assert f"cannot open disk {device}: No such file or directory" in refused.err
        confined.virsh("attach-device", "web1", confined.disk_element(device, "block"))
        refused = confined.command("attach", "web1", device)
        assert (refused.code, refused.err) == (111, PRIVATE_NODE.format(device))
        assert confined.status("web1")["unleased"] == [device]
        confined.virsh("destroy", "web1")
