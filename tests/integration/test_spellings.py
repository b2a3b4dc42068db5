"""Does a second writer get in by another name of the same disk?

Names of one file or device that differ, disks that are reached through a
backing chain, and names that are hard to write down.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from supervisor import records, rundir
from supervisor.discovery.disks import discover
from tests.support import proclocks
from tests.support.command import PROGRAM
from tests.support.qemu import idle_argv
from tests.support.spelling import DEVICE_SPELLINGS, FILE_SPELLINGS, Names, run
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Ended, Guard, Guards

EXCLUSIVE, SHARED = Mode.EXCLUSIVE, Mode.SHARED

PAIRS = [("image", spelling) for spelling in FILE_SPELLINGS]
PAIRS += [("device", spelling) for spelling in DEVICE_SPELLINGS]
IDS = [f"{kind}-{spelling.__name__}" for kind, spelling in PAIRS]


@pytest.fixture
def names(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Names]:
    if os.geteuid() != 0:
        refuse = pytest.fail if pytestconfig.getoption("--strict-env") else pytest.skip
        refuse("mounts and device nodes need root")
    (directory := tmp_path / "disks").mkdir()
    made = Names(directory)
    yield made
    made.close()


@pytest.fixture(params=["direct", pytest.param("lockspace", marks=pytest.mark.slow)])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, dict[str, str]]:
    lockspace = {"file_lockspace_dir": str(tmp_path / "lockspace")}
    return {"file": lockspace if request.param == "lockspace" else {}}


def assert_names(refusal: Ended, holder: Guard) -> None:
    assert refusal.code == 110
    assert f"held by guest guest ({holder.spec.uuid})" in refusal.stderr
    assert refusal.stderr.count("\n") == 1


@pytest.mark.parametrize(("kind", "spelling"), PAIRS, ids=IDS)
def test_no_second_writer_by_another_name(
    guards: Guards, names: Names, config: object, kind: str, spelling: Callable[[Names, str], str]
) -> None:
    disk = names.image() if kind == "image" else names.device()
    other = spelling(names, disk)
    assert other != disk
    for held, asked in ((disk, other), (other, disk)):
        holder = guards.run((EXCLUSIVE, held), config=config)
        assert_names(guards.refusal((EXCLUSIVE, asked), config=config), holder)
        assert_names(guards.refusal((SHARED, asked), config=config), holder)
        holder.kill()
    sharer = guards.run((SHARED, disk), config=config)
    assert_names(guards.refusal((EXCLUSIVE, other), config=config), sharer)
    guards.run((SHARED, other), config=config)


@pytest.mark.parametrize(("kind", "spelling"), PAIRS, ids=IDS)
def test_one_guest_may_know_a_disk_by_two_names(
    guards: Guards, names: Names, config: object, kind: str, spelling: Callable[[Names, str], str]
) -> None:
    disk = names.image() if kind == "image" else names.device()
    other = spelling(names, disk)
    for first, second in ((disk, other), (other, disk)):
        holder = guards.run((SHARED, first), (EXCLUSIVE, second), config=config)
        assert_names(guards.refusal((SHARED, first), config=config), holder)
        holder.kill()


@pytest.mark.parametrize("spelling", FILE_SPELLINGS)
def test_a_disk_stays_leased_until_its_last_name_is_released(
    guards: Guards, names: Names, spelling: Callable[[Names, str], str]
) -> None:
    disk = names.image()
    other = spelling(names, disk)
    holder = guards.run(disk)
    with Wire(f"{holder.path}/control") as wire:
        wire.execute("acquire-resource", {"path": other, "mode": SHARED})
        assert proclocks.bytes_locked(disk) == [("WRITE", 0, "0")]
        assert wire.execute("release-resource", {"path": disk}) == {}
        assert proclocks.bytes_locked(disk) == [("READ", 0, "0"), ("READ", 2, "2")]
        assert_names(guards.refusal(disk), holder)
        with pytest.raises(Refused, match="has no lease on it"):
            wire.execute("release-resource", {"path": disk})
        assert wire.execute("release-resource", {"path": other}) == {}
        assert proclocks.locks(disk) == []


def test_a_relative_name_under_a_mount_is_not_the_file_above_it(names: Names) -> None:
    script = """
        cd "$1"; shift
        mount -t tmpfs tmpfs "$PWD"
        for directory in . "$PWD"; do truncate -s 1M "$directory/disk"; done
        exec "$@"
    """
    words = ["unshare", "--mount", "sh", "-ec", script, "sh", names.directory, PROGRAM, "run"]
    words += ["--runtime-dir", f"{names.directory}/run", "--disk", "disk", "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    place = f"{names.directory} (gone, or covered by a mount)"
    assert done.stderr.startswith(f"lock-supervisor: cannot open disk {place}/disk: ")
    assert done.returncode == 111


# -- disks behind other disks ---------------------------------------------------------------


class Chains:
    """Images on top of one another, and QEMUs that run on what discovery finds."""

    def __init__(self, guards: Guards, names: Names) -> None:
        self._guards = guards
        self._names = names
        self.base = names.image("base")

    def overlay(self, name: str, backing: str, backing_format: str) -> str:
        path = f"{self._names.directory}/{name}"
        options = ("-q", "-u", "-f", "qcow2", "-F", backing_format, "-b", backing, path, "1M")
        run("qemu-img", "create", *options)
        return path

    def run(self, *images: str) -> Guard:
        command, disks = self._discovered(images)
        return self._guards.run(*disks, command=command)

    def refusal(self, *images: str) -> Ended:
        command, disks = self._discovered(images)
        return self._guards.refusal(*disks, command=command)

    def _discovered(self, images: tuple[str, ...]) -> tuple[list[str], list[tuple[str, str]]]:
        command = idle_argv(*images)
        return command, [(disk.mode, disk.path) for disk in discover(command, os.getcwd())]


@pytest.fixture
def chains(guards: Guards, names: Names, require: Callable[[str], str]) -> Chains:
    require("qemu-system-x86_64")
    require("qemu-img")
    return Chains(guards, names)


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param(lambda _names, path: path, id="as it is"),
        pytest.param(lambda _names, path: os.path.basename(path), id="relative"),
        *(
            pytest.param(spelling, id=spelling.__name__, marks=pytest.mark.slow)
            for spelling in FILE_SPELLINGS
        ),
    ],
)
def test_overlays_share_their_base_and_nobody_writes_it(
    chains: Chains, names: Names, spelling: Callable[[Names, str], str]
) -> None:
    one = chains.overlay("one", chains.base, "raw")
    two = chains.overlay("two", spelling(names, chains.base), "raw")
    writer = chains.run(chains.base)
    for overlay in (one, two):
        assert_names(chains.refusal(overlay), writer)
    writer.kill()
    first, second = chains.run(one), chains.run(two)
    assert proclocks.below_qemus(chains.base) == [("READ", 0, "0")] * 2 + [("READ", 2, "2")] * 2
    assert_names(chains.refusal(one), first)
    assert_names(chains.refusal(two), second)
    assert chains.refusal(chains.base).code == 110
    first.kill()
    assert_names(chains.refusal(chains.base), second)
    second.kill()
    chains.run(chains.base)


def test_a_writer_in_the_middle_of_a_chain_is_refused(chains: Chains, names: Names) -> None:
    middle = chains.overlay("middle", chains.base, "raw")
    top = chains.overlay("top", names.symlink(middle), "qcow2")
    guest = chains.run(top)
    for image in (middle, chains.base, names.hard_link(middle)):
        assert_names(chains.refusal(image), guest)
    guest.kill()
    writer = chains.run(middle)
    assert_names(chains.refusal(top), writer)


def test_an_image_with_two_overlays_in_one_guest_is_shared_with_itself(chains: Chains) -> None:
    overlays = [chains.overlay(name, chains.base, "raw") for name in ("one", "two")]
    guest = chains.run(*overlays)
    assert proclocks.below_qemus(chains.base) == [("READ", 0, "0"), ("READ", 2, "2")]
    assert_names(chains.refusal(chains.base), guest)


# -- names that are hard to write down ------------------------------------------------------

ODD_NAMES = [
    b"with space", b" ", b"new\nline", b"comma,comma", b"disk,exclusive", b"quote\"s'", b"a\\nb",
    b"tab\t", b"\x01\x7f", b"\xff\xfe not UTF-8", b"\xed\xb2\x80", "ünïcødé ∀".encode(),
    b"shared:a=b", b"--", b"-chardev", b"%s$(id)`id`;&|", b"x" * 255,
]  # fmt: skip
HARD_TO_DECODE = [name for name in ODD_NAMES if not name.isascii()]
CASES: list[tuple[bytes, dict[str, str] | None]] = [(name, None) for name in ODD_NAMES]
CASES += [(name, environment) for name in HARD_TO_DECODE for environment in ({}, {"LC_ALL": "C"})]


@pytest.mark.parametrize(("name", "environment"), CASES, ids=repr)
def test_a_name_arrives_as_it_is(
    guards: Guards, tmp_path: Path, name: bytes, environment: dict[str, str] | None
) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    with open(path, "wb"):
        pass
    lockspace = {"file": {"file_lockspace_dir": str(tmp_path / "lockspace")}}
    spec = guards.spec(path, config=lockspace)
    holder = guards.start(spec, env=environment).ready()
    assert proclocks.bytes_locked(path) == [("WRITE", 0, "0")]
    guest = records.read_guest(holder.path)
    assert guest is not None
    with open(f"{holder.path}/{rundir.GUEST_JSON}", "rb") as file:
        assert file.read().isascii()
    with Wire(f"{holder.path}/control") as wire:
        leases = wire.execute("query-leases")
        assert guest["leases"] == leases
        assert [lease["resource"] for lease in leases] == [path]
        refusal = guards.start(guards.spec(path), env=environment).refused()
        assert_names(refusal, holder)
        assert wire.execute("release-resource", {"path": path}) == {}
        assert proclocks.locks(path) == []
        assert wire.execute("acquire-resource", {"path": path})["resource"] == path
        assert proclocks.bytes_locked(path) == [("WRITE", 0, "0")]


def test_a_refusal_writes_control_characters_so_that_one_line_stays_one(
    guards: Guards, tmp_path: Path
) -> None:
    path = tmp_path / "a\nb\x1b[2Jc"
    path.touch()
    guards.run(path)
    assert f"disk {tmp_path}/a\\x0ab\\x1b[2Jc: held by" in guards.refusal(path).stderr


def test_a_missing_disk_of_odd_name_is_named(guards: Guards, tmp_path: Path) -> None:
    refusal = guards.refusal(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n"))
    assert refusal.code == 111
    assert f"{tmp_path}/\udcff\\x0a: No such file or directory (ENOENT)" in refusal.stderr
