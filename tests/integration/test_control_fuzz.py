"""What can a client send that hurts? Hypothesis looks, while another client is answered."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.qmp.wire import MAX_DEPTH, MAX_MESSAGE_BYTES
from tests.support import waiting
from tests.support.guard import Guards
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.guard import Guard

ANSWER_S = 1.0
GROWN_KIB = 4096
COMMANDS = ("query-child", "query-status", "query-leases", "acquire-resource", "release-resource")
fuzzed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.text(st.characters())  # surrogates, too
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)
paths = texts.map(lambda text: "/" + text)
arguments = st.dictionaries(
    st.sampled_from(("type", "path", "mode", "pidfd")) | st.text(max_size=5), values | paths
)
commands = st.fixed_dictionaries(
    {"execute": st.sampled_from(COMMANDS) | values},
    optional={"arguments": arguments | values, "id": values, "exec-oob": values},
).filter(lambda message: message["execute"] != "stop-guest")
messages = (commands | values).map(lambda value: json.dumps(value).encode())


class Target:
    """A guard to hurt, and a client that goes on asking it for its child."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self._asker = Wire(f"{guard.path}/control")

    def close(self) -> None:
        self._asker.close()

    def attack(self, *chunks: bytes) -> list[dict[str, Any]]:
        """Send the chunks on a connection of their own; returns what is said until it ends."""
        with Wire(f"{self.guard.path}/control") as hostile:
            for chunk in chunks:
                try:
                    hostile.send(chunk)
                except (BrokenPipeError, ConnectionResetError):
                    break
                self.ask()
            hostile.finish()
            said = hostile.until_closed()
        self.ask()
        return said

    def ask(self) -> None:
        """GetChild has its answer in time, whatever the others do."""
        start = time.monotonic()
        answer = self._asker.execute("query-child")
        assert time.monotonic() - start < ANSWER_S
        assert answer["pid"] == self.guard.child_pid

    def usage(self) -> tuple[int, int]:
        """Return the guard's descriptors and its resident memory in KiB."""
        with open(f"/proc/{self.guard.pid}/status", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file)
        return len(os.listdir(f"/proc/{self.guard.pid}/fd")), int(fields["VmRSS"].split()[0])


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Hurt one guard all along; at the end it has to be as small as it was."""
    directory = tmp_path_factory.mktemp("target")
    disk = directory / "disk"
    disk.touch()
    with Guards(directory) as guards:
        found = Target(guards.run(disk))
        found.attack(b"{}", b"[" * 100, b'{"execute": "query-status"}')
        descriptors, memory_kib = found.usage()
        yield found
        waiting.until(
            lambda: found.usage()[0] <= descriptors, ANSWER_S, f"back to {descriptors} descriptors"
        )
        assert found.usage()[1] - memory_kib < GROWN_KIB
        found.ask()
        found.close()


@fuzzed
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_bytes(target: Target, chunks: list[bytes]) -> None:
    for said in target.attack(*chunks):
        assert set(said) == {"error"}, said


@fuzzed
@given(messages, st.data())
def test_a_truncated_message(target: Target, message: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(message)))
    target.attack(message[:cut])
    target.attack(message[cut:])


@fuzzed
@given(st.lists(messages, max_size=6))
def test_any_json(target: Target, sent: list[bytes]) -> None:
    target.attack(b"\n".join(sent))


@pytest.mark.slow
@fuzzed
@given(st.lists(commands, min_size=1, max_size=8), st.data())
def test_pipelined_commands_are_answered_in_order(
    target: Target, sent: list[dict[str, Any]], data: st.DataObject
) -> None:
    """However they are cut into packets, whatever their ids, each has one answer of its own."""
    stream = b" ".join(json.dumps(command).encode() for command in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    chunks = [
        stream[first:last] for first, last in zip([0, *cuts], [*cuts, len(stream)], strict=True)
    ]
    with Wire(f"{target.guard.path}/control") as client:
        for chunk in chunks:
            client.send(chunk)
        for command in sent:
            answer = client.message()
            assert len({"return", "error"} & set(answer)) == 1, answer
            assert ("id" in answer) == ("id" in command)
            assert answer.get("id") == command.get("id")
    target.ask()


@fuzzed
@given(
    st.integers(1, 5000),
    st.sampled_from(["[", '{"a":', '{"a":[']),
    st.sampled_from(["id", "arguments", "execute"]),
)
def test_deep_nesting(target: Target, depth: int, opening: str, key: str) -> None:
    closing = "".join({"[": "]", "{": "}"}.get(mark, "") for mark in reversed(opening))
    nested = opening * depth + "1" + closing * depth
    said = target.attack(f'{{"execute": "query-child", "{key}": {nested}}}'.encode())
    assert len(said) == 1
    if depth * len(closing) > MAX_DEPTH:
        assert "error" in said[0]


@fuzzed
@given(st.integers(MAX_MESSAGE_BYTES - 100, MAX_MESSAGE_BYTES * 3))
def test_a_huge_message(target: Target, size: int) -> None:
    frame = '{"execute": "query-child", "id": "%s"}'
    message = (frame % ("x" * (size - len(frame) + 2))).encode()
    assert len(message) == size
    said = target.attack(message, b'{"execute": "query-leases"}')
    if size <= MAX_MESSAGE_BYTES:
        assert [set(answer) for answer in said] == [{"return", "id"}, {"return"}]
    else:
        assert len(said) == 1
        assert "longer than 65536 bytes" in said[0]["error"]["desc"]


@pytest.mark.parametrize(
    "timeout_s", ['"1"', "-1", "-1e-9", "true", "[]", "{}", "NaN", "Infinity", "1e999"]
)
def test_stop_guest_takes_no_such_time(target: Target, timeout_s: str) -> None:
    with Wire(f"{target.guard.path}/control") as client:
        client.send(
            b'{"execute": "stop-guest", "arguments": {"timeout_s": %s}}' % timeout_s.encode()
        )
        assert "error" in client.message()
        assert client.execute("query-status")["state"] == "running"


@pytest.mark.parametrize("timeout_s", ["null", "1e9", "1e300", "1" + "0" * 400])
def test_stop_guest_may_take_for_ever(guards: Guards, timeout_s: str) -> None:
    guard = guards.run(command=("/bin/sh", "-c", "trap '' TERM; exec sleep 1000000"))
    with Wire(f"{guard.path}/control") as client:
        client.send(
            b'{"execute": "stop-guest", "arguments": {"timeout_s": %s}}' % timeout_s.encode()
        )
        assert client.message()["return"]["via"] == "SIGTERM"
        assert client.execute("query-status")["state"] == "stopping"


def test_nothing_is_obeyed_before_capabilities(target: Target) -> None:
    with Wire(f"{target.guard.path}/control", negotiate=False) as client:
        assert "QMP" in client.message()
        with pytest.raises(Refused) as refused:
            client.execute("query-child")
        assert refused.value.wire_class == "CommandNotFound"
        assert client.execute("qmp_capabilities") == {}
        assert client.execute("query-child")["pid"] == target.guard.child_pid
