"""Which options describe a guest to be started? `run`'s, and those of whatever answers for it.

Every option is here once, so that a command line that `run` understands is
understood alike by the commands that only tell about it.
"""

from __future__ import annotations

import click

from supervisor.cli import candidates
from supervisor.cli.options import located, path, seconds
from supervisor.spec import Containment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., None]], Callable[..., None]]

ENDS_AT_COMMAND = {"allow_interspersed_args": False}  # what follows COMMAND is COMMAND's

_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--name", metavar="NAME", help="Default: QEMU's -name, else from the first disk or COMMAND."
    ),
    click.option("--uuid", metavar="UUID", help="Default: QEMU's -uuid, else a random one."),
    click.option("--id", "guest_id", metavar="ID", help="The guest's id in whatever manages it."),
    click.option(
        "--plugin",
        metavar="NAME[+NAME...]",
        shell_complete=candidates.plugins,
        help="The lock manager (default file); several: all or none, in order.",
    ),
    click.option(
        "--disk",
        type=path,
        multiple=True,
        metavar="PATH[,OPTION...]",
        help="One more disk. OPTION: exclusive shared readonly copied id=IDENTITY.",
    ),
    click.option(
        "--lease",
        multiple=True,
        metavar="LOCKSPACE:KEY[:PATH[:OFFSET]]",
        help="One more lease, by its name in the lock manager.",
    ),
    click.option("--no-discover", is_flag=True, help="Only what --disk and --lease name."),
    click.option(
        "--domain-xml",
        type=path,
        metavar="FILE",
        help="Name, uuid, disks and leases of a libvirt domain, as virsh dumpxml prints it.",
    ),
    click.option(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS|inf",
        help="Wait for leases held elsewhere (default 0: refuse at once).",
    ),
    click.option(
        "--on-lockfailure",
        metavar="kill",
        shell_complete=candidates.on_lockfailure,
        help="What a lost lease means for the guest.",
    ),
    click.option(
        "--containment",
        type=click.Choice(Containment.ALL),
        help="How the guest is tied to the supervisor's life (default auto).",
    ),
    click.option("--no-monitor", is_flag=True, help="Add no private QMP monitor to QEMU."),
    click.option(
        "--stop-timeout",
        type=seconds,
        metavar="SECONDS",
        help="From a stop request to SIGKILL (default 10).",
    ),
    click.option(
        "--ready-fd",
        type=click.IntRange(min=0),
        is_eager=True,
        metavar="FD",
        help='Write "READY child=PID" or "ERROR CODE TEXT" there.',
    ),
    click.option(
        "--handshake-fd",
        type=click.IntRange(min=0),
        metavar="FD",
        help='Say "ACQUIRED" there and wait for "GO".',
    ),
    click.option(
        "--detach",
        is_flag=True,
        help="Return when the guest runs, and print its uuid; its output goes to the log.",
    ),
    click.option(
        "--log",
        type=path,
        metavar="FILE",
        help="Where --detach appends output (default /var/log/lock-supervisor/NAME.log for root, "
        "else ~/.local/state/lock-supervisor/NAME.log).",
    ),
    located,
)


def describes_a_guest(*, command_required: bool = True) -> Decorator:
    """Add run's options and COMMAND to a command, which gets them as specify.Given.

    Such a command needs `context_settings=ENDS_AT_COMMAND`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        decorated = click.argument(
            "command",
            nargs=-1,
            required=command_required,
            type=click.UNPROCESSED,
            metavar="[--] COMMAND [ARG]...",
            shell_complete=candidates.command,
        )(command)
        for option in reversed(_OPTIONS):
            decorated = option(decorated)
        return decorated

    return decorate
