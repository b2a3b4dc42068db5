"""Is everybody named who can hold a disk, and is nobody called free who is not?"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from lockplugins.contract import Mode
from supervisor.spec import Containment
from tests.support import insight, spelling, waiting
from tests.support.guard import DEADLINE_S, Guards
from tests.support.locking import READ, WRITE, Locker, is_free, until_waited_for
from tests.support.qemu import idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.gate import Gate
    from tests.support.guard import Guard

HOST = os.uname().nodename
OUTLIVES = ("/usr/bin/setpriv", "--pdeathsig", "clear", "/bin/sleep", "1000000")
UNSEEN = "a process that cannot be seen from here ("
NOTHING_KNOWN = dict.fromkeys(
    ("host", "guest", "uuid", "supervisor_pid", "child_pid", "since", "generation")
)

Holders = list[tuple[str, dict[str, object], str]]  # mode, fields, how the description begins


class World:
    """A disk, and all that it takes to have somebody hold it until the test's end."""

    def __init__(self, tmp_path: Path, guards: Guards, gate: Gate) -> None:
        self.guards = guards
        self.gate = gate
        self.elsewhere = tmp_path / "elsewhere"
        self.until_end = ExitStack()
        self.disk = str(tmp_path / "disk\x1b[2J.raw")
        with open(self.disk, "wb") as file:
            file.truncate(1 << 20)

    def orphan(self, mode: str) -> Guard:
        """Return a guard that is dead while its guest lives on."""
        fields: dict[str, object] = {"name": "web1", "containment": Containment.PDEATHSIG}
        guard = self.guards.run((mode, self.disk), command=OUTLIVES, **fields)
        cleared = b"/bin/sleep"
        waiting.until(
            lambda: insight.read(guard.child_pid, "cmdline").startswith(cleared),
            DEADLINE_S,
            "the guest has disarmed its parent-death signal",
        )
        os.kill(guard.pid, signal.SIGKILL)
        guard.wait()
        return guard

    def in_flight(self, kind: int) -> None:
        """Have the disk locked by a description that no process has open."""
        sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.until_end.enter_context(sender)
        self.until_end.enter_context(receiver)
        fd = os.open(self.disk, os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 1, 0))
        socket.send_fds(sender, [b"x"], [fd])
        os.close(fd)

    def locker(self, kind: int, *, posix: bool) -> Locker:
        return self.until_end.enter_context(Locker(self.disk, kind=kind, posix=posix))


def ours(guard: Guard, mode: str = Mode.EXCLUSIVE) -> tuple[str, dict[str, object], str]:
    words = f"guest {guard.spec.name} ({guard.spec.uuid}), supervisor pid {guard.pid}, "
    fields = {
        "host": HOST,
        "guest": guard.spec.name,
        "uuid": guard.spec.uuid,
        "supervisor_pid": guard.pid,
        "child_pid": guard.child_pid or None,
    }
    return mode, fields, words


def another(locker: Locker, mode: str = Mode.EXCLUSIVE) -> tuple[str, dict[str, object], str]:
    return mode, {**NOTHING_KNOWN, "host": HOST}, f"process {locker.pid} (python"


def running(world: World) -> Holders:
    return [ours(world.guards.run(world.disk, name="web1", command=idle_argv(world.disk)))]


def acquiring(world: World) -> Holders:
    """Its first lease is held, its second lock manager does not answer."""
    fields = {**world.gate.fields, "plugin": "file+gate", "name": "web1"}
    world.gate.shut("acquire")
    guard = world.guards.start(world.guards.spec(world.disk, **fields))
    world.gate.wait("acquire")
    return [ours(guard)]


def of_another_runtime_directory(world: World) -> Holders:
    elsewhere = world.until_end.enter_context(Guards(world.elsewhere))
    return [ours(elsewhere.run(world.disk, name="web1"))]


def as_virtlockd(world: World) -> Holders:
    return [another(world.locker(WRITE, posix=True))]


def by_another_program(world: World) -> Holders:
    return [another(world.locker(WRITE, posix=False))]


def shared_by_three(world: World) -> Holders:
    shared = (Mode.SHARED, world.disk)
    guards = [world.guards.run(shared, name=name) for name in ("web1", "web2")]
    reader = world.locker(READ, posix=True)
    return [*(ours(guard, Mode.SHARED) for guard in guards), another(reader, Mode.SHARED)]


def only_in_flight(world: World) -> Holders:
    world.in_flight(WRITE)
    return [(Mode.EXCLUSIVE, NOTHING_KNOWN, UNSEEN)]


def one_seen_one_in_flight(world: World) -> Holders:
    world.in_flight(READ)
    reader = world.locker(READ, posix=False)
    return [another(reader, Mode.SHARED), (Mode.SHARED, NOTHING_KNOWN, UNSEEN)]


def outliving_its_guard(world: World) -> Holders:
    guard = world.orphan(Mode.EXCLUSIVE)
    mode, fields, _ = ours(guard)
    words = f"guest web1 ({guard.spec.uuid}), its supervisor dead, guest pid {guard.child_pid}, "
    return [(mode, {**fields, "supervisor_pid": None}, words)]


def outliving_its_guard_beside_another(world: World) -> Holders:
    guard = world.orphan(Mode.SHARED)
    reader = world.locker(READ, posix=False)
    fields = {"guest": "web1", "child_pid": guard.child_pid, "supervisor_pid": None}
    words = f"guest web1 ({guard.spec.uuid}), its supervisor dead"
    return [another(reader, Mode.SHARED), (Mode.SHARED, fields, words)]


@pytest.fixture
def world(tmp_path: Path, guards: Guards, gate: Gate) -> Iterator[World]:
    made = World(tmp_path, guards, gate)
    with made.until_end:
        yield made


@pytest.mark.parametrize(
    "hold",
    [
        running,
        acquiring,
        of_another_runtime_directory,
        as_virtlockd,
        by_another_program,
        shared_by_three,
        only_in_flight,
        one_seen_one_in_flight,
        outliving_its_guard,
        outliving_its_guard_beside_another,
    ],
)
def test_every_holder_is_named(
    world: World, command: Command, hold: Callable[[World], Holders]
) -> None:
    wanted = hold(world)
    answer = command.json("who", world.disk)
    assert answer["disk"] == world.disk
    found = sorted(answer["leases"], key=lambda lease: str(lease["holder"]["description"]))
    assert len(found) == len(wanted), found
    order = sorted(wanted, key=lambda one: one[2])
    for lease, (mode, fields, words) in zip(found, order, strict=True):
        holder = lease["holder"]
        assert set(holder) == {*NOTHING_KNOWN, "description"}
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
    "hold", [running, as_virtlockd, by_another_program, only_in_flight, outliving_its_guard]
)
def test_every_refusal_names_the_holder(
    world: World, command: Command, hold: Callable[[World], Holders]
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


def nobody(_world: World) -> None:
    pass


def qemu_without_a_lease(world: World) -> None:
    """QEMU's own image locks are on."""
    argv = idle_argv(world.disk, locking_off=False)
    world.guards.run(plugin="nop", command=argv)


def waiting_in_vain(world: World) -> None:
    """A guard that waits for another disk has given this one back."""
    other = f"{world.disk}.other"
    with open(other, "wb"):
        world.until_end.enter_context(Locker(other))
    world.guards.start(world.guards.spec(world.disk, other, wait_s=float("inf")))
    until_waited_for(other)


@pytest.mark.parametrize("hold", [nobody, qemu_without_a_lease, waiting_in_vain])
def test_what_nobody_has_a_lease_on_is_free(
    world: World, command: Command, hold: Callable[[World], None]
) -> None:
    hold(world)
    result = command("who", world.disk, "--json")
    assert (result.code, result.err) == (1, "")
    assert json.loads(result.out) == {"disk": world.disk, "leases": []}
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
    world: World, command: Command, tmp_path: Path
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
