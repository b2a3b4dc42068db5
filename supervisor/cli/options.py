"""Which options do several commands have in common, and what may their values be?"""

from __future__ import annotations

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem


def seconds(text: str) -> float:
    """Read a duration: 0 or more seconds, `inf` for ever."""
    try:
        read = float(text)
    except ValueError:
        read = -1.0
    if not read >= 0:  # NaN is no duration either
        raise click.BadParameter(f"{text} is not a number of seconds (0 or more, or inf)")
    return read


class PathType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """A path, not looked at; an empty one is somebody's unset variable."""

    name = "path"

    def __init__(self, kind: str = "file") -> None:
        self._kind = kind

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("the path is empty", param, ctx)
        return value

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=self._kind)]


path = PathType()
directory = PathType("dir")


def located(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where the guests' runtime directory is."""
    file = click.option(
        "--config",
        type=path,
        metavar="FILE",
        help="Configuration file; also $LOCK_SUPERVISOR_CONFIG.",
    )
    runtime_dir = click.option(
        "--runtime-dir",
        type=directory,
        metavar="DIR",
        help="Where guests are recorded; also $LOCK_SUPERVISOR_RUNTIME_DIR.",
    )
    return file(runtime_dir(command))
