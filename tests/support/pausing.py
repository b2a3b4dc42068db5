"""How does a test pause a guest? A QEMU that runs under a guard, its control pipe, and a stranger.

The stranger is a monitor that is not the guard's. The machine has no processor,
so that it runs, or not, at no cost. Judges nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.guard import DEADLINE_S
from tests.support.qemu import Monitor, idle_argv
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from supervisor.spec import GuestSpec
    from tests.support.guard import Guards


class Pausable:
    """A guest that runs; a context that closes its connections."""

    def __init__(
        self, guards: Guards, spec: GuestSpec, *, runs: bool = True, extra: Sequence[str] = ()
    ) -> None:
        self.stranger = Monitor()
        argv = idle_argv(extra=[*self.stranger.argv, *extra])
        self.guard = guards.start(spec, argv, pass_fds=[self.stranger.fd]).ready(DEADLINE_S)
        self.control = Wire(f"{self.guard.path}/control")
        if runs:
            self.stranger.execute("cont")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()
        self.stranger.__exit__()

    def pause(self) -> str:
        state = self.control.execute("pause-guest")["state"]
        assert isinstance(state, str)
        return state

    def resume(self, state: object) -> None:
        assert self.control.execute("resume-guest", {"state": state}) == {}

    def state(self) -> str:
        return str(self.control.execute("query-status")["state"])

    def runs(self) -> bool:
        """Does QEMU say that it runs?"""
        answer = self.stranger.execute("query-status")
        assert isinstance(answer, dict)
        return answer["running"] is True
