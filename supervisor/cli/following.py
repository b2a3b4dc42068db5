"""What do the commands that follow a guest do: events, wait?

They hear what its guard tells, and return when guest and leases are gone. It
must not know how a guest is found, or how its end is proven.
"""

from __future__ import annotations

import sys

import click

from supervisor import client, rundir
from supervisor.cli import candidates, render
from supervisor.cli.guests import find
from supervisor.cli.options import located
from supervisor.ending import Witnesses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.finding import Guest

_LOOK_AGAIN_S = 0.5


@click.command("events")
@click.argument("guest", shell_complete=candidates.guests)
@located
def events_command(guest: str, config: str | None, runtime_dir: str | None) -> None:
    """Print what happens to GUEST, a JSON line each, until it is gone.

    RESOURCE_ACQUIRED, RESOURCE_RELEASED, GUEST_PARKED, GUEST_RESUMED, MIGRATION_PREPARED,
    MIGRATION_COMPLETED, MIGRATION_CANCELLED, LEASE_LOST, GUEST_EXITED. Works from the time on
    when its leases are being acquired; ^C ends it, and the guest goes on.

    Example: lock-supervisor events web1
    """
    found = find(guest, runtime_dir, config)
    with Witnesses(found) as witnesses:
        reader_fd = None if sys.stdout is None else sys.stdout.fileno()
        for event in _follow(found, witnesses, reader_fd):
            render.put_json(event)
        witnesses.wait(None)
    rundir.remove_dead(found.path)


@click.command("wait")
@click.argument("guest", shell_complete=candidates.guests)
@located
def wait_command(guest: str, config: str | None, runtime_dir: str | None) -> None:
    """Wait until GUEST is gone; print its exit status, or unknown.

    Example: lock-supervisor wait web1
    """
    found = find(guest, runtime_dir, config)
    with Witnesses(found) as witnesses:
        told = map(exit_status, _follow(found, witnesses))
        status = next((status for status in told if status is not None), None)
        witnesses.wait(None)
    rundir.remove_dead(found.path)
    render.put("unknown" if status is None else str(status))


def exit_status(event: dict[str, object]) -> int | None:
    """Return the guest's exit status if this event tells it."""
    data = event.get("data")
    if event["event"] == "GUEST_EXITED" and isinstance(data, dict):
        return int(data["status"])
    return None


def _follow(
    guest: Guest, witnesses: Witnesses, reader_fd: int | None = None
) -> Iterator[dict[str, object]]:
    """Yield the events that the guest's guard tells, until that is gone.

    Raises BrokenPipeError when nobody reads `reader_fd`: who wanted one event has it.
    """
    while True:
        try:
            with client.connect(guest.path) as connection:
                connection.reader_fd = reader_fd
                while True:
                    yield connection.next_event(None)
        except client.NoAnswerError:  # not up yet, or we were the one client too many
            if witnesses.guard_is_gone(_LOOK_AGAIN_S):
                return
