"""Is a disk one disk under etcd, by whichever of its names, and two fleets' never?

The command itself, real QEMU, a real member; network disks are an NBD server's
that is one cable away.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from supervisor import config
from tests.support import waiting
from tests.support.apart import Apart
from tests.support.loop import loop_device, second_node
from tests.support.qemu import QEMU, idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Command, Result
    from tests.support.etcd import Cluster

DEADLINE_S = 30.0
PORT = 10809
HOST = os.uname().nodename
HELD, FREE = 0, 1


@pytest.fixture
def fleet(
    etcd_member: Cluster, tmp_path: Path, require: Callable[[str], str]
) -> Callable[[], tuple[str, str]]:
    """Return a maker of fleets: a namespace, and the configuration of its hosts."""
    require("qemu-system-x86_64")

    def make() -> tuple[str, str]:
        table = etcd_member.config() | {"namespace": f"fleet-{uuid.uuid4()}", "failover_s": "15"}
        lines = [f'{key} = "{value}"' for key, value in table.items()]
        path = tmp_path / f"{table['namespace']}.toml"
        path.write_text("\n".join(['plugin = "etcd"', "[etcd]", *lines, ""]))
        return table["namespace"], str(path)

    return make


@pytest.fixture
def hosts(command: Command, fleet: Callable[[], tuple[str, str]]) -> Command:
    """Have the command be one of a new fleet's hosts."""
    command.env[config.FILE_VARIABLE] = fleet()[1]
    return command


def refused(command: Command, *words: str) -> Result:
    result = command("run", *words)
    assert result.code == 110, result
    return result


@pytest.fixture
def server(require: Callable[[str], str], as_root: None, tmp_path: Path) -> Iterator[str]:
    """Return the address of an NBD server on another host, which has the export `disk`."""
    assert as_root is None
    for tool in ("ip", "nsenter", "qemu-nbd"):
        require(tool)
    image, ready = tmp_path / "exported", tmp_path / "nbd.pid"
    image.write_bytes(bytes(1 << 20))
    with Apart() as apart:
        words = ["qemu-nbd", "-t", "-e", "9", "-f", "raw", "-x", "disk", "--pid-file", str(ready)]
        with subprocess.Popen(
            [*apart.prefix, *words, "-b", apart.other, "-p", str(PORT), str(image)],
            stdin=subprocess.DEVNULL,
        ) as process:
            try:
                waiting.until(ready.exists, DEADLINE_S, "the server listens")
                yield apart.other
            finally:
                process.kill()


def test_a_network_disk_is_one_disk_however_it_is_written(server: str, hosts: Command) -> None:
    name = f"nbd://{server}:{PORT}/disk"
    raw = f"-drive file=nbd://{server}/disk,format=raw,if=none"
    guest, _pid = hosts.guest("--name", "first", "--", *idle_argv(extra=raw.split()))
    node = f"node-name=n,server.type=inet,server.host={server},server.port={PORT},export=disk"
    for words in (
        raw,
        f"-drive file=nbd:{server}:{PORT}:exportname=disk,format=raw,if=none",
        f"-blockdev nbd,{node}",
    ):
        refusal = refused(hosts, "--", *idle_argv(extra=words.split()))
        assert "held by guest first" in refusal.err
        plan = hosts.json("plan", "--", *idle_argv(extra=words.split()))
        (disk,) = (row for row in plan["resources"] if row["path"].startswith("nbd:"))
        assert (disk["mode"], disk["lease"]) == ("exclusive", name)
        assert disk["held_by"]["guest"] == "first"
    assert refused(hosts, "--disk", name, "--", "true")
    assert hosts("who", name).code == HELD
    (lease,) = (
        lease for lease in hosts.json("status", "first")["leases"] if lease["type"] == "disk"
    )
    assert (lease["resource"], lease["lease"]) == (f"nbd://{server}/disk", name)
    hosts("stop", "first", "--timeout", "0")
    guest.end()
    assert hosts("who", name).code == FREE


def test_a_network_disk_is_leased_for_hot_plug(server: str, hosts: Command) -> None:
    name = f"nbd://{server}:{PORT}/disk"
    for guest in ("first", "second"):
        hosts.guest("--name", guest, "--", *idle_argv())
    assert hosts("attach", "first", name).code == 0
    assert hosts("attach", "second", f"nbd:{server}:{PORT}:exportname=disk").code == 110
    assert hosts("detach", "first", name).code == 0
    assert hosts("attach", "second", f"nbd:{server}:{PORT}:exportname=disk").code == 0


def test_a_plugin_that_leases_files_refuses_network_disks(command: Command) -> None:
    words = ["--", QEMU, "-drive", "file=rbd:pool/a,format=raw"]
    for plugin in ("file", "etcd+file", "sanlock", "vm+file"):
        for name in ("run", "plan"):
            result = command(name, "--plugin", plugin, *words)
            assert result.code == 2
            assert "-drive file=rbd:pool/a,format=raw: rbd is a network disk" in result.err
    result = command("run", "--plugin", "file", "--disk", "rbd:pool/a", "true")
    assert (result.code, "--disk rbd:pool/a: rbd is a network disk" in result.err) == (2, True)


def test_an_identity_is_the_disk_whatever_its_path(hosts: Command, tmp_path: Path) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    for path in (here, there):
        with open(path, "wb") as file:
            file.truncate(1 << 16)
    hosts.guest("--name", "first", "--disk", f"{here},id=san-7", "--", *idle_argv(here))
    refusal = refused(hosts, "--disk", f"{there},id=san-7", "--", *idle_argv(there))
    assert "held by guest first" in refusal.err
    assert hosts("who", f"{there},id=san-7").code == HELD
    assert hosts("who", there).code == FREE
    hosts.guest("--name", "second", "--", *idle_argv())
    assert hosts("attach", "second", f"{there},id=san-7").code == 110
    assert hosts("attach", "second", f"{there},id=san-8").code == 0
    (lease,) = (one for one in hosts.json("status", "second")["leases"] if one["type"] == "disk")
    assert lease["lease"] == "id:san-8"
    assert hosts("who", f"{here},id=san-8").code == HELD


@pytest.mark.usefixtures("as_root")
def test_a_device_is_one_disk_by_every_name(hosts: Command, tmp_path: Path) -> None:
    with loop_device(str(tmp_path / "image")) as device:
        link = tmp_path / "by-id"
        link.symlink_to(device)
        node = second_node(device, str(tmp_path / "node"))
        guest, _pid = hosts.guest("--name", "first", "--disk", device, "--", "sleep", "1000000")
        for name in (device, str(link), node):
            refusal = refused(hosts, "--disk", name, "--", "true")
            assert "held by guest first" in refusal.err
            assert hosts("who", name).code == HELD
        assert hosts.json("plan", "--disk", str(link), "--", "true")["resources"][-1]["lease"] == (
            f"{HOST}:device:{os.path.basename(device)}"
        )
        hosts("stop", "first")
        guest.end()


def test_a_disk_that_is_shared_has_many_guests_and_no_writer(
    hosts: Command, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 16))
    for name in ("first", "second"):
        hosts.guest("--name", name, "--disk", f"{disk},shared", "--", "sleep", "1000000")
    refused(hosts, "--disk", str(disk), "--", "true")
    modes = [lease["mode"] for lease in hosts.json("who", str(disk))["leases"]]
    assert modes == ["shared", "shared"]


def test_two_fleets_on_one_cluster_do_not_see_each_other(
    command: Command, fleet: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 16))
    guest = "5f2c1d3e-0000-4000-8000-000000000001"
    lease = f"{HOST}:{disk}"
    for number in range(2):
        space, file = fleet()
        command.env[config.FILE_VARIABLE] = file
        command.env[config.RUNTIME_DIR_VARIABLE] = str(tmp_path / str(number))
        free = command("who", str(disk))
        assert (free.code, free.out.split(" is free")[0]) == (FREE, f"{disk} ({space} {lease})")
        words = ("--name", f"of-{number}", "--uuid", guest, "--disk", str(disk))
        command.guest(*words, "--", "sleep", "1000000")
        answer = command.json("who", str(disk))
        assert answer["names"] == [{"lockspace": space, "lease": lease}]
        assert [one["holder"]["guest"] for one in answer["leases"]] == [f"of-{number}"]
        plan = command.json("plan", "--disk", str(disk), "--", "true")
        assert {row["lockspace"] for row in plan["resources"]} == {space}
        checks = json.loads(command("doctor", "--json").out)["checks"]
        (quorum,) = (check for check in checks if check["check"] == "etcd quorum")
        assert quorum["evidence"].startswith(f"namespace {space}: ")
