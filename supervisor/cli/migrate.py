"""What do the commands around a migration do: migrate prepare, complete-in, complete-out?

Clients of the control pipe. Whoever runs them has QEMU migrate in between. It
must not know any plugin, nor what a cookie says.
"""

from __future__ import annotations

import click

from supervisor import rundir
from supervisor.cli import candidates, render
from supervisor.cli.guests import find
from supervisor.cli.options import located, seconds
from supervisor.ending import GONE_WITHIN_S, Witnesses
from supervisor.orders import WITHIN_S, order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.finding import Guest


@click.group("migrate", no_args_is_help=False)
def migrate_command() -> None:
    """Hand a guest's leases over while QEMU migrates it.

    On the source: prepare. On the destination: run --incoming. Then have QEMU
    migrate, until the source's status is postmigrate; then complete-in on the
    destination, complete-out on the source, in either order. To give up:
    complete-in --cancel, then complete-out --cancel.

    Example: lock-supervisor migrate prepare web1 --to tcp:host2:4444
    """


@migrate_command.command("prepare")
@click.argument("guest", shell_complete=candidates.guests)
@click.option("--to", "uri", required=True, metavar="URI", help="Where it goes; for the record.")
@located
def prepare_command(guest: str, uri: str, config: str | None, runtime_dir: str | None) -> None:
    """Source: begin a migration of GUEST, and print its cookie.

    GUEST stays the owner of its disks until QEMU has migrated it.

    Example: lock-supervisor migrate prepare web1 --to tcp:host2:4444
    """
    found = find(guest, runtime_dir, config)
    answer = _order(found, "prepare-migrate", {"uri": uri})
    render.put(str(answer["cookie"]))


@migrate_command.command("complete-in")
@click.argument("guest", shell_complete=candidates.guests)
@click.option("--cookie", metavar="C", help="What migrate prepare has printed.")
@click.option("--cancel", is_flag=True, help="Give up: the guest at this end is ended.")
@click.option(
    "--timeout",
    type=seconds,
    default=10.0,
    metavar="S",
    help="Wait so long for the source to hand over (default 10).",
)
@located
def complete_in_command(
    guest: str,
    cookie: str | None,
    timeout: float,
    config: str | None,
    runtime_dir: str | None,
    *,
    cancel: bool,
) -> None:
    """Destination: make GUEST the owner of its disks; now it may run (cont).

    Example: lock-supervisor migrate complete-in web1 --cookie "$cookie"
    """
    if cookie is None and not cancel:
        raise click.UsageError("Missing option '--cookie'.")
    found = find(guest, runtime_dir, config)
    arguments: dict[str, object] = {"cookie": cookie, "cancel": cancel, "timeout_s": timeout}
    if cancel:
        _end(found, "complete-migrate-in", arguments)
    else:
        _order(found, "complete-migrate-in", arguments, timeout + WITHIN_S)


@migrate_command.command("complete-out")
@click.argument("guest", shell_complete=candidates.guests)
@click.option("--cancel", is_flag=True, help="It has failed: be the owner again; it may run.")
@located
def complete_out_command(
    guest: str, config: str | None, runtime_dir: str | None, *, cancel: bool
) -> None:
    """Source: end what is left of GUEST here; returns when it is gone.

    Example: lock-supervisor migrate complete-out web1
    """
    found = find(guest, runtime_dir, config)
    if cancel:
        _order(found, "complete-migrate-out", {"cancel": True})
    else:
        _end(found, "complete-migrate-out", {})


def _end(guest: Guest, command: str, arguments: dict[str, object]) -> None:
    """Have the guard end its guest; returns when both are gone and nobody carries the leases."""
    with Witnesses(guest) as witnesses:
        _order(guest, command, arguments)
        witnesses.wait(GONE_WITHIN_S)
    rundir.remove_dead(guest.path)


def _order(
    guest: Guest, command: str, arguments: dict[str, object], within_s: float = WITHIN_S
) -> dict[str, object]:
    doubt = f"how the migration of guest {guest.words()} stands"
    return order(guest.path, command, arguments, doubt, within_s)
