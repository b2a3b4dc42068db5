"""What does the control pipe answer while jobs are blocked, and what travels beside the words?"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.spec import Containment
from tests.support import waiting
from tests.support.insight import read
from tests.support.wire import DEADLINE_S, Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gate import Gate
    from tests.support.guard import Guard, Guards

ANSWER_S = 1.0
DISK = {"type": "disk", "path": "/a/disk"}


@pytest.fixture
def guard(guards: Guards, gate: Gate) -> Guard:
    """Run a guest whose leases a stand-in grants, when its gate is open."""
    return guards.start(guards.spec(**gate.fields)).ready()


@pytest.fixture
def wire(guard: Guard) -> Iterator[Wire]:
    with Wire(f"{guard.path}/control") as connected:
        yield connected


@pytest.fixture
def other(guard: Guard) -> Iterator[Wire]:
    with Wire(f"{guard.path}/control") as connected:
        yield connected


def pid_behind(fd: int) -> int:
    """Return the pid of a pidfd, as the kernel tells it."""
    fields = dict(
        line.split(":", 1) for line in read(os.getpid(), f"fdinfo/{fd}").decode().splitlines()
    )
    return int(fields["Pid"])


def leases(wire: Wire) -> list[str]:
    return [lease["resource"] for lease in wire.execute("query-leases")]


@pytest.mark.parametrize("containment", [Containment.PDEATHSIG, Containment.PIDNS])
def test_the_pidfd_is_the_guests_and_only_for_who_asks(guards: Guards, containment: str) -> None:
    guard = guards.run(containment=containment, plugin="nop")
    with Wire(f"{guard.path}/control") as wire:
        for arguments in ({}, {"pidfd": False}, {"pidfd": 1}, {"pidfd": "true"}, {"pidfd": None}):
            assert wire.execute("query-child", arguments)["pid"] == guard.child_pid
        assert wire.fds == []
        answer = wire.execute("query-child", {"pidfd": True})
        assert answer["pid"] == guard.child_pid
        (pidfd,) = wire.fds
        assert pid_behind(pidfd) == guard.child_pid
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        waiting.gone(guard.child_pidfd, DEADLINE_S)
    assert guard.wait().code == 128 + signal.SIGKILL


def test_pidfds_come_with_the_answers_that_they_belong_to(wire: Wire, guard: Guard) -> None:
    numbers = [wire.ask("query-child", {"pidfd": bool(number % 2)}) for number in range(20)]
    for count, number in enumerate(numbers):
        assert wire.answer(number)["pid"] == guard.child_pid
        assert len(wire.fds) >= (count + 1) // 2
    assert len(wire.fds) == 10
    assert {pid_behind(fd) for fd in wire.fds} == {guard.child_pid}


def test_a_pidfd_that_cannot_travel_now_is_an_error(wire: Wire, other: Wire) -> None:
    """It rides on an answer's first byte, so not behind answers that nobody has read."""
    long_id = "x" * 4000
    unread = 100
    for _ in range(unread):
        wire.send(json.dumps({"execute": "query-leases", "id": long_id}).encode())
    number = wire.ask("query-child", {"pidfd": True})
    for _ in range(2 * unread):  # the guard has read from everybody between any two of these
        assert leases(other) == []
    for _ in range(unread):
        assert wire.message() == {"return": [], "id": long_id}
    with pytest.raises(Refused, match="cannot hand out descriptor: earlier answers are unread"):
        wire.answer(number)
    assert wire.fds == []
    wire.execute("query-child", {"pidfd": True})
    assert len(wire.fds) == 1


def test_what_the_guard_knows_it_answers_while_its_jobs_are_blocked(
    wire: Wire, other: Wire, guard: Guard, gate: Gate
) -> None:
    gate.shut("acquire")
    blocked = wire.ask("acquire-resource", DISK)
    gate.wait("acquire")
    start = time.monotonic()
    assert other.execute("query-child")["pid"] == guard.child_pid
    assert leases(other) == []
    assert other.execute("query-status")["state"] == "running"
    assert time.monotonic() - start < ANSWER_S
    with Wire(f"{guard.path}/control") as newcomer:
        assert newcomer.execute("query-child")["pid"] == guard.child_pid
    assert time.monotonic() - start < ANSWER_S
    gate.open("acquire")
    assert wire.answer(blocked)["resource"] == DISK["path"]
    assert leases(other) == [DISK["path"]]


def test_a_client_gets_its_answers_in_the_order_of_its_questions(
    wire: Wire, other: Wire, gate: Gate
) -> None:
    gate.shut("acquire")
    first = wire.ask("acquire-resource", DISK)
    later = [wire.ask(command) for command in ("query-child", "no-such", "query-leases")]
    gate.wait("acquire")
    assert leases(other) == []
    gate.open("acquire")
    assert wire.answer(first)["mode"] == "exclusive"
    assert wire.answer(later[0])["pid"]
    with pytest.raises(Refused, match="no such command"):
        wire.answer(later[1])
    assert [lease["resource"] for lease in wire.answer(later[2])] == [DISK["path"]]


def test_what_a_client_asked_for_happens_when_it_is_gone(
    wire: Wire, other: Wire, gate: Gate
) -> None:
    gate.shut("acquire")
    wire.ask("acquire-resource", DISK)
    gate.wait("acquire")
    wire.close()
    assert leases(other) == []
    gate.open("acquire")
    assert other.event("RESOURCE_ACQUIRED")["data"]["resource"] == DISK["path"]
    assert leases(other) == [DISK["path"]]


def test_two_who_ask_for_one_disk_get_one_lease(wire: Wire, other: Wire, gate: Gate) -> None:
    gate.shut("acquire")
    first = wire.ask("acquire-resource", DISK)
    gate.wait("acquire")
    second = other.ask("acquire-resource", DISK)
    gate.open("acquire")
    assert wire.answer(first)["resource"] == DISK["path"]
    with pytest.raises(Refused, match="has a lease on it already"):
        other.answer(second)
    assert leases(other) == [DISK["path"]]


def test_two_who_release_one_lease_release_it_once(wire: Wire, other: Wire, gate: Gate) -> None:
    wire.execute("acquire-resource", DISK)
    gate.shut("release")
    first = wire.ask("release-resource", DISK)
    gate.wait("release")
    second = other.ask("release-resource", DISK)
    gate.open("release")
    assert wire.answer(first) == {}
    with pytest.raises(Refused, match="has no lease on it") as refused:
        other.answer(second)
    assert (refused.value.wire_class, refused.value.fields["exit_code"]) == ("NoSuchLease", 1)


def test_a_lease_stays_until_its_release_is_confirmed(wire: Wire, other: Wire, gate: Gate) -> None:
    wire.execute("acquire-resource", DISK)
    gate.shut("release")
    number = wire.ask("release-resource", DISK)
    gate.wait("release")
    assert leases(other) == [DISK["path"]]
    gate.open("release")
    assert wire.answer(number) == {}
    assert leases(other) == []


def test_events_reach_all_who_have_negotiated(wire: Wire, other: Wire, guard: Guard) -> None:
    with Wire(f"{guard.path}/control", negotiate=False) as silent:
        silent.message()
        before = time.time()
        lease = wire.execute("acquire-resource", DISK)
        assert wire.execute("release-resource", DISK) == {}
        for listener in (wire, other):
            for name in ("RESOURCE_ACQUIRED", "RESOURCE_RELEASED"):
                event: dict[str, Any] = listener.event(name)
                assert event["data"] == lease
                stamp = event["timestamp"]
                sent = stamp["seconds"] + stamp["microseconds"] / 1e6
                assert before - 0.001 <= sent <= time.time()
        assert silent.execute("qmp_capabilities") == {}
        assert silent.events == []


def test_the_guests_end_is_the_last_that_is_said(wire: Wire, guard: Guard) -> None:
    signal.pidfd_send_signal(guard.child_pidfd, signal.SIGKILL)
    said = wire.until_closed()
    assert [(event["event"], event["data"]) for event in said] == [
        ("GUEST_EXITED", {"status": 128 + signal.SIGKILL})
    ]
    assert guard.wait().code == 128 + signal.SIGKILL
    assert not os.path.exists(guard.path)


def test_a_guest_that_ignores_sigterm_is_stopping_until_it_is_killed(guards: Guards) -> None:
    guard = guards.run(command=("/bin/sh", "-c", "trap '' TERM; exec sleep 1000000"))
    with Wire(f"{guard.path}/control") as wire:
        start = time.monotonic()
        assert wire.execute("stop-guest", {"timeout_s": 1})["via"] == "SIGTERM"
        assert wire.execute("query-status")["state"] == "stopping"
        assert wire.event("GUEST_EXITED")["data"] == {"status": 128 + signal.SIGKILL}
        assert 0.9 < time.monotonic() - start < DEADLINE_S
    assert guard.wait().code == 128 + signal.SIGKILL


def test_hot_plug_is_refused_where_the_plugin_has_none(guards: Guards) -> None:
    guard = guards.run(plugin="nop")
    with Wire(f"{guard.path}/control") as wire:
        for command in ("acquire-resource", "release-resource"):
            with pytest.raises(Refused, match="plugin nop has no hotplug") as refused:
                wire.execute(command, DISK)
            assert refused.value.wire_class == "Unsupported"
            assert refused.value.fields["exit_code"] == 111
