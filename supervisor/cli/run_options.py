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

_COMMAND = "[--] COMMAND [ARG]..."
ENDS_AT_COMMAND = {"allow_interspersed_args": False}  # what follows COMMAND is COMMAND's

_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--name",
        metavar="NAME",
        help="The guest's name (default: QEMU's -name, else from the first disk or COMMAND).",
    ),
    click.option(
        "--uuid", metavar="UUID", help="Its uuid (default: QEMU's -uuid, else a random one)."
    ),
    click.option("--id", "guest_id", metavar="ID", help="Its id in whatever manages it, if any."),
    click.option(
        "--plugin",
        metavar="NAME[+NAME...]",
        shell_complete=candidates.plugins,
        help="The lock manager (default file: kernel locks); of several all leases or none.",
    ),
    click.option(
        "--disk",
        type=path,
        multiple=True,
        metavar="PATH[,OPTION...]",
        help="One more disk to lease. OPTION: exclusive (default) shared readonly copied "
        "id=IDENTITY.",
    ),
    click.option(
        "--lease",
        multiple=True,
        metavar="LOCKSPACE:KEY[:PATH[:OFFSET]]",
        help="One more lease, by its name in the lock manager.",
    ),
    click.option(
        "--no-discover",
        is_flag=True,
        help="Look for no disks in COMMAND; lease only what --disk and --lease name.",
    ),
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
        "--incoming",
        is_flag=True,
        help="COMMAND is a migration's destination (-incoming, -S): its leases stay pending until "
        "migrate complete-in.",
    ),
    click.option(
        "--on-lockfailure",
        metavar="kill|pause",
        shell_complete=candidates.on_lockfailure,
        help="What happens to the guest when a lease is lost (default kill); pause: it stands "
        "still until its leases are back, if nobody had them meanwhile; see docs/parking.md.",
    ),
    click.option(
        "--containment",
        type=click.Choice(Containment.ALL),
        help="How the kernel ends the guest with its supervisor: by a parent-death signal, or a "
        "PID namespace of its own (default auto: a namespace where the signal does not do).",
    ),
    click.option(
        "--no-monitor",
        is_flag=True,
        help="Add no private QMP monitor to QEMU; stop has no power button then, only SIGTERM.",
    ),
    click.option(
        "--stop-timeout",
        type=seconds,
        metavar="SECONDS",
        help="What stop gives the guest before SIGKILL (default 10).",
    ),
    click.option(
        "--ready-fd",
        type=click.IntRange(min=0),
        is_eager=True,
        metavar="FD",
        help='Write "READY child=PID" there when the guest runs, or "ERROR CODE TEXT".',
    ),
    click.option(
        "--handshake-fd",
        type=click.IntRange(min=0),
        metavar="FD",
        help='Say "ACQUIRED" there when all leases are held, and wait for "GO".',
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
        help="Where --detach appends output (default: NAME.log in /var/log/lock-supervisor, "
        "for others than root in ~/.local/state/lock-supervisor).",
    ),
    located,
)


def _named(
    _context: click.Context, _parameter: click.Parameter, command: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse an empty COMMAND: somebody's unset variable."""
    if command and not command[0]:
        raise click.BadParameter("the program's name is empty")
    return command


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
            metavar=_COMMAND if command_required else f"[{_COMMAND}]",
            shell_complete=candidates.command,
            callback=_named,
        )(command)
        for option in reversed(_OPTIONS):
            decorated = option(decorated)
        return decorated

    return decorate
