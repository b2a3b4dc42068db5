"""How does a test park a guest? The guest that writes, under a guard, and all that would undo it.

Its leases are those of a lock manager that the test plays (tests/support/manager.py) or of a real
one. The stranger is a monitor that is not the guard's. Judges nothing.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from tests.support import waiting
from tests.support.qemu import Monitor, guest_argv, wait_ready
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from supervisor.spec import GuestSpec
    from tests.support.guard import Guards

DEADLINE_S = 60.0


class Parkable:
    """A guest that writes to `disk`; a context that closes its connections."""

    def __init__(
        self, guards: Guards, spec: GuestSpec, disk: str, *, extra: Sequence[str] = (), **popen: Any
    ) -> None:
        self.disk = disk
        self.stranger = Monitor()
        argv = guest_argv(disk, extra=[*self.stranger.argv, *extra])
        popen = {"stdout": subprocess.PIPE, "bufsize": 0, **popen}
        self.guard = guards.start(spec, argv, pass_fds=[self.stranger.fd], **popen)
        self.guard.ready(DEADLINE_S)
        self.control = Wire(f"{self.guard.path}/control")
        assert self.guard.process.stdout is not None
        wait_ready(self.guard.process.stdout, deadline_s=DEADLINE_S)
        self.stranger.execute("query-status")  # a parked QEMU negotiates with nobody

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()
        if self.guard.process.stdout is not None:
            self.guard.process.stdout.close()
        self.stranger.__exit__()

    def status(self) -> dict[str, Any]:
        answer = self.control.execute("query-status")
        assert isinstance(answer, dict)
        return answer

    def parked(self) -> dict[str, Any]:
        """Wait until it is parked without its leases; returns its status then."""
        self.control.event("GUEST_PARKED", DEADLINE_S)
        return self.status()

    def pause(self) -> str:
        state = self.control.execute("pause-guest")["state"]
        assert isinstance(state, str)
        return state

    def written(self) -> int:
        """Return when something last wrote to its disk, by the clock of the filesystem."""
        return os.stat(self.disk).st_mtime_ns

    def writes(self) -> None:
        """Wait until the guest writes."""
        was = self.written()
        waiting.until(lambda: self.written() > was, DEADLINE_S, "the guest writes")
