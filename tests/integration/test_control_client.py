"""Does the qemu.qmp client from PyPI work against the control pipe?"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
from qemu.qmp import ExecuteError, QMPClient, Runstate

from lockplugins.contract import Mode
from supervisor import __version__
from tests.support.insight import read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from qemu.qmp.message import Message

    from tests.support.guard import Guard, Guards

DEADLINE_S = 20.0
STATUS = {
    "uuid", "name", "id", "state", "supervisor_pid", "child_pid", "plugin", "containment",
    "guarantee", "since", "leases", "deadline_s", "unleased", "parked",
}  # fmt: skip
LEASE = {"resource", "type", "mode", "lockspace", "lease", "generation", "state"}


async def connected(guard: Guard) -> QMPClient:
    """Return a client of qemu.qmp; through the directory's descriptor, as sun_path is short."""
    client = QMPClient("test")
    directory = os.open(guard.path, os.O_PATH)
    try:
        await client.connect(f"/proc/self/fd/{directory}/control")
    finally:
        os.close(directory)
    return client


def talk(guard: Guard, conversation: Callable[[QMPClient], Awaitable[None]]) -> None:
    """Have one client of qemu.qmp talk to the guard, within a deadline."""

    async def session() -> None:
        client = await connected(guard)
        try:
            await conversation(client)
        finally:
            await client.disconnect()

    asyncio.run(asyncio.wait_for(session(), DEADLINE_S))


async def refusal(client: QMPClient, command: str, arguments: Any = None) -> ExecuteError:
    with pytest.raises(ExecuteError) as refused:
        await client.execute(command, arguments)
    return refused.value


async def event(client: QMPClient, name: str) -> Message:
    """Return the next event, which has to have this name."""
    found = await client.events.get()
    assert found["event"] == name, found
    stamp: Any = found["timestamp"]
    assert set(stamp) == {"seconds", "microseconds"}
    return found


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    path.touch()
    return str(path)


@pytest.fixture
def guard(guards: Guards, disk: str) -> Guard:
    return guards.run(disk, name="web1", id="7")


def test_it_negotiates_and_is_told_whom_it_talks_to(guard: Guard) -> None:
    async def conversation(client: QMPClient) -> None:
        assert client.greeting is not None
        assert client.greeting.QMP.version == {"lock-supervisor": __version__}
        assert client.greeting.QMP.capabilities == []

    talk(guard, conversation)


def test_query_child_names_the_process_beyond_doubt(guard: Guard) -> None:
    stat = read(guard.child_pid, "stat").rpartition(b")")[2].split()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot_id = file.read().strip()

    async def conversation(client: QMPClient) -> None:
        assert await client.execute("query-child") == {
            "pid": guard.child_pid,
            "start_time": int(stat[22 - 3]),
            "boot_id": boot_id,
            "state": "running",
        }

    talk(guard, conversation)


def test_query_status_says_all_that_the_command_line_shows(guard: Guard, disk: str) -> None:
    async def conversation(client: QMPClient) -> None:
        status: Any = await client.execute("query-status")
        assert set(status) == STATUS
        assert status["state"] == "running"
        assert (status["name"], status["id"], status["uuid"]) == ("web1", "7", guard.spec.uuid)
        assert (status["supervisor_pid"], status["child_pid"]) == (guard.pid, guard.child_pid)
        assert (status["plugin"], status["containment"]) == ("file", "pdeathsig")
        assert status["guarantee"].startswith("the guest runs only while every lease is held")
        assert (status["deadline_s"], status["unleased"]) == (None, [])
        leases: Any = await client.execute("query-leases")
        assert leases == status["leases"]
        (lease,) = leases
        assert set(lease) == LEASE
        assert (lease["resource"], lease["mode"], lease["state"]) == (disk, "exclusive", "held")

    talk(guard, conversation)


def test_it_acquires_and_releases_and_hears_of_both(guard: Guard, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.touch()

    async def conversation(client: QMPClient) -> None:
        asked = {"type": "disk", "path": str(more), "mode": "shared"}
        lease: Any = await client.execute("acquire-resource", asked)
        assert set(lease) == LEASE
        assert (lease["resource"], lease["mode"]) == (str(more), "shared")
        assert (await event(client, "RESOURCE_ACQUIRED"))["data"] == lease
        assert lease in await client.execute("query-leases")  # type: ignore[operator]
        named = {"type": "disk", "path": str(more)}
        assert await client.execute("release-resource", named) == {}
        assert (await event(client, "RESOURCE_RELEASED"))["data"] == lease
        assert lease not in await client.execute("query-leases")  # type: ignore[operator]

    talk(guard, conversation)


def test_a_refusal_carries_class_words_and_exit_code(
    guard: Guard, guards: Guards, disk: str, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.touch()
    holder = guards.run((Mode.SHARED, str(held)), name="db1")

    async def conversation(client: QMPClient) -> None:
        acquire, release = "acquire-resource", "release-resource"
        refused = await refusal(client, acquire, {"type": "disk", "path": str(held)})
        assert refused.error_class == "LeaseHeld"
        words = f"held by guest db1 ({holder.spec.uuid}), supervisor pid {holder.pid}"
        assert words in str(refused)
        error: Any = refused.received["error"]
        assert error["fields"]["exit_code"] == 110
        for command, arguments, expected in (
            (acquire, {"path": disk}, "Resource"),
            (acquire, {"path": "relative"}, "Argument"),
            (acquire, {"path": str(tmp_path / "missing")}, "Resource"),
            (acquire, {"path": str(tmp_path)}, "Resource"),
            (acquire, {"path": disk, "mode": "both"}, "Argument"),
            (acquire, {"path": disk, "type": "vm"}, "Unsupported"),
            (acquire, {}, "Argument"),
            (release, {"path": str(held)}, "NoSuchLease"),
            ("stop-guest", {"timeout_s": "soon"}, "Argument"),
        ):
            assert (await refusal(client, command, arguments)).error_class == expected
        assert len(await client.execute("query-leases")) == 1  # type: ignore[arg-type]

    talk(guard, conversation)


@pytest.mark.parametrize("command", ["quit", "system_reset", "QUERY-CHILD", ""])
def test_there_is_no_such_command(guard: Guard, command: str) -> None:
    async def conversation(client: QMPClient) -> None:
        refused = await refusal(client, command)
        assert refused.error_class == "CommandNotFound"
        assert "query-child" in str(refused)
        assert await client.execute("query-child")

    talk(guard, conversation)
    assert guard.process.poll() is None


def test_many_questions_at_once_each_get_their_own_answer(guard: Guard) -> None:
    async def conversation(client: QMPClient) -> None:
        commands = ["query-child", "query-leases", "query-status", "no-such"] * 25
        answers = await asyncio.gather(
            *(client.execute(command) for command in commands), return_exceptions=True
        )
        for command, answer in zip(commands, answers, strict=True):
            if command == "no-such":
                assert isinstance(answer, ExecuteError)
            elif command == "query-leases":
                assert isinstance(answer, list)
            else:
                key = "pid" if command == "query-child" else "child_pid"
                assert isinstance(answer, dict)
                assert answer[key] == guard.child_pid

    talk(guard, conversation)


def test_every_client_hears_that_the_guest_ended(guard: Guard) -> None:
    async def session() -> None:
        clients = [await connected(guard), await connected(guard)]
        answer: Any = await clients[0].execute("stop-guest", {"timeout_s": 10})
        assert answer["via"] == "SIGTERM"
        for client in clients:
            assert (await event(client, "GUEST_EXITED"))["data"] == {"status": 128 + 15}
        for client in clients:
            while client.runstate == Runstate.RUNNING:  # until it has seen the guard go
                await client.runstate_changed()
            with pytest.raises(EOFError):
                await client.disconnect()

    asyncio.run(asyncio.wait_for(session(), DEADLINE_S))
    assert guard.wait().code == 128 + 15


def test_a_runtime_directory_may_have_a_long_path(
    guards: Guards, tmp_path: Path, disk: str
) -> None:
    directory = tmp_path / ("long" * 30) / ("longer" * 30)
    guard = guards.run(disk, runtime_dir=str(directory))
    assert len(f"{guard.path}/control") > 108

    async def conversation(client: QMPClient) -> None:
        answer: Any = await client.execute("query-child")
        assert answer["pid"] == guard.child_pid

    talk(guard, conversation)
