"""What is `lock-supervisor`? Finds the command that is asked for and ends with its exit code.

The one place that turns an exception into a line on standard error and an exit
code. A command's module is imported only when that command is asked for. It
must not know what any command does.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from lockplugins.contract import LockError, cause, shown
from supervisor import __version__, exitcodes
from supervisor.cli.render import NAME, as_bytes, put, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


_COMPLETE = "_LOCK_SUPERVISOR_COMPLETE"
_PROMPT_WAITS_S = 3
_LINE = 80
# In the order in which a newcomer needs them; each with the module that has it.
_SECTIONS = {
    "Start a guest": {"run": "run", "plan": "holding", "doctor": "doctor"},
    "Look": {
        "list": "guests",
        "status": "guests",
        "child": "guests",
        "who": "holding",
        "events": "following",
        "wait": "following",
    },
    "Change or end a guest": {
        "attach": "disks",
        "detach": "disks",
        "stop": "ending",
        "kill": "ending",
    },
    "Migrate": {"migrate": "migrate"},
}
_MODULES = {name: module for names in _SECTIONS.values() for name, module in names.items()}


class LazyGroup(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"supervisor.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in _SECTIONS.items():
            with formatter.section(title):
                commands = [self.get_command(ctx, name) for name in names]
                summaries = [command.get_short_help_str(_LINE) for command in commands if command]
                formatter.write_dl(list(zip(names, summaries, strict=True)))


@click.group(cls=LazyGroup, no_args_is_help=False)
@click.version_option(__version__, prog_name=NAME, message="%(prog)s %(version)s")
def commands() -> None:
    """Run a virtual machine only while every lease on its disks is held.

    Put "lock-supervisor run --" before a QEMU command line. GUEST below is a
    name, a uuid, or the first 4 or more characters of a uuid: see list.
    Everything about one command: lock-supervisor COMMAND --help.

    Example: lock-supervisor run -- qemu-system-x86_64 -drive file=web1.qcow2
    """


def main() -> NoReturn:
    """Run the command line of this process, and end it."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as the launcher has left it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    asked_by_shell = os.environ.get(_COMPLETE)
    if asked_by_shell is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_PROMPT_WAITS_S)
    code = execute(sys.argv[1:], asked_by_shell)
    os._exit(code)  # finalising the interpreter would cost 10 ms


def execute(args: Sequence[str], asked_by_shell: str | None = None) -> int:
    """Run one command line, or say how a shell may complete it; returns the exit code."""
    try:
        return _invoke(args) if asked_by_shell is None else _complete(asked_by_shell, args)
    except LockError as error:
        return _fail(error.exit_code, str(error))
    except click.ClickException as error:
        return _fail(exitcodes.USAGE, usage(error))
    except (KeyboardInterrupt, BrokenPipeError) as error:
        return exitcodes.SIGNAL_BASE + (
            signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGPIPE
        )
    except OSError as error:
        return _fail(exitcodes.FAILED, f"cannot go on: {shown(cause(error, error.filename))}")
    except Exception as error:  # noqa: BLE001  # the top: nothing that we hold is left behind
        return _fail(exitcodes.OUR_FAULT, _fault(error))


def _invoke(args: Sequence[str]) -> int:
    if not args:
        put(commands.get_help(click.Context(commands, info_name=NAME)))
        return exitcodes.USAGE  # a script that has lost its words is told so
    try:
        with commands.make_context(NAME, list(args)) as context:
            commands.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return exitcodes.OK


def _complete(instruction: str, args: Sequence[str]) -> int:
    from supervisor.cli import completion

    completion.answer(commands, instruction, args)
    return exitcodes.OK


def _fault(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = (
        f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})"
        if trace
        else ""
    )
    return f"cannot go on: our own fault: {shown(repr(error))}{where}"


def _fail(code: int, text: str) -> int:
    if sys.stderr is not None:  # closed by whoever started us
        try:
            sys.stderr.buffer.write(as_bytes(f"{NAME}: {text}\n"))
            sys.stderr.flush()
        except OSError:  # the exit code has to say it
            pass
    return code
