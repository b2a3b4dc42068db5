"""Which options do several commands have in common, and what may their values be?"""

from __future__ import annotations

import os

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(text: str) -> float:
    """Read a duration: 0 or more seconds, `inf` for ever."""
    try:
        read = float(text)
    except ValueError:
        read = -1.0
    if not read >= 0:  # NaN is no duration either
        raise click.BadParameter(f"{text} is not a number of seconds (0 or more, or inf)")
    return read


def path(text: str) -> str:
    """Read a path; an empty one is somebody's unset variable."""
    if not text:
        raise click.BadParameter("the path is empty")
    return text


def located(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where the guests' runtime directory is."""
    file = click.option(
        "--config",
        type=path,
        metavar="FILE",
        help="Configuration file; also $LOCK_SUPERVISOR_CONFIG.",
    )
    directory = click.option(
        "--runtime-dir", type=path, metavar="DIR", help="Also $LOCK_SUPERVISOR_RUNTIME_DIR."
    )
    return file(directory(command))


def working_directory() -> str:
    """Return where we are; unlike getcwd(3) this does not fail when that has been removed."""
    return os.readlink("/proc/self/cwd")
