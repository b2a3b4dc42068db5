"""What does the control pipe answer to what it cannot obey? Seen by programs, in QMP's `error`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.errors.hotplug import asked
from tests.support.errors.world import Case, Said
from tests.support.wire import Wire

if TYPE_CHECKING:
    from tests.support.errors.world import Provoke, World


_UNREAD = 100


def sent(data: bytes, *, negotiate: bool = True) -> Provoke:
    """Provoke by bytes on the control pipe."""

    def provoke(world: World) -> Said:
        guard = world.guest(world.disk)
        with Wire(f"{guard.path}/control", negotiate=negotiate) as wire:
            wire.send(data)
            while "error" not in (message := wire.message()):
                pass
        error = message["error"]
        return Said(int(error["fields"].get("exit_code", 111)), error["desc"])

    return provoke


def unread(world: World) -> Said:
    """Provoke by asking for pidfds and reading no answer."""
    guard = world.guest(world.disk)
    long = json.dumps({"execute": "query-leases", "id": "x" * 4000}).encode()
    with Wire(f"{guard.path}/control") as wire, Wire(f"{guard.path}/control") as other:
        wire.send(long * _UNREAD)
        wire.ask("query-child", {"pidfd": True})
        for _ in range(2 * _UNREAD):  # the guard has read from everybody between any two of these
            other.execute("query-leases")
        while "error" not in (message := wire.message()):
            pass
    error = message["error"]
    return Said(int(error["fields"]["exit_code"]), error["desc"])


CASES = (
    Case(2, asked("frobnicate"),
         "A misspelt command, or a newer client."),
    Case(2, asked("stop-guest", timeout_s="soon"),
         "A number, or null to wait for ever."),
    Case(111, sent(b'{"execute": "query-child"}\n', negotiate=False),
         "QMP wants `qmp_capabilities` first."),
    Case(111, sent(b'{"execute": 7}\n'),
         "The message is JSON, but no command."),
    Case(111, sent(b"HELLO\n"),
         "What was sent is no JSON object."),
    Case(111, sent(b'{"execute"; 7}\n'),
         "What was sent is no JSON."),
    Case(111, unread,
         "A descriptor travels with the first byte of an answer, so it cannot be queued behind "
         "unread ones."),
)  # fmt: skip
