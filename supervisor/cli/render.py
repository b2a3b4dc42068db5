"""How does an answer look: to a script (JSON), and to a person (plain aligned columns)?

Everything that the commands print on standard output goes through `put`. It
must not know where the values come from.
"""

from __future__ import annotations

import json
import os
import sys
from textwrap import wrap

from lockplugins.contract import LockError, cause, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import click

    from supervisor.doctor.asking import Check

NAME = "lock-supervisor"

_GAP = "  "
_NOTHING = "-"
_LEAST_ROOM = 20
_COLUMNS = ("name", "uuid", "state", "supervisor_pid", "child_pid", "plugin", "leases", "since")
_FIRST = ("name", "uuid", "state", "guarantee")  # of what status says
_FOUND_IN_CHARACTERS = 60  # an argument in JSON can fill a screen; --json has it all
_PLAN_HEADING = ("DISK", "MODE", "FOUND IN", "LEASE", "HELD BY")
_MODES = "exclusive: the guest may write it; shared: it only reads it, and so may others"
_LEASE_COLUMNS = ("resource", "type", "mode", "state", "lockspace", "lease", "generation")


def put(text: str) -> None:
    """Print one line at once; names that are not UTF-8 come out as the bytes that they are."""
    if sys.stdout is None:  # closed by whoever started us
        raise LockError(
            "print", "the answer", "standard output is closed", "open it, if only on /dev/null"
        )
    try:
        sys.stdout.buffer.write(as_bytes(text) + b"\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LockError("print", "the answer", cause(error)) from error


def as_bytes(text: str) -> bytes:
    """Encode for a terminal or a pipe; never fails."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "backslashreplace")


def usage(error: click.ClickException) -> str:
    """Say in one line of our shape what click found wrong with the arguments."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else NAME
    return f"cannot understand the command line: {shown(message)}; see {command} --help"


def put_json(value: object) -> None:
    r"""Print one ASCII JSON value; bytes that are not UTF-8 appear as \udcXX."""
    put(json.dumps(value))


def put_list(guests: Sequence[Mapping[str, object]]) -> None:
    """Print guests, one a line."""
    put(_table([_heading(_COLUMNS), *([guest.get(c) for c in _COLUMNS] for guest in guests)]))


def put_status(status: Mapping[str, object]) -> None:
    """Print everything about one guest: a field a line, then its leases."""
    unleased = status.get("unleased")
    leases = status.get("leases")
    keys = (*_FIRST, *(key for key in status if key not in {*_FIRST, "leases", "unleased"}))
    known = {key: status[key] for key in keys if status.get(key) is not None}
    rows: list[list[object]] = [[f"{key.replace('_', ' ')}:", v] for key, v in known.items()]
    if isinstance(unleased, list):
        rows += [["unleased:", path] for path in unleased]
    put(_table(rows))
    if isinstance(leases, list) and leases:
        rows = [[lease.get(column) for column in _LEASE_COLUMNS] for lease in leases]
        put("\n" + _table([_heading(_LEASE_COLUMNS), *rows]))


def put_holders(
    disk: str, names: Sequence[tuple[str, str]], holders: Sequence[tuple[str, str]]
) -> None:
    """Print who has a disk, a holder a line; `names` are its leases', `holders` (mode, words)."""
    called = ", ".join(f"{lockspace} {lease}" for lockspace, lease in names if lease != disk)
    name = shown(f"{disk} ({called})" if called else disk)
    if holders:
        put(f"{name} is held by:\n{_table([['MODE', 'HOLDER'], *holders])}")
    else:
        put(f"{name} is free: nobody has a lease on it")


def put_plan(name: str, rows: Sequence[Mapping[str, object]], refusal: str | None) -> None:
    """Print what a guest would be leased, a lease a line; one sentence in the end."""
    put(f"run would lease for guest {shown(name)}: {'' if rows else 'nothing'}".rstrip())
    if rows:
        put(_table([_PLAN_HEADING, *map(_planned, rows)]))
        put(_MODES)
    if refusal is None:
        put("run would get every lease now: nobody is in the way")
    else:
        put(f"run would be refused now: {shown(refusal)}")


def _planned(row: Mapping[str, object]) -> list[object]:
    lockspace, lease, held_by = row["lockspace"], row["lease"], row["held_by"]
    name = lockspace if lease in (None, row["path"]) else f"{lockspace} {lease}"
    holder = held_by["description"] if isinstance(held_by, dict) else "nobody"
    found_in = str(row["found_in"])
    if len(found_in) > _FOUND_IN_CHARACTERS:
        found_in = found_in[: _FOUND_IN_CHARACTERS - 1] + "…"
    return [row["path"], row["mode"], found_in, name, holder]


def put_checks(checks: Sequence[Check]) -> None:
    """Print doctor's checks: a line each, below it what to do; one sentence in the end."""
    rows = []
    for check in checks:
        name = f"{check.check} {check.subject or ''}".rstrip()
        rows.append(("ok" if check.ok else "WEAK", name, check.evidence))
        if check.mend:
            rows.append(("", "", f"-> {check.mend}"))
    put(_table(rows))
    weak = sum(not check.ok for check in checks)
    if weak:
        put(f"\n{weak} of {len(checks)} checks found what weakens the promise: WEAK, and the mend.")
    else:
        put(f"\nAll {len(checks)} checks are good: nothing found here weakens the promise.")


def _heading(columns: Sequence[str]) -> list[object]:
    return [column.replace("_", " ").upper() for column in columns]


def _table(rows: Sequence[Sequence[object]]) -> str:
    """Align columns; on a terminal what does not fit goes on below, in its last column."""
    cells = [[_NOTHING if cell is None else shown(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    indent = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    room = _columns() - indent
    lines = []
    for row in cells:
        head = "".join(c.ljust(w) + _GAP for c, w in zip(row[:-1], widths[:-1], strict=True))
        first, *more = _flow(row[-1], room)
        lines += [f"{head}{first}", *(f"{'':{indent}}{line}" for line in more)]
    return "\n".join(line.rstrip() for line in lines)


def _flow(text: str, room: int) -> list[str]:
    """Return `text` in lines of `room` columns, in one where that is no use."""
    if len(text) <= room or room < _LEAST_ROOM:
        return [text]
    return wrap(text, room, break_long_words=False, break_on_hyphens=False)


def _columns() -> int:
    """Return the width to write for: a terminal's, else enough for anything."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or sys.maxsize
    except (OSError, ValueError, AttributeError):
        return sys.maxsize
