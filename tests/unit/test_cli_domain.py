"""What does --domain-xml add to what the command line and QEMU's arguments say?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import ConfigError, LockError
from supervisor import specify
from tests.support.specifying import configured, given, paths

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.spec import GuestSpec

pytestmark = pytest.mark.usefixtures("unconfigured")

QEMU = "qemu-system-x86_64"
UUID, OTHER = "5f2c1d3e-0000-4000-8000-00000000000a", "5f2c1d3e-0000-4000-8000-00000000000b"
X, S = "exclusive", "shared"
DISK = "<disk><source file='/xml.raw'/><target dev='vda'/></disk>"
SHARED = "<disk><source file='/xml.raw'/><target dev='vda'/><readonly/></disk>"
NETWORK = "<disk type='network'><source protocol='rbd' name='p/a'/><target dev='vdb'/></disk>"
OUTSIDE = "<disk type='vhostuser'><source/><target dev='vdb'/></disk>"
LEASE = "<lease><lockspace>s</lockspace><key>k</key><target path='/d' offset='8'/></lease>"


def build(command: tuple[str, ...], *devices: str, head: str = "", **options: object) -> GuestSpec:
    with open("vm.xml", "w", encoding="utf-8") as file:
        file.write(f"<domain>{head}<devices>{''.join(devices)}</devices></domain>")
    return specify.build(given(*command, domain_xml="vm.xml", **options))


def test_a_command_that_is_not_qemu_needs_nothing_but_the_xml() -> None:
    made = build(("/bin/start-vm",), DISK, LEASE, head=f"<name>web1</name><uuid>{UUID}</uuid>")
    assert (made.name, made.uuid) == ("web1", UUID)
    assert [(r.type, r.path, r.mode) for r in made.resources] == [
        ("disk", "/xml.raw", X),
        ("lease", "/d", X),
    ]
    assert paths(build(("/bin/start-vm",))) == []


def test_the_command_line_wins_over_the_xml_and_that_over_qemus_arguments() -> None:
    head = f"<name>xml</name><uuid>{UUID}</uuid>"
    command = (QEMU, "-name", "qemu", "-uuid", OTHER)
    made = build(command, head=head)
    assert (made.name, made.uuid) == ("xml", UUID)
    made = build(command, head=head, name="mine", uuid=OTHER)
    assert (made.name, made.uuid) == ("mine", OTHER)
    made = build(command)
    assert (made.name, made.uuid) == ("qemu", OTHER)
    assert build((QEMU,), head=f"<name>{'x' * 99}</name>").name == "x" * 64
    with pytest.raises(ConfigError, match="cannot understand uuid web1"):
        build((QEMU,), head="<uuid>web1</uuid>")


def test_its_disks_are_added_and_the_strongest_mode_wins(tmp_path: Path) -> None:
    command = (QEMU, "-drive", "file=/xml.raw,readonly=on", "-hda", "a.raw")
    assert paths(build(command, DISK)) == [(f"{tmp_path}/a.raw", X), ("/xml.raw", X)]
    assert paths(build(command, SHARED, disk=("b.raw",))) == [
        (f"{tmp_path}/a.raw", X),
        (f"{tmp_path}/b.raw", X),
        ("/xml.raw", S),
    ]
    assert paths(build((QEMU, "-hda", "/xml.raw"), SHARED)) == [("/xml.raw", X)]
    assert paths(build((QEMU,), SHARED, disk=("/xml.raw",))) == [("/xml.raw", X)]


def test_its_leases_join_those_of_the_command_line_once_each() -> None:
    made = build((QEMU,), LEASE, LEASE, lease=("s:k:/d:8", "a:k"))
    assert [(r.lockspace, r.path, r.offset_bytes) for r in made.resources] == [
        ("a", "", 0),
        ("s", "/d", 8),
    ]


@pytest.mark.parametrize("off", ["option", "configuration"])
def test_without_discovery_its_disks_are_left_alone(off: str, tmp_path: Path) -> None:
    options: dict[str, object] = {"no_discover": True}
    if off == "configuration":
        options = {"config": configured("auto_disk_leases = false")}
    head = f"<name>web1</name><uuid>{UUID}</uuid>"
    made = build((QEMU, "-hda", "b"), DISK, NETWORK, LEASE, head=head, disk=("a",), **options)
    assert (made.name, made.uuid) == ("web1", UUID)
    assert [(r.type, r.path) for r in made.resources] == [
        ("disk", f"{tmp_path}/a"),
        ("lease", "/d"),
    ]


def test_what_it_names_and_cannot_be_leased_is_refused() -> None:
    with pytest.raises(LockError, match="domain XML disk vdb: rbd is a network disk"):
        build((QEMU,), NETWORK, disk=("a.raw",))
    with pytest.raises(LockError, match="domain XML disk vdb: its writer is outside"):
        build((QEMU,), OUTSIDE)
    assert len(paths(build((QEMU,), OUTSIDE, disk=("a.raw",)))) == 1
    with pytest.raises(LockError, match=r"cannot read domain XML none\.xml: No such file"):
        specify.build(given(QEMU, domain_xml="none.xml"))


def test_leases_that_are_required_are_required_of_it_too() -> None:
    required = configured("require_lease_for_disks = true\n")
    for command in ((QEMU,), ("/bin/start-vm",)):
        build(command, DISK, config=required)
        build(command, SHARED, config=required, no_discover=True)
        build(command, DISK, config=required, no_discover=True, disk=("/xml.raw",))
        with pytest.raises(ConfigError, match=r"disk /xml.raw: it has no lease, and require_lease"):
            build(command, DISK, config=required, no_discover=True)
