"""Is what a program gave us what it should be: a text, a time, a command line, descriptors?

Whatever else comes is refused before anything is touched. It must not know
what the values are for.
"""

from __future__ import annotations

import os
from uuid import UUID

from lockplugins.contract import ConfigError
from lockplugins.loading import LoadedPlugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 1 << 13  # twice PATH_MAX; escaped, a command of the control pipe still holds it
_LONGEST_ARGUMENT = 1 << 17  # MAX_ARG_STRLEN


def plugin(value: object) -> LoadedPlugin:
    """Return what `lockplugins.load` has returned."""
    if not isinstance(value, LoadedPlugin):
        reason, advice = (
            f"{type(value).__name__} is no plugin",
            "give what lockplugins.load returns",
        )
        raise ConfigError("manage", "a guest", reason, advice)
    return value


def text(what: str, value: object) -> str:
    """Return a text; a number or a uuid is one, too."""
    if isinstance(value, int | float | UUID) and not isinstance(value, bool):
        value = f"{value}"
    return path(what, value)


def path(what: str, value: object) -> str:
    """Return a text, or the path of a file: str, bytes or os.PathLike."""
    if (words := _words(value)) and len(words) <= _LONGEST:
        return words
    reason = f"it is not a text of 1 to {_LONGEST} characters without a NUL"
    raise ConfigError("take", what, reason, "give a str, bytes or a path")


def seconds(what: str, value: object) -> float:
    """Return a duration, infinity included."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return value
    raise ConfigError("take", what, "it is not a number of seconds", "give 0 or more")


def arguments(what: str, value: object) -> list[str]:
    """Return a command line, which begins with a program."""
    if not isinstance(value, str | bytes) and (listed := _list(value)):
        words = [_words(word) for word in listed]
        found = [word for word in words if word is not None and len(word) < _LONGEST_ARGUMENT]
        if len(found) == len(listed) and found[0]:
            return found
    reason = "it is not a list of a program and its arguments, each a text without a NUL"
    raise ConfigError("take", what, reason, "give one text for each argument")


def descriptors(what: str, value: object) -> list[int]:
    """Return the numbers of descriptors that are open."""
    listed = _list(value)
    if listed is not None and all(map(_is_open, listed)):
        return [int(str(fd)) for fd in listed]
    raise ConfigError("take", what, "it is not a list of open descriptors", "give their numbers")


def _words(value: object) -> str | None:
    """Return a text that the kernel takes, None if it is none."""
    if isinstance(value, bytes | os.PathLike):
        value = os.fsdecode(value)
    if not isinstance(value, str) or "\0" in value:
        return None
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return None
    return value


def _list(value: object) -> list[object] | None:
    try:
        iterable: Iterable[object] = value  # type: ignore[assignment]  # that is what is tried
        return list(iterable)
    except TypeError:
        return None


def _is_open(fd: object) -> bool:
    if not isinstance(fd, int) or isinstance(fd, bool):
        return False
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        return False
    return True
