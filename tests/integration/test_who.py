"""Is everybody named who can hold a disk, and is nobody called free who is not?"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import holding, spelling
from tests.support.locking import Locker, is_free, until_waited_for
from tests.support.qemu import idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.gate import Gate
    from tests.support.guard import Guards


@pytest.fixture
def world(tmp_path: Path, guards: Guards, gate: Gate) -> Iterator[holding.World]:
    made = holding.World(tmp_path, guards, gate)
    with made.until_end:
        yield made


@pytest.mark.parametrize(
    "hold",
    [
        holding.running,
        holding.acquiring,
        holding.of_another_runtime_directory,
        holding.as_virtlockd,
        holding.by_another_program,
        holding.shared_by_three,
        holding.only_in_flight,
        holding.one_seen_one_in_flight,
        holding.outliving_its_guard,
        holding.outliving_its_guard_beside_another,
    ],
)
def test_every_holder_is_named(
    world: holding.World, command: Command, hold: Callable[[holding.World], holding.Holders]
) -> None:
    wanted = hold(world)
    answer = command.json("who", world.disk)
    assert answer["disk"] == world.disk
    found = sorted(answer["leases"], key=lambda lease: str(lease["holder"]["description"]))
    assert len(found) == len(wanted), found
    order = sorted(wanted, key=lambda one: one[2])
    for lease, (mode, fields, words) in zip(found, order, strict=True):
        holder = lease["holder"]
        assert set(holder) == {*holding.NOTHING_KNOWN, "description"}
        assert (lease["mode"], lease["state"]) == (mode, "held")
        assert {key: holder[key] for key in fields} == fields
        assert holder["description"].startswith(words), holder
        if holder["guest"] is not None:
            time.strptime(holder["since"], "%Y-%m-%dT%H:%M:%SZ")
    told = command("who", world.disk)
    assert (told.code, told.err) == (0, "")
    assert all(words in told.out for _mode, _fields, words in wanted)
    assert "disk\\x1b[2J.raw is held by:\n" in told.out


@pytest.mark.parametrize(
    "hold",
    [
        holding.running,
        holding.as_virtlockd,
        holding.by_another_program,
        holding.only_in_flight,
        holding.outliving_its_guard,
    ],
)
def test_every_refusal_names_the_holder(
    world: holding.World, command: Command, hold: Callable[[holding.World], holding.Holders]
) -> None:
    ((_mode, _fields, words),) = hold(world)
    refused = ("--no-discover", "--disk", f"{world.disk},exclusive", "/bin/true")
    at_once = command("run", *refused)
    late = command("run", "--wait", "0.2", *refused)
    for result in (at_once, late):
        assert (result.code, result.out) == (110, ""), result
        assert f"by {words}" in result.err
    guest = world.guards.run(plugin="file", name="other")
    attached = command("attach", "other", f"{world.disk},exclusive")
    assert (attached.code, f"held by {words}" in attached.err) == (110, True), attached
    assert guest.spec.name == "other"


def nobody(_world: holding.World) -> None:
    pass


def qemu_without_a_lease(world: holding.World) -> None:
    """QEMU's own image locks are on."""
    argv = idle_argv(world.disk, locking_off=False)
    world.guards.run(plugin="nop", command=argv)


def waiting_in_vain(world: holding.World) -> None:
    """A guard that waits for another disk has given this one back."""
    other = f"{world.disk}.other"
    with open(other, "wb"):
        world.until_end.enter_context(Locker(other))
    world.guards.start(world.guards.spec(world.disk, other, wait_s=float("inf")))
    until_waited_for(other)


@pytest.mark.parametrize("hold", [nobody, qemu_without_a_lease, waiting_in_vain])
def test_what_nobody_has_a_lease_on_is_free(
    world: holding.World, command: Command, hold: Callable[[holding.World], None]
) -> None:
    hold(world)
    result = command("who", world.disk, "--json")
    assert (result.code, result.err) == (1, "")
    assert json.loads(result.out) == {
        "disk": world.disk,
        "names": [{"lockspace": "direct", "lease": world.disk}],
        "leases": [],
    }
    told = command("who", world.disk)
    assert (told.code, told.out.endswith(" is free: nobody has a lease on it\n")) == (1, True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing\n", "ENOENT"), ("", "it is a directory"), ("fifo", "it is a FIFO")],
)
def test_what_cannot_be_told_is_not_free(
    command: Command, tmp_path: Path, name: str, reason: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    result = command("who", "--json", os.path.join(tmp_path, name))
    assert (result.code, result.out, result.err.count("\n")) == (111, "", 1)
    assert result.err.startswith("lock-supervisor: cannot ")
    assert reason in result.err


@pytest.fixture
def names(tmp_path: Path) -> Iterator[spelling.Names]:
    made = spelling.Names(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("way", ["slashes", "dots", "symlink", "hard_link", "relative"])
def test_a_disk_has_many_names(
    guards: Guards, command: Command, names: spelling.Names, way: str
) -> None:
    disk = names.image()
    name = os.path.relpath(disk) if way == "relative" else getattr(names, way)(disk)
    guards.run(disk, name="web1")
    (lease,) = command.json("who", name)["leases"]
    assert lease["holder"]["guest"] == "web1"


def test_a_block_device_has_a_holder_by_any_of_its_nodes(
    guards: Guards, command: Command, names: spelling.Names
) -> None:
    device = names.device()
    node = names.second_node(device)
    assert command("who", node).code == 1
    guards.run(device, name="web1")
    (lease,) = command.json("who", node)["leases"]
    assert lease["holder"]["guest"] == "web1"


def test_lock_files_are_looked_at_and_every_part_of_a_composite_is_asked(
    world: holding.World, command: Command, tmp_path: Path
) -> None:
    locks = tmp_path / "locks"
    config = tmp_path / "config.toml"
    config.write_text(f'[file]\nfile_lockspace_dir = "{locks}"\n')
    table: dict[str, Any] = {"config": {"file": {"file_lockspace_dir": str(locks)}}}
    world.guards.run(world.disk, name="web1", **table)
    image, (lock_file,) = world.disk, os.listdir(locks)
    assert not is_free(image)
    assert not is_free(locks / lock_file)
    for plugin in ("file", "file+nop", "nop+file"):
        (lease,) = command.json("who", world.disk, "--config", str(config), "--plugin", plugin)[
            "leases"
        ]
        assert lease["holder"]["guest"] == "web1"
    nop = command("who", world.disk, "--plugin", "nop")
    assert nop.code == 1
