"""What do the commands that end a guest do: stop, kill?

They return when guest and leases are gone. It must not know how a guest is
found, or how its end is proven.
"""

from __future__ import annotations

import signal

import click

from supervisor import client, rundir
from supervisor.cli import candidates, render
from supervisor.cli.following import exit_status
from supervisor.cli.guests import find, is_acquiring
from supervisor.cli.options import located, seconds
from supervisor.ending import GONE_WITHIN_S, Witnesses, revoke

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from supervisor.client import Client
    from supervisor.finding import Guest

_ANSWER_S = 5.0  # more than QEMU is given to hear of the power button
_AT_ONCE = 0.0  # an instant that is past
_HOW = {None: "", 128 + signal.SIGKILL: ", ended by SIGKILL"}


@click.command("stop")
@click.argument("guest", shell_complete=candidates.guests)
@click.option(
    "--timeout",
    type=seconds,
    metavar="S",
    help="Seconds until SIGKILL; default: run's --stop-timeout.",
)
@located
def stop_command(
    guest: str, timeout: float | None, config: str | None, runtime_dir: str | None
) -> None:
    """End GUEST: press its power button, then insist.

    Without a monitor it gets SIGTERM instead; insisting is SIGKILL. Says which,
    and returns when the guest is gone and its leases are free.

    Example: lock-supervisor stop web1 --timeout 60
    """
    found = find(guest, runtime_dir, config)
    with Witnesses(found) as witnesses, Request(found, timeout) as request:
        via, timeout_s = request.make(witnesses)
        try:
            render.put(f"stopping {found.words()}: {via}")
        finally:  # whoever reads it or not: it is being stopped
            witnesses.wait(None if timeout_s is None else timeout_s + GONE_WITHIN_S)
            rundir.remove_dead(found.path)
        status = request.status_said()
    render.put(f"{found.words()} is gone{_HOW.get(status, f' with exit status {status}')}")


@click.command("kill")
@click.argument("guest", shell_complete=candidates.guests)
@located
def kill_command(guest: str, config: str | None, runtime_dir: str | None) -> None:
    """End GUEST now: SIGKILL its supervisor; the kernel ends the guest.

    Returns when guest and leases are proven gone. Under etcd nobody is left to give the leases
    back, and they are free when their time has passed: "stop --timeout 0" frees them at once.

    Example: lock-supervisor kill web1
    """
    revoke(find(guest, runtime_dir, config))


class Request:
    """One request to stop; keeps its connection until the guest's end, which is told there."""

    def __init__(self, guest: Guest, timeout_s: float | None) -> None:
        self._guest = guest
        self._timeout_s = timeout_s
        self._connection: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def make(self, witnesses: Witnesses) -> tuple[str, float | None]:
        """Have the guest stopped; returns by what, and how long it is given (None: for ever)."""
        if not self._guest.guarded:
            return "its supervisor is dead already", 0.0
        if is_acquiring(self._guest):
            witnesses.signal_guard(signal.SIGTERM)
            return "SIGTERM to its supervisor, which was acquiring its leases", 0.0
        arguments: dict[str, object] = {}
        if self._timeout_s is not None:
            arguments["timeout_s"] = None if self._timeout_s == float("inf") else self._timeout_s
        try:
            self._connection = client.connect(self._guest.path)
            answer = self._connection.execute("stop-guest", arguments, _ANSWER_S)
        except client.NoAnswerError:
            if not witnesses.guard_is_gone(client.ANSWER_S):
                raise
            return "it was ending already", 0.0
        said = answer if isinstance(answer, dict) else {}
        bound_s = said.get("timeout_s")
        return str(said.get("via")), None if bound_s is None else float(bound_s)

    def status_said(self) -> int | None:
        """Return the exit status that a guard, gone by now, has told us; None if it told none."""
        try:
            while self._connection is not None:
                if (status := exit_status(self._connection.next_event(_AT_ONCE))) is not None:
                    return status
        except client.NoAnswerError:
            pass
        return None
