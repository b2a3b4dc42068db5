"""Do options, configuration and discovery make the spec that the user means?"""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import ConfigError, LockError
from supervisor import spec, specify
from tests.support.specifying import configured, given, paths

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("unconfigured")

QEMU = "qemu-system-x86_64"
UUID = "5f2c1d3e-0000-4000-8000-00000000000a"


def test_a_bare_qemu_gets_every_default(tmp_path: Path) -> None:
    made = specify.build(given(QEMU, "-drive", "file=a.raw,format=raw", runtime_dir="run"))
    assert (made.name, made.plugin, made.containment) == ("a.raw", "file", "auto")
    assert (made.on_lockfailure, made.monitor) == ("kill", True)
    assert (made.wait_s, made.stop_timeout_s, made.id) == (0, 10, None)
    assert made.runtime_dir == str(tmp_path / "run")
    assert paths(made) == [(str(tmp_path / "a.raw"), "exclusive")]
    assert (made.config, made.classes) == ({}, {})
    assert os.path.exists(os.path.join(made.import_dirs[0], "prctl.py"))
    assert uuid.UUID(made.uuid).version == 4
    assert uuid.UUID(made.uuid).variant == uuid.RFC_4122


def test_random_uuids_differ() -> None:
    assert len({specify.random_uuid() for _ in range(100)}) == 100


def test_the_command_line_wins_over_the_configuration() -> None:
    file = configured(
        'plugin = "nop"\ncontainment = "pidns"\non_lockfailure = "kill"\nstop_timeout = 3\n'
        'runtime_dir = "/from/file"\n[file]\nfile_lockspace_dir = "/locks"\n'
    )
    made = specify.build(given(QEMU, config=file))
    assert (made.plugin, made.containment) == ("nop", "pidns")
    assert (made.stop_timeout_s, made.runtime_dir, made.config) == (3, "/from/file", {})
    made = specify.build(
        given(
            QEMU,
            config=file,
            plugin="file",
            containment="pdeathsig",
            stop_timeout=0.0,
            runtime_dir="/from/option",
        )
    )
    assert (made.plugin, made.containment) == ("file", "pdeathsig")
    assert (made.stop_timeout_s, made.runtime_dir) == (0, "/from/option")
    assert made.config == {"file": {"file_lockspace_dir": "/locks"}}


def test_what_only_the_guard_understands_is_passed_on() -> None:
    made = specify.build(
        given(
            QEMU,
            guest_id="7",
            wait=float("inf"),
            no_monitor=True,
            ready_fd=3,
            handshake_fd=4,
            on_lockfailure="poweroff",
        )
    )
    assert (made.id, made.wait_s, made.monitor) == ("7", float("inf"), False)
    assert (made.ready_fd, made.handshake_fd, made.on_lockfailure) == (3, 4, "kill")


@pytest.mark.parametrize(
    ("command", "options", "name"),
    [
        ((QEMU, "-name", "web1"), {}, "web1"),
        ((QEMU, "-name", "guest=web1,debug-threads=on"), {}, "web1"),
        ((QEMU, "-name", "web1"), {"name": "mine"}, "mine"),
        ((QEMU,), {"disk": ("/images/a.raw",)}, "a.raw"),
        ((QEMU, "-hda", "/images/b.raw"), {"disk": ("/images/a.raw",)}, "a.raw"),
        ((QEMU, "-hda", "/images/z.raw", "-hdb", "/images/a.raw"), {}, "z.raw"),
        (("/usr/bin/start-vm",), {"no_discover": True}, "start-vm"),
        ((QEMU,), {"disk": ("/images/a\nb",)}, "a\\x0ab"),
        ((QEMU,), {"disk": ("/images/" + "\u00e9" * 40,)}, "\u00e9" * 32),
        ((QEMU,), {"disk": ("/images/" + "x" + "\u00e9" * 40,)}, "x" + "\u00e9" * 31),
    ],
)
def test_the_name_is_given_qemus_the_first_disks_or_commands(
    command: tuple[str, ...], options: dict[str, object], name: str
) -> None:
    assert specify.build(given(*command, **options)).name == name


def test_a_given_name_is_not_bent_but_refused() -> None:
    for name in ("x" * 65, "a\nb", ""):
        with pytest.raises(ConfigError, match="guest name"):
            specify.build(given(QEMU, name=name))


def test_the_uuid_is_lower_cased_and_checked() -> None:
    assert specify.build(given(QEMU, uuid=UUID.upper())).uuid == UUID
    assert specify.build(given(QEMU, "-uuid", UUID.upper())).uuid == UUID
    assert specify.build(given(QEMU, "-uuid", "nonsense", uuid=UUID)).uuid == UUID
    for wrong in (given(QEMU, uuid="web1"), given(QEMU, "-uuid", "web1"), given(QEMU, uuid="")):
        with pytest.raises(ConfigError, match="cannot understand uuid"):
            specify.build(wrong)


def test_disks_come_once_in_their_strongest_mode_and_in_one_order(tmp_path: Path) -> None:
    (tmp_path / "0-last").symlink_to(tmp_path / "z.raw")
    made = specify.build(
        given(
            QEMU,
            *("-drive", "file=b.raw,format=raw,readonly=on"),
            *("-drive", "file=z.raw,format=raw"),
            disk=("0-last,shared", "a.raw,id=one", "b.raw", "z.raw,shared"),
        )
    )
    here = str(tmp_path)
    assert paths(made) == [
        (f"{here}/a.raw", "exclusive"),
        (f"{here}/b.raw", "exclusive"),
        (f"{here}/0-last", "shared"),  # realpath z.raw
        (f"{here}/z.raw", "exclusive"),
    ]
    assert [resource.identity for resource in made.resources] == ["one", None, None, None]


def test_leases_follow_the_disks_with_absolute_directories(tmp_path: Path) -> None:
    made = specify.build(
        given(QEMU, disk=("a.raw",), lease=("space:key2:dir:8", "space:key1", "space:key1"))
    )
    assert [(r.type, r.key, r.path, r.offset_bytes) for r in made.resources] == [
        ("disk", None, str(tmp_path / "a.raw"), 0),
        ("lease", "key1", "", 0),
        ("lease", "key2", str(tmp_path / "dir"), 8),
    ]
    with pytest.raises(ConfigError, match="lease nonsense"):
        specify.build(given(QEMU, lease=("nonsense",)))


def test_the_spec_survives_the_guards_argv() -> None:
    made = specify.build(
        given(QEMU, "-hda", "a,,b.raw", disk=("c\nd.raw,id=x=y",), lease=("s:k:/p:3",))
    )
    words = spec.render(made)
    parsed, _ = spec.parse([*words[words.index("-S") + 2 :], QEMU])
    assert paths(parsed) == paths(made)
    assert [r.identity for r in parsed.resources] == [r.identity for r in made.resources]


@pytest.mark.parametrize("off", ["option", "configuration"])
def test_without_discovery_only_what_is_named_is_leased(tmp_path: Path, off: str) -> None:
    command = (QEMU, "-readconfig", "what", "-hda", "a.raw")
    options = {"disk": ("b.raw",)}
    if off == "option":
        made = specify.build(given(*command, no_discover=True, **options))
    else:
        made = specify.build(
            given(*command, config=configured("auto_disk_leases = false"), **options)
        )
    assert paths(made) == [(str(tmp_path / "b.raw"), "exclusive")]
    with pytest.raises(LockError, match="readconfig"):
        specify.build(given(*command, **options))


@pytest.mark.parametrize(
    "options", [{"disk": ("a.raw",)}, {"lease": ("s:k",)}, {"no_discover": True}]
)
def test_a_stranger_has_to_be_told_its_disks(options: dict[str, object]) -> None:
    specify.build(given("/bin/sleep", "1", **options))
    with pytest.raises(ConfigError, match="name them with --disk or --domain-xml, or") as caught:
        specify.build(given("/bin/sleep", "1"))
    assert caught.value.exit_code == 2


def test_a_disk_may_be_named_twice_over_by_a_stranger_and_a_device_outside(tmp_path: Path) -> None:
    outside = (QEMU, "-device", "vhost-user-blk-pci,chardev=c")
    with pytest.raises(LockError, match="writer is outside"):
        specify.build(given(*outside))
    assert paths(specify.build(given(*outside, disk=("a.raw",)))) == [
        (str(tmp_path / "a.raw"), "exclusive")
    ]


def test_an_unknown_plugin_names_what_is_allowed() -> None:
    for wrong in ("nonsense", "file+nonsense", "consul", ""):
        with pytest.raises(ConfigError, match=r"plugin .*allowed: file nop") as caught:
            specify.build(given(QEMU, plugin=wrong))
        assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="names one twice"):
        specify.build(given(QEMU, plugin="file+file"))


def test_several_plugins_get_their_tables() -> None:
    file = configured('[file]\nfile_lockspace_dir = "/a"\n[nop]\n')
    made = specify.build(given(QEMU, plugin="nop+file", config=file))
    assert (made.plugin, made.config["file"]) == ("nop+file", {"file_lockspace_dir": "/a"})


def test_a_guest_that_is_to_be_parked_has_a_monitor() -> None:
    assert specify.build(given(QEMU, on_lockfailure="pause")).parks
    with pytest.raises(ConfigError, match="without its private monitor") as caught:
        specify.build(given(QEMU, on_lockfailure="pause", no_monitor=True))
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="allowed: kill pause poweroff"):
        specify.build(given(QEMU, on_lockfailure="ignore"))


def test_nothing_is_created_or_changed(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"\0" * 4096)
    before = os.stat("a.raw")
    specify.build(given(QEMU, "-drive", "file=a.raw", runtime_dir="run"))
    after = os.stat("a.raw")
    assert os.listdir() == ["a.raw"]
    assert (before.st_atime_ns, before.st_mtime_ns) == (after.st_atime_ns, after.st_mtime_ns)


def test_names_that_are_not_utf8_reach_the_guard_as_bytes() -> None:
    name = os.fsdecode(b"/images/\xff.raw")
    made = specify.build(given(QEMU, "-blockdev", json.dumps({
        "driver": "raw", "node-name": "n", "file": {"driver": "file", "filename": "/x.raw"},
    }), disk=(name,)))  # fmt: skip
    assert [os.fsencode(resource.path) for resource in made.resources] == [
        b"/images/\xff.raw",
        b"/x.raw",
    ]
