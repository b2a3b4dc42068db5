"""Which plugins does doctor meet? Such as speak, and such as do what a plugin may not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lockplugins.contract import LockError, Plugin

if TYPE_CHECKING:
    from lockplugins.contract import Finding, Resource


class Speaking(Plugin):
    name = "speaking"

    def examine(self, resource: Resource | None) -> list[Finding]:
        assert resource is None
        return [("daemon", False, "the daemon sleeps", "wake it")]


class Printing(Plugin):
    name = "printing"

    def examine(self, resource: Resource | None) -> list[Finding]:
        assert resource is None
        print("not an answer", flush=True)
        return []


class Failing(Plugin):
    name = "failing"

    def examine(self, resource: Resource | None) -> list[Finding]:
        raise LockError("ask", str(resource), "its server is gone", "start it")


class Dying(Plugin):
    name = "dying"

    def examine(self, resource: Resource | None) -> list[Finding]:
        os._exit(7 if resource is None else 8)
