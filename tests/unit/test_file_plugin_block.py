"""Is a block device one disk by all its nodes, and what do LVM and SCSI call it?"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LeaseUnknownError, LockError, Mode, Resource
from lockplugins.file import volumes
from lockplugins.file.plugin import FilePlugin
from tests.support.locking import READ, CopyingCarrier, Locker, is_free
from tests.support.loop import loop_device, second_node
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# As lvs and scsi_id write them, on a machine that has such devices.
LVS_OUTPUT = "  06UgP5-2rhb-w3Bo-3mdR-WeoL-pytO-SAa2ky\n"
LVM_UUID = "06UgP5-2rhb-w3Bo-3mdR-WeoL-pytO-SAa2ky"
SCSI_OUTPUT = "0QEMU_QEMU_HARDDISK_drive-scsi0-0-0-1\n"
SCSI_SERIAL = "0QEMU_QEMU_HARDDISK_drive-scsi0-0-0-1"


@pytest.fixture
def device(require: Callable[[str], str], tmp_path: Path) -> Iterator[str]:
    require("losetup")
    if os.geteuid() != 0:
        pytest.skip("only root has loop devices")
    with loop_device(str(tmp_path / "loop.img")) as made:
        yield made


@pytest.fixture
def make() -> Iterator[Callable[..., FilePlugin]]:
    carriers: list[CopyingCarrier] = []

    def made(**config: str) -> FilePlugin:
        carriers.append(CopyingCarrier())
        return FilePlugin(config, carriers[-1])

    yield made
    for carrier in carriers:
        carrier.close()


@pytest.mark.parametrize("mode", Mode.ALL)
def test_a_second_node_is_the_same_disk(
    make: Callable[..., FilePlugin], device: str, tmp_path: Path, mode: str
) -> None:
    node = second_node(device, str(tmp_path / "node"))
    with Locker(node) as through_node, Locker(device) as through_device:
        assert through_node.held
        assert through_device.held, "the kernel has one lock for both: this test proves nothing"
    (lease,) = make().acquire([Resource(node, mode)], None)
    assert not is_free(device)
    assert not is_free(node)
    assert is_free(device, READ) == (mode == Mode.SHARED)
    assert lease.lease == node
    with pytest.raises(LeaseHeldError, match=f"lease for disk {device}: held by"):
        make().acquire([Resource(device)], None)


def test_the_kernels_node_held_elsewhere_refuses_the_second_node(
    make: Callable[..., FilePlugin], device: str, tmp_path: Path
) -> None:
    node = second_node(device, str(tmp_path / "node"))
    with Locker(device) as other:
        with pytest.raises(LeaseHeldError) as refused:
            make().acquire([Resource(node)], None)
        assert refused.value.holder is not None
        assert refused.value.holder.pid == other.pid
        assert [holder.pid for holder in make().inquire(Resource(node))] == [other.pid]
        assert is_free(node)


def test_both_nodes_in_one_guest_share_one_lock(
    make: Callable[..., FilePlugin], device: str, tmp_path: Path
) -> None:
    node = second_node(device, str(tmp_path / "node"))
    plugin = make()
    first, second = plugin.acquire([Resource(device), Resource(node)], None)
    plugin.release(second)
    assert not is_free(device)
    plugin.release(first)
    assert is_free(device)


def test_a_symlink_to_a_device_is_claimed_by_every_name(
    make: Callable[..., FilePlugin], device: str, tmp_path: Path
) -> None:
    link, locks = tmp_path / "by-id", tmp_path / "locks"
    link.symlink_to(device)
    make(file_lockspace_dir=str(locks)).acquire([Resource(str(link))], None)
    names = {hashlib.sha256(os.fsencode(name)).hexdigest() for name in (link, device)}
    assert set(os.listdir(locks)) == names
    assert not is_free(device)


ACQUIRE = """
import sys
from lockplugins import contract, registry
try:
    registry.load("file", {}, None).acquire([contract.Resource(sys.argv[1])], None)
except contract.LockError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("true", r"/dev/loop\d+: No such file or directory \(ENOENT\)"),
        ("mknod $1 b 7 $((${1#/dev/loop} + 1))", r"/dev/loop\d+ is not block device 7:\d+"),
        ("mkfifo $1", "it is a FIFO"),
        ("mknod $1 b 7 ${1#/dev/loop}", r"/dev/loop\d+ is a copy in a private /dev"),
    ],
)
def test_without_the_kernels_node_there_is_no_lease(
    require: Callable[[str], str], device: str, tmp_path: Path, command: str, why: str
) -> None:
    node = second_node(device, str(tmp_path / "node"))
    script = f'mount -t tmpfs none /dev && {command} && exec "$0" -c "$3" "$2"'
    words = [require("unshare"), "-m", "sh", "-c", script, sys.executable, device, node, ACQUIRE]
    done = subprocess.run(
        words, cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=True
    )
    assert re.match(
        f"ResourceError cannot lease disk {node}: the kernel's own .*{why}", done.stdout
    )
    assert is_free(node)


@pytest.fixture
def lvs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a program called lvs first on PATH; it says what it saw in lvs.seen."""
    tool = tmp_path / "bin" / "lvs"
    tool.parent.mkdir()
    seen = f"echo $LC_ALL: $@ >{tmp_path}/lvs.seen; ls -l /proc/$$/fd >>{tmp_path}/lvs.seen"
    tool.write_text(f"#!/bin/sh\n{seen}\nprintf '{LVS_OUTPUT}'\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return tool


def test_a_volume_is_locked_by_its_uuid_through_any_node(
    make: Callable[..., FilePlugin], device: str, lvs: Path, tmp_path: Path
) -> None:
    node = second_node(device, str(tmp_path / "node"))
    locks = {"lvm_lockspace_dir": str(tmp_path / "lvm"), "file_lockspace_dir": str(tmp_path / "f")}
    plugin = make(**locks)
    launchers = os.open(tmp_path / "passed on by the launcher", os.O_CREAT)
    os.set_inheritable(launchers, True)
    (lease,) = plugin.acquire([Resource(device)], None)
    os.close(launchers)
    assert (lease.lockspace, lease.lease) == (locks["lvm_lockspace_dir"], LVM_UUID)
    assert os.listdir(tmp_path / "lvm") == [LVM_UUID]
    assert not (tmp_path / "f").exists(), "libvirt has one name for one disk"
    seen = lvs.parent.with_name("lvs.seen").read_text()
    command = f"C: --noheadings --unbuffered --nosuffix --options uuid {device}\n"
    assert seen.startswith(command)
    assert "loop" not in seen.removeprefix(command), "it got a descriptor of the disk"
    assert "launcher" not in seen
    plugin.release(lease)
    with Locker(tmp_path / "lvm" / LVM_UUID, posix=True), pytest.raises(LeaseHeldError):
        plugin.acquire([Resource(node)], None)


@pytest.mark.parametrize("script", ["echo x; exit 5", "true"], ids=["exit 5", "empty"])
def test_what_lvs_does_not_know_is_locked_by_its_path(
    make: Callable[..., FilePlugin], device: str, lvs: Path, tmp_path: Path, script: str
) -> None:
    lvs.write_text(f"#!/bin/sh\n{script}\n")
    locks = {"lvm_lockspace_dir": str(tmp_path / "lvm"), "file_lockspace_dir": str(tmp_path / "f")}
    (lease,) = make(**locks).acquire([Resource(device)], None)
    hashed = hashlib.sha256(os.fsencode(device)).hexdigest()
    assert (lease.lockspace, lease.lease) == (locks["file_lockspace_dir"], hashed)


@pytest.mark.parametrize(
    ("script", "text"),
    [("kill -9 $$", "ended by signal 9"), ("printf ../../etc/passwd", "not a file's name")],
)
def test_a_tool_that_fails_oddly_gives_no_lease(
    make: Callable[..., FilePlugin], device: str, lvs: Path, script: str, text: str
) -> None:
    lvs.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(LeaseUnknownError, match=text):
        make(lvm_lockspace_dir=str(lvs.parent / "locks")).acquire([Resource(device)], None)
    assert is_free(device)


@pytest.mark.parametrize("times", [1, 1000])
def test_a_disk_that_is_replaced_after_a_look_at_it_is_looked_at_again(
    make: Callable[..., FilePlugin], device: str, lvs: Path, tmp_path: Path, times: int
) -> None:
    node, other, left = (str(tmp_path / name) for name in ("node", "other", "left"))
    second_node(device, node)
    # lvs is asked between the look and the lock.
    replace = f"mknod {other} b {_numbers(device)}; mv {other} {node}"
    count = f"n=$(cat {left}); echo $((n - 1)) >{left}; [ $n -le 0 ] ||"
    lvs.write_text(f"#!/bin/sh\n{count} {{ {replace}; }}\nexit 5\n")
    (tmp_path / "left").write_text(f"{times}\n")
    plugin = make(lvm_lockspace_dir=str(tmp_path / "lvm"))
    if times == 1:
        plugin.acquire([Resource(node)], None)
        assert not is_free(node)
        return
    with pytest.raises(LeaseUnknownError, match=f"disk {node}: its files are replaced again and"):
        plugin.acquire([Resource(node)], None)
    assert is_free(node)
    assert is_free(device)


def _numbers(device: str) -> str:
    number = os.stat(device).st_rdev
    return f"{os.major(number)} {os.minor(number)}"


def test_a_tool_that_hangs_is_ended_and_gives_no_lease(
    lvs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lvs.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    monkeypatch.setattr(volumes, "TIMEOUT_S", 0.05)
    with pytest.raises(LeaseUnknownError, match=r"cannot run lvs .*: no answer within 0.05 s"):
        volumes.lvm_uuid("/dev/vda")


@pytest.mark.skipif(os.path.exists("/lib/udev/scsi_id"), reason="scsi_id is installed here")
def test_a_tool_that_is_missing_is_named_with_its_package(
    make: Callable[..., FilePlugin], device: str, tmp_path: Path
) -> None:
    with pytest.raises(LockError, match=r"cannot run /lib/udev/scsi_id .*ENOENT.*install udev"):
        make(scsi_lockspace_dir=str(tmp_path / "scsi")).acquire([Resource(device)], None)
    assert is_free(device)


@pytest.mark.parametrize(
    ("output", "name"),
    [(LVS_OUTPUT, LVM_UUID), ("", ""), ("\n", ""), (f"\t{LVM_UUID}\nsecond\n", LVM_UUID)],
)
def test_the_uuid_in_what_lvs_says(output: str, name: str) -> None:
    assert volumes.named_by_lvs(output) == name


@pytest.mark.parametrize(
    ("output", "name"), [(SCSI_OUTPUT, SCSI_SERIAL), ("", ""), ("a\nb\n", "a"), (" a b\n", " a b")]
)
def test_the_serial_in_what_scsi_id_says(output: str, name: str) -> None:
    assert volumes.named_by_scsi_id(output) == name


def test_a_loop_device_is_no_volume(device: str) -> None:
    assert not volumes.is_lvm(os.stat(device).st_rdev)
