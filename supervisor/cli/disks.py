"""What do the commands about a running guest's disks do: attach, detach?

Clients of the control pipe. The lease comes before blockdev-add and goes after
blockdev-del: whoever calls us does those. It must not know any plugin.
"""

from __future__ import annotations

import click

from lockplugins.contract import ResourceType
from supervisor.cli import candidates
from supervisor.cli.guests import find
from supervisor.cli.options import located, path
from supervisor.config import working_directory
from supervisor.orders import WITHIN_S, order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.finding import Guest


@click.command("attach")
@click.argument("guest", shell_complete=candidates.guests)
@click.argument("disk", type=path, metavar="PATH[,OPTION...]")
@located
def attach_command(guest: str, disk: str, config: str | None, runtime_dir: str | None) -> None:
    """Acquire a lease on PATH for the running GUEST.

    Before QEMU opens it (blockdev-add): refused, there is nothing to undo.

    OPTION: exclusive (default), shared, readonly, copied, id=IDENTITY.

    Example: lock-supervisor attach web1 /images/data.qcow2
    """
    from supervisor.discovery.disks import parse_disk_option

    wanted = parse_disk_option(disk, working_directory())
    arguments: dict[str, object] = {
        "type": ResourceType.DISK,
        "path": wanted.path,
        "mode": wanted.mode,
    }
    if wanted.identity is not None:
        arguments["identity"] = wanted.identity
    _order(find(guest, runtime_dir, config), "acquire-resource", arguments)


@click.command("detach")
@click.argument("guest", shell_complete=candidates.guests)
@click.argument("path", shell_complete=candidates.leased)
@located
def detach_command(guest: str, path: str, config: str | None, runtime_dir: str | None) -> None:
    """Release the lease on PATH of the running GUEST.

    After QEMU has closed it (DEVICE_DELETED, then blockdev-del).

    Example: lock-supervisor detach web1 /images/data.qcow2
    """
    from supervisor.discovery.disks import named

    arguments: dict[str, object] = {
        "type": ResourceType.DISK,
        "path": named(path, working_directory()),
    }
    _order(find(guest, runtime_dir, config), "release-resource", arguments)


def _order(guest: Guest, command: str, arguments: dict[str, object]) -> None:
    doubt = f"whether disk {arguments['path']} is leased"
    order(guest.path, command, arguments, doubt, WITHIN_S)
