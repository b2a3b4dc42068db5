"""Are a domain's XML, libvirt's command line for it and its running QEMU of one mind on disks?"""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest

from supervisor.discovery.disks import discover
from supervisor.discovery.domain_xml import parse
from supervisor.discovery.errors import DiscoveryError
from tests.interop.domains import AGREED, IMAGES, ON_THE_NETWORK, REFUSED, cases
from tests.support import waiting
from tests.support.domain import domain_xml
from tests.support.loop import loop_device
from tests.support.opened import Running, write_locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from supervisor.discovery.disk import Disk
    from tests.support.libvirt import Host, Hosts

pytestmark = pytest.mark.slow

DEADLINE_S = 30
X, S = "exclusive", "shared"
PASSPHRASE = b"a passphrase of the tests"
KEY_UUID = "5f2c1d3e-0000-4000-8000-00000000000c"
QEMU_NAMESPACE = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]) -> Path:
    directory = tmp_path_factory.mktemp("images")
    (directory / "passphrase").write_bytes(PASSPHRASE)
    for line in IMAGES.strip("\n").replace("\\\n", "").splitlines():
        command = line.replace("create", "create -q", 1).replace("DIRECTORY", str(directory))
        argv = [require("qemu-img"), *shlex.split(command)]
        # Its LUKS measures itself, and gives up ("accurate CPU usage") where that is too fast.
        make = partial(subprocess.call, argv, cwd=directory, timeout=DEADLINE_S)
        waiting.until(lambda make=make: make() == 0, DEADLINE_S, "qemu-img makes the image")  # type: ignore[misc]  # bound now
    return directory


@pytest.fixture(scope="module")
def loop(images: Path) -> Iterator[str]:
    with loop_device(str(images / "behind")) as device:
        yield device


@pytest.fixture(scope="module")
def nop_host(libvirt_hosts: Hosts) -> Host:
    return libvirt_hosts.start(lock_manager=None)


@pytest.fixture
def host(nop_host: Host) -> Iterator[Host]:
    """Give a test a host without domains, whose libvirt leases nothing."""
    yield nop_host
    nop_host.clear()


@pytest.fixture
def known_secret(host: Host, images: Path) -> None:
    """Have libvirt know the passphrase of the encrypted images."""
    path = images / "secret.xml"
    path.write_text(f"<secret private='no'><uuid>{KEY_UUID}</uuid><usage type='volume'>"
                    f"<volume>{images}</volume></usage></secret>")  # fmt: skip
    assert host.virsh("secret-define", str(path)).code == 0
    value = base64.b64encode(PASSPHRASE).decode()
    assert host.virsh("secret-set-value", KEY_UUID, "--base64", value).code == 0


class Guest:
    """A domain that libvirt has started and stopped at its first instruction."""

    def __init__(self, host: Host, xml: str) -> None:
        self._host = host
        host.define(xml)
        started = host.virsh("start", "web1", "--paused")
        assert started.code == 0, (started, host.log("web1"))
        self.pid = host.qemu_pid("web1")

    def argv(self) -> list[str]:
        with open(f"/proc/{self.pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]

    def xml(self, *options: str) -> str:
        return self._host.virsh("dumpxml", *options, "web1").out

    def running(self) -> Running:
        command = json.dumps({"execute": "query-named-block-nodes", "arguments": {"flat": True}})
        answer = self._host.virsh("qemu-monitor-command", "web1", command)
        return Running(self.pid, json.loads(answer.out)["return"])

    def mapped(self, directory: Path) -> dict[str, str]:
        """Return the files of `directory` that are the guest's memory, with their mode."""
        with open(f"/proc/{self.pid}/maps", encoding="utf-8") as maps:
            lines = [line.rstrip("\n").split(maxsplit=5) for line in maps]
        here = [(words[1], words[5]) for words in lines if words[-1].startswith(f"{directory}/")]
        return {path: X if access == "rw-s" else S for access, path in here}


def modes(disks: list[Disk]) -> dict[str, str]:
    assert len({disk.path for disk in disks}) == len(disks)
    return {disk.path: disk.mode for disk in disks}


def expected_modes(said: str, images: Path, loop: str) -> dict[str, str]:
    groups = [shlex.split(group) for group in said.split(";")]
    names = {path: mode for mode, *paths in groups for path in paths}
    return {loop if path == "LOOP" else f"{images}/{path}": mode for path, mode in names.items()}


def agreed(guest: Guest, expected: dict[str, str]) -> Running:
    """Return QEMU, once XML and command line are seen to say what is expected."""
    assert modes(parse(guest.xml()).disks) == expected
    assert modes(parse(guest.xml("--inactive")).disks) == expected
    assert modes(discover(guest.argv(), "/")) == expected
    return guest.running()


@pytest.mark.usefixtures("known_secret")
@pytest.mark.parametrize(("devices", "said"), cases(AGREED))
def test_xml_command_line_and_qemu_agree(
    host: Host, images: Path, loop: str, devices: str, said: str
) -> None:
    secret = f"<secret type='passphrase' uuid='{KEY_UUID}'/>"
    secret = f"<encryption format='luks'>{secret}</encryption>"
    text = devices.replace("D/", f"{images}/").replace("LOOP", loop).replace("SECRET", secret)
    xml = domain_xml("web1", devices=[text])
    expected = expected_modes(said, images, loop)
    assert modes(parse(xml).disks) == expected
    qemu = agreed(Guest(host, xml), expected)
    assert qemu.open_files(images) == expected.keys() - {loop}
    assert {os.path.realpath(node["file"]) for node in qemu.files} == expected.keys()
    exclusive = {path for path, mode in expected.items() if mode == X}
    shareable = {f"{images}/raw.img"} if "<shareable/>" in devices else set()
    assert write_locked(set(expected)) == exclusive | shareable


@pytest.mark.parametrize(
    "nvram", ["<nvram>{}</nvram>", "<nvram type='file'><source file='{}'/></nvram>"]
)
def test_firmware_and_its_variables(host: Host, images: Path, nvram: str) -> None:
    flash = f"<loader readonly='yes' type='pflash'>{images}/code.fd</loader>"
    flash += nvram.format(images / "vars.fd")
    xml = domain_xml("web1", machine="q35").replace("hvm</type>", f"hvm</type>{flash}")
    qemu = agreed(Guest(host, xml), {f"{images}/code.fd": S, f"{images}/vars.fd": X})
    assert qemu.open_files(images) == {f"{images}/code.fd", f"{images}/vars.fd"}
    assert write_locked(qemu.open_files(images)) == {f"{images}/vars.fd"}


def test_memory_that_outlives_the_guest(host: Host, images: Path) -> None:
    memory = (
        "<memory model='nvdimm' access='{}'><source><path>{}</path></source>"
        "<target><size unit='MiB'>128</size><node>0</node></target></memory>"
    )
    devices = [memory.format("shared", f"{images}/memory")]
    devices += [memory.format("private", f"{images}/private")]
    numa = "<cpu><numa><cell id='0' cpus='0' memory='128' unit='MiB'/></numa></cpu>"
    slots = "<maxMemory slots='4' unit='MiB'>1024</maxMemory>"
    xml = domain_xml("web1", machine="q35", devices=devices)
    xml = xml.replace("<memory ", f"{slots}<memory ", 1).replace("<os>", f"{numa}<os>")
    guest = Guest(host, xml)
    expected = {f"{images}/memory": X, f"{images}/private": S}
    agreed(guest, expected)
    assert guest.mapped(images) == expected


def test_arguments_that_a_domain_adds(host: Host, images: Path) -> None:
    drive = f"if=none,id=more,format=qcow2,file={images}/mid.qcow2"
    args = f"<qemu:arg value='-drive'/><qemu:arg value='{drive}'/>"
    more = f"<qemu:commandline {QEMU_NAMESPACE}>{args}</qemu:commandline></domain>"
    xml = domain_xml("web1", images / "raw.img").replace("</domain>", more)
    expected = {f"{images}/raw.img": X, f"{images}/mid.qcow2": X, f"{images}/base.qcow2": S}
    assert agreed(Guest(host, xml), expected).open_files(images) == expected.keys()


def test_a_transient_disk_is_written_to_by_nobody_but_leased_as_if(
    host: Host, images: Path
) -> None:
    """QEMU starts on the disk itself, for writing; libvirt puts an overlay over it before go."""
    disk = f"<driver type='raw'/><source file='{images}/raw.img'/><target dev='vda'/><transient/>"
    guest = Guest(host, domain_xml("web1", devices=[f"<disk>{disk}</disk>"]))
    expected = {f"{images}/raw.img": X}
    assert modes(discover(guest.argv(), "/")) == expected
    assert modes(parse(guest.xml("--inactive")).disks) == expected
    overlay = f"{images}/raw.img.TRANSIENT-web1"
    assert guest.running().open_files(images) == {f"{images}/raw.img", overlay}
    assert write_locked({f"{images}/raw.img", overlay}) == {overlay}


@pytest.mark.parametrize(("devices", "said"), cases(ON_THE_NETWORK))
def test_both_call_a_network_disk_the_same(
    host: Host, images: Path, devices: str, said: str
) -> None:
    mode, name = said.split()
    assert modes(parse(domain_xml("web1", devices=[devices])).disks) == {name: mode}
    assert modes(discover(native(host, images, domain_xml("web1", devices=[devices])), "/")) == {
        name: mode
    }


def native(host: Host, images: Path, xml: str) -> list[str]:
    """Return QEMU's command line as libvirt makes it of a domain."""
    path = images / "domain.xml"
    path.write_text(xml)
    made = host.virsh("domxml-to-native", "qemu-argv", "--xml", str(path))
    assert made.code == 0, made
    words = [word for word in shlex.split(made.out) if not word.startswith("LC_ALL")]
    return words[next(at for at, word in enumerate(words) if "=" not in word) :]


@pytest.mark.parametrize(("devices", "reason"), cases(REFUSED))
def test_both_refuse_what_has_no_lease(host: Host, images: Path, devices: str, reason: str) -> None:
    shared = "<memoryBacking><access mode='shared'/></memoryBacking><os>"
    xml = domain_xml("web1", devices=[devices.replace("'D", f"'{images}")])
    xml = xml.replace("<os>", shared) if "vhostuser" in devices else xml
    with pytest.raises(DiscoveryError, match=reason.strip()):
        parse(xml)
    with pytest.raises(DiscoveryError, match=reason.strip()):
        discover(native(host, images, xml), "/")
